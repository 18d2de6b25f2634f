"""Where does each clip lie on a plane: by the two directions in which the corpus varies most?

Axes: N rows, D channels.
"""

from dataclasses import dataclass

import numpy as np

from .backends.base import FloatArray
from .search_index import VectorIndex

MAP_ROWS = 20_000  # more points than that no page shows in time; of a larger corpus, every so-manieth row


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusMap:
    """Points of some rows, and which part of their variance a plane can show."""

    rows: list[int]
    x: list[float]
    y: list[float]
    kept: float  # 0 to 1


def project_corpus(index: VectorIndex) -> CorpusMap:
    """Principal components of the rows, from -1 to 1 with one scale for both; the same for the same rows."""
    stride = -(-index.rows // MAP_ROWS)
    rows = list(range(0, index.rows, stride))
    plane_N2, kept = project_plane(index.take(rows))
    largest = float(np.abs(plane_N2).max(initial=0)) or 1.0
    x, y = (np.round(plane_N2 / largest, 5).T).tolist()
    return CorpusMap(rows=rows, x=x, y=y, kept=kept)


def project_plane(units_ND: FloatArray) -> tuple[FloatArray, float]:
    """Coordinates `[N, 2]` on the first two principal axes, and the part of the variance that they keep.

    An axis may point either way; here its largest entry is positive.
    """
    centred_ND = units_ND - units_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    variances_D, axes_DD = np.linalg.eigh((centred_ND.T @ centred_ND).astype(np.float64))
    axes_D2 = axes_DD[:, [-1, -2]]
    signs_2 = np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
    total = float(variances_D.clip(0).sum())
    kept = float(variances_D[-2:].clip(0).sum() / total) if total else 1.0
    plane_N2: FloatArray = (centred_ND @ (axes_D2 * signs_2).astype(np.float32)).astype(np.float32)
    return plane_N2, kept
