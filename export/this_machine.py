"""What can this machine do: its memory as the system tells it, its rates as numpy reaches them in a second."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .devices import THIS_MACHINE, Device

_SIDE = 384  # of the square matrices that are multiplied
_COPIED_BYTES = 128 * 2**20  # beyond what caches hold
_SECONDS = 0.4  # for each rate: long enough for a quiet moment on a busy machine


def measure_machine() -> Device:
    """The machine that runs this, as a device: float32 MatMul and copy, each at its fastest round."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    matmul_s = _best(lambda: np.matmul(left, right))
    copy_s = _best(lambda: np.copyto(target, source))
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device(
        name=THIS_MACHINE,
        memory_bytes=memory_bytes,
        reserved_bytes=memory_bytes - _available(memory_bytes),
        is_shared=True,
        gigabytes_per_second=2 * _COPIED_BYTES / copy_s / 1e9,  # a copy reads and writes
        tera={"fp32": 2 * _SIDE**3 / matmul_s / 1e12},
        source=f"measured now: numpy {np.__version__} on {os.cpu_count()} CPUs ({platform.machine()}), "
        f"the fastest round in {_SECONDS} s each",
    )


def _best(step: Callable[[], object]) -> float:
    """Seconds of the fastest round after one that warms up."""
    step()
    best_s, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        step()
        best_s = min(best_s, time.perf_counter() - start)
    return best_s


def _available(memory_bytes: int) -> int:
    """Bytes that Linux says a new process can have; all of the memory where it does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return memory_bytes
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
