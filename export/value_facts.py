"""Who makes and who reads each value of a graph, and which values are float?"""

from collections import defaultdict

import onnx
from onnx import TensorProto

_MOVES = ("Reshape", "Gather", "Unsqueeze", "Squeeze", "Expand", "Transpose")


class ValueFacts:
    """A graph's values; `eight_bit_weights` are tensors that 8-bit layers read."""

    def __init__(self, graph: onnx.GraphProto, eight_bit_weights: frozenset[str]) -> None:
        self.graph, self.eight_bit_weights = graph, eight_bit_weights
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.floats = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {name for name, tensor in self.constants.items() if tensor.data_type == TensorProto.FLOAT}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            if _gives_float(node, self.floats):
                self.floats.update(node.output)

    def computed(self, node: onnx.NodeProto) -> list[str]:
        """The float operands of a node that are no constants."""
        return [name for name in node.input if name in self.floats and name not in self.constants]

    def tables(self, node: onnx.NodeProto) -> list[str]:
        """The constants that a node reads, directly or moved about."""
        found, names = [], list(node.input)
        while names:
            name = names.pop()
            if name in self.constants:
                found.append(name)
            elif name in self.makers and self.makers[name].op_type in _MOVES:
                names.append(self.makers[name].input[0])
        return found


def _gives_float(node: onnx.NodeProto, floats: set[str]) -> bool:
    if node.op_type == "Cast":
        return any(entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute)
    return node.op_type != "Shape" and node.input[0] in floats
