"""What has an engine done so far, and how long did its requests wait and compute?"""

import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Literal

WINDOW = 2048  # requests that percentiles are of
Event = Literal["taken", "computed", "failed", "cancelled", "expired", "refused", "closed", "ok", "partial", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Times of the requests that were computed: all in `count` and `sum_ms`, the last 2048 in the rest.

    Percentiles are times that occurred: the least that so many of a hundred did not exceed; None before the first.
    """

    count: int
    sum_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """An engine's life so far. A request is up to `batch_size` clips of one `encode`, or one `submit`."""

    requests: int  # taken into the queue; each ends as one of the next five
    computed: int
    failed: int  # the backend raised an error
    cancelled: int  # before they were begun
    expired: int  # their deadline passed before they were begun
    closed: int  # the engine was closed before they were begun
    refused: int  # never taken in: the queue was full
    calls: int  # of the backend
    clips: int  # that these computed
    waiting_requests: int  # now
    waiting_clips: int
    videos_ok: int  # that `encode` read
    videos_partial: int
    videos_rejected: int
    first_call_ms: float | None  # apart, for it is slower: it is in no spread
    wait: Spread  # from `submit` to the call
    compute: Spread  # of the call, shared or not
    total: Spread


class Meter:
    """Counts, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Event] = Counter()
        self._calls = self._clips = 0
        self._first_call_ms: float | None = None
        self._wait, self._compute, self._total = _Times(), _Times(), _Times()

    def count(self, event: Event, times: int = 1) -> None:
        """Something happened to a request or a video."""
        with self._lock:
            self._counts[event] += times

    def add_call(self, clips: int, compute_ms: float, waits_ms: Iterable[float]) -> None:
        """The backend computed `clips`, for requests that had waited so long."""
        with self._lock:
            self._calls += 1
            self._clips += clips
            waits_ms = list(waits_ms)
            self._counts["computed"] += len(waits_ms)
            if self._first_call_ms is None:
                self._first_call_ms = compute_ms
                return
            for wait_ms in waits_ms:
                self._wait.add(wait_ms)
                self._compute.add(compute_ms)
                self._total.add(wait_ms + compute_ms)

    def read(self, waiting_requests: int, waiting_clips: int) -> EngineMetrics:
        """Everything, as it is at one moment."""
        with self._lock:
            counts = self._counts
            return EngineMetrics(
                requests=counts["taken"],
                computed=counts["computed"],
                failed=counts["failed"],
                cancelled=counts["cancelled"],
                expired=counts["expired"],
                closed=counts["closed"],
                refused=counts["refused"],
                calls=self._calls,
                clips=self._clips,
                waiting_requests=waiting_requests,
                waiting_clips=waiting_clips,
                videos_ok=counts["ok"],
                videos_partial=counts["partial"],
                videos_rejected=counts["rejected"],
                first_call_ms=self._first_call_ms,
                wait=self._wait.spread(),
                compute=self._compute.spread(),
                total=self._total.spread(),
            )


class _Times:
    def __init__(self) -> None:
        self._count, self._sum_ms = 0, 0.0
        self._last_ms: deque[float] = deque(maxlen=WINDOW)

    def add(self, time_ms: float) -> None:
        self._count += 1
        self._sum_ms += time_ms
        self._last_ms.append(time_ms)

    def spread(self) -> Spread:
        ordered_ms = sorted(self._last_ms)
        p50, p90, p99, most = (
            ordered_ms[ceil(part * len(ordered_ms) / 100) - 1] if ordered_ms else None for part in (50, 90, 99, 100)
        )
        return Spread(count=self._count, sum_ms=self._sum_ms, p50_ms=p50, p90_ms=p90, p99_ms=p99, max_ms=most)
