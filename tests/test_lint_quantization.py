"""Is quantisation that a compiler refuses, or does not fuse, found: its scales, its axes, its place?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.lint_graphs import constant, find, place, put_between, small_graph
from tests.test_lint import rules_of
from vjepa2.export.lint import LintReport, lint_graph
from vjepa2.export.targets import TargetName

TENSORRT_11: TargetName = "tensorrt-11"
ATTENTION, SCALES = "attention_is_not_quantized", "scales_fit_their_layers"


def int8_graph() -> onnx.ModelProto:
    """The small graph with int8 layers, of the opset from which on 16 bits are quantised."""
    graph = small_graph("float16", "int8")
    graph.opset_import[0].version = 19
    return graph


def maker_of(graph: onnx.ModelProto, name: str) -> NodeProto:
    """The node that makes a value."""
    found: NodeProto = next(node for node in graph.graph.node if name in node.output)
    return found


def weight_node(graph: onnx.ModelProto) -> NodeProto:
    """The DequantizeLinear of the first linear layer's weight."""
    return maker_of(graph, find(graph, "linear_1").input[1])


def activation_nodes(graph: onnx.ModelProto) -> list[NodeProto]:
    """The QuantizeLinear and the DequantizeLinear of what the first layer is given."""
    back = maker_of(graph, find(graph, "linear_1").input[0])
    return [maker_of(graph, back.input[0]), back]


def lint(graph: onnx.ModelProto, precision: Any = "int8", target: TargetName = TENSORRT_11) -> LintReport:
    onnx.checker.check_model(graph)
    return lint_graph(graph, target, precision=precision)


def quantize_behind(graph: onnx.ModelProto, name: str) -> None:
    """Put Q and DQ of 16 bits behind what is called `name`, before all who read it."""
    step, zero = f"step_{name}", f"zero_{name}"
    constant(graph, step, 0.5, "float16")
    constant(graph, zero, 0, "int8")
    maker = maker_of(graph, name)
    for node in graph.graph.node:
        node.input[:] = [f"{name}_restored" if each == name else each for each in node.input]
    made = [
        helper.make_node("QuantizeLinear", [name, step, zero], [f"{name}_int8"], name=f"{name}/Q"),
        helper.make_node("DequantizeLinear", [f"{name}_int8", step, zero], [f"{name}_restored"], name=f"{name}/DQ"),
    ]
    place(graph, maker, *made)


def test_the_small_graph_is_clean() -> None:
    assert lint(int8_graph()).passed


@pytest.mark.parametrize("name", ["scores_out", "softmax_out", "scale_out"])
def test_what_is_quantised_inside_attention_is_an_error(name: str) -> None:
    graph = int8_graph()
    quantize_behind(graph, name)
    report = lint(graph)
    assert rules_of(report) == {ATTENTION}
    assert f"{name}/DQ" in {fault.node for fault in report.faults}
    assert "it quantises the attention of softmax, which must stay in 16 bits" in report.faults[0].reason


@pytest.mark.parametrize("op", ["Transpose", "Reshape"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["q", "k", "v"])
def test_q_k_or_v_that_is_quantised_before_it_is_moved_or_scaled_is_an_error(op: str, which: int) -> None:
    graph = int8_graph()
    mover = [node for node in graph.graph.node if node.op_type == op][which]
    name = mover.input[0]
    quantize_behind(graph, name)
    report = lint(graph)
    assert rules_of(report) == {ATTENTION}
    assert [fault.node for fault in report.faults] == [f"{name}/DQ"]


def test_a_gain_behind_what_is_quantised_does_not_hide_it() -> None:
    graph = int8_graph()
    name = find(graph, "scale").input[0]
    gains = constant(graph, "gains", [0.5, 1.0, 1.5, 2.0], "float16")
    put_between(graph, maker_of(graph, name).name, "Mul", gains)
    quantize_behind(graph, name)
    assert rules_of(lint(graph)) == {ATTENTION}


def test_what_is_quantised_before_a_bias_is_added_is_no_attention_of_8_bits() -> None:
    graph = int8_graph()
    name = next(node for node in graph.graph.node if node.op_type == "Reshape").input[0]
    bias = constant(graph, "bias", [1.0] * 8, "float16")
    put_between(graph, maker_of(graph, name).name, "Add", bias)
    quantize_behind(graph, name)
    assert lint(graph).passed


def set_axis(graph: onnx.ModelProto, axis: int) -> None:
    weight_node(graph).attribute[0].i = axis


def give_one_scale(graph: onnx.ModelProto) -> None:
    node = weight_node(graph)
    node.input[1], node.input[2] = constant(graph, "one", 0.5), constant(graph, "none", 0, "int8")


def give_two_scales(graph: onnx.ModelProto) -> None:
    """Of blocks, which came with opset 21."""
    for node in activation_nodes(graph):
        node.input[1] = constant(graph, f"rows{len(graph.graph.initializer)}", [0.5] * 4)
        node.input[2] = constant(graph, f"zeros{len(graph.graph.initializer)}", [0] * 4, "int8")
        node.attribute.append(helper.make_attribute("axis", 1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda graph: set_axis(graph, 0), "has shape [8] along axis 0; it must be one number for each of the 8"),
        (give_one_scale, "its scale one has shape []"),
        (give_two_scales, "has shape [4]; what is computed must have one number"),
    ],
    ids=["rows of a weight", "one of a weight", "rows of activations"],
)
def test_scales_of_another_shape_are_an_error(spoil: Callable[[onnx.ModelProto], None], reason: str) -> None:
    graph = int8_graph()
    spoil(graph)
    report = lint(graph)
    assert rules_of(report) == {SCALES}
    assert reason in report.faults[0].reason


