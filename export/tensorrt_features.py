"""What does the installed TensorRT have, and can it build a bundle of that precision?

What a version has is probed, never concluded from its number; flags are found by name, since their numbers differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import tensorrt as trt

from vjepa2.engine_manifest import Version
from vjepa2.errors import CompileError
from vjepa2.manifest import Precision

from .tensorrt_notes import LEAST_TENSORRT

# weak: types in the graph are hints, and precision is a builder's flag; strong: the graph's types hold
Typing = Literal["weak", "strong by flag", "strong always"]
Precheck = Literal["supports_model_v2", "supports_model", "none"]

_WEAK_FLAGS: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "int8": ("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
}
_LEAST_SM: dict[Precision, int] = {"bf16": 80, "fp8": 89}
_DATA_TYPE: dict[Precision, str] = {"bf16": "BF16", "fp8": "FP8"}
# their libraries are large, are not everywhere, and from 11 on are not used
UNWANTED_SOURCES = {"CUBLAS", "CUBLAS_LT", "CUDNN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the installed TensorRT has."""

    version: Version
    typing: Typing
    network_flags: tuple[str, ...]  # with which a network is made
    precheck: Precheck
    has_monitor: bool  # tells progress, and can be stopped
    node_names: bool  # whether the parser's errors name nodes, or only number them
    tactic_sources: tuple[str, ...]  # that stay on
    device_memory: str  # the property that holds it


def probe_features() -> Features:
    """What the installed TensorRT has; `CompileError` if it is too old."""
    version = Version.parse(trt.__version__)
    if version.number[:2] < LEAST_TENSORRT:
        raise CompileError(
            f"TensorRT is {version.name}; it must be 8.6 or newer (before, it has no LayerNormalization; JetPack 5 has "
            "8.5): install JetPack 6, or run the bundle with onnxruntime"
        )
    flags = trt.NetworkDefinitionCreationFlag.__members__
    is_weak = "STRONGLY_TYPED" not in flags
    has_precisions = "FP16" in trt.BuilderFlag.__members__
    wanted = "EXPLICIT_BATCH" if is_weak else "STRONGLY_TYPED"
    prechecks: tuple[Precheck, ...] = ("supports_model_v2", "supports_model")
    return Features(
        version=version,
        typing="weak" if is_weak else "strong by flag" if has_precisions else "strong always",
        network_flags=tuple(name for name in (wanted,) if name in flags),
        precheck=next((name for name in prechecks if hasattr(trt.OnnxParser, name)), "none"),
        has_monitor=hasattr(trt, "IProgressMonitor"),
        node_names=hasattr(trt.ParserError, "node_name"),
        tactic_sources=tuple(name for name in trt.TacticSource.__members__ if name not in UNWANTED_SOURCES),
        device_memory=next(
            name for name in ("device_memory_size_v2", "device_memory_size") if hasattr(trt.ICudaEngine, name)
        ),
    )


def choose_builder_flags(precision: Precision, features: Features, sm: int | None = None) -> tuple[str, ...]:
    """Names of the flags that a bundle of `precision` needs here; `CompileError` says why it cannot be built at all."""
    name = features.version.name
    needed = _DATA_TYPE.get(precision)
    if needed is not None and needed not in trt.DataType.__members__:
        raise CompileError(f"TensorRT {name} has no {precision}; export the bundle with --precision fp16")
    if features.typing == "weak" and precision not in _WEAK_FLAGS:
        raise CompileError(
            f"TensorRT {name} does not take {precision} from the graph's types; "
            "export the bundle with --precision fp16, or install TensorRT 10"
        )
    least_sm = _LEAST_SM.get(precision, 0)
    if sm is not None and sm < least_sm:
        raise CompileError(
            f"this GPU's compute capability is {sm / 10:.1f} and {precision} needs {least_sm / 10:.1f}; "
            "export the bundle with --precision fp16"
        )
    return _WEAK_FLAGS[precision] if features.typing == "weak" else ()


def describe_features() -> Iterator[str]:
    """Lines for people: what the installed TensorRT has, and what each precision needs of it."""
    features = probe_features()
    yield f"TensorRT {features.version.name}: types {features.typing}, network flags {list(features.network_flags)}"
    yield f"  pre-check {features.precheck}, progress {features.has_monitor}, node names {features.node_names}"
    yield f"  tactic sources {list(features.tactic_sources)}, memory {features.device_memory}"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
    for precision in precisions:
        try:
            yield f"  {precision}: builder flags {list(choose_builder_flags(precision, features))}"
        except CompileError as error:
            yield f"  {precision}: refused: {error}"
