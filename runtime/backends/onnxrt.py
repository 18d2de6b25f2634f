"""ONNX Runtime on the CPU: the fused graph, and the portable one."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.errors import BackendError
from vjepa2.manifest import Precision
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, normalise

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """Runs `onnxruntime.onnx`, whose attention is one operator that needs no N x N memory."""

    name: ClassVar[str] = "onnxruntime"
    graph: ClassVar[str] = ONNXRUNTIME
    runs: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")  # in which the CPU provider computes what the graph says

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        if bundle.manifest.precision not in self.runs:
            raise BackendError(
                f"{bundle.path.name} is {bundle.manifest.precision}, and ONNX Runtime's CPU provider would compute "
                f"{self.graph} partly in another precision; {self.name} runs {' and '.join(self.runs)}: compile the "
                "bundle, or export one of these"
            )
        _refuse_double_install()
        self.device, self.precision = "cpu", bundle.manifest.precision
        self._session: ort.InferenceSession | None = open_session(bundle.path / self.graph)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        assert self._session is not None
        manifest = self.bundle.manifest
        clips: FramesArray | FloatArray = frames_BTHWC
        if manifest.graph_input == "pixel_values_videos":
            clips = normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std)
        results = self._session.run(list(outputs), {manifest.graph_input: clips, **extras})
        return dict(zip(outputs, results, strict=True))

    def _release(self) -> None:
        self._session = None


class OnnxRuntimePortableBackend(OnnxRuntimeBackend):
    """Runs `portable.onnx`: plain operators, N x N scores in memory."""

    name: ClassVar[str] = "onnxruntime-portable"
    graph: ClassVar[str] = PORTABLE
    runs: ClassVar[tuple[Precision, ...]] = ("fp32",)


def open_session(graph: Path) -> ort.InferenceSession:
    """A session on the CPU provider and on no other; `BackendError` if ONNX Runtime refuses the graph."""
    options = ort.SessionOptions()
    # The arena keeps what the largest call needed, and grows once more on the second call (`make bench-arena`).
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # errors only
    try:
        session = ort.InferenceSession(str(graph), options, providers=[_PROVIDER])
    except Exception as error:  # its exceptions share no other base
        reason = str(error).splitlines()[0]
        raise BackendError(f"onnxruntime {ort.__version__} refuses {graph.name}: {reason}") from error
    if session.get_providers() != [_PROVIDER]:
        raise BackendError(f"onnxruntime took {session.get_providers()}; {_PROVIDER} was asked for")
    return session


def run_graph(graph: Path, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, FloatArray]:
    """Every output of a graph by name, computed once on the CPU."""
    session = open_session(graph)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _refuse_double_install() -> None:
    """Both distributions write into one folder, and what is then imported is a mixture of the two."""
    found = {name for item in metadata.distributions() if (name := item.metadata["Name"]) is not None}
    both = {"onnxruntime", "onnxruntime-gpu"}
    if both <= found:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install one"
        )
