"""`vjepa2 classify`."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from vjepa2.outputs import write_json

from .classify import tell_evaluation
from .sampling import Pad
from .video_folder import expand_folders
from .video_options import BackendChoice, video_options


@click.command("classify")
@video_options
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes a video.")
@click.option(
    "--views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Crops of a video whose probabilities are averaged: 1 in the centre, or 3, as in the original evaluations.",
)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Clips a call.")
@click.option("--json", "json_file", help="Write the classes as JSON; - is standard output, and nothing else is.")
def classify_command(
    bundle: Path,
    videos: tuple[Path, ...],
    top: int,
    views: int,
    backend: BackendChoice,
    sampling: str,
    pad: Pad,
    batch_size: int,
    json_file: str | None,
) -> None:
    """Name the likeliest classes of VIDEOS with BUNDLE, which has a classifier: one line a video.

    A folder is all videos below it, sorted by path.
    """
    console = Console(stderr=True)
    found = list(expand_folders(videos)[0])
    with backend.open(bundle) as engine:
        results = engine.classify(
            found,
            top=top,
            views=views,
            batch_size=batch_size,
            sampling=sampling,
            pad=pad,
            show_progress_bar=console.is_terminal,
        )
        manifest, ran = engine.backend.bundle.manifest, engine.backend
    if json_file != "-":
        for video, result in zip(found, results, strict=True):
            pairs = zip(result.labels, result.scores, strict=True)
            click.echo(f"{video}\t" + "\t".join(f"{label} {score:.4f}" for label, score in pairs))
    evaluated = tell_evaluation(manifest, sampling, views)
    if evaluated:
        console.print(f"note: {evaluated}", highlight=False)
    console.print(f"by {ran.name} on {ran.device} in {ran.precision} ({ran.reason})", highlight=False)
    if manifest.source.warning:
        console.print(f"note: {manifest.source.warning}", style="yellow", highlight=False)
    if json_file:
        probe = manifest.parts.probe
        record = ran.describe() | {
            "bundle": str(bundle),
            "views": views,
            "sampling": sampling,
            "segments": probe.segments if probe else 1,
            "warning": manifest.source.warning,
            "videos": [{"video": str(video), **asdict(row)} for video, row in zip(found, results, strict=True)],
        }
        write_json(json_file, record)
