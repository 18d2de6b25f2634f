"""Which quantisation does a compiler take and fuse: constant scales of the right shape, around linear layers alone?

A rule yields the name of a node and why it is wrong. What is quantised goes through QuantizeLinear, DequantizeLinear.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from vjepa2.manifest import Precision

from .graph_view import GraphView
from .lint_attention import QUANTIZING, find_attention
from .lint_constants import read_numbers
from .targets import FACTS, Target

Found = Iterator[tuple[str, str]]  # node, reason
LINEARS = frozenset({"MatMul", "Gemm", "Conv"})  # what is computed in 8 bits
_ROUNDING = 1e-3  # of a scale that is held in 16 bits
_MOVES = frozenset({"Transpose", "Reshape"})  # may stand between a weight's DequantizeLinear and its linear layer
# between what is quantised and attention's MatMul, which then is of 8 bits: what moves numbers or scales them
_TO_ATTENTION = _MOVES | {
    "Squeeze", "Unsqueeze", "Split", "Slice", "Gather", "Concat", "Expand", "Cast", "Identity"
}  # fmt: skip


def find_restoring(view: GraphView, name: str) -> tuple[NodeProto | None, list[NodeProto]]:
    """The DequantizeLinear that a value comes from, and what moves its numbers after it, the last first; or none."""
    chain = list(view.climb(name, _MOVES))
    if chain and chain[-1].op_type == "DequantizeLinear" and len(chain[-1].input) > 1:
        return chain[-1], chain[:-1]
    return None, []


def zero_points_are_zero(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Quantisation is symmetric, where the importer knows no other."""
    for node in _quantizing(view) if target.zero_points_are_zero else []:
        if not any(node.input[2:]):
            if target is FACTS["tensorrt-8.6"]:
                yield node.name, "it has no zero point; the importer wants three inputs, the third of them 0"
            continue
        zeros = read_numbers(view, node.input[2])
        if zeros is None:
            yield node.name, f"its zero point {node.input[2]} is no constant that can be read; it must be 0"
        elif zeros.astype(float).any():
            yield node.name, f"its zero point {node.input[2]} is not 0; only symmetric quantisation is read"


def _quantizing(view: GraphView) -> list[NodeProto]:
    return [node for node in view.nodes if node.op_type in QUANTIZING and len(node.input) > 1]


