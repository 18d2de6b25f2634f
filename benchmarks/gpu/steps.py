"""How does a command run so that nothing of it is lost: no input, its words in a file, an end by the clock?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .interpreters import ROOT

_POLL_S = 0.1
_GRACE_S = 5.0  # after Ctrl-C, for what is half-written to be taken away
_TAIL = 30  # lines
_FATAL = "Fatal Python error"  # begins what a crash tells
# words are in the file when a process is killed, a crash inside a library tells where Python stood, lines stay whole
_TELLING = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "200"}

Process = subprocess.Popen[bytes]


class CaseLog:
    """The file of all that the commands of one case say, one after the other."""

    def __init__(self, path: Path) -> None:
        """Begin it anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self.path, self._start = path, 0

    def begin(self, title: str) -> None:
        """What is said from here on is of `title`."""
        self.add(f"== {title}")
        self._start = self.path.stat().st_size

    def add(self, text: str) -> None:
        """Words of ours."""
        with self.path.open("a") as stream:
            stream.write(f"{text}\n")

    def read(self) -> str:
        """What was said since the last title."""
        with self.path.open("rb") as stream:
            stream.seek(self._start)
            return stream.read().decode(errors="replace")

    def tail(self) -> tuple[str, ...]:
        """The last lines since the last title, without empty ones."""
        return tuple([line.rstrip() for line in self.read().splitlines() if line.strip()][-_TAIL:])

    def last(self) -> str:
        """The last of them, or the one that names a crash."""
        lines = self.tail() or ("no message",)
        return next((line for line in lines if line.startswith(_FATAL)), lines[-1]).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int  # as `subprocess` has it: below 0, a signal
    seconds: float
    is_late: bool  # ended by us, because its time was over

    def describe(self) -> str:
        """In a few words."""
        return (
            f"took too long and was ended after {self.seconds:.0f} s" if self.is_late else explain_status(self.status)
        )


def run_step(command: Sequence[str], log: CaseLog, seconds: float) -> Ended:
    """Run a command to its end or for `seconds`, and show what it says. Nothing that it started is left running."""
    start_s, shown = time.monotonic(), 0
    process = start_process(command, log, keeps_output=True)
    try:
        while not has_ended(process) and time.monotonic() - start_s < seconds:
            time.sleep(_POLL_S)
            shown = _show(log, shown)
        is_late = not has_ended(process)
    finally:
        status = end_group(process, grace_s=_GRACE_S)
        _show(log, shown)
    return Ended(status=status, seconds=time.monotonic() - start_s, is_late=is_late)


def start_process(command: Sequence[str], log: CaseLog, *, keeps_output: bool) -> Process:
    """Start a command in a group of its own, its words in `log`; its input is closed if its output is kept there too.

    Otherwise both are pipes of ours.
    """
    with log.path.open("ab") as stream:
        return subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=os.environ | _TELLING,
            stdin=subprocess.DEVNULL if keeps_output else subprocess.PIPE,
            stdout=stream if keeps_output else subprocess.PIPE,
            stderr=stream,
            bufsize=0,
            start_new_session=True,
        )


def has_ended(process: Process) -> bool:
    """Whether it did; it is not reaped for that, so its group's number stays its own."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_for(process: Process, seconds: float) -> None:
    """Until it ended, or for `seconds`."""
    end_s = time.monotonic() + seconds
    while not has_ended(process) and time.monotonic() < end_s:
        time.sleep(_POLL_S)


def end_group(process: Process, *, grace_s: float = 0.0) -> int:
    """The exit status of a process, ended with all that it started: by Ctrl-C, and after `grace_s` killed."""
    if process.returncode is None:
        if grace_s and not has_ended(process):
            os.killpg(process.pid, signal.SIGINT)
            wait_for(process, grace_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def explain_status(status: int) -> str:
    """How a process ended: "ended with exit status 2", "was ended by SIGSEGV"."""
    names = {int(each): each.name for each in signal.Signals}
    return f"was ended by {names.get(-status, -status)}" if status < 0 else f"ended with exit status {status}"


def _show(log: CaseLog, shown: int) -> int:
    """Show what was said since the title beyond the first `shown` characters; how many there are now."""
    said = log.read()
    sys.stderr.write(said[shown:])
    return len(said)
