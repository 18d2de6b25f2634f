"""Does a corpus become rows, each once, whatever happens on the way?"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus_kills import read_points, watch_points
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.errors import CorpusError, MissingDependencyError, VideoError
from vjepa2.runtime import EmbeddingEngine, corpus_rows, corpus_store
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.corpus_local import run_local
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_messages import CorpusJob, PlannedVideo, ShardDone, ShardTask
from vjepa2.runtime.corpus_output import PLAN, RUN, SEAL, list_shards, name_shard
from vjepa2.runtime.corpus_plan import Plan
from vjepa2.runtime.corpus_points import EVENT, POINTS
from vjepa2.runtime.corpus_run import RunSettings, Tally, _make_job, choose_executor, run_corpus
from vjepa2.runtime.corpus_seal import CorpusSeal, seal_corpus
from vjepa2.runtime.corpus_shard import ShardMaker
from vjepa2.runtime.corpus_status import read_status
from vjepa2.runtime.corpus_store import LocalStore, open_store
from vjepa2.runtime.corpus_table import read_shard
from vjepa2.runtime.corpus_videos import fetch_video
from vjepa2.runtime.decode_messages import DecodeLimits
from vjepa2.runtime.decode_process import DecodeProcess

Writer = Callable[..., Path]
SETTINGS = RunSettings(backend="onnxruntime", threads=1)
passed: set[str] = set()  # by this process; an audit hook stays for good
sys.addaudithook(lambda event, arguments: passed.add(arguments[0]) if event == EVENT else None)


def run_here(job: CorpusJob, tasks: Sequence[ShardTask]) -> Iterator[ShardDone]:
    """One shard after another in this process, uninterrupted: what every other way must be equal to."""
    with ShardMaker(job) as maker:
        for task in tasks:
            yield maker.make(task)


def run_all(plan: Plan, bundle: Path, output: Path, settings: RunSettings = SETTINGS, here: bool = True) -> Tally:
    *_, tally = run_corpus(plan, bundle, str(output), settings, run_here if here else None)
    assert {PLAN, RUN} <= {file.name for file in output.iterdir()}
    return tally


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, scene: FramesArray) -> Path:
    """Five videos, one of them no video, as a folder."""
    from tests.videos import write  # noqa: PLC0415  (it needs PyAV)

    folder = tmp_path_factory.mktemp("corpus") / "videos"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "b.mp4", "deeper/d.mp4", "e.mp4")):
        write(folder / name, scene[number : number + 6 + 2 * number], "mpeg4")
    (folder / "c.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not taken")
    return folder


@pytest.fixture(scope="module")
def plan(corpus: Path) -> Plan:
    """Three shards: a b, c d, e."""
    return plan_corpus(str(corpus), sampling="uniform", pad="none", frames=None, clips_per_shard=2)


@pytest.fixture(scope="module")
def whole(plan: Plan, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CorpusSeal]:
    """The output of one uninterrupted run in one process, and its seal. Not to be changed."""
    output = tmp_path_factory.mktemp("whole") / "output"
    tally = run_all(plan, exported, output)
    assert (tally.done, tally.rows, tally.videos) == (3, 5, {"ok": 4, "partial": 0, "rejected": 1})
    return output, seal_corpus(str(output))


def vjepa2(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vjepa2", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)


def test_the_rows_are_those_of_a_bare_loop(whole: tuple[Path, CorpusSeal], corpus: Path, exported: Path) -> None:
    table = pq.read_table(whole[0])
    assert table.column_names == [
        "video", "clip", "start_s", "end_s", "status", "reason", "embedding", "model", "backend", "precision", "bundle",
        "plan",
    ]  # fmt: skip
    names = [str(Path(name).relative_to(corpus)) for name in table["video"].to_pylist()]
    assert names == ["a.mp4", "b.mp4", "c.mp4", "deeper/d.mp4", "e.mp4"]
    assert table["status"].to_pylist() == ["ok", "ok", "rejected", "ok", "ok"]
    assert table["clip"].to_pylist() == [0, 0, None, 0, 0]
    assert table["embedding"].type == pa.list_(pa.float32(), 192)
    assert np.isnan(table["embedding"][2].as_py()).all()
    assert "Invalid data" in table["reason"][2].as_py()
    videos = [name for name in table["video"].to_pylist() if not name.endswith("c.mp4")]
    with EmbeddingEngine.open(exported, "onnxruntime") as engine:
        expected_BD = engine.encode(videos)
    rows_BD = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(rows_BD[[0, 1, 3, 4]], expected_BD)


def test_a_shard_that_the_plan_does_not_number_is_told(whole: tuple[Path, CorpusSeal], tmp_path: Path) -> None:
    output = shutil.copytree(whole[0], tmp_path / "output")
    shutil.copyfile(output / name_shard(0), output / name_shard(7))
    with pytest.raises(CorpusError, match="has shard 7, and its plan has 3, numbered from 0"):
        read_status(str(output))


def test_two_processes_make_the_same_bytes(
    plan: Plan, exported: Path, whole: tuple[Path, CorpusSeal], tmp_path: Path
) -> None:
    tally = run_all(plan, exported, tmp_path / "output", replace(SETTINGS, workers=2), here=False)
    assert (tally.done, tally.found) == (3, 0)
    assert seal_corpus(str(tmp_path / "output")) == whole[1]
    assert set(POINTS) == passed, "by this process alone, in the run of `whole` and in this one"
    for shard in range(3):
        assert (tmp_path / "output" / name_shard(shard)).read_bytes() == (whole[0] / name_shard(shard)).read_bytes()


@pytest.mark.parametrize(
    ("kill", "dies"),
    [("shard_counted:2", True), ("draft_written:3", False)],
)
def test_after_a_kill_no_row_is_lost_and_none_is_there_twice(
    kill: str, dies: bool, plan: Plan, exported: Path, whole: tuple[Path, CorpusSeal], tmp_path: Path
) -> None:
    with (tmp_path / "plan.parquet").open("wb") as stream:
        plan.write(stream)
    output, notes = tmp_path / "output", tmp_path / "notes"
    words = ("corpus", "run", tmp_path / "plan.parquet", exported, "-o", output, "--backend", "onnxruntime")
    done = vjepa2(*words, "--threads", 1, **watch_points(notes, kill))
    assert (notes / "killed").exists()
    assert done.returncode == (-9 if dies else 1), done.stderr
    if dies:
        assert list_shards(open_store(str(output)))
        assert vjepa2(*words, **watch_points(notes, kill)).returncode == 1, "a video is rejected"
    assert seal_corpus(str(output)) == whole[1]
    assert read_points(notes).count("shard_begun") <= 3 + 1, "one shard of work is repeated, at most"
    assert not list(output.glob(".*")), "no draft is left"


def test_a_video_that_takes_its_worker_with_it_twice_is_a_row_with_its_reason(
    plan: Plan, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in watch_points(tmp_path / "notes", "video_fetched:2", again=True).items():
        monkeypatch.setenv(name, value)
    job, task = make_task(plan, exported, tmp_path)
    (done,) = run_local(job, [task], 1)
    assert [video.status for video in done.footer.videos] == ["ok", "rejected"]
    assert done.footer.videos[1].reason == "its worker was killed by SIGKILL, twice at this video"
    assert read_points(tmp_path / "notes").count("shard_begun") == 3


def test_a_worker_that_dies_whatever_it_is_given_stops_the_run(
    plan: Plan, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in watch_points(tmp_path / "notes", "bundle_opened:1", again=True).items():
        monkeypatch.setenv(name, value)
    job, task = make_task(plan, exported, tmp_path)
    with pytest.raises(CorpusError, match="shard 0 cannot be made: its worker was killed by SIGKILL, again and again"):
        list(run_local(job, [task], 1))


def make_task(plan: Plan, bundle: Path, folder: Path) -> tuple[CorpusJob, ShardTask]:
    """What a worker is told of the first shard."""
    found: list[tuple[CorpusJob, ShardTask]] = []

    def keep(job: CorpusJob, tasks: Sequence[ShardTask]) -> Iterator[ShardDone]:
        found.append((job, tasks[0]))
        return iter(())

    list(run_corpus(plan, bundle, str(folder / "output"), SETTINGS, keep))
    return found[0]


def test_a_decoder_that_is_killed_before_it_saw_a_video_costs_none(
    plan: Plan,
    exported: Path,
    whole: tuple[Path, CorpusSeal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, task = make_task(plan, exported, tmp_path)

    def kill_decoder(number: int) -> None:
        if number == 1:  # the first video is done, and its decoder waits for the next
            os.kill(maker._decoder._idle[0]._process.pid, signal.SIGKILL)

    def begin_badly(limits: DecodeLimits) -> DecodeProcess:
        begun.append(limits)
        if len(begun) < 3:
            raise VideoError("its decoder was killed by SIGKILL")
        return DecodeProcess(limits)

    begun: list[DecodeLimits] = []
    monkeypatch.setattr("vjepa2.runtime.decoder.DecodeProcess", begin_badly)
    with ShardMaker(job) as maker:
        done = maker.make(task, kill_decoder)
    with (whole[0] / name_shard(0)).open("rb") as stream:
        assert done.footer == read_shard(stream, "whole")[1]
    assert len(begun) == 4, "two that died before they saw a video, one that was killed, one more"


def test_what_fails_once_is_tried_again(
    plan: Plan, exported: Path, whole: tuple[Path, CorpusSeal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = set[int]()

    def fail_once(video: PlannedVideo) -> AbstractContextManager[Path]:
        if video.number not in failed:
            failed.add(video.number)
            raise VideoError("not now")
        return fetch_video(video)

    monkeypatch.setattr(corpus_rows, "fetch_video", fail_once)
    run_all(plan, exported, tmp_path / "output")
    assert seal_corpus(str(tmp_path / "output")) == whole[1]


def test_a_video_that_was_changed_or_is_gone_is_a_row_with_its_reason(
    exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    write_video(scene, "a.mp4"), write_video(scene, "b.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    plan = plan_corpus(str(tmp_path), sampling="uniform", pad="none", frames=None, clips_per_shard=9)
    write_video(scene[::-1], "a.mp4")
    (tmp_path / "b.mp4").unlink()
    tally = run_all(plan, exported, tmp_path / "output")
    assert tally.videos["rejected"] == 3
    reasons = pq.read_table(tmp_path / "output")["reason"].to_pylist()
    assert "it was changed since it was planned" in reasons[0]
    assert all("it is not a file that can be read" in reason for reason in reasons[1:])
    assert seal_corpus(str(tmp_path / "output")).rows == 3


def test_windows_are_planned_as_they_are_cut_and_damage_is_told(
    exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    write_video(scene, "a.mp4")
    damaged = write_video(scene, "b.mkv")
    with damaged.open("r+b") as stream:
        stream.truncate(damaged.stat().st_size * 3 // 4)
    with pytest.raises(CorpusError, match="sampling window:8 needs --frames"):
        plan_corpus(str(tmp_path), sampling="window:8", pad="none", frames=None, clips_per_shard=3)
    plan = plan_corpus(str(tmp_path), sampling="window:8", pad="none", frames=4, clips_per_shard=3)
    assert (plan.table["clips"].to_pylist(), plan.shards) == ([3, 2], 2)
    tally = run_all(plan, exported, tmp_path / "output", replace(SETTINGS, batch_size=2))
    assert (tally.rows, tally.videos) == (plan.clips, {"ok": 1, "partial": 1, "rejected": 0})
    table = pq.read_table(tmp_path / "output")
    assert table["start_s"].to_pylist()[:3] == [0.0, 1.0, 2.0]
    assert " frames: " in table["reason"].to_pylist()[-1]
    other = plan_corpus(str(tmp_path), sampling="window:8", pad="none", frames=6, clips_per_shard=3)
    with pytest.raises(CorpusError, match=r"the plan is for clips of 6 frames, and .* takes 4; plan with --frames 4"):
        run_all(other, exported, tmp_path / "other")


def test_the_second_of_two_writers_finds_the_first_and_leaves_nothing(tmp_path: Path) -> None:
    for attempt in range(20):
        store, begin = LocalStore(tmp_path), threading.Barrier(4)
        won: list[bool] = []

        def race(number: int, name: str = str(attempt)) -> None:
            begin.wait()  # noqa: B023  (joined below)
            won.append(store.put_new(name, bytes([number]) * 1000))  # noqa: B023

        threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]  # type: ignore[func-returns-value]
        assert sorted(won) == [False, False, False, True]
        assert len(set((tmp_path / str(attempt)).read_bytes())) == 1
    assert not list(tmp_path.glob(".*"))


def test_links_do_where_a_file_system_cannot_rename_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldKernel:
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: OldKernel())
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    store = LocalStore(tmp_path)
    assert (store.put_new("a", b"1"), store.put_new("a", b"2")) == (True, False)
    draft = tmp_path / "draft"
    draft.write_bytes(b"3")
    assert corpus_store._rename_new(draft, tmp_path / "a") is False
    assert store.read_file("a") == b"1"
    draft.unlink()
    assert [file.name for file in store.list_files()] == ["a"]


def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = corpus_store._host()
    for owner in (dead.pid, os.getpid()):
        (tmp_path / f".x.{host}-{owner}-0123abcd.draft").write_bytes(b"half")
    (tmp_path / f".x.elsewhere-{dead.pid}-0123abcd.draft").write_bytes(b"half")
    LocalStore(tmp_path).sweep()
    assert len(list(tmp_path.glob(".*.draft"))) == 2


@pytest.mark.parametrize("point", ["draft_opened", "draft_written", "draft_synced", "folder_synced"])
def test_a_full_disk_leaves_nothing_half_written_and_names_path_and_bytes(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)

    def fill(passed: str) -> None:
        if passed == point:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_store, "pass_point", fill)
    with pytest.raises(CorpusError, match=r"/shard cannot be written: No space left on device; it needs 7 bytes; free"):
        store.put_new("shard", b"content")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"content"] * (point == "folder_synced")
    monkeypatch.undo()
    assert store.put_new("shard", b"content") == (point != "folder_synced")


@pytest.mark.parametrize("edit", ["row", "order", "policy", "json", "cut", "no plan"])
def test_a_plan_that_was_edited_is_refused(edit: str, plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "plan.parquet"
    with file.open("wb") as stream:
        plan.write(stream)
    assert Plan.open(file).id == plan.id
    table = pq.read_table(file)
    head = table.schema.metadata[b"vjepa2.plan"]
    if edit == "row":
        clips = table.schema.get_field_index("clips")
        table = table.set_column(clips, table.schema.field("clips"), pa.array([1, 1, 1, 1, 2]))
    elif edit == "order":
        table = table.take([1, 0, 2, 3, 4])
    elif edit == "policy":
        head = head.replace(b'"uniform"', b'"stride:2"')
    elif edit == "json":
        head = b"{"
    pq.write_table(table.replace_schema_metadata({} if edit == "no plan" else {"vjepa2.plan": head}), file)
    if edit == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"was changed after it was planned|is no plan"):
        Plan.open(file)


def test_another_plan_bundle_or_setting_is_refused(
    plan: Plan, corpus: Path, exported: Path, in_threes: Path, whole: tuple[Path, CorpusSeal]
) -> None:
    other = plan_corpus(str(corpus), sampling="uniform", pad="none", frames=None, clips_per_shard=3)
    for arguments, message in (
        ((other, exported, whole[0]), "is of plan .*, and this is .*; give another output folder"),
        ((plan, in_threes, whole[0]), "is of bundle .*, and .* is .*; give another output folder"),
    ):
        with pytest.raises(CorpusError, match=message):
            run_all(*arguments)
    assert run_all(plan, exported, whole[0], RunSettings()).found == 3, "what is not said is as it was"
    job = make_job(plan, exported, whole[0], replace(SETTINGS, batch_size=2))
    with pytest.raises(CorpusError, match="holds rows that were made otherwise: batch_size 1 and not 2"):
        ShardMaker(job)


def make_job(plan: Plan, bundle: Path, output: Path, settings: RunSettings) -> CorpusJob:
    """What a worker of a run is told for which nothing is left."""
    return _make_job(plan, Bundle.open(bundle), open_store(str(output)), settings, None)


def test_a_bundle_that_changes_during_the_run_makes_no_more_shards(
    plan: Plan, bundle_copy: Path, tmp_path: Path
) -> None:
    job, task = make_task(plan, bundle_copy, tmp_path)
    with ShardMaker(job) as maker:
        (bundle_copy / "weights.data").touch()
        with pytest.raises(CorpusError, match="was changed during the run"):
            maker.make(task)
    with pytest.raises(CorpusError, match="was changed during the run: it is "):
        ShardMaker(replace(job, bundle_sha256="0" * 64))
    assert not list_shards(open_store(job.output))


def refuse_to_scan(place: object) -> None:
    """What a folder says that may not be read; root may read every folder."""
    raise PermissionError(errno.EACCES, "Permission denied", f"{place}/closed")


def test_an_empty_folder_and_lists_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice.txt").write_text("a.mp4\n\nb.mp4\na.mp4\n")
    (tmp_path / "list.txt").write_text("b.mp4\n /abs/a.mp4 \n")
    for source, message in (
        ("empty", "has no videos"),
        ("twice.txt", "names .*a.mp4 twice"),
        ("none.txt", "is neither a folder nor a list that can be read"),
    ):
        with pytest.raises(CorpusError, match=message):
            plan_corpus(str(tmp_path / source), sampling="uniform", pad="none", frames=None, clips_per_shard=9)
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse_to_scan)
        with pytest.raises(CorpusError, match=r"/closed cannot be read \(Permission denied\); let it be read"):
            plan_corpus(str(tmp_path), sampling="uniform", pad="none", frames=None, clips_per_shard=9)
    plan = plan_corpus(str(tmp_path / "list.txt"), sampling="segments:2", pad="none", frames=None, clips_per_shard=9)
    assert plan.table["video"].to_pylist() == [str(tmp_path / "b.mp4"), "/abs/a.mp4"], "in the list's order"
    assert plan.table["problem"].null_count == 0


def test_unreadable_videos_alone_are_rows_and_exit_status_1(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / "videos" / name).write_bytes(b"nothing")
    file, output = tmp_path / "plan.parquet", tmp_path / "output"
    call("corpus", "plan", tmp_path / "videos", "-o", file, "--json", "-")
    assert json.loads(capsys.readouterr().out)["videos"] == 2
    status = call("corpus", "run", file, exported, "-o", output, "--backend", "onnxruntime", "--json", "-")
    record = json.loads(capsys.readouterr().out)
    assert (status, record["rows"], record["videos"]["rejected"]) == (1, 2, 2)
    call("corpus", "seal", output, "--json", "-")
    assert json.loads(capsys.readouterr().out)["videos"] == {"ok": 0, "partial": 0, "rejected": 2}
    done = vjepa2("corpus", "status", output, "--json", "-")
    assert json.loads(done.stdout)["tally"]["done"] == 1
    call("corpus", "status", output)
    assert "1 of 1 shards, 2 rows, videos: 2 rejected" in capsys.readouterr().out


def call(*words: object) -> int:
    """The exit status of a command in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(str(end.value.code or 0))


