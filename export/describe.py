"""What does a bundle's manifest say of the export that made it?"""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vjepa2 import __version__
from vjepa2.bundle import WEIGHTS
from vjepa2.checkpoints import Request
from vjepa2.encoder import Encoder
from vjepa2.heads import ImageClassifier
from vjepa2.manifest import (
    Batch,
    GraphInput,
    Manifest,
    Preprocessing,
    Source,
    StoredParameter,
    TensorInfo,
)

from .trace import Trace
from .weights_file import place_tensors

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export, and how."""

    weights: Request
    batch: Batch = 1
    graph_input: GraphInput = "frames"
    classes: int | None = None  # of an image classifier on random weights; a trained one brings its own
    clips: Path | None = None  # a folder of videos to prove the graphs on
    simplify: bool = True


def describe_export(
    encoder: Encoder, source: Source, request: ExportRequest, traced: Trace, classifier: ImageClassifier | None
) -> Manifest:
    """The manifest, but for what is known only later: graphs, parity and files."""
    classes = None if classifier is None else classifier.head.out_features
    return Manifest(
        model=encoder.spec,
        clip=encoder.clip,
        head="embedding" if classifier is None else "classifier",
        classes=classes,
        labels=None if classifier is None else classifier.labels,
        batch=request.batch,
        precision="fp32",
        inputs=(_describe_input(encoder, request),),
        outputs=_describe_outputs(encoder, request.batch, classes),
        preprocessing=Preprocessing(),
        source=source,
        graphs={},
        parameters=_describe_parameters(traced),
        parity={},
        tools={"vjepa2-edge": __version__} | {name: version for name in _TOOLS if (version := _version(name))},
        files={},
    )


def _describe_input(encoder: Encoder, request: ExportRequest) -> TensorInfo:
    if request.graph_input == "frames":
        shape = _with_batch(encoder.clip.frames_shape(), request.batch)
        axes = ("batch", "frames", "height", "width", "rgb")
        return TensorInfo(name="frames", dtype="uint8", shape=shape, axes=axes)
    shape = _with_batch(encoder.clip.shape(), request.batch)
    axes = ("batch", "frames", "rgb", "height", "width")
    return TensorInfo(name="pixel_values_videos", dtype="float32", shape=shape, axes=axes)


def _describe_outputs(encoder: Encoder, batch: Batch, classes: int | None) -> tuple[TensorInfo, ...]:
    dim, count = encoder.spec.dim, encoder.clip.tokens
    described: list[tuple[str, tuple[int, ...], tuple[str, ...]]] = [
        ("tokens", (1, count, dim), ("batch", "tokens", "channels")),
        ("embedding", (1, dim), ("batch", "channels")),
    ]
    if classes is not None:
        described.append(("logits", (1, classes), ("batch", "classes")))
    return tuple(
        TensorInfo(name=name, dtype="float32", shape=_with_batch(shape, batch), axes=axes)
        for name, shape, axes in described
    )


def _describe_parameters(traced: Trace) -> dict[str, StoredParameter]:
    places = place_tensors(traced.tensors)
    return {
        name: StoredParameter(
            file=WEIGHTS,
            offset=places[tensor].offset,
            shape=tuple(traced.tensors[tensor].shape),
            dtype="float32",
            transform=transform,
        )
        for name, (tensor, transform) in sorted(traced.parameters.items())
    }


def _with_batch(shape: tuple[int, ...], batch: Batch) -> tuple[int | str, ...]:
    return ("batch" if batch == "dynamic" else batch, *shape[1:])


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
