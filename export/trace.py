"""How does an encoder with a head become one ONNX graph: traced once, with attention left for `lower` to spell out.

Axes: B batch, T frames, H, W pixels.
"""

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from vjepa2.bundle import WEIGHTS
from vjepa2.errors import ExportError
from vjepa2.headed import Headed, count_frames
from vjepa2.manifest import GraphInput, Transform

from .adapters import Adapter, Linear, public_name
from .weights_file import place_tensors

OPSET = 18


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph, the tensors that it names but does not hold, and what became of each parameter of the module."""

    graph: onnx.ModelProto
    tensors: dict[str, Tensor]
    parameters: dict[str, tuple[str, Transform]]  # parameter -> (tensor, what was done to it)


def trace_model(
    model: Headed,
    outputs: tuple[str, ...],
    extras: Mapping[str, Tensor] | None = None,
    *,
    graph_input: GraphInput = "frames",
    batch: int = 1,
) -> Trace:
    """Trace `model` for clips of its shape; `outputs` are the names of what it gives.

    The first input is `frames`, uint8 `[B, T, H, W, 3]`, or `pixel_values_videos`, float32 `[B, T, 3, H, W]`; then
    come `extras`, whose values are examples of `batch` rows. There are as many frames as `count_frames` says.
    """
    adapter = Adapter(model, graph_input).eval()
    clip = replace(model.encoder.clip, frames=count_frames(model), tubelet=1)
    shape, dtype = (
        (clip.frames_shape(batch), torch.uint8) if graph_input == "frames" else (clip.shape(batch), torch.float32)
    )
    examples = {graph_input: torch.zeros(shape, dtype=dtype), **(extras or {})}
    traced = _export(adapter, examples, outputs)
    tensors = _take_tensors(traced, adapter)
    held = {public_name(name): value.detach() for name, value in adapter.named_parameters()}
    tensors |= {name: held[name] for name in sorted(adapter.idle - set(tensors)) if name in held}
    graph = ir.to_proto(traced)
    _name_nodes(graph.graph)
    _strip(graph)
    return Trace(graph, tensors, _locate_parameters(adapter, graph_input, tensors))


def _export(adapter: Adapter, examples: Mapping[str, Tensor], outputs: tuple[str, ...]) -> ir.Model:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision, which nothing here uses, is not installed
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                adapter,
                tuple(examples.values()),
                input_names=list(examples),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    assert program is not None
    return program.model


def _take_tensors(model: ir.Model, adapter: Adapter) -> dict[str, Tensor]:
    """Take the module's tensors out of `model`, which keeps their names, shapes and places in the file of weights."""
    held = dict(adapter.named_parameters()) | dict(adapter.named_buffers())
    taken = {}
    for name, value in list(model.graph.initializers.items()):
        if name in held and held[name].is_floating_point():
            value.name = public_name(name)
            taken[value.name] = held[name].detach()
    places = place_tensors(taken)
    for name, tensor in taken.items():
        value = model.graph.initializers[name]
        assert value.dtype is not None
        value.const_value = ir.ExternalTensor(
            location=WEIGHTS,
            offset=places[name].offset,
            length=places[name].length,
            dtype=value.dtype,
            shape=ir.Shape(tensor.shape),
            name=name,
        )
    return taken


def _locate_parameters(
    adapter: Adapter, graph_input: GraphInput, tensors: dict[str, Tensor]
) -> dict[str, tuple[str, Transform]]:
    """Say of every parameter which tensor holds it; the exporter keeps only one of several equal tensors."""
    located: dict[str, tuple[str, Transform]] = {}
    linears = {name for name, module in adapter.named_modules() if isinstance(module, Linear)}
    for name, parameter in adapter.named_parameters():
        public = public_name(name)
        if name.startswith(f"model.encoder.{adapter.patches}."):
            continue  # `Patches` took its place
        transform: Transform = "none"
        if name.startswith(f"{adapter.patches}.") and graph_input == "frames":
            transform = "folded"
        elif name == f"{adapter.patches}.weight" or name.removesuffix(".weight") in linears:
            transform = "transposed"
        located[public] = (_find_tensor(public, parameter, tensors), transform)
    return located


def _find_tensor(name: str, parameter: Tensor, tensors: dict[str, Tensor]) -> str:
    if name in tensors:
        return name
    for other, tensor in tensors.items():
        if tensor.shape == parameter.shape and torch.equal(tensor, parameter):
            return other
    raise ExportError(f"the traced graph has no tensor for {name}; this torch exports it in a way not known here")


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node after the module it comes from, as in blocks.3.attn.qkv/MatMul."""
    seen: Counter[str] = Counter()
    last = ""
    for node in graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        if scopes:  # a decomposed operator has none of its own
            path: list[str] = ["", *ast.literal_eval(scopes)[:-1]]
            parent, last = path[-2:]
            last = f"{parent}.rotary" if last == "model.encoder.rotary" else last  # one table, used by every block
        name = f"{public_name(last)}/{node.op_type}".removeprefix("/")
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def _strip(model: onnx.ModelProto) -> None:
    """Remove what does not compute: stack traces, paths and versions of the machine that traced."""
    model.producer_name, model.producer_version = "vjepa2-edge", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "encoder"
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
