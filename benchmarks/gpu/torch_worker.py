"""torch's side: the same model and weights in 16 bits, with its fused attention, plain and through torch.compile.

    python -m benchmarks.gpu.torch_worker BUNDLE

All of it is in 16 bits, LayerNorm and residual stream too: that is the fastest that torch offers, not the most exact.
"""

import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.bundle import Bundle
from vjepa2.checkpoints import load_encoder
from vjepa2.runtime.parity import Reference, measure
from vjepa2.spec import RGB_MEAN, RGB_STD

from .pipes import Block, Variant, serve

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Model(nn.Module):
    """Pixels on the GPU to tokens and their mean, as the engine's graph does."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        manifest = bundle.manifest
        self.dtype = _DTYPES[manifest.precision]
        encoder = load_encoder("random", model=manifest.model, clip=manifest.clip, seed=manifest.source.seed or 0)
        self.encoder = encoder.to(self.dtype)
        self.register_buffer("mean_C", 255 * torch.tensor(RGB_MEAN))
        self.register_buffer("std_C", 255 * torch.tensor(RGB_STD))

    def forward(self, frames_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, N, D]` in 16 bits, embeddings `[B, D]` float32."""
        clips_BTHWC = ((frames_BTHWC.float() - self.mean_C) / self.std_C).to(self.dtype)
        tokens_BND = self.encoder(clips_BTHWC.permute(0, 1, 4, 2, 3))
        return tokens_BND, tokens_BND.float().mean(1)


class TorchVariant:
    """The module, or what torch.compile makes of it when it is first called."""

    def __init__(self, bundle: Bundle, change: Callable[[Any], Any] = lambda model: model) -> None:
        self._bundle, self._change = bundle, change
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
            tokens.append(measure(expected.tokens_BND[row : row + 1], tokens_BND.float().cpu().numpy())[0])
            embeddings.append(measure(expected.embeddings_BD[row : row + 1], embeddings_BD.cpu().numpy())[0])
        return {
            "token_cosine": min(tokens),
            "embedding_cosine": min(embeddings),
            "memory_bytes": torch.cuda.max_memory_allocated(),
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
        if self._model is None:
            self._model = self._change(Model(self._bundle).eval().cuda())
        with torch.inference_mode():
            results: tuple[Tensor, Tensor] = self._model(frames_BTHWC)
        return results


def make(folder: str) -> Mapping[str, Variant]:
    """Both variants over one bundle."""
    bundle = Bundle.open(folder)
    return {"torch": TorchVariant(bundle), "torch-compile": TorchVariant(bundle, torch.compile)}


if __name__ == "__main__":
    serve(lambda: make(sys.argv[1]))
