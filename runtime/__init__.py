"""How a bundle runs: backends, embeddings, parity, latency. No torch needed."""

from importlib import import_module
from typing import TYPE_CHECKING

from .backends import Backend, Outputs, open_backend
from .batching import QueueOptions
from .classify import Classification
from .decode_messages import ClipRequest, DecodeLimits, SampledClip, VideoReport
from .decoder import VideoDecoder
from .embedding import EmbeddingEngine
from .encoded import EncodedClips, EncodedVideo
from .encoding import EncodeOptions
from .metrics import EngineMetrics
from .quantized_rows import quantize_rows

if TYPE_CHECKING:  # what measures and proves, which an app does not wait for: it is imported where it is first named
    from .latency import BenchOptions, LatencyReport, measure_latency, plan_rows
    from .parity import Reference, check_parity, check_stored
else:
    _LATER = dict.fromkeys(("BenchOptions", "LatencyReport", "measure_latency", "plan_rows"), "latency")
    _LATER |= dict.fromkeys(("Reference", "check_parity", "check_stored"), "parity")

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


__all__ = [
    "Backend",
    "BenchOptions",
    "Classification",
    "ClipRequest",
    "DecodeLimits",
    "EmbeddingEngine",
    "EncodeOptions",
    "EncodedClips",
    "EncodedVideo",
    "EngineMetrics",
    "LatencyReport",
    "Outputs",
    "QueueOptions",
    "Reference",
    "SampledClip",
    "VideoDecoder",
    "VideoReport",
    "check_parity",
    "check_stored",
    "measure_latency",
    "open_backend",
    "plan_rows",
    "quantize_rows",
]
