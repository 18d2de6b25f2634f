"""Does Triton get what it needs, in its own words: config, files, script; whole, the same each time, or not at all?"""

import errno
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.engine_samples import HERE, NAME, PLAN_BYTES, put_engine, sample_manifest
from tests.test_cli import Run, run
from tests.test_export_heads import request_for
from vjepa2 import publish
from vjepa2.bundle import MANIFEST, Bundle
from vjepa2.engine_folder import list_engines, open_engine, write_engine
from vjepa2.engine_manifest import ShapeRange, Version
from vjepa2.errors import BundleError, EngineError
from vjepa2.export.pipeline import export_bundle
from vjepa2.manifest import TensorInfo
from vjepa2.runtime import EmbeddingEngine, triton_repository
from vjepa2.runtime.triton_config import ServeOptions, write_labels, write_onnx_config, write_plan_config
from vjepa2.runtime.triton_repository import RECORD, write_repository
from vjepa2.runtime.triton_start import write_start
from vjepa2.runtime.triton_text import Word, write_message

__all__ = ["run"]  # a fixture of the command line's tests

ORT_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
# of tritonserver's own src/command_line_parser.cc
FLAGS = {
    "model-repository", "model-control-mode", "disable-auto-complete-config", "exit-on-error", "strict-readiness",
    "http-address", "http-port", "http-restricted-api", "allow-grpc", "grpc-address", "grpc-restricted-protocol",
    "metrics-address",
}  # fmt: skip


