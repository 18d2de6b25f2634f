"""Which frames does a video show, as its packets tell it, and are they all there?"""

import os
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError

from . import isobmff, matroska
from .claims import Claims, Found, find_loss
from .decode_messages import DecodeLimits
from .video import DAMAGE, Opened, explain, find_duration, open_video

IndexArray = npt.NDArray[np.int64]
_MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_SEEKABLE = (_MP4, _MATROSKA)  # to a keyframe, exactly
_TS_PACKETS = (188, 192, 204)  # bytes: plain, with times, with checksums
_NO_TIMES = ("avi", "h264", "hevc", "m4v", "mpegvideo")  # what they give for times is made up


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


def index_video(file: int, limits: DecodeLimits) -> VideoIndex:
    """Read every packet once, decoding none, and hold them against what the container promises."""
    with open_video(file, limits) as opened:
        container, stream = opened
        format_name, tick_s = container.format.name, stream.time_base or Fraction(1, 1000)
        packets = _read_packets(opened, limits)
        rate = stream.average_rate or stream.guessed_rate
        claims = Claims.of(stream.frames, dict(stream.metadata), find_duration(container))
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
    if format_name == _MP4:
        return packets.gap or isobmff.find_damage(file, packets.bytes)
    if format_name == "mpegts" and all(os.fstat(file).st_size % size for size in _TS_PACKETS):
        return "the file ends inside a packet"
    return None


def _read_packets(opened: Opened, limits: DecodeLimits) -> _Packets:
    container, stream = opened
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
            _find_gap(packets, packet.dts, packet.duration or 0)
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


def _find_gap(packets: _Packets, begins: int | None, lasts: int) -> None:
    """Where every packet says how long it lasts, the next one begins when it ends, or something is wrong."""
    if begins is None:
        return
    if packets.decoded_to is not None and 2 * abs(begins - packets.decoded_to) > lasts:
        packets.gap = packets.gap or f"packet {len(packets.times)} does not begin where the one before it ends"
    packets.decoded_to = begins + lasts


def _start_times(
    times: IndexArray | None, end: int, tick_s: float, total: int, rate: Fraction | None
) -> npt.NDArray[np.float64]:
    if times is None:
        return np.arange(total + 1, dtype=np.float64) / float(rate or 1)
    usual = int(np.median(np.diff(times))) if total > 1 else 0
    last = max(end, int(times[-1]) + usual if end <= times[-1] else end)
    starts_s: npt.NDArray[np.float64] = (np.append(times, last) - times[0]) * tick_s
    return starts_s
