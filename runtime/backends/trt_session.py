"""How does a plan in memory become something that runs: TensorRT, its engine, its context, one stream?

Only what every version from 8.6 to 11 has is used: tensors by name and address, enumerations by member.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from vjepa2.engine_manifest import EngineTensor, ShapeRange
from vjepa2.errors import BackendError

from .cuda import CudaDevice, Event, Graph, PinnedArray

# TensorRT's types that numpy has
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_KEPT_LINES = 20
_TOLD = ("INTERNAL_ERROR", "ERROR", "WARNING")

NumpyArray = npt.NDArray[Any]


class LogTail(trt.ILogger):  # type: ignore[misc]
    """TensorRT's logger: the last warnings and errors, for the message of a failure."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def log(self, severity: Any, msg: str) -> None:
        """Keep what is worth telling."""
        if severity.name in _TOLD:
            self.lines.append(msg.strip())

    def tail(self) -> str:
        """The last lines as the end of a sentence."""
        return "; ".join(self.lines) or "TensorRT said nothing"


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
        device.make_current()
        self._device, self._uses_graph = device, cuda_graph
        self._log = LogTail()
        self._runtime = _create_runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"TensorRT {trt.__version__} does not take the plan: {self._log.tail()}")
        self.tensors = read_tensors(self._engine)
        self.ranges = read_ranges(self._engine, self.tensors)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT makes no context of the plan: {self._log.tail()}")
        self._stream = device.create_stream()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._events: list[Event] = []
        self._graphs: dict[tuple[str, ...], Graph | None] = {}  # None: ran once, is captured the next time
        self._set_shapes({name: shapes.most for name, shapes in self.ranges.items()})
        self._slots = {tensor.name: self._allocate(tensor) for tensor in self.tensors}

    def run(self, inputs: Mapping[str, NumpyArray], outputs: Sequence[str]) -> dict[str, NumpyArray]:
        """Arrays of the engine's own types in, those called `outputs` back, in host memory, the caller's to keep."""
        self._device.make_current()
        self._log.lines.clear()
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
        return {name: self._slots[name].front(self._shape_of(name)).copy() for name in asked}

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
        shape, dtype = self._shape_of(tensor.name), _DTYPES[tensor.dtype]
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


def read_tensors(engine: Any) -> tuple[EngineTensor, ...]:
    """Inputs and outputs of an engine; a `BackendError` for what numpy cannot hold or the host cannot reach."""
    tensors = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        place, layout = engine.get_tensor_location(name).name, engine.get_tensor_format(name).name
        if dtype not in _DTYPES or (place, layout) != ("DEVICE", "LINEAR"):
            raise BackendError(f"the engine's {name} is {dtype}, {layout}, on the {place}; that cannot be run here")
        mode = engine.get_tensor_mode(name).name.lower()
        tensors.append(EngineTensor(name=name, mode=mode, dtype=dtype, shape=tuple(engine.get_tensor_shape(name))))
    return tuple(tensors)


def read_ranges(engine: Any, tensors: Sequence[EngineTensor]) -> dict[str, ShapeRange]:
    """The shapes that the engine's first profile, the only one that we build, was made for."""
    ranges = {}
    for tensor in tensors:
        if tensor.mode == "input":
            least, best, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, 0))
            ranges[tensor.name] = ShapeRange(least=least, best=best, most=most)
    return ranges


def numpy_type(tensor: EngineTensor) -> type[np.generic]:
    """What numpy calls the type of an engine's tensor."""
    return _DTYPES[tensor.dtype]


def _create_runtime(log: LogTail) -> Any:
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # how pybind11 says that the library returned nothing
        raise BackendError(f"TensorRT {trt.__version__} finds no GPU that it supports: {log.tail()}") from error
    runtime.engine_host_code_allowed = False
    return runtime
