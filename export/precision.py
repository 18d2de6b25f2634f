"""Which type does every result of a graph have: 16-bit MatMuls between float32 islands, by explicit casts.

A strongly typed TensorRT computes what the graph says and nothing else, so the graph says it: a weight's type is that
of its tensor, and a Cast stands wherever a value changes type. A result is float32 if a rule below says so, 16-bit if
it is a MatMul's or a Softmax's; one that only moves numbers has its readers' type where they agree, else its writer's.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vjepa2.errors import ExportError
from vjepa2.manifest import Precision

Width = Literal["fp32", "16"]
# attention beside 8-bit layers is fp16: every GPU with a fused kernel has that one
_HALF = {name: TensorProto.FLOAT16 for name in ("fp16", "int8", "fp8")} | {"bf16": TensorProto.BFLOAT16}
_TORCH: dict[int, torch.dtype] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
_FP16_MAX = 65504.0

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
_UNSEEN = "mask_11MM"  # numbers below every score: the lowest of the type does as well


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """A graph whose results have types, and the type that each of its tensors in the file of weights must have."""

    graph: onnx.ModelProto
    dtypes: dict[str, torch.dtype]


def type_graph(
    lowered: onnx.ModelProto, precision: Precision, eight_bit_weights: frozenset[str] = frozenset()
) -> TypedGraph:
    """`lowered` with the types of `precision`.

    MatMuls that read one of `eight_bit_weights` are float32, for Q and DQ to stand around them; then the tensors in the
    file keep their type too, since another graph may read them as they are.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(lowered)
    if precision == "fp32":
        return TypedGraph(graph, {})
    facts = _Facts(graph.graph, eight_bit_weights)
    widths = _choose_widths(facts)
    half = _HALF[precision]
    writer = _Writer(facts, widths, half)
    nodes = list(writer.rewrite())
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    dtypes = {name: _TORCH[half] for name in writer.halved}
    return TypedGraph(graph, dtypes)


class _Facts:
    """Who makes and reads each value, and which are float."""

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


_MOVES = ("Reshape", "Gather", "Unsqueeze", "Squeeze", "Expand", "Transpose")


def _gives_float(node: onnx.NodeProto, floats: set[str]) -> bool:
    if node.op_type == "Cast":
        return any(entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute)
    return node.op_type != "Shape" and node.input[0] in floats


def _choose_widths(facts: _Facts) -> dict[str, Width]:
    """The width of every node that gives floats, by its name."""
    nodes = [node for node in facts.graph.node if node.output[0] in facts.floats]
    widths: dict[str, Width] = {node.name: width for node in nodes if (width := _anchor(node, facts))}
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


def _anchor(node: onnx.NodeProto, facts: _Facts) -> Width | None:
    """The width that a rule gives to a node, whatever stands around it."""
    tables = facts.tables(node)
    reads_island = any(name.startswith(tuple(FP32_TENSORS)) for name in tables)
    if node.op_type == "LayerNormalization" or (reads_island and node.op_type in ("MatMul", "Mul", "Add")):
        return "fp32"
    if node.op_type == "MatMul":
        return "fp32" if facts.eight_bit_weights.intersection(tables) else "16"
    if node.op_type == "Add" and _is_residual(node, facts):
        return "fp32"
    return "16" if node.op_type == "Softmax" else None


def _is_residual(add: onnx.NodeProto, facts: _Facts) -> bool:
    """Whether an Add sums two computed values, or one and a table of tokens; a bias or a mask of scores is neither."""
    if len(facts.computed(add)) > 1:
        return True
    ranks = [len(facts.constants[name].dims) for name in add.input if name in facts.constants]
    return max(ranks) > 1 and any(reader.op_type != "Softmax" for reader in facts.readers[add.output[0]])


def _gelu_of(erf: onnx.NodeProto, facts: _Facts) -> list[str]:
    """The five nodes of x * 0.5 * (1 + erf(x / sqrt 2))."""
    chain = [facts.makers[erf.input[0]], erf]
    for _ in range(3):
        chain.extend(facts.readers[chain[-1].output[0]])
    names = [node.name for node in chain]
    if [node.op_type for node in chain] != ["Div", "Erf", "Add", "Mul", "Mul"]:
        raise ExportError(f"{erf.name} stands among {names}; GELU is Div, Erf, Add, Mul, Mul: mend `_gelu_of`")
    return names


