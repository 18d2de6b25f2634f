"""What does ONNX Runtime's profile of one run say: which node ran on which provider, on numbers of which type?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .placement import Placed, count_nodes

_PRECISIONS = {"double": "fp64", "float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_INTEGERS = {"int8": "int8", "uint8": "int8", "float8e4m3fn": "fp8"}  # of products; elsewhere they are only moved
_PRODUCTS = {
    "Attention", "Conv", "DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "MultiHeadAttention", "QGemm", "QLinearMatMul", "TransposeMatMul",
}  # fmt: skip
_ENGINE = "TRTKernel"  # how the nodes begin that TensorRT's provider makes of a whole graph


def read_profile(file: Path, *, exact: str = "fp32") -> tuple[Placed, ...]:
    """Count the nodes of a profile; `exact` is what float32 stands for, "tf32" where the provider rounds it."""
    return count_nodes(_rows(json.loads(file.read_text()), exact))


def _rows(events: list[dict[str, Any]], exact: str) -> Iterator[tuple[str, str, bool]]:
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        facts = event["args"]
        kind = facts["op_name"]
        is_engine = kind.startswith(_ENGINE)
        is_product = kind in _PRODUCTS or is_engine
        # a product's operands say what it computes in; an engine takes pixels and gives what it computed
        shown = facts["output_type_shape"] if not is_product or is_engine else facts["input_type_shape"][:1]
        names = [name for tensor in shown for name in tensor]
        found = [_PRECISIONS.get(name) or (_INTEGERS.get(name) if is_product else None) for name in names]
        precision = next(filter(None, found), "")
        yield facts["provider"], exact if is_product and precision == "fp32" else precision, is_product
