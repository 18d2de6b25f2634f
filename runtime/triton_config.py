"""What has Triton to know of a model: its `config.pbtxt`, a `ModelConfig` of Triton's model_config.proto?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vjepa2.errors import BundleError
from vjepa2.manifest import Manifest, TensorInfo

from .triton_text import Field, Message, Word, write_message

Device = Literal["cpu", "gpu"]
LABELS = "labels.txt"  # beside the config
VERSION = 1

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How requests wait, are joined and computed; the words are those of `QueueOptions`."""

    device: Device = "cpu"  # of the ONNX graph; a plan has its GPU
    instances: int = 1  # of the model, on each GPU or on the CPU
    max_batch: int = 8  # clips a call, of a graph whose batch is dynamic; a plan has its own
    max_wait_ms: float = 0.0  # that a request waits for company while an instance is free
    max_waiting: int = 64  # requests; while so many wait, the next is rejected
    deadline_s: float = 30.0  # of a request that was not begun; then it is rejected


def write_onnx_config(name: str, manifest: Manifest, options: ServeOptions) -> str:
    """Of `onnxruntime.onnx`: its pooled outputs, or `tokens` where it has no other; in float32 on a GPU, not tf32."""
    pooled = tuple(info for info in manifest.outputs if info.name != "tokens") or manifest.outputs
    batch = options.max_batch if manifest.batch == "dynamic" else 0
    head: list[Field] = [("name", name), ("backend", "onnxruntime")]
    message = [*head, *_describe(manifest, pooled, batch, options, options.device)]
    if options.device == "gpu":
        message.append(("optimization", _without_tf32()))
    return write_message(message)


def write_plan_config(name: str, manifest: Manifest, max_batch: int, options: ServeOptions) -> str:
    """Of a TensorRT plan, built for up to `max_batch` clips: every output, which Triton's backend for it insists on."""
    batch = max_batch if manifest.batch == "dynamic" else 0
    head: list[Field] = [("name", name), ("backend", "tensorrt"), ("platform", "tensorrt_plan")]
    return write_message([*head, *_describe(manifest, manifest.outputs, batch, options, "gpu")])


def write_labels(manifest: Manifest) -> str | None:
    """A class a line, as Triton's classification extension reads them; None where the bundle names none."""
    if manifest.labels is None or all(info.name != "logits" for info in manifest.outputs):
        return None
    for label in manifest.labels:
        if len(label.splitlines()) != 1:
            raise BundleError(f"the class {label!r} is not one line of text, as Triton's labels are; export it renamed")
    return "".join(f"{label}\n" for label in manifest.labels)


def _describe(
    manifest: Manifest, outputs: Sequence[TensorInfo], batch: int, options: ServeOptions, device: Device
) -> Message:
    """All but name and backend; `batch` is 0 where the graph's is fixed, and a request then one call."""
    has_labels = write_labels(manifest) is not None
    return [
        ("max_batch_size", batch),
        *(("input", _describe_tensor(info, batch)) for info in manifest.inputs),
        *(
            ("output", [*_describe_tensor(info, batch), *_name_labels(has_labels and info.name == "logits")])
            for info in outputs
        ),
        ("version_policy", [("specific", [("versions", (VERSION,))])]),
        ("instance_group", [("count", options.instances), ("kind", Word(f"KIND_{device.upper()}"))]),
        ("dynamic_batching", _describe_queue(options)),
        *(("model_warmup", _describe_warm_up(manifest, clips, batch)) for clips in sorted({1, batch or 1})),
    ]


def _describe_tensor(info: TensorInfo, batch: int) -> list[Field]:
    return [("name", info.name), ("data_type", Word(_TYPES[info.dtype])), ("dims", _sides(info, batch))]


def _sides(info: TensorInfo, batch: int) -> tuple[int, ...]:
    """Without the clips where Triton counts them, with them where the graph's number is fixed."""
    sides = info.shape[1:] if batch else info.shape
    assert all(isinstance(side, int) for side in sides)
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


def _describe_warm_up(manifest: Manifest, clips: int, batch: int) -> list[Field]:
    """A call before the model is ready: noise for pixels; zeros for the rest, where noise is no token's number."""
    inputs: list[Field] = []
    for info in manifest.inputs:
        filled = "random_data" if info.dtype == "uint8" else "zero_data"
        data: list[Field] = [*_describe_tensor(info, batch)[1:], (filled, True)]
        inputs.append(("inputs", [("key", info.name), ("value", data)]))
    return [("name", f"{clips} clip{'s' * (clips > 1)}"), ("batch_size", clips), *inputs]


def _without_tf32() -> list[Field]:
    """The CUDA provider would round float32 products to tf32 unless told not to."""
    parameter: list[Field] = [("key", "use_tf32"), ("value", "0")]
    accelerator: list[Field] = [("name", "cuda"), ("parameters", parameter)]
    return [("execution_accelerators", [("gpu_execution_accelerator", accelerator)])]
