"""Would a target take this graph and run it well: rule by rule, with every node that breaks one?"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from vjepa2.errors import ExportError, LintError
from vjepa2.manifest import Precision

from . import lint_attention, lint_files, lint_fusion, lint_importer, lint_precision, lint_quantization
from .graph_view import GraphView, operator_of
from .lint_attention import count_attention
from .lint_precision import matmul_types
from .targets import FACTS, Target, TargetName

Rule = Callable[[GraphView, Target, Precision | None], Iterator[tuple[str, str]]]
_PARTS = (lint_importer, lint_fusion, lint_attention, lint_precision, lint_quantization, lint_files)
RULES: tuple[Rule, ...] = tuple(rule for part in _PARTS for rule in part.RULES)
_SHOWN = 3  # faults in an error's one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One breach of a rule."""

    rule: str
    node: str  # or tensor; `graph` where it is the whole
    reason: str

    def __str__(self) -> str:
        """The fault in one line."""
        return f"{self.node}: {self.reason} ({self.rule})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph is made of."""

    nodes: int
    operators: dict[str, int]
    opset: int
    ir_version: int
    matmuls: dict[str, int]  # type -> how many
    attentions: int  # spelt out, or fused into one operator
    constants: int
    graph_bytes: int  # of the graph itself, without what lies in other files


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What the rules found for one target."""

    target: TargetName
    precision: Precision | None  # None: none was asked for, and no rule held the graph to one
    refused: str | None  # why this target has no such precision
    faults: tuple[Fault, ...]
    facts: GraphFacts
    passed: bool


def lint_graph(
    graph: onnx.ModelProto,
    target: TargetName,
    *,
    precision: Precision | None = None,
    folder: Path | None = None,
    islands: Collection[str] = (),
) -> LintReport:
    """Hold `graph`, whose weights lie in `folder`, to every rule of `target`; the nodes of `islands` are float32.

    It passes if no rule is broken and the target has the precision; `LintError` if ONNX cannot read the graph at all.
    """
    view, facts = GraphView(graph, folder, frozenset(islands)), FACTS[target]
    faults = tuple(
        Fault(rule=rule.__name__, node=node, reason=reason)
        for rule in RULES
        for node, reason in rule(view, facts, precision)
    )
    refused = facts.refusals.get(precision) if precision is not None else None
    return LintReport(
        target=target,
        precision=precision,
        refused=refused,
        faults=faults,
        facts=describe_graph(graph, folder),
        passed=refused is None and not faults,
    )


def lint_file(
    file: Path,
    targets: Sequence[TargetName],
    *,
    precision: Precision | None = None,
    islands: Collection[str] = (),
) -> tuple[LintReport, ...]:
    """Hold the graph in `file`, whose weights lie beside it, to the rules of each of `targets`."""
    graph = load_graph(file)
    return tuple(
        lint_graph(graph, target, precision=precision, folder=file.parent, islands=islands) for target in targets
    )


def load_graph(file: Path) -> onnx.ModelProto:
    """The graph in `file`, of other files nothing; `ExportError` if it is none."""
    try:
        return onnx.load(file, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ExportError(f"{file} cannot be read as an ONNX graph: {error}") from error


def describe_graph(graph: onnx.ModelProto, folder: Path | None = None) -> GraphFacts:
    """What `graph` is made of, whatever the target."""
    view = GraphView(graph, folder)
    return GraphFacts(
        nodes=len(view.nodes),
        operators=dict(sorted(Counter(map(operator_of, view.nodes)).items())),
        opset=view.opset,
        ir_version=graph.ir_version,
        matmuls=matmul_types(view),
        attentions=count_attention(view),
        constants=len(graph.graph.initializer),
        graph_bytes=graph.ByteSize(),
    )


def demand_clean(name: str, reports: Sequence[LintReport]) -> None:
    """Raise `LintError` naming the worst of what was found, unless every report passed or was refused."""
    for report in reports:
        if report.faults and report.refused is None:
            shown = "; ".join(map(str, report.faults[:_SHOWN]))
            more = f"; and {len(report.faults) - _SHOWN} more" if len(report.faults) > _SHOWN else ""
            raise LintError(f"{name} is not fit for {report.target}: {shown}{more}; no bundle was written")
