"""What was measured, as one JSON and as one table for people."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case, Step
from .interpreters import Interpreter
from .turns import Comparison, Ratio, Timing

BASES = ("torch", "torch-compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """One model in one precision."""

    case: Case
    export: Step
    compile: Step | None = None
    depth: int | None = None  # blocks
    planned_bytes: int | None = None  # of a run on the GPU, as `vjepa2 plan` reckons it
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # by variant: how right, how large
    comparison: Comparison | None = None
    crash: str | None = None  # of a worker

    @property
    def failures(self) -> list[str]:
        """What did not go as it must; none: everything did."""
        crashes = [self.crash] if self.crash else []
        steps = [step.failure for step in (self.export, self.compile) if step is not None and step.failure]
        variants = self.comparison.failures if self.comparison else {}
        return [*steps, *crashes, *(f"{name}: {failure}" for name, failure in variants.items())]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """Everything that one `make gpu` found."""

    date: str
    interpreters: dict[str, Interpreter]
    state_before: dict[str, str] | None
    state_after: dict[str, str] | None
    cases: tuple[CaseReport, ...]

    @property
    def name(self) -> str:
        """Of its files."""
        trt = self.interpreters["TENSORRT_PYTHON"]
        gpu = re.sub(r"[^a-z0-9]+", "-", (trt.gpu or "gpu").lower()).strip("-")
        return f"{gpu}-tensorrt-{trt.versions['tensorrt']}"


def write_report(report: GpuReport, folder: Path) -> tuple[Path, Path]:
    """The JSON and the table, inside `folder`."""
    from vjepa2.outputs import write_whole  # noqa: PLC0415  (click may be what an interpreter lacks)

    folder.mkdir(parents=True, exist_ok=True)
    record, table = folder / f"{report.name}.json", folder / f"{report.name}.md"
    text = json.dumps(asdict(report), indent=1, allow_nan=False) + "\n"
    write_whole(record, lambda stream: stream.write(text.encode()))
    write_whole(table, lambda stream: stream.write("\n".join(render(report)).encode()))
    return record, table


def render(report: GpuReport) -> Iterator[str]:
    """The table's lines."""
    torch, trt = (report.interpreters[role] for role in ("PYTHON", "TENSORRT_PYTHON"))
    yield f"# {trt.gpu}, TensorRT {trt.versions['tensorrt']}, torch {torch.versions['torch']}"
    yield ""
    yield f"{report.date}; Python {torch.python} and {trt.python}. GPU: {_tell(report.state_before)} before,"
    yield f"{_tell(report.state_after)} after. Random weights: times and parity mean something, embeddings nothing."
    yield ""
    yield (
        "Times are medians of all rounds in turns, ms a clip. GPU: CUDA events around the model, frames on the GPU. "
        "End to end: uint8 frames in numpy to the embedding in numpy. A ratio is torch's time over the engine's, "
        "median of the rounds, in brackets the least and the most: above 1 the engine is faster."
    )
    yield ""
    yield (
        "| model | precision | variant | GPU p50 | end to end p50, p99 | torch / engine, GPU "
        "| torch / engine, end to end | worst token's cosine | GPU memory, MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in report.cases:
        yield from _rows(case)
    yield ""
    for case in report.cases:
        yield from _notes(case)


def _rows(report: CaseReport) -> Iterator[str]:
    if report.comparison is None:
        return
    for name, found in report.comparison.variants.items():
        facts = report.facts[name]
        cells = (
            report.case.name,
            report.case.precision,
            name,
            _time(found.gpu, "p50_ms"),
            f"{_time(found.wall, 'p50_ms')}, {_time(found.wall, 'p99_ms')}",
            _ratio(report.comparison.gpu_ratios.get(name), name),
            _ratio(report.comparison.wall_ratios.get(name), name),
            f"{facts['token_cosine']:.6f}",
            f"{facts['memory_bytes'] / 1e6:.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def _notes(report: CaseReport) -> Iterator[str]:
    title = f"- {report.case.folder}: exported in {report.export.seconds:.0f} s"
    if report.compile is not None and report.compile.record is not None:
        engine = report.compile.record["manifest"]
        yield (
            f"{title}, compiled in {report.compile.seconds:.0f} s at level {engine['builder_level']}, in its gate"
            f"{_accepted(engine['verdict']['accepted'])}; "
            f"fused attention in {engine['fused_attention']} of {report.depth} blocks; plan "
            f"{engine['plan']['bytes'] / 1e6:.0f} MB, a context {engine['device_memory_bytes'] / 1e6:.0f} MB; "
            f"vjepa2 plan reckons {(report.planned_bytes or 0) / 1e6:.0f} MB for a run{_measured(report)}"
        )
    else:
        yield f"{title}, no engine"
    for failure in report.failures:
        yield f"  - not as it must be: {failure}"


def _measured(report: CaseReport) -> str:
    """Beside the planner's figure: what the driver says that opening and running the engine took."""
    facts = report.facts.get("tensorrt")
    return f", {facts['memory_bytes'] / 1e6:.0f} MB were taken" if facts else ""


def _accepted(limits: dict[str, float]) -> str:
    """What of the gate was put lower, so that nobody takes "in its gate" for more than it is."""
    return f" with {', '.join(f'{name}={limit:g}' for name, limit in limits.items())} accepted" if limits else ""


def _time(timing: Timing | None, field: str) -> str:
    return "" if timing is None else f"{getattr(timing, field):.3f}"


def _ratio(ratio: Ratio | None, name: str) -> str:
    """Of torch's rows: the engine's own are not compared with itself."""
    if ratio is None or name not in BASES:
        return ""
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.most:.2f})"


def _tell(state: dict[str, str] | None) -> str:
    if state is None:
        return "state unknown (no nvidia-smi)"
    return f"{state['clocks.sm']}, {state['temperature.gpu']} C, {state['power.draw']}, {state['pstate']}"
