"""Which frames of a stream make a window, when is the next one due, and which one is computed?

Axes: T frames, H, W pixels, C colours.
"""

import re
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from vjepa2.errors import VideoError

from .stream_messages import FramesArray, LiveFrame

_FORM = re.compile(r"(\d+(?:\.\d+)?)(s|f)", re.ASCII)
_SLACK_S = 1e-3  # to which containers round their time stamps


@dataclass(frozen=True, slots=True)
class Stride:
    """From one window to the next: seconds, or frames as they are taken."""

    seconds: float | None = None
    frames: int | None = None


def parse_stride(text: str) -> Stride:
    """Read `1s`, `0.5s` or `8f`; else a `VideoError`."""
    form = _FORM.fullmatch(text)
    if not form or float(form[1]) <= 0 or (form[2] == "f" and float(form[1]) % 1):
        raise VideoError(f"stride is {text!r}; it must be seconds, as in 0.5s, or a whole number of frames, as in 8f")
    return Stride(seconds=float(form[1])) if form[2] == "s" else Stride(frames=int(float(form[1])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames for one clip, none of them from behind a gap; times are seconds from the first frame of the stream."""

    frames: tuple[FramesArray, ...]  # of [H, W, 3]; the same one more than once where the stream is too slow
    start_s: float
    end_s: float  # of its last frame
    arrived_s: float  # its last frame, by the clock of the stream
    follows_s: float | None  # after the window before it; None if that lies behind a gap
    gaps: tuple[str, ...] = ()  # since the window before, which is another one when windows are dropped

    @property
    def frames_THWC(self) -> FramesArray:  # noqa: N802
        """As a clip `[T, H, W, 3]`, a copy."""
        return np.stack(self.frames)


class WindowMaker:
    """A ring of the frames that were taken last, and what it takes to cut windows from it."""

    def __init__(self, frames: int, stride: Stride, *, speed: float = 1.0) -> None:
        self.seen = 0  # frames
        self.gaps = 0
        self.last_gap = ""
        self._stride, self._speed = stride, speed
        self._ring: deque[tuple[float, FramesArray]] = deque(maxlen=frames)
        self._began_s: float | None = None  # by the clock of the stream
        self._offset_s: float | None = None  # from time stamps to seconds of the stream; None behind a gap
        self._now_s = 0.0  # of the stream
        self._due: float | None = None  # the next window: seconds of the stream, or samples
        self._samples = 0  # since the last gap
        self._arrived_s: float | None = None  # the last window
        self._size = (0, 0)
        self._news: list[str] = []

    def break_off(self, why: str) -> None:
        """Begin anew: no window holds frames from both sides. `why` goes with the next window."""
        if self._offset_s is None:  # nothing has come since the last time
            return
        self.gaps += 1
        self.last_gap = f"{why} at {self._now_s:.2f} s"
        self._news = [*self._news[-3:], self.last_gap]
        self._ring.clear()
        self._offset_s = self._due = self._arrived_s = None
        self._samples = 0

    def push(self, frame: LiveFrame) -> Window | None:
        """Take the next frame, and give the window that it completes."""
        self.seen += 1
        if frame.jump_s is not None:
            self.break_off(f"time stamps jumped by {frame.jump_s:+.2f} s")
        elif self._offset_s is not None and frame.size != self._size:
            self.break_off("frames changed from {1} x {0} to {3} x {2}".format(*self._size, *frame.size))
        self._size = frame.size
        self._now_s = self._place(frame)
        if frame.pixels_HWC is None:
            return None
        assert self._ring.maxlen is not None
        self._ring.extend([(self._now_s, frame.pixels_HWC)] * min(frame.samples, self._ring.maxlen))
        self._samples += frame.samples
        return self._cut(frame) if self._is_due() else None

    def _place(self, frame: LiveFrame) -> float:
        """Seconds of the stream: time stamps, and across a gap, which they do not tell of, what the clock says."""
        if self._began_s is None:
            self._began_s = frame.arrived_s
        if self._offset_s is None:
            by_clock_s = (frame.arrived_s - self._began_s) * self._speed
            self._offset_s = max(by_clock_s, self._now_s) - frame.time_s
        return frame.time_s + self._offset_s

    def _is_due(self) -> bool:
        if len(self._ring) != self._ring.maxlen:
            return False
        if self._stride.seconds is None:
            now, step = float(self._samples), float(self._stride.frames or 1)
        else:
            now, step = self._now_s + _SLACK_S, self._stride.seconds
        if self._due is None:
            self._due = now
        if now < self._due:
            return False
        self._due += step * ((now - self._due) // step + 1)
        return True

    def _cut(self, frame: LiveFrame) -> Window:
        previous_s, self._arrived_s = self._arrived_s, frame.arrived_s
        news, self._news = self._news, []
        return Window(
            frames=tuple(pixels_HWC for _, pixels_HWC in self._ring),
            start_s=self._ring[0][0],
            end_s=self._now_s,
            arrived_s=frame.arrived_s,
            follows_s=None if previous_s is None else frame.arrived_s - previous_s,
            gaps=tuple(news),
        )


class LatestWindow:
    """Room for one window: a new one takes the place of one that nobody came for. For two threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._window: Window | None = None
        self._dropped = 0  # since one was taken
        self._lost_news: tuple[str, ...] = ()  # of those
        self._ended = False
        self._error: BaseException | None = None

    def put(self, window: Window) -> None:
        """Offer a window."""
        with self._changed:
            if self._ended:
                return
            if self._window is not None:
                self._dropped += 1
                self._lost_news = (*self._lost_news, *self._window.gaps)[-4:]
            self._window = window
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more will come, and perhaps why; the last one may still be taken."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def cut_off(self) -> None:
        """End, without a last window; also from a handler of signals, for the lock may be taken twice."""
        with self._changed:
            self._ended, self._window, self._error = True, None, None
            self._changed.notify()

    def take(self) -> tuple[Window, int, tuple[str, ...]] | None:
        """Wait for a window; with it how many were dropped for it, and the gaps since the one taken before.

        None at the end of the stream, or the error that ended it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._window is not None or self._ended)
            window, self._window = self._window, None
            if window is None:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return None
            dropped, self._dropped = self._dropped, 0
            news, self._lost_news = (*self._lost_news, *window.gaps), ()
            return window, dropped, news