def parse(text: str) -> Any:
    """The text as Triton reads it; an unknown field, a wrong type or a doubled one is an error."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def read_config(folder: Path) -> Any:
    config = parse((folder / "config.pbtxt").read_text())
    assert config.name == folder.name, "Triton refuses a name that is not the folder's"
    return config


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hash_all(folder: Path) -> dict[str, str]:
    return {name: publish.sha256_of(folder / name) for name in names_of(folder)}


def write(bundle: Path, target: Path, **words: Any) -> triton_repository.Written:
    name = words.pop("name", None)
    return write_repository(Bundle.open(bundle), target, name=name, options=ServeOptions(**words))


def test_a_graph_is_served_as_it_is(smallest: Path, tmp_path: Path) -> None:
    written = write(smallest, tmp_path / "repo", name="vitl", max_batch=4, max_wait_ms=2, max_waiting=9, deadline_s=1.5)
    assert written.repositories == ("onnx",)
    assert (written.model, written.left_out) == ("vitl", None)
    assert names_of(tmp_path / "repo") == [
        "onnx/vitl/1/model.onnx", "onnx/vitl/1/weights.data", "onnx/vitl/config.pbtxt", RECORD, "start.sh"
    ]  # fmt: skip
    config = read_config(tmp_path / "repo" / "onnx" / "vitl")
    assert (config.backend, config.max_batch_size, config.platform) == ("onnxruntime", 4, "")
    assert [(info.name, info.data_type, list(info.dims)) for info in config.input] == [
        ("frames", model_config_pb2.TYPE_UINT8, [2, 32, 32, 3])
    ]
    assert [(info.name, info.data_type, list(info.dims)) for info in config.output] == [
        ("embedding", model_config_pb2.TYPE_FP32, [32])
    ]
    assert list(config.version_policy.specific.versions) == [1]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    assert not config.HasField("optimization")
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 2000
    policy = batching.default_queue_policy
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 1_500_000)
    assert not policy.allow_timeout_override


def test_the_graph_is_called_before_it_is_ready(smallest: Path) -> None:
    config = parse(write_onnx_config("m", Bundle.open(smallest).manifest, ServeOptions(max_batch=4)))
    assert [(warm.name, warm.batch_size) for warm in config.model_warmup] == [("1 clip", 1), ("4 clips", 4)]
    for warm in config.model_warmup:
        assert set(warm.inputs) == {"frames"}
        sample = warm.inputs["frames"]
        assert (sample.data_type, list(sample.dims)) == (model_config_pb2.TYPE_UINT8, [2, 32, 32, 3])
        assert sample.WhichOneof("input_data_type") == "random_data"


def hold_to_graph(config: Any, session: ort.InferenceSession) -> None:
    """What Triton's ONNX Runtime backend compares when it loads: names, types, and shapes with the batch's axis."""
    for stated, there, whole in (
        (config.input, session.get_inputs(), True),
        (config.output, session.get_outputs(), False),
    ):
        graph = {tensor.name: tensor for tensor in there}
        assert {info.name for info in stated} <= set(graph)
        assert not whole or len(stated) == len(graph)
        for info in stated:
            sides = [-1 if isinstance(side, str) else side for side in graph[info.name].shape]
            assert [-1] * (config.max_batch_size > 0) + list(info.dims) == sides
            assert model_config_pb2.DataType.Name(info.data_type) == ORT_TYPES[graph[info.name].type]


@pytest.mark.parametrize("bundle", ["exported", "dynamic", "smallest"])
def test_config_and_files_are_of_one_graph_which_computes_the_embedding(
    bundle: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(bundle)
    written = write(path, tmp_path / "repo", name="m")
    folder = tmp_path / "repo" / "onnx" / "m"
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    config = read_config(folder)
    hold_to_graph(config, session)
    fixed = bundle == "exported"
    assert config.max_batch_size == (0 if fixed else 8)
    assert any("each request is a call of its own" in note for note in written.notes) == fixed
    assert any("float32 that each client normalises" in note for note in written.notes) == (bundle == "dynamic")
    if bundle != "dynamic":
        frames_BTHWC = np.random.default_rng(0).integers(0, 256, (1, *config.input[0].dims[-4:]), dtype=np.uint8)
        (embedding_BD,) = session.run(["embedding"], {"frames": frames_BTHWC})
        with EmbeddingEngine.open(path, backend="onnxruntime") as engine:
            expected_BD = engine.backend.run(frames_BTHWC, ["embedding"]).by_name()["embedding"]
        np.testing.assert_allclose(embedding_BD, expected_BD, atol=1e-5)


def test_a_mistake_in_the_config_is_noticed(exported: Path, dynamic: Path) -> None:
    session = ort.InferenceSession(str(exported / "onnxruntime.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(AssertionError):
        hold_to_graph(parse(write_onnx_config("m", Bundle.open(dynamic).manifest, ServeOptions())), session)
    with pytest.raises(text_format.ParseError, match="no field named"):
        parse("batching: 1")


def test_a_fixed_batch_has_its_axis_and_a_queue_that_ends(exported: Path) -> None:
    config = parse(write_onnx_config("m", Bundle.open(exported).manifest, ServeOptions()))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 4, 64, 96, 3]
    assert list(config.output[0].dims) == [1, 192]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
    (warm,) = config.model_warmup
    assert (warm.batch_size, list(warm.inputs["frames"].dims)) == (1, [1, 4, 64, 96, 3])


def test_pixel_values_are_floats_and_warmed_up_with_zeros(dynamic: Path) -> None:
    config = parse(write_onnx_config("m", Bundle.open(dynamic).manifest, ServeOptions()))
    assert [(info.name, info.data_type, list(info.dims)) for info in config.input] == [
        ("pixel_values_videos", model_config_pb2.TYPE_FP32, [4, 3, 64, 96])
    ]
    sample = config.model_warmup[0].inputs["pixel_values_videos"]
    assert sample.WhichOneof("input_data_type") == "zero_data"


def test_on_a_gpu_float32_stays_float32(smallest: Path) -> None:
    config = parse(write_onnx_config("m", Bundle.open(smallest).manifest, ServeOptions(device="gpu", instances=2)))
    (group,) = config.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, 2)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})


def test_tokens_are_served_where_there_is_nothing_pooled(smallest: Path) -> None:
    manifest = Bundle.open(smallest).manifest
    tokens = tuple(info for info in manifest.outputs if info.name == "tokens")
    config = parse(write_onnx_config("m", replace(manifest, head="tokens", outputs=tokens), ServeOptions()))
    assert [(info.name, list(info.dims)) for info in config.output] == [("tokens", [4, 32])]


ZEROS = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT64": np.int64}


def make_sample(warm: Any, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of a call that Triton makes for a `model_warmup`."""
    samples: dict[str, np.ndarray[Any, Any]] = {}
    for name, sample in warm.inputs.items():
        dtype = ZEROS[model_config_pb2.DataType.Name(sample.data_type)]
        shape = [warm.batch_size] * (batch > 0) + list(sample.dims)
        assert sample.WhichOneof("input_data_type") == ("random_data" if dtype is np.uint8 else "zero_data")
        samples[name] = np.zeros(shape, dtype)
    return samples


