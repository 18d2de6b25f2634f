"""How a bundle runs: backends, embeddings, parity. No torch needed."""

from .backends import Backend, Outputs, open_backend
from .batching import QueueOptions
from .classify import Classification
from .decode_messages import ClipRequest, DecodeLimits, SampledClip, VideoReport
from .decoder import VideoDecoder
from .embedding import EmbeddingEngine
from .encoded import EncodedClips, EncodedVideo
from .encoding import EncodeOptions
from .metrics import EngineMetrics
from .parity import Reference, check_parity, check_stored

__all__ = [
    "Backend",
    "Classification",
    "ClipRequest",
    "DecodeLimits",
    "EmbeddingEngine",
    "EncodeOptions",
    "EncodedClips",
    "EncodedVideo",
    "EngineMetrics",
    "Outputs",
    "QueueOptions",
    "Reference",
    "SampledClip",
    "VideoDecoder",
    "VideoReport",
    "check_parity",
    "check_stored",
    "open_backend",
]
