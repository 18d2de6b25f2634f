"""Does every verb do its work, and say in one line why it could not?"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from tests.conftest import tiny_encoder
from tests.test_checkpoints import SPEC, huggingface_state, write_config
from vjepa2.bundle import Bundle
from vjepa2.cli import VERBS, main
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.backends.choice import choose_backend

Run = Callable[..., tuple[int, str, str]]
Writer = Callable[..., Path]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a verb here and gives exit status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "500")  # one line is one line

    def run_verb(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(done.value.code or 0), captured.out, captured.err

    return run_verb


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_config(folder)
    save_file(huggingface_state(tiny_encoder(SPEC)), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, run: Run) -> None:
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert "Usage: vjepa2" in out


def test_export_writes_a_bundle_and_says_what_was_measured(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    status, out, err = run(
        "export", checkpoint, "-o", target, "--frames", 4, "--size", "32x48", "--layers", 1, "--json", "-"
    )
    assert status == 0
    for stage in ("load weights", "trace", "prove portable.onnx", "hash and sync", "worst token's cosine 1.0000"):
        assert stage in err
    record = json.loads(out)
    assert record["bundle"] == str(target)
    assert record["warning"] is None
    assert record["parity"]["portable.onnx"]["token_cosine"] > 0.99999
    manifest = Bundle.open(target).manifest
    assert (manifest.clip.frames, manifest.clip.height, manifest.clip.width) == (4, 32, 48)
    assert (manifest.model.depth, manifest.source.layers, manifest.source.name) == (1, 1, "checkpoint")
    assert sorted(manifest.source.files) == ["config.json", "model.safetensors"]


def test_that_random_weights_mean_nothing_is_said_everywhere(run: Run, tmp_path: Path, scene: FramesArray) -> None:
    target = tmp_path / "bundle"
    arguments = ("random", "--model", "vitl-sincos", "--layers", 1, "--frames", 2, "--size", 32, "--no-simplify")
    status, out, err = run("export", *arguments, "-o", target, "--json", "-")
    assert status == 0
    for text in (err, json.loads(out)["warning"], Bundle.open(target).manifest.source.warning):
        assert "embeddings mean nothing" in str(text)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_embed_writes_one_row_a_video(
    suffix: str, run: Run, exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    videos = write_video(scene, "a.mp4"), write_video(scene[::-1], "b.avi")
    target = tmp_path / f"out.{suffix}"
    status, out, err = run("embed", exported, *videos, "-o", target, "--json", "-")
    assert status == 0
    taken = choose_backend()
    assert f"2 x 192 float32, by {taken.name} on cpu in fp32 (auto: " in err
    assert "embeddings mean nothing" in err
    record = json.loads(out)
    assert (record["backend"], record["device"], record["precision"]) == (taken.name, "cpu", "fp32")
    assert record["reason"] == taken.reason
    assert sum(row["nodes"] for row in record["placement"]) > 50
    with EmbeddingEngine.open(exported) as engine:
        expected = engine.encode(list(videos))
    if suffix == "npy":
        embeddings = np.load(target)
    else:
        table = pq.read_table(target)
        assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[192]"
        assert table.column_names == COLUMNS
        assert table["video"].to_pylist() == [str(video) for video in videos]
        assert table["status"].to_pylist() == ["ok", "ok"]
        embeddings = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(embeddings, expected)


def spoil(write_video: Writer, scene: FramesArray, tmp_path: Path) -> Path:
    """A folder of three videos, of which the second lacks its end."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mkv", "c.mp4"):
        file = write_video(scene, name).rename(folder / name)
        if name == "b.mkv":
            with file.open("r+b") as stream:
                stream.truncate(file.stat().st_size * 3 // 4)
    return folder


COLUMNS = ["video", "start_s", "end_s", "status", "embedding", "model", "backend", "precision", "bundle"]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_embed_skips_what_is_damaged_and_says_which_rows_are_whose(
    suffix: str, run: Run, exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    folder, target = spoil(write_video, scene, tmp_path), tmp_path / f"out.{suffix}"
    words = ("embed", exported, folder, "-o", target, "--json", "-", "--truncate", 16, "--normalize")
    status, _, err = run(*words)
    assert status == 2
    assert "b.mkv is partial (" in err
    assert not target.exists()
    status, out, err = run(*words, "--on-error", "skip", "--decoders", 2)
    assert status == 0
    assert "2 x 16 float32" in err
    assert err.count("skipped: ") == 1
    record = json.loads(out)
    a, b, c = (str(folder / name) for name in ("a.mp4", "b.mkv", "c.mp4"))
    assert record["videos"] == [a, b, c]
    assert [(entry["video"], entry["status"]) for entry in record["report"]] == [
        (a, "ok"), (b, "partial"), (c, "ok")
    ]  # fmt: skip
    assert record["report"][1]["frames"] < record["report"][1]["expected"] == 24
    assert record["report"][1]["reason"]
    with EmbeddingEngine.open(exported) as engine:
        expected = engine.encode([a, c], truncate_dim=16, normalize_embeddings=True)
    listed = [(row["row"], row["video"]) for row in record["rows"]]
    if suffix == "npy":
        assert listed == [(0, a), (1, c)]
        np.testing.assert_array_equal(np.load(target), expected)
        return
    assert listed == [(0, a), (1, b), (2, c)]
    table = pq.read_table(target)
    assert table.column_names == COLUMNS
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[16]"
    first, second, third = table["embedding"].to_pylist()
    assert np.isnan(second).all()
    np.testing.assert_array_equal(np.array([first, third], np.float32), expected)
    statuses = table["status"].to_pylist()
    assert statuses[0] == statuses[2] == "ok"
    assert statuses[1].startswith("partial (")
    assert (table["start_s"].to_pylist(), table["video"].to_pylist()) == ([0.0, None, 0.0], [a, b, c])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none.mp4", "--on-error", "skip"), "none of 1 videos can be embedded: none.mp4 is rejected (it is not a"),
        (("none.mp4", "--truncate", "193"), "--truncate is 193; this bundle's embeddings have 192 channels"),
        ((".", ), ". holds no video (.mp4,"),
    ],
)  # fmt: skip
def test_embed_without_a_row_ends_in_one_line(
    options: tuple[str, ...], message: str, run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run("embed", exported, *options, "-o", "out.npy")
    assert (status, err.count(message)) == (2, 1)
    assert not list(tmp_path.iterdir())


def test_compile_says_what_is_missing(run: Run, exported: Path) -> None:
    status, _, err = run("compile", exported)
    assert status == 2
    assert "no engine for bundle: tensorrt is not installed" in err
    assert "there is no CUDA GPU" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "random", "--model", "vitx"), "no model is named 'vitx'; choose one of vitl"),
        (("export", "random", "--model", "vitl", "--frames", 15), "frames is 15; it must be a positive multiple of 2"),
        (("export", "random", "--model", "vitl", "--size", 250), "height is 250; it must be a positive multiple of 16"),
        (("export", "random", "--model", "vitl", "--size", "big"), "size is 'big'; it must be a number of pixels"),
        (("export", "random", "--model", "vitl", "--batch", "0"), "batch is '0'; it must be a number from 1 on"),
        (("export", "nowhere", "--model", "vitl"), "'nowhere' is no folder, no file"),
    ],
)
def test_a_bad_export_ends_in_one_line(arguments: tuple[object, ...], message: str, run: Run, tmp_path: Path) -> None:
    status, _, err = run(*arguments, "-o", tmp_path / "bundle")
    assert status == 2
    assert message in err
    assert err.strip().splitlines()[-1].startswith("vjepa2: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "out.txt"), "out.txt ends in '.txt'; an output is a .npy or a .parquet file"),
        (("-o", "out.npy", "--backend", "tpu"), "no backend is named 'tpu'"),
        (("-o", "/proc/none/out.npy"), "/proc/none/out.npy cannot be written: No such file or directory"),
    ],
)
def test_a_bad_embed_ends_in_one_line(
    options: tuple[str, ...], message: str, run: Run, exported: Path, write_video: Writer, scene: FramesArray
) -> None:
    status, _, err = run("embed", exported, write_video(scene), *options)
    assert (status, err.count(message)) == (2, 1)


