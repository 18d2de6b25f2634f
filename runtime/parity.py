"""Do two backends compute the same: per token, in float64, against limits written down beforehand.

Axes: B clips, N tokens, D channels of a token, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError
from vjepa2.manifest import ParityVerdict, Precision

from .backends import Backend, Outputs
from .backends.base import FloatArray, FramesArray, OutputName

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
    """Clips, and what PyTorch float32 makes of them."""

    frames_BTHWC: FramesArray
    tokens_BND: FloatArray
    embeddings_BD: FloatArray
    norms_BN: FloatArray  # of tokens before the final LayerNorm
    logits_BL: FloatArray | None = None

    @property
    def probe(self) -> int:
        """The clip that changes most from frame to frame: on a still one, shuffled frames are no mistake."""
        steps = [np.abs(np.diff(clip.astype(np.int16), axis=0)).sum() for clip in self.frames_BTHWC]
        return int(np.argmax(steps))

    def save(self, file: Path) -> None:
        """Write `reference.npz`, byte for byte the same for the same numbers."""
        arrays = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        with file.open("xb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, bundle: Bundle) -> "Reference":
        """Read what export stored in a bundle."""
        with np.load(bundle.path / REFERENCE, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in _FIELDS if name in arrays}
        if {*_FIELDS[:-1]} - set(held):
            raise BundleError(f"{bundle.path / REFERENCE} lacks {sorted({*_FIELDS[:-1]} - set(held))}; export again")
        return cls(**held)


_FIELDS = ("frames_BTHWC", "tokens_BND", "embeddings_BD", "norms_BN", "logits_BL")


def check_parity(reference: Reference, backend: Backend, gate: Gate) -> ParityVerdict:
    """Run every clip of `reference` on `backend`, and its most moving one with the frames shuffled.

    The verdict passes if every token, embedding and logit is within `gate` on every clip and the shuffled clip is
    not: a graph that gives the same for any order of frames would agree with nothing that was learnt.
    """
    names: tuple[OutputName, ...] = ("tokens", "embedding")
    if reference.logits_BL is not None:
        names = (*names, "logits")
    shown = [
        _compare(reference, index, backend.run(reference.frames_BTHWC[index : index + 1], names))
        for index in range(len(reference.frames_BTHWC))
    ]
    probe = reference.probe
    shuffled = backend.run(shuffle_frames(reference.frames_BTHWC[probe : probe + 1]), names)
    probe_figures = _compare(reference, probe, shuffled)
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

    embedding_cosine: float
    token_cosine: float  # of the worst token
    relative_max: float  # the worst of all outputs

    def keeps(self, gate: Gate) -> bool:
        """Whether every figure is within its limit. NaN never is."""
        return (
            self.embedding_cosine >= gate.token_cosine
            and self.token_cosine >= gate.token_cosine
            and self.relative_max <= gate.relative_max
        )

    @classmethod
    def worst(cls, all_figures: Sequence["Figures"]) -> "Figures":
        """The worst of each figure; NaN if there is one."""
        return cls(
            embedding_cosine=float(np.min([figures.embedding_cosine for figures in all_figures])),
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


def _compare(reference: Reference, index: int, outputs: Outputs) -> Figures:
    one = slice(index, index + 1)
    assert outputs.tokens_BND is not None
    assert outputs.embeddings_BD is not None
    token_cosine, token_relative = measure(reference.tokens_BND[one], outputs.tokens_BND)
    cosine, relative = measure(reference.embeddings_BD[one], outputs.embeddings_BD)
    worst_relative = [token_relative, relative]
    if reference.logits_BL is not None:
        assert outputs.logits_BL is not None
        logits_cosine, logits_relative = measure(reference.logits_BL[one], outputs.logits_BL)
        cosine = float(np.min([cosine, logits_cosine]))
        worst_relative.append(logits_relative)
    return Figures(embedding_cosine=cosine, token_cosine=token_cosine, relative_max=float(np.max(worst_relative)))
