"""Which rules do the files make that a graph keeps its weights in?

A rule yields the name of a tensor and why it is wrong.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from onnx import TensorProto

from vjepa2.external_data import ExternalTensor, find_external_tensors
from vjepa2.manifest import Precision

from .graph_view import GraphView
from .targets import Target

Found = Iterator[tuple[str, str]]  # tensor, reason
TABLE_BYTES = 64 * 1024  # from this size on a constant is held once; biases may be equal by chance
_PROBE_BYTES = 4096


def weights_lie_inside(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every tensor in another file lies in a regular file of the graph's folder, and within its length."""
    for tensor in find_external_tensors(view.model.SerializeToString()):
        reason = _find_fault(tensor, view.folder)
        if reason is not None:
            yield tensor.name, reason


def _find_fault(tensor: ExternalTensor, folder: Path | None) -> str | None:
    path = Path(tensor.location)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return f"it lies in {tensor.location!r}, outside the graph's folder; write it beside the graph"
    if folder is None:
        return f"it lies in {tensor.location!r} and the graph was given without its folder"
    steps = [folder.joinpath(*path.parts[: depth + 1]) for depth in range(len(path.parts))]
    if any(step.is_symlink() for step in steps):
        return f"it lies in {tensor.location!r}, which is a link, or behind one; put the file itself there"
    if not steps[-1].is_file():
        return f"it lies in {tensor.location!r}, which is no file of {folder}"
    size = steps[-1].stat().st_size
    end = tensor.offset + (tensor.length or 0)
    if end > size:
        return f"it ends at byte {end} of {tensor.location}, which has {size}"
    return None


def tables_are_stored_once(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No two large constants are the same bytes."""
    outside = {tensor.name: tensor for tensor in find_external_tensors(view.model.SerializeToString())}
    groups: dict[object, list[TensorProto]] = defaultdict(list)
    for tensor in view.model.graph.initializer:
        external = outside.get(tensor.name)
        if external is not None and _find_fault(external, view.folder) is not None:
            continue  # which `weights_lie_inside` reports
        size, digest = _digest(tensor, external, view.folder, _PROBE_BYTES)
        if size >= TABLE_BYTES:
            groups[tensor.data_type, size, digest].append(tensor)
    for alike in (group for group in groups.values() if len(group) > 1):
        first: dict[str, str] = {}
        for tensor in alike:
            _, digest = _digest(tensor, outside.get(tensor.name), view.folder, None)
            if (earlier := first.setdefault(digest, tensor.name)) != tensor.name:
                yield tensor.name, f"it is the same bytes as {earlier}; let their users share one constant"


def _digest(
    tensor: TensorProto, external: ExternalTensor | None, folder: Path | None, most: int | None
) -> tuple[int, str]:
    """A constant's size in bytes, and the hash of its first `most` bytes, or of all."""
    if external is None:
        held = tensor.raw_data or tensor.SerializePartialToString()
        return len(held), hashlib.sha256(held[:most]).hexdigest()
    assert folder is not None
    with (folder / external.location).open("rb") as stream:
        size = stream.seek(0, 2) - external.offset if external.length is None else external.length
        stream.seek(external.offset)
        left, digest = size if most is None else min(size, most), hashlib.sha256()
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return size, digest.hexdigest()


RULES = (weights_lie_inside, tables_are_stored_once)
