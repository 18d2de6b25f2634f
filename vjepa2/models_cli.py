"""`vjepa2 models`."""

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from vjepa2.outputs import write_json
from vjepa2.registry import FILES, RELEASES, Release

_WIDE = 240  # columns of a table that nobody looks at through a terminal
_COLUMNS = ("model", "parameters", "clip", "tokens", "GFLOPs", "file", "key", "licence")
_NUMBERS = ("parameters", "tokens", "GFLOPs")


@click.command("models")
@click.option("--json", "json_file", help="Write the table as JSON; - is standard output.")
def models_command(json_file: str | None) -> None:
    """Print every released model: parameters, default clip, files, licence, and which key of Meta's file is used."""
    if json_file:
        write_json(json_file, [_describe(release) for release in RELEASES.values()])
    if json_file != "-":
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDE)
        console.print(_make_table())
        console.print(
            "GFLOPs are the encoder's, of one clip. Files without a Hugging Face repository are Meta's, below "
            f"{FILES}; those with two keys hold two encoders: the first is Hugging Face's, the second Meta's "
            "evaluations'.",
            highlight=False,
        )


def _make_table() -> Table:
    table = Table()
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for release in RELEASES.values():
        spec, clip = release.spec, release.spec.clip
        table.add_row(
            spec.name,
            "\n".join(_list_parts(release)),
            f"{clip.frames} x {clip.height} x {clip.width}",
            f"{clip.tokens:,}",
            f"{spec.flops() / 1e9:,.0f}",
            "\n".join(name for name in (release.repository, release.file) if name) or "none",
            " or ".join(release.keys) + (f"; encoder: {release.base}" if release.base else ""),
            release.licence or "",
        )
    return table


def _list_parts(release: Release) -> list[str]:
    """Parameters of each part."""
    parts = [f"encoder {release.spec.parameters:,}"]
    if release.predictor:
        parts.append(f"predictor {release.predictor.parameters:,}")
    if release.action:
        parts.append(f"predictor {release.action.parameters:,}")
    if release.probe:
        dim, probe = release.spec.dim, release.probe
        pooler = probe.parameters(dim, (0,) * probe.queries)
        if probe.classes:
            parts.append(f"probe {probe.parameters(dim, probe.classes):,}")
        else:
            parts.append(f"probe {pooler:,} + {dim + 1:,} a class")
        if probe.segments * probe.views > 1:
            step = f", {probe.frame_step} frames apart" if probe.frame_step else ""
            parts.append(f"scored on {probe.segments} segments x {probe.views} views{step}")
    return parts


def _describe(release: Release) -> dict[str, object]:
    spec = release.spec
    return {
        **asdict(release),
        "name": spec.name,
        "encoder_parameters": spec.parameters,
        "predictor_parameters": (part.parameters if (part := release.predictor or release.action) else None),
        "parameters": release.parameters,
        "tokens": spec.clip.tokens,
        "gflops": spec.flops() / 1e9,
        "url": FILES + release.file if release.file else None,
    }
