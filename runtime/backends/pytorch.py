"""PyTorch: the reference, rebuilt from the bundle alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vjepa2.bundle import Bundle
from vjepa2.encoder import Encoder
from vjepa2.folding import unfold_patches
from vjepa2.heads import ImageClassifier
from vjepa2.manifest import Manifest, StoredParameter

from .base import Backend, FloatArray, FramesArray, OutputName, normalise


class PyTorchBackend(Backend):
    """Runs the module itself, on the CPU, in float32, attention by PyTorch's fused kernel."""

    name: ClassVar[str] = "pytorch"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.device, self.precision = "cpu", "fp32"
        self._encoder, self._classifier = rebuild_model(bundle)

    def _compute(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> dict[str, FloatArray]:
        assert self._encoder is not None
        preprocessing = self.bundle.manifest.preprocessing
        clips = torch.from_numpy(normalise(frames_BTHWC, preprocessing.mean, preprocessing.std))
        with torch.inference_mode():
            tokens_BND = self._encoder(clips)
            results = {"tokens": tokens_BND, "embedding": tokens_BND.mean(dim=1)}
            if self._classifier is not None and "logits" in outputs:
                results["logits"] = self._classifier.classify(results["embedding"])
        return {name: results[name].numpy() for name in outputs}

    def _release(self) -> None:
        self._encoder = self._classifier = None


def rebuild_model(bundle: Bundle) -> tuple[Encoder | None, ImageClassifier | None]:
    """The encoder, and the classifier if the bundle has one, with the parameters that the manifest locates."""
    manifest = bundle.manifest
    with torch.device("meta"):
        encoder = Encoder(manifest.model, manifest.clip)
        classifier = ImageClassifier(encoder, manifest.classes) if manifest.classes else None
    state = _read_parameters(bundle.path, manifest, f"{encoder.patch_name}.proj")
    heads = {name: state.pop(name) for name in list(state) if name.startswith("head.")}
    encoder.load_state_dict(state, strict=True, assign=True)
    if classifier is not None:
        classifier.head.load_state_dict(
            {name.removeprefix("head."): value for name, value in heads.items()}, strict=True, assign=True
        )
    return encoder.eval(), classifier


def _read_parameters(folder: Path, manifest: Manifest, patches: str) -> dict[str, Tensor]:
    state = {
        name: _read(folder, stored).T if stored.transform == "transposed" else _read(folder, stored)
        for name, stored in manifest.parameters.items()
    }
    weight, bias = f"{patches}.weight", f"{patches}.bias"
    clip = manifest.clip
    shape = (manifest.model.dim, 3, clip.tubelet, clip.patch, clip.patch)
    if manifest.parameters[weight].transform == "folded":
        state[weight], state[bias] = unfold_patches(state[weight], state[bias], shape)
    state[weight] = state[weight].reshape(shape)
    return state


def _read(folder: Path, stored: StoredParameter) -> Tensor:
    count = int(np.prod(stored.shape))
    # copy-on-write: torch wants memory that may be written to, and the file must not change
    values = np.memmap(folder / stored.file, stored.dtype, "c", stored.offset, (count,))
    return torch.from_numpy(values).reshape(stored.shape)
