"""Does one engine serve many threads: every row right to the bit, none lost, and every wait ended when it is closed?"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

from tests.gate import PATIENCE_S, GateBackend
from vjepa2.errors import BackendError, BusyError, DeadlineError
from vjepa2.runtime import EmbeddingEngine, EncodeOptions, QueueOptions
from vjepa2.runtime.backends.base import FloatArray, FramesArray

THREADS, CALLS = 32, 200


@pytest.fixture(scope="module")
def videos() -> FramesArray:
    """Videos that differ, `[32, T, H, W, 3]`, of more frames and another size than a clip's."""
    return np.random.default_rng(0).integers(0, 256, (32, 3, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def gated(smallest: Path) -> Iterator[tuple[GateBackend, EmbeddingEngine]]:
    backend = GateBackend(smallest)
    with EmbeddingEngine(backend) as engine:
        yield backend, engine
        backend.gate.set()


def run_threads(work: Callable[[int], None], count: int) -> None:
    """Do `work` with each number at once, and raise what any of them raised."""
    with ThreadPoolExecutor(count) as pool:
        done, late = wait([pool.submit(work, number) for number in range(count)], timeout=300)
        assert not late
        for future in done:
            future.result()


def test_thirty_two_threads_get_two_hundred_rows_each_as_one_thread_does(smallest: Path, videos: FramesArray) -> None:
    with EmbeddingEngine.open(smallest, "onnxruntime") as engine:
        serial = [engine.encode(video, normalize_embeddings=True) for video in videos]
        rows: list[list[FloatArray]] = [[] for _ in range(THREADS)]

        def work(thread: int) -> None:
            for call in range(CALLS):
                rows[thread].append(engine.encode(videos[(7 * thread + call) % 32], normalize_embeddings=True))

        run_threads(work, THREADS)
        metrics = engine.metrics()
    for thread, mine in enumerate(rows):
        expected = [serial[(7 * thread + call) % 32] for call in range(CALLS)]
        np.testing.assert_array_equal(np.stack(mine), np.stack(expected))
    assert metrics.requests == metrics.computed == metrics.clips == THREADS * CALLS + 32
    assert metrics.calls < metrics.clips, "calls were shared"
    assert (metrics.waiting_requests, metrics.failed, metrics.videos_ok) == (0, 0, THREADS * CALLS + 32)


def test_a_bundle_of_one_clip_a_call_serves_threads_too(exported: Path, scene: FramesArray) -> None:
    videos = [np.roll(scene[:4], 5 * number, axis=1) for number in range(4)]
    with EmbeddingEngine.open(exported, "onnxruntime") as engine:
        serial = engine.encode(videos)
        rows: dict[int, FloatArray] = {}

        def work(thread: int) -> None:
            rows[thread] = engine.encode(videos, batch_size=1 + thread)

        run_threads(work, 8)
        assert engine.metrics().calls == engine.metrics().requests, "no call was shared"
    for mine in rows.values():
        np.testing.assert_array_equal(mine, serial)


def close_in_mid_flight(engine: EmbeddingEngine, ask: Callable[[int], object]) -> None:
    """Threads that ask without end, until the engine is closed on them; each must learn of that."""
    learnt: list[str] = []

    def work(thread: int) -> None:
        number = thread
        try:
            while True:
                number = (number + 1) % 32
                ask(number)
        except BackendError as error:
            learnt.append(str(error))

    def close() -> None:
        before = engine.metrics().clips
        while engine.metrics().clips < before + 100:
            pass
        engine.close()

    run_threads(lambda number: work(number) if number else close(), THREADS + 1)
    assert len(learnt) == THREADS
    assert all("the engine is closed" in error or "the engine was closed before" in error for error in learnt)
    metrics = engine.metrics()
    assert metrics.requests == metrics.computed + metrics.closed
    assert (metrics.waiting_requests, metrics.failed, metrics.videos_rejected) == (0, 0, 0)
    engine.close()


def test_closing_in_mid_flight_ends_every_encode(smallest: Path, videos: FramesArray) -> None:
    engine = EmbeddingEngine.open(smallest, "onnxruntime", queue=QueueOptions(max_waiting=8))
    expected = [engine.encode(video) for video in videos]
    close_in_mid_flight(
        engine,
        lambda number: np.testing.assert_array_equal(engine.encode(videos[number], on_error="skip"), expected[number]),
    )


def test_closing_in_mid_flight_ends_every_future(smallest: Path, videos: FramesArray) -> None:
    engine = EmbeddingEngine.open(smallest, "onnxruntime", queue=QueueOptions(max_waiting=8))
    expected = [engine.encode(video) for video in videos]
    futures: list[tuple[int, Future[FloatArray]]] = []
    close_in_mid_flight(
        engine, lambda number: futures.append((number, engine.submit(videos[number], when_full="wait")))
    )
    assert not wait([future for _, future in futures], timeout=0).not_done
    computed = 0
    for number, future in futures:
        if future.exception() is None:
            np.testing.assert_array_equal(future.result(), expected[number])
            computed += 1
        else:
            assert "the engine was closed before this was computed; open it again" in str(future.exception())
    assert computed >= 100


def test_submit_gives_what_encode_gives(smallest: Path, videos: FramesArray) -> None:
    options = EncodeOptions(truncate_dim=16, normalize_embeddings=True, output_value="token_embeddings")
    with EmbeddingEngine.open(smallest, "onnxruntime", warm_up=True) as engine:
        assert engine.metrics().calls == 1, "it is warm"
        row = engine.submit(videos[0]).result(PATIENCE_S)
        np.testing.assert_array_equal(row, engine.encode(videos[0]))
        tokens = engine.submit(videos[0], options, deadline_s=PATIENCE_S).result(PATIENCE_S)
        expected = engine.encode(videos[0], truncate_dim=16, normalize_embeddings=True, output_value="token_embeddings")
        np.testing.assert_array_equal(tokens, expected)
        assert tokens.shape == (4, 16)


def test_submit_can_be_cancelled_refused_and_late(
    gated: tuple[GateBackend, EmbeddingEngine], videos: FramesArray
) -> None:
    backend, engine = gated
    first = engine.submit(videos[0])
    backend.await_call()
    late, cancelled = engine.submit(videos[1], deadline_s=0.05), engine.submit(videos[2])
    assert cancelled.cancel()
    with pytest.raises(DeadlineError, match=r"0\.05 s passed"):
        late.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        cancelled.result(0)
    engine.queue.submit(backend.clip(9, 64), "embedding")
    with pytest.raises(BusyError, match="64 clips wait already"):
        engine.submit(videos[3])
    with pytest.raises(ValueError, match="deadline_s is nan; it must be above 0"):
        engine.submit(videos[3], deadline_s=float("nan"))
    backend.gate.set()
    assert first.result(PATIENCE_S).shape == (32,)


def test_an_encode_that_is_given_up_takes_its_requests_back(
    gated: tuple[GateBackend, EmbeddingEngine], videos: FramesArray
) -> None:
    backend, engine = gated
    backend.error = MemoryError("no room")
    errors: list[BaseException] = []

    def encode() -> None:
        try:
            engine.encode(list(videos))
        except MemoryError as error:
            errors.append(error)

    thread = threading.Thread(target=encode)
    thread.start()
    backend.await_call()
    backend.gate.set()
    thread.join(PATIENCE_S)
    assert len(errors) == 1
    engine.close()
    metrics = engine.metrics()
    assert metrics.requests <= 3
    assert metrics.requests == metrics.failed + metrics.cancelled
