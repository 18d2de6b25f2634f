"""What is a size on the command line?"""

import re

import click

from vjepa2.errors import SpecError

_SIZE = re.compile(r"(\d+)(?:x(\d+))?")


def read_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Height and width in pixels, of N or HxW; a callback of click's options."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if not match:
        raise SpecError(f"size is {value!r}; it must be a number of pixels, as 256, or height x width, as 256x384")
    return int(match[1]), int(match[2] or match[1])
