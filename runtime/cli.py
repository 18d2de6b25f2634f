"""`vjepa2 embed`."""

from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from rich.console import Console

from vjepa2.errors import VideoError, Vjepa2Error
from vjepa2.extras import import_with_extra
from vjepa2.outputs import write_json, write_whole

from .embedding import EmbeddingEngine
from .encoded import EncodedClips
from .encoding import EncodeOptions, OnError
from .sampling import Pad
from .video_options import BackendChoice, Command, video_options


def encode_options(command: Command) -> Command:
    """Add options to a click command with `video_options` that has `options`, an `EncodeOptions`, as a parameter."""

    @click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Clips a call.")
    @click.option("--truncate", type=click.IntRange(1), help="Keep so many channels of each embedding, the first.")
    @click.option("--normalize", is_flag=True, help="Divide each embedding by its length, after it was cut.")
    @click.option(
        "--on-error",
        type=click.Choice(get_args(OnError)),
        default="raise",
        show_default=True,
        help="What to do with a video that is not whole: end, or leave it out and report it.",
    )
    @wraps(command)
    def choose(
        *,
        batch_size: int,
        truncate: int | None,
        normalize: bool,
        on_error: OnError,
        sampling: str,
        pad: Pad,
        **rest: Any,
    ) -> None:
        options = EncodeOptions(
            batch_size=batch_size,
            normalize_embeddings=normalize,
            truncate_dim=truncate,
            sampling=sampling,
            pad=pad,
            on_error=on_error,
        )
        command(options=options, **rest)

    return choose


@click.command("embed")
@video_options
@encode_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npy or .parquet file.")
@click.option("--decoders", type=click.IntRange(1), default=1, show_default=True, help="Videos decoded at once.")
@click.option("--json", "json_file", help="Write what was done as JSON; - is standard output.")
def embed_command(
    bundle: Path,
    videos: tuple[Path, ...],
    output: Path,
    backend: BackendChoice,
    options: EncodeOptions,
    decoders: int,
    json_file: str | None,
) -> None:
    """Embed VIDEOS with BUNDLE: one row of float32 a clip, in the order given.

    A video is one clip, unless --sampling says segments or window; a folder is all videos below it, sorted by path.
    """
    if output.suffix not in (".npy", ".parquet"):
        raise Vjepa2Error(f"{output} ends in {output.suffix!r}; an output is a .npy or a .parquet file")
    parquet = import_with_extra("vjepa2.runtime.parquet", "parquet") if output.suffix == ".parquet" else None
    console = Console(stderr=True)
    with backend.open(bundle, decoders=decoders) as engine:
        dim = engine.queue.row_shape("embedding")[-1]
        if options.truncate_dim is not None and options.truncate_dim > dim:
            raise Vjepa2Error(f"--truncate is {options.truncate_dim}; this bundle's embeddings have {dim} channels")
        rows = engine.encode_clips(videos, show_progress_bar=console.is_terminal, **asdict(options))
        facts = _describe(engine, output, rows)
    _show_skipped(console, rows)
    if parquet is None:
        write_whole(output, lambda stream: np.save(stream, rows.values))
    else:
        write_whole(output, lambda stream: parquet.write_embeddings(stream, rows, facts))
    count, dim = rows.values.shape
    console.print(
        f"{output}: {count} x {dim} float32, by {facts['backend']} on {facts['device']} in {facts['precision']} "
        f"({facts['reason']})",
        highlight=False,
    )
    if facts["warning"]:
        console.print(f"note: {facts['warning']}", style="yellow", highlight=False)
    if json_file:
        write_json(json_file, facts)


def _show_skipped(console: Console, rows: EncodedClips) -> None:
    """Name what has no row; a `VideoError` if nothing has."""
    videos = zip(rows.names, rows.reports, strict=True)
    skipped = [f"{name} is {report}" for name, report in videos if report.status != "ok"]
    if len(skipped) == len(rows.names):
        raise VideoError(f"none of {len(skipped)} videos can be embedded: {'; '.join(skipped)}")
    for line in skipped:
        console.print(f"skipped: {line}", style="yellow", highlight=False, markup=False)


def _describe(engine: EmbeddingEngine, output: Path, rows: EncodedClips) -> dict[str, object]:
    manifest = engine.backend.bundle.manifest
    lines = [line for line in rows.lines() if output.suffix == ".parquet" or line[1] is not None]
    places = [None if row is None else rows.places[row] for _, row in lines]
    return engine.backend.describe() | {
        "output": str(output),
        "shape": list(rows.values.shape),
        "model": manifest.model.name,
        "bundle": str(engine.backend.bundle.path),
        "source": manifest.source.name,
        "warning": manifest.source.warning,
        "videos": list(rows.names),
        "rows": [
            {
                "row": number,  # of the file
                "video": rows.names[video],
                "start_s": place and place.start_s,
                "end_s": place and place.end_s,
            }
            for number, ((video, _), place) in enumerate(zip(lines, places, strict=True))
        ],
        "report": [{"video": name, **asdict(report)} for name, report in zip(rows.names, rows.reports, strict=True)],
    }
