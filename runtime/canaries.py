"""Which mistakes must a gate fail on, and does it: eight of them, run against what a candidate gives.

Axes: B clips, T frames, H, W pixels, C colours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vjepa2.spec import RGB_MEAN, RGB_STD, OutputName

from .backends import Backend
from .backends.base import FloatArray, FramesArray
from .clip_set import Case
from .figures import Figures, compare_outputs
from .gates import Gate, Limits
from .parity import shuffle_frames
from .reference import Mistaken

CanaryName = Literal[
    "wrong rotary layout",
    "frames shuffled",
    "RGB swapped",
    "normalisation left out",
    "frame off by one",
    "output independent of input",
    "one block's weights swapped",
    "naive fp16 on hard weights",
]
NAMES: tuple[CanaryName, ...] = get_args(CanaryName)
Origin = Literal["run here", "computed at export"]
Change = Callable[[FramesArray], FramesArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One mistake, held to the gate of the candidate that it stands beside."""

    name: CanaryName
    candidate: str
    origin: Origin
    clip: str
    figures: Figures
    limits: Limits
    faults: tuple[str, ...]  # why the gate fails it
    passed: bool  # whether the gate let it through: must be false


def forget_normalisation(frames_BTHWC: FramesArray) -> FramesArray:
    """Frames that a graph normalises to what is only divided by 255: all of them can be written in 8 bits."""
    mean_C, std_C = np.asarray(RGB_MEAN), np.asarray(RGB_STD)
    return np.rint(255 * mean_C + std_C * frames_BTHWC).astype(np.uint8)


def step_frames(frames_BTHWC: FramesArray) -> FramesArray:
    """Each frame's successor, and the last one again; a single frame moves by a patch of columns."""
    if frames_BTHWC.shape[1] == 1:
        return np.roll(frames_BTHWC, min(16, frames_BTHWC.shape[3] // 2), axis=3)
    return np.concatenate([frames_BTHWC[:, 1:], frames_BTHWC[:, -1:]], axis=1)


def swap_colours(frames_BTHWC: FramesArray) -> FramesArray:
    """Red for blue and blue for red."""
    return np.ascontiguousarray(frames_BTHWC[..., ::-1])


OF_INPUT: dict[CanaryName, Change] = {
    "frames shuffled": shuffle_frames,
    "RGB swapped": swap_colours,
    "normalisation left out": forget_normalisation,
    "frame off by one": step_frames,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The candidate that mistakes are made with, its gate, and the clip of the set that changes most."""

    candidate: str
    backend: Backend
    gate: Gate
    probe: Case

    def run(self, name: CanaryName) -> Canary:
        """A mistake in the input: the candidate itself runs the changed clip."""
        frames_BTHWC = OF_INPUT[name](self.probe.frames_THWC[None])
        got = self.backend.run(frames_BTHWC, tuple(self.probe.expected), self.probe.inputs).by_name()
        return self.judge(name, self.probe.measure(got, self.gate), "run here", self.probe.name)

    def answer_alike(self, got: Mapping[OutputName, FloatArray]) -> Canary:
        """Output independent of input: what the candidate gave for another clip, given again."""
        figures = self.probe.measure(got, self.gate)
        return self.judge("output independent of input", figures, "run here", self.probe.name)

    def judge_stored(self, stored: Case, mistaken: Mistaken) -> list[Canary]:
        """Mistakes in the model, as export computed them for a `stored` clip, its probe."""
        layout, block = (mistaken.of_probe[mistake].by_name() for mistake in ("layout", "block"))
        naive = mistaken.naive
        lost = compare_outputs(naive.exact.by_name(), naive.naive.by_name(), naive.norms_BN, self.gate.quiet)
        at_export: Origin = "computed at export"
        return [
            self.judge("wrong rotary layout", stored.measure(layout, self.gate), at_export, stored.name),
            self.judge("one block's weights swapped", stored.measure(block, self.gate), at_export, stored.name),
            self.judge("naive fp16 on hard weights", lost, at_export, "a scene in a small model"),
        ]

    def judge(self, name: CanaryName, figures: Figures, origin: Origin, clip: str) -> Canary:
        """The verdict on one mistake."""
        faults = tuple(figures.faults(self.gate))
        return Canary(
            name=name,
            candidate=self.candidate,
            origin=origin,
            clip=clip,
            figures=figures,
            limits=self.gate.limits,
            faults=faults,
            passed=not faults,
        )
