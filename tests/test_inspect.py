"""Does `vjepa2 inspect` say what a bundle is, which targets take it, and end as it found it?"""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.engine_samples import NAME, put_engine
from tests.lint_graphs import small_graph
from tests.test_lint import cast_scores
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.cli import main
from vjepa2.export.targets import TARGETS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that inspects and gives exit status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["inspect", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(done.value.code or 0), captured.out, captured.err

    return run


def test_a_bundle_is_summed_up_and_clean_for_every_target(inspect: Run, exported: Path) -> None:
    status, out, _ = inspect(exported)
    assert status == 0
    assert "tiny in fp32, clips of 4 x 64 x 96, batch 1, head embedding, weights of random" in out
    assert "portable.onnx: 77 nodes, opset 18, IR 10, 2 attentions, MatMuls 14 float32" in out
    assert "embeddings mean nothing" in out
    assert out.count(" clean") == len(TARGETS) + 1
    assert str(round((exported / WEIGHTS).stat().st_size / 1e6, 2)) in out


def test_a_file_that_breaks_a_rule_ends_in_1_and_names_the_node(inspect: Run, bundle_copy: Path) -> None:
    graph = onnx.load(bundle_copy / PORTABLE, load_external_data=False)
    cast_scores(graph, bundle_copy)
    file = bundle_copy / "mine.onnx"
    file.write_bytes(graph.SerializeToString())
    status, out, _ = inspect(file, "--target", "tensorrt-10.3", "--precision", "fp16")
    assert status == 1
    assert "tensorrt-10.3  2 faults" in out
    assert "spoilt: it stands inside the attention of blocks.0.attn/Softmax_weights_BAMN" in out
    assert "fp16 was asked for, and 12 MatMuls are float32" in out
    assert "openvino" not in out


def test_json_has_everything(inspect: Run, exported: Path, tmp_path: Path) -> None:
    status, out, _ = inspect(exported, "--json", "-")
    record = json.loads(out)
    assert status == 0
    assert record["manifest"]["precision"] == "fp32"
    assert set(record["graphs"]) == {PORTABLE, ONNXRUNTIME}
    reports = record["graphs"][PORTABLE]["reports"]
    assert [report["target"] for report in reports] == list(TARGETS)
    assert all(report["passed"] and report["faults"] == [] for report in reports)
    assert inspect(exported, "--json", tmp_path / "out.json")[0] == 0
    assert json.loads((tmp_path / "out.json").read_text()) == record


def test_a_target_without_the_precision_is_an_error_only_where_it_was_asked_for(inspect: Run, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    file.write_bytes(small_graph("bfloat16").SerializeToString())
    status, out, _ = inspect(file, "--precision", "bf16")
    assert status == 0
    assert "tensorrt-8.6   refused: TensorRT 8.6 has no bfloat16" in out
    assert "tensorrt-10.3  clean" in out
    assert inspect(file, "--precision", "bf16", "--target", "tensorrt-8.6")[0] == 1


def test_engines_of_a_bundle_are_listed(inspect: Run, bundle_copy: Path) -> None:
    put_engine(bundle_copy)
    status, out, _ = inspect(bundle_copy)
    assert status == 0
    assert f"engines/{NAME}: fp32 of portable.onnx, TensorRT 8.6.2 for NVIDIA Orin (nvgpu)" in out
    (bundle_copy / "engines" / NAME / "manifest.json").write_text("{}")
    status, out, _ = inspect(bundle_copy)
    assert f"engines/{NAME}: " in out
    assert "lacks self_sha256" in out


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere", (), "nowhere is not a folder; give the folder that vjepa2 export wrote"),
        ("nowhere.onnx", (), "nowhere.onnx cannot be read as an ONNX graph: [Errno 2] No such file"),
        ("BUNDLE", ("--precision", "fp16"), "says fp32; --precision is for a .onnx file"),
        ("BUNDLE", ("--target", "tensorrt-7"), "'tensorrt-7' is not one of 'tensorrt-8.6'"),
    ],
)
def test_what_cannot_be_done_ends_in_2(
    path: str, options: tuple[str, ...], message: str, inspect: Run, exported: Path
) -> None:
    status, _, err = inspect(exported if path == "BUNDLE" else path, *options)
    assert status == 2
    assert message in " ".join(err.split())


def test_a_bundle_that_was_changed_is_not_inspected(inspect: Run, bundle_copy: Path) -> None:
    (bundle_copy / WEIGHTS).write_bytes(b"")
    status, _, err = inspect(bundle_copy)
    assert status == 2
    assert "its manifest says" in err


def test_a_target_that_no_graph_of_a_bundle_is_for_leaves_the_others(inspect: Run, exported: Path) -> None:
    status, out, _ = inspect(exported, "--target", "openvino")
    assert status == 0
    assert out.count(" clean") == 1
    assert Bundle.open(exported).manifest.graphs[ONNXRUNTIME].targets == ("onnxruntime",)
