"""Is what the table says of a target's importer true of the library itself, where it is installed?"""

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.lint_graphs import small_graph
from tests.test_lint import BROKEN, load, use_det, use_nobodys
from vjepa2.bundle import ONNXRUNTIME, PORTABLE
from vjepa2.export.graph_view import GraphView, operator_of
from vjepa2.export.lint import lint_graph
from vjepa2.export.targets import FACTS, TARGETS, TargetName

Importer = Callable[[Path], object]


def read_with_onnxruntime(file: Path) -> object:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def read_with_openvino(file: Path) -> object:
    ours = pytest.importorskip("vjepa2.runtime.backends.ov", exc_type=ImportError)  # which keeps it from reporting
    return ours.ov.Core().compile_model(str(file), "CPU")


IMPORTERS: dict[TargetName, Importer] = {"onnxruntime": read_with_onnxruntime, "openvino": read_with_openvino}
_NUMBERS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def cut_out(graph: onnx.ModelProto, kind: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Each operator of a graph once, as a graph of its own in which every float is of `kind`."""
    view, done = GraphView(graph, None), set[str]()
    infos = {info.name: info for info in view._infos.values()}
    for node in view.nodes:
        name = operator_of(node)
        if name in done:
            continue
        done.add(name)
        constants, inputs = list[onnx.TensorProto](), list[onnx.ValueInfoProto]()
        for value in dict.fromkeys(filter(None, node.input)):
            tensor = view.tensors.get(value)
            if tensor is not None and tensor.data_type == TensorProto.INT64:
                constants.append(tensor)
            else:
                inputs.append(describe(view, infos, value, kind))
        outputs = [describe(view, infos, value, kind) for value in node.output]
        one = onnx.NodeProto()
        one.CopyFrom(node)
        for attribute in one.attribute:
            if one.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = _NUMBERS[kind]
        inside = helper.make_graph([one], "one", inputs, outputs, constants)
        yield name, helper.make_model(inside, ir_version=10, opset_imports=list(graph.opset_import))


def describe(view: GraphView, infos: dict[str, onnx.ValueInfoProto], name: str, kind: str) -> onnx.ValueInfoProto:
    number = int(_NUMBERS[kind])
    if name in view.tensors:
        tensor = view.tensors[name]
        number = number if tensor.data_type == TensorProto.FLOAT else tensor.data_type
        return helper.make_tensor_value_info(name, number, list(tensor.dims))
    shape = infos[name].type.tensor_type
    dims = [dim.dim_value for dim in shape.shape.dim]
    return helper.make_tensor_value_info(
        name, number if shape.elem_type == TensorProto.FLOAT else shape.elem_type, dims
    )


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("target", "name"), [("onnxruntime", ONNXRUNTIME), ("openvino", PORTABLE)])
def test_each_operator_of_our_graphs_is_read_where_the_table_says_so(
    target: TargetName, name: str, kind: str, exported: Path, tmp_path: Path
) -> None:
    accepted = 0
    for operator, graph in cut_out(load(exported, name), kind):
        report = lint_graph(graph, target)
        if {fault.rule for fault in report.faults} - {"attention_is_found", "scale_is_on_q_only"}:
            continue
        file = tmp_path / f"{operator}.onnx"
        onnx.save(graph, file)
        IMPORTERS[target](file)
        accepted += 1
    assert accepted >= (3 if (target, kind) == ("onnxruntime", "bfloat16") else 10)


@pytest.mark.parametrize("target", IMPORTERS)
@pytest.mark.parametrize(
    ("kind", "stored", "precision"),
    [("float32", None, "fp32"), ("float16", None, "fp16"), ("bfloat16", None, "bf16"), ("float16", "int8", "int8")],
)
def test_a_graph_that_the_lint_accepts_is_read_and_one_that_it_refuses_is_not(
    target: TargetName, kind: str, stored: str | None, precision: str, tmp_path: Path
) -> None:
    graph, file = small_graph(kind, stored), tmp_path / "small.onnx"
    onnx.save(graph, file)
    report = lint_graph(graph, target, precision=precision)  # type: ignore[arg-type]
    if report.passed:
        IMPORTERS[target](file)
        return
    assert (target, precision) == ("onnxruntime", "bf16")
    with pytest.raises(Exception, match="Could not find an implementation"):
        IMPORTERS[target](file)


@pytest.mark.parametrize(("spoil", "target"), [(use_det, "openvino"), (use_nobodys, "onnxruntime")])
def test_an_operator_that_the_table_lacks_is_refused_by_the_library(
    spoil: Callable[[onnx.ModelProto, Path], None], target: TargetName, bundle_copy: Path
) -> None:
    assert BROKEN[spoil][0] == target
    graph = load(bundle_copy)
    spoil(graph, bundle_copy)
    file = bundle_copy / "spoilt.onnx"
    onnx.save(graph, file)
    with pytest.raises(Exception, match=r"No conversion rule found for operations: Det|com.nowhere:Frob"):
        IMPORTERS[target](file)


def test_openvino_reads_the_whole_graph(exported: Path) -> None:
    IMPORTERS["openvino"](exported / PORTABLE)


def test_every_word_of_the_tables_is_an_operator() -> None:
    """Of ONNX's first versions some are no longer described, and TensorRT still reads them."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    old = {"Affine", "ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    for target in TARGETS:
        words = {name for name in FACTS[target].operators if "." not in name}
        assert not words - known - old, target
        assert len(words) > 140
