"""What does a comparison say, as figures, limits and verdicts: `reports/parity.json`?"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from vjepa2.errors import BundleError
from vjepa2.odd_numbers import spell_numbers, unspell_numbers
from vjepa2.outputs import write_json
from vjepa2.schema import ADDED_LATER, read_record

from .canaries import NAMES, Canary
from .clip_set import Kind
from .figures import Figures
from .gates import Limits
from .pictures import find_fault
from .report_place import make_place

SCHEMA = 2
FILE = Path("reports") / "parity.json"  # in a bundle; not hashed, and nothing but a report reads it
MAX_BYTES = 64 * 2**20  # a map of 18,432 tokens for each of a dozen candidates is a third of it


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlace:
    """Where a token lies in the clip: its first frame, and its row and column of patches, from 0."""

    frame: int
    row: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMap:
    """How far every token of one clip is from the reference's, where it lies."""

    clip: str
    frames: int
    distances_THW: tuple[tuple[tuple[float, ...], ...], ...]  # 1 - cosine, three digits; T steps, H x W patches
    quiet: tuple[int, ...]  # numbers of the tokens that do not count
    pictures: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)  # first frame of each step, as data:image/png

    def __post_init__(self) -> None:
        """Raise `BundleError` for what is no small picture, and for another number of them than of steps."""
        steps = len(self.distances_THW)
        fault = find_fault(self.pictures)
        if fault is None and self.pictures and len(self.pictures) != steps:
            fault = f"pictures are {len(self.pictures)}; they must be one of each of {steps} steps, or none"
        if fault is not None:
            raise BundleError(f"the map of {self.clip[:60]!r} cannot be drawn: its {fault}; run vjepa2 parity again")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRow:
    """One candidate on one clip."""

    name: str
    kind: Kind
    expected_by: str
    change: float  # mean |difference| of neighbouring frames, in steps of 255
    figures: Figures
    worst_place: TokenPlace | None  # None if the worst is not of the encoder's tokens
    faults: tuple[str, ...]
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One bundle in one backend, on every clip."""

    name: str
    bundle: str
    bundle_sha256: str  # of its manifest
    backend: str
    device: str
    precision: str  # executed
    limits: Limits
    limits_from: str
    accepted: Limits  # limits that the export put lower
    clips: tuple[ClipRow, ...]
    worst: Figures
    worst_clip: str  # of the worst token
    worst_map: TokenMap | None  # of that clip; None of a head that gives no tokens
    neighbours: float | None  # k-NN overlap@10; `said` has what chance alone gives
    said: tuple[str, ...]  # what could not be told, and why
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """What candidates were held against."""

    kind: str
    bundle: str | None  # whose weights PyTorch ran; None if it ran none
    says: tuple[str, ...]  # what that proves, and what it does not
    anchors: dict[str, Figures]  # PyTorch against what export stored, by bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Candidates and canaries. It passes if all of the former do and none of the latter."""

    schema: int = SCHEMA
    passed: bool
    partial: bool  # interrupted, or still running
    invalid: tuple[str, ...]  # why it proves nothing: canaries that were let through or never run
    date: str
    command: str
    machine: str
    versions: dict[str, str]
    reference: ReferenceRow
    candidates: tuple[CandidateRow, ...]
    canaries: tuple[Canary, ...]
    not_run: dict[str, str]  # candidate -> why

    def judged(self) -> "ParityReport":
        """The same with its verdicts drawn from its rows."""
        invalid = [f"{each.candidate}: the gate lets through: {each.name}" for each in self.canaries if each.passed]
        ran = {(each.candidate, each.name) for each in self.canaries}
        if not self.partial:
            missing = [(row.name, name) for row in self.candidates for name in NAMES if (row.name, name) not in ran]
            invalid += [f"{candidate}: not run: {name}" for candidate, name in missing]
        good = bool(self.candidates) and all(row.passed for row in self.candidates)
        return replace(self, invalid=tuple(invalid), passed=good and not invalid and not self.partial)

    def of_bundle(self, bundle: str) -> "ParityReport":
        """What concerns one bundle alone."""
        rows = tuple(row for row in self.candidates if row.bundle == bundle)
        names = {row.name for row in rows}
        canaries = tuple(each for each in self.canaries if each.candidate in names)
        return replace(self, candidates=rows, canaries=canaries).judged()


def write_report(path: str, report: ParityReport) -> None:
    """Write a report as JSON, "-" to standard output; numbers that JSON has none of become words."""
    write_json(path, spell_numbers(asdict(report)))


def keep_report(folder: Path, report: ParityReport) -> None:
    """Write a report to its place in a bundle."""
    write_report(str(make_place(folder, FILE)), report)


def read_report(file: Path) -> ParityReport:
    """Read what `write_report` wrote, strictly; `BundleError` for anything else."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BundleError(f"{file} has {file.stat().st_size} bytes; a report has at most {MAX_BYTES}")
        record = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} is no report ({error}); run vjepa2 parity again") from error
    if isinstance(record, dict) and record.get("schema") != SCHEMA:
        raise BundleError(f"{file} has schema {record.get('schema')!r}; this version reads {SCHEMA}: run parity again")
    return read_record(ParityReport, unspell_numbers(record), file.name)
