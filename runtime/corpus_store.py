"""Where do the files of a corpus lie, and how does one appear there: whole, once, and never twice?"""

import ctypes
import errno
import os
import re
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vjepa2.errors import CorpusError
from vjepa2.extras import import_with_extra
from vjepa2.publish import is_running, sync

from .corpus_points import pass_point

_RENAME_NOREPLACE = 1  # linux/fs.h
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, or no more of it
_AT_FDCWD = -100  # fcntl.h


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store."""

    name: str
    bytes: int
    written_s: float  # since 1970


class Store(ABC):
    """A folder of files that are written once and never changed."""

    place: str

    @abstractmethod
    def list_files(self) -> list[StoredFile]:
        """Every finished file, by name; none if the folder is not there."""

    @abstractmethod
    def open_file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A finished file, to be read inside a `with`; `FileNotFoundError` if there is none."""

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Make a file whole and on the disk; False, and nothing is changed, if there is one of that name."""

    def read_file(self, name: str) -> bytes | None:
        """What is in a file; None if there is none."""
        try:
            with self.open_file(name) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        return


class LocalStore(Store):
    """A folder of a file system: a draft beside the name, synced, then renamed."""

    def __init__(self, folder: Path) -> None:
        self.place, self._folder = str(folder), folder

    def list_files(self) -> list[StoredFile]:
        """See `Store`."""
        try:
            found = [entry for entry in os.scandir(self._folder) if entry.is_file() and not entry.name.startswith(".")]
            return sorted(
                (StoredFile(entry.name, entry.stat().st_size, entry.stat().st_mtime) for entry in found),
                key=lambda file: file.name,
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CorpusError(f"{self.place} cannot be read as a folder: {error.strerror or error}") from error

    @contextmanager
    def open_file(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        try:
            with (self._folder / name).open("rb") as stream:
                yield stream
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CorpusError(f"{self.place}/{name} cannot be read: {error.strerror or error}") from error

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Store`; a `CorpusError` if there is no room, with the path and the bytes."""
        target = self._folder / name
        with explain_write(target, len(data)):
            self._folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                return False
            draft = target.with_name(f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.draft")
            try:
                _write_draft(draft, data)
                won = _rename_new(draft, target)
            finally:
                draft.unlink(missing_ok=True)
            pass_point("draft_renamed")
            sync(self._folder)
            pass_point("folder_synced")
        return won

    def sweep(self) -> None:
        """Remove drafts of processes of this machine that are gone."""
        with explain_write(self._folder, 0):
            for draft in self._folder.glob(".*.draft"):
                owner = re.fullmatch(rf".*\.{re.escape(_host())}-(\d+)-[0-9a-f]+\.draft", draft.name)
                if owner and not is_running(int(owner[1])):
                    draft.unlink(missing_ok=True)


def open_store(place: str) -> Store:
    """The folder at a path, or a bucket's at a URL such as s3://bucket/name."""
    if "://" not in place:
        return LocalStore(Path(place).absolute())
    store: Store = import_with_extra("vjepa2.runtime.corpus_objects", "s3").ObjectStore(place)
    return store


@contextmanager
def explain_write(target: Path, size: int) -> Iterator[None]:
    """Say what could not be written, in one line, with the path and the bytes that it needs."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        advice = "free some space, then run the same command again" if full else "choose a folder that can be written"
        needs = f"; it needs {size} bytes" if size else ""
        raise CorpusError(f"{target} cannot be written: {error.strerror or error}{needs}; {advice}") from error


def _write_draft(draft: Path, data: bytes) -> None:
    with draft.open("xb", buffering=0) as stream:
        pass_point("draft_opened")
        left = memoryview(data)
        while left:  # a nearly full disk takes a part before it says that it is full
            left = left[stream.write(left) :]
        pass_point("draft_written")
        os.fsync(stream.fileno())
    pass_point("draft_synced")


def _rename_new(draft: Path, target: Path) -> bool:
    """Give a draft its name in one step, unless another has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(draft), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(target))
    try:
        os.link(draft, target)  # as exact, where the file system has links: on NFS
    except FileExistsError:
        return False
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())
