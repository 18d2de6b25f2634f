"""Which frames of a video make its clips?

Axes: K clips, T frames of each.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError

Pad = Literal["none", "repeat-last"]
Name = Literal["uniform", "fps", "stride", "segments", "window", "joined"]
IndexArray = npt.NDArray[np.int64]
SAMPLINGS = "uniform, fps:N, stride:N, segments:K[xSTEP], window[:STRIDE[xSTEP]], joined[:STEP]"
_FORM = re.compile(r"([a-z]+)(?::(\d+(?:\.\d+)?)(?:x(\d+))?)?", re.ASCII)
_SEGMENT_STEP = 4  # frames; what the original repository's loader takes unless it is told


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose: `uniform` over the video, `fps` a second, every `stride`th, in `segments`, by sliding `window`.

    `joined` is what `segments` gives, as the one clip of a graph that looks at several segments together.
    """

    name: Name
    number: float | None = None  # frames a second, frames from one to the next, segments, frames from window to window
    step: int | None = None  # frames from one to the next, within a segment or window

    @property
    def several(self) -> bool:
        """Whether a video may give more than one clip."""
        return self.name in ("segments", "window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What a video has to choose from, and what is wanted of it."""

    total: int  # frames
    count: int  # frames a clip
    segments: int = 1  # that a clip is made of
    rate_hz: float | None = None  # frames a second, on average; None if nothing says
    pad: Pad = "none"
    name: str = "the video"


def parse_sampling(text: str) -> Sampling:
    """Read `uniform`, `fps:4`, `stride:2`, `segments:2x4`, `window:8x2` and their like; else a `VideoError`."""
    form = _FORM.fullmatch(text)
    if not form or form[1] not in _CHOOSE:
        raise VideoError(f"sampling is {text!r}; it must be one of {SAMPLINGS}")
    name, number, step = form[1], float(form[2]) if form[2] else None, int(form[3]) if form[3] else None
    bare, whole, steps = name in ("uniform", "window", "joined"), name != "fps", name in ("segments", "window")
    if number is None and not bare:
        raise VideoError(f"sampling is {text!r}; {name} takes a number, as in {name}:2")
    if number is not None and (name == "uniform" or number <= 0 or (whole and number % 1)):
        wanted = "no number" if name == "uniform" else "a whole number from 1 on" if whole else "a number above 0"
        raise VideoError(f"sampling is {text!r}; {name} takes {wanted}")
    if step is not None and (not steps or step < 1):
        raise VideoError(f"sampling is {text!r}; only segments and window take a step, and it is at least 1")
    return Sampling(name, number, step)  # type: ignore[arg-type]


def choose_frames(sampling: Sampling, footage: Footage) -> IndexArray:
    """Numbers of the frames of every clip, `[K, T]`, counted from 0 and ascending.

    With fewer frames than a clip spans, a `VideoError`, unless `pad` fills it with the last frame.
    """
    if footage.total < 1:
        raise VideoError(f"{footage.name} has no frames; give one that has {footage.count}")
    return _CHOOSE[sampling.name](sampling, footage)


def _uniform(_: Sampling, footage: Footage) -> IndexArray:
    """What transformers does by default: arange(T) * total // T."""
    _refuse_short(footage, footage.total, footage.count)
    spread = np.arange(footage.count, dtype=np.int64) * max(footage.total, footage.count) // footage.count
    return np.minimum(spread, footage.total - 1)[None]


def _stride(sampling: Sampling, footage: Footage) -> IndexArray:
    """The original repository's demo, which takes frames 0, 2 ... 126."""
    numbers = np.arange(footage.count, dtype=np.int64) * int(sampling.number or 1)
    _refuse_short(footage, footage.total, int(numbers[-1]) + 1)
    return np.minimum(numbers, footage.total - 1)[None]


def _fps(sampling: Sampling, footage: Footage) -> IndexArray:
    """The original repository's loader told `fps`: the rate, rounded up, divided by it, is the step."""
    if not footage.rate_hz:
        raise VideoError(f"{footage.name} does not say how many frames a second it has; sample it by stride:N")
    step = int(ceil(footage.rate_hz) // (sampling.number or 1))
    if step < 1:
        raise VideoError(
            f"{footage.name} has {footage.rate_hz:g} frames a second; fps:{sampling.number:g} asks for more than it has"
        )
    return _segment(footage, footage.total, footage.count * step, step)[None]


def _segments(sampling: Sampling, footage: Footage) -> IndexArray:
    """The original repository's loader told `num_clips`, without chance: a clip at the start of each equal part."""
    parts, step = int(sampling.number or 1), sampling.step or _SEGMENT_STEP
    part = footage.total // parts
    if not part:
        raise VideoError(f"{footage.name} has {footage.total} frames; it cannot be cut into {parts} segments")
    first = _segment(footage, part, footage.count * step, step)
    return first[None] + part * np.arange(parts, dtype=np.int64)[:, None]


def _joined(sampling: Sampling, footage: Footage) -> IndexArray:
    """The same with as many parts as the graph's clip has segments, one after the other."""
    parts, step = footage.segments, int(sampling.number or _SEGMENT_STEP)
    each = replace(footage, count=footage.count // parts)
    return _segments(Sampling("segments", parts, step), each).reshape(1, -1)


def _segment(footage: Footage, part: int, span: int, step: int) -> IndexArray:
    """A clip of `span` frames at the start of a part, spread as the loader does: T numbers from 0 to `span`, cut."""
    count = footage.count
    if part > span:
        return _to_numbers(np.linspace(0, span, num=count), span)
    _refuse_short(footage, part, span)
    there = part // step
    numbers = np.concatenate((np.linspace(0, part, num=there), np.full(count - there, part)))
    return _to_numbers(numbers, part)


def _to_numbers(places: npt.NDArray[np.float64], end: int) -> IndexArray:
    numbers: IndexArray = np.clip(places, 0, end - 1).astype(np.int64)
    return numbers


def _window(sampling: Sampling, footage: Footage) -> IndexArray:
    """Every window that fits; to pad adds one that begins at the next stride, if it holds frames not yet seen."""
    step = sampling.step or 1
    stride = int(sampling.number or footage.count * step)
    span = (footage.count - 1) * step + 1
    fits = max(0, (footage.total - span) // stride + 1)
    if not fits:
        _refuse_short(footage, footage.total, span)
    seen = (fits - 1) * stride + span if fits else 0
    more = footage.pad == "repeat-last" and seen < footage.total and fits * stride < footage.total
    starts = np.arange(fits + more, dtype=np.int64) * stride
    numbers: IndexArray = starts[:, None] + np.arange(footage.count, dtype=np.int64) * step
    return np.minimum(numbers, footage.total - 1)


def _refuse_short(footage: Footage, there: int, needed: int) -> None:
    if there >= needed or footage.pad == "repeat-last":
        return
    whose = "has" if there == footage.total else f"has segments of {there} frames, from"
    span = "" if needed == footage.count else f" over {needed}"
    raise VideoError(
        f"{footage.name} {whose} {footage.total} frames and the clip takes {footage.count}{span}; give a longer video, "
        "export for fewer frames, or ask to pad with repeat-last"
    )


_CHOOSE: dict[str, Callable[[Sampling, Footage], IndexArray]] = {
    "uniform": _uniform,
    "fps": _fps,
    "stride": _stride,
    "segments": _segments,
    "window": _window,
    "joined": _joined,
}
