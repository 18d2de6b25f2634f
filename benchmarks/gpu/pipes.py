"""How do processes take turns on one GPU, a variant in each: a line of JSON asks, a line of JSON answers.

Whatever a library prints goes to standard error; standard output is the answers' alone.
"""

import json
import os
import select
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from .steps import CaseLog, end_group, explain_status, has_ended, start_process, wait_for

_CLOSING_S = 20.0  # for a process to let go of the GPU by itself
_POLL_S = 1.0
_TOLD_LINES, _TOLD_LENGTH = 3, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some calls of one variant, one after the other."""

    gpu_ms: tuple[float, ...]  # between CUDA's events, inputs on the GPU; empty where they cannot be set
    wall_ms: tuple[float, ...]  # frames in numpy to embedding in numpy


class Variant(Protocol):
    """One way to run the model."""

    def describe(self) -> dict[str, Any]:
        """How right it is, and how much memory it takes."""

    def run(self, calls: int) -> Block:
        """Time that many calls."""


def serve(make: Callable[[], Variant]) -> None:
    """Answer requests until the asker closes; a variant's failure is an answer, too."""
    answers, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    variant = make()
    for line in requests:
        request = json.loads(line)
        try:
            answer = asdict(variant.run(request["calls"])) if "calls" in request else variant.describe()
        except Exception as error:  # of any library: told, not hidden
            traceback.print_exc()
            answer = {"failure": _tell(error)}
        _say(answers, answer)


def _tell(error: Exception) -> str:
    """Its kind and its first lines: of several that torch.compile gives, the first says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:_TOLD_LINES])}"[:_TOLD_LENGTH]


def _say(stream: IO[str], answer: dict[str, Any]) -> None:
    try:
        line = json.dumps(answer, allow_nan=False)
    except ValueError:
        line = json.dumps({"failure": f"it gives numbers that are not finite: {answer}"[:_TOLD_LENGTH]})
    except TypeError as error:
        line = json.dumps({"failure": f"it gives what JSON has no word for ({error}): {answer}"[:_TOLD_LENGTH]})
    stream.write(line + "\n")
    stream.flush()


class VariantError(Exception):
    """A variant that did not run, or whose process ended."""


class Worker:
    """A process that holds one variant on the GPU, until it is closed."""

    def __init__(self, command: Sequence[str], log: CaseLog) -> None:
        self._log = log
        log.begin(" ".join(command))
        self._process = start_process(command, log, keeps_output=False)
        self._heard = b""

    def describe(self, seconds: float) -> dict[str, Any]:
        """See `Variant.describe`; a `VariantError` if it does not run, or takes more than `seconds`."""
        return self._ask({}, seconds)

    def run(self, calls: int, seconds: float) -> Block:
        """See `Variant.run`; a `VariantError` if it does not run, or takes more than `seconds`."""
        answer = self._ask({"calls": calls}, seconds)
        return Block(gpu_ms=tuple(answer["gpu_ms"]), wall_ms=tuple(answer["wall_ms"]))

    def close(self) -> None:
        """Let it end, and free the GPU; what does not end is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.returncode is None:
            self._process.stdin.close()
            wait_for(self._process, _CLOSING_S)
            end_group(self._process)
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        """The worker itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; whoever interrupts does not wait."""
        if kind is not None:
            end_group(self._process)
        self.close()

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self._process.returncode is not None:
            raise VariantError(f"its process {explain_status(self._process.returncode)} before")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what is read next tells it
            self._process.stdin.write(f"{json.dumps(request)}\n".encode())
        answer: dict[str, Any] = json.loads(self._read(seconds))
        if "failure" in answer:
            raise VariantError(answer["failure"])
        return answer

    def _read(self, seconds: float) -> bytes:
        """The next line; without one in that time the process is ended."""
        end_s = time.monotonic() + seconds
        while b"\n" not in self._heard:
            said = self._listen()
            if said == b"":
                wait_for(self._process, _CLOSING_S)
                raise VariantError(f"its process {explain_status(end_group(self._process))}: {self._log.last()}")
            if said is None and time.monotonic() > end_s:
                end_group(self._process)
                raise VariantError(f"it gave no answer within {max(seconds, 0):.0f} s and was ended")
            self._heard += said or b""
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _listen(self) -> bytes | None:
        """What was said; nothing more will be if it is empty, nothing was yet if it is None."""
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        ended = has_ended(self._process)
        if select.select([stream], [], [], 0 if ended else _POLL_S)[0]:
            return os.read(stream, 1 << 16)
        return b"" if ended else None
