"""What do the tests of the lint work on: the exported graph, spoilt in one way, and a small one of any precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vjepa2.bundle import WEIGHTS

Spoil = Callable[[onnx.ModelProto, Path], None]  # a graph, and the folder with its weights
SOFTMAX, SCORES, SCALED = "Softmax_weights_BAMN", "MatMul_scores_BAMN", "Mul_scaled_BAMK"


def find(graph: onnx.ModelProto, ending: str) -> NodeProto:
    """The first node whose name ends so."""
    found: NodeProto = next(node for node in graph.graph.node if node.name.endswith(ending))
    return found


def place(graph: onnx.ModelProto, after: NodeProto, *nodes: NodeProto) -> None:
    """Put nodes behind one, where what it makes is known."""
    held = list(graph.graph.node)
    at = held.index(after) + 1
    del graph.graph.node[:]
    graph.graph.node.extend([*held[:at], *nodes, *held[at:]])


def put_between(graph: onnx.ModelProto, ending: str, op: str, *more: str, **attributes: Any) -> NodeProto:
    """Let an operator work on what a node makes, before anybody else sees it; the node is named `spoilt`."""
    maker = find(graph, ending)
    name = maker.output[0]
    for node in graph.graph.node:
        node.input[:] = ["spoilt" if each == name else each for each in node.input]
    made = helper.make_node(op, [name, *more], ["spoilt"], name="spoilt", **attributes)
    place(graph, maker, made)
    return made


def append(
    graph: onnx.ModelProto,
    op: str,
    inputs: list[str],
    shape: list[int],
    kind: int = TensorProto.FLOAT,
    **attributes: Any,
) -> None:
    """Add a node named `spoilt` whose result is one more output of the graph."""
    graph.graph.node.append(helper.make_node(op, inputs, ["spoilt"], name="spoilt", **attributes))
    graph.graph.output.append(helper.make_tensor_value_info("spoilt", kind, shape))


def prepare(graph: onnx.ModelProto, op: str, inputs: list[str], result: str, **attributes: Any) -> None:
    """Add a node at the end for another one behind it."""
    graph.graph.node.append(helper.make_node(op, inputs, [result], name=f"{result}/{op}", **attributes))


def constant(graph: onnx.ModelProto, name: str, values: object, dtype: str = "float32") -> str:
    """Add a constant to the graph itself."""
    graph.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def weights_of(graph: onnx.ModelProto, ending: str = "qkv.weight") -> TensorProto:
    """A tensor in the file of weights."""
    found: TensorProto = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith(ending))
    return found


def set_external(tensor: TensorProto, **facts: object) -> None:
    """Change where a tensor lies; what is None is taken out."""
    held = {entry.key: entry.value for entry in tensor.external_data} | facts
    del tensor.external_data[:]
    for key, value in held.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def link_weights(graph: onnx.ModelProto, folder: Path) -> None:
    """Put a link where the file of weights was."""
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def store_twice(graph: onnx.ModelProto, folder: Path) -> None:
    """Hold the bytes of one matrix a second time, in the graph itself."""
    tensor = weights_of(graph)
    facts = {entry.key: entry.value for entry in tensor.external_data}
    start = int(facts["offset"])
    held = (folder / WEIGHTS).read_bytes()[start : start + int(facts["length"])]
    graph.graph.initializer.append(
        helper.make_tensor("spoilt", TensorProto.FLOAT, list(tensor.dims), held, raw=True),
    )


_HEADS, _TOKENS, _WIDTH = 2, 4, 8  # of the small graph
_ORDERS = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # of the axes of q, k and v


def small_graph(kind: str, stored: str | None = None) -> onnx.ModelProto:
    """LayerNormalization in float32, then three linear layers and attention in `kind`.

    Where linears are quantised to `stored` they are float32 between QuantizeLinear and DequantizeLinear: int8 weights
    have a scale for each column, FP8 weights one.
    """
    number = {"float32": 1, "float16": 10, "bfloat16": 16}[kind]
    graph = _Small(number, {"int8": TensorProto.INT8, "float8e4m3fn": TensorProto.FLOAT8E4M3FN}.get(stored or ""))
    made = graph.add("LayerNormalization", "x", graph.array("gain", np.ones(_WIDTH)), axis=-1)
    q_BANK, k_BAKN, v_BANK = (graph.heads(graph.linear(made), order) for order in _ORDERS)
    scale = graph.array("scale", np.array((_WIDTH / _HEADS) ** -0.5), number)
    scores = graph.add("MatMul", graph.add("Mul", q_BANK, scale, name="scale"), k_BAKN, name="scores")
    weights = graph.add("Softmax", scores, axis=-1, name="softmax")
    mixed = graph.add("MatMul", weights, v_BANK, name="mixed")
    graph.nodes.append(helper.make_node("Cast", [mixed], ["y"], name="last", to=TensorProto.FLOAT))
    values = [
        helper.make_tensor_value_info("x", 1, [1, _TOKENS, _WIDTH]),
        helper.make_tensor_value_info("y", 1, [1, _HEADS, _TOKENS, _WIDTH // _HEADS]),
    ]
    inside = helper.make_graph(graph.nodes, "small", values[:1], values[1:], graph.constants)
    opset = 19 if stored == "float8e4m3fn" else 18
    return helper.make_model(inside, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])


class _Small:
    """Nodes and constants of the small graph, as they are made."""

    def __init__(self, kind: int, stored: int | None) -> None:
        self.kind, self.stored = kind, stored
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def array(self, name: str, values: npt.NDArray[Any], kind: int = TensorProto.FLOAT) -> str:
        name = f"{name}_{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, kind, values.shape, values.ravel()))
        return name

    def cast(self, name: str) -> str:
        return name if self.kind == TensorProto.FLOAT else self.add("Cast", name, to=self.kind)

    def quantize(self, name: str) -> str:
        assert self.stored is not None
        step, zero = self.array("step", np.array(0.5)), self.array("zero", np.array(0), self.stored)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", name, step, zero), step, zero)

    def restore(self, values: npt.NDArray[Any]) -> str:
        """A weight of 8 bits, restored."""
        assert self.stored is not None
        shape = [_WIDTH] if self.stored == TensorProto.INT8 else []
        weight = self.array("weight", values, self.stored)
        step, zero = self.array("step", np.full(shape, 0.5)), self.array("zero", np.zeros(shape), self.stored)
        return self.add("DequantizeLinear", weight, step, zero, axis=1)

    def linear(self, name: str) -> str:
        """The product of a float32 value and a weight, in `kind`."""
        values, title = np.eye(_WIDTH) + len(self.nodes), f"linear_{len(self.nodes)}"
        if self.stored is None:
            return self.add("MatMul", self.cast(name), self.array("weight", values, self.kind), name=title)
        operands = self.quantize(name), self.restore(values)
        return self.cast(self.add("MatMul", *operands, name=title))

    def heads(self, name: str, order: list[int]) -> str:
        shape = self.array("shape", np.array([1, _TOKENS, _HEADS, _WIDTH // _HEADS]), TensorProto.INT64)
        return self.add("Transpose", self.add("Reshape", name, shape), perm=order)
