"""`vjepa2 plan`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import get_args

import click
from rich.console import Console
from rich.table import Table

from vjepa2.manifest import Precision
from vjepa2.outputs import write_json
from vjepa2.registry import find_release
from vjepa2.size_option import read_size
from vjepa2.spec import ModelSpec

from .devices import DEVICE_NAMES, DEVICES, THIS_MACHINE, check_device
from .fit import DeviceFit, Planner, fit_device
from .memory import Engine, MemoryPlan, plan_memory
from .this_machine import measure_machine

_WIDE = 160  # columns of a table that nobody looks at through a terminal
_NOTES = """\
Of the encoder with its mean, heads not included. A run's bytes come on top of a process that has imported its library.
ONNX Runtime's are checked against measured peaks (make bench-memory), of calls that ask for the mean alone; TensorRT's
are reckoned and no GPU has confirmed them: its workspace comes on top of a build. Bounds are bounds: no call can be
faster, every call is slower; arithmetic is at the dense peak of each part's precision by the maker's data sheet:
patches in fp32 without TF32, attention beside int8 and fp8 in fp16; bandwidth is what has to be read and written once;
of this machine both are at the rates that it just reached, busy as it is. "-" is a precision that the device lacks or
of which no figure was found. (shared): CPU and GPU share the memory, and what the host holds counts too: pinned pixels,
and the plan while it loads or the pinned results. Not the model's, and assumed: 0.5 GB for CUDA and TensorRT, and of a
shared memory 1.5 GB for the system."""


@click.command("plan")
@click.argument("model")
@click.option(
    "--frames", type=int, default=16, show_default=True, help="Frames of a clip; of V-JEPA 2.1 also 1, an image."
)
@click.option("--size", callback=read_size, help="Pixels of a clip: N or HxW.  [default: as trained]")
@click.option("--batch", type=int, default=1, show_default=True, help="Clips a call.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp16",
    show_default=True,
    help="Of TensorRT's engine; ONNX Runtime is planned in fp32.",
)
@click.option("--unfused", is_flag=True, help="As if TensorRT found no fused attention: scores in memory.")
@click.option("--device", "devices", multiple=True, help=f"One of {', '.join(DEVICE_NAMES)}.  [default: all]")
@click.option("--json", "json_file", help="Write the plan as JSON; - is standard output.")
def plan_command(
    model: str,
    frames: int,
    size: tuple[int, int] | None,
    batch: int,
    precision: Precision,
    unfused: bool,
    devices: Sequence[str],
    json_file: str | None,
) -> None:
    """Say what MODEL costs to build and to run, where it fits, and how fast it can be at most, before building it."""
    spec = find_release(model).spec
    for device in devices:
        check_device(device)
    pixels = size or (spec.clip.height, spec.clip.width)
    planners = {
        "tensorrt": _planner(spec, pixels, batch, precision, "tensorrt", False if unfused else None),
        "onnxruntime": _planner(spec, pixels, batch, "fp32", "onnxruntime"),
        "onnxruntime-portable": _planner(spec, pixels, batch, "fp32", "onnxruntime-portable"),
    }
    plans = [planner(frames) for planner in planners.values()]
    fits = list(_fit_devices(planners, frames, spec.clip.tubelet, devices or DEVICE_NAMES))
    if json_file:
        write_json(json_file, {"plans": [_describe(plan) for plan in plans], "devices": [asdict(fit) for fit in fits]})
    if json_file != "-":
        _print(plans, fits)


def _planner(
    spec: ModelSpec,
    pixels: tuple[int, int],
    batch: int,
    precision: Precision,
    engine: Engine,
    fused: bool | None = None,
) -> Planner:
    def plan(frames: int) -> MemoryPlan:
        clip = spec.make_clip(frames, *pixels)
        return plan_memory(spec, clip, batch=batch, precision=precision, engine=engine, fused=fused)

    return plan


def _fit_devices(planners: dict[str, Planner], frames: int, tubelet: int, names: Sequence[str]) -> Iterator[DeviceFit]:
    for name in names:
        if name == THIS_MACHINE:
            yield fit_device(planners["onnxruntime"], frames, measure_machine(), tubelet=tubelet)
        else:
            yield fit_device(planners["tensorrt"], frames, DEVICES[name], tubelet=tubelet)


def _describe(plan: MemoryPlan) -> dict[str, object]:
    return {**asdict(plan), "flops": plan.flops, "run_bytes": plan.run_bytes, "host_bytes": plan.host_bytes}


def _print(plans: Sequence[MemoryPlan], fits: Sequence[DeviceFit]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    clip = plans[0].clip
    console.print(
        f"{plans[0].model}, {plans[0].batch} x {clip.frames} frames of {clip.height} x {clip.width}: "
        f"{clip.tokens:,} tokens a clip, {plans[0].parameters:,} parameters, {plans[0].flops / 1e9:,.0f} GFLOPs a call",
        highlight=False,
    )
    console.print(_make_plan_table(plans))
    console.print(_make_device_table(fits))
    for fit in fits:
        console.print(f"{fit.device}: {fit.source}", highlight=False, markup=False)
    console.print(_NOTES, highlight=False, markup=False)


def _make_plan_table(plans: Sequence[MemoryPlan]) -> Table:
    table = Table("MB")
    for plan in plans:
        table.add_column(f"{plan.engine} {plan.precision}", justify="right")
    rows: dict[str, list[str]] = {
        "attention": [str(plan.attention) for plan in plans],
        "weights": [_mega(plan.weights_bytes + plan.tables_bytes) for plan in plans],
        "pixels": [_mega(plan.frames_bytes) for plan in plans],
        "results": [_mega(plan.outputs_bytes) if plan.engine == "tensorrt" else "in the next" for plan in plans],
        "activations": [_mega(plan.activations_bytes) for plan in plans],
        "attention's scores, one layer's": [_mega(plan.scores_bytes) for plan in plans],
        "the library's own": [_mega(plan.runtime_bytes) if plan.runtime_bytes else "not known" for plan in plans],
        "kept by malloc (glibc < 2.38)": [_mega(plan.heap_bytes) for plan in plans],
        "held at once by a run": [_mega(plan.run_bytes) for plan in plans],
        "held by the host beside it, at most": [_mega(plan.host_bytes) for plan in plans],
        "building: host": [_mega(plan.build_host_bytes) for plan in plans],
        "building: device, at least": [_mega(plan.build_device_bytes) for plan in plans],
        "files: graph, about": [f"{plan.graph_file_bytes / 1e6:.2f}" for plan in plans],
        "files: weights.data": [_mega(plan.weights_file_bytes) for plan in plans],
        "files: engine, about": [_mega(plan.engine_file_bytes) for plan in plans],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _make_device_table(fits: Sequence[DeviceFit]) -> Table:
    table = Table("device", "runs")
    for column in ("needs MB", "of MB", "fits", "builds", "arithmetic ms >=", "bandwidth ms >=", "longest clip"):
        table.add_column(column, justify="right")
    for fit in fits:
        table.add_row(
            fit.device + (" (shared)" if fit.is_shared else ""),
            f"{fit.engine} {fit.precision}",
            _mega(fit.needs_bytes),
            f"{_mega(fit.usable_bytes)} / {_mega(fit.memory_bytes)}",
            "yes" if fit.fits else "no",
            {None: "", True: "yes", False: "no"}[fit.builds],
            "-" if fit.arithmetic_ms is None else f"{fit.arithmetic_ms:,.1f}",
            f"{fit.bandwidth_ms:,.1f}",
            f"{fit.longest_frames} frames",
        )
    return table


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f}"
