"""What does every verb take that puts videos through a bundle?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click

from .backends import BACKENDS
from .backends.placement import EXECUTED, Executed
from .embedding import EmbeddingEngine
from .sampling import SAMPLINGS, Pad

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChoice:
    """What --backend, --device, --precision and --allow say."""

    name: str
    device: str | None
    precision: Executed | None
    allow: tuple[str, ...]

    def open(self, bundle: Path, *, decoders: int = 1) -> EmbeddingEngine:
        """The bundle, verified and loaded as was asked, behind so many decoders."""
        return EmbeddingEngine.open(
            bundle, self.name, device=self.device, precision=self.precision, allow=self.allow, decoders=decoders
        )


_BACKEND_OPTIONS = (
    click.option("--backend", default="auto", show_default=True, help=f"auto, {', '.join(BACKENDS)}."),
    click.option("--device", help="cpu, cuda, cuda:1, gpu: one that the backend has; its first by default."),
    click.option("--precision", type=click.Choice(EXECUTED), help="The bundle's by default."),
    click.option("--allow", multiple=True, help="A place or precision that nodes may fall to; otherwise an error."),
)


def backend_options(command: Command) -> Command:
    """Add BUNDLE and four options to a click command that has parameters `bundle` and `backend`, a `BackendChoice`."""

    @wraps(command)
    def choose(*, backend: str, device: str | None, precision: Executed | None, allow: Any, **rest: Any) -> Any:
        choice = BackendChoice(name=backend, device=device, precision=precision, allow=tuple(allow))
        return command(backend=choice, **rest)

    return _add((click.argument("bundle", type=click.Path(path_type=Path)), *_BACKEND_OPTIONS), choose)


def video_options(command: Command) -> Command:
    """Add BUNDLE VIDEOS... and options to a click command that has parameters `bundle videos backend sampling pad`.

    `backend` is a `BackendChoice`, made of four options.
    """
    options = (
        click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path)),
        click.option("--sampling", default="uniform", show_default=True, help=f"Which frames: {SAMPLINGS}."),
        click.option(
            "--pad",
            type=click.Choice(get_args(Pad)),
            default="none",
            show_default=True,
            help="What to do with a video shorter than a clip.",
        ),
    )
    return backend_options(_add(options, command))


def _add(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):  # click lists what was added last first
        command = option(command)
    return command
