"""Engines beside torch on this machine's GPU: exported, compiled, gated, timed in turns, written down.

python -m benchmarks.gpu --python PYTHON --tensorrt-python PYTHON [--reuse]
"""

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error

from .cases import Case, choose_cases, compile_case, export_case
from .interpreters import ROOT, Interpreter, find_interpreters
from .machine import read_gpu_state
from .pipes import VariantError, Worker, WorkerError
from .report import CaseReport, GpuReport, write_report
from .turns import Comparison, Run, compare

_ROUNDS = 12
_CALLS = {"tiny": 50, "vitl": 10}  # a block
_BASE = "tensorrt"  # what the others are compared with
_WORKERS = (("TENSORRT_PYTHON", "benchmarks.gpu.tensorrt_worker"), ("PYTHON", "benchmarks.gpu.torch_worker"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where bundles are kept, and where the report goes."""

    artifacts: Path = ROOT / "artifacts" / "gpu"
    docs: Path = ROOT / "docs" / "gpu"


def main(arguments: list[str] | None = None, places: Places = Places()) -> int:
    """Exit status: 0 all well, 1 something measured is not good, 2 could not do it."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument("--python", required=True, help="An interpreter with torch and what exports.")
    parser.add_argument("--tensorrt-python", required=True, help="An interpreter with TensorRT.")
    parser.add_argument("--reuse", action="store_true", help="Take whole bundles of an earlier run as they are.")
    options = parser.parse_args(arguments)
    try:
        interpreters = find_interpreters({"PYTHON": options.python, "TENSORRT_PYTHON": options.tensorrt_python})
        report = measure(interpreters, places.artifacts, reuse=options.reuse)
        record, table = write_report(report, places.docs)
    except Vjepa2Error as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return error.exit_code
    print(table.read_text())
    print(f"{record} and {table.name} are written", file=sys.stderr)
    return 1 if any(case.failures for case in report.cases) else 0


def measure(interpreters: Mapping[str, Interpreter], folder: Path, *, reuse: bool) -> GpuReport:
    """Every case that this TensorRT has the precision for."""
    before = read_gpu_state()
    cases = tuple(
        measure_case(case, interpreters, folder, reuse=reuse) for case in choose_cases(interpreters["TENSORRT_PYTHON"])
    )
    return GpuReport(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        interpreters=dict(interpreters),
        state_before=before,
        state_after=read_gpu_state(),
        cases=cases,
    )


def measure_case(case: Case, interpreters: Mapping[str, Interpreter], folder: Path, *, reuse: bool) -> CaseReport:
    """Export, compile, and compare; what was measured and is not good ends the case, not the run."""
    print(f"{case.folder}: export", file=sys.stderr)
    exported = export_case(case, interpreters["PYTHON"], folder, reuse=reuse)
    if exported.failure:
        return CaseReport(case=case, export=exported, compile=None, depth=None, facts={}, comparison=None)
    depth = Bundle.open(folder / case.folder).manifest.model.depth
    print(f"{case.folder}: compile", file=sys.stderr)
    compiled = compile_case(case, interpreters["TENSORRT_PYTHON"], folder)
    if compiled.failure:
        return CaseReport(case=case, export=exported, compile=compiled, depth=depth, facts={}, comparison=None)
    print(f"{case.folder}: compare", file=sys.stderr)
    commands = [[interpreters[role].path, "-m", module, str(folder / case.folder)] for role, module in _WORKERS]
    try:
        facts, comparison = compare_workers(commands, rounds=_ROUNDS, calls=_CALLS[case.name])
    except WorkerError as error:
        return CaseReport(
            case=case, export=exported, compile=compiled, depth=depth, facts={}, comparison=None, crash=str(error)
        )
    return CaseReport(case=case, export=exported, compile=compiled, depth=depth, facts=facts, comparison=comparison)


def compare_workers(
    commands: Sequence[Sequence[str]], *, rounds: int, calls: int
) -> tuple[dict[str, dict[str, Any]], Comparison]:
    """What every variant of every worker says of itself, and all of them in turns."""
    with ExitStack() as stack:
        facts: dict[str, dict[str, Any]] = {}
        failures: dict[str, str] = {}
        runs: dict[str, Run] = {}
        for worker in [stack.enter_context(Worker(command)) for command in commands]:
            for variant in worker.variants:
                try:
                    facts[variant] = worker.describe(variant)
                    runs[variant] = partial(worker.run, variant)
                except VariantError as error:
                    failures[variant] = str(error)
        comparison = compare(runs, base=_BASE, rounds=rounds, calls=calls)
    return facts, replace(comparison, failures=failures | comparison.failures)


if __name__ == "__main__":
    sys.exit(main())
