"""What do `vjepa2 inspect` and `vjepa2 drift` leave in a bundle: their JSON, as a page of evidence reads it?"""

from dataclasses import dataclass
from pathlib import Path

from vjepa2.manifest import Precision

LINT_FILE = Path("reports") / "inspect.json"
DRIFT_FILE = Path("reports") / "drift.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFault:
    """One breach of a rule."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph is made of."""

    nodes: int
    operators: dict[str, int]
    opset: int
    ir_version: int
    matmuls: dict[str, int]
    attentions: int
    constants: int
    graph_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LintRow:
    """What a target's rules found in a graph."""

    target: str
    precision: Precision | None
    refused: str | None  # why this target has no such precision
    faults: tuple[LintFault, ...]
    facts: GraphFacts
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRow:
    """One graph."""

    facts: GraphFacts
    reports: tuple[LintRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The graphs of a bundle."""

    path: str
    graphs: dict[str, GraphRow]

    @property
    def passed(self) -> bool:
        """Whether no target that takes the precision found a fault."""
        return not any(row.faults for graph in self.graphs.values() for row in graph.reports if row.refused is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFigures:
    """How far one value is from the reference's; None is no number."""

    token_worst: float | None
    token_p01: float | None
    token_median: float | None
    embedding: float | None
    relative_max: float | None
    relative_frobenius: float | None
    is_tokens: bool
    quiet_tokens: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReading:
    """One value that both sides computed."""

    value: str
    operator: str
    op_type: str
    block: str
    drift: DriftFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLocation:
    """Where a candidate leaves its gate; None if it does not."""

    growth: tuple[DriftReading, ...]
    block: str | None
    operator: DriftReading | None
    uncompared: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftGate:
    """The limits."""

    source: str
    embedding: float
    token_worst: float | None
    token_p01: float | None
    token_median: float | None
    agreement: float | None
    relative_max: float | None
    quiet: float
    accepted: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftIsland:
    """What must stay in float32."""

    name: str
    op_type: str
    nodes: tuple[str, ...]
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftIslands:
    """The fewest islands."""

    islands: tuple[DriftIsland, ...]
    judged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCost:
    """What they cost."""

    flops_share: float
    bytes_share: float
    time_share: float | None
    not_measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRecord:
    """One localisation."""

    candidate: str
    reference: str
    clip: int
    precision: Precision
    gate: DriftGate
    passed: bool
    faults: tuple[str, ...]
    hidden: bool
    location: DriftLocation
    islands: DriftIslands | None
    islands_note: str
    cost: DriftCost | None
    plot: str  # SVG
