"""What can stand on an encoder: predictors and probes as integers."""

from dataclasses import dataclass, field
from typing import Literal

from vjepa2.errors import SpecError
from vjepa2.schema import ADDED_LATER
from vjepa2.spec import ClipSpec, count_block


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec:
    """A masked predictor; an encoder of `encoder_dim` channels a token feeds it."""

    encoder_dim: int
    dim: int = 384
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 1536
    mask_tokens: int = 10
    positions: Literal["tiled", "interleaved"] = "tiled"
    # V-JEPA 2.1 was trained with sides of 16, its published predictors are built without: None is what they say.
    side: int | None = None
    levels: int = 1  # of the encoder, concatenated in the input; several pass an MLP, one a linear layer
    out_dim: int | None = None  # channels of a predicted token; None: the encoder's
    has_modalities: bool = False  # V-JEPA 2.1: a vector that tells images from videos, and predicted context tokens

    def __post_init__(self) -> None:
        """Raise `SpecError` for counts below one and heads that do not divide the width."""
        _check(self, "encoder_dim", "dim", "depth", "heads", "mlp_dim", "mask_tokens", "levels")
        if self.side is not None and self.side < 1:
            raise SpecError(f"side is {self.side}; it must be at least 1")

    @property
    def predicted_dim(self) -> int:
        """Channels of a predicted token."""
        return self.out_dim or self.encoder_dim

    @property
    def parameters(self) -> int:
        """Parameters of the predictor: 22,086,016 for that of V-JEPA 2's ViT-L."""
        embed = (self.encoder_dim + 1) * self.dim
        if self.levels > 1:
            embed += (self.levels * self.encoder_dim + 1) * self.encoder_dim
        project = (self.dim + 1) * self.predicted_dim
        extra = 2 * self.dim + project if self.has_modalities else 0
        blocks = self.depth * count_block(self.dim, self.mlp_dim)
        return embed + self.mask_tokens * self.dim + blocks + 2 * self.dim + project + extra


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """An action-conditioned predictor: V-JEPA 2-AC."""

    encoder_dim: int
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    action_dim: int = 7  # of actions and of states: position, Euler angles, gripper

    def __post_init__(self) -> None:
        """Raise `SpecError` for counts below one and heads that do not divide the width."""
        _check(self, "encoder_dim", "dim", "depth", "heads", "mlp_dim", "action_dim")

    @property
    def parameters(self) -> int:
        """Parameters, with those of the extrinsics that the file holds and nothing uses: 305,220,992."""
        encoders = 2 * (self.action_dim + 1) * self.dim + self.action_dim * self.dim
        projections = (self.encoder_dim + 1) * self.dim + (self.dim + 1) * self.encoder_dim
        return encoders + projections + self.depth * count_block(self.dim, self.mlp_dim) + 2 * self.dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """An attentive probe, and how its makers looked at a video with it."""

    queries: int = 1  # and as many linear layers
    classes: tuple[int, ...] = ()  # of each linear layer; (): the checkpoint says
    heads: int = 16  # of every released probe, on ViT-g too, whose encoder has 22
    eps: float = 1e-5
    layers: tuple[int, ...] = ()  # encoder blocks whose tokens it takes; (): the last alone
    segments: int = 1  # clips of a video whose tokens are concatenated; of a bundle, what its graph takes
    views: int = 1  # crops of a video whose scores are averaged
    frame_step: int | None = None  # frames of the video from one to the next of a clip
    frames_per_second: int | None = None  # or how many there are in a second

    def parameters(self, dim: int, classes: tuple[int, ...]) -> int:
        """Parameters of the probe on an encoder of `dim` channels: 49,514,670 for 174 classes on ViT-L."""
        if len(classes) != self.queries:
            raise SpecError(
                f"there are {len(classes)} counts of classes; a probe of {self.queries} queries has as many"
            )
        cross = count_block(dim, 4 * dim) - dim * dim - dim  # it has no projection
        pooler = 3 * count_block(dim, 4 * dim) + cross + self.queries * dim
        return pooler + sum((dim + 1) * count for count in classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadParts:
    """What stands on the encoder of a bundle; all None for its tokens, their mean, and a linear layer on that."""

    probe: ProbeSpec | None = None
    predictor: PredictorSpec | None = None
    action: ActionSpec | None = None
    clip: ClipSpec | None = None  # of the predictor: it may see further than the encoder
    # whether the encoder before a masked predictor sees the context's tokens alone
    context_only: bool = field(default=False, metadata=ADDED_LATER)
    ahead: int | None = None  # frames from the end of the clip to what is anticipated


def _check(spec: PredictorSpec | ActionSpec, *counts: str) -> None:
    for name in counts:
        if getattr(spec, name) < 1:
            raise SpecError(f"{name} is {getattr(spec, name)}; it must be at least 1")
    if spec.dim % spec.heads:
        raise SpecError(f"dim is {spec.dim}; it must be a multiple of heads, {spec.heads}")
