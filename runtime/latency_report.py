"""What does a benchmark report: every row with its proof, its samples, its limit and what speaks against it?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .bench_row import Finished, Opened
from .latency_stats import Ratio, Timing
from .machine_state import Machine, MachineState
from .roofline import Limit
from .scaling import Scaling
from .warm_up import WarmUp

FILE = Path("reports") / "latency.json"  # in a bundle
Scenario = Literal["single-stream", "multi-stream", "offline"]
# beside every table of both boundaries; holds of every backend in `backends/`
NORMALISING = (
    "Normalising pixels is in both times where the graph takes frames, and in end to end alone where a model takes "
    "pixels that are normalised, as transformers' and PyTorch's do."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scenario in MLPerf's words: a query follows the last; no run of ours is as long as MLPerf's must be."""

    clips: int  # a query
    percentile: int  # that is reported of it


SCENES: dict[Scenario, Scene] = {
    "single-stream": Scene(clips=1, percentile=90),
    "multi-stream": Scene(clips=8, percentile=99),
    "offline": Scene(clips=16, percentile=50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """The machine while a row was timed."""

    before: MachineState
    after: MachineState
    others_share: float  # of the cores, that processes of others took
    stolen_share: float  # of the cores, that the machine below took


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One bundle in one backend. Without a proof that passed there are no times."""

    bundle: str  # its folder
    backend: str
    failure: str | None  # why there are no times
    opened: Opened | None
    warm_up: WarmUp | None
    compute: Timing | None
    end_to_end: Timing | None
    compute_ratio: Ratio | None  # to the base; None for the base itself
    end_to_end_ratio: Ratio | None
    finished: Finished | None
    limit: Limit | None
    no_limit: str | None  # why there is none
    disturbance: Disturbance | None
    unstable: tuple[str, ...]  # why the times are not to be trusted as they stand


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """One run of `vjepa2 bench`."""

    passed: bool  # whole, and every row was proved and timed
    partial: bool  # interrupted, or still running
    faults: tuple[str, ...]  # why it did not pass
    command: str  # that makes such a report; empty if it was not made on the command line
    date: str
    vjepa2: str
    model: str
    blocks: int
    scenario: Scenario
    starts_from: str  # where end-to-end times begin
    machine: Machine
    rows: tuple[LatencyRow, ...]
    scaling: tuple[Scaling, ...]
    skipped: dict[str, str]  # backends that were not asked for by name and cannot run here -> why
