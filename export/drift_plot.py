"""What does a drift look like: a line for each figure over the blocks, in one SVG file that needs nothing else."""

import math
from collections.abc import Sequence
from html import escape

from vjepa2.runtime.gates import Gate

from .drift import Location, Reading
from .drift_figures import Drift

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 400, 84, 40, 16, 104
_FLOOR = 1e-12  # what is nearer to the reference than that is drawn there

# what is drawn -> (the figure, whether a cosine, colour)
_LINES = {
    "1 - cosine, worst token": ("token_worst", True, "#c0392b"),
    "1 - cosine, median token": ("token_median", True, "#2471a3"),
    "relative Frobenius": ("relative_frobenius", False, "#7d6608"),
}


def plot_drift(location: Location, gate: Gate, title: str) -> str:
    """An SVG of the tokens' growth on a logarithmic scale, the gate's limits dashed and the first block marked."""
    rows = [row for row in location.growth if row.drift.is_tokens]
    values = [_height(row.drift, name) for row in rows for name in _LINES]
    values += [_limit(gate, name) for name in _LINES]
    known = [max(_FLOOR, value) for value in values if value is not None]
    low = math.floor(math.log10(min(known, default=_FLOOR)))
    high = max(low + 1, math.ceil(math.log10(max(known, default=1.0))))
    frame = _Frame(len(rows), low, high)
    parts = [*frame.axes(rows, location.block), *(_draw(frame, rows, name, gate) for name in _LINES)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _height(drift: Drift, name: str) -> float | None:
    """What is drawn of a reading: the smaller, the nearer; None if it is no number."""
    figure, is_cosine, _ = _LINES[name]
    value: float | None = getattr(drift, figure)
    return value if value is None or not is_cosine else max(0.0, 1 - value)


def _limit(gate: Gate, name: str) -> float | None:
    figure, is_cosine, _ = _LINES[name]
    limit: float | None = getattr(gate, figure, None)
    return limit if limit is None or not is_cosine else 1 - limit


class _Frame:
    """Where a reading and a value lie, in pixels."""

    def __init__(self, count: int, low: int, high: int) -> None:
        self.count, self.low, self.high = count, low, high

    def x(self, index: int) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (index + 0.5) / max(1, self.count), 1)

    def y(self, value: float) -> float:
        part = (math.log10(max(_FLOOR, value)) - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part, 1)

    def axes(self, rows: Sequence[Reading], first: str | None) -> list[str]:
        """Decades, blocks by name, and a band where the gate is left."""
        parts = []
        inside = [index for index, row in enumerate(rows) if row.block == first]
        if inside:
            left, half = self.x(inside[0]), (self.x(1) - self.x(0)) / 2 if self.count > 1 else 10
            width = self.x(inside[-1]) - left + 2 * half
            parts.append(
                f'<rect x="{left - half:.1f}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}" '
                f'fill="#fdebd0"><title>{escape(str(first))}</title></rect>'
            )
        for decade in range(self.low, self.high + 1):
            y = self.y(10.0**decade)
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">1e{decade}</text>')
        named = [index for index, row in enumerate(rows) if not index or row.block != rows[index - 1].block]
        for index in named:
            x, y = self.x(index), _HEIGHT - _BOTTOM + 12
            label = escape(rows[index].block)
            parts.append(f'<text x="{x}" y="{y}" text-anchor="end" transform="rotate(-50 {x} {y})">{label}</text>')
        return parts


def _draw(frame: _Frame, rows: Sequence[Reading], name: str, gate: Gate) -> str:
    colour, limit = _LINES[name][2], _limit(gate, name)
    points = [(frame.x(index), _height(row.drift, name)) for index, row in enumerate(rows)]
    path = " ".join(f"{x},{frame.y(height)}" for x, height in points if height is not None)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>']
    parts += [
        f'<text x="{x}" y="{_TOP + 10}" text-anchor="middle" fill="{colour}"><title>no number</title>&#215;</text>'
        for x, height in points
        if height is None
    ]
    if limit is not None:
        y = frame.y(limit)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{colour}" stroke-dasharray="5 4"/>'
        )
    parts.append(f'<text x="{_LEFT + 210 * list(_LINES).index(name)}" y="18" fill="{colour}">{escape(name)}</text>')
    return "".join(parts)
