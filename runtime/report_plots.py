"""What do a page's figures look like: inline SVG of numbers and escaped words, that needs nothing else?

Axes: T steps of time, H, W patches.
"""

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from .latency_report import LatencyReport, LatencyRow
from .parity_report import TokenMap

_WIDTH = 360  # as narrow as a phone
_COLOURS = ("#dbeafe", "#b0d0fb", "#7db2f5", "#3b82f6", "#1e40af")
_OUTSIDE, _BROKEN, _QUIET = "#dc2626", "#000", "#fff"
_FLOOR = 1e-16  # what is nearer to the reference than that is drawn as that
_ROW = 46  # pixels of a line of samples


def plot_tokens(tokens: TokenMap, least: float | None = None) -> str:
    """A map of every step of time, its patches coloured by the logarithm of 1 - cosine.

    What is under the `least` cosine that a gate allows is red, and NaN black.
    """
    steps, rows, columns = _shape(tokens)
    across = max(1, min(steps, 4))
    cell = (_WIDTH - 8 * (across - 1)) / across / max(1, columns)
    height = cell * rows + 18
    low, high = _range(tokens, least)
    quiet, parts = set(tokens.quiet), []
    for step in range(steps):
        left, top = (step % across) * (cell * columns + 8), (step // across) * height
        parts.append(f'<text x="{left:.1f}" y="{top + 11:.1f}">frame {step * tokens.frames // steps}</text>')
        paths: dict[str, list[str]] = {}
        for number, value in enumerate(value for line in tokens.distances_THW[step] for value in line):
            is_quiet = step * rows * columns + number in quiet
            colour = _QUIET if is_quiet else _colour(value, low, high, least)
            x, y = left + number % columns * cell, top + 15 + number // columns * cell
            paths.setdefault(colour, []).append(f"M{x:.1f} {y:.1f}h{cell:.2f}v{cell:.2f}h-{cell:.2f}z")
        parts += [
            f'<path d="{"".join(path)}" fill="{colour}" stroke="#9ca3af" stroke-width=".2"/>'
            for colour, path in paths.items()
        ]
    whole = math.ceil(steps / across) * height
    return _svg(whole + 34, parts + _legend(low, high, whole + 6), f"tokens of {tokens.clip}")


def plot_times(report: LatencyReport, kind: str) -> str:
    """Every sample of `compute` or `end_to_end` as a point, on one axis from zero, with the median of each row."""
    rows = [(row, timing) for row in report.rows if (timing := getattr(row, kind)) is not None]
    if not rows:
        return ""
    most_ms = max(timing.most_ms for _, timing in rows)
    parts = []
    for index, (row, timing) in enumerate(rows):
        top = index * _ROW
        parts.append(f'<text x="0" y="{top + 11}">{escape(_name(row))}</text>')
        parts += [
            f'<circle cx="{_across(ms, most_ms):.1f}" cy="{top + 19 + number * 7 % 17}" r="1.6" fill="#2563eb" '
            'fill-opacity=".45"/>'
            for number, ms in enumerate(_thin(timing.samples_ms))
        ]
        x = _across(timing.median_ms, most_ms)
        parts.append(f'<path d="M{x:.1f} {top + 15}v24" stroke="#b91c1c" stroke-width="2"/>')
    end = len(rows) * _ROW
    parts.append(f'<path d="M0 {end}H{_WIDTH}" stroke="#6b7280"/><text x="0" y="{end + 14}">0</text>')
    parts.append(f'<text x="{_WIDTH}" y="{end + 14}" text-anchor="end">{most_ms:.4g} ms</text>')
    return _svg(end + 18, parts, f"every sample of {kind.replace('_', ' ')}, red the median")


def plot_ratios(report: LatencyReport) -> str:
    """How many times as fast as the base each row is, computing: the point, its interval and the base at 1."""
    rows = [(row, row.compute_ratio) for row in report.rows if row.compute_ratio is not None]
    if not rows:
        return ""
    speeds = [1 / bound for _, each in rows for bound in (each.ratio, each.low, each.high) if bound]
    most = 1.05 * max(1.0, *speeds)
    parts, end = [], len(rows) * 34
    for index, (row, ratio) in enumerate(rows):
        y = index * 34 + 22
        parts.append(f'<text x="0" y="{y - 9}">{escape(_name(row))}</text>')
        if ratio.low and ratio.high:
            start, stop = _across(1 / ratio.high, most), _across(1 / ratio.low, most)
            parts.append(f'<path d="M{start:.1f} {y}H{stop:.1f}" stroke="#2563eb" stroke-width="3"/>')
        parts.append(f'<circle cx="{_across(1 / ratio.ratio, most):.1f}" cy="{y}" r="4" fill="#1e3a8a"/>')
    one = _across(1, most)
    parts.append(f'<path d="M{one:.1f} 0V{end}" stroke="#b91c1c" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{one:.1f}" y="{end + 12}" text-anchor="end">1: {escape(rows[0][1].base)}</text>')
    return _svg(end + 16, parts, "times as fast as the base")


def plot_limits(report: LatencyReport) -> str:
    """What part of its limit each row reaches."""
    rows = [(row, row.limit) for row in report.rows if row.limit is not None]
    parts = []
    for index, (row, limit) in enumerate(rows):
        y, width = index * 34 + 15, min(1.0, limit.fraction) * _WIDTH
        parts.append(f'<text x="0" y="{y - 4}">{escape(_name(row))}: {limit.fraction:.0%}</text>')
        parts.append(f'<rect y="{y}" width="{_WIDTH}" height="12" fill="#e5e7eb"/>')
        parts.append(f'<rect y="{y}" width="{width:.1f}" height="12" fill="#2563eb"/>')
    return _svg(len(rows) * 34, parts, "part of the limit that is reached") if rows else ""


def _shape(tokens: TokenMap) -> tuple[int, int, int]:
    steps = tokens.distances_THW
    return len(steps), len(steps[0]) if steps else 0, len(steps[0][0]) if steps and steps[0] else 0


def _range(tokens: TokenMap, least: float | None) -> tuple[float, float]:
    """Decades that the colours span, up to the limit: at least two, so that what rounding alone parts looks alike."""
    values = [value for step in tokens.distances_THW for line in step for value in line if math.isfinite(value)]
    logs = [math.log10(max(_FLOOR, value)) for value in values] or [0.0]
    limit = math.inf if least is None or least >= 1 else math.log10(1 - least)
    high = math.ceil(min(max(logs), limit))
    return min(float(math.floor(min(logs))), high - 2.0), float(high)


def _colour(value: float, low: float, high: float, least: float | None) -> str:
    if not math.isfinite(value):
        return _BROKEN
    if least is not None and value > 1 - least:
        return _OUTSIDE
    part = (math.log10(max(_FLOOR, value)) - low) / (high - low)
    return _COLOURS[max(0, min(len(_COLOURS) - 1, int(part * len(_COLOURS))))]


def _legend(low: float, high: float, top: float) -> list[str]:
    width = _WIDTH / len(_COLOURS)
    parts = [
        f'<rect x="{index * width:.1f}" y="{top:.1f}" width="{width:.1f}" height="10" fill="{colour}"/>'
        for index, colour in enumerate(_COLOURS)
    ]
    parts.append(f'<text x="0" y="{top + 23:.1f}">1 - cosine: 1e{low:.0f}</text>')
    parts.append(f'<text x="{_WIDTH}" y="{top + 23:.1f}" text-anchor="end">1e{high:.0f}</text>')
    return parts


def _thin(samples_ms: Sequence[float], most: int = 600) -> Sequence[float]:
    """At most so many points: of each neighbourhood its least, median and most, so that no outlier is lost."""
    if len(samples_ms) <= most:
        return samples_ms
    size = math.ceil(len(samples_ms) / (most // 3))
    groups = [samples_ms[at : at + size] for at in range(0, len(samples_ms), size)]
    return [ms for group in groups for ms in (min(group), median(group), max(group))]


def _across(value: float, most: float) -> float:
    return 2 + (_WIDTH - 4) * value / most if most else 2.0


def _name(row: LatencyRow) -> str:
    return f"{row.backend} on {row.bundle.rstrip('/').rpartition('/')[2]}"


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.1f}" role="img" font-family="sans-serif" font-size="11">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
