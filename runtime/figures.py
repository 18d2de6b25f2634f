"""How far is what one side computed from what the other did: per token, in float64?

Axes: B clips, N tokens, D channels of a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa2.manifest import ParityVerdict
from vjepa2.spec import OutputName

from .backends.base import FloatArray
from .gates import Gate

Float64 = npt.NDArray[np.float64]
LEAST_FOR_P01 = 100  # vectors: of fewer the first percentile is a guess between the worst two
_CLASSES: tuple[OutputName, ...] = ("logits", "verb", "noun", "action")  # whose largest value is an answer
_MOST = ("quiet_tokens", "relative_max", "relative_frobenius")  # of which the largest is the worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far one clip's outputs are from the reference's, or the worst of several clips."""

    embedding_cosine: float | None  # of the worst of what is one vector a clip
    token_cosine: float  # of the worst token that counts
    worst_token: int | None  # its number in `tokens`; None if it is of another output
    token_p01: float | None  # of those that count; None if they are too few for it
    token_median: float  # of all
    counted_tokens: int
    quiet_tokens: int  # that do not count: their norm before the final LayerNorm is too small
    quiet_cosine: float | None  # of the worst of these
    agreement: float | None  # of the likeliest classes
    relative_max: float  # the worst of all outputs
    relative_frobenius: float  # ||difference|| / ||reference||, the worst of all outputs
    finite: bool  # whether every number of every output is one

    def faults(self, gate: Gate) -> list[str]:
        """Every figure that is outside its limit, or is no number."""
        return find_breaches(self, gate) + ([] if self.finite else ["there are values that are no finite numbers"])

    @classmethod
    def worst(cls, all_figures: Sequence["Figures"]) -> "Figures":
        """The worst of each figure; NaN if there is one."""
        rows = [asdict(figures) for figures in all_figures]
        values = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
        worst: dict[str, Any] = {
            name: (np.max(given) if name in _MOST else np.min(given)).item() if given else None
            for name, given in values.items()
        }
        at = int(np.argmin([figures.token_cosine for figures in all_figures]))  # of NaN the first
        return cls(**worst | {"worst_token": all_figures[at].worst_token})


def find_breaches(figures: Figures | ParityVerdict, gate: Gate) -> list[str]:
    """Every figure that is outside its limit, or is no number; without a first percentile the worst token is held."""
    p01 = figures.token_cosine if figures.token_p01 is None else figures.token_p01
    held = {
        "embedding": (figures.embedding_cosine, gate.embedding),
        "token_worst": (figures.token_cosine, gate.token_worst),
        "token_p01": (p01, gate.token_p01),
        "token_median": (figures.token_median, gate.token_median),
        "agreement": (figures.agreement, gate.agreement),
    }
    faults = [
        f"{name} is {figure:.7g}, must be at least {limit}"
        for name, (figure, limit) in held.items()
        if figure is not None and limit is not None and not figure >= limit
    ]
    if gate.relative_max is not None and not figures.relative_max <= gate.relative_max:
        faults.append(f"relative_max is {figures.relative_max:.2g}, must be at most {gate.relative_max}")
    numbers = [name for name in (entry.name for entry in fields(Figures)) if hasattr(figures, name)]
    broken = [name for name in numbers if (value := getattr(figures, name)) is not None and not np.isfinite(value)]
    return faults + [f"{name} is no number" for name in broken]


def measure(reference_BND: FloatArray, candidate_BND: FloatArray) -> tuple[Float64, float]:
    """Cosine of every vector, and max |difference| / max |reference|, both in float64."""
    expected, got = reference_BND.astype(np.float64), candidate_BND.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(got, axis=-1)
        cosines = (expected * got).sum(-1) / lengths
        relative = np.abs(got - expected).max() / np.abs(expected).max()
    return cosines, float(relative)


def measure_frobenius(reference: FloatArray, candidate: FloatArray) -> float:
    """||candidate - reference|| / ||reference|| over all values, in float64."""
    expected, got = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return float(np.linalg.norm((got - expected).ravel()) / np.linalg.norm(expected.ravel()))


def find_p01(cosines: Float64) -> float | None:
    """The first percentile; None if they are too few for it."""
    return float(np.percentile(cosines, 1)) if cosines.size >= LEAST_FOR_P01 else None


def find_quiet(norms: npt.NDArray[np.floating[Any]], quiet: float) -> npt.NDArray[np.bool_]:
    """Which tokens do not count: under `quiet` of the median norm; one that is no number makes nothing quiet."""
    with np.errstate(invalid="ignore"):
        found: npt.NDArray[np.bool_] = norms < quiet * np.median(norms)
    return found


def compare_outputs(
    expected: Mapping[OutputName, FloatArray], got: Mapping[OutputName, FloatArray], norms_BN: FloatArray, quiet: float
) -> Figures:
    """The figures of one clip's outputs; `tokens` under `quiet` of the median of `norms_BN` do not count."""
    loud_BN = ~find_quiet(norms_BN, quiet)
    counting: list[Float64] = []
    numbers: list[npt.NDArray[np.int64]] = []  # in `tokens` of each that counts, or -1
    hushed: list[Float64] = [np.empty(0)]
    vectors, relatives, agreements = [], [], []
    for name, array in expected.items():
        cosines, relative = measure(array, got[name])
        relatives.append((relative, measure_frobenius(array, got[name])))
        if array.ndim == 2:
            vectors.append(float(cosines.min()))
        elif name == "tokens":
            counting.append(cosines[loud_BN])
            numbers.append(np.flatnonzero(loud_BN))
            hushed.append(cosines[~loud_BN])
        else:
            counting.append(cosines.ravel())
            numbers.append(np.full(cosines.size, -1))
        if name in _CLASSES:
            agreements.append(float(np.mean(array.argmax(-1) == got[name].argmax(-1))))
    counted, quieted = np.concatenate(counting), np.concatenate(hushed)
    worst = int(np.concatenate(numbers)[np.argmin(counted)])
    return Figures(
        embedding_cosine=float(np.min(vectors)) if vectors else None,
        token_cosine=float(counted.min()),
        worst_token=None if worst < 0 else worst,
        token_p01=find_p01(counted),
        token_median=float(np.median(np.concatenate([counted, quieted]))),
        counted_tokens=counted.size,
        quiet_tokens=quieted.size,
        quiet_cosine=float(quieted.min()) if quieted.size else None,
        agreement=float(np.min(agreements)) if agreements else None,
        relative_max=float(np.max([most for most, _ in relatives])),
        relative_frobenius=float(np.max([part for _, part in relatives])),
        finite=all(bool(np.isfinite(got[name]).all()) for name in expected),
    )
