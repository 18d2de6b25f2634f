"""Do two sets of embeddings call the same clips alike: each clip's nearest neighbours on either side?

Two sides that know nothing of each other share k of n - 1 neighbours by chance: of eleven others ten are all but one.

Axes: B clips, D channels.
"""

import numpy as np
import numpy.typing as npt

from .backends.base import FloatArray

COUNT = 10  # neighbours of each clip
FEWEST = 3 * COUNT + 1  # clips: chance alone is a third of the way, and no more


def overlap_neighbours(reference_BD: FloatArray, candidate_BD: FloatArray) -> float | None:
    """The mean part of a clip's ten nearest neighbours, by cosine in float64, that both sides name.

    None of fewer than `FEWEST` clips; NaN if any vector of either side has no direction: it is zero, or no number.
    """
    if len(reference_BD) < FEWEST:
        return None
    rows = [_normalise(side_BD) for side_BD in (reference_BD, candidate_BD)]
    if not all(np.isfinite(rows_BD).all() for rows_BD in rows):
        return float("nan")
    expected, got = (_nearest(rows_BD) for rows_BD in rows)
    return float(np.mean([len(set(left) & set(right)) / COUNT for left, right in zip(expected, got, strict=True)]))


def overlap_by_chance(clips: int) -> float:
    """The overlap that is expected of two sides that have nothing to do with each other; 1 of too few to choose."""
    return min(1.0, COUNT / max(1, clips - 1))


def explain_overlap(overlap: float | None, clips: int) -> str:
    """What stands beside the figure: what chance alone gives, or why there is none."""
    chance = f"{overlap_by_chance(clips):.3f} is what chance alone gives of {clips} clips"
    if overlap is None:
        return f"k-NN overlap@{COUNT}: {chance}, which is too much; it takes {FEWEST}"
    if np.isnan(overlap):
        return f"k-NN overlap@{COUNT}: an embedding is zero or no number, so there is no figure"
    return f"k-NN overlap@{COUNT}: {chance}"


def _normalise(vectors_BD: FloatArray) -> npt.NDArray[np.float64]:
    rows_BD = vectors_BD.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    return rows_BD


def _nearest(rows_BD: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    cosines_BB = rows_BD @ rows_BD.T
    np.fill_diagonal(cosines_BB, -np.inf)
    return np.argsort(-cosines_BB, axis=1, kind="stable")[:, :COUNT]
