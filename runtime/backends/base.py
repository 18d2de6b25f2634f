"""What every backend promises.

Axes: B batch, T frames, H, W pixels, C colours, N tokens, D channels of a token, L classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError

FramesArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
OutputName = Literal["tokens", "embedding", "logits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a backend computed, float32; what was not asked for is None."""

    tokens_BND: FloatArray | None = None
    embeddings_BD: FloatArray | None = None
    logits_BL: FloatArray | None = None


class Backend(ABC):
    """One bundle in one library on one device, from construction to `close`."""

    name: ClassVar[str]
    device: str
    precision: str

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._is_open = True

    def run(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName] = ("embedding",)) -> Outputs:
        """Encode uint8 clips of the bundle's size, any number of them, and return once the results are in host memory.

        Only what `outputs` names is computed into the result, and the result is the caller's to keep.
        """
        self._check(frames_BTHWC, outputs)
        limit = self.bundle.manifest.batch
        parts = []
        for clips in [frames_BTHWC] if limit == "dynamic" else _cut(frames_BTHWC, int(limit)):
            parts.append(self._compute(_fill(clips, limit), outputs))
        count = len(frames_BTHWC)
        joined = {name: np.concatenate([part[name] for part in parts])[:count] for name in outputs}
        return Outputs(
            tokens_BND=joined.get("tokens"),
            embeddings_BD=joined.get("embedding"),
            logits_BL=joined.get("logits"),
        )

    def close(self) -> None:
        """Free what the backend holds. Safe to call twice."""
        self._is_open = False
        self._release()

    def __enter__(self) -> "Backend":
        """The backend itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @abstractmethod
    def _compute(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> dict[str, FloatArray]:
        """The outputs by name for clips that were checked; arrays that no later call writes to."""

    @abstractmethod
    def _release(self) -> None:
        """Free the model. May be called twice."""

    def _check(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> None:
        if not self._is_open:
            raise BackendError(f"the {self.name} backend is closed; open it again")
        held = [info.name for info in self.bundle.manifest.outputs]
        unknown = [name for name in outputs if name not in held]
        if unknown or not outputs:
            raise BackendError(f"the bundle has no output {unknown}; it has {', '.join(held)}")
        must = self.bundle.manifest.clip.frames_shape()[1:]
        shape, dtype = np.shape(frames_BTHWC), getattr(frames_BTHWC, "dtype", None)
        if dtype != np.uint8 or len(shape) != 5 or shape[1:] != must or not shape[0]:
            raise BackendError(f"frames are {dtype} {list(shape)}; they must be uint8 [B, {', '.join(map(str, must))}]")


def normalise(frames_BTHWC: FramesArray, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    """Clips float32 `[B, T, C, H, W]`: transformers' `pixel_values_videos` of the same pixels."""
    mean_C, std_C = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    pixels = (frames_BTHWC - 255 * mean_C) / (255 * std_C)
    return np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3), dtype=np.float32)


def _cut(frames_BTHWC: FramesArray, size: int) -> list[FramesArray]:
    return [frames_BTHWC[start : start + size] for start in range(0, len(frames_BTHWC), size)]


def _fill(frames_BTHWC: FramesArray, limit: int | str) -> FramesArray:
    """Repeat the last clip until a graph of fixed batch has what it needs."""
    if isinstance(limit, str) or len(frames_BTHWC) == limit:
        return frames_BTHWC
    padding = np.repeat(frames_BTHWC[-1:], limit - len(frames_BTHWC), axis=0)
    return np.concatenate([frames_BTHWC, padding])
