"""Are frames resized and cropped as the model was trained?"""

import numpy as np
import pytest

from vjepa2.errors import VideoError
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.preprocess import fit_clip, fit_views
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec

SMALL = ClipSpec(frames=2, height=64, width=64)


def by_torch(frames_THWC: FramesArray, crop: int) -> FramesArray:
    """Antialiased bilinear resize of uint8 by PyTorch, short side to int(crop * 256 / 224), and a centre crop."""
    torch = pytest.importorskip("torch")
    height, width = frames_THWC.shape[1:3]
    short = int(crop * 256 / 224)
    size = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(frames_THWC).permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
    ).permute(0, 2, 3, 1)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    cropped: FramesArray = resized[:, top : top + crop, left : left + crop].numpy()
    return cropped


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (240, 240), (70, 64), (48, 50), (720, 1280), (65, 301)])
@pytest.mark.parametrize("crop", [64, 256])
def test_pixels_are_within_one_of_torchs(size: tuple[int, int], crop: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    clip = ClipSpec(frames=2, height=crop, width=crop)
    ours, theirs = fit_clip(frames, clip).astype(int), by_torch(frames, crop).astype(int)
    assert ours.shape == theirs.shape == (2, crop, crop, 3)
    assert np.abs(ours - theirs).max() <= 1


def test_a_crop_one_pixel_off_would_be_noticed() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 180, 320, 3), dtype=np.uint8)
    ours = fit_clip(frames, SMALL).astype(int)
    theirs = np.roll(by_torch(frames, 64), 1, axis=2).astype(int)
    assert np.abs(ours - theirs).max() > 20


def test_the_16_by_9_margin_is_rounded_down() -> None:
    """519 - 256 = 263 columns to remove: 131 on the left, as transformers does; Python's round would say 132."""
    ramp = np.broadcast_to(np.linspace(0, 255, 519).astype(np.uint8)[None, None, :, None], (2, 292, 519, 3))
    clip = ClipSpec(frames=2, height=256, width=256)
    assert np.array_equal(fit_clip(np.ascontiguousarray(ramp), clip)[0, 0, :, 0], ramp[0, 0, 131 : 131 + 256, 0])


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
    resized = F.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2), size=(64, 113), mode="bilinear", antialias=True
    ).permute(0, 2, 3, 1)
    for number, view in enumerate(fit_views(frames, SMALL, 3)):
        left = number * ((113 - 64) // 2)
        assert np.abs(view.astype(int) - resized[:, :, left : left + 64].numpy()).max() <= 1


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


def test_normalising_is_that_of_transformers() -> None:
    """(x - 255 mean) / (255 std), channels first, in float32."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 5, 3), dtype=np.uint8)
    torch = pytest.importorskip("torch")
    expected = (torch.from_numpy(frames).float() / 255 - torch.tensor(RGB_MEAN)) / torch.tensor(RGB_STD)
    got = normalise(frames, RGB_MEAN, RGB_STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.permute(0, 1, 4, 2, 3).numpy(), atol=1e-6)
