"""`vjepa2 triton`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from vjepa2.bundle import Bundle
from vjepa2.outputs import write_json

from .triton_config import Device, ServeOptions
from .triton_repository import write_repository
from .triton_start import START

_DEFAULT = ServeOptions()


@click.command("triton")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A folder.")
@click.option("--name", help="Of the model, for clients.  [default: the bundle's folder]")
@click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default=_DEFAULT.device,
    show_default=True,
    help="Where the graph runs; a plan runs on its GPU.",
)
@click.option(
    "--instances", type=click.IntRange(1), default=_DEFAULT.instances, show_default=True, help="Of the model."
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=_DEFAULT.max_batch,
    show_default=True,
    help="Clips a call, of a graph whose batch is dynamic; a plan has its own.",
)
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0, 1e6),
    default=_DEFAULT.max_wait_ms,
    show_default=True,
    help="That a request waits for company while the model is free.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1, 2**31 - 1),
    default=_DEFAULT.max_waiting,
    show_default=True,
    help="Requests; while so many wait, the next is rejected.",
)
@click.option(
    "--deadline-s",
    type=click.FloatRange(1e-6, 1e6),
    default=_DEFAULT.deadline_s,
    show_default=True,
    help="A request that was not begun in time is rejected.",
)
@click.option("--json", "json_file", help="Write what was written as JSON; - is standard output.")
def triton_command(bundle: Path, output: Path, name: str | None, json_file: str | None, **words: Any) -> None:
    """Write what Triton Inference Server needs to serve BUNDLE: its graph, its plans, and a script that starts it."""
    options = ServeOptions(**words)
    written = write_repository(Bundle.open(bundle), output, name=name, options=options)
    click.echo(f"{output}: {written.model} in {', '.join(written.repositories)}; {output / START} serves it", err=True)
    if written.left_out is not None:
        click.echo(f"note: without the graph: {written.left_out}", err=True)
    for note in written.notes:
        click.echo(f"note: {note}", err=True)
    if json_file:
        write_json(json_file, asdict(written) | {"options": asdict(options)})
