"""Are frames resized and cropped as the model was trained?"""

import hashlib
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from tests.record_preprocessing import CROPS, ROWS, TARGET, list_shapes, paint
from vjepa2 import fitting
from vjepa2.errors import VideoError
from vjepa2.fitting import fit_frames, fit_pixels
from vjepa2.manifest import CROP_EVEN
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.preprocess import fit_clip, fit_views
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec

SMALL = ClipSpec(frames=2, height=64, width=64)


RECORDED = np.load(TARGET)


def resize_by_torch(frames_THWC: FramesArray, size: tuple[int, int]) -> FramesArray:
    """Antialiased bilinear resize of uint8 by PyTorch."""
    torch = pytest.importorskip("torch")
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    resized_TCHW = torch.nn.functional.interpolate(frames_TCHW, size=size, mode="bilinear", antialias=True)
    resized: FramesArray = resized_TCHW.permute(0, 2, 3, 1).numpy()
    return resized


def by_torch(frames_THWC: FramesArray, crop: int, round_half: Callable[[float], int] = int) -> FramesArray:
    """The short side to int(crop * 256 / 224), and a centre crop."""
    height, width = frames_THWC.shape[1:3]
    short = int(crop * 256 / 224)
    size = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    resized = resize_by_torch(frames_THWC, size)
    top, left = round_half((size[0] - crop) / 2), round_half((size[1] - crop) / 2)
    return resized[:, top : top + crop, left : left + crop]


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_are_those_of_the_processor_for_every_shape(crop: int) -> None:
    """12 aspect ratios x 5 sizes, recorded: within 1 of 255 was asked, and none differs."""
    clip = ClipSpec(frames=2, height=crop, width=crop)
    for shape, rows, digest in zip(list_shapes(), RECORDED[f"rows_{crop}"], RECORDED[f"sha256_{crop}"], strict=True):
        pixels = fit_pixels(paint(*shape), clip)
        assert np.abs(pixels[list(ROWS)].astype(int) - rows).max() == 0, shape
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest, shape


def test_the_test_above_can_fail() -> None:
    """Of a picture whose margin is odd, the other rounding is another picture, by far."""
    place = list_shapes().index((720, 1280))
    pixels = fit_pixels(paint(720, 1280), ClipSpec(frames=2, height=256, width=256), CROP_EVEN)
    assert np.abs(pixels[list(ROWS)].astype(int) - RECORDED["rows_256"][place]).max() > 20


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (240, 240), (70, 64), (48, 50), (720, 1280), (65, 301)])
@pytest.mark.parametrize("crop", [64, 256])
def test_pixels_are_those_of_torch(size: tuple[int, int], crop: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    clip = ClipSpec(frames=2, height=crop, width=crop)
    assert np.array_equal(fit_clip(frames, clip), by_torch(frames, crop))


@pytest.mark.parametrize("size", [(64, 64), (2, 3), (1, 400), (1080, 1920)])
def test_very_small_and_very_large_frames_are_those_of_torch_too(size: tuple[int, int]) -> None:
    """Shrunk by more than four, weights are too fine for float32."""
    frames = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    assert np.array_equal(fit_clip(frames, SMALL), by_torch(frames, 64))


def test_a_place_to_write_to_may_lie_anyhow_in_memory() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    out = np.zeros((3, 64, 3, 64, 2, 3), np.uint8).transpose(4, 2, 1, 3, 0, 5)[..., 1, :]
    assert out.shape == (2, 3, 64, 64, 3)
    assert fit_frames(frames, SMALL, 2, out=out) is out
    assert np.array_equal(out, fit_frames(frames, SMALL, 2))


def test_white_stays_white_and_black_black() -> None:
    for value in (0, 255):
        frames = np.full((1, 241, 427, 3), value, np.uint8)
        assert (fit_clip(frames, SMALL) == value).all()


def test_the_other_rounding_of_odd_margins_is_that_of_the_original_code() -> None:
    """It takes int(round(margin / 2)), and Python rounds a half to the even number."""
    for width in range(300, 330):
        frames = np.random.default_rng(width).integers(0, 256, (1, 180, width, 3), dtype=np.uint8)
        assert np.array_equal(fit_clip(frames, SMALL, CROP_EVEN), by_torch(frames, 64, round)), width


@pytest.mark.parametrize("together", [1, 300_000, 2_500_000])  # 1, 2 and all of a thread's frames in a product
def test_threads_products_and_the_order_of_memory_change_nothing(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 90, 120, 3), dtype=np.uint8)
    expected = np.stack([fit_pixels(frame, SMALL) for frame in frames])
    monkeypatch.setattr(fitting, "_TOGETHER", together)
    turned = frames.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)
    for other in (frames, list(frames), turned, frames[:, :, ::-1][:, :, ::-1]):
        assert np.array_equal(fit_clip(other, SMALL, threads=3), expected)


