"""How does TensorRT's parser read a graph: every error told, every unknown node, and its islands of float32 held?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorrt as trt

from vjepa2.engine_manifest import ShapeRange
from vjepa2.errors import CompileError
from vjepa2.manifest import Precision

from .tensorrt_features import Features
from .tensorrt_log import LOGGER, BuildLog

_QUANTISED = ("QUANTIZE", "DEQUANTIZE")
# precision -> the layers that a graph of it has, and what they make
_SIGNS: dict[Precision, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fp32": ((), ()),
    "fp16": (("CAST",), ("HALF",)),
    "bf16": (("CAST",), ("BF16",)),
    "int8": (("QUANTIZE",), ()),
    "fp8": (("QUANTIZE",), ()),
}


def _make_network(builder: Any, features: Features) -> Any:
    members = trt.NetworkDefinitionCreationFlag.__members__
    return builder.create_network(sum(1 << int(members[name]) for name in features.network_flags))


def parse_graph(builder: Any, graph: Path, features: Features, log: BuildLog) -> tuple[Any, Any]:
    """The network, and the parser that must live as long as it; `CompileError` says which nodes are not taken.

    The pre-check is asked for them only once parsing failed: it reads the whole graph as well, and holds Python's lock
    meanwhile, which parsing does not.
    """
    network = _make_network(builder, features)
    parser = trt.OnnxParser(network, LOGGER)
    # a relative path would make it look for the weights in the working folder
    if parser.parse_from_file(str(graph.absolute())):
        return network, parser
    reasons = _describe_errors(parser, features)
    del parser, network  # half a network, before there is another
    reasons += [reason for reason in _ask_precheck(builder, graph, features) if reason not in reasons]
    text = "; ".join(reasons) or "it gives no reason"
    raise CompileError(log.explain(f"TensorRT {features.version.name} does not take {graph.name} ({text})"))


def _ask_precheck(builder: Any, graph: Path, features: Features) -> list[str]:
    """What the parser says of every node, where parsing may end at the first that it does not know."""
    if features.precheck == "none":
        return []
    network = _make_network(builder, features)  # held by this name alone: the parser does not keep it alive
    parser = trt.OnnxParser(network, LOGGER)
    answer = getattr(parser, features.precheck)(graph.read_bytes(), str(graph.absolute()))
    if features.precheck == "supports_model_v2":
        parts = [(parser.get_subgraph_nodes(i), parser.is_subgraph_supported(i)) for i in range(parser.num_subgraphs)]
    else:
        _, parts = answer
    unknown = [node for nodes, is_known in parts if not is_known for node in nodes]
    return _describe_errors(parser, features) + ([f"nodes {unknown} are not known"] if unknown else [])


def _describe_errors(parser: Any, features: Features) -> list[str]:
    """Every error of a parser: which node, what kind of error, its text."""

    def describe(error: Any) -> str:
        if features.node_names:
            place = f"node {error.node_name()} {error.node_operator()}" if error.node_name() else "the graph"
        else:
            place = f"node {error.node()}"
        return f"{place}: {error.code().name}: {error.desc()}"

    return [describe(parser.get_error(index)) for index in range(parser.num_errors)]


def check_inputs(network: Any, profile: Mapping[str, ShapeRange]) -> None:
    """Raise `CompileError` unless the parsed network takes what the bundle's manifest says."""
    found = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    fits = set(found) == set(profile) and all(
        len(shape) == len(profile[name].most)
        and all(side in (-1, most) for side, most in zip(shape, profile[name].most, strict=True))
        for name, shape in found.items()
    )
    if not fits:
        wanted = {name: shapes.most for name, shapes in profile.items()}
        raise CompileError(f"the parser sees inputs {found}; the bundle's manifest says {wanted}: export it again")


def check_precision(network: Any, precision: Precision) -> None:
    """Raise `CompileError` if a bundle of less than float32 shows nothing of it in its graph."""
    kinds, targets = _SIGNS[precision]
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type.name in kinds and (not targets or _cast_target(layer).name in targets):
            return
    if kinds:
        raise CompileError(
            f"the bundle says {precision} and its graph has no {' or '.join(kinds)} to {' or '.join(targets) or 'it'}; "
            "its engine would compute in float32: export it again"
        )


def pin_islands(network: Any) -> None:
    """Where types are hints, hold every layer between a Cast to float32 and the next Cast to float32.

    The type runs along a layer's first input that has one, from one Cast to the next, as in the graph. What is
    quantised has none, nor has what is made of it alone, until the next Cast or the next sum with something that has
    one: a MatMul held to float32 would be computed in it, whatever its inputs were rounded to.
    """
    types: dict[str, Any] = {tensor.name: tensor.dtype for tensor in map(network.get_input, range(network.num_inputs))}
    for layer in map(network.get_layer, range(network.num_layers)):
        kind = layer.type.name
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        carried = next((types[tensor.name] for tensor in inputs if tensor is not None and tensor.name in types), None)
        if kind in ("CONSTANT", *_QUANTISED) or (carried is None and kind != "CAST"):
            continue
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        if kind == "CAST":
            carried = _cast_target(layer)
        elif kind == "SHAPE":
            carried = trt.DataType.INT32
        elif carried == trt.DataType.FLOAT:
            _pin(layer)
        types.update({tensor.name: carried for tensor in outputs})


def _cast_target(layer: Any) -> Any:
    layer.__class__ = trt.ICastLayer  # a network gives every layer as its base class
    return layer.to_type


def _pin(layer: Any) -> None:
    layer.precision = trt.DataType.FLOAT
    for index in range(layer.num_outputs):
        layer.set_output_type(index, trt.DataType.FLOAT)
