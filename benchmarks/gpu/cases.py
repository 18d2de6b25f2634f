"""What is compared, and how does it become a bundle and an engine: export in one interpreter, compile in the other."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError
from vjepa2.manifest import Precision

from .interpreters import GpuBenchmarkError, Interpreter
from .steps import CaseLog, run_step

_SIZES = {
    "tiny": ("--model", "vitl", "--layers", "2", "--frames", "4", "--size", "64"),
    "vitl": ("--model", "vitl", "--frames", "16"),
}
_PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16")
# What ViT-L's random weights lose in bf16 (README: median 0.99844, p01 0.99721) is more than its gate gives. It is
# accepted here by name, a third more of it for the sums of a GPU: what is asked is how fast such an engine is.
_ACCEPTED: dict[Precision, tuple[str, ...]] = {"bf16": ("token_median=0.998", "token_p01=0.996")}
_MEASURED = 1  # the exit status of what was measured and was not good
_BF16_SM = 80  # compute capability 8.0: Ampere


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model in a precision."""

    name: str
    precision: Precision

    @property
    def folder(self) -> str:
        """Of its bundle; what `CASES=` calls it."""
        return f"{self.name}-{self.precision}"


CASES = tuple(Case(name=name, precision=precision) for name in _SIZES for precision in _PRECISIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command of ours that was run for a case."""

    seconds: float
    record: dict[str, Any] | None  # what it wrote as JSON; None: nothing
    failure: str | None  # its last line, or how it ended; None: it did what it should
    tail: tuple[str, ...] = ()  # of a failure: its last lines


def choose_cases(tensorrt: Interpreter, names: Sequence[str] = ()) -> tuple[Case, ...]:
    """Both models in every 16-bit precision that runs here, or those called `names`; a `GpuBenchmarkError` if none."""
    known = {case.folder: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GpuBenchmarkError(f"there is no case {', '.join(unknown)}; choose from {', '.join(known)}")
    reason = explain_no_bf16(tensorrt)
    barred = [name for name in names if known[name].precision == "bf16" and reason]
    if barred:
        raise GpuBenchmarkError(f"{', '.join(barred)} cannot be measured here: {reason}")
    return tuple(
        case for case in CASES if case.folder in (names or known) and not (case.precision == "bf16" and reason)
    )


def explain_no_bf16(tensorrt: Interpreter) -> str | None:
    """Why no engine can compute in bf16 here; None: one can."""
    if not tensorrt.has_bf16:
        return f"TensorRT {tensorrt.versions['tensorrt']} has no bf16"
    if tensorrt.sm is not None and tensorrt.sm < _BF16_SM:
        return f"the GPU's compute capability is {tensorrt.sm / 10}, and bf16 needs 8.0"
    return None


def export_case(
    case: Case, python: Interpreter, folder: Path, log: CaseLog, *, seconds: float, reuse: bool = False
) -> Step:
    """The case's bundle inside `folder`; with `reuse` one that is whole stays."""
    target = folder / case.folder
    if reuse and _is_whole(target):
        return Step(seconds=0.0, record={"reused": True}, failure=None)
    options = () if python.simplifies else ("--no-simplify",)
    words = ["export", "random", *_SIZES[case.name], "--seed", "0", "--precision", case.precision, *options]
    accepted = [word for limit in _ACCEPTED.get(case.precision, ()) for word in ("--accept", limit)]
    return run_module(python.path, "vjepa2", [*words, *accepted, "-o", str(target)], log, seconds)


def compile_case(
    case: Case, python: Interpreter, folder: Path, log: CaseLog, *, seconds: float, reuse: bool = False
) -> Step:
    """The case's engine, in its bundle; with `reuse` one that opens and passes its gate again stays."""
    target = str(folder / case.folder)
    if reuse:
        kept = run_module(python.path, "benchmarks.gpu.kept_engine", [target], log, seconds)
        if kept.record is not None:
            return kept
    return run_module(python.path, "vjepa2", ["compile", target], log, seconds)


def run_module(python: str, module: str, words: Sequence[str], log: CaseLog, seconds: float) -> Step:
    """Run a module that writes its result as JSON; whatever becomes of it is told, nothing is raised."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [python, "-m", module, *words, "--json", str(result)]
        log.begin(" ".join(command))
        ended = run_step(command, log, seconds)
        record = _read(result) if ended.status == 0 and not ended.is_late else None
    if record is not None:
        return Step(seconds=ended.seconds, record=record, failure=None)
    name = f"{module} {words[0]}" if module == "vjepa2" else module
    how = "wrote no result" if ended.status == 0 and not ended.is_late else ended.describe()
    is_measured = ended.status == _MEASURED and not ended.is_late
    failure = log.last() if is_measured else f"{name} {how}: {log.last()}"
    return Step(seconds=ended.seconds, record=None, failure=failure, tail=log.tail())


def _read(result: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return None
    return record


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.open(folder)
    except BundleError:
        return False
    return True
