"""Is the exported graph lean, typed for every target, and the same on every machine?"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tests.conftest import TINY_CLIP, tiny_encoder, tiny_request, tiny_spec
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.checkpoints import Request
from vjepa2.errors import ExportError, ParityError, VideoError
from vjepa2.export import pipeline
from vjepa2.export.describe import ExportRequest
from vjepa2.export.lint import demand_clean, lint_file
from vjepa2.export.load_model import load_model
from vjepa2.export.lower import lower_graph
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.quantize import EightBits, choose_layers
from vjepa2.export.targets import TARGETS_OF
from vjepa2.export.trace import trace_model
from vjepa2.export.variants import make_variants
from vjepa2.export.weights_file import write_tensors
from vjepa2.folding import fold_patches, unfold_patches
from vjepa2.headed import PlainEncoder
from vjepa2.manifest import Precision
from vjepa2.publish import sha256_of
from vjepa2.registry import find_release
from vjepa2.runtime import Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.parity import GATES
from vjepa2.spec import ClipSpec

ROOT = Path(__file__).parent.parent
GRAPHS = (PORTABLE, ONNXRUNTIME)


def load(folder: Path, name: str) -> onnx.ModelProto:
    return onnx.load(folder / name, load_external_data=False)


def count(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


@pytest.mark.parametrize(("name", "per_block"), [(PORTABLE, 36), (ONNXRUNTIME, 28)])
def test_graphs_are_lean(name: str, per_block: int, exported: Path) -> None:
    graph = load(exported, name)
    operators = count(graph)
    assert len(graph.graph.node) <= per_block * tiny_spec().depth + 15
    for operator in ("Sin", "Cos", "If", "Loop", "Range", "Shape", "ReduceMean", "Sqrt", "Pow", "Conv", "Identity"):
        assert operators[operator] == 0, operator
    assert operators["LayerNormalization"] == 2 * tiny_spec().depth + 1
    assert operators["Gather"] == tiny_spec().depth


def test_the_graphs_differ_in_attention_alone(exported: Path) -> None:
    portable, fused = count(load(exported, PORTABLE)), count(load(exported, ONNXRUNTIME))
    depth = tiny_spec().depth
    assert (portable["Softmax"], portable["MultiHeadAttention"]) == (depth, 0)
    assert (fused["Softmax"], fused["MultiHeadAttention"]) == (0, depth)
    assert portable["LayerNormalization"] == fused["LayerNormalization"]


def test_the_scale_is_on_q_only_and_softmax_stands_alone(exported: Path) -> None:
    graph = load(exported, PORTABLE).graph
    makers = {output: node for node in graph.node for output in node.output}
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        scores = makers[softmax.input[0]]
        assert scores.op_type == "MatMul"
        q, k = (makers[name] for name in scores.input)
        assert (q.op_type, k.op_type) == ("Mul", "Transpose")
        users = [node.op_type for node in graph.node if softmax.output[0] in node.input]
        assert users == ["MatMul"]


@pytest.mark.parametrize("name", GRAPHS)
def test_opset_types_and_ranks_are_those_every_target_takes(name: str, exported: Path) -> None:
    graph = load(exported, name)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    assert opsets == ({"": 18} if name == PORTABLE else {"": 18, "com.microsoft": 1})
    assert graph.ir_version <= 10
    assert max(len(tensor.dims) for tensor in graph.graph.initializer) <= 8
    assert max(numpy_helper.to_array(t).size for t in graph.graph.initializer if t.name.startswith("val_")) <= 64
    if name == PORTABLE:
        onnx.checker.check_model(str(exported / name), full_check=True)
    shapes = onnx.shape_inference.infer_shapes(graph).graph.value_info
    assert max(len(value.type.tensor_type.shape.dim) for value in shapes) == 8


@pytest.mark.parametrize("name", GRAPHS)
def test_only_a_cast_reads_uint8(name: str, exported: Path) -> None:
    graph = load(exported, name).graph
    assert [value.type.tensor_type.elem_type for value in graph.input] == [TensorProto.UINT8]
    assert [node.op_type for node in graph.node if "frames" in node.input] == ["Cast"]


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_lie_in_one_file_and_the_tables_once(name: str, exported: Path) -> None:
    graph = load(exported, name).graph
    outside = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"} == {WEIGHTS}
    tables = [tensor.name for tensor in outside if TINY_CLIP.tokens in tensor.dims and tensor.dims[-1] == 64]
    assert tables == ["rotary.cos_N1K", "rotary.sin_N1K"]
    size = sum(int(np.prod(tensor.dims)) * 4 for tensor in outside)
    assert (exported / WEIGHTS).stat().st_size <= size + 4096 * len(outside)


def test_every_node_is_named_after_its_module(exported: Path) -> None:
    names = [node.name for node in load(exported, PORTABLE).graph.node]
    assert len(set(names)) == len(names)
    assert {
        "blocks.1.attn.qkv/MatMul",
        "blocks.0.attn.rotary/Gather",
        "blocks.1.mlp/Erf",
        "norm/LayerNormalization",
    } <= {*names}


def test_no_trace_of_the_machine_is_left(exported: Path) -> None:
    for file in exported.iterdir():
        data = file.read_bytes()
        assert str(ROOT).encode() not in data, file.name
        assert b"stack_trace" not in data, file.name
        assert not re.search(rb"/(home|root|tmp|usr)/", data), file.name


def test_two_exports_in_different_places_are_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    script = (
        "from tests.conftest import tiny_request; from vjepa2.export.pipeline import export_bundle;"
        f"export_bundle(tiny_request(), {str(tmp_path / 'again')!r})"
    )
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "HOME": str(tmp_path), "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    first, second = (
        {file.name: sha256_of(file) for file in folder.iterdir()} for folder in (exported, tmp_path / "again")
    )
    assert first == second


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 2},
        {"batch": "dynamic"},
        {"graph_input": "pixel_values_videos"},
        {"graph_input": "pixel_values_videos", "batch": "dynamic"},
        {"classes": 10},
    ],
    ids=str,
)
def test_every_choice_at_export_passes_the_gate(options: dict[str, object], tmp_path: Path) -> None:
    bundle = export_bundle(tiny_request(**({"simplify": False} | options)), tmp_path / "bundle").bundle
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert all(verdict.passed for verdict in bundle.manifest.parity.values())
    reference = Reference.load(bundle)
    for name in ("pytorch", "onnxruntime", "onnxruntime-portable"):
        with open_backend(bundle, name) as backend:
            assert check_parity(reference, backend, GATES["fp32"]).passed, name
    assert count(load(bundle.path, PORTABLE))["Shape"] == 0


def test_the_sincos_encoder_and_the_classifier_go_the_same_way(tmp_path: Path) -> None:
    spec = replace(tiny_spec(), positions="sincos")
    request = ExportRequest(weights=Request(source="random", model=spec), classes=1000, simplify=False)
    bundle = export_bundle(request, tmp_path / "bundle").bundle
    assert [info.name for info in bundle.manifest.outputs] == ["tokens", "embedding", "logits"]
    assert bundle.manifest.outputs[2].shape == (1, 1000)
    assert count(load(bundle.path, PORTABLE))["Gather"] == 0
    assert all(verdict.passed for verdict in bundle.manifest.parity.values())


def test_head_width_80_and_a_wide_clip_pass_the_gate(tmp_path: Path) -> None:
    clip = ClipSpec(frames=6, height=32, width=80)
    request = ExportRequest(weights=Request(source="random", model=tiny_spec(80), clip=clip), simplify=False)
    assert export_bundle(request, tmp_path / "bundle").bundle.manifest.clip == clip


def test_the_manifest_says_what_was_exported(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert manifest.inputs[0].shape == (1, 4, 64, 96, 3)
    assert manifest.source.name == "random"
    assert manifest.source.warning is not None
    assert "embeddings mean nothing" in manifest.source.warning
    assert set(manifest.parameters) == {name for name, _ in tiny_encoder().named_parameters()}
    transforms = Counter(stored.transform for stored in manifest.parameters.values())
    assert transforms == {"none": 2 * 8 + 2, "transposed": 8, "folded": 2}
    assert {"torch", "onnx", "onnxsim", "onnxruntime"} <= set(manifest.tools)
    assert "found nothing to remove" in manifest.graphs[PORTABLE].simplified


def test_parameters_that_are_equal_are_stored_once_and_found(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        for block in encoder.blocks:
            block.norm1.weight.fill_(1.0)  # type: ignore[union-attr, operator]
            block.norm2.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    traced = trace_model(PlainEncoder(encoder), ("tokens", "embedding"))
    places = {traced.parameters[f"blocks.{block}.norm{norm}.weight"][0] for block in (0, 1) for norm in (1, 2)}
    assert len(places) == 1


def test_folding_is_undone_exactly() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 3, 2, 16, 16), torch.randn(8)
    again, bias_again = unfold_patches(*fold_patches(weight, bias), tuple(weight.shape))
    torch.testing.assert_close(again, weight, rtol=2e-7, atol=0)
    torch.testing.assert_close(bias_again, bias, rtol=0, atol=1e-5)


def test_a_graph_outside_the_gate_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames in another order than the model was shown: every shape is right."""

    def trace_wrongly(*arguments: object, **options: object) -> object:
        traced = trace_model(*arguments, **options)  # type: ignore[arg-type]
        table = traced.tensors["rotary.cos_N1K"]
        traced.tensors["rotary.cos_N1K"] = table.roll(1, dims=0)
        return traced

    monkeypatch.setattr(pipeline, "trace_model", trace_wrongly)
    with pytest.raises(
        ParityError, match=r"portable.onnx is outside its gate: .*token_worst is .*; no bundle was written"
    ):
        export_bundle(tiny_request(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_real_clips_prove_the_graphs_where_they_are_given(
    tmp_path: Path, write_video: Callable[..., Path], scene: FramesArray
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(scene, name).rename(clips / name)
    bundle = export_bundle(tiny_request(clips=clips, simplify=False), tmp_path / "bundle").bundle
    frames = Reference.load(bundle).frames_BTHWC
    assert len(frames) == bundle.manifest.parity[PORTABLE].clips == 4
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[1], frames[2]), "a generated one fills up to three"


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=f"{tmp_path.name} holds no video"):
        export_bundle(tiny_request(clips=tmp_path), tmp_path / "bundle")
    with pytest.raises(VideoError, match="none is not a folder; --clips takes a folder of videos"):
        export_bundle(tiny_request(clips=tmp_path / "none"), tmp_path / "bundle")


def test_a_classifier_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="classes is 0; it must be at least 1"):
        export_bundle(tiny_request(classes=0), tmp_path / "bundle")


