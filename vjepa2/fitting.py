"""How does a picture of any size become the pixels that the model was trained on, bit for bit as the reference does?

Resizing is what torchvision does to uint8: columns first, then rows, each by antialiased bilinear weights that are
rounded to 16 bits, each sum rounded to uint8. In floating point wide enough all of it is exact, so BLAS may do it.

Axes: V views, T frames, S planes or strips of them, H, W pixels, C colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor

import numpy as np
import numpy.typing as npt

from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.spec import ClipSpec

PixelArray = npt.NDArray[np.uint8]
_RESIZE, _CROP = 256, 224  # resize to 256/224 of the crop, as in the original evaluations
_BLOCK = 16  # new pixels that one matrix makes: fewer look at fewer zeros, more keep BLAS busy
_STRIP = 128  # rows that a product takes at once; products so small leave threads to their caller, larger ones fight
_EXACT_BITS = 16  # of a weight: times 255 it fits the 24 bits of a float32


def fit_pixels(frame_HWC: PixelArray, clip: ClipSpec, crop: Crop = CROP_DOWN) -> PixelArray:
    """One uint8 frame resized to cover `clip` with its margin, then cropped at the centre: `[height, width, 3]`.

    For a square clip this is transformers' VJEPA2VideoProcessor: the short side becomes int(size * 256 / 224), by
    antialiased bilinear interpolation rounded to uint8, and an odd margin is rounded down, or as `crop` says.
    """
    fitted_HWC: PixelArray = fit_frames([frame_HWC], clip, 1, crop)[0, 0]
    return fitted_HWC


def fit_frames(
    frames: PixelArray | Sequence[PixelArray], clip: ClipSpec, views: int = 1, crop: Crop = CROP_DOWN
) -> PixelArray:
    """Frames `[H, W, 3]` of one size as views `[V, T, height, width, 3]`: one as `fit_pixels` says, or several crops.

    Of several, the frame is resized to cover `clip` without a margin, as in the original evaluations; they lie along
    the side that is longer than the clip's, from its start on, in equal steps rounded down.
    """
    height, width = _resized(frames[0], clip, _RESIZE / _CROP if views == 1 else 1)
    high, wide = height - clip.height, width - clip.width
    if views == 1:
        halves = [margin // 2 if crop == CROP_DOWN else round(margin / 2) for margin in (high, wide)]
        places = [(halves[0], halves[1])]
    else:
        places = [(view * (high // (views - 1)), view * (wide // (views - 1))) for view in range(views)]
    return np.stack(
        [_cut(frames, _Cut(height, top, clip.height), _Cut(width, left, clip.width)) for top, left in places]
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """Along one side, in new pixels: of `resized`, `kept` from `first` on."""

    resized: int
    first: int
    kept: int


def _cut(frames: PixelArray | Sequence[PixelArray], down: _Cut, right: _Cut) -> PixelArray:
    """The part of resized frames that is kept; of the old ones no more is looked at than makes it."""
    rows, columns = _weigh(frames[0].shape[0], down), _weigh(frames[0].shape[1], right)
    high, wide = rows.end - rows.first, columns.end - columns.first
    strips = -(-high // _STRIP)
    old_TCHW = np.empty((len(frames), 3, strips * _STRIP, wide), columns.blocks[0].weights.dtype)
    old_TCHW[:, :, high:] = 0  # the last strip's rest is computed with the others, and may be no number
    for old_CHW, frame_HWC in zip(old_TCHW, frames, strict=True):
        old_CHW[:, :high] = frame_HWC[rows.first : rows.end, columns.first : columns.end].transpose(2, 0, 1)
    narrow = _narrow(old_TCHW.reshape(-1, _STRIP, wide), columns, right.kept)
    fitted = _shorten(narrow.reshape(len(frames) * 3, -1, right.kept), rows, down.kept)
    fitted_TCHW = fitted.astype(np.uint8).reshape(len(frames), 3, down.kept, right.kept)
    return np.ascontiguousarray(fitted_TCHW.transpose(0, 2, 3, 1))


@dataclass(frozen=True, slots=True)
class _Block:
    """Some neighbouring new pixels: which old ones make them, and with which weights `[new, old]`."""

    start: int  # of the new
    first: int  # of the old, counted from the first one that is looked at
    weights: npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a picture: old pixels from `first` up to `end` are looked at."""

    first: int
    end: int
    blocks: tuple[_Block, ...]


