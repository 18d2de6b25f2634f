"""Do more float32 islands bring a 16-bit graph back into its gate, named by drift or by a set, and are they held to?"""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from tests.conftest import tiny_request, tiny_spec
from vjepa2.bundle import PORTABLE, WEIGHTS, Bundle
from vjepa2.checkpoints import Request
from vjepa2.cli import main
from vjepa2.errors import ExportError, ParityError, SpecError
from vjepa2.export.describe import ExportRequest
from vjepa2.export.drift_report import report_drift
from vjepa2.export.graph_view import GraphView
from vjepa2.export.island_file import read_islands
from vjepa2.export.island_sets import ISLAND_SETS, choose_islands
from vjepa2.export.lint import lint_file, lint_graph, load_graph
from vjepa2.export.pipeline import export_bundle
from vjepa2.manifest import Precision
from vjepa2.outputs import write_json
from vjepa2.runtime import Reference
from vjepa2.spec import ClipSpec

CLIP = ClipSpec(frames=4, height=32, width=48)
LESS = {"embedding": 0.99, "token_p01": 0.9, "token_worst": 0.9}


pytestmark = pytest.mark.usefixtures("one_thread")


def hard_request(**options: object) -> ExportRequest:
    """Weights that are too hard for bf16 as it is."""
    model = tiny_spec(16, heads=2, depth=4, clip=CLIP)
    weights = Request(source="hard", model=model, seed=7)
    return ExportRequest(weights=weights, precision="bf16", simplify=False, **options)  # type: ignore[arg-type]


def test_the_islands_that_drift_finds_bring_a_red_graph_back(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"portable.onnx is outside its gate: embedding is 0.9994"):
        export_bundle(hard_request(), tmp_path / "red")
    red = export_bundle(hard_request(accept=LESS), tmp_path / "red").bundle
    report = report_drift(red, islands="roles")
    assert report.clip != Reference.load(red).probe, "the clip that moves most is not the one that is lost"
    assert report.islands is not None
    write_json(str(tmp_path / "drift.json"), report)
    islands = read_islands(str(tmp_path / "drift.json"))
    green = export_bundle(hard_request(islands=islands), tmp_path / "green").bundle
    stated = green.manifest
    assert set(islands) <= set(stated.islands)
    assert (stated.parity[PORTABLE].passed, stated.parity[PORTABLE].accepted) == (True, {})
    assert Bundle.open(green.path).manifest.islands == stated.islands


@pytest.mark.parametrize("name", ISLAND_SETS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_set_is_float32_with_its_weights_and_all_else_as_before(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    bundle = export_bundle(tiny_request(precision=precision, islands=(name,)), tmp_path / "bundle").bundle
    view, islands = GraphView(load_graph(bundle.path / PORTABLE), bundle.path), bundle.manifest.islands
    products = [node for node in view.nodes if node.op_type == "MatMul" and node.name.startswith("blocks.")]
    wide = [node.name for node in products if view.types[node.output[0]] == "float32"]
    assert wide == [node.name for node in products if node.name in islands]
    assert len(wide) == 2 * {"mlp": 2, "attention": 2, "linears": 4}[name]
    stored = {
        param: each.dtype for param, each in bundle.manifest.parameters.items() if param.endswith("mlp.fc1.weight")
    }
    half = "float16" if precision == "fp16" else "bfloat16"
    assert set(stored.values()) == {half if name == "attention" else "float32"}
    assert (bundle.path / WEIGHTS).exists()


def test_one_node_of_an_attention_brings_the_others(tmp_path: Path) -> None:
    one = "blocks.1.attn/Softmax_weights_BAMN"
    bundle = export_bundle(tiny_request(precision="fp16", islands=(one,)), tmp_path / "bundle").bundle
    assert bundle.manifest.islands == (
        "blocks.1.attn/MatMul_scores_BAMN", one, "blocks.1.attn/MatMul_mixed_BAMK"
    )  # fmt: skip


def test_what_is_no_island_is_named() -> None:
    nodes = ["blocks.0.mlp.fc1/MatMul", "blocks.0.mlp.fc1/MatMul_1"]
    assert choose_islands(["blocks.0.mlp.fc1/MatMul"], nodes) == ("blocks.0.mlp.fc1/MatMul",)
    with pytest.raises(ExportError, match=r"the graph has no blocks.9.mlp.fc1/MatMul, which is to be an island"):
        choose_islands(["blocks.0.mlp.fc1/MatMul", "blocks.9.mlp.fc1/MatMul"], nodes)
    with pytest.raises(ExportError, match="the graph has no attention"):
        choose_islands(["attention"], nodes)


def test_an_export_with_an_island_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the graph has no blocks.7/x"):
        export_bundle(tiny_request(precision="fp16", islands=("blocks.7/x",)), tmp_path / "bundle")
    for precision in ("fp32", "int8", "fp8"):
        with pytest.raises(ExportError, match=f"islands are float32 in a graph of fp16 or bf16; .* out of {precision}"):
            export_bundle(tiny_request(precision=precision, islands=("mlp",)), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_the_lint_knows_islands_and_holds_them_to_float32(tmp_path: Path) -> None:
    bundle = export_bundle(tiny_request(precision="fp16", islands=("mlp",)), tmp_path / "bundle").bundle
    file, islands = bundle.path / PORTABLE, bundle.manifest.islands
    (report,) = lint_file(file, ["tensorrt-11"], precision="fp16", islands=islands)
    assert report.passed, report.faults
    (report,) = lint_file(file, ["tensorrt-11"], precision="fp16")
    assert {fault.rule for fault in report.faults} == {"matmuls_are_as_asked"}
    report = lint_graph(
        onnx.load(file, load_external_data=False), "tensorrt-11", precision="fp16", folder=bundle.path,
        islands=[*islands, "blocks.0.attn.qkv/MatMul"],
    )  # fmt: skip
    (fault,) = report.faults
    assert (fault.rule, fault.node) == ("islands_are_float32", "blocks.0.attn.qkv/MatMul")
    assert "it is an island and computes in float16; it must be float32" in fault.reason


def test_the_verb_takes_a_set_and_says_what_is_no_file_of_islands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["export", "random", "--model", "vitl", "--layers", "1", "--frames", "2", "--size", "32", "--no-simplify"]

    def run(*options: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as done:
            main([*common, "--precision", "fp16", *options, "-o", str(tmp_path / "bundle")])
        return done.value.code, " ".join(capsys.readouterr().err.split())

    assert run("--islands", "mlp", "--islands", "attention")[0] == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert len(bundle.manifest.islands) == 7
    status, told = run("--islands", "everything")
    assert (status, "islands is 'everything'; it must be attention, linears, mlp, or what vjepa2 drift" in told) == (
        2,
        True,
    )
    write_json(str(tmp_path / "drift.json"), report_drift(bundle, islands="nodes"))
    status, told = run("--islands", str(tmp_path / "drift.json"))
    assert (status, "holds no islands: the outputs are within the gate" in told) == (2, True)
    (tmp_path / "drift.json").write_text("{}")
    assert run("--islands", str(tmp_path / "drift.json"))[0] == 2


def test_types_of_the_graph_are_those_that_are_declared(tmp_path: Path) -> None:
    bundle = export_bundle(tiny_request(precision="bf16", islands=("linears",)), tmp_path / "bundle").bundle
    onnx.checker.check_model(str(bundle.path / PORTABLE), full_check=True)
    graph = load_graph(bundle.path / PORTABLE).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["blocks.0.attn.proj.weight"] == TensorProto.FLOAT
    with pytest.raises(SpecError, match="must be attention, linears, mlp"):
        read_islands("block")
