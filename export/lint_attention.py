"""Which rules make attention one fused kernel, and right?

A rule yields the name of a node, or `graph`, and why it is wrong. Attention is Mul (the scale, on q) -> MatMul ->
Softmax -> MatMul with nothing between but a mask that is added: other spellings run unfused, or wrong in TensorRT 10.7.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto

from vjepa2.manifest import Precision

from .graph_view import FUSED_ATTENTION, GraphView, operator_of
from .lint_constants import is_uniform
from .targets import Target

Found = Iterator[tuple[str, str]]  # node, reason
QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SCALINGS = frozenset({"Mul", "Div"})
# what may stand between the two MatMuls in some graph, right or wrong
_ON_SCORES = _SCALINGS | QUANTIZING | {"Cast", "Add", "Sub", "Where"}
_BEFORE_SCORES = QUANTIZING | {"Cast", "Transpose", "Reshape"}  # between a scaled q, or k, and their MatMul


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention of a graph."""

    softmax: NodeProto
    scores: NodeProto | None  # q and k's MatMul; None where there is none
    above: tuple[NodeProto, ...]  # between scores and softmax
    below: tuple[NodeProto, ...]  # between softmax and the mixing
    mixed: NodeProto | None  # the MatMul with v

    @property
    def inside(self) -> tuple[NodeProto, ...]:
        """What makes scores and weights: every node but the mixing."""
        return (*([] if self.scores is None else [self.scores]), *reversed(self.above), self.softmax, *self.below)


def find_attention(view: GraphView) -> list[Attention]:
    """Every Softmax, and the MatMuls that it stands between."""
    found = []
    for softmax in (node for node in view.nodes if node.op_type == "Softmax"):
        above = view.path_to("MatMul", softmax.input[0], _ON_SCORES)
        scores = above.pop() if above and len(above[-1].input) == 2 else None
        below, last = _descend(view, softmax)
        found.append(Attention(softmax, scores, tuple(above), tuple(below), last))
    return found


def count_attention(view: GraphView) -> int:
    """Attentions of a graph, spelt out or handed to one operator."""
    whole = [one for one in find_attention(view) if one.scores is not None and one.mixed is not None]
    return len(whole) + sum(operator_of(node) == FUSED_ATTENTION for node in view.nodes)


def _descend(view: GraphView, softmax: NodeProto) -> tuple[list[NodeProto], NodeProto | None]:
    passed, users = list[NodeProto](), view.users.get(softmax.output[0], [])
    while len(users) == 1 and users[0] not in passed:
        if users[0].op_type == "MatMul":
            return passed, users[0]
        if users[0].op_type not in _ON_SCORES:
            break
        passed.append(users[0])
        users = view.users.get(users[0].output[0], [])
    return passed, None


def attention_is_found(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """There is attention, and every Softmax is part of one."""
    found = find_attention(view)
    if not found and not count_attention(view):
        yield "graph", "no attention is found: neither MatMul, Softmax, MatMul nor an operator that fuses them"
    for one in found:
        if one.scores is None:
            yield one.softmax.name, "what it takes does not come from a MatMul of q and k; it must, or nothing is fused"
        elif one.mixed is None:
            yield one.softmax.name, "what it gives does not go into one MatMul with v alone; it must"


def nobody_else_reads_attention(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Scores and weights go on to the mixing alone, where the target fuses what is spelt out: it never makes them."""
    if FUSED_ATTENTION in target.operators:
        return
    outputs = {value.name for value in view.model.graph.output}
    for one in (one for one in find_attention(view) if one.scores is not None and one.mixed is not None):
        for node in one.inside:
            if node.output[0] in outputs:
                yield node.name, f"{node.output[0]} is an output of the graph; only the mixing by v may read it"
            elif len(view.users[node.output[0]]) > 1:
                others = ", ".join(user.name for user in view.users[node.output[0]])
                yield node.name, f"{node.output[0]} is read by {others}; only one of them may, on the way to v"


def softmax_is_over_keys(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every Softmax is over the last axis, the keys'."""
    for softmax in (node for node in view.nodes if node.op_type == "Softmax"):
        axis = next((one.i for one in softmax.attribute if one.name == "axis"), -1 if view.opset >= 13 else 1)
        rank = view.ranks.get(softmax.input[0])
        if axis != -1 and (rank is None or axis != rank - 1):
            yield softmax.name, f"it is over axis {axis} of {rank or 'an unknown number'}; it must be over the last"


def scale_is_on_q_only(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """The scale is on q, before the scores are computed, and on nothing else."""
    for one in find_attention(view):
        if one.scores is None:
            continue
        late = [node.name for node in (*one.above, *one.below) if _scales(view, node)]
        on_k = _find_scale(view, one.scores.input[1])
        if late:
            yield late[0], "scores are scaled; scale q before they are computed"
        if on_k is not None:
            yield on_k.name, "k is scaled; scale q alone"
        if not late and _find_scale(view, one.scores.input[0]) is None:
            yield one.scores.name, "its q is not scaled by a Mul with one number; it must be, and q alone"


def _find_scale(view: GraphView, name: str) -> NodeProto | None:
    chain = list(view.climb(name, _BEFORE_SCORES))
    return chain[-1] if chain and _scales(view, chain[-1]) else None


def _scales(view: GraphView, node: NodeProto) -> bool:
    return node.op_type in _SCALINGS and any(is_uniform(view, name) for name in node.input)


def has_no_cast_inside_attention(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """From scores to mixing everything is of one type: a Cast between keeps TensorRT from fusing them."""
    for one in find_attention(view):
        for node in (*one.above, *one.below):
            if node.op_type == "Cast":
                yield node.name, f"it stands inside the attention of {one.softmax.name}; cast q, k and v before it"


RULES = (
    attention_is_found,
    nobody_else_reads_attention,
    softmax_is_over_keys,
    scale_is_on_q_only,
    has_no_cast_inside_attention,
)
