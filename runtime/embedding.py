"""How does an app turn videos into embeddings, and into names of classes?"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, VideoError
from vjepa2.extras import import_with_extra
from vjepa2.spec import OutputName

from .backends import Backend, open_backend
from .backends.base import FloatArray, FramesArray
from .classify import Classification, rank_classes
from .sampling import Pad, choose_frames

Video = str | Path | npt.NDArray[np.uint8]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
_OUTPUTS: dict[OutputValue, OutputName] = {
    "sentence_embedding": "embedding",
    "token_embeddings": "tokens",
}


class EmbeddingEngine:
    """Videos in, embeddings or classes out, by one backend. Its words are those of sentence-transformers."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def open(cls, bundle: str | Path, backend: str = "auto") -> "EmbeddingEngine":
        """Verify a bundle's manifest and hashes, then load it; `backend` is "auto" or a name of `BACKENDS`."""
        return cls(open_backend(Bundle.open(bundle), backend))

    def encode(
        self,
        videos: Video | Iterable[Video],
        *,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        output_value: OutputValue = "sentence_embedding",
        pad: Pad = "none",
    ) -> FloatArray:
        """Float32 embeddings `[videos, D]`, or with "token_embeddings" `[videos, N, D]`; for one video its row alone.

        A video is a path, or frames `[T, H, W, 3]` uint8 RGB; T frames of it are taken evenly, the short side is
        resized and the centre is cropped. `normalize_embeddings` divides each vector by its Euclidean length.
        """
        if output_value not in _OUTPUTS:
            raise ValueError(f"output_value is {output_value!r}; it must be one of {', '.join(_OUTPUTS)}")
        single = isinstance(videos, (str, Path, np.ndarray))
        encoded = self._run_all(videos, _OUTPUTS[output_value], batch_size, show_progress_bar, pad)
        if normalize_embeddings:
            encoded /= np.maximum(np.linalg.norm(encoded, axis=-1, keepdims=True), 1e-12)
        result: FloatArray = encoded[0] if single else encoded
        return result

    def classify(
        self,
        videos: Video | Iterable[Video],
        *,
        top: int = 5,
        views: int = 1,
        batch_size: int = 1,
        show_progress_bar: bool = False,
        pad: Pad = "none",
    ) -> list[Classification]:
        """The `top` likeliest classes of each video, by a bundle that was exported with a classifier.

        Videos are what `encode` takes. Of several `views` (the original evaluations had three) each is a crop along
        the frames' long side, without a margin, and the probabilities are averaged. Classes without names are called
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
        logits = self._run_all(videos, "logits", batch_size, show_progress_bar, pad, views)
        return rank_classes(logits.reshape(-1, views, manifest.classes), manifest.labels, top)

    def close(self) -> None:
        """Free the model. Safe to call twice."""
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
        pad: Pad,
        views: int = 1,
    ) -> FloatArray:
        """One output of every view of every video, rows in the order given."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        items: list[Video] = [videos] if isinstance(videos, (str, Path, np.ndarray)) else list(videos)
        if not items:
            raise VideoError("there is no video to encode; give at least one")
        rows = []
        batches = range(0, len(items), batch_size)
        # rich is as slow to import as all the rest of the runtime but numpy
        steps = import_module("vjepa2.progress").track_steps(batches, "encoding") if show_progress_bar else batches
        for start in steps:
            clips = [self._read_views(video, pad, views) for video in items[start : start + batch_size]]
            clips_BTHWC = np.concatenate(clips)
            for first in range(0, len(clips_BTHWC), batch_size):
                part = self.backend.run(clips_BTHWC[first : first + batch_size], (output,))
                rows.append(part.by_name()[output])
        return np.concatenate(rows)

    def read_clip(self, video: Video, pad: Pad = "none") -> FramesArray:
        """Frames `[T, H, W, 3]` of a video as `backend.run` takes them."""
        clip_THWC: FramesArray = self._read_views(video, pad, 1)[0]
        return clip_THWC

    def _read_views(self, video: Video, pad: Pad, views: int) -> FramesArray:
        """Views `[V, T, H, W, 3]` of a video; the frames of a classifier's segments are evenly spread as all are."""
        manifest = self.backend.bundle.manifest
        clip, count = manifest.clip, manifest.frames_shape[0]
        preprocess = import_with_extra("vjepa2.runtime.preprocess", "video")
        if isinstance(video, np.ndarray):
            frames = video[choose_frames(len(video), count, pad=pad, name="the array")]
        else:
            frames = import_with_extra("vjepa2.runtime.video", "video").read_frames(video, count, pad=pad)
        fitted: FramesArray = preprocess.fit_views(frames, clip, views)
        return fitted
