"""How long does a query take on one backend: computing alone, and from host frames to host results?

The two are never mixed. Where a backend computes on the host, one query gives both: its clips are held, computed on
and fetched. On a device, clips that stay there are computed on apart, by the device's events where it has them. Every
result is held against what is expected, and every clock against another one.

Axes: B clips of a query, T frames, H, W pixels, C colours.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise

import numpy as np

from vjepa2.errors import Vjepa2Error
from vjepa2.spec import OutputName

from .backends import Backend
from .backends.base import FloatArray, FramesArray, InputArray
from .backends.held import HeldClips
from .parity import measure

CALL, EVENTS = "the synchronous call, its inputs in place", "the device's events, inputs on the device"
_SLACK, _SLACK_MS = 0.10, 0.3  # by which two clocks may differ, of the longer time and beside it
_WAIT, _WAIT_MS = 0.05, 0.3  # of computing, that fetching its results may wait for it
_LEAST_WAITS, _MOST_WAITS = 3, 101
Read = Callable[[], FramesArray]


class TimingError(Vjepa2Error):
    """Times that cannot be believed, or results that are not the model's."""

    exit_code = 1  # measured, and not good


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Clips as a backend takes them, and what it must make of them."""

    read: Read  # gives frames_BTHWC: an array that is there, or those of a file
    inputs: Mapping[str, InputArray] = field(default_factory=dict)  # what a head takes beside frames
    expected: FloatArray | None = None  # rows of the output, None where nothing is known of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Queries that were made one after the other."""

    boundary: str  # of `compute_ms`
    compute_ms: tuple[float, ...]
    end_to_end_ms: tuple[float, ...]


