"""`vjepa2 run`."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from vjepa2.errors import BackendError, Vjepa2Error
from vjepa2.outputs import write_json, write_whole

from .backends.base import InputArray
from .embedding import EmbeddingEngine
from .sampling import Pad
from .video_options import video_options


@click.command("run")
@video_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npz file.")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    help="A .npz file of what the head takes beside frames, a row a video: context_ids, target_ids; actions, states.",
)
@click.option("--json", "json_file", help="Write what was done as JSON; - is standard output.")
def run_command(
    bundle: Path,
    videos: tuple[Path, ...],
    output: Path,
    inputs: Path | None,
    backend: str,
    pad: Pad,
    json_file: str | None,
) -> None:
    """Write every output of BUNDLE, whatever its head, under the graph's names: one row a video."""
    if output.suffix != ".npz":
        raise Vjepa2Error(f"{output} ends in {output.suffix!r}; an output is a .npz file")
    extras = {} if inputs is None else _read_inputs(inputs)
    console = Console(stderr=True)
    with EmbeddingEngine.open(bundle, backend) as engine:
        names: Any = [info.name for info in engine.backend.bundle.manifest.outputs]
        frames_BTHWC = np.stack([engine.read_clip(video, pad) for video in videos])
        results = engine.backend.run(frames_BTHWC, names, extras).by_name()
        manifest, ran = engine.backend.bundle.manifest, engine.backend
    arrays: dict[str, Any] = {str(name): array for name, array in results.items()}
    write_whole(output, lambda stream: np.savez(stream, **arrays))
    shapes = {name: list(array.shape) for name, array in results.items()}
    console.print(f"{output}: {shapes}, by {ran.name} on {ran.device} in {ran.precision}", highlight=False)
    if manifest.source.warning:
        console.print(f"note: {manifest.source.warning}", style="yellow", highlight=False)
    if json_file:
        facts = {"output": str(output), "head": manifest.head, "shapes": shapes, "backend": ran.name}
        write_json(json_file, facts | {"warning": manifest.source.warning, "videos": [str(video) for video in videos]})


def _read_inputs(file: Path) -> dict[str, InputArray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BackendError(f"{file} is not a .npz file of plain arrays ({error}); write it with numpy.savez") from error
