"""How a bundle runs: backends, embeddings, parity. No torch needed."""

from .backends import Backend, Outputs, open_backend
from .classify import Classification
from .embedding import EmbeddingEngine
from .parity import Reference, check_parity

__all__ = ["Backend", "Classification", "EmbeddingEngine", "Outputs", "Reference", "check_parity", "open_backend"]
