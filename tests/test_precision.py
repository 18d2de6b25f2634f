"""Does a graph say the precision that was asked for, everywhere, and does the bundle keep it?"""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pytest
import torch
from onnx import TensorProto

from benchmarks.precision import find_failures
from tests.conftest import tiny_encoder, tiny_request, tiny_spec
from tests.test_export_heads import request_for
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.cli import main
from vjepa2.errors import BackendError, ExportError, SpecError, Vjepa2Error
from vjepa2.export.casts import halve_tensor
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.precision import FP32_OPERATORS, FP32_TENSORS
from vjepa2.export.prove import PROVERS, EvaluatorBackend, prove_graph
from vjepa2.export.variants import VARIANTS
from vjepa2.manifest import Precision, StoredParameter
from vjepa2.runtime import Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.parity import GATES

HALF = {
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.FLOAT16,
    "fp8": TensorProto.FLOAT16,
}
SIXTEEN = ("fp16", "bf16")
DEPTH = tiny_spec().depth
_TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """A function that gives the bundle of a precision, exported once."""
    made: dict[str, Bundle] = {}

    def find(precision: str) -> Bundle:
        if precision not in made:
            request = tiny_request(precision=precision)
            made[precision] = export_bundle(request, tmp_path_factory.mktemp(precision) / precision).bundle
        return made[precision]

    return find


class Typed:
    """A graph with the type of every value."""

    def __init__(self, file: Path) -> None:
        model = onnx.load(file, load_external_data=False)
        self.graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        self.types = {tensor.name: tensor.data_type for tensor in self.graph.initializer}
        for info in (*self.graph.value_info, *self.graph.input, *self.graph.output):
            self.types[info.name] = info.type.tensor_type.elem_type
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def of(self, op: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type == op]

    def result(self, node: onnx.NodeProto) -> int:
        return int(self.types[node.output[0]])

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for reader in self.graph.node if set(node.output) & set(reader.input)]


@pytest.mark.parametrize("precision", [*SIXTEEN, "int8", "fp8"])
def test_the_checker_and_every_type_agree(precision: str, bundles: Callable[[str], Bundle]) -> None:
    folder = bundles(precision).path
    onnx.checker.check_model(str(folder / PORTABLE), full_check=True)
    declared = onnx.load(folder / PORTABLE, load_external_data=False)
    typed = Typed(folder / PORTABLE)
    for info in declared.graph.value_info:
        assert typed.types[info.name] == info.type.tensor_type.elem_type, info.name
    opset = next(entry.version for entry in declared.opset_import if entry.domain == "")
    assert opset == (19 if precision == "fp8" else 18)


@pytest.mark.parametrize("precision", SIXTEEN)
def test_products_are_in_16_bits_and_the_islands_in_32(precision: str, bundles: Callable[[str], Bundle]) -> None:
    typed = Typed(bundles(precision).path / PORTABLE)
    products = Counter((typed.result(node), node.input[1]) for node in typed.of("MatMul"))
    assert {name for kind, name in products if kind == TensorProto.FLOAT} == {"patch_embed.proj.weight", "tokens"}
    assert sum(kind == HALF[precision] for kind, _ in products) == 6 * DEPTH
    assert {typed.result(node) for node in typed.of("LayerNormalization")} == {TensorProto.FLOAT}
    assert {typed.result(node) for node in typed.of("Erf")} == {TensorProto.FLOAT}
    for name in ("blocks.0/Add", "blocks.1/Add_1", "blocks.0.attn.rotary/Mul", "blocks.0.attn.rotary/Add"):
        (node,) = (node for node in typed.graph.node if node.name == name)
        assert {typed.types[operand] for operand in (*node.input, *node.output)} == {TensorProto.FLOAT}, name
    assert all(typed.types[name] == TensorProto.FLOAT for name in ("tokens", "embedding"))
    assert set(FP32_OPERATORS) == {"LayerNormalization", "residual", "Erf"}


@pytest.mark.parametrize("precision", [*SIXTEEN, "int8", "fp8"])
def test_nothing_is_cast_inside_attention_and_the_scale_is_on_q(
    precision: str, bundles: Callable[[str], Bundle]
) -> None:
    typed = Typed(bundles(precision).path / PORTABLE)
    assert len(typed.of("Softmax")) == DEPTH
    for softmax in typed.of("Softmax"):
        scores = typed.makers[softmax.input[0]]
        (mixed,) = typed.readers(softmax)
        q, k = (typed.makers[name] for name in scores.input)
        assert (scores.op_type, q.op_type, k.op_type, mixed.op_type) == ("MatMul", "Mul", "Transpose", "MatMul")
        inside = {typed.result(node) for node in (q, k, scores, softmax, mixed)} | {typed.types[mixed.input[1]]}
        assert inside == {HALF[precision]}


@pytest.mark.parametrize("precision", SIXTEEN)
def test_a_value_is_cast_where_its_type_changes_and_nowhere_else(
    precision: str, bundles: Callable[[str], Bundle]
) -> None:
    typed = Typed(bundles(precision).path / PORTABLE)
    casts = typed.of("Cast")
    assert len(casts) == 1 + 8 * DEPTH
    for cast in casts:
        assert typed.types[cast.input[0]] != typed.result(cast), cast.name
    assert [node.op_type for node in typed.graph.node if "frames" in node.input] == ["Cast"]
    assert len({cast.input[0] for cast in casts}) == len(casts), "no value is cast twice"


