"""How does a folder appear: whole, in one step, or not at all?"""

import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h


@contextmanager
def publish_folder(
    target: Path, *, mode: int = 0o755, keep: Callable[[Path, Path], bool] = lambda draft, target: False
) -> Iterator[Path]:
    """A draft beside `target` that takes its place when the block ends; an error in the block leaves nothing.

    What was at `target` before is exchanged in one step and removed, unless `keep(draft, target)` is true.
    """
    draft = _start_draft(target, mode)
    try:
        yield draft
        if not (target.exists() and keep(draft, target)):
            _publish(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sha256_of(file: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Put a file, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(target: Path, error: OSError) -> str:
    """Why `target` could not be written, and what to do."""
    advice = "free some space" if error.errno == errno.ENOSPC else "choose a folder that can be written"
    return f"{target} cannot be written: {error.strerror or error}; {advice}; nothing was left behind"


def _start_draft(target: Path, mode: int) -> Path:
    """A private folder beside `target`, named after this process so that a later one can sweep it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())
    prefix = f".{target.name}.draft-{host}-"
    for leftover in target.parent.glob(f"{prefix}*"):
        owner = leftover.name.removeprefix(prefix)
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)
    draft = target.parent / f"{prefix}{os.getpid()}"
    draft.mkdir(mode=mode)
    return draft


def is_running(process: int) -> bool:
    """Whether this machine has a process of that id, whoever owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
    elif not _exchange(draft, target):
        aside = draft.with_name(f"{draft.name}-old")
        target.rename(aside)
        try:
            draft.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync(target.parent)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step; False where the kernel or the file system cannot."""
    with suppress(AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(left), os.fsencode(right)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(right))
    return False
