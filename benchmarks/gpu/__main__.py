"""Engines beside torch on this machine's GPU: exported, compiled, gated, timed in turns, written down.

python -m benchmarks.gpu --python PYTHON --tensorrt-python PYTHON [--cases NAME,NAME] [--reuse]
"""

import argparse
import datetime
import hashlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vjepa2.errors import Vjepa2Error

from .cases import CASES, Case, choose_cases, explain_no_bf16
from .interpreters import ROOT, find_interpreters
from .machine import read_gpu_state
from .measure import Bench, measure_case
from .report import CaseReport, GpuReport, merge, name_report, read_earlier, write_report

_STEP_SECONDS = 480.0
_INTERRUPTED = 130
_SOURCES = ("vjepa2", "export", "runtime", "benchmarks/gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where bundles are kept, and where the report goes."""

    artifacts: Path = ROOT / "artifacts" / "gpu"
    docs: Path = ROOT / "docs" / "gpu"


def main(arguments: list[str] | None = None, places: Places = Places()) -> int:
    """Exit status: 0 all well, 1 a case failed, 2 could not do it."""
    options = parse(arguments)
    docs = options.docs or places.docs
    try:
        interpreters = find_interpreters({"PYTHON": options.python, "TENSORRT_PYTHON": options.tensorrt_python})
        cases = choose_cases(interpreters["TENSORRT_PYTHON"], options.cases.replace(",", " ").split())
        bench = Bench(
            interpreters=interpreters,
            folder=places.artifacts,
            logs=docs / f"{name_report(interpreters)}-logs",
            reuse=options.reuse,
            step_seconds=options.step_seconds,
        )
        measured, table = measure(cases, bench, docs)
    except Vjepa2Error as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("make gpu: interrupted; what was found so far is written", file=sys.stderr)
        return _INTERRUPTED
    print(table.read_text())
    print(f"{table}, its JSON and {bench.logs} are written", file=sys.stderr)
    return 1 if any(case.failures for case in measured) else 0


def measure(cases: Sequence[Case], bench: Bench, docs: Path) -> tuple[tuple[CaseReport, ...], Path]:
    """Measure the cases, with the report written before and after each of their steps; they, and the table."""
    earlier = read_earlier(docs / f"{name_report(bench.interpreters)}.json")
    report = GpuReport(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        sources=hash_sources(),
        interpreters=bench.interpreters,
        state_before=read_gpu_state(),
        state_after=None,
        no_bf16=explain_no_bf16(bench.interpreters["TENSORRT_PYTHON"]),
        cases=(),
    )
    measured: tuple[CaseReport, ...] = ()
    for case in cases:
        for found in measure_case(case, bench):
            report = replace(report, state_after=read_gpu_state(), cases=(*measured, found))
            _, table = write_report(merge(report.to_record(), earlier), docs, report.name)
        measured = report.cases
    return measured, table


def hash_sources(root: Path = ROOT) -> str:
    """Twelve digits of the code that measures: a copy of the tree need not say which commit it is."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in _SOURCES for file in (root / folder).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of `make gpu`."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument("--python", required=True, help="An interpreter with torch and what exports.")
    parser.add_argument("--tensorrt-python", required=True, help="An interpreter with TensorRT.")
    names = ", ".join(case.folder for case in CASES)
    parser.add_argument("--cases", default="", help=f"Of {names}; the report keeps others of an earlier run.")
    parser.add_argument("--reuse", action="store_true", help="Take whole bundles, and engines in their gate, as found.")
    parser.add_argument("--docs", type=Path, help="Folder of the report.  [default: docs/gpu]")
    parser.add_argument("--step-seconds", type=float, default=_STEP_SECONDS, help="For a case's export, and so on.")
    return parser.parse_args(arguments)


def _end(number: int, _: object) -> None:
    """Whoever ends us ends what we started, too; a report of what was found so far is there."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
