"""Which bytes of other files does an ONNX graph read? Found in the graph's own bytes, without onnx.

A graph names files by a path, and libraries differ in which paths they follow: ONNX Runtime 1.23 on Python 3.10 opens
`../elsewhere`. So a bundle is searched before any of them sees it, wherever it is opened. The names of fields below are
those of onnx.proto; messages that lead to no tensor are stepped over unread.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vjepa2.errors import BundleError

# message -> number of a field -> the message in it
_PARTS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # fields of a Tensor
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5  # how a field is written


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """A tensor whose numbers lie in another file."""

    name: str
    location: str  # as written: a path beside the graph, or anything else that somebody put there
    offset: int  # bytes
    length: int | None  # bytes; None: to the end of the file


def find_external_tensors(graph: bytes) -> list[ExternalTensor]:
    """Every tensor of a serialised ModelProto that is not in it; `BundleError` if `graph` is not a whole protobuf."""
    found: list[ExternalTensor] = []
    todo = [("Model", memoryview(graph))]
    while todo:
        kind, message = todo.pop()
        if kind == "Tensor":
            found += _read_tensor(message)
            continue
        for number, value in _read_fields(message):
            if number in _PARTS[kind]:
                todo.append((_PARTS[kind][number], _message(value)))
    return found


def _read_tensor(message: memoryview) -> Iterator[ExternalTensor]:
    name, entries, is_external = "", list[tuple[str, str]](), False
    for number, value in _read_fields(message):
        if number == _NAME:
            name = _text(value)
        elif number == _EXTERNAL_DATA:
            entries.append(_read_entry(value))
        elif number == _DATA_LOCATION:
            is_external = value != 0
    if entries or is_external:
        yield _describe(name, entries)


def _describe(name: str, entries: list[tuple[str, str]]) -> ExternalTensor:
    facts = dict(entries)
    offset, length = facts.get("offset", "0"), facts.get("length")
    numbers = (offset, length or "0")
    is_plain = all(number.isascii() and number.isdigit() for number in numbers)
    if len(facts) != len(entries) or "location" not in facts or not is_plain:
        raise BundleError(f"tensor {name!r} has external data {entries}; it must be one location, offset and length")
    return ExternalTensor(name, facts["location"], int(offset), None if length is None else int(length))


def _read_entry(value: memoryview | int) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for number, text in _read_fields(_message(value)):
        pair[number] = _text(text)
    return pair[1], pair[2]


def _message(value: memoryview | int) -> memoryview:
    if not isinstance(value, memoryview):
        raise BundleError("it is not an ONNX model: a message or a text is written as a number")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_message(value)).decode("utf-8", "backslashreplace")


def _read_fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Each field of a message: its number, and its bytes or number."""
    at, end = 0, len(message)
    while at < end:
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind in (_FIXED_64, _FIXED_32):
            size = 8 if kind == _FIXED_64 else 4
        else:
            raise BundleError(f"it is not an ONNX model: it has a field of kind {kind}")
        if at + size > end:
            raise BundleError(f"it is not whole: a field of {size} bytes where {end - at} are left")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise BundleError("it is not whole: a number has no end")
