"""What do float32 islands cost: their part of the arithmetic, of the bytes, and of ONNX Runtime's time in float32."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from vjepa2.runtime.backends.onnxrt import open_session, session_options

from .graph_view import GraphView
from .rounding import find_rounding

_RUNS = 3
NOT_MEASURED = (
    "what 16 bits save beside the islands, and so what part of a 16-bit graph's latency they are: that takes a GPU, "
    "ONNX Runtime's CPU provider computes 16-bit results in float32"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IslandCost:
    """What becomes float32, as parts of one; `time_share` is None where no float32 graph was at hand."""

    flops_share: float  # of the MatMuls' FLOPs
    bytes_share: float  # of the bytes of all rounded results, which double
    time_share: float | None  # of ONNX Runtime's time in float32 on this CPU, without fusions
    not_measured: str = NOT_MEASURED


def measure_cost(
    view: GraphView, islands: Collection[str], *, naive: bool, seconds: Mapping[str, float] | None
) -> IslandCost:
    """The cost of `islands`; `seconds` are those of every node in float32."""
    flops = {node.name: count_flops(view, node.name) for node in view.nodes if node.op_type == "MatMul"}
    rounded = {node.name: prod(view.shapes.get(node.output[0], ())) for node in find_rounding(view, naive=naive)}
    return IslandCost(
        flops_share=_share(flops, islands),
        bytes_share=_share(rounded, islands),
        time_share=None if seconds is None else _share(seconds, islands),
    )


def count_flops(view: GraphView, name: str) -> int:
    """Floating-point operations of one MatMul, two a multiply-add; an axis of any size counts as one."""
    node = next(node for node in view.nodes if node.name == name)
    left, result = view.shapes[node.input[0]], view.shapes[node.output[0]]
    return 2 * prod(max(1, side) for side in result) * left[-1]


def time_nodes(graph: Path, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, float]:
    """Seconds of each node in the best of three runs on the CPU, with nothing fused, so that nodes keep their names."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with TemporaryDirectory(prefix="vjepa2-profile-") as notes:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(notes) / "run")
        session = open_session(graph, options)
        for _ in range(_RUNS):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e6)
    return {name: min(durations) for name, durations in found.items()}


def _share(amounts: Mapping[str, float], islands: Collection[str]) -> float:
    total = sum(amounts.values())
    return sum(amounts.get(name, 0) for name in islands) / total if total else 0.0
