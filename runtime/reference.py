"""What did PyTorch float32 make of the clips that a bundle carries, and of one of them with a mistake in the model?

Axes: B clips, T frames, H, W pixels, C colours, N tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError
from vjepa2.spec import OutputName

from .backends import Outputs
from .backends.base import OUTPUT_FIELDS, FloatArray, FramesArray, InputArray

# what is wrong with the model: its rotary layout, the weights of a block; or of a small one, every result in fp16
Mistake = Literal["layout", "block"]
_INPUT = "input_"  # before the name of what a head takes
_SMALL: tuple[OutputName, ...] = ("tokens", "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveCase:
    """A clip in a small model of hard weights, in float32 and with every result in fp16."""

    norms_BN: FloatArray
    exact: Outputs
    naive: Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistaken:
    """What export computed for the canaries that need the model."""

    of_probe: Mapping[Mistake, Outputs]  # what the mistaken model makes of the reference's probe
    naive: NaiveCase


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Clips, what a head takes beside them, and what PyTorch float32 makes of both."""

    frames_BTHWC: FramesArray
    norms_BN: FloatArray  # of tokens before the final LayerNorm
    outputs: Outputs
    inputs: Mapping[str, InputArray] = field(default_factory=dict)
    mistaken: Mistaken | None = None  # None only before export has computed it

    @property
    def probe(self) -> int:
        """The clip that changes most from frame to frame: on a still one, shuffled frames are no mistake."""
        return int(np.argmax([measure_change(clip) for clip in self.frames_BTHWC]))

    def save(self, file: Path) -> None:
        """Write `reference.npz`, byte for byte the same for the same numbers."""
        arrays: dict[str, Any] = {"frames_BTHWC": self.frames_BTHWC, "norms_BN": self.norms_BN}
        arrays |= _fields(self.outputs)
        arrays |= {_INPUT + name: array for name, array in self.inputs.items()}
        if self.mistaken is not None:
            for mistake, outputs in self.mistaken.of_probe.items():
                arrays |= _fields(outputs, f"{mistake}_")
            naive = self.mistaken.naive
            arrays |= (
                _fields(naive.exact, "exact_") | _fields(naive.naive, "naive_") | {"hard_norms_BN": naive.norms_BN}
            )
        with file.open("xb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, bundle: Bundle) -> "Reference":
        """Read what export stored in a bundle; `BundleError` for what is missing or foreign."""
        names: list[OutputName] = [
            name for name in OUTPUT_FIELDS if name in {info.name for info in bundle.manifest.outputs}
        ]
        extras = [info.name for info in bundle.manifest.inputs[1:]]
        with np.load(bundle.path / REFERENCE, allow_pickle=False) as arrays:
            held = dict(arrays)
        prefixes = [("", names), *((f"{each}_", names) for each in get_args(Mistake))]
        prefixes += [("exact_", [*_SMALL]), ("naive_", [*_SMALL])]
        needed = {prefix + OUTPUT_FIELDS[name] for prefix, given in prefixes for name in given}
        needed |= {"frames_BTHWC", "norms_BN", "hard_norms_BN", *map(_INPUT.__add__, extras)}
        if needed != set(held):
            lacks, foreign = sorted(needed - set(held)), sorted(set(held) - needed)
            has = f" and has {foreign}, which nothing reads" if foreign else ""
            raise BundleError(f"{bundle.path / REFERENCE} lacks {lacks}{has}; export again")
        naive = NaiveCase(
            norms_BN=held["hard_norms_BN"], exact=_read(held, _SMALL, "exact_"), naive=_read(held, _SMALL, "naive_")
        )
        return cls(
            frames_BTHWC=held["frames_BTHWC"],
            norms_BN=held["norms_BN"],
            outputs=_read(held, names),
            inputs={name: held[_INPUT + name] for name in extras},
            mistaken=Mistaken(
                of_probe={each: _read(held, names, f"{each}_") for each in get_args(Mistake)}, naive=naive
            ),
        )


def measure_change(frames_THWC: FramesArray) -> float:
    """Mean |difference| of neighbouring frames, in steps of 255; of a single frame 0."""
    if len(frames_THWC) == 1:
        return 0.0
    steps = [np.abs(after.astype(np.int16) - before).mean() for before, after in pairwise(frames_THWC)]
    return float(np.mean(steps))


def _fields(outputs: Outputs, prefix: str = "") -> dict[str, FloatArray]:
    return {prefix + OUTPUT_FIELDS[name]: array for name, array in outputs.by_name().items()}


def _read(held: Mapping[str, Any], names: "list[OutputName] | tuple[OutputName, ...]", prefix: str = "") -> Outputs:
    return Outputs.from_names({name: held[prefix + OUTPUT_FIELDS[name]] for name in names})
