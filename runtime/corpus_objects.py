"""How do the files of a corpus lie in an object store: S3 and its like, through fsspec?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec

from vjepa2.errors import CorpusError, MissingDependencyError, Vjepa2Error

from .corpus_points import pass_point
from .corpus_store import Store, StoredFile


class ObjectStore(Store):
    """A prefix of a bucket: an object is put whole, on the condition that there is none of its name."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        self._files, self._root = open_files(self.place)
        self._refuses = False  # known to refuse the second of two objects of a name

    def list_files(self) -> list[StoredFile]:
        """See `Store`."""
        with explain_objects(self.place):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
        return sorted(
            (
                StoredFile(file["name"].rpartition("/")[2], int(file["size"]), _written(file))
                for file in found
                if file["type"] == "file"
            ),
            key=lambda file: file.name,
        )

    @contextmanager
    def open_file(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`. Only what is asked for is fetched: of a shard, for its footer, the end."""
        with explain_objects(f"{self.place}/{name}"):
            self._files.invalidate_cache()
            with self._files.open(f"{self._root}/{name}", "rb") as stream:
                yield stream

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Store`. The store itself refuses the second: If-None-Match is sent with the object.

        A `CorpusError` if it does not: the first object that this process puts is put twice.
        """
        pass_point("draft_opened")
        if not self._create(name, data):
            return False
        if not self._refuses and self._create(name, data):
            raise CorpusError(
                f"{self.place} lets an object be put twice (it ignores If-None-Match); take another store"
            )
        self._refuses = True
        pass_point("draft_renamed")
        return True

    def _create(self, name: str, data: bytes) -> bool:
        with explain_objects(f"{self.place}/{name}", len(data)):
            try:
                self._files.pipe_file(f"{self._root}/{name}", data, mode="create")
            except FileExistsError:
                return False
            except FileNotFoundError as error:
                raise CorpusError(f"{self.place} is not there ({error}); make the bucket first") from error
        return True


def open_files(url: str) -> tuple[Any, str]:
    """The file system that fsspec has for a URL, and the path in it."""
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(f"{url} needs another library ({error}); for s3://, pip install s3fs") from error
    except ValueError as error:
        raise CorpusError(f"{url} is not a place that fsspec knows ({error})") from error
    return files, path.rstrip("/")


@contextmanager
def explain_objects(place: str, size: int = 0) -> Iterator[None]:
    """Say what an object store refused, in one line."""
    try:
        yield
    except (FileExistsError, FileNotFoundError, Vjepa2Error):
        raise
    except Exception as error:  # each store's library has exceptions of its own
        needs = f"; it needs {size} bytes" if size else ""
        raise CorpusError(f"{place} is refused by its store: {error!s:.300}{needs}") from error


def _written(file: dict[str, Any]) -> float:
    written = file.get("LastModified") or file.get("last_modified") or file.get("created")
    return float(written.timestamp()) if written is not None and hasattr(written, "timestamp") else 0.0
