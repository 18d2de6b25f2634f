"""Which videos have clips that are nearly the same?

Axes: B rows of a block, N rows, P pairs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vjepa2.errors import CorpusError

from .backends.base import FloatArray

PAIR_ROWS = 50_000  # each is held to each: minutes
_PAIRS = 100_000  # of videos
_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two videos, and the two of their clips that are most alike."""

    left: int  # rows
    right: int
    cosine: float
    pairs: int  # of their clips that reach the threshold


def find_pairs(units_ND: FloatArray, video_N: npt.NDArray[np.int64], threshold: float) -> list[NearPair]:
    """Every two videos with clips whose cosine is at least `threshold`, the most alike first.

    Rows of a video lie together. A `CorpusError` of more rows, or pairs, than can be held.
    """
    if len(units_ND) > PAIR_ROWS:
        raise CorpusError(
            f"there are {len(units_ND)} clips; near-duplicates are looked for among up to {PAIR_ROWS}: plan longer "
            "strides, or a part of the videos"
        )
    found: dict[tuple[int, int], NearPair] = {}
    for start in range(0, len(units_ND), _BLOCK):
        cosines_BN = units_ND[start : start + _BLOCK] @ units_ND[start:].T
        left_P, right_P = np.nonzero(cosines_BN >= threshold)
        apart_P = video_N[left_P + start] < video_N[right_P + start]
        left_P, right_P = left_P[apart_P], right_P[apart_P]
        _merge(found, left_P + start, right_P + start, cosines_BN[left_P, right_P], video_N)
        if len(found) > _PAIRS:
            raise CorpusError(
                f"more than {_PAIRS} pairs of videos have cosines from {threshold:g} on; take a higher one"
            )
    return sorted(found.values(), key=lambda pair: (-pair.cosine, pair.left, pair.right))


def _merge(
    found: dict[tuple[int, int], NearPair],
    left_P: npt.NDArray[np.int64],
    right_P: npt.NDArray[np.int64],
    cosine_P: FloatArray,
    video_N: npt.NDArray[np.int64],
) -> None:
    order_P = np.lexsort((right_P, left_P, -cosine_P))
    left_P, right_P, cosine_P = left_P[order_P], right_P[order_P], cosine_P[order_P]
    keys = np.stack((video_N[left_P], video_N[right_P]), axis=1)
    for (one, other), first, count in zip(*np.unique(keys, axis=0, return_index=True, return_counts=True), strict=True):
        pair = NearPair(
            left=int(left_P[first]), right=int(right_P[first]), cosine=float(cosine_P[first]), pairs=int(count)
        )
        known = found.get((int(one), int(other)))
        if known is not None:
            best = max(known, pair, key=lambda each: each.cosine)
            pair = NearPair(left=best.left, right=best.right, cosine=best.cosine, pairs=known.pairs + pair.pairs)
        found[int(one), int(other)] = pair
