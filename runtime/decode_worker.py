"""The process that decodes: one video or live source after another, until its parent is gone or kills it.

It is started by `runtime.decode_process` and takes jobs from a socket: a video's descriptor, and shared memory to lay
clips or frames into. A video that ends it ends nothing else; there is no filter of its system calls.
"""

import ctypes
import fcntl
import gc
import mmap
import os
import resource
import select
import socket
from pathlib import Path

from vjepa2.errors import MissingDependencyError
from vjepa2.extras import import_with_extra

from .decode_messages import MESSAGE_BYTES, DecodeLimits, Finished, Free, Job, Ready, decode_message, encode_message
from .stream_messages import Ended, FollowJob

_NO_NEW_PRIVILEGES = 38


def run_worker(channel: int, lifeline: int) -> None:
    """Serve the parent at the other end of `channel`; when it closes `lifeline`, however it ends, so does this."""
    die_with(lifeline)
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    os.set_blocking(2, False)  # what FFmpeg has to say may be lost, and must not stop it
    with socket.socket(fileno=channel) as parent:
        try:
            decode = import_with_extra("vjepa2.runtime.decode_video", "video").decode_video
            follow = import_with_extra("vjepa2.runtime.decode_stream", "video").follow_stream
        except MissingDependencyError as error:
            parent.send(encode_message(Ready(missing=str(error))))
            return
        parent.send(encode_message(Ready()))
        gc.freeze()  # what lives as long as this process need not be looked at again
        while True:
            data, files, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, 2)
            if not data:
                return
            job = decode_message(data, Job, FollowJob, Free)
            if not isinstance(job, (Job, FollowJob)):  # a slot of the video before is free
                continue
            _limit_process(job.limits)
            result = decode(parent, job, *files) if isinstance(job, Job) else follow(parent, job, *files)
            gc.collect()  # in PyAV a frame whose rotation was asked for refers to itself, and would stay
            retire = _has_grown(job.limits)
            if isinstance(job, Job):
                parent.send(encode_message(Finished(report=result, retire=retire)))
            else:
                parent.send(encode_message(Ended(why=result, retire=retire)))


def die_with(lifeline: int) -> None:
    """Ask the kernel for a signal, deadly by default, when the parent's end of a pipe is closed."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([lifeline], [], [], 0)[0]:
        raise SystemExit("the parent is gone")


def _limit_process(limits: DecodeLimits) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _has_grown(limits: DecodeLimits) -> bool:
    address_space = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
    return address_space > limits.memory_bytes // 2
