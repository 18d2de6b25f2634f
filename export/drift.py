"""Which block of a graph is the first to leave the gate, and inside it which operator?

Two runs of each side: one for the tokens of every block, one for all that lies before the first tokens lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vjepa2.errors import ExportError
from vjepa2.runtime.backends.base import FloatArray
from vjepa2.runtime.gates import Gate

from .checkpoints import Blocks, Checkpoint, match_values, norm_before, norm_behind
from .drift_figures import Drift, Lens, measure_drift
from .evaluate import read_tensor
from .graph_view import GraphView
from .watch import Side, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value that both sides computed."""

    value: str  # its name in the candidate's graph, and its node's
    operator: str
    op_type: str
    block: str
    drift: Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a candidate leaves the gate; None if it does not."""

    growth: tuple[Reading, ...]  # what each LayerNorm reads and gives, and the outputs, in order
    block: str | None
    operator: Reading | None  # the first of that block
    uncompared: tuple[str, ...]  # operators beside it that the reference does not have


def locate_drift(reference: Side, candidate: Side, gate: Gate) -> Location:
    """Compare both sides, block by block, then operator by operator before the first tokens that are outside `gate`.

    Both sides compute the same clip. `ExportError` if the graphs are not of one model.
    """
    pair = _Pair(reference, candidate, gate)
    blocks = Blocks(pair.candidate_view)
    growth = pair.read(blocks.checkpoints)
    lost = next((reading for reading in growth if reading.drift.faults), None)
    if lost is None:
        return Location(growth=growth, block=None, operator=None, uncompared=())
    kept = {reading.value for reading in growth[: growth.index(lost)]}
    points = blocks.between(kept, lost.value)
    readings = pair.read([point for point in points if point.value in pair.twins])
    first = next(reading for reading in readings if reading.drift.faults)
    uncompared = tuple(dict.fromkeys(point.operator for point in points if point.value not in pair.twins))
    return Location(growth=growth, block=first.block, operator=first, uncompared=uncompared)


class _Pair:
    """Both sides, and which value of one is which of the other."""

    def __init__(self, reference: Side, candidate: Side, gate: Gate) -> None:
        self.reference, self.candidate, self.gate = reference, candidate, gate
        self.view = GraphView(reference.graph, reference.folder)
        self.candidate_view = GraphView(candidate.graph, candidate.folder)
        self.twins = match_values(self.candidate_view, self.view)

    def read(self, points: Sequence[Checkpoint]) -> tuple[Reading, ...]:
        """Run both sides once, and compare them at `points`; what is no float is left out."""
        missing = [point.operator for point in points if point.value not in self.twins]
        if missing:
            raise ExportError(f"{self.reference} has no {', '.join(missing[:3])}; compare graphs of one model")
        points = [point for point in points if self._is_float(point.value)]
        expected = self.reference.compute(self._names([self.twins[point.value] for point in points]))
        got = self.candidate.compute([point.value for point in points])
        return tuple(self._compare(point, expected, got) for point in points)

    def _is_float(self, value: str) -> bool:
        kind = self.candidate_view.types.get(value)
        if kind is None:
            raise ExportError(f"the type of {value} in {self.candidate} is not known; export it again")
        return kind in ("float32", "float16", "bfloat16")

    def _names(self, values: Sequence[str]) -> list[str]:
        """The reference's values, and what LayerNorms among their makers read."""
        norms = [norm_before(self.view, value) for value in values]
        return list(dict.fromkeys([*values, *(norm.input[0] for norm in norms if norm is not None)]))

    def _compare(self, point: Checkpoint, expected: Mapping[str, FloatArray], got: Values) -> Reading:
        value = self.twins[point.value]
        before, behind = norm_before(self.view, value), norm_behind(self.view, value)
        lens, stream = None, None
        if before is not None:
            stream = before.input[0]
        elif behind is not None:
            stream, lens = value, self._lens(behind.name)
        norms_V = None if stream is None else _norms(expected[stream])
        drift = measure_drift(expected[value], got[point.value], self.gate, lens=lens, norms_V=norms_V)
        op_type = self.candidate_view.makers[point.value].op_type
        return Reading(value=point.value, operator=point.operator, op_type=op_type, block=point.block, drift=drift)

    def _lens(self, name: str) -> Lens:
        node = next(node for node in self.view.nodes if node.name == name)
        gain_D, *bias_D = (
            read_tensor(self.view.tensors[tensor], self.reference.folder).float().numpy() for tensor in node.input[1:]
        )
        epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
        return Lens(gain_D, bias_D[0] if bias_D else np.zeros_like(gain_D), epsilon)


def _norms(stream_BND: FloatArray) -> npt.NDArray[np.float64]:
    norms_V: npt.NDArray[np.float64] = np.linalg.norm(stream_BND.astype(np.float64), axis=-1).ravel()
    return norms_V
