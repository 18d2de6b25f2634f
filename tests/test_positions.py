"""Are the sin-cos tables those of the papers, at every width?"""

import math

import numpy as np
import pytest
import torch
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table
from transformers.models.vjepa2.modeling_vjepa2 import rotate_queries_or_keys

from vjepa2.layers import RotaryTable
from vjepa2.positions import get_3d_sincos_pos_embed, rotary_tables
from vjepa2.spec import ClipSpec


def sincos_row(dim: int, place: int) -> list[float]:
    """The table of one axis, value by value: sines first, one more of them where `dim` is odd."""
    sines = dim // 2 + dim % 2
    angles = [place / 10000 ** (i / (dim / 2)) for i in range(sines)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles[: dim // 2]]


@pytest.mark.parametrize(
    ("width", "split"), [(1024, (341, 341, 342)), (96, (32, 32, 32)), (13, (4, 4, 5)), (2, (0, 1, 1)), (1, (0, 0, 1))]
)
def test_every_width_splits_into_time_height_and_width(width: int, split: tuple[int, int, int]) -> None:
    grid = (2, 3, 4)
    table = get_3d_sincos_pos_embed(width, grid[1:], grid[0]).numpy()
    expected = [
        [value for dim, place in zip(split, (t, row, column), strict=True) for value in sincos_row(dim, place)]
        for t in range(2)
        for row in range(3)
        for column in range(4)
    ]
    np.testing.assert_allclose(table, np.array(expected), atol=1e-7)


def test_an_even_width_equals_the_standard_table_to_the_bit() -> None:
    """Each third is sin(p w), cos(p w) with w = 1 / 10000^(i / (d / 2)), in float64, as in MAE and its followers."""
    table = get_3d_sincos_pos_embed(48, (5, 7), 6).numpy()
    omega = 1.0 / 10000 ** (np.arange(8, dtype=np.float64) / 8.0)
    for axis, places in enumerate(np.indices((6, 5, 7)).reshape(3, -1)):
        angles = np.einsum("m,d->md", places.astype(np.float64), omega)
        standard = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
        np.testing.assert_array_equal(table[:, 16 * axis : 16 * (axis + 1)], standard)


def test_an_axis_is_videomaes_table_with_the_sines_put_first() -> None:
    theirs = get_sinusoid_encoding_table(9, 16)[0].numpy()
    ours = get_3d_sincos_pos_embed(48, 1, 9).numpy()[:, :16]
    np.testing.assert_allclose(ours, np.concatenate([theirs[:, 0::2], theirs[:, 1::2]], axis=1), atol=1e-7)


def test_the_extra_sine_of_an_odd_width_is_a_real_column() -> None:
    time_part = get_3d_sincos_pos_embed(1024, 4, 8)[:, :341]
    assert time_part[:, 170].abs().max() > 0
    assert torch.equal(time_part[:, 170], time_part[:, 170].unique(sorted=True).repeat_interleave(16))


def test_a_square_grid_may_be_one_number() -> None:
    assert torch.equal(get_3d_sincos_pos_embed(48, 5, 2), get_3d_sincos_pos_embed(48, (5, 5), 2))


@pytest.mark.parametrize("sizes", [(0, 4, 2), (8, 0, 2), (8, 4, 0)])
def test_sizes_below_one_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        get_3d_sincos_pos_embed(*sizes)


@pytest.mark.parametrize("head_dim", [32, 64, 80, 88])
def test_rotary_turns_as_transformers_does(head_dim: int) -> None:
    clip = ClipSpec(frames=6, height=64, width=80)
    torch.manual_seed(0)
    x_BNQK = torch.randn(2, clip.tokens, 4, head_dim, dtype=torch.float64).float()
    turned = RotaryTable(clip, head_dim, "tiled")(x_BNQK)

    block = 2 * (head_dim // 3 // 2)
    number = torch.arange(clip.tokens)
    places = (number // 20, number % 20 // 5, number % 5)
    x_BQNK = x_BNQK.transpose(1, 2)
    parts = [
        rotate_queries_or_keys(x_BQNK[..., axis * block : (axis + 1) * block], place)
        for axis, place in enumerate(places)
    ]
    expected = torch.cat([*parts, x_BQNK[..., 3 * block :]], dim=-1).transpose(1, 2)
    torch.testing.assert_close(turned, expected, atol=2e-6, rtol=0)


def test_another_layout_turns_otherwise() -> None:
    """The comparison above would notice the layout of V-JEPA 2.1."""
    (tiled, _), (interleaved, _) = rotary_tables((4, 4, 4), 64, "tiled"), rotary_tables((4, 4, 4), 64, "interleaved")
    assert (tiled - interleaved).abs().max() > 0.5


def test_tables_keep_float32_and_their_values_in_a_half_model() -> None:
    table = RotaryTable(ClipSpec(frames=4, height=32, width=32), 64, "tiled")
    before = table.cos_N1K.clone()
    table.half()
    assert table.cos_N1K.dtype == torch.float32
    assert torch.equal(table.cos_N1K, before)
    assert table(torch.randn(1, 8, 2, 64).half()).dtype == torch.float16


def test_tables_survive_a_model_made_without_memory() -> None:
    with torch.device("meta"):
        table = RotaryTable(ClipSpec(frames=4, height=32, width=32), 64, "tiled")
    assert table.cos_N1K.device.type == "cpu"
    assert not list(table.state_dict())
