"""How are embeddings stored in 8 bits a channel, or in one? As sentence-transformers' `quantize_embeddings` does it."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .backends.base import FloatArray

EmbeddingPrecision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
EmbeddingArray = npt.NDArray[Any]  # float32, int8 or uint8, as the precision says
_STEPS = 255  # between the ends of a range, in 8 bits
_ENDS = 2  # of a range: its start and its end


def check_precision(precision: EmbeddingPrecision, ranges_2D: FloatArray | None, dim: int) -> None:
    """Raise a `ValueError` if rows of `dim` channels cannot be stored so; no range is guessed from the rows."""
    if precision not in get_args(EmbeddingPrecision):
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(get_args(EmbeddingPrecision))}")
    if precision not in ("int8", "uint8"):
        if ranges_2D is not None:
            raise ValueError(f"ranges are given for precision {precision!r}; only int8 and uint8 take them")
        return
    if ranges_2D is None:
        raise ValueError(
            f"precision is {precision!r} without ranges; they must be [2, {dim}], the least and the largest value of "
            "each channel in embeddings like these: np.stack([rows.min(0), rows.max(0)])"
        )
    if ranges_2D.shape != (_ENDS, dim):
        raise ValueError(f"ranges are {list(ranges_2D.shape)}; they must be [2, {dim}]")
    if not np.isfinite(ranges_2D).all() or (ranges_2D[0] > ranges_2D[1]).any():
        raise ValueError("ranges are not finite, or a least value is above the largest; they must be in order")


def quantize_rows(
    rows: FloatArray, precision: EmbeddingPrecision, ranges_2D: FloatArray | None = None
) -> EmbeddingArray:
    """Rows `[..., D]` as `precision` stores them; a NaN has no such form and is a `ValueError`.

    int8 and uint8 `[..., D]`: steps of a 255th of each channel's range, what lies outside at its ends. binary and
    ubinary `[..., ceil(D / 8)]`: a bit a channel, whether it is above 0, the first in the highest bit; binary is
    int8, its bytes less 128.
    """
    check_precision(precision, ranges_2D, rows.shape[-1])
    if precision == "float32":
        return rows
    if np.isnan(rows).any():
        raise ValueError(f"an embedding has a NaN; {precision} cannot hold one: leave its precision at float32")
    if ranges_2D is None:
        bits = np.packbits(rows > 0, axis=-1)
        return bits if precision == "ubinary" else _lower(bits)
    starts_D = ranges_2D[0].astype(np.float32)
    steps_D = (ranges_2D[1].astype(np.float32) - starts_D) / _STEPS
    steps_D[steps_D == 0] = 1
    levels = np.clip(np.floor((rows - starts_D) / steps_D), 0, _STEPS).astype(np.uint8)
    return levels if precision == "uint8" else _lower(levels)


def _lower(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Each value less 128."""
    return np.bitwise_xor(rows, 128, dtype=np.uint8).view(np.int8)
