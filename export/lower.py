"""Which operators does a target run: the traced attention spelled out, or handed to a fused kernel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vjepa2.bundle import ONNXRUNTIME, PORTABLE

from .adapters import CROSS_ATTENTION, REPEAT, SELF_ATTENTION

_MICROSOFT = "com.microsoft"


@dataclass(slots=True)
class _Site:
    """One placeholder to be lowered, the shapes of what it takes and gives, and the constants that all share."""

    node: onnx.NodeProto
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, onnx.TensorProto]
    made: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def heads(self) -> int:
        """Heads of this attention."""
        return int(next(attribute.i for attribute in self.node.attribute if attribute.name == "heads"))

    @property
    def channels(self) -> int:
        """Channels per head."""
        return self.shapes[self.node.output[0]][-1] // self.heads

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

    def shape(self, axes: str, *dims: int) -> str:
        """A constant shape of the graph, made once."""
        name = f"shape_{axes}_{'x'.join(map(str, dims))}"
        return self.constant(name, np.array(dims))

    def constant(self, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """A constant of the graph, made once."""
        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name


def lower_graph(traced: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """The traced graph for `portable.onnx` (MatMul, Softmax, MatMul) or `onnxruntime.onnx` (one fused operator)."""
    graph = onnx.ModelProto()
    graph.CopyFrom(traced)
    shapes = _find_shapes(traced.graph)
    constants: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in traced.graph.node:
        if (node.domain, node.op_type) not in _LOWERINGS[target]:
            nodes.append(node)
            continue
        site = _Site(node, shapes, constants)
        _LOWERINGS[target][node.domain, node.op_type](site)
        nodes.extend(site.made)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(constants.values())
    _set_domains(graph)
    return graph


def make_batch_dynamic(graph: onnx.ModelProto) -> None:
    """Let the first axis of every input, output, Reshape and Expand be any size: every one of these here keeps it."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.graph.value_info[:]
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name in {node.input[1] for node in graph.graph.node if node.op_type == "Reshape"}:
        shape = numpy_helper.to_array(constants[name]).copy()
        shape[0] = -1
        constants[name].CopyFrom(numpy_helper.from_array(shape, name))
    expands = [node for node in graph.graph.node if node.op_type == "Expand"]
    if not expands:
        return
    name = graph.graph.input[0].name
    cast = next((node for node in graph.graph.node if node.op_type == "Cast" and name in node.input), None)
    pixels = cast.output[0] if cast else name  # TensorRT takes bytes into a Cast and nothing else
    made = [helper.make_node("Shape", [pixels], ["batch_1"], name="batch/Shape", start=0, end=1)]
    for number, node in enumerate(expands):
        rest, whole = f"expand_{number}_rest", f"expand_{number}_shape"
        graph.graph.initializer.append(
            numpy_helper.from_array(numpy_helper.to_array(constants[node.input[1]])[1:], rest)
        )
        made.append(helper.make_node("Concat", ["batch_1", rest], [whole], name=f"{node.name}/Concat", axis=0))
        node.input[1] = whole
    nodes = list(graph.graph.node)
    at = nodes.index(cast) + 1 if cast else 0
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes[:at], *made, *nodes[at:]])


def _portable(site: _Site) -> None:
    qk_BNQK, v_BND, *bias_11NN = site.node.input
    q_BNAK, k_BNAK = site.split("Split", [qk_BNQK], ["q_BNAK", "k_BNAK"], axis=2, num_outputs=2)
    _spell_out(site, q_BNAK, k_BNAK, v_BND, bias_11NN)


def _portable_cross(site: _Site) -> None:
    q_BMD, k_BND, v_BND = site.node.input
    _spell_out(site, _cut(site, q_BMD, "q_BMAK"), _cut(site, k_BND, "k_BNAK"), v_BND, [])


def _spell_out(site: _Site, q_BMAK: str, k_BNAK: str, v_BND: str, bias_11MN: list[str]) -> None:
    scale = site.constant(f"attention_scale_{site.channels}", np.array(site.channels**-0.5, np.float32))
    q_BAMK = site.add("Transpose", [q_BMAK], "q_BAMK", perm=[0, 2, 1, 3])
    scaled_BAMK = site.add("Mul", [q_BAMK, scale], "scaled_BAMK")
    k_BAKN = site.add("Transpose", [k_BNAK], "k_BAKN", perm=[0, 2, 3, 1])
    v_BANK = site.add("Transpose", [_cut(site, v_BND, "v_BNAK")], "v_BANK", perm=[0, 2, 1, 3])
    scores_BAMN = site.add("MatMul", [scaled_BAMK, k_BAKN], "scores_BAMN")
    for bias in bias_11MN:
        scores_BAMN = site.add("Add", [scores_BAMN, bias], "seen_BAMN")
    weights_BAMN = site.add("Softmax", [scores_BAMN], "weights_BAMN", axis=-1)
    mixed_BAMK = site.add("MatMul", [weights_BAMN, v_BANK], "mixed_BAMK")
    mixed_BMAK = site.add("Transpose", [mixed_BAMK], "mixed_BMAK", perm=[0, 2, 1, 3])
    site.add("Reshape", [mixed_BMAK, site.shape("BND", *site.shapes[site.node.output[0]])], "out")


def _cut(site: _Site, x_BND: str, result: str) -> str:
    """The channels of `x_BND` cut into heads."""
    return site.add("Reshape", [x_BND, site.shape("BNAK", *site.shapes[x_BND][:2], site.heads, site.channels)], result)


def _onnxruntime(site: _Site) -> None:
    qk_BNQK, v_BND, *bias_11NN = site.node.input
    batch, tokens, both, channels = site.shapes[qk_BNQK]
    qk_BNC = site.add("Reshape", [qk_BNQK, site.shape("BNC", batch, tokens, both * channels)], "qk_BNC")
    q_BND, k_BND = site.split("Split", [qk_BNC], ["q_BND", "k_BND"], axis=2, num_outputs=2)
    _fuse(site, [q_BND, k_BND, v_BND], list(bias_11NN))


def _onnxruntime_cross(site: _Site) -> None:
    q_BMD, k_BND, v_BND = site.node.input
    must = site.shapes[site.node.output[0]]
    if site.shapes[q_BMD] != must:
        q_BMD = site.add("Expand", [q_BMD, site.shape("BND", *must)], "q_BMD")
    _fuse(site, [q_BMD, k_BND, v_BND], [])


def _repeat(site: _Site) -> None:
    site.add("Expand", [site.node.input[0], site.shape("BND", *site.shapes[site.node.output[0]])], "out")


def _fuse(site: _Site, qkv: list[str], bias_11NN: list[str]) -> None:
    inputs = [*qkv, "", "", *bias_11NN] if bias_11NN else qkv  # without the bias of q, k, v and the padding's mask
    site.add("MultiHeadAttention", inputs, "out", domain=_MICROSOFT, num_heads=site.heads)


_LOWERINGS: dict[str, dict[tuple[str, str], Callable[[_Site], None]]] = {
    PORTABLE: {SELF_ATTENTION: _portable, CROSS_ATTENTION: _portable_cross, REPEAT: _repeat},
    ONNXRUNTIME: {SELF_ATTENTION: _onnxruntime, CROSS_ATTENTION: _onnxruntime_cross, REPEAT: _repeat},
}


def _find_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shape of every value, the weights' too."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.value_info, *graph.input, *graph.output):
        shapes[info.name] = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
    return shapes


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
