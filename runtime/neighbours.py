"""Do two sets of embeddings call the same clips alike: each clip's nearest neighbours on either side?

Axes: B clips, D channels.
"""

import numpy as np
import numpy.typing as npt

from .backends.base import FloatArray

COUNT = 10  # neighbours of each clip


def overlap_neighbours(reference_BD: FloatArray, candidate_BD: FloatArray) -> float | None:
    """The mean part of a clip's ten nearest neighbours, by cosine in float64, that both sides name.

    None where a clip has no more than ten others: any two tens of ten are the same.
    """
    if len(reference_BD) < COUNT + 2:
        return None
    expected, got = _nearest(reference_BD), _nearest(candidate_BD)
    return float(np.mean([len(set(left) & set(right)) / COUNT for left, right in zip(expected, got, strict=True)]))


def explain_none(clips: int) -> str:
    """Why there is no overlap of so many clips."""
    return f"k-NN overlap@{COUNT}: {clips} clips are too few, it takes {COUNT + 2}"


def _nearest(vectors_BD: FloatArray) -> npt.NDArray[np.int64]:
    rows_BD = vectors_BD.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    cosines_BB = np.nan_to_num(rows_BD @ rows_BD.T, nan=-2.0)  # what is no number is nobody's neighbour
    np.fill_diagonal(cosines_BB, -np.inf)
    return np.argsort(-cosines_BB, axis=1, kind="stable")[:, :COUNT]