def test_lowering_leaves_the_traced_graph_alone() -> None:
    traced = trace_model(PlainEncoder(tiny_encoder()), ("tokens", "embedding")).graph
    before = traced.SerializeToString(deterministic=True)
    for name in GRAPHS:
        lower_graph(traced, name)
    assert traced.SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_vitl_graphs_of_every_precision_are_fit_for_their_targets(tmp_path: Path) -> None:
    """As export writes them but for onnxsim; nothing is computed, so ranges of activations are made up."""
    request = ExportRequest(weights=Request(source="random", model="vitl", frames=16))
    model, _, _ = load_model(request)
    traced = trace_model(model, ("tokens", "embedding"))
    names = [name.removesuffix(".weight") for name, tensor in traced.tensors.items() if tensor.ndim == 2]
    eight = EightBits("int8", choose_layers(dict.fromkeys(names, 8.0), traced.tensors))
    passed: dict[tuple[str, str], int] = {}
    precisions: tuple[Precision, ...] = ("fp16", "bf16", "int8")
    for precision in precisions:
        variants = make_variants(traced, precision, eight if precision == "int8" else None, is_dynamic=False)
        write_tensors(tmp_path / WEIGHTS, variants.tensors)
        for name, graph in variants.graphs.items():
            (tmp_path / name).write_bytes(graph.SerializeToString())
            reports = lint_file(tmp_path / name, TARGETS_OF[name], precision=precision)
            demand_clean(f"{precision} {name}", reports)
            passed[precision, name] = sum(report.passed for report in reports)
            refused = {report.target for report in reports if report.refused}
            assert refused == ({"tensorrt-8.6", "onnxruntime"} if precision == "bf16" else set())
        (tmp_path / WEIGHTS).unlink()
    assert passed == {
        ("fp16", PORTABLE): 7, ("bf16", PORTABLE): 5, ("int8", PORTABLE): 7, ("int8", ONNXRUNTIME): 1
    }  # fmt: skip


@pytest.mark.slow
def test_vitl_graphs_keep_their_budgets(tmp_path: Path) -> None:
    """The budgets of full ViT-L: nodes, seconds of the stages that compute no clip, and memory."""
    clip = ClipSpec(frames=16, height=256, width=256)
    script = f"""
import json, sys
from vjepa2.checkpoints import Request
from vjepa2.spec import ClipSpec
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
result = export_bundle(ExportRequest(weights=Request(source="random", model="vitl", clip={clip!r})), sys.argv[1])
print(json.dumps([result.seconds, result.peak_bytes]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "vitl"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    bundle = Bundle.open(tmp_path / "vitl")
    assert bundle.manifest.graphs[PORTABLE].nodes <= 36 * 24 + 15
    assert bundle.manifest.graphs[ONNXRUNTIME].nodes <= 28 * 24 + 15
    assert peak_bytes <= 2.5 * 4 * find_release("vitl").spec.parameters
    apart = ("run PyTorch", "prove portable.onnx", "prove onnxruntime.onnx")
    assert sum(value for name, value in seconds.items() if name not in apart) <= 90
