"""Did what a container promises arrive: as many frames, for as long?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_SLACK_S = 0.002  # Matroska rounds to milliseconds, twice


@dataclass(frozen=True, slots=True)
class Claims:
    """What a container says of its video; None where it says nothing."""

    frames: int | None
    end_s: float | None

    @classmethod
    def of(cls, frames: int, tags: Mapping[str, str], lasts_s: float | None) -> "Claims":
        """From the header's number of frames and duration, or from the tags that Matroska has of a stream."""
        counted = tags.get("NUMBER_OF_FRAMES", tags.get("NUMBER_OF_FRAMES-eng", ""))
        if not frames and counted.isascii() and counted.isdigit():
            frames = int(counted[:18])
        clock = _CLOCK.fullmatch(tags.get("DURATION", tags.get("DURATION-eng", "")))
        if clock:
            hours, minutes, seconds = map(float, clock.groups())
            return cls(frames or None, 3600 * hours + 60 * minutes + seconds)
        return cls(frames or None, lasts_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read of it."""

    frames: int  # that are shown
    hidden: int  # that are there to be decoded alone: an edit list cuts them off
    end_s: float  # of the last packet of any stream
    frame_s: float  # how long a frame lasts on average
    fault: str | None  # where reading stopped, or what was wrong on the way


def find_loss(found: Found, claims: Claims, structure: str | None) -> tuple[int | None, str | None]:
    """How many frames there should be, if that is known, and why fewer were found; None if nothing is missing."""
    promised = None if claims.frames is None else claims.frames - found.hidden
    if promised is not None and promised != found.frames:
        return promised, found.fault or structure or f"its header promises {promised}"
    faulty = found.fault or structure
    short_s = 0.0 if promised is not None or claims.end_s is None else claims.end_s - found.end_s
    if short_s > found.frame_s / 2 + _SLACK_S:
        missing = max(1, round(short_s / found.frame_s)) if found.frame_s else 1
        return (
            found.frames + missing,
            faulty or f"it says it lasts {claims.end_s:.3f} s and ends at {found.end_s:.3f} s",
        )
    return promised, faulty
