"""What was measured, as one JSON, and as one table for people that is made of that JSON alone."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import CASES, Case, Step
from .interpreters import Interpreter
from .machine import HELD_BACK
from .turns import Comparison

SCHEMA = 2
Record = dict[str, Any]  # of the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """One model in one precision."""

    case: Case
    measured: str  # when, UTC
    export: Step | None = None
    compile: Step | None = None
    depth: int | None = None  # blocks
    planned_bytes: int | None = None  # of a run on the GPU, as `vjepa2 plan` reckons it
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # by variant: how right, how large
    comparison: Comparison | None = None
    gpu_state: dict[str, str] | None = None  # between rounds
    crash: str | None = None  # of what is none of the steps
    unfinished: str | None = None  # what it was at when this was written

    @property
    def has_no_engine(self) -> bool:
        """Whether a step failed without which there is nothing to compare."""
        return any(step is not None and step.record is None for step in (self.export, self.compile))

    @property
    def failures(self) -> list[str]:
        """What did not go as it must; none: everything did."""
        crashes = [self.crash] if self.crash else []
        crashes += [f"not finished: it was at {self.unfinished}"] if self.unfinished else []
        steps = [step.failure for step in (self.export, self.compile) if step is not None and step.failure]
        variants = self.comparison.failures if self.comparison else {}
        return [*steps, *crashes, *(f"{name}: {failure}" for name, failure in variants.items())]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """What one `make gpu` found so far."""

    date: str
    sources: str  # a hash of the code that measured
    interpreters: Mapping[str, Interpreter]
    state_before: dict[str, str] | None
    state_after: dict[str, str] | None
    no_bf16: str | None  # why bf16 was left out
    cases: tuple[CaseReport, ...]

    @property
    def name(self) -> str:
        """Of its files."""
        return name_report(self.interpreters)

    def to_record(self) -> Record:
        """As JSON has it."""
        return {
            "schema": SCHEMA,
            "date": self.date,
            "measured_with": self._measured_with(),
            "state_before": self.state_before,
            "state_after": self.state_after,
            "no_bf16": self.no_bf16,
            "dropped": None,
            "cases": [
                {"failures": case.failures, "sources": self.sources, **asdict(case), "name": case.case.folder}
                for case in self.cases
            ],
        }

    def _measured_with(self) -> Record:
        """What two runs must have in common to stand in one table: the machine and every version."""
        driver = (self.state_before or {}).get("driver_version")
        roles = {
            role: {"python": each.python, "versions": dict(each.versions)} for role, each in self.interpreters.items()
        }
        trt = self.interpreters["TENSORRT_PYTHON"]
        return {"gpu": trt.gpu, "sm": trt.sm, "driver": driver, **roles}


def name_report(interpreters: Mapping[str, Interpreter]) -> str:
    """The files' name of a report by these interpreters."""
    trt = interpreters["TENSORRT_PYTHON"]
    gpu = re.sub(r"[^a-z0-9]+", "-", (trt.gpu or "gpu").lower()).strip("-")
    return f"{gpu}-tensorrt-{trt.versions['tensorrt']}"


