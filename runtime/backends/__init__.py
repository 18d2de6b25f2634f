"""One module per inference library, and the only place that imports it."""

from dataclasses import dataclass
from importlib.util import find_spec

from vjepa2.bundle import Bundle
from vjepa2.errors import MissingDependencyError, UnknownNameError
from vjepa2.extras import import_with_extra

from .base import Backend, Outputs

__all__ = ["BACKENDS", "Backend", "Outputs", "find_missing", "open_backend"]


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    class_name: str
    library: str
    extra: str


# `auto` takes the first that is installed
BACKENDS = {
    "onnxruntime": _Entry("onnxrt", "OnnxRuntimeBackend", "onnxruntime", "onnxruntime"),
    "pytorch": _Entry("pytorch", "PyTorchBackend", "torch", "torch"),
    "onnxruntime-portable": _Entry("onnxrt", "OnnxRuntimePortableBackend", "onnxruntime", "onnxruntime"),
}


def open_backend(bundle: Bundle, name: str = "auto") -> Backend:
    """Load a bundle into the library called `name`, or into the first of the table that is installed."""
    if name == "auto":
        lacks = {choice: find_missing(choice) for choice in BACKENDS}
        name = next((choice for choice, missing in lacks.items() if missing is None), "")
        if not name:
            raise MissingDependencyError(f"no backend is installed: {'; '.join(map(str, lacks.values()))}")
    missing = find_missing(name)
    if missing:
        raise MissingDependencyError(missing)
    entry = BACKENDS[name]
    module = import_with_extra(f"{__name__}.{entry.module}", entry.extra)
    backend: type[Backend] = getattr(module, entry.class_name)
    return backend(bundle)


def find_missing(name: str) -> str | None:
    """What backend `name` lacks here, as a sentence; None if its library is installed."""
    if name not in BACKENDS:
        raise UnknownNameError(f"no backend is named {name!r}; choose auto or one of {', '.join(BACKENDS)}")
    entry = BACKENDS[name]
    if find_spec(entry.library) is not None:
        return None
    return f"{name} needs {entry.library}; pip install 'vjepa2-edge[{entry.extra}]'"
