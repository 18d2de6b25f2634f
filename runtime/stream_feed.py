"""How does a source become windows, in a thread of its own: its sessions, pauses between them, its end?"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vjepa2.errors import VideoError

from .stream_source import Source
from .stream_windows import LatestWindow, WindowMaker

_log = logging.getLogger("vjepa2")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
Notify = Callable[[str], None]


class Clock:
    """The machine's monotonic clock, by which workers tell when a frame arrived."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Wait, but no longer than until `stop`."""
        stop.wait(seconds)


@dataclass(slots=True)
class _Session:
    began_s: float
    frames: int = 0


class Feed:
    """Follows a source, session after session, and offers each window that is due; it never waits for anyone."""

    def __init__(self, source: Source, maker: WindowMaker, latest: LatestWindow, clock: Clock, notify: Notify) -> None:
        self.sessions = 0
        self.due = 0  # windows
        self.spacing_s = 0.0  # between due windows, in all
        self.spacings = 0
        self._source, self._maker, self._latest, self._clock = source, maker, latest, clock
        self._notify = notify
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vjepa2-stream", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End the source and the thread. Safe to call twice."""
        self._stop.set()
        self._source.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # whatever it is, the one who waits for windows must hear of it
            self._latest.end(None if self._stop.is_set() else error)
        else:
            self._latest.end()

    def _follow(self) -> None:
        """Sessions until the end. A source that has never given a frame fails, one that has is opened again."""
        pause_s = 0.0
        while not self._stop.is_set():
            session = _Session(self._clock.now_s())
            why = self._hold(session)
            if why is None and self._source.at_end == "finish":
                return
            if self._stop.is_set():
                return
            lasted_s = self._clock.now_s() - session.began_s
            if why is None and self._source.at_end == "rewind" and session.frames:
                self._maker.break_off("it began again")
                continue
            why = why or "it ended"
            if not self._maker.seen or self._source.at_end == "finish":
                raise VideoError(f"{self._source.name}: {why}")
            self._maker.break_off(f"it was opened again ({why})")
            calm = session.frames and lasted_s > pause_s
            pause_s = FIRST_PAUSE_S if calm or not pause_s else min(2 * pause_s, LONGEST_PAUSE_S)
            self._tell(f"{self._source.name}: {why}; it is opened again in {pause_s:g} s")
            self._clock.pause(pause_s, self._stop)

    def _hold(self, session: _Session) -> str | None:
        """One session; why it failed."""
        self.sessions += 1
        try:
            for frame in self._source.connect():
                session.frames += 1
                before = self._maker.gaps
                window = self._maker.push(frame)
                if self._maker.gaps != before:
                    self._tell(f"{self._source.name}: gap: {self._maker.last_gap}")
                if window is not None:
                    self.due += 1
                    if window.follows_s is not None:
                        self.spacing_s += window.follows_s
                        self.spacings += 1
                    self._latest.put(window)
        except VideoError as error:
            return str(error)
        return None

    def _tell(self, text: str) -> None:
        _log.info("%s", text)
        self._notify(text)
