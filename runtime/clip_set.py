"""On which clips is a bundle compared: those that it carries, generated ones of every kind, a folder of videos?

Axes: B clips, T frames, H, W pixels, C colours, N tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vjepa2.bundle import Bundle
from vjepa2.errors import VideoError
from vjepa2.spec import OutputName

from .backends.base import FloatArray, FramesArray, InputArray
from .clip_reader import ClipReader
from .decode_messages import ClipRequest
from .decoder import VIDEO_SUFFIXES
from .figures import Figures, compare_outputs
from .gates import Gate
from .reference import Reference, measure_change
from .sampling import Pad
from .scenes import OddClip, generate_odd_clip, generate_scene

Kind = Literal["stored", "generated", "real"]
_LONGER = 4  # times a clip's frames: a long video
_LARGER = 5 / 4  # times a clip's sides: a video that is resized


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Frames to compare on."""

    name: str
    kind: Kind
    frames_THWC: FramesArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Clip):
    """A clip, what a head takes beside it, and what PyTorch float32 makes of both: arrays of one row."""

    inputs: Mapping[str, InputArray]
    expected: Mapping[OutputName, FloatArray]
    norms_BN: FloatArray  # of tokens before the final LayerNorm
    expected_by: str

    @property
    def change(self) -> float:
        """How much neighbouring frames differ."""
        return measure_change(self.frames_THWC)

    def measure(self, got: Mapping[OutputName, FloatArray], gate: Gate) -> Figures:
        """How far `got` is from what is expected."""
        return compare_outputs(self.expected, got, self.norms_BN, gate.quiet)


def list_stored(reference: Reference, name: str) -> list[Case]:
    """The clips that the bundle called `name` carries, with what export saw PyTorch make of them."""
    rows = [slice(index, index + 1) for index in range(len(reference.frames_BTHWC))]
    return [
        Case(
            name=f"stored {index}",
            kind="stored",
            frames_THWC=reference.frames_BTHWC[index],
            inputs={each: array[row] for each, array in reference.inputs.items()},
            expected={each: array[row] for each, array in reference.outputs.by_name().items()},
            norms_BN=reference.norms_BN[row],
            expected_by=f"reference.npz of {name}",
        )
        for index, row in enumerate(rows)
    ]


def generate_clips(bundle: Bundle) -> Iterator[Clip]:
    """Clips of every kind for a bundle, and two made of videos that are too short and too long for it."""
    frames, height, width, _ = bundle.manifest.frames_shape
    yield Clip(name="motion", kind="generated", frames_THWC=generate_scene(frames, height, width, seed=21))
    for kind in get_args(OddClip):
        if kind != "fast":  # every bundle carries it
            yield Clip(name=kind, kind="generated", frames_THWC=generate_odd_clip(kind, frames, height, width))
    large = (int(height * _LARGER), int(width * _LARGER))
    videos = {"short": max(1, frames // 2), "long": _LONGER * frames}
    with ClipReader(ClipRequest.of(bundle.manifest)) as reader:
        for seed, (name, count) in enumerate(videos.items(), 22):
            video_THWC = generate_scene(count, *large, seed=seed)
            yield Clip(name=name, kind="generated", frames_THWC=reader.read_one(video_THWC, pad="repeat-last"))


def read_folder(request: ClipRequest, folder: Path, pad: Pad = "none") -> list[Clip]:
    """One clip of every video in `folder`, by name; `VideoError` if there is none, or one cannot be read."""
    if not folder.is_dir():
        raise VideoError(f"{folder} is not a folder; --clips takes a folder of videos")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise VideoError(f"{folder} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    with ClipReader(request) as reader:
        return [Clip(name=file.name, kind="real", frames_THWC=reader.read_one(file, pad=pad)) for file in files]
