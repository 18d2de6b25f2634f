"""What is a query of a benchmark: which clips, and what is known of their results?

Axes: B clips of a query, T frames, H, W pixels, C colours.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.manifest import Manifest
from vjepa2.spec import OutputName

from .backends.base import FramesArray
from .clip_reader import ClipReader
from .decode_messages import ClipRequest
from .parity import Reference
from .query_timer import Query

_BUFFERS = 3  # different queries, in turn


def make_queries(reference: Reference, output: OutputName, clips: int) -> list[Query]:
    """Queries over the clips that export stored, each with another one first, and what is expected of them."""
    held = len(reference.frames_BTHWC)
    expected = reference.outputs.by_name()[output]
    queries = []
    for first in range(min(held, _BUFFERS)):
        rows = (first + np.arange(clips)) % held
        frames_BTHWC = reference.frames_BTHWC[rows]
        inputs = {name: array[rows] for name, array in reference.inputs.items()}
        queries.append(Query(read=_give(frames_BTHWC), inputs=inputs, expected=expected[rows]))
    return queries


def choose_output(manifest: Manifest) -> OutputName:
    """What a user would fetch: the embedding, or what the head gives instead."""
    names = [cast(OutputName, info.name) for info in manifest.outputs]
    return next((name for name in ("embedding", *names) if name in names and name != "tokens"), names[0])


def _give(frames_BTHWC: FramesArray) -> Callable[[], FramesArray]:
    return lambda: frames_BTHWC


def check_video(video: Path, bundles: Sequence[Bundle]) -> None:
    """Read each bundle's clip from a file once; a `VideoError`, before a minute is spent, if it has none."""
    for request in dict.fromkeys(ClipRequest.of(bundle.manifest) for bundle in bundles):
        with ClipReader(request) as reader:
            reader.read_one(video)


def read_from_file(queries: list[Query], video: Path, reader: ClipReader) -> list[Query]:
    """The same number of clips a query, but each read from the file anew; of its results nothing is known before."""

    def read(clips: int) -> Callable[[], FramesArray]:
        return lambda: np.stack([reader.read_one(video) for _ in range(clips)])

    return [Query(read=read(len(query.read())), inputs=query.inputs) for query in queries]