@pytest.mark.parametrize(
    ("head", "batch", "outputs"),
    [
        ("classifier", "dynamic", {"embedding", "logits"}),
        ("predictor", 1, {"predicted"}),
        ("anticipation", "dynamic", {"verb", "noun", "action"}),
        ("action", "dynamic", {"predicted"}),
    ],
)
def test_each_head_is_served_with_what_it_takes_and_gives(
    head: str, batch: Any, outputs: set[str], tmp_path: Path
) -> None:
    bundle = export_bundle(request_for(head, batch=batch), tmp_path / "bundle").bundle
    write(bundle.path, tmp_path / "repo", name="m", max_batch=2)
    folder = tmp_path / "repo" / "onnx" / "m"
    config = read_config(folder)
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    hold_to_graph(config, session)
    assert {info.name for info in config.output} == outputs
    assert len(config.model_warmup) == (2 if batch == "dynamic" else 1)
    for warm in config.model_warmup:
        results = session.run(sorted(outputs), make_sample(warm, config.max_batch_size))
        assert all(np.isfinite(result).all() and len(result) == warm.batch_size for result in results)


def with_labels(bundle: Path, *labels: str) -> Any:
    manifest = Bundle.open(bundle).manifest
    logits = TensorInfo(name="logits", dtype="float32", shape=("batch", len(labels)), axes=("batch", "classes"))
    outputs = (*manifest.outputs, logits)
    return replace(manifest, head="classifier", classes=len(labels), labels=labels, outputs=outputs)


