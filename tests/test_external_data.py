"""Is a graph that reads anything but its bundle refused, before a library that would follow it?"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.lint_graphs import set_external, weights_of
from tests.test_imports import HEAVY, run_blocked
from vjepa2 import external_data
from vjepa2.bundle import MANIFEST, ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.errors import BundleError
from vjepa2.external_data import find_external_tensors
from vjepa2.manifest import FileInfo, decode_manifest, encode_manifest
from vjepa2.publish import sha256_of

Change = Callable[[TensorProto], object]


def seal_again(folder: Path, graph: onnx.ModelProto, name: str = ONNXRUNTIME) -> None:
    """Put `graph` into a bundle as somebody would who also writes its hashes down."""
    file = folder / name
    file.write_bytes(graph.SerializeToString(deterministic=True))
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    info = FileInfo(sha256=sha256_of(file), bytes=file.stat().st_size)
    (folder / MANIFEST).write_bytes(encode_manifest(replace(manifest, files=manifest.files | {name: info})))


def load(folder: Path, name: str = ONNXRUNTIME) -> onnx.ModelProto:
    return onnx.load(folder / name, load_external_data=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: set_external(tensor, location=f"../{WEIGHTS}"), r"in '\.\./weights.data'; a graph reads"),
        (lambda tensor: set_external(tensor, location="/etc/hostname"), r"in '/etc/hostname'; a graph reads nothing"),
        (lambda tensor: set_external(tensor, location="a/../weights.data"), r"in 'a/\.\./weights.data'; a graph"),
        (lambda tensor: set_external(tensor, location="*/_ORT_MEM_ADDR_/*"), r"a graph reads nothing but files"),
        (lambda tensor: set_external(tensor, location=MANIFEST), r"in 'manifest.json'; a graph reads nothing"),
        (lambda tensor: set_external(tensor, location=""), r"in ''; a graph reads nothing but files of its bundle"),
        (lambda tensor: set_external(tensor, location=None), r"it must be one location, offset and length"),
        (lambda tensor: tensor.external_data.add(key="location", value="x"), r"it must be one location"),
        (lambda tensor: set_external(tensor, offset=-1), r"it must be one location, offset and length"),
        (lambda tensor: set_external(tensor, offset=2**40), r"up to byte \d+ of weights.data, which has \d+"),
    ],
)  # fmt: skip
def test_a_graph_that_reads_elsewhere_is_not_opened_though_its_hash_is_right(
    change: Change, message: str, bundle_copy: Path
) -> None:
    graph = load(bundle_copy)
    change(weights_of(graph))
    seal_again(bundle_copy, graph)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle_copy)


def test_no_library_sees_such_a_graph(bundle_copy: Path) -> None:
    """The numbers are the same in both places, so that a library would give the right answer."""
    shutil.copy(bundle_copy / WEIGHTS, bundle_copy.parent / WEIGHTS)
    graph = load(bundle_copy)
    set_external(weights_of(graph), location=f"../{WEIGHTS}")
    seal_again(bundle_copy, graph)
    statement = f"from vjepa2.runtime import EmbeddingEngine; EmbeddingEngine.open({str(bundle_copy)!r})"
    done = run_blocked(HEAVY - {"numpy", "rich"}, statement)
    assert "BundleError" in done.stderr
    assert "a graph reads nothing but files of its bundle" in done.stderr


def test_a_graph_that_was_sealed_again_and_reads_its_bundle_opens(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    graph.producer_version = "another"
    seal_again(bundle_copy, graph)
    Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", [PORTABLE, ONNXRUNTIME])
def test_it_finds_what_onnx_finds(name: str, exported: Path) -> None:
    graph = load(exported, name)
    expected = {
        (tensor.name, entry.value)
        for tensor in graph.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = find_external_tensors((exported / name).read_bytes())
    assert {(tensor.name, tensor.location) for tensor in found} == expected
    assert len(found) == len(expected) > 20


def _outside(name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    set_external(tensor, location=f"{name}.data")
    return tensor


def hide_everywhere() -> tuple[onnx.ModelProto, set[str]]:
    """A model with a tensor in another file in every place that onnx.proto has for one."""
    model, hidden = onnx.ModelProto(), set[str]()

    def hide(name: str) -> TensorProto:
        hidden.add(name)
        return _outside(name)

    def fill(graph: onnx.GraphProto, name: str, depth: int) -> None:
        graph.initializer.append(hide(f"{name}.initializer"))
        graph.sparse_initializer.add(values=hide(f"{name}.sparse"), indices=hide(f"{name}.indices"))
        attribute = graph.node.add(op_type="If").attribute.add(name="a")
        attribute.t.CopyFrom(hide(f"{name}.t"))
        attribute.tensors.append(hide(f"{name}.tensors"))
        attribute.sparse_tensor.values.CopyFrom(hide(f"{name}.sparse_tensor"))
        attribute.sparse_tensors.add(values=hide(f"{name}.sparse_tensors"))
        if depth:
            fill(attribute.g, f"{name}.g", depth - 1)
            fill(attribute.graphs.add(), f"{name}.graphs", depth - 1)

    fill(model.graph, "graph", 2)
    training = model.training_info.add()
    fill(training.initialization, "start", 0)
    fill(training.algorithm, "step", 0)
    function = model.functions.add(name="f")
    function.attribute_proto.add(name="b").t.CopyFrom(hide("default"))
    function.node.add(op_type="Constant").attribute.add(name="c").t.CopyFrom(hide("inside"))
    return model, hidden


def test_no_place_for_a_tensor_is_overlooked() -> None:
    model, hidden = hide_everywhere()
    assert {tensor.name for tensor in find_external_tensors(model.SerializeToString())} == hidden


def test_the_numbers_of_fields_are_those_of_onnx() -> None:
    """Every field of onnx's own description that leads to a tensor, and no other."""
    messages = {name.removesuffix("Proto"): getattr(onnx, name).DESCRIPTOR for name in (
        "ModelProto", "TrainingInfoProto", "FunctionProto", "GraphProto", "NodeProto", "AttributeProto",
        "SparseTensorProto",
    )}  # fmt: skip
    messages["Training"] = messages.pop("TrainingInfo")
    kinds = {message.name: name for name, message in messages.items()} | {"TensorProto": "Tensor"}
    parts = {
        name: {field.number: kinds[field.message_type.name] for field in message.fields
               if field.message_type is not None and field.message_type.name in kinds}
        for name, message in messages.items()
    }  # fmt: skip
    assert parts == external_data._PARTS
    numbers = {field.name: field.number for field in TensorProto.DESCRIPTOR.fields}
    assert (numbers["name"], numbers["external_data"], numbers["data_location"]) == (8, 13, 14)


def test_whatever_the_bytes_there_is_a_list_or_a_bundle_error(exported: Path) -> None:
    data = (exported / PORTABLE).read_bytes()
    refused = 0
    for at in range(0, len(data), max(1, len(data) // 400)):
        for spoilt in (data[:at], data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]):
            try:
                find_external_tensors(spoilt)
            except BundleError:
                refused += 1
    assert refused > 100
    with pytest.raises(BundleError, match="is not an ONNX model"):
        find_external_tensors(b"\x38\x01")
    with pytest.raises(BundleError, match="it has a field of kind 3"):
        find_external_tensors(b"\x3b")


def test_a_tensor_in_the_graph_itself_is_no_concern() -> None:
    inside = helper.make_graph([], "g", [], [], [helper.make_tensor("a", 1, [2], [1.0, 2.0])])
    assert find_external_tensors(helper.make_model(inside).SerializeToString()) == []


def test_the_manifest_of_a_bundle_lists_no_graph_that_reads_elsewhere(exported: Path) -> None:
    manifest = json.loads((exported / MANIFEST).read_text())
    for name in (PORTABLE, ONNXRUNTIME):
        locations = {tensor.location for tensor in find_external_tensors((exported / name).read_bytes())}
        assert locations <= set(manifest["files"])
