"""What does the encoder compute: clips in, tokens out.

Axes: B batch, T frames, C colours, H, W pixels, N tokens, D channels of a token.
"""

from torch import Tensor, nn

from vjepa2.errors import SpecError
from vjepa2.layers import LAYER_NORM_EPS, AddedTable, Block, PatchEmbed, RotaryTable
from vjepa2.spec import ClipSpec, ModelSpec


class Encoder(nn.Module):
    """V-JEPA 2's video encoder for clips of one shape, its positions precomputed.

    Parameter names are those of the original checkpoints (facebookresearch/vjepa2).
    """

    def __init__(self, spec: ModelSpec, clip: ClipSpec | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.clip = clip = clip or spec.clip
        if (clip.tubelet, clip.patch) != (spec.clip.tubelet, spec.clip.patch):
            raise SpecError(
                f"the clip has tubelets of {clip.tubelet} frames and patches of {clip.patch} pixels; "
                f"{spec.name} takes {spec.clip.tubelet} and {spec.clip.patch}"
            )
        self.patch_embed = PatchEmbed(spec.dim, clip)
        self.added = AddedTable(clip, spec.dim) if spec.positions == "sincos" else None
        self.rotary = None if spec.positions == "sincos" else RotaryTable(clip, spec.head_dim, spec.positions)
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads, spec.mlp_dim) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Tokens `[B, N, D]` of normalised clips, which are transformers' `pixel_values_videos`."""
        if clips_BTCHW.shape[1:] != self.clip.shape()[1:]:
            raise SpecError(
                f"clips have shape {tuple(clips_BTCHW.shape)}; this encoder's position tables are for "
                f"[B, {', '.join(map(str, self.clip.shape()[1:]))}]: build it with the clip you have"
            )
        return self.encode_patches(self.patch_embed(clips_BTCHW))

    def encode_patches(self, patches_BND: Tensor) -> Tensor:
        """Tokens `[B, N, D]` of embedded patches."""
        tokens_BND: Tensor = self.norm(self.mix_patches(patches_BND))
        return tokens_BND

    def mix_patches(self, patches_BND: Tensor) -> Tensor:
        """The residual stream `[B, N, D]` after the last block, before the final LayerNorm."""
        x_BND = patches_BND if self.added is None else self.added(patches_BND)
        for block in self.blocks:
            x_BND = block(x_BND, self.rotary)
        return x_BND
