"""How do weights become a finished bundle: stage by stage, and nothing is published that was not proven."""

import gc
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch

from vjepa2.bundle import REFERENCE, WEIGHTS, Bundle
from vjepa2.errors import ExportError
from vjepa2.extras import import_with_extra
from vjepa2.headed import Headed, count_frames
from vjepa2.manifest import GraphInfo, Manifest, ParityVerdict, Precision, TensorInfo
from vjepa2.runtime.parity import GATES, Reference
from vjepa2.spec import ClipSpec

from .canaries import compute_mistaken
from .describe import ExportRequest, describe_export
from .extras import describe_extras, make_extras
from .lint import demand_clean, lint_file
from .load_model import load_model
from .prove import PROVERS, make_runner, prove_graph
from .quantize import Eight, EightBits, choose_layers
from .reference import compute_reference, gather_calibration_clips, gather_clips
from .simplify import Simplification, simplify_graph
from .targets import TARGETS_OF
from .trace import trace_model
from .variants import make_variants
from .weights_file import write_tensors
from .words import spell_request

__all__ = ["ExportResult", "Stages", "compute_reference", "export_bundle", "gather_clips"]

_SIXTEEN_BITS = ("fp16", "bf16")
_EIGHT_BITS: dict[Precision, Eight] = {"int8": "int8", "fp8": "fp8"}


@dataclass(slots=True)
class Stages:
    """What is going on, and how long each part took."""

    announce: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce `name`, and add the block's time to it."""
        self.announce(name)
        start_s = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """A finished bundle, and what making it took."""

    bundle: Bundle
    seconds: dict[str, float]  # by stage
    peak_bytes: int  # resident, of this process


def export_bundle(
    request: ExportRequest, path: str | Path, *, announce: Callable[[str], None] = lambda _: None
) -> ExportResult:
    """Write the bundle of `request` at `path`, whole, or nothing.

    `LintError` if a graph does not keep the rules of a target that it is for, `ParityError` if it is outside its gate.

    `announce` is called with the name of each stage as it begins.
    """
    stages = Stages(announce)
    GATES[request.precision].accept(request.accept)  # what cannot be accepted is refused before an hour of work
    if request.calibration_clips and request.precision not in _EIGHT_BITS:
        raise ExportError(
            f"--calibration-clips are for {' and '.join(_EIGHT_BITS)}; leave them out of {request.precision}"
        )
    if request.islands and request.precision not in _SIXTEEN_BITS:
        raise ExportError(
            f"islands are float32 in a graph of {' or '.join(_SIXTEEN_BITS)}; leave them out of {request.precision}"
        )
    with Bundle.create(path) as draft:
        provisional, variants, reference = _write_weights(request, draft.path, stages)
        gc.collect()  # the exporter's cycles would keep the weights beside those of ONNX Runtime
        bundle = Bundle(draft.path, provisional)
        graphs = {
            name: _write_graph(bundle, name, graph, request, reference, stages) for name, graph in variants.items()
        }
        provisional = replace(provisional, graphs=_lint_graphs(draft.path, graphs, provisional, stages))
        verdicts = _prove_graphs(Bundle(draft.path, provisional), request, reference, stages)
        with stages.stage("hash and sync"):
            manifest = draft.seal(replace(provisional, parity=verdicts))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ExportResult(bundle=Bundle(Path(path), manifest), seconds=stages.seconds, peak_bytes=peak_bytes)


