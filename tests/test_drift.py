"""Is a planted mistake found at its block and operator, and is drift of precision found where hard weights put it?"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.conftest import tiny_encoder, tiny_spec
from tests.plantings import PLANTINGS, Bed
from vjepa2.bundle import MANIFEST, ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.checkpoints import Request
from vjepa2.cli import main
from vjepa2.errors import BackendError, BundleError, ExportError, ParityError
from vjepa2.export import drift_report
from vjepa2.export.describe import ExportRequest
from vjepa2.export.drift import locate_drift
from vjepa2.export.drift_figures import Lens, measure_drift
from vjepa2.export.drift_plot import plot_drift
from vjepa2.export.drift_report import DriftReport, report_drift
from vjepa2.export.evaluate import Evaluation
from vjepa2.export.load_model import load_model
from vjepa2.export.lower import lower_graph
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.prove import read_graph
from vjepa2.export.trace import trace_model
from vjepa2.export.watch import Side, Values, evaluate_side, open_side
from vjepa2.export.weights_file import write_tensors
from vjepa2.headed import PlainEncoder
from vjepa2.manifest import FileInfo, Precision, encode_manifest
from vjepa2.publish import sha256_of
from vjepa2.runtime import Reference
from vjepa2.runtime.parity import GATES, compare_outputs
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec

DEPTH, HEADS = 12, 2
DEPTHS = range(1, 11)
SMALL = ClipSpec(frames=4, height=32, width=48)
OUTPUTS = ["tokens", "embedding"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """A portable graph of twelve blocks by the evaluator, which remembers what it computed."""
    folder = tmp_path_factory.mktemp("deep")
    spec = tiny_spec(16, heads=HEADS, depth=DEPTH, clip=SMALL)
    traced = trace_model(PlainEncoder(tiny_encoder(spec)), tuple(OUTPUTS))
    write_tensors(folder / WEIGHTS, traced.tensors)
    graph = lower_graph(traced.graph, PORTABLE)
    frames = generate_scene(SMALL.frames, SMALL.height, SMALL.width, seed=0)[None]
    side = evaluate_side("right", graph, folder, {"frames": frames})
    known: Values = {}

    def compute(values: Sequence[str]) -> Values:
        missing = [name for name in values if name not in known]
        known.update(side.compute(missing) if missing else {})
        return {name: known[name] for name in values}

    return replace(side, compute=compute)


def wrong_side(right: Side, graph: onnx.ModelProto) -> Side:
    frames = generate_scene(SMALL.frames, SMALL.height, SMALL.width, seed=0)[None]
    return evaluate_side("wrong", graph, right.folder, {"frames": frames})


@pytest.mark.parametrize("kind", PLANTINGS)
def test_a_planted_mistake_is_found_at_its_block_and_operator(kind: str, deep: Side) -> None:
    for block in DEPTHS:
        bed = Bed(deep.graph, deep.folder, HEADS)
        operator = PLANTINGS[kind](bed, block)
        location = locate_drift(deep, wrong_side(deep, bed.graph), GATES["fp32"])
        assert location.operator is not None
        assert (location.block, location.operator.operator) == (f"blocks.{block}", operator)


def test_a_graph_without_a_mistake_leaves_its_gate_nowhere(deep: Side) -> None:
    location = locate_drift(deep, wrong_side(deep, deep.graph), GATES["fp32"])
    assert (location.block, location.operator) == (None, None)
    blocks = list(dict.fromkeys(reading.block for reading in location.growth))
    assert blocks == ["patch_embed.proj", *(f"blocks.{number}" for number in range(DEPTH)), "norm"]
    assert all(reading.drift.relative_max == 0 for reading in location.growth)


def test_each_side_is_run_twice_however_deep_the_graph(deep: Side) -> None:
    runs = []
    bed = Bed(deep.graph, deep.folder, HEADS)
    PLANTINGS["an epsilon"](bed, 7)
    wrong = wrong_side(deep, bed.graph)

    def counting(side: Side) -> Side:
        return replace(side, compute=lambda values: runs.append(side.name) or side.compute(values))  # type: ignore[func-returns-value]

    locate_drift(counting(deep), counting(wrong), GATES["fp32"])
    assert runs == ["right", "wrong", "right", "wrong"]


def test_graphs_of_two_models_are_not_compared(deep: Side) -> None:
    bed = Bed(deep.graph, deep.folder, HEADS)
    bed.node("blocks.5.norm1/LayerNormalization").name = "other/LayerNormalization"
    for node in bed.graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"other_{name}" if name.startswith("layer_norm") else name for name in names]
    with pytest.raises(ExportError, match=r"right has no other/LayerNormalization; compare graphs of one model"):
        locate_drift(deep, wrong_side(deep, bed.graph), GATES["fp32"])
    bed.node("blocks.6.norm1/LayerNormalization").name = "other/LayerNormalization"
    with pytest.raises(ExportError, match="nodes of the graph share names"):
        locate_drift(deep, wrong_side(deep, bed.graph), GATES["fp32"])


def test_an_operator_that_the_reference_does_not_have_is_told(deep: Side) -> None:
    bed = Bed(deep.graph, deep.folder, HEADS)
    scale = bed.node("blocks.5.mlp.fc2/Add")
    nodes = list(bed.graph.graph.node)
    extra = helper.make_node("Mul", [scale.output[0], "attention_scale_16"], ["less"], name="blocks.5/Mul_planted")
    bed.node("blocks.5/Add_1").input[1] = "less"
    at = nodes.index(scale) + 1
    del bed.graph.graph.node[:]
    bed.graph.graph.node.extend([*nodes[:at], extra, *nodes[at:]])
    location = locate_drift(deep, wrong_side(deep, bed.graph), GATES["fp32"])
    assert location.operator is not None
    assert location.operator.operator == "blocks.5/Add_1", "the first that can be compared"
    assert location.uncompared == ("blocks.5/Mul_planted",)


def test_a_result_of_another_shape_is_a_fault() -> None:
    drift = measure_drift(np.zeros((1, 6, 4), np.float32), np.zeros((1, 12, 4), np.float32), GATES["fp16"])
    assert drift.faults == ("has shape [1, 12, 4], must be [1, 6, 4]",)


def test_a_mistake_in_a_head_is_found_there(tmp_path: Path) -> None:
    spec = tiny_spec(16, heads=HEADS, depth=1, clip=SMALL)
    request = ExportRequest(
        weights=Request(source="random", model=spec), head="classifier", classes=5, pooling="attentive"
    )
    traced = trace_model(load_model(request)[0], ("tokens", "logits"))
    write_tensors(tmp_path / WEIGHTS, traced.tensors)
    frames = {"frames": generate_scene(SMALL.frames, SMALL.height, SMALL.width, seed=0)[None]}
    bed = Bed(lower_graph(traced.graph, PORTABLE), tmp_path, HEADS)
    right = evaluate_side("right", lower_graph(traced.graph, PORTABLE), tmp_path, frames)
    node = bed.node("pooler.cross_attention_block.xattn.kv/MatMul")
    bed.replace(node, 1, bed.read(node.input[1])[:, ::-1])
    location = locate_drift(right, evaluate_side("wrong", bed.graph, tmp_path, frames), GATES["fp32"])
    assert location.operator is not None
    assert (location.block, location.operator.operator) == ("pooler.cross_attention_block", node.name)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A float32 bundle whose first block's MLP makes a few channels massive."""
    spec = tiny_spec(depth=4)
    request = ExportRequest(weights=Request(source="hard", model=spec, seed=1), simplify=False)
    return export_bundle(request, tmp_path_factory.mktemp("hard") / "hard").bundle


