"""How does an app get clips out of video files that nobody vouches for?

Every video is decoded in a process of its own kind, which may be killed; what comes back is clips and a report.
"""

import os
import queue
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from vjepa2.errors import MissingDependencyError, VideoError

from .decode_messages import ClipRequest, DecodeLimits, Finished, VideoReport
from .decode_process import DecodeProcess

FramesArray = npt.NDArray[np.uint8]
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledClip:
    """A clip of a video, `[T, H, W, 3]` uint8, the caller's to keep, and where in the video it lies."""

    frames_THWC: FramesArray
    number: int
    clips: int  # that the video gives in all
    start_s: float  # from the first frame of the video
    end_s: float


class Reading:
    """A video being decoded: its clips, to be iterated over once; then `report`. A bad video never raises."""

    def __init__(self, path: Path, request: ClipRequest, decoder: "VideoDecoder") -> None:
        self.path = path
        self.report: VideoReport | None = None  # until the last clip was taken
        self._request, self._decoder = request, decoder

    def __iter__(self) -> Iterator[SampledClip]:
        """Decode; the worker works one clip ahead. Left early, it is ended, and the video has no report."""
        try:
            file = _open_regular(self.path, self._decoder.limits)
        except VideoError as error:
            self.report = VideoReport(status="rejected", reason=str(error))
            return
        try:
            yield from self._run(file)
        finally:
            os.close(file)

    def _run(self, file: int) -> Iterator[SampledClip]:
        worker, keep = self._decoder.take_worker(), False
        clips = 0
        try:
            for event in worker.run(file, self._request):
                if isinstance(event, Finished):
                    self.report, keep = event.report, not event.retire
                else:
                    done, frames = event
                    clips += 1
                    yield SampledClip(
                        frames_THWC=frames,
                        number=done.number,
                        clips=done.clips,
                        start_s=done.start_s,
                        end_s=done.end_s,
                    )
        except VideoError as error:
            reason = "the decoder was closed" if self._decoder.closed else str(error)
            self.report = VideoReport(status="rejected", reason=reason, clips=clips)
        finally:
            self._decoder.give_back(worker, keep)


class VideoDecoder:
    """Worker processes that decode videos; started when first needed, replaced when they die. For any thread."""

    def __init__(self, limits: DecodeLimits | None = None, *, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.limits = limits or DecodeLimits()
        self.closed = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._busy: set[DecodeProcess] = set()
        self._idle: queue.LifoQueue[DecodeProcess | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def open(self, path: str | Path, request: ClipRequest) -> Reading:
        """The clips of a video, one after another, and then its report: for long videos and sliding windows."""
        return Reading(Path(path), request, self)

    def read(self, path: str | Path, request: ClipRequest) -> tuple[list[SampledClip], VideoReport]:
        """All clips of a video at once, and how it went; of a rejected one there are none."""
        reading = self.open(path, request)
        clips = list(reading)
        assert reading.report is not None
        return ([] if reading.report.status == "rejected" else clips), reading.report

    def take_worker(self) -> DecodeProcess:
        """Wait for a worker that is free, and start one if it was never started. `give_back` must follow."""
        if self._owner != os.getpid():
            raise RuntimeError("a VideoDecoder cannot be used after a fork; make one in the new process")
        worker = self._idle.get()
        try:
            if self.closed:
                raise VideoError("the decoder was closed; make another one")
            worker = worker or DecodeProcess(self.limits)
            with self._lock:
                self._busy.add(worker)
        except (VideoError, MissingDependencyError, OSError):
            self._idle.put(None)
            raise
        if self.closed:  # in the meantime
            worker.kill()
        return worker

    def give_back(self, worker: DecodeProcess, keep: bool) -> None:
        """Let others have a worker; one that is not to be kept is ended, and a new one starts when needed."""
        with self._lock:
            self._busy.discard(worker)
            keep = keep and not self.closed
        if not keep:
            worker.close()
        self._idle.put(worker if keep else None)

    def close(self) -> None:
        """End every worker, those at work too: their videos are rejected. Safe to call twice, from any thread."""
        with self._lock:
            self.closed = True
            for worker in self._busy:
                worker.kill()
        idle = []
        try:
            while True:
                idle.append(self._idle.get_nowait())
        except queue.Empty:
            pass
        for worker in idle:
            if worker:
                worker.close()
            self._idle.put(None)

    def __enter__(self) -> "VideoDecoder":
        """The decoder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _open_regular(path: Path, limits: DecodeLimits) -> int:
    """A descriptor of a regular file that is not too large; a `VideoError` for anything else, pipes included."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise VideoError(f"it is not a file that can be read ({getattr(error, 'strerror', None) or error})") from error
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limits.file_bytes:
        return file
    os.close(file)
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("it is not a file; give the path of a video")
    raise VideoError(f"it has {status.st_size} bytes; at most {limits.file_bytes} are read")
