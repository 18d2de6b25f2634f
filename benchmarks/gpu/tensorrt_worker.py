"""The engine's side: the backend as an app uses it, plain or as a CUDA graph.

python -m benchmarks.gpu.tensorrt_worker BUNDLE tensorrt|tensorrt-graph
"""

import sys
import time
from typing import Any

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.runtime.backends import RunOptions
from vjepa2.runtime.backends.cuda import CudaDevice
from vjepa2.runtime.backends.trt import TensorRtBackend
from vjepa2.runtime.gates import GATES
from vjepa2.runtime.parity import Reference, check_parity

from .pipes import Block, serve

_USES_GRAPH = {"tensorrt": False, "tensorrt-graph": True}
_OPENING_CALLS = 2  # the graph is captured in the second, and takes memory


class EngineVariant:
    """An engine in one session, opened when it is first asked for."""

    def __init__(self, bundle: Bundle, *, cuda_graph: bool) -> None:
        self._bundle, self._cuda_graph = bundle, cuda_graph
        self._backend: TensorRtBackend | None = None
        reference = Reference.load(bundle)
        self._reference, self._inputs = reference, [clip[None] for clip in reference.frames_BTHWC[:2]]

    def describe(self) -> dict[str, Any]:
        """See `Variant.describe`."""
        verdict = check_parity(self._reference, self._open(), GATES[self._bundle.manifest.precision])
        return {
            "token_cosine": verdict.token_cosine,
            "embedding_cosine": verdict.embedding_cosine,
            "memory_bytes": self._used,
        }

    def run(self, calls: int) -> Block:
        """See `Variant.run`; two clips by turns, so that nothing is computed on what is still there."""
        backend = self._open()
        wall_ms = []
        for call in range(calls):
            start_ns = time.perf_counter_ns()
            embedding = backend.run(self._inputs[call % 2]).embeddings_BD
            wall_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
            assert embedding is not None
            assert np.isfinite(embedding).all()
        return Block(gpu_ms=() if self._cuda_graph else tuple(backend.time_engine(calls)), wall_ms=tuple(wall_ms))

    def _open(self) -> TensorRtBackend:
        if self._backend is None:
            with CudaDevice.open() as gpu:  # whose context, a few hundred MB, is there before and after
                before, _ = gpu.measure_memory()
                self._backend = TensorRtBackend(self._bundle, RunOptions(cuda_graph=self._cuda_graph))
                for _ in range(_OPENING_CALLS):
                    self._backend.run(self._inputs[0])
                self._used = before - gpu.measure_memory()[0]
        return self._backend


def make(folder: str, name: str) -> EngineVariant:
    """The variant called `name` over a bundle."""
    return EngineVariant(Bundle.open(folder), cuda_graph=_USES_GRAPH[name])


if __name__ == "__main__":
    serve(lambda: make(*sys.argv[1:]))
