"""How does an app turn videos into embeddings, and into names of classes?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, VideoError
from vjepa2.spec import OutputName

from .backends import Backend, open_backend
from .backends.base import FloatArray, FramesArray
from .backends.placement import Executed
from .classify import Classification, rank_classes
from .clip_reader import ClipReader, Video
from .decode_messages import ClipRequest
from .sampling import Pad, parse_sampling
from .stream import EmbeddingStream, open_stream
from .stream_source import Playing, Source

OutputValue = Literal["sentence_embedding", "token_embeddings"]
_OUTPUTS: dict[OutputValue, OutputName] = {
    "sentence_embedding": "embedding",
    "token_embeddings": "tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlace:
    """Which part of which video a row is made of; None where the video is an array, which has no clock."""

    video: int  # its number among those given, from 0
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClips:
    """One output of a model, a row a clip."""

    values: FloatArray
    places: tuple[ClipPlace, ...]


class EmbeddingEngine:
    """Videos in, embeddings or classes out, by one backend. Its words are those of sentence-transformers."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.clips = ClipReader(ClipRequest.of(backend.bundle.manifest))

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        backend: str = "auto",
        *,
        device: str | None = None,
        precision: Executed | None = None,
        allow: Sequence[str] = (),
    ) -> "EmbeddingEngine":
        """Verify a bundle's manifest and hashes, then load it; `backend` is "auto" or a name of `BACKENDS`.

        The rest is `open_backend`'s.
        """
        return cls(open_backend(Bundle.open(bundle), backend, device=device, precision=precision, allow=allow))

    def encode(
        self,
        videos: Video | Iterable[Video],
        *,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        output_value: OutputValue = "sentence_embedding",
        sampling: str = "uniform",
        pad: Pad = "none",
    ) -> FloatArray:
        """Float32 embeddings `[videos, D]`, or with "token_embeddings" `[videos, N, D]`; for one video its row alone.

        A video is a path, or frames `[T, H, W, 3]` uint8 RGB; T frames of it are taken evenly, or as `sampling` says
        (see `runtime.sampling`), the short side is resized and the centre is cropped. "segments:K" and "window" give
        several clips a video and a row for each: `encode_clips` tells them apart. `normalize_embeddings` divides each
        vector by its Euclidean length.
        """
        rows = self.encode_clips(
            videos,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            output_value=output_value,
            sampling=sampling,
            pad=pad,
        )
        single = isinstance(videos, (str, Path, np.ndarray)) and not parse_sampling(sampling).several
        result: FloatArray = rows.values[0] if single else rows.values
        return result

    def encode_clips(
        self,
        videos: Video | Iterable[Video],
        *,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        output_value: OutputValue = "sentence_embedding",
        sampling: str = "uniform",
        pad: Pad = "none",
    ) -> "EncodedClips":
        """What `encode` gives, a row a clip, and which part of which video each row is."""
        if output_value not in _OUTPUTS:
            raise ValueError(f"output_value is {output_value!r}; it must be one of {', '.join(_OUTPUTS)}")
        rows = self._run_all(videos, _OUTPUTS[output_value], batch_size, show_progress_bar, sampling, pad)
        if normalize_embeddings:
            rows.values[...] /= np.maximum(np.linalg.norm(rows.values, axis=-1, keepdims=True), 1e-12)
        return rows

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
        the frames' long side, without a margin, and the probabilities are averaged,
        as are those of several clips of a video. Classes without names are called
        by their numbers.
        """
        if top < 1:
            raise ValueError(f"top is {top}; it must be at least 1")
        if views < 1:
            raise ValueError(f"views is {views}; it must be at least 1")
        manifest = self.backend.bundle.manifest
        if manifest.classes is None:
            raise BackendError(
                f"{self.backend.bundle.path.name} has no classifier, its head is {manifest.head}; "
                "export one with --head classifier"
            )
        rows = self._run_all(videos, "logits", batch_size, show_progress_bar, sampling, pad, views)
        owners = np.array([place.video for place in rows.places])
        return [
            rank_classes(rows.values[owners == video][None], manifest.labels, top)[0] for video in range(owners[-1] + 1)
        ]

    def stream(
        self,
        source: str | Path | Source,
        *,
        stride: str = "1s",
        sampling: str = "fps:4",
        loop: bool = False,
        speed: float = 1.0,
    ) -> EmbeddingStream:
        """Embed a file as if live, `/dev/videoN` or `rtsp://`: the newest window each `stride`; older ones are dropped.

        More can be chosen by `runtime.stream.open_stream`. Close the stream before the engine.
        """
        playing = Playing(sampling=sampling, loop=loop, speed=speed)
        return open_stream(self.backend, source, stride=stride, playing=playing)

    def close(self) -> None:
        """Free the model and end the decoder. Safe to call twice."""
        self.clips.close()
        self.backend.close()

    def __enter__(self) -> "EmbeddingEngine":
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _run_all(
        self,
        videos: Video | Iterable[Video],
        output: OutputName,
        batch_size: int,
        show_progress_bar: bool,
        sampling: str,
        pad: Pad,
        views: int = 1,
    ) -> "EncodedClips":
        """One output of every view of every clip of every video, rows in the order given."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        items: list[Video] = [videos] if isinstance(videos, (str, Path, np.ndarray)) else list(videos)
        if not items:
            raise VideoError("there is no video to encode; give at least one")
        # rich is as slow to import as all the rest of the runtime but numpy
        steps = import_module("vjepa2.progress").track_steps(items, "encoding") if show_progress_bar else items
        clips = (
            (frames_THWC, ClipPlace(video=number, start_s=clip.start_s, end_s=clip.end_s))
            for number, video in enumerate(steps)
            for clip in self.clips.read(video, sampling, pad, views)
            for frames_THWC in clip.views_VTHWC
        )
        results: list[FloatArray] = []
        places: list[ClipPlace] = []
        while batch := list(islice(clips, batch_size)):
            frames_BTHWC = np.stack([frames_THWC for frames_THWC, _ in batch])
            results.append(self.backend.run(frames_BTHWC, (output,)).by_name()[output])
            places += [place for _, place in batch]
        return EncodedClips(values=np.concatenate(results), places=tuple(places))

    def read_clip(self, video: Video, pad: Pad = "none", sampling: str = "uniform") -> FramesArray:
        """Frames `[T, H, W, 3]` of a video as `backend.run` takes them."""
        return self.clips.read_one(video, sampling, pad)
