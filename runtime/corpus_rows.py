"""How do the videos of a shard become rows, the same ones every time?

Clips are put together in the order of the plan, and one that a failed attempt left behind is in no batch: so what was
embedded beside what does not depend on what died on the way. While a batch is computed, the next one is decoded.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vjepa2.errors import VideoError

from .backends import Backend
from .backends.base import FloatArray, FramesArray
from .corpus_messages import PlannedVideo, ShardTask, VideoOutcome
from .corpus_points import pass_point
from .corpus_table import CorpusRow
from .corpus_videos import fetch_video
from .decode_messages import ClipRequest, SampledClip, VideoReport
from .decoder import VideoDecoder
from .sampling import parse_sampling

ATTEMPTS = 2  # at a video, before it becomes a row with its reason


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a clip lies in its video."""

    clip: int
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True, slots=True)
class _Read:
    """A video that was read, or was not."""

    video: PlannedVideo
    places: tuple[_Place, ...]
    report: VideoReport


class RowMaker:
    """Reads and embeds videos with one backend and one decoder, which it owns neither of."""

    def __init__(self, backend: Backend, decoder: VideoDecoder, request: ClipRequest, batch_size: int) -> None:
        self._backend, self._decoder, self._request, self._batch_size = backend, decoder, request, batch_size
        self._several = parse_sampling(request.sampling).several

    def make(self, task: ShardTask, note: Callable[[int], None]) -> tuple[list[CorpusRow], tuple[VideoOutcome, ...]]:
        """A row for each clip, or for each video that has none, and how each video went; `note` is told its number."""
        read = []
        with ThreadPoolExecutor(1) as thread:
            batches = _Batches(self._backend, self._batch_size, thread)
            for video in task.videos:
                note(video.number)
                pass_point("video_begun")
                read.append(self._read(video, task.refused.get(str(video.number)), batches))
                pass_point("video_done")
            batches.flush()
            batches.settle()
        vectors = iter(batches.vectors_D)
        rows = [row for each in read for row in _to_rows(each, vectors)]
        return rows, tuple(
            VideoOutcome(
                number=each.video.number,
                status=each.report.status,
                clips=len(each.places),
                reason=_explain(each.report),
            )
            for each in read
        )

    def _read(self, video: PlannedVideo, refused: str | None, batches: "_Batches") -> _Read:
        """Put a video's clips into batches; what fails is tried again, and is then rejected."""
        report = VideoReport(status="rejected", reason=refused)
        for _ in range(0 if refused else ATTEMPTS):
            batches.begin_video()
            try:
                with fetch_video(video) as path:
                    places, report = self._decode(path, batches)
            except VideoError as error:
                places, report = [], VideoReport(status="rejected", reason=str(error))
            if report.status != "rejected":
                return _Read(video, tuple(places), report)
            batches.forget_video()
        return _Read(video, (), report)

    def _decode(self, path: Path, batches: "_Batches") -> tuple[list[_Place], VideoReport]:
        reading = self._decoder.open(path, self._request)
        if self._several:
            places = [_embed_clip(clip, batches) for clip in reading]
            batches.flush()  # a batch is of one video: a later clip of it may fail, and an earlier one was embedded
        else:
            clips = list(reading)
            there = reading.report is not None and reading.report.status != "rejected"
            places = [_embed_clip(clip, batches) for clip in clips if there]
        assert reading.report is not None
        return places, reading.report


class _Batches:
    """Clips on their way through the backend, in the order in which they come: a batch in its thread, and the next."""

    def __init__(self, backend: Backend, size: int, thread: Executor) -> None:
        self.vectors_D: list[FloatArray] = []
        self._backend, self._size, self._thread = backend, size, thread
        self._waiting: list[FramesArray] = []
        self._computing: Future[FloatArray] | None = None
        self._taken = self._mark = 0

    def add(self, frames_THWC: FramesArray) -> None:
        """Take a clip; the backend runs when there are enough."""
        self._waiting.append(frames_THWC)
        self._taken += 1
        if len(self._waiting) == self._size:
            self.flush()

    def flush(self) -> None:
        """Have what waits computed, after what is being computed."""
        if self._waiting:
            self.settle()
            self._computing = self._thread.submit(embed_clips, self._backend, np.stack(self._waiting))
            self._waiting = []

    def settle(self) -> None:
        """Wait for what is being computed."""
        if self._computing is not None:
            self.vectors_D += list(self._computing.result())
            self._computing = None
            pass_point("batch_embedded")

    def begin_video(self) -> None:
        """Remember where a video begins."""
        self._mark = self._taken

    def forget_video(self) -> None:
        """Drop what was embedded of it; of a failed video nothing waits."""
        self.settle()
        del self.vectors_D[self._mark :]
        self._taken = self._mark


def embed_clips(backend: Backend, frames_BTHWC: FramesArray) -> FloatArray:
    """Embeddings `[B, D]` of clips."""
    embeddings_BD = backend.run(frames_BTHWC, ("embedding",)).embeddings_BD
    assert embeddings_BD is not None
    return embeddings_BD


def _embed_clip(clip: SampledClip, batches: _Batches) -> _Place:
    pass_point("clip_decoded")
    batches.add(clip.frames_THWC)
    return _Place(clip.number, clip.start_s, clip.end_s)


def _to_rows(read: _Read, vectors: Iterator[FloatArray]) -> Iterable[CorpusRow]:
    status, reason = read.report.status, _explain(read.report)
    for place in read.places:
        yield CorpusRow(
            video=read.video.video,
            clip=place.clip,
            start_s=place.start_s,
            end_s=place.end_s,
            status=status,
            reason=reason,
            embedding_D=next(vectors),
        )
    if not read.places:
        yield CorpusRow(
            video=read.video.video, clip=None, start_s=None, end_s=None, status=status, reason=reason, embedding_D=None
        )


def _explain(report: VideoReport) -> str | None:
    if report.status != "partial":
        return report.reason
    return f"{report.frames} of {report.expected or 'an unknown number of'} frames: {report.reason}"
