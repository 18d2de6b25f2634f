"""How do embeddings lie in a Parquet file?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .backends.base import FloatArray


def write_embeddings(
    stream: BinaryIO, videos: Sequence[Path], embeddings_BD: FloatArray, facts: Mapping[str, object]
) -> None:
    """One row a video: `video`, `embedding` (FixedSizeList<float32>[D]), `model backend precision bundle`."""
    count, dim = embeddings_BD.shape
    columns = {
        "video": pa.array([str(video) for video in videos]),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings_BD.reshape(-1)), dim),
    }
    for name in ("model", "backend", "precision", "bundle"):
        columns[name] = pa.array([str(facts[name])] * count)
    pq.write_table(pa.table(columns), stream)
