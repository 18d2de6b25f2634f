"""Where does a bundle leave its gate, and what would bring it back: a localisation, its islands and their cost."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.errors import BackendError, BundleError, ParityError
from vjepa2.extras import import_with_extra
from vjepa2.manifest import Precision
from vjepa2.runtime.backends import open_backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray
from vjepa2.runtime.gates import GATES, Gate
from vjepa2.runtime.parity import Reference, compare_outputs

from .drift import Location, locate_drift
from .drift_plot import plot_drift
from .evaluate import Evaluation
from .graph_view import GraphView
from .island_cost import IslandCost
from .islands import Grain, Islands, find_islands
from .prove import EVALUATOR, read_graph
from .rounding import find_rounding
from .watch import NAIVE, WATCHED_GRAPHS, Side, evaluate_side, make_inputs, open_side

_EIGHT_BITS = ("int8", "fp8")
_NOTHING_LEFT = "the outputs are within the gate"
_NOT_ASKED = "not asked for"
_MISTAKE = "with every 16-bit result in float32 it is outside the gate, too: a mistake, not a lack of precision"
_WEIGHTS = (
    "with every 16-bit result in float32 it is outside the gate, too: its weights are too coarse in 16 bits (export it "
    "with --islands linears), or there is a mistake"
)
_NOT_SIXTEEN = "nothing here is in 16 bits: a mistake, not a lack of precision"
_BY_BACKEND = "the evaluator alone searches for them; ask for it to see what the graph's own types cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """Where a candidate leaves its gate on one clip, and the float32 islands with which it keeps it on every clip."""

    candidate: str
    reference: str
    clip: int  # of the reference's clips, the one that was looked into
    precision: Precision  # whose gate it is
    gate: Gate
    passed: bool
    faults: tuple[str, ...]  # of the outputs against PyTorch's
    hidden: bool  # the outputs leave the gate, and do not where the graph is looked into: what is fused there is wrong
    location: Location
    islands: Islands | None
    islands_note: str  # why there are none; empty if there are
    cost: IslandCost | None
    plot: str  # SVG


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One bundle, held to another or to its own graph in float32."""

    bundle: Bundle
    source: Bundle
    truth: Reference
    watcher: str
    precision: Precision
    announce: Callable[[str], None]

    @property
    def gate(self) -> Gate:
        return GATES[self.precision]

    def frames(self, clip: int) -> FramesArray:
        return self.truth.frames_BTHWC[clip : clip + 1]

    def extras(self, clip: int) -> dict[str, InputArray]:
        return {name: array[clip : clip + 1] for name, array in self.truth.inputs.items()}

    def faults(self, got: Mapping[Any, FloatArray], clip: int, gate: Gate) -> tuple[str, ...]:
        """What of outputs is outside a gate, against PyTorch's."""
        one = slice(clip, clip + 1)
        expected = {name: array[one] for name, array in self.truth.outputs.by_name().items()}
        return tuple(compare_outputs(expected, got, self.truth.norms_BN[one], gate.quiet).faults(gate))


def report_drift(
    bundle: Bundle,
    *,
    against: Bundle | None = None,
    backend: str | None = None,
    clip: int | None = None,
    islands: Grain | None = "nodes",
    announce: Callable[[str], None] = lambda _: None,
) -> DriftReport:
    """Hold `bundle`, run by one of `WATCHERS`, to `against` in float32, or to its own graph with all of it in float32.

    `clip` is one of those in the reference's bundle, by default the one that moves most if its outputs are outside the
    gate, else the first whose are. With `islands` None none
    are looked for. `ParityError` if the reference itself is not what PyTorch computed.
    """
    case = _make_case(bundle, against or bundle, backend, announce)
    count = len(case.truth.frames_BTHWC)
    if clip is not None and not 0 <= clip < count:
        raise BundleError(f"there is no clip {clip}; {case.source.path} holds {count}, numbered from 0")
    clip = _choose_clip(case) if clip is None else clip
    reference = _reference_side(case, clip)
    announce("look into both")
    candidate = open_side(bundle, case.watcher, case.frames(clip), case.extras(clip))
    location = locate_drift(reference, candidate, case.gate)
    announce("judge the outputs")
    faults = case.faults(_run_whole(case, candidate, clip), clip, case.gate)
    outputs = {value.name for value in candidate.graph.graph.output}
    watched = any(reading.drift.faults for reading in location.growth if reading.value in outputs)
    found, note = _find_islands(case, candidate, clip, faults, islands) if islands else (None, _NOT_ASKED)
    return DriftReport(
        candidate=candidate.name, reference=reference.name, clip=clip, precision=case.precision, gate=case.gate,
        passed=not faults, faults=faults, hidden=bool(faults) and not watched and case.watcher in WATCHED_GRAPHS,
        location=location, islands=found, islands_note=note,
        cost=_measure_cost(case, candidate, clip, found) if found else None,
        plot=plot_drift(location, case.gate, f"{candidate.name} against {reference.name}"),
    )  # fmt: skip


