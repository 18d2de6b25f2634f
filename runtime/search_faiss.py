"""Which rows are nearest to a vector, of those that fit into memory?

Axes: N rows, D channels, K found.
"""

from collections.abc import Sequence

import faiss
import numpy as np

from .backends.base import FloatArray
from .search_index import Found, VectorIndex

FAISS_ROWS = 1_000_000  # all of them lie in memory: at 1024 channels, 4 GB


class FaissIndex(VectorIndex):
    """All rows in memory, each looked at."""

    name = "FAISS IndexFlatIP"

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self._index = faiss.IndexFlatIP(dim)

    def add(self, units_ND: FloatArray) -> None:
        """Take rows of length 1, after those that are there."""
        self._index.add(np.ascontiguousarray(units_ND, np.float32))
        self.rows += len(units_ND)

    def find_nearest(self, unit_D: FloatArray, top: int, without: range) -> list[Found]:
        """See `VectorIndex`."""
        selector = faiss.IDSelectorNot(faiss.IDSelectorRange(without.start, without.stop))
        chosen = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # its stubs lack what its docs have
        cosines_1K, rows_1K = self._index.search(unit_D[None], min(top, self.rows), params=chosen)
        pairs = zip(rows_1K[0].tolist(), cosines_1K[0].tolist(), strict=True)
        return [Found(row, cosine) for row, cosine in pairs if row >= 0]

    def take(self, rows: Sequence[int]) -> FloatArray:
        """See `VectorIndex`."""
        units_KD: FloatArray = self._index.reconstruct_batch(np.asarray(rows, np.int64))
        return units_KD
