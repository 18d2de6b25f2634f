"""Which backends are there, what does each lack on this machine, and which does `auto` take?"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, MissingDependencyError, UnknownNameError
from vjepa2.extras import advise, import_with_extra
from vjepa2.runtime.gpus import explain_no_gpu, list_gpus

from .base import Backend


@dataclass(frozen=True, slots=True)
class Entry:
    """A backend: our file and class, the library that it imports, and the extra that brings it."""

    module: str
    class_name: str
    library: str
    extra: str


BACKENDS = {
    "tensorrt": Entry("trt", "TensorRtBackend", "tensorrt", "tensorrt"),
    "onnxruntime": Entry("onnxrt", "OnnxRuntimeBackend", "onnxruntime", "onnxruntime"),
    "onnxruntime-portable": Entry("onnxrt", "OnnxRuntimePortableBackend", "onnxruntime", "onnxruntime"),
    "onnxruntime-cuda": Entry("onnxrt", "OnnxRuntimeCudaBackend", "onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-tensorrt": Entry("onnxrt", "OnnxRuntimeTensorRtBackend", "onnxruntime", "onnxruntime-gpu"),
    "openvino": Entry("ov", "OpenVinoBackend", "openvino", "openvino"),
    "openvino-gpu": Entry("ov", "OpenVinoGpuBackend", "openvino", "openvino"),
    "pytorch": Entry("pytorch", "PyTorchBackend", "torch", "torch"),
    "pytorch-compile": Entry("pytorch", "PyTorchCompileBackend", "torch", "torch"),
    # what others would run, to be compared with
    "transformers": Entry("peers", "TransformersBackend", "transformers", "baselines"),
    "transformers-eager": Entry("peers", "TransformersEagerBackend", "transformers", "baselines"),
    "transformers-compile": Entry("peers", "TransformersCompileBackend", "transformers", "baselines"),
    "transformers-onnxruntime": Entry(
        "peers_onnxrt", "TransformersOnnxRuntimeBackend", "transformers", "baselines,onnxruntime"
    ),
    "transformers-openvino": Entry("peers_ov", "TransformersOpenVinoBackend", "transformers", "baselines,openvino"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What `auto` may take, and why it stands where it stands."""

    name: str
    device: str
    why: str
    machine: str = ""  # only where `platform.machine()` is this


# `auto` takes the first that this machine has. Not in it, and to be had by name: onnxruntime-tensorrt and
# pytorch-compile, whose first run takes minutes to build what it runs; openvino-gpu, of which a small one is slower
# than its CPU; what is called transformers.
AUTO = (
    Candidate("tensorrt", "cuda", "an engine that was proved on this GPU"),
    Candidate("onnxruntime-cuda", "cuda", "a GPU, attention fused"),
    Candidate("pytorch", "cuda", "a GPU, attention fused, by a larger library"),
    Candidate("openvino", "cpu", "no usable GPU; the quickest on this kind of CPU (make bench)", "x86_64"),
    Candidate("onnxruntime", "cpu", "no usable GPU; attention fused, without N x N memory"),
    Candidate("openvino", "cpu", "no usable GPU; attention fused by the library itself"),
    Candidate("pytorch", "cpu", "no usable GPU; attention fused, by a larger library"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` takes, and a sentence that says why."""

    name: str
    device: str
    reason: str


def find_missing(name: str, device: str | None = None, bundle: Bundle | None = None) -> str | None:
    """What backend `name` lacks here, as a sentence; None if it can be used. `BackendError` for an unknown device."""
    entry = find_entry(name)
    if find_spec(entry.library) is None:
        return f"{name} needs {entry.library}; {advise(entry.extra)}"
    try:
        backend = load_class(name)
    except MissingDependencyError as error:
        return str(error)
    backend.check_device(device)
    obstacle = backend.find_obstacle(device, bundle)
    return None if obstacle is None else f"{name} needs {obstacle}"


def choose_backend(bundle: Bundle | None = None, device: str | None = None) -> Choice:
    """The first of `AUTO` that is usable, on `device` if one is given; `MissingDependencyError` if none is."""
    passed: list[str] = []
    kind = (device or "").partition(":")[0]
    for candidate in AUTO:
        if kind not in ("", candidate.device) or candidate.machine not in ("", platform.machine()):
            continue
        wanted = device or candidate.device
        missing = _find_no_gpu(candidate) or find_missing(candidate.name, wanted, bundle)
        if missing is None:
            return Choice(candidate.name, wanted, f"auto: {candidate.why}{_list(passed)}")
        passed += [missing] if missing not in passed else []
    if not passed:
        kinds = dict.fromkeys(candidate.device for candidate in AUTO)
        raise BackendError(f"auto has no device {device!r}; it has {', '.join(kinds)}: name a backend for another one")
    raise MissingDependencyError(f"no backend is usable{_list(passed)}")


def load_class(name: str) -> type[Backend]:
    """The class of a backend; `MissingDependencyError` if its library does not load."""
    entry = find_entry(name)
    module = import_with_extra(f"{__package__}.{entry.module}", entry.extra)
    backend: type[Backend] = getattr(module, entry.class_name)
    return backend


def find_entry(name: str) -> Entry:
    """The row of a backend; `UnknownNameError` if there is none."""
    if name not in BACKENDS:
        raise UnknownNameError(f"no backend is named {name!r}; choose auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def _find_no_gpu(candidate: Candidate) -> str | None:
    """Asked of the driver, so that no large library is imported for nothing."""
    return f"cuda needs {explain_no_gpu()}" if candidate.device == "cuda" and not list_gpus() else None


def _list(passed: Sequence[str]) -> str:
    return f" ({'; '.join(passed)})" if passed else ""