def _make_case(bundle: Bundle, source: Bundle, backend: str | None, announce: Callable[[str], None]) -> _Case:
    """`BundleError` unless both are of one model and clip, and the reference's results can be in float32."""
    ours, theirs = bundle.manifest, source.manifest
    for name in ("model", "clip", "head"):
        if getattr(ours, name) != getattr(theirs, name):
            raise BundleError(f"{bundle.path} and {source.path} differ in {name}; give bundles of one model and clip")
    if theirs.precision in _EIGHT_BITS:
        raise BundleError(f"{source.path} is {theirs.precision}, a reference is float32; give one with --against")
    watcher = backend or ("onnxruntime" if ours.precision == "fp32" else EVALUATOR)
    naive = NAIVE.get(watcher)
    if naive and ours.precision != "fp32":
        raise BackendError(f"{watcher} is what a float32 graph would lose, and {bundle.path} is {ours.precision}")
    return _Case(
        bundle=bundle, source=source, truth=Reference.load(source), watcher=watcher,
        precision=naive or ours.precision, announce=announce,
    )  # fmt: skip


def _choose_clip(case: _Case) -> int:
    """The one that moves most, unless another one's outputs are outside the gate and its own are not."""
    for number in _order(case, case.truth.probe):
        case.announce(f"judge clip {number}")
        side = open_side(case.bundle, case.watcher, case.frames(number), case.extras(number))
        if case.faults(_run_whole(case, side, number), number, case.gate):
            return number
    return case.truth.probe


def _order(case: _Case, first: int) -> list[int]:
    """All clips, that one first."""
    return [first, *(number for number in range(len(case.truth.frames_BTHWC)) if number != first)]


def _reference_side(case: _Case, clip: int) -> Side:
    """The source's graph with everything in float32; `ParityError` if PyTorch computed something else."""
    case.announce("run the reference")
    path, precision = case.source.path, case.source.manifest.precision
    graph = read_graph(path / PORTABLE)
    rounding = [node.name for node in find_rounding(GraphView(graph, path), naive=False)]
    inputs = make_inputs(case.source, case.frames(clip), case.extras(clip))
    name = f"{path.name} in float32"
    side = evaluate_side(name, graph, path, inputs, islands=rounding if rounding else None)
    faults = case.faults(side.compute([value.name for value in graph.graph.output]), clip, GATES[precision])
    if faults:
        raise ParityError(f"{name} is not what PyTorch computed: {'; '.join(faults)}; give a right one with --against")
    return side


def _run_whole(case: _Case, candidate: Side, clip: int) -> Mapping[Any, FloatArray]:
    """The outputs, of the graph as it is."""
    names: Any = [value.name for value in candidate.graph.graph.output]
    if case.watcher not in WATCHED_GRAPHS:
        return candidate.compute(names)
    with open_backend(case.bundle, case.watcher) as backend:
        return backend.run_by_name(case.frames(clip), names, case.extras(clip))


def _find_islands(
    case: _Case, candidate: Side, clip: int, faults: tuple[str, ...], grain: Grain
) -> tuple[Islands | None, str]:
    """The fewest, judged on every clip, the one that was looked into first; or why there are none."""
    naive = NAIVE.get(case.watcher)
    view = GraphView(candidate.graph, candidate.folder)
    rounding = find_rounding(view, naive=naive is not None)
    if not faults:
        return None, _NOTHING_LEFT
    if not rounding:
        return None, _NOT_SIXTEEN
    if case.watcher in WATCHED_GRAPHS:
        return None, _BY_BACKEND
    outputs = [value.name for value in candidate.graph.graph.output]
    clips = _order(case, clip)

    def judge(names: Collection[str]) -> tuple[str, ...]:
        evaluation = Evaluation(candidate.graph, candidate.folder, naive, names)
        for number in clips:
            inputs = make_inputs(case.bundle, case.frames(number), case.extras(number))
            got = {name: array[:1] for name, array in evaluation.run(inputs, outputs).items()}
            if found := case.faults(got, number, case.gate):
                return found
        return ()

    cheap_first = sorted(rounding, key=lambda node: node.op_type == "MatMul")
    found = find_islands({node.name: node.op_type for node in cheap_first}, judge, case.announce, grain=grain)
    return found, "" if found else _MISTAKE if naive or not _has_coarse_weights(view) else _WEIGHTS


def _has_coarse_weights(view: GraphView) -> bool:
    return any(view.types[name] in ("float16", "bfloat16") for name in view.tensors)


def _measure_cost(case: _Case, candidate: Side, clip: int, islands: Islands) -> IslandCost:
    """ONNX Runtime's time is that of a float32 graph, if one of the two is."""
    case.announce("measure the cost")
    island_cost = import_with_extra("vjepa2.export.island_cost", "onnxruntime")
    seconds = None
    if case.source.manifest.precision == "fp32":
        inputs = make_inputs(case.source, case.frames(clip), case.extras(clip))
        seconds = island_cost.time_nodes(case.source.path / PORTABLE, inputs)
    view = GraphView(candidate.graph, candidate.folder)
    names = [name for island in islands.islands for name in island.nodes]
    cost: IslandCost = island_cost.measure_cost(view, names, naive=case.watcher in NAIVE, seconds=seconds)
    return cost
