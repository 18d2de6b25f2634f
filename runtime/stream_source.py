"""Where do live frames come from: a file played as if live, a camera, a stream in the network?"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from vjepa2.errors import VideoError

from .decode_messages import ClipRequest, DecodeLimits
from .decoder import VideoDecoder, open_regular
from .stream_messages import Ended, FollowJob, LiveFrame, SourceKind

_CAMERA = re.compile(r"/dev/video\d+", re.ASCII)
_V4L2_MAJOR = 81
_CAMERA_OPTIONS = {"video_size": r"\d+x\d+", "framerate": r"\d+(\.\d+)?", "input_format": r"[a-z0-9_]+"}
AtEnd = Literal["finish", "rewind", "reconnect"]


class Source(Protocol):
    """What a stream can be made of."""

    name: str  # for messages
    at_end: AtEnd  # what the end of a session means: that of the stream, of one round, or a fault

    def connect(self) -> Iterator[LiveFrame]:
        """Frames of one session; a `VideoError` if it fails, stalls, or ends in the middle."""

    def close(self) -> None:
        """End the session that runs, from any thread. Safe to call twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Playing:
    """How a source is to be played, and what of it is to be taken."""

    sampling: str = "fps:4"  # see `runtime.picking`; V-JEPA 2 was pretrained on 4 frames a second
    loop: bool = False  # a file, for ever
    speed: float = 1.0  # seconds of a file that pass in one second
    max_gap_s: float = 2.0  # between time stamps; more is a gap
    stall_s: float = 10.0  # without a frame, then the source is opened again

    def __post_init__(self) -> None:
        for name in ("speed", "max_gap_s", "stall_s"):
            value = getattr(self, name)
            if not 0 < value < inf:
                raise VideoError(f"{name} is {value}; it must be a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a user means by SOURCE."""

    kind: SourceKind
    address: str
    options: dict[str, str]  # of a camera, for FFmpeg

    @property
    def name(self) -> str:
        """For messages: an address in the network without user and password."""
        if self.kind != "rtsp":
            return self.address
        parts = urlsplit(self.address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def parse_source(text: str) -> Address:
    """A file's path, `/dev/video0`, `/dev/video0?video_size=1280x720&framerate=30`, or `rtsp://`; else a `VideoError`.

    A camera must be there; a file is looked at when it is opened.
    """
    if text.startswith("rtsp://"):
        if not urlsplit(text).hostname or re.search(r"[\s\0]", text):
            raise VideoError(f"{text!r} names no host; it must be like rtsp://camera:554/stream")
        return Address(kind="rtsp", address=text, options={})
    if re.match(r"[a-z0-9+.-]+://", text, re.ASCII):
        raise VideoError(f"{text.partition('://')[0]}:// is no source; give a file, /dev/videoN or rtsp://")
    path, _, query = text.partition("?")
    if not _CAMERA.fullmatch(path):
        return Address(kind="file", address=text, options={})
    _refuse_no_camera(Path(path))
    return Address(kind="camera", address=path, options=_parse_camera_options(query))


def _parse_camera_options(query: str) -> dict[str, str]:
    options = dict(part.partition("=")[::2] for part in query.split("&") if part)
    for name, value in options.items():
        if not re.fullmatch(_CAMERA_OPTIONS.get(name, r"(?!)"), value, re.ASCII):
            raise VideoError(
                f"a camera has no option {name}={value}; it has video_size=WIDTHxHEIGHT, framerate=N, input_format=NAME"
            )
    return options


def _refuse_no_camera(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        there = ", ".join(sorted(str(other) for other in Path("/dev").glob("video*"))) or "none here"
        raise VideoError(f"there is no camera {path} ({error.strerror}); there is {there}") from error
    if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) != _V4L2_MAJOR:
        raise VideoError(f"{path} is no camera; it must be a device of V4L2")


class WorkerSource:
    """A source that is decoded by a worker process, which may be killed. For one thread, but for `close`."""

    def __init__(self, address: Address, playing: Playing, clip: ClipRequest) -> None:
        self.name = address.name
        ends: dict[SourceKind, AtEnd] = {"file": "rewind" if playing.loop else "finish"}
        self.at_end: AtEnd = ends.get(address.kind, "reconnect")
        if address.kind != "file" and (playing.loop or playing.speed != 1):
            raise VideoError(f"{self.name} is live; only a file can be looped or played at another speed")
        self._address = address
        self._limits = DecodeLimits(deadline_s=float(playing.stall_s), cpu_s=60)
        self._job = FollowJob(
            kind=address.kind,
            address="" if address.kind == "file" else address.address,
            options=address.options,
            speed=float(playing.speed),
            sampling=playing.sampling,
            max_gap_s=float(playing.max_gap_s),
            height=clip.height,
            width=clip.width,
            crop=clip.crop,
            limits=self._limits,
        )
        self._decoder = VideoDecoder(self._limits)

    def connect(self) -> Iterator[LiveFrame]:
        """See `Source`."""
        files = []
        if self._job.kind == "file":
            files = [open_regular(Path(self._address.address), self._limits)]
        try:
            yield from self._run(files)
        finally:
            for file in files:
                os.close(file)

    def _run(self, files: list[int]) -> Iterator[LiveFrame]:
        worker, keep = self._decoder.take_worker(), False
        assert worker
        try:
            for event in worker.follow(self._job, files):
                if isinstance(event, LiveFrame):
                    yield event
                    continue
                assert isinstance(event, Ended)
                keep = not event.retire
                if event.why:
                    raise VideoError(event.why)
        finally:
            self._decoder.give_back(worker, keep)

    def close(self) -> None:
        """See `Source`."""
        self._decoder.close()


def open_source(source: "str | Path | Source", playing: Playing, clip: ClipRequest) -> Source:
    """A source by its name, or one that is given."""
    if isinstance(source, (str, Path)):
        return WorkerSource(parse_source(str(source)), playing, clip)
    return source
