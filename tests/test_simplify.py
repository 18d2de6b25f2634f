"""Does onnxsim's result take the graph's place only where it is as good in every respect?"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vjepa2.export import simplify
from vjepa2.export.simplify import NamedArrays, simplify_graph


@pytest.fixture
def graph(tmp_path: Path) -> onnx.ModelProto:
    """y = (x * (2 * 3)) W + b with two identities and two transposes too many; W and b in a file of their own."""
    random = np.random.default_rng(0)
    weights = {"w": random.random((64, 64)).astype(np.float32), "b": random.random(64).astype(np.float32)}
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Mul", ["two", "three"], ["six"]),
        helper.make_node("Mul", ["i", "six"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["there"], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["there"], ["back"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["back"], ["y"]),
    ]
    small = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("two", 2), ("three", 3))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 64]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], small), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    data = tmp_path / "weights.data"
    for name, values in weights.items():
        tensor = model.graph.initializer.add(name=name, dims=values.shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        offset = data.stat().st_size if data.exists() else 0
        for key, value in (("location", data.name), ("offset", str(offset)), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
        with data.open("ab") as stream:
            stream.write(values.tobytes())
    return model


@pytest.fixture
def run(tmp_path: Path) -> Callable[[onnx.ModelProto], NamedArrays]:
    x = np.random.default_rng(1).random((1, 4, 64)).astype(np.float32)

    def run_once(model: onnx.ModelProto) -> NamedArrays:
        file = tmp_path / "model.onnx"
        file.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return {"y": session.run(None, {"x": x})[0]}

    return run_once


Runner = Callable[[onnx.ModelProto], NamedArrays]


def test_folded_constants_and_identities_go(graph: onnx.ModelProto, run: Runner) -> None:
    done = simplify_graph(graph, run)
    assert [node.op_type for node in done.graph.graph.node] == ["Mul", "MatMul", "Add"]
    assert "removed 5 nodes" in done.verdict
    assert [value.name for value in done.graph.graph.input] == ["x"]
    outside = {t.name for t in done.graph.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert outside == {"w", "b"}
    np.testing.assert_allclose(run(done.graph)["y"], run(graph)["y"], rtol=1e-6)


def keep(graph: onnx.ModelProto) -> None:
    """onnxsim at its best."""


def grow_nodes(graph: onnx.ModelProto) -> None:
    for number in range(9):
        graph.graph.node.add(op_type="Identity", input=["x"], output=[f"copy{number}"])


def grow_bytes(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(5000), "table"))


def change_opset(graph: onnx.ModelProto) -> None:
    graph.opset_import[0].version = 20


def change_ir(graph: onnx.ModelProto) -> None:
    graph.ir_version = 8


def change_output_type(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def rename_output(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].name = "z"


def break_graph(graph: onnx.ModelProto) -> None:
    graph.graph.node[-1].input[0] = "nowhere"


def change_numbers(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.dims == []:
            tensor.CopyFrom(numpy_helper.from_array(np.array(6.001, np.float32), tensor.name))


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (keep, "removed 5 nodes"),
        (grow_nodes, "grew it from 8 to 12 nodes"),
        (grow_bytes, "grew it from 8 to 3 nodes, from"),
        (change_opset, "changed inputs, outputs, types, opset or IR version"),
        (change_ir, "changed inputs, outputs, types, opset or IR version"),
        (change_output_type, "changed inputs, outputs, types, opset or IR version"),
        (rename_output, "changed inputs, outputs, types, opset or IR version"),
        (break_graph, "onnx.checker refuses onnxsim's result"),
        (change_numbers, r"its result differs by 1.7e-04, more than 1e-05"),
    ],
)
def test_a_result_that_is_worse_is_not_kept(
    spoil: Callable[[onnx.ModelProto], None],
    verdict: str,
    graph: onnx.ModelProto,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart = simplify._simplify_apart

    def spoilt(light: onnx.ModelProto, time_limit_s: float) -> onnx.ModelProto:
        result = apart(light, time_limit_s)
        spoil(result)
        return result

    monkeypatch.setattr(simplify, "_simplify_apart", spoilt)
    done = simplify_graph(graph, run)
    assert verdict in done.verdict
    assert (done.graph is graph) == (spoil is not keep)


def test_nan_is_a_difference() -> None:
    clean, broken = {"y": np.ones(3, np.float32)}, {"y": np.array([1, np.nan, 1], np.float32)}
    assert simplify._difference(clean, broken) == float("inf")


def test_a_graph_with_nothing_to_remove_is_kept(graph: onnx.ModelProto, run: Runner) -> None:
    simple = simplify_graph(graph, run).graph
    done = simplify_graph(simple, run)
    assert done.graph is simple
    assert done.verdict == "kept as traced: onnxsim found nothing to remove among 3 nodes"


def test_onnxsim_is_given_a_limited_time(graph: onnx.ModelProto, run: Runner) -> None:
    done = simplify_graph(graph, run, time_limit_s=0.01)
    assert done.graph is graph
    assert "did not finish in 0.01 s" in done.verdict


def test_a_child_that_dies_is_no_disaster(graph: onnx.ModelProto, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_CHILD", "import os; os.abort()")
    assert "failed with exit status -6" in simplify_graph(graph, run).verdict
    monkeypatch.setattr(simplify, "_CHILD", "raise ValueError('not today')")
    assert "failed with exit status 1: ValueError: not today" in simplify_graph(graph, run).verdict
    monkeypatch.setattr("sys.executable", os.devnull)
    assert "could not be run" in simplify_graph(graph, run).verdict
