"""What does a rule want to know of a graph: who makes and who uses a value, its type and its rank.

Values are found by name, as ONNX has it. Types are words: float32, float16, bfloat16, int8, uint8, int64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vjepa2.errors import LintError

MICROSOFT = "com.microsoft"
FUSED_ATTENTION = f"{MICROSOFT}.MultiHeadAttention"
_WORDS = {"float": "float32", "double": "float64"}


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
            node.output[0]: attribute.t
            for node in self.nodes
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
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

    def climb(self, name: str, through: frozenset[str]) -> Iterator[NodeProto]:
        """The nodes that `name` comes from, along first inputs, up to and with the first that is not of `through`."""
        while (node := self.makers.get(name)) is not None:
            yield node
            if operator_of(node) not in through:
                return
            name = node.input[0]

    def is_scalar(self, name: str) -> bool:
        """Whether a value is a constant of one number."""
        return name in self.tensors and int(np.prod(self.tensors[name].dims)) == 1

    def read(self, name: str) -> npt.NDArray[np.generic] | None:
        """A constant's numbers; None if it is no constant of the graph or lies outside it."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        array: npt.NDArray[np.generic] = numpy_helper.to_array(tensor)
        return array
