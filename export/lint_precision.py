"""Is a graph of the precision that was asked for?

A rule yields the name of a node, or `graph`, and why it is wrong. A graph of types is built as it is typed: fp16 that
was asked for and not written is a slow engine that nobody notices.
"""

from collections.abc import Iterator, Mapping

from onnx import NodeProto

from vjepa2.manifest import Precision

from .graph_view import GraphView, operator_of
from .lint_attention import find_attention
from .lint_quantization import LINEARS, find_restoring
from .targets import Target

Found = Iterator[tuple[str, str]]  # node, reason
_GRAPH = "graph"
# what multiplies matrices has one of these in its name, whatever its domain: QLinearMatMul, FusedGemm, ConvInteger
_MULTIPLIES = ("MatMul", "Gemm", "Conv", "Einsum", "Attention")
_TYPES: Mapping[Precision, tuple[str, ...]] = {
    "fp32": ("float32",),
    "fp16": ("float16",),
    "bf16": ("bfloat16",),
    "int8": ("float16", "bfloat16"),
    "fp8": ("float16", "bfloat16"),
}
_STORED: Mapping[Precision, str] = {"int8": "int8", "fp8": "float8e4m3fn"}  # how a linear's operands are quantised
# weights and tables by a part of their names: what precision leaves in float32 beside 16 bits, and the linear
# layers that it leaves out of 8 bits
STAYS_FLOAT32 = ("patch_embed", "mean_1N")
STAYS_WIDE = (*STAYS_FLOAT32, "action_encoder", "state_encoder", "query_tokens")


def matmul_types(view: GraphView) -> dict[str, int]:
    """How many MatMuls there are of each type."""
    counts: dict[str, int] = {}
    for node in _matmuls(view):
        kind = view.types.get(node.input[0], "unknown")
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _matmuls(view: GraphView) -> list[NodeProto]:
    return [node for node in view.nodes if any(word in node.op_type for word in _MULTIPLIES)]


def matmuls_are_as_asked(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every MatMul, and whatever else multiplies matrices, is of the type that the precision means."""
    if precision is None:
        return
    taken = set(_TYPES[precision])
    if precision in _STORED and target.float16_as_float32:
        taken.add("float32")  # which is what 16 bits are there
    wrong: dict[str, list[str]] = {}
    for node in _matmuls(view):
        stored = {kind for kind in _operands(view, node) if kind is not None}
        if precision in _STORED and stored:
            continue  # judged below by its 8-bit operands, whatever the type that DequantizeLinear gives them
        names = node.input if node.op_type == "Einsum" else node.input[:2]
        kinds = stored or {view.types.get(name, "unknown") for name in names} - taken
        if kinds and not _reads(view, node, STAYS_FLOAT32) and node.name not in view.islands:
            wrong.setdefault(sorted(kinds)[0], []).append(node.name)
    for kind, names in wrong.items():
        yield names[0], f"{precision} was asked for, and {len(names)} MatMuls are {kind}, this the first of them"


def layer_norms_are_float32(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every LayerNormalization computes in float32: in 16 bits its inside overflows on trained weights."""
    if precision is None:
        return
    for node in (node for node in view.nodes if node.op_type == "LayerNormalization"):
        kind = view.types.get(node.input[0])
        if kind != "float32":
            yield node.name, f"it computes in {kind}; cast to float32 before it and back behind it"


def islands_are_float32(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every node that was asked to be an island computes in float32."""
    for node in (node for node in view.nodes if node.name in view.islands):
        kinds = {view.types.get(name, "unknown") for name in (*node.input, *node.output) if name}
        if kinds & {"float16", "bfloat16"}:
            yield node.name, f"it is an island and computes in {', '.join(sorted(kinds))}; it must be float32"


def linears_are_quantized(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every linear layer is a MatMul, Gemm or Conv whose operands both come from 8 bits of the right type."""
    stored = _STORED.get(precision) if precision is not None else None
    if stored is None:
        return
    inside = {node.name for one in find_attention(view) for node in (one.scores, one.mixed) if node is not None}
    plain = [
        node.name
        for node in _matmuls(view)
        if "Attention" not in node.op_type
        and node.name not in inside
        and not _reads(view, node, STAYS_WIDE)
        and (operator_of(node) not in LINEARS or _operands(view, node) != {stored})
    ]
    if plain:
        yield plain[0], f"{precision} was asked for, and {len(plain)} linear layers are not {stored}, this the first"


def _reads(view: GraphView, node: NodeProto, parts: tuple[str, ...]) -> bool:
    """Whether a node reads a constant, cast or not, with one of `parts` in its name."""
    casts = [maker for name in node.input if (maker := view.makers.get(name)) is not None and maker.op_type == "Cast"]
    names = [*node.input, *(maker.input[0] for maker in casts)]
    return any(part in name for name in names if name in view.tensors for part in parts)


def _operands(view: GraphView, node: NodeProto) -> set[str | None]:
    return {_stored_type(view, name) for name in node.input[:2]}


def _stored_type(view: GraphView, name: str) -> str | None:
    """The type that a value was quantised to; None if it was not."""
    restoring, _ = find_restoring(view, name)
    return None if restoring is None else view.types.get(restoring.input[0])


RULES = (
    matmuls_are_as_asked,
    layer_norms_are_float32,
    islands_are_float32,
    linears_are_quantized,
)
