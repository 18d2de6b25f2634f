"""Does a plan fit a device, how long can its clip be there, and how fast can a call be at most?"""

from collections.abc import Callable
from dataclasses import dataclass

from vjepa2.manifest import Precision

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


def fit_device(plan_frames: Planner, frames: int, device: Device, *, tubelet: int) -> DeviceFit:
    """Judge the plan of a clip of `frames`, and by `plan_frames` those of other multiples of `tubelet`."""
    plan = plan_frames(frames)
    needs_bytes = count_needs(plan, device)
    fits = needs_bytes <= device.usable_bytes
    longest = find_longest(lambda count: count_needs(plan_frames(count), device), tubelet, device.usable_bytes)
    return DeviceFit(
        device=device.name,
        engine=plan.engine,
        precision=plan.precision,
        needs_bytes=needs_bytes,
        usable_bytes=device.usable_bytes,
        memory_bytes=device.memory_bytes,
        is_shared=device.is_shared,
        fits=fits,
        builds=_builds(plan, device),
        arithmetic_ms=_arithmetic_ms(plan, device),
        bandwidth_ms=_moved_bytes(plan) / device.gigabytes_per_second / 1e6,
        longest_frames=max(longest, frames if fits else 0),  # an image may fit where no clip does
        source=device.source,
    )


def count_needs(plan: MemoryPlan, device: Device) -> int:
    """Bytes of the device's memory that a run takes: what the host holds is in it where the two share it."""
    return plan.run_bytes + (plan.host_bytes if device.is_shared else 0)


def find_longest(needs_of: Callable[[int], int], tubelet: int, usable_bytes: int) -> int:
    """Frames of the longest clip, a multiple of `tubelet`, that needs at most `usable_bytes`; 0 if none does."""

    def fits(tubelets: int) -> bool:
        return needs_of(tubelets * tubelet) <= usable_bytes

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
    """Operations over the dense peak of each part: patches are projected in fp32, attention beside 8 bits is fp16."""
    parts: tuple[tuple[int, Precision], ...] = (
        (plan.patch_flops, "fp32"),
        (plan.linear_flops, plan.precision),
        (plan.attention_flops, "fp16" if plan.precision in ("int8", "fp8") else plan.precision),
    )
    if any(precision not in device.tera for _, precision in parts):
        return None
    return sum(flops / device.tera[precision] for flops, precision in parts) / 1e9


def _moved_bytes(plan: MemoryPlan) -> int:
    """What has to cross the memory's bus at least: weights, pixels and results once, scores written and read."""
    once = plan.weights_bytes + plan.tables_bytes + plan.frames_bytes + plan.outputs_bytes
    return once + 2 * plan.depth * max(0, plan.scores_bytes - _CACHED_BYTES)
