"""`vjepa2 bench`."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.odd_numbers import spell_numbers
from vjepa2.outputs import write_json
from vjepa2.progress import show_stages

from .backends import BACKENDS
from .backends.placement import EXECUTED, Executed
from .bench_queries import check_video
from .interruption import end_at_sigterm
from .latency import BenchOptions, Surroundings, measure_latency, plan_rows
from .latency_report import FILE, LatencyReport, Scenario
from .latency_table import write_tables
from .report_place import make_place


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--backends", default="", help=f"Names with commas, of {', '.join(BACKENDS)}; all that run by default.")
@click.option("--scenario", type=click.Choice(get_args(Scenario)), default="single-stream", show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, gpu; each backend's first by default.")
@click.option("--precision", type=click.Choice(EXECUTED), help="The bundle's by default.")
@click.option(
    "--video",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Let end-to-end times begin with this file.",
)
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Of turns a row, at most.")
@click.option("--json", "json_file", help="Write the report as JSON; - is standard output, and nothing else is.")
def bench_command(
    bundles: tuple[Path, ...],
    backends: str,
    scenario: Scenario,
    device: str | None,
    precision: Executed | None,
    video: Path | None,
    seconds: float,
    json_file: str | None,
) -> int:
    """Time BUNDLES in backends, each beside the first (beside transformers, where it is among them), and prove them.

    A row that fails its gate has no times and makes the exit status 1, and so do Ctrl-C and SIGTERM, which keep what
    was timed. The report goes into each bundle as reports/latency.json, after every row.
    """
    options = BenchOptions(
        scenario=scenario,
        device=device,
        precision=precision,
        video=None if video is None else str(video),
        seconds=seconds,
    )
    opened = [Bundle.open(bundle) for bundle in bundles]
    names = [name.strip() for name in backends.split(",") if name.strip()]
    plan = plan_rows(opened, names, device=device)
    if video is not None:
        check_video(video, opened)
    console = Console(stderr=True)
    command = shlex.join(["vjepa2", *sys.argv[1:]])

    def save(report: LatencyReport) -> None:
        for bundle in opened:
            keep_latency(bundle.path, report)
        if json_file and json_file != "-":
            write_latency(json_file, report)

    with end_at_sigterm(), show_stages(console) as announce:
        report = measure_latency(plan, options, Surroundings(say=announce), command=command, save=save)
    if json_file == "-":
        write_latency(json_file, report)
    else:
        click.echo(write_tables(report))
    return 0 if report.passed else 1


def write_latency(path: str, report: LatencyReport) -> None:
    """Write a report as JSON, "-" to standard output; the figures of a row that gave NaN become words."""
    write_json(path, spell_numbers(asdict(report)))


def keep_latency(folder: Path, report: LatencyReport) -> None:
    """Write a report to its place in a bundle."""
    write_latency(str(make_place(folder, FILE)), report)
