"""`vjepa2 corpus`."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vjepa2.extras import import_with_extra
from vjepa2.outputs import write_json, write_whole
from vjepa2.progress import track_steps

from .backends import BACKENDS
from .backends.placement import EXECUTED
from .corpus_make_plan import plan_corpus
from .corpus_plan import Plan
from .corpus_run import RunSettings, Tally, choose_executor, run_corpus
from .corpus_seal import seal_corpus
from .corpus_status import read_status
from .sampling import SAMPLINGS, Pad

_json_option = click.option("--json", "json_file", help="Write what was done as JSON; - is standard output.")


@click.group("corpus")
def corpus_command() -> None:
    """Embed a corpus, killed and taken up again as often as may be: plan, run, status, seal."""


@corpus_command.command("plan")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .parquet file.")
@click.option("--sampling", default="uniform", show_default=True, help=f"Which frames: {SAMPLINGS}.")
@click.option("--pad", type=click.Choice(get_args(Pad)), default="none", show_default=True)
@click.option("--frames", type=click.IntRange(1), help="Of a clip, as the bundle takes them; window asks for it.")
@click.option("--clips-per-shard", type=click.IntRange(1), default=512, show_default=True, help="At most.")
@_json_option
def plan_command(
    source: str,
    output: Path,
    sampling: str,
    pad: Pad,
    frames: int | None,
    clips_per_shard: int,
    json_file: str | None,
) -> None:
    """Write down which videos of SOURCE, a folder, a list of paths or s3://..., make which shards."""
    plan = plan_corpus(
        source,
        sampling=sampling,
        pad=pad,
        frames=frames,
        clips_per_shard=clips_per_shard,
        watch=lambda videos: track_steps(videos, "hashing"),
    )
    write_whole(output, plan.write)
    problems = len(plan.table) - plan.table["version"].drop_null().length()
    facts = {"plan": plan.id, "videos": len(plan.table), "unreadable": problems}
    facts |= {"clips": plan.clips, "shards": plan.shards, "output": str(output), "policy": asdict(plan.policy)}
    Console(stderr=True).print(
        f"{output}: {len(plan.table)} videos ({problems} unreadable), {plan.clips} clips, {plan.shards} shards, "
        f"plan {plan.id:.12}",
        highlight=False,
    )
    if json_file:
        write_json(json_file, facts)


@corpus_command.command("run")
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, help="A folder, or s3://bucket/name.")
@click.option("--on", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="Of a Ray cluster, HOST:PORT; without it one is started here.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, each with a model.")
@click.option("--threads", type=click.IntRange(1), help="Of each worker; the cores, shared out, by default.")
@click.option("--gpus", type=click.FloatRange(0), default=0, show_default=True, help="Of each of Ray's workers.")
@click.option("--backend", default="auto", show_default=True, help=f"auto, {', '.join(BACKENDS)}.")
@click.option("--device", help="cpu, cuda, cuda:1, gpu: one that the backend has; its first by default.")
@click.option("--precision", type=click.Choice(EXECUTED), help="The bundle's by default.")
@click.option("--allow", multiple=True, help="A place or precision that nodes may fall to; otherwise an error.")
@click.option("--batch-size", type=click.IntRange(1), help="Clips a call; 1 by default.")
@_json_option
def run_command(
    plan_file: Path,
    bundle: Path,
    output: str,
    on: str,
    address: str | None,
    gpus: float,
    json_file: str | None,
    **rest: Any,
) -> int:
    """Embed the videos of PLAN with BUNDLE, or what is left of them; exit status 1 if some could not be read.

    What is not said of backend, threads and batch size is as the output was begun.
    """
    settings = RunSettings(**rest)
    execute = choose_executor(on, settings, address, gpus)
    tallies = run_corpus(Plan.open(plan_file), bundle, output, settings, execute)
    begun_s = time.perf_counter()
    tally = _watch(tallies)
    seconds = time.perf_counter() - begun_s
    Console(stderr=True).print(f"{output}: {_describe(tally)}", highlight=False)
    if json_file:
        write_json(json_file, asdict(tally) | {"output": output, "on": on, "seconds": seconds})
    return 1 if tally.videos["rejected"] else 0


@corpus_command.command("status")
@click.argument("output")
@_json_option
def status_command(output: str, json_file: str | None) -> None:
    """Say how far the run into OUTPUT is, from another shell or another machine."""
    status = read_status(output)
    if json_file:
        write_json(json_file, status)
    if json_file == "-":
        return
    rate = "" if status.clips_per_s is None else f", {status.clips_per_s:.1f} clips a second"
    left = "" if not status.left_s else f", {status.left_s:.0f} s left at that rate"
    last = "" if status.last_s is None else f", the last {status.last_s:.0f} s ago"
    click.echo(f"{status.output}: {_describe(status.tally)}{rate}{left}{last}{', sealed' if status.sealed else ''}")


@corpus_command.command("seal")
@click.argument("output")
@click.option(
    "--lance", type=click.Path(path_type=Path), help="Then write the rows to a LanceDB in this new folder too."
)
@_json_option
def seal_command(output: str, lance: Path | None, json_file: str | None) -> None:
    """Read every row of OUTPUT, hold it to the plan, and write _seal.json with a hash over all of them."""
    write_lance = import_with_extra("vjepa2.runtime.corpus_lance", "lance").write_lance if lance else None
    seal = seal_corpus(output, lambda shards: track_steps(shards, "reading"))
    if write_lance is not None:
        write_lance(output, seal, lance, lambda shards: track_steps(shards, "writing"))
    if json_file:
        write_json(json_file, seal)
    if json_file != "-":
        click.echo(f"{output}: {seal.rows} rows in {seal.shards} shards, sha256 {seal.rows_sha256}")


def _watch(tallies: Iterable[Tally]) -> Tally:
    columns = (TextColumn("embedding"), BarColumn(), TextColumn("{task.completed}/{task.total} clips"))
    rate = TextColumn("{task.fields[rate]}")
    tally: Tally | None = None
    console = Console(stderr=True)
    bar = Progress(
        *columns, rate, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=1,
        disable=not console.is_terminal,
    )  # fmt: skip
    with bar as progress:
        task = progress.add_task("", total=None, rate="")
        begun_s, before = 0.0, 0
        for tally in tallies:
            if not begun_s:
                begun_s, before = time.perf_counter(), tally.clips_done
            lasted_s = time.perf_counter() - begun_s
            rate_hz = (tally.clips_done - before) / lasted_s if lasted_s else 0.0
            progress.update(task, total=tally.clips, completed=tally.clips_done, rate=f"{rate_hz:.1f} a second")
    assert tally is not None
    return tally


def _describe(tally: Tally) -> str:
    videos = ", ".join(f"{count} {status}" for status, count in tally.videos.items() if count)
    found = f" ({tally.found} were there)" if tally.found else ""
    return f"{tally.done} of {tally.shards} shards{found}, {tally.rows} rows, videos: {videos or 'none'}"
