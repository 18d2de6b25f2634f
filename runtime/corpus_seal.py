"""Is an output folder all that its plan asked for, once, and what is the hash of it?"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from vjepa2.errors import CorpusError

from .corpus_messages import PlannedVideo, RunFacts, ShardFooter
from .corpus_output import SEAL, check_footer, list_shards, name_shard, read_plan, read_run
from .corpus_points import pass_point
from .corpus_run import Tally
from .corpus_store import Store, open_store
from .corpus_table import hash_rows, read_shard
from .decode_messages import Status

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSeal:
    """The summary of a finished corpus: the same for the same rows, whenever and by whomever they were made."""

    schema: int
    run: RunFacts
    shards: int
    rows: int
    videos: dict[Status, int]
    rows_sha256: str  # over the shards' own, in their order


def seal_corpus(output: str, watch: Callable[[range], Iterable[int]] = iter) -> CorpusSeal:
    """Read every row, and write `_seal.json`; a `CorpusError` if a row is missing, doubled, foreign or changed.

    `watch` is given the numbers of the shards, and gives them back one by one.
    """
    store = open_store(output)
    plan, run = read_plan(store), read_run(store)
    shards = plan.videos_by_shard()
    missing = [shard for shard in range(len(shards)) if shard not in (files := list_shards(store))]
    if run is None or missing:
        raise CorpusError(
            f"{store.place} lacks {len(missing)} of {len(shards)} shards, the first "
            f"{name_shard(min(missing, default=0))}; finish it with vjepa2 corpus run"
        )
    known = {name_shard(shard) for shard in range(len(shards))}
    strange = [file.name for file in store.list_files() if file.name not in known and not file.name.startswith("_")]
    if strange or len(files) != len(shards):
        raise CorpusError(f"{store.place} holds {strange}, which the plan does not ask for; remove it")
    tally, digest = Tally(shards=len(shards), clips=plan.clips), hashlib.sha256()
    for shard in watch(range(len(shards))):
        footer = _verify(store, shard, shards[shard], run)
        tally.add(footer, 0)
        digest.update(f"{footer.rows_sha256}\n".encode())
    pass_point("shards_verified")
    seal = CorpusSeal(
        schema=SCHEMA, run=run, shards=len(shards), rows=tally.rows, videos=tally.videos, rows_sha256=digest.hexdigest()
    )
    data = (json.dumps(asdict(seal), indent=1) + "\n").encode()
    if not store.put_new(SEAL, data) and store.read_file(SEAL) != data:
        raise CorpusError(
            f"{store.place}/{SEAL} says otherwise than the shards; something was changed after it was sealed"
        )
    return seal


def _verify(store: Store, shard: int, videos: tuple[PlannedVideo, ...], run: RunFacts) -> ShardFooter:
    """Hold a shard's rows to its footer, and both to the plan."""
    name = f"{store.place}/{name_shard(shard)}"
    with store.open_file(name_shard(shard)) as stream:
        table, footer = read_shard(stream, name)
    check_footer(footer, run, store)
    wanted: list[tuple[str, int | None]] = []
    for video, outcome in zip(videos, footer.videos, strict=False):
        wanted += [(video.video, clip) for clip in range(outcome.clips)] or [(video.video, None)]
    there = list(zip(table["video"].to_pylist(), table["clip"].to_pylist(), strict=True))
    numbers = [outcome.number for outcome in footer.videos]
    if footer.shard != shard or numbers != [video.number for video in videos] or there != wanted:
        raise CorpusError(f"{name} has other rows than the plan asks for; remove it and run again")
    if footer.rows != table.num_rows or footer.rows_sha256 != hash_rows(table):
        raise CorpusError(f"{name} was changed after it was written (rows_sha256 differs); remove it and run again")
    return footer
