"""How does a linear layer become one of 8 bits: what it is given and its weight, each through Q and DQ.

The nodes are written here and not by `onnxruntime.quantization.quantize_static`, which holds the model and its 8-bit
copy in memory, writes a file of weights of its own for each graph, and knows no 16-bit attention beside them. Scales
are symmetric and zero is 0. A weight of int8 has one scale for each column, as TensorRT's importer wants them. One of
fp8 has one scale in all: a float's step grows with its value, so columns gain little from their own, and TensorRT
multiplies in fp8 with scalar scales only (https://github.com/NVIDIA/TensorRT-Model-Connect/pull/1386).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from .adapters import public_name

Eight = Literal["int8", "fp8"]
OPSETS: dict[Eight, int] = {"int8": 18, "fp8": 19}  # Q and DQ know float8 from opset 19 on
_TYPES: dict[Eight, int] = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
_LARGEST: dict[Eight, float] = {"int8": 127.0, "fp8": 448.0}

# Linear layers that stay in 16 or 32 bits, and why: names of their tensors begin so, or end so
KEPT = {
    "patch_embed": "pixels of 256 values and weights that carry their normalisation, in 0.4 % of the FLOPs",
    "action_encoder": "seven numbers of a robot's arm, in no FLOPs",
    "state_encoder": "the same",
    "query_tokens": "computed once, at export",
}
SCALE = "_scale"  # after the name of the weight that it is of


@dataclass(frozen=True, slots=True)
class EightBits:
    """Which layers are quantised, and what they are given at most, by the name of the layer's weight."""

    kind: Eight
    ranges: Mapping[str, float]

    @property
    def weights(self) -> frozenset[str]:
        """The tensors in 8 bits."""
        return frozenset(self.ranges)


def choose_layers(ranges: Mapping[str, float], tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """`ranges` of layers by name, kept where the layer's weight is in the graph and no reason stands against it."""
    named = {f"{public_name(name)}.weight": most for name, most in ranges.items()}
    return {
        name: most
        for name, most in named.items()
        if name in tensors and most > 0 and not any(part in name for part in KEPT)
    }


def quantize_weights(tensors: Mapping[str, Tensor], eight: EightBits) -> dict[str, Tensor]:
    """The same tensors, those of quantised layers `[K, N]` in 8 bits, each followed by its scales `[N]`, or `[]`."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in eight.weights:
            result[name] = tensor
            continue
        most = tensor.abs().amax(0) if eight.kind == "int8" else tensor.abs().max()
        scale = most.clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST[eight.kind]
        steps = tensor / scale
        result[name] = steps.round().to(torch.int8) if eight.kind == "int8" else steps.to(torch.float8_e4m3fn)
        result[name + SCALE] = scale
    return result


def quantize_graph(graph: onnx.ModelProto, eight: EightBits) -> None:
    """Put Q and DQ before every MatMul that reads a quantised weight; the weights' places are set elsewhere."""
    next(entry for entry in graph.opset_import if entry.domain == "").version = OPSETS[eight.kind]
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    given: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1] in eight.weights:
            weight = node.input[1]
            if node.input[0] not in given:
                made = _quantize_activation(graph.graph, node.input[0], eight, eight.ranges[weight])
                nodes.extend(made)
                given[node.input[0]] = made[-1].output[0]
            node.input[0] = given[node.input[0]]
            nodes.append(_restore_weight(graph.graph, constants[weight], eight))
            node.input[1] = nodes[-1].output[0]
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    known = [info for info in graph.graph.value_info if info.name not in eight.weights]  # these were float32
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(known)


def _quantize_activation(graph: onnx.GraphProto, name: str, eight: EightBits, most: float) -> list[onnx.NodeProto]:
    scale, zero = f"{name}{SCALE}", f"zero_{eight.kind}"
    graph.initializer.append(numpy_helper.from_array(np.array(most / _LARGEST[eight.kind], np.float32), scale))
    _zero(graph, zero, eight, [])
    steps, restored = f"{name}_{eight.kind}", f"{name}_restored"
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [steps], name=f"{steps}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [steps, scale, zero], [restored], name=f"{restored}/DequantizeLinear"),
    ]


def _restore_weight(graph: onnx.GraphProto, weight: onnx.TensorProto, eight: EightBits) -> onnx.NodeProto:
    columns = [weight.dims[1]] if eight.kind == "int8" else []
    weight.data_type = _TYPES[eight.kind]
    scale = graph.initializer.add()
    scale.name, scale.data_type, scale.data_location = weight.name + SCALE, TensorProto.FLOAT, TensorProto.EXTERNAL
    scale.dims.extend(columns)
    zero = "_".join(["zero", eight.kind, *map(str, columns)])
    _zero(graph, zero, eight, columns)
    result = f"{weight.name}_restored"
    name = f"{result}/DequantizeLinear"
    node = helper.make_node("DequantizeLinear", [weight.name, scale.name, zero], [result], name=name)
    if columns:
        node.attribute.append(helper.make_attribute("axis", 1))
    return node


def _zero(graph: onnx.GraphProto, name: str, eight: EightBits, dims: list[int]) -> None:
    """A zero point, made once; all its bytes are 0 in either type."""
    if any(tensor.name == name for tensor in graph.initializer):
        return
    count = int(np.prod(dims))
    graph.initializer.append(helper.make_tensor(name, _TYPES[eight.kind], dims, bytes(count), raw=True))
