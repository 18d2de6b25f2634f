"""What would the driver of a GPU do: the functions of libcuda as C function pointers, over memory of this machine.

What is given to a stream happens when somebody waits for it, not before; memory on the GPU is garbage until it is
written, and an address that the driver did not give out is an error. So a copy too few, a wait too few, a buffer that
is used after it was freed all show.
"""

import ctypes
import re
from collections.abc import Callable, Iterable
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest

from vjepa2.errors import BackendError
from vjepa2.runtime.backends import cuda_driver

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, CAPTURE_INVALIDATED = 1, 2, 100, 901
_NAMES = {
    INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    CAPTURE_INVALIDATED: b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
}
Work = Callable[[], None]


def _put(pointer: int, kind: Any, value: float | int | bytes) -> None:
    ctypes.cast(pointer, ctypes.POINTER(kind))[0] = value


def move(target: int, source: int, count: int) -> None:
    """Copy bytes from address to address."""
    ctypes.memmove(target, source, count)


class FakeLibcuda:
    """One GPU and its driver; `fail` says what a function answers instead of doing its work."""

    def __init__(self, name: bytes = b"NVIDIA Fake", sm: tuple[int, int] = (8, 7), total: int = 2**30) -> None:
        self.gpu_name, self.sm, self.total, self.multiprocessors = name, sm, total, 16
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}  # of the GPU
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.capturing: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.events: dict[int, float] = {}
        self.retained = 0
        self.clock_ms = 0.0
        self._handles = iter(range(0x1000, 1 << 30, 16))
        self._pointers = dict(self._make_functions())

    def __getattr__(self, symbol: str) -> Any:
        if symbol.startswith("_") or symbol not in self._pointers:
            raise AttributeError(symbol)  # as ctypes says that a library lacks a symbol
        return self._pointers[symbol]

    def live(self) -> int:
        """What was given out and not given back."""
        held = (self.memory, self.pinned, self.streams, self.graphs, self.executables, self.events)
        return sum(map(len, held)) + self.retained

    def enqueue(self, stream: int, work: Work) -> None:
        """Put work into a stream, or into the graph that is captured from it."""
        self.capturing.get(stream, self.streams[stream]).append(work)

    def _make_functions(self) -> Iterable[tuple[str, Any]]:
        for method, symbol, takes in _FUNCTIONS:
            yield symbol, ctypes.CFUNCTYPE(c_int, *takes)(self._answer(symbol, getattr(self, method)))

    def _answer(self, symbol: str, function: Callable[..., int | None]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(symbol)
            if symbol in self.fail:
                return self.fail[symbol]
            return function(*[0 if argument is None else argument for argument in arguments]) or 0

        return call

    def _is_inside(self, held: dict[int, Any], address: int, count: int) -> bool:
        return any(start <= address and address + count <= start + len(block) for start, block in held.items())

    def _init(self, flags: int) -> int | None:
        return INVALID_VALUE if flags else None

    def _driver_version(self, version: int) -> None:
        _put(version, c_int, 12020)

    def _count(self, count: int) -> None:
        _put(count, c_int, 1)

    def _device(self, device: int, ordinal: int) -> None:
        _put(device, c_int, ordinal)

    def _name(self, text: int, count: int, device: int) -> int | None:
        ctypes.memmove(text, self.gpu_name + b"\0", min(count, len(self.gpu_name) + 1))
        return None if device == 0 else INVALID_VALUE

    def _attribute(self, value: int, which: int, device: int) -> int | None:
        known = {16: self.multiprocessors, 75: self.sm[0], 76: self.sm[1]}
        if device != 0 or which not in known:
            return INVALID_VALUE
        _put(value, c_int, known[which])
        return None

    def _retain(self, context: int, device: int) -> None:
        self.retained += 1
        _put(context, c_void_p, 0xC0)

    def _release(self, device: int) -> None:
        self.retained -= 1

    def _set_context(self, context: int) -> int | None:
        return None if context == 0xC0 else INVALID_VALUE

    def _memory_info(self, free: int, total: int) -> None:
        _put(free, c_size_t, self.total - sum(map(len, self.memory.values())))
        _put(total, c_size_t, self.total)

    def _allocate(self, address: int, count: int) -> int | None:
        if not count or sum(map(len, self.memory.values())) + count > self.total:
            return OUT_OF_MEMORY if count else INVALID_VALUE
        block = (ctypes.c_uint8 * count)(*b"\xa5" * min(count, 64))  # no zeros that could be taken for a result
        self.memory[ctypes.addressof(block)] = block
        _put(address, c_uint64, ctypes.addressof(block))
        return None

    def _free(self, address: int) -> int | None:
        return None if self.memory.pop(address, None) is not None else INVALID_VALUE

    def _allocate_pinned(self, address: int, count: int, flags: int) -> int | None:
        if flags or not count:
            return INVALID_VALUE
        block = (ctypes.c_uint8 * count)()
        self.pinned[ctypes.addressof(block)] = block
        _put(address, c_void_p, ctypes.addressof(block))
        return None

    def _free_pinned(self, address: int) -> int | None:
        return None if self.pinned.pop(address, None) is not None else INVALID_VALUE

    def _copy_in(self, target: int, source: int, count: int, stream: int) -> int | None:
        return self._copy(target, source, count, stream, (self.memory, self.pinned))

    def _copy_out(self, target: int, source: int, count: int, stream: int) -> int | None:
        return self._copy(target, source, count, stream, (self.pinned, self.memory))

    def _copy(
        self, target: int, source: int, count: int, stream: int, held: tuple[dict[int, Any], dict[int, Any]]
    ) -> int | None:
        into, out_of = held
        if not (self._is_inside(into, target, count) and self._is_inside(out_of, source, count)):
            return INVALID_VALUE
        self.enqueue(stream, lambda: move(target, source, count))
        return None

    def _create_stream(self, stream: int, flags: int) -> int | None:
        handle = next(self._handles)
        self.streams[handle] = []
        _put(stream, c_void_p, handle)
        return None if flags == 1 else INVALID_VALUE

    def _destroy_stream(self, stream: int) -> int | None:
        return None if self.streams.pop(stream, None) is not None else INVALID_VALUE

    def _synchronize(self, stream: int) -> int | None:
        if stream not in self.streams or stream in self.capturing:
            return INVALID_VALUE
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            self.clock_ms += 0.5
            step()
        return None

    def _begin_capture(self, stream: int, mode: int) -> int | None:
        self.capturing[stream] = []
        return None if mode == 1 else INVALID_VALUE

    def _end_capture(self, stream: int, graph: int) -> None:
        handle = next(self._handles)
        self.graphs[handle] = self.capturing.pop(stream)
        _put(graph, c_void_p, handle)

    def _instantiate(self, executable: int, graph: int, flags: int) -> int | None:
        handle = next(self._handles)
        self.executables[handle] = self.graphs[graph]
        _put(executable, c_void_p, handle)
        return INVALID_VALUE if flags else None

    def _launch(self, executable: int, stream: int) -> None:
        for work in self.executables[executable]:
            self.enqueue(stream, work)

    def _destroy_graph(self, graph: int) -> int | None:
        return None if self.graphs.pop(graph, None) is not None else INVALID_VALUE

    def _destroy_executable(self, executable: int) -> int | None:
        return None if self.executables.pop(executable, None) is not None else INVALID_VALUE

    def _create_event(self, event: int, flags: int) -> None:
        handle = next(self._handles)
        self.events[handle] = 0.0
        _put(event, c_void_p, handle)

    def _destroy_event(self, event: int) -> int | None:
        return None if self.events.pop(event, None) is not None else INVALID_VALUE

    def _record(self, event: int, stream: int) -> None:
        self.enqueue(stream, lambda: self.events.update({event: self.clock_ms}))

    def _wait_event(self, event: int) -> None:
        for stream in self.streams:
            self._synchronize(stream)

    def _elapsed(self, elapsed: int, start: int, end: int) -> None:
        _put(elapsed, c_float, self.events[end] - self.events[start])

    def _error_name(self, status: int, text: int) -> int | None:
        if status not in _NAMES:
            return INVALID_VALUE
        _put(text, c_char_p, _NAMES[status])
        return None


_P, _A = c_void_p, c_uint64
# method, the symbol that libcuda exports, and its C signature
_FUNCTIONS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("_init", "cuInit", (c_uint,)),
    ("_driver_version", "cuDriverGetVersion", (_P,)),
    ("_count", "cuDeviceGetCount", (_P,)),
    ("_device", "cuDeviceGet", (_P, c_int)),
    ("_name", "cuDeviceGetName", (_P, c_int, c_int)),
    ("_attribute", "cuDeviceGetAttribute", (_P, c_int, c_int)),
    ("_retain", "cuDevicePrimaryCtxRetain", (_P, c_int)),
    ("_release", "cuDevicePrimaryCtxRelease_v2", (c_int,)),
    ("_set_context", "cuCtxSetCurrent", (_P,)),
    ("_memory_info", "cuMemGetInfo_v2", (_P, _P)),
    ("_allocate", "cuMemAlloc_v2", (_P, c_size_t)),
    ("_free", "cuMemFree_v2", (_A,)),
    ("_allocate_pinned", "cuMemHostAlloc", (_P, c_size_t, c_uint)),
    ("_free_pinned", "cuMemFreeHost", (_P,)),
    ("_copy_in", "cuMemcpyHtoDAsync_v2", (_A, _P, c_size_t, _P)),
    ("_copy_out", "cuMemcpyDtoHAsync_v2", (_P, _A, c_size_t, _P)),
    ("_create_stream", "cuStreamCreate", (_P, c_uint)),
    ("_destroy_stream", "cuStreamDestroy_v2", (_P,)),
    ("_synchronize", "cuStreamSynchronize", (_P,)),
    ("_begin_capture", "cuStreamBeginCapture_v2", (_P, c_int)),
    ("_end_capture", "cuStreamEndCapture", (_P, _P)),
    ("_instantiate", "cuGraphInstantiateWithFlags", (_P, _P, ctypes.c_ulonglong)),
    ("_launch", "cuGraphLaunch", (_P, _P)),
    ("_destroy_graph", "cuGraphDestroy", (_P,)),
    ("_destroy_executable", "cuGraphExecDestroy", (_P,)),
    ("_create_event", "cuEventCreate", (_P, c_uint)),
    ("_destroy_event", "cuEventDestroy_v2", (_P,)),
    ("_record", "cuEventRecord", (_P, _P)),
    ("_wait_event", "cuEventSynchronize", (_P,)),
    ("_elapsed", "cuEventElapsedTime", (_P, _P, _P)),
    ("_error_name", "cuGetErrorName", (c_int, _P)),
]


