"""How is a worker started, given shards, and what if it dies: which video is to blame, and is it tried again?"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

from vjepa2.errors import CorpusError

from .corpus_messages import (
    CorpusJob,
    ShardDone,
    ShardTask,
    VideoBegun,
    WorkerFailed,
    WorkerReady,
    decode_record,
    encode_record,
)
from .corpus_points import pass_point

DEATHS = 2  # at one video, before it is refused
_OTHER_DEATHS = 4  # while it starts or writes, at one shard, before the run is stopped: these are not a video's fault
_SUSPECT = 3  # videos of one shard at each of which the worker died so often: it is not the videos
_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vjepa2.runtime.corpus_worker import run_worker
run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""


class _DeathError(Exception):
    """A worker died."""


class WorkerProcess:
    """A process with a model, replaced when it dies. Not for two threads at once, but for `kill`."""

    def __init__(self, job: CorpusJob) -> None:
        self._job = job
        self._channel: socket.socket | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._at = -1  # the number of the video that it has taken up; -1: none

    def make(self, task: ShardTask) -> ShardDone:
        """Have a shard made. A worker that dies is replaced and begins it again.

        A video at which it died twice is refused, and becomes a row with its reason. A `CorpusError` if it dies
        otherwise, or says that it cannot.
        """
        deaths: dict[int, int] = {}
        while True:
            try:
                return self._make(task)
            except _DeathError as death:
                if self._closed:
                    raise CorpusError("the run was stopped") from None
                at = self._at
                deaths[at] = deaths.get(at, 0) + 1
                if deaths[at] < (_OTHER_DEATHS if at < 0 else DEATHS):
                    continue
                if at < 0 or str(at) in task.refused or len(task.refused) + 1 >= _SUSPECT:
                    raise CorpusError(f"shard {task.shard} cannot be made: {death}, again and again") from None
                task = replace(task, refused=task.refused | {str(at): f"{death}, twice at this video"})

    def kill(self) -> None:
        """End the worker at once, for good; from any thread."""
        with self._lock:
            self._closed = True
            if self._channel is not None:
                self._process.kill()

    def close(self) -> None:
        """End the worker and free what it held. Safe to call twice."""
        self.kill()
        self._bury()

    def __enter__(self) -> "WorkerProcess":
        """The worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _make(self, task: ShardTask) -> ShardDone:
        self._at = -1
        if self._channel is None:
            self._start()
        self._send(task)
        while True:
            message = self._receive(VideoBegun, ShardDone, WorkerFailed)
            if isinstance(message, ShardDone):
                return message
            assert isinstance(message, VideoBegun)
            self._at = message.number

    def _start(self) -> None:
        channel, theirs = socket.socketpair()
        lifeline, mine = os.pipe()
        paths = json.dumps([path or os.getcwd() for path in sys.path])  # noqa: PTH109
        words = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe would fill up, and stop it)
        with self._lock:
            if self._closed:
                raise CorpusError("the run was stopped")
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT, paths, str(theirs.fileno()), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,
            )
            self._channel, self._lifeline, self._words = channel, mine, words
        theirs.close()
        os.close(lifeline)
        self._lines = channel.makefile("rb")
        pass_point("worker_started")
        self._send(self._job)
        self._receive(WorkerReady, WorkerFailed)

    def _send(self, message: object) -> None:
        assert self._channel is not None
        try:
            self._channel.sendall(encode_record(message))
        except OSError:
            raise self._explain_death() from None

    def _receive(self, *kinds: type) -> object:
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise self._explain_death()
        message: object = decode_record(line, "a worker's answer", *kinds)
        if isinstance(message, WorkerFailed):
            raise CorpusError(message.message)
        return message

    def _explain_death(self) -> _DeathError:
        self._lines.close()
        code = self._process.wait()
        self._words.seek(0)
        words = self._words.read()[-(1 << 16) :].decode(errors="replace").strip().splitlines()
        self._bury()
        if code < 0:
            return _DeathError(f"its worker was killed by {signal.Signals(-code).name}")
        return _DeathError(f"its worker ended with exit status {code} ({words[-1] if words else 'it said nothing'})")

    def _bury(self) -> None:
        with self._lock:
            if self._channel is None:
                return
            channel, self._channel = self._channel, None
        with suppress(OSError):
            self._lines.close()
        channel.close()
        os.close(self._lifeline)
        self._process.wait()
        self._words.close()
