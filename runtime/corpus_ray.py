"""How do the actors of a Ray cluster make the shards of a run? The only file that knows Ray.

Ray is given shards and gives back what they say of themselves: rows are committed by the workers, never by Ray, whose
own sinks write a block again when it is repeated. An actor keeps one worker process, so that a video that takes its
worker with it is found out here as it is on one machine.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

# as Ray is imported: it counts its users unless it is told not to, and a child that dies is no news of ours
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data

from vjepa2.errors import CorpusError

from .corpus_messages import CorpusJob, ShardDone, ShardTask, WorkerFailed, decode_record, encode_record
from .corpus_points import pass_point
from .corpus_process import WorkerProcess

_CONNECT_S = 3.0
_MOST_BLOCKS = 4096  # each is an object of Ray's; a repeated block finds the shards that it had made


class ShardActor:
    """One worker, for as long as Ray keeps the actor."""

    def __init__(self, job: bytes) -> None:
        self._worker = WorkerProcess(decode_record(job, "the job", CorpusJob))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """The answer to each task of a batch."""
        return {"answer": [self._answer(task) for task in batch["task"]]}

    def _answer(self, task: bytes) -> bytes:
        try:
            return encode_record(self._worker.make(decode_record(task, "the shard", ShardTask)))
        except CorpusError as error:  # Ray would try again, and wrap it
            return encode_record(WorkerFailed(message=str(error)))


def run_on_ray(
    job: CorpusJob, tasks: Sequence[ShardTask], *, workers: int, address: str | None, gpus: float
) -> Iterator[ShardDone]:
    """Each shard as it is done, by a pool of `workers` actors with `job.threads` CPUs and `gpus` GPUs each.

    Without an address a cluster is started on this machine, and ended with the run.
    """
    _connect(address, cpus=workers * job.threads, gpus=workers * gpus)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"task": encode_record(task)} for task in tasks]
        answers = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
            ShardActor,
            fn_constructor_args=(encode_record(job),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=job.threads,
            num_gpus=gpus,
        )
        pass_point("shard_handed_out")
        for row in answers.iter_rows():
            answer = decode_record(row["answer"], "an actor's answer", ShardDone, WorkerFailed)
            if isinstance(answer, WorkerFailed):
                raise CorpusError(answer.message)
            assert isinstance(answer, ShardDone)
            yield answer
    finally:
        ray.shutdown()


def _connect(address: str | None, *, cpus: int, gpus: float) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        return
    _refuse_silence(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(f"{address} is not a Ray cluster that can be used: {reason}") from error


def _refuse_silence(address: str) -> None:
    """Find within seconds that nobody listens at an address, which Ray takes a minute for."""
    if address in ("auto", "local"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise CorpusError(f"--address is {address!r}; it must be HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        raise CorpusError(
            f"nobody listens at {address} ({error.strerror or error}); start one with ray start --head"
        ) from error