def scales_are_constants(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every scale is a constant, where the target compiles it in, and greater than 0 everywhere."""
    for node in _quantizing(view):
        scale = node.input[1]
        numbers = read_numbers(view, scale)
        if numbers is None and scale not in view.tensors and target.zero_points_are_zero:
            yield node.name, f"its scale {scale} is computed; it must be a constant"
        elif numbers is not None and (wrong := _find_wrong(numbers.astype(float))) is not None:
            yield node.name, f"its scale {scale} is {wrong} somewhere; it must be a number greater than 0"


def _find_wrong(scales: npt.NDArray[np.float64]) -> float | None:
    """The first scale that is not a number greater than 0."""
    wrong = scales[~(np.isfinite(scales) & (scales > 0))]
    return float(wrong[0]) if wrong.size else None


def steps_are_restored_by_their_scale(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """A DequantizeLinear gives back what its QuantizeLinear took: both have one scale."""
    for node in _quantizing(view):
        maker = view.makers.get(node.input[0])
        if node.op_type != "DequantizeLinear" or maker is None or maker.op_type != "QuantizeLinear":
            continue
        made, restored = (read_numbers(view, each.input[1]) for each in (maker, node))
        if made is None or restored is None or node.input[1] == maker.input[1]:
            continue
        if made.shape != restored.shape or not np.allclose(made.astype(float), restored.astype(float), rtol=_ROUNDING):
            yield node.name, f"its scale {node.input[1]} is not that of {maker.name}, {maker.input[1]}; it must be"


def scales_fit_their_layers(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """An int8 weight has one scale for each of its layer's outputs; an FP8 weight and what is computed, one number."""
    for node in (node for node in view.nodes if node.op_type in LINEARS):
        for place, name in enumerate(node.input[:2]):
            restoring, moves = find_restoring(view, name)
            if restoring is None or restoring.input[1] not in view.tensors:
                continue  # which `scales_are_constants` judges
            stored, is_weight = view.types.get(restoring.input[0], "unknown"), _is_weight(view, restoring)
            if is_weight and not stored.startswith("float8"):
                reason = _find_misfit(view, restoring, node, _output_axis(view, node, place, moves))
            else:
                reason = _find_many(view, restoring, f"a weight of {stored}" if is_weight else "what is computed")
            if reason is not None:
                yield restoring.name, reason


def _find_many(view: GraphView, restoring: NodeProto, what: str) -> str | None:
    """Why a scale is not one number."""
    scale = restoring.input[1]
    shape = view.shapes[scale]
    if len(shape) < 2 and math.prod(shape) == 1:
        return None
    return f"its scale {scale} has shape {list(shape)}; {what} must have one number"


def _find_misfit(view: GraphView, restoring: NodeProto, layer: NodeProto, axis: int | None) -> str | None:
    """Why the scales of a weight whose axis `axis` is the layer's output are not one for each output."""
    scale, sizes = restoring.input[1], view.shapes.get(restoring.input[0], ())
    if axis is None or axis >= len(sizes):
        return f"which of its axes is the output of {layer.name} cannot be told; drop the Reshape before that"
    shape, along = view.shapes[scale], _axis_of(restoring, len(sizes))
    if shape == (sizes[axis],) and along == axis:
        return None
    return (
        f"its scale {scale} has shape {list(shape)} along axis {along}; it must be one number for each of the "
        f"{sizes[axis]} outputs of {layer.name}, along axis {axis}"
    )


def _is_weight(view: GraphView, restoring: NodeProto) -> bool:
    """Whether what is restored is a constant, be it of 8 bits already or quantised in the graph."""
    maker = view.makers.get(restoring.input[0])
    names = [restoring.input[0], *([maker.input[0]] if maker and maker.op_type == "QuantizeLinear" else [])]
    return any(name in view.tensors for name in names)


def _axis_of(restoring: NodeProto, rank: int) -> int:
    axis = next((int(one.i) for one in restoring.attribute if one.name == "axis"), 1)
    return axis + rank if axis < 0 else axis


def _output_axis(view: GraphView, node: NodeProto, place: int, moves: Sequence[NodeProto]) -> int | None:
    """Which axis of a weight, before what moves it, is the output of the layer that reads it; None if none is."""
    flags = {one.name: one.i for one in node.attribute}
    rank = view.ranks.get(node.input[place], 2)
    axis: int | None = max(rank - (2 if place == 0 else 1), 0)
    if node.op_type == "Conv" or (node.op_type == "Gemm" and flags.get("transB" if place else "transA")):
        axis = 0 if place else 1
    for move in moves:
        axis = None if axis is None else _axis_before(view, move, axis)
    return axis


def _axis_before(view: GraphView, move: NodeProto, axis: int) -> int | None:
    """Which axis a Transpose or a Reshape has made the given one of; None if it is of several, or cannot be told."""
    before, after = view.shapes.get(move.input[0]), view.shapes.get(move.output[0])
    if before is None or after is None:
        return None
    if move.op_type == "Transpose":
        order = next((helper.get_attribute_value(one) for one in move.attribute if one.name == "perm"), None)
        return int(order[axis]) if order else len(before) - 1 - axis
    if before[: axis + 1] == after[: axis + 1]:
        return axis
    behind = len(after) - axis
    return len(before) - behind if before[-behind:] == after[-behind:] else None


def attention_is_not_quantized(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Neither what attention's MatMuls take is quantised, moved or scaled though it be, nor what is between them."""
    for one in find_attention(view):
        operands = [name for product in (one.scores, one.mixed) if product is not None for name in product.input]
        behind = [node for name in operands for node in view.reach(name, lambda node: _moves(view, node))]
        wrong = [node.name for node in (*one.above, *one.below, *behind) if node.op_type in QUANTIZING]
        for name in dict.fromkeys(wrong):
            yield name, f"it quantises the attention of {one.softmax.name}, which must stay in 16 bits"


def _moves(view: GraphView, node: NodeProto) -> bool:
    scales = node.op_type in ("Mul", "Div") and any(name in view.tensors for name in node.input)
    return scales or node.op_type in _TO_ATTENTION


RULES = (
    zero_points_are_zero,
    scales_are_constants,
    steps_are_restored_by_their_scale,
    scales_fit_their_layers,
    attention_is_not_quantized,
)
