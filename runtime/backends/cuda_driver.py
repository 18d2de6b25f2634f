"""How is NVIDIA's driver called: through cuda-python where it is installed, through ctypes where not?

It is the driver's library that is called, never libcudart: TensorRT may carry a runtime of its own inside, and then
there is no libcudart on the machine. Streams and memory of the driver's primary context are the runtime's as well.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from vjepa2.errors import BackendError

LIBRARY = "libcuda.so.1"
_LAYOUTS = ("cuda.bindings.driver", "cuda.cuda")  # of cuda-python: from 12.6 on, and before

_pointer, _count, _int, _uint = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_address = ctypes.c_uint64  # CUdeviceptr


@dataclass(frozen=True, slots=True)
class _Prototype:
    symbol: str  # what the library exports: the header renames what has changed since
    takes: tuple[Any, ...] = ()
    gives: tuple[Any, ...] = ()
    gives_last: bool = False  # its results stand behind its arguments


_PROTOTYPES = {
    "cuInit": _Prototype("cuInit", (_uint,)),
    "cuDriverGetVersion": _Prototype("cuDriverGetVersion", (), (_int,)),
    "cuDeviceGetCount": _Prototype("cuDeviceGetCount", (), (_int,)),
    "cuDeviceGet": _Prototype("cuDeviceGet", (_int,), (_int,)),
    "cuDeviceGetAttribute": _Prototype("cuDeviceGetAttribute", (_int, _int), (_int,)),
    "cuDevicePrimaryCtxRetain": _Prototype("cuDevicePrimaryCtxRetain", (_int,), (_pointer,)),
    "cuDevicePrimaryCtxRelease": _Prototype("cuDevicePrimaryCtxRelease_v2", (_int,)),
    "cuCtxSetCurrent": _Prototype("cuCtxSetCurrent", (_pointer,)),
    "cuMemGetInfo": _Prototype("cuMemGetInfo_v2", (), (_count, _count)),
    "cuMemAlloc": _Prototype("cuMemAlloc_v2", (_count,), (_address,)),
    "cuMemFree": _Prototype("cuMemFree_v2", (_address,)),
    "cuMemHostAlloc": _Prototype("cuMemHostAlloc", (_count, _uint), (_pointer,)),
    "cuMemFreeHost": _Prototype("cuMemFreeHost", (_pointer,)),
    "cuMemcpyHtoDAsync": _Prototype("cuMemcpyHtoDAsync_v2", (_address, _pointer, _count, _pointer)),
    "cuMemcpyDtoHAsync": _Prototype("cuMemcpyDtoHAsync_v2", (_pointer, _address, _count, _pointer)),
    "cuStreamCreate": _Prototype("cuStreamCreate", (_uint,), (_pointer,)),
    "cuStreamDestroy": _Prototype("cuStreamDestroy_v2", (_pointer,)),
    "cuStreamSynchronize": _Prototype("cuStreamSynchronize", (_pointer,)),
    "cuStreamBeginCapture": _Prototype("cuStreamBeginCapture_v2", (_pointer, _int)),
    "cuStreamEndCapture": _Prototype("cuStreamEndCapture", (_pointer,), (_pointer,), gives_last=True),
    "cuGraphInstantiate": _Prototype("cuGraphInstantiateWithFlags", (_pointer, ctypes.c_ulonglong), (_pointer,)),
    "cuGraphLaunch": _Prototype("cuGraphLaunch", (_pointer, _pointer)),
    "cuGraphDestroy": _Prototype("cuGraphDestroy", (_pointer,)),
    "cuGraphExecDestroy": _Prototype("cuGraphExecDestroy", (_pointer,)),
    "cuEventCreate": _Prototype("cuEventCreate", (_uint,), (_pointer,)),
    "cuEventDestroy": _Prototype("cuEventDestroy_v2", (_pointer,)),
    "cuEventRecord": _Prototype("cuEventRecord", (_pointer, _pointer)),
    "cuEventSynchronize": _Prototype("cuEventSynchronize", (_pointer,)),
    "cuEventElapsedTime": _Prototype("cuEventElapsedTime", (_pointer, _pointer), (ctypes.c_float,)),
}
# arguments that cuda-python wants as members of its enumerations
_ENUMERATIONS = {"cuDeviceGetAttribute": (0, "CUdevice_attribute"), "cuStreamBeginCapture": (1, "CUstreamCaptureMode")}
_NAME_BYTES = 256


class Driver(Protocol):
    """The functions of the table above, called by name: integers in, integers and floats out."""

    def call(self, name: str, *arguments: int) -> tuple[Any, ...]:
        """What function `name` gives beside its status; a status that is no success is a `BackendError`."""

    def device_name(self, device: int) -> str:
        """What the driver calls a device."""


def load_driver() -> Driver:
    """The driver, initialised; a `BackendError` where there is none, or no GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(f"{LIBRARY} not found: no NVIDIA driver here") from error
    bindings = _find_bindings()
    driver = CtypesDriver(library) if bindings is None else BindingsDriver(bindings)
    driver.call("cuInit", 0)
    return driver


