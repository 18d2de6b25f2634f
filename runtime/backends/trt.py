"""TensorRT: the engine that compile proved on this machine."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorrt as trt

from vjepa2.bundle import Bundle
from vjepa2.engine_folder import find_engine, list_engines, open_engine
from vjepa2.engine_manifest import EngineTensor
from vjepa2.errors import BackendError, EngineError
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, RunOptions
from .cuda import CudaDevice
from .held import HeldClips, Results
from .trt_session import NumpyArray, PlanSession
from .trt_tensors import numpy_type

_FIRST_GPU = RunOptions()


class TensorRtBackend(Backend):
    """Runs a plan on one GPU. In which precision each layer runs is its graph's to say; it was proved when built."""

    name: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    has_cuda_graphs: ClassVar[bool] = True

    def __init__(
        self,
        bundle: Bundle,
        options: RunOptions = _FIRST_GPU,
        *,
        plan: bytes | None = None,
    ) -> None:
        """Open the bundle's engine for this machine, verified; `plan` instead is one that this process just built."""
        super().__init__(bundle, options)
        self._gpu = CudaDevice.open(_ordinal(self.device))
        self._session: PlanSession | None = None
        try:
            engine = None if plan is not None else open_engine(bundle, self._gpu.describe(trt.__version__))
            held = engine.plan if engine else plan or b""
            self._session = PlanSession(held, self._gpu, cuda_graph=options.cuda_graph)
            tensors = self._session.tensors
            if engine is not None and engine.manifest.io != tensors:
                raise EngineError(f"the plan's tensors are {tensors}; its manifest says {engine.manifest.io}")
            _refuse_other_names(bundle, tensors)
        except BaseException:
            self.close()
            raise
        self._tensors = {tensor.name: tensor for tensor in tensors}

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """See `Backend.find_obstacle`: a GPU, and an engine for it.

        A damaged engine is none: opening it is an error, which `auto` does not pass over either.
        """
        try:
            with CudaDevice.open(_ordinal(cls.check_device(device))) as gpu:
                if bundle is not None:
                    find_engine(bundle, gpu.describe(trt.__version__))
        except BackendError as error:
            return f"an NVIDIA GPU ({error})"
        except EngineError as error:
            is_damaged = any(listing.manifest is None for listing in list_engines(bundle)) if bundle else False
            return None if is_damaged else f"an engine: {error}"
        return None

    def time_engine(self, count: int) -> list[float]:
        """See `PlanSession.time_engine`."""
        if self._session is None:
            raise BackendError(f"the {self.name} backend is closed; open it again")
        return self._session.time_engine(count)

    def _clips_a_call(self, count: int) -> int:
        assert self._session is not None
        most = min(shapes.most[0] for shapes in self._session.ranges.values())
        return min(super()._clips_a_call(count), most)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        assert self._session is not None
        inputs = self._graph_inputs(frames_BTHWC, extras)
        results = self._session.run({name: self._convert(name, array) for name, array in inputs.items()}, outputs)
        return {name: results[name].astype(np.float32, copy=False) for name in outputs}

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        assert self._session is not None
        self._compute(frames_BTHWC, extras, outputs)  # which leaves the inputs on the GPU
        return _HeldEngine(self._session, outputs)

    def _convert(self, name: str, array: NumpyArray) -> NumpyArray:
        """`array` in the engine's type: TensorRT 8.6 has no INT64 and makes INT32 of it."""
        wanted = numpy_type(self._tensors[name])
        converted: NumpyArray = array.astype(wanted, copy=False)
        if array.dtype == np.int64 and not np.array_equal(converted, array):
            raise BackendError(f"{name} reach {int(np.abs(array).max())}; this engine takes {np.dtype(wanted)}")
        return converted

    def _release(self) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
        finally:
            self._gpu.close()


class _HeldEngine(HeldClips):
    """The inputs of a session's last call; they stay until its next one."""

    def __init__(self, session: PlanSession, outputs: Sequence[OutputName]) -> None:
        self._session, self._outputs = session, tuple(outputs)

    def compute(self, calls: int = 1) -> tuple[float, ...]:
        """See `HeldClips.compute`."""
        return tuple(self._session.time_engine(calls))

    def fetch(self) -> Results:
        """See `HeldClips.fetch`."""
        results = self._session.fetch(self._outputs)
        return {name: results[name].astype(np.float32, copy=False) for name in self._outputs}


def _ordinal(device: str) -> int:
    return int(device.partition(":")[2])


def _refuse_other_names(bundle: Bundle, tensors: Sequence[EngineTensor]) -> None:
    stated = {
        "input": [info.name for info in bundle.manifest.inputs],
        "output": [info.name for info in bundle.manifest.outputs],
    }
    held: dict[str, Any] = {mode: [tensor.name for tensor in tensors if tensor.mode == mode] for mode in stated}
    if {mode: sorted(names) for mode, names in held.items()} != {mode: sorted(names) for mode, names in stated.items()}:
        raise EngineError(f"the plan has {held}; its bundle has {stated}")
