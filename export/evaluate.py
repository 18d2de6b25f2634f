"""What does a graph compute if every result has the type that it declares: its nodes in torch float32, each rounded.

A CPU does 16-bit arithmetic a hundred times slower than float32, and ONNX Runtime's provider for it computes 16-bit
graphs partly in float32. Here a result is what a kernel that sums in float32 stores. Types are ONNX's own: a result has
its operands' type, and operands of two types are an error.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vjepa2.errors import ExportError

from .operators_float32 import OPERATORS, normalise_stepwise
from .rounding import find_free

Naive = Literal["fp16", "bf16"]
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
}
_NAIVE = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MIXED = ("QuantizeLinear", "DequantizeLinear")  # whose operands have several types
_E4M3_MAX = 448.0  # a larger number becomes this one, as ONNX's `saturate` says; torch alone would make it NaN


class Evaluation:
    """One graph and its weights; `naive` gives every float that type instead of its own, LayerNorm's inside too.

    Nodes that `islands` names compute and keep float32 whatever type they have; others round what they take from them.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        folder: Path,
        naive: Naive | None = None,
        islands: Collection[str] | None = None,
    ) -> None:
        self.graph = graph.graph
        self.naive = _NAIVE[naive] if naive else None
        self._wide = frozenset() if islands is None else find_free(self.graph).union(islands)
        self._weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self._folder = folder
        unknown = sorted({node.op_type for node in self.graph.node if node.op_type not in OPERATORS or node.domain})
        if unknown:
            raise ExportError(f"the evaluator has no operator {', '.join(unknown)}; it has {', '.join(OPERATORS)}")

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]], outputs: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """The outputs that are asked for, as float32; a value is let go of after the last node that reads it."""
        uses = Counter(name for node in self.graph.node for name in node.input)
        uses.update(outputs)
        values = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
        dtypes = {name: value.dtype for name, value in values.items()}  # as declared; an island keeps more
        with torch.inference_mode():
            for node in self.graph.node:
                results, dtype = self._compute(node, values, dtypes)
                values |= dict(zip(node.output, results, strict=False))
                dtypes |= dict.fromkeys(node.output, dtype)
                for name in set(node.input):
                    uses[name] -= list(node.input).count(name)
                    if not uses[name]:
                        values.pop(name, None)
        self._check_outputs(dtypes, outputs)
        return {name: values[name].float().numpy() for name in outputs}

    def _check_outputs(self, dtypes: Mapping[str, torch.dtype], outputs: Sequence[str]) -> None:
        declared = {value.name: value.type.tensor_type.elem_type for value in self.graph.output}
        for name in outputs:
            kind = declared[name]
            if not self.naive and kind != TensorProto.UNDEFINED and dtypes[name] != _DTYPES[kind]:
                raise ExportError(f"{name} is computed in {dtypes[name]}; the graph declares {_DTYPES[kind]}")

    def _compute(
        self, node: onnx.NodeProto, values: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> tuple[list[Tensor], torch.dtype]:
        kinds = [self._dtype_of(name, dtypes) if name else None for name in node.input]
        given = {kind for kind in kinds if kind is not None and kind.is_floating_point}
        if len(given) > 1 and node.op_type not in _MIXED:
            raise ExportError(f"{node.name} ({node.op_type}) has operands of {', '.join(sorted(map(str, given)))}")
        is_wide = node.name in self._wide
        operands = [
            self._read(name, values, None if is_wide else kind) if name else None
            for name, kind in zip(node.input, kinds, strict=True)
        ]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        to = _result_dtype(node.op_type, kinds, attributes)
        if self.naive and to.is_floating_point:
            to = self.naive
        if node.op_type == "LayerNormalization" and self.naive and not is_wide:
            return [normalise_stepwise(operands, attributes, self.naive)], to
        results = OPERATORS[node.op_type](operands, attributes, node)
        if is_wide and to.is_floating_point:
            return [result if result.is_floating_point() else result.float() for result in results], to
        return [_round(result, to) for result in results], to

    def _dtype_of(self, name: str, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
        dtype = dtypes[name] if name in dtypes else _DTYPES[self._weights[name].data_type]
        return self.naive if self.naive and dtype.is_floating_point else dtype

    def _read(self, name: str, values: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
        """A value in the type that is declared for it, or with None as it was kept."""
        value = values[name] if name in values else read_tensor(self._weights[name], self._folder)
        return value if dtype is None else _round(value, dtype)


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> Tensor:
    """A constant of a graph, in the type that it is stored in; one in a file is mapped, not read."""
    dtype, shape = _DTYPES[tensor.data_type], tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        if tensor.raw_data:
            return torch.frombuffer(bytearray(tensor.raw_data), dtype=dtype).reshape(shape)
        return torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32)).to(dtype).reshape(shape)
    place = {entry.key: entry.value for entry in tensor.external_data}
    # copy-on-write: torch wants memory that may be written to, and the file must not change
    mapped = np.memmap(folder / place["location"], np.uint8, "c", int(place["offset"]), (int(place["length"]),))
    return torch.from_numpy(mapped).view(dtype).reshape(shape)


def _round(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in `dtype`; what is too large for eight bits becomes the largest."""
    if value.dtype == dtype:
        return value
    if dtype == torch.float8_e4m3fn:
        return value.float().clamp(-_E4M3_MAX, _E4M3_MAX).to(dtype)
    return value.to(dtype)


def _result_dtype(op: str, kinds: Sequence[torch.dtype | None], attributes: Mapping[str, Any]) -> torch.dtype:
    if op == "Cast":
        return _DTYPES[attributes["to"]]
    if op == "QuantizeLinear":
        return (kinds[2] if len(kinds) > 2 else None) or torch.uint8
    if op == "Shape":
        return torch.int64
    kind = kinds[1] if op == "DequantizeLinear" else next((item for item in kinds if item is not None), torch.float32)
    assert kind is not None
    return kind
