"""How unlike its own recent past is what a camera shows now?

It says that, and nothing more: not what is new, nor whether it matters. It is held against this very stream, so that
what lasts becomes normal.

Axes: M remembered windows, D token channels.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from vjepa2.errors import BackendError

from .backends.base import FloatArray

_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """Of one window."""

    score: float  # 0 the same, 1 at right angles, 2 opposite
    z: float | None  # how far that is from the scores before, in their own spread; None if they have none


class NoveltyMemory:
    """The embeddings of `size` windows that lie side by side: those that share frames are alike whatever they show.

    score = 1 - c, where c is the `neighbours`th largest cosine between a window and those remembered that end before
    it starts. z = (score - median) / (1.4826 MAD), by median and median absolute deviation of the last `size` scores.
    Until `warm_up` windows can be compared with, there is no score, and until there were as many scores, no z.
    """

    def __init__(self, dim: int, *, size: int = 256, neighbours: int = 3, warm_up: int = 16) -> None:
        if not 1 <= neighbours <= warm_up <= size:
            raise ValueError(
                f"neighbours, warm_up and size are {neighbours}, {warm_up} and {size}; each must be at least 1 "
                "and at most the next"
            )
        self._neighbours, self._warm_up = neighbours, warm_up
        self._units_MD = np.zeros((size, dim), np.float32)
        self._ends_M = np.full(size, np.inf)
        self._next, self._end_s = 0, -np.inf
        self._scores: deque[float] = deque(maxlen=size)

    def judge(self, embedding_D: FloatArray, start_s: float, end_s: float) -> Novelty | None:
        """Compare a window with what is remembered, then remember it if it lies beside that; None if that is little."""
        length = float(np.linalg.norm(embedding_D.astype(np.float64)))
        if not np.isfinite(length) or not length:
            raise BackendError(f"an embedding has length {length}; it must be a finite number above 0: run parity")
        unit_D = (embedding_D / length).astype(np.float32)
        before_M = self._ends_M < start_s
        result = None
        if int(before_M.sum()) >= self._warm_up:
            cosines = np.partition(self._units_MD[before_M] @ unit_D, -self._neighbours)
            score = float(np.clip(1.0 - cosines[-self._neighbours], 0.0, 2.0))
            result = Novelty(score=score, z=self._standardise(score))
            self._scores.append(score)
        if start_s > self._end_s:
            self._units_MD[self._next], self._ends_M[self._next] = unit_D, end_s
            self._next, self._end_s = (self._next + 1) % len(self._ends_M), end_s
        return result

    def _standardise(self, score: float) -> float | None:
        if len(self._scores) < self._warm_up:
            return None
        scores = np.asarray(self._scores)
        median = float(np.median(scores))
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(scores - median)))
        return (score - median) / spread if spread > 0 else None