@pytest.fixture(scope="module")
def naive_report(hard: Bundle) -> DriftReport:
    return report_drift(hard, backend="naive-fp16")


def naive_faults(bundle: Bundle, islands: Sequence[str]) -> list[str]:
    """What of naive fp16 is outside its gate on any clip."""
    reference, graph, gate = Reference.load(bundle), read_graph(bundle.path / PORTABLE), GATES["fp16"]
    naive = Evaluation(graph, bundle.path, "fp16", islands)
    faults = []
    for index, frames in enumerate(reference.frames_BTHWC):
        one = slice(index, index + 1)
        expected = {name: array[one] for name, array in reference.outputs.by_name().items()}
        got = naive.run({"frames": frames[None]}, OUTPUTS)
        faults += compare_outputs(expected, got, reference.norms_BN[one], gate.quiet).faults(gate)  # type: ignore[arg-type]
    return faults


def test_on_hard_weights_the_first_layer_norm_of_what_is_massive_is_named(
    hard: Bundle, naive_report: DriftReport
) -> None:
    assert naive_faults(hard, []), "hard: without islands it is outside"
    assert not naive_report.passed
    assert naive_report.location.operator is not None
    assert naive_report.location.block == "blocks.1"
    assert naive_report.location.operator.operator == "blocks.1.norm1/LayerNormalization"


