"""How does a picture of any size become the pixels that the model was trained on, bit for bit as the reference does?

Resizing is what torchvision does to uint8: columns first, then rows, each by antialiased bilinear weights that are
rounded to 16 bits, each sum rounded to uint8. In floating point wide enough all of it is exact, so BLAS may do it.

Axes: V views, T frames, S strips of R rows, H, W pixels, C colours, X = W * C: colours stay beside each other.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import floor, prod

import numpy as np
import numpy.typing as npt

from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.spec import ClipSpec

PixelArray = npt.NDArray[np.uint8]
_RESIZE, _CROP = 256, 224  # resize to 256/224 of the crop, as in the original evaluations
_ROWS = 8  # new ones that one product makes: fewer meet fewer zeros, more keep BLAS busy
_COLUMNS = 16  # the same, and half as many where each is made of many old ones; their values fill vectors
_TOGETHER = 2_500_000  # bytes of old pixels in one product: more keep BLAS busy, fewer fit the cache
_PRODUCT = 4 * 65536  # multiplications up to which OpenBLAS leaves threads to its caller: beyond, both fight for cores
_EXACT_BITS = 16  # of a weight: times 255 it fits the 24 bits of a float32
_KEPT = 16_000_000  # bytes to work in that are left to the next: fresh pages would take as long as the work
_IDLE: deque[npt.NDArray[np.uint8]] = deque(maxlen=8)


def fit_pixels(frame_HWC: PixelArray, clip: ClipSpec, crop: Crop = CROP_DOWN) -> PixelArray:
    """One uint8 frame resized to cover `clip` with its margin, then cropped at the centre: `[height, width, 3]`.

    For a square clip this is transformers' VJEPA2VideoProcessor: the short side becomes int(size * 256 / 224), by
    antialiased bilinear interpolation rounded to uint8, and an odd margin is rounded down, or as `crop` says.
    """
    fitted_HWC: PixelArray = fit_frames([frame_HWC], clip, 1, crop)[0, 0]
    return fitted_HWC


def fit_frames(
    frames: PixelArray | Sequence[PixelArray],
    clip: ClipSpec,
    views: int = 1,
    crop: Crop = CROP_DOWN,
    *,
    out: PixelArray | None = None,
) -> PixelArray:
    """Frames `[H, W, 3]` of one size as views `[V, T, height, width, 3]`: one as `fit_pixels` says, or several crops.

    Of several, the frame is resized to cover `clip` without a margin, as in the original evaluations; they lie along
    the side that is longer than the clip's, from its start on, in equal steps rounded down. `out` is filled if given.
    """
    height, width = _resized(frames[0], clip, _RESIZE / _CROP if views == 1 else 1)
    high, wide = height - clip.height, width - clip.width
    if views == 1:
        halves = [margin // 2 if crop == CROP_DOWN else round(margin / 2) for margin in (high, wide)]
        places = [(halves[0], halves[1])]
    else:
        places = [(view * (high // (views - 1)), view * (wide // (views - 1))) for view in range(views)]
    shape = (len(places), len(frames), clip.height, clip.width, 3)
    fitted_VTHWC = np.empty(shape, np.uint8) if out is None else out
    for fitted_THWC, (top, left) in zip(fitted_VTHWC, places, strict=True):
        _cut(frames, _Cut(height, top, clip.height), _Cut(width, left, clip.width), fitted_THWC)
    return fitted_VTHWC


@dataclass(frozen=True, slots=True)
class _Cut:
    """Along one side, in new pixels: of `resized`, `kept` from `first` on."""

    resized: int
    first: int
    kept: int


def _cut(frames: PixelArray | Sequence[PixelArray], down: _Cut, right: _Cut, fitted_THWC: PixelArray) -> None:
    """Write the part of resized frames that is kept; of the old ones no more is looked at than makes it."""
    rows, columns = _weigh_rows(frames[0].shape[0], down), _weigh_columns(frames[0].shape[1], right)
    high, old_wide, new_wide = rows.end - rows.first, 3 * (columns.end - columns.first), 3 * right.kept
    strips = -(-high * max(block.weights.size for block in columns.blocks) // _PRODUCT)
    strip, dtype = -(-high // strips), np.promote_types(rows.dtype, columns.dtype)
    together = min(len(frames), max(1, _TOGETHER // (high * old_wide * dtype.itemsize)))
    shapes = [
        (together, strips * strip, old_wide),
        (together, strips * strip, new_wide),
        (together, down.kept, new_wide),
    ]
    with _borrow(shapes, dtype) as (old_TRX, narrow_TRX, new_THX):
        old_TRX[:, high:] = 0  # the last strip's rest, of which nothing is kept
        for start in range(0, len(frames), together):
            part = frames[start : start + together]
            count = len(part)
            for old_RX, frame_HWC in zip(old_TRX, part, strict=False):
                seen_HWC = frame_HWC[rows.first : rows.end, columns.first : columns.end]
                old_RX[:high].reshape(seen_HWC.shape)[...] = seen_HWC
            narrow_SRX = narrow_TRX[:count].reshape(-1, strip, new_wide)
            _narrow(old_TRX[:count].reshape(-1, strip, old_wide), columns, narrow_SRX)
            _shorten(narrow_TRX[:count], rows, new_THX[:count])
            new_THWC = new_THX[:count].reshape(count, down.kept, right.kept, 3)
            np.add(new_THWC, 0.5, out=fitted_THWC[start : start + count], casting="unsafe")  # uint8 is rounded down


@contextmanager
def _borrow(
    shapes: Sequence[tuple[int, ...]], dtype: np.dtype[np.floating]
) -> Iterator[list[npt.NDArray[np.floating]]]:
    """Arrays of these shapes that hold anything, in memory that nobody else has meanwhile."""
    sizes = [prod(shape) * dtype.itemsize for shape in shapes]
    try:
        memory = _IDLE.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    if memory.size < sum(sizes):
        memory = np.empty(sum(sizes), np.uint8)
    parts, start = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        parts.append(memory[start : start + size].view(dtype).reshape(shape))
        start += size
    yield parts
    if memory.size <= _KEPT:
        _IDLE.append(memory)


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring new values, the old ones that make them, counted from the first that is looked at, and weights."""

    new: slice
    old: slice
    weights: npt.NDArray[np.floating]  # of rows `[new, old]`, of columns `[old, new]`


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a picture: old pixels from `first` up to `end` are looked at."""

    first: int
    end: int
    blocks: tuple[_Block, ...]

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """In which sums by these weights are exact."""
        return self.blocks[0].weights.dtype


def _narrow(old_SRX: npt.NDArray[np.floating], side: _Side, new_SRX: npt.NDArray[np.floating]) -> None:
    """Rounds halves up, as adding half and shifting does; weights that sum to a hair above one do not reach 256."""
    for block in side.blocks:
        np.matmul(old_SRX[:, :, block.old], block.weights, out=new_SRX[:, :, block.new])
    np.add(new_SRX, 0.5, out=new_SRX)
    np.floor(new_SRX, out=new_SRX)


def _shorten(old_TRX: npt.NDArray[np.floating], side: _Side, new_THX: npt.NDArray[np.floating]) -> None:
    for block in side.blocks:
        np.matmul(block.weights, old_TRX[:, block.old], out=new_THX[:, block.new])


@lru_cache(maxsize=64)
def _weigh_columns(old: int, cut: _Cut) -> _Side:
    """Weights for values whose three colours lie side by side: each is made of its own kind, the others weigh 0."""
    side = _weigh(old, cut, _COLUMNS if old < 2 * cut.resized else _COLUMNS // 2)
    blocks = tuple(
        _Block(
            slice(3 * block.new.start, 3 * block.new.stop),
            slice(3 * block.old.start, 3 * block.old.stop),
            np.ascontiguousarray(np.kron(block.weights.T, np.eye(3, dtype=side.dtype))),
        )
        for block in side.blocks
    )
    return _Side(side.first, side.end, blocks)


@lru_cache(maxsize=64)
def _weigh_rows(old: int, cut: _Cut) -> _Side:
    return _weigh(old, cut, _ROWS)


def _weigh(old: int, cut: _Cut, size: int) -> _Side:
    """Blocks of `size` new pixels."""
    weights = [_triangle(old, cut.resized, new) for new in range(cut.resized)]
    bits = _find_bits(max(float(row.max()) for _, row in weights))
    dtype = np.float32 if bits <= _EXACT_BITS else np.float64
    wanted = weights[cut.first : cut.first + cut.kept]
    first, end = wanted[0][0], max(start + len(row) for start, row in wanted)
    blocks = []
    for start in range(0, cut.kept, size):
        part = wanted[start : start + size]
        begin, stop = part[0][0], max(old_start + len(row) for old_start, row in part)
        matrix = np.zeros((len(part), stop - begin), dtype)
        for line, (old_start, row) in zip(matrix, part, strict=True):
            line[old_start - begin : old_start - begin + len(row)] = np.floor(row * 2**bits + 0.5) / 2**bits
        blocks.append(_Block(slice(start, start + len(part)), slice(begin - first, stop - first), matrix))
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
