"""How do embeddings lie in a Parquet file?"""

from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .encoded import EncodedClips


def write_embeddings(stream: BinaryIO, rows: EncodedClips, facts: Mapping[str, object]) -> None:
    """One row a clip, and one whose embedding is all NaN for each video that was skipped, in the order of the videos.

    Columns are `video start_s end_s status embedding model backend precision bundle`; an embedding is a list of D
    float32, a status is `ok`, `partial (20 of 24 frames: why)` or `rejected (why)`.
    """
    lines = rows.lines()
    places = [None if row is None else rows.places[row] for _, row in lines]
    columns = {
        "video": pa.array([rows.names[video] for video, _ in lines], pa.string()),
        "start_s": pa.array([place and place.start_s for place in places], pa.float64()),
        "end_s": pa.array([place and place.end_s for place in places], pa.float64()),
        "status": pa.array([str(rows.reports[video]) for video, _ in lines], pa.string()),
        "embedding": _list_embeddings(rows, [row for _, row in lines]),
    }
    for name in ("model", "backend", "precision", "bundle"):
        columns[name] = pa.array([str(facts[name])] * len(lines), pa.string())
    pq.write_table(pa.table(columns), stream)


def _list_embeddings(rows: EncodedClips, lines: list[int | None]) -> "pa.FixedSizeListArray":
    dim = rows.values.shape[1]
    values = np.full((len(lines), dim), np.nan, np.float32)  # pyarrow before 26 cannot read a null of a fixed size
    values[[row is not None for row in lines]] = rows.values
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dim)