def test_the_islands_bring_naive_fp16_back_and_none_can_be_left_out(hard: Bundle, naive_report: DriftReport) -> None:
    assert naive_report.islands is not None
    names = [island.name for island in naive_report.islands.islands]
    assert 1 <= len(names) <= 8
    assert not naive_faults(hard, names)
    for island in naive_report.islands.islands:
        rest = [name for name in names if name != island.name]
        assert naive_faults(hard, rest)
        assert island.without
    assert naive_report.cost is not None
    assert naive_report.cost.flops_share < 0.05
    assert 0 < naive_report.cost.bytes_share < 0.2
    assert naive_report.cost.time_share is not None
    assert 0 < naive_report.cost.time_share < 1


def test_the_recipe_has_no_drift_on_hard_weights(hard: Bundle, tmp_path: Path) -> None:
    request = ExportRequest(weights=Request(source="hard", model=tiny_spec(depth=4), seed=1), simplify=False)
    sixteen = export_bundle(replace(request, precision="fp16"), tmp_path / "fp16").bundle
    for against in (hard, None):
        report = report_drift(sixteen, against=against)
        assert report.passed
        assert report.location.block is None
        assert report.islands is None
        assert report.islands_note == "the outputs are within the gate"
        assert any((reading.drift.relative_max or 0) > 1e-5 for reading in report.location.growth), "it is 16 bits"


def spoil(bundle: Bundle, folder: Path, kind: str, block: int) -> tuple[Bundle, str]:
    """A bundle beside the weights of another, with a mistake in both graphs that nobody has hashed."""
    folder.mkdir()
    (folder / WEIGHTS).hardlink_to(bundle.path / WEIGHTS)
    operator = ""
    for name in bundle.manifest.graphs:
        bed = Bed(read_graph(bundle.path / name), bundle.path, heads=3)
        operator = PLANTINGS[kind](bed, block)
        (folder / name).write_bytes(bed.graph.SerializeToString())
    return Bundle(folder, bundle.manifest), operator


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-portable", "openvino", "evaluator"])
def test_a_mistake_is_found_through_each_backend_that_can_be_looked_into(
    backend: str, hard: Bundle, tmp_path: Path
) -> None:
    wrong, operator = spoil(hard, tmp_path / "wrong", "heads in another order", 2)
    report = report_drift(wrong, against=hard, backend=backend)
    assert not report.passed
    assert not report.hidden
    assert report.location.operator is not None
    assert (report.location.block, report.location.operator.operator) == ("blocks.2", operator)
    assert report.islands is None
    assert report.islands_note == "nothing here is in 16 bits: a mistake, not a lack of precision"
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong"], "what was written to look into it is gone"