def test_the_last_axis_may_be_counted_from_the_end() -> None:
    graph = int8_graph()
    set_axis(graph, -1)
    assert lint(graph).passed


def test_a_weight_of_fp8_has_one_scale() -> None:
    graph = small_graph("float16", "float8e4m3fn")
    node = weight_node(graph)
    node.input[1] = constant(graph, "columns", [0.5] * 8)
    graph.graph.initializer.append(helper.make_tensor("none", TensorProto.FLOAT8E4M3FN, [8], [0.0] * 8))
    node.input[2] = "none"
    report = lint(graph, "fp8")
    assert [(fault.rule, fault.node) for fault in report.faults] == [(SCALES, node.name)]
    assert "has shape [8]; a weight of float8e4m3fn must have one number" in report.faults[0].reason


@pytest.mark.parametrize(("axis", "passes"), [(0, True), (1, False)])
def test_a_weight_may_be_transposed_after_it_is_restored_and_its_scales_go_with_it(axis: int, passes: bool) -> None:
    """torch keeps a weight as [N, K]: its MatMul reads it through a Transpose, and one scale is of one row."""
    graph = int8_graph()
    set_axis(graph, axis)
    node = weight_node(graph)
    place(graph, node, helper.make_node("Transpose", [node.output[0]], ["turned"], name="turned", perm=[1, 0]))
    find(graph, "linear_1").input[1] = "turned"
    report = lint(graph)
    assert report.passed == passes
    assert rules_of(report) <= {SCALES}


def test_a_weight_may_be_reshaped_if_its_columns_stay() -> None:
    graph = int8_graph()
    node = weight_node(graph)
    sides = constant(graph, "sides", [8, 8], "int64")
    first = next(tensor for tensor in graph.graph.initializer if tensor.name == node.input[0])
    del first.dims[:]
    first.dims.extend([2, 4, 8])
    set_axis(graph, 2)
    place(graph, node, helper.make_node("Reshape", [node.output[0], sides], ["folded"], name="folded"))
    find(graph, "linear_1").input[1] = "folded"
    assert lint(graph).passed
    find(graph, node.name).attribute[0].i = 1
    assert rules_of(lint_graph(graph, TENSORRT_11, precision="int8")) == {SCALES}


@pytest.mark.parametrize("number", [0.0, -0.5, float("nan"), float("inf")])
def test_a_scale_is_greater_than_0(number: float) -> None:
    graph = int8_graph()
    held = next(each for each in graph.graph.initializer if each.name == activation_nodes(graph)[0].input[1])
    held.CopyFrom(numpy_helper.from_array(np.array(number, np.float32), held.name))
    report = lint(graph)
    assert rules_of(report) == {"scales_are_constants"}
    assert f"its scale {held.name} is {number} somewhere; it must be a number greater" in report.faults[0].reason


def test_a_scale_that_the_graph_computes_is_refused_where_it_is_compiled_in() -> None:
    graph = int8_graph()
    quantizing = activation_nodes(graph)[0]
    made = helper.make_node("ReduceMax", [quantizing.input[0]], ["most"], name="most", keepdims=0)
    place(graph, maker_of(graph, quantizing.input[0]), made)
    find(graph, quantizing.name).input[1] = "most"
    report = lint(graph)
    assert rules_of(report) == {"scales_are_constants"}
    assert "its scale most is computed; it must be a constant" in report.faults[0].reason
    assert lint(graph, target="openvino").passed


def test_only_the_oldest_importer_wants_a_zero_point() -> None:
    graph = small_graph("float16", "int8")
    node = weight_node(graph)
    del node.input[2]
    assert lint(graph).passed
    report = lint(graph, target="tensorrt-8.6")
    fault = next(fault for fault in report.faults if fault.rule == "zero_points_are_zero")
    assert fault.node == node.name
    assert "the importer wants three inputs" in fault.reason


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_8_bits_that_were_not_asked_for_are_an_error(precision: Any) -> None:
    report = lint(int8_graph(), precision)
    assert any("MatMuls are int8, this the first" in fault.reason for fault in report.faults)


def test_what_is_restored_by_another_scale_is_found() -> None:
    graph = int8_graph()
    _, back = activation_nodes(graph)
    constant(graph, "another", 0.25)
    back.input[1] = "another"
    assert rules_of(lint(graph)) == {"steps_are_restored_by_their_scale"}
    assert f"{back.name}: its scale another is not that of" in str(lint(graph).faults[0])
