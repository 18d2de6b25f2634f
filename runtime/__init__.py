"""How a bundle runs: backends, embeddings, parity, latency. No torch needed."""

from .backends import Backend, Outputs, open_backend
from .classify import Classification
from .decode_messages import ClipRequest, DecodeLimits, SampledClip, VideoReport
from .decoder import VideoDecoder
from .embedding import EmbeddingEngine
from .latency import BenchOptions, LatencyReport, measure_latency, plan_rows
from .parity import Reference, check_parity

__all__ = [
    "Backend",
    "BenchOptions",
    "Classification",
    "ClipRequest",
    "DecodeLimits",
    "EmbeddingEngine",
    "LatencyReport",
    "Outputs",
    "Reference",
    "SampledClip",
    "VideoDecoder",
    "VideoReport",
    "check_parity",
    "measure_latency",
    "open_backend",
    "plan_rows",
]
