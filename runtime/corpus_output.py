"""What lies in the output folder of a corpus run, and does it belong to this plan and this bundle?

`_plan.parquet` and `_run.json` come first, then shards in any order, `_seal.json` last. What readers of a folder of
Parquet take for rows are the shards alone: they leave out names that begin with an underscore.
"""

import re
from dataclasses import asdict

from vjepa2.errors import BundleError, CorpusError

from .corpus_messages import RunFacts, ShardFooter, decode_record, encode_record
from .corpus_plan import Plan
from .corpus_store import Store, StoredFile
from .corpus_table import read_footer

PLAN, RUN, SEAL = "_plan.parquet", "_run.json", "_seal.json"
_SHARD = re.compile(r"shard-(\d{6,})\.parquet")


def name_shard(shard: int) -> str:
    """The file of a shard."""
    return f"shard-{shard:06d}.parquet"


def list_shards(store: Store) -> dict[int, StoredFile]:
    """Every final shard by its number."""
    found = {int(match[1]): file for file in store.list_files() if (match := _SHARD.fullmatch(file.name))}
    return dict(sorted(found.items()))


def find_footer(store: Store, shard: int) -> ShardFooter | None:
    """What a final shard says of itself; None if it is not final."""
    name = name_shard(shard)
    try:
        with store.open_file(name) as stream:
            return read_footer(stream, f"{store.place}/{name}")
    except FileNotFoundError:
        return None


def check_footer(footer: ShardFooter, run: RunFacts, store: Store) -> None:
    """Raise a `CorpusError` unless a shard was made by the run that the folder is of."""
    if footer.run != run:
        name = f"{store.place}/{name_shard(footer.shard)}"
        raise CorpusError(f"{name} was made otherwise: {_differences(footer.run, run)}; give another output folder")


def read_plan(store: Store) -> Plan:
    """The plan that the folder is filled by."""
    try:
        with store.open_file(PLAN) as stream:
            return Plan.read(stream, f"{store.place}/{PLAN}")
    except FileNotFoundError:
        raise CorpusError(f"{store.place} has no {PLAN}; it is not the output of vjepa2 corpus run") from None


def read_run(store: Store) -> RunFacts | None:
    """What the folder's rows are made by; None before the first worker had its model."""
    data = store.read_file(RUN)
    if data is None:
        return None
    try:
        return decode_record(data, f"{store.place}/{RUN}", RunFacts)
    except BundleError as error:
        raise CorpusError(f"{error}; it was changed: give another output folder") from error


def claim_run(store: Store, run: RunFacts) -> None:
    """Say what the folder's rows are made by, or find that it was said and is the same; else a `CorpusError`."""
    if store.put_new(RUN, encode_record(run)):
        return
    held = read_run(store)
    if held is not None and held != run:
        raise CorpusError(
            f"{store.place} holds rows that were made otherwise: {_differences(held, run)}; "
            "give another output folder, or run as before"
        )


def _differences(held: RunFacts, now: RunFacts) -> str:
    left, right = asdict(held), asdict(now)
    return ", ".join(f"{name} {left[name]} and not {right[name]}" for name in left if left[name] != right[name])
