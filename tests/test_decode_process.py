"""Can a video, a worker or a caller do harm: too much memory, time, pixels; death, silence, nonsense?"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz_video import FuzzReport, find_children, fuzz, is_silent, look_around
from tests.mutated_videos import FRAMES, Mutant, mutate, write_bases
from tests.soak_stream import resident_mb
from tests.videos import FramesArray, write
from vjepa2.errors import MissingDependencyError, VideoError
from vjepa2.runtime.decode_messages import (
    ClipDone,
    ClipRequest,
    DecodeLimits,
    Finished,
    Free,
    Job,
    VideoReport,
    decode_message,
    encode_message,
)
from vjepa2.runtime.decode_process import DecodeProcess
from vjepa2.runtime.decoder import VideoDecoder

ROOT = Path(__file__).parent.parent
REQUEST = ClipRequest(frames=4, height=32, width=32)


@pytest.fixture
def decoder() -> Iterator[VideoDecoder]:
    before = look_around()
    with VideoDecoder() as opened:
        yield opened
    assert look_around() == before, "a process, a descriptor or memory was left"


@pytest.fixture
def video(scene: FramesArray, tmp_path: Path) -> Path:
    return write(tmp_path / "a.mp4", scene, "mpeg4", options={"g": "4"})


def only_worker(before: set[int]) -> int:
    (worker,) = find_children() - before
    return worker


def test_sixty_mutants_are_each_one_of_three_things_and_none_is_silent() -> None:
    """The sample of `make fuzz-video` that every run of the tests takes."""
    report = fuzz(60, seed=7)
    assert sum(report.statuses.values()) == 60
    assert set(report.statuses) == {"ok", "partial", "rejected"}
    assert report.find_faults() == []


def test_a_short_read_that_is_called_ok_is_silent() -> None:
    whole, made = Mutant("0-cut", "mp4", b""), Mutant("0-list", "", b"")
    assert not is_silent(whole, VideoReport(status="ok", frames=FRAMES), 1)
    assert not is_silent(whole, VideoReport(status="ok", frames=FRAMES - 2, hidden=2), 1)
    assert not is_silent(whole, VideoReport(status="partial", frames=FRAMES - 1), 1)
    assert not is_silent(made, VideoReport(status="ok", frames=3), 1), "nobody knows how many it was made with"
    assert is_silent(whole, VideoReport(status="ok", frames=FRAMES - 1), 1)
    assert is_silent(whole, VideoReport(status="ok", frames=None), 1)
    assert is_silent(made, VideoReport(status="ok", frames=3), 0), "ok, and no clip"


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"silent": ["0-cut"]}, "silent: 0-cut"),
        ({"left": ["process 5"]}, "process 5 is left"),
        ({"workers_lost": {"its decoder was killed by SIGSEGV": 2}}, "2 workers were lost: its decoder was killed by"),
        ({"peak_mb": 1074.0}, "a worker held 1074 MB; it must be more than 0, and at most 1074"),
        ({"peak_mb": float("nan")}, "a worker held nan MB"),
        ({"peak_mb": 0.0}, "a worker held 0 MB"),
    ],
)
def test_each_fault_of_a_series_is_told(facts: dict[str, Any], fault: str) -> None:
    good = FuzzReport(
        videos=1, seed=0, statuses={"ok": 1}, kinds={}, silent=[], left=[], workers_lost={}, peak_mb=70.0,
        slowest_s=1.0, seconds=1.0,
    )  # fmt: skip
    assert good.find_faults() == []
    (found,) = replace(good, **facts).find_faults()
    assert found.startswith(fault)


def test_the_same_seed_gives_the_same_mutants(tmp_path: Path) -> None:
    bases = write_bases(tmp_path)
    again = write_bases(tmp_path)
    assert [mutate(bases, number, seed=1) for number in range(20)] == [
        mutate(again, number, seed=1) for number in range(20)
    ]
    assert mutate(bases, 1, seed=1).data != mutate(bases, 1, seed=2).data


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"pixels": 120 * 160 - 1}, r"its frames are 160 x 120; at most 19199 pixels are read"),
        ({"file_bytes": 1000}, r"it has \d+ bytes; at most 1000 are read"),
        ({"duration_s": 2}, r"it lasts 3 s; at most 2 are read"),
        ({"frames": 23}, r"it has more than 23 frames"),
    ],
)
def test_what_is_too_large_is_rejected_before_a_frame_is_decoded(
    limits: dict[str, int], reason: str, video: Path
) -> None:
    with VideoDecoder(DecodeLimits(**limits)) as decoder:
        clips, report = decoder.read(video, REQUEST)
    assert (clips, report.status) == ([], "rejected")
    assert re.search(reason, report.reason or ""), report


def test_a_worker_keeps_no_frame_of_the_videos_before(decoder: VideoDecoder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", [np.zeros((1080, 1920, 3), np.uint8)] * 4, "mpeg4")
    resident = []  # goes up and down by 100 MB with what the codec's threads hold; what is kept raises the least
    for _ in range(20):
        assert decoder.read(file, REQUEST)[1].status == "ok"
        (worker,) = find_children()
        resident.append(resident_mb(worker))
    assert min(resident[10:]) - min(resident[:3]) < 40, "each frame has 3.1 MB, 40 of them came before the last ten"


def test_a_video_that_needs_too_much_memory_is_rejected(scene: FramesArray, tmp_path: Path) -> None:
    """Its frames have 36 million pixels; the worker is given a gigabyte, and lives."""
    file = tmp_path / "a.avi"
    write(file, [np.zeros((6000, 6000, 3), np.uint8)] * 4, "mjpeg", pixels="yuvj420p")
    small = write(tmp_path / "b.mp4", scene, "mpeg4")
    with VideoDecoder(DecodeLimits(memory_bytes=400 << 20, pixels=1 << 26)) as decoder:
        assert re.search("memory|could not be decoded|no frame that can be", str(decoder.read(file, REQUEST)[1]))
        assert str(decoder.read(small, REQUEST)[1]) == "ok"


def test_a_worker_that_uses_too_much_cpu_is_ended(scene: FramesArray, tmp_path: Path) -> None:
    slow = write(tmp_path / "a.mp4", np.tile(scene, (14, 6, 8, 1)), "mpeg4")  # 336 frames of 1280 x 720
    much = replace(REQUEST, frames=336, height=1024, width=1024)  # seconds, on any machine
    with VideoDecoder(DecodeLimits(memory_bytes=4 << 30, cpu_s=0, deadline_s=60)) as decoder:
        assert str(decoder.read(slow, much)[1]) == (
            "rejected (its decoder was killed by SIGXCPU; it used more than 0 s of CPU)"
        )


@pytest.mark.parametrize("deadly", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_worker_that_dies_takes_one_video_with_it(deadly: signal.Signals, decoder: VideoDecoder, video: Path) -> None:
    before = find_children()
    reading = iter(opened := decoder.open(video, replace(REQUEST, sampling="window:1")))
    next(reading)
    os.kill(only_worker(before), deadly)
    rest = list(reading)
    assert len(rest) < 20, "the worker was one or two clips ahead, and no more"
    assert opened.report is not None
    assert str(opened.report) == f"rejected (its decoder was killed by {deadly.name})"
    assert str(decoder.read(video, REQUEST)[1]) == "ok"


def test_one_worker_serves_many_videos(decoder: VideoDecoder, video: Path) -> None:
    before = find_children()
    assert str(decoder.read(video, REQUEST)[1]) == "ok"
    worker = only_worker(before)
    for _ in range(5):
        assert str(decoder.read(video, REQUEST)[1]) == "ok"
        assert decoder.read(ROOT / "Makefile", REQUEST)[1].status == "rejected"
    assert only_worker(before) == worker


def test_a_worker_that_has_grown_is_replaced(video: Path) -> None:
    before = find_children()
    with VideoDecoder(DecodeLimits(memory_bytes=400 << 20)) as decoder:  # it needs more than half of that to start
        assert str(decoder.read(video, REQUEST)[1]) == "ok"
        assert find_children() == before


def test_many_threads_share_the_workers(video: Path, decoder: VideoDecoder) -> None:
    with VideoDecoder(workers=2) as shared:
        expected = decoder.read(video, REQUEST)[0][0].frames_THWC
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda _: shared.read(video, REQUEST), range(24)))
        assert {str(report) for _, report in results} == {"ok"}
        assert all(np.array_equal(clips[0].frames_THWC, expected) for clips, _ in results)


def test_a_reading_that_is_left_early_costs_its_worker_and_nothing_else(decoder: VideoDecoder, video: Path) -> None:
    for _ in decoder.open(video, replace(REQUEST, sampling="window:1")):
        break
    assert str(decoder.read(video, REQUEST)[1]) == "ok"


def test_closing_ends_the_videos_that_are_being_decoded(video: Path) -> None:
    decoder = VideoDecoder()
    reading = iter(opened := decoder.open(video, replace(REQUEST, sampling="window:1")))
    next(reading)
    waiting = threading.Thread(target=lambda: waited.append(decoder.read(video, REQUEST)[1]))
    waited: list[VideoReport] = []
    waiting.start()
    decoder.close()
    decoder.close()
    list(reading)
    waiting.join(10)
    assert opened.report is not None
    assert opened.report.status == "rejected"
    assert [str(report) for report in waited] == ["rejected (the decoder was closed; make another one)"]
    assert decoder.read(video, REQUEST)[1].reason == "the decoder was closed; make another one"


def test_a_decoder_is_not_for_two_processes(
    decoder: VideoDecoder, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(decoder.read(video, REQUEST)[1]) == "ok"
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="cannot be used after a fork; make one in the new process"):
            decoder.read(video, REQUEST)


_SCRIPT = """
import sys, threading, time
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.runtime.decoder import VideoDecoder
decoder = VideoDecoder()
def work():
    print(decoder.read(sys.argv[1], ClipRequest(frames=4, height=32, width=32))[1], flush=True)
