"""Where in a graph is it worth looking: what each LayerNorm reads and gives, by block, and what it is in another graph.

A pre-norm block reads the residual stream through LayerNorms alone, so these values are its tokens.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import onnx

from vjepa2.errors import ExportError

from .graph_view import GraphView

_BLOCK = re.compile(r"(.*?(?:\.\d+|_block))(?:[./]|$)")
_NORM = "LayerNormalization"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A value of a graph, and the node that makes it."""

    value: str
    operator: str
    block: str


@dataclass(frozen=True)
class Blocks:
    """A graph's nodes by the part of the model that they are named after: `blocks.3`, `patch_embed.proj`, `norm`."""

    view: GraphView

    @cached_property
    def of_node(self) -> dict[str, str]:
        """Node -> block. A cast, or a node that was named after nothing, belongs to what made its operand."""
        found: dict[str, str] = {}
        for node in self.view.nodes:
            path = node.name.rpartition("/")[0]
            makers = [self.view.makers[name].name for name in node.input if name in self.view.makers]
            match = _BLOCK.match(path)
            if makers and (node.op_type == "Cast" or not path):
                found[node.name] = found[makers[0]]
            else:
                found[node.name] = match[1] if match else path or node.name
        if len(found) < len(self.view.nodes):
            raise ExportError("nodes of the graph share names; give a graph that vjepa2 export wrote")
        return found

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """What every LayerNorm reads and gives, and the graph's outputs, in the order in which they are made."""
        wanted = {name for node in self.view.nodes if node.op_type == _NORM for name in (node.input[0], node.output[0])}
        wanted |= {value.name for value in self.view.model.graph.output}
        found = [self.describe(name) for node in self.view.nodes for name in node.output if name in wanted]
        if not any(self.view.makers[point.value].op_type == _NORM for point in found):
            raise ExportError(f"the graph has no {_NORM}, and so no blocks to look into; export it again")
        return found

    def describe(self, value: str) -> Checkpoint:
        """Who makes a value, and in which block."""
        maker = self.view.makers[value]
        return Checkpoint(value, maker.name, self.of_node[maker.name])

    def between(self, kept: Collection[str], lost: str) -> list[Checkpoint]:
        """Every value between `lost` and the nearest of `kept` before it, in order, `lost` with them."""
        found, open_values = set(), [lost]
        while open_values:
            value = open_values.pop()
            if value in self.view.makers and value not in kept and value not in found:
                found.add(value)
                open_values.extend(self.view.makers[value].input)
        return [self.describe(name) for node in self.view.nodes for name in node.output if name in found]


def norm_before(view: GraphView, value: str) -> onnx.NodeProto | None:
    """The LayerNorm that gives a value."""
    maker = view.makers.get(value)
    return maker if maker is not None and maker.op_type == _NORM else None


def norm_behind(view: GraphView, value: str) -> onnx.NodeProto | None:
    """The first LayerNorm that reads a value as its tokens."""
    return next((node for node in view.users.get(value, []) if node.op_type == _NORM and node.input[0] == value), None)


def match_values(candidate: GraphView, reference: GraphView) -> dict[str, str]:
    """Candidate's value -> the reference's: of the node of that name, of that name itself, or what a Cast was given."""
    named = {node.name: node for node in reference.nodes}
    found: dict[str, str] = {}
    for node in candidate.nodes:
        twin = named.get(node.name)
        for index, name in enumerate(node.output):
            if twin is not None and index < len(twin.output):
                found[name] = twin.output[index]
            elif name in reference.makers:
                found[name] = name
            elif node.op_type == "Cast" and node.input[0] in found:
                found[name] = found[node.input[0]]
    return found
