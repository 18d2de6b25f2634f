"""How do the rows of a sealed corpus lie in LanceDB, and which of them are nearest to a vector there?

Axes: D channels, K rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from vjepa2.errors import CorpusError
from vjepa2.publish import explain, publish_folder

from .backends.base import FloatArray
from .corpus_output import name_shard
from .corpus_seal import CorpusSeal
from .corpus_store import open_store
from .corpus_table import build_table, read_shard
from .search_corpus import SearchCorpus
from .search_index import Found, VectorIndex, to_unit

TABLE = "clips"
_KEY = b"vjepa2.rows_sha256"


def write_lance(output: str, seal: CorpusSeal, folder: Path, watch: Callable[[range], Iterable[int]] = iter) -> None:
    """Write every row of a sealed corpus, and its number as `line`, to the table `clips` of a LanceDB at `folder`.

    A row without an embedding has null there. `folder` appears whole; one that holds anything else is refused.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if _read_hash(folder) == seal.rows_sha256:
            return
        raise CorpusError(f"{folder} is there and does not hold these rows; give a folder that is not there")
    try:
        with publish_folder(folder) as draft:
            _fill(draft, output, seal, watch)
    except OSError as error:
        raise CorpusError(explain(folder, error)) from error


class LanceIndex(VectorIndex):
    """Rows on the disk, each looked at: as exact as FAISS, in little memory, and slower."""

    name = "LanceDB, each row looked at"

    def __init__(self, folder: Path, corpus: SearchCorpus) -> None:
        found = _read_hash(folder)
        if found is None or found != corpus.seal:
            what = "is not a LanceDB of vjepa2 corpus seal --lance" if found is None else "has rows of another corpus"
            raise CorpusError(f"{folder} {what}; write it with vjepa2 corpus seal {corpus.output} --lance FOLDER")
        self.rows = corpus.rows
        self._line_N = corpus.line_N
        self._table = lancedb.connect(str(folder)).open_table(TABLE)

    def find_nearest(self, unit_D: FloatArray, top: int, without: range) -> list[Found]:
        """See `VectorIndex`."""
        search: Any = self._table.search(unit_D, vector_column_name="embedding")  # its type is of a text's search too
        query = search.distance_type("cosine")
        if without:
            first, last = self._line_N[without.start], self._line_N[without.stop - 1]
            query = query.where(f"line < {first} OR line > {last}", prefilter=True)
        found = query.bypass_vector_index().select(["line", "_distance"]).limit(min(top, self.rows)).to_arrow()
        rows = np.searchsorted(self._line_N, found["line"].to_numpy())
        cosines = 1 - found["_distance"].to_numpy()
        return [Found(row, cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)]

    def take(self, rows: Sequence[int]) -> FloatArray:
        """See `VectorIndex`."""
        taken = self._table.take_offsets(self._line_N[list(rows)].tolist()).select(["line", "embedding"]).to_arrow()
        taken = taken.sort_by("line")
        if taken.num_rows != len(rows) or taken["line"].to_pylist() != self._line_N[list(rows)].tolist():
            raise CorpusError("the LanceDB was changed since it was written; write it again with vjepa2 corpus seal")
        vectors_KD = taken["embedding"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        return to_unit(vectors_KD, "the LanceDB")


def _fill(folder: Path, output: str, seal: CorpusSeal, watch: Callable[[range], Iterable[int]]) -> None:
    schema = _extend(build_table((), seal.run), 0).schema.with_metadata({_KEY: seal.rows_sha256.encode()})
    failed: list[CorpusError] = []
    batches = _read_batches(output, watch(range(seal.shards)), schema, failed)
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    try:
        lancedb.connect(str(folder)).create_table(TABLE, reader, on_bad_vectors="null")
    except (RuntimeError, ValueError) as error:  # it has ours only as a text, with a traceback
        raise failed[0] if failed else CorpusError(f"LanceDB could not write: {error!s:.300}") from error


def _read_batches(
    output: str, shards: Iterable[int], schema: pa.Schema, failed: list[CorpusError]
) -> Iterator[pa.RecordBatch]:
    """The rows of all shards; an error that ends them is put into `failed` too."""
    store, line = open_store(output), 0
    for shard in shards:
        try:
            with store.open_file(name_shard(shard)) as stream:
                table, _ = read_shard(stream, f"{store.place}/{name_shard(shard)}")
        except CorpusError as error:
            failed.append(error)
            raise
        yield from _extend(table, line).cast(schema).to_batches()
        line += table.num_rows


def _extend(table: pa.Table, line: int) -> pa.Table:
    return table.append_column("line", pa.array(range(line, line + table.num_rows), pa.int64()))


def _read_hash(folder: Path) -> str | None:
    if not (folder / f"{TABLE}.lance").is_dir():
        return None
    metadata = lancedb.connect(str(folder)).open_table(TABLE).schema.metadata or {}
    found: bytes | None = metadata.get(_KEY)
    return found.decode() if found else None
