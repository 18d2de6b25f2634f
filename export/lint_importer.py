"""Which rules does a target's importer make, and which graphs break them?

A rule yields the name of a node, or `graph`, and why it is wrong.
"""

from collections.abc import Iterator

import onnx

from vjepa2.manifest import Precision

from .graph_view import GraphView, operator_of
from .targets import Target

Found = Iterator[tuple[str, str]]  # node, reason
_GRAPH = "graph"
_DATA_INPUT = {"Where": 1, "Compress": 1}  # where it is not the first input that an operator works on
_FLOATS = ("float32", "float16")
_MAKES_TYPES = ("Cast", "CastLike", "Constant", "ConstantOfShape")  # whose output may be of another type


def graph_is_valid(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """ONNX's checker takes the graph, its type inference every operator's types, and no node needs what it makes."""
    if cycle := view.find_cycle():
        yield cycle[0].name, f"it needs what it makes, in a cycle of length {len(cycle)}; no graph may be cyclic"
        return
    light = view.light_model()
    try:
        onnx.checker.check_model(light)
        onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield _GRAPH, f"ONNX refuses it: {str(error).strip().splitlines()[0]}"


def opset_is_read(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every operator is of a version that the importer knows."""
    if view.opset < target.oldest or (view.opset > target.newest and target.refuses_newer):
        yield _GRAPH, f"its opset is {view.opset}; {target.oldest} to {target.newest} are read"
        return
    for node in view.nodes:
        if operator_of(node) not in target.operators or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type.startswith("Reduce") and not target.reads_axes_inputs:
            continue  # what is new in these is judged by `reduce_axes_are_attributes`
        if not onnx.defs.has(node.op_type, view.opset):
            continue  # which ONNX's checker reports
        version = onnx.defs.get_schema(node.op_type, view.opset, "").since_version
        if version > max(target.newest, target.unchanged.get(node.op_type, 0)):
            yield node.name, f"{node.op_type} is of opset {version}; it is read as it was up to {target.newest}"


def ir_version_is_read(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """The file's own format is not newer than the importer."""
    if view.model.ir_version > target.newest_ir:
        yield _GRAPH, f"its IR version is {view.model.ir_version}; up to {target.newest_ir} is read"


def operators_are_read(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every operator has an importer."""
    for node in view.nodes:
        if operator_of(node) not in target.operators:
            yield node.name, f"there is no importer for {operator_of(node)}"


def types_are_held(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every tensor is of a type that the target has, and none is of a type that cannot be told."""
    for node in view.nodes:
        for name in filter(None, (*node.input, *node.output)):
            kind = view.types.get(name)
            if kind is None and operator_of(node) in target.operators:
                yield node.name, f"the type of {name} cannot be told"
            elif kind is not None and kind not in target.types:
                yield node.name, f"{name} is {kind}, a type that it does not have"


def operators_take_their_types(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every operator is imported for the type that it works on."""
    for node in view.nodes:
        taken = target.operators.get(operator_of(node))
        if taken is None:
            continue
        names = list(node.input[_DATA_INPUT.get(node.op_type, 0) :][:1])
        if node.op_type in _MAKES_TYPES:
            names = [*(names if "Cast" in node.op_type else []), node.output[0]]
        for name in names:
            kind = view.types.get(name)
            if kind in target.types and _as_read(kind, target) not in taken and not _is_widened(kind, taken, target):
                yield node.name, f"{node.op_type} is not imported for {kind} ({name})"


def _as_read(kind: str, target: Target) -> str:
    return "int32" if kind == "int64" and target.int64_as_int32 else kind


def _is_widened(kind: str, taken: frozenset[str], target: Target) -> bool:
    return kind == "float16" and target.float16_as_float32 and "float32" in taken


def has_no_control_flow(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No node holds a graph of its own: If, Loop, Scan and their like."""
    for node in view.nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield node.name, f"{node.op_type} holds a graph of its own; the shape of what it gives is known too late"
    for function in view.model.functions:
        yield _GRAPH, f"it has a function of its own, {function.name}; an importer expands it as it likes"


def uint8_goes_into_a_cast(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Pixels are cast before anything else touches them: nothing but a Cast takes an input of bytes.

    Where quantisation is symmetric, as in TensorRT, no other value is of bytes, but for an output; Casts are to and
    from float32 or float16.
    """
    inputs = {value.name for value in view.model.graph.input}
    outputs = {value.name for value in view.model.graph.output}
    for name in sorted(name for name, kind in view.types.items() if kind == "uint8"):
        for node in view.users.get(name, []):
            if name in inputs and node.op_type != "Cast":
                yield node.name, f"{node.op_type} takes the uint8 input {name}; put a Cast before it"
            elif name in inputs and target.zero_points_are_zero and view.types.get(node.output[0]) not in _FLOATS:
                kind = view.types.get(node.output[0])
                yield node.name, f"it casts the uint8 input {name} to {kind}; it must be float32 or float16"
            elif name not in inputs and target.zero_points_are_zero:
                yield node.name, f"{node.op_type} takes {name}, which is uint8; only an input or an output may be"
        maker = view.makers.get(name)
        if target.zero_points_are_zero and maker is not None and name not in outputs and name not in view.users:
            yield maker.name, f"{name} is uint8 and nobody takes it; only an input or an output may be uint8"


def reduce_axes_are_attributes(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No reduction has its axes as an input, where the importer reads the attribute alone."""
    for node in view.nodes:
        if not target.reads_axes_inputs and node.op_type.startswith("Reduce") and any(node.input[1:]):
            yield node.name, f"the axes of {node.op_type} are an input, {node.input[1]}; only attributes are read"


def ranks_are_within_limit(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No value has more axes than the target can count."""
    for node in view.nodes if target.max_rank is not None else []:
        for name in filter(None, (*node.input, *node.output)):
            rank = view.ranks.get(name)
            if rank is None and operator_of(node) in target.operators:
                yield node.name, f"how many axes {name} has cannot be told; at most {target.max_rank} are possible"
            elif rank is not None and target.max_rank is not None and rank > target.max_rank:
                yield node.name, f"{name} has {rank} axes; at most {target.max_rank} are possible"


def fp8_has_opset_19(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """FP8 is there from opset 19 on."""
    fp8 = sorted(name for name, kind in view.types.items() if kind.startswith("float8"))
    if fp8 and view.opset < 19:
        yield _GRAPH, f"{fp8[0]} is {view.types[fp8[0]]} and the opset is {view.opset}; FP8 came with opset 19"


RULES = (
    graph_is_valid,
    opset_is_read,
    ir_version_is_read,
    operators_are_read,
    types_are_held,
    operators_take_their_types,
    has_no_control_flow,
    uint8_goes_into_a_cast,
    reduce_axes_are_attributes,
    ranks_are_within_limit,
    fp8_has_opset_19,
)
