"""How do two interpreters take turns on one GPU: a line of JSON asks, a line of JSON answers.

Whatever a library prints goes to standard error; standard output is the answers' alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from .interpreters import ROOT, GpuBenchmarkError


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


def serve(make: Callable[[], Mapping[str, Variant]]) -> None:
    """Answer requests until the asker closes; a variant's failure is an answer, too."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    variants = make()
    _say(answers, {"variants": list(variants)})
    for line in sys.stdin:
        request = json.loads(line)
        variant = variants[request["variant"]]
        try:
            answer = asdict(variant.run(request["calls"])) if "calls" in request else variant.describe()
        except Exception as error:  # of any library: told, not hidden
            answer = {"failure": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        _say(answers, answer)


def _say(stream: IO[str], answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


class VariantError(Exception):
    """A variant that did not run."""


class WorkerError(GpuBenchmarkError):
    """An interpreter that ended before it was let."""


class Worker:
    """An interpreter that holds variants of one case on the GPU, until it is closed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.variants: tuple[str, ...] = tuple(self._read()["variants"])

    def describe(self, variant: str) -> dict[str, Any]:
        """See `Variant.describe`; a `VariantError` if it does not run."""
        return self._ask({"variant": variant})

    def run(self, variant: str, calls: int) -> Block:
        """See `Variant.run`; a `VariantError` if it does not run."""
        answer = self._ask({"variant": variant, "calls": calls})
        return Block(gpu_ms=tuple(answer["gpu_ms"]), wall_ms=tuple(answer["wall_ms"]))

    def close(self) -> None:
        """Let it end, and free the GPU."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> "Worker":
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what is read next tells it
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._read()
        if "failure" in answer:
            raise VariantError(answer["failure"])
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise WorkerError(f"a worker ended with exit status {self._process.returncode}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer
