"""Do two backends compute the same: per token, in float64, against limits written down beforehand.

Axes: B clips, N tokens, D channels of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError
from vjepa2.manifest import ParityVerdict, Precision

from .backends import Backend, Outputs
from .backends.base import OUTPUT_FIELDS, FloatArray, FramesArray, InputArray

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits that a candidate must keep on every clip."""

    token_cosine: float  # of the worst token, at least
    relative_max: float  # max |difference| / max |reference|, at most


# fp32: MatMuls of other libraries sum in another order; measured here about 1 - 1e-10 and 1e-6 to 1e-5.
GATES: dict[Precision, Gate] = {"fp32": Gate(token_cosine=0.99999, relative_max=1e-4)}


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
    shown = [_compare(reference, index, backend) for index in range(len(reference.frames_BTHWC))]
    probe_figures = _compare(reference, reference.probe, backend, shuffle_frames)
    worst = Figures.worst(shown)
    return ParityVerdict(
        clips=len(shown),
        embedding_cosine=worst.embedding_cosine,
        token_cosine=worst.token_cosine,
        relative_max=worst.relative_max,
        probe_cosine=probe_figures.token_cosine,
        passed=worst.keeps(gate) and not probe_figures.keeps(gate),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far one clip's outputs are from the reference's."""

    embedding_cosine: float | None  # of the worst of what is one vector a clip
    token_cosine: float  # of the worst token
    relative_max: float  # the worst of all outputs

    def keeps(self, gate: Gate) -> bool:
        """Whether every figure is within its limit. NaN never is."""
        return (
            (self.embedding_cosine is None or self.embedding_cosine >= gate.token_cosine)
            and self.token_cosine >= gate.token_cosine
            and self.relative_max <= gate.relative_max
        )

    @classmethod
    def worst(cls, all_figures: Sequence["Figures"]) -> "Figures":
        """The worst of each figure; NaN if there is one."""
        vectors = [figures.embedding_cosine for figures in all_figures if figures.embedding_cosine is not None]
        return cls(
            embedding_cosine=float(np.min(vectors)) if vectors else None,
            token_cosine=float(np.min([figures.token_cosine for figures in all_figures])),
            relative_max=float(np.max([figures.relative_max for figures in all_figures])),
        )


def measure(reference_BND: FloatArray, candidate_BND: FloatArray) -> tuple[float, float]:
    """Cosine of the worst vector, and max |difference| / max |reference|, both in float64."""
    expected, got = reference_BND.astype(np.float64), candidate_BND.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(got, axis=-1)
        cosines = (expected * got).sum(-1) / lengths
        relative = np.abs(got - expected).max() / np.abs(expected).max()
    return float(cosines.min()), float(relative)


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
    change: Callable[[FramesArray], FramesArray] = np.ascontiguousarray,
) -> Figures:
    """The figures of one clip, its frames changed by `change`."""
    one = slice(index, index + 1)
    expected = reference.outputs.by_name()
    inputs = {name: array[one] for name, array in reference.inputs.items()}
    got = backend.run(change(reference.frames_BTHWC[one]), tuple(expected), inputs).by_name()
    cosines: dict[bool, list[float]] = {True: [], False: []}  # of tokens, of vectors
    relatives = []
    for name, array in expected.items():
        cosine, relative = measure(array[one], got[name])
        cosines[array.ndim > 2].append(cosine)
        relatives.append(relative)
    return Figures(
        embedding_cosine=float(np.min(cosines[False])) if cosines[False] else None,
        token_cosine=float(np.min(cosines[True])),
        relative_max=float(np.max(relatives)),
    )
