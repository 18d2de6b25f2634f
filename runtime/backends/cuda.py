"""Memory, streams and events of one GPU, without torch: who holds them, and who frees them?"""

import ctypes
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa2.engine_manifest import Machine, Version
from vjepa2.errors import BackendError

from .cuda_driver import Driver, load_driver
from .cuda_release import find_driver_release

# enumerations of cuda.h that no version renumbers: they are its ABI
_MULTIPROCESSORS, _COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 16, 75, 76
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_CAPTURE_THREAD_LOCAL = 1


@dataclass(frozen=True, slots=True)
class PinnedArray:
    """An array in host memory that the GPU reads and writes by itself."""

    array: npt.NDArray[Any]
    address: int


class CudaDevice:
    """One GPU. What it gave out is freed when it closes."""

    def __init__(self, driver: Driver, ordinal: int = 0) -> None:
        (count,) = driver.call("cuDeviceGetCount")
        if ordinal >= count:
            raise BackendError(f"there is no GPU {ordinal}; the driver shows {count}")
        self._driver, self._held = driver, ExitStack()
        (device,) = driver.call("cuDeviceGet", ordinal)
        self.name = driver.device_name(device)
        self.multiprocessors, major, minor = (
            int(driver.call("cuDeviceGetAttribute", which, device)[0])
            for which in (_MULTIPROCESSORS, _COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR)
        )
        self.sm: int = 10 * major + minor
        self.driver_version = Version.of_cuda(driver.call("cuDriverGetVersion")[0])
        (self._context,) = driver.call("cuDevicePrimaryCtxRetain", device)
        self._frees("cuDevicePrimaryCtxRelease", device)
        self._is_open = True
        self.make_current()

    @classmethod
    def open(cls, ordinal: int = 0) -> "CudaDevice":
        """The GPU that the driver counts as `ordinal`; a `BackendError` where there is no driver or no such GPU."""
        return cls(load_driver(), ordinal)

    def describe(self, tensorrt: str) -> Machine:
        """The machine, as engines are compared with it; `tensorrt` is that library's version."""
        return Machine(
            gpu=self.name,
            sm=self.sm,
            os=platform.system().lower(),
            arch=platform.machine(),
            tensorrt=Version.parse(tensorrt),
            cuda_driver=self.driver_version,
            cuda_runtime=find_runtime_version(),
            driver=find_driver_release(),
            multiprocessors=self.multiprocessors,
        )

    def make_current(self) -> None:
        """Let this thread's calls, and TensorRT's, mean this GPU."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def measure_memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = self._driver.call("cuMemGetInfo")
        return free, total

    def allocate(self, count: int) -> int:
        """The address of `count` bytes on the GPU."""
        (address,) = self._driver.call("cuMemAlloc", count)
        self._frees("cuMemFree", address)
        return int(address)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> PinnedArray:
        """An array in pinned host memory; it must not be used after `close`."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        (address,) = self._driver.call("cuMemHostAlloc", count, 0)
        self._frees("cuMemFreeHost", address)
        memory = (ctypes.c_uint8 * count).from_address(address)
        return PinnedArray(np.ctypeslib.as_array(memory).view(dtype).reshape(shape), int(address))

    def create_stream(self) -> "Stream":
        """A stream of its own, not the default one."""
        (handle,) = self._driver.call("cuStreamCreate", _NON_BLOCKING)
        self._frees("cuStreamDestroy", handle)
        return Stream(self._driver, int(handle))

    def create_event(self) -> "Event":
        """A mark in a stream, with its time."""
        (handle,) = self._driver.call("cuEventCreate", 0)
        self._frees("cuEventDestroy", handle)
        return Event(self._driver, int(handle))

    def close(self) -> None:
        """Free everything that this device gave out. Safe to call twice."""
        if self._is_open:
            self._is_open = False
            self.make_current()  # this thread need not be the one that opened it
            self._held.close()

    def __enter__(self) -> "CudaDevice":
        """The device itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _frees(self, name: str, handle: int) -> None:
        self._held.callback(self._driver.call, name, handle)


class Stream:
    """What the GPU does one after the other. Copies return at once; `synchronize` waits."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def copy_in(self, address: int, source: PinnedArray, count: int) -> None:
        """Copy the first `count` bytes of a pinned array to `address` on the GPU."""
        self._driver.call("cuMemcpyHtoDAsync", address, source.address, count, self.handle)

    def copy_out(self, target: PinnedArray, address: int, count: int) -> None:
        """Copy `count` bytes from `address` on the GPU to the begin of a pinned array."""
        self._driver.call("cuMemcpyDtoHAsync", target.address, address, count, self.handle)

    def synchronize(self) -> None:
        """Wait until everything given to the stream is done."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], object]) -> "Graph":
        """What `work` gives to the stream, recorded and not done."""
        self._driver.call("cuStreamBeginCapture", self.handle, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            with suppress(BackendError):  # a capture that went wrong ends in an error of its own
                self._driver.call("cuStreamEndCapture", self.handle)
            raise
        (graph,) = self._driver.call("cuStreamEndCapture", self.handle)
        return Graph(self._driver, graph, self.handle)


class Graph:
    """Work that was captured from a stream, given to it again in one call."""

    def __init__(self, driver: Driver, graph: int, stream: int) -> None:
        self._driver, self._stream = driver, stream
        try:
            (self._executable,) = driver.call("cuGraphInstantiate", graph, 0)
        finally:
            driver.call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Give everything to the stream."""
        self._driver.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free it."""
        self._driver.call("cuGraphExecDestroy", self._executable)


class Event:
    """A mark in a stream."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def record(self, stream: Stream) -> None:
        """Put the mark behind what was given to the stream so far."""
        self._driver.call("cuEventRecord", self.handle, stream.handle)

    def elapsed_ms(self, start: "Event") -> float:
        """Milliseconds on the GPU from `start` to this mark, once it is reached."""
        self._driver.call("cuEventSynchronize", self.handle)
        (elapsed_ms,) = self._driver.call("cuEventElapsedTime", start.handle, self.handle)
        return float(elapsed_ms)


def find_runtime_version(maps: Path = Path("/proc/self/maps")) -> Version | None:
    """The CUDA runtime that is loaded into this process; None where none is, as a library may carry its own inside."""
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = next((line for line in lines if "/libcudart.so" in line), None)
    if loaded is None:
        return None
    version = ctypes.c_int()
    library = ctypes.CDLL(loaded[loaded.index("/") :], os.RTLD_NOLOAD)
    if library.cudaRuntimeGetVersion(ctypes.byref(version)):
        return None
    return Version.of_cuda(version.value)