class QueryTimer:
    """One backend and the queries that it answers in turn."""

    def __init__(
        self,
        backend: Backend,
        queries: Sequence[Query],
        *,
        output: OutputName,
        least_cosine: float,
        clips_a_call: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._backend, self._queries, self._output = backend, cycle(queries), output
        self._least_cosine, self._step, self._clock = least_cosine, clips_a_call, clock
        self._is_whole: bool | None = None  # not known before something was held
        self._results: list[tuple[FloatArray, FloatArray | None]] = []  # of this turn, and what they must be
        self._waits: deque[tuple[float, float]] = deque(maxlen=_MOST_WAITS)  # ms of computing, and of fetching after it

    def run(self, calls: int) -> Turn:
        """Time so many queries; a `TimingError` if the times or the results cannot be right."""
        asked = [next(self._queries) for _ in range(calls)]
        if self._is_whole is None:
            _, held = next(self._hold_parts(asked[0], asked[0].read()))
            self._is_whole = held.is_whole
        if self._is_whole:
            pairs = [self._time_steps(query) for query in asked]
            self._judge()
            compute_ms, whole_ms = tuple(ms for ms, _ in pairs), tuple(ms for _, ms in pairs)
            return Turn(boundary=CALL, compute_ms=compute_ms, end_to_end_ms=whole_ms)
        whole_ms = tuple(self._time_run(query) for query in asked)
        boundary, compute_ms = self._time_held(asked[0], calls)
        self._judge()
        return Turn(boundary=boundary, compute_ms=compute_ms, end_to_end_ms=whole_ms)

    def _hold_parts(self, query: Query, frames_BTHWC: FramesArray) -> Iterator[tuple[slice, HeldClips]]:
        """The query's clips, as many at a time as the graph takes."""
        for first in range(0, len(frames_BTHWC), self._step):
            rows = slice(first, first + self._step)
            inputs = {name: array[rows] for name, array in query.inputs.items()}
            yield rows, self._backend.hold(frames_BTHWC[rows], (self._output,), inputs)

    def _time_steps(self, query: Query) -> tuple[float, float]:
        """Milliseconds of the synchronous calls, and of all from frames to results, of which they are a part."""
        clock, parts, computing_s, fetching_s, held = self._clock, [], 0.0, 0.0, None
        start_s = clock()
        for _, held in self._hold_parts(query, query.read()):
            called_s = clock()
            held.compute()
            done_s = clock()
            parts.append(held.fetch()[self._output])
            computing_s += done_s - called_s
            fetching_s += clock() - done_s
        end_s = clock()
        assert held is not None
        held.fetch()  # what is there already: what fetching takes where nothing has to be waited for
        copying_s = len(parts) * (clock() - end_s)
        self._waits.append((1e3 * computing_s, 1e3 * (fetching_s - copying_s)))
        self._results.append((np.concatenate(parts), query.expected))
        return 1e3 * computing_s, 1e3 * (end_s - start_s)

    def _time_run(self, query: Query) -> float:
        """Milliseconds from frames to results, as an app would get them."""
        start_s = self._clock()
        results = self._backend.run(query.read(), (self._output,), query.inputs).by_name()
        whole_ms = 1e3 * (self._clock() - start_s)
        self._results.append((results[self._output], query.expected))
        return whole_ms

    def _time_held(self, query: Query, calls: int) -> tuple[str, tuple[float, ...]]:
        """What was timed, and the milliseconds of so many times the query, its clips staying on the device."""
        total_ms, boundary = np.zeros(calls), EVENTS
        for rows, held in self._hold_parts(query, query.read()):
            start_s = self._clock()
            events_ms = held.compute(calls)
            if events_ms is None:
                total_ms += self._time_calls(held, calls)
                boundary = CALL
            else:
                self._refuse_disagreement(sum(events_ms), 1e3 * (self._clock() - start_s))
                total_ms += events_ms
            expected = None if query.expected is None else query.expected[rows]
            self._results.append((held.fetch()[self._output], expected))
        return boundary, tuple(total_ms.tolist())

    def _time_calls(self, held: HeldClips, calls: int) -> list[float]:
        """Milliseconds of each synchronous call."""
        stamps_s = [self._clock()]
        for _ in range(calls):
            held.compute()
            stamps_s.append(self._clock())
        held.fetch()
        fetched_s = self._clock()
        held.fetch()
        copying_s = self._clock() - fetched_s
        self._waits.append((1e3 * (stamps_s[-1] - stamps_s[0]), 1e3 * (fetched_s - stamps_s[-1] - copying_s)))
        return [1e3 * (end - start) for start, end in pairwise(stamps_s)]

    def _judge(self) -> None:
        """Hold a turn's times and results against what must be, once they are all there."""
        self._refuse_waiting()
        results, self._results = self._results, []
        for rows, expected in results:
            self._check(rows, expected)

    def _refuse_waiting(self) -> None:
        """A call that returns before it is done leaves the rest of its time to whoever fetches its results.

        Medians are judged: any single fetch may be held up by another process.
        """
        if len(self._waits) < _LEAST_WAITS:
            return
        computing_ms, waited_ms = (statistics.median(times) for times in zip(*self._waits, strict=True))
        if waited_ms > max(_WAIT * computing_ms, _WAIT_MS):
            raise TimingError(
                f"{self._backend.name} returned after {computing_ms:.3g} ms, and fetching its results then waited "
                f"{waited_ms:.3g} ms (medians): it is not done when it says so, and its times are not those of "
                "computing"
            )

    def _refuse_disagreement(self, events_ms: float, wall_ms: float) -> None:
        if not abs(events_ms - wall_ms) <= max(_SLACK * max(events_ms, wall_ms), _SLACK_MS):
            raise TimingError(
                f"{self._backend.name}'s events say {events_ms:.4g} ms and the clock {wall_ms:.4g} ms for the same "
                f"calls; they must agree within {_SLACK:.0%}: the device was waited for too early, or not used alone"
            )

    def _check(self, rows: FloatArray, expected: FloatArray | None) -> None:
        if not np.isfinite(rows).all():
            raise TimingError(f"{self._backend.name} gave numbers that are not finite while it was timed")
        worst = 1.0 if expected is None else float(measure(_pool(expected), _pool(rows))[0].min())
        if not worst >= self._least_cosine:
            raise TimingError(
                f"{self._backend.name} gave other results while it was timed than when it was proved: cosine "
                f"{worst:.7g}, must be at least {self._least_cosine}"
            )


def _pool(rows: FloatArray) -> FloatArray:
    """A vector a clip: single tokens may be quiet ones, which any 16-bit form loses."""
    return rows.mean(axis=1) if rows.ndim == 3 else rows
