"""How does a camera become embeddings: the newest window at once, rather than every window late?

Axes: D token channels.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from .backends.base import FloatArray, FramesArray
from .batching import BatchQueue
from .decode_messages import ClipRequest
from .novelty import NoveltyMemory
from .picking import parse_live_sampling
from .stream_feed import Clock, Feed, Notify
from .stream_source import Playing, Source, open_source
from .stream_windows import LatestWindow, WindowMaker, parse_stride

_REMEMBERED = 1024  # delays, for the percentiles
Encode = Callable[[FramesArray], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedEmbedding:
    """What a window became; times are seconds from the first frame of the stream."""

    embedding_D: FloatArray
    start_s: float
    end_s: float  # of its last frame
    delay_ms: float  # from the arrival of its last frame to its embedding
    dropped: int  # windows that it overtook, since the one before
    gaps: tuple[str, ...]  # since the one before; at most the last of them
    pictures: int  # different ones in it; fewer than the clip has frames if the stream is slower than its sampling
    novelty: (
        float | None
    )  # against this stream's own recent windows, see `runtime.novelty`; None until there are enough
    novelty_z: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """How a stream went up to now."""

    windows: int  # embedded
    dropped: int
    frames: int  # decoded
    gaps: int
    sessions: int  # times that the source was opened
    seconds: float
    delay_p50_ms: float | None  # of the last 1024 windows
    delay_p90_ms: float | None
    delay_max_ms: float | None  # of all
    realtime_factor: float | None  # seconds that a window takes to compute, of those until the next is due; 1 is full

    def __str__(self) -> str:
        """One line for people."""
        delay = factor = ""
        if self.delay_p50_ms is not None:
            delay = f", delay {self.delay_p50_ms:.0f} ms (p90 {self.delay_p90_ms:.0f}, most {self.delay_max_ms:.0f})"
        if self.realtime_factor is not None:
            factor = f", real-time factor {self.realtime_factor:.3f} (above 1 windows are dropped)"
        return (
            f"{self.windows} windows, {self.dropped} dropped, of {self.frames} frames in {self.seconds:.1f} s; "
            f"{self.gaps} gaps, opened {self.sessions} times{delay}{factor}"
        )


class EmbeddingStream:
    """An iterator of `StreamedEmbedding`, for one thread; close it when done."""

    def __init__(
        self, source: Source, maker: WindowMaker, encode: Encode, dim: int, clock: Clock, notify: Notify
    ) -> None:
        self._maker, self._encode, self._clock = maker, encode, clock
        self._latest = LatestWindow()
        self._feed = Feed(source, maker, self._latest, clock, notify)
        self._novelty = NoveltyMemory(dim)
        self._windows = self._dropped = 0
        self._computing_s = self._delay_max_ms = 0.0
        self._delays_ms: deque[float] = deque(maxlen=_REMEMBERED)
        self._began_s = clock.now_s()
        self._feed.start()

    def __iter__(self) -> "EmbeddingStream":
        """Itself."""
        return self

    def __next__(self) -> StreamedEmbedding:
        """Wait for the newest window and embed it; a `VideoError` if the source failed."""
        taken = self._latest.take()
        if taken is None:
            raise StopIteration
        window, dropped, gaps = taken
        began_s = self._clock.now_s()
        embedding_D = self._encode(window.frames_THWC)
        done_s = self._clock.now_s()
        novelty = self._novelty.judge(embedding_D, window.start_s, window.end_s)
        delay_ms = 1e3 * (done_s - window.arrived_s)
        self._computing_s += done_s - began_s
        self._windows += 1
        self._dropped += dropped
        self._delays_ms.append(delay_ms)
        self._delay_max_ms = max(self._delay_max_ms, delay_ms)
        return StreamedEmbedding(
            embedding_D=embedding_D,
            start_s=window.start_s,
            end_s=window.end_s,
            delay_ms=delay_ms,
            dropped=dropped,
            gaps=gaps,
            pictures=len({id(picture) for picture in window.frames}),
            novelty=None if novelty is None else novelty.score,
            novelty_z=None if novelty is None else novelty.z,
        )

    def summarise(self) -> StreamSummary:
        """How it went up to now."""
        delays_ms, feed = np.asarray(self._delays_ms), self._feed
        middle, late = np.percentile(delays_ms, (50, 90)).tolist() if len(delays_ms) else (None, None)
        factor = None
        if self._windows and feed.spacing_s > 0:
            factor = (self._computing_s / self._windows) / (feed.spacing_s / feed.spacings)
        return StreamSummary(
            windows=self._windows,
            dropped=self._dropped,
            frames=self._maker.seen,
            gaps=self._maker.gaps,
            sessions=feed.sessions,
            seconds=self._clock.now_s() - self._began_s,
            delay_p50_ms=middle,
            delay_p90_ms=late,
            delay_max_ms=self._delay_max_ms if len(delays_ms) else None,
            realtime_factor=factor,
        )

    def stop(self) -> None:
        """Let the iteration end after the window at hand; from any thread, or a handler of signals."""
        self._latest.cut_off()

    def close(self) -> None:
        """End the iteration, the source, its worker and its thread. Safe to call twice."""
        self.stop()
        self._feed.close()

    def __enter__(self) -> "EmbeddingStream":
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def open_stream(
    queue: BatchQueue,
    source: str | Path | Source,
    *,
    stride: str = "1s",
    playing: Playing | None = None,
    clock: Clock | None = None,
    notify: Notify = lambda _: None,
) -> EmbeddingStream:
    """Embed a live source as it comes, by the backend behind `queue`, which others may use too.

    `notify` is told of gaps and reconnections, from another thread.
    """
    playing = playing or Playing()
    parse_live_sampling(playing.sampling)
    (dim,), clip = queue.row_shape("embedding"), ClipRequest.of(queue.bundle.manifest)
    maker = WindowMaker(clip.frames, parse_stride(stride), speed=playing.speed)
    opened = open_source(source, playing, clip)

    def encode(frames_THWC: FramesArray) -> FloatArray:
        embedding_D: FloatArray = queue.submit(frames_THWC[None], "embedding").result()[0]
        return embedding_D

    return EmbeddingStream(opened, maker, encode, dim, clock or Clock(), notify)
