"""What do the variants of one case say of themselves, and how long does each take: every one in its own process."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from .machine import read_gpu_state
from .pipes import VariantError, Worker
from .steps import CaseLog
from .turns import Comparison, Run, compare

# variant -> the interpreter that it runs in, and its module
VARIANTS: Mapping[str, tuple[str, str]] = {
    "tensorrt": ("TENSORRT_PYTHON", "benchmarks.gpu.tensorrt_worker"),
    "tensorrt-graph": ("TENSORRT_PYTHON", "benchmarks.gpu.tensorrt_worker"),
    "torch": ("PYTHON", "benchmarks.gpu.torch_worker"),
    "torch-compile": ("PYTHON", "benchmarks.gpu.torch_worker"),
    "torch-compile-graph": ("PYTHON", "benchmarks.gpu.torch_worker"),
}
# what each is compared with: a CUDA graph with a CUDA graph
BASES = {"torch": "tensorrt", "torch-compile": "tensorrt", "torch-compile-graph": "tensorrt-graph"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of the variants of one case."""

    facts: dict[str, dict[str, Any]]  # by variant: how right, how large
    comparison: Comparison
    gpu_state: dict[str, str] | None  # between rounds


def compare_workers(
    commands: Mapping[str, Sequence[str]], log: CaseLog, *, seconds: float, rounds: int, calls: int
) -> Outcome:
    """Open the variants' processes one by one, then let them take turns; all of it within `seconds`.

    One that does not open may take half of the time that is left, so that the others have the rest. Its process or
    another's may end whenever it likes: that variant is told as failed, and the others go on.
    """
    end_s = time.monotonic() + seconds
    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    states: list[dict[str, str] | None] = []
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for variant, command in commands.items():
            worker = stack.enter_context(Worker(command, log))
            try:
                facts[variant] = worker.describe((end_s - time.monotonic()) / 2)
            except VariantError as error:
                failures[variant] = str(error)
                worker.close()
                continue
            runs[variant] = _run_of(worker, end_s)
        log.begin("turns")
        comparison = compare(
            runs, bases=BASES, rounds=rounds, calls=calls, halfway=lambda: states.append(read_gpu_state())
        )
    return Outcome(
        facts=facts,
        comparison=replace(comparison, failures=failures | comparison.failures),
        gpu_state=states[0] if states else None,
    )


def _run_of(worker: Worker, end_s: float) -> Run:
    return lambda calls: worker.run(calls, end_s - time.monotonic())