def read_earlier(file: Path) -> Record | None:
    """The report of an earlier run; None if there is none, or none that is read here."""
    try:
        record: Record = json.loads(file.read_bytes())
        is_known = record["schema"] == SCHEMA and all(case["name"] for case in record["cases"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_known else None


def merge(record: Record, earlier: Record | None) -> Record:
    """`record` with earlier cases that it has not finished; it says which it drops, of other machines or versions."""
    finished = {case["name"] for case in record["cases"] if not case["unfinished"]}
    others = {case["name"]: case for case in (earlier or {}).get("cases", ()) if case["name"] not in finished}
    if others and earlier is not None and earlier["measured_with"] != record["measured_with"]:
        return record | {"dropped": list(others)}
    cases = {case["name"]: case for case in record["cases"]} | others
    return record | {"cases": [cases[case.folder] for case in CASES if case.folder in cases]}


def write_report(record: Record, folder: Path, name: str) -> tuple[Path, Path]:
    """The JSON and the table, inside `folder`, each whole at once; what the table cannot show is in the JSON still."""
    from vjepa2.outputs import write_whole  # noqa: PLC0415  (click may be what an interpreter lacks)

    folder.mkdir(parents=True, exist_ok=True)
    file, table = folder / f"{name}.json", folder / f"{name}.md"
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_whole(file, lambda stream: stream.write(text.encode()))
    try:
        lines = list(render(record))
    except (KeyError, TypeError, ValueError) as error:  # an engine's manifest may have changed; other cases go on
        lines = [f"The table of {file.name} cannot be made: {type(error).__name__}: {error}"]
    write_whole(table, lambda stream: stream.write(("\n".join(lines) + "\n").encode()))
    return file, table


def render(record: Record) -> Iterator[str]:
    """The table's lines."""
    used = record["measured_with"]
    torch, trt = (used[role] for role in ("PYTHON", "TENSORRT_PYTHON"))
    yield f"# {used['gpu']}, TensorRT {trt['versions']['tensorrt']}, torch {torch['versions']['torch']}"
    yield ""
    yield f"{record['date']}; Python {torch['python']} and {trt['python']}. GPU:"
    yield f"{_tell(record['state_before'])} before, {_tell(record['state_after'])} after."
    yield "Random weights: times and parity mean something, embeddings nothing."
    yield from _omissions(record)
    yield ""
    yield (
        "Times are medians of all rounds in turns, ms a clip. GPU: CUDA events around the model, frames on the GPU. "
        "End to end: uint8 frames in numpy to the embedding in numpy. A ratio is torch's time over the engine's, "
        "median of the rounds, in brackets the least and the most: above 1 the engine is faster. torch and "
        "torch-compile (`torch.compile`) are held to the engine, torch-compile-graph (its CUDA graphs, "
        '`mode="reduce-overhead"`) to the engine as a CUDA graph. torch computes in 16 bits throughout, the engine '
        "with float32 islands. Each variant has a process of its own; GPU memory is what the driver gave it beyond an "
        "empty context, libraries that it loads included."
    )
    yield ""
    yield (
        "| model | precision | variant | GPU p50 | end to end p50, p99 | torch / engine, GPU "
        "| torch / engine, end to end | worst token's cosine | GPU memory, MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in record["cases"]:
        yield from _rows(case)
    yield ""
    for case in record["cases"]:
        yield from _notes(case)


def _omissions(record: Record) -> Iterator[str]:
    """What the table does not have, and why."""
    if record["no_bf16"]:
        yield f"bf16 is left out: {record['no_bf16']}."
    if record["dropped"]:
        yield (
            f"Dropped: {', '.join(record['dropped'])} of an earlier run, measured on another machine or with other "
            "versions."
        )


def _rows(case: Record) -> Iterator[str]:
    found = case["comparison"]
    for name, timed in found["variants"].items() if found else ():
        facts = case["facts"][name]
        cells = (
            case["case"]["name"],
            case["case"]["precision"],
            name,
            _time(timed["gpu"], "p50_ms"),
            f"{_time(timed['wall'], 'p50_ms')}, {_time(timed['wall'], 'p99_ms')}",
            _ratio(found["gpu_ratios"].get(name)),
            _ratio(found["wall_ratios"].get(name)),
            f"{facts['token_cosine']:.6f}",
            f"{facts['memory_bytes'] / 1e6:.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def _notes(case: Record) -> Iterator[str]:
    parts = [f"measured {case['measured']} by sources {case['sources']}"]
    compiled = (case["compile"] or {}).get("record")
    if case["export"] and case["export"]["record"]:
        parts.append(_took(case["export"], "exported"))
    parts += [_took(case["compile"], "compiled"), *_engine(case, compiled["manifest"])] if compiled else ["no engine"]
    if case["comparison"]:
        parts.append(f"GPU between rounds: {_tell(case['gpu_state'])}")
    yield f"- {case['name']}: {'; '.join(parts)}"
    for failure in case["failures"]:
        yield f"  - not as it must be: {failure}"
    tail = _tail(case)
    yield from [f"    {line}" for line in ("```text", *tail, "```")] if tail else ()


def _took(step: Record, what: str) -> str:
    return f"{what} by an earlier run" if step["record"].get("reused") else f"{what} in {step['seconds']:.0f} s"


def _engine(case: Record, engine: Record) -> Iterator[str]:
    yield f"level {engine['builder_level']}, in its gate{_accepted(engine['verdict']['accepted'])}"
    count = engine["fused_attention"]
    yield (
        "fused attention not listed by this TensorRT"
        if count is None
        else f"fused attention in {count} of {case['depth']} blocks"
    )
    yield f"plan {engine['plan']['bytes'] / 1e6:.0f} MB, a context {engine['device_memory_bytes'] / 1e6:.0f} MB"
    if case["planned_bytes"] is not None:
        condition = " if attention is fused" if count is None else ""
        yield f"vjepa2 plan reckons {case['planned_bytes'] / 1e6:.0f} MB for a run{condition}{_measured(case)}"


def _measured(case: Record) -> str:
    """Beside the planner's figure: what the driver says that opening and running the engine took."""
    facts = case["facts"].get("tensorrt")
    return f", {facts['memory_bytes'] / 1e6:.0f} MB were taken" if facts else ""


def _tail(case: Record) -> list[str]:
    """The last words of the step that failed."""
    return [line for step in (case["export"], case["compile"]) for line in (step or {}).get("tail", ())]


def _accepted(limits: dict[str, float]) -> str:
    """What of the gate was put lower, so that nobody takes "in its gate" for more than it is."""
    return f" with {', '.join(f'{name}={limit:g}' for name, limit in limits.items())} accepted" if limits else ""


def _time(timing: Record | None, figure: str) -> str:
    return "" if timing is None else f"{timing[figure]:.3f}"


def _ratio(ratio: Record | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _tell(state: dict[str, str] | None) -> str:
    if state is None:
        return "state unknown (no nvidia-smi)"
    names = ("clocks.sm", "temperature.gpu", "power.draw", "pstate")
    clocks, heat, power, level = (state[name] for name in names)
    return f"{clocks}, {heat} C, {power}, {level}, {HELD_BACK} {state[HELD_BACK]}"
