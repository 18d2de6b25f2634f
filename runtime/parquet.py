"""How do embeddings lie in a Parquet file?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .embedding import EncodedClips


def write_embeddings(stream: BinaryIO, videos: Sequence[Path], rows: EncodedClips, facts: Mapping[str, object]) -> None:
    """One row a clip: `video start_s end_s embedding model backend precision bundle`; a list of D floats."""
    count, dim = rows.values.shape
    columns = {
        "video": pa.array([str(videos[place.video]) for place in rows.places]),
        "start_s": pa.array([place.start_s for place in rows.places], pa.float64()),
        "end_s": pa.array([place.end_s for place in rows.places], pa.float64()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.values.reshape(-1)), dim),
    }
    for name in ("model", "backend", "precision", "bundle"):
        columns[name] = pa.array([str(facts[name])] * count)
    pq.write_table(pa.table(columns), stream)