def _agreed(node: onnx.NodeProto, facts: _Facts, widths: Mapping[str, Width]) -> Width | None:
    """The width that all readers have; outputs of the graph are float32."""
    wanted = {widths.get(reader.name) for name in node.output for reader in facts.readers[name]}
    if facts.outputs.intersection(node.output):
        wanted.add("fp32")
    return wanted.pop() if len(wanted) == 1 else None


class _Writer:
    """Writes the nodes again, with a Cast wherever an operand has another type than its reader."""

    def __init__(self, facts: _Facts, widths: Mapping[str, Width], half: int) -> None:
        self.facts, self.widths, self.half = facts, widths, half
        wanted: dict[str, set[Width]] = defaultdict(set)
        for node in facts.graph.node:
            for name in node.input:
                if name in facts.constants and name in facts.floats:
                    wanted[name].add(widths.get(node.name, "fp32"))
        constants = [name for name, found in wanted.items() if found == {"16"}]
        if facts.eight_bit_weights:
            constants = [name for name in constants if not _is_external(facts.constants[name])]
        self.halved = [name for name in constants if _is_external(facts.constants[name])]
        self._widths: dict[str, Width] = dict.fromkeys(constants, "16")  # of values
        self._casts: dict[tuple[str, Width], str] = {}
        for name in constants:
            _halve_constant(facts.constants[name], half)

    def rewrite(self) -> Iterator[onnx.NodeProto]:
        """Every node in its order, casts before those that need them, outputs float32."""
        for node in self.facts.graph.node:
            width = self.widths.get(node.name)
            if width is None:
                yield node
                continue
            if node.op_type == "Cast":  # from pixels
                next(entry for entry in node.attribute if entry.name == "to").i = self._type(width)
            else:
                for index, name in enumerate(node.input):
                    if name in self.facts.floats and self._widths.get(name, "fp32") != width:
                        if (name, width) not in self._casts:
                            yield self._cast(name, width)
                        node.input[index] = self._casts[name, width]
            self._widths |= dict.fromkeys(node.output, width)
            yield node
        yield from self._finish()

    def _cast(self, name: str, width: Width) -> onnx.NodeProto:
        result = f"{name}_{'fp32' if width == 'fp32' else 'half'}"
        self._casts[name, width] = result
        return helper.make_node("Cast", [name], [result], name=f"{result}/Cast", to=self._type(width))

    def _type(self, width: Width) -> int:
        return int(TensorProto.FLOAT if width == "fp32" else self.half)

    def _finish(self) -> Iterator[onnx.NodeProto]:
        """Outputs are float32, and what is said of a value's type is true."""
        for name in sorted(self.facts.outputs):
            if self._widths.get(name) == "16":
                inner = f"{name}_half"
                for node in (self.facts.makers[name], *self.facts.readers[name]):
                    _rename(node, name, inner)
                yield helper.make_node("Cast", [inner], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)
        for info in self.facts.graph.value_info:
            if self._widths.get(info.name) == "16":
                info.type.tensor_type.elem_type = self.half


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _halve_constant(tensor: onnx.TensorProto, half: int) -> None:
    if _is_external(tensor):
        tensor.data_type = half  # its place and length are set when the file is laid out
        return
    values = halve_tensor(tensor.name, torch.from_numpy(numpy_helper.to_array(tensor).copy()), _TORCH[half])
    data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    tensor.CopyFrom(helper.make_tensor(tensor.name, half, list(tensor.dims), data, raw=True))


def halve_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in 16 bits; `ExportError` if that makes an infinity of a weight."""
    if dtype == torch.float16:
        if name.endswith(_UNSEEN):
            tensor = tensor.clamp(min=-_FP16_MAX)
        most = float(tensor.abs().max())
        if most > _FP16_MAX:
            raise ExportError(f"{name} holds {most:g}, and fp16 ends at {_FP16_MAX:g}; export with --precision bf16")
    return tensor.to(dtype)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)
