"""Which operators does a target run: the traced attention spelled out, or handed to a fused kernel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vjepa2.bundle import ONNXRUNTIME, PORTABLE

from .trace import PLACEHOLDER

_MICROSOFT = "com.microsoft"


@dataclass(slots=True)
class _Site:
    """One attention to be lowered, and the constants that all of them share."""

    node: onnx.NodeProto
    shape: tuple[int, int, int, int]  # batch, tokens, heads, channels per head
    constants: dict[str, onnx.TensorProto]
    made: list[onnx.NodeProto] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], result: str, **attributes: Any) -> str:
        """Append a node named after the attention; `result` also names its output."""
        return self.split(op, inputs, [result], **attributes)[0]

    def split(self, op: str, inputs: list[str], results: list[str], **attributes: Any) -> list[str]:
        """Append a node of several outputs."""
        base = self.node.name.rsplit("/", 1)[0]
        outputs = [self.node.output[0] if name == "out" else f"{base}/{name}" for name in results]
        name = f"{base}/{op}_{'_'.join(results)}"
        self.made.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """A constant of the graph, made once."""
        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name


def lower_graph(traced: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """The traced graph for `portable.onnx` (MatMul, Softmax, MatMul) or `onnxruntime.onnx` (one fused operator)."""
    graph = onnx.ModelProto()
    graph.CopyFrom(traced)
    shapes = {info.name: info for info in traced.graph.value_info}
    constants: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in traced.graph.node:
        if (node.domain, node.op_type) != PLACEHOLDER:
            nodes.append(node)
            continue
        site = _Site(node, _attention_shape(node, shapes), constants)
        _LOWERINGS[target](site)
        nodes.extend(site.made)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(constants.values())
    _set_domains(graph)
    return graph


def make_batch_dynamic(graph: onnx.ModelProto) -> None:
    """Let the first axis of every input, output and Reshape be any size: every Reshape here keeps it."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.graph.value_info[:]
    targets = {node.input[1] for node in graph.graph.node if node.op_type == "Reshape"}
    for constant in graph.graph.initializer:
        if constant.name in targets:
            shape = numpy_helper.to_array(constant).copy()
            shape[0] = -1
            constant.CopyFrom(numpy_helper.from_array(shape, constant.name))


def _portable(site: _Site) -> None:
    batch, tokens, heads, channels = site.shape
    qk_BNQK, v_BND = site.node.input
    shape_BNAK = site.constant("shape_BNAK", np.array([batch, tokens, heads, channels]))
    shape_BND = site.constant("shape_BND", np.array([batch, tokens, heads * channels]))
    scale = site.constant("attention_scale", np.array(channels**-0.5, np.float32))
    q_BNAK, k_BNAK = site.split("Split", [qk_BNQK], ["q_BNAK", "k_BNAK"], axis=2, num_outputs=2)
    q_BANK = site.add("Transpose", [q_BNAK], "q_BANK", perm=[0, 2, 1, 3])
    scaled_BANK = site.add("Mul", [q_BANK, scale], "scaled_BANK")
    k_BAKN = site.add("Transpose", [k_BNAK], "k_BAKN", perm=[0, 2, 3, 1])
    v_BNAK = site.add("Reshape", [v_BND, shape_BNAK], "v_BNAK")
    v_BANK = site.add("Transpose", [v_BNAK], "v_BANK", perm=[0, 2, 1, 3])
    scores_BANN = site.add("MatMul", [scaled_BANK, k_BAKN], "scores_BANN")
    weights_BANN = site.add("Softmax", [scores_BANN], "weights_BANN", axis=-1)
    mixed_BANK = site.add("MatMul", [weights_BANN, v_BANK], "mixed_BANK")
    mixed_BNAK = site.add("Transpose", [mixed_BANK], "mixed_BNAK", perm=[0, 2, 1, 3])
    site.add("Reshape", [mixed_BNAK, shape_BND], "out")


def _onnxruntime(site: _Site) -> None:
    batch, tokens, heads, channels = site.shape
    qk_BNQK, v_BND = site.node.input
    shape_BNC = site.constant("shape_qk_BNC", np.array([batch, tokens, 2 * heads * channels]))
    qk_BNC = site.add("Reshape", [qk_BNQK, shape_BNC], "qk_BNC")
    q_BND, k_BND = site.split("Split", [qk_BNC], ["q_BND", "k_BND"], axis=2, num_outputs=2)
    site.add("MultiHeadAttention", [q_BND, k_BND, v_BND], "out", domain=_MICROSOFT, num_heads=heads)


_LOWERINGS: dict[str, Callable[[_Site], None]] = {PORTABLE: _portable, ONNXRUNTIME: _onnxruntime}


def _attention_shape(node: onnx.NodeProto, shapes: dict[str, onnx.ValueInfoProto]) -> tuple[int, int, int, int]:
    dims = shapes[node.input[0]].type.tensor_type.shape.dim
    batch, tokens, both, channels = (dim.dim_value for dim in dims)
    return batch, tokens, both // 2, channels


def _set_domains(graph: onnx.ModelProto) -> None:
    used = {node.domain for node in graph.graph.node}
    opset = next(entry.version for entry in graph.opset_import if entry.domain == "")
    del graph.opset_import[:]
    graph.opset_import.append(helper.make_opsetid("", opset))
    if _MICROSOFT in used:
        graph.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))


def tensor_names(graph: onnx.ModelProto) -> Iterator[str]:
    """The tensors that `graph` reads from the file of weights."""
    for tensor in graph.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor.name
