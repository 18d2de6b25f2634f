"""How do videos become rows, in order: the next are decoded while these are computed, within bounds?

Axes: V views, T frames, H, W pixels, C colours, D channels.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vjepa2.errors import VideoError
from vjepa2.spec import OutputName

from .backends.base import FloatArray, FramesArray
from .batching import BatchQueue
from .clip_reader import AnyReading, ClipReader, Video, explain_refusal, name_video
from .decode_messages import SampledClip
from .encoded import ClipPlace, EncodedVideo
from .sampling import Pad, parse_sampling

OnError = Literal["raise", "skip"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
_OUTPUTS: dict[OutputValue, OutputName] = {
    "sentence_embedding": "embedding",
    "token_embeddings": "tokens",
}
_BATCHES = 2  # of one caller, in the queue: one is computed, the next waits for the backend


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What rows are made of, and what becomes of bad videos; the names are those of `EmbeddingEngine.encode`."""

    batch_size: int = 1  # clips a call, of one video or of several
    normalize_embeddings: bool = False  # divide each vector by its Euclidean length, after it was cut
    truncate_dim: int | None = None  # channels that are kept, the first; V-JEPA was not trained for it: measure
    output_value: OutputValue = "sentence_embedding"
    sampling: str = "uniform"  # see `runtime.sampling`
    pad: Pad = "none"
    # `partial` is bad too: frames are missing, the others stand in their places, and the row would be of other moments
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        parse_sampling(self.sampling)
        if self.output_value not in _OUTPUTS:
            raise ValueError(f"output_value is {self.output_value!r}; it must be one of {', '.join(_OUTPUTS)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}; it must be 'raise' or 'skip'")

    @property
    def output(self) -> OutputName:
        """The graph's name of it."""
        return _OUTPUTS[self.output_value]

    def check_dim(self, dim: int) -> None:
        """Raise a `ValueError` if rows of so many channels cannot be cut as asked."""
        if self.truncate_dim is not None and not 1 <= self.truncate_dim <= dim:
            raise ValueError(f"truncate_dim is {self.truncate_dim}; it must be from 1 to {dim}")

    def finish(self, values: FloatArray) -> FloatArray:
        """Rows cut to the first `truncate_dim` channels, and then divided by their lengths."""
        if self.truncate_dim is not None:
            values = np.ascontiguousarray(values[..., : self.truncate_dim])
        if self.normalize_embeddings:
            values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
        return values


@dataclass(slots=True, kw_only=True)
class _Opened:
    """A video on its way."""

    number: int
    video: Video
    reading: AnyReading
    places: list[ClipPlace] = field(default_factory=list)
    rows: list[FloatArray] = field(default_factory=list)  # computed already

    @property
    def done(self) -> bool:
        return self.reading.report is not None and len(self.rows) == len(self.places)


class Encoding:
    """One `encode`: everything happens in its caller's thread, but decoding and computing.

    Ahead of what is yielded there are at most two batches in the queue and as many videos as there are decoders, each
    two clips ahead. No video gets a decoder before the one in front of it has one, so that callers cannot starve each
    other.
    """

    def __init__(
        self, clips: ClipReader, queue: BatchQueue, options: EncodeOptions, output: OutputName, views: int
    ) -> None:
        self._clips, self._queue, self._options = clips, queue, options
        self._output, self._views = output, views
        self._row_shape = queue.row_shape(output)
        options.check_dim(self._row_shape[-1])
        self._ahead: deque[_Opened] = deque()
        self._open: deque[_Opened] = deque()
        self._batch: list[tuple[_Opened, FramesArray]] = []
        self._futures: deque[tuple[Future[FloatArray], list[_Opened]]] = deque()

    def run(self, videos: Iterator[Video]) -> Iterator[EncodedVideo]:
        """Each video in the order given, as soon as it is computed; a bad one raises in its turn, or has no rows."""
        try:
            for opened in self._read_ahead(videos):
                self._open.append(opened)
                for clip in opened.reading:
                    self._add(opened, clip)
                # between videos alone, when a decoder is free for what the caller may do in the meantime
                yield from self._take_done()
            if self._batch:
                self._submit()
            while self._futures:
                self._settle()
            yield from self._take_done()
        finally:
            for future, _ in self._futures:
                future.cancel()
            for opened in (*self._open, *self._ahead):
                opened.reading.close()

    def _read_ahead(self, videos: Iterator[Video]) -> Iterator[_Opened]:
        """Videos whose decoding has begun; behind the first, wherever a decoder is free, that of the next."""
        options, number = self._options, 0
        while True:
            while len(self._ahead) < self._clips.decoder.workers and (video := next(videos, None)) is not None:
                reading = self._clips.open(video, options.sampling, options.pad, self._views)
                self._ahead.append(_Opened(number=number, video=video, reading=reading))
                number += 1
            if not self._ahead:
                if not number:
                    raise VideoError("there is no video to encode; give at least one")
                return
            self._ahead[0].reading.start()
            all(opened.reading.start(wait=False) for opened in self._ahead)  # up to the first that finds none
            yield self._ahead.popleft()

    def _add(self, opened: _Opened, clip: SampledClip) -> None:
        for frames_THWC in clip.views_VTHWC:
            opened.places.append(ClipPlace(video=opened.number, start_s=clip.start_s, end_s=clip.end_s))
            self._batch.append((opened, frames_THWC))
            if len(self._batch) == self._options.batch_size:
                self._submit()

    def _submit(self) -> None:
        while len(self._futures) >= _BATCHES:
            self._settle()
        frames_BTHWC = np.stack([frames_THWC for _, frames_THWC in self._batch])
        future = self._queue.submit(frames_BTHWC, self._output, owner=self)
        self._futures.append((future, [opened for opened, _ in self._batch]))
        self._batch.clear()

    def _settle(self) -> None:
        future, owners = self._futures[0]
        for opened, row in zip(owners, future.result(), strict=True):
            opened.rows.append(row)
        self._futures.popleft()

    def _take_done(self) -> Iterator[EncodedVideo]:
        while self._futures and self._futures[0][0].done():
            self._settle()
        while self._open and self._open[0].done:
            yield self._finish(self._open.popleft())

    def _finish(self, opened: _Opened) -> EncodedVideo:
        report = opened.reading.report
        assert report is not None
        if report.status != "ok":
            self._queue.check_open()  # closing the engine ends its decoders, for which the video is not to blame
        self._queue.meter.count(report.status)
        if report.status != "ok" and self._options.on_error == "raise":
            raise VideoError(explain_refusal(opened.video, report))
        taken = report.status == "ok"
        values = np.stack(opened.rows) if taken else np.empty((0, *self._row_shape), np.float32)
        return EncodedVideo(
            name=name_video(opened.video, opened.number),
            report=report,
            values=self._options.finish(values),
            places=tuple(opened.places) if taken else (),
        )
