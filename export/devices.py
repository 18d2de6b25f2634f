"""Which devices is a model planned for, and what can each do at most: one table.

Peaks are dense, of MatMuls, in TFLOP/s (TOP/s for int8): half of what a data sheet prints with sparsity. `fp32` is that
of the CUDA cores, which no data sheet prints with sparsity: our engines are built without TF32, so that no tensor core
takes float32. A precision that is not in `tera` is one that the GPU lacks, or for which no figure was found: then
nothing is said. Clocks are the highest power mode's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vjepa2.errors import UnknownNameError
from vjepa2.manifest import Precision

THIS_MACHINE = "this-machine"
_SHARED_SYSTEM = 1_500_000_000  # assumed: Linux and its services, where CPU and GPU share the memory
_CUDA_CONTEXT = 500_000_000  # assumed: driver, CUDA and TensorRT, on a card as in a memory that is shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place to run; what it can do is the maker's word, or for this machine what was just measured."""

    name: str
    memory_bytes: int  # all of it
    reserved_bytes: int  # of these, what is not the model's
    is_shared: bool  # whether CPU and GPU share it
    gigabytes_per_second: float
    tera: Mapping[Precision, float]  # operations a second, dense
    source: str

    @property
    def usable_bytes(self) -> int:
        """What is left for a model."""
        return self.memory_bytes - self.reserved_bytes


def _jetson(name: str, gigabytes: int, bandwidth: float, tera: Mapping[Precision, float], source: str) -> Device:
    return Device(
        name=name,
        memory_bytes=gigabytes * 2**30,
        reserved_bytes=_SHARED_SYSTEM + _CUDA_CONTEXT,
        is_shared=True,
        gigabytes_per_second=bandwidth,
        tera=tera,
        source=source,
    )


def _card(name: str, gigabytes: int, bandwidth: float, tera: Mapping[Precision, float], source: str) -> Device:
    return Device(
        name=name,
        memory_bytes=gigabytes * 10**9,
        reserved_bytes=_CUDA_CONTEXT,
        is_shared=False,
        gigabytes_per_second=bandwidth,
        tera=tera,
        source=source,
    )


def _cuda_cores(multiprocessors: int, gigahertz: float) -> float:
    """TFLOP/s in float32: 128 cores a multiprocessor, of Orin as of Thor, each a multiply-add a cycle."""
    return multiprocessors * 128 * 2 * gigahertz / 1e3


def _ampere(multiprocessors: int, gigahertz: float) -> dict[Precision, float]:
    """Orin: its CUDA cores; its tensor cores do 1024 fp16 multiply-adds a cycle and multiprocessor, twice that int8."""
    fp16 = multiprocessors * 1024 * 2 * gigahertz / 1e3
    return {"fp32": _cuda_cores(multiprocessors, gigahertz), "fp16": fp16, "bf16": fp16, "int8": 2 * fp16}


_HOPPER: dict[Precision, float] = {"fp32": 67.0, "fp16": 989.4, "bf16": 989.4, "int8": 1978.9, "fp8": 1978.9}
_HALVED = "tensor cores' figures halved: it prints sparse ones"
_ORIN = "multiprocessors and clock of NVIDIA's Jetson Orin data sheets, operations a cycle of its technical brief"

_DEVICES = (
    _jetson("orin-nano", 8, 102.4, _ampere(8, 1.020), f"{_ORIN}; 8 GB module, 25 W (Super), 67 TOPS sparse int8"),
    _jetson("orin-nx", 16, 102.4, _ampere(8, 1.173), f"{_ORIN}; 16 GB module, MAXN SUPER, without its DLAs"),
    _jetson("agx-orin", 64, 204.8, _ampere(16, 1.301), f"{_ORIN}; 64 GB module, MAXN, without its DLAs"),
    _jetson(
        "thor",
        128,
        273.0,
        {"fp32": _cuda_cores(20, 1.57), "fp16": 257.0, "bf16": 257.0, "fp8": 515.0},
        "NVIDIA Jetson T5000: 2070 TFLOPS sparse fp4; 2560 CUDA cores, 1.57 GHz; no figure for int8 found",
    ),
    _card("t4", 16, 320.0, {"fp32": 8.1, "fp16": 65.0, "int8": 130.0}, "NVIDIA T4 data sheet"),
    _card(
        "l4",
        24,
        300.0,
        {"fp32": 30.3, "fp16": 121.0, "bf16": 121.0, "int8": 242.5, "fp8": 242.5},
        f"NVIDIA L4 data sheet, {_HALVED}",
    ),
    _card(
        "a10", 24, 600.0, {"fp32": 31.2, "fp16": 125.0, "bf16": 125.0, "int8": 250.0}, "NVIDIA A10 data sheet, 150 W"
    ),
    _card(
        "a100",
        80,
        2039.0,
        {"fp32": 19.5, "fp16": 312.0, "bf16": 312.0, "int8": 624.0},
        "NVIDIA A100 data sheet, SXM, 80 GB",
    ),
    _card("h100", 80, 3350.0, _HOPPER, f"NVIDIA H100 data sheet, SXM, {_HALVED}"),
    _card("h200", 141, 4800.0, _HOPPER, f"NVIDIA H200 data sheet, SXM, {_HALVED}"),
)

DEVICES = MappingProxyType({device.name: device for device in _DEVICES})
DEVICE_NAMES = (*DEVICES, THIS_MACHINE)


def check_device(name: str) -> None:
    """`UnknownNameError` unless `name` is in the table or this machine's."""
    if name not in DEVICE_NAMES:
        raise UnknownNameError(f"no device is named {name!r}; choose from {', '.join(DEVICE_NAMES)}")
