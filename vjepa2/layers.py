"""What is a block of the encoder made of: patches, attention, MLP.

Axes: B batch, T frames, C colours, H, W pixels, N tokens, D channels of a token, A heads, K channels per head,
Q = 2A heads of q and k together.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa2.positions import RotaryLayout, get_3d_sincos_pos_embed, rotary_tables
from vjepa2.spec import ClipSpec

LAYER_NORM_EPS = 1e-6

# (qk_BNQK, v_BND) -> mixed_BND: softmax(q k^T / sqrt(K)) v for every head; of masked blocks (qk_BNQK, v_BND, mask_NN).
AttentionCore = Callable[..., Tensor]

# qk_BNQK -> qk_BNQK, turned by each token's place
Rotary = Callable[[Tensor], Tensor]


class PatchEmbed(nn.Module):
    """Cuts clips into tubelets and projects each into a token."""

    def __init__(self, dim: int, clip: ClipSpec) -> None:
        super().__init__()
        size = (clip.tubelet, clip.patch, clip.patch)
        self.proj = nn.Conv3d(3, dim, kernel_size=size, stride=size)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Tokens `[B, N, D]`, column fastest, of normalised float clips."""
        patches: Tensor = self.proj(clips_BTCHW.transpose(1, 2))
        return patches.flatten(2).transpose(1, 2)


class FixedTables(nn.Module):
    """A module whose buffers are constants: they follow it to another device, never to another dtype."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedTables":
        for name, buffer in self._buffers.items():
            assert buffer is not None
            self._buffers[name] = buffer.to(fn(buffer.new_empty(0)).device)
        return self


class AddedTable(FixedTables):
    """Adds the fixed sin-cos table to tokens."""

    table_ND: Tensor

    def __init__(self, clip: ClipSpec, dim: int) -> None:
        super().__init__()
        depth, rows, columns = clip.grid
        self.register_buffer("table_ND", get_3d_sincos_pos_embed(dim, (rows, columns), depth), persistent=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens that know their place."""
        return x_BND + self.table_ND.to(x_BND.dtype)


class RotaryTable(FixedTables):
    """Turns q and k by their token's place, of all tokens in order or, through `at`, of some."""

    cos_N1K: Tensor
    sin_N1K: Tensor
    swap_K: Tensor

    def __init__(self, clip: ClipSpec, head_dim: int, layout: RotaryLayout, side: int | None = None) -> None:
        super().__init__()
        cos_NK, sin_NK = rotary_tables(clip.grid, head_dim, layout, side)
        swap_K = torch.from_numpy(np.arange(head_dim) ^ 1)
        self.register_buffer("cos_N1K", cos_NK[:, None], persistent=False)
        self.register_buffer("sin_N1K", sin_NK[:, None], persistent=False)
        self.register_buffer("swap_K", swap_K, persistent=False)

    def forward(self, qk_BNQK: Tensor) -> Tensor:
        """The turned q and k, computed in the tables' dtype and returned in the one they came in."""
        return _turn(qk_BNQK, self.cos_N1K, self.sin_N1K, self.swap_K)

    def at(self, ids_BN: Tensor) -> Rotary:
        """The same for tokens whose places are `ids_BN`, int64 in any order; the rows are looked up once."""
        shape = (*ids_BN.shape, *self.cos_N1K.shape[1:])
        rows = ids_BN.flatten()
        cos_BN1K, sin_BN1K = (table.index_select(0, rows).reshape(shape) for table in (self.cos_N1K, self.sin_N1K))
        return partial(_turn, cos_N1K=cos_BN1K, sin_N1K=sin_BN1K, swap_K=self.swap_K)


def _turn(qk_BNQK: Tensor, cos_N1K: Tensor, sin_N1K: Tensor, swap_K: Tensor) -> Tensor:
    x_BNQK = qk_BNQK.to(cos_N1K.dtype)
    swapped_BNQK = x_BNQK.index_select(-1, swap_K)
    return (x_BNQK * cos_N1K + swapped_BNQK * sin_N1K).to(qk_BNQK.dtype)


def attend(qk_BNQK: Tensor, v_BND: Tensor, mask_NN: Tensor | None = None) -> Tensor:
    """Attention by PyTorch's fused kernel; `mask_NN` is True where the row's token sees the column's."""
    q_BNAK, k_BNAK = qk_BNQK.chunk(2, dim=2)
    v_BNAK = v_BND.view(q_BNAK.shape)
    q_BANK, k_BANK, v_BANK = (x.transpose(1, 2) for x in (q_BNAK, k_BNAK, v_BNAK))
    return F.scaled_dot_product_attention(q_BANK, k_BANK, v_BANK, attn_mask=mask_NN).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Every token looks at every token, or at those a mask leaves it. `core` is swapped when a graph is traced."""

    core: AttentionCore

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.core = attend

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None, mask_NN: Tensor | None = None) -> Tensor:
        """Mixed tokens `[B, N, D]`; without `rotary` attention does not know places."""
        dim = x_BND.shape[-1]
        qk_BNC, v_BND = self.qkv(x_BND).split((2 * dim, dim), dim=-1)
        qk_BNQK = qk_BNC.unflatten(-1, (2 * self.heads, dim // self.heads))
        if rotary is not None:
            qk_BNQK = rotary(qk_BNQK)
        mask = () if mask_NN is None else (mask_NN,)
        mixed_BND: Tensor = self.proj(self.core(qk_BNQK, v_BND, *mask))
        return mixed_BND


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Each token by itself."""
        out_BND: Tensor = self.fc2(F.gelu(self.fc1(x_BND)))
        return out_BND


class Block(nn.Module):
    """Pre-norm attention and MLP, both added to the residual stream."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, eps: float = LAYER_NORM_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None, mask_NN: Tensor | None = None) -> Tensor:
        """The residual stream after this block."""
        x_BND = x_BND + self.attn(self.norm1(x_BND), rotary, mask_NN)
        out_BND: Tensor = x_BND + self.mlp(self.norm2(x_BND))
        return out_BND


def set_attention_core(module: nn.Module, core: AttentionCore) -> None:
    """Make every `Attention` inside `module` mix tokens with `core`."""
    for layer in module.modules():
        if isinstance(layer, Attention):
            layer.core = core
