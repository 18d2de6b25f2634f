"""Do requests of many threads become calls of one backend as promised, and does every one of them end?"""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, as_completed
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import usable_backends
from tests.gate import PATIENCE_S, GateBackend
from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, BusyError, DeadlineError
from vjepa2.runtime.backends import open_backend
from vjepa2.runtime.backends.base import FloatArray
from vjepa2.runtime.batching import BatchQueue, QueueOptions

Opened = tuple[GateBackend, BatchQueue]
Opener = Callable[..., Opened]


@pytest.fixture
def open_queue(smallest: Path) -> Iterator[Opener]:
    """A function that opens a queue before a gated backend; its options are `QueueOptions`'."""
    opened: list[Opened] = []

    def make(bundle: Path | None = None, **options: float) -> Opened:
        backend = GateBackend(bundle or smallest)
        opened.append((backend, BatchQueue(backend, QueueOptions(**options))))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for backend, queue in opened:
        backend.gate.set()
        queue.close()
        backend.close()


def submit(opened: Opened, value: int, count: int = 1, **options: object) -> Future[FloatArray]:
    """Ask for the embeddings of clips of one value."""
    backend, queue = opened
    return queue.submit(backend.clip(value, count), "embedding", **options)  # type: ignore[arg-type]


def results(*futures: Future[FloatArray]) -> list[list[float]]:
    """The first number of every row of each."""
    return [future.result(PATIENCE_S)[:, 0].tolist() for future in futures]


def test_what_comes_while_the_backend_is_busy_shares_its_next_call(open_queue: Opener) -> None:
    opened = backend, queue = open_queue()
    first = submit(opened, 1)
    backend.await_call()
    rest = [submit(opened, value, count) for value, count in ((2, 1), (3, 2), (4, 1))]
    backend.gate.set()
    assert results(first, *rest) == [[1], [2], [3, 3], [4]]
    assert backend.calls == [[1], [2, 3, 3, 4]]
    assert queue.read_metrics().calls == 2
    assert queue.read_metrics().clips == 5


