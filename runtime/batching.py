"""How do requests of many threads become calls of one backend?

Axes: B clips.
"""

import atexit
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.spec import OutputName

from .backends.base import Backend, FloatArray, FramesArray
from .metrics import EngineMetrics, Meter
from .waiting_line import Request, WaitingLine, WhenFull

_DYNAMIC = 8  # clips in a shared call, where the bundle leaves it open


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """What requests of different callers share: calls of the backend, and room to wait in."""

    max_batch: int | None = None  # clips in a call that callers share; None: the bundle's batch, 8 if that is dynamic
    max_wait_ms: float = 0.0  # that a request waits for company while the backend is free
    max_waiting: int = 64  # clips; while so many wait, no request is taken in

    def __post_init__(self) -> None:
        for name, value in (("max_batch", self.max_batch), ("max_waiting", self.max_waiting)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.max_wait_ms < math.inf:
            raise ValueError(f"max_wait_ms is {self.max_wait_ms}; it must be a number from 0 on")


class BatchQueue:
    """The door to a backend, for any thread: one thread of its own makes every call, in the order requests came.

    Later requests join the first in its call if they want the same output, up to `max_batch` clips, and never two of
    one owner. So what a lone caller asks for is computed in the calls that he asked for.
    """

    def __init__(self, backend: Backend, options: QueueOptions = QueueOptions()) -> None:
        batch = backend.bundle.manifest.batch
        self.meter = Meter()
        self._backend, self._options = backend, options
        self._max_batch = options.max_batch or (_DYNAMIC if isinstance(batch, str) else batch)
        self._line = WaitingLine(options.max_waiting, self.meter)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(
        self,
        frames_BTHWC: FramesArray,
        output: OutputName,
        *,
        owner: object = None,
        deadline_s: float | None = None,
        asked_s: float | None = None,
        when_full: WhenFull = "wait",
        finish: Callable[[FloatArray], FloatArray] = lambda rows: rows,
    ) -> Future[FloatArray]:
        """A future of `finish` of one output, a row a clip.

        A request that was not begun `deadline_s` seconds after `asked_s` (on the monotonic clock; now, by default)
        ends with a `DeadlineError`; one that finds `max_waiting` clips before it waits for room, or is a `BusyError`.
        """
        check_deadline(deadline_s)
        self.check_open()
        self._backend.check(frames_BTHWC, (output,))
        now_s, span_s = monotonic(), math.inf if deadline_s is None else deadline_s
        request = Request(
            frames_BTHWC=frames_BTHWC,
            output=output,
            owner=object() if owner is None else owner,
            finish=finish,
            arrived_s=now_s,
            allowed_s=span_s,
            deadline_s=(now_s if asked_s is None else asked_s) + span_s,
            leave_s=now_s + min(self._options.max_wait_ms / 1e3, span_s / 2),
        )
        self._line.put(request, when_full)
        self._start()
        return request.future

    @property
    def bundle(self) -> Bundle:
        """What the backend runs."""
        return self._backend.bundle

    def row_shape(self, output: OutputName) -> tuple[int, ...]:
        """Of one clip's row of an output; a `BackendError` if the bundle has no such output."""
        shapes = {info.name: info.shape[1:] for info in self._backend.bundle.manifest.outputs}
        if output not in shapes:
            raise BackendError(f"the bundle has no output [{output!r}]; it has {', '.join(shapes)}")
        return tuple(int(size) for size in shapes[output])

    def check_room(self) -> None:
        """Raise a `BusyError` if no request can be taken in now."""
        self._line.await_room("refuse")

    def check_open(self) -> None:
        """Raise a `BackendError` if this was closed."""
        self._line.check_open()

    def read_metrics(self) -> EngineMetrics:
        """What was done so far, and how many wait now."""
        return self.meter.read(*self._line.count())

    def close(self) -> None:
        """End what waits with a `BackendError`; what is being computed comes to its end. Safe to call twice.

        Python does so where an app ends without it: the threads of a library, left in a call, would abort.
        """
        atexit.unregister(self.close)
        self._line.close()
        with self._starting:
            thread = self._thread
        if thread and thread is not threading.current_thread():  # a future's callback may close
            thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="vjepa2-backend", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _serve(self) -> None:
        while batch := self._line.take(self._max_batch):
            requests = [request for request in batch if self._line.begin(request)]
            if requests:
                self._compute(requests)

    def _compute(self, requests: list[Request]) -> None:
        begun_s, output = monotonic(), requests[0].output
        frames = [request.frames_BTHWC for request in requests]
        try:
            together_BTHWC = frames[0] if len(frames) == 1 else np.concatenate(frames)
            rows_B = self._backend.run(together_BTHWC, (output,)).by_name()[output]
            sizes = np.cumsum([request.clips for request in requests])[:-1]
            parts = [rows_B] if len(frames) == 1 else [part.copy() for part in np.split(rows_B, sizes)]
            results = [request.finish(part) for request, part in zip(requests, parts, strict=True)]
        except BaseException as error:  # whatever it is, somebody waits for it
            self.meter.count("failed", len(requests))
            for request in requests:
                request.future.set_exception(error)
            return
        waits_ms = [1e3 * (begun_s - request.arrived_s) for request in requests]
        self.meter.add_call(len(rows_B), 1e3 * (monotonic() - begun_s), waits_ms)
        for request, result in zip(requests, results, strict=True):
            request.future.set_result(result)


def check_deadline(deadline_s: float | None) -> None:
    """Raise a `ValueError` unless it is a time from now on, in seconds, or None."""
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s is {deadline_s}; it must be above 0")
