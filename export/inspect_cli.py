"""`vjepa2 inspect`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.engine_folder import EngineListing, list_engines
from vjepa2.errors import SpecError
from vjepa2.manifest import Manifest, Precision
from vjepa2.outputs import write_json

from .lint import GraphFacts, LintReport, describe_graph, lint_file, load_graph
from .targets import TARGETS, TARGETS_OF, TargetName


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInspection:
    """One graph, and what each target's rules found."""

    facts: GraphFacts
    reports: tuple[LintReport, ...]


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, type=click.Choice(TARGETS), help="Of these alone.  [default: all that fit]"
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="What a .onnx file is held to; a bundle's manifest says its own.",
)
@click.option("--json", "json_file", help="Write everything as JSON; - is standard output.")
def inspect_command(
    path: Path, targets: tuple[TargetName, ...], precision: Precision | None, json_file: str | None
) -> int:
    """Say what PATH is, a bundle or a .onnx file, and hold its graphs to the rules of each target.

    Exit status 1 if a rule is broken, or if a target that was asked for takes no such precision.
    """
    bundle = None if path.suffix == ".onnx" else Bundle.open(path)
    if bundle is None:
        graphs = {path.name: _inspect(path, targets or TARGETS, precision)}
    elif precision is not None:
        raise SpecError(f"the manifest of {path} says {bundle.manifest.precision}; --precision is for a .onnx file")
    else:
        graphs = _inspect_bundle(bundle, targets)
    engines = () if bundle is None else list_engines(bundle)
    if json_file:
        write_json(json_file, _describe(path, bundle, graphs, engines))
    if json_file != "-":
        _print(Console(soft_wrap=True, highlight=False), path, bundle, graphs, engines)
    reports = [report for one in graphs.values() for report in one.reports]
    return int(any(report.faults if report.refused is None else bool(targets) for report in reports))


def _inspect_bundle(bundle: Bundle, targets: tuple[TargetName, ...]) -> dict[str, GraphInspection]:
    """Each graph for the targets that it is for, or those of them that were asked for."""
    graphs = {}
    for name in bundle.manifest.graphs:
        fit = tuple(target for target in TARGETS_OF[name] if not targets or target in targets)
        graphs[name] = _inspect(bundle.path / name, fit, bundle.manifest.precision, bundle.manifest.islands)
    return graphs


def _inspect(
    file: Path, targets: tuple[TargetName, ...], precision: Precision | None, islands: tuple[str, ...] = ()
) -> GraphInspection:
    return GraphInspection(
        facts=describe_graph(load_graph(file), file.parent),
        reports=lint_file(file, targets, precision=precision, islands=islands),
    )


def _describe(
    path: Path, bundle: Bundle | None, graphs: dict[str, GraphInspection], engines: tuple[EngineListing, ...]
) -> dict[str, object]:
    return {
        "path": str(path),
        "manifest": None if bundle is None else _summarise(bundle.manifest),
        "graphs": {name: asdict(one) for name, one in graphs.items()},
        "engines": [asdict(engine) for engine in engines],
    }


def _summarise(manifest: Manifest) -> dict[str, object]:
    """The manifest without what only a program reads: where each parameter lies."""
    return {name: value for name, value in asdict(manifest).items() if name not in ("parameters", "labels")}


def _print(
    console: Console,
    path: Path,
    bundle: Bundle | None,
    graphs: dict[str, GraphInspection],
    engines: tuple[EngineListing, ...],
) -> None:
    if bundle is not None:
        _print_manifest(console, path, bundle.manifest)
    for name, one in graphs.items():
        facts = one.facts
        matmuls = ", ".join(f"{count} {kind}" for kind, count in facts.matmuls.items())
        console.print(
            f"{name}: {facts.nodes} nodes, opset {facts.opset}, IR {facts.ir_version}, {facts.attentions} attentions, "
            f"MatMuls {matmuls or 'none'}, {facts.constants} constants, {facts.graph_bytes / 1e6:.2f} MB"
        )
        console.print("  " + ", ".join(f"{count} {name}" for name, count in facts.operators.items()))
        for report in one.reports:
            _print_report(console, report)
    for engine in engines:
        _print_engine(console, engine)


def _print_manifest(console: Console, path: Path, manifest: Manifest) -> None:
    clip = manifest.clip
    console.print(
        f"{path}: {manifest.model.name} in {manifest.precision}, clips of {clip.frames} x {clip.height} x "
        f"{clip.width}, batch {manifest.batch}, head {manifest.head}, weights of {manifest.source.name}"
    )
    for name, info in manifest.files.items():
        console.print(f"  {name:<18} {info.bytes / 1e6:>10.2f} MB")
    for name, verdict in manifest.parity.items():
        state = "in its gate" if verdict.passed else "outside its gate"
        console.print(f"  {name:<18} {state}: worst token's cosine {verdict.token_cosine:.7f}, {verdict.clips} clips")
    if manifest.source.warning:
        console.print(f"  note: {manifest.source.warning}")


def _print_report(console: Console, report: LintReport) -> None:
    if report.refused is not None:
        console.print(f"  {report.target:<14} refused: {report.refused}")
        return
    console.print(f"  {report.target:<14} {'clean' if report.passed else f'{len(report.faults)} faults'}")
    for fault in report.faults:
        console.print(f"    {fault}")


def _print_engine(console: Console, engine: EngineListing) -> None:
    manifest = engine.manifest
    if manifest is None:
        console.print(f"engines/{engine.name}: {'; '.join(engine.faults)}")
        return
    fused = "an unknown number of" if manifest.fused_attention is None else manifest.fused_attention
    console.print(
        f"engines/{engine.name}: {manifest.precision} of {manifest.graph}, TensorRT {manifest.machine.tensorrt.name} "
        f"for {manifest.machine.gpu}, {manifest.plan.bytes / 1e6:.2f} MB, {fused} fused attentions, "
        f"{'in its gate' if manifest.verdict.passed else 'outside its gate'}"
        + "".join(f"; {fault}" for fault in engine.faults)
    )
