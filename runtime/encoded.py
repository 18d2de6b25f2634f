"""What does an app get of its videos: rows, which part of which video each is of, and how every video went?"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .backends.base import FloatArray
from .decode_messages import VideoReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlace:
    """Which part of which video a row is made of; None where the video is an array, which has no clock."""

    video: int  # its number among those given, from 0
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideo:
    """One output of a model for one video: a row a clip, and none unless the video is `ok`."""

    name: str  # its path, or `array 3`
    report: VideoReport
    values: FloatArray
    places: tuple[ClipPlace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClips:
    """One output of a model, a row a clip, and how every video went, those without a row too."""

    values: FloatArray
    places: tuple[ClipPlace, ...]  # of each row
    names: tuple[str, ...]  # of each video, with folders replaced by what they hold
    reports: tuple[VideoReport, ...]

    @classmethod
    def join(cls, videos: Iterable[EncodedVideo]) -> "EncodedClips":
        """All rows of all videos, of which there is one at least."""
        done = list(videos)
        return cls(
            values=np.concatenate([video.values for video in done]),
            places=tuple(place for video in done for place in video.places),
            names=tuple(video.name for video in done),
            reports=tuple(video.report for video in done),
        )

    def lines(self) -> list[tuple[int, int | None]]:
        """Each video's number with each of its rows, or with None if it was skipped; in the order of the videos."""
        numbers = [place.video for place in self.places]
        lines: list[tuple[int, int | None]] = []
        for video in range(len(self.names)):
            mine = range(bisect_left(numbers, video), bisect_right(numbers, video))
            lines += [(video, row) for row in mine or (None,)]
        return lines
