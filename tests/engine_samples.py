"""What does a test put where an engine is to be: a manifest that could be one, and any bytes for its plan."""

from dataclasses import replace
from pathlib import Path

from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.engine_folder import write_engine
from vjepa2.engine_manifest import EngineManifest, EngineTensor, Machine, ShapeRange, Version
from vjepa2.manifest import FileInfo

HERE = Machine(
    gpu="NVIDIA Orin (nvgpu)",
    sm=87,
    os="linux",
    arch="aarch64",
    tensorrt=Version.parse("8.6.2"),
    cuda_driver=Version.of_cuda(12020),
    cuda_runtime=None,
    multiprocessors=16,
)
NAME = "nvidia-orin-nvgpu-8.6.2-fp32"
PLAN_BYTES = b"ftrt" + bytes(range(256)) * 3
_TYPES = {"uint8": "UINT8", "float32": "FLOAT", "int64": "INT64"}


def sample_manifest(bundle: Bundle, machine: Machine = HERE) -> EngineManifest:
    """An engine of `bundle` that passed its gate on `machine`; its hashes are filled in when it is written."""
    stated = bundle.manifest
    io = [
        EngineTensor(name=info.name, mode=mode, dtype=_TYPES[info.dtype], shape=_fixed(info.shape))  # type: ignore[arg-type]
        for mode, infos in (("input", stated.inputs), ("output", stated.outputs))
        for info in infos
    ]
    ranges = {
        tensor.name: ShapeRange(least=tensor.shape, best=tensor.shape, most=tensor.shape)
        for tensor in io
        if tensor.mode == "input"
    }
    return EngineManifest(
        precision=stated.precision,
        graph=PORTABLE,
        bundle_sha256="",
        built_from={},
        plan=FileInfo(sha256="", bytes=0),
        machine=machine,
        network_flags=("EXPLICIT_BATCH",),
        builder_flags=("TF32",),
        tactic_sources=("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
        builder_level=3,
        workspace_bytes=2**30,
        profile=ranges,
        io=tuple(io),
        fused_attention=0,
        device_memory_bytes=4096,
        verdict=replace(stated.parity[PORTABLE], passed=True),
        tried=(),
        tools={"vjepa2-edge": "0"},
    )


def put_engine(folder: Path, machine: Machine = HERE, plan: bytes = PLAN_BYTES) -> Path:
    """Give the bundle at `folder` an engine, as compile would; the engine's folder."""
    bundle = Bundle.open(folder)
    return write_engine(bundle, sample_manifest(bundle, machine), plan)


def _fixed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(-1 if isinstance(size, str) else size for size in shape)
