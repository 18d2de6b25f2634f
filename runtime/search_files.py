"""Which file is played for a video of a corpus, and how does a browser call it?"""

import os
from pathlib import Path

from vjepa2.errors import VideoError

from .decode_messages import DecodeLimits
from .decoder import open_regular
from .search_corpus import FoundVideo

_TYPES = {
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".mpg": "video/mpeg",
    ".ts": "video/mp2t",
}


def check_file(video: FoundVideo) -> Path:
    """Where it lies; a `VideoError` unless it is a file, of as many bytes as when it was planned."""
    if "://" in video.path:
        raise VideoError(f"{video.name} lies in an object store, and is not fetched to be played")
    path = Path(video.path)
    file = open_regular(path, DecodeLimits())
    try:
        size = os.fstat(file).st_size
    finally:
        os.close(file)
    if size != video.bytes:
        raise VideoError(f"{video.name} was changed since it was embedded: it has {size} bytes, and had {video.bytes}")
    return path


def name_type(path: Path) -> str:
    """The media type of a video's file, whatever is in it."""
    return _TYPES.get(path.suffix.lower(), "video/mp4")
