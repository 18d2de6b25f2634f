"""Where does a value change its type: a graph written again, with a Cast there and nowhere else."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vjepa2.errors import ExportError

from .value_facts import ValueFacts

Width = Literal["fp32", "16"]
TORCH: dict[int, torch.dtype] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
_FP16_MAX = 65504.0
_UNSEEN = "mask_11MM"  # numbers below every score: the lowest of the type does as well


class CastWriter:
    """Writes the nodes again, with a Cast wherever an operand has another type than its reader."""

    def __init__(self, facts: ValueFacts, widths: Mapping[str, Width], half: int) -> None:
        self.facts, self.widths, self.half = facts, widths, half
        wanted: dict[str, set[Width]] = defaultdict(set)
        for node in facts.graph.node:
            for name in node.input:
                if name in facts.constants and name in facts.floats:
                    wanted[name].add(widths.get(node.name, "fp32"))
        constants = [name for name, found in wanted.items() if found == {"16"}]
        if facts.eight_bit_weights:
            constants = [name for name in constants if not _is_external(facts.constants[name])]
        self.halved = [name for name in constants if _is_external(facts.constants[name])]
        self._widths: dict[str, Width] = dict.fromkeys(constants, "16")  # of values
        self._casts: dict[tuple[str, Width], str] = {}
        for name in constants:
            _halve_constant(facts.constants[name], half)

    def rewrite(self) -> Iterator[onnx.NodeProto]:
        """Every node in its order, casts before those that need them, outputs float32."""
        for node in self.facts.graph.node:
            width = self.widths.get(node.name)
            if width is None:
                yield node
                continue
            if node.op_type == "Cast":  # from pixels
                next(entry for entry in node.attribute if entry.name == "to").i = self._type(width)
            else:
                for index, name in enumerate(node.input):
                    if name in self.facts.floats and self._widths.get(name, "fp32") != width:
                        if (name, width) not in self._casts:
                            yield self._cast(name, width)
                        node.input[index] = self._casts[name, width]
            self._widths |= dict.fromkeys(node.output, width)
            yield node
        yield from self._finish()

    def _cast(self, name: str, width: Width) -> onnx.NodeProto:
        result = f"{name}_{'fp32' if width == 'fp32' else 'half'}"
        self._casts[name, width] = result
        return helper.make_node("Cast", [name], [result], name=f"{result}/Cast", to=self._type(width))

    def _type(self, width: Width) -> int:
        return int(TensorProto.FLOAT if width == "fp32" else self.half)

    def _finish(self) -> Iterator[onnx.NodeProto]:
        """Outputs are float32, and what is said of a value's type is true."""
        for name in sorted(self.facts.outputs):
            if self._widths.get(name) == "16":
                inner = f"{name}_half"
                for node in (self.facts.makers[name], *self.facts.readers[name]):
                    _rename(node, name, inner)
                yield helper.make_node("Cast", [inner], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)
        for info in self.facts.graph.value_info:
            if self._widths.get(info.name) == "16":
                info.type.tensor_type.elem_type = self.half


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _halve_constant(tensor: onnx.TensorProto, half: int) -> None:
    if _is_external(tensor):
        tensor.data_type = half  # its place and length are set when the file is laid out
        return
    values = halve_tensor(tensor.name, torch.from_numpy(numpy_helper.to_array(tensor).copy()), TORCH[half])
    data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    tensor.CopyFrom(helper.make_tensor(tensor.name, half, list(tensor.dims), data, raw=True))


def halve_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in 16 bits; `ExportError` if that makes an infinity of a weight."""
    if dtype == torch.float16:
        if name.endswith(_UNSEEN):
            tensor = tensor.clamp(min=-_FP16_MAX)
        most = float(tensor.abs().max())
        if most > _FP16_MAX:
            raise ExportError(f"{name} holds {most:g}, and fp16 ends at {_FP16_MAX:g}; export with --precision bf16")
    return tensor.to(dtype)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)
