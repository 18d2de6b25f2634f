"""PyTorch: the reference, rebuilt from the bundle alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.folding import unfold_patches
from vjepa2.headed import Headed, build_headed, compute_outputs, embed_clips
from vjepa2.manifest import Manifest, StoredParameter
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, normalise


class PyTorchBackend(Backend):
    """Runs the module itself, on the CPU, in float32, attention by PyTorch's fused kernel."""

    name: ClassVar[str] = "pytorch"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        if bundle.manifest.precision != "fp32":
            raise BackendError(
                f"{bundle.path.name} is {bundle.manifest.precision}, and the module computes in float32 with weights "
                "that were not rounded; pytorch runs fp32: export that"
            )
        self.device, self.precision = "cpu", "fp32"
        self._model: Headed | None = rebuild_model(bundle)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        assert self._model is not None
        manifest = self.bundle.manifest
        clips = torch.from_numpy(normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std))
        inputs = [torch.from_numpy(extras[info.name].copy()) for info in manifest.inputs[1:]]
        with torch.inference_mode():
            results = compute_outputs(self._model, embed_clips(self._model, clips), inputs)
        return {name: results[name].numpy() for name in outputs}

    def _release(self) -> None:
        self._model = None


def rebuild_model(bundle: Bundle) -> Headed:
    """The encoder and its head, with the parameters that the manifest locates."""
    manifest = bundle.manifest
    model = build_headed(manifest.model, manifest.clip, manifest.head, manifest.parts, manifest.classes)
    state = _read_parameters(bundle.path, manifest, f"{model.encoder.patch_name}.proj")
    ours = {name.removeprefix("encoder."): name for name, _ in model.named_parameters()}
    model.load_state_dict({ours.get(name, name): value for name, value in state.items()}, strict=True, assign=True)
    return model.eval()


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
