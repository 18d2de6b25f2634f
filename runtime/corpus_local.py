"""How do the workers of this machine make the shards of a run?"""

import queue
import threading
from collections.abc import Iterator, Sequence

from .corpus_messages import CorpusJob, ShardDone, ShardTask
from .corpus_points import pass_point
from .corpus_process import WorkerProcess


def run_local(job: CorpusJob, tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardDone]:
    """Each shard as it is done, by as many processes as `workers`. Left early, or after an error, they are ended."""
    todo: queue.SimpleQueue[ShardTask] = queue.SimpleQueue()
    done: queue.SimpleQueue[ShardDone | BaseException] = queue.SimpleQueue()
    for task in tasks:
        todo.put(task)
    pool = [WorkerProcess(job) for _ in range(min(workers, len(tasks)))]
    threads = [threading.Thread(target=_serve, args=(worker, todo, done), daemon=True) for worker in pool]
    for thread in threads:
        thread.start()
    try:
        for _ in tasks:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for worker in pool:
            worker.kill()
        for thread in threads:
            thread.join()


def _serve(
    worker: WorkerProcess,
    todo: "queue.SimpleQueue[ShardTask]",
    done: "queue.SimpleQueue[ShardDone | BaseException]",
) -> None:
    with worker:
        try:
            while True:
                task = todo.get_nowait()
                pass_point("shard_handed_out")
                done.put(worker.make(task))
        except queue.Empty:
            return
        except BaseException as error:  # whatever it is, the one who waits is told
            done.put(error)
