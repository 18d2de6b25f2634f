"""What is there to search: which clips of which videos, and are they all that were planned?

Axes: N clips, V videos that have any, D channels.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa2.errors import BundleError, CorpusError
from vjepa2.schema import read_record

from .backends.base import FloatArray
from .corpus_messages import PlannedVideo, RunFacts, ShardFooter
from .corpus_output import SEAL, check_footer, list_shards, name_shard, read_plan, read_run
from .corpus_plan import ClipPolicy
from .corpus_seal import CorpusSeal
from .corpus_store import Store, open_store
from .corpus_table import read_footer, read_shard
from .decode_messages import Status
from .search_index import to_unit

_PLACES = ("clip", "start_s", "end_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVideo:
    """A video that has clips, which are rows `first` to `first + clips`."""

    name: str  # its path, without what all paths begin with
    path: str
    bytes: int | None  # when it was planned
    status: Status
    first: int
    clips: int

    @property
    def rows(self) -> range:
        """Of its clips."""
        return range(self.first, self.first + self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedVideo:
    """A video that has none, and why."""

    name: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCorpus:
    """Places of clips, one a row: only what has an embedding is a row here."""

    output: str
    run: RunFacts
    policy: ClipPolicy
    videos: tuple[FoundVideo, ...]
    rejected: tuple[RejectedVideo, ...]
    video_N: npt.NDArray[np.int64]  # number among `videos`
    start_s_N: npt.NDArray[np.float64]
    end_s_N: npt.NDArray[np.float64]
    line_N: npt.NDArray[np.int64]  # number among all rows of all shards, rejected videos' too
    seal: str | None  # its hash over all rows; None: not sealed
    shards: int
    planned: int  # shards

    @property
    def rows(self) -> int:
        """How many clips there are."""
        return len(self.video_N)


def count_rows(output: str) -> int:
    """How many clips a search would have to look at, by the shards' footers."""
    store = open_store(output)
    return sum(video.clips for shard in list_shards(store) for video in _footer(store, shard).videos)


def read_corpus(
    output: str,
    take: Callable[[FloatArray], None] | None,
    watch: Callable[[list[int]], Iterable[int]] = iter,
) -> SearchCorpus:
    """Read every final shard; `take` is given its embeddings at length 1, and without it they are not read.

    A `CorpusError` unless all shards are of one run and, where there is a seal, those that were sealed. `watch` is
    given the numbers of the shards, and gives them back one by one.
    """
    store = open_store(output)
    plan, run = read_plan(store), read_run(store)
    planned, there = plan.videos_by_shard(), list(list_shards(store))
    if run is None or not there:
        raise CorpusError(f"{store.place} has no finished shard yet; wait for vjepa2 corpus run, or start it")
    reader = _Reader(store, run, take)
    for shard in watch(there):
        if shard >= len(planned):
            raise CorpusError(f"{store.place}/{name_shard(shard)} is not of its plan; remove it")
        reader.add(shard, planned[shard])
    seal = _check_seal(store, run, reader)
    videos = _shorten(reader.videos, reader.rejected)
    return SearchCorpus(
        output=store.place,
        run=run,
        policy=plan.policy,
        videos=videos[0],
        rejected=videos[1],
        video_N=np.repeat(np.arange(len(reader.videos)), [video["clips"] for video in reader.videos]),
        start_s_N=np.concatenate(reader.starts_s),
        end_s_N=np.concatenate(reader.ends_s),
        line_N=np.concatenate(reader.lines),
        seal=seal,
        shards=len(there),
        planned=len(planned),
    )


