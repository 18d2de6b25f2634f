"""What do a worker that follows a live source and its parent say to each other?

Axes: H, W pixels, C colours.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vjepa2.manifest import CROP_DOWN, Crop

from .decode_messages import DecodeLimits

FramesArray = npt.NDArray[np.uint8]
SourceKind = Literal["file", "camera", "rtsp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowJob:
    """A live source for a worker; the shared memory's descriptor comes with it, and a file's."""

    kind: SourceKind
    address: str  # of a camera or of a stream in the network; a file has none, it is open
    options: dict[str, str]  # of a camera, for FFmpeg
    speed: float  # seconds of a file that pass in one second
    sampling: str  # see `runtime.picking`
    max_gap_s: float
    height: int  # pixels
    width: int  # pixels
    crop: Crop = CROP_DOWN
    limits: DecodeLimits
    slots: int = 4  # frames that the shared memory holds

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of the model's size, uint8 RGB."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSeen:
    """A frame was decoded; one that is taken lies in a slot, which the worker leaves alone until told `Free`."""

    time_s: float  # its time stamp
    arrived_s: float  # when its packet was read, by the machine's monotonic clock
    height: int  # as it came, pixels
    width: int
    samples: int
    jump_s: float | None
    slot: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The source came to its end, or `why` not; a worker that has grown asks to be replaced."""

    why: str | None
    retire: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFrame:
    """A frame of a live source as the parent has it: pixels of the model's size if it is taken."""

    time_s: float  # its time stamp
    arrived_s: float  # by the clock of the stream
    samples: int = 1  # of a clip that it stands for; 0 if it is passed over
    jump_s: float | None = None  # its time stamp does not follow the one before
    size: tuple[int, int] = (0, 0)  # height and width as it came
    pixels_HWC: FramesArray | None = None
