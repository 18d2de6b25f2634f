"""`vjepa2 embed`."""

from pathlib import Path

import click
import numpy as np
from rich.console import Console

from vjepa2.errors import Vjepa2Error
from vjepa2.extras import import_with_extra
from vjepa2.outputs import write_json, write_whole

from .backends.base import FloatArray
from .embedding import EmbeddingEngine
from .sampling import Pad
from .video_options import video_options


@click.command("embed")
@video_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npy or .parquet file.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Clips a call.")
@click.option("--normalize", is_flag=True, help="Divide each embedding by its length.")
@click.option("--json", "json_file", help="Write what was done as JSON; - is standard output.")
def embed_command(
    bundle: Path,
    videos: tuple[Path, ...],
    output: Path,
    backend: str,
    pad: Pad,
    batch_size: int,
    normalize: bool,
    json_file: str | None,
) -> None:
    """Embed VIDEOS with BUNDLE: one row of float32 a video, in the order given."""
    if output.suffix not in (".npy", ".parquet"):
        raise Vjepa2Error(f"{output} ends in {output.suffix!r}; an output is a .npy or a .parquet file")
    parquet = import_with_extra("vjepa2.runtime.parquet", "parquet") if output.suffix == ".parquet" else None
    console = Console(stderr=True)
    with EmbeddingEngine.open(bundle, backend) as engine:
        embeddings = engine.encode(
            list(videos),
            batch_size=batch_size,
            normalize_embeddings=normalize,
            pad=pad,
            show_progress_bar=console.is_terminal,
        )
        facts = _describe(engine, output, embeddings)
    if parquet is None:
        write_whole(output, lambda stream: np.save(stream, embeddings))
    else:
        write_whole(output, lambda stream: parquet.write_embeddings(stream, videos, embeddings, facts))
    rows, dim = embeddings.shape
    console.print(
        f"{output}: {rows} x {dim} float32, by {facts['backend']} on {facts['device']} in {facts['precision']}",
        highlight=False,
    )
    if facts["warning"]:
        console.print(f"note: {facts['warning']}", style="yellow", highlight=False)
    if json_file:
        write_json(json_file, facts | {"videos": [str(video) for video in videos]})


def _describe(engine: EmbeddingEngine, output: Path, embeddings: FloatArray) -> dict[str, object]:
    manifest = engine.backend.bundle.manifest
    return {
        "output": str(output),
        "shape": list(embeddings.shape),
        "backend": engine.backend.name,
        "device": engine.backend.device,
        "precision": engine.backend.precision,
        "model": manifest.model.name,
        "bundle": str(engine.backend.bundle.path),
        "source": manifest.source.name,
        "warning": manifest.source.warning,
    }
