"""How does a plan in memory become something that runs: TensorRT, its engine, its context, one stream?

Only what every version from 8.6 to 11 has is used: tensors by name and address, enumerations by member.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from vjepa2.engine_manifest import EngineTensor
from vjepa2.errors import BackendError

from .cuda import CudaDevice, Event, Graph, PinnedArray
from .trt_log import LOGGER, LogTail
from .trt_tensors import numpy_type, read_ranges, read_tensors

NumpyArray = npt.NDArray[Any]


@dataclass(slots=True)
class _Slot:
    """Where a tensor lies."""

    tensor: EngineTensor
    dtype: type[np.generic]
    largest: tuple[int, ...]  # shape
    address: int  # on the GPU
    pinned: PinnedArray | None = None  # of `largest`; of an output from when it is first asked for

    def front(self, shape: tuple[int, ...]) -> NumpyArray:
        """The pinned memory that an array of `shape` takes."""
        assert self.pinned is not None
        return self.pinned.array.reshape(-1)[: math.prod(shape)].reshape(shape)


class PlanSession:
    """One engine with one context on one GPU, and pinned memory for what goes in and out."""

    def __init__(self, plan: bytes, device: CudaDevice, *, cuda_graph: bool = False) -> None:
        self._device, self._uses_graph = device, cuda_graph
        self._log = LogTail()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._slots: dict[str, _Slot] = {}
        self._events: list[Event] = []
        self._graphs: dict[tuple[str, ...], Graph | None] = {}  # None: ran once, is captured the next time
        device.make_current()
        try:
            self._load(plan)
        except BaseException:
            self.close()  # before the device is: what TensorRT holds lies in its context
            raise

    def run(self, inputs: Mapping[str, NumpyArray], outputs: Sequence[str]) -> dict[str, NumpyArray]:
        """Arrays of the engine's own types in, those called `outputs` back, in host memory, the caller's to keep."""
        self._device.make_current()
        self._log.renew()
        self._set_shapes({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            np.copyto(self._slots[name].front(array.shape), array, casting="no")
        asked = tuple(dict.fromkeys(outputs))
        for name in asked:
            slot = self._slots[name]
            slot.pinned = slot.pinned or self._device.allocate_pinned(slot.largest, slot.dtype)
        try:
            self._launch(asked)
            self._stream.synchronize()
        except BackendError as error:
            raise BackendError(f"{error}; TensorRT: {self._log.tail()}") from error
        return self._read(asked)

    def fetch(self, outputs: Sequence[str]) -> dict[str, NumpyArray]:
        """What the engine computed last, of outputs that a call has asked for; the caller's to keep."""
        self._device.make_current()
        for slot in (self._slots[name] for name in outputs):
            assert slot.pinned is not None
            self._stream.copy_out(slot.pinned, slot.address, self._count_bytes(slot))
        self._stream.synchronize()
        return self._read(outputs)

    def time_engine(self, count: int) -> list[float]:
        """Milliseconds on the GPU of each of `count` runs of the engine alone, on the inputs of the last call."""
        self._device.make_current()
        while len(self._events) <= count:
            self._events.append(self._device.create_event())
        self._events[0].record(self._stream)
        for event in self._events[1 : count + 1]:
            self._execute()
            event.record(self._stream)
        return [end.elapsed_ms(start) for start, end in pairwise(self._events[: count + 1])]

    def close(self) -> None:
        """Let go of context, engine and runtime, in that order; memory and stream are the device's to free."""
        self._device.make_current()
        self._drop_graphs()
        self._slots.clear()
        self._context = self._engine = self._runtime = None

    def _load(self, plan: bytes) -> None:
        self._runtime = _create_runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"TensorRT {trt.__version__} does not take the plan: {self._log.tail()}")
        self.tensors = read_tensors(self._engine)
        self.ranges = read_ranges(self._engine, self.tensors)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT makes no context of the plan: {self._log.tail()}")
        self._stream = self._device.create_stream()
        self._set_shapes({name: shapes.most for name, shapes in self.ranges.items()})
        self._slots = {tensor.name: self._allocate(tensor) for tensor in self.tensors}

    def _launch(self, asked: tuple[str, ...]) -> None:
        """Give one call to the stream; by option as a graph, captured the second time: TensorRT prepares in the first.

        A graph holds for its shapes and its outputs.
        """
        if not self._uses_graph or asked not in self._graphs:
            self._enqueue(asked)
            self._graphs[asked] = None
            return
        graph = self._graphs[asked]
        if graph is None:
            graph = self._graphs[asked] = self._stream.capture(lambda: self._enqueue(asked))
        graph.launch()

    def _enqueue(self, asked: tuple[str, ...]) -> None:
        for slot in self._slots.values():
            if slot.tensor.mode == "input" and slot.pinned is not None:
                self._stream.copy_in(slot.address, slot.pinned, self._count_bytes(slot))
        self._execute()
        for slot in (self._slots[name] for name in asked):
            assert slot.pinned is not None
            self._stream.copy_out(slot.pinned, slot.address, self._count_bytes(slot))

    def _read(self, outputs: Sequence[str]) -> dict[str, NumpyArray]:
        return {name: self._slots[name].front(self._shape_of(name)).copy() for name in outputs}

    def _execute(self) -> None:
        if not self._context.execute_async_v3(stream_handle=self._stream.handle):
            raise BackendError("TensorRT could not enqueue the engine")

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(f"the engine takes no {name} of {list(shape)}: {self._log.tail()}")
        missing = list(self._context.infer_shapes())
        if missing:
            raise BackendError(f"the engine wants shapes of {missing} too: {self._log.tail()}")
        self._drop_graphs()
        self._shapes = shapes

    def _allocate(self, tensor: EngineTensor) -> _Slot:
        """Memory for the largest shape; TensorRT wants an address of every tensor, asked for or not."""
        shape, dtype = self._shape_of(tensor.name), numpy_type(tensor)
        slot = _Slot(tensor, dtype, shape, self._device.allocate(math.prod(shape) * np.dtype(dtype).itemsize))
        if tensor.mode == "input":
            slot.pinned = self._device.allocate_pinned(shape, dtype)
        if not self._context.set_tensor_address(tensor.name, slot.address):
            raise BackendError(f"TensorRT takes no address for {tensor.name}: {self._log.tail()}")
        return slot

    def _shape_of(self, name: str) -> tuple[int, ...]:
        """As it is for the inputs that were set last."""
        return tuple(self._context.get_tensor_shape(name))

    def _count_bytes(self, slot: _Slot) -> int:
        return math.prod(self._shape_of(slot.tensor.name)) * np.dtype(slot.dtype).itemsize

    def _drop_graphs(self) -> None:
        for graph in self._graphs.values():
            if graph is not None:
                graph.close()
        self._graphs.clear()


def _create_runtime(log: LogTail) -> Any:
    try:
        runtime = trt.Runtime(LOGGER)
    except TypeError as error:  # how pybind11 says that the library returned nothing
        raise BackendError(f"TensorRT {trt.__version__} finds no GPU that it supports: {log.tail()}") from error
    runtime.engine_host_code_allowed = False
    return runtime
