"""What does the worker do with one video: packets, frames, clips in shared memory, and a judgement?

Axes: K clips, V views, T frames, H, W pixels, C colours.
"""

import mmap
import os
import resource
import socket
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError
from vjepa2.fitting import PixelArray, fit_frames
from vjepa2.spec import ClipSpec

from . import video
from .decode_messages import (
    MESSAGE_BYTES,
    ClipDone,
    ClipRequest,
    DecodeLimits,
    Free,
    Job,
    VideoReport,
    decode_message,
    encode_message,
)
from .frame_reader import FrameReader
from .sampling import Footage, IndexArray, choose_frames, parse_sampling
from .video_index import VideoIndex, index_video


def decode_video(parent: socket.socket, job: Job, file: int, memory: int) -> VideoReport:
    """Lay every clip that a job asks for into its shared memory, tell the parent of each, and say how it went."""
    try:
        shared = mmap.mmap(memory, job.slots * job.request.clip_bytes)
        return _decode(_Slots(parent, job, shared), file)
    except VideoError as error:
        return VideoReport(status="rejected", reason=str(error))
    except video.DAMAGE as error:
        return VideoReport(status="rejected", reason=video.explain(error))
    finally:
        os.close(file)
        os.close(memory)


def _decode(slots: "_Slots", file: int) -> VideoReport:
    request, limits = slots.job.request, slots.job.limits
    limit_cpu(limits)
    sampling = parse_sampling(request.sampling)
    index = index_video(file, limits)
    footage = Footage(
        total=index.total,
        count=request.frames,
        segments=request.segments,
        rate_hz=index.rate_hz,
        pad=request.pad,
        name="it",
    )
    chosen_KT = choose_frames(sampling, footage)
    reader = FrameReader(file, index, limits)
    with ThreadPoolExecutor(limits.threads) as pool:
        fitted = _Fitting(pool, request, limits.threads)
        done = 0
        for number, frame in reader.read(np.unique(chosen_KT).tolist()):
            fitted.add(number, frame)
            while done < len(chosen_KT) and chosen_KT[done, -1] <= number:
                slots.put(done, chosen_KT, index.starts_s, fitted)
                limit_cpu(limits)
                done += 1
    if done < len(chosen_KT):
        raise VideoError("it has no frame that can be decoded; it is damaged")
    return _judge(index, len(reader.lost), done)


def limit_cpu(limits: DecodeLimits) -> None:
    """Allow this process so many seconds more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + limits.cpu_s + 1, hard))


def _judge(index: VideoIndex, lost: int, clips: int) -> VideoReport:
    whole = not lost and not index.loss
    expected = index.total if lost and not index.loss else index.expected
    return VideoReport(
        status="ok" if whole else "partial",
        reason=None if whole else index.loss or f"{lost} could not be decoded",
        frames=index.total - lost,
        expected=expected,
        hidden=index.hidden,
        clips=clips,
    )


class _Fitting:
    """Frames on their way to the clip's size, by number, in threads beside the decoder."""

    def __init__(self, pool: ThreadPoolExecutor, request: ClipRequest, threads: int) -> None:
        self._pool, self._request, self._ahead = pool, request, 2 * threads
        self._clip = ClipSpec(frames=1, height=request.height, width=request.width, tubelet=1, patch=1)
        self._frames: dict[int, Future[PixelArray]] = {}
        self._pending: deque[Future[PixelArray]] = deque()
        self._turn: video.Turn | None = None
        self._painters = threading.local()

    def add(self, number: int, frame: video.Frame) -> None:
        """Take a frame; waits while too many decoded ones lie about."""
        if self._turn is None:
            self._turn = video.find_turn(frame)
        while len(self._pending) >= self._ahead:
            self._pending.popleft().result()
        self._frames[number] = self._pool.submit(self._fit, frame, self._turn)
        self._pending.append(self._frames[number])

    def take(self, numbers: IndexArray, clip_VTHWC: PixelArray) -> None:
        """Write a clip."""
        for place, number in enumerate(numbers.tolist()):
            clip_VTHWC[:, place] = self._frames[number].result()

    def forget(self, before: int) -> None:
        """Drop the frames below a number."""
        for number in [known for known in self._frames if known < before]:
            del self._frames[number]

    def _fit(self, frame: video.Frame, turn: video.Turn) -> PixelArray:
        painter = self._painters.__dict__.setdefault("painter", video.Painter())
        pixels_HWC = painter.paint(frame, turn)
        return fit_frames([pixels_HWC], self._clip, self._request.views, self._request.crop)[:, 0]


class _Slots:
    """The shared memory, clip by clip: one is written only while the parent has no use for it."""

    def __init__(self, parent: socket.socket, job: Job, shared: mmap.mmap) -> None:
        self.job = job
        self._parent, self._shared = parent, shared
        self._free = list(range(job.slots))

    def put(self, number: int, chosen_KT: IndexArray, starts_s: npt.NDArray[np.float64], fitted: _Fitting) -> None:
        """Lay down clip `number` as soon as there is room, and say so."""
        while not self._free:
            message = decode_message(self._parent.recv(MESSAGE_BYTES), Free)
            assert isinstance(message, Free)
            self._free.append(message.slot)
        slot, request = self._free.pop(), self.job.request
        clip_VTHWC = np.frombuffer(self._shared, np.uint8, request.clip_bytes, slot * request.clip_bytes)
        fitted.take(chosen_KT[number], clip_VTHWC.reshape(request.clip_shape))
        fitted.forget(int(chosen_KT[number + 1, 0]) if number + 1 < len(chosen_KT) else 0)
        first, last = chosen_KT[number, 0], chosen_KT[number, -1]
        self._parent.send(
            encode_message(
                ClipDone(
                    slot=slot,
                    number=number,
                    clips=len(chosen_KT),
                    start_s=float(starts_s[first]),
                    end_s=float(starts_s[last + 1]),
                )
            )
        )
