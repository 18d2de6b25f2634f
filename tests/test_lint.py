"""Does every rule of the lint find what it is for, and nothing in a graph that export wrote?"""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import tiny_spec
from tests.lint_graphs import (
    SCALED,
    SCORES,
    SOFTMAX,
    Spoil,
    append,
    constant,
    find,
    link_weights,
    prepare,
    put_between,
    set_external,
    small_graph,
    store_twice,
    weights_of,
)
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.checkpoints import Request
from vjepa2.errors import ExportError, LintError
from vjepa2.export import variants
from vjepa2.export.describe import ExportRequest
from vjepa2.export.lint import RULES, LintReport, lint_file, lint_graph
from vjepa2.export.lint_precision import STAYS_FLOAT32, STAYS_WIDE
from vjepa2.export.lower import lower_graph
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.targets import FACTS, TARGETS, TARGETS_OF, TargetName

TENSORRT_10: TargetName = "tensorrt-10.3"
SMALLEST = ExportRequest(weights=Request(source="random", model=tiny_spec(heads=1, depth=1)), simplify=False)


def load(folder: Path, name: str = PORTABLE) -> onnx.ModelProto:
    return onnx.load(folder / name, load_external_data=False)


def rules_of(report: LintReport) -> set[str]:
    return {fault.rule for fault in report.faults}


def test_what_export_wrote_is_clean_for_every_target(exported: Path) -> None:
    for name, targets in TARGETS_OF.items():
        for report in lint_file(exported / name, targets, precision="fp32"):
            assert report.passed, (name, report.target, report.faults)
    assert set(TARGETS_OF[PORTABLE]) == set(TARGETS) == set(FACTS)


def test_export_writes_down_which_targets_a_graph_is_fit_for(exported: Path) -> None:
    """tests/test_export_heads.py exports every head and batch, which here is to say: lints them."""
    manifest = Bundle.open(exported).manifest
    assert {name: info.targets for name, info in manifest.graphs.items()} == dict(TARGETS_OF)
    assert not any(info.refused for info in manifest.graphs.values())


def break_validity(graph: onnx.ModelProto, folder: Path) -> None:
    find(graph, SOFTMAX).attribute.append(helper.make_attribute("spoilt", 1))


def raise_opset(graph: onnx.ModelProto, folder: Path) -> None:
    graph.opset_import[0].version = 21  # at which Cast, Reshape and Transpose are new


def raise_opset_to_23(graph: onnx.ModelProto, folder: Path) -> None:
    graph.opset_import[0].version = 23


def raise_ir(graph: onnx.ModelProto, folder: Path) -> None:
    graph.ir_version = 11


def use_hardmax(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Hardmax", ["tokens"], [1, 48, 192])


def use_det(graph: onnx.ModelProto, folder: Path) -> None:
    prepare(graph, "Slice", ["tokens", constant(graph, "from", [0], "int64"), constant(graph, "to", [48], "int64"),
                             constant(graph, "axis", [2], "int64")], "square")  # fmt: skip
    append(graph, "Det", ["square"], [1])


def use_nobodys(graph: onnx.ModelProto, folder: Path) -> None:
    graph.opset_import.append(helper.make_opsetid("com.nowhere", 1))
    append(graph, "Frob", ["tokens"], [1, 48, 192], domain="com.nowhere")


def use_double(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Cast", ["tokens"], [1, 48, 192], TensorProto.DOUBLE, to=TensorProto.DOUBLE)


def square_integers(graph: onnx.ModelProto, folder: Path) -> None:
    prepare(graph, "Cast", ["tokens"], "whole", to=TensorProto.INT32)
    append(graph, "Pow", ["whole", constant(graph, "two", 2, "int32")], [1, 48, 192], TensorProto.INT32)


def use_if(graph: onnx.ModelProto, folder: Path) -> None:
    branches = []
    for name in ("then", "else"):
        node = helper.make_node("Identity", ["embedding"], [name])
        branches.append(
            helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 192])])
        )
    constant(graph, "condition", True, "bool")
    append(graph, "If", ["condition"], [1, 192], then_branch=branches[0], else_branch=branches[1])


