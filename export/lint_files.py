"""Which rules do the files make that a graph keeps its weights in?

A rule yields the name of a tensor and why it is wrong.
"""

from collections import defaultdict
from collections.abc import Iterator

from vjepa2.manifest import Precision

from .graph_view import GraphView
from .lint_constants import count_bytes, find_fault, find_tensors, hash_tensor, is_outside
from .targets import Target

Found = Iterator[tuple[str, str]]  # tensor, reason
TABLE_BYTES = 64 * 1024  # from this size on a constant is held once; biases may be equal by chance
_PROBE_BYTES = 4096


def weights_lie_inside(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """Every tensor in another file lies in a regular file of the graph's folder, and is as long there as its shape."""
    for tensor in find_tensors(view.model):
        reason = find_fault(tensor, view.folder) if is_outside(tensor) else None
        if reason is not None:
            yield tensor.name or "graph", reason


def tables_are_stored_once(view: GraphView, target: Target, precision: Precision | None) -> Found:
    """No two large constants are the same bytes, be they initialisers or made by Constant nodes."""
    groups: dict[object, list[str]] = defaultdict(list)
    for name, tensor in view.tensors.items():
        size = count_bytes(tensor)
        if size is None or size < TABLE_BYTES or (is_outside(tensor) and find_fault(tensor, view.folder) is not None):
            continue  # small, or reported by `weights_lie_inside`
        groups[tensor.data_type, size, hash_tensor(tensor, view.folder, _PROBE_BYTES)].append(name)
    for alike in (group for group in groups.values() if len(group) > 1):
        first: dict[str, str] = {}
        for name in alike:
            digest = hash_tensor(view.tensors[name], view.folder)
            if (earlier := first.setdefault(digest, name)) != name:
                yield _title(view, name), f"it is the same bytes as {earlier}; let their users share one constant"


def _title(view: GraphView, name: str) -> str:
    """An initialiser's name, or that of the Constant node that makes it."""
    return view.makers[name].name if name in view.makers else name


RULES = (weights_lie_inside, tables_are_stored_once)
