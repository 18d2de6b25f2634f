"""Which rows are nearest to a vector, exactly?

Rows are embeddings brought to length 1, so that products are cosines. Axes: N rows, D channels, K found.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vjepa2.errors import CorpusError

from .backends.base import FloatArray


@dataclass(frozen=True, slots=True)
class Found:
    """A row, and how alike it is."""

    row: int
    cosine: float


class VectorIndex(ABC):
    """Rows of length 1 that can be searched; no row is left out for speed."""

    name: str
    rows: int

    @abstractmethod
    def find_nearest(self, unit_D: FloatArray, top: int, without: range) -> list[Found]:
        """The `top` rows most alike to a vector of length 1, the most alike first, but for those in `without`."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> FloatArray:
        """Rows `[K, D]`, ascending, float32."""


def to_unit(embeddings_ND: FloatArray, where: str) -> FloatArray:
    """The same directions at length 1; a `CorpusError` that names `where` if one has none."""
    lengths_N1 = np.linalg.norm(embeddings_ND.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths_N1) & (lengths_N1 > 0)).all():
        raise CorpusError(
            f"{where} has an embedding without a direction (zeros, or no numbers); hold its bundle to vjepa2 parity, "
            "and embed again"
        )
    units_ND: FloatArray = (embeddings_ND / lengths_N1).astype(np.float32)
    return units_ND
