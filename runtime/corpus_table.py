"""How do the rows of a shard lie in Parquet, and what is their hash?"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vjepa2.errors import BundleError, CorpusError

from .backends.base import FloatArray
from .corpus_messages import RunFacts, ShardFooter, decode_record, encode_record
from .decode_messages import Status

_KEY = b"vjepa2.shard"
_ROW = ("video", "clip", "start_s", "end_s", "status", "reason")  # what is hashed beside the embedding
_CONSTANT = ("model", "backend", "precision", "bundle", "plan")
_WORDS = ("video", "status", "reason", *_CONSTANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRow:
    """A clip, or a rejected video, of which there is none."""

    video: str
    clip: int | None
    start_s: float | None
    end_s: float | None
    status: Status
    reason: str | None
    embedding_D: FloatArray | None


def build_table(rows: Sequence[CorpusRow], run: RunFacts) -> pa.Table:
    """Columns `video clip start_s end_s status reason embedding model backend precision bundle plan`.

    Where there is no clip there are NaNs for an embedding.
    """
    types = {"clip": pa.int64(), "start_s": pa.float64(), "end_s": pa.float64()}
    columns = {name: pa.array([getattr(row, name) for row in rows], types.get(name, pa.string())) for name in _ROW}
    # not null: pyarrow before 26 cannot read lists of a fixed size of which one is
    vectors_BD = np.full((len(rows), run.dim), np.nan, np.float32)
    for place, row in enumerate(rows):
        if row.embedding_D is not None:
            vectors_BD[place] = row.embedding_D
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors_BD.reshape(-1)), run.dim)
    for name in _CONSTANT:
        columns[name] = pa.array([getattr(run, name)] * len(rows), pa.string())
    return pa.table(columns)


def hash_rows(table: pa.Table) -> str:
    """The hash of what the rows say, whatever wrote them and however they are compressed."""
    digest = hashlib.sha256()
    for batch in table.to_batches():
        facts = batch.select(list(_ROW)).to_pylist()
        embeddings = batch.column("embedding")
        vectors_BD = np.asarray(embeddings.flatten(), "<f4").reshape(len(facts), -1)
        for place, row in enumerate(facts):
            digest.update(json.dumps(list(row.values())).encode())
            digest.update(vectors_BD[place].tobytes())
    return digest.hexdigest()


def encode_shard(table: pa.Table, footer: ShardFooter) -> bytes:
    """A Parquet file, its footer in the file's own; the same bytes for the same rows."""
    sink = io.BytesIO()
    named = table.replace_schema_metadata({_KEY: encode_record(footer)})
    pq.write_table(named, sink, use_dictionary=list(_WORDS))
    return sink.getvalue()


def read_footer(stream: BinaryIO, name: str) -> ShardFooter:
    """What a shard's file says of itself; a `CorpusError` if it is none."""
    with _explain_damage(name):
        return _footer_of(pq.read_schema(stream), name)


def read_shard(stream: BinaryIO, name: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, ShardFooter]:
    """The rows, of all columns or some, and the footer of a shard; a `CorpusError` if it is none, or is damaged."""
    with _explain_damage(name):
        table = pq.read_table(stream, columns=None if columns is None else list(columns))
        return table, _footer_of(table.schema, name)


def _footer_of(schema: pa.Schema, name: str) -> ShardFooter:
    return decode_record((schema.metadata or {})[_KEY], name, ShardFooter)


@contextmanager
def _explain_damage(name: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, OSError, BundleError) as error:
        raise CorpusError(f"{name} is not a whole shard ({error!s:.200}); remove it and run again") from error
