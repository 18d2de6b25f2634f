"""What does each target take: operators, types, opsets, IR versions, precisions; and where is that written?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from vjepa2.bundle import ONNXRUNTIME, PORTABLE
from vjepa2.manifest import Precision

from . import operators
from .operators import Operators

TargetName = Literal[
    "tensorrt-8.6", "tensorrt-10.3", "tensorrt-10.13", "tensorrt-10.16", "tensorrt-11", "onnxruntime", "openvino"
]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)

# For which targets export writes a graph. ONNX Runtime runs both: `onnxruntime-portable` is a backend of its own.
TARGETS_OF: Mapping[str, tuple[TargetName, ...]] = {PORTABLE: TARGETS, ONNXRUNTIME: ("onnxruntime",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one importer takes. Operators of a newer opset than `newest` are read as what they were at `newest`."""

    operators: Operators
    types: frozenset[str]  # of any tensor
    oldest: int  # opset
    newest: int  # opset
    refuses_newer: bool = False  # whether a graph of a newer opset is refused, whatever its operators
    unchanged: Mapping[str, int] = field(default_factory=dict)  # operator -> a version after `newest` read rightly
    newest_ir: int
    max_rank: int | None = None
    reads_axes_inputs: bool = True  # of Reduce*
    zero_points_are_zero: bool = False
    int64_as_int32: bool = False
    float16_as_float32: bool = False  # operators without a 16-bit kernel compute in float32, between casts
    refusals: Mapping[Precision, str] = field(default_factory=dict)  # precision -> why there is none
    sources: tuple[str, ...]


_8_6_TYPES = frozenset({"float32", "float16", "int8", "uint8", "int32", "int64", "bool"})
_10_TYPES = _8_6_TYPES | {"bfloat16", "float8e4m3fn"}
_ALL_TYPES = _10_TYPES | {"float64"}


def _tensorrt_10(table: Operators, newest: int, *sources: str) -> Target:
    return Target(
        operators=table,
        types=_10_TYPES,
        oldest=9,
        newest=newest,
        newest_ir=10,
        max_rank=8,
        zero_points_are_zero=True,
        sources=(
            *sources,
            "types: the same page; int8 and fp8 only between QuantizeLinear and DequantizeLinear, zero points 0",
            "IR: ModelImporter.cpp does not look at it (8.6 and 10.1 read); held to 10, of onnx 1.17, its parser's own",
            "rank: nvinfer1::Dims::MAX_DIMS is 8",
        ),
    )


FACTS: Mapping[TargetName, Target] = {
    "tensorrt-8.6": Target(
        operators=operators.TENSORRT_8_6,
        types=_8_6_TYPES,
        oldest=7,
        newest=17,
        unchanged={"Split": 18},
        newest_ir=10,
        max_rank=8,
        reads_axes_inputs=False,
        zero_points_are_zero=True,
        int64_as_int32=True,
        refusals={
            "bf16": "TensorRT 8.6 has no bfloat16: neither its DataType nor its ONNX importer knows it; take fp16",
            "fp8": "TensorRT 8.6 reads no FP8 from ONNX (9.0 was the first), and fp8 needs opset 19; take int8 or fp16",
        },
        sources=(
            "opset: onnx-tensorrt docs/operators.md at 8.6, up to 17; ModelImporter.cpp warns below 7 and refuses none",
            "Split-18: the importer counts the node's outputs and does not read num_outputs (onnx2trt at 8.6-GA)",
            "axes: Reduce* of opset 18 has them as an input, which the importer of 8.6 does not read",
            "int64: docs/operators.md: cast down to int32; the Changelog at 9.0 says that it then stopped",
            "IR: ModelImporter.cpp does not look at it; held to 10",
            "rank: nvinfer1::Dims::MAX_DIMS is 8",
        ),
    ),
    "tensorrt-10.3": _tensorrt_10(
        operators.TENSORRT_10_3, 20, "onnx-tensorrt docs/operators.md at 10.0: opset 9 to 20"
    ),
    "tensorrt-10.13": _tensorrt_10(operators.TENSORRT_10_13, 24, "opset 24: a changelog at second hand; 22 at 10.9"),
    "tensorrt-10.16": _tensorrt_10(
        operators.TENSORRT_10_15, 24, "onnx-tensorrt docs/operators.md at 10.15 and 10.16: opset 9 to 24"
    ),
    "tensorrt-11": _tensorrt_10(
        operators.TENSORRT_10_15, 24, "docs/operators.md at 11.0 and 11.2: opset 9 to 24; operators as at 10.15"
    ),
    "onnxruntime": Target(
        operators=operators.ONNXRUNTIME,
        types=_ALL_TYPES - {"float8e4m3fn"},
        oldest=7,
        newest=22,
        refuses_newer=True,
        newest_ir=10,
        float16_as_float32=True,
        refusals={
            "bf16": "ONNX Runtime's CPU provider has no bfloat16 MatMul; take fp32",
            "fp8": "ONNX Runtime moves QuantizeLinear to FP8 before Transpose and then refuses that; take int8",
        },
        sources=(
            "opset, IR: tried with 1.22.0, which refuses opset 23 and IR 11",
            "float16: InsertCastTransformer; tried with 1.22.0 and 1.32.0",
            "fp8: tried with 1.22.0 to 1.28.0, which refuse what their own optimiser makes; 1.32.0 does not",
        ),
    ),
    "openvino": Target(
        operators=operators.OPENVINO,
        types=_ALL_TYPES - {"float8e4m3fn"},
        oldest=7,
        newest=22,
        newest_ir=10,
        refusals={"fp8": "OpenVINO 2025.0 reads no QuantizeLinear to FP8; take int8 or fp16"},
        sources=(
            "opset, IR: tried with 2025.0.0, which looks at neither; held to what ONNX 1.17, of its time, defines",
            "fp8, types of QuantizeLinear and DequantizeLinear: tried with 2025.0.0; 2026.4.1 takes more",
        ),
    ),
}