def test_classes_have_names_a_line_each(smallest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = with_labels(smallest, "Putting [a] \"b\" 'c'", "größer")
    bundle = Bundle(smallest, manifest)
    write_repository(bundle, tmp_path / "repo", name="m", options=ServeOptions())
    config = read_config(tmp_path / "repo" / "onnx" / "m")
    assert {info.name: info.label_filename for info in config.output} == {"embedding": "", "logits": "labels.txt"}
    lines = (tmp_path / "repo" / "onnx" / "m" / "labels.txt").read_text().splitlines()
    assert tuple(lines) == manifest.labels
    unnamed = parse(write_onnx_config("m", replace(manifest, labels=None), ServeOptions()))
    assert not any(info.label_filename for info in unnamed.output)


@pytest.mark.parametrize("label", ["two\nlines", "", "a\x85b"])
def test_a_label_that_is_no_line_is_refused(label: str, smallest: Path) -> None:
    with pytest.raises(BundleError, match="is not one line of text, as Triton's labels are; export it renamed"):
        write_labels(with_labels(smallest, "a", label))


def test_a_plan_has_a_repository_of_its_own_and_the_models_name(bundle_copy: Path, tmp_path: Path) -> None:
    put_engine(bundle_copy)
    other = replace(HERE, tensorrt=Version.parse("10.3.0"))
    put_engine(bundle_copy, other, b"another plan")
    written = write(bundle_copy, tmp_path / "repo", name="m")
    assert written.repositories == ("onnx", "nvidia-orin-nvgpu-10.3.0-fp32", NAME)
    assert (tmp_path / "repo" / NAME / "m" / "1" / "model.plan").read_bytes() == PLAN_BYTES
    assert (tmp_path / "repo" / written.repositories[1] / "m" / "1" / "model.plan").read_bytes() == b"another plan"
    assert names_of(tmp_path / "repo" / NAME) == ["m/1/model.plan", "m/config.pbtxt"]
    config = read_config(tmp_path / "repo" / NAME / "m")
    assert (config.backend, config.platform, config.max_batch_size) == ("tensorrt", "tensorrt_plan", 0)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert {info.name for info in config.output} == {"tokens", "embedding"}, "its backend wants every output named"
    assert list(config.input[0].dims) == [1, 4, 64, 96, 3]


def test_a_plan_is_given_no_more_clips_than_it_was_built_for(smallest: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(smallest, tmp_path / "bundle"))
    bundle = Bundle.open(path)
    profile = {"frames": ShapeRange(least=(1, 2, 32, 32, 3), best=(5, 2, 32, 32, 3), most=(5, 2, 32, 32, 3))}
    built = replace(sample_manifest(bundle), profile=profile)
    write_engine(bundle, built, PLAN_BYTES)
    write(path, tmp_path / "repo", name="m", max_batch=8)
    config = read_config(tmp_path / "repo" / NAME / "m")
    assert config.max_batch_size == 5
    assert [warm.batch_size for warm in config.model_warmup] == [1, 5]
    assert read_config(tmp_path / "repo" / "onnx" / "m").max_batch_size == 8
    old = tuple(replace(tensor, dtype="INT32") for tensor in built.io)  # TensorRT 8.6 has no int64
    config = parse(write_plan_config("m", bundle.manifest, replace(built, io=old), ServeOptions()))
    assert {info.data_type for info in (*config.input, *config.output)} == {model_config_pb2.TYPE_INT32}
    unknown = replace(built, io=(replace(old[0], dtype="FP8"),))
    with pytest.raises(EngineError, match="the plan's frames is FP8; Triton has FLOAT, HALF, BF16, INT8, UINT8, INT32"):
        write_plan_config("m", bundle.manifest, unknown, ServeOptions())


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_what_onnx_runtime_would_compute_otherwise_is_served_by_a_plan_or_not_at_all(
    precision: Any, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(bundle_copy)
    whole = Bundle.open(bundle_copy)
    listings, engine = list_engines(whole), open_engine(whole, HERE)
    lower = Bundle(bundle_copy, replace(whole.manifest, precision=precision))
    monkeypatch.setattr(triton_repository, "list_engines", lambda _: listings)
    monkeypatch.setattr(triton_repository, "open_engine", lambda *_: engine)
    written = write_repository(lower, tmp_path / "repo", options=ServeOptions())
    assert written.repositories == (NAME,)
    assert str(written.left_out).startswith(f"the bundle is {precision}, which Triton's ONNX Runtime would compute in")
    monkeypatch.setattr(triton_repository, "list_engines", lambda _: ())
    with pytest.raises(BundleError, match=r"and there is no plan to serve instead; run vjepa2 compile .*, or export f"):
        write_repository(lower, tmp_path / "other", options=ServeOptions())
    assert not (tmp_path / "other").exists()


def test_a_bundle_without_the_fused_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    whole = Bundle.open(exported).manifest
    bundle = Bundle(exported, replace(whole, graphs={"portable.onnx": whole.graphs["portable.onnx"]}))
    with pytest.raises(BundleError, match=r"the bundle holds portable\.onnx and no onnxruntime\.onnx, and there is no"):
        write_repository(bundle, tmp_path / "repo", options=ServeOptions())


def test_a_batch_of_three_is_refused(in_threes: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="every request would have to bring 3 clips; export it with --batch dynamic"):
        write(in_threes, tmp_path / "repo")


def test_an_engine_that_is_not_whole_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    folder = put_engine(bundle_copy)
    (folder / "engine.plan").write_bytes(PLAN_BYTES[:-1] + b"x")
    with pytest.raises(EngineError, match=r"was changed after compile .*run: vjepa2 compile"):
        write(bundle_copy, tmp_path / "repo")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(EngineError, match=r"self_sha256; .*remove it, or run: vjepa2 compile"):
        write(bundle_copy, tmp_path / "repo")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_two_runs_are_the_same_bytes(bundle_copy: Path, tmp_path: Path) -> None:
    put_engine(bundle_copy)
    for name in ("first", "second"):
        write(bundle_copy, tmp_path / name, name="m")
    assert hash_all(tmp_path / "first") == hash_all(tmp_path / "second")
    before = hash_all(tmp_path / "first")
    write(bundle_copy, tmp_path / "first", name="m")
    assert hash_all(tmp_path / "first") == before
    record = json.loads((tmp_path / "first" / RECORD).read_text())
    assert {name: info["sha256"] for name, info in record["files"].items()} == {
        name: sha256 for name, sha256 in before.items() if name != RECORD
    }
    assert record["bundle_sha256"] == json.loads((bundle_copy / MANIFEST).read_text())["self_sha256"]


def test_what_we_wrote_is_replaced_and_nothing_else(smallest: Path, tmp_path: Path) -> None:
    target = tmp_path / "repo"
    write(smallest, target, name="old")
    write(smallest, target, name="new")
    assert [entry.name for entry in (target / "onnx").iterdir()] == ["new"]
    (target / "onnx" / "mine.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds \['onnx/mine.txt'\], which vjepa2 triton did not write; move them"):
        write(smallest, target)
    assert (target / "onnx" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"exists and was not written by vjepa2 triton \(no repository.json\); choose another folder"),
        ("{", r"is not what vjepa2 triton wrote \(.*\); choose another folder"),
        ("[]", r"is not what vjepa2 triton wrote"),
        ("{}", r"is not what vjepa2 triton wrote \('self_sha256'\)"),
        ('{"self_sha256": "0"}', r"is not what vjepa2 triton wrote \(repository.json has unknown keys \[\] and lacks"),
    ],
)
def test_a_folder_that_we_did_not_write_is_refused(
    content: str | None, message: str, smallest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "repo"
    target.mkdir()
    (target / "precious").write_text("precious")
    if content is not None:
        (target / RECORD).write_text(content)
    with pytest.raises(BundleError, match=message):
        write(smallest, target)
    assert (target / "precious").read_text() == "precious"


def test_a_record_that_was_edited_is_refused(smallest: Path, tmp_path: Path) -> None:
    write(smallest, tmp_path / "repo", name="m")
    record = tmp_path / "repo" / RECORD
    record.write_text(record.read_text().replace('"model": "m"', '"model": "n"'))
    with pytest.raises(BundleError, match=r"repository.json was changed \(its self_sha256 differs\)"):
        write(smallest, tmp_path / "repo")


def test_nobody_else_can_write_what_is_served(bundle_copy: Path, tmp_path: Path) -> None:
    put_engine(bundle_copy)
    before = os.umask(0)
    try:
        write(bundle_copy, tmp_path / "repo")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "repo", *(tmp_path / "repo").rglob("*"))}
    assert modes == {0o644, 0o755}


