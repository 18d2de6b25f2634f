"""`vjepa2 drift`."""

from pathlib import Path
from typing import Literal, get_args

import click
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.outputs import write_json, write_whole
from vjepa2.progress import show_stages

from .drift import Reading
from .drift_report import DriftReport, report_drift
from .islands import Grain
from .watch import WATCHERS


@click.command("drift")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="A bundle of the same model to hold it to, in float32."
)
@click.option(
    "--backend",
    type=click.Choice(WATCHERS),
    help="Who computes BUNDLE; naive-fp16 is a float32 one with every result in 16 bits.  "
    "[default: evaluator; for fp32 onnxruntime]",
)
@click.option(
    "--clip",
    type=click.IntRange(0),
    help="Of the reference's clips.  [default: the first outside the gate, from the one that moves most on]",
)
@click.option(
    "--islands",
    type=click.Choice([*get_args(Grain), "none"]),
    default="nodes",
    show_default=True,
    help="Look for float32 islands: nodes, with some runs for each that is needed, or what has one role in all blocks.",
)
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write the growth as an SVG file.")
@click.option("--json", "json_file", help="Write everything as JSON; - is standard output.")
def drift_command(
    path: Path,
    against: Path | None,
    backend: str | None,
    clip: int | None,
    islands: Grain | Literal["none"],
    plot_file: Path | None,
    json_file: str | None,
) -> int:
    """Say which block of BUNDLE is the first to leave its gate, which operator inside it, and what brings it back.

    It is held to --against in float32, or to its own graph with every result in float32. Exit status 1 if it is
    outside its gate.
    """
    with show_stages(Console(stderr=True)) as announce:
        announce("open")
        report = report_drift(
            Bundle.open(path),
            against=None if against is None else Bundle.open(against),
            backend=backend,
            clip=clip,
            islands=None if islands == "none" else islands,
            announce=announce,
        )
    if plot_file is not None:
        write_whole(plot_file, lambda stream: stream.write(report.plot.encode()))
    if json_file:
        write_json(json_file, report)
    if json_file != "-":
        _print(Console(soft_wrap=True, highlight=False, markup=False), report)
    return int(not report.passed)


def _print(console: Console, report: DriftReport) -> None:
    console.print(f"{report.candidate} against {report.reference}, clip {report.clip}, gate of {report.precision}")
    console.print(f"  {'tokens of':<40} {'worst cos':>11} {'median cos':>11} {'Frobenius':>10}")
    for reading in report.location.growth:
        _print_reading(console, reading)
    if report.passed:
        console.print("the outputs are within the gate")
    else:
        console.print(f"the outputs are outside the gate: {'; '.join(report.faults)}")
    if report.hidden:
        console.print("  and within it where the graph is looked into: look for what the backend fuses")
    operator = report.location.operator
    if operator is not None:
        console.print(f"first outside: {report.location.block}, in it {operator.operator} ({operator.op_type})")
        console.print(f"  {'; '.join(operator.drift.faults)}")
    for name in report.location.uncompared:
        console.print(f"  not compared, the reference has no such operator: {name}")
    _print_islands(console, report)


def _print_reading(console: Console, reading: Reading) -> None:
    drift = reading.drift
    cosines = [drift.token_worst, drift.token_median] if drift.is_tokens else [drift.embedding] * 2
    shown = " ".join("  no number" if cosine is None else f"{cosine:11.7f}" for cosine in cosines)
    relative = "no number" if drift.relative_frobenius is None else f"{drift.relative_frobenius:.2e}"
    console.print(f"{'x ' if drift.faults else '  '}  {reading.operator:<38} {shown} {relative:>10}")


def _print_islands(console: Console, report: DriftReport) -> None:
    if report.islands is None:
        console.print(f"float32 islands: none; {report.islands_note}")
        return
    islands, cost = report.islands.islands, report.cost
    console.print(
        f"float32 islands that bring it back on every clip, {report.islands.judged} trials; without each alone:"
    )
    for island in islands:
        console.print(f"    {island.name} ({island.op_type}, {len(island.nodes)}): {'; '.join(island.without)}")
    if cost is not None:
        timed = "" if cost.time_share is None else f", {cost.time_share:.2%} of ONNX Runtime's time in float32 here"
        console.print(
            f"  cost: {cost.flops_share:.2%} of the MatMuls' FLOPs, {cost.bytes_share:.2%} of the results' bytes{timed}"
        )
        console.print(f"  not measured: {cost.not_measured}")
