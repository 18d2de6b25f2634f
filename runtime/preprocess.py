"""How do frames of any size become the clip that the model was trained on?"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from vjepa2.errors import VideoError
from vjepa2.spec import ClipSpec

FramesArray = npt.NDArray[np.uint8]
_RESIZE, _CROP = 256, 224  # resize to 256/224 of the crop, as in the original evaluations


def fit_clip(frames_THWC: FramesArray, clip: ClipSpec) -> FramesArray:
    """Frames `[T, H, W, 3]`, uint8, resized to cover the clip with its margin and cropped at the centre.

    For a square clip this is transformers' VJEPA2VideoProcessor: the short side becomes int(size * 256 / 224), by
    antialiased bilinear interpolation rounded to uint8, and an odd margin is rounded down.
    """
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise VideoError(f"frames are {frames_THWC.dtype} {list(frames_THWC.shape)}; they must be uint8 [T, H, W, 3]")
    _, height, width, _ = frames_THWC.shape
    if not height or not width:
        raise VideoError(f"frames are {height} x {width} pixels; they must not be empty")
    new_height, new_width = _resized(height, width, clip)
    top, left = (new_height - clip.height) // 2, (new_width - clip.width) // 2
    box = (left, top, left + clip.width, top + clip.height)
    fitted = [_resize(frame, new_width, new_height).crop(box) for frame in frames_THWC]
    return np.stack([np.asarray(image) for image in fitted])


def _resized(height: int, width: int, clip: ClipSpec) -> tuple[int, int]:
    """The size to which a frame is brought: one side is the clip's with its margin, the other is not smaller."""
    if height * clip.width <= width * clip.height:
        new_height = int(clip.height * _RESIZE / _CROP)
        return new_height, int(new_height * width / height)
    new_width = int(clip.width * _RESIZE / _CROP)
    return int(new_width * height / width), new_width


def _resize(frame_HWC: FramesArray, width: int, height: int) -> Image.Image:
    return Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.BILINEAR)
