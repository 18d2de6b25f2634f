"""Which nodes of a graph round what they compute, and which only hand on what others rounded?"""

import re
from collections import defaultdict

import onnx
from onnx import TensorProto

from .graph_view import GraphView

_MOVES = {
    "Concat", "Expand", "Gather", "GatherElements", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_HALVES = ("float16", "bfloat16")


def find_free(graph: onnx.GraphProto) -> frozenset[str]:
    """The nodes that lose nothing of their own: those that move numbers, and casts that another node rounds for.

    A cast to float32 takes what its maker rounded; one to 16 bits is for readers that take 16 bits anyway. One to 16
    bits that is cast back, or leaves the graph, loses bits that nothing else does, and is none of these.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in graph.output}
    free = set()
    for node in graph.node:
        if node.op_type == "Cast":
            to = next(entry.i for entry in node.attribute if entry.name == "to")
            followed = any(reader.op_type == "Cast" for reader in readers[node.output[0]])
            if to != TensorProto.FLOAT and (followed or node.output[0] in outputs):
                continue
        elif node.op_type not in _MOVES:
            continue
        free.add(node.name)
    return frozenset(free)


def find_rounding(view: GraphView, *, naive: bool) -> list[onnx.NodeProto]:
    """The nodes that round to 16 bits, in order: by their types, or if `naive` every one that computes floats."""
    kinds = (*_HALVES, "float32") if naive else _HALVES
    free = find_free(view.model.graph)
    return [node for node in view.nodes if view.types.get(node.output[0]) in kinds and node.name not in free]


def role_of(name: str) -> str:
    """What a node does in every block that has one: its name without numbers of blocks."""
    return re.sub(r"\.\d+", ".*", name)
