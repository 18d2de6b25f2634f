"""How does a plan become an output folder: what is already there, what is left, and who makes it?"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vjepa2.bundle import Bundle
from vjepa2.errors import CorpusError
from vjepa2.extras import import_with_extra
from vjepa2.manifest import hash_manifest

from .backends.placement import Executed
from .corpus_local import run_local
from .corpus_messages import CorpusJob, RunFacts, ShardDone, ShardFooter, ShardTask
from .corpus_output import PLAN, check_footer, find_footer, list_shards, read_plan, read_run
from .corpus_plan import Plan
from .corpus_points import pass_point
from .corpus_store import Store, open_store
from .decode_messages import Status

Executor = Callable[[CorpusJob, Sequence[ShardTask]], Iterator[ShardDone]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a person wants a plan to be run; None: as the folder was begun, or what is usual."""

    workers: int = 1
    backend: str = "auto"
    device: str | None = None
    precision: Executed | None = None
    allow: tuple[str, ...] = ()
    threads: int | None = None  # of each worker; None: the cores, shared out
    batch_size: int | None = None  # clips a call; None: 1


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a run is."""

    shards: int
    clips: int  # expected of all videos
    done: int = 0  # shards
    clips_done: int = 0  # expected of the videos of the shards that are done
    found: int = 0  # shards that were there before
    lost: int = 0  # shards that another made at the same time
    rows: int = 0
    videos: dict[Status, int] = field(default_factory=lambda: {"ok": 0, "partial": 0, "rejected": 0})

    def add(self, footer: ShardFooter, clips: int) -> None:
        """Count a shard that is final and was expected to have so many clips."""
        self.done, self.rows, self.clips_done = self.done + 1, self.rows + footer.rows, self.clips_done + clips
        for video in footer.videos:
            self.videos[video.status] += 1


def run_corpus(
    plan: Plan, bundle: str | Path, output: str, settings: RunSettings, execute: Executor | None = None
) -> Iterator[Tally]:
    """Make every shard that is not there yet; the same `Tally`, as it grows, after each.

    `execute` takes a job and its tasks and gives each shard as it is done; a pool of this machine's processes does it
    by default. Killed at any moment, the same call goes on where it was.
    """
    pass_point("plan_read")
    store = open_store(output)
    opened = Bundle.open(bundle)
    _check_frames(plan, opened)
    _keep_plan(store, plan)
    store.sweep()
    run = read_run(store)
    job = _make_job(plan, opened, store, settings, run)
    shards = plan.videos_by_shard()
    tally = Tally(shards=len(shards), clips=plan.clips)
    for shard in list_shards(store):
        footer = find_footer(store, shard)
        if run is None or footer is None or shard >= len(shards):
            raise CorpusError(f"{store.place} has a shard {shard} that is not of this run; give another output folder")
        check_footer(footer, run, store)
        tally.add(footer, _count(shards[shard]))
        tally.found += 1
        shards[shard] = ()
    pass_point("shards_listed")
    yield tally
    tasks = [ShardTask(shard=number, videos=videos, refused={}) for number, videos in enumerate(shards) if videos]
    execute = execute or partial(run_local, workers=settings.workers)
    try:
        for done in execute(job, tasks) if tasks else ():
            pass_point("shard_counted")
            tally.add(done.footer, _count(shards[done.footer.shard]))
            tally.lost += not done.won
            yield tally
        pass_point("all_shards_done")
    finally:
        store.sweep()


def choose_executor(name: str, settings: RunSettings, address: str | None, gpus: float) -> Executor:
    """What `--on` says: this machine's processes, or Ray's actors."""
    if name == "local":
        if address is not None or gpus:
            raise CorpusError(f"--on is local, and --address {address} and --gpus {gpus:g} are Ray's; take --on ray")
        return partial(run_local, workers=settings.workers)
    module = import_with_extra("vjepa2.runtime.corpus_ray", "ray")
    executor: Executor = partial(module.run_on_ray, workers=settings.workers, address=address, gpus=gpus)
    return executor


def _check_frames(plan: Plan, bundle: Bundle) -> None:
    frames = bundle.manifest.frames_shape[0]
    if plan.policy.frames not in (None, frames):
        raise CorpusError(
            f"the plan is for clips of {plan.policy.frames} frames, and {bundle.path} takes {frames}; "
            f"plan with --frames {frames}"
        )


def _keep_plan(store: Store, plan: Plan) -> None:
    """Lay the plan beside its shards, or find that it lies there."""
    stream = io.BytesIO()
    plan.write(stream)
    if not store.put_new(PLAN, stream.getvalue()):
        held = read_plan(store)
        if held.id != plan.id:
            raise CorpusError(
                f"{store.place} is of plan {held.id:.12}, and this is {plan.id:.12}; give another output folder"
            )
    pass_point("plan_kept")


def _make_job(plan: Plan, bundle: Bundle, store: Store, settings: RunSettings, run: RunFacts | None) -> CorpusJob:
    """What a worker must know; what was not asked for is as the folder was begun."""
    found = hash_manifest(bundle.manifest)
    if run is not None and run.bundle != found:
        raise CorpusError(
            f"{store.place} is of bundle {run.bundle:.12}, and {bundle.path} is {found:.12}; give another output folder"
        )
    begun = run if run is not None and settings.backend == "auto" else None
    return CorpusJob(
        plan=plan.id,
        bundle=str(bundle.path.absolute()),
        bundle_sha256=found,
        output=store.place,
        backend=begun.backend if begun else settings.backend,
        device=settings.device or (begun.device if begun else None),
        precision=settings.precision or (begun.precision if begun else None),
        allow=settings.allow,
        threads=settings.threads or (run.threads if run else max(1, (os.cpu_count() or 1) // settings.workers)),
        batch_size=settings.batch_size or (run.batch_size if run else 1),
        sampling=plan.policy.sampling,
        pad=plan.policy.pad,
    )


def _count(videos: Sequence[object]) -> int:
    return sum(video.clips for video in videos)  # type: ignore[attr-defined]
