"""How is a corpus run stopped at a named point: by an audit hook in each process, and by nothing of its own."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Python runs this at the start of every process that has it on PYTHONPATH; a decoder, which is isolated, has not
_HOOK = """
import os, signal, sys, time

def _watch():
    wanted, once = os.environ.get("CORPUS_KILL", ""), os.environ.get("CORPUS_ONCE", "")
    log = os.open(os.environ["CORPUS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    seen = {}

    def hook(event, arguments):
        if event != "vjepa2.corpus":
            return
        point = arguments[0]
        seen[point] = seen.get(point, 0) + 1
        os.write(log, f"{time.monotonic()} {time.process_time()} {os.getpid()} {point}\\n".encode())
        if f"{point}:{seen[point]}" == wanted:
            if once:
                try:
                    os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                except FileExistsError:
                    return
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

if "CORPUS_LOG" in os.environ:
    _watch()
"""


def watch_points(folder: Path, kill: str = "", *, again: bool = False) -> dict[str, str]:
    """Environment variables under which every process logs the points that it passes into `folder`/points.log.

    With `kill`, "draft_synced:2", the first that passes that point for the second time dies there; with `again`, every
    one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    paths = [str(folder), *(path for path in (os.environ.get("PYTHONPATH"), *sys.path) if path)]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "CORPUS_LOG": str(folder / "points.log"),
        "CORPUS_KILL": kill,
        "CORPUS_ONCE": "" if again else str(folder / "killed"),
    }


@dataclass(frozen=True, slots=True)
class Passage:
    """A process passed a point."""

    time_s: float  # by the monotonic clock
    cpu_s: float  # that the process had used
    process: int
    point: str


def read_passages(folder: Path) -> list[Passage]:
    """Every point that was passed, by whomever, in time's order."""
    log = folder / "points.log"
    lines = (line.split() for line in log.read_text().splitlines()) if log.exists() else ()
    return [Passage(float(time_s), float(cpu_s), int(process), point) for time_s, cpu_s, process, point in lines]


def read_points(folder: Path) -> list[str]:
    """The points alone."""
    return [passage.point for passage in read_passages(folder)]