@pytest.mark.parametrize(("fixture", "most"), [("exported", 1), ("in_threes", 3), ("smallest", 8)])
def test_a_call_is_shared_by_as_many_as_the_bundle_takes_at_once(
    fixture: str, most: int, open_queue: Opener, request: pytest.FixtureRequest
) -> None:
    opened = backend, queue = open_queue(request.getfixturevalue(fixture))
    first = submit(opened, 0)
    backend.await_call()
    rest = [submit(opened, value) for value in range(1, 10)]
    backend.gate.set()
    assert results(first, *rest) == [[value] for value in range(10)]
    assert queue.read_metrics().calls == 1 + -(-9 // most)
    assert backend.calls[1][:most] == list(range(1, 10))[:most]


def test_what_does_not_fit_a_call_waits_for_its_own(open_queue: Opener) -> None:
    """Too many clips, another output, the same owner; and what is larger than a call is not cut."""
    opened = backend, queue = open_queue(max_batch=4)
    first, me = submit(opened, 0), object()
    backend.await_call()
    futures = [submit(opened, 1, 2, owner=me), submit(opened, 2, 3), submit(opened, 3, owner=me), submit(opened, 4)]
    tokens = queue.submit(backend.clip(5), "tokens")
    large = submit(opened, 6, 9)
    backend.gate.set()
    assert results(first, *futures, large) == [[0], [1] * 2, [2] * 3, [3], [4], [6] * 9]
    assert tokens.result(PATIENCE_S)[0, 0, 0] == 5
    assert backend.calls == [[0], [1, 1, 4], [2, 2, 2, 3], [5], [6] * 9]


def test_a_request_waits_for_company_no_longer_than_it_may(open_queue: Opener) -> None:
    opened = backend, _ = open_queue(max_batch=2, max_wait_ms=1e3 * PATIENCE_S)
    backend.gate.set()
    first = submit(opened, 1)
    assert not backend.begun.acquire(timeout=0.05), "it waits"
    second = submit(opened, 2)
    assert results(first, second) == [[1], [2]]
    assert backend.calls == [[1, 2]], "a full call leaves at once"
    assert results(submit(opened, 3, deadline_s=1)) == [[3]], "a deadline is not spent waiting for company"
    opened = backend, _ = open_queue(max_wait_ms=20)
    backend.gate.set()
    assert results(submit(opened, 4)) == [[4]]


def test_what_is_cancelled_is_not_computed_and_leaves_its_place(open_queue: Opener) -> None:
    opened = backend, queue = open_queue(max_waiting=1)
    first = submit(opened, 1)
    backend.await_call()
    second = submit(opened, 2)
    with pytest.raises(BusyError, match="1 clips wait already; try again later, or wait for room"):
        submit(opened, 3, when_full="refuse")
    assert second.cancel()
    third = submit(opened, 3, when_full="refuse")
    assert not first.cancel(), "it is being computed"
    backend.gate.set()
    assert results(first, third) == [[1], [3]]
    assert set(as_completed([first, second, third], PATIENCE_S)) == {first, second, third}
    with pytest.raises(CancelledError):
        second.result()
    assert backend.calls == [[1], [3]]
    metrics = queue.read_metrics()
    assert (metrics.requests, metrics.computed, metrics.cancelled, metrics.refused) == (3, 2, 1, 1)


def test_frames_are_freed_with_their_request_and_wait_for_no_collector(open_queue: Opener) -> None:
    backend, queue = open_queue()
    backend.gate.set()
    clip = backend.clip(1)
    freed = weakref.ref(clip)
    gc.disable()
    try:
        future = queue.submit(clip, "embedding")
        del clip
        results(future, submit((backend, queue), 2))  # by then the first call is over in the queue's thread too
        assert freed() is None
    finally:
        gc.enable()


def test_a_request_ends_at_its_deadline_even_while_the_backend_is_busy(open_queue: Opener) -> None:
    opened = backend, queue = open_queue()
    first = submit(opened, 1)
    backend.await_call()
    patient = submit(opened, 4, deadline_s=2 * PATIENCE_S)
    late, later = submit(opened, 2, deadline_s=0.05), submit(opened, 3, deadline_s=0.02)
    with pytest.raises(DeadlineError, match=r"0\.05 s passed before this was begun; allow for more, or ask for less"):
        late.result(PATIENCE_S)
    with pytest.raises(DeadlineError, match=r"0\.02 s passed"):
        later.result(PATIENCE_S)
    assert not first.done()
    backend.gate.set()
    assert results(first, patient) == [[1], [4]]
    assert backend.calls == [[1], [4]]
    assert queue.read_metrics().expired == 2
    with pytest.raises(ValueError, match="deadline_s is 0; it must be above 0"):
        submit(opened, 5, deadline_s=0)


def test_a_full_queue_is_waited_for_until_the_deadline(open_queue: Opener) -> None:
    opened = backend, queue = open_queue(max_waiting=2)
    first = submit(opened, 1)
    backend.await_call()
    second = submit(opened, 2, 2)
    with pytest.raises(DeadlineError, match="2 clips waited until the deadline"):
        submit(opened, 3, deadline_s=0.05)
    done: list[list[list[float]]] = []
    waiting = threading.Thread(target=lambda: done.append(results(submit(opened, 4))))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert queue.read_metrics().waiting_clips == 2
    backend.gate.set()
    waiting.join(PATIENCE_S)
    assert done == [[[4]]]
    assert results(first, second) == [[1], [2, 2]]


def test_closing_ends_whatever_waits_and_lets_a_call_come_to_its_end(open_queue: Opener) -> None:
    opened = backend, queue = open_queue(max_waiting=4)
    first = submit(opened, 1)
    backend.await_call()
    rest = [submit(opened, value, deadline_s=PATIENCE_S) for value in range(2, 6)]
    errors: list[BackendError] = []

    def wait_for_room() -> None:
        try:
            submit(opened, 9)
        except BackendError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait_for_room), threading.Thread(target=queue.close)]
    for thread in threads:
        thread.start()
    for future in rest:
        with pytest.raises(BackendError, match="the engine was closed before this was computed; open it again"):
            future.result(PATIENCE_S)
    assert not first.done()
    backend.gate.set()
    assert results(first) == [[1]]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert "the engine is closed; open it again" in str(errors[0])
    queue.close()
    with pytest.raises(BackendError, match="the engine is closed"):
        submit(opened, 1)
    assert backend.calls == [[1]]
    assert queue.read_metrics().closed == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vjepa2-")]


_UNCLOSED = """
import sys, time
import numpy as np
from vjepa2.bundle import Bundle
from vjepa2.runtime.backends.base import Backend
from vjepa2.runtime.batching import BatchQueue

class Slow(Backend):
    name = "slow"
    def _compute(self, frames, extras, outputs):
        print("begun", flush=True)
        time.sleep(0.5)
        print("computed", flush=True)
        return {"embedding": np.zeros((len(frames), 1), np.float32)}
    def _release(self):
        pass

backend = Slow(Bundle.open(sys.argv[1]))
queue = BatchQueue(backend)
frames = np.zeros((1, *backend.bundle.manifest.frames_shape), np.uint8)
futures = [queue.submit(frames, "embedding", owner="one") for _ in range(3)]
time.sleep(0.2)
"""


