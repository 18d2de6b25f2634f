"""What do a decoder and its worker process say to each other, and to the caller in the end?

Axes: V views, T frames, H, W pixels, C colours.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from vjepa2.errors import BundleError, VideoError
from vjepa2.manifest import CROP_DOWN, Crop, Manifest
from vjepa2.schema import read_record

from .sampling import Pad

Status = Literal["ok", "partial", "rejected"]
FramesArray = npt.NDArray[np.uint8]
MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost; more is a rejection."""

    memory_bytes: int = 1536 << 20  # address space of a worker, its libraries included
    cpu_s: int = 300  # of a worker, from one clip to the next
    deadline_s: float = 120.0  # of waiting for the next clip
    file_bytes: int = 16 << 30
    pixels: int = 8192 * 4096  # of a frame
    frames: int = 5_000_000
    duration_s: int = 86_400
    open_files: int = 64
    threads: int = 2  # of a worker: for decoding, and as many again for resizing


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """What is wanted of a video: clips of `frames` frames of `height` x `width` pixels."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    sampling: str = "uniform"  # see `runtime.sampling`
    pad: Pad = "none"
    crop: Crop = CROP_DOWN
    views: int = 1  # crops of each clip: one in the centre, or more along its longer side
    segments: int = 1  # of the video that a clip is made of

    @classmethod
    def of(cls, manifest: Manifest, *, sampling: str = "uniform", pad: Pad = "none", views: int = 1) -> "ClipRequest":
        """Clips as the model of a bundle takes them."""
        frames, height, width, _ = manifest.frames_shape
        probe = manifest.parts.probe
        return cls(
            frames=frames,
            height=height,
            width=width,
            sampling=sampling,
            pad=pad,
            crop=manifest.preprocessing.crop,
            views=views,
            segments=probe.segments if probe else 1,
        )

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip in all its views, uint8 RGB."""
        return self.views * self.frames * self.height * self.width * 3

    @property
    def clip_shape(self) -> tuple[int, int, int, int, int]:
        """Of one clip in all its views, `[V, T, H, W, 3]`."""
        return self.views, self.frames, self.height, self.width, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoReport:
    """How a video went, and why. Unless every frame that was asked for came, it is not `ok`."""

    status: Status
    reason: str | None = None
    frames: int | None = None  # that are there and could be decoded
    expected: int | None = None  # that the container promises; None if it does not or was not asked
    hidden: int = 0  # that are there and not to be shown, as an edit list says
    clips: int = 0

    def __str__(self) -> str:
        """`ok`, `partial (20 of 24 frames: why)` or `rejected (why)`."""
        if self.status == "ok":
            return "ok"
        if self.status == "rejected":
            return f"rejected ({self.reason})"
        whole = "an unknown number of" if self.expected is None else self.expected
        return f"partial ({self.frames} of {whole} frames: {self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledClip:
    """A clip of a video, `[V, T, H, W, 3]` uint8, the caller's to keep, and where in the video it lies."""

    views_VTHWC: FramesArray
    number: int
    clips: int  # that the video gives in all
    start_s: float | None  # from the first frame of the video; None of an array, which has no clock
    end_s: float | None

    @property
    def frames_THWC(self) -> FramesArray:  # noqa: N802
        """The only view of a clip that has one, `[T, H, W, 3]`."""
        assert len(self.views_VTHWC) == 1
        frames_THWC: FramesArray = self.views_VTHWC[0]
        return frames_THWC


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A video for a worker; its descriptor and that of the shared memory come with it."""

    request: ClipRequest
    limits: DecodeLimits
    slots: int  # clips that the shared memory holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipDone:
    """A clip lies in a slot; the worker does not touch it again until it is told `FREE`."""

    slot: int
    number: int
    clips: int  # that the video gives in all, if nothing fails
    start_s: float  # from the first frame of the video
    end_s: float  # of its last frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The video is done with; a worker that has grown asks to be replaced."""

    report: VideoReport
    retire: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has started, or says what it lacks."""

    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """A slot may be written again."""

    slot: int = field(default=0)


_Message = TypeVar("_Message")


def encode_message(message: Any) -> bytes:
    """One message, a dataclass, as one datagram of JSON."""
    return json.dumps({type(message).__name__: asdict(message)}).encode()


def decode_message(data: bytes, *kinds: type[_Message]) -> _Message:
    """A message of one of `kinds`; a `VideoError` for anything else, for a worker may have been taken over."""
    try:
        ((name, record),) = json.loads(data).items()
        return read_record({kind.__name__: kind for kind in kinds}[name], record, name)
    except (ValueError, AttributeError, KeyError, RecursionError, BundleError) as error:
        raise VideoError(f"its decoder spoke out of turn ({error!r:.200})") from error
