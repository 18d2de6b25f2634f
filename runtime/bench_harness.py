"""In which order are rows opened, proved, warmed, timed and closed, so that they can be compared?

The base stays open; every other row takes turns with it and is closed, so that two models are in memory at most and
every ratio is of neighbours in time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error

from .backends.placement import Executed
from .bench_draft import Draft
from .bench_row import RowRequest, Subject
from .bench_worker import WorkerSubject
from .latency_report import SCENES, Scenario
from .latency_stats import count_needed
from .machine_state import CpuTime, Machine, MachineState, describe_machine, read_cpu_time, read_state
from .warm_up import warm_up

_LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured, and for how long."""

    scenario: Scenario = "single-stream"
    device: str | None = None
    precision: Executed | None = None
    video: str | None = None  # that end-to-end times begin with
    seconds: float = 60.0  # that a row is timed beside its base, if its percentile does not need less


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the harness asks of the machine; tests put their own in its place."""

    make_subject: Callable[[RowRequest], Subject] = WorkerSubject
    clock: Callable[[], float] = time.perf_counter
    read_state: Callable[[], MachineState] = read_state
    read_cpu_time: Callable[[list[int]], CpuTime] = read_cpu_time
    describe_machine: Callable[[], Machine] = describe_machine
    say: Callable[[str], None] = lambda line: None  # to whoever waits


class Harness:
    """The rows measured so far, and those that are open."""

    def __init__(self, options: BenchOptions, surroundings: Surroundings) -> None:
        self._options, self._here = options, surroundings
        self._needed = count_needed(SCENES[options.scenario].percentile)
        self.drafts: list[Draft] = []

    def measure_group(self, rows: Sequence[tuple[Bundle, str]], *, ended: Callable[[], object]) -> None:
        """Rows that can be compared, the first of them with each of the others; `ended` is called after each."""
        base = self._start(*rows[0])
        for row in rows[1:]:
            draft = self._start(*row)
            self._alternate(None if base.failure else base, draft)
            self._end(draft)
            ended()
        if len(rows) == 1:
            self._alternate(None, base)
        self._end(base)
        ended()

    def close(self) -> None:
        """End whatever is still open."""
        for draft in self.drafts:
            draft.subject.close()

    def _start(self, bundle: Bundle, backend: str) -> Draft:
        """Open, prove and warm up; what fails is told in the row."""
        options, here = self._options, self._here
        request = RowRequest(
            bundle=str(bundle.path),
            backend=backend,
            device=options.device,
            precision=options.precision,
            clips=SCENES[options.scenario].clips,
            video=options.video,
        )
        draft = Draft(str(bundle.path), backend, bundle.manifest, here.make_subject(request))
        self.drafts.append(draft)
        here.say(f"{backend} on {bundle.path.name}: open, prove, warm up")
        try:
            draft.opened = draft.subject.open()
            if not draft.opened.verdict.passed:
                draft.failure = f"parity failed, so there are no times: {'; '.join(draft.opened.faults)}"
                return draft
            earlier_ms = [] if options.video else draft.opened.earlier_ms
            draft.warm = warm_up(
                lambda calls: draft.subject.turn(calls).compute_ms,
                earlier_ms,
                most_s=options.seconds / 2,
                clock=here.clock,
            )
        except Vjepa2Error as error:
            draft.failure = str(error)
        return draft

    def _alternate(self, base: Draft | None, own: Draft) -> None:
        """Turns of both, AB, BA, until there are samples enough or the time is over."""
        if own.failure:
            return
        drafts = [own] if base is None else [base, own]
        self._here.say(f"{' and '.join(draft.backend for draft in drafts)} on {Path(own.bundle).name}: in turns")
        if base is not None:
            own.base = base.backend if base.bundle == own.bundle else f"{base.backend} on {base.bundle}"
        self._note_moment(drafts)
        start_s, rounds = self._here.clock(), 0
        while rounds < _LEAST_ROUNDS or (
            min(draft.samples for draft in drafts) < self._needed
            and self._here.clock() - start_s < self._options.seconds
        ):
            order = drafts if rounds % 2 == 0 else drafts[::-1]
            for draft in order:
                if not self._take_turn(draft):
                    self._note_moment(drafts)
                    return
            if base is not None:
                own.pairs.append((base.turns[-1], own.turns[-1]))
            rounds += 1
        self._note_moment(drafts)

    def _take_turn(self, draft: Draft) -> bool:
        """Whether a turn could be timed."""
        assert draft.warm is not None
        try:
            draft.turns.append(draft.subject.turn(draft.warm.calls_a_turn))
        except Vjepa2Error as error:
            draft.failure = str(error)
            return False
        return True

    def _note_moment(self, drafts: Sequence[Draft]) -> None:
        sessions = [draft.subject.session for draft in drafts]
        now = (
            self._here.clock(),
            self._here.read_state(),
            self._here.read_cpu_time([session for session in sessions if session is not None]),
        )
        for draft in drafts:
            draft.moments.append(now)

    def _end(self, draft: Draft) -> None:
        try:
            if not draft.failure:
                draft.finished = draft.subject.finish()
        except Vjepa2Error as error:
            draft.failure = str(error)
        draft.subject.close()