def install(library: FakeLibcuda, monkeypatch: pytest.MonkeyPatch) -> FakeLibcuda:
    """Let `ctypes` find `library` where it looks for the driver's; other libraries are found as ever."""
    find = ctypes.CDLL

    def load(name: Any, *arguments: Any, **options: Any) -> Any:
        return library if name == cuda_driver.LIBRARY else find(name, *arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(cuda_driver, "_find_bindings", lambda: None)
    return library


class Handle:
    """What cuda-python gives for a stream, an event, an address."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def fake_bindings(library: FakeLibcuda) -> ModuleType:
    """A module like cuda-python's `driver` over the same library: a status and the results as a tuple."""
    module: Any = ModuleType("driver")
    codes: Any = {"CUDA_SUCCESS": 0} | {name.decode(): code for code, name in _NAMES.items()}
    kinds: dict[str, Any] = {
        "CUresult": codes,
        "CUdevice_attribute": {"COUNT": 16, "MAJOR": 75, "MINOR": 76},
        "CUstreamCaptureMode": {"GLOBAL": 0, "THREAD_LOCAL": 1, "RELAXED": 2},
    }
    for kind, members in kinds.items():
        setattr(module, kind, IntEnum.__call__(kind, members))
    wanted = {"cuDeviceGetAttribute": (0, "CUdevice_attribute"), "cuStreamBeginCapture": (1, "CUstreamCaptureMode")}
    driver = cuda_driver.CtypesDriver(library)

    def make(name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if name in wanted:
                place, kind = wanted[name]
                assert isinstance(arguments[place], getattr(module, kind)), "cuda-python takes its own enum only"
            try:
                results = driver.call(name, *map(int, arguments))
            except BackendError as error:
                code = int(re.findall(r"\((\d+)\)", str(error))[0])
                return (module.CUresult(code),)
            kept = name in {"cuEventElapsedTime", "cuMemGetInfo", "cuMemHostAlloc"}
            return module.CUresult(0), *(result if kept else Handle(result) for result in results)

        return call

    for name in cuda_driver._PROTOTYPES:
        setattr(module, name, make(name))

    def device_name(count: int, device: int) -> tuple[Any, bytes]:
        return module.CUresult(0), driver.device_name(device).encode().ljust(count, b"\0")

    module.cuDeviceGetName = device_name
    made: ModuleType = module
    return made
