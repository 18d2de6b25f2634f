"""`vjepa2 compile`."""

import os
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, CompileError
from vjepa2.extras import advise, import_with_extra
from vjepa2.odd_numbers import spell_numbers
from vjepa2.outputs import write_json

from .build_watch import is_building, show_build
from .compile_request import DEFAULT_LEVEL, CompileRequest
from .timing_cache import default_folder

_INTERRUPTED = 130


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--or", "others", multiple=True, type=click.Path(path_type=Path), help="A bundle to try next; may be repeated."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Clips a call, of a bundle whose batch is dynamic.")
@click.option(
    "--level",
    type=click.IntRange(0, 5),
    default=DEFAULT_LEVEL,
    show_default=True,
    help="Of the builder; lower ones are tried if the gate is not passed.",
)
@click.option("--workspace", type=click.IntRange(min=1), help="MiB of GPU memory that kernels may use.  [default: all]")
@click.option(
    "--timings", type=click.Path(path_type=Path), help="Folder of timings.  [default: ~/.cache/vjepa2-edge/…]"
)
@click.option(
    "--if-possible",
    is_flag=True,
    help="Without TensorRT or without a GPU say so and build nothing, with exit status 0.",
)
@click.option("--json", "json_file", help="Write the result as JSON; - is standard output.")
def compile_command(
    bundle: Path,
    others: tuple[Path, ...],
    max_batch: int | None,
    level: int,
    workspace: int | None,
    timings: Path | None,
    if_possible: bool,
    json_file: str | None,
) -> None:
    """Build BUNDLE's TensorRT engine for this machine's GPU, and keep it if it passes its gate here."""
    request = CompileRequest(
        bundles=tuple(Bundle.open(path) for path in (bundle, *others)),
        timings=timings or default_folder(),
        max_batch=max_batch,
        level=level,
        workspace_bytes=None if workspace is None else workspace * 2**20,
    )
    missing = [reason for reason in (_find_tensorrt(), _find_gpu()) if reason]
    console = Console(stderr=True)

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    if missing:
        reason = f"no engine for {bundle.resolve().name}: {'; '.join(missing)}"
        if not if_possible:
            raise CompileError(reason)
        tell(f"skipped: {reason}")
        return
    builder = import_with_extra("vjepa2.export.compile", "tensorrt")
    try:
        result = builder.compile_engine(request, show=lambda what: show_build(console, what), tell=tell)
    except KeyboardInterrupt:
        if is_building():
            _leave()
        raise
    manifest = result.manifest
    fused = "an unknown number of" if manifest.fused_attention is None else manifest.fused_attention
    tell(
        f"{result.path} is ready: level {manifest.builder_level}, worst token's cosine "
        f"{manifest.verdict.token_cosine:.7f} over {manifest.verdict.clips} clips, fused attention in "
        f"{fused} layers, {manifest.device_memory_bytes / 1e6:.0f} MB of GPU memory a context"
    )
    if json_file:
        write_json(
            json_file,
            {
                "engine": str(result.path),
                "manifest": asdict(manifest),
                "attempts": [spell_numbers(asdict(attempt)) for attempt in result.attempts],
            },
        )


def _find_tensorrt() -> str | None:
    if find_spec("tensorrt") is not None:
        return None
    return f"tensorrt is not installed ({advise('tensorrt')})"


def _find_gpu() -> str | None:
    cuda = import_with_extra("vjepa2.runtime.backends.cuda", "tensorrt")
    try:
        cuda.CudaDevice.open().close()
    except BackendError as error:
        return f"there is no CUDA GPU ({error})"
    return None


def _leave() -> None:
    """End at once: a TensorRT that cannot be stopped still works in a thread, which Python could not take down."""
    click.echo("vjepa2: interrupted; nothing half-written was left behind", err=True)
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
