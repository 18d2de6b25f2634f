"""What does a video file hold, and which pixels are its frames? The only file that imports av; it runs in the worker.

The file is known by its descriptor alone: neither it nor what it names can have another one opened.

Axes: H, W pixels, C colours.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from vjepa2.errors import VideoError

from . import isobmff, matroska
from .claims import Claims, Found, find_loss
from .decode_messages import DecodeLimits

PixelArray = npt.NDArray[np.uint8]
IndexArray = npt.NDArray[np.int64]
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,flv,asf,ogg,mxf"
_MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_SEEKABLE = (_MP4, _MATROSKA)  # to a keyframe, exactly
_NO_TIMES = ("avi", "h264", "hevc", "m4v", "mpegvideo")  # what they give for times is made up
Frame = av.VideoFrame
Opened = tuple[av.container.InputContainer, av.video.stream.VideoStream]
DAMAGE = (av.error.FFmpegError, MemoryError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoIndex:
    """Every frame that a video shows, in the order shown, as its packets tell it."""

    times: IndexArray | None  # ticks, ascending; None: a frame is known by its place in that order alone
    keys: IndexArray  # numbers of the frames from which decoding can start
    seekable: bool
    total: int  # frames
    starts_s: npt.NDArray[np.float64]  # of each frame and, last, of the end; the first frame is at 0
    rate_hz: float | None
    expected: int | None  # frames that the container promises; None if it does not
    hidden: int  # frames that are not to be shown, as the container says
    loss: str | None  # why not everything promised is there


@dataclass(slots=True)
class _Packets:
    times: list[int | None]
    keys: list[bool]
    end: int = 0  # ticks
    last_end_s: float = 0.0  # of any stream
    count: int = 0  # of all streams
    bytes: int = 0  # of all streams
    hidden: int = 0  # of this stream, but not to be shown
    decoded_to: int | None = None  # ticks
    gap: str | None = None
    fault: str | None = None


@contextmanager
def open_video(file: int, limits: DecodeLimits) -> Iterator[Opened]:
    """The first video stream of an open file; a `VideoError` if there is none that can be decoded within `limits`."""
    os.lseek(file, 0, os.SEEK_SET)
    only = {"fd": str(file), "protocol_whitelist": "fd", "format_whitelist": _FORMATS}
    try:
        container = av.open("fd:", metadata_errors="replace", options=only)
    except DAMAGE as error:
        raise VideoError(f"it is not a video that can be read ({explain(error)})") from error
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


def index_video(file: int, limits: DecodeLimits) -> VideoIndex:
    """Read every packet once, decoding none, and hold them against what the container promises."""
    with open_video(file, limits) as (container, stream):
        format_name, tick_s = container.format.name, stream.time_base or Fraction(1, 1000)
        packets = _read_packets(container, stream, limits)
        rate = stream.average_rate or stream.guessed_rate
        claims = Claims.of(stream.frames, dict(stream.metadata), container.duration, av.time_base)
    total = len(packets.times)
    if not total:
        raise VideoError(f"it has no frame that can be decoded ({packets.fault or 'it is empty'})")
    known = [time for time in packets.times if time is not None]
    ordered = format_name in _NO_TIMES or len(set(known)) < total
    order = np.arange(total) if ordered else np.argsort(np.array(known, np.int64), kind="stable")
    times = None if ordered else np.array(known, np.int64)[order]
    starts_s = _start_times(times, packets.end, float(tick_s), total, rate)
    if starts_s[-1] > limits.duration_s:
        raise VideoError(f"it lasts {starts_s[-1]:.0f} s; at most {limits.duration_s} are read")
    end_s = packets.last_end_s if times is None else max(packets.last_end_s, float(times[0] * tick_s) + starts_s[-1])
    found = Found(frames=total, hidden=packets.hidden, end_s=end_s, frame_s=starts_s[-1] / total, fault=packets.fault)
    expected, loss = find_loss(found, claims, _find_damage(file, format_name, packets))
    return VideoIndex(
        times=times,
        keys=np.flatnonzero(np.array(packets.keys)[order]),
        seekable=times is not None and format_name in _SEEKABLE,
        total=total,
        starts_s=starts_s,
        rate_hz=float(rate) if rate else None,
        expected=expected,
        hidden=packets.hidden,
        loss=loss,
    )


def _find_damage(file: int, format_name: str, packets: _Packets) -> str | None:
    """What is wrong with a container's structure, where it is one that is known here."""
    if format_name == _MATROSKA:
        return matroska.find_damage(file, packets.count)
    if format_name != _MP4:
        return None
    return packets.gap or isobmff.find_damage(file, packets.bytes)


def _read_packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, limits: DecodeLimits
) -> _Packets:
    packets = _Packets([], [])
    hides = stream.codec_context.name == "vp8"
    try:
        for packet in container.demux():
            if not packet.size:
                continue
            end = (packet.pts if packet.pts is not None else packet.dts or 0) + (packet.duration or 0)
            packets.count, packets.bytes = packets.count + 1, packets.bytes + packet.size
            packets.last_end_s = max(packets.last_end_s, float(end * packet.time_base) if packet.time_base else 0.0)
            if packet.stream.index != stream.index:
                continue
            _find_gap(packets, packet)
            if packet.is_corrupt:
                packets.fault = packets.fault or f"packet {len(packets.times)} is cut or damaged"
            if packet.is_discard or (hides and not bytes(packet)[0] & 16):  # VP8: a picture that is not shown
                packets.hidden += 1
                continue
            packets.times.append(packet.pts)
            packets.keys.append(packet.is_keyframe)
            packets.end = max(packets.end, end)
            if len(packets.times) > limits.frames:
                raise VideoError(f"it has more than {limits.frames} frames; no more are read")
    except DAMAGE as error:
        packets.fault = f"after packet {len(packets.times)}: {explain(error)}"
    return packets


def _find_gap(packets: _Packets, packet: av.Packet) -> None:
    """Where every packet says how long it lasts, the next one begins when it ends, or something is wrong."""
    if packet.dts is None:
        return
    if packets.decoded_to is not None and 2 * abs(packet.dts - packets.decoded_to) > (packet.duration or 0):
        packets.gap = packets.gap or f"packet {len(packets.times)} does not begin where the one before it ends"
    packets.decoded_to = packet.dts + (packet.duration or 0)


def _start_times(
    times: IndexArray | None, end: int, tick_s: float, total: int, rate: Fraction | None
) -> npt.NDArray[np.float64]:
    if times is None:
        return np.arange(total + 1, dtype=np.float64) / float(rate or 1)
    usual = int(np.median(np.diff(times))) if total > 1 else 0
    last = max(end, int(times[-1]) + usual if end <= times[-1] else end)
    starts_s: npt.NDArray[np.float64] = (np.append(times, last) - times[0]) * tick_s
    return starts_s


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
