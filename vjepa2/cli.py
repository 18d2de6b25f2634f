"""`vjepa2`: a table of verbs, each imported when it is called."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from vjepa2.errors import Vjepa2Error
from vjepa2.extras import import_with_extra

# verb -> (module, the extra that it needs, what it does)
VERBS = {
    "export": ("vjepa2.export.cli", "export", "Weights to a proven ONNX bundle."),
    "compile": ("vjepa2.export.compile_cli", "tensorrt", "A bundle to a TensorRT engine for this machine's GPU."),
    "inspect": ("vjepa2.export.inspect_cli", "export", "What a bundle or a graph is, and which targets take it."),
    "plan": ("vjepa2.export.plan_cli", "", "Memory and time of a model on each device, before building."),
    "drift": ("vjepa2.export.drift_cli", "export", "Where a bundle leaves its gate, and what brings it back."),
    "finetune": ("vjepa2.finetune_cli", "finetune", "An encoder to a classifier of the images in a folder."),
    "embed": ("vjepa2.runtime.cli", "video", "Videos to embeddings."),
    "stream": ("vjepa2.runtime.stream_cli", "video", "A camera, or a file as if live, to embeddings as it goes."),
    "classify": ("vjepa2.runtime.classify_cli", "video", "Videos to names of classes, by a classifier's bundle."),
    "run": ("vjepa2.runtime.run_cli", "video", "Videos to every output of a bundle, whatever its head."),
    "parity": ("vjepa2.runtime.parity_cli", "", "Bundles in every backend against PyTorch float32, with canaries."),
    "corpus": ("vjepa2.runtime.corpus_cli", "corpus", "A corpus of videos to shards of embeddings, each row once."),
    "search": ("vjepa2.runtime.search_cli", "search", "A corpus on a page of this machine, to look for clips."),
    "triton": ("vjepa2.runtime.triton_cli", "", "A bundle to a repository that Triton Inference Server serves."),
    "bench": ("vjepa2.runtime.bench_cli", "", "How long each backend takes, proved, beside what others would run."),
    "report": ("vjepa2.runtime.report_cli", "", "One page of what is known of a bundle; or two held together."),
    "doctor": ("vjepa2.runtime.doctor_cli", "", "What runs on this machine, and what the rest lacks."),
    "models": ("vjepa2.models_cli", "", "Every released model: sizes, files, licences."),
}


class _Verbs(click.Group):
    """A group that knows its commands' names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, extra, _ = VERBS[cmd_name]
        command: click.Command = getattr(import_with_extra(module, extra), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, about) for verb, (_, _, about) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vjepa2-edge")
def cli() -> None:
    """V-JEPA 2 video encoders, from PyTorch to the devices that have to run them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb: exit status 0 is good, 1 measured and not good, 2 could not do it."""
    try:
        status: Any = cli.main(arguments, prog_name="vjepa2", standalone_mode=False)
    except Vjepa2Error as error:
        click.echo(f"vjepa2: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("vjepa2: interrupted; nothing half-written was left behind", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
