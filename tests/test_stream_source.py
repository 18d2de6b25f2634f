"""Do real sources come through a real worker as they are: files, a stream of the network, what is missing or spoilt?"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fake_streams import RtspServer
from tests.fuzz_video import look_around
from tests.slopes import fit_slope
from tests.soak_stream import DISTURBED, NOTHING_MB, VISIBLE_MB, Samples
from tests.videos import decode_all, fit, write
from vjepa2.cli import main
from vjepa2.errors import VideoError, Vjepa2Error
from vjepa2.runtime import EmbeddingEngine, video
from vjepa2.runtime.backends.base import FloatArray, FramesArray
from vjepa2.runtime.decode_messages import ClipRequest, DecodeLimits
from vjepa2.runtime.decode_process import DecodeProcess
from vjepa2.runtime.scenes import generate_scene
from vjepa2.runtime.stream import EmbeddingStream
from vjepa2.runtime.stream_cli import _end_at_signals
from vjepa2.runtime.stream_feed import Clock
from vjepa2.runtime.stream_messages import FrameSeen, LiveFrame
from vjepa2.runtime.stream_source import Playing, WorkerSource, parse_source
from vjepa2.runtime.stream_windows import WindowMaker, parse_stride

CLIP = ClipRequest(frames=4, height=32, width=48)
FAST = Playing(speed=40.0, stall_s=10.0)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = look_around()
    yield
    left = look_around() - before
    assert not [text for text in left if "shared" in text or "process" in text], "a process or memory was left"


@pytest.fixture(scope="module")
def long_scene() -> FramesArray:
    return generate_scene(80, 60, 80, seed=3)


@pytest.fixture
def make(long_scene: FramesArray, tmp_path: Path) -> Callable[..., Path]:
    return lambda name="a.mkv", codec="libx264", **more: write(tmp_path / name, long_scene, codec, **more)


class Recorder:
    """What is embedded; the embedding of a clip is the mean of each of its frames."""

    def __init__(self) -> None:
        self.clips: list[FramesArray] = []

    def __call__(self, frames_THWC: FramesArray) -> FloatArray:
        self.clips.append(frames_THWC)
        means: FloatArray = 1 + frames_THWC.mean(axis=(1, 2, 3), dtype=np.float32)
        return means


def follow(
    source: WorkerSource, encode: Recorder, *, stride: str = "1s", speed: float = 1.0, notes: list[str] | None = None
) -> EmbeddingStream:
    maker, told = WindowMaker(CLIP.frames, parse_stride(stride), speed=speed), [] if notes is None else notes
    return EmbeddingStream(source, maker, encode, CLIP.frames, Clock(), told.append)


def open_file(file: Path, playing: Playing = FAST) -> WorkerSource:
    return WorkerSource(parse_source(str(file)), playing, CLIP)


def frames_of(source: WorkerSource) -> list[LiveFrame]:
    try:
        return list(source.connect())
    finally:
        source.close()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.mp4", "mpeg4"), ("a.ts", "libx264")])
def test_a_file_comes_frame_by_frame_with_its_time_stamps(name: str, codec: str, make: Callable[..., Path]) -> None:
    """With B-frames and without; pixels are those of `embed`, of the frames that are taken."""
    file = make(name, codec)
    frames, whole = frames_of(open_file(file)), decode_all(file)
    assert len(frames) == len(whole) == 80
    first_s = frames[0].time_s
    assert [frame.time_s - first_s for frame in frames] == pytest.approx([number / 8 for number in range(80)], abs=2e-3)
    assert [frame.samples for frame in frames] == [1, 0] * 40
    taken = np.stack([frame.pixels_HWC for frame in frames if frame.pixels_HWC is not None])
    assert np.array_equal(taken, fit(whole[::2], CLIP))
    assert {frame.size for frame in frames} == {(60, 80)}


def test_a_file_is_played_at_its_own_rate(make: Callable[..., Path]) -> None:
    """Its packets are due by their time stamps, whatever the machine does; a clock never shows less."""
    frames = frames_of(open_file(make(codec="mpeg4"), replace(FAST, speed=20.0)))
    due_s = [(frame.arrived_s - frames[0].arrived_s) * 20 for frame in frames]
    assert due_s == pytest.approx([number / 8 for number in range(80)], abs=0.02)


def test_windows_are_those_that_embed_would_make_of_the_file(make: Callable[..., Path]) -> None:
    file, encode = make(), Recorder()
    with follow(open_file(file, replace(FAST, speed=10.0)), encode, speed=10.0) as stream:
        rows = list(stream)
        summary = stream.summarise()
    fitted = fit(decode_all(file), CLIP)
    assert sum(1 + row.dropped for row in rows) == 10
    for row, clip in zip(rows, encode.clips, strict=True):
        first = round(row.start_s * 8)
        assert np.array_equal(clip, fitted[first : first + 8 : 2])
        assert (row.pictures, row.gaps) == (4, ())
        assert row.end_s - row.start_s == pytest.approx(0.75, abs=2e-3)
        assert row.delay_ms > 0
    assert (summary.frames, summary.sessions, summary.gaps) == (80, 1, 0)


def test_a_changing_rate_and_a_jump_come_through(tmp_path: Path, long_scene: FramesArray) -> None:
    """The jump is not waited out: that would be a stall."""
    times_s = [
        *(number / 32 for number in range(32)),
        *(1 + number / 4 for number in range(8)),
        1009.0,
        1009.25,
        1009.5,
        1009.75,
    ]
    file = write(tmp_path / "a.mkv", long_scene[: len(times_s)], "mpeg4", times_s=times_s)
    encode = Recorder()
    with follow(open_file(file, replace(FAST, speed=4.0)), encode, speed=4.0) as stream:
        rows = list(stream)
    assert [gap for row in rows for gap in row.gaps] == ["time stamps jumped by +1006.25 s at 2.75 s"]
    assert sum(1 + row.dropped for row in rows) == 4


def test_a_looped_file_goes_on_in_the_same_worker(make: Callable[..., Path]) -> None:
    notes: list[str] = []
    before = look_around()
    with follow(open_file(make(), replace(FAST, loop=True)), Recorder(), notes=notes, speed=40.0) as stream:
        workers = set()
        for row in stream:
            workers |= {text for text in look_around() - before if "process" in text}
            if row.gaps and row.start_s > 15:
                break
        assert stream.summarise().sessions >= 2
    assert len(workers) == 1
    assert notes == []


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_freezes_is_replaced_and_that_is_a_gap(
    kind: signal.Signals, make: Callable[..., Path]
) -> None:
    before, notes = look_around(), list[str]()
    playing = replace(FAST, loop=True, speed=10.0, stall_s=2.0)
    with follow(open_file(make(), playing), Recorder(), notes=notes, speed=10.0) as stream:
        next(stream)
        (worker,) = [text for text in look_around() - before if "process" in text]
        os.kill(int(worker.split()[1]), kind)
        gaps = next(row.gaps for row in stream if row.gaps)
        assert stream.summarise().sessions >= 2
    why = "was killed by SIGKILL" if kind is signal.SIGKILL else "took longer than 2 s and was ended"
    assert f"it was opened again (its decoder {why})" in gaps[0]
    assert f"{why}; it is opened again in 0.5 s" in notes[0]


def test_what_is_no_video_or_has_no_time_is_refused_with_its_name(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mkv\n#EXT-X-ENDLIST\n")
    raw = make("a.h264", options={"bf": "0"})
    for file, why in (
        (tmp_path / "none.mp4", "it is not a file that can be read"),
        (tmp_path, "it is not a file"),
        (Path(__file__), "it is not a video that can be read"),
        (tmp_path / "list.m3u8", "it is not a video that can be read"),
        (raw, "its frames have no time stamps"),
    ):
        with (
            follow(open_file(file, replace(FAST, loop=file == raw)), Recorder()) as stream,
            pytest.raises(VideoError, match=re.escape(f"{file}: {why}")),
        ):
            next(stream)


def test_a_worker_that_speaks_nonsense_is_not_believed() -> None:
    worker = DecodeProcess(DecodeLimits())
    try:
        job = open_file(Path("a.mkv"))._job
        good = FrameSeen(time_s=1.0, arrived_s=1.0, height=2, width=2, samples=1, jump_s=None, slot=0)
        wrong: list[dict[str, Any]] = [
            {"slot": 4}, {"slot": -1}, {"slot": None}, {"samples": 0}, {"samples": -1}, {"time_s": float("nan")},
            {"arrived_s": float("inf")}, {"arrived_s": time.monotonic() + 60}, {"jump_s": float("inf")},
        ]  # fmt: skip
        for fields in wrong:
            worker._receive = lambda *_, fields=fields, **__: replace(good, **fields)  # type: ignore[method-assign]
            with Path(os.devnull).open("rb") as file, pytest.raises(VideoError, match="spoke out of turn"):
                next(worker.follow(job, [file.fileno()]))
    finally:
        worker.close()


def test_a_worker_that_follows_has_the_limits_of_one_that_decodes(make: Callable[..., Path]) -> None:
    before, source = look_around(), open_file(make())
    with closing(source):
        frames = source.connect()
        next(frames)
        (worker,) = [text.split()[1] for text in look_around() - before if "process" in text]
        limits = Path(f"/proc/{worker}/limits").read_text()
        for name, value in (("Max address space", 1536 << 20), ("Max open files", 64), ("Max file size", 0)):
            assert re.search(rf"{name} +{value} ", limits), name
        assert "NoNewPrivs:\t1" in Path(f"/proc/{worker}/status").read_text()
    with pytest.raises(VideoError, match="was killed by SIGKILL"):
        list(frames)


def test_a_stream_of_the_network_is_followed_and_opened_again(make: Callable[..., Path]) -> None:
    """By FFmpeg's client, from a server of ours; it hangs up when it has sent what it has."""
    server, notes, encode = RtspServer(make("a.ts", "mpeg4")), list[str](), Recorder()
    try:
        source = WorkerSource(parse_source(server.url), Playing(stall_s=10.0), CLIP)
        with follow(source, encode, stride="4f", notes=notes) as stream:
            while server.clients < 2:
                next(stream)
            gaps = next(row.gaps for row in stream if row.gaps)
    finally:
        server.close()
    assert gaps[0].startswith("it was opened again (")
    assert notes[0].startswith(f"rtsp://127.0.0.1:{server.url.rpartition(':')[2]}: ")
    assert "secret" not in "".join(notes)
    assert all(clip.shape == (4, 32, 48, 3) and clip.std() > 5 for clip in encode.clips)