def touch_pixels(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Identity", ["frames"], [1, 4, 64, 96, 3], TensorProto.UINT8)


def reduce_with_axes(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "ReduceMean", ["tokens", constant(graph, "axes", [1], "int64")], [1, 1, 192])


def make_nine_axes(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Reshape", ["embedding", constant(graph, "nine", [1] * 8 + [192], "int64")], [1] * 8 + [192])


def shift_zero(graph: onnx.ModelProto, folder: Path) -> None:
    step, zero = constant(graph, "step", 0.5), constant(graph, "zero", 3, "int8")
    prepare(graph, "QuantizeLinear", ["tokens", step, zero], "bytes")
    append(graph, "DequantizeLinear", ["bytes", step, zero], [1, 48, 192])


def hold_fp8(graph: onnx.ModelProto, folder: Path) -> None:
    graph.graph.initializer.append(helper.make_tensor("spoilt", TensorProto.FLOAT8E4M3FN, [1], [1.0]))


def compute_with_a_shape(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Shape", ["tokens"], [3], TensorProto.INT64)


def spell_out_a_norm(graph: onnx.ModelProto, folder: Path) -> None:
    prepare(graph, "ReduceMean", ["tokens", constant(graph, "axes", [2], "int64")], "mean")
    prepare(graph, "Add", [constant(graph, "epsilon", 1e-6), "mean"], "more")
    append(graph, "Sqrt", ["more"], [1, 48, 1])


def part_scores_from_softmax(graph: onnx.ModelProto, folder: Path) -> None:
    put_between(graph, SCORES, "Relu")


def give_weights_away(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Relu", [find(graph, SOFTMAX).output[0]], [1, 3, 48, 48])


def scale_nothing(graph: onnx.ModelProto, folder: Path) -> None:
    scaled = find(graph, SCALED)
    find(graph, SCORES).input[0] = scaled.input[0]
    graph.graph.node.remove(scaled)


def scale_k_too(graph: onnx.ModelProto, folder: Path) -> None:
    put_between(graph, "Transpose_k_BAKN", "Mul", constant(graph, "half", 0.5))


def scale_scores(graph: onnx.ModelProto, folder: Path) -> None:
    scale_nothing(graph, folder)
    put_between(graph, SCORES, "Div", constant(graph, "eight", 8.0))


def cast_scores(graph: onnx.ModelProto, folder: Path) -> None:
    put_between(graph, SCORES, "Cast", to=TensorProto.FLOAT)


def cast_weights(graph: onnx.ModelProto, folder: Path) -> None:
    put_between(graph, SOFTMAX, "Cast", to=TensorProto.FLOAT)


def give_scores_away(graph: onnx.ModelProto, folder: Path) -> None:
    append(graph, "Relu", [find(graph, SCORES).output[0]], [1, 3, 48, 48])


def output_weights(graph: onnx.ModelProto, folder: Path) -> None:
    name = find(graph, SOFTMAX).output[0]
    graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 48, 48]))


def weigh_heads(graph: onnx.ModelProto, folder: Path) -> None:
    find(graph, SOFTMAX).attribute[0].i = 1


def scale_k_by_equal_numbers(graph: onnx.ModelProto, folder: Path) -> None:
    put_between(graph, "Transpose_k_BAKN", "Mul", constant(graph, "halves", [[0.5]] * 64))


def leave(graph: onnx.ModelProto, folder: Path) -> None:
    """The graph is right, and something else was asked for."""


def norm_in_fp16(graph: onnx.ModelProto, folder: Path) -> None:
    prepare(graph, "Cast", ["tokens"], "short", to=TensorProto.FLOAT16)
    gain = constant(graph, "gain", [1] * 192, "float16")
    append(graph, "LayerNormalization", ["short", gain], [1, 48, 192], TensorProto.FLOAT16)


def use_other_folder(graph: onnx.ModelProto, folder: Path) -> None:
    set_external(weights_of(graph), location=f"../{WEIGHTS}")


def use_absolute(graph: onnx.ModelProto, folder: Path) -> None:
    set_external(weights_of(graph), location=folder / WEIGHTS)


def use_nothing(graph: onnx.ModelProto, folder: Path) -> None:
    set_external(weights_of(graph), location="none.data")


def read_beyond(graph: onnx.ModelProto, folder: Path) -> None:
    set_external(weights_of(graph), offset=(folder / WEIGHTS).stat().st_size)


# how the exported graph is spoilt -> target, precision, the one rule that says so, and what it says
BROKEN: dict[Spoil, tuple[TargetName, Any, str, str]] = {
    break_validity: ("openvino", None, "graph_is_valid", "ONNX refuses it: Unrecognized attribute: spoilt"),
    raise_opset: (TENSORRT_10, None, "opset_is_read", "Cast is of opset 21; it is read as it was up to 20"),
    raise_opset_to_23: ("onnxruntime", None, "opset_is_read", "graph: its opset is 23; 7 to 22 are read"),
    raise_ir: ("tensorrt-11", None, "ir_version_is_read", "its IR version is 11; up to 10 is read"),
    use_hardmax: ("tensorrt-8.6", None, "operators_are_read", "spoilt: there is no importer for Hardmax"),
    use_det: ("openvino", None, "operators_are_read", "there is no importer for Det"),
    use_nobodys: ("onnxruntime", None, "operators_are_read", "there is no importer for com.nowhere.Frob"),
    use_double: (TENSORRT_10, None, "types_are_held", "spoilt is float64, a type that it does not have"),
    square_integers: (TENSORRT_10, None, "operators_take_their_types", "Pow is not imported for int32 (whole)"),
    use_if: (TENSORRT_10, None, "has_no_control_flow", "If holds a graph of its own"),
    touch_pixels: ("openvino", None, "uint8_goes_into_a_cast", "Identity takes the uint8 input frames"),
    reduce_with_axes: ("tensorrt-8.6", None, "reduce_axes_are_attributes", "the axes of ReduceMean are an input, axes"),
    make_nine_axes: ("tensorrt-10.13", None, "ranks_are_within_limit", "spoilt has 9 axes; at most 8 are possible"),
    shift_zero: (TENSORRT_10, None, "zero_points_are_zero", "its zero point zero is not 0"),
    hold_fp8: ("tensorrt-10.16", None, "fp8_has_opset_19", "spoilt is float8e4m3fn and the opset is 18"),
    compute_with_a_shape: (TENSORRT_10, None, "has_no_shape_chain", "the shape of tokens is computed with"),
    spell_out_a_norm: (TENSORRT_10, None, "layer_norms_are_one_operator", "is spelt out from here to spoilt"),
    part_scores_from_softmax: (TENSORRT_10, None, "attention_is_found", "does not come from a MatMul of q and k"),
    give_weights_away: (TENSORRT_10, None, "attention_is_found", "does not go into one MatMul with v alone"),
    give_scores_away: (TENSORRT_10, None, "nobody_else_reads_attention", "only one of them may, on the way to v"),
    output_weights: (TENSORRT_10, None, "nobody_else_reads_attention", "weights_BAMN is an output of the graph"),
    weigh_heads: (TENSORRT_10, None, "softmax_is_over_keys", "it is over axis 1 of 4; it must be over the last"),
    scale_k_by_equal_numbers: (TENSORRT_10, None, "scale_is_on_q_only", "k is scaled; scale q alone"),
    scale_nothing: (TENSORRT_10, None, "scale_is_on_q_only", "its q is not scaled"),
    scale_k_too: (TENSORRT_10, None, "scale_is_on_q_only", "k is scaled; scale q alone"),
    scale_scores: (TENSORRT_10, None, "scale_is_on_q_only", "scores are scaled; scale q before they are computed"),
    cast_scores: (TENSORRT_10, None, "has_no_cast_inside_attention", "cast q, k and v before it"),
    cast_weights: (TENSORRT_10, None, "has_no_cast_inside_attention", "cast q, k and v before it"),
    leave: (TENSORRT_10, "fp16", "matmuls_are_as_asked", "fp16 was asked for, and 12 MatMuls are float32"),
    norm_in_fp16: (TENSORRT_10, "fp32", "layer_norms_are_float32", "it computes in float16"),
    use_other_folder: (TENSORRT_10, None, "weights_lie_inside", "it lies in '../weights.data', outside"),
    use_absolute: (TENSORRT_10, None, "weights_lie_inside", "outside the graph's folder"),
    use_nothing: (TENSORRT_10, None, "weights_lie_inside", "it lies in 'none.data', which is no file of"),
    read_beyond: (TENSORRT_10, None, "weights_lie_inside", "of weights.data, which has"),
    link_weights: (TENSORRT_10, None, "weights_lie_inside", "which is a link, or behind one"),
    store_twice: (TENSORRT_10, None, "tables_are_stored_once", "the same bytes as blocks.0.attn.qkv.weight"),
}  # fmt: skip
# rules that a small graph breaks: below, and in tests/test_lint_quantization.py
ELSEWHERE = {
    "linears_are_quantized", "attention_is_not_quantized", "scales_are_constants", "scales_fit_their_layers",
    "steps_are_restored_by_their_scale",
}  # fmt: skip
ISLANDS = {"islands_are_float32"}  # broken in tests/test_island_sets.py, of a graph that has some


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_each_mistake_breaks_one_rule_that_names_the_node_and_why(spoil: Spoil, bundle_copy: Path) -> None:
    target, precision, rule, reason = BROKEN[spoil]
    graph = load(bundle_copy)
    spoil(graph, bundle_copy)
    report = lint_graph(graph, target, precision=precision, folder=bundle_copy)
    assert not report.passed
    assert rules_of(report) == {rule}, report.faults
    assert any(reason in str(fault) for fault in report.faults), report.faults
    known = {node.name for node in graph.graph.node} | {tensor.name for tensor in graph.graph.initializer} | {"graph"}
    assert {fault.node for fault in report.faults} <= known


def test_every_rule_is_broken_by_some_graph() -> None:
    names = [rule.__name__ for rule in RULES]
    assert set(names) == {rule for _, _, rule, _ in BROKEN.values()} | ELSEWHERE | ISLANDS
    assert max(Counter(names).values()) == 1


def test_tensorrt_takes_pixels_into_nothing_but_a_cast(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    touch_pixels(graph, bundle_copy)
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert rules_of(report) == {"uint8_goes_into_a_cast", "operators_take_their_types"}


def test_a_graph_without_attention_is_found_out() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    inside = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="n")], "g", values[:1], values[1:])
    graph = helper.make_model(inside, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    report = lint_graph(graph, TENSORRT_10)
    assert [str(fault) for fault in report.faults] == [
        "graph: no attention is found: neither MatMul, Softmax, MatMul nor an operator that fuses them "
        "(attention_is_found)"
    ]


@pytest.mark.parametrize(
    ("kind", "stored", "precision"),
    [
        ("float32", None, "fp32"),
        ("float16", None, "fp16"),
        ("bfloat16", None, "bf16"),
        ("float16", "int8", "int8"),
        ("bfloat16", "int8", "int8"),
        ("float16", "float8e4m3fn", "fp8"),
    ],
)
def test_a_small_graph_of_each_precision_is_clean_where_it_is_possible(
    kind: str, stored: str | None, precision: Any
) -> None:
    graph = small_graph(kind, stored)
    report = lint_graph(graph, "tensorrt-11", precision=precision)
    assert report.passed, report.faults
    assert sum(report.facts.matmuls.values()) == 5
    for target in TARGETS:
        reason = FACTS[target].refusals.get(precision)
        report = lint_graph(graph, target, precision=precision)
        assert report.refused == reason
        if reason is not None:
            assert not report.passed
            assert report.faults, f"{target} refuses {precision}, and no rule finds why"


@pytest.mark.parametrize(
    ("graph", "precision", "rule", "reason"),
    [
        (small_graph("float16"), "bf16", "matmuls_are_as_asked", "bf16 was asked for, and 5 MatMuls are float16"),
        (small_graph("bfloat16"), "fp16", "matmuls_are_as_asked", "fp16 was asked for, and 5 MatMuls are bfloat16"),
        (small_graph("float16"), "int8", "linears_are_quantized", "int8 was asked for, and 3 linear layers are not"),
        (small_graph("float16", "int8"), "fp8", "linears_are_quantized", "fp8 was asked for, and 3 linear layers"),
    ],
    ids=["fp16 for bf16", "bf16 for fp16", "fp16 for int8", "int8 for fp8"],
)
def test_another_precision_than_was_asked_for_is_an_error(
    graph: onnx.ModelProto, precision: Any, rule: str, reason: str
) -> None:
    report = lint_graph(graph, "tensorrt-11", precision=precision)
    assert rules_of(report) == {rule}
    assert reason in report.faults[0].reason


def test_beside_8_bits_float32_is_right_where_16_bits_are_computed_as_float32() -> None:
    graph = small_graph("float32", "int8")
    assert lint_graph(graph, "onnxruntime", precision="int8").passed
    report = lint_graph(graph, TENSORRT_10, precision="int8")
    assert [fault.reason for fault in report.faults] == [
        "int8 was asked for, and 2 MatMuls are float32, this the first of them"
    ]


def test_what_may_stay_wide_is_what_precision_leaves_so() -> None:
    precision = pytest.importorskip("vjepa2.export.precision", exc_type=ImportError)
    quantize = pytest.importorskip("vjepa2.export.quantize", exc_type=ImportError)
    assert set(STAYS_FLOAT32) <= set(precision.FP32_TENSORS)
    assert set(STAYS_WIDE) == set(STAYS_FLOAT32) | set(quantize.KEPT)


def test_types_that_do_not_fit_together_are_found(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    prepare(graph, "Cast", ["tokens"], "short", to=TensorProto.FLOAT16)
    append(graph, "Add", ["tokens", "short"], [1, 48, 192])
    report = lint_graph(graph, "openvino", folder=bundle_copy)
    assert rules_of(report) == {"graph_is_valid"}
    assert "B has inconsistent type tensor(float16)" in report.faults[0].reason


def test_a_report_is_json_and_says_what_the_graph_is_made_of(exported: Path) -> None:
    report = lint_file(exported / ONNXRUNTIME, ["onnxruntime"], precision="fp32")[0]
    record = json.loads(json.dumps(asdict(report)))
    assert record["passed"] is True
    assert record["faults"] == []
    assert record["facts"]["operators"]["com.microsoft.MultiHeadAttention"] == record["facts"]["attentions"] == 2
    assert (record["facts"]["opset"], record["facts"]["ir_version"]) == (18, 10)
    assert record["facts"]["matmuls"] == {"float32": 12}


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    for data in (b"\x0a", b"no graph at all"):
        file.write_bytes(data)
        with pytest.raises(ExportError, match="cannot be read as an ONNX graph"):
            lint_file(file, TARGETS)


def test_a_graph_that_is_not_clean_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower_wrongly(traced: onnx.ModelProto, name: str) -> onnx.ModelProto:
        graph = lower_graph(traced, name)
        if name == PORTABLE:
            cast_scores(graph, tmp_path)
        return graph

    monkeypatch.setattr(variants, "lower_graph", lower_wrongly)
    with pytest.raises(
        LintError,
        match=r"portable.onnx is not fit for tensorrt-8.6: spoilt: it stands inside .*; no bundle was written",
    ):
        export_bundle(SMALLEST, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
    assert LintError.exit_code == 1


def test_a_target_that_has_no_such_precision_is_recorded_and_no_error(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = replace(FACTS["openvino"], refusals={"fp32": "it takes none"})
    monkeypatch.setitem(FACTS, "openvino", refusing)
    manifest = export_bundle(SMALLEST, tmp_path / "bundle").bundle.manifest
    info = manifest.graphs[PORTABLE]
    assert info.refused == {"openvino": "it takes none"}
    assert set(info.targets) == set(TARGETS) - {"openvino"}
    assert Bundle.open(tmp_path / "bundle").manifest == manifest
