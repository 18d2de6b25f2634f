"""What state is the GPU in: clocks, temperature, power, and what holds it back?"""

import shutil
import subprocess

_FIELDS = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit",
    "clocks_throttle_reasons.active", "memory.total",
)  # fmt: skip


def read_gpu_state() -> dict[str, str] | None:
    """As nvidia-smi tells; None where it is not, as on Jetson, or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = subprocess.run(
        [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader", "--id=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(_FIELDS, values, strict=True)) if done.returncode == 0 and len(values) == len(_FIELDS) else None
