"""How large are the numbers that each linear layer is given: histograms over clips, and the range that 8 bits cover.

The clips are others than those that the graphs are proven on: a value that was seen here is never out of range.

The search for the range is ONNX Runtime's. Its calibrators for whole models are not used: they keep every activation of
a clip in memory, and want a model in which the tensors already have the names that the bundle's graphs only get later.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from onnxruntime.quantization.calibrate import HistogramCollector
from torch import Tensor, nn

from vjepa2.headed import Headed
from vjepa2.manifest import CalibrationMethod

from .extras import ExtraArrays
from .reference import run_clip

_BINS: dict[CalibrationMethod, int] = {"percentile": 2048, "entropy": 128}  # ONNX Runtime's own
_QUANTISED_BINS = 128
# ONNX Runtime's 99.999 cuts what a trained encoder's massive channels hold, which is two numbers in a million.
_PERCENTILE = 99.9999


def find_ranges(
    model: Headed, frames_BTHWC: npt.NDArray[np.uint8], inputs: ExtraArrays, method: CalibrationMethod
) -> dict[str, float]:
    """The largest magnitude that must be kept of what each linear layer is given on the clips, by the layer's name."""
    seen = Calibrator(method)
    with seen.watch(model), torch.inference_mode():
        for index, frames_THWC in enumerate(frames_BTHWC):
            run_clip(model, frames_THWC, {name: array[index : index + 1] for name, array in inputs.items()})
    return seen.ranges()


class Calibrator:
    """What is seen while the model runs inside `watch`."""

    def __init__(self, method: CalibrationMethod) -> None:
        self._collector = HistogramCollector(method, True, _BINS[method], _QUANTISED_BINS, _PERCENTILE, "same")

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Look at what every linear layer of `model` is given."""
        layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        hooks = [module.register_forward_pre_hook(self._see(name)) for name, module in layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def ranges(self) -> dict[str, float]:
        """The largest magnitude that must be kept, by the name of the layer."""
        with contextlib.redirect_stdout(io.StringIO()):  # it tells its settings on the stream that is for data
            found = self._collector.compute_collection_result()
        return {name: float(max(abs(values[0]), abs(values[1]))) for name, values in found.items()}

    def _see(self, name: str) -> "_Hook":
        return _Hook(self._collector, name)


class _Hook:
    def __init__(self, collector: HistogramCollector, name: str) -> None:
        self.collector, self.name = collector, name

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].detach().numpy().astype(np.float32, copy=False)
        with contextlib.redirect_stdout(io.StringIO()):
            self.collector.collect({self.name: values})
