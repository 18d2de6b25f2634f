"""Does a plan fit a device, how long can its clip be there, and how fast can a call be at most?"""

from collections.abc import Callable
from dataclasses import dataclass

from vjepa2.spec import ClipSpec

from .devices import Device
from .memory import Engine, MemoryPlan

_CACHED_BYTES = 64_000_000  # more than the caches of any device in the table: scores beyond it have to travel

Planner = Callable[[int], MemoryPlan]  # the plan of a clip of so many frames


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """A plan on a device. Latencies are bounds: no call can be faster, and every call is slower."""

    device: str
    engine: Engine
    precision: str
    needs_bytes: int
    usable_bytes: int
    memory_bytes: int
    is_shared: bool
    fits: bool
    builds: bool | None  # whether TensorRT's build fits, at least; None where nothing is built
    arithmetic_ms: float | None  # None: the device lacks this precision, or no figure was found
    bandwidth_ms: float
    longest_frames: int  # of a clip that fits; 0 if none does
    source: str


def fit_device(plan_frames: Planner, clip: ClipSpec, device: Device) -> DeviceFit:
    """Judge the plan of `clip`, and by `plan_frames` those of longer and shorter ones."""
    plan = plan_frames(clip.frames)
    return DeviceFit(
        device=device.name,
        engine=plan.engine,
        precision=plan.precision,
        needs_bytes=plan.run_bytes,
        usable_bytes=device.usable_bytes,
        memory_bytes=device.memory_bytes,
        is_shared=device.is_shared,
        fits=plan.run_bytes <= device.usable_bytes,
        builds=_builds(plan, device),
        arithmetic_ms=_arithmetic_ms(plan, device),
        bandwidth_ms=_moved_bytes(plan) / device.gigabytes_per_second / 1e6,
        longest_frames=find_longest(plan_frames, clip.tubelet, device.usable_bytes),
        source=device.source,
    )


def find_longest(plan_frames: Planner, tubelet: int, usable_bytes: int) -> int:
    """Frames of the longest clip, a multiple of `tubelet`, whose call fits into `usable_bytes`; 0 if none does."""

    def fits(tubelets: int) -> bool:
        return plan_frames(tubelets * tubelet).run_bytes <= usable_bytes

    high = 1
    while fits(high):
        high *= 2
    low = high // 2  # fits, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * tubelet


def _builds(plan: MemoryPlan, device: Device) -> bool | None:
    if plan.engine != "tensorrt":
        return None
    host_bytes = plan.build_host_bytes if device.is_shared else 0  # a card's host is not in the table
    return plan.build_device_bytes + host_bytes <= device.usable_bytes


def _arithmetic_ms(plan: MemoryPlan, device: Device) -> float | None:
    """Operations over the dense peak; attention stays in 16 bit where the rest has 8."""
    between = "fp16" if plan.precision in ("int8", "fp8") else plan.precision
    if plan.precision not in device.tera or between not in device.tera:
        return None
    return (plan.linear_flops / device.tera[plan.precision] + plan.attention_flops / device.tera[between]) / 1e9


def _moved_bytes(plan: MemoryPlan) -> int:
    """What has to cross the memory's bus at least: weights, pixels and tokens once, scores written and read."""
    once = plan.weights_bytes + plan.tables_bytes + plan.frames_bytes + plan.tokens_bytes
    return once + 2 * plan.depth * max(0, plan.scores_bytes - _CACHED_BYTES)
