"""Do two backends compute the same: per token, in float64, against the limits of `gates`.

Axes: B clips, N tokens, D channels of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError
from vjepa2.manifest import ParityVerdict
from vjepa2.spec import OutputName

from .backends import Backend, Outputs
from .backends.base import OUTPUT_FIELDS, FloatArray, FramesArray, InputArray
from .gates import GATES, Gate

__all__ = [
    "GATES",
    "Figures",
    "Gate",
    "Reference",
    "check_parity",
    "compare_outputs",
    "find_faults",
    "measure",
    "shuffle_frames",
]

_Float64 = npt.NDArray[np.float64]
_CLASSES: tuple[OutputName, ...] = ("logits", "verb", "noun", "action")  # whose largest value is an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Clips, what a head takes beside them, and what PyTorch float32 makes of both."""

    frames_BTHWC: FramesArray
    norms_BN: FloatArray  # of tokens before the final LayerNorm
    outputs: Outputs
    inputs: Mapping[str, InputArray] = field(default_factory=dict)

    @property
    def probe(self) -> int:
        """The clip that changes most from frame to frame: on a still one, shuffled frames are no mistake."""
        steps = [np.abs(np.diff(clip.astype(np.int16), axis=0)).sum() for clip in self.frames_BTHWC]
        return int(np.argmax(steps))

    def save(self, file: Path) -> None:
        """Write `reference.npz`, byte for byte the same for the same numbers."""
        arrays: dict[str, Any] = {"frames_BTHWC": self.frames_BTHWC, "norms_BN": self.norms_BN}
        arrays |= {OUTPUT_FIELDS[name]: array for name, array in self.outputs.by_name().items()}
        arrays |= {_INPUT + name: array for name, array in self.inputs.items()}
        with file.open("xb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, bundle: Bundle) -> "Reference":
        """Read what export stored in a bundle."""
        names = [name for name in OUTPUT_FIELDS if name in {info.name for info in bundle.manifest.outputs}]
        extras = [info.name for info in bundle.manifest.inputs[1:]]
        with np.load(bundle.path / REFERENCE, allow_pickle=False) as arrays:
            held = dict(arrays)
        needed = {"frames_BTHWC", "norms_BN", *(OUTPUT_FIELDS[name] for name in names), *map(_INPUT.__add__, extras)}
        if needed - set(held):
            raise BundleError(f"{bundle.path / REFERENCE} lacks {sorted(needed - set(held))}; export again")
        return cls(
            frames_BTHWC=held["frames_BTHWC"],
            norms_BN=held["norms_BN"],
            outputs=Outputs.from_names({name: held[OUTPUT_FIELDS[name]] for name in names}),
            inputs={name: held[_INPUT + name] for name in extras},
        )


_INPUT = "input_"  # before the name of what a head takes


def check_parity(reference: Reference, backend: Backend, gate: Gate) -> ParityVerdict:
    """Run every clip of `reference` on `backend`, and its most moving one with the frames shuffled.

    The verdict passes if every output is within `gate` on every clip and the tokens of the shuffled clip are not: a
    graph that gives the same for any order of frames would agree with nothing that was learnt.
    """
    shown = [_compare(reference, index, backend, gate) for index in range(len(reference.frames_BTHWC))]
    probe_figures = _compare(reference, reference.probe, backend, gate, shuffle_frames)
    worst = Figures.worst(shown)
    return ParityVerdict(
        proved_by=backend.name,
        clips=len(shown),
        **asdict(worst),
        probe_cosine=probe_figures.token_cosine,
        accepted=dict(gate.accepted),
        passed=not worst.faults(gate) and bool(probe_figures.faults(gate)),
    )


def find_faults(verdict: ParityVerdict, gate: Gate) -> list[str]:
    """Why a verdict did not pass `gate`, figure by figure; empty if it did."""
    figures = Figures(**{entry.name: getattr(verdict, entry.name) for entry in fields(Figures)})
    faults = figures.faults(gate)
    if not faults and not verdict.passed:
        faults.append(f"shuffled frames pass as well (worst token {verdict.probe_cosine:.7g})")
    return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far one clip's outputs are from the reference's."""

    embedding_cosine: float | None  # of the worst of what is one vector a clip
    token_cosine: float  # of the worst token that counts
    token_p01: float  # of those that count
    token_median: float  # of all
    quiet_tokens: int  # that do not count: their norm before the final LayerNorm is too small
    quiet_cosine: float | None  # of the worst of these
    agreement: float | None  # of the likeliest classes
    relative_max: float  # the worst of all outputs

    def faults(self, gate: Gate) -> list[str]:
        """Every figure that is outside its limit, or is no number."""
        held = {
            "embedding": (self.embedding_cosine, gate.embedding),
            "token_worst": (self.token_cosine, gate.token_worst),
            "token_p01": (self.token_p01, gate.token_p01),
            "token_median": (self.token_median, gate.token_median),
            "agreement": (self.agreement, gate.agreement),
        }
        faults = [
            f"{name} is {figure:.7g}, must be at least {limit}"
            for name, (figure, limit) in held.items()
            if figure is not None and limit is not None and not figure >= limit
        ]
        if gate.relative_max is not None and not self.relative_max <= gate.relative_max:
            faults.append(f"relative_max is {self.relative_max:.2g}, must be at most {gate.relative_max}")
        broken = [name for name, value in asdict(self).items() if value is not None and not np.isfinite(value)]
        return faults + [f"{name} is no number" for name in broken]

    @classmethod
    def worst(cls, all_figures: Sequence["Figures"]) -> "Figures":
        """The worst of each figure; NaN if there is one."""
        most = ("quiet_tokens", "relative_max")
        rows = [asdict(figures) for figures in all_figures]
        values = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
        worst: dict[str, Any] = {
            name: (np.max(given) if name in most else np.min(given)).item() if given else None
            for name, given in values.items()
        }
        return cls(**worst)


def measure(reference_BND: FloatArray, candidate_BND: FloatArray) -> tuple[_Float64, float]:
    """Cosine of every vector, and max |difference| / max |reference|, both in float64."""
    expected, got = reference_BND.astype(np.float64), candidate_BND.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(got, axis=-1)
        cosines = (expected * got).sum(-1) / lengths
        relative = np.abs(got - expected).max() / np.abs(expected).max()
    return cosines, float(relative)


def shuffle_frames(frames_BTHWC: FramesArray) -> FramesArray:
    """The same frames in another order: the odd ones first, then the even ones; a single frame upside down."""
    if frames_BTHWC.shape[1] == 1:
        return np.ascontiguousarray(frames_BTHWC[:, :, ::-1])
    numbers = np.arange(frames_BTHWC.shape[1])
    return frames_BTHWC[:, np.concatenate([numbers[1::2], numbers[::2]])]


def _compare(
    reference: Reference,
    index: int,
    backend: Backend,
    gate: Gate,
    change: Callable[[FramesArray], FramesArray] = np.ascontiguousarray,
) -> Figures:
    """The figures of one clip, its frames changed by `change`."""
    one = slice(index, index + 1)
    inputs = {name: array[one] for name, array in reference.inputs.items()}
    expected = {name: array[one] for name, array in reference.outputs.by_name().items()}
    got = backend.run(change(reference.frames_BTHWC[one]), tuple(expected), inputs).by_name()
    return compare_outputs(expected, got, reference.norms_BN[one], gate.quiet)


def compare_outputs(
    expected: Mapping[OutputName, FloatArray], got: Mapping[OutputName, FloatArray], norms_BN: FloatArray, quiet: float
) -> Figures:
    """The figures of one clip's outputs; `tokens` under `quiet` of the median of `norms_BN` do not count."""
    loud_BN = norms_BN >= quiet * np.median(norms_BN)
    counting: list[_Float64] = []
    hushed: list[_Float64] = [np.empty(0)]
    vectors, relatives, agreements = [], [], []
    for name, array in expected.items():
        cosines, relative = measure(array, got[name])
        relatives.append(relative)
        if array.ndim == 2:
            vectors.append(float(cosines.min()))
        elif name == "tokens":
            counting.append(cosines[loud_BN])
            hushed.append(cosines[~loud_BN])
        else:
            counting.append(cosines.ravel())
        if name in _CLASSES:
            agreements.append(float(np.mean(array.argmax(-1) == got[name].argmax(-1))))
    counted, quieted = np.concatenate(counting), np.concatenate(hushed)
    return Figures(
        embedding_cosine=float(np.min(vectors)) if vectors else None,
        token_cosine=float(counted.min()),
        token_p01=float(np.percentile(counted, 1)),
        token_median=float(np.median(np.concatenate([counted, quieted]))),
        quiet_tokens=quieted.size,
        quiet_cosine=float(quieted.min()) if quieted.size else None,
        agreement=float(np.min(agreements)) if agreements else None,
        relative_max=float(np.max(relatives)),
    )
