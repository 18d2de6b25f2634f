"""What is to be embedded: which videos, cut into which clips, in which shards?"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vjepa2.errors import BundleError, CorpusError
from vjepa2.schema import read_record

from .corpus_messages import PlannedVideo
from .sampling import Pad

SCHEMA = 1
_KEY = b"vjepa2.plan"
_COLUMNS = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("clips", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPolicy:
    """Which clips are made of a video, and how many of them fill a shard."""

    sampling: str
    pad: Pad
    frames: int | None  # of a clip, where their number decides how many clips there are
    clips_per_shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    schema: int
    id: str
    policy: ClipPolicy


@dataclass(frozen=True, slots=True)
class Plan:
    """A table of videos, a row each, in the order of their shards. Its id is the hash of all that it says."""

    policy: ClipPolicy
    table: pa.Table
    id: str

    @classmethod
    def make(cls, policy: ClipPolicy, videos: Iterable[PlannedVideo]) -> "Plan":
        """Fill shards with whole videos, in the order given, up to the policy's number of clips."""
        shards, shard, filled = [], 0, 0
        rows = list(videos)
        for video in rows:
            if filled and filled + video.clips > policy.clips_per_shard:
                shard, filled = shard + 1, 0
            filled += video.clips
            shards.append(shard)
        columns = {"shard": shards} | {
            name: [getattr(video, name) for video in rows] for name in _COLUMNS.names if name != "shard"
        }
        table = pa.table(columns, schema=_COLUMNS)
        return cls(policy, table, _hash(policy, table))

    @classmethod
    def open(cls, file: str | Path) -> "Plan":
        """Read the file that `write` wrote; a `CorpusError` if there is none, or as `read` does."""
        try:
            with Path(file).open("rb") as stream:
                return cls.read(stream, str(file))
        except OSError as error:
            raise CorpusError(
                f"{file} cannot be read ({error.strerror or error}); give a file of corpus plan"
            ) from error

    @classmethod
    def read(cls, stream: BinaryIO, name: str) -> "Plan":
        """Read what `write` wrote; a `CorpusError` if it is something else, or was changed since."""
        try:
            table = pq.read_table(stream)
            head = read_record(_Head, json.loads((table.schema.metadata or {})[_KEY]), name)
        except (KeyError, ValueError, BundleError) as error:
            raise CorpusError(f"{name} is no plan ({error!s:.200}); make one with vjepa2 corpus plan") from error
        table = table.replace_schema_metadata()
        if head.schema != SCHEMA or table.schema != _COLUMNS or _hash(head.policy, table) != head.id:
            raise CorpusError(f"{name} was changed after it was planned; make a new plan with vjepa2 corpus plan")
        return cls(head.policy, table, head.id)

    def write(self, stream: BinaryIO) -> None:
        """Write Parquet, the same bytes for the same plan."""
        head = _Head(schema=SCHEMA, id=self.id, policy=self.policy)
        pq.write_table(self.table.replace_schema_metadata({_KEY: json.dumps(asdict(head)).encode()}), stream)

    @property
    def shards(self) -> int:
        """How many there are."""
        count: int = self.table["shard"][-1].as_py() + 1
        return count

    @property
    def clips(self) -> int:
        """How many are expected."""
        return sum(self.table["clips"].to_pylist())

    def videos_by_shard(self) -> list[tuple[PlannedVideo, ...]]:
        """The videos of every shard."""
        shards: list[list[PlannedVideo]] = [[] for _ in range(self.shards)]
        for row in self.table.to_pylist():
            shards[row.pop("shard")].append(PlannedVideo(**row))
        return [tuple(videos) for videos in shards]


def _hash(policy: ClipPolicy, table: pa.Table) -> str:
    digest = hashlib.sha256(_line([SCHEMA, asdict(policy)]))
    for batch in table.to_batches():
        for row in batch.to_pylist():
            digest.update(_line(list(row.values())))
    return digest.hexdigest()


def _line(values: Sequence[object]) -> bytes:
    return (json.dumps(values, sort_keys=True) + "\n").encode()