def test_links_and_the_bundle_itself_are_no_place(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BundleError, match="link is a link; give the folder it points to"):
        write(bundle_copy, tmp_path / "link")
    for place in (bundle_copy, bundle_copy / "engines", bundle_copy / "reports" / "repo"):
        with pytest.raises(BundleError, match="is inside the bundle, which holds its own files alone; choose another"):
            write(bundle_copy, place)
    Bundle.open(bundle_copy)


def test_a_name_that_triton_has_no_folder_for_is_refused(smallest: Path, tmp_path: Path) -> None:
    for name in ("a/b", "", "..", "größe", "a b"):
        with pytest.raises(
            BundleError, match=r"Triton's are letters, digits, '\.', '_' and '-': give another with --n"
        ):
            write(smallest, tmp_path / "repo", name=name)


def test_weights_that_change_meanwhile_are_noticed(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("weights.data", "onnxruntime.onnx"):
        bundle = Bundle.open(bundle_copy)
        kept = (bundle_copy / name).read_bytes()
        (bundle_copy / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(BundleError, match=rf"{name} was changed while it was copied \(sha256 differs\)"):
            write_repository(bundle, tmp_path / "repo", options=ServeOptions())
        (bundle_copy / name).write_bytes(kept)
        assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"], "nothing half-written is left"


def test_a_full_disk_leaves_the_old_repository(smallest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(smallest, tmp_path / "repo", name="old")
    before, calls = hash_all(tmp_path / "repo"), 0
    real = triton_repository._write_file

    def fill(*words: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*words, **more)

    monkeypatch.setattr(triton_repository, "_write_file", fill)
    for failing in range(1, 5):
        calls = 0
        with pytest.raises(
            BundleError, match=r"repo cannot be written: No space left on device; free some space; noth"
        ):
            write(smallest, tmp_path / "repo", name="new")
        assert calls == failing
        assert hash_all(tmp_path / "repo") == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["repo"]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., tuple[int, list[str], str]]:
    """A function that runs `start.sh` with a tritonserver that tells its arguments, as the user of a number."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (
        ("tritonserver", 'printf "%s\\n" "AIP_MODE=${AIP_MODE-}" "$@"'),
        ("id", 'echo "$TEST_USER"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    def run_start(repo: Path, *words: str, user: int = 1000) -> tuple[int, list[str], str]:
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "TEST_USER": str(user), "AIP_MODE": "PREDICTION"}
        done = subprocess.run(
            [str(repo / "start.sh"), *words], env=environment, capture_output=True, text=True, check=False, cwd="/"
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run_start


def test_the_script_starts_a_server_that_only_this_machine_can_ask(
    smallest: Path, tmp_path: Path, start: Callable[..., tuple[int, list[str], str]]
) -> None:
    repo = tmp_path / "a folder's $name"
    write(smallest, repo, name="m")
    assert (repo / "start.sh").stat().st_mode & stat.S_IXUSR
    status, lines, _ = start(repo, "onnx", "--http-port=9000")
    assert (status, lines[0], lines[-1]) == (0, "AIP_MODE=", "--http-port=9000")
    flags = dict(line.removeprefix("--").partition("=")[::2] for line in lines[1:])
    assert set(flags) == FLAGS
    assert flags["model-repository"] == str(repo / "onnx")
    assert (flags["model-control-mode"], flags["disable-auto-complete-config"]) == ("none", "")
    assert (flags["exit-on-error"], flags["strict-readiness"], flags["allow-grpc"]) == ("true", "true", "false")
    assert {flags[f"{door}-address"] for door in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    closed, _, secret = flags["http-restricted-api"].partition(":key=")
    assert set(closed.split(",")) == {"shared-memory", "model-repository", "trace", "logging"}
    assert flags["grpc-restricted-protocol"] == flags["http-restricted-api"]
    assert len(bytes.fromhex(secret)) == 16
    assert secret not in "".join(start(repo, "onnx")[1]), "each start has its own"
    assert start(repo)[1][1] == f"--model-repository={repo / 'onnx'}", "of one, the name may be left out"


def test_the_script_refuses_root_and_names_that_it_does_not_have(
    smallest: Path, tmp_path: Path, start: Callable[..., tuple[int, list[str], str]]
) -> None:
    repo = tmp_path / "repo"
    write(smallest, repo, name="m")
    status, lines, error = start(repo, user=0)
    assert (status, lines) == (2, [])
    assert error == "start.sh: Triton needs no root; start it as another user (docker run --user 1000)\n"
    (repo / "start.sh").write_text(write_start(["onnx", "nvidia-l4-10.3.0-fp32"]))
    for words in ([], ["*"], ["../onnx"], ["onnx nvidia"], ["--http-port=1"]):
        status, lines, error = start(repo, *words)
        assert (status, lines, error) == (2, [], "start.sh: it serves one of: onnx nvidia-l4-10.3.0-fp32\n")
    assert start(repo, "nvidia-l4-10.3.0-fp32")[0] == 0


def test_strings_survive_protobufs_own_parser() -> None:
    for name in ('"', "'", "\\", "\n", "\x00", "größe 視", "a\\1", "{}", "\x7f1"):
        assert parse(write_message([("name", name)])).name == name
    message = write_message([("instance_group", [("kind", Word("KIND_CPU")), ("passive", True), ("gpus", (0, 2))])])
    assert message == "instance_group {\n  kind: KIND_CPU\n  passive: true\n  gpus: [0, 2]\n}\n"
    assert list(parse(message).instance_group[0].gpus) == [0, 2]


def test_the_command_writes_and_says_what(run: Run, smallest: Path, tmp_path: Path) -> None:
    target = tmp_path / "repo"
    status, out, err = run("triton", smallest, "-o", target, "--device", "gpu", "--max-waiting", 7, "--json", "-")
    assert status == 0
    assert f"{target}: {smallest.name} in onnx; {target / 'start.sh'} serves it" in err
    record = json.loads(out)
    assert (record["model"], record["repositories"], record["options"]["max_waiting"]) == (smallest.name, ["onnx"], 7)
    assert read_config(target / "onnx" / smallest.name).dynamic_batching.default_queue_policy.max_queue_size == 7
    status, _, err = run("triton", tmp_path / "none", "-o", target)
    assert status == 2
    assert "none is not a folder" in err
