"""What would a model with a mistake give: computed once at export, for a gate to fail on wherever the bundle goes.

Axes: B batch, N tokens.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.checkpoints import HARD, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.headed import Headed, PlainEncoder
from vjepa2.layers import AddedTable, Block, RotaryTable
from vjepa2.positions import RotaryLayout
from vjepa2.runtime.backends import Outputs
from vjepa2.runtime.reference import Mistaken, NaiveCase, Reference
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec, ModelSpec

from .operators_float32 import normalise_stepwise
from .reference import compute_reference

_SMALL_CLIP = ClipSpec(frames=4, height=64, width=96)
# whose hard weights a naive fp16 form loses: small, so that every export can afford it
_SMALL = ModelSpec(name="small", family="vjepa2", dim=192, depth=2, heads=3, mlp_dim=384, clip=_SMALL_CLIP)
_SMALL_SEED = 1


def compute_mistaken(model: Headed, reference: Reference) -> Mistaken:
    """What `model` makes of the reference's probe with one mistake in it at a time, and what naive fp16 loses."""
    with wrong_layout(model.encoder):
        layout = _run_probe(model, reference)
    with wrong_block(model.encoder):
        block = _run_probe(model, reference)
    return Mistaken(of_probe={"layout": layout, "block": block}, naive=_run_naive())


def _run_probe(model: Headed, reference: Reference) -> Outputs:
    one = slice(reference.probe, reference.probe + 1)
    inputs = {name: array[one] for name, array in reference.inputs.items()}
    return compute_reference(model, reference.frames_BTHWC[one], inputs).outputs


@contextmanager
def wrong_layout(encoder: Encoder) -> Iterator[None]:
    """Positions as another model has them: the other rotary layout, or sines and cosines that take turns."""
    spec, clip, rotary, added = encoder.spec, encoder.clip, encoder.rotary, encoder.added
    if added is not None:
        encoder.added = AddedTable(clip, spec.dim)
        encoder.added.table_ND = _take_turns(added.table_ND)
    else:
        other: RotaryLayout = "interleaved" if spec.positions == "tiled" else "tiled"
        encoder.rotary = RotaryTable(clip, spec.head_dim, other, spec.side)
    try:
        yield
    finally:
        encoder.rotary, encoder.added = rotary, added


def _take_turns(table_ND: Tensor) -> Tensor:
    """The columns of the first half between those of the second."""
    dim = table_ND.shape[1]
    half = dim // 2
    order = torch.stack([torch.arange(half), torch.arange(half) + half], dim=1).flatten()
    return table_ND[:, torch.cat([order, torch.arange(2 * half, dim)])]


@contextmanager
def wrong_block(encoder: Encoder) -> Iterator[None]:
    """The first block's weights of queries exchanged with those of values."""
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    qkv, dim = block.attn.qkv, encoder.spec.dim
    weight, bias = qkv.weight, qkv.bias
    order = torch.arange(3 * dim).reshape(3, dim).flip(0).flatten()
    qkv.weight, qkv.bias = nn.Parameter(weight.detach()[order]), nn.Parameter(bias.detach()[order])
    try:
        yield
    finally:
        qkv.weight, qkv.bias = weight, bias


@cache
def _run_naive() -> NaiveCase:
    """The small model of hard weights on one scene, as it is and in naive fp16."""
    model = PlainEncoder(load_encoder(HARD, model=_SMALL, seed=_SMALL_SEED))
    frames_BTHWC = generate_scene(_SMALL_CLIP.frames, _SMALL_CLIP.height, _SMALL_CLIP.width)[None]
    exact = compute_reference(model, frames_BTHWC, {})
    halved = compute_reference(PlainEncoder(make_naive(model.encoder)), frames_BTHWC, {}).outputs.by_name()
    naive = Outputs.from_names({name: array.astype(np.float32) for name, array in halved.items()})
    return NaiveCase(norms_BN=exact.norms_BN, exact=exact.outputs, naive=naive)


def make_naive(encoder: Encoder) -> Encoder:
    """A copy that has every weight and every result in fp16, those inside LayerNorm too."""
    naive = copy.deepcopy(encoder).half()
    for parent in list(naive.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, _StepwiseNorm(child))
            elif name == "patch_embed":
                setattr(parent, name, _HalfPixels(child))
    return naive


class _HalfPixels(nn.Module):
    """A projection of patches in fp16, of pixels that come in float32."""

    def __init__(self, patches: nn.Module) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Patches `[B, N, D]`, fp16."""
        patches_BND: Tensor = self.patches(clips_BTCHW.half())
        return patches_BND


class _StepwiseNorm(nn.Module):
    """LayerNorm as operators of fp16."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps

    def forward(self, x_BND: Tensor) -> Tensor:
        """Normed tokens, fp16."""
        return normalise_stepwise([x_BND, self.weight, self.bias], {"epsilon": self.epsilon}, torch.float16)
