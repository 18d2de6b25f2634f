"""How do the windows of a stream lie in a Parquet file?"""

from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .stream import StreamedEmbedding

_GROUP = 256  # windows that are written together


class StreamParquetWriter:
    """One row a window: `start_s end_s delay_ms dropped novelty embedding`, and what is the same for all of them."""

    def __init__(self, stream: BinaryIO, *, dim: int, facts: dict[str, str]) -> None:
        self._facts = facts
        columns = [("start_s", pa.float64()), ("end_s", pa.float64()), ("delay_ms", pa.float64())]
        columns += [("dropped", pa.int64()), ("novelty", pa.float64()), ("embedding", pa.list_(pa.float32(), dim))]
        self._schema = pa.schema(columns + [(name, pa.string()) for name in facts])
        self._writer = pq.ParquetWriter(stream, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: StreamedEmbedding) -> None:
        """Append a window."""
        named = {name: getattr(row, name) for name in ("start_s", "end_s", "delay_ms", "dropped", "novelty")}
        self._rows.append({**named, "embedding": row.embedding_D, **self._facts})
        if len(self._rows) == _GROUP:
            self._flush()

    def close(self) -> None:
        """Write the rest and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
