"""How does one case go: export, compile, compare; whatever fails is the case's failure, and is written down?"""

import datetime
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error
from vjepa2.export.memory import plan_memory

from .cases import Case, compile_case, export_case
from .compare import VARIANTS, compare_workers
from .interpreters import Interpreter
from .report import CaseReport
from .steps import CaseLog

_ROUNDS = 12
_CALLS = {"tiny": 50, "vitl": 10}  # a block


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What stays the same from one case to the next."""

    interpreters: Mapping[str, Interpreter]
    folder: Path  # of bundles
    logs: Path
    reuse: bool
    step_seconds: float


def measure_case(case: Case, bench: Bench) -> Iterator[CaseReport]:
    """What is found of a case, before every step that may take long and at its end; what goes wrong is not raised."""
    now = datetime.datetime.now(datetime.timezone.utc)
    report = CaseReport(case=case, measured=now.isoformat(timespec="seconds"))
    log = CaseLog(bench.logs / f"{case.folder}.log")
    for name, stage in (("export", _export), ("compile", _compile), ("compare", _compare), ("plan", _plan)):
        print(f"{case.folder}: {name}", file=sys.stderr)
        yield replace(report, unfinished=name)
        try:
            report = stage(report, bench, log)
        except Vjepa2Error as error:
            report = replace(report, crash=str(error))
        except Exception as error:  # of any library: told, and the other cases go on
            log.add(traceback.format_exc())
            report = replace(report, crash=f"{type(error).__name__}: {error}")
        if report.has_no_engine or report.crash:
            break
    yield report


def _export(report: CaseReport, bench: Bench, log: CaseLog) -> CaseReport:
    python = bench.interpreters["PYTHON"]
    step = export_case(report.case, python, bench.folder, log, seconds=bench.step_seconds, reuse=bench.reuse)
    return replace(report, export=step)


def _compile(report: CaseReport, bench: Bench, log: CaseLog) -> CaseReport:
    python = bench.interpreters["TENSORRT_PYTHON"]
    step = compile_case(report.case, python, bench.folder, log, seconds=bench.step_seconds, reuse=bench.reuse)
    manifest = Bundle.open(bench.folder / report.case.folder).manifest
    return replace(report, compile=step, depth=manifest.model.depth)


def _compare(report: CaseReport, bench: Bench, log: CaseLog) -> CaseReport:
    folder = str(bench.folder / report.case.folder)
    commands = {
        name: [bench.interpreters[role].path, "-m", module, folder, name] for name, (role, module) in VARIANTS.items()
    }
    outcome = compare_workers(commands, log, seconds=bench.step_seconds, rounds=_ROUNDS, calls=_CALLS[report.case.name])
    return replace(report, facts=outcome.facts, comparison=outcome.comparison, gpu_state=outcome.gpu_state)


def _plan(report: CaseReport, bench: Bench, log: CaseLog) -> CaseReport:
    """What `vjepa2 plan` reckons; where TensorRT does not list kernels, as if attention were fused."""
    assert report.compile is not None
    assert report.compile.record is not None
    manifest = Bundle.open(bench.folder / report.case.folder).manifest
    is_fused = report.compile.record["manifest"]["fused_attention"] in (None, manifest.model.depth)
    plan = plan_memory(manifest.model, manifest.clip, precision=report.case.precision, fused=is_fused)
    return replace(report, planned_bytes=plan.run_bytes)
