"""How do a model's tensors lie in one file that several graphs share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT = 4096  # bytes, a page: what a runtime needs in order to map a tensor instead of reading it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes are."""

    offset: int  # bytes
    length: int  # bytes


def place_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    """Give every tensor its place, in the order given."""
    places, end = {}, 0
    for name, tensor in tensors.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        places[name] = Place(offset, tensor.numel() * tensor.element_size())
        end = offset + places[name].length
    return places


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write every tensor at the place that `place_tensors` gives it, row by row, little-endian."""
    places = place_tensors(tensors)
    with file.open("xb") as stream:
        for name, tensor in tensors.items():
            stream.seek(places[name].offset)
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
