"""How fast could it be: a clip's operations and bytes over what this device was seen to do, in the same run?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vjepa2.errors import MissingDependencyError
from vjepa2.extras import import_with_extra
from vjepa2.manifest import Manifest

_SIDES = (512, 1024, 2048)  # of the matrices: small ones fit between two other processes, large ones fill many cores
_COPIED = 256 * 2**20  # bytes, more than caches hold
_LEAST_S = 0.3
_REPEATS = 3
_WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The best of several tries."""

    measured_by: str
    precision: str
    gemm_flops: float  # a second
    copy_bytes: float  # a second, read and written together


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The shortest that a query could take, by arithmetic or by memory, whichever is longer."""

    rates: Rates
    flops: int  # of a query: MatMuls of the encoder, two a multiply-add
    least_bytes: int  # that must travel: weights once a call, frames and results
    arithmetic_ms: float
    memory_ms: float
    bound_ms: float
    fraction: float  # of the bound that the median of computing reaches


def measure_rates(device: str, precision: str, clock: Callable[[], float] = time.perf_counter) -> Rates | str:
    """What the device does with large matrices and with memory; a sentence where that cannot be measured."""
    if device == "cpu" and precision == "fp32":
        return _measure_numpy(clock)
    if device.partition(":")[0] not in ("cpu", "cuda"):
        return f"nothing here measures what a {device} can do"
    try:
        module = import_with_extra("vjepa2.runtime.backends.torch_rates", "torch")
    except MissingDependencyError as error:
        return f"the rates of {precision} on {device} are measured by PyTorch: {error}"
    rates: Rates | str = module.measure_torch_rates(device, precision)
    return rates


def take_best(measured: Sequence[Rates]) -> Rates:
    """What one device was seen to do at its best: whatever held it up in one moment is no limit."""
    return replace(
        measured[0],
        gemm_flops=max(rates.gemm_flops for rates in measured),
        copy_bytes=max(rates.copy_bytes for rates in measured),
    )


def find_limit(manifest: Manifest, clips: int, calls: int, rates: Rates, compute_ms: float) -> Limit:
    """The limit of a query of `clips` in `calls` calls of the graph, beside the median of computing."""
    flops = clips * manifest.model.flops(manifest.clip)
    frames_bytes = clips * int(np.prod(manifest.frames_shape))
    weights_bytes = sum(
        int(np.prod(stored.shape)) * _WEIGHT_BYTES[stored.dtype] for stored in manifest.parameters.values()
    )
    least_bytes = calls * weights_bytes + frames_bytes + 4 * clips * manifest.clip.tokens * manifest.model.dim
    arithmetic_ms, memory_ms = 1e3 * flops / rates.gemm_flops, 1e3 * least_bytes / rates.copy_bytes
    bound_ms = max(arithmetic_ms, memory_ms)
    return Limit(
        rates=rates,
        flops=flops,
        least_bytes=least_bytes,
        arithmetic_ms=arithmetic_ms,
        memory_ms=memory_ms,
        bound_ms=bound_ms,
        fraction=bound_ms / compute_ms,
    )


def _measure_numpy(clock: Callable[[], float]) -> Rates:
    source, target = np.ones(_COPIED // 4, np.float32), np.empty(_COPIED // 4, np.float32)
    copy_s = best_of(lambda: np.copyto(target, source), clock)
    return Rates(
        measured_by=f"numpy {np.__version__}: sgemm of {_SIDES[0]} to {_SIDES[-1]}, copy of {_COPIED // 2**20} MiB",
        precision="fp32",
        gemm_flops=max(_measure_product(side, clock) for side in _SIDES),
        copy_bytes=2 * _COPIED / copy_s,
    )


def _measure_product(side: int, clock: Callable[[], float]) -> float:
    """Operations a second in a product of square matrices."""
    left, right = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (0, 1))
    product = np.empty_like(left)
    return 2 * side**3 / best_of(lambda: np.matmul(left, right, out=product), clock)


def best_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """The least seconds of one `work`, of at least three tries and 0.3 s, after one that does not count."""
    work()
    times_s: list[float] = []
    start_s = clock()
    while len(times_s) < _REPEATS or clock() - start_s < _LEAST_S:
        before_s = clock()
        work()
        times_s.append(clock() - before_s)
    return min(times_s)
