"""Which graphs does a bundle of one precision hold, and what lies in the file of weights that they share?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS
from vjepa2.manifest import Precision

from .casts import halve_tensor
from .lower import lower_graph, make_batch_dynamic
from .precision import type_graph
from .quantize import EightBits, quantize_graph, quantize_weights
from .trace import Trace
from .weights_file import place_tensors

# The precision of each graph. ONNX Runtime's fused attention is float32 on the CPU and 16-bit on GPUs alone: what
# nothing here could prove is in no bundle, and the int8 graph that its CPU provider runs keeps float32 attention.
VARIANTS: dict[Precision, dict[str, Precision]] = {
    "fp32": {PORTABLE: "fp32", ONNXRUNTIME: "fp32"},
    "fp16": {PORTABLE: "fp16"},
    "bf16": {PORTABLE: "bf16"},
    "int8": {PORTABLE: "int8", ONNXRUNTIME: "fp32"},
    "fp8": {PORTABLE: "fp8"},
}


@dataclass(frozen=True, slots=True)
class Variants:
    """The graphs by file name, and the tensors in the order in which they lie."""

    graphs: dict[str, onnx.ModelProto]
    tensors: dict[str, Tensor]
    islands: tuple[str, ...]  # nodes that are float32 because they were asked to be


def make_variants(
    traced: Trace, precision: Precision, eight: EightBits | None, *, is_dynamic: bool, islands: Sequence[str] = ()
) -> Variants:
    """Every graph of `precision`, its weights named but not held; `eight` says what 8-bit layers are given."""
    graphs: dict[str, onnx.ModelProto] = {}
    dtypes: dict[str, torch.dtype] = {}
    wide: tuple[str, ...] = ()
    for name, base in VARIANTS[precision].items():
        graph = lower_graph(traced.graph, name)
        if is_dynamic:
            make_batch_dynamic(graph)
        typed = type_graph(graph, base, eight.weights if eight else frozenset(), islands)
        if eight:
            quantize_graph(typed.graph, eight)
        graphs[name] = typed.graph
        dtypes |= typed.dtypes
        wide = typed.islands
    tensors = {
        name: halve_tensor(name, tensor, dtypes[name]) if name in dtypes else tensor
        for name, tensor in traced.tensors.items()
    }
    if eight:
        tensors = quantize_weights(tensors, eight)
    for graph in graphs.values():
        _set_places(graph, tensors)
    return Variants(graphs, tensors, wide)


def _set_places(graph: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> None:
    places = place_tensors(tensors)
    for tensor in graph.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = places[tensor.name]
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS), ("offset", place.offset), ("length", place.length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
