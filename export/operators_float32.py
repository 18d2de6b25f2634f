"""What does each operator of an exported graph compute: in torch float32, before its result is rounded?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa2.errors import ExportError

_INT8 = (-128, 127)

# (operands, attributes, node) -> results
Operator = Callable[[Sequence[Any], Mapping[str, Any], onnx.NodeProto], list[Tensor]]


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    return lambda operands, *_: [function(*(operand.float() for operand in operands))]


def _matmul(operands: Sequence[Any], *_: Any) -> list[Tensor]:
    return [operands[0].float() @ operands[1].float()]


def _add(operands: Sequence[Any], *_: Any) -> list[Tensor]:
    left, right = operands
    if not left.is_floating_point():
        return [left + right]
    return [left.float() + right.float()]


def _softmax(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    return [F.softmax(operands[0].float(), dim=attributes.get("axis", -1))]


def _layer_norm(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, gain, *bias = (operand.float() for operand in operands)
    if attributes.get("axis", -1) not in (-1, x.ndim - 1):
        raise ExportError(f"LayerNormalization over axis {attributes['axis']}; the evaluator knows the last one")
    return [F.layer_norm(x, x.shape[-1:], gain, bias[0] if bias else None, attributes.get("epsilon", 1e-5))]


def _cast(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    return [operands[0]]


def _reshape(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, shape = operands[0], operands[1].tolist()
    if not attributes.get("allowzero", 0):
        shape = [x.shape[axis] if side == 0 else side for axis, side in enumerate(shape)]
    return [x.reshape(shape)]


def _split(operands: Sequence[Any], attributes: Mapping[str, Any], node: onnx.NodeProto) -> list[Tensor]:
    axis = attributes.get("axis", 0)
    if len(operands) > 1:
        return list(operands[0].split(operands[1].tolist(), dim=axis))
    return list(operands[0].split(-(-operands[0].shape[axis] // len(node.output)), dim=axis))


def _gather(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, rows = operands
    axis = attributes.get("axis", 0) % x.ndim
    rows = torch.where(rows < 0, rows + x.shape[axis], rows)
    taken = x.index_select(axis, rows.flatten())
    return [taken.reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])]


def _gather_elements(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    return [operands[0].gather(attributes.get("axis", 0), operands[1])]


def _slice(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, starts, ends = operands[:3]
    axes, steps = (operands[index] if len(operands) > index else None for index in (3, 4))
    numbers = range(len(starts)) if axes is None else axes.tolist()
    where = [slice(None)] * x.ndim
    for index, axis in enumerate(numbers):
        step = 1 if steps is None else int(steps[index])
        if step < 1:
            raise ExportError(f"Slice by {step}; the evaluator knows positive steps")
        where[axis] = slice(int(starts[index]), int(ends[index]), step)
    return [x[tuple(where)]]


def _squeeze(operands: Sequence[Any], *_: Any) -> list[Tensor]:
    return [operands[0].squeeze(tuple(operands[1].reshape(-1).tolist()))]


def _unsqueeze(operands: Sequence[Any], *_: Any) -> list[Tensor]:
    x, axes = operands
    for axis in sorted(number % (x.ndim + axes.numel()) for number in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return [x]


def _expand(operands: Sequence[Any], *_: Any) -> list[Tensor]:
    x, shape = operands
    return [torch.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))]


def _scale_along(scale: Tensor, x: Tensor, attributes: Mapping[str, Any]) -> Tensor:
    shape = [1] * x.ndim
    if scale.ndim:
        shape[attributes.get("axis", 1)] = -1
    return scale.float().reshape(shape)


def _quantize(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, scale, zero_point = operands
    steps = x.float() / _scale_along(scale, x, attributes)
    if zero_point.dtype == torch.float8_e4m3fn:
        return [steps]
    return [(steps.round() + _scale_along(zero_point, x, attributes)).clamp(*_INT8)]


def _dequantize(operands: Sequence[Any], attributes: Mapping[str, Any], _: onnx.NodeProto) -> list[Tensor]:
    x, scale, *zero_point = operands
    steps = x.float() - _scale_along(zero_point[0], x, attributes) if zero_point else x.float()
    return [steps * _scale_along(scale, x, attributes)]


OPERATORS: dict[str, Operator] = {
    "Add": _add,
    "Cast": _cast,
    "Concat": lambda operands, attributes, _: [torch.cat(list(operands), dim=attributes["axis"])],
    "DequantizeLinear": _dequantize,
    "Div": _elementwise(torch.div),
    "Erf": _elementwise(torch.erf),
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _elementwise(torch.mul),
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Shape": lambda operands, attributes, _: [
        torch.tensor(operands[0].shape[attributes.get("start", 0) : attributes.get("end")])
    ],
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda operands, attributes, _: [operands[0].permute(attributes["perm"])],
    "Unsqueeze": _unsqueeze,
}


def normalise_stepwise(operands: Sequence[Tensor | None], attributes: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """LayerNorm as nine operators, each of whose results is rounded: what a graph without the operator would do."""
    x, gain, *bias = (item.float() for item in operands if item is not None)

    def keep(value: Tensor) -> Tensor:
        return value.to(dtype).float()

    centred = keep(x - keep(x.mean(-1, keepdim=True)))
    variance = keep(keep(centred * centred).mean(-1, keepdim=True))
    deviation = keep(torch.sqrt(keep(variance + attributes.get("epsilon", 1e-5))))
    scaled = keep(keep(centred / deviation) * gain)
    return (keep(scaled + bias[0]) if bias else scaled).to(dtype)
