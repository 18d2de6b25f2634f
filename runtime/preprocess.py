"""How do frames of any size become the clip that the model was trained on?

Axes: T frames, H, W pixels, C colours.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError
from vjepa2.fitting import fit_pixels
from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.spec import ClipSpec

FramesArray = npt.NDArray[np.uint8]


def fit_clip(
    frames_THWC: FramesArray | Sequence[FramesArray],
    clip: ClipSpec,
    crop: Crop = CROP_DOWN,
    *,
    threads: int | None = None,
) -> FramesArray:
    """Frames `[T, H, W, 3]`, or a list of `[H, W, 3]`, uint8, each brought to the clip's size by `fit_pixels`.

    `threads` at once, or as many as this process has cores; their number changes nothing else.
    """
    for frame in frames_THWC:
        _check(frame)
    fitted = np.empty((len(frames_THWC), clip.height, clip.width, 3), np.uint8)

    def fit(index: int) -> None:
        fitted[index] = fit_pixels(frames_THWC[index], clip, crop)

    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fit, range(len(fitted))))
    return fitted


def _check(frame_HWC: FramesArray) -> None:
    if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3:
        raise VideoError(f"a frame is {frame_HWC.dtype} {list(frame_HWC.shape)}; they must be uint8 [H, W, 3]")
    if not frame_HWC.size:
        raise VideoError(f"frames are {frame_HWC.shape[0]} x {frame_HWC.shape[1]} pixels; they must not be empty")
