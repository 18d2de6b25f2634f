"""What does TensorRT say of a plan that it built: its tensors, its memory, how many layers are fused attention?"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorrt as trt

from vjepa2.engine_manifest import EngineTensor
from vjepa2.errors import CompileError

from .tensorrt_features import probe_features
from .tensorrt_log import LOGGER, BuildLog
from .tensorrt_notes import NoPlanError

_FUSED_ATTENTION = re.compile(r"mha", re.IGNORECASE)  # _gemm_mha_v2, fmha_v2, kgen_mha
_OPAQUE = re.compile(r"ForeignNode", re.IGNORECASE)  # a part of the graph whose kernels the inspector does not list


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What TensorRT says of a plan."""

    io: tuple[EngineTensor, ...]
    fused_attention: int | None  # layers whose attention is one kernel; None: the inspector does not tell
    device_memory_bytes: int
    untold: str = ""  # why it does not


def examine_plan(plan: bytes, log: BuildLog) -> PlanFacts:
    """Load a plan, as here it was built, and say what TensorRT knows of it."""
    try:
        runtime = trt.Runtime(LOGGER)
    except TypeError as error:
        raise CompileError(log.explain("TensorRT found no CUDA device or driver")) from error
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise NoPlanError(log.explain("TensorRT did not load the plan that it built"))
    count: int | None = None
    untold = ""
    try:
        count, is_opaque = count_fused_attention(read_layers(engine))
        if is_opaque and not count:
            count, untold = None, "the engine inspector does not list the kernels of whole parts of the graph"
    except ValueError as error:
        untold = str(error)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return PlanFacts(
        io=tuple(
            EngineTensor(
                name=name,
                mode=engine.get_tensor_mode(name).name.lower(),
                dtype=engine.get_tensor_dtype(name).name,
                shape=tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        ),
        fused_attention=count,
        device_memory_bytes=getattr(engine, probe_features().device_memory),
        untold=untold,
    )


def read_layers(engine: Any) -> list[object]:
    """What the inspector tells of each layer; `ValueError` if what it tells cannot be read.

    8.6 writes control characters into its strings, which JSON forbids, and bytes that are no UTF-8
    (https://github.com/NVIDIA/TensorRT/issues/2779). What lies beside the layers (`Bindings`, from 11 on `I/O Tensors`)
    does not matter.
    """
    try:
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    except UnicodeDecodeError as error:
        raise ValueError(f"the engine inspector's answer is no UTF-8: {error}") from error
    try:
        layers = json.loads(text, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the engine inspector's answer is not known here: {text[:200]!r}") from error
    if not isinstance(layers, list):
        raise ValueError(f"the engine inspector's layers are no list: {text[:200]!r}")
    return layers


def count_fused_attention(layers: Sequence[object]) -> tuple[int, bool]:
    """Layers that are fused attention, and whether other layers hide what they are made of.

    They are objects where the engine was built with all details, else names.
    """
    words = [
        " ".join(str(layer.get(key, "")) for key in ("Name", "TacticName")) if isinstance(layer, dict) else str(layer)
        for layer in layers
    ]
    fused = sum(_FUSED_ATTENTION.search(text) is not None for text in words)
    return fused, any(_OPAQUE.search(text) for text in words)
