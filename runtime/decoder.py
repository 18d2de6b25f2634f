"""How does an app get clips out of video files that nobody vouches for?

Every video is decoded in a process of its own kind, which may be killed; what comes back is clips and a report.
"""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from vjepa2.errors import VideoError

from .decode_messages import ClipRequest, DecodeLimits, Finished, SampledClip, VideoReport
from .decode_process import DecodeProcess

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts")
_STARTS = 3  # of a worker that dies before it is ready


class Reading:
    """A video being decoded: its clips, to be iterated over once; then `report`. A bad video never raises."""

    def __init__(self, path: Path, request: ClipRequest, decoder: "VideoDecoder") -> None:
        self.path = path
        self.report: VideoReport | None = None  # until the last clip was taken
        self._request, self._decoder = request, decoder
        self._file: int | None = None
        self._worker: DecodeProcess | None = None
        self._events: Iterator[SampledClip | Finished] = iter(())

    def start(self, *, wait: bool = True) -> bool:
        """Set a worker to it, which decodes two clips ahead of whoever iterates; False if none is free, unless `wait`.

        What was started must be iterated over, or closed.
        """
        if self._worker or self.report:
            return True
        try:
            if self._file is None:
                self._file = open_regular(self.path, self._decoder.limits)
            self._worker = self._decoder.take_worker(wait=wait)
            if self._worker:
                self._events = self._worker.run(self._file, self._request)
        except VideoError as error:
            self.report = VideoReport(status="rejected", reason=str(error))
            self.close()
        return bool(self._worker or self.report)

    def __iter__(self) -> Iterator[SampledClip]:
        """Decode. Left early, its worker is ended, and the video has no report."""
        clips = 0
        try:
            self.start()
            for event in self._events:
                if isinstance(event, Finished):
                    self.report = event.report
                    self._leave(keep=not event.retire)
                else:
                    clips += 1
                    yield event
        except VideoError as error:
            self.report = VideoReport(status="rejected", reason=str(error), clips=clips)
        finally:
            self.close()

    def close(self) -> None:
        """Give up what was started. Safe to call twice."""
        self._leave(keep=False)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _leave(self, *, keep: bool) -> None:
        worker, self._worker = self._worker, None
        if worker:
            self._decoder.give_back(worker, keep)


class VideoDecoder:
    """Worker processes that decode videos; started when first needed, replaced when they die. For any thread."""

    def __init__(self, limits: DecodeLimits | None = None, *, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.limits, self.workers = limits or DecodeLimits(), workers
        self._owner = os.getpid()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._unused = workers  # how many more may be at work
        self._idle: list[DecodeProcess] = []
        self._busy: set[DecodeProcess] = set()

    def open(self, path: str | Path, request: ClipRequest) -> Reading:
        """The clips of a video, one after another, and then its report: for long videos and sliding windows."""
        return Reading(Path(path), request, self)

    def read(self, path: str | Path, request: ClipRequest) -> tuple[list[SampledClip], VideoReport]:
        """All clips of a video at once, and how it went; of a rejected one there are none."""
        reading = self.open(path, request)
        clips = list(reading)
        assert reading.report is not None
        return ([] if reading.report.status == "rejected" else clips), reading.report

    def take_worker(self, *, wait: bool = True) -> DecodeProcess | None:
        """A worker that is free, or started; None if all are at work, unless `wait`. `give_back` must follow."""
        if self._owner != os.getpid():
            raise RuntimeError("a VideoDecoder cannot be used after a fork; make one in the new process")
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._unused or self._closed.is_set())
            if self._closed.is_set():
                raise VideoError("the decoder was closed; make another one")
            if not self._unused:
                return None
            self._unused -= 1
            worker = self._idle.pop() if self._idle else None
        try:
            if worker is not None and not worker.is_running():
                worker.close()
                worker = None
            worker = worker or self._start_worker()
        except BaseException:
            self._leave_place()
            raise
        with self._changed:
            self._busy.add(worker)
            if self._closed.is_set():  # in the meantime
                worker.kill()
        return worker

    def give_back(self, worker: DecodeProcess, keep: bool) -> None:
        """Let others have a worker; one that is not to be kept is ended, and a new one starts when needed."""
        with self._changed:
            self._busy.discard(worker)
            keep = keep and not self._closed.is_set()
            if keep:
                self._idle.append(worker)
        if not keep:
            worker.close()
        self._leave_place()

    def close(self) -> None:
        """End every worker, those at work too: their videos are rejected. Safe to call twice, from any thread."""
        with self._changed:
            self._closed.set()
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.kill()
            self._changed.notify_all()
        for worker in idle:
            worker.close()

    def _start_worker(self) -> DecodeProcess:
        """A worker that is ready. One that dies before has seen no video, and that is no fault of the next one."""
        for _ in range(_STARTS - 1):
            try:
                return DecodeProcess(self.limits)
            except VideoError:
                continue
        return DecodeProcess(self.limits)

    def _leave_place(self) -> None:
        with self._changed:
            self._unused += 1
            self._changed.notify()

    def __enter__(self) -> "VideoDecoder":
        """The decoder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def open_regular(path: Path, limits: DecodeLimits) -> int:
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
