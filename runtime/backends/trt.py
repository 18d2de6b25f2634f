"""TensorRT: the engine that compile proved on this machine."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorrt as trt

from vjepa2.bundle import Bundle
from vjepa2.engine_folder import find_engine, open_engine
from vjepa2.engine_manifest import EngineTensor
from vjepa2.errors import BackendError, EngineError
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, RunOptions, normalise
from .cuda import CudaDevice
from .trt_session import NumpyArray, PlanSession, numpy_type

_FIRST_GPU = RunOptions()


class TensorRtBackend(Backend):
    """Runs a plan on one GPU. In which precision each layer runs is its graph's to say; it was proved when built."""

    name: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def __init__(
        self,
        bundle: Bundle,
        options: RunOptions = _FIRST_GPU,
        *,
        plan: bytes | None = None,
        cuda_graph: bool = False,
    ) -> None:
        """Open the bundle's engine for this machine, verified; `plan` instead is one that this process just built."""
        super().__init__(bundle, options)
        self._gpu = CudaDevice.open(_ordinal(self.device))
        self._session: PlanSession | None = None
        try:
            engine = None if plan is not None else open_engine(bundle, self._gpu.describe(trt.__version__))
            self._session = PlanSession(engine.plan if engine else plan or b"", self._gpu, cuda_graph=cuda_graph)
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
        """See `Backend.find_obstacle`: a GPU, and an engine for it."""
        try:
            with CudaDevice.open(_ordinal(cls.check_device(device))) as gpu:
                if bundle is not None:
                    find_engine(bundle, gpu.describe(trt.__version__))
        except BackendError as error:
            return f"an NVIDIA GPU ({error})"
        except EngineError as error:
            return f"an engine: {error}"
        return None

    def time_engine(self, count: int) -> list[float]:
        """See `PlanSession.time_engine`."""
        if self._session is None:
            raise BackendError(f"the {self.name} backend is closed; open it again")
        return self._session.time_engine(count)

    def measure_memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU."""
        return self._gpu.measure_memory()

    def _clips_a_call(self, count: int) -> int:
        assert self._session is not None
        most = min(shapes.most[0] for shapes in self._session.ranges.values())
        return min(super()._clips_a_call(count), most)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        assert self._session is not None
        manifest = self.bundle.manifest
        clips: FramesArray | FloatArray = frames_BTHWC
        if manifest.graph_input == "pixel_values_videos":
            clips = normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std)
        inputs = {manifest.graph_input: clips, **extras}
        results = self._session.run({name: self._convert(name, array) for name, array in inputs.items()}, outputs)
        return {name: results[name].astype(np.float32, copy=False) for name in outputs}

    def _convert(self, name: str, array: NumpyArray) -> NumpyArray:
        """`array` in the engine's type: TensorRT 8.6 has no INT64 and makes INT32 of it."""
        wanted = numpy_type(self._tensors[name])
        converted: NumpyArray = array.astype(wanted, copy=False)
        if array.dtype == np.int64 and not np.array_equal(converted, array):
            raise BackendError(f"{name} reach {int(np.abs(array).max())}; this engine takes {np.dtype(wanted)}")
        return converted

    def _release(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._gpu.close()


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
