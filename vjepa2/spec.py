"""What is an encoder and what does it take: integers, and what follows from them."""

from dataclasses import dataclass, replace
from typing import Literal

from vjepa2.errors import SpecError

# Statistics of ImageNet's RGB pixels scaled to [0, 1]; every released encoder was trained with them.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# How tokens learn where they are: V-JEPA 2's tiled rotary tables, 2.1's interleaved ones, or an added table.
Positions = Literal["tiled", "interleaved", "sincos"]
Head = Literal["tokens", "embedding", "classifier", "predictor", "anticipation", "action"]
OutputName = Literal["tokens", "embedding", "logits", "predicted", "verb", "noun", "action"]  # of graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """The clip that an encoder takes: `frames` RGB images of `height` x `width` pixels."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    tubelet: int = 2  # frames per token
    patch: int = 16  # pixels per token side

    def __post_init__(self) -> None:
        """Raise `SpecError` unless every side is a positive multiple of its step."""
        if self.tubelet <= 0 or self.patch <= 0:
            raise SpecError(f"tubelet is {self.tubelet} and patch is {self.patch}; both must be positive")
        sides = (
            ("frames", self.frames, self.tubelet),
            ("height", self.height, self.patch),
            ("width", self.width, self.patch),
        )
        for field, size, step in sides:
            if size <= 0 or size % step:
                raise SpecError(f"{field} is {size}; it must be a positive multiple of {step}")

    @property
    def is_image(self) -> bool:
        """Whether this is one frame that is not doubled: V-JEPA 2.1 projects its patches by other weights."""
        return self.frames == self.tubelet == 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        return self.frames // self.tubelet, self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens per clip: 2048 for 16 frames of 256 x 256."""
        time, rows, columns = self.grid
        return time * rows * columns

    @property
    def patch_values(self) -> int:
        """Numbers that one token is made of: 1536 for RGB tubelets of 2 x 16 x 16."""
        return 3 * self.tubelet * self.patch * self.patch

    def shape(self, batch: int = 1) -> tuple[int, int, int, int, int]:
        """Shape of `clips_BTCHW`, the encoder's input."""
        return batch, self.frames, 3, self.height, self.width

    def frames_shape(self, batch: int = 1) -> tuple[int, int, int, int, int]:
        """Shape of `frames_BTHWC`, uint8 pixels."""
        return batch, self.frames, self.height, self.width, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An encoder as integers; `clip` is the clip it was trained with."""

    name: str
    family: str
    dim: int  # channels per token
    depth: int  # blocks
    heads: int
    mlp_dim: int  # channels inside the MLP
    positions: Positions = "tiled"
    side: int | None = None  # tokens along a side that rows and columns are rescaled to; None: as they are
    # blocks whose outputs have a LayerNorm each, the last one among them; and with them an image's own patch
    # projection and a vector that tells images from videos: V-JEPA 2.1. Without levels: one LayerNorm, V-JEPA 2.
    levels: tuple[int, ...] = ()
    clip: ClipSpec = ClipSpec(frames=64, height=256, width=256)

    def __post_init__(self) -> None:
        """Raise `SpecError` for counts below one and for numbers that do not fit together."""
        for field in ("dim", "depth", "heads", "mlp_dim"):
            if getattr(self, field) < 1:
                raise SpecError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.dim % self.heads:
            raise SpecError(f"dim is {self.dim}; it must be a multiple of heads, {self.heads}")
        if self.positions != "sincos" and (self.head_dim % 2 or self.head_dim < 6):
            raise SpecError(f"head_dim is {self.head_dim}; rotary positions need an even one of at least 6")
        if self.side is not None and (self.side < 1 or self.positions == "sincos"):
            raise SpecError(f"side is {self.side}; it must be at least 1, and only rotary positions are rescaled")
        if self.levels and (sorted({*self.levels}) != [*self.levels] or self.levels[-1] != self.depth - 1):
            raise SpecError(f"levels are {self.levels}; they must ascend to the last block, {self.depth - 1}")

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.dim // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return count_block(self.dim, self.mlp_dim)

    @property
    def parameters(self) -> int:
        """Parameters of the encoder: 303,885,312 for ViT-L."""
        patches = self.dim * (self.clip.patch_values + 1)
        if self.levels:  # an image's patches are one frame deep; two vectors name the kind
            patches += self.dim * (self.clip.patch_values // self.clip.tubelet + 1) + 2 * self.dim
        return patches + self.depth * self.block_parameters + max(1, len(self.levels)) * 2 * self.dim

    @property
    def image_frames(self) -> int:
        """Equal frames that an image is shown as: a tubelet; of V-JEPA 2.1 one, for which it has patches."""
        return 1 if self.levels else self.clip.tubelet

    def cut(self, layers: int) -> "ModelSpec":
        """The first `layers` blocks alone. As many levels as there were are then spread evenly up to the last block."""
        count = len(self.levels)
        least = max(1, count)
        if not least <= layers <= self.depth:
            why = f": each of its {count} levels has a block of its own" if count else ""
            raise SpecError(f"layers is {layers}; of {self.name} keep {least} to {self.depth}{why}")
        if layers == self.depth:
            return self
        return replace(self, depth=layers, levels=tuple(layers * (level + 1) // count - 1 for level in range(count)))

    def make_clip(self, frames: int, height: int, width: int) -> ClipSpec:
        """A clip of this model's patches; one frame is V-JEPA 2.1's image, which is not doubled."""
        tubelet = 1 if frames == 1 and self.levels else self.clip.tubelet
        return replace(self.clip, frames=frames, height=height, width=width, tubelet=tubelet)

    def flops(self, clip: ClipSpec | None = None) -> int:
        """Floating-point operations of one clip, two a multiply-add, MatMuls only; ViT-L at 16 frames: 1.656e12."""
        clip = clip or self.clip
        linear = 4 * self.dim**2 + 2 * self.dim * self.mlp_dim
        weights = self.depth * linear + clip.patch_values * self.dim
        return 2 * clip.tokens * weights + self.attention_flops(clip)

    def attention_flops(self, clip: ClipSpec | None = None) -> int:
        """Of these, the MatMuls between tokens, which grow with their square."""
        clip = clip or self.clip
        return 4 * self.depth * clip.tokens**2 * self.dim

    def activation_bytes(self, clip: ClipSpec | None = None, batch: int = 1) -> int:
        """Peak float32 bytes that a call holds in PyTorch, beside weights and input, with fused attention.

        Patches: the clip twice in the convolution's order, and its output. A block holds embedded patches, residual
        before and after, and a normed copy; attention beside it the packed qkv and, of q and k each, the rotation's two
        products, swapped operand and sum; the MLP its inner width before and after GELU.
        """
        clip = clip or self.clip
        patches = 2 * clip.patch_values + self.dim
        attention = (3 + 3 + (2 if self.positions == "sincos" else 8)) * self.dim
        mlp = 4 * self.dim + 2 * self.mlp_dim
        return 4 * batch * clip.tokens * max(patches, attention, mlp)


def count_block(dim: int, mlp_dim: int) -> int:
    """Parameters of one block: attention, MLP and two LayerNorms."""
    attention = 4 * dim**2 + 4 * dim
    mlp = 2 * dim * mlp_dim + mlp_dim + dim
    return attention + mlp + 4 * dim
