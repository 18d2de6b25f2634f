"""Which products of matrices did PyTorch compute, where, and in what: told by its dispatcher, beneath autocast."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {
    "_addmm_activation", "addbmm", "addmm", "addmv", "baddbmm", "bmm", "convolution", "dot", "mm", "mv",
}  # fmt: skip
_ATTENTION = "_attention"  # part of names, of which there is one for each kernel
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class ProductWatch(TorchDispatchMode):
    """While it is entered, rows of place, precision and True, as `count_nodes` takes them, for each product.

    It sees what this thread dispatches: of a compiled block, whose kernels PyTorch's compiler wrote, it sees nothing.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[tuple[str, str, bool]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Note a product by its first operand, and compute whatever it is; what is made of others is looked into."""
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        name = str(getattr(func, "overloadpacket", func)).rpartition(".")[2]
        if name in _PRODUCTS or _ATTENTION in name:
            operand = next(value for value in args if isinstance(value, Tensor))
            self.rows.append((str(operand.device), NAMES.get(operand.dtype, str(operand.dtype)), True))
        return func(*args, **(kwargs or {}))
