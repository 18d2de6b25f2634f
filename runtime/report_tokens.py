"""What does a map of tokens look like: every step of time as its frame, and beneath it its patches by their distance?

Axes: T steps of time, H, W patches.
"""

import math
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from .parity_report import TokenMap
from .report_plots import WIDTH, draw_svg

_COLOURS = ("#dbeafe", "#b0d0fb", "#7db2f5", "#3b82f6", "#1e40af")
_OUTSIDE, _BROKEN, _QUIET = "#dc2626", "#000", "#fff"
_FLOOR = 1e-16  # what is nearer to the reference than that is drawn as that
_ACROSS = 4  # steps side by side
_GAP = 8  # pixels between them
_LINE = 13  # pixels of a line of words


class _Scale(NamedTuple):
    """Decades of 1 - cosine that the colours span, and the cosine under which a token is outside."""

    low: float
    high: float
    least: float | None


class _Worst(NamedTuple):
    """The token of a step that is furthest off, of those that count."""

    row: int
    column: int
    distance: float


class _Box(NamedTuple):
    """Where a grid of patches is drawn, in pixels."""

    left: float
    top: float
    cell: float


def plot_tokens(tokens: TokenMap, least: float | None = None) -> str:
    """Every step of time: its frame, if it was kept, and its patches coloured by the logarithm of 1 - cosine.

    What is under the `least` cosine that a gate allows is red, and NaN black. The furthest token of each step is
    framed in both, and told above them in digits; the furthest of all in bold.
    """
    steps, rows, columns = _shape(tokens)
    across = max(1, min(steps, _ACROSS))
    cell = (WIDTH - _GAP * (across - 1)) / across / max(1, columns)
    side = cell * rows
    high = 2 * _LINE + side * (2 if tokens.pictures else 1) + 2 * _GAP
    scale = _find_scale(tokens, least)
    worst = [_find_worst(tokens, step) for step in range(steps)]
    furthest = max((_order(each) for each in worst), default=0.0)
    parts: list[str] = []
    for step, each in enumerate(worst):
        left, top = step % across * (cell * columns + _GAP), step // across * high
        parts += _write_words(tokens, step, each, left, top, is_furthest=_order(each) == furthest)
        box = _Box(left, top + 2 * _LINE + 4, cell)
        if tokens.pictures:
            parts.append(_draw_picture(tokens.pictures[step], box, rows, columns))
            parts += _frame_worst(each, box)
            box = box._replace(top=box.top + side + 2)
        parts += [*_draw_patches(tokens, step, box, scale), *_frame_worst(each, box)]
    whole = math.ceil(steps / across) * high
    return draw_svg(whole + 34, parts + _draw_legend(scale, whole + 6), f"tokens of {tokens.clip}")


def _shape(tokens: TokenMap) -> tuple[int, int, int]:
    steps = tokens.distances_THW
    return len(steps), len(steps[0]) if steps else 0, len(steps[0][0]) if steps and steps[0] else 0


def _find_scale(tokens: TokenMap, least: float | None) -> _Scale:
    """Up to the limit: at least two decades, so that what rounding alone parts looks alike."""
    values = [value for step in tokens.distances_THW for line in step for value in line if math.isfinite(value)]
    logs = [math.log10(max(_FLOOR, value)) for value in values] or [0.0]
    limit = math.inf if least is None or least >= 1 else math.log10(1 - least)
    high = math.ceil(min(max(logs), limit))
    return _Scale(min(float(math.floor(min(logs))), high - 2.0), float(high), least)


def _walk(tokens: TokenMap, step: int) -> Iterator[tuple[int, int, float, bool]]:
    """Row, column and distance of each patch of a step, and whether it is quiet."""
    _, rows, columns = _shape(tokens)
    quiet = set(tokens.quiet)
    for row, line in enumerate(tokens.distances_THW[step]):
        for column, value in enumerate(line):
            yield row, column, value, (step * rows + row) * columns + column in quiet