@pytest.mark.parametrize("precision", SIXTEEN)
def test_weights_lie_in_16_bits_and_the_islands_in_32(precision: str, bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles(precision)
    stored = {name: parameter.dtype for name, parameter in bundle.manifest.parameters.items()}
    wide = {name for name, dtype in stored.items() if dtype == "float32"}
    assert all("norm" in name or name.startswith("patch_embed") or name.endswith(".bias") for name in wide)
    assert {stored[f"blocks.1.{name}.weight"] for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")} == {
        {"fp16": "float16", "bf16": "bfloat16"}[precision]
    }
    typed = Typed(bundle.path / PORTABLE)
    tables = [name for name in typed.types if name.startswith(tuple(FP32_TENSORS))]
    assert {typed.types[name] for name in tables} == {TensorProto.FLOAT}
    size = (bundle.path / WEIGHTS).stat().st_size
    assert size < 0.7 * (bundles("fp32").path / WEIGHTS).stat().st_size


def read_parameter(bundle: Bundle, stored: StoredParameter) -> torch.Tensor:
    """What a parameter of the file is, in float32."""
    data = (bundle.path / stored.file).read_bytes()
    dtype = _TORCH.get(stored.dtype, torch.float8_e4m3fn)
    count = int(np.prod(stored.shape))
    values = torch.frombuffer(bytearray(data), dtype=dtype, count=count, offset=stored.offset).reshape(stored.shape)
    if stored.scales is None:
        return values.float()
    count = 1 if stored.dtype == "float8_e4m3fn" else stored.shape[1]
    scales = torch.frombuffer(bytearray(data), dtype=torch.float32, count=count, offset=stored.scales)
    return values.float() * scales


@pytest.mark.parametrize(("precision", "loss"), [("fp16", 2**-11), ("bf16", 2**-8), ("int8", 1 / 254), ("fp8", 2**-4)])
def test_the_manifest_says_where_each_parameter_lies(
    precision: str, loss: float, bundles: Callable[[str], Bundle]
) -> None:
    bundle = bundles(precision)
    state = {name: value.detach() for name, value in tiny_encoder().named_parameters()}
    assert set(bundle.manifest.parameters) == set(state)
    for name, stored in bundle.manifest.parameters.items():
        if stored.transform == "folded":
            continue
        read = read_parameter(bundle, stored)
        value = read.T if stored.transform == "transposed" else read
        largest = state[name].abs().max()
        torch.testing.assert_close(value, state[name], rtol=loss, atol=float(largest) * min(loss, 2**-7))


@pytest.mark.parametrize("precision", list(PROVERS))
def test_a_bundle_holds_what_was_proved_and_says_by_whom(
    precision: Precision, bundles: Callable[[str], Bundle]
) -> None:
    manifest = bundles(precision).manifest
    assert manifest.precision == precision
    assert {name: verdict.proved_by for name, verdict in manifest.parity.items()} == PROVERS[precision]
    assert set(manifest.graphs) == set(VARIANTS[precision]) == set(PROVERS[precision])
    assert all(verdict.passed and not verdict.accepted for verdict in manifest.parity.values())
    assert "kept as traced" in manifest.graphs[PORTABLE].simplified or "removed" in manifest.graphs[PORTABLE].simplified
    assert Bundle.open(bundles(precision).path).manifest == manifest


def test_a_graph_with_one_wrong_cast_does_not_pass(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    """The scale moved to both q and k: every type is right."""
    folder = Path(shutil.copytree(bundles("fp16").path, tmp_path / "fp16"))
    bundle = Bundle(folder, bundles("fp16").manifest)
    model = onnx.load(folder / PORTABLE, load_external_data=False)
    (node,) = (node for node in model.graph.node if node.name == "blocks.1.attn/MatMul_scores_BAMN")
    node.input[0] = next(n for n in model.graph.node if n.output[0] == node.input[0]).input[0]
    (folder / PORTABLE).write_bytes(model.SerializeToString())
    with pytest.raises(Vjepa2Error, match=r"portable.onnx is outside its gate: .* \(evaluator\)"):
        prove_graph(bundle, PORTABLE, Reference.load(bundle), GATES["fp16"])


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_only_linears_are_in_8_bits(kind: str, bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles(kind)
    for name in bundle.manifest.graphs:
        graph = onnx.load(bundle.path / name, load_external_data=False).graph
        makers = {output: node for node in graph.node for output in node.output}
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        quantised = [
            node
            for node in graph.node
            if node.op_type == "MatMul"
            and all(makers.get(each, node).op_type == "DequantizeLinear" for each in node.input)
        ]
        assert len(quantised) == 4 * DEPTH
        for node in quantised:
            given, weight = (makers[each] for each in node.input)
            assert makers[given.input[0]].op_type == "QuantizeLinear"
            columns = [tensors[weight.input[0]].dims[1]]
            assert list(tensors[weight.input[1]].dims) == (columns if kind == "int8" else []), "scales"
            assert [each.name for each in weight.attribute] == (["axis"] if kind == "int8" else [])
            for each in (given, weight):
                assert not any(tensors[each.input[2]].raw_data), "zero is zero"
    assert {stored.dtype for stored in bundle.manifest.parameters.values()} == {
        "float32", {"int8": "int8", "fp8": "float8_e4m3fn"}[kind]
    }  # fmt: skip
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (calibration.method, calibration.clips, calibration.source) == ("percentile", 12, "generated")


def test_onnx_runtime_computes_int8_in_8_bits(bundles: Callable[[str], Bundle], scene: FramesArray) -> None:
    bundle = bundles("int8")
    with open_backend(bundle, "onnxruntime") as backend:
        verdict = check_parity(Reference.load(bundle), backend, GATES["int8"])
        assert backend.precision == "int8"
    assert verdict.passed
    assert sum(row.products for row in backend.placement if row.precision == "int8") == 4 * DEPTH


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-portable", "pytorch"])
def test_what_would_run_in_another_precision_is_refused(
    name: str, precision: str, bundles: Callable[[str], Bundle]
) -> None:
    bundle = bundles(precision)
    frames = Reference.load(bundle).frames_BTHWC[:1]
    message = r"holds portable.onnx alone|products of matrices in fp32|refuses portable.onnx|float32 weights"
    with pytest.raises(BackendError, match=message), open_backend(bundle, name) as backend:
        backend.run(frames)


@pytest.mark.parametrize("head", ["classifier", "predictor", "anticipation", "action"])
def test_every_head_has_a_16_bit_form(head: str, tmp_path: Path) -> None:
    bundle = export_bundle(request_for(head, precision="fp16"), tmp_path / "bundle").bundle
    typed = Typed(bundle.path / PORTABLE)
    types = Counter(typed.result(node) for node in typed.of("MatMul"))
    assert types[TensorProto.FLOAT] <= 2
    assert types[TensorProto.FLOAT16] > 6
    assert bundle.manifest.parity[PORTABLE].proved_by == EvaluatorBackend.name


def test_a_head_in_8_bits_keeps_its_classes(tmp_path: Path) -> None:
    bundle = export_bundle(request_for("classifier", precision="int8"), tmp_path / "bundle").bundle
    assert {verdict.agreement for verdict in bundle.manifest.parity.values()} == {1.0}


@pytest.mark.parametrize("options", [{"batch": "dynamic"}, {"graph_input": "pixel_values_videos", "batch": 2}], ids=str)
def test_every_choice_has_a_16_bit_form(options: dict[str, Any], tmp_path: Path) -> None:
    request = tiny_request(precision="bf16", simplify=False, **options)
    assert export_bundle(request, tmp_path / "bundle").bundle.manifest.parity[PORTABLE].passed


def row_of(weights: str, precision: str, graph: str, **changes: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {"token_cosine": 0.9999, "quiet_cosine": None, "passed": True, "faults": []}
    return {"weights": weights, "precision": precision, "graph": graph} | figures | changes


NAIVE = {"token_cosine": 0.12, "below_0.999": 0.07, "passed": False, "faults": ["token_p01"]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        (
            {"token_cosine": 0.95},
            "hard fp16 naive has a worst token of 0.9500 and 7.0% below 0.999; hard is at most 0.9",
        ),
        ({"token_cosine": 0.95, "quiet_cosine": 0.5}, None),
        ({"below_0.999": 0.04}, "and 4.0% below 0.999; hard is at most 0.9 and at least 5%"),
    ],
)
def test_the_benchmark_fails_where_hard_is_not_hard(changes: dict[str, Any], told: str | None) -> None:
    failures = find_failures(
        [row_of("hard", "fp16", "naive", **NAIVE | changes), row_of("random", "fp16", "naive", **NAIVE)]
    )
    assert len(failures) == (told is not None)
    assert told is None or told in failures[0]


def test_the_benchmark_fails_where_fp16_or_float32_does_and_bf16_may() -> None:
    lost = {"passed": False, "faults": ["token_p01 is 0.9"]}
    rows = [row_of("hard", "bf16", PORTABLE, **lost), row_of("hard", "int8", ONNXRUNTIME, **lost)]
    assert find_failures(rows) == []
    rows = [row_of("hard", "fp16", PORTABLE, **lost), row_of("random", "fp32", ONNXRUNTIME, **lost)]
    assert find_failures(rows) == [
        "hard fp16 portable.onnx is outside its gate: token_p01 is 0.9",
        "random fp32 onnxruntime.onnx is outside its gate: token_p01 is 0.9",
    ]


def test_numbers_beyond_fp16_are_an_error_and_a_mask_is_none() -> None:
    with pytest.raises(
        ExportError, match=r"fc1.weight holds 70000, and fp16 ends at 65504; export with --precision bf16"
    ):
        halve_tensor("fc1.weight", torch.tensor([1.0, -7e4]), torch.float16)
    assert halve_tensor("fc1.weight", torch.tensor([7e4]), torch.bfloat16).isfinite().all()
    assert halve_tensor("order.mask_11MM", torch.tensor([0.0, -1e9]), torch.float16).tolist() == [0.0, -65504.0]


def test_what_cannot_be_accepted_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="this gate has no limit token_best"):
        export_bundle(tiny_request(accept={"token_best": 0.5}), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_the_verb_takes_precision_calibration_and_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["export", "random", "--model", "vitl", "--layers", "1", "--frames", "2", "--size", "32", "--no-simplify"]
    options = [
        "--precision",
        "int8",
        "--calibration",
        "entropy",
        "--accept",
        "embedding=0.9",
        "--accept",
        "token_p01=0.9",
    ]
    with pytest.raises(SystemExit) as done:
        main([*common, *options, "-o", str(tmp_path / "bundle")])
    told = " ".join(capsys.readouterr().err.split())
    assert done.value.code == 0, told
    assert "with embedding=0.9, token_p01=0.9 accepted" in told
    assert "is ready, in int8" in told
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.parity[ONNXRUNTIME].accepted == {"embedding": 0.9, "token_p01": 0.9}
    with pytest.raises(SystemExit) as done:
        main([*common, "--accept", "token_worst", "-o", str(tmp_path / "other")])
    assert done.value.code == 2
    assert "it must be a limit and a number, as token_worst=0.98" in capsys.readouterr().err
