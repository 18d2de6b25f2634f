"""The process that makes shards: one after another, until its parent is gone or has no more.

It is started by `runtime.corpus_process`, is told its job and then each shard by a line of JSON, and answers in lines.
"""

import socket

from vjepa2.errors import Vjepa2Error

from .corpus_messages import (
    CorpusJob,
    ShardTask,
    VideoBegun,
    WorkerFailed,
    WorkerReady,
    decode_record,
    encode_record,
)
from .corpus_shard import ShardMaker
from .decode_worker import die_with


def run_worker(channel: int, lifeline: int) -> None:
    """Serve the parent at the other end of `channel`; when it closes `lifeline`, however it ends, so does this."""
    die_with(lifeline)
    with socket.socket(fileno=channel) as parent, parent.makefile("rb") as lines:
        job = decode_record(lines.readline(), "the job", CorpusJob)
        try:
            with ShardMaker(job) as maker:
                parent.sendall(encode_record(WorkerReady(run=maker.run)))
                for line in lines:
                    task = decode_record(line, "the shard", ShardTask)
                    done = maker.make(task, lambda number: parent.sendall(encode_record(VideoBegun(number=number))))
                    parent.sendall(encode_record(done))
        except Vjepa2Error as error:
            parent.sendall(encode_record(WorkerFailed(message=str(error))))