def test_weights_on_another_file_system_are_copied(hard: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr("vjepa2.export.watch.os.link", refuse)
    frames = Reference.load(hard).frames_BTHWC[:1]
    names = ["blocks.1/Add_1"]
    side = open_side(hard, "onnxruntime-portable", frames, {})
    values = [node.output[0] for node in side.graph.graph.node if node.name in names]
    (got,) = side.compute(values).values()
    (expected,) = open_side(hard, "evaluator", frames, {}).compute(values).values()
    np.testing.assert_allclose(got, expected, atol=1e-2)  # of values up to a thousand


def test_the_fused_graph_is_told_from_its_reference_where_it_has_other_operators(hard: Bundle) -> None:
    side = open_side(hard, "onnxruntime", Reference.load(hard).frames_BTHWC[:1], {})
    assert side.graph.graph.node != read_graph(hard.path / PORTABLE).graph.node
    report = report_drift(hard)
    assert report.candidate == "hard by onnxruntime"
    assert report.passed
    assert hard.manifest.graphs.keys() == {PORTABLE, ONNXRUNTIME}


def test_a_mistake_is_not_mended_by_float32(hard: Bundle, tmp_path: Path) -> None:
    wrong, _ = spoil(hard, tmp_path / "wrong", "q and k swapped", 2)
    report = report_drift(wrong, against=hard, backend="naive-fp16")
    assert report.islands is None
    assert report.islands_note.startswith("with every 16-bit result in float32 it is outside the gate, too: a mistake")


def test_a_fault_that_is_gone_where_the_graph_is_looked_into_is_called_hidden(
    hard: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference.load(hard)
    wrong = {name: array[:1, ..., ::-1] for name, array in reference.outputs.by_name().items()}
    monkeypatch.setattr(drift_report, "_run_whole", lambda *_: wrong)
    report = report_drift(hard, islands=None)
    assert report.hidden
    assert not report.passed
    assert report.location.block is None


def test_a_reference_that_is_not_what_pytorch_computed_is_refused(hard: Bundle, tmp_path: Path) -> None:
    wrong, _ = spoil(hard, tmp_path / "wrong", "q and k swapped", 2)
    (wrong.path / "reference.npz").hardlink_to(hard.path / "reference.npz")
    with pytest.raises(ParityError, match=r"wrong in float32 is not what PyTorch computed: .*; give a right one"):
        report_drift(wrong)


def test_what_cannot_be_looked_into_says_what_can(hard: Bundle) -> None:
    with pytest.raises(BackendError, match="tensorrt shows no inner values; choose from evaluator, naive-fp16"):
        report_drift(hard, backend="tensorrt")
    other = Bundle(hard.path, replace(hard.manifest, model=tiny_spec(depth=2)))
    with pytest.raises(BundleError, match="differ in model; give bundles of one model and clip"):
        report_drift(hard, against=other)
    with pytest.raises(BundleError, match=r"there is no clip 4; .* holds 4, numbered from 0"):
        report_drift(hard, clip=4)
    eight = Bundle(hard.path, replace(hard.manifest, precision="int8"))
    with pytest.raises(BundleError, match="is int8, a reference is float32; give one with --against"):
        report_drift(eight)
    half = Bundle(hard.path, replace(hard.manifest, precision="fp16"))
    with pytest.raises(BackendError, match=r"naive-fp16 is what a float32 graph would lose, and .* is fp16"):
        report_drift(half, backend="naive-fp16")
    alone = Bundle(hard.path, replace(hard.manifest, graphs={PORTABLE: hard.manifest.graphs[PORTABLE]}))
    with pytest.raises(BackendError, match=r"onnxruntime runs onnxruntime.onnx, and .* has portable.onnx alone"):
        report_drift(alone)


def test_massive_channels_hide_in_a_cosine_and_not_behind_the_lens() -> None:
    random = np.random.default_rng(0)
    expected = random.standard_normal((1, 50, 64)).astype(np.float32)
    expected[..., 3] = 1000.0
    got = expected.copy()
    got[..., 4:] += 0.5 * random.standard_normal((1, 50, 60)).astype(np.float32)
    gain = np.ones(64, np.float32)
    gain[3] = 0.005
    lens = Lens(gain, np.zeros(64, np.float32), 1e-6)
    gate = GATES["fp16"]
    assert not measure_drift(expected, got, gate).faults
    assert measure_drift(expected, got, gate, lens=lens).faults


def test_what_is_no_number_is_told_and_written_as_none() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 50, 8)).astype(np.float32)
    got = expected.copy()
    got[0, 7, 2] = np.nan
    drift = measure_drift(expected, got, GATES["int8"])
    assert {fault.split()[0] for fault in drift.faults} >= {"token_worst", "embedding", "relative_frobenius"}
    assert drift.token_worst is None
    quiet = np.ones(50)
    quiet[7] = 0.01
    assert measure_drift(expected, got, GATES["fp16"], norms_V=quiet).faults, "a quiet token, too, must be a number"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("odd", "count"), [([7], 1), (list(range(50)), 50)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_norms_that_are_no_number_are_told_and_make_nothing_quiet(
    precision: Precision, odd: list[int], count: int, value: float
) -> None:
    expected = np.random.default_rng(0).standard_normal((1, 50, 8)).astype(np.float32)
    norms = np.ones(50)
    norms[odd] = value
    drift = measure_drift(expected, expected, GATES[precision], norms_V=norms)
    assert drift.faults == (f"{count} of 50 norms of the reference are no finite numbers",)
    assert drift.quiet_tokens == 0


def test_what_is_quiet_and_what_is_a_first_percentile_is_the_same_as_of_outputs() -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((1, 200, 8)).astype(np.float32)
    got = expected + rng.standard_normal((1, 200, 8)).astype(np.float32) * 0.01
    norms = rng.uniform(0.01, 1, (1, 200)).astype(np.float32)
    for tokens in (100, 200):
        sides, gate = (expected[:, :tokens], got[:, :tokens]), GATES["bf16"]
        inside = measure_drift(*sides, gate, norms_V=norms[:, :tokens].ravel().astype(np.float64))
        outside = compare_outputs({"tokens": sides[0]}, {"tokens": sides[1]}, norms[:, :tokens], gate.quiet)
        assert inside.quiet_tokens == outside.quiet_tokens > 0
        assert inside.token_worst == pytest.approx(outside.token_cosine)
        assert inside.token_p01 == pytest.approx(outside.token_p01)
        assert (inside.token_p01 is None) == (outside.counted_tokens < 100)


def test_quiet_tokens_do_not_count() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 50, 8)).astype(np.float32)
    got = expected.copy()
    got[0, 7] = -got[0, 7]
    norms = np.ones(50)
    norms[7] = 0.09
    gate = replace(GATES["fp16"], embedding=0.5)
    assert measure_drift(expected, got, gate).faults
    drift = measure_drift(expected, got, gate, norms_V=norms)
    assert (drift.faults, drift.quiet_tokens) == ((), 1)


