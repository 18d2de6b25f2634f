"""Which classes do logits name?

Axes: B videos, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .backends.base import FloatArray


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes of a video, likeliest first, and their probabilities by softmax over all classes."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]


def rank_classes(logits_BL: FloatArray, labels: Sequence[str] | None, top: int) -> list[Classification]:
    """The `top` classes of each row, or all if there are fewer; of equal ones the lower number comes first."""
    logits = logits_BL.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores_BL = powers / powers.sum(axis=1, keepdims=True)
    names = labels or [str(number) for number in range(scores_BL.shape[1])]
    ranked = np.argsort(-scores_BL, axis=1, kind="stable")[:, :top]
    return [
        Classification(tuple(names[number] for number in row), tuple(float(scores[number]) for number in row))
        for row, scores in zip(ranked, scores_BL, strict=True)
    ]
