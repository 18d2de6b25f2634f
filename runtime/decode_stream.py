"""What does the worker do with a live source: packets as they come, frames that are taken to shared memory?

Axes: H, W pixels, C colours.
"""

import mmap
import os
import socket
import time
from collections.abc import Iterator

import numpy as np

from vjepa2.errors import VideoError
from vjepa2.fitting import fit_frames
from vjepa2.spec import ClipSpec

from . import video
from .decode_messages import MESSAGE_BYTES, Free, decode_message, encode_message
from .decode_video import limit_cpu
from .picking import Picker, parse_live_sampling
from .stream_messages import FollowJob, FrameSeen

_UNTIMED = 30  # frames in a row; a network's first ones may have no time stamp
_KNOWN_PACKETS = 256  # in a decoder at most, else some were lost in it


def follow_stream(parent: socket.socket, job: FollowJob, memory: int, *files: int) -> str | None:
    """Tell the parent of every frame until the source ends; why it did, or None if that was its own end."""
    try:
        shared = mmap.mmap(memory, job.slots * job.frame_bytes)
        with video.open_live(job, files) as opened:
            frames = _Frames(parent, job, shared)
            for frame, arrived_s in _decode(opened, _Pace(job)):
                if not frame.is_corrupt:
                    frames.put(frame, arrived_s)
                limit_cpu(job.limits)
    except VideoError as error:
        return str(error)
    except video.DAMAGE as error:
        return video.explain(error)
    finally:
        for file in (memory, *files):
            os.close(file)
    return None


def _decode(opened: video.Opened, pace: "_Pace") -> Iterator[tuple[video.Frame, float]]:
    """Frames in the order shown, each with the moment at which its packet was there; damaged ones are passed over."""
    container, stream = opened
    arrivals_s: dict[int | None, float] = {}
    for packet in container.demux(stream):
        time_s = None if packet.dts is None or packet.time_base is None else float(packet.dts * packet.time_base)
        arrived_s = pace.wait(time_s)
        if len(arrivals_s) >= _KNOWN_PACKETS:
            arrivals_s.clear()
        arrivals_s[packet.pts] = arrived_s
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except video.DAMAGE:
            continue
        for frame in frames:
            yield frame, arrivals_s.pop(frame.pts, arrived_s)


class _Pace:
    """Lets a file's packets come as if it were being filmed; what is live comes by itself."""

    def __init__(self, job: FollowJob) -> None:
        self._job = job
        self._anchor: tuple[float, float] | None = None  # a time stamp and its moment
        self._last_s = 0.0

    def wait(self, time_s: float | None) -> float:
        """Wait until a packet of this time stamp is due, and return when that was; a jump is not waited out."""
        now_s = time.monotonic()
        if self._job.kind != "file" or time_s is None:
            return now_s
        if self._anchor is None or not 0 <= time_s - self._last_s <= self._job.max_gap_s:
            self._anchor = time_s, now_s
        self._last_s = time_s
        due_s = self._anchor[1] + (time_s - self._anchor[0]) / self._job.speed
        time.sleep(max(0.0, due_s - now_s))
        return min(due_s, time.monotonic())


class _Frames:
    """What becomes of frames: their time stamps go to the parent, and the pixels of those that are taken."""

    def __init__(self, parent: socket.socket, job: FollowJob, shared: mmap.mmap) -> None:
        self._parent, self._job, self._shared = parent, job, shared
        self._free = list(range(job.slots))
        self._picker = Picker(parse_live_sampling(job.sampling), job.max_gap_s)
        self._clip = ClipSpec(frames=1, height=job.height, width=job.width, tubelet=1, patch=1)
        self._painter = video.Painter()
        self._turn: video.Turn | None = None
        self._untimed = 0  # in a row

    def put(self, frame: video.Frame, arrived_s: float) -> None:
        """Tell of a frame, and wait for room if it is taken. One without a time stamp has no place, and is left out."""
        if frame.pts is None:
            self._untimed += 1
            if self._untimed > _UNTIMED:
                raise VideoError(
                    "its frames have no time stamps, so nothing says how fast it goes; put it into an .mp4"
                )
            return
        self._untimed = 0
        if self._turn is None:
            self._turn = video.find_turn(frame)
        time_s = float(frame.time)
        pick = self._picker.pick(time_s)
        seen = FrameSeen(
            time_s=time_s,
            arrived_s=arrived_s,
            height=frame.height,
            width=frame.width,
            samples=pick.samples,
            jump_s=pick.jump_s,
            slot=self._lay_down(frame, self._turn) if pick.samples else None,
        )
        self._parent.send(encode_message(seen))

    def _lay_down(self, frame: video.Frame, turn: video.Turn) -> int:
        while not self._free:
            self._free.append(decode_message(self._parent.recv(MESSAGE_BYTES), Free).slot)
        slot, size = self._free.pop(), self._job.frame_bytes
        place_HWC = np.frombuffer(self._shared, np.uint8, size, slot * size).reshape(
            self._job.height, self._job.width, 3
        )
        place_HWC[:] = fit_frames([self._painter.paint(frame, turn)], self._clip, 1, self._job.crop)[0, 0]
        return slot
