"""Are tensors found wherever they are held: too short, elsewhere, or the same ones twice?"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.lint_graphs import set_external, weights_of
from tests.test_lint import TENSORRT_10, load, rules_of
from vjepa2.bundle import WEIGHTS
from vjepa2.export import lint_files
from vjepa2.export.graph_view import GraphView
from vjepa2.export.lint import lint_graph
from vjepa2.export.lint_constants import count_bytes, hash_tensor, read_numbers
from vjepa2.export.lint_files import TABLE_BYTES

TABLE = np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)  # twice the size that counts


def as_raw(name: str) -> TensorProto:
    return numpy_helper.from_array(TABLE, name)


def as_numbers(name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, TABLE.shape, TABLE.ravel())


@pytest.mark.parametrize("first", [as_raw, as_numbers])
@pytest.mark.parametrize("second", [as_raw, as_numbers])
def test_a_table_is_found_twice_however_its_numbers_are_written(
    first: object, second: object, bundle_copy: Path
) -> None:
    graph = load(bundle_copy)
    graph.graph.initializer.extend([first("one"), second("two")])  # type: ignore[operator]
    (fault,) = lint_graph(graph, TENSORRT_10, folder=bundle_copy).faults
    assert (fault.rule, fault.node) == ("tables_are_stored_once", "two")
    assert "it is the same bytes as one; let their users share one constant" in fault.reason


def test_a_table_is_found_in_every_constant_node(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    for count in range(24):
        made = helper.make_node("Constant", [], [f"table_{count}"], name=f"node_{count}", value=as_raw(""))
        graph.graph.node.insert(count, made)
    graph.graph.initializer.append(as_numbers("table"))
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert rules_of(report) == {"tables_are_stored_once"}
    assert [fault.node for fault in report.faults] == [f"node_{count}" for count in range(24)]


def test_a_table_of_plain_numbers_is_a_table(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    for name in ("one", "two"):
        made = helper.make_node("Constant", [], [name], name=name, value_floats=TABLE.ravel())
        graph.graph.node.insert(0, made)
    (fault,) = lint_graph(graph, TENSORRT_10, folder=bundle_copy).faults
    assert (fault.rule, fault.node) == ("tables_are_stored_once", "one")


def test_tables_that_begin_alike_or_have_another_type_are_two(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    other = TABLE.copy()
    other[-1, -1] += 1
    graph.graph.initializer.extend([as_raw("one"), numpy_helper.from_array(other, "two")])
    graph.graph.initializer.append(numpy_helper.from_array(TABLE.view(np.int32), "three"))
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed
    assert TABLE.nbytes == 2 * TABLE_BYTES


def test_a_file_of_weights_is_read_through_only_where_two_begin_alike(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def watch(tensor: TensorProto, folder: Path | None, most: int | None = None) -> str:
        asked.append(most)
        return hash_tensor(tensor, folder, most)

    monkeypatch.setattr(lint_files, "hash_tensor", watch)
    graph = load(exported)
    assert lint_graph(graph, TENSORRT_10, folder=exported).passed
    large = [tensor for tensor in graph.graph.initializer if (count_bytes(tensor) or 0) >= TABLE_BYTES]
    assert len(asked) == len(large) > 4
    assert set(asked) == {4096}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"length": 4}, "it has 4 bytes in weights.data; its type and shape, float32 [192, 576], need 442368"),
        ({"length": 0}, "it has 0 bytes in weights.data"),
        ({"length": 442372}, "it has 442372 bytes in weights.data"),
        ({"length": None, "offset": 0}, "in weights.data; its type and shape, float32 [192, 576], need 442368"),
        ({"basepath": "/etc"}, "a key 'basepath'; location, offset, length, checksum are known"),
        ({"length": -1}, "it must be one location, offset and length"),
        ({"offset": "0x10"}, "it must be one location, offset and length"),
        ({"location": None}, "it must be one location, offset and length"),
    ],
)
def test_a_tensor_in_a_file_is_as_long_as_its_shape_and_says_nothing_unknown(
    facts: dict[str, object], reason: str, bundle_copy: Path
) -> None:
    graph = load(bundle_copy)
    set_external(weights_of(graph), **facts)
    (fault,) = lint_graph(graph, TENSORRT_10, folder=bundle_copy).faults
    assert (fault.rule, fault.node) == ("weights_lie_inside", "blocks.0.attn.qkv.weight")
    assert reason in fault.reason


def test_two_locations_of_one_tensor_are_an_error(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    weights_of(graph).external_data.add(key="location", value="other.data")
    (fault,) = lint_graph(graph, TENSORRT_10, folder=bundle_copy).faults
    assert "it must be one location, offset and length" in fault.reason


def test_a_checksum_is_known_and_a_constant_node_in_a_file_is_looked_at(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    set_external(weights_of(graph), checksum="0" * 40)
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed
    outside = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    set_external(outside, location=f"../{WEIGHTS}", offset=0, length=4)
    graph.graph.node.insert(0, helper.make_node("Constant", [], ["far"], name="far", value=outside))
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert "weights_lie_inside" in rules_of(report)


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [
        (TensorProto.FLOAT, [2, 3], 24), (TensorProto.BFLOAT16, [3], 6), (TensorProto.BOOL, [3], 3),
        (TensorProto.FLOAT8E4M3FN, [5], 5), (TensorProto.INT4, [5], 3), (TensorProto.INT64, [], 8),
        (TensorProto.DOUBLE, [0, 4], 0), (TensorProto.COMPLEX64, [1], 8), (TensorProto.STRING, [1], None),
    ],
)  # fmt: skip
def test_bytes_are_counted_by_type_and_shape(kind: int, shape: list[int], size: int | None) -> None:
    assert count_bytes(TensorProto(data_type=kind, dims=shape)) == size


def test_numbers_are_read_from_either_place(exported: Path) -> None:
    view = GraphView(load(exported), exported)
    whole = GraphView(onnx.load(exported / "portable.onnx"), None)
    names = [name for name in view.tensors if "norm" in name or "scale" in name]
    assert len(names) > 5
    for name in names:
        assert np.array_equal(read_numbers(view, name), read_numbers(whole, name))  # type: ignore[arg-type]
    assert read_numbers(view, "nothing") is None
