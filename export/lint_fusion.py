"""Which rules does a compiler make before it fuses: what must a graph look like to be fast and right?

A rule yields the name of a node, or `graph`, and why it is wrong. Attention is Mul (the scale, on q) -> MatMul ->
Softmax -> MatMul with nothing between but a mask that is added: other spellings run unfused, or wrong in TensorRT 10.7.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto

from vjepa2.manifest import Precision

from .graph_view import FUSED_ATTENTION, GraphView, operator_of
from .targets import Target

Found = Iterator[tuple[str, str]]  # node, reason
_SCALINGS = frozenset({"Mul", "Div"})
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
# what may stand between the two MatMuls in some graph, right or wrong
_ON_SCORES = _SCALINGS | _QUANTIZING | {"Cast", "Add", "Sub", "Where"}
_BEFORE_SCORES = _QUANTIZING | {"Cast", "Transpose", "Reshape"}  # between a scaled q, or k, and their MatMul


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention of a graph."""

    softmax: NodeProto
    scores: NodeProto | None  # q and k's MatMul; None where there is none
    above: tuple[NodeProto, ...]  # between scores and softmax
    below: tuple[NodeProto, ...]  # between softmax and the mixing
    mixed: NodeProto | None  # the MatMul with v


def find_attention(view: GraphView) -> list[Attention]:
    """Every Softmax, and the MatMuls that it stands between."""
    found = []
    for softmax in (node for node in view.nodes if node.op_type == "Softmax"):
        above = list(view.climb(softmax.input[0], _ON_SCORES))
        scores = above.pop() if above and above[-1].op_type == "MatMul" else None
        below, last = _descend(view, softmax)
        found.append(Attention(softmax, scores, tuple(above), tuple(below), last))
    return found


def count_attention(view: GraphView) -> int:
    """Attentions of a graph, spelt out or handed to one operator."""
    whole = [one for one in find_attention(view) if one.scores is not None and one.mixed is not None]
    return len(whole) + sum(operator_of(node) == FUSED_ATTENTION for node in view.nodes)


def _descend(view: GraphView, softmax: NodeProto) -> tuple[list[NodeProto], NodeProto | None]:
    passed, users = list[NodeProto](), view.users.get(softmax.output[0], [])
    while len(users) == 1:
        if users[0].op_type == "MatMul":
            return passed, users[0]
        if users[0].op_type not in _ON_SCORES:
            break
        passed.append(users[0])
        users = view.users.get(users[0].output[0], [])
    return passed, None


def has_no_shape_chain(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No shape is computed, but for the batch of an input put before sides that are known, for Expand or Reshape."""
    inputs = {value.name for value in view.model.graph.input}
    inputs |= {node.output[0] for name in inputs for node in view.users.get(name, []) if node.op_type == "Cast"}
    for shape in (node for node in view.nodes if node.op_type == "Shape"):
        joined = view.users.get(shape.output[0], [])
        ends = [user.op_type for node in joined for user in view.users.get(node.output[0], [])]
        is_batch = shape.input[0] in inputs and {node.op_type for node in joined} == {"Concat"}
        if not (is_batch and set(ends) <= {"Expand", "Reshape"}):
            yield shape.name, f"the shape of {shape.input[0]} is computed with; it must be a constant"


def layer_norms_are_one_operator(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No LayerNormalization is spelt out as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div."""
    for root in (node for node in view.nodes if node.op_type == "Sqrt"):
        for name in root.input:
            if (mean := _find_mean(view, name)) is not None:
                yield mean.name, f"a LayerNormalization is spelt out from here to {root.name}; it must be one operator"


def _find_mean(view: GraphView, name: str) -> NodeProto | None:
    """The ReduceMean that `name` is, but for an epsilon that is added and casts."""
    node = view.makers.get(name)
    if node is None or node.op_type == "ReduceMean":
        return node
    if node.op_type not in ("Add", "Cast"):
        return None
    return next((mean for part in node.input if (mean := _find_mean(view, part)) is not None), None)


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
    return node.op_type in _SCALINGS and any(view.is_scalar(name) for name in node.input)


def has_no_cast_inside_attention(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """From scores to mixing everything is of one type: a Cast between keeps TensorRT from fusing them."""
    for one in find_attention(view):
        for node in (*one.above, *one.below):
            if node.op_type == "Cast":
                yield node.name, f"it stands inside the attention of {one.softmax.name}; cast q, k and v before it"


RULES = (
    has_no_shape_chain,
    layer_norms_are_one_operator,
    attention_is_found,
    scale_is_on_q_only,
    has_no_cast_inside_attention,
)