class CtypesDriver:
    """The driver through ctypes."""

    def __init__(self, library: Any) -> None:
        self._functions: dict[str, Callable[..., int]] = {}
        self._library = library

    def call(self, name: str, *arguments: int) -> tuple[Any, ...]:
        """See `Driver.call`."""
        prototype = _PROTOTYPES[name]
        results = [kind() for kind in prototype.gives]
        pointers = [ctypes.byref(result) for result in results]
        ordered = (*arguments, *pointers) if prototype.gives_last else (*pointers, *arguments)
        status = self._function(name, prototype)(*ordered)
        if status:
            raise _failure(name, status, self._status_name(status))
        return tuple(result.value or 0 for result in results)

    def device_name(self, device: int) -> str:
        """See `Driver.device_name`."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        status = self._library.cuDeviceGetName(text, _int(_NAME_BYTES), _int(device))
        if status:
            raise _failure("cuDeviceGetName", status, self._status_name(status))
        return text.value.decode(errors="replace")

    def _function(self, name: str, prototype: _Prototype) -> Callable[..., int]:
        if name not in self._functions:
            try:
                function = getattr(self._library, prototype.symbol)
            except AttributeError as error:
                raise BackendError(f"the NVIDIA driver has no {prototype.symbol}; it is too old, update it") from error
            pointers = [ctypes.POINTER(kind) for kind in prototype.gives]
            takes = list(prototype.takes)
            function.argtypes = takes + pointers if prototype.gives_last else pointers + takes
            function.restype = _int
            self._functions[name] = function
        return self._functions[name]

    def _status_name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(_int(status), ctypes.byref(text))
        return (text.value or b"").decode()


class BindingsDriver:
    """The driver through NVIDIA's cuda-python."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings

    def call(self, name: str, *arguments: int) -> tuple[Any, ...]:
        """See `Driver.call`."""
        status, *results = getattr(self._bindings, name)(*self._convert(name, arguments))
        self._check(name, status)
        return tuple(result if isinstance(result, float) else int(result) for result in results)

    def device_name(self, device: int) -> str:
        """See `Driver.device_name`."""
        status, name = self._bindings.cuDeviceGetName(_NAME_BYTES, device)
        self._check("cuDeviceGetName", status)
        return bytes(name).split(b"\0")[0].decode(errors="replace")

    def _convert(self, name: str, arguments: Sequence[int]) -> list[Any]:
        converted: list[Any] = list(arguments)
        if name in _ENUMERATIONS:
            place, enumeration = _ENUMERATIONS[name]
            converted[place] = getattr(self._bindings, enumeration)(arguments[place])
        return converted

    def _check(self, name: str, status: Any) -> None:
        if int(status):
            raise _failure(name, int(status), status.name)


def _find_bindings() -> Any:
    for name in _LAYOUTS:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:  # of a parent
            continue
        if found is not None:
            return import_module(name)
    return None


_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "no NVIDIA GPU is visible here; see CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU's memory is full; close what else holds it, or take fewer clips a call",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and its kernel module differ; reboot",
}


def _failure(name: str, status: int, text: str) -> BackendError:
    advice = f"; {_ADVICE[text]}" if text in _ADVICE else ""
    return BackendError(f"CUDA's {name} failed: {text or 'unknown error'} ({status}){advice}")
