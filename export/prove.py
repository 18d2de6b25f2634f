"""Does a graph compute what PyTorch does, and who says so: ONNX Runtime, or the evaluator where it would not tell?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.errors import ParityError
from vjepa2.extras import import_with_extra
from vjepa2.manifest import GraphInput, ParityVerdict, Precision
from vjepa2.runtime.backends import Backend, open_backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray, normalise
from vjepa2.runtime.parity import Gate, Reference, check_parity, find_faults
from vjepa2.spec import RGB_MEAN, RGB_STD, OutputName

from .evaluate import Evaluation
from .simplify import NamedArrays

EVALUATOR = "evaluator"
# who proves each graph: ONNX Runtime's CPU provider computes 16-bit graphs partly in float32, and bf16 not at all
PROVERS: dict[Precision, dict[str, str]] = {
    "fp32": {PORTABLE: "onnxruntime-portable", ONNXRUNTIME: "onnxruntime"},
    "fp16": {PORTABLE: EVALUATOR},
    "bf16": {PORTABLE: EVALUATOR},
    "int8": {PORTABLE: EVALUATOR, ONNXRUNTIME: "onnxruntime"},
    "fp8": {PORTABLE: EVALUATOR},
}


class EvaluatorBackend(Backend):
    """Computes `portable.onnx` in float32, every result rounded to the type that the graph declares."""

    name: ClassVar[str] = EVALUATOR

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.device, self.precision = "cpu", bundle.manifest.precision
        self._evaluation: Evaluation | None = Evaluation(read_graph(bundle.path / PORTABLE), bundle.path)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        assert self._evaluation is not None
        manifest = self.bundle.manifest
        clips: FramesArray | FloatArray = frames_BTHWC
        if manifest.graph_input == "pixel_values_videos":
            clips = normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std)
        results = self._evaluation.run({manifest.graph_input: clips, **extras}, outputs)
        return {name: results[name] for name in outputs}

    def _release(self) -> None:
        self._evaluation = None


def read_graph(file: Path) -> onnx.ModelProto:
    """A graph whose weights stay where they are."""
    return onnx.load(file, load_external_data=False)


def prove_graph(bundle: Bundle, name: str, reference: Reference, gate: Gate) -> ParityVerdict:
    """The verdict on one graph of a bundle; `ParityError` if it is outside `gate`."""
    prover = PROVERS[bundle.manifest.precision][name]
    with EvaluatorBackend(bundle) if prover == EVALUATOR else open_backend(bundle, prover) as backend:
        verdict = check_parity(reference, backend, gate)
    if not verdict.passed:
        faults = "; ".join(find_faults(verdict, gate))
        raise ParityError(f"{name} is outside its gate: {faults} ({prover}); no bundle was written")
    return verdict


def make_runner(
    folder: Path, reference: Reference, graph_input: GraphInput, *, prover: str, count: int
) -> Callable[[onnx.ModelProto], NamedArrays]:
    """Runs a graph beside its weights, on the first clip `count` times, by the one that will prove it."""
    frames_BTHWC = np.repeat(reference.frames_BTHWC[:1], count, axis=0)
    is_float = graph_input == "pixel_values_videos"
    inputs: dict[str, InputArray] = {
        graph_input: normalise(frames_BTHWC, RGB_MEAN, RGB_STD) if is_float else frames_BTHWC,
        **{name: np.repeat(array[:1], count, axis=0) for name, array in reference.inputs.items()},
    }

    def evaluate(graph: onnx.ModelProto) -> NamedArrays:
        return Evaluation(graph, folder).run(inputs, [value.name for value in graph.graph.output])

    def run(graph: onnx.ModelProto) -> NamedArrays:
        onnxrt = import_with_extra("vjepa2.runtime.backends.onnxrt", "onnxruntime")
        file = folder / "candidate.onnx"
        file.write_bytes(graph.SerializeToString())
        try:
            outputs: NamedArrays = onnxrt.run_graph(file, inputs)
            return outputs
        finally:
            file.unlink()

    return evaluate if prover == EVALUATOR else run
