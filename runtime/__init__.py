"""How a bundle runs: backends, embeddings, parity, latency. No torch needed."""

from .backends import Backend, Outputs, open_backend
from .batching import QueueOptions
from .classify import Classification
from .decode_messages import ClipRequest, DecodeLimits, SampledClip, VideoReport
from .decoder import VideoDecoder
from .embedding import EmbeddingEngine
from .encoded import EncodedClips, EncodedVideo
from .encoding import EncodeOptions
from .latency import BenchOptions, LatencyReport, measure_latency, plan_rows
from .metrics import EngineMetrics
from .parity import Reference, check_parity, check_stored

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
]
