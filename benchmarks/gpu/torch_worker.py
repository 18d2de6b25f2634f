"""torch's side: the same model and weights in 16 bits with its fused attention, plain or through torch.compile.

    python -m benchmarks.gpu.torch_worker BUNDLE torch|torch-compile|torch-compile-graph

What a careful port has: pixels normalised in float32, patches by one MatMul, and from there on everything in 16 bits,
LayerNorm, residual stream and rotation too, by tables that are computed in float64 and rounded once. The engine keeps
those in float32, so torch computes less exactly; the table has each one's worst token. torch may be faster still:
max-autotune, 8 bits and kernels of others are not tried.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.bundle import Bundle
from vjepa2.checkpoints import load_encoder
from vjepa2.runtime.figures import measure
from vjepa2.runtime.parity import Reference
from vjepa2.spec import RGB_MEAN, RGB_STD

from .pipes import Block, serve

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CHANGES: dict[str, Callable[[Any], Any]] = {
    "torch": lambda model: model,
    "torch-compile": torch.compile,
    "torch-compile-graph": partial(torch.compile, mode="reduce-overhead"),
}
_OPENING_CALLS = 4  # torch.compile captures its graph in the second, and takes memory for it


class Model(nn.Module):
    """Pixels on the GPU to tokens and their mean, as the engine's graph does."""

    scale_C: Tensor
    shift_C: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        manifest = bundle.manifest
        self.dtype, self.clip = _DTYPES[manifest.precision], manifest.clip
        self.encoder = load_encoder("random", model=manifest.model, clip=self.clip, seed=manifest.source.seed or 0)
        conv = self.encoder.get_submodule(f"{self.encoder.patch_name}.proj")
        assert isinstance(conv, nn.Conv3d)
        assert conv.bias is not None
        self.patches = nn.Linear(self.clip.patch_values, manifest.model.dim)
        self.patches.weight = nn.Parameter(conv.weight.detach().permute(0, 2, 3, 4, 1).flatten(1))  # colour fastest
        self.patches.bias = nn.Parameter(conv.bias.detach())
        self.to(self.dtype)
        _round_rotation(self.encoder.rotary, self.dtype)
        mean_C, std_C = torch.tensor(RGB_MEAN), torch.tensor(RGB_STD)
        self.register_buffer("scale_C", 1 / (255 * std_C))
        self.register_buffer("shift_C", -mean_C / std_C)

    def forward(self, frames_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, N, D]` in 16 bits, embeddings `[B, D]` float32."""
        pixels_BTHWC = torch.addcmul(self.shift_C, frames_BTHWC.float(), self.scale_C)
        tokens_BND: Tensor = self.encoder.encode_patches(self.patches(self._cut(pixels_BTHWC)))
        return tokens_BND, tokens_BND.float().mean(1)

    def _cut(self, pixels_BTHWC: Tensor) -> Tensor:
        """Patches `[B, N, P]` in 16 bits, by one copy."""
        clip, batch = self.clip, len(pixels_BTHWC)
        time_, rows, columns = clip.grid
        cut = pixels_BTHWC.reshape(batch, time_, clip.tubelet, rows, clip.patch, columns, clip.patch, 3)
        patches = cut.permute(0, 1, 3, 5, 2, 4, 6, 7).to(self.dtype, memory_format=torch.contiguous_format)
        return patches.reshape(batch, clip.tokens, clip.patch_values)


class TorchVariant:
    """The module, or what torch.compile makes of it when it is first called."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._bundle, self._name = bundle, name
        self._model: Any = None
        self._reference = Reference.load(bundle)
        self._inputs = [np.ascontiguousarray(clip[None]) for clip in self._reference.frames_BTHWC[:2]]

    def describe(self) -> dict[str, Any]:
        """See `Variant.describe`: the worst over the clips that export stored."""
        expected = self._reference.outputs
        assert expected.tokens_BND is not None
        assert expected.embeddings_BD is not None
        tokens, embeddings = [], []
        for row, frames in enumerate(self._reference.frames_BTHWC):
            tokens_BND, embeddings_BD = self._compute(torch.from_numpy(frames[None]).cuda())
            tokens.append(_worst(expected.tokens_BND[row : row + 1], tokens_BND))
            embeddings.append(_worst(expected.embeddings_BD[row : row + 1], embeddings_BD))
        _check_graph(self._name)
        return {
            "token_cosine": min(tokens),
            "embedding_cosine": min(embeddings),
            "memory_bytes": self._used,
        }

    def run(self, calls: int) -> Block:
        """See `Variant.run`; two clips by turns."""
        resident = [torch.from_numpy(frames).cuda() for frames in self._inputs]
        pinned = torch.empty_like(torch.from_numpy(self._inputs[0])).pin_memory()
        wall_ms = []
        for call in range(calls):
            start_ns = time.perf_counter_ns()
            pinned.copy_(torch.from_numpy(self._inputs[call % 2]))
            embedding = self._compute(pinned.cuda(non_blocking=True))[1].cpu().numpy()
            wall_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
            assert np.isfinite(embedding).all()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]  # type: ignore[no-untyped-call]
        events[0].record()
        for call in range(calls):
            self._compute(resident[call % 2])
            events[call + 1].record()
        torch.cuda.synchronize()
        gpu_ms = tuple(start.elapsed_time(end) for start, end in pairwise(events))
        return Block(gpu_ms=gpu_ms, wall_ms=tuple(wall_ms))

    def _compute(self, frames_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            if self._model is None:
                self._open(frames_BTHWC)
            results: tuple[Tensor, Tensor] = self._model(frames_BTHWC)
        return results

    def _open(self, frames_BTHWC: Tensor) -> None:
        torch.cuda.empty_cache()
        before, _ = torch.cuda.mem_get_info()
        self._model = _CHANGES[self._name](Model(self._bundle).eval().cuda())
        for _ in range(_OPENING_CALLS):
            self._model(frames_BTHWC)
        torch.cuda.synchronize()
        self._used = before - torch.cuda.mem_get_info()[0]  # what its allocator took of the driver


def _round_rotation(rotary: nn.Module | None, dtype: torch.dtype) -> None:
    """Let q and k be turned in `dtype`: the tables keep theirs wherever a module goes, and would turn in float32."""
    for name in ("cos_N1K", "sin_N1K") if rotary is not None else ():
        setattr(rotary, name, getattr(rotary, name).to(dtype))


def _worst(expected: Any, got: Tensor) -> float:
    """The least cosine of one clip's vectors; NaN if there is one."""
    return float(measure(expected, got.float().cpu().numpy())[0].min())


def _check_graph(name: str) -> None:
    """torch.compile goes on without a CUDA graph if it cannot make one, and only counts that."""
    from torch._dynamo.utils import counters  # noqa: PLC0415  (takes seconds, for the compiled alone)

    skipped = counters["inductor"]["cudagraph_skips"]
    if name == "torch-compile-graph" and skipped:
        raise RuntimeError(f"torch.compile left out {skipped} CUDA graphs")


def make(folder: str, name: str) -> TorchVariant:
    """The variant called `name` over a bundle."""
    return TorchVariant(Bundle.open(folder), name)


if __name__ == "__main__":
    serve(lambda: make(*sys.argv[1:]))
