"""Does a stream give the newest window, none across a gap, in time, and count what it leaves out?"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.fake_streams import FakeClock, HandFedSource, ScriptedSource, film
from vjepa2.errors import BackendError, VideoError
from vjepa2.runtime.backends.base import FloatArray, FramesArray
from vjepa2.runtime.novelty import NoveltyMemory
from vjepa2.runtime.picking import Picker, parse_live_sampling
from vjepa2.runtime.stream import EmbeddingStream, Encode, StreamedEmbedding
from vjepa2.runtime.stream_messages import LiveFrame
from vjepa2.runtime.stream_source import AtEnd, Source
from vjepa2.runtime.stream_windows import Window, WindowMaker, parse_stride

SECOND = [number / 8 for number in range(8)]  # of a camera of 8 frames a second


def numbers_of(window: Window) -> list[int]:
    """Which frames of `film` it is made of."""
    return [int(frame[0, 0, 0]) for frame in window.frames]


def cut(frames: Sequence[LiveFrame], count: int = 4, stride: str = "1s", speed: float = 1.0) -> list[Window]:
    maker = WindowMaker(count, parse_stride(stride), speed=speed)
    return [window for frame in frames if (window := maker.push(frame))]


def embed(frames_THWC: FramesArray) -> FloatArray:
    """The numbers of the frames, as a vector that is never nothing."""
    return 1 + frames_THWC[:, 0, 0, 0].astype(np.float32)


def open_fake(source: Source, clock: FakeClock, encode: Encode = embed) -> EmbeddingStream:
    return EmbeddingStream(source, WindowMaker(4, parse_stride("1s")), encode, 4, clock, lambda _: None)


def frames_of(row: StreamedEmbedding) -> list[int]:
    return [int(number) for number in row.embedding_D - 1]


@pytest.mark.parametrize("rate_hz", [4, 8, 15, 29.97, 30, 240])
def test_fps_takes_the_first_frame_from_each_tick_on(rate_hz: float) -> None:
    times_s = [12.5 + number / rate_hz for number in range(int(5 * rate_hz))]
    picker = Picker(parse_live_sampling("fps:4"), 2.0)
    taken_s = [time_s for time_s in times_s if picker.pick(time_s).samples]
    expected_s = [min(time_s for time_s in times_s if time_s > 12.5 + tick / 4 - 1e-3) for tick in range(len(taken_s))]
    assert taken_s == expected_s
    assert len(taken_s) in (19, 20)


def test_a_change_of_rate_changes_what_is_passed_over_and_not_what_a_window_spans() -> None:
    fast, slow = [number / 60 for number in range(120)], [2 + number / 5 for number in range(10)]
    windows = cut(film([*fast, *slow, *[4 + number / 30 for number in range(60)]]), stride="0.5s")
    assert len(windows) == 11
    assert [window.end_s - window.start_s for window in windows] == pytest.approx([0.75] * 11, abs=0.2)
    assert all(len(window.frames) == 4 for window in windows)
    assert not any(window.gaps for window in windows)


def test_stride_takes_every_nth_frame_whatever_its_time() -> None:
    picker = Picker(parse_live_sampling("stride:3"), 2.0)
    assert [picker.pick(time_s).samples for time_s in (0, 0.1, 0.5, 0.6, 0.61, 0.7, 0.8)] == [1, 0, 0, 1, 0, 0, 1]


def test_a_stream_slower_than_its_sampling_repeats_frames() -> None:
    windows = cut(film([0, 0.5, 1, 1.5, 2], sampling="fps:4"), stride="0.5s")
    assert [numbers_of(window) for window in windows] == [[1, 1, 2, 2], [2, 2, 3, 3], [3, 3, 4, 4]]


@pytest.mark.parametrize(("step", "jump_s"), [(2.0, None), (2.001, 2.001), (0.0, 0.0), (-5.0, -5.0)])
def test_time_stamps_that_do_not_follow_are_told(step: float, jump_s: float | None) -> None:
    picker = Picker(parse_live_sampling("fps:4"), 2.0)
    picker.pick(10.0)
    pick = picker.pick(10.0 + step)
    assert pick.jump_s == (None if jump_s is None else pytest.approx(jump_s))
    assert pick.samples == (8 if jump_s is None else 1)


@pytest.mark.parametrize("text", ["uniform", "segments:2", "window:4", "fps", "often"])
def test_what_needs_the_whole_video_does_not_sample_a_stream(text: str) -> None:
    with pytest.raises(VideoError, match="sampling is"):
        parse_live_sampling(text)


@pytest.mark.parametrize("text", ["1", "0s", "1.5f", "-1s", "s", "1 s", ""])
def test_a_stride_is_seconds_or_frames(text: str) -> None:
    with pytest.raises(VideoError, match=r"it must be seconds, as in 0\.5s, or a whole number of frames, as in 8f"):
        parse_stride(text)


def test_windows_come_by_seconds_or_by_frames() -> None:
    frames = film([number / 8 for number in range(33)])
    by_seconds, by_frames = cut(frames, stride="1s"), cut(frames, stride="2f")
    assert [numbers_of(window) for window in by_seconds] == [[8 * k + 2 * i for i in range(4)] for k in range(4)]
    assert [(window.start_s, window.end_s) for window in by_seconds] == [(k, k + 0.75) for k in range(4)]
    assert [numbers_of(window)[0] for window in by_frames] == [0, 4, 8, 12, 16, 20, 24]


def test_no_window_spans_a_gap() -> None:
    """Of ten thousand frames whose time stamps jump forward and back, at rates from 1 to 60 a second."""
    random, times_s, time_s = np.random.default_rng(0), [], 100.0
    for _ in range(300):
        rate_hz = random.choice([1, 5, 8, 30, 60])
        for _ in range(int(random.integers(1, 60))):
            time_s += 1 / rate_hz
            times_s.append(time_s)
        time_s += random.choice([9.0, -4.0, 0.0])  # the last is no gap
    frames = film(times_s)
    stamps_s = {id(frame.pixels_HWC): frame.time_s for frame in frames if frame.pixels_HWC is not None}
    maker = WindowMaker(8, parse_stride("1f"))
    windows = [window for frame in frames if (window := maker.push(frame))]
    for window in windows:
        steps_s = np.diff([stamps_s[id(picture)] for picture in window.frames])
        assert ((steps_s >= 0) & (steps_s <= 2)).all()
    assert len(windows) > 500
    assert 100 < maker.gaps < 300
    assert all(before.end_s <= after.end_s for before, after in pairwise(windows))


def test_a_gap_is_told_with_the_next_window_and_time_goes_on_by_the_clock() -> None:
    before, after = film(SECOND), film([500 + time_s for time_s in SECOND], number=100, late_s=-497.0)
    maker = WindowMaker(4, parse_stride("1s"))
    windows = [window for frame in before if (window := maker.push(frame))]
    maker.break_off("it was opened again (it broke)")
    windows += [window for frame in after if (window := maker.push(frame))]
    assert [numbers_of(window)[0] for window in windows] == [0, 100]
    assert windows[0].gaps == ()
    assert windows[1].gaps == ("it was opened again (it broke) at 0.88 s",)
    assert (windows[1].start_s, windows[1].end_s) == (3.0, 3.75)
    assert windows[1].follows_s is None


def test_another_size_of_frames_is_a_gap() -> None:
    frames = film([number / 4 for number in range(8)])
    other = [replace(frame, size=(4, 2)) for frame in frames[3:]]
    (window,) = cut([*frames[:3], *other], stride="1f")[:1]
    assert numbers_of(window) == [3, 4, 5, 6]
    assert window.gaps == ("frames changed from 2 x 2 to 2 x 4 at 0.50 s",)


def test_while_it_computes_old_windows_are_dropped_and_counted() -> None:
    """The first window takes three and a half seconds to compute: three more become due, the last of them is next."""
    clock = FakeClock()
    source = HandFedSource(clock)
    rest = iter([film([number / 8 for number in range(40)])[7:35], film([number / 8 for number in range(40)])[35:]])

    def encode(frames_THWC: FramesArray) -> FloatArray:
        frames = next(rest, None)
        if frames:
            source.feed(frames)
        return embed(frames_THWC)

    with open_fake(source, clock, encode=encode) as stream:
        source.feed(film(SECOND)[:7])
        rows = [next(stream), next(stream), next(stream)]
        summary = stream.summarise()
    assert [(frames_of(row)[0], row.dropped) for row in rows] == [(0, 0), (24, 2), (32, 0)]
    assert [row.delay_ms for row in rows] == pytest.approx([3500, 1125, 125])
    assert (summary.windows, summary.dropped, summary.frames) == (3, 2, 40)
    assert summary.delay_max_ms == pytest.approx(3500)
    assert summary.realtime_factor == pytest.approx((3.5 + 0.625) / 3)
    assert "3 windows, 2 dropped, of 40 frames" in str(summary)


def test_gaps_of_dropped_windows_are_not_lost() -> None:
    clock = FakeClock()
    source = HandFedSource(clock)
    with open_fake(source, clock) as stream:
        source.feed(film([*SECOND, *[50 + time_s for time_s in SECOND], *[90 + time_s for time_s in SECOND]]))
        row = next(stream)
    assert row.dropped == 2
    assert [gap.partition(" at ")[0] for gap in row.gaps] == [
        "time stamps jumped by +49.12 s",
        "time stamps jumped by +39.12 s",
    ]


def test_a_source_that_ends_or_fails_is_opened_again_after_growing_pauses() -> None:
    clock, broken = FakeClock(), VideoError("it broke")
    flaky: list[LiveFrame | VideoError] = [*film(SECOND), broken]
    sessions: list[Sequence[LiveFrame | VideoError]] = [
        flaky,
        *[[broken]] * 8,
        film([time_s + 300 for time_s in SECOND]),
        film([900.0]),
        flaky,
    ]
    source = ScriptedSource(sessions, "reconnect", clock)
    with open_fake(source, clock) as stream:
        assert source.exhausted.wait(30)
        row, summary = next(stream), stream.summarise()
    assert clock.pauses_s == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 0.5, 0.5, 1]
    assert summary.sessions == 13
    assert row.dropped == 2
    assert row.gaps[0] == "it was opened again (it broke) at 0.88 s"
    assert row.gaps[-1].startswith("it was opened again (it ended)")


def test_a_file_that_is_looped_begins_again_at_once_and_that_is_a_gap() -> None:
    clock = FakeClock()
    source = ScriptedSource([film(SECOND)] * 3, "rewind", clock)
    with open_fake(source, clock) as stream:
        assert source.exhausted.wait(30)
        row = next(stream)
    assert clock.pauses_s == []
    assert row.dropped == 2
    assert row.gaps == ("it began again at 0.88 s", "it began again at 1.75 s")


@pytest.mark.parametrize("at_end", ["finish", "rewind", "reconnect"])
def test_a_source_that_never_gave_a_frame_fails_at_once(at_end: AtEnd) -> None:
    clock = FakeClock()
    source = ScriptedSource([[VideoError("it is not there")]], at_end)
    with open_fake(source, clock) as stream, pytest.raises(VideoError, match="a script: it is not there"):
        next(stream)
    assert clock.pauses_s == []


def test_a_looped_file_without_frames_fails_too() -> None:
    clock = FakeClock()
    with open_fake(ScriptedSource([[]], "rewind"), clock) as stream, pytest.raises(VideoError, match="it ended"):
        next(stream)


def test_a_file_gives_its_last_window_and_ends_or_says_what_broke() -> None:
    clock = FakeClock()
    with open_fake(ScriptedSource([film(SECOND)], "finish"), clock) as stream:
        assert [frames_of(row) for row in stream] == [[0, 2, 4, 6]]
        assert list(stream) == []
    with open_fake(ScriptedSource([[*film(SECOND), VideoError("it broke")]], "finish"), clock) as stream:
        assert frames_of(next(stream)) == [0, 2, 4, 6]
        with pytest.raises(VideoError, match="a script: it broke"):
            next(stream)


def test_what_goes_wrong_in_the_thread_is_raised_where_windows_are_awaited() -> None:
    clock = FakeClock()
    frame = LiveFrame(time_s=0.0, arrived_s=0.0, pixels_HWC=None, size=None)  # type: ignore[arg-type]
    source = ScriptedSource([[frame, frame]], "finish")
    source.connect = lambda: iter([frame, 3])  # type: ignore[method-assign, list-item]
    with open_fake(source, clock) as stream, pytest.raises(AttributeError):
        next(stream)


def test_it_can_be_stopped_and_closed_from_another_thread_while_it_waits() -> None:
    clock = FakeClock()
    for end in (EmbeddingStream.stop, EmbeddingStream.close):
        with open_fake(ScriptedSource([], "reconnect"), clock) as stream:
            timer = threading.Timer(0.05, end, [stream])
            timer.start()
            assert list(stream) == []
            timer.join()
            stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "vjepa2-stream"]


def judge_slowly(units_ND: FloatArray, spans_s: Sequence[tuple[float, float]], upto: int) -> float | None:
    """The documented formula, from the whole history."""
    remembered: list[int] = []
    for index in range(upto):
        if not remembered or spans_s[index][0] > spans_s[remembered[-1]][1]:
            remembered.append(index)
    others = [index for index in remembered[-12:] if spans_s[index][1] < spans_s[upto][0]]
    if len(others) < 5:
        return None
    cosines = sorted((float(units_ND[index] @ units_ND[upto]) for index in others), reverse=True)
    return 1 - cosines[2]


def test_novelty_is_what_its_formula_says() -> None:
    random = np.random.default_rng(0)
    vectors_ND = random.normal(size=(200, 6)).astype(np.float32)
    spans_s = [(0.5 * number, 0.5 * number + 1.2) for number in range(200)]
    memory = NoveltyMemory(6, size=12, neighbours=3, warm_up=5)
    found = [memory.judge(vector_D, *span) for vector_D, span in zip(vectors_ND, spans_s, strict=True)]
    units_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    expected = [judge_slowly(units_ND, spans_s, number) for number in range(200)]
    assert [None if novelty is None else novelty.score for novelty in found] == [
        None if score is None else pytest.approx(score, abs=1e-5) for score in expected
    ]
    scores = [novelty.score for novelty in found if novelty]
    for number in (50, 100, len(scores) - 1):
        past = np.array(scores[max(0, number - 12) : number])
        median = np.median(past)
        z = (scores[number] - median) / (1.4826 * np.median(np.abs(past - median)))
        assert [novelty.z for novelty in found if novelty][number] == pytest.approx(z)


def test_novelty_says_nothing_until_it_has_seen_enough_and_then_tells_the_new_from_the_usual() -> None:
    random, memory = np.random.default_rng(0), NoveltyMemory(32)
    usual_D = random.normal(size=32)
    found = [
        memory.judge((usual_D + 0.1 * random.normal(size=32)).astype(np.float32), 2.0 * time, 2.0 * time + 1)
        for time in range(60)
    ]
    assert [novelty is None for novelty in found] == [True] * 16 + [False] * 44
    assert [novelty is None or novelty.z is None for novelty in found] == [True] * 32 + [False] * 28
    new = memory.judge(random.normal(size=32).astype(np.float32), 1000.0, 1001.0)
    assert new is not None
    assert new.z is not None
    assert new.score > 0.3
    assert new.z > 50
    assert max(novelty.score for novelty in found if novelty) < 0.05


def test_novelty_of_a_picture_that_stands_still_is_nothing_and_has_no_spread() -> None:
    memory = NoveltyMemory(4)
    for time in range(50):
        novelty = memory.judge(np.array([1, 2, 3, 4], np.float32), 2.0 * time, 2.0 * time + 1)
    assert novelty is not None
    assert novelty.score == pytest.approx(0, abs=1e-6)
    assert novelty.z is None


def test_novelty_refuses_what_is_no_direction() -> None:
    for wrong in (np.zeros(4, np.float32), np.array([1, np.nan, 0, 0], np.float32)):
        with pytest.raises(BackendError, match="it must be a finite number above 0"):
            NoveltyMemory(4).judge(wrong, 0.0, 1.0)
    with pytest.raises(ValueError, match="at most the next"):
        NoveltyMemory(4, size=8, warm_up=16)
