"""A backend whose every duration is known, on a clock that nothing else moves."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.runtime.backends import Backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray
from vjepa2.runtime.backends.held import HeldClips, Results
from vjepa2.runtime.backends.placement import Executed
from vjepa2.runtime.bench_harness import BenchOptions, Surroundings
from vjepa2.runtime.bench_row import Finished, RowRequest
from vjepa2.runtime.bench_subject import LocalSubject
from vjepa2.runtime.latency import LatencyReport, Plan, measure_latency
from vjepa2.runtime.machine_state import CpuTime, Machine, MachineState
from vjepa2.runtime.parity import Reference
from vjepa2.runtime.roofline import Rates
from vjepa2.spec import OutputName

MACHINE = Machine(
    system="none", processor="fake", cores=2, memory_bytes=1, gpus=(), python="3", versions={}, thread_settings={},
    power_mode=None,
)  # fmt: skip


class Clock:
    """Seconds that pass only when told to, and by `cost_s` whenever they are read."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now_s, self.cost_s = 0.0, cost_s

    def __call__(self) -> float:
        self.now_s += self.cost_s
        return self.now_s


@dataclass(slots=True)
class Behaviour:
    """How a fake backend behaves."""

    times_ms: Iterable[float] = (10.0,)  # of its calls; the last again and again
    is_asynchronous: bool = False  # computing returns at once, and fetching waits
    events: float | None = None  # what its events say of a call's time; None: it has none
    computes_in: Executed | None = None  # known from the first run on
    scale: float = 1.0  # of its results
    breaks_after: int | None = None  # calls that give the right results; from then on others
    fails_after: int | None = None  # calls, and then this
    failure: Callable[[], BaseException] = KeyboardInterrupt
    calls: int = 0
    durations: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        times = list(itertools.islice(self.times_ms, 20_000))
        self.durations = itertools.chain(times, itertools.repeat(times[-1]))


class FakeBackend(Backend):
    """Knows the results of the clips that export stored, and takes the time that it was told to."""

    name = "fake"

    def __init__(self, bundle: Bundle, behaviour: Behaviour, clock: Clock) -> None:
        super().__init__(bundle)
        self.behaviour, self.clock, self.reference = behaviour, clock, Reference.load(bundle)
        self.done_s = 0.0

    def look_up(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> dict[OutputName, FloatArray]:
        """The reference's rows; of any other clip the first one's, upside down."""
        same = [
            next((i for i, known in enumerate(self.reference.frames_BTHWC) if np.array_equal(known, clip)), None)
            for clip in frames_BTHWC
        ]
        held = self.reference.outputs.by_name()
        limit = self.behaviour.breaks_after
        sign = self.behaviour.scale * (-1 if limit is not None and self.behaviour.calls > limit else 1)
        return {
            name: np.stack([-held[name][0] if row is None else sign * held[name][row] for row in same])
            for name in outputs
        }

    def pass_time(self) -> None:
        """One call."""
        behaviour = self.behaviour
        behaviour.calls += 1
        if behaviour.fails_after is not None and behaviour.calls > behaviour.fails_after:
            raise behaviour.failure()
        self.done_s = max(self.clock.now_s, self.done_s) + next(behaviour.durations) / 1e3
        if not behaviour.is_asynchronous:
            self.clock.now_s = self.done_s

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        self.pass_time()
        self.clock.now_s = max(self.clock.now_s, self.done_s)
        self.precision = self.behaviour.computes_in or self.precision
        return self.look_up(frames_BTHWC, outputs)

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        return _Held(self, frames_BTHWC, outputs)

    def _release(self) -> None:
        pass


class _Held(HeldClips):
    def __init__(self, backend: FakeBackend, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> None:
        self.backend, self.frames_BTHWC, self.outputs = backend, frames_BTHWC, outputs
        self.is_whole = backend.behaviour.events is None

    def compute(self, calls: int = 1) -> tuple[float, ...] | None:
        events_ms = []
        for _ in range(calls):
            start_s = self.backend.clock.now_s
            self.backend.pass_time()
            events_ms.append(1e3 * (self.backend.done_s - start_s))
        share = self.backend.behaviour.events
        return None if share is None else tuple(share * each for each in events_ms)

    def fetch(self) -> Results:
        self.backend.clock.now_s = max(self.backend.clock.now_s, self.backend.done_s)
        return self.backend.look_up(self.frames_BTHWC, self.outputs)


class FakeSubject(LocalSubject):
    """A row of a fake backend."""

    def __init__(self, request: RowRequest, behaviour: Behaviour, clock: Clock) -> None:
        super().__init__(request, clock=clock)
        self.behaviour, self.fake_clock = behaviour, clock

    def finish(self) -> Finished:
        rates = Rates(measured_by="nobody", precision="fp32", gemm_flops=1e12, copy_bytes=1e11)
        return Finished(imported_bytes=1, peak_bytes=2, device_bytes=None, rates=rates)

    def _load_library(self) -> None:
        pass

    def _open_backend(self, bundle: Bundle) -> Backend:
        return FakeBackend(bundle, self.behaviour, self.fake_clock)


def state(**facts: object) -> MachineState:
    """A machine at rest, but for `facts`."""
    calm = {"clocks_mhz": (), "temperatures_c": {}, "throttle_count": 0, "load_1m": 0.0, "stalled_percent": 0.0}
    return MachineState(**{**calm, **facts})  # type: ignore[arg-type]


def surround(
    behaviours: Mapping[str, Behaviour],
    *,
    clock: Clock | None = None,
    states: Iterable[MachineState] = (),
    others: float = 0.0,
) -> Surroundings:
    """Fake backends, called by names of ours, on a machine in these states; `others` take cores meanwhile."""
    clock = clock or Clock()
    told = itertools.chain(states, itertools.repeat(state()))
    return Surroundings(
        make_subject=lambda request: FakeSubject(request, behaviours[request.backend], clock),
        clock=clock,
        read_state=lambda: next(told),
        read_cpu_time=lambda sessions: CpuTime(busy_s=clock.now_s * (1 + others), stolen_s=0.0, ours_s=clock.now_s),
        describe_machine=lambda: MACHINE,
    )


def bench(
    folder: Path,
    behaviours: Mapping[str, Behaviour],
    *,
    clock: Clock | None = None,
    states: Iterable[MachineState] = (),
    others: float = 0.0,
    save: Callable[[LatencyReport], None] = lambda _: None,
    **options: object,
) -> LatencyReport:
    """Time what `surround` makes."""
    bundle, surroundings = Bundle.open(folder), surround(behaviours, clock=clock, states=states, others=others)
    plan = Plan(rows=tuple((bundle, name) for name in behaviours), skipped={})
    return measure_latency(plan, BenchOptions(**options), surroundings, save=save)  # type: ignore[arg-type]
