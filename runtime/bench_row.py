"""What is asked of one row of a benchmark, and what does it answer?"""

from dataclasses import dataclass
from typing import Protocol

from vjepa2.manifest import ParityVerdict

from .backends.placement import Executed
from .query_timer import Turn
from .roofline import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """Which bundle in which backend, and what a query is."""

    bundle: str
    backend: str
    device: str | None
    precision: Executed | None
    clips: int  # a query, before it is rounded up to what the graph takes
    video: str | None  # that end-to-end times begin with; None: frames in host memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Milliseconds from nothing to the first result, once, in a fresh process; files are in the page cache."""

    process_ms: float  # until the interpreter runs
    import_ms: float  # of the runtime, numpy and the backend's library
    verify_ms: float  # of the bundle: every byte is hashed
    build_ms: float  # of a graph that this backend first has to make
    open_ms: float
    first_clip_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A row that was proved, or was not."""

    bundle_sha256: str  # of its manifest
    device: str
    precision: str  # executed
    reason: str
    clips: int  # a query
    calls: int  # of the graph, a query
    threads: int  # of the process, after the first clips
    cold: ColdStart
    verdict: ParityVerdict
    faults: tuple[str, ...]  # why it may not be timed; none: it may
    earlier_ms: tuple[float, ...]  # of the proof's calls, if they were as long as a query


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What is known when all is timed."""

    imported_bytes: int  # peak of resident memory before the bundle was opened
    peak_bytes: int  # and after all was timed; mapped weights are part of it
    device_bytes: int | None  # None where it has no memory of its own, or nothing tells
    rates: Rates | str  # of the device; a sentence where they were not measured


class Subject(Protocol):
    """A row as the harness sees it, wherever it runs."""

    @property
    def session(self) -> int | None:
        """Of its processes; None: this process."""

    def open(self) -> Opened:
        """Start, open and prove it; a `Vjepa2Error` if it does not run."""

    def turn(self, calls: int) -> Turn:
        """Time so many queries; a `Vjepa2Error` if the times cannot be right."""

    def finish(self) -> Finished:
        """What it took."""

    def close(self) -> None:
        """Free everything. Safe to call twice."""
