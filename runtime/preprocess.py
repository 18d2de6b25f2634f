"""How do frames of any size become the clip that the model was trained on?"""

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError
from vjepa2.pixels import fit_pixels, slide_pixels
from vjepa2.spec import ClipSpec

FramesArray = npt.NDArray[np.uint8]


def fit_clip(frames_THWC: FramesArray, clip: ClipSpec) -> FramesArray:
    """Frames `[T, H, W, 3]`, uint8, each brought to the clip's size as `vjepa2.pixels.fit_pixels` says."""
    _check(frames_THWC)
    return np.stack([fit_pixels(frame, clip) for frame in frames_THWC])


def fit_views(frames_THWC: FramesArray, clip: ClipSpec, views: int) -> FramesArray:
    """Views `[V, T, H, W, 3]` of the clip's size: one is `fit_clip`'s, more are `vjepa2.pixels.slide_pixels`'s."""
    if views == 1:
        return fit_clip(frames_THWC, clip)[None]
    _check(frames_THWC)
    return np.stack([slide_pixels(frame, clip, views) for frame in frames_THWC], axis=1)


def _check(frames_THWC: FramesArray) -> None:
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise VideoError(f"frames are {frames_THWC.dtype} {list(frames_THWC.shape)}; they must be uint8 [T, H, W, 3]")
    _, height, width, _ = frames_THWC.shape
    if not height or not width:
        raise VideoError(f"frames are {height} x {width} pixels; they must not be empty")
