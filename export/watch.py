"""What does a graph compute on the way: its inner values, by the evaluator or a backend, in one run of a copy."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.errors import BackendError
from vjepa2.manifest import TensorInfo
from vjepa2.runtime.backends import open_backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray, normalise

from .evaluate import Evaluation, Naive
from .prove import EVALUATOR, read_graph
from .rounding import find_free

# backends that run a graph as it is; an engine has no inner values, and PyTorch runs no graph
WATCHED_GRAPHS = {
    "onnxruntime": ONNXRUNTIME,
    "onnxruntime-portable": PORTABLE,
    "onnxruntime-cuda": ONNXRUNTIME,
    "openvino": PORTABLE,
    "openvino-gpu": PORTABLE,
}
NAIVE: dict[str, Naive] = {"naive-fp16": "fp16", "naive-bf16": "bf16"}  # portable.onnx with every result in 16 bits
WATCHERS = (EVALUATOR, *NAIVE, *WATCHED_GRAPHS)

Values = dict[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Side:
    """A graph, the folder of its weights, and who computes values of it on the clip that is looked at."""

    name: str
    graph: onnx.ModelProto
    folder: Path
    compute: Callable[[Sequence[str]], Values]

    def __str__(self) -> str:
        """What a person calls it."""
        return self.name


def evaluate_side(
    name: str,
    graph: onnx.ModelProto,
    folder: Path,
    inputs: Mapping[str, InputArray],
    *,
    naive: Naive | None = None,
    islands: Collection[str] | None = None,
) -> Side:
    """A graph by the evaluator.

    What loses nothing of its own is found in the graph as it is: a Cast that is only looked at rounds for no one.
    """
    wide = None if islands is None else find_free(graph.graph).union(islands)

    def compute(values: Sequence[str]) -> Values:
        results = Evaluation(watch_graph(graph, values), folder, naive, wide).run(inputs, values)
        return {name: array[:1] for name, array in results.items()}  # of a graph that takes more, they are all the same

    return Side(name, graph, folder, compute)


def open_side(bundle: Bundle, watcher: str, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray]) -> Side:
    """A bundle by one of `WATCHERS`, on one clip; `BackendError` if it is none."""
    if watcher not in WATCHERS:
        raise BackendError(f"{watcher} shows no inner values; choose from {', '.join(WATCHERS)}")
    file = WATCHED_GRAPHS.get(watcher, PORTABLE)
    if file not in bundle.manifest.graphs:
        raise BackendError(f"{watcher} runs {file}, and {bundle.path} has {', '.join(bundle.manifest.graphs)} alone")
    graph = read_graph(bundle.path / file)
    name = f"{bundle.path.name} by {watcher}"
    if watcher not in WATCHED_GRAPHS:
        inputs = make_inputs(bundle, frames_BTHWC, extras)
        return evaluate_side(name, graph, bundle.path, inputs, naive=NAIVE.get(watcher))

    def compute(values: Sequence[str]) -> Values:
        with TemporaryDirectory(prefix="vjepa2-watch-") as folder:
            watched = _lay_out(bundle, file, watch_graph(graph, values), Path(folder), values)
            with open_backend(watched, watcher) as backend:
                names: Any = list(values)
                results = backend.run_by_name(frames_BTHWC, names, extras)
        return {name: np.asarray(array, np.float32) for name, array in results.items()}

    return Side(name, graph, bundle.path, compute)


def make_inputs(bundle: Bundle, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray]) -> dict[str, InputArray]:
    """What a bundle's graph takes, by name: one clip, as often as the graph takes clips."""
    manifest = bundle.manifest
    count = manifest.batch if isinstance(manifest.batch, int) else 1
    frames_BTHWC = np.repeat(frames_BTHWC, count, axis=0)
    clips: InputArray = frames_BTHWC
    if manifest.graph_input == "pixel_values_videos":
        clips = normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std)
    return {manifest.graph_input: clips, **{name: np.repeat(array, count, axis=0) for name, array in extras.items()}}


def watch_graph(graph: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are `values`, without the nodes that none of them needs."""
    needed, nodes = set(values), []
    for node in reversed(graph.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    infos = {info.name: info for info in (*graph.graph.value_info, *graph.graph.output)}
    del watched.graph.node[:], watched.graph.output[:], watched.graph.value_info[:]
    watched.graph.node.extend(reversed(nodes))
    watched.graph.output.extend(infos.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(values))
    return watched


def _lay_out(bundle: Bundle, file: str, graph: onnx.ModelProto, folder: Path, values: Sequence[str]) -> Bundle:
    """One graph in a temporary folder, beside the same weights: libraries follow no symbolic link out of a folder."""
    (folder / file).write_bytes(graph.SerializeToString())
    try:
        os.link(bundle.path / WEIGHTS, folder / WEIGHTS)
    except OSError:  # another file system
        shutil.copyfile(bundle.path / WEIGHTS, folder / WEIGHTS)
    outputs = tuple(TensorInfo(name=name, dtype="float32", shape=(), axes=()) for name in values)
    return Bundle(folder, replace(bundle.manifest, outputs=outputs))
