"""Does a bundle become an engine that computes rightly on this machine; and if not, which of the others does?

Nothing is kept that did not pass its gate here, on the clips that export stored; there is no way around it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from vjepa2 import __version__
from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.engine_folder import write_engine
from vjepa2.engine_manifest import EngineManifest, Machine, ShapeRange
from vjepa2.errors import BackendError, CompileError, ParityError, Vjepa2Error
from vjepa2.manifest import FileInfo, Manifest, ParityVerdict, Precision
from vjepa2.runtime.backends.cuda import CudaDevice
from vjepa2.runtime.backends.trt import TensorRtBackend
from vjepa2.runtime.parity import GATES, Reference, check_parity, find_faults

from .build_watch import BuildWatch, Worker
from .compile_request import (
    LONGEST_UNFUSED,
    CompileRequest,
    check_disk,
    choose_profile,
    refuse_unfusable,
)
from .suggest import suggest_export
from .tensorrt_api import BuildRequest, BuiltPlan, build_plan
from .tensorrt_features import Features, probe_features
from .tensorrt_log import BuildLog
from .tensorrt_notes import depends_on_level, find_reports
from .tensorrt_plan import PlanFacts, examine_plan
from .timing_cache import read_timings, write_timings

_TOOLS = ("numpy", "cuda-python", "cuda-bindings")
_SCORE_BYTES = 2  # of 16 bit

Tell = Callable[[str], None]
Show = Callable[[str], AbstractContextManager[BuildWatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One bundle at one level of the builder."""

    bundle: str
    precision: Precision
    level: int
    is_built: bool
    is_final: bool  # no other level of the same graph would do better
    verdict: ParityVerdict | None  # None: nothing ran that could be measured
    faults: tuple[str, ...]  # why it is not kept; none: it is

    def describe(self) -> str:
        """The attempt in a line."""
        return f"{self.bundle} ({self.precision}, level {self.level}): {'; '.join(self.faults) or 'in the gate'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileResult:
    """An engine that passed, and what was tried before it."""

    bundle: Bundle
    path: Path  # of the engine's folder
    manifest: EngineManifest
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What stays the same from one attempt to the next."""

    request: CompileRequest
    machine: Machine
    features: Features
    show: Show
    tell: Tell


def compile_engine(request: CompileRequest, *, show: Show, tell: Tell) -> CompileResult:
    """Build, prove and keep the first engine of `request` that passes its gate on this machine.

    Each bundle is tried at the level asked for and at lower ones, then the next bundle. `ParityError` if some were
    measured and none passed, `CompileError` if none could be built; nothing is left behind then but timings.
    """
    features = probe_features()
    with CudaDevice.open() as gpu:
        machine = gpu.describe(features.version.name)
    for report in find_reports(machine):
        tell(
            f"note: TensorRT {machine.tensorrt.name} was reported to compute wrongly ({report.symptom}): {report.link}"
        )
    bench = _Bench(request=request, machine=machine, features=features, show=show, tell=tell)
    attempts: list[Attempt] = []
    for bundle in request.bundles:
        for level in request.levels:
            attempt, engine = _attempt(bench, bundle, level)
            attempts.append(attempt)
            tell(attempt.describe())
            if engine is not None:
                plan, manifest = engine
                manifest = replace(manifest, tried=tuple(failed.describe() for failed in attempts[:-1]))
                path = write_engine(bundle, manifest, plan)
                return CompileResult(bundle=bundle, path=path, manifest=manifest, attempts=tuple(attempts))
            if attempt.is_final:
                break
    raise _give_up(request, attempts)


def _give_up(request: CompileRequest, attempts: list[Attempt]) -> Vjepa2Error:
    lines = " | ".join(attempt.describe() for attempt in attempts)
    if not any(attempt.is_built for attempt in attempts):
        return CompileError(f"no engine could be built: {lines}")
    return ParityError(f"no engine passed its gate: {lines}; {suggest_export(request)}")


def _attempt(bench: _Bench, bundle: Bundle, level: int) -> tuple[Attempt, tuple[bytes, EngineManifest] | None]:
    """Build and measure; the plan and its manifest if it passed."""
    stated = bundle.manifest
    verdict, engine, is_built, is_final = None, None, False, False
    faults: tuple[str, ...] = ()
    try:
        refuse_unfusable(stated)
        check_disk(bundle)
        profile = choose_profile(stated, bench.request.max_batch)
        built, log = _build(bench, bundle, profile, level)
        facts = examine_plan(built.plan, log)
        is_built = True
        if facts.untold:
            bench.tell(f"note: fused attention is not counted: {facts.untold}")
        verdict, faults = _measure(bundle, built.plan, facts)
    except CompileError as error:
        faults, is_final = (str(error),), not depends_on_level(error)
    except BackendError as error:  # of an engine that is there and does not run; with other kernels it may
        faults, is_final = (str(error),), not is_built
    else:
        if not faults:
            engine = built.plan, _describe(bench, bundle, profile, level, built, facts, verdict)
    attempt = Attempt(
        bundle=bench.request.name_of(bundle), precision=stated.precision, level=level, is_built=is_built,
        is_final=is_final, verdict=verdict, faults=faults,
    )  # fmt: skip
    return attempt, engine


def _measure(bundle: Bundle, plan: bytes, facts: PlanFacts) -> tuple[ParityVerdict, tuple[str, ...]]:
    """The verdict on a plan, on this GPU, and why it cannot be kept."""
    stated = bundle.manifest
    gate = GATES[stated.precision].accept(stated.parity[PORTABLE].accepted)
    with TensorRtBackend(bundle, plan=plan) as backend:
        verdict = check_parity(Reference.load(bundle), backend, gate)
    return verdict, (*find_faults(verdict, gate), *find_unfused(stated, facts))


def _build(bench: _Bench, bundle: Bundle, profile: dict[str, ShapeRange], level: int) -> tuple[BuiltPlan, BuildLog]:
    """The plan, and what TensorRT wrote; the timings of its kernels are kept for the next build."""
    log, stated = BuildLog(), bundle.manifest
    request = BuildRequest(
        graph=bundle.path / PORTABLE,
        precision=stated.precision,
        profile=profile,
        level=level,
        workspace_bytes=bench.request.workspace_bytes,
        timing_cache=read_timings(bench.request.timings, bench.machine),
    )
    about = f"{bench.request.name_of(bundle)}: {stated.precision}, level {level}, on {bench.machine.gpu}"
    with bench.show(about) as watch:
        worker = Worker(lambda: build_plan(request, log, watch, bench.machine.sm))
        built = worker.join(watch.stop, can_stop=bench.features.has_monitor)
    if built is None:
        raise CompileError(log.explain("TensorRT stopped by itself, though nobody asked it to"))
    for note in built.notes:
        bench.tell(f"note: {note}")
    try:
        write_timings(bench.request.timings, bench.machine, built.timing_cache)
    except Vjepa2Error as error:
        bench.tell(f"note: the timings were not kept: {error}")
    return built, log


def find_unfused(stated: Manifest, facts: PlanFacts) -> tuple[str, ...]:
    """Why an engine's attention cannot stay as it is; nothing if it is fused, or short enough not to be.

    An encoder's blocks are fused one by one; other heads add attention of their own. Where the inspector does not tell
    (8.6), an engine that needs less memory than the scores of one block cannot be holding any.
    """
    tokens, depth = stated.clip.tokens, stated.model.depth
    if tokens <= LONGEST_UNFUSED:
        return ()
    count, needed_bytes = facts.fused_attention, facts.device_memory_bytes
    if count is None:
        scores_bytes = stated.model.heads * tokens**2 * _SCORE_BYTES
        if needed_bytes < scores_bytes:
            return ()
        return (
            f"with {tokens} tokens all attention must be fused; {facts.untold}, and the engine needs "
            f"{needed_bytes / 1e6:.0f} MB, which the scores of one block ({scores_bytes / 1e6:.0f} MB) would fit into",
        )
    if count == depth or (count > depth and stated.head not in ("tokens", "embedding")):
        return ()
    return (f"{count} blocks of {depth} have fused attention; with {tokens} tokens all must",)


def _describe(
    bench: _Bench,
    bundle: Bundle,
    profile: dict[str, ShapeRange],
    level: int,
    built: BuiltPlan,
    facts: PlanFacts,
    verdict: ParityVerdict,
) -> EngineManifest:
    """The engine's manifest, but for the hashes, which are taken when it is written."""
    return EngineManifest(
        precision=bundle.manifest.precision,
        graph=PORTABLE,
        bundle_sha256="",
        built_from={},
        plan=FileInfo(sha256="", bytes=0),
        machine=bench.machine,
        network_flags=bench.features.network_flags,
        builder_flags=built.builder_flags,
        tactic_sources=bench.features.tactic_sources,
        builder_level=level,
        workspace_bytes=bench.request.workspace_bytes,
        profile=profile,
        io=facts.io,
        fused_attention=facts.fused_attention,
        device_memory_bytes=facts.device_memory_bytes,
        verdict=verdict,
        tried=(),
        tools={"vjepa2-edge": __version__} | {name: version for name in _TOOLS if (version := _version(name))},
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
