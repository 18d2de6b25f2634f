"""Which frames does a video file hold: exactly as many as it says, or an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError

from .sampling import Pad, choose_frames

FramesArray = npt.NDArray[np.uint8]
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_SLACK_S = 0.1  # containers round
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts")


def read_frames(path: str | Path, count: int, *, pad: Pad = "none") -> FramesArray:
    """`count` frames `[T, H, W, 3]`, uint8 RGB, spread evenly over a video: number arange(T) * total // T.

    A video shorter than `count` is a `VideoError`, unless `pad` repeats its last frame.
    """
    file = Path(path)
    total = count_frames(file)
    wanted = choose_frames(total, count, pad=pad, name=str(file))
    chosen: dict[int, FramesArray] = {}
    decoded = 0
    for decoded, frame in enumerate(_decode(file), start=1):
        if decoded - 1 in wanted:
            chosen[decoded - 1] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    if decoded != total:
        raise VideoError(
            f"{file} says it has {total} frames and {decoded} could be decoded; it is truncated or damaged"
        )
    _refuse_mixed_sizes(file, chosen)
    return np.stack([chosen[number] for number in wanted])


def count_frames(path: str | Path) -> int:
    """How many frames a video has: as its container says, or counted where it does not say."""
    file = Path(path)
    with _open_video(file) as (container, stream):
        claimed, lasts_s = stream.frames, _claimed_duration_s(container, stream)
    if claimed > 0:
        return claimed
    times_s = [frame.time for frame in _decode(file)]
    if not times_s:
        raise VideoError(f"{file} has no frame that can be decoded; it is empty, truncated or damaged")
    if lasts_s is not None and None not in (times_s[0], times_s[-1]):
        covered_s = (times_s[-1] - times_s[0]) * len(times_s) / max(len(times_s) - 1, 1)
        if covered_s < lasts_s - 2 * lasts_s / len(times_s) - _SLACK_S:
            raise VideoError(
                f"{file} says it lasts {lasts_s:.2f} s and its {len(times_s)} frames cover {covered_s:.2f} s; "
                "it is truncated or damaged"
            )
    return len(times_s)


def _claimed_duration_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    """What the file says of this stream alone: Matroska's tag, or the whole file's if it has one stream."""
    tag = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    if len(container.streams) == 1 and container.duration:
        return container.duration / av.time_base
    return None


def _decode(file: Path) -> Iterator[av.VideoFrame]:
    with _open_video(file) as (container, stream):
        stream.thread_type = "SLICE"  # frame threads hang beside torchvision (PyAV issue 1861)
        try:
            yield from container.decode(stream)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{file} cannot be decoded to its end ({_reason(error)}); it is damaged") from error


@contextmanager
def _open_video(
    file: Path,
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    if not file.is_file():
        raise VideoError(f"{file} is not a file; give the path of a video")
    try:
        container = av.open(str(file), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise VideoError(f"{file} is not a video that can be read ({_reason(error)})") from error
    with container:
        if not container.streams.video:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError(f"{file} has no video stream; it holds {', '.join(kinds) or 'nothing'}")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(f"{file} is in a codec that this FFmpeg cannot decode")
        yield container, stream


def _refuse_mixed_sizes(file: Path, frames: dict[int, FramesArray]) -> None:
    sizes = {frame.shape[:2] for frame in frames.values()}
    if len(sizes) > 1:
        raise VideoError(f"{file} changes its size on the way ({sorted(sizes)}); cut it into videos of one size")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
