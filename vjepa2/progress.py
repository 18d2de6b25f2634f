"""How does a person see that something goes on, and how long each part took?"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_Step = TypeVar("_Step")


@contextmanager
def show_stages(console: Console) -> Iterator[Callable[[str], None]]:
    """A function that announces a stage: a spinner with its name while it runs, a line with its time when it ends."""
    running: list[tuple[str, float]] = []

    def finish() -> None:
        if running:
            name, start_s = running.pop()
            console.print(f"  {name:<28} {time.perf_counter() - start_s:7.1f} s", highlight=False)

    with console.status("starting") as status:

        def announce(name: str) -> None:
            finish()
            running.append((name, time.perf_counter()))
            status.update(name)

        yield announce
        finish()


def track_steps(steps: Iterable[_Step], name: str, total: int | None = None) -> Iterator[_Step]:
    """The steps, with a bar on standard error that goes when they end; without a length or `total`, it only moves."""
    yield from track(steps, name, total, console=Console(stderr=True), transient=True)
