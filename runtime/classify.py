"""Which classes do logits name?

Axes: B videos, V views of each, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.manifest import Manifest

from .backends.base import FloatArray


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes of a video, likeliest first, and their probabilities by softmax over all classes."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]


def check_classifier(bundle: Bundle, top: int, views: int) -> None:
    """Raise unless a bundle can name the `top` classes of so many `views`."""
    if top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    if views < 1:
        raise ValueError(f"views is {views}; it must be at least 1")
    if bundle.manifest.classes is None:
        raise BackendError(
            f"{bundle.path.name} has no classifier, its head is {bundle.manifest.head}; "
            "export one with --head classifier"
        )


def tell_evaluation(manifest: Manifest, sampling: str, views: int) -> str | None:
    """How a released probe was evaluated, if it was not asked for so; None if it was, or if nothing says."""
    probe = manifest.parts.probe
    if probe is None or probe.frame_step is None:
        return None
    theirs = f"joined:{probe.frame_step}"
    if (sampling, views) == (theirs, probe.views):
        return None
    return (
        f"its makers evaluated it with --sampling {theirs} --views {probe.views}, and not with {sampling} and {views}"
    )


def rank_classes(logits_BVL: FloatArray, labels: Sequence[str] | None, top: int) -> list[Classification]:
    """The `top` classes of each video, or all if there are fewer; of equal ones the lower number comes first.

    Views are averaged as probabilities, as in the original evaluations, and not as logits.
    """
    logits = logits_BVL.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    scores_BL = (powers / powers.sum(axis=2, keepdims=True)).mean(axis=1)
    names = labels or [str(number) for number in range(scores_BL.shape[1])]
    ranked = np.argsort(-scores_BL, axis=1, kind="stable")[:, :top]
    return [
        Classification(tuple(names[number] for number in row), tuple(float(scores[number]) for number in row))
        for row, scores in zip(ranked, scores_BL, strict=True)
    ]
