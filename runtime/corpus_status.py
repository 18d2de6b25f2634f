"""How far is a corpus run, as its output folder tells anyone who may read it?"""

import time
from dataclasses import dataclass

from vjepa2.errors import CorpusError

from .corpus_messages import RunFacts
from .corpus_output import SEAL, find_footer, list_shards, read_plan, read_run
from .corpus_run import Tally
from .corpus_store import StoredFile, open_store

_RECENT = 32  # shards that the rate is taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusStatus:
    """What is final, and at which rate it became so."""

    output: str
    plan: str
    run: RunFacts | None  # None: no worker has had its model yet
    tally: Tally
    clips_per_s: float | None  # over the last shards; None of fewer than three
    left_s: float | None  # at that rate; 0 if nothing is left
    last_s: float | None  # since the last shard became final
    sealed: bool


def read_status(output: str) -> CorpusStatus:
    """Read every footer of a folder, which nobody need be writing to."""
    store = open_store(output)
    plan = read_plan(store)
    files = list_shards(store)
    tally = Tally(shards=plan.shards, clips=plan.clips)
    clips = [sum(video.clips for video in videos) for videos in plan.videos_by_shard()]
    if strangers := sorted(set(files) - set(range(plan.shards))):
        raise CorpusError(
            f"{store.place} has shard {strangers[0]}, and its plan has {plan.shards}, numbered from 0; "
            "move what is not of this corpus elsewhere"
        )
    for shard in files:
        if (footer := find_footer(store, shard)) is not None:
            tally.add(footer, clips[shard])
    rate = _find_rate(files, clips)
    left = tally.clips - tally.clips_done
    return CorpusStatus(
        output=store.place,
        plan=plan.id,
        run=read_run(store),
        tally=tally,
        clips_per_s=rate,
        left_s=left / rate if rate else 0.0 if not left else None,
        last_s=max(0.0, time.time() - max(file.written_s for file in files.values())) if files else None,
        sealed=store.read_file(SEAL) is not None,
    )


def _find_rate(files: dict[int, StoredFile], clips: list[int]) -> float | None:
    recent = sorted((file.written_s, clips[shard]) for shard, file in files.items())[-_RECENT:]
    lasted_s = recent[-1][0] - recent[0][0] if len(recent) > 2 else 0.0
    return sum(count for _, count in recent[1:]) / lasted_s if lasted_s > 0 else None
