"""PyTorch: the reference, rebuilt from the bundle alone, on the CPU or an NVIDIA GPU."""

import shutil
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from os import environ
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.folding import unfold_patches
from vjepa2.head_parts import build_headed
from vjepa2.headed import Headed, compute_outputs, embed_clips
from vjepa2.manifest import Manifest, StoredParameter
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, Outputs, RunOptions, normalise
from .held import HeldClips
from .held_tensors import HeldTensors
from .placement import Executed, Placed, check_placement, count_nodes, describe
from .torch_watch import ProductWatch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PRODUCTS = (nn.Linear, nn.Conv3d)


class PyTorchBackend(Backend):
    """Runs the module itself, attention by PyTorch's fused kernel.

    In fp16 and bf16 the products of matrices are in it; LayerNorms, rotations and the residual stream stay float32.
    `placement` is of the layers' parameters until the first run, and then of the products that this one computed: each
    must be where and in what was asked for.
    """

    name: ClassVar[str] = "pytorch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    casts: ClassVar[tuple[Executed, ...]] = ("fp16", "bf16")
    is_watched: ClassVar[bool] = True  # in the first run

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        if self.precision not in DTYPES:
            raise BackendError(f"{self.name} runs {', '.join(DTYPES)}; {bundle.path.name} is {self.precision}")
        self._dtype = DTYPES[self.precision]
        if options.threads:
            torch.set_num_threads(options.threads)  # of the whole process: there is no narrower one
        model = rebuild_model(bundle).to(self.device)
        for layer in model.modules():
            if isinstance(layer, _PRODUCTS):
                layer.to(self._dtype)
        self._model: Headed | None = model
        self._asked = self.precision
        self._judge(count_nodes(list_layers(model)))
        self._is_judged = not self.is_watched

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A bundle of float32 weights, and a GPU that this PyTorch can use, if one is asked for."""
        if bundle is not None and bundle.manifest.precision != "fp32":
            return (
                f"float32 weights, and those of {bundle.path.name} are {bundle.manifest.precision}; export fp32, which "
                f"{cls.name} also computes in {' and '.join(cls.casts)}"
            )
        kind, _, number = (device or cls.devices[0]).partition(":")
        if kind != "cuda" or int(number or 0) < torch.cuda.device_count():
            return None
        if torch.version.cuda is None:
            return f"a PyTorch with CUDA (torch {torch.__version__} has none); install one from download.pytorch.org"
        return f"an NVIDIA GPU numbered {number or 0} (PyTorch sees {torch.cuda.device_count()})"

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        held = self._hold(frames_BTHWC, extras, outputs)
        held.compute()
        return held.fetch()

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        manifest, model = self.bundle.manifest, self._model
        assert model is not None
        clips = torch.from_numpy(normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std))
        clips = clips.to(self.device)
        inputs = [torch.from_numpy(extras[info.name].copy()).to(self.device) for info in manifest.inputs[1:]]

        def compute() -> dict[OutputName, Tensor]:
            exact = self._dtype is torch.float32
            mode = keep_exact(self.name) if exact else torch.autocast(self.device.partition(":")[0], self._dtype)
            watch = nullcontext() if self._is_judged else ProductWatch()
            with torch.inference_mode(), mode, watch:
                results = compute_outputs(model, embed_clips(model, clips), inputs)
            if isinstance(watch, ProductWatch):
                self._judge(count_nodes(watch.rows))
                self._is_judged = True
            return results

        return HeldTensors(compute, self.device, outputs)

    def _judge(self, placed: tuple[Placed, ...]) -> None:
        """Raise `BackendError` for what is elsewhere, or for one product in another precision, unless it is allowed."""
        self.placement, allow = placed, self.options.allow
        self.precision = check_placement(self.name, placed, place=self.device, precision=self._asked, allow=allow)
        other = [row for row in placed if row.products and row.precision not in (self._asked, *allow)]
        if other:
            raise BackendError(
                f"{self.name} computed {other[0].products} products of matrices in {other[0].precision}, and "
                f"{self._asked} was asked for ({describe(placed)}); allow {other[0].precision!r} by name"
            )

    def run_with_norms(
        self, frames_THWC: FramesArray, outputs: Sequence[OutputName], inputs: Mapping[str, InputArray]
    ) -> tuple[Outputs, FloatArray]:
        """As `run` for one clip, and the norms `[1, N]` of its tokens before the final LayerNorm."""
        assert self._model is not None
        norms: list[Tensor] = []

        def keep_norms(_: nn.Module, streams: tuple[Tensor, ...]) -> None:
            norms.append(streams[0].norm(dim=-1).flatten())

        hook = self._model.encoder.last_norm.register_forward_pre_hook(keep_norms)
        try:
            results = self.run(frames_THWC[None], outputs, inputs)
        finally:
            hook.remove()
        # an earlier one is of a layer below, through the same LayerNorm; a graph's batch is filled up behind the clip
        clips = max(1, self.count_clips_a_call(1))
        return results, norms[-1].reshape(clips, -1)[:1].float().cpu().numpy()

    def _release(self) -> None:
        self._model = None


class PyTorchCompileBackend(PyTorchBackend):
    """Runs the module with its blocks through `torch.compile`; the first run of a batch size compiles, once for all.

    `placement` stays that of the parameters: PyTorch does not tell what the kernels that its compiler wrote compute in.
    """

    name: ClassVar[str] = "pytorch-compile"
    is_watched: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        assert self._model is not None
        for block in self._model.encoder.blocks:
            # the blocks differ in their numbers alone: one compilation serves them all
            block.compile(fullgraph=True, dynamic=False)

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A GPU that was asked for, a C++ compiler, or the headers of this Python."""
        compiler = environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return f"a C++ compiler ({compiler} is not found); install g++, or name one in CXX"
        header = Path(sysconfig.get_paths()["include"]) / "Python.h"
        if not header.exists():
            return f"the headers of this Python ({header} is missing); install python3-dev"
        return super().find_obstacle(device, bundle)


@contextmanager
def keep_exact(name: str) -> Iterator[None]:
    """Float32 products in float32: refuse what the app set for all of PyTorch, and undo what cuDNN does by itself."""
    for library in ("cuda", "mkldnn"):
        setting = getattr(torch.backends, library).matmul.fp32_precision
        if setting not in ("none", "ieee"):
            raise BackendError(
                f"PyTorch was told to multiply float32 as {setting} ({library}), and {name} runs in fp32; call "
                'torch.set_float32_matmul_precision("highest"), or ask for bf16 or fp16'
            )
    context = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if torch.cuda.is_available() else nullcontext()
    with context:
        yield


def list_layers(model: nn.Module) -> Iterator[tuple[str, str, bool]]:
    """Layers, by where their parameters lie and in what they are."""
    for layer in model.modules():
        for value in list(layer.parameters(recurse=False))[:1]:
            yield str(value.device), _NAMES[value.dtype], isinstance(layer, _PRODUCTS)


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
