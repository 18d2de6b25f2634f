"""What is the plain ONNX of transformers' VJEPA2Model: what `torch.onnx.export` writes, nothing of ours done to it?"""

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from vjepa2.bundle import Bundle
from vjepa2.headed import mean_tokens

from .base import Backend, FramesArray, InputArray, normalise
from .peers import build_peer, find_other_model

_INPUT = "pixel_values_videos"


class _Features(nn.Module):
    """VJEPA2Model as a graph is made of it: pixels to tokens and their mean."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, N, D]` and embeddings `[B, D]`."""
        tokens_BND = self.model(pixel_values_videos, skip_predictor=True).last_hidden_state
        return tokens_BND, mean_tokens(tokens_BND)


class PlainExport:
    """The exported graph in a folder that goes when it is closed."""

    def __init__(self, bundle: Bundle) -> None:
        self._folder = TemporaryDirectory(prefix="vjepa2-peer-")
        start_s = time.perf_counter()
        try:
            self.file = _export(bundle, Path(self._folder.name))
        except BaseException:
            self.close()
            raise
        self.build_ms = 1e3 * (time.perf_counter() - start_s)

    def close(self) -> None:
        """Remove the graph. Safe to call twice."""
        self._folder.cleanup()


class ExportedPeer(Backend):
    """A backend of ours that runs the exported graph instead of the bundle's."""

    _export: PlainExport

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A bundle that transformers has a model for; the library's own wishes."""
        return find_other_model(bundle) or super().find_obstacle(device)

    def _graph_file(self) -> Path:
        return self._export.file

    def _graph_inputs(self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray]) -> dict[str, InputArray]:
        preprocessing = self.bundle.manifest.preprocessing
        return {_INPUT: normalise(frames_BTHWC, preprocessing.mean, preprocessing.std)}

    def _clips_a_call(self, count: int) -> int:
        return _batch_of(self.bundle)

    def close(self) -> None:
        """See `Backend.close`."""
        super().close()
        self._export.close()


def _batch_of(bundle: Bundle) -> int:
    batch = bundle.manifest.batch
    return 1 if isinstance(batch, str) else batch


def _export(bundle: Bundle, folder: Path) -> Path:
    file = folder / "plain.onnx"
    pixels = torch.zeros(bundle.manifest.clip.shape(_batch_of(bundle)))
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision is not installed
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            torch.onnx.export(
                _Features(build_peer(bundle, "sdpa")).eval(),
                (pixels,),
                str(file),
                input_names=[_INPUT],
                output_names=["tokens", "embedding"],
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    return file
