"""What does a clip look like, small enough to lie in a report: PNG as text, of what zlib and its specification give?

The base install has no library that writes pictures, and these are to be recognised, not looked at: 216 colours do.
Axes: T frames, H, W pixels, C colours.
"""

import binascii
import re
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .backends.base import FramesArray

MAX_CHARS = 100_000  # of all pictures of a clip together
MAX_SIDE = 512  # pixels of a picture that is read: a small file can hold a huge one
_SIDE = 96  # pixels of one that is written, at most, unless the clip has more patches than that
_PREFIX = "data:image/png;base64,"
_ADDRESS = re.compile(re.escape(_PREFIX) + r"([A-Za-z0-9+/]+={0,2})")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STEP = 51  # between neighbours of the six levels that a colour has
_PALETTE = bytes(
    _STEP * level for red in range(6) for green in range(6) for blue in range(6) for level in (red, green, blue)
)


def shrink_frames(frames_THWC: FramesArray, numbers: Sequence[int], patch: int) -> tuple[str, ...]:
    """The frames of `numbers` as addresses of PNG pictures, of which a whole number of pixels is a patch of `patch`.

    As large as a page needs them, or smaller until all have at most `MAX_CHARS`; none if even those are too large.
    """
    for step in (size for size in range(1, patch + 1) if patch % size == 0):
        if max(frames_THWC.shape[1:3]) // step > _SIDE and step < patch:
            continue
        pictures = tuple(_as_address(_write_png(_average(frames_THWC[number], step))) for number in numbers)
        if sum(map(len, pictures)) <= MAX_CHARS:
            return pictures
    return ()


def find_fault(pictures: Sequence[str]) -> str | None:
    """Why these are no pictures as `shrink_frames` gives them, or None."""
    for number, text in enumerate(pictures):
        if not _is_small_png(text):
            return (
                f"pictures[{number}] is {text[:40]!r}; it must be a PNG of at most {MAX_SIDE} pixels, as {_PREFIX}..."
            )
    chars = sum(map(len, pictures))
    return f"pictures have {chars} characters; they must have at most {MAX_CHARS}" if chars > MAX_CHARS else None


def _is_small_png(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return False
    try:
        png = b64decode(match[1], validate=True)
    except binascii.Error:
        return False
    if png[:16] != _SIGNATURE + struct.pack(">I4s", 13, b"IHDR") or len(png) < 33:
        return False
    return all(1 <= side <= MAX_SIDE for side in struct.unpack(">II", png[16:24]))


def _average(frame_HWC: FramesArray, step: int) -> npt.NDArray[np.float64]:
    """The means of squares of `step` pixels; what is left over at the right and below is not looked at."""
    high, wide = (side // step for side in frame_HWC.shape[:2])
    squares = frame_HWC[: high * step, : wide * step].reshape(high, step, wide, step, 3)
    means_HWC: npt.NDArray[np.float64] = squares.mean((1, 3))
    return means_HWC


def _write_png(pixels_HWC: npt.NDArray[np.float64]) -> bytes:
    """Each pixel as the number of its nearest colour in the palette."""
    levels_HWC = np.rint(pixels_HWC / _STEP).astype(np.uint8)
    numbers_HW = levels_HWC @ np.array([36, 6, 1], np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in numbers_HW)  # 0: a line is not told by its neighbours
    high, wide = numbers_HW.shape
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 3, 0, 0, 0)),  # 8 bits a pixel, into a palette
        (b"PLTE", _PALETTE),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _as_address(png: bytes) -> str:
    return _PREFIX + b64encode(png).decode()