def test_the_plot_needs_nothing_else_and_marks_the_block(naive_report: DriftReport) -> None:
    root = ElementTree.fromstring(naive_report.plot)
    svg = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in root.iter(f"{svg}text")}
    assert {"patch_embed.proj", "blocks.0", "blocks.3", "norm", "1e-6"} <= texts
    assert [title.text for title in root.findall(f"{svg}rect/{svg}title")] == ["blocks.1"]
    assert naive_report.plot.count("http") == 1, "the name of SVG's namespace alone"
    lost = replace(naive_report.location.growth[3].drift, token_worst=None)
    growth = list(naive_report.location.growth)
    growth[3] = replace(growth[3], drift=lost)
    location = replace(naive_report.location, growth=tuple(growth))
    assert "no number" in plot_drift(location, GATES["fp16"], "x < y")
    assert "x &lt; y" in plot_drift(location, GATES["fp16"], "x < y")


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_the_command_says_where_and_what_brings_it_back(
    hard: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--json", tmp_path / "drift.json", "--plot", tmp_path / "drift.svg")
    assert run("drift", hard.path, "--backend", "naive-fp16", *files) == 1
    shown = capsys.readouterr().out
    assert "first outside: blocks.1, in it blocks.1.norm1/LayerNormalization (LayerNormalization)" in shown
    assert "float32 islands that bring it back on every clip" in shown
    assert "not measured: what 16 bits save beside the islands" in shown
    report = json.loads((tmp_path / "drift.json").read_text())
    assert (report["passed"], report["location"]["block"]) == (False, "blocks.1")
    assert report["islands"]["islands"]
    assert (tmp_path / "drift.svg").read_text() == report["plot"]


def test_the_command_has_the_exit_statuses_of_all_others(hard: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("drift", hard.path, "--islands", "none") == 0
    assert "the outputs are within the gate" in capsys.readouterr().out
    assert run("drift", hard.path, "--against", hard.path.parent / "none") == 2
    assert "is not a folder" in capsys.readouterr().err


def test_parity_locates_what_is_outside_its_gate(
    hard: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--backends", "onnxruntime", "--reference", hard.path, "--locate")
    assert run("parity", hard.path, *words) == 0
    assert "nothing to locate: every candidate is in its gate" in capsys.readouterr().err
    folder = Path(shutil.copytree(hard.path, tmp_path / "wrong"))
    bed = Bed(read_graph(folder / ONNXRUNTIME), folder, heads=3)
    operator = PLANTINGS["heads in another order"](bed, 2)
    (folder / ONNXRUNTIME).write_bytes(bed.graph.SerializeToString())
    info = FileInfo(sha256=sha256_of(folder / ONNXRUNTIME), bytes=(folder / ONNXRUNTIME).stat().st_size)
    files = hard.manifest.files | {ONNXRUNTIME: info}
    (folder / MANIFEST).write_bytes(encode_manifest(replace(hard.manifest, files=files)))
    assert run("parity", folder, *words) == 1
    assert f"first outside: blocks.2, in it {operator}" in capsys.readouterr().out
    assert run("parity", folder, *words, "--json", "-") == 2
    assert "--locate writes what it finds to standard output" in capsys.readouterr().err
