"""How do frames of any size become the clip that the model was trained on?

Axes: V views, T frames, H, W pixels, C colours.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError
from vjepa2.fitting import fit_frames
from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.spec import ClipSpec

FramesArray = npt.NDArray[np.uint8]
_TOGETHER = 8  # frames that a thread takes at once, at most: what it works in is made once for them


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
    fitted: FramesArray = fit_views(frames_THWC, clip, 1, crop, threads=threads)[0]
    return fitted


def fit_views(
    frames_THWC: FramesArray | Sequence[FramesArray],
    clip: ClipSpec,
    views: int,
    crop: Crop = CROP_DOWN,
    *,
    threads: int | None = None,
) -> FramesArray:
    """Views `[V, T, H, W, 3]` of the clip's size: one is `fit_clip`'s, more are along its longer side."""
    for frame in frames_THWC:
        _check(frame)
    sizes = {frame.shape[:2] for frame in frames_THWC}
    if len(sizes) > 1:
        raise VideoError(f"frames are of {len(sizes)} sizes, {sorted(sizes)}; the frames of a clip must be of one size")
    workers = threads or len(os.sched_getaffinity(0))
    step = max(1, min(_TOGETHER, -(-len(frames_THWC) // workers)))
    fitted_VTHWC = np.empty((views, len(frames_THWC), clip.height, clip.width, 3), np.uint8)

    def fit(first: int) -> None:
        part = slice(first, first + step)
        fit_frames(frames_THWC[part], clip, views, crop, out=fitted_VTHWC[:, part])

    parts = range(0, len(frames_THWC), step)
    if len(parts) == 1:  # to start a thread for it takes longer than to do it
        fit(0)
        return fitted_VTHWC
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fit, parts))
    return fitted_VTHWC


def _check(frame_HWC: FramesArray) -> None:
    if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3:
        raise VideoError(f"a frame is {frame_HWC.dtype} {list(frame_HWC.shape)}; they must be uint8 [H, W, 3]")
    if not frame_HWC.size:
        raise VideoError(f"frames are {frame_HWC.shape[0]} x {frame_HWC.shape[1]} pixels; they must not be empty")
