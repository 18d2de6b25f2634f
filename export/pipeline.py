"""How do weights become a finished bundle: stage by stage, and nothing is published that was not proven."""

import gc
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, REFERENCE, WEIGHTS, Bundle
from vjepa2.checkpoints import RANDOM, load_checkpoint
from vjepa2.classifier_files import is_image_classifier, load_image_classifier
from vjepa2.encoder import Encoder
from vjepa2.errors import ExportError, ParityError
from vjepa2.extras import import_with_extra
from vjepa2.heads import ImageClassifier
from vjepa2.manifest import GraphInfo, Manifest, ParityVerdict, Source
from vjepa2.runtime.backends import open_backend
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.parity import GATES, Reference, check_parity
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec
from vjepa2.weights import fill_random

from .describe import ExportRequest, describe_export
from .lower import lower_graph, make_batch_dynamic
from .simplify import Outputs, Simplification, simplify_graph
from .trace import trace_encoder
from .weights_file import write_tensors

_LEAST_CLIPS = 3
_BACKENDS = {PORTABLE: "onnxruntime-portable", ONNXRUNTIME: "onnxruntime"}


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
    """Write the bundle of `request` at `path`, whole, or nothing; `ParityError` if a graph is outside its gate.

    `announce` is called with the name of each stage as it begins.
    """
    stages = Stages(announce)
    with Bundle.create(path) as draft:
        provisional, graph, reference = _write_weights(request, draft.path, stages)
        gc.collect()  # the exporter's cycles would keep the weights beside those of ONNX Runtime
        graphs = {name: _write_graph(draft.path, name, graph, request, reference, stages) for name in _BACKENDS}
        provisional = replace(provisional, graphs=graphs)
        verdicts = _prove_graphs(Bundle(draft.path, provisional), reference, stages)
        with stages.stage("hash and sync"):
            manifest = draft.seal(replace(provisional, parity=verdicts))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ExportResult(bundle=Bundle(Path(path), manifest), seconds=stages.seconds, peak_bytes=peak_bytes)


def _write_weights(request: ExportRequest, folder: Path, stages: Stages) -> tuple[Manifest, onnx.ModelProto, Reference]:
    """Everything that needs the module; when this returns, nothing holds its weights any more."""
    with stages.stage("load weights"):
        encoder, source = load_checkpoint(request.weights)
        classifier = _find_classifier(encoder, source, request)
        head = None if classifier is None else classifier.head
    with stages.stage("run PyTorch"):
        reference = compute_reference(encoder, head, gather_clips(encoder.clip, request.clips))
        reference.save(folder / REFERENCE)
    with stages.stage("trace"):
        batch = 1 if request.batch == "dynamic" else request.batch
        traced = trace_encoder(encoder, head, graph_input=request.graph_input, batch=batch)
    with stages.stage("write weights"):
        write_tensors(folder / WEIGHTS, traced.tensors)
    return describe_export(encoder, source, request, traced, classifier), traced.graph, reference


def _find_classifier(encoder: Encoder, source: Source, request: ExportRequest) -> ImageClassifier | None:
    """The image classifier that the source is, or random weights on `encoder` if classes were asked for."""
    folder, classes = Path(request.weights.source), request.classes
    if is_image_classifier(folder) and classes is None:
        trained = load_image_classifier(folder, encoder)
        if trained.pooler is not None:
            raise ExportError(f"{folder} has an attentive head; only a linear one can be exported: train one of these")
        return trained
    if classes is None:
        return None
    if source.name != RANDOM:
        raise ExportError(f"{source.name} takes no classes but its own; leave them out, or export random weights")
    if classes < 1:
        raise ExportError(f"classes is {classes}; it must be at least 1")
    with torch.device("meta"):
        classifier = ImageClassifier(encoder, classes)
    fill_random(classifier.head, source.seed or 0)
    return classifier


