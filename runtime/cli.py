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
from .video_options import BackendChoice, video_options


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
    backend: BackendChoice,
    sampling: str,
    pad: Pad,
    batch_size: int,
    normalize: bool,
    json_file: str | None,
) -> None:
    """Embed VIDEOS with BUNDLE: one row of float32 a clip, in the order given.

    A video is one clip, unless --sampling says segments or window.
    """
    if output.suffix not in (".npy", ".parquet"):
        raise Vjepa2Error(f"{output} ends in {output.suffix!r}; an output is a .npy or a .parquet file")
    parquet = import_with_extra("vjepa2.runtime.parquet", "parquet") if output.suffix == ".parquet" else None
    console = Console(stderr=True)
    with backend.open(bundle) as engine:
        rows = engine.encode_clips(
            list(videos),
            batch_size=batch_size,
            normalize_embeddings=normalize,
            sampling=sampling,
            pad=pad,
            show_progress_bar=console.is_terminal,
        )
        facts = _describe(engine, output, rows.values)
    if parquet is None:
        write_whole(output, lambda stream: np.save(stream, rows.values))
    else:
        write_whole(output, lambda stream: parquet.write_embeddings(stream, videos, rows, facts))
    count, dim = rows.values.shape
    console.print(
        f"{output}: {count} x {dim} float32, by {facts['backend']} on {facts['device']} in {facts['precision']} "
        f"({facts['reason']})",
        highlight=False,
    )
    if facts["warning"]:
        console.print(f"note: {facts['warning']}", style="yellow", highlight=False)
    if json_file:
        places = [
            {"video": str(videos[place.video]), "start_s": place.start_s, "end_s": place.end_s} for place in rows.places
        ]
        write_json(json_file, facts | {"videos": [str(video) for video in videos], "rows": places})


def _describe(engine: EmbeddingEngine, output: Path, embeddings: FloatArray) -> dict[str, object]:
    manifest = engine.backend.bundle.manifest
    return engine.backend.describe() | {
        "output": str(output),
        "shape": list(embeddings.shape),
        "model": manifest.model.name,
        "bundle": str(engine.backend.bundle.path),
        "source": manifest.source.name,
        "warning": manifest.source.warning,
    }
