"""How does an app turn videos into embeddings?"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from vjepa2.bundle import Bundle
from vjepa2.errors import VideoError
from vjepa2.extras import import_with_extra

from .backends import Backend, open_backend
from .backends.base import FloatArray, FramesArray, OutputName
from .sampling import Pad, choose_frames

Video = str | Path | npt.NDArray[np.uint8]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
_OUTPUTS: dict[OutputValue, OutputName] = {
    "sentence_embedding": "embedding",
    "token_embeddings": "tokens",
}


class EmbeddingEngine:
    """Videos in, embeddings out, by one backend. Its words are those of sentence-transformers."""

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
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        single = isinstance(videos, (str, Path, np.ndarray))
        items: list[Video] = [videos] if isinstance(videos, (str, Path, np.ndarray)) else list(videos)
        if not items:
            raise VideoError("there is no video to encode; give at least one")
        rows = []
        batches = range(0, len(items), batch_size)
        for start in track(
            batches, "encoding", console=Console(stderr=True), disable=not show_progress_bar, transient=True
        ):
            clips = np.stack([self._read_clip(video, pad) for video in items[start : start + batch_size]])
            rows.append(self._run(clips, output_value))
        encoded = np.concatenate(rows)
        if normalize_embeddings:
            encoded /= np.maximum(np.linalg.norm(encoded, axis=-1, keepdims=True), 1e-12)
        result: FloatArray = encoded[0] if single else encoded
        return result

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

    def _run(self, clips_BTHWC: FramesArray, output_value: OutputValue) -> FloatArray:
        outputs = self.backend.run(clips_BTHWC, (_OUTPUTS[output_value],))
        result = outputs.embeddings_BD if output_value == "sentence_embedding" else outputs.tokens_BND
        assert result is not None
        return result

    def _read_clip(self, video: Video, pad: Pad) -> FramesArray:
        """Frames of the bundle's size."""
        clip = self.backend.bundle.manifest.clip
        preprocess = import_with_extra("vjepa2.runtime.preprocess", "video")
        if isinstance(video, np.ndarray):
            frames = video[choose_frames(len(video), clip.frames, pad=pad, name="the array")]
        else:
            frames = import_with_extra("vjepa2.runtime.video", "video").read_frames(video, clip.frames, pad=pad)
        fitted: FramesArray = preprocess.fit_clip(frames, clip)
        return fitted
