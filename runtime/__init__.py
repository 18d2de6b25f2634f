"""How a bundle runs: backends, embeddings, parity. No torch needed."""

from .backends import Backend, Outputs, open_backend
from .classify import Classification
from .decode_messages import ClipRequest, DecodeLimits, SampledClip, VideoReport
from .decoder import VideoDecoder
from .embedding import EmbeddingEngine
from .parity import Reference, check_parity, check_stored

__all__ = [
    "Backend",
    "Classification",
    "ClipRequest",
    "DecodeLimits",
    "EmbeddingEngine",
    "Outputs",
    "Reference",
    "SampledClip",
    "VideoDecoder",
    "VideoReport",
    "check_parity",
    "check_stored",
    "open_backend",
]
