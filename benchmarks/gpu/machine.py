"""What state is the GPU in: clocks, temperature, power, and what holds it back?"""

import shutil
import subprocess

_FIELDS = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit",
    "memory.total",
)  # fmt: skip
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # of newer drivers, and of older ones
HELD_BACK = "held back by"  # a bit mask; 0 is nothing
_TIME_LIMIT_S = 10.0


def read_gpu_state() -> dict[str, str] | None:
    """As nvidia-smi tells; None where it is not, as on Jetson, or does not answer."""
    program = shutil.which("nvidia-smi")
    for reasons in _REASONS if program else ():
        values = _ask(str(program), (*_FIELDS, reasons))
        if values is not None:
            return dict(zip((*_FIELDS, HELD_BACK), values, strict=True))
    return None


def _ask(program: str, fields: tuple[str, ...]) -> list[str] | None:
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return values if done.returncode == 0 and len(values) == len(fields) else None
