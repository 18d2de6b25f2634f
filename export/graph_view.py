"""What does a rule want to know of a graph: who makes and who uses a value, its type and its rank.

Values are found by name, as ONNX has it. Types are words: float32, float16, bfloat16, int8, uint8, int64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper

from vjepa2.errors import LintError

MICROSOFT = "com.microsoft"
FUSED_ATTENTION = f"{MICROSOFT}.MultiHeadAttention"
_WORDS = {"float": "float32", "double": "float64"}
# attributes of Constant beside `value`
_NUMBERS = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}


def operator_of(node: NodeProto) -> str:
    """An operator's name with its domain before it, but for ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def type_word(number: int) -> str:
    """What a type is called here."""
    word = str(TensorProto.DataType.Name(number)).lower()
    return _WORDS.get(word, word)


@dataclass(frozen=True)
class GraphView:
    """A graph to be asked; `folder` is where its external data lies, None where it has none."""

    model: onnx.ModelProto
    folder: Path | None
    islands: frozenset[str] = frozenset()  # nodes that were asked to be float32, whatever the precision

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """Every node of the graph, in order."""
        return list(self.model.graph.node)

    @cached_property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 if none is imported."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """Value -> the node that makes it."""
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def users(self) -> dict[str, list[NodeProto]]:
        """Value -> the nodes that take it."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input) - {""}:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def tensors(self) -> dict[str, TensorProto]:
        """Every constant by its name."""
        made = {
            node.output[0]: _tensor_of(attribute)
            for node in self.nodes
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value" or attribute.name in _NUMBERS
        }
        return {tensor.name: tensor for tensor in self.model.graph.initializer} | made

    @cached_property
    def types(self) -> dict[str, str]:
        """Value -> type, where it is known."""
        return {name: type_word(info.type.tensor_type.elem_type) for name, info in self._infos.items()} | {
            name: type_word(tensor.data_type) for name, tensor in self.tensors.items()
        }

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Value -> number of axes, where it is known."""
        return {
            name: len(info.type.tensor_type.shape.dim)
            for name, info in self._infos.items()
            if info.type.tensor_type.HasField("shape")
        } | {name: len(tensor.dims) for name, tensor in self.tensors.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Value -> its shape, where it is known; 0 is an axis of any size."""
        return {
            name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            for name, info in self._infos.items()
            if info.type.tensor_type.HasField("shape")
        } | {name: tuple(tensor.dims) for name, tensor in self.tensors.items()}

    @cached_property
    def _infos(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            graph = onnx.shape_inference.infer_shapes(self.light_model()).graph
        except onnx.shape_inference.InferenceError as error:
            raise LintError(f"ONNX's shape inference refuses the graph: {str(error).splitlines()[0]}") from error
        return {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}

    def light_model(self) -> onnx.ModelProto:
        """The graph as ONNX's own tools can judge it alone.

        Weights in other files stand in as inputs, and a fused attention as what keeps type and shape of its queries.
        """
        light = onnx.ModelProto()
        light.CopyFrom(self.model)
        outside = [tensor for tensor in light.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
        for tensor in outside:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            light.graph.initializer.remove(tensor)
        for node in light.graph.node:
            if operator_of(node) == FUSED_ATTENTION:
                node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name))
        return light

    def find_cycle(self) -> list[NodeProto]:
        """Nodes each of which needs what another of them makes; none in a graph that can be computed."""
        places = {name: place for place, node in enumerate(self.nodes) for name in node.output if name}
        needs = {
            place: {places[name] for name in node.input if name in places} for place, node in enumerate(self.nodes)
        }
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            return [self.nodes[place] for place in error.args[1][1:]]  # whose last is its first
        return []

    def climb(self, name: str, through: frozenset[str]) -> Iterator[NodeProto]:
        """The nodes that `name` comes from, along what is computed, up to and with the first that is not of `through`.

        Each is met once, as in every walk here, so that a walk in a cycle ends.
        """
        seen = set[str]()
        while name not in seen and (node := self.makers.get(name)) is not None:
            seen.add(name)
            yield node
            if operator_of(node) not in through:
                return
            name = next((each for each in node.input if each and each not in self.tensors), "")

    def reach(self, name: str, through: Callable[[NodeProto], bool]) -> list[NodeProto]:
        """Every node that `name` comes from, along all inputs, up to and with those that are not to be gone through."""
        found, seen, todo = list[NodeProto](), set[str](), [name]
        while todo:
            name = todo.pop()
            if name in seen or (node := self.makers.get(name)) is None:
                continue
            seen.add(name)
            found.append(node)
            if through(node):
                todo.extend(reversed(node.input))
        return found

    def path_to(self, wanted: str, name: str, through: frozenset[str]) -> list[NodeProto]:
        """The nodes from the one that makes `name` up to the first `wanted` one behind others of `through`; or none."""
        seen, todo = set[str](), [(name, list[NodeProto]())]
        while todo:
            name, passed = todo.pop()
            if name in seen or (node := self.makers.get(name)) is None:
                continue
            seen.add(name)
            if operator_of(node) == wanted:
                return [*passed, node]
            if operator_of(node) in through:
                todo.extend((each, [*passed, node]) for each in reversed(node.input))
        return []


def _tensor_of(attribute: AttributeProto) -> TensorProto:
    kind = _NUMBERS.get(attribute.name)
    if kind is None:
        return attribute.t
    values = helper.get_attribute_value(attribute)
    is_one = not attribute.name.endswith("s")
    return helper.make_tensor("", kind, [] if is_one else [len(values)], [values] if is_one else values)
