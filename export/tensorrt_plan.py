"""What does TensorRT say of a plan that it built: its tensors, its memory, how many layers are fused attention?"""

import json
import re
from dataclasses import dataclass

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
    fused_attention: int  # layers whose attention is one kernel
    is_opaque: bool  # parts of the graph are not listed kernel by kernel
    device_memory_bytes: int


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
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    count, is_opaque = count_fused_attention(text)
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
        is_opaque=is_opaque,
        device_memory_bytes=getattr(engine, probe_features().device_memory),
    )


def count_fused_attention(information: str) -> tuple[int, bool]:
    """Layers of the inspector's JSON that are fused attention, and whether other layers hide what they are made of.

    Layers are objects where the engine was built with all details, else names; what lies beside them in the JSON
    (`Bindings`, from 11 on `I/O Tensors`) does not matter.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise CompileError(f"the engine inspector's answer is not known here: {information[:200]!r}") from error
    words = [
        layer if isinstance(layer, str) else " ".join(str(layer.get(key, "")) for key in ("Name", "TacticName"))
        for layer in layers
    ]
    fused = sum(_FUSED_ATTENTION.search(text) is not None for text in words)
    return fused, any(_OPAQUE.search(text) for text in words)
