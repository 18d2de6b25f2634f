"""Does the encoder compute what transformers' VJEPA2Model does with the same weights?"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from tests.conftest import SQUARE_CLIP, TINY_CLIP, tiny_encoder, tiny_spec
from tests.released_files import config_of
from vjepa2.checkpoints import load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.head_specs import PredictorSpec
from vjepa2.layers import RotaryTable
from vjepa2.names import to_huggingface
from vjepa2.positions import rotary_tables
from vjepa2.spec import ClipSpec


def transformers_model(encoder: Encoder) -> VJEPA2Model:
    """VJEPA2Model with this encoder's weights."""
    spec, clip = encoder.spec, encoder.clip
    predictor = PredictorSpec(encoder_dim=spec.dim, depth=1)
    config = VJEPA2Config(**config_of(spec, clip, predictor))
    with torch.device("meta"):
        model: VJEPA2Model = VJEPA2Model(config).eval()
    state = {name.removeprefix("encoder."): value for name, value in to_huggingface(encoder.state_dict()).items()}
    model.encoder.load_state_dict(state, strict=True, assign=True)
    return model


def difference(encoder: Encoder, clips: Tensor) -> float:
    """max |ours - transformers'|."""
    with torch.no_grad():
        theirs = transformers_model(encoder)(clips, skip_predictor=True).last_hidden_state
        return float((encoder(clips) - theirs).abs().max())


@pytest.mark.parametrize("head_dim", [32, 64, 80])
def test_tiny_encoders_equal_transformers(head_dim: int) -> None:
    encoder = tiny_encoder(tiny_spec(head_dim, depth=3), SQUARE_CLIP)
    assert difference(encoder, torch.randn(SQUARE_CLIP.shape(2))) <= 1e-5


def test_the_comparison_notices_a_wrong_rotary_layout() -> None:
    encoder = tiny_encoder(tiny_spec(), SQUARE_CLIP)
    encoder.rotary = RotaryTable(SQUARE_CLIP, 64, "interleaved")
    assert difference(encoder, torch.randn(SQUARE_CLIP.shape())) > 1e-2


def test_plain_random_weights_would_not_notice_it() -> None:
    """Why query and key weights are sharpened: without, attention is all but uniform."""
    sharp, plain = tiny_encoder(tiny_spec(), SQUARE_CLIP), tiny_encoder(tiny_spec(), SQUARE_CLIP)
    dim = sharp.spec.dim
    with torch.no_grad():
        for block in plain.blocks:
            block.attn.qkv.weight[: 2 * dim] /= 4  # type: ignore[union-attr, index, operator]
    clips = torch.randn(SQUARE_CLIP.shape())
    drifts = []
    for encoder in (sharp, plain):
        with torch.no_grad():
            right = encoder(clips)
            encoder.rotary = RotaryTable(SQUARE_CLIP, 64, "interleaved")
            drifts.append(float((encoder(clips) - right).abs().max()))
    assert drifts[0] > 10 * drifts[1]


@pytest.mark.slow
def test_full_vitl_equals_transformers() -> None:
    """Everything but the tables is the same to the bit; the tables are float64's, rounded once.

    With query and key weights four times as large, what float32 loses in transformers' tables (3e-7) grows through 24
    blocks to about 1e-5 on video and 1e-4 on noise; with the plain ones of its own initialisation it stays below 1e-5.
    """
    clip = ClipSpec(frames=16, height=256, width=256)
    encoder = load_encoder("random", model="vitl", clip=clip, seed=0)
    clips = torch.randn(clip.shape(), generator=torch.Generator().manual_seed(0))
    assert encoder.rotary is not None
    exact = encoder.rotary.cos_N1K, encoder.rotary.sin_N1K
    cos_N1K, sin_N1K = float32_tables(clip, encoder.spec.head_dim)
    assert max((exact[0] - cos_N1K).abs().max(), (exact[1] - sin_N1K).abs().max()) <= 5e-7
    encoder.rotary.cos_N1K, encoder.rotary.sin_N1K = cos_N1K, sin_N1K
    assert difference(encoder, clips) <= 1e-5
    encoder.rotary.cos_N1K, encoder.rotary.sin_N1K = exact
    with torch.no_grad():
        for block in encoder.blocks:
            block.attn.qkv.weight[:2048] /= 4  # type: ignore[union-attr, index, operator]
    assert difference(encoder, clips) <= 1e-5


def float32_tables(clip: ClipSpec, head_dim: int) -> tuple[Tensor, Tensor]:
    """The tables as transformers computes them, every step in float32."""
    _, rows, columns = clip.grid
    block = 2 * (head_dim // 3 // 2)
    omega = torch.arange(block // 2, dtype=torch.float32)
    omega = 1.0 / 10000 ** (omega / (block / 2.0))
    number = torch.arange(clip.tokens)
    places = number // (rows * columns), number % (rows * columns) // columns, number % columns
    angles = torch.cat([(place[:, None] * omega).repeat(1, 2) for place in places], dim=1)
    tail = torch.zeros(clip.tokens, head_dim - 3 * block)
    sign = torch.tensor([-1.0, 1.0]).repeat(head_dim // 2)
    cos_NK, sin_NK = torch.cat([angles.cos(), tail + 1], dim=1), torch.cat([angles.sin(), tail], dim=1) * sign
    return cos_NK[:, None], sin_NK[:, None]


def test_positions_of_clips_that_are_not_square_use_their_own_grid() -> None:
    """The tokens' places, not the spec's trained square."""
    wide = replace(TINY_CLIP, height=32, width=96)
    encoder = tiny_encoder(clip=wide)
    assert encoder.rotary is not None
    cos_NK, _ = rotary_tables((2, 2, 6), 64)
    assert torch.equal(encoder.rotary.cos_N1K[:, 0], cos_NK)
    with torch.no_grad():
        assert encoder(torch.randn(wide.shape())).shape == (1, 24, 192)


def test_a_clip_of_another_shape_is_refused() -> None:
    with pytest.raises(SpecError, match=r"shape \(1, 6, 3, 64, 96\).*for \[B, 4, 3, 64, 96\]"):
        tiny_encoder()(torch.randn(1, 6, 3, 64, 96))


def test_a_clip_with_other_tubelets_is_refused() -> None:
    with pytest.raises(SpecError, match=r"tubelets of 1 .*tiny takes 2 and 16"):
        Encoder(tiny_spec(), ClipSpec(frames=4, height=64, width=64, tubelet=1))
