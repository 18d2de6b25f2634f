"""What is the machine, and what state is it in while something is timed: clocks, heat, throttling, power, load?

Read from /proc, /sys, nvidia-smi and nvpmodel. What cannot be read is left out of the record, not made up.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from .gpus import Gpu, list_gpus

_GPU_FIELDS = (
    "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit", "pstate",
    "clocks_throttle_reasons.active", "memory.used",
)  # fmt: skip
_HARMLESS = 0x1 | 0x2  # bits of NVML's reasons: the GPU is idle, an application set its clocks
_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "transformers")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
_STALLED = 60  # seconds that a tool may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What does not change during a run."""

    system: str
    processor: str
    cores: int  # that this process may use
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    python: str
    versions: dict[str, str]  # of the libraries that are installed
    thread_settings: dict[str, str]  # of the environment; empty: the libraries decide
    power_mode: str | None  # nvpmodel's on Jetson, else the processor's governor


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """What may change, at one moment."""

    clocks_mhz: tuple[float, ...]  # of the cores
    temperatures_c: dict[str, float]  # by the sensor's name
    throttle_count: int | None  # since the start, of all cores; None where the processor does not tell
    load_1m: float
    stalled_percent: float | None  # time in which somebody waited for a core, of the last 10 s (PSI)
    gpu: dict[str, str] = field(default_factory=dict)  # of the first, as nvidia-smi tells


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Seconds of all cores since the start."""

    busy_s: float
    stolen_s: float  # by the machine that this one runs on
    ours_s: float  # of `busy_s`, in the processes asked for


def describe_machine() -> Machine:
    """The facts of this machine."""
    installed = {name: _version(name) for name in _LIBRARIES}
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_find_line(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(list_gpus()),
        python=platform.python_version(),
        versions={name: version for name, version in installed.items() if version},
        thread_settings={name: os.environ[name] for name in _THREADS if name in os.environ},
        power_mode=_find_power_mode(),
    )


def read_state() -> MachineState:
    """The state now; takes some milliseconds, so never between start and end of what is timed."""
    cores = Path("/sys/devices/system/cpu")
    stalled = _find_line(Path("/proc/pressure/cpu"), "some")
    return MachineState(
        clocks_mhz=_read_clocks(cores),
        temperatures_c=_read_temperatures(),
        throttle_count=_count_throttles(cores),
        load_1m=os.getloadavg()[0],
        stalled_percent=float(stalled.split("avg10=")[1].split()[0]) if stalled else None,
        gpu=_read_gpu(),
    )


def read_cpu_time(sessions: Collection[int] = ()) -> CpuTime:
    """Seconds so far of all cores, and of the processes in `sessions`, their children with them."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split(None, 9)[1:9])
    ours = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) in sessions or int(folder.name) == os.getpid():
            ours += sum(map(int, fields[11:15]))  # user and system, its own and of children that ended
    busy = user + nice + system + irq + softirq
    return CpuTime(busy_s=busy / tick, stolen_s=stolen / tick, ours_s=ours / tick)


def find_throttling(before: MachineState, after: MachineState) -> list[str]:
    """Why the device may have been held back between two moments; empty if nothing tells so."""
    found = []
    if before.throttle_count is not None and after.throttle_count is not None:
        count = after.throttle_count - before.throttle_count
        found += [f"the processor throttled {count} times"] if count else []
    for state in (before, after):
        reasons = state.gpu.get("clocks_throttle_reasons.active", "")
        if reasons.startswith("0x") and int(reasons, 16) & ~_HARMLESS:
            found.append(f"the GPU is held back (NVML's reasons {reasons})")
    return list(dict.fromkeys(found))


def _read_clocks(cores: Path) -> tuple[float, ...]:
    files = sorted(cores.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if files:
        return tuple(int(file.read_text()) / 1e3 for file in files)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return tuple(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))


def _read_temperatures() -> dict[str, float]:
    found = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        try:
            found[f"{zone.name} {(zone / 'type').read_text().strip()}"] = int((zone / "temp").read_text()) / 1e3
        except (OSError, ValueError):  # a sensor that is switched off
            continue
    return found


def _count_throttles(cores: Path) -> int | None:
    files = list(cores.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    return sum(int(file.read_text()) for file in files) if files else None


def _read_gpu() -> dict[str, str]:
    answer = _ask("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader", "--id=0")
    values = [value.strip() for value in (answer or "").split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=True)) if len(values) == len(_GPU_FIELDS) else {}


def read_gpu_memory(process: int) -> int | None:
    """Bytes that a process holds on GPUs; None where nvidia-smi does not tell, as on Jetson."""
    answer = _ask("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    rows = [line.split(",") for line in (answer or "").splitlines()]
    held = [used for number, used in (row for row in rows if len(row) == 2) if number.strip() == str(process)]
    return sum(int(used) * 2**20 for used in held) if held and all(used.strip().isdigit() for used in held) else None


def _find_power_mode() -> str | None:
    answer = _ask("nvpmodel", "-q")
    if answer:
        return " ".join(answer.split())
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return governor.read_text().strip() if governor.exists() else None


def _ask(program: str, *words: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, check=False, timeout=_STALLED)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _find_line(file: Path, start: str) -> str | None:
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() or line for line in lines if line.startswith(start)), None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