def test_a_place_that_cannot_be_written_or_read_is_named(
    plan: Plan, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        CorpusError, match=r"/proc/output/_plan.parquet cannot be written: .*; choose a folder that can"
    ):
        run_all(plan, exported, Path("/proc/output"))
    with pytest.raises(CorpusError, match="cannot be read as a folder"):
        LocalStore(Path("/dev/null")).list_files()
    assert call("corpus", "run", tmp_path / "none", exported, "-o", tmp_path / "x") == 2
    assert "cannot be read (No such file" in capsys.readouterr().err
    assert call("corpus", "status", tmp_path) == 2
    assert "it is not the output of vjepa2 corpus run" in capsys.readouterr().err
    assert call("corpus", "seal", tmp_path) == 2


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vjepa2.runtime.corpus_ray", raising=False)
    with pytest.raises(MissingDependencyError, match=r"needs ray; pip install 'vjepa2-edge\[ray\]'"):
        choose_executor("ray", SETTINGS, None, 0)
    with pytest.raises(CorpusError, match="--on is local, and --address here:1 and --gpus 0 are Ray's; take --on ray"):
        choose_executor("local", SETTINGS, "here:1", 0)


def test_status_is_told_while_shards_are_made(plan: Plan, exported: Path, tmp_path: Path) -> None:
    seen = []
    for tally in run_corpus(plan, exported, str(tmp_path), SETTINGS, run_here):
        status = read_status(str(tmp_path))
        assert (status.tally.done, status.tally.rows) == (tally.done, tally.rows)
        seen.append((status.tally.done, status.sealed, status.clips_per_s is None, status.run is None))
    assert seen == [(0, False, True, True), (1, False, True, False), (2, False, True, False), (3, False, False, False)]
    assert status.left_s == 0


