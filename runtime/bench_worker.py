"""How does a row run in a process of its own: a line of JSON asks, a line of JSON answers.

A fresh process tells what a start costs and how much memory one row takes, and nothing of another row is in its way.
Whatever a library prints goes to standard error; standard output is the answers' alone.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any, TypeVar

from vjepa2.errors import BackendError, Vjepa2Error
from vjepa2.schema import read_record

from .bench_row import Finished, Opened, RowRequest
from .bench_subject import LocalSubject
from .query_timer import Turn

# the clock counts from the machine's start, so that it can be compared between processes
_SCRIPT = """
import time; started_s = time.monotonic()
import json, sys; sys.path[:] = json.loads(sys.argv[1])
from vjepa2.runtime.bench_worker import serve
serve(sys.argv[2], float(sys.argv[3]), started_s)
"""
_Answer = TypeVar("_Answer", Opened, Turn, Finished)


class WorkerSubject:
    """A row in a process of its own, which starts when it is opened."""

    def __init__(self, request: RowRequest) -> None:
        self._request, self._process = request, None  # type: RowRequest, subprocess.Popen[str] | None

    @property
    def session(self) -> int | None:
        """See `Subject.session`."""
        return None if self._process is None else self._process.pid

    def open(self) -> Opened:
        """See `Subject.open`."""
        words = (json.dumps(sys.path), json.dumps(asdict(self._request)), repr(time.monotonic()))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is this process's to handle, and its children's time is to be told apart
        )
        return self._ask(Opened, {"do": "open"})

    def turn(self, calls: int) -> Turn:
        """See `Subject.turn`."""
        return self._ask(Turn, {"do": "turn", "calls": calls})

    def finish(self) -> Finished:
        """See `Subject.finish`."""
        return self._ask(Finished, {"do": "finish"})

    def close(self) -> None:
        """End the process, in the middle of a call too if need be. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def __enter__(self) -> "WorkerSubject":
        """The row itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _ask(self, kind: type[_Answer], request: dict[str, Any]) -> _Answer:
        process, name = self._process, self._request.backend
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # what is read next tells it
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            raise BackendError(f"the process that ran {name} ended with exit status {status}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise BackendError(answer["failure"])
        return read_record(kind, answer, f"what {name} answered")


def serve(request: str, spawned_s: float, started_s: float) -> None:
    """Answer for the row that `request` describes until the asker closes; a failure is an answer, too."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    row = read_record(RowRequest, json.loads(request), "the row")
    # perf_counter and monotonic are one clock where this runs
    subject = LocalSubject(row, process_ms=1e3 * (started_s - spawned_s), started_s=started_s, clock=time.monotonic)
    try:
        for line in sys.stdin:
            _say(answers, _answer(subject, json.loads(line)))
    finally:
        subject.close()


def _answer(subject: LocalSubject, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if asked["do"] == "open":
            return asdict(subject.open())
        return asdict(subject.turn(asked["calls"]) if asked["do"] == "turn" else subject.finish())
    except Vjepa2Error as error:
        return {"failure": str(error)}
    except Exception as error:  # of any library: told, not hidden
        first = (str(error).strip().splitlines() or [""])[0]
        return {"failure": f"{type(error).__name__}: {first}"}


def _say(stream: IO[str], answer: dict[str, Any]) -> None:
    try:
        line = json.dumps(answer, allow_nan=False)
    except ValueError:
        line = json.dumps({"failure": "its figures are not finite numbers"})
    stream.write(line + "\n")
    stream.flush()