def _narrow(strips_SHW: npt.NDArray[np.floating], side: _Side, width: int) -> npt.NDArray[np.floating]:
    new_SHW = np.empty((*strips_SHW.shape[:2], width), strips_SHW.dtype)
    for block in side.blocks:
        new, old = block.weights.shape
        seen_SHW = strips_SHW[:, :, block.first : block.first + old]
        np.matmul(seen_SHW, block.weights.T, out=new_SHW[:, :, block.start : block.start + new])
    return _round(new_SHW)


def _shorten(rows_SHW: npt.NDArray[np.floating], side: _Side, height: int) -> npt.NDArray[np.floating]:
    dtype = side.blocks[0].weights.dtype
    rows_SHW = rows_SHW.astype(dtype, copy=False)
    new_SHW = np.empty((len(rows_SHW), height, rows_SHW.shape[2]), dtype)
    for block in side.blocks:
        new, old = block.weights.shape
        seen_SHW = rows_SHW[:, block.first : block.first + old]
        np.matmul(block.weights, seen_SHW, out=new_SHW[:, block.start : block.start + new])
    return _round(new_SHW)


def _round(sums: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Halves up, as adding half and shifting does; weights that sum to a hair above one do not reach 256."""
    sums += 0.5
    np.floor(sums, out=sums)
    return sums


@lru_cache(maxsize=64)
def _weigh(old: int, cut: _Cut) -> _Side:
    weights = [_triangle(old, cut.resized, new) for new in range(cut.resized)]
    bits = _find_bits(max(float(row.max()) for _, row in weights))
    dtype = np.float32 if bits <= _EXACT_BITS else np.float64
    wanted = weights[cut.first : cut.first + cut.kept]
    first, end = wanted[0][0], max(start + len(row) for start, row in wanted)
    blocks = []
    for start in range(0, cut.kept, _BLOCK):
        part = wanted[start : start + _BLOCK]
        begin, stop = part[0][0], max(old_start + len(row) for old_start, row in part)
        matrix = np.zeros((len(part), stop - begin), dtype)
        for line, (old_start, row) in zip(matrix, part, strict=True):
            line[old_start - begin : old_start - begin + len(row)] = np.floor(row * 2**bits + 0.5) / 2**bits
        blocks.append(_Block(start, begin - first, matrix))
    return _Side(first, end, tuple(blocks))


def _triangle(old: int, resized: int, new: int) -> tuple[int, npt.NDArray[np.float64]]:
    """The first old pixel that makes a new one, and the weights from there on: they fall to both sides and sum to 1."""
    scale = old / resized
    reach, centre = max(scale, 1.0), scale * (new + 0.5)
    first, end = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), old)
    row = np.maximum(0.0, 1 - np.abs((np.arange(first, end) - centre + 0.5) / reach))
    return first, row / row.sum()


def _find_bits(largest: float) -> int:
    """Bits behind the point of a 16-bit weight: as many as leave the largest one positive, and at most 22."""
    bits = 0
    while bits < 22 and floor(largest * 2 ** (bits + 1) + 0.5) < 2**15:
        bits += 1
    return bits


def _resized(frame_HWC: PixelArray, clip: ClipSpec, margin: float) -> tuple[int, int]:
    """The size to which a frame is brought: one side is the clip's times `margin`, the other is not smaller."""
    height, width, _ = frame_HWC.shape
    if height * clip.width <= width * clip.height:
        new_height = int(clip.height * margin)
        return new_height, int(new_height * width / height)
    new_width = int(clip.width * margin)
    return int(new_width * height / width), new_width
