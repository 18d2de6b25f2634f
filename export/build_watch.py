"""How does a person follow a build of minutes, and stop it?"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_Result = TypeVar("_Result")
_POLL_S = 0.1
_THREAD = "vjepa2 build"


class BuildWatch:
    """A bar with its remaining time for each phase that TensorRT tells; where it tells none, a spinner and the time.

    Its methods are called from TensorRT's threads.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._tasks: dict[str, TaskID] = {}
        self._depths: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside another or by itself."""
        self._depths[phase] = depth = self._depths.get(parent or "", -1) + 1
        self._tasks[phase] = self._progress.add_task(f"{'  ' * (depth + 1)}{phase}", total=steps)

    def step(self, phase: str, step: int) -> bool:
        """A step was done; False once the build is to stop."""
        if phase in self._tasks:
            self._progress.update(self._tasks[phase], completed=step + 1)
        return not self._stopped.is_set()

    def finish(self, phase: str) -> None:
        """A phase ended: its bar goes."""
        if phase in self._tasks:
            self._progress.remove_task(self._tasks.pop(phase))

    def stop(self) -> None:
        """From the next step on, the build is to end."""
        self._stopped.set()


@contextmanager
def show_build(console: Console, what: str) -> Iterator[BuildWatch]:
    """What is built and for how long, while the block runs, and its phases below."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # phases hold brackets of their own
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield BuildWatch(progress)


class Worker(Generic[_Result]):
    """One call in a thread of its own, so that Ctrl-C is heard while TensorRT works."""

    def __init__(self, work: Callable[[], _Result]) -> None:
        self._work = work
        self._results: list[_Result] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    def join(self, stop: Callable[[], None], *, can_stop: bool) -> _Result:
        """The call's result, or its error. Ctrl-C calls `stop`, waits for the end if there will be one, and goes on."""
        try:
            self._thread.start()
            while self._thread.is_alive():
                self._thread.join(_POLL_S)
        except KeyboardInterrupt:
            stop()
            if can_stop:
                self._thread.join()
            raise
        if self._errors:
            raise self._errors.pop()  # not kept: its frames hold the builder and the weights, and this worker too
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # handed to the thread that waits
            self._errors.append(error)


def is_building() -> bool:
    """Whether some call of a `Worker` has not ended."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
