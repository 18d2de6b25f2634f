"""How fast does PyTorch multiply and copy on a device: the rates that a GPU's times are held against?"""

import time
from collections.abc import Callable

import torch

from vjepa2.runtime.roofline import Rates, best_of

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CPU_SIDE, _GPU_SIDE = 1024, 8192
_CPU_BYTES, _GPU_BYTES = 256 * 2**20, 2**30


def measure_torch_rates(
    device: str,
    precision: str,
    *,
    side: int | None = None,
    count: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates | str:
    """The best of several tries; a sentence for a precision that PyTorch has no plain product of.

    `side` of the matrices and `count` of bytes are large enough for the device, unless given.
    """
    if precision not in _DTYPES:
        return f"PyTorch has no plain product of matrices in {precision}"
    is_cpu = device == "cpu"
    side = side or (_CPU_SIDE if is_cpu else _GPU_SIDE)
    count = count or (_CPU_BYTES if is_cpu else _GPU_BYTES)
    wait: Callable[[], object] = (lambda: None) if is_cpu else (lambda: torch.cuda.synchronize(device))
    held = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with torch.inference_mode():
            left, right = (torch.randn(side, side, device=device, dtype=_DTYPES[precision]) for _ in range(2))
            source = torch.ones(count, device=device, dtype=torch.uint8)
            target = torch.empty_like(source)
            gemm_s = best_of(lambda: (torch.matmul(left, right), wait()), clock)
            copy_s = best_of(lambda: (target.copy_(source), wait()), clock)
    finally:
        torch.backends.cuda.matmul.fp32_precision = held
    name = f"torch {torch.__version__}: product of {side}, copy of {count // 2**20} MiB"
    return Rates(measured_by=name, precision=precision, gemm_flops=2 * side**3 / gemm_s, copy_bytes=2 * count / copy_s)
