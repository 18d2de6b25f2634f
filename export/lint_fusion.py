"""Which rules does a compiler make before it fuses, beside those of attention: shapes it knows, norms it recognises?

A rule yields the name of a node and why it is wrong.
"""

from collections.abc import Iterator

from onnx import NodeProto

from vjepa2.manifest import Precision

from .graph_view import GraphView
from .lint_constants import is_uniform, read_numbers
from .targets import Target

Found = Iterator[tuple[str, str]]  # node, reason
# operator -> the inputs that say where or how long, not what
_SIDES = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Slice": (1, 2, 3, 4), "Split": (1,),
    "Squeeze": (1,), "Unsqueeze": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Resize": (2, 3), "TopK": (1,),
}  # fmt: skip
_TAKES_BATCH = ("Expand", "Reshape")
_MEANS = frozenset({"ReduceMean", "GlobalAveragePool", "AveragePool"})
_SUMS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL2"})
_AFTER_MEAN = frozenset({
    "Add", "Sum", "Sub", "Mul", "Div", "Max", "Clip", "Abs", "Reciprocal", "Cast", "Identity", "Reshape", "Squeeze",
    "Unsqueeze",
})  # fmt: skip
_SQUARING = frozenset({"Mul", "Pow", "Abs", "Cast", "Identity"})  # between x - mean and what sums its squares


def has_no_shape_chain(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No shape is computed, but for the batch of an input put before sides that are known, for Expand or Reshape."""
    inputs = {value.name for value in view.model.graph.input}
    inputs |= {node.output[0] for name in inputs for node in view.users.get(name, []) if node.op_type == "Cast"}
    batches = {node.output[0] for node in view.nodes if _reads_batch(node) and node.input[0] in inputs}
    known = batches | set(view.tensors)
    joined = {node.output[0] for node in view.nodes if node.op_type == "Concat" and known.issuperset(node.input)}
    outputs = {value.name for value in view.model.graph.output}
    for node in view.nodes:
        if node.op_type in ("Shape", "Size") and not _goes_into(view, node, batches - outputs, joined - outputs):
            yield node.name, f"the shape of {node.input[0]} is computed with; it must be a constant"
        for name in _sides_of(node):
            if name not in view.tensors and not (name in joined and node.op_type in _TAKES_BATCH):
                yield node.name, f"{node.op_type} takes {name}, which is computed; it must be a constant"


def _reads_batch(node: NodeProto) -> bool:
    """Whether a node reads the length of the first axis and of no other."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "Shape" and ends.get("start", 0) == 0 and ends.get("end") == 1


def _goes_into(view: GraphView, shape: NodeProto, batches: set[str], joined: set[str]) -> bool:
    """Whether a batch is read by what puts it before known sides, and these by what takes sides, and nobody else."""
    readers = view.users.get(shape.output[0], [])
    last = [(user, node) for node in readers for user in view.users.get(node.output[0], [])]
    is_for_sides = all(user.op_type in _TAKES_BATCH and user.input[0] != node.output[0] for user, node in last)
    return (
        shape.output[0] in batches and bool(last) and is_for_sides and all(node.output[0] in joined for node in readers)
    )


def _sides_of(node: NodeProto) -> list[str]:
    places = (1,) if node.op_type.startswith("Reduce") else _SIDES.get(node.op_type, ())
    return [node.input[place] for place in places if place < len(node.input) and node.input[place]]


def layer_norms_are_one_operator(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No LayerNormalization is spelt out: no root is taken of a mean, nor of a sum of squared differences."""
    for root in (node for node in view.nodes if _is_root(view, node)):
        if (mean := _find_mean(view, root)) is not None:
            yield mean.name, f"a LayerNormalization is spelt out from here to {root.name}; it must be one operator"
    for node in (node for node in view.nodes if node.op_type == "MeanVarianceNormalization"):
        yield node.name, "it is a LayerNormalization without its gains; it must be one operator with them"


def _is_root(view: GraphView, node: NodeProto) -> bool:
    """Whether a node takes square roots, or their reciprocals."""
    if node.op_type != "Pow":
        return node.op_type in ("Sqrt", "ReduceL2")
    power = read_numbers(view, node.input[1])
    return power is not None and power.size > 0 and bool((abs(power.astype(float)) == 0.5).all())


def _find_mean(view: GraphView, root: NodeProto) -> NodeProto | None:
    """What averages before a root: a mean, a sum that is divided, or any sum of squared distances from a mean."""
    behind = [root] if root.op_type == "ReduceL2" else _behind(view, root.input[0])
    is_divided = any(node.op_type in ("Mul", "Div") and _has_uniform(view, node) for node in behind)
    for node in behind:
        is_mean = node.op_type in _MEANS or (node.op_type == "MatMul" and _has_uniform(view, node))
        if is_mean or (node.op_type in _SUMS and (is_divided or _is_variance(view, node))):
            return node
    return None


def _behind(view: GraphView, name: str) -> list[NodeProto]:
    return view.reach(name, lambda node: node.op_type in _AFTER_MEAN)


def _has_uniform(view: GraphView, node: NodeProto) -> bool:
    return any(is_uniform(view, name) for name in node.input)


def _is_variance(view: GraphView, total: NodeProto) -> bool:
    """Whether a sum is over what a mean was subtracted from, however that mean is spelt."""
    squared = view.reach(total.input[0], lambda node: node.op_type in _SQUARING)
    means = [each for node in squared if node.op_type == "Sub" for each in _behind(view, node.input[1])]
    return any(
        each.op_type in _MEANS | _SUMS or (each.op_type == "MatMul" and _has_uniform(view, each)) for each in means
    )


RULES = (has_no_shape_chain, layer_norms_are_one_operator)
