"""What does the encoder compute: clips in, tokens out.

Axes: B batch, T frames, C colours, H, W pixels, N tokens, K tokens that a mask names, D channels of a token, S levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vjepa2.errors import SpecError
from vjepa2.layers import LAYER_NORM_EPS, AddedTable, Block, PatchEmbed, RotaryTable
from vjepa2.masks import check_ids, take_tokens
from vjepa2.spec import ClipSpec, ModelSpec


class Encoder(nn.Module):
    """V-JEPA 2's video encoder for clips of one shape, its positions precomputed.

    Parameter names are those of the original checkpoints (facebookresearch/vjepa2).
    """

    def __init__(self, spec: ModelSpec, clip: ClipSpec | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.clip = clip = clip or spec.clip
        _check_clip(spec, clip)
        self.patch_embed = PatchEmbed(spec.dim, spec.clip)
        if spec.levels:
            self.patch_embed_img = PatchEmbed(spec.dim, replace(spec.clip, frames=1, tubelet=1))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, spec.dim))
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.added = AddedTable(clip, spec.dim) if spec.positions == "sincos" else None
        self.rotary = (
            None if spec.positions == "sincos" else RotaryTable(clip, spec.head_dim, spec.positions, spec.side)
        )
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads, spec.mlp_dim) for _ in range(spec.depth))
        if spec.levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS) for _ in spec.levels)
        else:
            self.norm = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)

    @property
    def patch_name(self) -> str:
        """The module that projects this clip's patches: `patch_embed`, or of V-JEPA 2.1's images `patch_embed_img`."""
        return "patch_embed_img" if self.clip.is_image else "patch_embed"

    @property
    def idle_parameters(self) -> dict[str, nn.Parameter]:
        """What the tokens of this clip do not depend on: the other kind of clip's parameters, and lower levels'."""
        other = ("patch_embed.", "video_mod_embed") if self.clip.is_image else ("patch_embed_img.", "img_mod_embed")
        lower = tuple(f"norms_block.{level}." for level in range(len(self.spec.levels) - 1))
        return {name: value for name, value in self.named_parameters() if name.startswith(other + lower)}

    def forward(self, clips_BTCHW: Tensor, context_ids_BK: Tensor | None = None) -> Tensor:
        """Tokens `[B, N, D]` of normalised clips, which are transformers' `pixel_values_videos`.

        With `context_ids_BK`, int64, the tokens `[B, K, D]` that it names, which have seen nothing but one another.
        """
        (tokens_BND,) = self.encode_layers(clips_BTCHW, [self.spec.depth - 1], context_ids_BK)
        return tokens_BND

    def encode_layers(
        self, clips_BTCHW: Tensor, layers: Sequence[int], context_ids_BK: Tensor | None = None
    ) -> list[Tensor]:
        """Normed tokens after each of the blocks that `layers` numbers, in that order; masked as in `forward`."""
        if context_ids_BK is not None:
            check_ids("context_ids", context_ids_BK, len(clips_BTCHW), self.clip.tokens)
        return self.encode_patch_layers(self.embed_patches(clips_BTCHW), layers, context_ids_BK)

    def encode_levels(self, clips_BTCHW: Tensor, context_ids_BK: Tensor | None = None) -> Tensor:
        """The hierarchical tokens `[B, N, S * D]` of V-JEPA 2.1: those of all levels side by side."""
        if not self.spec.levels:
            raise SpecError(f"{self.spec.name} has no levels; only V-JEPA 2.1 gives hierarchical tokens")
        return torch.cat(self.encode_layers(clips_BTCHW, self.spec.levels, context_ids_BK), dim=-1)

    def embed_patches(self, clips_BTCHW: Tensor) -> Tensor:
        """Projected patches `[B, N, D]`."""
        if clips_BTCHW.shape[1:] != self.clip.shape()[1:]:
            raise SpecError(
                f"clips have shape {tuple(clips_BTCHW.shape)}; this encoder's position tables are for "
                f"[B, {', '.join(map(str, self.clip.shape()[1:]))}]: build it with the clip you have"
            )
        patches_BND: Tensor = self.get_submodule(self.patch_name)(clips_BTCHW)
        return patches_BND

    def encode_patches(self, patches_BND: Tensor) -> Tensor:
        """Tokens `[B, N, D]` of projected patches."""
        (tokens_BND,) = self.encode_patch_layers(patches_BND, [self.spec.depth - 1])
        return tokens_BND

    def encode_patch_layers(
        self, patches_BND: Tensor, layers: Sequence[int], context_ids_BK: Tensor | None = None
    ) -> list[Tensor]:
        """As `encode_layers`, of projected patches, and with ids unchecked."""
        norms = {layer: self._norm_of(layer) for layer in layers}
        streams = enumerate(self._run_blocks(patches_BND, context_ids_BK))
        normed = {layer: norms[layer](x_BND) for layer, x_BND in streams if layer in norms}
        return [normed[layer] for layer in layers]

    @property
    def last_norm(self) -> nn.Module:
        """The LayerNorm between the last block and the tokens."""
        return self._norm_of(self.spec.depth - 1)

    def _run_blocks(self, patches_BND: Tensor, ids_BK: Tensor | None = None) -> Iterator[Tensor]:
        """The residual stream after each block."""
        x_BND, rotary = patches_BND, self.rotary
        if self.spec.levels:
            x_BND = x_BND + (self.img_mod_embed if self.clip.is_image else self.video_mod_embed)
        if self.added is not None:
            x_BND = self.added(x_BND)
        if ids_BK is not None:
            x_BND = take_tokens(x_BND, ids_BK)
        turn = rotary.at(ids_BK) if rotary is not None and ids_BK is not None else rotary
        for block in self.blocks:
            x_BND = block(x_BND, turn)
            yield x_BND

    def _norm_of(self, layer: int) -> nn.Module:
        """The LayerNorm of a block's output: V-JEPA 2 has one for all, 2.1 one for each level."""
        choices = self.spec.levels or range(self.spec.depth)
        if layer not in choices:
            raise SpecError(f"layer is {layer}; {self.spec.name} gives tokens after {', '.join(map(str, choices))}")
        return self.norms_block[self.spec.levels.index(layer)] if self.spec.levels else self.norm


def _check_clip(spec: ModelSpec, clip: ClipSpec) -> None:
    takes_image = clip.is_image and bool(spec.levels) and clip.patch == spec.clip.patch
    if not takes_image and (clip.tubelet, clip.patch) != (spec.clip.tubelet, spec.clip.patch):
        raise SpecError(
            f"the clip has tubelets of {clip.tubelet} frames and patches of {clip.patch} pixels; "
            f"{spec.name} takes {spec.clip.tubelet} and {spec.clip.patch}"
            + (", or one frame with tubelets of 1" if spec.levels else "")
        )
