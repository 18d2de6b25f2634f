"""`vjepa2 export`."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from vjepa2.checkpoints import META_KEYS, Request
from vjepa2.classifier_files import is_image_classifier
from vjepa2.errors import SpecError
from vjepa2.head_checkpoints import ProbeOf
from vjepa2.heads import ImageHead
from vjepa2.manifest import CROP_DOWN, CROP_EVEN, Batch, CalibrationMethod, GraphInput, ParityVerdict, Precision
from vjepa2.outputs import write_json
from vjepa2.progress import show_stages
from vjepa2.registry import RELEASES
from vjepa2.size_option import read_size
from vjepa2.spec import Head

from .describe import ExportRequest
from .island_file import read_islands
from .island_sets import ISLAND_SETS
from .pipeline import ExportResult, export_bundle

_FRAMES = 16
_CROPS = {"down": CROP_DOWN, "even": CROP_EVEN}
_WEIGHTS = ("model", "key", "revision", "seed", "frames", "size", "layers")  # options of a Request


def _read_batch(_: click.Context, __: click.Parameter, value: str) -> Batch:
    if value == "dynamic":
        return "dynamic"
    if not value.isdigit() or int(value) < 1:
        raise SpecError(f"batch is {value!r}; it must be a number from 1 on, or dynamic")
    return int(value)


def _read_counts(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", value):
        raise SpecError(f"classes is {value!r}; it must be a number, or for anticipation three as 97,300,3806")
    return tuple(int(number) for number in value.split(","))


def _read_limits(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    limits = {}
    for value in values:
        name, number = value.split("=", 1) if "=" in value else (value, "")
        try:
            limits[name] = float(number)
        except ValueError as error:
            raise SpecError(f"accept is {value!r}; it must be a limit and a number, as token_worst=0.98") from error
    return limits


def _read_islands(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for value in values for name in read_islands(value)))


@click.command("export")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option("--model", help=f"Which model the weights are of: {', '.join(RELEASES)}.")
@click.option("--key", type=click.Choice(META_KEYS), help="Which encoder of a Meta .pt file.")
@click.option("--revision", help="Commit of a Hugging Face repository.")
@click.option("--seed", type=int, help="Of random weights.")
@click.option(
    "--frames",
    type=int,
    help="Frames of a clip; 1 is an image, which V-JEPA 2.1 takes.  "
    f"[default: {_FRAMES}; an image classifier's own; 8 before actions]",
)
@click.option("--size", callback=read_size, help="Pixels of a clip: N or HxW.  [default: as trained]")
@click.option("--layers", type=int, help="Keep only the first blocks, for experiments; of V-JEPA 2.1 4 at least.")
@click.option("--batch", default="1", show_default=True, callback=_read_batch, help="Clips a call: N or dynamic.")
@click.option(
    "--input",
    "graph_input",
    type=click.Choice(["frames", "pixel_values_videos"]),
    default="frames",
    show_default=True,
    help="uint8 pixels, or normalised floats as in transformers.",
)
@click.option(
    "--head",
    type=click.Choice(get_args(Head)),
    help="What the graph gives.  [default: embedding, or classifier where SOURCE is an image classifier's folder]",
)
@click.option("--classes", callback=_read_counts, help="Of random weights: N, or of anticipation VERBS,NOUNS,ACTIONS.")
@click.option("--pooling", type=click.Choice(get_args(ImageHead)), help="Of a classifier of random weights.")
@click.option(
    "--probe",
    type=click.Choice(get_args(ProbeOf)),
    help="Whose heads a video classifier has: 16, as trained, or its encoder's, as in transformers.  [default: meta]",
)
@click.option(
    "--segments",
    type=click.IntRange(1),
    help="Clips of a video that a classifier of videos looks at together; `vjepa2 models` says with how many each "
    "released one was evaluated.  [default: 1]",
)
@click.option(
    "--ahead", type=int, help="Frames from the end of the clip to what is anticipated.  [default: 8, a second]"
)
@click.option("--encoder", help="Where the encoder is, if SOURCE is the .pt file of a probe.")
@click.option("--context", type=int, help="Tokens that a predictor is told.  [default: all]")
@click.option("--targets", type=int, help="Tokens that a predictor is asked for.  [default: all]")
@click.option(
    "--context-only",
    is_flag=True,
    help="Before a predictor the encoder sees the context's tokens alone, as in training.  [default: the whole clip, "
    "as in transformers]",
)
@click.option(
    "--predictor-side",
    type=click.IntRange(1),
    help="Tokens along a side that V-JEPA 2.1's predictor rescales positions to: 16 as in its training.  "
    "[default: as published, not rescaled]",
)
@click.option(
    "--odd-margin",
    "crop",
    type=click.Choice(list(_CROPS)),
    default="down",
    show_default=True,
    callback=lambda _, __, value: _CROPS[value],
    help="Half of an odd margin is rounded down, as in transformers, or to the even number, as in the original code.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="fp16, bf16: MatMuls in 16 bits; int8, fp8: linear layers in 8, attention in 16.",
)
@click.option(
    "--islands",
    multiple=True,
    callback=_read_islands,
    metavar="SET|FILE",
    help=f"Of fp16 and bf16: leave more in float32, {', '.join(ISLAND_SETS)} of every block, or the islands in what "
    "vjepa2 drift --json wrote; may be repeated.",
)
@click.option(
    "--calibration",
    type=click.Choice(get_args(CalibrationMethod)),
    default="percentile",
    show_default=True,
    help="How the ranges of 8-bit activations are found, on clips that the gate does not see.",
)
@click.option(
    "--accept",
    multiple=True,
    callback=_read_limits,
    metavar="LIMIT=NUMBER",
    help="Let the gate ask for less, as token_worst=0.98; the manifest says so.",
)
@click.option("--clips", type=click.Path(path_type=Path), help="Folder of videos to prove the graphs on.")
@click.option(
    "--calibration-clips",
    type=click.Path(path_type=Path),
    help="Folder of other videos, to find the ranges of 8-bit activations on, beside generated ones.",
)
@click.option("--no-simplify", is_flag=True, help="Leave onnxsim out.")
@click.option("--json", "json_file", help="Write the result as JSON; - is standard output.")
def export_command(
    source: str,
    output: Path,
    batch: Batch,
    graph_input: GraphInput,
    clips: Path | None,
    no_simplify: bool,
    json_file: str | None,
    **options: Any,
) -> None:
    """Export SOURCE to a proven ONNX bundle.

    SOURCE is a model's name (its released checkpoint), a Hugging Face id, a folder in Hugging Face's layout, a Meta
    .pt file, or the word random, or hard: random weights that are hard for 16 bits.
    """
    weights = {name: options.pop(name) for name in _WEIGHTS}
    if weights["frames"] is None and options["head"] != "action" and not is_image_classifier(source):
        weights["frames"] = _FRAMES
    request = ExportRequest(
        weights=Request(source=source, **weights),
        batch=batch,
        graph_input=graph_input,
        clips=clips,
        simplify=not no_simplify,
        **options,
    )
    console = Console(stderr=True)
    with show_stages(console) as announce:
        result = export_bundle(request, output, announce=announce)
    _report(result, console)
    if json_file:
        manifest = result.bundle.manifest
        write_json(
            json_file,
            {
                "bundle": str(result.bundle.path),
                "seconds": result.seconds,
                "peak_bytes": result.peak_bytes,
                "source": manifest.source.name,
                "warning": manifest.source.warning,
                "graphs": {name: info.nodes for name, info in manifest.graphs.items()},
                "precision": manifest.precision,
                "parity": {name: asdict(verdict) for name, verdict in manifest.parity.items()},
            },
        )


def _report(result: ExportResult, console: Console) -> None:
    manifest = result.bundle.manifest
    for name, info in manifest.graphs.items():
        console.print(f"{name}: {info.nodes} nodes; {_tell(manifest.parity[name])}; {info.simplified}", highlight=False)
    if manifest.source.warning:
        console.print(f"note: {manifest.source.warning}", style="yellow", highlight=False)
    islands = f" with {len(manifest.islands)} more nodes in float32" if manifest.islands else ""
    console.print(f"{result.bundle.path} is ready, in {manifest.precision}{islands}", highlight=False)


def _tell(verdict: ParityVerdict) -> str:
    """The figures of a verdict that passed, as a clause."""
    embedding = "" if verdict.embedding_cosine is None else f"embedding {verdict.embedding_cosine:.7f}, "
    quiet = f", {verdict.quiet_tokens} quiet tokens aside" if verdict.quiet_tokens else ""
    accepted = ", ".join(f"{name}={limit:g}" for name, limit in verdict.accepted.items())
    return (
        f"worst token's cosine {verdict.token_cosine:.9f}, p01 {verdict.token_p01:.7f}{quiet}, {embedding}relative max "
        f"{verdict.relative_max:.1e} over {verdict.clips} clips by {verdict.proved_by}: in the gate"
        + (f" with {accepted} accepted" if accepted else "")
    )
