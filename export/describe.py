"""What does a bundle's manifest say of the export that made it?"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from torch import Tensor

from vjepa2 import __version__
from vjepa2.bundle import WEIGHTS
from vjepa2.checkpoints import Request
from vjepa2.head_checkpoints import ProbeOf, read_evaluation
from vjepa2.head_parts import describe_parts
from vjepa2.head_specs import ActionSpec, HeadParts, PredictorSpec
from vjepa2.headed import Headed, count_frames, head_of
from vjepa2.heads import ImageHead
from vjepa2.manifest import (
    CROP_DOWN,
    Batch,
    Calibration,
    CalibrationMethod,
    Crop,
    GraphInput,
    Manifest,
    Precision,
    Preprocessing,
    Source,
    StoredParameter,
    TensorInfo,
    Transform,
)
from vjepa2.spec import Head, OutputName

from .quantize import SCALE
from .weights_file import place_tensors

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export, and how."""

    weights: Request
    batch: Batch = 1
    graph_input: GraphInput = "frames"
    head: Head | None = None  # None: embedding, or classifier where the source is one or classes are given
    classes: int | tuple[int, ...] | None = None  # of random weights, three for anticipation; trained ones know theirs
    pooling: ImageHead | None = None  # of a classifier of random weights
    probe: ProbeOf | None = None  # with whose heads a classifier of videos computes
    segments: int | None = None  # clips of a video that it looks at together; None: one
    ahead: int | None = None  # frames from the end of the clip to what is anticipated; None: a second, at 8 a second
    encoder: str | None = None  # where the encoder is, if the source is a probe's .pt file
    predictor: PredictorSpec | None = None  # of a model that is not in the table
    predictor_side: int | None = None  # that V-JEPA 2.1's predictor rescales positions to; None: as published, to none
    action: ActionSpec | None = None
    context: int | None = None  # tokens that a predictor is told
    targets: int | None = None  # tokens that it is asked for
    context_only: bool = False  # the encoder before it sees the context's tokens alone
    crop: Crop = CROP_DOWN  # how the runtime cuts a frame's margins
    clips: Path | None = None  # a folder of videos to prove the graphs on
    simplify: bool = True
    precision: Precision = "fp32"
    calibration: CalibrationMethod = "percentile"  # of 8 bits
    calibration_clips: Path | None = None  # a folder of other videos, to find the ranges of 8 bits on
    islands: tuple[str, ...] = ()  # of 16 bits: sets of nodes, or nodes, to be float32 (see `island_sets`)
    accept: Mapping[str, float] = field(default_factory=dict)  # limits of the gate to put lower, by name


# what each output's axes are, and then its channels or classes
_AXES: dict[OutputName, tuple[str, ...]] = {
    "tokens": ("batch", "tokens", "channels"),
    "embedding": ("batch", "channels"),
    "logits": ("batch", "classes"),
    "predicted": ("batch", "tokens", "channels"),
    "verb": ("batch", "classes"),
    "noun": ("batch", "classes"),
    "action": ("batch", "classes"),
}


def describe_export(
    model: Headed,
    labels: tuple[str, ...] | None,
    source: Source,
    request: ExportRequest,
    extras: tuple[TensorInfo, ...],
    shapes: Mapping[OutputName, tuple[int, ...]],
    parameters: Mapping[str, tuple[str, Transform]],
    tensors: Mapping[str, Tensor],
    clips: int,
) -> Manifest:
    """The manifest, but for what is known only later: graphs, parity and files.

    `shapes` are the outputs', `parameters` those of a `Trace`, `tensors` what lies in the file of weights, and `clips`
    how many 8 bits were calibrated on.
    """
    encoder = model.encoder
    infos = (_describe_input(model, request), *extras)
    outputs = (TensorInfo(name=name, dtype="float32", shape=shape, axes=_AXES[name]) for name, shape in shapes.items())
    return Manifest(
        model=encoder.spec,
        clip=encoder.clip,
        head=head_of(model),
        parts=_with_evaluation(describe_parts(model), request),
        classes=shapes["logits"][-1] if "logits" in shapes else None,
        labels=labels,
        batch=request.batch,
        precision=request.precision,
        calibration=_describe_calibration(request, clips),
        inputs=tuple(_with_batch(info, request.batch) for info in infos),
        outputs=tuple(_with_batch(info, request.batch) for info in outputs),
        preprocessing=Preprocessing(crop=request.crop),
        source=source,
        graphs={},
        parameters=_describe_parameters(parameters, tensors),
        parity={},
        tools={"vjepa2-edge": __version__} | {name: version for name in _TOOLS if (version := _version(name))},
        files={},
    )


def _with_evaluation(parts: HeadParts, request: ExportRequest) -> HeadParts:
    """The parts, and of a released probe in how many views and how far apart its makers took the frames."""
    known = read_evaluation(request.weights.source, request.weights.model)
    if parts.probe is None or known is None:
        return parts
    step, rate = known.frame_step, known.frames_per_second
    return replace(parts, probe=replace(parts.probe, views=known.views, frame_step=step, frames_per_second=rate))


def _describe_input(model: Headed, request: ExportRequest) -> TensorInfo:
    clip = replace(model.encoder.clip, frames=count_frames(model), tubelet=1)
    if request.graph_input == "frames":
        axes = ("batch", "frames", "height", "width", "rgb")
        return TensorInfo(name="frames", dtype="uint8", shape=clip.frames_shape(), axes=axes)
    axes = ("batch", "frames", "rgb", "height", "width")
    return TensorInfo(name="pixel_values_videos", dtype="float32", shape=clip.shape(), axes=axes)


def _describe_calibration(request: ExportRequest, clips: int) -> Calibration | None:
    if request.precision not in ("int8", "fp8"):
        return None
    source = "generated" if request.calibration_clips is None else request.calibration_clips.resolve().name
    return Calibration(method=request.calibration, clips=clips, source=source)


def _describe_parameters(
    parameters: Mapping[str, tuple[str, Transform]], tensors: Mapping[str, Tensor]
) -> dict[str, StoredParameter]:
    places = place_tensors(tensors)
    return {
        name: StoredParameter(
            file=WEIGHTS,
            offset=places[tensor].offset,
            shape=tuple(tensors[tensor].shape),
            dtype=str(tensors[tensor].dtype).removeprefix("torch."),
            scales=places[tensor + SCALE].offset if tensor + SCALE in places else None,
            transform=transform,
        )
        for name, (tensor, transform) in sorted(parameters.items())
    }


def _with_batch(info: TensorInfo, batch: Batch) -> TensorInfo:
    return replace(info, shape=("batch" if batch == "dynamic" else batch, *info.shape[1:]))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
