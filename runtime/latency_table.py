"""How does a person read a benchmark: Markdown, a row a backend, the limits and the doubts beside the numbers?"""

from collections.abc import Iterator
from pathlib import Path

from .latency_report import NORMALISING, SCENES, LatencyReport, LatencyRow
from .latency_stats import Percentile, Ratio, Timing

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "transformers", "numpy")


def write_tables(report: LatencyReport) -> str:
    """The report as Markdown."""
    return "\n".join(
        [describe_run(report), "", *_rows(report), "", *_starts(report), *_scaling(report), *_notes(report)]
    )


def describe_run(report: LatencyReport) -> str:
    """When, on which machine, with which libraries and of which model, in one sentence."""
    machine = report.machine
    gpus = "".join(f", {gpu.name}" for gpu in machine.gpus)
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in _LIBRARIES if name in machine.versions)
    mode = f", power mode {machine.power_mode}" if machine.power_mode else ""
    threads = "".join(f", {name}={value}" for name, value in machine.thread_settings.items())
    return (
        f"{report.date[:10]}, {machine.processor}, {machine.cores} cores{gpus}{mode}{threads}, "
        f"Python {machine.python}, {versions}: {report.model} of {report.blocks} blocks, {report.scenario}, "
        f"{SCENES[report.scenario].clips} clip(s) a query, end to end from {report.starts_from}."
    )


def _rows(report: LatencyReport) -> Iterator[str]:
    percent = SCENES[report.scenario].percentile
    yield (
        f"| bundle, backend | worst token's cosine | queries | compute ms: median, p{percent} | "
        f"end to end ms: median, p{percent} | clips/s | times as fast as the base, computing | end to end | "
        "of the limit | peak MB | unstable |"
    )
    yield "|---" * 11 + "|"
    for row in report.rows:
        yield f"| {' | '.join(_cells(row, percent))} |"
    yield f"\n{NORMALISING}"


def _cells(row: LatencyRow, percent: int) -> list[str]:
    opened, compute, whole = row.opened, row.compute, row.end_to_end
    name = f"{Path(row.bundle).name}, `{row.backend}`" + (
        f" in {opened.precision} on {opened.device}" if opened else ""
    )
    if opened is None or compute is None or whole is None:
        return [name, f"no times: {row.failure or 'interrupted'}", *[""] * 9]
    limit = row.limit
    return [
        name,
        f"{opened.verdict.token_cosine:.7f}",
        str(len(compute.samples_ms)),
        _times(compute, percent),
        _times(whole, percent),
        f"{whole.clips_per_second:.3g}",
        tell_speed(row.compute_ratio),
        tell_speed(row.end_to_end_ratio),
        f"{limit.fraction:.0%} of {tell_ms(limit.bound_ms)} ms" if limit else f"none: {row.no_limit}",
        f"{row.finished.peak_bytes / 1e6:.0f}" if row.finished else "",
        "; ".join(row.unstable),
    ]


def _times(timing: Timing, percent: int) -> str:
    """The median alone where the samples support no more."""
    bound = next(found for found in timing.percentiles if found.percent == percent)
    return f"{tell_ms(timing.median_ms)}, {_bound(bound, len(timing.samples_ms))}"


def _bound(bound: Percentile, held: int) -> str:
    return f"needs {bound.samples_needed}, has {held}" if bound.bound_ms is None else tell_ms(bound.bound_ms)


def tell_speed(ratio: Ratio | None) -> str:
    """How many times as fast as the base, with its interval: the ratio of times upside down."""
    if ratio is None:
        return "base"
    if ratio.low is None or ratio.high is None:
        return f"{1 / ratio.ratio:.2f} (one pair)"
    return f"{1 / ratio.ratio:.2f} ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"


def tell_ms(value: float) -> str:
    """Milliseconds to four digits."""
    return f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _starts(report: LatencyReport) -> Iterator[str]:
    rows = [(row, row.opened.cold) for row in report.rows if row.opened]
    if not rows:
        return
    yield "From nothing to the first clip, once each, in a fresh process, files in the page cache, ms:"
    yield ""
    yield "| bundle, backend | process | import | verify | build | open | first clip |"
    yield "|---" * 7 + "|"
    for row, cold in rows:
        steps = (
            cold.process_ms, cold.import_ms, cold.verify_ms, cold.build_ms, cold.open_ms, cold.first_clip_ms
        )  # fmt: skip
        yield f"| {Path(row.bundle).name}, `{row.backend}` | {' | '.join(f'{step:.0f}' for step in steps)} |"


def _scaling(report: LatencyReport) -> Iterator[str]:
    for fit in report.scaling:
        points = ", ".join(f"{getattr(point, fit.axis)}: {tell_ms(point.compute_ms)} ms" for point in fit.points)
        quality = "two points" if fit.residual is None else f"within {fit.residual:.0%}"
        doubt = f"; **{fit.unstable} of {len(fit.points)} unstable**" if fit.unstable else ""
        yield f"\n{fit.backend}: grows with {fit.axis} to the power of {fit.exponent:.2f} ({points}; {quality}{doubt})."


def _notes(report: LatencyReport) -> Iterator[str]:
    limits = {(row.bundle, row.limit.rates.measured_by): row.limit for row in report.rows if row.limit}
    several = len({row.bundle for row in report.rows}) > 1
    for (bundle, name), limit in limits.items():
        of = f" of {Path(bundle).name}" if several else ""
        yield (
            f"\nThe limit{of} is {limit.flops / 1e9:.4g} GFLOP and at least {limit.least_bytes / 1e6:.4g} MB a query "
            f"over what {name} reached at best in this run."
        )
    for who, why in report.skipped.items():
        yield f"\nleft out: {who}: {why}"
    for fault in report.faults:
        yield f"\nnot passed: {fault}"
