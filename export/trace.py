"""How does an encoder become one ONNX graph: traced once, with attention left for `lower` to spell out.

Axes: B batch, T frames, H, W pixels, C colours, N tokens, D channels of a token, P values of a patch, L classes,
Q = 2A heads of q and k together, K channels per head.
"""

import ast
import copy
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from vjepa2.bundle import WEIGHTS
from vjepa2.encoder import Encoder
from vjepa2.errors import ExportError
from vjepa2.folding import fold_patches
from vjepa2.layers import set_attention_core
from vjepa2.manifest import GraphInput, Transform
from vjepa2.spec import ClipSpec

from .weights_file import place_tensors

OPSET = 18
PLACEHOLDER = ("vjepa2", "Attention")  # (qk_BNQK, v_BND) -> mixed_BND
OUTPUTS = ("tokens", "embedding", "logits")


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph, the tensors that it names but does not hold, and what became of each parameter of the module."""

    graph: onnx.ModelProto
    tensors: dict[str, Tensor]
    parameters: dict[str, tuple[str, Transform]]  # parameter -> (tensor, what was done to it)


def trace_encoder(
    encoder: Encoder, head: nn.Linear | None = None, *, graph_input: GraphInput = "frames", batch: int = 1
) -> Trace:
    """Trace `encoder` for clips of its shape; outputs `tokens`, `embedding` and, with a head on that, `logits`.

    The input is `frames`, uint8 `[B, T, H, W, 3]`, or `pixel_values_videos`, float32 `[B, T, 3, H, W]`.
    """
    adapter = _Adapter(encoder, head, graph_input).eval()
    if graph_input == "frames":
        example = torch.zeros(encoder.clip.frames_shape(batch), dtype=torch.uint8)
    else:
        example = torch.zeros(encoder.clip.shape(batch))
    traced = _export(adapter, example, graph_input, OUTPUTS[:2] if head is None else OUTPUTS)
    tensors = _take_tensors(traced, adapter)
    tensors |= {name: value.detach() for name, value in encoder.idle_parameters.items()}
    graph = ir.to_proto(traced)
    _name_nodes(graph.graph)
    _strip(graph)
    return Trace(graph, tensors, _locate_parameters(adapter, graph_input, tensors))


class _Patches(nn.Module):
    """Cuts pixels into patches and projects them by one MatMul."""

    def __init__(self, conv: nn.Conv3d, clip: ClipSpec, graph_input: GraphInput) -> None:
        super().__init__()
        self.clip = clip
        self.graph_input = graph_input
        assert conv.bias is not None
        weight_PD, bias_D = conv.weight.detach().flatten(1).T, conv.bias.detach()
        if graph_input == "frames":
            weight_PD, bias_D = fold_patches(conv.weight.detach(), bias_D)
        self.weight, self.bias = nn.Parameter(weight_PD), nn.Parameter(bias_D)

    def forward(self, pixels: Tensor) -> Tensor:
        batch, clip = pixels.shape[0], self.clip
        time, rows, columns = clip.grid
        if self.graph_input == "frames":
            cut = (batch, time, clip.tubelet, rows, clip.patch, columns, clip.patch, 3)
            order = (0, 1, 3, 5, 2, 4, 6, 7)
        else:
            cut = (batch, time, clip.tubelet, 3, rows, clip.patch, columns, clip.patch)
            order = (0, 1, 4, 6, 3, 2, 5, 7)
        patches = pixels.float().reshape(cut).permute(order)
        patches_BNP = patches.reshape(batch, clip.tokens, clip.patch_values)
        return patches_BNP @ self.weight + self.bias


class _Linear(nn.Module):
    """A linear layer whose weight lies as MatMul wants it, so that nothing is transposed in the graph."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().T)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class _Adapter(nn.Module):
    """What is traced: the model's own blocks between pixels and outputs. It shares the model's weights."""

    mean_1N: Tensor

    def __init__(self, encoder: Encoder, head: nn.Linear | None, graph_input: GraphInput) -> None:
        super().__init__()
        memo: dict[int, Any] = {id(parameter): parameter for parameter in encoder.parameters()}
        self.encoder = copy.deepcopy(encoder, memo)
        _replace_linears(self.encoder)
        set_attention_core(self.encoder, _placeholder)
        self.patches = f"{encoder.patch_name}.proj"  # names here are the encoder's, without `encoder.`
        conv = self.encoder.get_submodule(self.patches)
        assert isinstance(conv, nn.Conv3d)
        self.add_module(encoder.patch_name, nn.ModuleDict({"proj": _Patches(conv, encoder.clip, graph_input)}))
        self.head = None if head is None else _Linear(head)
        count = encoder.clip.tokens
        self.register_buffer("mean_1N", torch.full((1, count), 1 / count))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens_BND = self.encoder.encode_patches(self.get_submodule(self.patches)(pixels))
        embeddings_BD = (self.mean_1N @ tokens_BND).flatten(1)
        if self.head is None:
            return tokens_BND, embeddings_BD
        return tokens_BND, embeddings_BD, self.head(embeddings_BD)


def _placeholder(qk_BNQK: Tensor, v_BND: Tensor) -> Tensor:
    heads = qk_BNQK.shape[2] // 2
    return torch.onnx.ops.symbolic(
        "::".join(PLACEHOLDER),
        (qk_BNQK, v_BND),
        {"heads": heads},
        dtype=v_BND.dtype,
        shape=v_BND.shape,
        version=1,
    )


def _replace_linears(encoder: Encoder) -> None:
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _Linear(child))


def _export(adapter: _Adapter, example: Tensor, input_name: str, outputs: tuple[str, ...]) -> ir.Model:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision, which nothing here uses, is not installed
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                adapter,
                (example,),
                input_names=[input_name],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    assert program is not None
    return program.model


def _take_tensors(model: ir.Model, adapter: _Adapter) -> dict[str, Tensor]:
    """Take the module's tensors out of `model`, which keeps their names, shapes and places in the file of weights."""
    held = dict(adapter.named_parameters()) | dict(adapter.named_buffers())
    taken = {}
    for name, value in list(model.graph.initializers.items()):
        if name in held and held[name].is_floating_point():
            value.name = _public_name(name)
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
    adapter: _Adapter, graph_input: GraphInput, tensors: dict[str, Tensor]
) -> dict[str, tuple[str, Transform]]:
    """Say of every parameter which tensor holds it; the exporter keeps only one of several equal tensors."""
    located: dict[str, tuple[str, Transform]] = {}
    linears = {name for name, module in adapter.named_modules() if isinstance(module, _Linear)}
    for name, parameter in adapter.named_parameters():
        public = _public_name(name)
        if name.startswith(f"encoder.{adapter.patches}."):
            continue  # `_Patches` took its place
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


def _public_name(name: str) -> str:
    return name.removeprefix("encoder.")


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node after the module it comes from, as in blocks.3.attn.qkv/MatMul."""
    seen: Counter[str] = Counter()
    last = ""
    for node in graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        if scopes:  # a decomposed operator has none of its own
            path: list[str] = ["", *ast.literal_eval(scopes)[:-1]]
            parent, last = path[-2:]
            last = f"{parent}.rotary" if last == "encoder.rotary" else last  # one table, used by every block
        name = f"{_public_name(last)}/{node.op_type}".removeprefix("/")
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
