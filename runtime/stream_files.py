"""How do the embeddings of a stream get into a file, row by row, without all of them in memory?

Axes: D token channels.
"""

from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from vjepa2.errors import Vjepa2Error
from vjepa2.extras import import_with_extra

from .stream import StreamedEmbedding

_HEADER = 128  # bytes of a .npy file before its numbers, room for any number of rows


class RowWriter(Protocol):
    """Takes one window after another; what it wrote is a file once it was closed."""

    def add(self, row: StreamedEmbedding) -> None:
        """Append a window."""

    def close(self) -> None:
        """Write what is still missing. The file itself stays open."""


class NpyWriter:
    """A .npy file of float32 `[windows, D]`, whose header is written again in the end; it has no room for facts."""

    def __init__(self, stream: BinaryIO, *, dim: int, facts: dict[str, str]) -> None:
        self._stream, self._dim, self._rows = stream, dim, 0
        stream.write(_npy_header(0, dim))

    def add(self, row: StreamedEmbedding) -> None:
        """See `RowWriter`."""
        self._stream.write(row.embedding_D.astype("<f4").tobytes())
        self._rows += 1

    def close(self) -> None:
        """See `RowWriter`."""
        self._stream.seek(0)
        self._stream.write(_npy_header(self._rows, self._dim))


def _npy_header(rows: int, dim: int) -> bytes:
    """Version 1.0 of the format: magic, length, a dictionary, spaces and a newline."""
    words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}".encode()
    return np.lib.format.magic(1, 0) + (_HEADER - 10).to_bytes(2, "little") + words.ljust(_HEADER - 11) + b"\n"


class MakeWriter(Protocol):
    """Begins a file."""

    def __call__(self, stream: BinaryIO, *, dim: int, facts: dict[str, str]) -> RowWriter:
        """For embeddings of `dim` channels; `facts` are those of all of them."""


def choose_writer(output: Path) -> MakeWriter:
    """What writes a file of this name; a `Vjepa2Error` for other endings, or the extra that is missing."""
    if output.suffix == ".npy":
        return NpyWriter
    if output.suffix == ".parquet":
        writer: MakeWriter = import_with_extra("vjepa2.runtime.stream_parquet", "parquet").StreamParquetWriter
        return writer
    raise Vjepa2Error(f"{output} ends in {output.suffix!r}; an output is a .npy or a .parquet file")