def gather_clips(clip: ClipSpec, folder: Path | None) -> FramesArray:
    """Frames `[B, T, H, W, 3]` to prove the graphs on: every video of `folder`, and generated scenes up to three."""
    clips = [] if folder is None else _read_clips(clip, folder)
    for seed in range(len(clips), _LEAST_CLIPS):
        clips.append(generate_scene(clip.frames, clip.height, clip.width, seed=seed))
    return np.stack(clips)


def _read_clips(clip: ClipSpec, folder: Path) -> list[FramesArray]:
    video = import_with_extra("vjepa2.runtime.video", "video")
    preprocess = import_with_extra("vjepa2.runtime.preprocess", "video")
    if not folder.is_dir():
        raise ExportError(f"{folder} is not a folder; --clips takes a folder of videos")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in video.VIDEO_SUFFIXES)
    if not files:
        raise ExportError(f"{folder} holds no video ({', '.join(video.VIDEO_SUFFIXES)})")
    return [preprocess.fit_clip(video.read_frames(file, clip.frames, pad="repeat-last"), clip) for file in files]


def compute_reference(encoder: Encoder, head: nn.Linear | None, frames_BTHWC: FramesArray) -> Reference:
    """What PyTorch float32 makes of the clips, one at a time."""
    tokens, norms = [], []
    with torch.inference_mode():
        for frames in frames_BTHWC:
            clip_BTCHW = torch.from_numpy(normalise(frames[None], RGB_MEAN, RGB_STD))
            stream_BND = encoder.mix_patches(encoder.embed_patches(clip_BTCHW))
            tokens.append(encoder.normalise(stream_BND))
            norms.append(stream_BND.norm(dim=-1))
        tokens_BND = torch.cat(tokens)
        embeddings_BD = tokens_BND.mean(dim=1)
        return Reference(
            frames_BTHWC=frames_BTHWC,
            tokens_BND=tokens_BND.numpy(),
            embeddings_BD=embeddings_BD.numpy(),
            norms_BN=torch.cat(norms).numpy(),
            logits_BL=None if head is None else head(embeddings_BD).numpy(),
        )


def _write_graph(
    folder: Path,
    name: str,
    traced: onnx.ModelProto,
    request: ExportRequest,
    reference: Reference,
    stages: Stages,
) -> GraphInfo:
    with stages.stage(f"lower {name}"):
        graph = lower_graph(traced, name)
        if request.batch == "dynamic":
            make_batch_dynamic(graph)
    done = Simplification(graph, "not asked for")
    if request.simplify:
        with stages.stage(f"simplify {name}"):
            done = simplify_graph(graph, _runner(folder, request, reference))
    (folder / name).write_bytes(done.graph.SerializeToString(deterministic=True))
    return GraphInfo(nodes=len(done.graph.graph.node), simplified=done.verdict)


def _runner(folder: Path, request: ExportRequest, reference: Reference) -> Callable[[onnx.ModelProto], Outputs]:
    """Runs a graph beside its weights, on the first clip."""
    onnxrt = import_with_extra("vjepa2.runtime.backends.onnxrt", "onnxruntime")
    clips: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = reference.frames_BTHWC[:1]
    if request.batch != "dynamic":
        clips = np.repeat(clips, request.batch, axis=0)
    if request.graph_input == "pixel_values_videos":
        clips = normalise(clips.astype(np.uint8), RGB_MEAN, RGB_STD)

    def run(graph: onnx.ModelProto) -> Outputs:
        file = folder / "candidate.onnx"
        file.write_bytes(graph.SerializeToString())
        try:
            outputs: Outputs = onnxrt.run_graph(file, {request.graph_input: clips})
            return outputs
        finally:
            file.unlink()

    return run


def _prove_graphs(bundle: Bundle, reference: Reference, stages: Stages) -> dict[str, ParityVerdict]:
    gate = GATES[bundle.manifest.precision]
    verdicts = {}
    for name, backend_name in _BACKENDS.items():
        with stages.stage(f"prove {name}"), open_backend(bundle, backend_name) as backend:
            verdicts[name] = check_parity(reference, backend, gate)
        if not verdicts[name].passed:
            raise ParityError(f"{name} is outside its gate, {gate}: {verdicts[name]}; no bundle was written")
    return verdicts
