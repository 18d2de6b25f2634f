"""Which videos does a folder, a list or a bucket hold, and is one still the one that was planned?"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from vjepa2.errors import CorpusError, VideoError
from vjepa2.extras import import_with_extra
from vjepa2.publish import sha256_of

from .corpus_messages import PlannedVideo
from .corpus_points import pass_point
from .corpus_store import FULL, explain_write
from .decoder import VIDEO_SUFFIXES


class Identity(NamedTuple):
    """What tells a video from another of its name; or why it could not be told."""

    bytes: int | None = None
    version: str | None = None
    problem: str | None = None


def list_videos(source: str) -> list[str]:
    """Paths or URLs: of a folder's and a bucket's every video, by name; of a text file one a line, in its order."""
    if "://" in source:
        found = _list_objects(source)
    elif Path(source).is_dir():
        found = _walk(Path(source).absolute())
    else:
        found = _read_list(Path(source).absolute())
    if not found:
        raise CorpusError(f"{source} has no videos ({', '.join(VIDEO_SUFFIXES)}); there is nothing to plan")
    seen: set[str] = set()
    for video in found:
        if video in seen:
            raise CorpusError(f"{source} names {video} twice; each video is embedded once")
        seen.add(video)
    return found


def identify_video(video: str) -> Identity:
    """Size and hash of a file, size and etag of an object."""
    try:
        if "://" in video:
            return _identify_object(video)
        path = Path(video)
        if not path.is_file():
            return Identity(problem="it is not a file that can be read (it is not there, or no regular file)")
        return Identity(path.stat().st_size, f"sha256:{sha256_of(path)}")
    except (OSError, CorpusError) as error:
        return Identity(problem=f"it is not a file that can be read ({getattr(error, 'strerror', None) or error})")


@contextmanager
def fetch_video(video: PlannedVideo) -> Iterator[Path]:
    """A path at which a video lies, an object as a copy that goes again; a `VideoError` unless it is as planned."""
    if video.problem:
        raise VideoError(video.problem)
    now = identify_video(video.video)
    if now.problem:
        raise VideoError(now.problem)
    if (now.bytes, now.version) != (video.bytes, video.version):
        raise VideoError(
            f"it was changed since it was planned: it has {now.bytes} bytes, {now.version}; "
            f"planned were {video.bytes} bytes, {video.version}"
        )
    if "://" not in video.video:
        pass_point("video_fetched")
        yield Path(video.video)
        return
    with explain_write(Path(tempfile.gettempdir()), now.bytes or 0):
        descriptor, name = tempfile.mkstemp(suffix=Path(video.video).suffix, prefix="vjepa2-corpus-")
    os.close(descriptor)
    copy = Path(name)
    try:
        files, path = _open(video.video)
        try:
            files.get_file(path, name)
        except Exception as error:  # each store's library has exceptions of its own
            if getattr(error, "errno", None) in FULL:  # of this machine's disk, for which the video is not to blame
                with explain_write(copy, now.bytes or 0):
                    raise
            raise VideoError(f"it could not be fetched ({error!s:.200})") from error
        if copy.stat().st_size != video.bytes or identify_video(video.video) != now:
            raise VideoError("it was changed while it was fetched")
        pass_point("video_fetched")
        yield copy
    finally:
        with suppress(FileNotFoundError):
            copy.unlink()


def _walk(folder: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise CorpusError(
            f"{error.filename} cannot be read ({error.strerror}); let it be read, or plan a list without it"
        )

    files = (Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted(str(file) for file in files if file.suffix.lower() in VIDEO_SUFFIXES)


def _open(url: str) -> tuple[Any, str]:
    opened: tuple[Any, str] = import_with_extra("vjepa2.runtime.corpus_objects", "s3").open_files(url)
    return opened


def _list_objects(url: str) -> list[str]:
    files, root = _open(url)
    explain = import_with_extra("vjepa2.runtime.corpus_objects", "s3").explain_objects
    with explain(url):
        found = files.find(root)
    return sorted(files.unstrip_protocol(path) for path in found if path.lower().endswith(VIDEO_SUFFIXES))


def _identify_object(url: str) -> Identity:
    files, path = _open(url)
    files.invalidate_cache()
    try:
        info = files.info(path)
    except Exception as error:  # each store's library has exceptions of its own
        return Identity(problem=f"it is not an object that can be read ({error!s:.200})")
    etag = info.get("ETag") or info.get("etag")
    if not etag:
        return Identity(problem="its store gives no etag, so that a change could not be seen")
    return Identity(int(info["size"]), f"etag:{str(etag).strip(chr(34))}")


def _read_list(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{file} is neither a folder nor a list that can be read ({reason})") from error
    names = [line.strip() for line in lines]
    return [name if "://" in name else str(file.parent / name) for name in names if name]