@pytest.mark.parametrize("fault", ["missing", "foreign", "changed", "of another", "damaged", "sealed otherwise"])
def test_the_seal_is_refused(fault: str, whole: tuple[Path, CorpusSeal], tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for file in whole[0].iterdir():
        (output / file.name).write_bytes(file.read_bytes())
    assert seal_corpus(str(output)) == whole[1], "again is the same"
    shard = output / name_shard(1)
    if fault == "missing":
        shard.unlink()
    elif fault == "foreign":
        (output / "more.parquet").write_bytes(b"")
    elif fault == "changed":
        change_embedding(shard)
    elif fault == "of another":
        shard.write_bytes((output / name_shard(0)).read_bytes())
    elif fault == "damaged":
        shard.write_bytes(shard.read_bytes()[:-20])
    else:
        (output / SEAL).write_text("{}")
    with pytest.raises(
        CorpusError, match=r"lacks 1 of 3|does not ask for|rows_sha256|other rows|not a whole|otherwise"
    ):
        seal_corpus(str(output))


def change_embedding(shard: Path) -> None:
    """Change the last bit of a row, and nothing else."""
    with shard.open("rb") as stream:
        table, _ = read_shard(stream, shard.name)
    column = table["embedding"].combine_chunks()
    values = np.array(column.values)
    values[-1] = np.nextafter(values[-1], np.float32(np.inf))
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values), 192)
    place = table.schema.get_field_index("embedding")
    pq.write_table(table.set_column(place, "embedding", changed), shard)
