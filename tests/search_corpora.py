"""Which corpora do the tests of search look at: real videos, or any number of rows, without a model?"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vjepa2.runtime.backends.base import FloatArray
from vjepa2.runtime.corpus_messages import PlannedVideo, RunFacts, ShardFooter, VideoOutcome, encode_record
from vjepa2.runtime.corpus_output import PLAN, RUN, name_shard
from vjepa2.runtime.corpus_plan import ClipPolicy, Plan
from vjepa2.runtime.corpus_seal import seal_corpus
from vjepa2.runtime.corpus_store import open_store
from vjepa2.runtime.corpus_table import CorpusRow, build_table, encode_shard, hash_rows
from vjepa2.runtime.corpus_videos import identify_video
from vjepa2.runtime.decode_messages import Status

FRAMES = 4  # of a clip


def write_corpus(
    output: Path,
    videos: Sequence[str],
    vectors: Sequence[FloatArray],
    *,
    sampling: str = f"window:{FRAMES}",
    clips_per_shard: int = 512,
    seal: bool = True,
    shards: int | None = None,
    clip_s: float = 0.5,
) -> Path:
    """An output folder with `vectors` `[clips, D]` of each of `videos`, which need not be there.

    A video without clips is rejected. `shards` is how many of them are written.
    """
    policy = ClipPolicy(sampling=sampling, pad="none", frames=FRAMES, clips_per_shard=clips_per_shard)
    plan = Plan.make(policy, [_plan(*each) for each in enumerate(zip(videos, map(len, vectors), strict=True))])
    dim = next(each.shape[1] for each in vectors if len(each))
    run = RunFacts(
        plan=plan.id, bundle="b" * 64, model="tiny", backend="onnxruntime", precision="fp32", device="cpu", threads=1,
        batch_size=1, dim=dim,
    )  # fmt: skip
    store, stream = open_store(str(output)), io.BytesIO()
    plan.write(stream)
    assert store.put_new(PLAN, stream.getvalue())
    assert store.put_new(RUN, encode_record(run))
    for shard, members in enumerate(plan.videos_by_shard()[:shards]):
        store.put_new(name_shard(shard), _encode(shard, members, vectors, run, clip_s))
    if seal:
        seal_corpus(str(output))
    return output


def draw_vectors(seed: int, clips: int, dim: int = 16) -> FloatArray:
    """Rows of any length, all directions alike."""
    return np.random.default_rng(seed).standard_normal((clips, dim)).astype(np.float32)


def _plan(number: int, video: tuple[str, int]) -> PlannedVideo:
    path, clips = video
    size, version, problem = identify_video(path)
    return PlannedVideo(number=number, video=path, bytes=size, version=version, problem=problem, clips=max(clips, 1))


def _encode(
    shard: int, members: Sequence[PlannedVideo], vectors: Sequence[FloatArray], run: RunFacts, clip_s: float
) -> bytes:
    rows: list[CorpusRow] = []
    outcomes = []
    for member in members:
        mine = vectors[member.number]
        status: Status = "ok" if len(mine) else "rejected"
        reason = None if len(mine) else "it is <b>no</b> video"
        for clip, vector_D in enumerate([*mine] or [None]):
            there = vector_D is not None
            rows.append(
                CorpusRow(
                    video=member.video,
                    clip=clip if there else None,
                    start_s=clip * clip_s if there else None,
                    end_s=(clip + 1) * clip_s if there else None,
                    status=status,
                    reason=reason,
                    embedding_D=vector_D,
                )
            )
        outcomes.append(VideoOutcome(number=member.number, status=status, clips=len(mine), reason=reason))
    table = build_table(rows, run)
    footer = ShardFooter(
        run=run, shard=shard, device="cpu", rows=len(rows), rows_sha256=hash_rows(table), videos=tuple(outcomes)
    )
    return encode_shard(table, footer)
