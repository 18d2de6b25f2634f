"""What does every verb take that puts videos through a bundle?"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import click

from .backends import BACKENDS
from .sampling import Pad

Command = TypeVar("Command", bound=Callable[..., None])


def video_options(command: Command) -> Command:
    """Add BUNDLE VIDEOS... --backend --pad, in that order, to a click command that has these parameters."""
    options = (
        click.argument("bundle", type=click.Path(path_type=Path)),
        click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path)),
        click.option("--backend", default="auto", show_default=True, help=f"auto, {', '.join(BACKENDS)}."),
        click.option(
            "--pad",
            type=click.Choice(get_args(Pad)),
            default="none",
            show_default=True,
            help="What to do with a video shorter than a clip.",
        ),
    )
    for option in reversed(options):  # click lists what was added last first
        command = option(command)
    return command
