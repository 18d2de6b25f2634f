"""`vjepa2 report`."""

from dataclasses import asdict
from pathlib import Path

import click

from vjepa2.bundle import Bundle
from vjepa2.extras import import_with_extra
from vjepa2.odd_numbers import spell_numbers
from vjepa2.outputs import write_json

from .evidence import Evidence, describe_evidence, gather_evidence, list_missing, read_evidence, write_evidence
from .report_compare import compare_evidence, describe_comparison
from .report_place import make_place

_FILE = Path("reports") / "report.html"  # in the bundle


@click.command("report")
@click.argument("path", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help=f"The page.  [default: BUNDLE/{_FILE}]")
@click.option("--json", "json_file", help="Write the same as JSON; - is standard output.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    nargs=2,
    metavar="OLD NEW",
    help="Instead of a page: hold what --json wrote of NEW to what it wrote of OLD.",
)
@click.option("--schema", is_flag=True, help="Instead of a page: print the JSON Schema of what --json writes.")
def report_command(
    path: Path | None, output: Path | None, json_file: str | None, compare: tuple[Path, Path] | None, schema: bool
) -> int:
    """Write one page of what is known of BUNDLE, from its manifest and the reports that lie in it.

    What was not measured is named with the command that measures it. With --compare the exit status is 1 if anything
    that was proved no longer is, or takes more than 5 % more time or memory.
    """
    if [path is not None, compare is not None, schema].count(True) != 1:
        raise click.UsageError("give a BUNDLE, or --compare OLD NEW, or --schema")
    if schema:
        return _print_schema(output, json_file)
    if compare is not None:
        if output is not None:
            raise click.UsageError("--compare writes no page; leave -o out, --json is the comparison")
        return _compare(*compare, json_file)
    assert path is not None
    _write(Bundle.open(path), output, json_file)
    return 0


def _print_schema(output: Path | None, json_file: str | None) -> int:
    if output is not None or json_file is not None:
        raise click.UsageError("--schema is printed; leave -o and --json out")
    write_json("-", describe_evidence())
    return 0


def _write(bundle: Bundle, output: Path | None, json_file: str | None) -> None:
    report = import_with_extra("vjepa2.runtime.report", "report")
    evidence = gather_evidence(bundle)
    file = output or make_place(bundle.path, _FILE, otherwise="give a place with -o")
    report.write_page(file, evidence)
    if json_file:
        write_evidence(json_file, evidence)
    _tell(file, evidence, report.list_verdicts(evidence))


def _tell(file: Path, evidence: Evidence, verdicts: dict[str, str]) -> None:
    for section, verdict in verdicts.items():
        click.echo(f"{section}: {verdict}", err=True)
    for section, command in list_missing(evidence).items():
        click.echo(f"no {section} is in the bundle; it is made by: {command}", err=True)
    for what in evidence.foreign.values():
        click.echo(f"of another bundle, or of this one before it was exported again: {what}", err=True)
    click.echo(f"page: {file}", err=True)


def _compare(old: Path, new: Path, json_file: str | None) -> int:
    comparison = compare_evidence(read_evidence(old), read_evidence(new))
    if json_file:
        write_json(json_file, spell_numbers(asdict(comparison)))
    if json_file != "-":
        click.echo(describe_comparison(comparison))
    return 0 if comparison.passed else 1
