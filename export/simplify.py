"""What does onnxsim find to remove, and is the graph then still the same and never worse?"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

TIME_LIMIT_S = 120.0
TOLERANCE = 1e-5  # max |difference| / max |output|

NamedArrays = Mapping[str, npt.NDArray[np.float32]]
_CHILD = """
import sys, onnx, onnxsim
model, _ = onnxsim.simplify(sys.argv[1])
onnx.save(model, sys.argv[2])
"""


@dataclass(frozen=True, slots=True)
class Simplification:
    """The graph to go on with, and what was done or why not."""

    graph: onnx.ModelProto
    verdict: str


def simplify_graph(
    graph: onnx.ModelProto,
    run: Callable[[onnx.ModelProto], NamedArrays],
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> Simplification:
    """Let onnxsim, in a child process, remove what it can; keep its result only if it is as good in every respect.

    `run` computes a graph's outputs on some input. The tensors in the file of weights stand in as inputs: onnxsim
    then reads megabytes instead of gigabytes, and cannot turn MatMul and Add into Reshape, Gemm, Reshape.
    """
    try:
        simplified = _attach_weights(_simplify_apart(_detach_weights(graph), time_limit_s), graph)
    except (subprocess.SubprocessError, OSError) as error:
        return Simplification(graph, f"kept as traced: onnxsim {_reason(error)}")
    fault = _find_fault(graph, simplified)
    if fault is None and (difference := _difference(run(graph), run(simplified))) > TOLERANCE:
        fault = f"its result differs by {difference:.1e}, more than {TOLERANCE:.0e}"
    if fault is not None:
        return Simplification(graph, f"kept as traced: {fault}")
    removed = len(graph.graph.node) - len(simplified.graph.node)
    return Simplification(simplified, f"onnxsim removed {removed} nodes; the same numbers within {TOLERANCE:.0e}")


def _simplify_apart(graph: onnx.ModelProto, time_limit_s: float) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        before.write_bytes(graph.SerializeToString())
        subprocess.run(
            [sys.executable, "-c", _CHILD, before, after],
            check=True,
            capture_output=True,
            text=True,
            timeout=time_limit_s,
        )
        return onnx.load(after)


def _detach_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto()
    light.CopyFrom(graph)
    kept = [tensor for tensor in graph.graph.initializer if not _is_external(tensor)]
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    for tensor in graph.graph.initializer:
        if _is_external(tensor):
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def _attach_weights(light: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    weights = {tensor.name: tensor for tensor in original.graph.initializer if _is_external(tensor)}
    inputs = [value for value in light.graph.input if value.name not in weights]
    used = {name for node in light.graph.node for name in node.input}
    del light.graph.input[:]
    light.graph.input.extend(inputs)
    light.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    known = {info.name for info in original.graph.value_info}
    shapes = [info for info in light.graph.value_info if info.name in known]  # not what onnxsim inferred beside
    del light.graph.value_info[:]
    light.graph.value_info.extend(shapes)
    del light.metadata_props[:]  # onnxsim's account of what it did
    light.producer_name, light.producer_version = original.producer_name, original.producer_version
    return light


def _find_fault(before: onnx.ModelProto, after: onnx.ModelProto) -> str | None:
    """Why the simplified graph cannot take the original's place."""
    counts = len(before.graph.node), len(after.graph.node)
    if _signature(before) != _signature(after):
        return "onnxsim changed inputs, outputs, types, opset or IR version"
    if counts[1] == counts[0]:
        return f"onnxsim found nothing to remove among {counts[0]} nodes"
    if counts[1] > counts[0] or after.ByteSize() > before.ByteSize():
        return (
            f"onnxsim grew it from {counts[0]} to {counts[1]} nodes, "
            f"from {before.ByteSize()} to {after.ByteSize()} bytes"
        )
    try:
        onnx.checker.check_model(_detach_weights(after))
    except onnx.checker.ValidationError as error:
        return f"onnx.checker refuses onnxsim's result: {str(error).splitlines()[0]}"
    return None


def _signature(model: onnx.ModelProto) -> tuple[object, ...]:
    values = [(value.name, value.type.SerializeToString()) for value in (*model.graph.input, *model.graph.output)]
    opsets = sorted((entry.domain, entry.version) for entry in model.opset_import)
    return values, opsets, model.ir_version


def _difference(before: NamedArrays, after: NamedArrays) -> float:
    worst = 0.0
    for name, expected in before.items():
        scale = float(np.abs(expected).max()) or 1.0
        worst = max(worst, float(np.abs(after[name] - expected).max()) / scale)
    return worst if all(np.isfinite(after[name]).all() for name in before) else float("inf")


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"did not finish in {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr).strip().splitlines() or ["no message"]
        return f"failed with exit status {error.returncode}: {lines[-1]}"
    return f"could not be run: {error}"
