"""How is a video file opened, and which pixels are its frames? The only file that imports av; it runs in the worker.

A file is known by its descriptor alone: neither it nor what it names can have another one opened.

Axes: H, W pixels, C colours.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from vjepa2.errors import VideoError

from .decode_messages import DecodeLimits
from .stream_messages import FollowJob

PixelArray = npt.NDArray[np.uint8]
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,flv,asf,ogg,mxf"
Frame = av.VideoFrame
Opened = tuple[av.container.InputContainer, av.video.stream.VideoStream]
DAMAGE = (av.error.FFmpegError, MemoryError, ValueError)


@contextmanager
def open_video(file: int, limits: DecodeLimits) -> Iterator[Opened]:
    """The first video stream of an open file; a `VideoError` if there is none that can be decoded within `limits`."""
    with _open("fd:", None, _only(file), limits) as opened:
        yield opened


@contextmanager
def open_live(job: FollowJob, files: Sequence[int]) -> Iterator[Opened]:
    """The video stream of a live source; of the network, TCP connections are all that it may make.

    Only slices are decoded beside each other: with whole frames each thread would hold one back.
    """
    if job.kind == "file":
        name, form, options = "fd:", None, _only(*files)
    elif job.kind == "camera":
        name, form, options = job.address, "video4linux2", job.options
    else:
        patience_us = str(int(1e6 * job.limits.deadline_s))
        only = {"protocol_whitelist": "tcp", "format_whitelist": "rtsp"}
        name, form, options = job.address, "rtsp", {**only, "rtsp_transport": "tcp", "timeout": patience_us}
    with _open(name, form, options, job.limits) as (container, stream):
        stream.thread_type = "SLICE"
        yield container, stream


def _only(file: int) -> dict[str, str]:
    os.lseek(file, 0, os.SEEK_SET)
    return {"fd": str(file), "protocol_whitelist": "fd", "format_whitelist": _FORMATS}


@contextmanager
def _open(name: str, form: str | None, options: dict[str, str], limits: DecodeLimits) -> Iterator[Opened]:
    try:
        container = av.open(name, format=form, metadata_errors="replace", options=options)
    except DAMAGE as error:
        what = "it is not a video that can be read" if form is None else "it cannot be opened"
        raise VideoError(f"{what} ({explain(error)})") from error
    with container:
        if not container.streams.video:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError(f"it has no video stream; it holds {', '.join(kinds) or 'nothing'}")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise VideoError("it is in a codec that this FFmpeg cannot decode")
        if context.width * context.height > limits.pixels:
            raise VideoError(
                f"its frames are {context.width} x {context.height}; at most {limits.pixels} pixels are read"
            )
        if container.duration and container.duration / av.time_base > limits.duration_s:
            raise VideoError(
                f"it lasts {container.duration / av.time_base:.0f} s; at most {limits.duration_s} are read"
            )
        context.options = {"max_pixels": str(limits.pixels)}
        stream.thread_type = "AUTO"
        context.thread_count = limits.threads
        yield container, stream


def find_duration(container: av.container.InputContainer) -> float | None:
    """How long a container says it lasts, in seconds; None if it does not say."""
    return container.duration / av.time_base if container.duration else None


@dataclass(frozen=True, slots=True)
class Turn:
    """How stored pixels are to be shown: first transposed, then each axis reversed, or not."""

    transposed: bool = False
    down: int = 1  # -1: rows from the last to the first
    right: int = 1


def find_turn(frame: av.VideoFrame) -> Turn:
    """What a frame's display matrix asks for; ask one frame of a video only, for asking keeps it in memory."""
    found: Any = frame.side_data  # a list of them, whatever PyAV's stub says
    matrix = next((bytes(data) for data in found if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return Turn()
    right_x, right_y, _, down_x, down_y = np.frombuffer(matrix, np.int32)[:5].tolist()
    straight, turned = abs(right_x) + abs(down_y), abs(right_y) + abs(down_x)
    if min(straight, turned) * 50 > max(straight, turned):
        raise VideoError("it is to be shown turned by an angle that is not a quarter; turn it upright first")
    right, down = (down_x, right_y) if turned > straight else (right_x, down_y)
    return Turn(turned > straight, -1 if down < 0 else 1, -1 if right < 0 else 1)


class Painter:
    """Makes pixels of decoded frames; one for each thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def paint(self, frame: av.VideoFrame, turn: Turn) -> PixelArray:
        """Pixels `[H, W, 3]`, uint8 RGB, upright."""
        frame = self._reformatter.reformat(frame, format="rgb24", threads=1)
        pixels_HWC = np.asarray(frame.to_ndarray(), np.uint8)
        if turn.transposed:
            pixels_HWC = pixels_HWC.transpose(1, 0, 2)
        return pixels_HWC[:: turn.down, :: turn.right]


def explain(error: BaseException) -> str:
    """What a library said, in a few words."""
    if isinstance(error, MemoryError):
        return "it needs more memory than a worker may use"
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
