"""Which videos does an app mean by a folder?"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from vjepa2.errors import VideoError

from .clip_reader import Video
from .decode_messages import SampledClip
from .decoder import VIDEO_SUFFIXES

_ONE = (str, Path, np.ndarray, SampledClip)


def list_videos(folder: Path) -> list[Path]:
    """Files below a folder, at any depth, that are named as videos are, sorted by path; a `VideoError` if none is.

    Hidden files and folders are left out, and links to folders are not followed.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(place) / name for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise VideoError(f"{folder} holds no video ({', '.join(VIDEO_SUFFIXES)}); give a folder that does, or files")
    return sorted(found)


def expand_folders(videos: Video | Iterable[Video]) -> tuple[Iterator[Video], int | None]:
    """The same videos, and in the place of each folder those that it holds; how many, unless an iterator gives them."""
    given = [videos] if isinstance(videos, _ONE) else videos
    items = _expand(given)
    if not isinstance(given, (list, tuple)):
        return items, None
    listed = list(items)
    return iter(listed), len(listed)


def is_single(videos: Video | Iterable[Video]) -> bool:
    """Whether this is one video, and neither several nor a folder."""
    return isinstance(videos, _ONE) and not _is_folder(videos)


def _expand(videos: Iterable[Video]) -> Iterator[Video]:
    for video in videos:
        if _is_folder(video):
            yield from list_videos(Path(str(video)))
        else:
            yield video


def _is_folder(video: Video) -> bool:
    try:
        return not isinstance(video, (np.ndarray, SampledClip)) and Path(video).is_dir()
    except OSError:  # it cannot even be looked at: whoever opens it says why
        return False


def _refuse(error: OSError) -> NoReturn:
    raise VideoError(
        f"{error.filename} cannot be listed ({error.strerror}); make it readable, or leave it out"
    ) from error
