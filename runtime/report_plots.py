"""What do a page's figures of times look like: inline SVG of numbers and escaped words, that needs nothing else?"""

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from .latency_report import LatencyReport, LatencyRow
from .latency_table import tell_ms

WIDTH = 360  # as narrow as a phone
_ROW = 46  # pixels of a line of samples


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
    parts.append(f'<path d="M0 {end}H{WIDTH}" stroke="#6b7280"/><text x="0" y="{end + 14}">0</text>')
    parts.append(f'<text x="{WIDTH}" y="{end + 14}" text-anchor="end">{tell_ms(most_ms)} ms</text>')
    return draw_svg(end + 18, parts, f"every sample of {kind.replace('_', ' ')}, red the median")


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
    return draw_svg(end + 16, parts, "times as fast as the base")


def plot_limits(report: LatencyReport) -> str:
    """What part of its limit each row reaches."""
    rows = [(row, row.limit) for row in report.rows if row.limit is not None]
    parts = []
    for index, (row, limit) in enumerate(rows):
        y, width = index * 34 + 15, min(1.0, limit.fraction) * WIDTH
        parts.append(f'<text x="0" y="{y - 4}">{escape(_name(row))}: {limit.fraction:.0%}</text>')
        parts.append(f'<rect y="{y}" width="{WIDTH}" height="12" fill="#e5e7eb"/>')
        parts.append(f'<rect y="{y}" width="{width:.1f}" height="12" fill="#2563eb"/>')
    return draw_svg(len(rows) * 34, parts, "part of the limit that is reached") if rows else ""


def draw_svg(height: float, parts: Sequence[str], title: str) -> str:
    """A figure of `WIDTH` by `height` pixels, that grows with its place; `parts` are SVG, `title` is escaped."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.1f}" role="img" font-family="sans-serif" font-size="11">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _thin(samples_ms: Sequence[float], most: int = 600) -> Sequence[float]:
    """At most so many points: of each neighbourhood its least, median and most, so that no outlier is lost."""
    if len(samples_ms) <= most:
        return samples_ms
    size = math.ceil(len(samples_ms) / (most // 3))
    groups = [samples_ms[at : at + size] for at in range(0, len(samples_ms), size)]
    return [ms for group in groups for ms in (min(group), median(group), max(group))]


def _across(value: float, most: float) -> float:
    return 2 + (WIDTH - 4) * value / most if most else 2.0


def _name(row: LatencyRow) -> str:
    return f"{row.backend} on {row.bundle.rstrip('/').rpartition('/')[2]}"
