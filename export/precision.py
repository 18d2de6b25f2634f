"""Which type does every result of a graph have: 16-bit MatMuls between float32 islands, by explicit casts.

A strongly typed TensorRT computes what the graph says and nothing else, so the graph says it: a weight's type is that
of its tensor, and a Cast stands wherever a value changes type. A result is float32 if a rule below says so, 16-bit if
it is a MatMul's or a Softmax's that is no island; any other, as of what moves numbers or adds a bias, has
its readers' type where they agree, else its operands'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto

from vjepa2.errors import ExportError
from vjepa2.manifest import Precision

from .casts import TORCH, CastWriter, Width
from .island_sets import choose_islands
from .value_facts import ValueFacts

# attention beside 8-bit layers is fp16: every GPU with a fused kernel has that one
_HALF = {name: TensorProto.FLOAT16 for name in ("fp16", "int8", "fp8")} | {"bf16": TensorProto.BFLOAT16}

# What stays float32 in a 16-bit graph, and why: names of tensors and what reads them, then operators.
FP32_TENSORS = {
    "patch_embed": "pixels have a mean of twice their deviation: what rounding makes of it is the same in every token, "
    "and the embedding, a mean of tokens, keeps it (0.4 % of the FLOPs)",
    "rotary.": "angles of two bytes forget places; what is turned is cast once before, and once after it",
    "mean_1N": "the embedding is the mean of thousands of float32 tokens, and costs nothing",
    "added.table_ND": "is added to the residual stream",
}
FP32_OPERATORS = {
    "LayerNormalization": "squares of activations over 255 are beyond 16 bits",
    "residual": "a sum of two computed values: errors of all blocks would add up, and thousands swallow units",
    "Erf": "1 + erf(x) cancels for negative x: GELU is float32 from the linear layer's result to its last product",
}


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """A graph whose results have types, and the type that each of its tensors in the file of weights must have."""

    graph: onnx.ModelProto
    dtypes: dict[str, torch.dtype]
    islands: tuple[str, ...] = ()  # nodes that are float32 because they were asked to be


def type_graph(
    lowered: onnx.ModelProto,
    precision: Precision,
    eight_bit_weights: frozenset[str] = frozenset(),
    islands: Sequence[str] = (),
) -> TypedGraph:
    """`lowered` with the types of `precision`; of a 16-bit one the nodes that `islands` names are float32, too.

    MatMuls that read one of `eight_bit_weights` are float32, for Q and DQ to stand around them; then the tensors in the
    file keep their type too, since another graph may read them as they are.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(lowered)
    if precision == "fp32":
        return TypedGraph(graph, {})
    facts = ValueFacts(graph.graph, eight_bit_weights)
    wide = choose_islands(islands, (node.name for node in graph.graph.node if node.output[0] in facts.floats))
    widths = _choose_widths(facts, frozenset(wide))
    half = _HALF[precision]
    writer = CastWriter(facts, widths, half)
    nodes = list(writer.rewrite())
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    dtypes = {name: TORCH[half] for name in writer.halved}
    return TypedGraph(graph, dtypes, wide)


def _choose_widths(facts: ValueFacts, islands: frozenset[str]) -> dict[str, Width]:
    """The width of every node that gives floats, by its name."""
    nodes = [node for node in facts.graph.node if node.output[0] in facts.floats]
    widths: dict[str, Width] = {node.name: width for node in nodes if (width := _anchor(node, facts))}
    widths |= dict.fromkeys(islands, "fp32")
    for node in nodes:
        if node.op_type == "Erf":
            widths |= dict.fromkeys(_gelu_of(node, facts), "fp32")
    for node in reversed(nodes):
        if node.name not in widths and (width := _agreed(node, facts, widths)):
            widths[node.name] = width
    for node in nodes:
        if node.name not in widths:
            made = {widths[facts.makers[name].name] for name in facts.computed(node) if name in facts.makers}
            widths[node.name] = "16" if made == {"16"} else "fp32"
    return widths


def _anchor(node: onnx.NodeProto, facts: ValueFacts) -> Width | None:
    """The width that a rule gives to a node, whatever stands around it."""
    tables = facts.tables(node)
    reads_island = any(name.startswith(tuple(FP32_TENSORS)) for name in tables)
    if node.op_type in FP32_OPERATORS or (reads_island and node.op_type in ("MatMul", "Mul", "Add")):
        return "fp32"
    if node.op_type == "MatMul":
        return "fp32" if facts.eight_bit_weights.intersection(tables) else "16"
    if node.op_type == "Add" and _is_residual(node, facts):
        return "fp32"
    return "16" if node.op_type == "Softmax" else None


def _is_residual(add: onnx.NodeProto, facts: ValueFacts) -> bool:
    """Whether an Add sums two computed values, or one and a table of tokens; a bias or a mask of scores is neither."""
    if len(facts.computed(add)) > 1:
        return True
    ranks = [len(facts.constants[name].dims) for name in add.input if name in facts.constants]
    return max(ranks) > 1 and any(reader.op_type != "Softmax" for reader in facts.readers[add.output[0]])


def _gelu_of(erf: onnx.NodeProto, facts: ValueFacts) -> list[str]:
    """The five nodes of x * 0.5 * (1 + erf(x / sqrt 2))."""
    chain = [facts.makers[erf.input[0]], erf]
    for _ in range(3):
        chain.extend(facts.readers[chain[-1].output[0]])
    names = [node.name for node in chain]
    if [node.op_type for node in chain] != ["Div", "Erf", "Add", "Mul", "Mul"]:
        raise ExportError(f"{erf.name} stands among {names}; GELU is Div, Erf, Add, Mul, Mul: mend `_gelu_of`")
    return names


def _agreed(node: onnx.NodeProto, facts: ValueFacts, widths: Mapping[str, Width]) -> Width | None:
    """The width that all readers have; outputs of the graph are float32."""
    wanted = {widths.get(reader.name) for name in node.output for reader in facts.readers[name]}
    if facts.outputs.intersection(node.output):
        wanted.add("fp32")
    return wanted.pop() if len(wanted) == 1 else None
