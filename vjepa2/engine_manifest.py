"""What does an engine say of itself: `engines/<name>/manifest.json` as a type, and its one canonical form."""

import json
import re
from dataclasses import dataclass, field
from typing import Literal

from vjepa2.errors import BundleError, EngineError
from vjepa2.manifest import FileInfo, ParityVerdict, Precision, seal_record
from vjepa2.schema import ADDED_LATER, read_record, to_record

ENGINE_SCHEMA = 1

TensorMode = Literal["input", "output"]
# TensorRT's own names: their numbers differ between its versions
DataTypeName = Literal["FLOAT", "HALF", "BF16", "INT8", "UINT8", "INT32", "INT64", "BOOL", "FP8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version as its library spells it, and as numbers."""

    name: str  # "10.16.1.11", "12.2"
    number: tuple[int, ...]  # (10, 16, 1, 11), (12, 2)

    @classmethod
    def parse(cls, name: str) -> "Version":
        """The version called `name`, its numbers read up to the first that is none: "8.6.0rc1" is (8, 6, 0)."""
        match = re.match(r"\d+(\.\d+)*", name)
        if not match:
            raise ValueError(f"version is {name!r}; it must begin with numbers, as 10.3.0")
        return cls(name=name, number=tuple(map(int, match[0].split("."))))

    @classmethod
    def of_cuda(cls, number: int) -> "Version":
        """The version that CUDA counts as 1000 * major + 10 * minor: 12020 is 12.2."""
        major, minor = number // 1000, number % 1000 // 10
        return cls(name=f"{major}.{minor}", number=(major, minor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an engine was built on, and what it runs on."""

    gpu: str  # as the driver names it
    sm: int  # compute capability: 87 is 8.7
    os: str  # "linux"
    arch: str  # "x86_64", "aarch64"
    tensorrt: Version
    cuda_driver: Version  # the newest CUDA that the driver knows
    cuda_runtime: Version | None  # that TensorRT loaded; None where it carries its own
    # the driver's own release, "550.54.15", "L4T 36.4.3"; None where the system does not tell
    driver: str | None = field(default=None, metadata=ADDED_LATER)
    # Jetsons of several sizes have one name; None in engines of before
    multiprocessors: int | None = field(default=None, metadata=ADDED_LATER)

    def differences(self, here: "Machine") -> tuple[str, ...]:
        """What keeps an engine of this machine from running `here`, each as "what is X here, Y in the engine".

        A driver may be updated under an engine; an older one may lack what it needs, and nothing was proven with it.
        """
        pairs = (
            ("TensorRT", here.tensorrt.name, self.tensorrt.name),
            ("compute capability", here.sm, self.sm),
            ("GPU", here.gpu, self.gpu),
            ("operating system", here.os, self.os),
            ("architecture", here.arch, self.arch),
            ("number of multiprocessors", here.multiprocessors, self.multiprocessors),
        )
        found = [f"{what} is {is_here} here, {was} in the engine" for what, is_here, was in pairs if is_here != was]
        if here.cuda_driver.number < self.cuda_driver.number:
            found.append(
                f"CUDA of the driver is {here.cuda_driver.name} here, {self.cuda_driver.name} in the engine, "
                "and must not be older"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """The shapes of one input that an engine was built for; equal where the graph's shape is fixed."""

    least: tuple[int, ...]
    best: tuple[int, ...]  # what the kernels were chosen for
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTensor:
    """An input or output of an engine, as TensorRT gives it."""

    name: str
    mode: TensorMode
    dtype: DataTypeName
    shape: tuple[int, ...]  # -1 where it is free


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """Everything that is needed to trust an engine, and to build it again."""

    schema: int = ENGINE_SCHEMA
    precision: Precision
    graph: str  # the file of the bundle that was parsed
    bundle_sha256: str  # self_sha256 of the bundle's manifest
    built_from: dict[str, FileInfo]  # the graph, its weights and the reference of its gate, as in the bundle's manifest
    plan: FileInfo
    machine: Machine
    network_flags: tuple[str, ...]  # by name
    builder_flags: tuple[str, ...]
    tactic_sources: tuple[str, ...]
    builder_level: int
    workspace_bytes: int | None  # limit; None: TensorRT's own
    profile: dict[str, ShapeRange]  # by input
    io: tuple[EngineTensor, ...]
    fused_attention: int | None  # layers whose attention is one kernel; None: TensorRT's inspector does not tell
    device_memory_bytes: int  # of one context's activations
    verdict: ParityVerdict  # of the gate, on this machine
    tried: tuple[str, ...]  # what was built before this and did not pass, and why
    tools: dict[str, str]  # name -> version

    @property
    def max_batch(self) -> int:
        """Clips a call, at most."""
        return min(shapes.most[0] for shapes in self.profile.values())


def engine_name(machine: Machine, precision: Precision) -> str:
    """The folder of a machine's engine inside `engines/`: "nvidia-h200-10.3.0-fp16"."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower()).strip("-") or "gpu"
    return f"{gpu}-{re.sub(r'[^A-Za-z0-9.]', '-', machine.tensorrt.name)}-{precision}"


def encode_engine_manifest(manifest: EngineManifest) -> bytes:
    """The canonical JSON of `manifest`, closed by the hash of what precedes it."""
    return seal_record(to_record(manifest))


def decode_engine_manifest(data: bytes) -> EngineManifest:
    """Read what `encode_engine_manifest` wrote; anything else is an `EngineError`."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"the engine's manifest.json is not JSON ({error})") from error
    if not isinstance(record, dict) or "self_sha256" not in record:
        raise EngineError("the engine's manifest.json lacks self_sha256; it was not written by vjepa2 compile")
    record.pop("self_sha256")
    if record.get("schema") != ENGINE_SCHEMA:
        raise EngineError(
            f"the engine's manifest.json has schema {record.get('schema')!r}; this version reads {ENGINE_SCHEMA}"
        )
    try:
        manifest = read_record(EngineManifest, record, "engine manifest")
    except BundleError as error:
        raise EngineError(str(error)) from error
    if encode_engine_manifest(manifest) != data:
        raise EngineError("the engine's manifest.json is not what compile wrote (its self_sha256 or form differs)")
    return manifest
