"""Can what is suggested after engines that did not pass be run as it stands, and is it of the same model?

The words are read by the commands themselves; what export would then do is looked at instead of done.
"""

import inspect
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.export import cli
from vjepa2.export import words as words_module
from vjepa2.export.compile_cli import compile_command
from vjepa2.export.compile_request import CompileRequest
from vjepa2.export.describe import ExportRequest
from vjepa2.export.drift_cli import drift_command
from vjepa2.export.load_model import load_model
from vjepa2.export.suggest import suggest_export
from vjepa2.export.words import spell_request
from vjepa2.headed import Headed
from vjepa2.manifest import Manifest, Precision, Source
from vjepa2.runtime.gates import GATES
from vjepa2.spec import ClipSpec

COMMON = ("--model", "vitl", "--layers", "1", "--frames", "2", "--size", "32")
Read = Callable[[list[str]], ExportRequest]


class UnderstoodError(Exception):
    """Export was asked, and is not to work."""


@pytest.fixture
def read_words(monkeypatch: pytest.MonkeyPatch) -> Read:
    """A function that gives what `vjepa2 export` understands."""
    understood: list[ExportRequest] = []

    def note(request: ExportRequest, *_: Any, **__: Any) -> None:
        understood.append(request)
        raise UnderstoodError

    monkeypatch.setattr(cli, "export_bundle", note)

    def read(words: list[str]) -> ExportRequest:
        done = CliRunner().invoke(cli.export_command, words)
        assert isinstance(done.exception, UnderstoodError), (words, done.output, done.exception)
        return understood[-1]

    return read


def load(request: ExportRequest) -> tuple[Headed, Source]:
    """The model, where that is possible without values: hundreds of millions are not what is asked here."""
    with nullcontext() if request.weights.source == "hard" else torch.device("meta"):
        return load_model(request)[:2]


SOURCES = [
    ("random", *COMMON, "--seed", "3"),
    ("hard", *COMMON, "--seed", "1", "--batch", "dynamic", "--input", "pixel_values_videos"),
    ("random", *COMMON, "--head", "tokens", "--odd-margin", "even", "--no-simplify"),
    ("random", *COMMON, "--head", "classifier", "--classes", "5"),
    ("random", *COMMON, "--classes", "5", "--pooling", "attentive", "--segments", "2"),
    ("random", *COMMON, "--classes", "5", "--pooling", "attentive", "--probe", "transformers"),
    ("random", *COMMON, "--head", "predictor", "--context", "1", "--targets", "1"),
    ("random", *COMMON, "--head", "predictor", "--context", "1", "--context-only"),
    ("random", *COMMON, "--head", "anticipation", "--classes", "3,4,5", "--ahead", "16"),
    ("random", "--model", "vitg-ac", "--layers", "1", "--frames", "3", "--size", "32", "--head", "action"),
]
# options that say nothing of which model it is
APART = {"output", "precision", "calibration", "accept", "islands", "json_file"}
SAME = (
    "context_only",
    "ahead",
    "predictor_side",
    "batch",
    "graph_input",
    "crop",
    "simplify",
    "classes",
    "pooling",
    "probe",
    "segments",
    "context",
    "targets",
)


@pytest.mark.parametrize("words", SOURCES, ids=lambda words: f"{words[0]} {' '.join(words[9:])}")
def test_the_words_of_a_bundle_make_it_again(words: tuple[str, ...], read_words: Read) -> None:
    request = read_words([*words, "-o", "x"])
    model, source = load(request)
    spelt = spell_request(request, model, source)
    again = read_words([*spelt, "-o", "x"])
    same, same_source = load(again)
    assert same_source == source
    assert spell_request(again, same, same_source) == spelt
    assert {name: getattr(again, name) for name in SAME} == {name: getattr(request, name) for name in SAME}
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (model, same)]
    assert shapes[0] == shapes[1]


def test_no_option_of_export_is_forgotten() -> None:
    source = inspect.getsource(words_module)
    for option in cli.export_command.params:
        if isinstance(option, click.Option) and option.name not in APART:
            assert f'"{option.opts[-1]}"' in source, option.opts


def test_files_are_called_by_their_names(read_words: Read, tmp_path: Path) -> None:
    """A probe's file beside its encoder's; where they lie is not in the words."""
    for name in ("probe.pt", "vitl.pt"):
        (tmp_path / name).touch()
    (tmp_path / "videos").mkdir()
    options = ["--model", "vitl-ssv2", "--key", "target_encoder", "--encoder", str(tmp_path / "vitl.pt")]
    request = read_words([str(tmp_path / "probe.pt"), *options, "--clips", str(tmp_path / "videos"), "-o", "x"])
    model, _ = load(read_words(["random", *COMMON, "--classes", "5", "--pooling", "attentive", "-o", "x"]))
    words = spell_request(request, model, Source(name="probe.pt", key="target_encoder", files={}))
    assert str(tmp_path) not in " ".join(words)
    again = read_words([*words, "-o", "x"])
    assert (again.weights.source, again.encoder, again.clips) == ("probe.pt", "vitl.pt", Path("videos"))
    assert (again.weights.model, again.weights.key) == ("vitl-ssv2", "target_encoder")


