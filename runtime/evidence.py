"""What is known of a bundle: its manifest and the reports that lie in it, read strictly, as one record?"""

import json
import platform
import shlex
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from vjepa2 import __version__
from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError
from vjepa2.json_schema import describe_record
from vjepa2.odd_numbers import spell_numbers, unspell_numbers
from vjepa2.outputs import write_json
from vjepa2.schema import read_record

from . import latency_report, parity_report
from .evidence_subject import Subject, describe_subject
from .graph_reports import DRIFT_FILE, LINT_FILE, DriftRecord, Inspection
from .latency_report import LatencyReport
from .parity_report import ParityReport, read_report

SCHEMA = 1
_MOST_BYTES = 256 * 2**20  # a report of a benchmark holds every sample
_Record = TypeVar("_Record")

# section -> the file in a bundle that it is made of
FILES = {
    "parity": parity_report.FILE,
    "latency": latency_report.FILE,
    "lint": LINT_FILE,
    "drift": DRIFT_FILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it; a section that nothing was measured for is None."""

    schema: int = SCHEMA
    date: str
    vjepa2: str
    machine: str  # that put it together
    commands: dict[str, str]  # section -> what makes it
    subject: Subject
    parity: ParityReport | None
    latency: LatencyReport | None
    lint: Inspection | None
    drift: DriftRecord | None
    foreign: dict[str, str]  # section -> what in it is not of this bundle as it is now, and so proves nothing of it


def gather_evidence(bundle: Bundle) -> Evidence:
    """What lies in a bundle; `BundleError` for a report that cannot be read. What is not there is None."""
    subject = describe_subject(bundle)
    parity_file, latency_file, lint_file, drift_file = (bundle.path / file for file in FILES.values())
    parity = read_report(parity_file) if parity_file.exists() else None
    latency = _read(LatencyReport, latency_file) if latency_file.exists() else None
    inspection = _parse(lint_file) if lint_file.exists() else None
    drift = _read(DriftRecord, drift_file) if drift_file.exists() else None
    foreign = {
        "parity": _find_foreign_parity(subject, parity),
        "latency": _find_foreign_times(subject, latency),
        "lint": _find_foreign_graphs(subject, inspection),
        "drift": _find_foreign_drift(subject, drift),
    }
    return Evidence(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        vjepa2=__version__,
        machine=f"{platform.system()} {platform.machine()}",
        commands=list_commands(bundle.path, drift),
        subject=subject,
        parity=parity,
        latency=latency,
        lint=None if inspection is None else _read_inspection(inspection, lint_file),
        drift=drift,
        foreign={section: what for section, what in foreign.items() if what},
    )


def list_commands(folder: Path, found: DriftRecord | None = None) -> dict[str, str]:
    """What makes each section of a bundle's page, and the page; a localisation that was `found` again as it was."""
    name = shlex.quote(str(folder))
    lint, drift = (shlex.quote(str(folder / FILES[section])) for section in ("lint", "drift"))
    reports = shlex.quote(str(folder / "reports"))
    options = ""
    if found is not None:
        backend, reference = found.candidate.rpartition(" by ")[2], found.reference.rpartition(" in ")[0]
        options = f" --backend {shlex.quote(backend)} --clip {found.clip}"
        options += "" if reference == folder.resolve().name else f" --against {shlex.quote(reference)}"
    return {
        "parity": f"vjepa2 parity {name}",
        "latency": f"vjepa2 bench {name}",
        "lint": f"mkdir -p {reports} && vjepa2 inspect {name} --json {lint}",
        "drift": f"mkdir -p {reports} && vjepa2 drift {name}{options} --json {drift}",
        "report": f"vjepa2 report {name}",
    }


def list_missing(evidence: Evidence) -> dict[str, str]:
    """Section that nothing was measured for -> the command that does."""
    return {name: evidence.commands[name] for name in FILES if getattr(evidence, name) is None}


def write_evidence(path: str, evidence: Evidence) -> None:
    """Write the page's twin as JSON, "-" to standard output; numbers that JSON has none of become words."""
    write_json(path, spell_numbers(asdict(evidence)))


def describe_evidence() -> dict[str, Any]:
    """JSON Schema of what `write_evidence` writes."""
    described = describe_record(Evidence)
    described["properties"] = {"schema": {"const": SCHEMA}}
    return described


def read_evidence(file: Path) -> Evidence:
    """Read what `write_evidence` wrote, strictly; `BundleError` for anything else."""
    record = _parse(file)
    if record.get("schema") != SCHEMA:
        raise BundleError(
            f"{file} has schema {record.get('schema')!r}; this version compares {SCHEMA}: give what "
            "vjepa2 report BUNDLE --json FILE wrote"
        )
    return read_record(Evidence, record, file.name)


def read_drift(file: Path) -> DriftRecord:
    """Read what `vjepa2 drift --json` wrote, strictly; `BundleError` for anything else."""
    return _read(DriftRecord, file)


def _parse(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{file} has {file.stat().st_size} bytes; a report has at most {_MOST_BYTES}")
        record = unspell_numbers(json.loads(file.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} is no report ({error}); write it again") from error
    if not isinstance(record, dict):
        raise BundleError(f"{file} holds no object; write it again")
    return record


def _read(kind: type[_Record], file: Path) -> _Record:
    return read_record(kind, _parse(file), file.name)


def _read_inspection(record: dict[str, Any], file: Path) -> Inspection:
    """Its graphs; the manifest and the engines in it are the bundle's, and are read there."""
    rest = {name: value for name, value in record.items() if name not in ("manifest", "engines")}
    return read_record(Inspection, rest, file.name)


def _find_foreign_parity(subject: Subject, report: ParityReport | None) -> str:
    rows = () if report is None else report.candidates
    return ", ".join(f"parity of {row.name}" for row in rows if row.bundle_sha256 != subject.manifest_sha256)


def _find_foreign_times(subject: Subject, report: LatencyReport | None) -> str:
    """Rows of other bundles of the same run stand beside this one's, and are called by their names."""
    rows = [row for row in report.rows if row.opened] if report is not None else []
    others = [row for row in rows if row.opened and row.opened.bundle_sha256 != subject.manifest_sha256]
    if rows and len(others) == len(rows):
        return "every time"
    return ", ".join(f"times of {row.backend}" for row in others if Path(row.bundle).name == subject.name)


def _find_foreign_graphs(subject: Subject, inspection: dict[str, Any] | None) -> str:
    if inspection is None:
        return ""
    manifest = inspection.get("manifest")
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return "" if files == {name: asdict(info) for name, info in subject.files.items()} else "lint"


def _find_foreign_drift(subject: Subject, drift: DriftRecord | None) -> str:
    """A localisation names its bundle by the folder and holds no hash."""
    if drift is None or drift.candidate.startswith(f"{subject.name} "):
        return ""
    return f"drift, which is of {drift.candidate}"