thread = threading.Thread(target=work)
thread.start()
thread.join()
work()
stream = iter(decoder.open(sys.argv[1], ClipRequest(frames=4, height=32, width=32, sampling="window:1")))
next(stream)
children = [child for task in __import__("os").listdir("/proc/self/task")
            for child in open(f"/proc/self/task/{task}/children").read().split()]
print(*children, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_parent_and_outlives_the_thread_that_started_it(video: Path) -> None:
    """From a script without a guard, killed without warning while its worker waits for room for a clip."""
    command = [sys.executable, "-c", _SCRIPT, str(video)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline().strip() for _ in range(3)]
        assert lines[:2] == ["ok", "ok"]
        worker = int(lines[2])
        os.kill(worker, 0)
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent by five seconds")


def test_a_worker_that_is_late_is_ended_and_replaced(video: Path) -> None:
    before = find_children()
    with VideoDecoder(DecodeLimits(deadline_s=1)) as decoder:
        reading = iter(opened := decoder.open(video, replace(REQUEST, sampling="window:1")))
        next(reading)
        os.kill(only_worker(before), signal.SIGSTOP)
        list(reading)
        assert str(opened.report) == "rejected (its decoder took longer than 1 s and was ended)"
        assert str(decoder.read(video, REQUEST)[1]) == "ok"
    assert find_children() == before


def test_a_missing_library_is_named(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise ModuleNotFoundError('none here', name='av')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with VideoDecoder() as decoder, pytest.raises(MissingDependencyError, match=r"needs av; pip install .*\[video\]"):
        decoder.read(video, REQUEST)


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile {0}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n"]
)
def test_lists_of_other_files_are_refused(text: str, decoder: VideoDecoder, video: Path) -> None:
    for name in ("list.ffconcat", "list.m3u8", "list.mp4"):
        file = video.with_name(name)
        file.write_text(text.format(video.name))
        assert str(decoder.read(file, REQUEST)[1]).startswith("rejected (it is not a video that can be read"), name


def test_what_is_no_regular_file_is_refused_at_once(decoder: VideoDecoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.mp4"))
        for path in (tmp_path, tmp_path / "pipe.mp4", tmp_path / "socket.mp4", Path("/dev/zero"), Path("none.mp4")):
            report = decoder.read(path, REQUEST)[1]
            assert str(report).startswith("rejected (it is not a file"), path
    assert "embedded null byte" in str(decoder.read("a\0b", REQUEST)[1])


def test_what_a_worker_may_say_is_read_strictly() -> None:
    for message in (
        Free(1),
        Finished(report=VideoReport(status="ok")),
        Job(request=REQUEST, limits=DecodeLimits(), slots=2),
    ):
        assert decode_message(encode_message(message), type(message)) == message
    done = ClipDone(slot=0, number=0, clips=1, start_s=0.0, end_s=1.0)
    wrong = json.loads(encode_message(done))
    wrong["ClipDone"]["slot"] = "0"
    for data in (
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"Free": {"slot": 1, "more": 1}}',
        json.dumps(wrong).encode(),
        b"[" * 9999,
    ):
        with pytest.raises(VideoError, match="its decoder spoke out of turn"):
            decode_message(data, ClipDone, Free)
    with pytest.raises(VideoError, match="spoke out of turn"):
        decode_message(encode_message(done), Finished)


def test_a_worker_that_names_a_slot_which_is_not_there_is_not_believed(video: Path) -> None:
    worker = DecodeProcess(DecodeLimits())
    try:
        worker._receive = lambda *_, **__: ClipDone(slot=2, number=0, clips=1, start_s=0, end_s=0)  # type: ignore[method-assign]
        with video.open("rb") as stream, pytest.raises(VideoError, match=r"out of turn \(slot 2 of 2\)"):
            next(worker.run(stream.fileno(), REQUEST))
    finally:
        worker.close()


def test_shared_memory_cannot_be_shrunk_beneath_the_parent() -> None:
    worker = DecodeProcess(DecodeLimits())
    try:
        memory, _ = worker._share(4096)
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(memory, size)
    finally:
        worker.close()


def test_a_worker_gets_nothing_of_the_apps_environment_but_where_libraries_lie(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/libraries")
    before = find_children()
    with VideoDecoder() as decoder:
        assert decoder.read(video, REQUEST)[1].status == "ok"
        lines = Path(f"/proc/{only_worker(before)}/environ").read_text().rstrip("\0").split("\0")
    names = {line.partition("=")[0] for line in lines}
    assert names == {"LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"}


def test_a_worker_has_the_limits_that_it_was_told(decoder: VideoDecoder, video: Path) -> None:
    before = find_children()
    assert str(decoder.read(video, REQUEST)[1]) == "ok"
    limits = Path(f"/proc/{only_worker(before)}/limits").read_text()
    for name, value in (
        ("Max address space", 1536 << 20), ("Max open files", 64), ("Max file size", 0), ("Max core file size", 0)
    ):  # fmt: skip
        assert re.search(rf"{name} +{value} ", limits), name
    assert "NoNewPrivs:\t1" in Path(f"/proc/{only_worker(before)}/status").read_text()
