"""How does a graph become a plan, whichever TensorRT is installed?

Of the whole project only the files called `tensorrt_...` know that its versions differ.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tensorrt as trt

from vjepa2.engine_manifest import ShapeRange
from vjepa2.errors import CompileError
from vjepa2.manifest import Precision

from .tensorrt_features import UNWANTED_SOURCES, Features, choose_builder_flags, probe_features
from .tensorrt_graph import check_inputs, check_precision, parse_graph, pin_islands
from .tensorrt_log import LOGGER, BuildLog
from .tensorrt_notes import NoPlanError


class Watch(Protocol):
    """Who is told how a build goes on, and says whether it may."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""

    def step(self, phase: str, step: int) -> bool:
        """A step was done; False: stop."""

    def finish(self, phase: str) -> None:
        """A phase ended, or was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Which plan to build."""

    graph: Path
    precision: Precision
    profile: Mapping[str, ShapeRange]  # by input
    level: int  # of the builder's optimisation, 0 to 5
    workspace_bytes: int | None  # None: TensorRT's own limit
    timing_cache: bytes  # of an earlier build; b"" where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A plan, and how it was built."""

    plan: bytes
    builder_flags: tuple[str, ...]  # that were set
    timing_cache: bytes
    notes: tuple[str, ...]  # what was not as asked


def build_plan(request: BuildRequest, log: BuildLog, watch: Watch, sm: int | None = None) -> BuiltPlan | None:
    """Parse the graph, build its plan; None if `watch` stopped it, `CompileError` with TensorRT's reasons if it fails.

    Blocks for minutes, with Python's lock released.
    """
    features = probe_features()
    flags = choose_builder_flags(request.precision, features, sm)
    try:
        builder = trt.Builder(LOGGER)
    except TypeError as error:  # all that its bindings say when there is no device
        raise CompileError(log.explain("TensorRT found no CUDA device or driver")) from error
    network, parser = parse_graph(builder, request.graph, features, log)
    check_inputs(network, request.profile)
    check_precision(network, request.precision)
    if features.typing == "weak" and flags:
        pin_islands(network)
    config = builder.create_builder_config()
    notes = _configure(builder, config, network, request, flags)
    stopped = _watch_build(config, watch, features)
    memory = builder.build_serialized_network(network, config)
    del parser  # it holds the weights that the network points to
    if memory is None:
        if stopped():
            return None
        raise NoPlanError(log.explain(f"TensorRT {features.version.name} built no plan of {request.graph.name}"))
    cache = config.get_timing_cache()
    return BuiltPlan(
        plan=bytes(memory),
        builder_flags=flags,
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
        notes=notes,
    )


def _configure(
    builder: Any, config: Any, network: Any, request: BuildRequest, flags: tuple[str, ...]
) -> tuple[str, ...]:
    """Set what `request` asks for; notes of what could not be used."""
    config.builder_optimization_level = request.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows names alone
    for name in flags:
        config.set_flag(trt.BuilderFlag.__members__[name])
    config.clear_flag(trt.BuilderFlag.TF32)  # where the graph says float32, ten bits are not enough
    members, sources = trt.TacticSource.__members__, config.get_tactic_sources()
    for name in UNWANTED_SOURCES & set(members):
        sources &= ~(1 << int(members[name]))
    if not config.set_tactic_sources(sources):
        raise CompileError(f"TensorRT {trt.__version__} does not let {sorted(UNWANTED_SOURCES & set(members))} be off")
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    _add_profile(builder, config, network, request.profile)
    return _add_timing_cache(config, request.timing_cache)


def _add_profile(builder: Any, config: Any, network: Any, ranges: Mapping[str, ShapeRange]) -> None:
    """Tell the shapes of inputs whose batch is free in the graph; the others are written there."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = {tensor.name: ranges[tensor.name] for tensor in inputs if -1 in tuple(tensor.shape)}
    if not free:
        return
    profile = builder.create_optimization_profile()
    for name, shapes in free.items():
        profile.set_shape(name, shapes.least, shapes.best, shapes.most)
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(f"TensorRT {trt.__version__} refuses the shapes {dict(free)}; take another --max-batch")


def _add_timing_cache(config: Any, earlier: bytes) -> tuple[str, ...]:
    """Take up the timings of earlier builds, or none; notes of what was not as it should be."""
    if _take_timings(config, earlier):
        return ()
    if not earlier or not _take_timings(config, b""):
        raise CompileError(f"TensorRT {trt.__version__} makes no timing cache; it is not whole: install it again")
    return ("the timings of earlier builds are of another device or spoilt: they are measured again",)


def _take_timings(config: Any, timings: bytes) -> bool:
    cache = config.create_timing_cache(timings)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


def _watch_build(config: Any, watch: Watch, features: Features) -> Callable[[], bool]:
    """Let `watch` follow the build where it can be followed; whether it was told to stop."""
    if not features.has_monitor:
        return lambda: False
    monitor = make_monitor(watch)
    config.progress_monitor = monitor
    return lambda: bool(monitor.was_stopped)


def make_monitor(watch: Watch) -> Any:
    """What TensorRT tells its phases to, handed on to `watch`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Hands TensorRT's phases on; made here since older versions have no base for it.

        Nothing is raised into TensorRT's threads: what cannot be shown stops no build.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.was_stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with suppress(Exception):
                watch.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with suppress(Exception):
                self.was_stopped |= not watch.step(phase_name, step)
            return not self.was_stopped

        def phase_finish(self, phase_name: str) -> None:
            with suppress(Exception):
                watch.finish(phase_name)

    return Monitor()