def test_a_repository_is_named_with_the_commit_that_was_found(read_words: Read) -> None:
    request = read_words(["vitl", *COMMON[2:], "-o", "x"])
    model, _ = load(read_words(["random", *COMMON, "-o", "x"]))
    words = spell_request(request, model, Source(name="facebook/vjepa2-vitl-fpc64-256", revision="abc", files={}))
    again = read_words([*words, "-o", "x"])
    assert (again.weights.source, again.weights.revision, again.weights.model) == ("vitl", "abc", None)


# ---- what is suggested


def make(exported: Path, name: str, **changes: Any) -> Bundle:
    """A bundle that somebody tried."""
    words = ("hard", "--model", "vitl", "--seed", "7", "--frames", "16", "--size", "256x256", "--head", "tokens")
    return Bundle(Path("/a") / name, replace(Bundle.open(exported).manifest, words=words, **changes))


def long_clip() -> ClipSpec:
    """8,192 tokens."""
    return ClipSpec(frames=64, height=256, width=256)


def accepted(manifest: Manifest, **figures: float) -> dict[str, Any]:
    """Parity with limits that were put lower, and figures that need it."""
    verdict = replace(manifest.parity[PORTABLE], accepted={"token_median": 0.998}, **figures)  # type: ignore[arg-type]
    return {PORTABLE: verdict}


def suggest(*bundles: Bundle, max_batch: int | None = None) -> str:
    return suggest_export(CompileRequest(bundles=bundles, timings=Path("/t"), max_batch=max_batch))


def commands_of(suggestion: str) -> list[list[str]]:
    """The commands' words, each read by its command."""
    assert suggestion.startswith("run: ")
    commands = [shlex.split(text) for text in suggestion.removeprefix("run: ").split("; then: ")]
    for program, verb, *words in commands:
        assert program == "vjepa2"
        if verb != "export":  # read above
            command: click.Command = {"compile": compile_command, "drift": drift_command}[verb]
            command.make_context(verb, list(words))
    return commands


@pytest.mark.parametrize(
    ("tried", "is_long", "precision", "islands"),
    [
        (["int8"], False, "fp16", ()),
        (["fp8", "int8"], False, "fp16", ()),
        (["fp16"], False, "fp16", ("mlp",)),
        (["bf16"], False, "fp16", ()),
        (["fp16", "bf16"], False, "fp16", ("mlp",)),
        (["bf16", "fp16"], False, "fp16", ("mlp",)),
        (["fp16", "fp16+"], False, "fp32", ()),
        (["fp16+", "fp16"], False, "fp32", ()),
        (["fp16", "fp16+"], True, "bf16", ()),
        (["fp16", "fp16+", "bf16"], True, "bf16", ("mlp",)),
        (["fp32"], False, None, ()),
        (["fp16", "fp32"], False, None, ()),
        (["fp16", "fp16+", "bf16", "bf16+"], True, None, ()),
    ],
)
def test_what_is_suggested_was_not_tried_and_can_be_exported(
    tried: list[str],
    is_long: bool,
    precision: Precision | None,
    islands: tuple[str, ...],
    exported: Path,
    read_words: Read,
) -> None:
    changes = {"clip": long_clip()} if is_long else {}
    bundles = [
        make(exported, f"b-{each}", precision=each.rstrip("+"), islands=("a",) if "+" in each else (), **changes)
        for each in tried
    ]
    text = suggest(*bundles)
    if precision is None:
        assert "no precision is left to try" in text
        return
    export, compiled = commands_of(text)
    request = read_words(export[2:])
    assert (request.precision, request.islands, dict(request.accept)) == (precision, islands, {})
    assert (request.weights.source, request.weights.model, request.weights.seed) == ("hard", "vitl", 7)
    assert request.head == "tokens"
    target = export[export.index("-o") + 1]
    assert compiled == ["vjepa2", "compile", target]
    assert target not in {str(bundle.path) for bundle in bundles}


def test_limits_are_taken_over_between_16_bit_forms_and_the_batch_to_compile(exported: Path, read_words: Read) -> None:
    manifest = Bundle.open(exported).manifest
    sixteen = make(exported, "b-fp16", precision="fp16", parity=accepted(manifest))
    export, compiled = commands_of(suggest(sixteen, max_batch=4))
    assert read_words(export[2:]).accept == {"token_median": 0.998}
    GATES["fp16"].accept(read_words(export[2:]).accept)
    assert compiled[-2:] == ["--max-batch", "4"]
    eight = make(exported, "b-int8", precision="int8", parity=accepted(manifest))
    assert read_words(commands_of(suggest(eight))[0][2:]).accept == {}


def test_drift_finds_the_islands_of_a_graph_that_lost_too_much_itself(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    parity = accepted(manifest, token_median=0.9984)
    drift, export, _ = commands_of(suggest(make(exported, "b-fp16", precision="fp16", parity=parity)))
    assert drift == ["vjepa2", "drift", "/a/b-fp16", "--json", "/a/b-fp16-islands.json"]
    assert export[export.index("--islands") + 1] == "/a/b-fp16-islands.json"
    assert "--accept" not in export, "the islands are found by the whole gate"