class _Reader:
    """Shards, put one after another."""

    def __init__(self, store: Store, run: RunFacts, take: Callable[[FloatArray], None] | None) -> None:
        self._store, self._run, self._take = store, run, take
        self.videos: list[dict[str, Any]] = []
        self.rejected: list[tuple[str, str | None]] = []
        self.starts_s: list[npt.NDArray[np.float64]] = []
        self.ends_s: list[npt.NDArray[np.float64]] = []
        self.lines: list[npt.NDArray[np.int64]] = []
        self.digest = hashlib.sha256()
        self._rows, self.all_rows = 0, 0

    def add(self, shard: int, planned: tuple[PlannedVideo, ...]) -> None:
        """Read one; its rows are those of its footer's videos, in their order."""
        name = f"{self._store.place}/{name_shard(shard)}"
        columns = _PLACES if self._take is None else (*_PLACES, "embedding")
        with self._store.open_file(name_shard(shard)) as stream:
            table, footer = read_shard(stream, name, columns)
        check_footer(footer, self._run, self._store)
        there_N = np.array([clip is not None for clip in table["clip"].to_pylist()], bool)
        said_N = [clips > 0 for clips in (video.clips for video in footer.videos) for _ in range(max(clips, 1))]
        numbers = [video.number for video in footer.videos]
        if there_N.tolist() != said_N or footer.shard != shard or numbers != [video.number for video in planned]:
            raise CorpusError(f"{name} has other rows than its plan asks for; vjepa2 corpus seal says more")
        table_of_clips = table.filter(there_N)
        if self._take is not None and table_of_clips.num_rows:
            self._take(to_unit(_vectors(table_of_clips, self._run.dim), name))
        self._keep_videos(planned, footer)
        self.starts_s.append(table_of_clips["start_s"].to_numpy())
        self.ends_s.append(table_of_clips["end_s"].to_numpy())
        self.lines.append(np.flatnonzero(there_N) + self.all_rows)
        self.digest.update(f"{footer.rows_sha256}\n".encode())
        self.all_rows += table.num_rows

    def _keep_videos(self, planned: tuple[PlannedVideo, ...], footer: ShardFooter) -> None:
        for video, outcome in zip(planned, footer.videos, strict=True):
            if not outcome.clips:
                self.rejected.append((video.video, outcome.reason))
                continue
            facts = {"bytes": video.bytes, "status": outcome.status, "first": self._rows, "clips": outcome.clips}
            self.videos.append({"path": video.video, **facts})
            self._rows += outcome.clips


def _vectors(table: Any, dim: int) -> FloatArray:
    flat = table["embedding"].combine_chunks().flatten()
    vectors_ND: FloatArray = flat.to_numpy().reshape(-1, dim)
    return vectors_ND


def _footer(store: Store, shard: int) -> ShardFooter:
    name = name_shard(shard)
    with store.open_file(name) as stream:
        return read_footer(stream, f"{store.place}/{name}")


def _check_seal(store: Store, run: RunFacts, reader: _Reader) -> str | None:
    data = store.read_file(SEAL)
    if data is None:
        return None
    try:
        seal = read_record(CorpusSeal, json.loads(data), f"{store.place}/{SEAL}")
    except (ValueError, BundleError) as error:
        raise CorpusError(f"{store.place}/{SEAL} is no seal ({error!s:.200}); remove it and seal again") from error
    if (seal.run, seal.rows, seal.rows_sha256) != (run, reader.all_rows, reader.digest.hexdigest()):
        raise CorpusError(
            f"{store.place}/{SEAL} says otherwise than the shards; something was changed after it was sealed"
        )
    return seal.rows_sha256


def _shorten(
    videos: list[dict[str, Any]], rejected: list[tuple[str, str | None]]
) -> tuple[tuple[FoundVideo, ...], tuple[RejectedVideo, ...]]:
    """Names without the folder that all of them lie in."""
    paths = [video["path"] for video in videos] + [path for path, _ in rejected]
    folders = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    length = sum(len(names[0]) + 1 for names in takewhile(lambda names: len(set(names)) == 1, folders))
    return (
        tuple(FoundVideo(name=video["path"][length:], **video) for video in videos),
        tuple(RejectedVideo(name=path[length:], reason=reason) for path, reason in rejected),
    )