def test_what_memory_held_before_changes_nothing_and_nobody_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 501, 700, 3), dtype=np.uint8)
    idle = deque[FramesArray]()
    monkeypatch.setattr(fitting, "_IDLE", idle)
    expected = fit_frames(frames, SMALL)
    (memory,) = idle
    memory.fill(255)  # of float32 and of float64 a NaN
    assert np.array_equal(fit_frames(frames, SMALL), expected)
    assert idle[0] is memory, "it was taken again"
    with fitting._borrow([(5,)], np.dtype(np.float32)) as mine, fitting._borrow([(5,)], np.dtype(np.float32)) as others:
        assert not np.shares_memory(mine[0], others[0])
    monkeypatch.setattr(fitting, "_KEPT", memory.size - 1)
    idle.clear()
    fit_frames(frames, SMALL)
    assert not idle, "what is too large is freed"


def test_the_16_by_9_margin_is_rounded_down_or_to_the_even_number() -> None:
    """519 - 256 = 263 columns to remove: 131 on the left as transformers does, 132 as the original code."""
    ramp = np.broadcast_to(np.linspace(0, 255, 519).astype(np.uint8)[None, None, :, None], (2, 292, 519, 3))
    clip = ClipSpec(frames=2, height=256, width=256)
    assert np.array_equal(fit_clip(ramp, clip)[0, 0, :, 0], ramp[0, 0, 131 : 131 + 256, 0])
    assert np.array_equal(fit_clip(ramp, clip, CROP_EVEN)[0, 0, :, 0], ramp[0, 0, 132 : 132 + 256, 0])


def test_a_wide_clip_keeps_the_margin_on_the_side_that_is_tight() -> None:
    frames = np.zeros((2, 120, 160, 3), np.uint8)
    for clip in (ClipSpec(frames=2, height=64, width=128), ClipSpec(frames=2, height=128, width=64)):
        assert fit_clip(frames, clip).shape == (2, clip.height, clip.width, 3)


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((64, 105), [(0, 0), (0, 20), (0, 40)]),  # an odd margin is rounded down, and so is the last place
        ((104, 64), [(0, 0), (20, 0), (40, 0)]),
        ((64, 64), [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_views_lie_along_the_long_side_and_have_no_margin(size: tuple[int, int], places: list[tuple[int, int]]) -> None:
    """Frames that are as high or as wide as the clip are not resized."""
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    views = fit_views(frames, SMALL, 3)
    for view, (top, left) in zip(views, places, strict=True):
        assert np.array_equal(view, frames[:, top : top + 64, left : left + 64])


def test_views_are_resized_by_their_short_side() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 180, 320, 3), dtype=np.uint8)
    resized = resize_by_torch(frames, (64, 113))
    for number, view in enumerate(fit_views(frames, SMALL, 3)):
        left = number * ((113 - 64) // 2)
        assert np.array_equal(view, resized[:, :, left : left + 64])


def test_one_view_is_the_clip() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 180, 320, 3), dtype=np.uint8)
    assert np.array_equal(fit_views(frames, SMALL, 1)[0], fit_clip(frames, SMALL))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 0, 8, 3), np.uint8),
    ],
)
def test_what_is_not_frames_is_refused(frames: FramesArray, views: int) -> None:
    with pytest.raises(VideoError, match="they must"):
        fit_views(frames, SMALL, views)


def test_frames_of_two_sizes_are_no_clip() -> None:
    with pytest.raises(VideoError, match=r"frames are of 2 sizes, \[\(8, 8\), \(8, 9\)\]; .* must be of one size"):
        fit_clip([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], SMALL)


def test_normalising_is_that_of_transformers() -> None:
    """(x - 255 mean) / (255 std), channels first, in float32."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 5, 3), dtype=np.uint8)
    torch = pytest.importorskip("torch")
    expected = (torch.from_numpy(frames).float() / 255 - torch.tensor(RGB_MEAN)) / torch.tensor(RGB_STD)
    got = normalise(frames, RGB_MEAN, RGB_STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.permute(0, 1, 4, 2, 3).numpy(), atol=1e-6)


def test_normalising_plane_by_plane_gives_the_bits_of_the_formula() -> None:
    mean_C, std_C = np.array(RGB_MEAN, np.float32), np.array(RGB_STD, np.float32)
    frames = np.arange(256, dtype=np.uint8).repeat(12)[::-1].reshape(2, 2, 16, 16, 3)
    for each in (frames, np.ascontiguousarray(frames[..., ::-1])[..., ::-1], frames[:, ::-1, :, ::2]):
        pixels = (each.astype(np.float32) - 255 * mean_C) / (255 * std_C)
        got = normalise(each, RGB_MEAN, RGB_STD)
        assert got.flags.c_contiguous
        assert got.tobytes() == np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3)).tobytes()
