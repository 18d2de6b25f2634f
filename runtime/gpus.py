"""Which NVIDIA GPUs does the driver of this machine show? Without torch, without a CUDA toolkit."""

import ctypes
from dataclasses import dataclass

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: the compute capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device as CUDA numbers it."""

    name: str
    capability: tuple[int, int]
    driver: int  # the CUDA version that the driver offers, 1000 * major + 10 * minor


def list_gpus() -> list[Gpu]:
    """Every GPU; none without a driver, or if it does not answer: `explain_no_gpu` says which."""
    driver = _load()
    if driver is None or driver.cuInit(0):
        return []
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return []
    return [_describe(driver, number, version.value) for number in range(count.value)]


def explain_no_gpu() -> str:
    """Why `list_gpus` is empty."""
    driver = _load()
    if driver is None:
        return f"an NVIDIA GPU with its driver ({_DRIVER} is not installed)"
    code = driver.cuInit(0)
    return f"an NVIDIA GPU ({_DRIVER} answers {'error ' + str(code) if code else 'that there is none'})"


def _load() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError:
        return None


def _describe(driver: ctypes.CDLL, number: int, version: int) -> Gpu:
    name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), number)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, number)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, number)
    return Gpu(name=name.value.decode(), capability=(major.value, minor.value), driver=version)