def test_an_app_that_ends_without_closing_waits_for_what_is_being_computed(smallest: Path) -> None:
    command = [sys.executable, "-c", _UNCLOSED, str(smallest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["begun", "computed"], "")


def test_a_failed_call_fails_its_requests_and_no_others(open_queue: Opener) -> None:
    opened = backend, queue = open_queue(max_batch=2)
    first = submit(opened, 1)
    backend.await_call()
    pair = submit(opened, 2), submit(opened, 3)
    backend.error = MemoryError("no room")
    backend.gate.set()
    for future in (first, *pair):
        with pytest.raises(MemoryError, match="no room"):
            future.result(PATIENCE_S)
    backend.error = None
    assert results(submit(opened, 4)) == [[4]]
    assert queue.read_metrics().failed == 3


def test_a_callback_may_ask_again_and_may_close(open_queue: Opener) -> None:
    opened = backend, queue = open_queue()
    backend.gate.set()
    again: list[Future[FloatArray]] = []
    asked, closed = threading.Event(), threading.Event()

    def ask(_: Future[FloatArray]) -> None:
        again.append(submit(opened, 2))
        asked.set()

    def close(_: Future[FloatArray]) -> None:
        queue.close()
        closed.set()

    submit(opened, 1).add_done_callback(ask)
    assert asked.wait(PATIENCE_S)
    assert results(*again) == [[2]]
    submit(opened, 3).add_done_callback(close)
    assert closed.wait(PATIENCE_S)


def test_wrong_requests_never_wait(open_queue: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = backend, queue = open_queue()
    with pytest.raises(BackendError, match=r"frames are uint8 \[1, 3, 32, 32, 3\]; they must be uint8 \[B, 2, 32, 32"):
        queue.submit(np.zeros((1, 3, 32, 32, 3), np.uint8), "embedding")
    with pytest.raises(BackendError, match=r"the bundle has no output \['logits'\]; it has tokens, embedding"):
        queue.submit(backend.clip(1), "logits")
    with pytest.raises(BackendError, match=r"the bundle has no output \['logits'\]; it has tokens, embedding"):
        queue.row_shape("logits")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="cannot be used after a fork; open one in the new process"):
            submit(opened, 1)
    assert queue.read_metrics().requests == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; it must be at least 1"),
        ({"max_waiting": 0}, "max_waiting is 0; it must be at least 1"),
        ({"max_wait_ms": -1}, "max_wait_ms is -1; it must be a number from 0 on"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan; it must be a number from 0 on"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueueOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", usable_backends())
@pytest.mark.parametrize("fixture", ["dynamic", "in_threes"])
def test_a_row_does_not_depend_on_who_shares_its_call(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    """Bit for bit on a CPU: that is what lets requests share calls."""
    bundle = Bundle.open(request.getfixturevalue(fixture))
    clips = np.random.default_rng(0).integers(0, 256, (4, *bundle.manifest.frames_shape), dtype=np.uint8)
    with open_backend(bundle, name) as backend:
        alone = np.concatenate([backend.run(clip[None]).by_name()["embedding"] for clip in clips])
        shared = [backend.run(clips[start:]).by_name()["embedding"] for start in range(2)]
        is_exact = backend.device == "cpu"
    for start, rows in enumerate(shared):
        if is_exact:
            np.testing.assert_array_equal(rows, alone[start:])
        else:
            np.testing.assert_allclose(rows, alone[start:], atol=1e-4)


def test_time_is_measured_from_the_request_to_its_rows(open_queue: Opener) -> None:
    opened = backend, queue = open_queue(max_batch=1)
    first = submit(opened, 0)
    backend.await_call()
    second = submit(opened, 1)
    time.sleep(0.03)
    backend.gate.set()
    results(first, second)
    metrics = queue.read_metrics()
    assert metrics.first_call_ms is not None
    assert metrics.first_call_ms >= 30
    assert (metrics.wait.count, metrics.compute.count, metrics.total.count) == (1, 1, 1), "without the first call"
    assert metrics.wait.p50_ms is not None
    assert metrics.wait.p50_ms >= 29
    assert metrics.total.sum_ms == pytest.approx(metrics.wait.sum_ms + metrics.compute.sum_ms)