def _write_weights(
    request: ExportRequest, folder: Path, stages: Stages
) -> tuple[Manifest, dict[str, onnx.ModelProto], Reference]:
    """Everything that needs the module; when this returns, nothing holds its weights any more."""
    with stages.stage("load weights"):
        model, source, labels = load_model(request)
        extras = describe_extras(model, request.context, request.targets)
    with stages.stage("run PyTorch"):
        reference = _prove_with(model, extras, request)
    with stages.stage("run canaries"):
        reference = replace(reference, mistaken=compute_mistaken(model, reference))
        reference.save(folder / REFERENCE)
    shapes = {name: array.shape for name, array in reference.outputs.by_name().items()}
    calibrated, ranges = 0, dict[str, float]()
    if request.precision in _EIGHT_BITS:
        with stages.stage("calibrate"):
            calibrated, ranges = _calibrate(model, extras, request, reference)
    with stages.stage("trace"):
        batch = 2 if request.batch == "dynamic" else request.batch  # of one clip, what repeats for others is left out
        examples = {name: torch.from_numpy(array) for name, array in make_extras(model, extras, batch).items()}
        traced = trace_model(model, tuple(shapes), examples, graph_input=request.graph_input, batch=batch)
    with stages.stage("lower"):
        eight = None
        if request.precision in _EIGHT_BITS:
            eight = EightBits(_EIGHT_BITS[request.precision], choose_layers(ranges, traced.tensors))
        variants = make_variants(
            traced, request.precision, eight, is_dynamic=request.batch == "dynamic", islands=request.islands
        )
    with stages.stage("write weights"):
        write_tensors(folder / WEIGHTS, variants.tensors)
    manifest = describe_export(
        model, labels, source, request, extras, shapes, traced.parameters, variants.tensors, calibrated
    )
    manifest = replace(manifest, islands=variants.islands, words=spell_request(request, model, source))
    return manifest, variants.graphs, reference


def _prove_with(model: Headed, extras: tuple[TensorInfo, ...], request: ExportRequest) -> Reference:
    frames_BTHWC = gather_clips(_pixels_of(model), request.clips, request.crop)
    return compute_reference(model, frames_BTHWC, make_extras(model, extras, len(frames_BTHWC)))


def _calibrate(
    model: Headed, extras: tuple[TensorInfo, ...], request: ExportRequest, reference: Reference
) -> tuple[int, dict[str, float]]:
    """On how many clips, none of them of the gate, and what each linear layer is given at most on them."""
    calibrate = import_with_extra("vjepa2.export.calibrate", "onnxruntime")
    clip, proven_on_BTHWC = _pixels_of(model), reference.frames_BTHWC
    frames_BTHWC = gather_calibration_clips(
        clip, request.calibration_clips, request.crop, proven_on_BTHWC=proven_on_BTHWC
    )
    inputs = make_extras(model, extras, len(frames_BTHWC))
    return len(frames_BTHWC), calibrate.find_ranges(model, frames_BTHWC, inputs, request.calibration)


def _pixels_of(model: Headed) -> ClipSpec:
    return replace(model.encoder.clip, frames=count_frames(model), tubelet=1)


def _write_graph(
    draft: Bundle, name: str, graph: onnx.ModelProto, request: ExportRequest, reference: Reference, stages: Stages
) -> GraphInfo:
    done = Simplification(graph, "not asked for")
    if request.simplify:
        with stages.stage(f"simplify {name}"):
            count = 1 if request.batch == "dynamic" else request.batch
            prover = PROVERS[request.precision][name]
            done = simplify_graph(
                graph, make_runner(draft.path, reference, request.graph_input, prover=prover, count=count)
            )
    (draft.path / name).write_bytes(done.graph.SerializeToString(deterministic=True))
    return GraphInfo(nodes=len(done.graph.graph.node), simplified=done.verdict)


def _lint_graphs(folder: Path, graphs: dict[str, GraphInfo], stated: Manifest, stages: Stages) -> dict[str, GraphInfo]:
    """Hold each graph, as it lies in the file, to the rules of every target that it is for."""
    linted = {}
    for name, info in graphs.items():
        with stages.stage(f"lint {name}"):
            reports = lint_file(folder / name, TARGETS_OF[name], precision=stated.precision, islands=stated.islands)
            demand_clean(name, reports)
        refused: dict[str, str] = {report.target: report.refused for report in reports if report.refused is not None}
        linted[name] = replace(info, targets=tuple(each.target for each in reports if each.passed), refused=refused)
    return linted


def _prove_graphs(
    bundle: Bundle, request: ExportRequest, reference: Reference, stages: Stages
) -> dict[str, ParityVerdict]:
    gate = GATES[request.precision].accept(request.accept)
    verdicts = {}
    for name in bundle.manifest.graphs:
        with stages.stage(f"prove {name}"):
            verdicts[name] = prove_graph(bundle, name, reference, gate)
    return verdicts
