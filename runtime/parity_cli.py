"""`vjepa2 parity`."""

from pathlib import Path
from typing import get_args

import click
import numpy as np
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error
from vjepa2.progress import show_stages

from .backends import BACKENDS
from .canaries import Canary
from .candidates import EVALUATOR
from .interruption import end_at_sigterm
from .neighbours import overlap_by_chance
from .parity_report import FILE, CandidateRow, ParityReport, keep_report, write_report
from .parity_run import ParityRequest, run_parity
from .sampling import Pad


@click.command("parity")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--backends",
    default="",
    help=f"Names with commas between: {', '.join(BACKENDS)}, {EVALUATOR}.  [default: those that this machine has]",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="A float32 bundle of the same weights, for PyTorch to run.  [default: the first of BUNDLES that is one]",
)
@click.option("--clips", type=click.Path(path_type=Path), help="Folder of videos to compare on, beside generated ones.")
@click.option(
    "--pad",
    type=click.Choice(get_args(Pad)),
    default="none",
    show_default=True,
    help="What to do with a video shorter than a clip.",
)
@click.option(
    "--locate", is_flag=True, help="Of every candidate outside its gate, `vjepa2 drift`: which block, and why."
)
@click.option("--json", "json_file", help="Write the report as JSON; - is standard output.")
def parity_command(
    bundles: tuple[Path, ...],
    backends: str,
    reference: Path | None,
    clips: Path | None,
    pad: Pad,
    locate: bool,
    json_file: str | None,
) -> int:
    """Hold BUNDLES in each backend to PyTorch float32, token by token, and the gate itself to eight mistakes.

    The exit status is 1 if a figure is outside its gate, if the gate lets a mistake through, or if Ctrl-C or SIGTERM
    ended it early: what was measured is kept.
    """
    if locate and json_file == "-":
        raise click.UsageError("--locate writes what it finds to standard output; give --json a file")
    names = tuple(name.strip() for name in backends.split(",")) if backends else ()
    request = ParityRequest(
        bundles=tuple(Bundle.open(path) for path in bundles),
        backends=names,
        reference=None if reference is None else Bundle.open(reference),
        clips=clips,
        pad=pad,
    )
    last: list[ParityReport] = []

    def save(report: ParityReport) -> None:
        last[:] = [report]
        for bundle in request.bundles:
            keep_report(bundle.path, report.of_bundle(bundle.path.name))
        if json_file and (json_file != "-" or not report.partial):
            write_report(json_file, report)

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with end_at_sigterm(), show_stages(console) as announce:
            report = run_parity(request, save=save, announce=announce)
    except (KeyboardInterrupt, Vjepa2Error) as error:
        _end_partial(last, json_file, request, console)
        if isinstance(error, Vjepa2Error) or not last:
            raise
        return 1
    _tell(report, console)
    if locate:
        _locate(report, request, console)
    return 0 if report.passed else 1


def _locate(report: ParityReport, request: ParityRequest, console: Console) -> None:
    """Run another verb, by its name: what looks into graphs is on the side that makes them."""
    context = click.get_current_context()
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    paths = {bundle.path.name: bundle.path for bundle in request.bundles}
    outside = [row for row in report.candidates if not row.passed]
    drift = root.command.get_command(root, "drift") if outside else None
    if drift is None:
        console.print("nothing to locate: every candidate is in its gate", markup=False)
        return
    watched = next(option.type.choices for option in drift.params if isinstance(option.type, click.Choice))
    for row in outside:
        shown = row.backend in watched
        if not shown:
            console.print(f"{row.backend} shows nothing inside; the evaluator computes its graph", markup=False)
        against = None if request.reference is None else request.reference.path
        context.invoke(drift, path=paths[row.bundle], against=against, backend=row.backend if shown else EVALUATOR)


def _end_partial(last: list[ParityReport], json_file: str | None, request: ParityRequest, console: Console) -> None:
    """Say where what was measured is kept; standard output gets it too, if it was promised a report."""
    if not last:
        return
    if json_file == "-":
        write_report(json_file, last[0])
    places = ", ".join(str(bundle.path / FILE) for bundle in request.bundles)
    console.print(f"ended early: what was measured is kept, and called partial, in {places}", markup=False)


def _tell(report: ParityReport, console: Console) -> None:
    for line in report.reference.says:
        console.print(f"reference: {line}", markup=False)
    for row in report.candidates:
        _tell_candidate(row, console)
        _tell_canaries([canary for canary in report.canaries if canary.candidate == row.name], console)
    for name, why in report.not_run.items():
        console.print(f"not run: {name}: {why}", markup=False)
    for fault in report.invalid:
        console.print(f"INVALID: {fault}", markup=False)
    console.print("passed" if report.passed else "NOT passed", markup=False)


def _tell_candidate(row: CandidateRow, console: Console) -> None:
    worst, place = row.worst, next(clip.worst_place for clip in row.clips if clip.name == row.worst_clip)
    where = row.worst_clip
    if place is not None:
        where += f" at frame {place.frame}, row {place.row}, column {place.column}"
    p01 = "" if worst.token_p01 is None else f"p01 {worst.token_p01:.7f}, "
    embedding = "" if worst.embedding_cosine is None else f"embedding {worst.embedding_cosine:.7f}, "
    classes = "" if worst.agreement is None else f"classes agree {worst.agreement:.3f}, "
    alike = (
        ""
        if row.neighbours is None
        else f"k-NN overlap@10 {row.neighbours:.3f} (chance {overlap_by_chance(len(row.clips)):.3f}), "
    )
    console.print(
        f"{row.name} ({row.precision}, {row.device}, {len(row.clips)} clips): {embedding}tokens' cosine median "
        f"{worst.token_median:.9f}, {p01}worst {worst.token_cosine:.9f} in {where}, {classes}{alike}relative max "
        f"{worst.relative_max:.1e}, Frobenius {worst.relative_frobenius:.1e}: "
        + ("in the gate" if row.passed else "OUTSIDE the gate"),
        markup=False,
    )
    for clip in row.clips:
        for fault in clip.faults:
            console.print(f"  {clip.name}: {fault}", markup=False)
    for line in row.said:
        console.print(f"  {line}", markup=False)


def _tell_canaries(canaries: list[Canary], console: Console) -> None:
    """How many mistakes fail the gate, where they were made, and the one that comes nearest to it."""
    failing = [canary for canary in canaries if not canary.passed]
    if not failing:
        return
    here = sum(canary.origin == "run here" for canary in canaries)
    near = max(failing, key=lambda canary: np.nan_to_num(canary.figures.token_median, nan=-1))
    console.print(
        f"  canaries: {len(failing)} of {len(canaries)} fail as they must ({here} run here, {len(canaries) - here} "
        f"computed at export); nearest: {near.name}: {near.faults[0]}",
        markup=False,
    )
