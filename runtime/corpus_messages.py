"""What do the parts of a corpus run tell each other: a job, a shard to make, a shard that is made?"""

import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from vjepa2.schema import read_record

from .backends.placement import Executed
from .decode_messages import Status
from .sampling import Pad

SCHEMA = 1
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVideo:
    """A video of a plan."""

    number: int  # among all of the plan, from 0
    video: str  # an absolute path or a URL
    bytes: int | None
    version: str | None  # sha256:... of its bytes, or etag:... as its store says
    problem: str | None  # why it could not be read when the plan was made
    clips: int  # that are expected of it


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusJob:
    """All that a worker must know, whatever shard it is to make."""

    plan: str  # its id
    bundle: str  # a folder
    bundle_sha256: str  # self_sha256 of its manifest
    output: str  # a folder or a URL
    backend: str
    device: str | None
    precision: Executed | None
    allow: tuple[str, ...]
    threads: int  # of each worker's backend
    batch_size: int
    sampling: str
    pad: Pad


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What made the rows of an output folder. All its shards agree in this."""

    schema: int = SCHEMA
    plan: str
    bundle: str  # self_sha256 of its manifest
    model: str
    backend: str
    precision: Executed
    device: str  # its kind: cpu, cuda
    threads: int
    batch_size: int
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOutcome:
    """How a video went, and how many rows of embeddings it gave; a rejected one has one row without."""

    number: int
    status: Status
    clips: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFooter:
    """What a shard's file says of itself."""

    run: RunFacts
    shard: int
    device: str  # with its number
    rows: int
    rows_sha256: str  # over the rows themselves, however they are stored
    videos: tuple[VideoOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A shard to be made."""

    shard: int
    videos: tuple[PlannedVideo, ...]
    refused: dict[str, str]  # number of a video that is not to be tried again -> why


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    """A worker has its model."""

    run: RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoBegun:
    """A worker has taken up a video; -1: none, it writes the shard."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """A shard is final."""

    footer: ShardFooter
    won: bool  # False: another had made it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed:
    """Something that another try would not mend."""

    message: str


_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (CorpusJob, RunFacts, ShardFooter, ShardTask, WorkerReady, VideoBegun, ShardDone, WorkerFailed)
}


def encode_record(record: object) -> bytes:
    """One of the above as one line of JSON."""
    return (json.dumps({type(record).__name__: asdict(record)}, allow_nan=False) + "\n").encode()  # type: ignore[call-overload]


def decode_record(data: bytes, where: str, *kinds: type[_Record]) -> _Record:
    """One of `kinds`; a `BundleError` that names `where` for anything else."""
    try:
        ((name, record),) = json.loads(data).items()
    except (ValueError, AttributeError, RecursionError):
        name, record = "", None
    kind = _KINDS.get(name, kinds[0])
    return read_record(kind, record if kind in kinds else None, where)
