"""Do the two interpreters have what is needed: torch and what exports in one, TensorRT in the other, a GPU in both?"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vjepa2.engine_manifest import Version
from vjepa2.errors import Vjepa2Error

ROOT = Path(__file__).parents[2]
LEAST_TORCH, LEAST_TENSORRT = (2, 11), (8, 6)
_TIME_LIMIT_S = 300.0  # the first import of torch from a cold disk takes a minute

# interpreter -> modules that it must have
NEEDS: Mapping[str, tuple[str, ...]] = {
    "PYTHON": ("torch", "numpy", "onnx", "onnxscript", "safetensors", "click", "rich"),
    "TENSORRT_PYTHON": ("tensorrt", "numpy", "click", "rich"),
}
_PROBE = """
import importlib.util, json, platform, sys
found = {"python": platform.python_version(), "versions": {}, "gpu": None, "no_gpu": None, "sm": None}
found["has_bf16"] = False
for name in sys.argv[2:] + ["onnxsim"]:
    if importlib.util.find_spec(name) is not None:
        module = importlib.import_module(name)
        found["versions"][name] = str(getattr(module, "__version__", "unknown"))
if "torch" in found["versions"]:
    import torch
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
        major, minor = torch.cuda.get_device_capability(0)
        found["sm"] = 10 * major + minor
    else:
        found["no_gpu"] = f"torch {torch.__version__} finds no CUDA GPU"
if "tensorrt" in found["versions"]:
    import tensorrt
    found["has_bf16"] = hasattr(tensorrt.DataType, "BF16")
    from vjepa2.errors import BackendError
    from vjepa2.runtime.backends.cuda import CudaDevice
    try:
        with CudaDevice.open() as gpu:
            found["gpu"], found["sm"] = gpu.name, gpu.sm
    except BackendError as error:
        found["no_gpu"] = str(error)
print(json.dumps(found))
"""


class GpuBenchmarkError(Vjepa2Error):
    """What this machine lacks to compare an engine with torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """An interpreter, and what it has."""

    role: str  # the variable of `make gpu`
    path: str
    python: str
    versions: dict[str, str]  # of modules
    gpu: str | None
    sm: int | None  # the GPU's compute capability: 87 is 8.7
    has_bf16: bool  # of TensorRT

    @property
    def simplifies(self) -> bool:
        """Whether it has onnxsim."""
        return "onnxsim" in self.versions


def find_interpreters(paths: Mapping[str, str]) -> dict[str, Interpreter]:
    """Both interpreters by role; a `GpuBenchmarkError` names everything that is missing, not the first of it."""
    found, faults = {}, []
    for role in NEEDS:
        try:
            probed = _probe(role, paths[role])
        except GpuBenchmarkError as error:
            faults.append(str(error))
            continue
        found[role] = probed[0]
        faults += probed[1]
    names = {interpreter.gpu for interpreter in found.values()} - {None}
    if len(names) > 1:
        faults.append(f"the interpreters see different GPUs: {', '.join(sorted(map(str, names)))}")
    if faults:
        raise GpuBenchmarkError("; ".join(faults))
    return found


def _probe(role: str, path: str) -> tuple[Interpreter, list[str]]:
    program = shutil.which(path)
    if program is None:
        raise GpuBenchmarkError(
            f"{role} is {path!r}, which is no program; give the path of a Python: make gpu {role}=…"
        )
    program = str(Path(program).absolute())  # not resolved: a link into an environment is that environment
    try:
        record = _ask([program, "-c", _PROBE, role, *NEEDS[role]])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise GpuBenchmarkError(f"{role} ({path}) cannot be asked what it has: {error}") from error
    return _read(role, program, record), [f"{role} ({path}) {fault}" for fault in _find_faults(role, record)]


def _ask(command: Sequence[str]) -> dict[str, Any]:
    """What the probe says; a `ValueError` with its last line if it says nothing."""
    done = subprocess.run(
        list(command),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIME_LIMIT_S,
    )
    if done.returncode or not done.stdout.strip():
        raise ValueError((done.stderr.strip().splitlines() or ["no message"])[-1])
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def _read(role: str, path: str, record: dict[str, Any]) -> Interpreter:
    return Interpreter(
        role=role,
        path=path,
        python=record["python"],
        versions=record["versions"],
        gpu=record["gpu"],
        sm=record["sm"],
        has_bf16=record["has_bf16"],
    )


def _find_faults(role: str, record: dict[str, Any]) -> list[str]:
    versions = record["versions"]
    missing = [name for name in NEEDS[role] if name not in versions]
    faults = [f"lacks {', '.join(missing)}"] if missing else []
    for name, least in (("torch", LEAST_TORCH), ("tensorrt", LEAST_TENSORRT)):
        if name in versions and Version.parse(versions[name]).number < least:
            faults.append(f"has {name} {versions[name]}; it must be at least {'.'.join(map(str, least))}")
    return faults + ([f"has no GPU: {record['no_gpu']}"] if record["no_gpu"] else [])
