"""Where are the timings of earlier builds kept, so that nobody else can write what TensorRT will parse?

A timing cache is read by native code: its folder must be its owner's alone.
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vjepa2.engine_manifest import Machine
from vjepa2.errors import CompileError
from vjepa2.outputs import write_whole

_OWNER_ONLY = 0o077  # bits that must not be set


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/vjepa2-edge/timings`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "vjepa2-edge" / "timings"


def read_timings(folder: Path, machine: Machine) -> bytes:
    """What earlier builds of this TensorRT on this GPU measured; b"" if there were none.

    The folder is made if it is not there; `CompileError` if it, or the file in it, is not its owner's alone.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(folder, stat.S_ISDIR, "a folder")
        file = folder / _name(machine)
        if not os.path.lexists(file):  # a link that leads nowhere is none either
            return b""
        _check(file, stat.S_ISREG, "a regular file")
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
            return stream.read()
    except OSError as error:
        raise CompileError(f"{folder} cannot be used for timings: {error.strerror}; choose --timings FOLDER") from error


def write_timings(folder: Path, machine: Machine, timings: bytes) -> None:
    """Keep what a build measured, in place of what was there."""
    _check(folder, stat.S_ISDIR, "a folder")
    file = folder / _name(machine)

    def write(stream: BinaryIO) -> None:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(timings)

    write_whole(file, write)


def _name(machine: Machine) -> str:
    """By version and device: the timings of another are of no use, and may be refused."""
    words = f"{machine.tensorrt.name}-{machine.gpu}-sm{machine.sm}-{machine.multiprocessors}-{machine.arch}"
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words).lower()}.timings"


def _check(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    found = path.lstat()
    if not is_kind(found.st_mode):
        raise CompileError(f"{path} is not {kind}; take it away, or choose --timings FOLDER")
    if found.st_uid != os.getuid():
        raise CompileError(
            f"{path} belongs to user {found.st_uid}, not to you ({os.getuid()}); TensorRT parses what is in it: "
            "choose --timings FOLDER"
        )
    if found.st_mode & _OWNER_ONLY:
        raise CompileError(
            f"{path} can be used by others ({stat.filemode(found.st_mode)}); TensorRT parses what is in it: "
            f"chmod {'700' if stat.S_ISDIR(found.st_mode) else '600'} {path}"
        )
