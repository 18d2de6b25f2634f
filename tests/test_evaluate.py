"""Does the evaluator compute what ONNX says, in the types that the graph declares?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.errors import ExportError
from vjepa2.export.evaluate import Evaluation
from vjepa2.export.prove import read_graph
from vjepa2.runtime import Reference

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 8)).astype(np.float32)
SCALES = np.array([0.01, 0.02, 0.5, 0.1, 0.3, 0.02, 0.01, 0.04], np.float32)


def ints(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)


def make_graph(
    op: str,
    inputs: Sequence[np.ndarray[Any, Any] | onnx.TensorProto],
    *,
    outputs: int = 1,
    result: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One operator of opset 19; its first operand is the graph's input, the others are constants."""
    first = inputs[0]
    assert isinstance(first, np.ndarray)
    given = helper.np_dtype_to_tensor_dtype(first.dtype)
    names = ["x", *(f"constant_{index}" for index in range(1, len(inputs)))]
    tensors = []
    for name, value in zip(names[1:], inputs[1:], strict=True):
        tensor = numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
        tensor.name = name
        tensors.append(tensor)
    made = [f"y{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, made, name=op, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", given, list(first.shape))],
        [helper.make_tensor_value_info(name, given if result is None else result, None) for name in made],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


OPERATORS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "Add": ((X, X[0]), {}),
    "Concat": ((X, X), {"axis": 1}),
    "Div": ((X, np.array([3.0], np.float32)), {}),
    "Erf": ((X,), {}),
    "Expand": ((X[:, :1], ints(2, 3, 8)), {}),
    "Gather": ((X, ints(3, 0, -1)), {"axis": 1}),
    "GatherElements": ((X, RNG.integers(0, 6, (2, 6, 8))), {"axis": 1}),
    "LayerNormalization": ((X, SCALES, SCALES[::-1].copy()), {"axis": -1, "epsilon": 1e-6}),
    "LayerNormalization without bias": ((X, SCALES), {"axis": -1}),
    "MatMul": ((X, RNG.standard_normal((8, 5)).astype(np.float32)), {}),
    "Mul": ((X, SCALES), {}),
    "Reshape": ((X, ints(0, 3, -1)), {}),
    "Slice": ((X, ints(1), ints(6), ints(1), ints(2)), {}),
    "Softmax": ((X,), {"axis": -1}),
    "Split": ((X, ints(1, 5)), {"axis": 1, "outputs": 2}),
    "Squeeze": ((X[:, :1], ints(1)), {}),
    "Transpose": ((X,), {"perm": [2, 0, 1]}),
    "Unsqueeze": ((X, ints(0, -1)), {}),
    "Cast": ((X,), {"to": TensorProto.FLOAT}),
}


def run(graph: onnx.ModelProto, x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return Evaluation(graph, Path()).run({"x": x}, [value.name for value in graph.graph.output])


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_operator_computes_what_the_reference_does(op: str, dtype: Any) -> None:
    inputs, attributes = OPERATORS[op]
    typed = [array.astype(dtype) if array.dtype == np.float32 else array for array in inputs]
    attributes = attributes | ({"to": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))} if op == "Cast" else {})
    graph = make_graph(op.split(" ", maxsplit=1)[0], typed, **attributes)
    expected = ReferenceEvaluator(graph).run(None, {"x": typed[0]})
    tolerance = 1e-6 if dtype == np.float32 else 2e-3  # the reference sums in fp16, too
    for array, result in zip(run(graph, typed[0]).values(), expected, strict=True):
        assert array.shape == result.shape
        np.testing.assert_allclose(array, result.astype(np.float32), rtol=tolerance, atol=tolerance)
        assert np.array_equal(array, array.astype(dtype).astype(np.float32)), "the result has the declared type"


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.FLOAT8E4M3FN])
@pytest.mark.parametrize("per_column", [False, True])
def test_eight_bits_are_those_of_the_reference(kind: int, per_column: bool) -> None:
    scale = SCALES if per_column else np.float32(0.03)
    zero = helper.make_tensor("", kind, list(np.shape(scale)), bytes(np.size(scale)), raw=True)
    x = X * 3
    quantize = make_graph("QuantizeLinear", [x, np.asarray(scale), zero], result=kind, axis=2)
    restored = helper.make_node("DequantizeLinear", ["y0", "constant_1", "constant_2"], ["z"], name="back", axis=2)
    quantize.graph.node.append(restored)
    del quantize.graph.output[:]
    quantize.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    (expected,) = ReferenceEvaluator(quantize).run(None, {"x": x})
    assert isinstance(expected, np.ndarray)
    got = run(quantize, x)["z"]
    assert np.abs(got - x).max() > 0
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_float8_ends_at_448_and_does_not_become_no_number() -> None:
    zero = helper.make_tensor("", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    x = np.array([1e3, -1e9, 448.0], np.float32)
    graph = make_graph("QuantizeLinear", [x, np.asarray(np.float32(1.0)), zero], result=TensorProto.FLOAT8E4M3FN)
    assert run(graph, x)["y0"].tolist() == [448.0, -448.0, 448.0]


def test_the_exported_graph_gives_what_the_reference_gives(exported: Path) -> None:
    bundle = Bundle.open(exported)
    reference = Reference.load(bundle)
    frames = reference.frames_BTHWC[:1]
    whole = onnx.load(exported / PORTABLE)
    names = [value.name for value in whole.graph.output]
    expected = ReferenceEvaluator(whole).run(names, {"frames": frames})
    got = Evaluation(read_graph(exported / PORTABLE), exported).run({"frames": frames}, names)
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_allclose(got[name], array, rtol=0, atol=2e-5)


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(ExportError, match="the evaluator has no operator Tanh; it has Add, Cast"):
        Evaluation(make_graph("Tanh", [X]), Path())


def test_operands_of_two_types_are_an_error() -> None:
    graph = make_graph("MatMul", [X, RNG.standard_normal((8, 5)).astype(np.float16)])
    with pytest.raises(ExportError, match=r"MatMul \(MatMul\) has operands of torch.float16, torch.float32"):
        run(graph, X)


def test_an_output_of_another_type_than_declared_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"y0 is computed in torch.float32; the graph declares torch.float16"):
        run(make_graph("Erf", [X], result=TensorProto.FLOAT16), X)


def test_naive_layer_norm_is_lost_where_squares_overflow() -> None:
    x = np.array([[1.0, -2.0, 0.5, 400.0]], np.float32)
    inputs = [x, np.ones(4, np.float32), np.zeros(4, np.float32)]
    graph = make_graph("LayerNormalization", inputs, axis=-1, epsilon=1e-6)
    right = run(graph, x)["y0"]
    naive = Evaluation(graph, Path(), "fp16").run({"x": x}, ["y0"])["y0"]
    assert right[0, 3] == pytest.approx(1.732, abs=1e-3)
    assert naive.tolist() == [[0.0, 0.0, 0.0, 0.0]], "300 squared is beyond fp16, and what is divided by it is nothing"
    small = Evaluation(graph, Path(), "fp16").run({"x": x / 4}, ["y0"])["y0"]
    np.testing.assert_allclose(small, right, atol=2e-3)


def test_naive_types_take_the_place_of_every_float() -> None:
    graph = make_graph("Mul", [X, SCALES])
    naive = Evaluation(graph, Path(), "bf16").run({"x": X}, ["y0"])["y0"]
    assert not np.array_equal(naive, run(graph, X)["y0"])
    assert np.array_equal(naive.view(np.uint32) & 0xFFFF, np.zeros_like(naive, np.uint32)), "bf16 has no lower bits"
