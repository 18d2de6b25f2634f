"""What has Triton to know of a model: its `config.pbtxt`, a `ModelConfig` of Triton's model_config.proto?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vjepa2.engine_manifest import DataTypeName, EngineManifest, EngineTensor
from vjepa2.errors import BundleError, EngineError
from vjepa2.manifest import Manifest, TensorInfo

from .triton_text import Field, Message, Word, write_message

Device = Literal["cpu", "gpu"]
LABELS = "labels.txt"  # beside the config
VERSION = 1

# of a graph's tensors, and of a plan's, where TensorRT before 10 has other ones
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64"}
_PLAN_TYPES: dict[DataTypeName, str] = {
    "FLOAT": "TYPE_FP32",
    "HALF": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "INT8": "TYPE_INT8",
    "UINT8": "TYPE_UINT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "BOOL": "TYPE_BOOL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How requests wait, are joined and computed; the words are those of `QueueOptions`."""

    device: Device = "cpu"  # of the ONNX graph; a plan has its GPU
    instances: int = 1  # of the model, on each GPU or on the CPU
    max_batch: int = 8  # clips a call, of a graph whose batch is dynamic; a plan has its own
    max_wait_ms: float = 0.0  # that a request waits for company while an instance is free
    max_waiting: int = 64  # requests; while so many wait, the next is rejected
    deadline_s: float = 30.0  # of a request that was not begun; then it is rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """An input or output in Triton's words."""

    name: str
    type: str
    shape: tuple[int | str, ...]  # the first side counts clips


def write_onnx_config(name: str, manifest: Manifest, options: ServeOptions) -> str:
    """Of `onnxruntime.onnx`: its pooled outputs, or `tokens` where it has no other; in float32 on a GPU, not tf32."""
    pooled = tuple(info for info in manifest.outputs if info.name != "tokens") or manifest.outputs
    inputs, outputs = [_of_graph(info) for info in manifest.inputs], [_of_graph(info) for info in pooled]
    batch = options.max_batch if manifest.batch == "dynamic" else 0
    message: list[Field] = [("name", name), ("backend", "onnxruntime")]
    message += _describe(inputs, outputs, batch, options, options.device, write_labels(manifest) is not None)
    if options.device == "gpu":
        message.append(("optimization", _without_tf32()))
    return write_message(message)


def write_plan_config(name: str, manifest: Manifest, engine: EngineManifest, options: ServeOptions) -> str:
    """Of a TensorRT plan: every output, which Triton's backend for it insists on, and batches as it was built for."""
    inputs = [_of_plan(tensor) for tensor in engine.io if tensor.mode == "input"]
    outputs = [_of_plan(tensor) for tensor in engine.io if tensor.mode == "output"]
    batch = engine.max_batch if manifest.batch == "dynamic" else 0
    message: list[Field] = [("name", name), ("backend", "tensorrt"), ("platform", "tensorrt_plan")]
    message += _describe(inputs, outputs, batch, options, "gpu", write_labels(manifest) is not None)
    return write_message(message)


def write_labels(manifest: Manifest) -> str | None:
    """A class a line, as Triton's classification extension reads them; None where the bundle names none."""
    if manifest.labels is None or all(info.name != "logits" for info in manifest.outputs):
        return None
    for label in manifest.labels:
        if len(label.splitlines()) != 1:
            raise BundleError(f"the class {label!r} is not one line of text, as Triton's labels are; export it renamed")
    return "".join(f"{label}\n" for label in manifest.labels)


def _of_graph(info: TensorInfo) -> _Tensor:
    return _Tensor(name=info.name, type=_TYPES[info.dtype], shape=info.shape)


def _of_plan(tensor: EngineTensor) -> _Tensor:
    if tensor.dtype not in _PLAN_TYPES:
        raise EngineError(f"the plan's {tensor.name} is {tensor.dtype}; Triton has {', '.join(_PLAN_TYPES)}")
    return _Tensor(name=tensor.name, type=_PLAN_TYPES[tensor.dtype], shape=tensor.shape)


def _describe(
    inputs: Sequence[_Tensor],
    outputs: Sequence[_Tensor],
    batch: int,
    options: ServeOptions,
    device: Device,
    has_labels: bool,
) -> Message:
    """All but name and backend; `batch` is 0 where the graph's is fixed, and a request then one call."""
    return [
        ("max_batch_size", batch),
        *(("input", _describe_tensor(tensor, batch)) for tensor in inputs),
        *(
            ("output", [*_describe_tensor(tensor, batch), *_name_labels(has_labels and tensor.name == "logits")])
            for tensor in outputs
        ),
        ("version_policy", [("specific", [("versions", (VERSION,))])]),
        ("instance_group", [("count", options.instances), ("kind", Word(f"KIND_{device.upper()}"))]),
        ("dynamic_batching", _describe_queue(options)),
        *(("model_warmup", _describe_warm_up(inputs, clips, batch)) for clips in sorted({1, batch or 1})),
    ]


def _describe_tensor(tensor: _Tensor, batch: int) -> list[Field]:
    return [("name", tensor.name), ("data_type", Word(tensor.type)), ("dims", _sides(tensor, batch))]


def _sides(tensor: _Tensor, batch: int) -> tuple[int, ...]:
    """Without the clips where Triton counts them, with them where the graph's number is fixed."""
    sides = tensor.shape[1:] if batch else tensor.shape
    return tuple(int(side) for side in sides)


def _name_labels(is_named: bool) -> list[Field]:
    return [("label_filename", LABELS)] if is_named else []


def _describe_queue(options: ServeOptions) -> list[Field]:
    """Without it Triton's queue is endless. Where `max_batch_size` is 0, each request is a batch of its own."""
    policy: list[Field] = [
        ("timeout_action", Word("REJECT")),
        ("default_timeout_microseconds", round(options.deadline_s * 1e6)),
        ("allow_timeout_override", False),
        ("max_queue_size", options.max_waiting),
    ]
    return [
        ("max_queue_delay_microseconds", round(options.max_wait_ms * 1e3)),
        ("default_queue_policy", policy),
    ]


def _describe_warm_up(inputs: Sequence[_Tensor], clips: int, batch: int) -> list[Field]:
    """A call before the model is ready: noise for pixels; zeros for the rest, where noise is no token's number."""
    samples: list[Field] = []
    for tensor in inputs:
        filled = "random_data" if tensor.type == "TYPE_UINT8" else "zero_data"
        data: list[Field] = [*_describe_tensor(tensor, batch)[1:], (filled, True)]
        samples.append(("inputs", [("key", tensor.name), ("value", data)]))
    return [("name", f"{clips} clip{'s' * (clips > 1)}"), ("batch_size", clips), *samples]


def _without_tf32() -> list[Field]:
    """The CUDA provider would round float32 products to tf32 unless told not to."""
    parameter: list[Field] = [("key", "use_tf32"), ("value", "0")]
    accelerator: list[Field] = [("name", "cuda"), ("parameters", parameter)]
    return [("execution_accelerators", [("gpu_execution_accelerator", accelerator)])]