def _find_worst(tokens: TokenMap, step: int) -> _Worst | None:
    counted = [_Worst(row, column, value) for row, column, value, quiet in _walk(tokens, step) if not quiet]
    return max(counted, key=_order, default=None)


def _order(worst: _Worst | None) -> float:
    if worst is None:
        return -math.inf
    return worst.distance if math.isfinite(worst.distance) else math.inf


def _write_words(
    tokens: TokenMap, step: int, worst: _Worst | None, left: float, top: float, *, is_furthest: bool
) -> list[str]:
    frame = step * tokens.frames // len(tokens.distances_THW)
    weight = ' font-weight="bold"' if is_furthest else ""
    words = "none counts" if worst is None else _show(worst.distance)
    return [
        f'<text x="{left:.1f}" y="{top + 11:.1f}">frame {frame}</text>',
        f'<text x="{left:.1f}" y="{top + 11 + _LINE:.1f}"{weight}>{words}</text>',
    ]


def _show(distance: float) -> str:
    return f"{distance:.1e}" if math.isfinite(distance) else "no number"


def _draw_picture(address: str, box: _Box, rows: int, columns: int) -> str:
    size = f'width="{box.cell * columns:.1f}" height="{box.cell * rows:.1f}"'
    return f'<image x="{box.left:.1f}" y="{box.top:.1f}" {size} preserveAspectRatio="none" href="{escape(address)}"/>'


def _draw_patches(tokens: TokenMap, step: int, box: _Box, scale: _Scale) -> list[str]:
    """One path a colour: a page holds thousands of patches."""
    paths: dict[str, list[str]] = {}
    for row, column, value, quiet in _walk(tokens, step):
        colour = _QUIET if quiet else _choose_colour(value, scale)
        x, y, side = box.left + column * box.cell, box.top + row * box.cell, box.cell
        paths.setdefault(colour, []).append(f"M{x:.1f} {y:.1f}h{side:.2f}v{side:.2f}h-{side:.2f}z")
    return [
        f'<path d="{"".join(path)}" fill="{colour}" stroke="#9ca3af" stroke-width=".2"/>'
        for colour, path in paths.items()
    ]


def _choose_colour(value: float, scale: _Scale) -> str:
    if not math.isfinite(value):
        return _BROKEN
    if scale.least is not None and value > 1 - scale.least:
        return _OUTSIDE
    part = (math.log10(max(_FLOOR, value)) - scale.low) / (scale.high - scale.low)
    return _COLOURS[max(0, min(len(_COLOURS) - 1, int(part * len(_COLOURS))))]


def _frame_worst(worst: _Worst | None, box: _Box) -> list[str]:
    """Black within white: seen on any colour."""
    if worst is None:
        return []
    x, y = box.left + worst.column * box.cell, box.top + worst.row * box.cell
    place = f'x="{x:.1f}" y="{y:.1f}" width="{box.cell:.2f}" height="{box.cell:.2f}" fill="none"'
    words = f"row {worst.row}, column {worst.column}: {_show(worst.distance)}"
    return [
        f'<rect {place} stroke="#fff" stroke-width="3"/>',
        f'<rect {place} stroke="#000" stroke-width="1.2"><title>{words}</title></rect>',
    ]


def _draw_legend(scale: _Scale, top: float) -> list[str]:
    width = WIDTH / len(_COLOURS)
    parts = [
        f'<rect x="{index * width:.1f}" y="{top:.1f}" width="{width:.1f}" height="10" fill="{colour}"/>'
        for index, colour in enumerate(_COLOURS)
    ]
    parts.append(f'<text x="0" y="{top + 23:.1f}">1 - cosine: 1e{scale.low:.0f}</text>')
    parts.append(f'<text x="{WIDTH}" y="{top + 23:.1f}" text-anchor="end">1e{scale.high:.0f}</text>')
    return parts
