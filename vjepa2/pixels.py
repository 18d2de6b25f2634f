"""How does a picture of any size become the pixels that the model was trained on? The only file that imports PIL.

Axes: H, W pixels, C colours.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from vjepa2.errors import ImageError
from vjepa2.spec import ClipSpec

PixelArray = npt.NDArray[np.uint8]
_RESIZE, _CROP = 256, 224  # resize to 256/224 of the crop, as in the original evaluations
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_image(file: str | Path) -> PixelArray:
    """Pixels `[H, W, 3]`, uint8 RGB, of an image file, upright as its camera held it; `ImageError` if it is broken."""
    try:
        with Image.open(file) as image:
            if image.mode not in _EIGHT_BITS:
                raise ImageError(f"{file} has pixels of mode {image.mode}; they must be 8-bit, as {_EIGHT_BITS}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ImageError(f"{file} is not an image that can be read; mend it or take it out of its folder") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL's, of damaged files
        raise ImageError(f"{file} cannot be read whole ({error}); mend it or take it out of its folder") from error


def fit_pixels(frame_HWC: PixelArray, clip: ClipSpec) -> PixelArray:
    """One uint8 frame resized to cover `clip` with its margin, then cropped at the centre: `[height, width, 3]`.

    For a square clip this is transformers' VJEPA2VideoProcessor: the short side becomes int(size * 256 / 224), by
    antialiased bilinear interpolation rounded to uint8, and an odd margin is rounded down.
    """
    old_height, old_width, _ = frame_HWC.shape
    height, width = _resized(old_height, old_width, clip, _RESIZE / _CROP)
    image = Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.BILINEAR)
    return _crop(image, clip, (height - clip.height) // 2, (width - clip.width) // 2)


def slide_pixels(frame_HWC: PixelArray, clip: ClipSpec, views: int) -> list[PixelArray]:
    """At least two crops of a frame that is resized to cover `clip` without a margin, as in the original evaluations.

    They lie along the side that is longer than the clip's, from its start on, in equal steps rounded down.
    """
    old_height, old_width, _ = frame_HWC.shape
    height, width = _resized(old_height, old_width, clip, 1)
    image = Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.BILINEAR)
    down, right = (height - clip.height) // (views - 1), (width - clip.width) // (views - 1)
    return [_crop(image, clip, view * down, view * right) for view in range(views)]


def _crop(image: Image.Image, clip: ClipSpec, top: int, left: int) -> PixelArray:
    return np.asarray(image.crop((left, top, left + clip.width, top + clip.height)))


def _resized(height: int, width: int, clip: ClipSpec, margin: float) -> tuple[int, int]:
    """The size to which a frame is brought: one side is the clip's times `margin`, the other is not smaller."""
    if height * clip.width <= width * clip.height:
        new_height = int(clip.height * margin)
        return new_height, int(new_height * width / height)
    new_width = int(clip.width * margin)
    return int(new_width * height / width), new_width
