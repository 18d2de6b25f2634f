"""Which pixels does an image file hold? The only file that imports PIL."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vjepa2.errors import ImageError
from vjepa2.fitting import PixelArray

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
