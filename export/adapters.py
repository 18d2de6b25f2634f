"""What is traced of a model: its own modules between pixels and outputs, with weights as MatMul wants them.

Axes: B batch, S steps, N tokens, M queries, D channels of a token, P values of a patch, Q = 2A heads of q and k
together, K channels per head.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vjepa2.folding import fold_patches
from vjepa2.headed import ActionEncoder, Headed, compute_outputs, cut_clips, idle_names
from vjepa2.heads import AttentivePooler, CrossAttention, VideoClassifier
from vjepa2.layers import set_attention_core
from vjepa2.manifest import GraphInput
from vjepa2.predictor import Predictor
from vjepa2.spec import ClipSpec

SELF_ATTENTION = ("vjepa2", "Attention")  # (qk_BNQK, v_BND[, bias_11NN]) -> mixed_BND
CROSS_ATTENTION = ("vjepa2", "CrossAttention")  # (q_BMD or q_1MD, k_BND, v_BND) -> mixed_BMD
REPEAT = ("vjepa2", "Repeat")  # token_11E -> masks_BLE; the exporter would turn an Expand of constants into a constant
_UNSEEN = -1e9  # added to a score: its softmax is 0 in float32, and no row of them is NaN


class Patches(nn.Module):
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
        """Patches `[B, N, D]` of pixels as the graph takes them."""
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


class Linear(nn.Module):
    """A linear layer whose weight lies as MatMul wants it, so that nothing is transposed in the graph."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().T)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces."""
        return x @ self.weight + self.bias


class ProjectedQueries(nn.Module):
    """A pooler's queries after their linear layer: no clip changes them, so the graph has the result alone."""

    queries_1MD: Tensor

    def __init__(self, linear: nn.Linear, query_tokens: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        with torch.no_grad():
            self.register_buffer("queries_1MD", linear(query_tokens))

    def forward(self, _: Tensor) -> Tensor:
        """The projected queries `[1, M, D]`."""
        return self.queries_1MD


class Adapter(nn.Module):
    """What is traced. It shares the model's weights, and replaces modules in a copy of the rest."""

    mean_1N: Tensor

    def __init__(self, model: Headed, graph_input: GraphInput) -> None:
        super().__init__()
        memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
        self.model: Headed = copy.deepcopy(model, memo)
        self.idle = {public_name(f"model.{name}") for name in idle_names(model)}
        self.idle |= {f"pooler.cross_attention_block.xattn.q.{part}" for part in ("weight", "bias")}
        _replace_attention(self.model)
        _replace_linears(self.model)
        encoder = self.model.encoder
        self.patches = f"{encoder.patch_name}.proj"  # names here are the encoder's, without `model.encoder.`
        conv = encoder.get_submodule(self.patches)
        assert isinstance(conv, nn.Conv3d)
        self.add_module(encoder.patch_name, nn.ModuleDict({"proj": Patches(conv, encoder.clip, graph_input)}))
        count = encoder.clip.tokens * (model.segments if isinstance(model, VideoClassifier) else 1)
        self.register_buffer("mean_1N", torch.full((1, count), 1 / count))

    def forward(self, pixels: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Every output, in the order of `compute_outputs`."""
        patches_BND = self.get_submodule(self.patches)(cut_clips(self.model, pixels))
        return tuple(compute_outputs(self.model, patches_BND, inputs, self._mean).values())

    def _mean(self, tokens_BND: Tensor) -> Tensor:
        return (self.mean_1N @ tokens_BND).flatten(1)


def public_name(name: str) -> str:
    """What a parameter or a module of the adapter is called in a bundle."""
    return name.removeprefix("model.").removeprefix("encoder.")


def _placeholder(qk_BNQK: Tensor, v_BND: Tensor, *bias_11NN: Tensor) -> Tensor:
    return _symbol(SELF_ATTENTION, (qk_BNQK, v_BND, *bias_11NN), v_BND.shape, heads=qk_BNQK.shape[2] // 2)


def _cross_placeholder(q_BMD: Tensor, k_BND: Tensor, v_BND: Tensor, heads: int) -> Tensor:
    return _symbol(CROSS_ATTENTION, (q_BMD, k_BND, v_BND), (len(k_BND), *q_BMD.shape[1:]), heads=heads)


def _repeat_placeholder(token_11E: Tensor, batch: int, count: int) -> Tensor:
    return _symbol(REPEAT, (token_11E,), (batch, count, token_11E.shape[-1]))


def _symbol(name: tuple[str, str], inputs: tuple[Tensor, ...], shape: Sequence[int], **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic("::".join(name), inputs, attributes, dtype=inputs[0].dtype, shape=shape, version=1)


def _replace_attention(model: Headed) -> None:
    """Leave attention for `lower`; what it must not see becomes a number that is added to scores."""
    set_attention_core(model, _placeholder)
    for module in model.modules():
        if isinstance(module, CrossAttention):
            module.core = _cross_placeholder
        if isinstance(module, Predictor):
            module.repeat = _repeat_placeholder
        if isinstance(module, AttentivePooler):
            cross = module.cross_attention_block.xattn
            cross.add_module("q", ProjectedQueries(cross.q, module.query_tokens))
    if isinstance(model, ActionEncoder):
        order = model.predictor.order
        order.mask_11MM = torch.zeros(order.mask_11MM.shape).masked_fill(~order.mask_11MM, _UNSEEN)


def _replace_linears(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Linear(child))
