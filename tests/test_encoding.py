"""Are videos encoded in order, ahead within bounds, and past the bad ones?"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.gate import PATIENCE_S, GateBackend
from vjepa2.errors import BackendError, VideoError
from vjepa2.runtime import ClipRequest, EmbeddingEngine, EncodeOptions, QueueOptions, VideoDecoder
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.clip_reader import Video

Writer = Callable[..., Path]


@pytest.fixture
def engine(smallest: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine.open(smallest, "onnxruntime") as opened:
        yield opened


@pytest.fixture
def videos(write_video: Writer, scene: FramesArray) -> list[Path]:
    """Six videos that differ in length and in what they show, by name in no order."""
    names = ("b.mp4", "c.avi", "a.mkv", "f.mp4", "e.mp4", "d.mp4")
    return [write_video(scene[number : number + 4 * (number % 3 + 1)], name) for number, name in enumerate(names)]


def is_open(engine: EmbeddingEngine) -> bool:
    """Whether it takes requests."""
    try:
        engine.queue.check_open()
    except BackendError:
        return False
    return True


def truncate(file: Path, part: float = 0.75) -> Path:
    """The same file without its end."""
    with file.open("r+b") as stream:
        stream.truncate(int(file.stat().st_size * part))
    return file


@pytest.mark.parametrize(("decoders", "batch_size"), [(1, 1), (3, 4)])
def test_rows_are_in_the_order_given_whoever_decoded_them(
    decoders: int, batch_size: int, engine: EmbeddingEngine, videos: list[Path], smallest: Path
) -> None:
    expected = [engine.encode(video, sampling="window:2") for video in videos]
    with EmbeddingEngine.open(smallest, "onnxruntime", decoders=decoders) as other:
        rows = other.encode_clips(videos, sampling="window:2", batch_size=batch_size)
        np.testing.assert_array_equal(rows.values, np.concatenate(expected))
        numbers = [number for number, mine in enumerate(expected) for _ in mine]
        assert [place.video for place in rows.places] == numbers
        assert rows.names == tuple(map(str, videos))
        assert {str(report) for report in rows.reports} == {"ok"}
        one_by_one = list(other.encode_each(iter(videos), EncodeOptions(sampling="window:2", batch_size=batch_size)))
        for video, mine in zip(one_by_one, expected, strict=True):
            np.testing.assert_array_equal(video.values, mine)


def test_a_folder_is_its_videos_sorted(engine: EmbeddingEngine, videos: list[Path], scene: FramesArray) -> None:
    folder = videos[0].parent
    rows = engine.encode_clips([folder, scene])
    assert rows.names == (*map(str, sorted(videos)), "array 6")
    np.testing.assert_array_equal(engine.encode(folder, show_progress_bar=True), rows.values[:6])
    np.testing.assert_array_equal(engine.encode(str(folder)), engine.encode(sorted(videos)))


def test_bad_videos_are_skipped_and_reported(
    engine: EmbeddingEngine, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    good, cut = write_video(scene, "good.mp4"), truncate(write_video(scene, "cut.mkv"))
    videos: list[Video] = [good, cut, tmp_path / "none.mp4", scene[:1], scene, scene.astype(np.float32)]
    rows = engine.encode_clips(videos, on_error="skip", batch_size=2)
    assert [report.status for report in rows.reports] == [
        "ok", "partial", "rejected", "rejected", "ok", "rejected"
    ]  # fmt: skip
    assert str(rows.reports[1]).startswith("partial (")
    assert "of 24 frames" in str(rows.reports[1])
    assert "not a file that can be read" in str(rows.reports[2])
    assert "the array has 1 frames and the clip takes 2" in str(rows.reports[3])
    assert "a frame is float32" in str(rows.reports[5])
    assert [place.video for place in rows.places] == [0, 4]
    assert rows.lines() == [(0, 0), (1, None), (2, None), (3, None), (4, 1), (5, None)]
    np.testing.assert_array_equal(rows.values, engine.encode([good, scene]))
    np.testing.assert_array_equal(engine.encode(videos, on_error="skip"), rows.values)
    metrics = engine.metrics()
    assert (metrics.videos_ok, metrics.videos_partial, metrics.videos_rejected) == (6, 2, 6)


def test_a_clip_that_was_cut_is_taken_as_it_is(engine: EmbeddingEngine, videos: list[Path]) -> None:
    clips = [clip for video in videos[:2] for clip in engine.clips.read(video)]
    np.testing.assert_array_equal(engine.encode(clips), engine.encode(videos[:2]))
    np.testing.assert_array_equal(engine.encode(clips[0]), engine.encode(videos[0]))
    assert np.abs(engine.encode(clips[0].frames_THWC) - engine.encode(clips[0])).max() > 1e-3, "an array is cut again"
    rows = engine.encode_clips([*clips, replace(clips[0], views_VTHWC=clips[0].views_VTHWC[:, :1])], on_error="skip")
    assert rows.names == ("clip 0", "clip 1", "clip 2")
    assert re.search(r"the clip is uint8 \[1, 1, .* and the model takes uint8 \[1, 2, ", str(rows.reports[2]))


def test_where_all_are_bad_there_is_no_row(engine: EmbeddingEngine) -> None:
    assert engine.encode(["none.mp4"], on_error="skip", truncate_dim=8).shape == (0, 8)
    assert engine.encode(["none.mp4"], on_error="skip", output_value="token_embeddings").shape == (0, 4, 32)
    with pytest.raises(VideoError, match=r"none\.mp4 is rejected \(.*\); a video alone cannot be skipped"):
        engine.encode("none.mp4", on_error="skip")


def test_a_bad_video_raises_in_its_turn(engine: EmbeddingEngine, scene: FramesArray) -> None:
    done = engine.encode_each([scene, scene, "none.mp4", scene], EncodeOptions(batch_size=3))
    assert next(done).values.shape == next(done).values.shape == (1, 32)
    with pytest.raises(VideoError, match=r"none\.mp4: it is not a file"):
        next(done)
    with pytest.raises(VideoError, match="there is no video to encode; give at least one"):
        list(engine.encode_each(iter(())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error is 'ignore'; it must be 'raise' or 'skip'"),
        ({"truncate_dim": 0}, "truncate_dim is 0; it must be from 1 to 32"),
        ({"truncate_dim": 33}, "truncate_dim is 33; it must be from 1 to 32"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_wrong_options_are_no_videos_fault(
    options: dict[str, object], message: str, engine: EmbeddingEngine, scene: FramesArray
) -> None:
    with pytest.raises(ValueError, match=message):
        engine.encode([scene], **options)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="sampling is 'often'"):
        engine.encode([scene], sampling="often", on_error="skip")
    with pytest.raises(TypeError):
        engine.encode([None], on_error="skip")  # type: ignore[list-item]


def test_rows_are_cut_and_then_normalised(engine: EmbeddingEngine, scene: FramesArray) -> None:
    whole = engine.encode([scene, scene[::-1]])
    np.testing.assert_array_equal(engine.encode([scene, scene[::-1]], truncate_dim=8), whole[:, :8])
    cut = engine.encode([scene, scene[::-1]], truncate_dim=8, normalize_embeddings=True)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    assert np.abs(np.linalg.norm(whole[:, :8], axis=1) - 1).min() > 0.01
    tokens = engine.encode(scene, truncate_dim=8, normalize_embeddings=True, output_value="token_embeddings")
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), np.ones(4), atol=1e-6)


@pytest.mark.parametrize(("decoders", "batch_size"), [(1, 1), (2, 3)])
def test_of_an_endless_iterator_no_more_is_taken_than_was_said(
    decoders: int, batch_size: int, smallest: Path, scene: FramesArray
) -> None:
    taken: list[int] = []

    def film() -> Iterator[FramesArray]:
        while True:
            taken.append(len(taken))
            yield np.roll(scene[:2], len(taken), axis=1)

    with EmbeddingEngine.open(smallest, "onnxruntime", decoders=decoders) as engine:
        done = engine.encode_each(film(), EncodeOptions(batch_size=batch_size))
        for number in range(20):
            assert next(done).name == f"array {number}"
            assert len(taken) <= number + 1 + 3 * batch_size + decoders
        done.close()  # type: ignore[attr-defined]
        assert engine.metrics().requests <= 20 // batch_size + 3


def test_the_next_videos_are_decoded_while_one_is_computed(smallest: Path, videos: list[Path]) -> None:
    backend = GateBackend(smallest)
    with EmbeddingEngine(backend) as engine, ThreadPoolExecutor(1) as pool:
        done = pool.submit(engine.encode, videos)
        backend.await_call()
        while engine.metrics().waiting_requests < 1:  # the second video: decoded, while the gate is shut
            assert not done.done()
        assert len(backend.calls) == 1
        backend.gate.set()
        assert done.result(PATIENCE_S).shape == (6, 32)


def test_callers_share_a_decoder_and_do_not_starve_each_other(smallest: Path, videos: list[Path]) -> None:
    """More callers than decoders, with videos of more clips than may wait: each ends."""
    with EmbeddingEngine.open(smallest, "onnxruntime", decoders=2, queue=QueueOptions(max_waiting=2)) as engine:
        expected = engine.encode(videos, sampling="window:1")
        with ThreadPoolExecutor(6) as pool:
            calls = [pool.submit(engine.encode, videos, sampling="window:1") for _ in range(6)]
            for call in calls:
                np.testing.assert_array_equal(call.result(PATIENCE_S), expected)


def test_one_may_encode_in_the_midst_of_encoding(engine: EmbeddingEngine, videos: list[Path]) -> None:
    expected = engine.encode(videos)
    for number, video in enumerate(engine.encode_each(videos)):
        np.testing.assert_array_equal(engine.encode(videos[number]), video.values[0])
    np.testing.assert_array_equal(engine.encode(videos), expected)
    for video in engine.encode_each(videos, EncodeOptions(sampling="window:1")):
        assert len(video.values)
        break
    np.testing.assert_array_equal(engine.encode(videos), expected)


def test_closing_is_no_videos_fault(smallest: Path, videos: list[Path]) -> None:
    """Its decoder is ended in the midst of a video, and the video is neither reported nor skipped."""
    backend = GateBackend(smallest)
    engine = EmbeddingEngine(backend)
    with ThreadPoolExecutor(2) as pool:
        done = pool.submit(engine.encode_clips, videos, on_error="skip", sampling="window:1")
        backend.await_call()
        closing = pool.submit(engine.close)
        while is_open(engine):
            pass
        backend.gate.set()  # what is being computed comes to its end, and the caller may be waiting for it
        with pytest.raises(BackendError, match=r"the engine (was|is) closed"):
            done.result(PATIENCE_S)
        closing.result(PATIENCE_S)
    assert engine.metrics().videos_rejected == 0
    with pytest.raises(BackendError, match="the engine is closed; open it again"):
        engine.encode(videos, on_error="skip")


def test_a_video_whose_decoder_was_closed_is_not_skipped(engine: EmbeddingEngine, videos: list[Path]) -> None:
    def close_on_the_way() -> Iterator[Path]:
        yield videos[0]
        engine.close()
        yield from videos[1:]

    with pytest.raises(BackendError, match="the engine is closed; open it again"):
        engine.encode(close_on_the_way(), on_error="skip")
    assert engine.metrics().videos_rejected == 0


def test_a_reading_starts_only_where_a_worker_is_free(videos: list[Path], smallest: Path) -> None:
    request = ClipRequest(frames=2, height=32, width=32)
    with VideoDecoder(workers=1) as decoder:
        first, second = decoder.open(videos[0], request), decoder.open(videos[1], request)
        assert first.start()
        assert first.start(), "it is started already"
        assert not second.start(wait=False)
        assert len(list(first)) == 1
        assert first.report is not None
        assert second.start(wait=False)
        second.close()
        assert second.report is None
        assert str(decoder.read(videos[1], request)[1]) == "ok"
        missing = decoder.open("none.mp4", request)
        assert missing.start(wait=False), "it is done with"
        assert missing.report is not None
