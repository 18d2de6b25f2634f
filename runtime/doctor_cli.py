"""`vjepa2 doctor`."""

from pathlib import Path

import click
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.outputs import write_json

from .doctor import Diagnosis, Finding, diagnose


@click.command("doctor")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--json", "json_file", help="Write what was found as JSON; - is standard output, and nothing else is.")
def doctor_command(bundle: Path | None, json_file: str | None) -> None:
    """Say what this machine can run (BUNDLE, if it is given), what the rest lacks, and what `--backend auto` takes."""
    found = diagnose(None if bundle is None else Bundle.open(bundle))
    if json_file:
        write_json(json_file, found)
    if json_file != "-":
        _print(found, Console(highlight=False, soft_wrap=True))


def _print(found: Diagnosis, console: Console) -> None:
    console.print(f"vjepa2-edge {found.vjepa2}, Python {found.python}, {found.machine}", markup=False)
    for number, gpu in enumerate(found.gpus):
        major, minor = gpu.capability
        version = f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        console.print(f"cuda:{number} {gpu.name}, compute capability {major}.{minor}, driver for CUDA {version}")
    if found.no_gpu:
        console.print(f"no GPU: CUDA needs {found.no_gpu}", markup=False)
    for finding in (*found.backends, *found.tools):
        _print_finding(finding, console)
    console.print(f"auto takes {found.auto or 'nothing'} ({found.reason})", markup=False)
    if found.caution:
        console.print(found.caution, markup=False)


def _print_finding(finding: Finding, console: Console) -> None:
    mark = "yes" if finding.usable else "no "
    console.print(f"{mark} {finding.name:<22} {finding.lacks or finding.version or ''}".rstrip(), markup=False)
