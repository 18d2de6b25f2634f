"""Does the model that everything started from still do what it did? The nine tests keep its names."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import TINY_CLIP, tiny_encoder, tiny_spec
from vjepa2.checkpoints import load_encoder
from vjepa2.encoder import Encoder
from vjepa2.heads import ImageClassifier
from vjepa2.layers import Attention, PatchEmbed
from vjepa2.positions import get_3d_sincos_pos_embed
from vjepa2.spec import ClipSpec
from vjepa2.weights import fill_random

VITL_CLIP = ClipSpec(frames=16, height=224, width=224)


def test_3d_position_embedding_shape() -> None:
    table = get_3d_sincos_pos_embed(1024, 14, 8)
    assert table.shape == (8 * 14 * 14, 1024)
    assert table.dtype == torch.float32


def test_with_cls_token() -> None:
    table = get_3d_sincos_pos_embed(1024, 14, 8, cls_token=True)
    assert table.shape == (1 + 8 * 14 * 14, 1024)
    assert not table[0].any()
    assert torch.equal(table[1:], get_3d_sincos_pos_embed(1024, 14, 8))


def test_patch_embedding_output_shape() -> None:
    embed = PatchEmbed(192, TINY_CLIP)
    assert embed(torch.randn(TINY_CLIP.shape(2))).shape == (2, TINY_CLIP.tokens, 192)


def test_patch_embedding_grid_dimensions() -> None:
    """Each token sees its own tubelet and nothing else, column fastest."""
    embed = PatchEmbed(8, TINY_CLIP)
    clip = torch.zeros(TINY_CLIP.shape())
    rest = embed(clip)
    time, rows, columns = TINY_CLIP.grid
    assert (time, rows, columns) == (2, 4, 6)
    clip[0, 2:4, :, 16:32, 80:96] = 1.0  # tubelet 1, row 1, column 5
    changed = (embed(clip) != rest).any(-1)[0].nonzero().flatten()
    assert changed.tolist() == [1 * rows * columns + 1 * columns + 5]


def test_attention_output_shape() -> None:
    attention = Attention(192, 3)
    assert attention(torch.randn(2, 48, 192)).shape == (2, 48, 192)


def test_vision_transformer_at_embed_dim_1024() -> None:
    spec = replace(tiny_spec(heads=16, clip=VITL_CLIP), mlp_dim=4096, positions="sincos")
    assert (spec.dim, spec.depth) == (1024, 2)
    encoder = load_encoder("random", model=spec)
    with torch.no_grad():
        tokens = encoder(torch.randn(VITL_CLIP.shape()))
    assert tokens.shape == (1, 8 * 14 * 14, 1024)
    assert torch.isfinite(tokens).all()
    assert encoder.rotary is None


def test_imagenet_classifier() -> None:
    classifier = ImageClassifier(tiny_encoder(clip=ClipSpec(frames=2, height=64, width=64)), classes=1000)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        logits = classifier(images)
        clips = torch.stack([images, images], dim=1)
        by_hand = classifier.head(classifier.encoder(clips).mean(1))
    assert logits.shape == (3, 1000)
    torch.testing.assert_close(logits, by_hand)


def test_memory_and_computation() -> None:
    """Parameters and FLOPs equal the closed form; a block's peak memory is within 5 % of it."""
    spec = tiny_spec(heads=4, clip=ClipSpec(frames=8, height=128, width=128))
    encoder = tiny_encoder(spec)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == spec.parameters
    clip = torch.randn(spec.clip.shape())
    added = replace(spec, positions="sincos", mlp_dim=2048)  # where the MLP needs more than attention
    # spelled out: the counter does not know the CPU's fused kernel
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(clip)
    assert counter.get_total_flops() == spec.flops()
    for model in (encoder, tiny_encoder(added)):
        expected = model.spec.activation_bytes()
        assert math.isclose(_peak_bytes(model, clip), expected, rel_tol=0.05)
        assert math.isclose(_peak_bytes(model, clip.repeat(2, 1, 1, 1, 1)), 2 * expected, rel_tol=0.05)


def test_gradient_flow() -> None:
    encoder = tiny_encoder()
    encoder.train()
    encoder(torch.randn(TINY_CLIP.shape(2))).square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradient_flow_notices_a_parameter_that_is_not_used() -> None:
    encoder = tiny_encoder()
    encoder.register_parameter("unused", nn.Parameter(torch.ones(1)))
    encoder(torch.randn(TINY_CLIP.shape())).square().mean().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == ["unused"]


def test_equal_frames_are_not_what_the_classifier_is_blind_to() -> None:
    """A head on tokens would pass every shape test with its weights left out."""
    encoder = Encoder(tiny_spec(), ClipSpec(frames=2, height=64, width=64))
    classifier = ImageClassifier(encoder, classes=5)
    fill_random(classifier, seed=1)
    first, second = classifier.eval()(torch.randn(2, 3, 64, 64))
    assert not torch.allclose(first, second)


def _peak_bytes(encoder: Encoder, clip: Tensor) -> int:
    """The most that the CPU allocator held at once during one call, beside what it held before."""
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        encoder(clip)
    results = profile.profiler.kineto_results
    steps = [
        event.nbytes()
        for event in sorted(results.events(), key=lambda event: event.start_ns())
        if event.name() == "[memory]"
    ]
    return int(np.cumsum(steps).max())
