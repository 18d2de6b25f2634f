"""How is a corpus run killed or held at a named point: by an audit hook in each process, and by nothing of its own."""

import os
import select
import sys
from pathlib import Path

# Python runs this at the start of every process that has it on PYTHONPATH; a decoder, which is isolated, has not
_HOOK = """
import os, signal, sys, time

def _watch():
    wanted, once = os.environ.get("CORPUS_KILL", ""), os.environ.get("CORPUS_ONCE", "")
    log = os.open(os.environ["CORPUS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    held, first, every = os.environ.get("CORPUS_HOLD", ":1:1").split(":")
    doors = [os.open(os.environ["CORPUS_LOG"] + end, os.O_RDWR | os.O_CLOEXEC) for end in (".held", ".go") if held]
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
        if point == held and seen[point] >= int(first) and (seen[point] - int(first)) % int(every) == 0:
            os.write(doors[0], f"{time.monotonic()}\\n".encode())
            os.read(doors[1], 1)

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


class Turns:
    """What lets processes with its environment go on, from one pause to the next."""

    def __init__(self, folder: Path, point: str, first: int, every: int) -> None:
        self.environment = watch_points(folder) | {"CORPUS_HOLD": f"{point}:{first}:{every}"}
        for end in (".held", ".go"):
            os.mkfifo(f"{folder}/points.log{end}")
        self._held, self._go = (os.open(f"{folder}/points.log{end}", os.O_RDWR) for end in (".held", ".go"))

    def wait(self, within_s: float = 120.0) -> float:
        """When it was held, by the monotonic clock; a `TimeoutError` if it is not."""
        if not select.select([self._held], [], [], within_s)[0]:
            raise TimeoutError(f"nothing came to be held within {within_s:g} s")
        return float(os.read(self._held, 64))

    def go(self, pauses: int = 1) -> None:
        """Let it go on, beyond so many pauses."""
        os.write(self._go, b"." * pauses)

    def close(self) -> None:
        """Give up the pipes."""
        os.close(self._held)
        os.close(self._go)


def read_points(folder: Path) -> list[str]:
    """Every point that was passed, by whomever, in time's order; the log has times and processes too."""
    log = folder / "points.log"
    return [line.split()[3] for line in log.read_text().splitlines()] if log.exists() else []
