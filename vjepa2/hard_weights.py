"""What do trained encoders have that random ones lack, so that a 16-bit form can fail: seeded weights that have it.

Trained ViTs keep values of hundreds to thousands in a few channels of a few tokens, give their LayerNorms gains that
differ manyfold and next to nothing for those channels, and leave some tokens a tiny norm before the last one.

Axes: B batch, T frames, C colours, H, W pixels, N tokens, D channels of a token.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa2.encoder import Encoder
from vjepa2.layers import Block
from vjepa2.spec import ClipSpec
from vjepa2.weights import fill_random

HARD_WARNING = (
    "the weights are made up to be hard for 16 bits: massive activations, quiet tokens, unequal gains; "
    "every number is real, and the embeddings mean nothing"
)
_SPREAD = 0.5  # of the logarithm of a gain
_SMALL_GAIN = 0.005  # of a channel that is massive
_MASSIVE = (300.0, 600.0, 900.0, 1200.0)  # what the channels hold in the tokens that fire most
_FIRING = 0.85  # quantile of tokens above which a token fires, of each of two directions
_STEEPNESS = 4.0  # of a hidden unit: what it is before GELU in the token that fires most
_STEP = 5.0  # the same of the two units whose difference is a step
_HEIGHT = 2.0  # of that step
_QUIET = 0.85  # quantile of tokens above which a token is quiet
_LOUD = 16.0  # times a quiet token's norm: that of what the last block adds to all others, the same to each
_CONSTANT = 230.0  # of which a channel holds at most so much: more, and LayerNorm overflows for every token


def fill_hard(encoder: Encoder, seed: int) -> None:
    """Give every parameter of `encoder` (which may be on the meta device) values that are hard for 16 bits.

    What fires where is set on a generated clip, and rounded: another machine makes the same weights.
    """
    fill_random(encoder, seed)
    generator = torch.Generator().manual_seed(seed)
    channels = torch.randperm(encoder.spec.dim, generator=generator)
    massive, others = channels[: len(_MASSIVE)], channels[len(_MASSIVE) :]
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                gain = torch.exp(_SPREAD * torch.randn(module.weight.shape, generator=generator))
                gain /= gain.square().mean().sqrt()  # attention as sharp as before: sharper, float32 itself is lost
                gain[massive] = _SMALL_GAIN
                module.weight.copy_(gain)
        clip_BTCHW = _smooth_clip(encoder.clip, generator)
        _add_massive(encoder, clip_BTCHW, massive)
        _add_quiet(encoder, clip_BTCHW, others)


def _smooth_clip(clip: ClipSpec, generator: torch.Generator) -> Tensor:
    """Normalised pixels `[1, T, C, H, W]` of clouds that drift."""
    coarse = torch.randn(1, 3, max(2, clip.frames // 4), 6, 6, generator=generator)
    size = (clip.frames, clip.height, clip.width)
    clouds = F.interpolate(coarse, size, mode="trilinear", align_corners=True)
    return clouds.transpose(1, 2).clamp(-2, 2)


def _run_to(encoder: Encoder, block: Block, clip_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The residual stream before a block's MLP, and what the MLP is given, both `[N, D]`."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, streams: tuple[Tensor, ...], normed_BND: Tensor) -> None:
        seen.append((streams[0][0], normed_BND[0]))

    hook = block.norm2.register_forward_hook(keep)
    encoder(clip_BTCHW)
    hook.remove()
    return seen[0]


def _directions(given_ND: Tensor, count: int) -> Tensor:
    """The directions `[count, D]` in which tokens differ most."""
    centred_ND = given_ND - given_ND.mean(0)
    _, _, directions_KD = torch.linalg.svd(centred_ND[:: max(1, len(given_ND) // 512)], full_matrices=False)
    signs_K1 = torch.sign(directions_KD.sum(1, keepdim=True))
    result_KD: Tensor = directions_KD[:count] * signs_K1[:count]
    return result_KD


def _aim(fc1: nn.Linear, unit: int, along_N: Tensor, direction_D: Tensor, quantile: float, most: float) -> None:
    """Let a hidden unit be positive, up to `most`, for the tokens furthest along a direction, negative for others."""
    threshold = torch.quantile(along_N, quantile)
    slope = most / (along_N.max() - threshold)
    fc1.weight[unit] = (slope * direction_D).round(decimals=4)
    fc1.bias[unit] = (-slope * threshold).round(decimals=2)


def _add_massive(encoder: Encoder, clip_BTCHW: Tensor, channels: Tensor) -> None:
    """Two units of the first block, each of which fills two channels where it fires."""
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    _, given_ND = _run_to(encoder, block, clip_BTCHW)
    for unit, direction_D in enumerate(_directions(given_ND, 2)):
        _aim(fc1, unit, given_ND @ direction_D, direction_D, _FIRING, _STEEPNESS)
        fc2.weight[:, unit] = 0
        for channel, size in list(zip(channels, _MASSIVE, strict=True))[unit::2]:
            fc2.weight[channel, unit] = size / _STEEPNESS


def _add_quiet(encoder: Encoder, clip_BTCHW: Tensor, channels: Tensor) -> None:
    """Two units of the last block whose difference is a step: where it is one, it takes away what the bias adds."""
    block, last_norm = encoder.blocks[-1], encoder.last_norm
    assert isinstance(block, Block)
    assert isinstance(last_norm, nn.LayerNorm)
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    stream_ND, given_ND = _run_to(encoder, block, clip_BTCHW)
    norm = _LOUD * float(stream_ND.norm(dim=1).median())
    count = math.ceil((norm / _CONSTANT) ** 2)
    channels, each = channels[:count], round(norm / count**0.5, 1)
    (direction_D,) = _directions(given_ND, 1)
    for unit, sign in enumerate([-1.0, 1.0]):
        _aim(fc1, unit, given_ND @ direction_D, direction_D, _QUIET, _STEP)
        fc2.weight[:, unit] = 0
        fc2.weight[channels, unit] = sign * each / _HEIGHT
    fc1.bias[0] += _HEIGHT
    fc2.bias[channels] = each
    last_norm.weight[channels] = _SMALL_GAIN