def test_a_video_that_is_too_short_is_padded_only_when_asked(
    run: Run, exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    arguments = ("embed", exported, write_video(scene[:3]), "-o", tmp_path / "out.npy")
    status, _, err = run(*arguments)
    assert status == 2
    assert "has 3 frames and the clip takes 4" in err
    assert not (tmp_path / "out.npy").exists()
    assert run(*arguments, "--pad", "repeat-last")[0] == 0


def test_an_unknown_verb_and_a_missing_option_are_usage_errors(run: Run, exported: Path) -> None:
    assert run("fly")[0] == 2
    status, _, err = run("embed", exported, "a.mp4")
    assert status == 2
    assert "Missing option '-o'" in err


def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a real export, in a process of its own."""
    heard = ["env", "--default-signal=INT"]  # even if what runs the tests runs behind a shell
    command = [*heard, sys.executable, "-m", "vjepa2", "export", "random", "--model", "vitl", "--layers", "2"]
    with subprocess.Popen(
        [*command, "--frames", "4", "--size", "64", "-o", tmp_path / "bundle"],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "load weights" in line:
                process.send_signal(2)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted; nothing half-written was left behind" in rest
    assert not list(tmp_path.iterdir())


def test_embed_runs_as_it_was_asked_to(
    run: Run, exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    words = ("embed", exported, write_video(scene), "-o", tmp_path / "out.npy", "--json", "-")
    asked = ("--backend", "pytorch", "--device", "cpu", "--precision", "bf16")
    status, out, err = run(*words, *asked)
    assert status == 0
    assert "by pytorch on cpu in bf16 (asked for by name)" in err
    assert json.loads(out)["precision"] == "bf16"
    status, _, err = run(*words, "--backend", "onnxruntime", "--precision", "bf16")
    assert status == 2
    assert "onnxruntime runs this fp32 bundle in fp32; bf16 was asked for" in err
    status, _, err = run(*words, "--backend", "openvino", "--precision", "fp16", "--allow", "bf16", "--allow", "fp32")
    assert status == 0
    assert "by openvino on cpu in" in err


def test_embed_writes_where_each_clip_of_a_video_lies(
    run: Run, exported: Path, write_video: Writer, scene: FramesArray, tmp_path: Path
) -> None:
    target = tmp_path / "out.parquet"
    status, out, _ = run(
        "embed", exported, write_video(scene), "-o", target, "--sampling", "window:8", "--batch-size", 2, "--json", "-"
    )
    assert status == 0
    table = pq.read_table(target)
    assert table["start_s"].to_pylist() == [0.0, 1.0, 2.0]
    assert [row["start_s"] for row in json.loads(out)["rows"]] == [0.0, 1.0, 2.0]
    status, _, err = run("embed", exported, write_video(scene), "-o", target, "--sampling", "often")
    assert (status, err.count("sampling is 'often'; it must be one of uniform, fps:N, stride:N")) == (2, 1)


def test_the_manifest_says_how_odd_margins_are_rounded(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    arguments = ("--frames", 2, "--size", 32, "--layers", 1, "--no-simplify", "--odd-margin", "even")
    assert run("export", checkpoint, "-o", target, *arguments)[0] == 0
    assert Bundle.open(target).manifest.preprocessing.crop == "centre, odd margins rounded half to even"
