"""Are rows of 8 bits and of one those of sentence-transformers, and is nothing guessed for them?"""

from typing import Any

import numpy as np
import pytest

from vjepa2.runtime import quantize_rows
from vjepa2.runtime.quantized_rows import EmbeddingPrecision

ROWS = np.array(
    [[-1.5, -0.25, 0, 0.1, 0.5, 0.75, 1, 2.5, 0.3], [0.25, 0.75, -0.1, -2, 0, 1.5, -0.5, 0.2, -0.3]], np.float32
)
RANGES = np.array([[-1, -1, -0.5, -1.5, 0.5, 0, -1, 0, -0.3], [1, 1, 0.5, 1.5, 0.5, 2, 1, 2, 0.3]], np.float32)
# what sentence_transformers 6.2.0's quantize_embeddings makes of them; one channel's range is a point
RECORDED: dict[EmbeddingPrecision, list[list[int]]] = {
    "int8": [[-128, -33, -1, 8, -128, -33, 126, 127, 127], [31, 95, -27, -128, -128, 63, -65, -103, -128]],
    "uint8": [[0, 95, 127, 136, 0, 95, 254, 255, 255], [159, 223, 101, 0, 0, 191, 63, 25, 0]],
    "binary": [[-97, 0], [69, -128]],
    "ubinary": [[31, 128], [197, 0]],
}


@pytest.mark.parametrize("precision", RECORDED)
def test_rows_are_those_of_sentence_transformers(precision: EmbeddingPrecision) -> None:
    ranges = RANGES if precision in ("int8", "uint8") else None
    made = quantize_rows(ROWS, precision, ranges)
    assert made.dtype == (np.int8 if precision in ("int8", "binary") else np.uint8)
    np.testing.assert_array_equal(made, RECORDED[precision])
    assert quantize_rows(ROWS[:0], precision, ranges).shape == (0, made.shape[1])


@pytest.mark.parametrize(
    ("precision", "ranges", "says"),
    [
        ("int8", None, r"'int8' without ranges; they must be \[2, 9\]"),
        ("uint8", RANGES[:, :8], r"ranges are \[2, 8\]; they must be \[2, 9\]"),
        ("uint8", RANGES[::-1], "a least value is above the largest"),
        ("int8", RANGES * np.nan, "ranges are not finite"),
        ("binary", RANGES, "only int8 and uint8 take them"),
        ("float16", None, "must be one of float32, int8, uint8, binary, ubinary"),
    ],
)
def test_nothing_is_guessed(precision: Any, ranges: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quantize_rows(ROWS, precision, ranges)


@pytest.mark.parametrize("precision", RECORDED)
def test_a_nan_is_refused(precision: EmbeddingPrecision) -> None:
    with pytest.raises(ValueError, match="has a NaN"):
        quantize_rows(ROWS * np.nan, precision, RANGES if precision in ("int8", "uint8") else None)
