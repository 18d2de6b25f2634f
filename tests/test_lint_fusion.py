"""Are computed shapes, a LayerNormalization that is spelt out, bytes and precisions found whatever the words?"""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.lint_graphs import append, constant, find, place, prepare, small_graph
from tests.test_lint import TENSORRT_10, load, rules_of
from vjepa2.export.lint import lint_graph
from vjepa2.export.targets import TargetName

Change = Callable[[onnx.ModelProto], None]


def put_batch_first(graph: onnx.ModelProto, start: int, end: int) -> None:
    """Put one side of the pixels, the batch or another, before 192, for whoever reads `sides`."""
    cast = find(graph, "Cast")
    rest = constant(graph, "rest", [192], "int64")
    place(
        graph,
        cast,
        helper.make_node("Shape", [cast.output[0]], ["batch"], name="shape", start=start, end=end),
        helper.make_node("Concat", ["batch", rest], ["sides"], name="sides", axis=0),
    )


@pytest.mark.parametrize("op", ["Expand", "Reshape"])
def test_the_batch_of_an_input_may_be_put_before_known_sides(op: str, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    put_batch_first(graph, start=0, end=1)
    append(graph, op, ["embedding", "sides"], [1, 192])
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed


def reshape_by_size(graph: onnx.ModelProto) -> None:
    prepare(graph, "Size", ["tokens"], "count")
    prepare(graph, "Unsqueeze", ["count", constant(graph, "first", [0], "int64")], "sides")
    append(graph, "Reshape", ["tokens", "sides"], [9216])


def reshape_by_whole_shape(graph: onnx.ModelProto) -> None:
    cast = find(graph, "Cast").output[0]
    prepare(graph, "Shape", [cast], "shape")
    prepare(graph, "Concat", ["shape", constant(graph, "one", [1], "int64")], "sides", axis=0)
    append(graph, "Reshape", [cast, "sides"], [1, 4, 64, 96, 3, 1])


def reshape_by_another_axis(graph: onnx.ModelProto) -> None:
    put_batch_first(graph, start=1, end=2)
    append(graph, "Reshape", ["tokens", "sides"], [48, 192])


def compute_with_the_batch(graph: onnx.ModelProto) -> None:
    put_batch_first(graph, start=0, end=1)
    append(graph, "Cast", ["sides"], [2], TensorProto.FLOAT, to=TensorProto.FLOAT)


def give_the_batch_out(graph: onnx.ModelProto) -> None:
    put_batch_first(graph, start=0, end=1)
    append(graph, "Expand", ["embedding", "sides"], [1, 192])
    graph.graph.output.append(helper.make_tensor_value_info("sides", TensorProto.INT64, [2]))


def give_the_length_out(graph: onnx.ModelProto) -> None:
    put_batch_first(graph, start=0, end=1)
    append(graph, "Expand", ["embedding", "sides"], [1, 192])
    graph.graph.output.append(helper.make_tensor_value_info("batch", TensorProto.INT64, [1]))


def slice_by_numbers(graph: onnx.ModelProto) -> None:
    """Where to cut is a result of the graph itself."""
    prepare(graph, "Cast", ["embedding"], "whole", to=TensorProto.INT64)
    prepare(graph, "Reshape", ["whole", constant(graph, "line", [-1], "int64")], "line_of")
    first = [constant(graph, name, [value], "int64") for name, value in (("from", 0), ("to", 1), ("axis", 0))]
    prepare(graph, "Slice", ["line_of", *first], "cut")
    append(graph, "Slice", ["tokens", first[0], "cut", first[0]], [1, 48, 192])


@pytest.mark.parametrize(
    "spoil",
    [
        reshape_by_size, reshape_by_whole_shape, reshape_by_another_axis, compute_with_the_batch, give_the_batch_out,
        give_the_length_out, slice_by_numbers,
    ],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_a_shape_that_is_computed_is_found(spoil: Change, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    spoil(graph)
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert rules_of(report) == {"has_no_shape_chain"}, report.faults
    assert all("must be a constant" in fault.reason for fault in report.faults)


def spell_out(mean: str, root: str) -> Change:
    """LayerNormalization of tokens without gains, its means and its root in these words."""

    def average(graph: onnx.ModelProto, name: str, result: str) -> None:
        axis = constant(graph, f"axis_{result}", [2], "int64")
        if mean == "MatMul":
            column = constant(graph, f"column_{result}", [[1 / 192]] * 192)
            prepare(graph, "MatMul", [name, column], result)
        elif mean == "ReduceMean":
            prepare(graph, "ReduceMean", [name, axis], result)
        else:
            prepare(graph, "ReduceSum", [name, axis], f"{result}_sum")
            more = constant(graph, f"count_{result}", 192.0 if mean == "Div" else 1 / 192)
            prepare(graph, mean, [f"{result}_sum", more], result)

    def spoil(graph: onnx.ModelProto) -> None:
        average(graph, "tokens", "mean")
        prepare(graph, "Sub", ["tokens", "mean"], "difference")
        if root == "ReduceL2":
            prepare(graph, "ReduceL2", ["difference", constant(graph, "axes", [2], "int64")], "deviation")
        else:
            prepare(graph, "Mul", ["difference", "difference"], "square")
            average(graph, "square", "variance")
            prepare(graph, "Add", [constant(graph, "epsilon", 1e-6), "variance"], "more")
            power = [constant(graph, "power", float(root))] if root not in ("Sqrt", "ReduceL2") else []
            prepare(graph, "Pow" if power else "Sqrt", ["more", *power], "deviation")
        append(graph, "Mul" if root == "-0.5" else "Div", ["difference", "deviation"], [1, 48, 192])

    return spoil


@pytest.mark.parametrize("mean", ["ReduceMean", "Div", "Mul", "MatMul"])
@pytest.mark.parametrize("root", ["Sqrt", "0.5", "-0.5", "ReduceL2"])
def test_a_layer_norm_is_found_in_any_words(mean: str, root: str, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    spell_out(mean, root)(graph)
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert rules_of(report) == {"layer_norms_are_one_operator"}, report.faults
    assert "a LayerNormalization is spelt out from here to deviation/" in report.faults[0].reason


def test_a_layer_norm_without_gains_is_found(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    append(graph, "MeanVarianceNormalization", ["tokens"], [1, 48, 192], axes=[2])
    report = lint_graph(graph, "tensorrt-11", folder=bundle_copy)
    assert rules_of(report) == {"layer_norms_are_one_operator"}


def test_a_norm_of_a_vector_and_a_distance_are_no_layer_norm(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    axes = constant(graph, "axes", [1], "int64")
    prepare(graph, "Mul", ["embedding", "embedding"], "square")
    prepare(graph, "ReduceSum", ["square", axes], "sum")
    prepare(graph, "Sqrt", ["sum"], "length")
    prepare(graph, "Sub", ["embedding", constant(graph, "other", [[1.0] * 192])], "difference")
    prepare(graph, "ReduceL2", ["difference", axes], "distance")
    append(graph, "Add", ["length", "distance"], [1, 1])
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed


def cast_there_and_back(graph: onnx.ModelProto) -> None:
    prepare(graph, "Cast", ["tokens"], "bytes", to=TensorProto.UINT8)
    append(graph, "Cast", ["bytes"], [1, 48, 192], to=TensorProto.FLOAT)


def cast_to_integers(graph: onnx.ModelProto) -> None:
    append(graph, "Cast", ["frames"], [1, 4, 64, 96, 3], TensorProto.INT32, to=TensorProto.INT32)


def cast_to_bfloat16(graph: onnx.ModelProto) -> None:
    append(graph, "Cast", ["frames"], [1, 4, 64, 96, 3], TensorProto.BFLOAT16, to=TensorProto.BFLOAT16)


def make_bytes_for_nobody(graph: onnx.ModelProto) -> None:
    prepare(graph, "Cast", ["tokens"], "bytes", to=TensorProto.UINT8)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cast_there_and_back, "Cast takes bytes, which is uint8; only an input or an output may be"),
        (cast_to_integers, "it casts the uint8 input frames to int32; it must be float32 or float16"),
        (cast_to_bfloat16, "it casts the uint8 input frames to bfloat16; it must be float32 or float16"),
        (make_bytes_for_nobody, "bytes is uint8 and nobody takes it"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_bytes_are_an_input_or_an_output_and_nothing_between(spoil: Change, reason: str, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    spoil(graph)
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert [fault.rule for fault in report.faults] == ["uint8_goes_into_a_cast"]
    assert reason in report.faults[0].reason
    assert lint_graph(graph, "openvino", folder=bundle_copy).passed


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11"])
def test_an_output_of_bytes_is_no_mistake(target: TargetName, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    append(graph, "Cast", ["tokens"], [1, 48, 192], TensorProto.UINT8, to=TensorProto.UINT8)
    assert lint_graph(graph, target, folder=bundle_copy).passed


@pytest.mark.parametrize("op", ["Einsum", "Gemm", "MatMulInteger"])
def test_a_linear_layer_of_another_precision_is_found_in_any_words(op: str) -> None:
    """fp16 was asked for; the first layer is float32 or int8, by an operator that is no MatMul."""
    graph = small_graph("float16")
    layer = find(graph, "linear_1")
    kind = TensorProto.INT8 if op == "MatMulInteger" else TensorProto.FLOAT
    sides = constant(graph, "sides", [4, 8], "int64")
    spelt = {"equation": "nk,km->nm"} if op == "Einsum" else {}
    nodes = [
        helper.make_node("Reshape", [layer.input[0], sides], ["rows"], name="rows"),
        helper.make_node("Cast", ["rows"], ["a"], name="a", to=kind),
        helper.make_node("Cast", [layer.input[1]], ["b"], name="b", to=kind),
        helper.make_node(op, ["a", "b"], ["c"], name="multiplied", **spelt),
        helper.make_node("Cast", ["c"], [layer.output[0]], name="back", to=TensorProto.FLOAT16),
    ]
    place(graph, layer, *nodes)
    graph.graph.node.remove(layer)
    report = lint_graph(graph, "onnxruntime" if op == "MatMulInteger" else TENSORRT_10, precision="fp16")
    assert rules_of(report) == {"matmuls_are_as_asked"}, report.faults
    assert report.faults[0].node == "multiplied"
