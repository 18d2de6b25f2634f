"""How unlike its own past is a video as it goes on, clip by clip?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .backends.base import FloatArray
from .novelty import NoveltyMemory

SecondsArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyPoint:
    """Of a clip; None while too few lie before it. What the two numbers are, `runtime.novelty` says."""

    score: float | None
    z: float | None


def follow_novelty(units_ND: FloatArray, start_s_N: SecondsArray, end_s_N: SecondsArray) -> list[NoveltyPoint]:
    """A point a clip, in the order given.

    A clip of a corpus ends where its last frame does, a stream's window where that begins; so that two which lie side
    by side share no frame here either, an end is moved back by the least that there is.
    """
    memory = NoveltyMemory(units_ND.shape[1])
    points = []
    for unit_D, start_s, end_s in zip(units_ND, start_s_N.tolist(), end_s_N.tolist(), strict=True):
        novelty = memory.judge(unit_D, start_s, float(np.nextafter(end_s, -np.inf)))
        points.append(
            NoveltyPoint(score=None, z=None) if novelty is None else NoveltyPoint(score=novelty.score, z=novelty.z)
        )
    return points
