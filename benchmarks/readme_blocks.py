"""What do README's two tables of results say of one bundle: how right it is, and how fast?"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vjepa2.runtime.canaries import Canary
from vjepa2.runtime.evidence_subject import Subject
from vjepa2.runtime.latency_report import NORMALISING, LatencyReport, LatencyRow
from vjepa2.runtime.latency_table import describe_run, tell_ms, tell_speed
from vjepa2.runtime.parity_report import CandidateRow, ParityReport

_WIDTH = 120  # of README's lines
_BAR = r"\|"  # inside a cell


def render_parity(subject: Subject, report: ParityReport) -> str:
    """The table of `make parity`: a row a backend, the worst of all clips."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        _wrap(
            f"`make parity`{_told(report.command)}, {report.date[:10]}, {report.machine}, {versions}: "
            f"{subject.model.name} of {subject.model.depth} blocks, {_describe(subject)}, held to "
            f"{report.reference.kind} on {_count_clips(report.candidates)} clips."
        ),
        "",
        "| backend | embedding, cosine | tokens: median | p01 | worst | where | relative max | "
        "mistakes failed | gate |",
        "|---" * 9 + "|",
        *(_parity_row(row, _of(report, row)) for row in report.candidates),
        "",
        _wrap(_tell_canaries(report)),
        *(_wrap(f"Not run: {name}: {why}.") for name, why in report.not_run.items()),
    ]
    return "\n".join(lines)


def render_bench(subject: Subject, report: LatencyReport) -> str:
    """The table of `make bench`: a row a backend of this bundle, and why a row is not to be trusted as it stands."""
    rows = [row for row in report.rows if Path(row.bundle).name == subject.name]
    base = next((row.end_to_end_ratio.base for row in rows if row.end_to_end_ratio), None)
    beside = f"`{base}`" if base else "the base"
    lines = [
        _wrap(
            f"`make bench`{_told(report.command)}, {describe_run(report)} The bundle: {_describe(subject)}. "
            f"{NORMALISING}"
        ),
        "",
        f"| backend | median ms, computing | end to end | times as fast as {beside}, computing (95 %) | "
        "end to end (95 %) | of the limit | peak MB | to the first clip, s | stable |",
        "|---" * 9 + "|",
        *map(_bench_row, rows),
        "",
        _wrap(
            "To the first clip: once, in a fresh process, files in the page cache, all from its start. "
            + " ".join(_tell_limits(rows))
        ),
        *(_wrap(f"Not run: {name}: {why}.") for name, why in report.skipped.items()),
    ]
    return "\n".join(lines)


def _describe(subject: Subject) -> str:
    clip, source = subject.clip, subject.source
    seed = "" if source.seed is None else f" from seed {source.seed}"
    return (
        f"{subject.precision}, {clip.frames} frames of {clip.height} x {clip.width}, batch {subject.batch}, "
        f"weights `{source.name}`{seed}"
    )


def _told(command: str) -> str:
    """As it was given, where it was given as one."""
    return f" (`{command}`)" if command else ""


def _parity_row(row: CandidateRow, canaries: Sequence[Canary]) -> str:
    worst, place = row.worst, next(clip.worst_place for clip in row.clips if clip.name == row.worst_clip)
    where = "" if place is None else f": frame {place.frame}, row {place.row}, column {place.column}"
    cells = (
        f"`{row.backend}` in {row.precision} on {row.device}",
        _cosine(worst.embedding_cosine),
        _cosine(worst.token_median),
        _cosine(worst.token_p01) or "too few tokens",
        _cosine(worst.token_cosine),
        row.worst_clip + where,
        f"{worst.relative_max:.1e}",
        f"{sum(not canary.passed for canary in canaries)} of {len(canaries)}",
        "in it" if row.passed else "**outside**",
    )
    return _join(cells)


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.9f}"


def _of(report: ParityReport, row: CandidateRow) -> list[Canary]:
    return [canary for canary in report.canaries if canary.candidate == row.name]


def _count_clips(rows: Sequence[CandidateRow]) -> str:
    counts = sorted({len(row.clips) for row in rows})
    return " or ".join(map(str, counts))


def _tell_canaries(report: ParityReport) -> str:
    if report.invalid:
        return f"**Invalid**: {'; '.join(report.invalid)}."
    names = ", ".join(dict.fromkeys(canary.name for canary in report.canaries))
    return f"The gate fails every mistake that it was tried with: {names}."


def _bench_row(row: LatencyRow) -> str:
    opened, compute, whole = row.opened, row.compute, row.end_to_end
    name = f"`{row.backend}`" + (f" in {opened.precision} on {opened.device}" if opened else "")
    if opened is None or compute is None or whole is None:
        return _join((name, f"no times: {row.failure or 'interrupted'}", *[""] * 7))
    cold = opened.cold
    start_ms = cold.process_ms + cold.import_ms + cold.verify_ms + cold.build_ms + cold.open_ms + cold.first_clip_ms
    cells = (
        name,
        tell_ms(compute.median_ms),
        tell_ms(whole.median_ms),
        tell_speed(row.compute_ratio),
        tell_speed(row.end_to_end_ratio),
        f"{row.limit.fraction:.0%}" if row.limit else f"none: {row.no_limit}",
        f"{row.finished.peak_bytes / 1e6:.0f}" if row.finished else "",
        f"{start_ms / 1e3:.1f}",
        "; ".join(row.unstable) or "yes",
    )
    return _join(cells)


def _tell_limits(rows: Sequence[LatencyRow]) -> Iterator[str]:
    limits = {row.limit.rates.measured_by: row.limit for row in rows if row.limit}
    for name, limit in limits.items():
        yield (
            f"The limit is {tell_ms(limit.bound_ms)} ms: {limit.flops / 1e9:.4g} GFLOP and at least "
            f"{limit.least_bytes / 1e6:.4g} MB a query, over what {name} reached at best in this run."
        )


def _join(cells: Iterable[str]) -> str:
    """A row of a table, whatever the words of its cells."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', _BAR) for cell in cells)} |"


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
