"""How is a result file written: whole, or not at all."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click

from vjepa2.errors import Vjepa2Error


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears at `path` when it is complete; an earlier file is replaced in one step."""
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose a place that can be written"
        raise Vjepa2Error(f"{target} cannot be written: {error.strerror or error}; {advice}") from error
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: str, record: object) -> None:
    """Write a dataclass or a dictionary as JSON; "-" is standard output."""
    plain: Any = asdict(record) if is_dataclass(record) and not isinstance(record, type) else record
    text = json.dumps(plain, indent=2, allow_nan=False, default=str) + "\n"
    if path == "-":
        click.echo(text, nl=False)
    else:
        write_whole(path, lambda stream: stream.write(text.encode()))
