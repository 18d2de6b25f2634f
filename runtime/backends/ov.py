"""OpenVINO: the portable graph on Intel's CPUs and GPUs, and on other CPUs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

# Importing openvino sends an event to its makers if this package is there, and leaves an identifier in the home
# folder; without it, openvino takes a stub of its own. An app that imported openvino before us has made its choice.
_IS_OURS = sys.modules.setdefault("openvino_telemetry", None) is None  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

if _IS_OURS:
    del sys.modules["openvino_telemetry"]

from vjepa2.bundle import PORTABLE, Bundle  # noqa: E402
from vjepa2.errors import BackendError  # noqa: E402
from vjepa2.spec import OutputName  # noqa: E402

from .base import Backend, FloatArray, FramesArray, InputArray, RunOptions  # noqa: E402
from .held import HeldCall, HeldClips  # noqa: E402
from .placement import Executed, check_placement, count_nodes  # noqa: E402

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}  # int8 is in the graph; the rest stays float32
_PRECISIONS = {"f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_PRODUCTS = {"Convolution", "FullyConnected", "Gemm", "MatMul", "ScaledDotProductAttention", "SDPA"}
_IDLE = {"Const", "Constant", "Input", "Parameter", "Output", "Result"}


class OpenVinoBackend(Backend):
    """Runs `portable.onnx` on the CPU. Where a CPU has bfloat16, OpenVINO would use it unasked; here it may not."""

    name: ClassVar[str] = "openvino"
    casts: ClassVar[tuple[Executed, ...]] = ("bf16", "fp16")

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        place = _plugin_name(self.device)
        graph = self._graph_file()
        settings = {"INFERENCE_PRECISION_HINT": _HINTS[self.precision], "PERFORMANCE_HINT": "LATENCY"}
        if options.threads and place == "CPU":
            settings["INFERENCE_NUM_THREADS"] = str(options.threads)
        try:
            core = ov.Core()
            self._model: ov.CompiledModel | None = core.compile_model(core.read_model(graph), place, settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"openvino {ov.__version__} refuses {graph.name} on {place}: {reason}") from error
        devices = list(self._model.get_property("EXECUTION_DEVICES"))
        self.placement = count_nodes(_rows(self._model.get_runtime_model(), ", ".join(devices)))
        self.precision = check_placement(
            self.name, self.placement, place=place, precision=self.precision, allow=options.allow
        )

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A precision that OpenVINO has, and a device of the kind that it sees."""
        if bundle is not None and bundle.manifest.precision not in _HINTS:
            return f"a bundle in {', '.join(_HINTS)}, and {bundle.path.name} is {bundle.manifest.precision}; export one"
        wanted = _plugin_name(device or cls.devices[0])
        seen = ov.Core().available_devices
        if any(name.split(".")[0] == wanted.split(".")[0] for name in seen):
            return None
        return f"a device that OpenVINO calls {wanted} (it sees {', '.join(seen) or 'none'}); install its driver"

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        return self._infer(self._graph_inputs(frames_BTHWC, extras), outputs)

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        inputs = self._graph_inputs(frames_BTHWC, extras)
        return HeldCall(lambda: self._infer(inputs, outputs))

    def _infer(self, inputs: Mapping[str, InputArray], outputs: Sequence[OutputName]) -> dict[OutputName, FloatArray]:
        assert self._model is not None
        request = self._model.create_infer_request()
        request.infer(dict(inputs), share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    def _graph_file(self) -> Path:
        return self.bundle.path / PORTABLE

    def _release(self) -> None:
        self._model = None


class OpenVinoGpuBackend(OpenVinoBackend):
    """Runs `portable.onnx` on an Intel GPU."""

    name: ClassVar[str] = "openvino-gpu"
    devices: ClassVar[tuple[str, ...]] = ("gpu",)


def _plugin_name(device: str) -> str:
    """OpenVINO's word: `CPU`, `GPU.1`; of `gpu:0`, which alone is called `GPU`, the one that it lists."""
    kind, _, number = device.upper().partition(":")
    if kind == "GPU" and number not in ("", "0"):
        return f"GPU.{number}"
    return next((name for name in ov.Core().available_devices if name in ("GPU", "GPU.0")), kind) if number else kind


def _rows(model: ov.Model, place: str) -> Iterator[tuple[str, str, bool]]:
    for node in model.get_ops():
        facts = node.get_rt_info()
        kind, precision = (facts[key].astype(str) for key in ("layerType", "runtimePrecision"))
        if kind in _IDLE:
            continue
        is_product = kind in _PRODUCTS
        known = _PRECISIONS.get(precision, "int8" if is_product and precision in ("i8", "u8") else "")
        yield place, known, is_product
