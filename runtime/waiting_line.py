"""Which requests wait, for how long at most, and which of them are taken together next?

Axes: B clips, T frames, H, W pixels, C colours.
"""

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from vjepa2.errors import BackendError, BusyError, DeadlineError
from vjepa2.spec import OutputName

from .backends.base import FloatArray, FramesArray
from .metrics import Event, Meter

WhenFull = Literal["wait", "refuse"]
_HOUR_S = 3600.0  # there is a longest time that a lock can be waited for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """Clips that wait for one output of them; times are `monotonic`'s."""

    frames_BTHWC: FramesArray
    output: OutputName
    owner: object  # of whose requests no two are taken together
    finish: Callable[[FloatArray], FloatArray]
    arrived_s: float
    allowed_s: float  # from when it was asked for to the deadline
    deadline_s: float  # from then on it is not begun
    leave_s: float  # until then it waits for company
    future: Future[FloatArray] = field(default_factory=Future)

    @property
    def clips(self) -> int:
        """How many."""
        return len(self.frames_BTHWC)


class WaitingLine:
    """Requests in the order they came, no more than there is room for, with a thread that ends the late ones."""

    def __init__(self, max_clips: int, meter: Meter) -> None:
        self._max_clips, self._meter = max_clips, meter
        self._owner, self._closed = os.getpid(), False
        self._requests: list[Request] = []
        self._lock = threading.RLock()
        self._arrived, self._left, self._hurried = (threading.Condition(self._lock) for _ in range(3))
        self._timer: threading.Thread | None = None

    def put(self, request: Request, when_full: WhenFull) -> None:
        """Let a request wait. It ends by itself when it is cancelled, late, or the line is closed."""
        with self._lock:
            self.await_room(when_full, request.deadline_s)
            self._requests.append(request)
            self._meter.count("taken")
            self._arrived.notify()
            if request.deadline_s < math.inf:
                if self._timer is None:
                    self._timer = threading.Thread(target=self._end_late, name="vjepa2-deadlines", daemon=True)
                    self._timer.start()
                self._hurried.notify()
        request.future.add_done_callback(self._forget)

    def await_room(self, when_full: WhenFull, deadline_s: float = math.inf) -> None:
        """Return when a request can be taken in; an error says why none can, or not until the deadline."""
        with self._lock:
            self.check_open()
            while self.count()[1] >= self._max_clips:
                if when_full == "refuse" or monotonic() >= deadline_s:
                    self._meter.count("refused")
                    if when_full == "refuse":
                        raise BusyError(f"{self._max_clips} clips wait already; try again later, or wait for room")
                    raise DeadlineError(f"{self._max_clips} clips waited until the deadline; allow for more time")
                self._left.wait(max(0.0, min(deadline_s - monotonic(), _HOUR_S)))
                self.check_open()

    def check_open(self) -> None:
        """Raise a `BackendError` if the line is closed."""
        if self._owner != os.getpid():
            raise RuntimeError("an EmbeddingEngine cannot be used after a fork; open one in the new process")
        if self._closed:
            raise BackendError("the engine is closed; open it again")

    def take(self, max_batch: int) -> list[Request]:
        """Wait for requests, and for company until the first of them leaves; none once the line is closed."""
        with self._lock:
            while not self._closed:
                batch = self._choose(max_batch)
                leave_s = min((request.leave_s for request in batch), default=math.inf)
                if batch and (monotonic() >= leave_s or sum(request.clips for request in batch) >= max_batch):
                    for request in batch:
                        self._requests.remove(request)
                    self._left.notify_all()
                    return batch
                self._arrived.wait(max(0.0, min(leave_s - monotonic(), _HOUR_S)))
        return []

    def begin(self, request: Request) -> bool:
        """Whether a request that was taken is still wanted, and in time; otherwise it is ended."""
        if request.deadline_s <= monotonic():
            self.end([request], explain_late(request), "expired")
            return False
        if not request.future.set_running_or_notify_cancel():
            self._meter.count("cancelled")
            return False
        return True

    def end(self, requests: list[Request], error: BaseException, event: Event) -> None:
        """Give requests that were taken out, and not begun, an error. Not under the lock: a future may call back."""
        for request in requests:
            if request.future.set_running_or_notify_cancel():
                self._meter.count(event)
                request.future.set_exception(error)
            else:
                self._meter.count("cancelled")

    def count(self) -> tuple[int, int]:
        """How many requests wait, and clips."""
        with self._lock:
            return len(self._requests), sum(request.clips for request in self._requests)

    def close(self) -> None:
        """End every request that waits with a `BackendError`, and let none in. Safe to call twice."""
        with self._lock:
            self._closed = True
            left, self._requests = self._requests, []
            for condition in (self._arrived, self._left, self._hurried):
                condition.notify_all()
        self.end(left, BackendError("the engine was closed before this was computed; open it again"), "closed")
        if self._timer and self._timer is not threading.current_thread():  # a future's callback may close
            self._timer.join()

    def _choose(self, max_batch: int) -> list[Request]:
        """The first request, whatever its size, and all that fit beside it: of its output, each of another owner."""
        batch = self._requests[:1]
        room = max_batch - sum(request.clips for request in batch)
        for request in self._requests[1:]:
            alike = request.output == batch[0].output and all(request.owner is not chosen.owner for chosen in batch)
            if alike and request.clips <= room:
                batch.append(request)
                room -= request.clips
        return batch

    def _forget(self, future: Future[FloatArray]) -> None:
        """Take out the request of a future that was cancelled, unless it was taken for a call.

        It is given no request: that would be a circle, which keeps frames until the collector comes.
        """
        if not future.cancelled():
            return
        with self._lock:
            waiting = [request for request in self._requests if request.future is future]
            if waiting:
                self._requests.remove(waiting[0])
                self._left.notify_all()
        self.end(waiting, DeadlineError(), "cancelled")

    def _end_late(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                now_s = monotonic()
                late = [request for request in self._requests if request.deadline_s <= now_s]
                self._requests = [request for request in self._requests if request.deadline_s > now_s]
                if late:
                    self._left.notify_all()
                else:
                    soonest_s = min((request.deadline_s for request in self._requests), default=math.inf)
                    self._hurried.wait(min(soonest_s - now_s, _HOUR_S))
            for request in late:
                self.end([request], explain_late(request), "expired")


def explain_late(request: Request) -> DeadlineError:
    """What its future is told."""
    return DeadlineError(f"{request.allowed_s:g} s passed before this was begun; allow for more, or ask for less")
