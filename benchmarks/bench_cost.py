"""What does measuring add to what it measures: its own loop beside a bare one, around a backend that spins?

Bare is `Backend.run` in a loop. Turns of both alternate. All is in processor time of this thread, spinning too, so that
other processes' turns on the core are nobody's. Medians; more than 1 % is exit status 1.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from tests.fake_timing import Behaviour, Clock, FakeBackend
from vjepa2.bundle import Bundle
from vjepa2.runtime.backends import Backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray
from vjepa2.runtime.backends.held import HeldCall, HeldClips, Results
from vjepa2.runtime.bench_row import RowRequest
from vjepa2.runtime.bench_subject import LocalSubject
from vjepa2.runtime.parity import Reference
from vjepa2.spec import OutputName

CALL_MS, CALLS, TURNS, MOST = 10.0, 10, 40, 0.01


class SpinBackend(FakeBackend):
    """Computes for exactly `CALL_MS`; what it gives was looked up before."""

    def __init__(self, bundle: Bundle, behaviour: Behaviour, clock: Clock) -> None:
        super().__init__(bundle, behaviour, clock)
        self.known: dict[bytes, Results] = {}

    def pass_time(self) -> None:
        """One call."""
        end_s = time.thread_time() + CALL_MS / 1e3
        while time.thread_time() < end_s:
            pass

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        return HeldCall(lambda: self._compute(frames_BTHWC, extras, outputs))

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        clips = frames_BTHWC.tobytes()
        if clips not in self.known:
            self.known[clips] = self.look_up(frames_BTHWC, outputs)
        self.pass_time()
        return self.known[clips]


class SpinSubject(LocalSubject):
    """A row of it, all else as in a benchmark."""

    def _open_backend(self, bundle: Bundle) -> Backend:
        self.backend = SpinBackend(bundle, Behaviour(), Clock())
        return self.backend


def main(folder: Path) -> int:
    """Print both shares; whether they are small enough is the exit status."""
    request = RowRequest(bundle=str(folder), backend="onnxruntime", device=None, precision=None, clips=1, video=None)
    subject = SpinSubject(request, clock=time.thread_time)
    assert subject.open().verdict.passed
    backend, clips = subject.backend, Reference.load(Bundle.open(folder)).frames_BTHWC[:, None]
    subject.turn(CALLS)  # looks everything up
    compute_ms: list[float] = []
    whole_ms: list[float] = []
    turns_ms, bare_ms = [], []
    for _ in range(TURNS):
        start_s = time.thread_time()
        turn = subject.turn(CALLS)
        turns_ms.append(1e3 * (time.thread_time() - start_s) / CALLS)
        compute_ms += turn.compute_ms
        whole_ms += turn.end_to_end_ms
        start_s = time.thread_time()
        for call in range(CALLS):
            backend.run(clips[call % 3])
        bare_ms.append(1e3 * (time.thread_time() - start_s) / CALLS)
    subject.close()
    bare = statistics.median(bare_ms)
    shares = {
        "computing, beside what it spins": statistics.median(compute_ms) / CALL_MS - 1,
        "end to end, beside a bare call": statistics.median(whole_ms) / bare - 1,
        "a query in a turn, beside a bare call": statistics.median(turns_ms) / bare - 1,
    }
    print(
        f"{date.today()}, {TURNS} turns of {CALLS} calls that spin for {CALL_MS:g} ms; a bare call takes {bare:.3f} ms"
    )
    for name, share in shares.items():
        print(f"{name}: {share:+.3%}")
    return 0 if max(shares.values()) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
