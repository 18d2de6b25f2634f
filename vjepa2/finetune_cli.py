"""`vjepa2 finetune`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vjepa2.checkpoints import META_KEYS, Request
from vjepa2.finetune import FinetuneRequest, Progress, finetune_classifier
from vjepa2.heads import ImageHead
from vjepa2.outputs import write_json
from vjepa2.recipe import Autocast, Device, Recipe
from vjepa2.registry import RELEASES
from vjepa2.size_option import read_size

_DEFAULT = Recipe()
_LAYER_DECAY = 0.75  # of an encoder that knows something already: what is nearest the pixels changes least


@click.command("finetune", context_settings={"show_default": True})
@click.argument("source", metavar="MODEL")
@click.argument("images", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option("--model", help=f"Which model a Meta .pt file is of: {', '.join(RELEASES)}.")
@click.option("--key", type=click.Choice(META_KEYS), help="Which encoder of a Meta .pt file.")
@click.option("--revision", help="Commit of a Hugging Face repository.")
@click.option("--from-scratch", is_flag=True, help="Random weights: only the model's shape is taken.")
@click.option(
    "--frames",
    type=click.IntRange(1),
    help="Equal frames that an image is shown as.  [default: 2; of V-JEPA 2.1 1, for which it has patches]",
)
@click.option("--size", callback=read_size, help="Pixels of an image: N or HxW.  [default: as trained]")
@click.option("--val-fraction", type=float, help="Held out where there is no folder val.  [default: 0.1]")
@click.option(
    "--head", type=click.Choice(get_args(ImageHead)), default=_DEFAULT.head, help="What is put on the encoder."
)
@click.option("--train-encoder", is_flag=True, help="Train the encoder too; it is frozen otherwise.")
@click.option("--epochs", type=int, default=_DEFAULT.epochs, help="How often each image is seen.")
@click.option("--batch-size", type=int, default=_DEFAULT.batch_size, help="Images in memory at once.")
@click.option("--accumulate", type=int, default=_DEFAULT.accumulate, help="Batches a step.")
@click.option("--learning-rate", type=float, default=_DEFAULT.learning_rate, help="Of the head, at its highest.")
@click.option(
    "--layer-decay",
    type=float,
    help=f"Each block's rate to the next one's.  [default: {_LAYER_DECAY} if trained weights are trained on, else 1]",
)
@click.option("--weight-decay", type=float, default=_DEFAULT.weight_decay, help="Not of biases and norms.")
@click.option("--warmup", type=float, default=_DEFAULT.warmup, help="The part of all steps in which the rate rises.")
@click.option("--clip-norm", type=float, default=_DEFAULT.clip_norm, help="The gradient's norm is cut to this.")
@click.option(
    "--autocast", type=click.Choice(get_args(Autocast)), default=_DEFAULT.autocast, help="Of the training steps."
)
@click.option("--device", type=click.Choice(get_args(Device)), default=_DEFAULT.device, help="What it is trained on.")
@click.option("--seed", type=int, default=_DEFAULT.seed, help="Of the head, the order of images and the split.")
@click.option(
    "--save-steps", type=click.IntRange(1), help="Keep the run every so many steps, not only after each epoch."
)
@click.option("--workers", type=click.IntRange(1), default=2, help="Threads that read images.")
@click.option("--json", "json_file", help="Write the result as JSON; - is standard output.")
def finetune_command(
    source: str,
    images: Path,
    output: Path,
    resume: bool,
    from_scratch: bool,
    val_fraction: float | None,
    save_steps: int | None,
    workers: int,
    json_file: str | None,
    **options: Any,
) -> None:
    """Train a classifier of the images in FOLDER on the encoder MODEL.

    FOLDER holds a folder of images for each class, or train and val with these. MODEL is a model's name (its released
    checkpoint), a Hugging Face id, a folder in Hugging Face's layout (from scratch, its config.json is enough) or a
    Meta .pt file. What is written can be exported, and a run that was killed can be resumed.
    """
    weights = Request(
        source=source, **{name: options.pop(name) for name in ("model", "key", "revision", "frames", "size")}
    )
    if options["layer_decay"] is None:
        options["layer_decay"] = _LAYER_DECAY if options["train_encoder"] and not from_scratch else 1.0
    request = FinetuneRequest(
        weights=weights,
        images=images,
        recipe=Recipe(**options),
        val_fraction=val_fraction,
        from_scratch=from_scratch,
    )
    console = Console(stderr=True)
    with _show_progress(console) as announce:
        result = finetune_classifier(
            request, output, resume=resume, save_steps=save_steps, workers=workers, announce=announce
        )
    figures = result.evaluation
    console.print(
        f"{result.folder}: {figures.top1:.2%} of the held-out images right, {figures.top5:.2%} in five guesses, "
        f"after {result.steps} steps",
        highlight=False,
    )
    if json_file:
        write_json(json_file, asdict(result))


@contextmanager
def _show_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A function that keeps one line up to date; nothing is shown where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def announce(progress: Progress) -> None:
            right = "" if progress.evaluation is None else f"  top-1 {progress.evaluation.top1:.1%}"
            about = f"epoch {progress.epoch}  loss {progress.report.loss:.3f}{right}"
            bar.update(task, description=about, completed=progress.step, total=progress.steps)

        yield announce
