"""What are a graph's constants, and may they be read: in the graph itself, or in a file beside it?"""

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from onnx import TensorProto, numpy_helper

from .graph_view import GraphView, type_word

KEYS = ("location", "offset", "length", "checksum")  # what ONNX knows of a tensor in another file
_BLOCK_BYTES = 1 << 20


def find_tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor of a model, wherever it stands: initialiser, attribute, part of a function or a branch."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from find_tensors(part)


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's numbers lie in another file."""
    return bool(tensor.external_data) or tensor.data_location != TensorProto.DEFAULT


def count_bytes(tensor: TensorProto) -> int | None:
    """How many bytes a tensor takes by its type and shape; None where its type has no size."""
    bits = re.search(r"\d+", type_word(tensor.data_type).replace("bool", "8"))
    return None if bits is None else (math.prod(tensor.dims) * int(bits.group()) + 7) // 8


def find_fault(tensor: TensorProto, folder: Path | None) -> str | None:
    """Why a tensor of another file cannot be read; None if it can."""
    facts = _facts(tensor)
    unknown = sorted(set(facts) - set(KEYS))
    if unknown:
        return f"its external data has a key {unknown[0]!r}; {', '.join(KEYS)} are known"
    numbers = (facts.get("offset", "0"), facts.get("length", "0"))
    if "location" not in facts or len(facts) != len(tensor.external_data) or not all(map(_is_number, numbers)):
        return f"its external data is {facts}; it must be one location, offset and length"
    return _find_place_fault(facts["location"], folder) or _find_size_fault(tensor, folder)


def _facts(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _find_place_fault(location: str, folder: Path | None) -> str | None:
    path = Path(location)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return f"it lies in {location!r}, outside the graph's folder; write it beside the graph"
    if folder is None:
        return f"it lies in {location!r} and the graph was given without its folder"
    steps = [folder.joinpath(*path.parts[: depth + 1]) for depth in range(len(path.parts))]
    if any(step.is_symlink() for step in steps):
        return f"it lies in {location!r}, which is a link, or behind one; put the file itself there"
    if not steps[-1].is_file():
        return f"it lies in {location!r}, which is no file of {folder}"
    return None


def _find_size_fault(tensor: TensorProto, folder: Path | None) -> str | None:
    file, start, length = _place(tensor, folder)
    size, needed = file.stat().st_size, count_bytes(tensor)
    if start + length > size or start > size:
        return f"it ends at byte {start + length} of {file.name}, which has {size}"
    if length != needed:
        shape = f"{type_word(tensor.data_type)} {list(tensor.dims)}"
        return f"it has {length} bytes in {file.name}; its type and shape, {shape}, need {needed}"
    return None


def _place(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """The file that a tensor lies in, its first byte and how many they are."""
    assert folder is not None
    facts = _facts(tensor)
    file, start = folder / facts["location"], int(facts.get("offset", 0))
    return file, start, int(facts["length"]) if "length" in facts else max(file.stat().st_size - start, 0)


def read_blocks(tensor: TensorProto, folder: Path | None, most: int | None = None) -> Iterator[bytes]:
    """The bytes of a tensor without a fault, or the first `most` of them; of another file a block at a time."""
    if not is_outside(tensor):
        yield (tensor.raw_data or numpy_helper.to_array(tensor).tobytes())[:most]
        return
    file, start, left = _place(tensor, folder)
    left = left if most is None else min(left, most)
    with file.open("rb") as stream:
        stream.seek(start)
        while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
            yield block
            left -= len(block)


def hash_tensor(tensor: TensorProto, folder: Path | None, most: int | None = None) -> str:
    """The hash of a tensor's bytes, or of the first `most` of them."""
    digest = hashlib.sha256()
    for block in read_blocks(tensor, folder, most):
        digest.update(block)
    return digest.hexdigest()


def read_numbers(view: GraphView, name: str) -> npt.NDArray[np.generic] | None:
    """A constant's numbers; None if it is no constant of the graph or cannot be read."""
    tensor = view.tensors.get(name)
    if tensor is None or (is_outside(tensor) and find_fault(tensor, view.folder) is not None):
        return None
    held = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    held.raw_data = b"".join(read_blocks(tensor, view.folder))
    if len(held.raw_data) != count_bytes(held):
        return None  # which ONNX's checker reports
    numbers: npt.NDArray[np.generic] = numpy_helper.to_array(held)
    return numbers


def is_uniform(view: GraphView, name: str) -> bool:
    """Whether a value is a constant of one number, however often it is there."""
    numbers = read_numbers(view, name)
    return numbers is not None and numbers.size > 0 and bool((numbers == numbers.flat[0]).all())
