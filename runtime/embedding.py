"""How does an app turn videos into embeddings, and into names of classes?"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.errors import VideoError
from vjepa2.spec import OutputName

from .backends import Backend, open_backend
from .backends.base import FloatArray, FramesArray
from .backends.placement import Executed
from .batching import BatchQueue, QueueOptions, check_deadline
from .classify import Classification, check_classifier, rank_classes
from .clip_reader import ClipReader, Video
from .decode_messages import ClipRequest
from .decoder import VideoDecoder
from .encoded import EncodedClips, EncodedVideo
from .encoding import EncodeOptions, Encoding, OnError, OutputValue
from .metrics import EngineMetrics
from .quantized_rows import EmbeddingArray, EmbeddingPrecision, check_precision, quantize_rows
from .sampling import Pad, parse_sampling
from .video_folder import expand_folders, is_single
from .waiting_line import WhenFull

if TYPE_CHECKING:  # what an app without a stream does not wait for
    from .stream import EmbeddingStream
    from .stream_source import Source


class EmbeddingEngine(AbstractContextManager["EmbeddingEngine"]):
    """Videos in, embeddings or classes out, by one backend, for any thread. Its words are sentence-transformers'."""

    def __init__(
        self,
        backend: Backend,
        *,
        queue: QueueOptions = QueueOptions(),  # noqa: B008  (frozen)
        decoders: int = 1,
    ) -> None:
        self.backend = backend
        self.queue = BatchQueue(backend, queue)
        self.clips = ClipReader(ClipRequest.of(backend.bundle.manifest), VideoDecoder(workers=decoders))

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        backend: str = "auto",
        *,
        device: str | None = None,
        precision: Executed | None = None,
        allow: Sequence[str] = (),
        queue: QueueOptions = QueueOptions(),  # noqa: B008  (frozen)
        decoders: int = 1,
        warm_up: bool = False,
    ) -> "EmbeddingEngine":
        """Verify a bundle's manifest and hashes, then load it; `backend` is "auto" or a name of `BACKENDS`.

        `device`, `precision` and `allow` are `open_backend`'s; `decoders` are processes, each for a video at a time;
        `warm_up` runs a clip before anybody waits for one.
        """
        loaded = open_backend(Bundle.open(bundle), backend, device=device, precision=precision, allow=allow)
        engine = cls(loaded, queue=queue, decoders=decoders)
        try:
            if warm_up:
                engine.warm_up()
        except BaseException:
            engine.close()
            raise
        return engine

    def encode(  # noqa: PLR0913  (sentence-transformers' own)
        self,
        videos: Video | Iterable[Video],
        *,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        output_value: OutputValue = "sentence_embedding",
        sampling: str = "uniform",
        pad: Pad = "none",
        on_error: OnError = "raise",
        precision: EmbeddingPrecision = "float32",
        ranges: FloatArray | None = None,
    ) -> EmbeddingArray:
        """Float32 embeddings `[videos, D]`, or with "token_embeddings" `[videos, N, D]`; for one video its row alone.

        A video is a path, frames `[T, H, W, 3]` uint8 RGB, or a `SampledClip`, which is cut already and stays as it is;
        a folder is the videos below it, sorted by path (see `list_videos`). T frames of each are taken evenly, or as
        `sampling` says (see `runtime.sampling`), the short side is resized and the centre is cropped. "segments:K" and
        "window" give a row for each of several clips.

        A video that is not `ok` is a `VideoError`; with `on_error="skip"` it has no row: `encode_clips` tells whose
        rows are whose, `EncodeOptions` what the rest means. In other precisions the rows are what `quantize_rows` makes
        of them; int8 and uint8 need `ranges` `[2, D]` of each channel, after cutting and normalising.
        """
        dim = self.queue.row_shape(EncodeOptions(output_value=output_value).output)[-1]
        check_precision(precision, ranges, dim if truncate_dim is None else min(truncate_dim, dim))
        rows = self.encode_clips(
            videos,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            output_value=output_value,
            sampling=sampling,
            pad=pad,
            on_error=on_error,
        )
        values = quantize_rows(rows.values, precision, ranges)
        if not is_single(videos) or parse_sampling(sampling).several:
            return values
        if not len(values):
            raise VideoError(f"{rows.names[0]} is {rows.reports[0]}; a video alone cannot be skipped")
        row: EmbeddingArray = values[0]
        return row

    def encode_clips(
        self,
        videos: Video | Iterable[Video],
        *,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        output_value: OutputValue = "sentence_embedding",
        sampling: str = "uniform",
        pad: Pad = "none",
        on_error: OnError = "raise",
    ) -> EncodedClips:
        """What `encode` gives, a row a clip; which part of which video each row is; and a report of every video."""
        options = EncodeOptions(
            batch_size=batch_size,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            output_value=output_value,
            sampling=sampling,
            pad=pad,
            on_error=on_error,
        )
        return EncodedClips.join(self._encode(videos, options, options.output, show_progress_bar=show_progress_bar))

    def encode_each(
        self,
        videos: Video | Iterable[Video],
        options: EncodeOptions = EncodeOptions(),  # noqa: B008  (frozen)
    ) -> Iterator[EncodedVideo]:
        """What `encode_clips` gives, video by video, each when it and those before it are computed.

        An iterator may be endless: at most three batches and a video for each decoder are taken ahead.
        """
        return self._encode(videos, options, options.output)

    def submit(
        self,
        video: Video,
        options: EncodeOptions = EncodeOptions(),  # noqa: B008  (frozen)
        *,
        deadline_s: float | None = None,
        when_full: WhenFull = "refuse",
    ) -> Future[FloatArray]:
        """A future of what `encode` gives for one video of one clip; it can be cancelled until it is begun.

        The clip is read before this returns, and a bad video raises here; the future is of its computing. Not begun
        `deadline_s` after the call, it ends with a `DeadlineError`. While `QueueOptions.max_waiting` clips wait, this
        is a `BusyError`, or waits.
        """
        check_deadline(deadline_s)
        asked_s = monotonic()
        options.check_dim(self.queue.row_shape(options.output)[-1])
        if when_full == "refuse":
            self.queue.check_room()
        frames_THWC = self.read_clip(video, options.pad, options.sampling)
        return self.queue.submit(
            frames_THWC[None],
            options.output,
            deadline_s=deadline_s,
            asked_s=asked_s,
            when_full=when_full,
            finish=lambda rows: options.finish(rows)[0],
        )

    def classify(
        self,
        videos: Video | Iterable[Video],
        *,
        top: int = 5,
        views: int = 1,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        sampling: str = "uniform",
        pad: Pad = "none",
    ) -> list[Classification]:
        """The `top` likeliest classes of each video, by a bundle that was exported with a classifier.

        Videos are what `encode` takes. Of several `views` (the original evaluations had three) each is a crop along
        the frames' long side, without a margin, and the probabilities are averaged, as are those of several clips of
        a video. A bundle of several segments takes its frames evenly from the whole video, or with the sampling
        "joined" each segment's from the start of its part, as the original evaluations did; the manifest's
        `parts.probe` says how far apart, and in how many views. Classes without names are called by their numbers.
        """
        manifest = self.backend.bundle.manifest
        check_classifier(self.backend.bundle, top, views)
        options = EncodeOptions(batch_size=batch_size, sampling=sampling, pad=pad)
        done = list(self._encode(videos, options, "logits", views=views, show_progress_bar=show_progress_bar))
        return [rank_classes(video.values[None], manifest.labels, top)[0] for video in done]

    def stream(
        self,
        source: "str | Path | Source",
        *,
        stride: str = "1s",
        sampling: str = "fps:4",
        loop: bool = False,
        speed: float = 1.0,
    ) -> "EmbeddingStream":
        """Embed a file as if live, `/dev/videoN` or `rtsp://`: the newest window each `stride`; older ones are dropped.

        More can be chosen by `runtime.stream.open_stream`. Close the stream before the engine.
        """
        from .stream import open_stream  # noqa: PLC0415
        from .stream_source import Playing  # noqa: PLC0415

        playing = Playing(sampling=sampling, loop=loop, speed=speed)
        return open_stream(self.queue, source, stride=stride, playing=playing)

    def read_clip(self, video: Video, pad: Pad = "none", sampling: str = "uniform") -> FramesArray:
        """Frames `[T, H, W, 3]` of a video as `backend.run` takes them."""
        return self.clips.read_one(video, sampling, pad)

    def warm_up(self) -> None:
        """Compute a black clip, so that no caller waits for what the first call builds or loads."""
        black_BTHWC = np.zeros((1, *self.backend.bundle.manifest.frames_shape), np.uint8)
        self.queue.submit(black_BTHWC, "tokens").result()

    def metrics(self) -> EngineMetrics:
        """What was done since the engine was opened, and how long it took."""
        return self.queue.read_metrics()

    def close(self) -> None:
        """Free the model and end the decoders. Safe to call twice.

        What is being computed comes to its end; whoever waits for anything else gets a `BackendError`.
        """
        self.queue.close()
        self.clips.close()
        self.backend.close()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _encode(
        self,
        videos: Video | Iterable[Video],
        options: EncodeOptions,
        output: OutputName,
        *,
        views: int = 1,
        show_progress_bar: bool = False,
    ) -> Iterator[EncodedVideo]:
        encoding = Encoding(self.clips, self.queue, options, output, views)
        items, total = expand_folders(videos)
        done = encoding.run(items)
        # rich is as slow to import as all the rest of the runtime but numpy
        return import_module("vjepa2.progress").track_steps(done, "encoding", total) if show_progress_bar else done
