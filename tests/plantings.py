"""Which mistakes are planted into a graph, each at one block, and at which operator does each begin?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vjepa2.export.evaluate import read_tensor

Floats = npt.NDArray[np.float32]


class Bed:
    """A copy of a graph that may be spoilt; its weights stay in their file, those that change move into the graph."""

    def __init__(self, graph: onnx.ModelProto, folder: Path, heads: int) -> None:
        self.graph = onnx.ModelProto()
        self.graph.CopyFrom(graph)
        self.folder, self.heads = folder, heads

    def node(self, name: str) -> onnx.NodeProto:
        found: onnx.NodeProto = next(node for node in self.graph.graph.node if node.name == name)
        return found

    def read(self, name: str) -> Floats:
        tensor = next(tensor for tensor in self.graph.graph.initializer if tensor.name == name)
        return read_tensor(tensor, self.folder).numpy().copy()

    def replace(self, node: onnx.NodeProto, index: int, values: Floats) -> None:
        """Let one operand of one node be other numbers."""
        name = f"{node.input[index]}_planted"
        self.graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        node.input[index] = name


def swap_q_and_k(bed: Bed, block: int) -> str:
    node = bed.node(f"blocks.{block}.attn.qkv/MatMul")
    q, k, v = np.split(bed.read(node.input[1]), 3, axis=1)
    bed.replace(node, 1, np.concatenate([k, q, v], axis=1))
    return node.name


def scale_bias(bed: Bed, block: int) -> str:
    node = bed.node(f"blocks.{block}.mlp.fc1/Add")
    bed.replace(node, 1, 1.5 * bed.read(node.input[1]))
    return node.name


def shift_rotary(bed: Bed, block: int) -> str:
    """The sines of the token beside."""
    node = bed.node(f"blocks.{block}.attn.rotary/Mul_1")
    bed.replace(node, 1, np.roll(bed.read(node.input[1]), 1, axis=0))
    return node.name


def change_epsilon(bed: Bed, block: int) -> str:
    node = bed.node(f"blocks.{block}.norm2/LayerNormalization")
    next(entry for entry in node.attribute if entry.name == "epsilon").f = 1e-3
    return node.name


def turn_heads(bed: Bed, block: int) -> str:
    """The output projection reads the heads in another order."""
    node = bed.node(f"blocks.{block}.attn.proj/MatMul")
    weight = bed.read(node.input[1])
    heads = weight.reshape(bed.heads, -1, weight.shape[1])[::-1]
    bed.replace(node, 1, heads.reshape(weight.shape))
    return node.name


def cast_residual(bed: Bed, block: int) -> str:
    """The stream behind a block in bfloat16, and back."""
    add = bed.node(f"blocks.{block}/Add_1")
    value, name = add.output[0], f"blocks.{block}/Cast_planted"
    down = helper.make_node("Cast", [value], [f"{value}_low"], name=name, to=TensorProto.BFLOAT16)
    up = helper.make_node("Cast", [f"{value}_low"], [f"{value}_back"], name=f"{name}_back", to=TensorProto.FLOAT)
    nodes = list(bed.graph.graph.node)
    at = nodes.index(add) + 1
    for node in nodes[at:]:
        for index, operand in enumerate(node.input):
            if operand == value:
                node.input[index] = up.output[0]
    del bed.graph.graph.node[:]
    bed.graph.graph.node.extend([*nodes[:at], down, up, *nodes[at:]])
    return name


PLANTINGS: dict[str, Callable[[Bed, int], str]] = {
    "q and k swapped": swap_q_and_k,
    "a bias scaled": scale_bias,
    "a rotary table of the next token": shift_rotary,
    "an epsilon": change_epsilon,
    "heads in another order": turn_heads,
    "a cast in the residual stream": cast_residual,
}