def test_a_server_that_is_not_there_is_an_error_and_one_that_is_silent_too() -> None:
    with socket_of_nobody() as port:
        for stall_s, why in ((5.0, "Connection refused"), (0.5, "timed out|took longer than 0.5 s")):
            url = f"rtsp://127.0.0.1:{port if stall_s < 1 else 9}/x"
            source = WorkerSource(parse_source(url), Playing(stall_s=stall_s), CLIP)
            with follow(source, Recorder()) as stream, pytest.raises(VideoError, match=why):
                next(stream)


@contextmanager
def socket_of_nobody() -> Iterator[int]:
    """A port at which somebody listens and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_sources_are_told_apart() -> None:
    assert (parse_source("a?b=c.mp4").kind, parse_source("a?b=c.mp4").address) == ("file", "a?b=c.mp4")
    assert parse_source("/dev/video").kind == "file"
    found = parse_source("rtsp://me:secret@camera:8554/live?channel=1")
    assert (found.kind, found.name) == ("rtsp", "rtsp://camera:8554/live?channel=1")
    assert found.address == "rtsp://me:secret@camera:8554/live?channel=1"
    for text, why in (
        ("rtsp://", "names no host"),
        ("rtsp://a b/", "names no host"),
        ("http://camera/live.m3u8", "http:// is no source; give a file, /dev/videoN or rtsp://"),
        ("concat://a|b", "is no source"),
        ("/dev/video63", "there is no camera /dev/video63 (No such file or directory); there is none here"),
    ):
        with pytest.raises(VideoError, match=re.escape(why).replace("none\\ here", ".+")):
            parse_source(text)
    for playing in (Playing(loop=True), Playing(speed=2.0)):
        with pytest.raises(VideoError, match="is live; only a file can be looped or played at another speed"):
            WorkerSource(found, playing, CLIP)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_length_of_time_is_refused(value: float) -> None:
    for name in ("speed", "max_gap_s", "stall_s"):
        with pytest.raises(VideoError, match=f"{name} is {value}; it must be a number above 0"):
            Playing(**{name: value})  # type: ignore[arg-type]


def test_a_device_that_is_no_camera_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vjepa2.runtime.stream_source._CAMERA", re.compile("/dev/null"))
    with pytest.raises(VideoError, match="/dev/null is no camera; it must be a device of V4L2"):
        parse_source("/dev/null")


def test_what_is_asked_of_a_camera_and_of_the_network_reaches_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no camera where the tests run, so that is as far as they go."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def open_container(name: str, **options: Any) -> None:
        calls.append((name, options))
        raise av.error.OSError(5, "no such luck")

    monkeypatch.setattr("vjepa2.runtime.stream_source._refuse_no_camera", lambda _: None)
    monkeypatch.setattr(av, "open", open_container)
    for text in ("/dev/video2?video_size=1280x720&framerate=29.97&input_format=mjpeg", "/dev/video0", "rtsp://a/b"):
        source = WorkerSource(parse_source(text), Playing(stall_s=3.0), CLIP)
        with pytest.raises(VideoError, match=r"it cannot be opened \(no such luck\)"), video.open_live(source._job, ()):
            pass
    (camera, how), (plain, how_plain), (network, how_network) = calls
    assert (camera, how["format"]) == ("/dev/video2", "video4linux2")
    assert how["options"] == {"video_size": "1280x720", "framerate": "29.97", "input_format": "mjpeg"}
    assert (plain, how_plain["options"]) == ("/dev/video0", {})
    assert (network, how_network["format"]) == ("rtsp://a/b", "rtsp")
    assert how_network["options"] == {
        "protocol_whitelist": "tcp", "format_whitelist": "rtsp", "rtsp_transport": "tcp", "timeout": "3000000"
    }  # fmt: skip
    for query in ("video_size=big", "framerate=-1", "ts=abs", "video_size", "input_format=a;b"):
        with pytest.raises(VideoError, match="a camera has no option"):
            parse_source(f"/dev/video0?{query}")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "500")

    def run_verb(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["stream", *map(str, arguments), "--backend", "onnxruntime"])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(done.value.code or 0), captured.out, captured.err

    return run_verb


def test_the_command_prints_a_line_a_window_and_a_summary(
    run: Run, exported: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    file, target, facts = make(), tmp_path / "out.npy", tmp_path / "summary.json"
    status, out, err = run(
        exported, file, "--speed", 8, "--stride", "1s", "--embeddings", "-o", target, "--json", facts
    )
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert {"start_s", "end_s", "delay_ms", "dropped", "novelty", "embedding"} <= set(lines[0])
    assert sum(1 + line["dropped"] for line in lines) == 10
    embeddings = np.load(target)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (len(lines), 192))
    np.testing.assert_allclose(embeddings, [line["embedding"] for line in lines], rtol=1e-6)
    with EmbeddingEngine.open(exported, "onnxruntime") as engine:
        first = round(lines[-1]["start_s"] * 8)
        expected = engine.encode(decode_all(file)[first : first + 8 : 2])
    np.testing.assert_allclose(embeddings[-1], expected, atol=1e-4)
    summary = json.loads(facts.read_text())
    assert (summary["windows"], summary["frames"]) == (len(lines), 80)
    assert re.search(r"windows, \d+ dropped, of 80 frames .* delay \d+ ms .* real-time factor 0\.\d+", err)


def test_the_command_writes_parquet_and_stops_after_so_many_windows(
    run: Run, exported: Path, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vjepa2.runtime.stream_parquet._GROUP", 8)
    file, target = make(), tmp_path / "out.parquet"
    status, out, _ = run(exported, file, "--speed", 40, "--loop", "--stride", "2f", "--windows", 20, "-o", target)
    assert status == 0
    table, lines = pq.read_table(target), [json.loads(line) for line in out.splitlines()]
    assert table.num_rows == len(lines) == 20, "more than one group of rows"
    kind = table.schema.field("embedding").type
    assert (kind.list_size, str(kind.value_type)) == (192, "float")
    assert table["start_s"].to_pylist() == pytest.approx([line["start_s"] for line in lines], abs=1e-5)
    assert set(table["source"].to_pylist()) == {str(file)}
    assert None in table["novelty"].to_pylist()


def test_a_stream_without_a_window_is_an_empty_file(
    run: Run, exported: Path, tmp_path: Path, long_scene: FramesArray
) -> None:
    file = write(tmp_path / "short.mp4", long_scene[:3], "mpeg4")
    for name in ("out.npy", "out.parquet"):
        assert run(exported, file, "--speed", 20, "-o", tmp_path / name)[:2] == (0, "")
    assert np.load(tmp_path / "out.npy").shape == (0, 192)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/dev/video63"], "there is no camera /dev/video63"),
        (["a.mp4", "--json", "-"], "--json is -; standard output has the windows: name a file"),
        (["a.mp4", "-o", "a.csv"], "a.csv ends in '.csv'"),
        (["a.mp4"], "a.mp4: it is not a file that can be read"),
        (["a.mp4", "--stride", "often"], "stride is 'often'"),
        (["a.mp4", "--sampling", "uniform"], "sampling is 'uniform'"),
        (["rtsp://127.0.0.1:9/x", "--loop"], "is live; only a file can be looped"),
        (["rtsp://127.0.0.1:9/x"], "rtsp://127.0.0.1:9/x: it cannot be opened (Connection refused)"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    arguments: list[str], message: str, run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(exported, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def start(exported: Path, file: Path, *arguments: object) -> "subprocess.Popen[str]":
    words = [exported, file, "--loop", "--speed", 20, "--backend", "onnxruntime", *arguments]
    command = [sys.executable, "-c", "from vjepa2.cli import main; main()", "stream", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def test_an_interruption_ends_it_cleanly_with_all_that_was_embedded(
    exported: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    with start(exported, make(), "-o", tmp_path / "out.npy") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    count = len(lines) + len(rest.splitlines())
    assert np.load(tmp_path / "out.npy").shape == (count, 192)
    assert f"{count} windows," in err.replace("\n", " ")
    assert "Traceback" not in err


def test_the_first_signal_waits_for_the_window_at_hand_and_the_second_does_not() -> None:
    """Called, not sent: behind the tests of other libraries, a signal sent to this process ends it with SIGSEGV."""
    stopped: list[int] = []
    stream = SimpleNamespace(stop=lambda: stopped.append(1))
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]
    for kind in kinds:
        stopped.clear()
        with _end_at_signals(stream):  # type: ignore[arg-type]
            handler = signal.getsignal(kind)
            assert callable(handler)
            assert handler not in before
            handler(kind, None)
            assert stopped == [1]
            assert [signal.getsignal(each) for each in kinds] == before, "the second one is as it always was"
        assert [signal.getsignal(each) for each in kinds] == before


def test_a_reader_that_goes_away_ends_it_quietly(exported: Path, make: Callable[..., Path]) -> None:
    with start(exported, make()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_an_engine_streams(exported: Path, make: Callable[..., Path]) -> None:
    with EmbeddingEngine.open(exported, "onnxruntime") as engine:
        with engine.stream(make(), stride="2s", speed=20.0) as stream:
            rows = list(stream)
        assert rows
        assert all(row.embedding_D.shape == (192,) for row in rows)
        with pytest.raises(Vjepa2Error, match="sampling is 'uniform'"):
            engine.stream("a.mp4", sampling="uniform")


def make_samples(leak_mb: float, worker_leak_mb: float = 0.0) -> Samples:
    """What 20 minutes look like where each reconnection leaves `leak_mb`, and a worker so much an hour."""
    random, samples = np.random.default_rng(1), Samples()
    ends = [1200 * part for part in DISTURBED]
    for now_s in np.arange(0, 1200, 2.0).tolist():
        done = sum(now_s >= end_s for end_s in ends)
        age_s = now_s - max([0.0, *ends[:done]])
        samples.times_s.append(now_s)
        samples.worker_times_s.append(now_s)
        samples.parent_mb.append(100 + leak_mb * done + float(random.normal(0, 0.2)))
        filling_mb = 3 * min(age_s, 40.0) / 40
        grown_mb = worker_leak_mb * age_s / 3600
        samples.worker_mb.append(60 + 2 * (done % 3) + filling_mb + grown_mb + float(random.normal(0, 0.2)))
        samples.workers.append(1000 - done)
    return samples


def test_what_a_reconnection_leaves_is_seen_and_a_new_worker_is_no_growth() -> None:
    for slope in make_samples(0.0).fit(1200):
        assert slope.is_within_noise(nothing=NOTHING_MB, visible=VISIBLE_MB)
    parent, worker = make_samples(0.5).fit(1200)
    assert not parent.is_within_noise(nothing=NOTHING_MB, visible=VISIBLE_MB)
    assert worker.is_within_noise(nothing=NOTHING_MB, visible=VISIBLE_MB)
    _, worker = make_samples(0.0, worker_leak_mb=30.0).fit(1200)
    assert not worker.is_within_noise(nothing=NOTHING_MB, visible=VISIBLE_MB)


def test_growth_of_memory_is_told_from_noise() -> None:
    """The judgement of `make soak-stream`, on series that somebody made up."""
    random = np.random.default_rng(0)
    times_s = np.arange(0, 1000, 2.0)
    noise_mb = 100 + np.convolve(random.normal(0, 0.2, len(times_s) + 9), np.ones(10) / 3, "valid")
    flat = fit_slope(times_s.tolist(), noise_mb.tolist(), [0] * 500, bin_s=20)
    assert flat.is_within_noise(nothing=1, visible=20)
    leak = fit_slope(times_s.tolist(), (noise_mb + 30 * times_s / 3600).tolist(), [0] * 500, bin_s=20)
    assert leak.low > 0
    assert leak.low < 30 < leak.high
    assert not leak.is_within_noise(nothing=1, visible=1000)
    wild = fit_slope(times_s.tolist(), (100 * noise_mb).tolist(), [0] * 500, bin_s=20)
    assert not wild.is_within_noise(nothing=1, visible=20), "what cannot be seen is not passed"
    quiet_mb = 100 + 0.001 * noise_mb
    for growth, passes in ((0.5, True), (3.0, False)):
        slope = fit_slope(times_s.tolist(), (quiet_mb + growth * times_s / 3600).tolist(), [0] * 500, bin_s=20)
        assert slope.low > 0
        assert slope.is_within_noise(nothing=1, visible=20) is passes
    steps = fit_slope(times_s.tolist(), (noise_mb + 50 * (times_s > 500)).tolist(), [0] * 250 + [1] * 250, bin_s=20)
    assert steps.is_within_noise(nothing=1, visible=20), "another worker may have another level"
    broken = fit_slope(times_s.tolist(), [float("nan")] * 500, [0] * 500, bin_s=20)
    assert not broken.is_within_noise(nothing=1, visible=20)
    with pytest.raises(ValueError, match="too few to judge"):
        fit_slope([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [0, 0, 0], bin_s=20)
