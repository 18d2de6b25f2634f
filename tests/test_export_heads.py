"""Does each head go through the same pipeline: one trace, two graphs, one gate, every backend?"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests import numpy_family
from tests.conftest import usable_backends, version_21
from tests.numpy_family import state_of
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.checkpoints import Request, load_encoder
from vjepa2.cli import main
from vjepa2.encoder import Encoder
from vjepa2.errors import BackendError, CheckpointError, ExportError, ParityError, SpecError
from vjepa2.export import pipeline
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.trace import trace_model
from vjepa2.head_checkpoints import load_action_predictor, load_classifier, load_predictor
from vjepa2.head_specs import ActionSpec, PredictorSpec
from vjepa2.headed import ActionEncoder, PredictiveEncoder
from vjepa2.masks import take_tokens
from vjepa2.runtime import Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.parity import GATES
from vjepa2.runtime.parity_run import ParityRequest, run_parity
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, ModelSpec

CLIP = ClipSpec(frames=4, height=32, width=48)
SPEC = ModelSpec(name="tiny", family="vjepa2", dim=96, depth=2, heads=4, mlp_dim=96, clip=CLIP)
NEW = version_21(SPEC, (0, 1))
PREDICTOR = PredictorSpec(encoder_dim=96, dim=48, depth=2, heads=4, mlp_dim=64)
NEW_PREDICTOR = replace(PREDICTOR, positions="interleaved", mask_tokens=8, levels=2, out_dim=192, has_modalities=True)
ACTION = ActionSpec(encoder_dim=96, dim=48, depth=2, heads=4, mlp_dim=64)
STEPS = 3
TOKENS, ROW = CLIP.tokens, CLIP.tokens // 2

# head -> (options, shapes of one clip's inputs beside frames, shapes of its outputs, names of what it adds to a bundle)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "tokens": ({}, {}, {"tokens": (TOKENS, 96)}, ()),
    "embedding": ({}, {}, {"tokens": (TOKENS, 96), "embedding": (96,)}, ()),
    "classifier": (
        {"classes": 5, "pooling": "attentive"},
        {},
        {"tokens": (TOKENS, 96), "embedding": (96,), "logits": (5,)},
        ("pooler.", "linear."),
    ),
    "predictor": (
        {"predictor": PREDICTOR, "context": 7, "targets": 5},
        {"context_ids": (7,), "target_ids": (5,)},
        {"tokens": (TOKENS, 96), "predicted": (5, 96)},
        ("predictor.",),
    ),
    "anticipation": (
        {"predictor": PREDICTOR, "classes": (3, 4, 6)},
        {},
        {"tokens": (TOKENS, 96), "verb": (3,), "noun": (4,), "action": (6,)},
        ("predictor.", "pooler.", "verb_classifier.", "noun_classifier.", "action_classifier."),
    ),
    "action": (
        {"action": ACTION},
        {"actions": (STEPS, 7), "states": (STEPS, 7)},
        {"tokens": (STEPS * ROW, 96), "predicted": (STEPS * ROW, 96)},
        ("predictor.",),
    ),
}


def request_for(head: Any, spec: ModelSpec = SPEC, **options: Any) -> ExportRequest:
    weights = Request(source="random", model=spec, frames=STEPS if head == "action" else None)
    return ExportRequest(weights=weights, head=head, simplify=False, **(CASES[head][0] | options))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """A function that gives the bundle of a head, exported once."""
    folder, made = tmp_path_factory.mktemp("heads"), dict[str, Bundle]()

    def find(head: str) -> Bundle:
        if head not in made:
            made[head] = export_bundle(request_for(head), folder / head).bundle
        return made[head]

    return find


@pytest.mark.parametrize("head", ["tokens", "classifier", "predictor", "action"])
def test_a_comparison_takes_every_head_and_its_gate_fails_every_mistake(
    head: str, bundles: Callable[[str], Bundle]
) -> None:
    request = ParityRequest(bundles=(bundles(head),), backends=("onnxruntime",))
    report = run_parity(request, save=lambda _: None)
    (row,) = report.candidates
    assert report.passed, (report.invalid, [clip.faults for clip in row.clips])
    assert len(row.clips) == 12
    assert row.neighbours is None
    told = any(line.startswith("k-NN overlap@10: 0.909 is what chance alone gives of 12 clips") for line in row.said)
    assert told == (head == "classifier"), "the others have no embedding"
    assert row.worst.agreement == (1 if head == "classifier" else None)
    assert len(report.canaries) == 8


def extras_of(bundle: Bundle, rows: int) -> dict[str, Any]:
    reference = Reference.load(bundle)
    return {name: array[:rows] for name, array in reference.inputs.items()}


@pytest.mark.parametrize("head", CASES)
def test_every_head_is_proven_and_every_backend_runs_it(head: str, bundles: Callable[[str], Bundle]) -> None:
    _, inputs, outputs, parts = CASES[head]
    bundle = bundles(head)
    manifest = Bundle.open(bundle.path).manifest
    assert manifest == bundle.manifest
    assert manifest.head == head
    assert {info.name: info.shape[1:] for info in manifest.inputs[1:]} == inputs
    assert {info.name: info.shape[1:] for info in manifest.outputs} == outputs
    assert all(any(name.startswith(part) for name in manifest.parameters) for part in parts)
    assert all(verdict.passed for verdict in manifest.parity.values())
    reference = Reference.load(bundle)
    assert set(reference.outputs.by_name()) == set(outputs)
    for name in usable_backends():
        with open_backend(bundle, name) as backend:
            assert check_parity(reference, backend, GATES["fp32"]).passed, name


@pytest.mark.parametrize("head", CASES)
def test_every_graph_is_static_and_has_its_scale_on_q(head: str, bundles: Callable[[str], Bundle]) -> None:
    portable, fused = (
        onnx.load(bundles(head).path / name, load_external_data=False).graph for name in (PORTABLE, ONNXRUNTIME)
    )
    for graph in (portable, fused):
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names)
        used = Counter(node.op_type for node in graph.node)
        for operator in ("If", "Loop", "Shape", "Range", "Where", "Sin", "Identity", "Mod", "GatherND", "ReduceMean"):
            assert used[operator] == 0, operator
    makers = {output: node for node in portable.node for output in node.output}
    softmaxes = [node for node in portable.node if node.op_type == "Softmax"]
    assert len(softmaxes) == sum(node.op_type == "MultiHeadAttention" for node in fused.node)
    for softmax in softmaxes:
        scores = makers[softmax.input[0]]
        if scores.op_type == "Add":
            assert scores.input[1] == "predictor.order.mask_11MM"
            scores = makers[scores.input[0]]
        assert [makers[name].op_type for name in scores.input] == ["Mul", "Transpose"]


@pytest.mark.parametrize("head", [name for name in CASES if name not in ("tokens", "embedding")])
def test_a_graph_of_any_batch_computes_each_clip_as_it_does_alone(head: str, tmp_path: Path) -> None:
    bundle = export_bundle(request_for(head, batch="dynamic"), tmp_path / "bundle").bundle
    reference = Reference.load(bundle)
    for name in usable_backends():
        with open_backend(bundle, name) as backend:
            got = backend.run(reference.frames_BTHWC, tuple(reference.outputs.by_name()), reference.inputs).by_name()
        for output, expected in reference.outputs.by_name().items():
            np.testing.assert_allclose(got[output], expected, atol=2e-4, err_msg=f"{name} {output}")


def test_a_graph_of_two_clips_fills_up_its_extra_inputs_too(tmp_path: Path) -> None:
    bundle = export_bundle(request_for("predictor", batch=2), tmp_path / "bundle").bundle
    reference = Reference.load(bundle)
    expected = reference.outputs.predicted_BLD
    assert expected is not None
    for name in usable_backends():
        with open_backend(bundle, name) as backend:
            got = backend.run(reference.frames_BTHWC, ("predicted",), reference.inputs).predicted_BLD
        assert got is not None
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_predictions_follow_the_ids_that_are_given(bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles("predictor")
    reference = Reference.load(bundle)
    ids = extras_of(bundle, 1)
    with open_backend(bundle, "onnxruntime") as backend:
        first = backend.run(reference.frames_BTHWC[:1], ("predicted",), ids).predicted_BLD
        turned = ids | {"target_ids": ids["target_ids"][:, ::-1]}
        second = backend.run(reference.frames_BTHWC[:1], ("predicted",), turned).predicted_BLD
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(second[:, ::-1], first, atol=1e-4)
    assert np.abs(second - first).max() > 1e-2


def test_a_step_is_not_told_what_comes_after_it(bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles("action")
    reference, later = Reference.load(bundle), extras_of(bundle, 1)
    changed = dict(later)
    changed["actions"] = later["actions"] + np.eye(STEPS, dtype=np.float32)[-1][:, None]
    for name in usable_backends():
        with open_backend(bundle, name) as backend:
            runs = [backend.run(reference.frames_BTHWC[:1], ("predicted",), given) for given in (later, changed)]
        first, second = (run.predicted_BLD for run in runs)
        assert first is not None
        assert second is not None
        np.testing.assert_allclose(first[:, : -ROW or None], second[:, : -ROW or None], atol=1e-5, err_msg=name)
        assert np.abs(first[:, -ROW:] - second[:, -ROW:]).max() > 1e-3, name


@pytest.mark.parametrize("head", ["predictor", "classifier"])
def test_version_21_goes_the_same_way(head: str, tmp_path: Path) -> None:
    options = {"predictor": NEW_PREDICTOR} if head == "predictor" else {}
    bundle = export_bundle(request_for(head, NEW, graph_input="pixel_values_videos", **options), tmp_path / "b").bundle
    with open_backend(bundle, "pytorch") as backend:
        assert check_parity(Reference.load(bundle), backend, GATES["fp32"]).passed
    if head == "predictor":
        assert bundle.manifest.outputs[1].shape == (1, 5, 192)


@pytest.mark.parametrize(("spec", "version"), [(SPEC, "2"), (NEW, "2.1")], ids=["2", "2.1"])
def test_an_encoder_of_the_context_alone_is_the_one_written_from_the_specification(
    spec: ModelSpec, version: str, tmp_path: Path
) -> None:
    """In every backend, for any batch; and what it predicts does not know the rest of the clip."""
    parts = NEW_PREDICTOR if spec.levels else PREDICTOR
    request = request_for("predictor", spec, context_only=True, batch="dynamic", predictor=parts)
    bundle = export_bundle(request, tmp_path / "bundle").bundle
    assert bundle.manifest.parts.context_only
    assert [info.shape[1:] for info in bundle.manifest.outputs] == [(7, 96), (5, 192 if spec.levels else 96)]
    for name in (PORTABLE, ONNXRUNTIME):
        used = {node.op_type for node in onnx.load(bundle.path / name, load_external_data=False).graph.node}
        assert not used & {"TopK", "Unique", "NonZero", "ArgMax", "Where"}
    reference = Reference.load(bundle)
    clips, (context, target) = (
        normalise(reference.frames_BTHWC, RGB_MEAN, RGB_STD),
        (ids.astype(np.int64) for ids in reference.inputs.values()),
    )
    encoder_state = state_of(load_encoder("random", model=spec))
    predictor_state = state_of(load_predictor("random", model=parts, clip=CLIP))
    levels = numpy_family.encoder(
        encoder_state,
        clips.astype(float),
        heads=4,
        version=version,
        layers=[0, 1] if spec.levels else [1],
        ids_BK=context,
    )
    given = np.concatenate(levels, axis=-1)
    must, _ = numpy_family.predictor(predictor_state, given, context, target, heads=4, grid=(2, 3), version=version)
    for name in usable_backends():
        with open_backend(bundle, name) as backend:
            assert check_parity(reference, backend, GATES["fp32"]).passed, name
            got = backend.run(reference.frames_BTHWC, ("tokens", "predicted"), reference.inputs).by_name()
            first = {"context_ids": np.array([[5, 3, 0, 1, 4, 2, 6]]), "target_ids": target[:1]}
            changed = reference.frames_BTHWC[:1].copy()
            changed[:, 2:, :, 16:] = 255 - changed[:, 2:, :, 16:]  # tokens 7, 8, 10 and 11
            seen, unseen = (
                backend.run(frames, ("predicted",), first).by_name()["predicted"]
                for frames in (reference.frames_BTHWC[:1], changed)
            )
        np.testing.assert_allclose(got["tokens"], levels[-1], atol=2e-4, err_msg=name)
        np.testing.assert_allclose(got["predicted"], must, atol=2e-4, err_msg=name)
        np.testing.assert_array_equal(seen, unseen, err_msg=name)


def test_only_a_bundle_of_the_context_alone_says_so(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    """A bundle that was written before there was a choice is read as it was."""
    alone = export_bundle(request_for("predictor", context_only=True), tmp_path / "bundle").bundle
    said = [b"context_only" in (bundle.path / "manifest.json").read_bytes() for bundle in (bundles("predictor"), alone)]
    assert said == [False, True]
    assert Bundle.open(alone.path).manifest == alone.manifest


def test_a_graph_whose_context_has_seen_the_whole_clip_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Encoder.encode_patch_layers

    def see_all(self: Encoder, patches: torch.Tensor, layers: Any, ids: torch.Tensor) -> list[torch.Tensor]:
        return [take_tokens(tokens, ids) for tokens in right(self, patches, layers)]

    def trace_wrongly(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "encode_patch_layers", see_all)
            return trace_model(*arguments, **options)

    monkeypatch.setattr(pipeline, "trace_model", trace_wrongly)
    with pytest.raises(ParityError, match=r"portable.onnx is outside its gate: .*; no bundle was written"):
        export_bundle(request_for("predictor", context_only=True), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_the_side_of_a_predictor_of_version_21_is_an_option(tmp_path: Path) -> None:
    plain, sided = (load_predictor("random", model=NEW_PREDICTOR, clip=CLIP, side=side, seed=3) for side in (None, 16))
    assert (plain.spec.side, sided.spec.side) == (None, 16)
    ids, tokens = torch.arange(TOKENS)[None], torch.randn(1, 7, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = (module.predict(tokens, ids[:, :7], ids[:, 7:]) for module in (plain, sided))
    assert (first - second).abs().max() > 1e-3
    request = request_for("predictor", NEW, predictor=NEW_PREDICTOR, predictor_side=16)
    manifest = export_bundle(request, tmp_path / "bundle").bundle.manifest
    assert manifest.parts.predictor is not None
    assert manifest.parts.predictor.side == 16
    with pytest.raises(CheckpointError, match=r"side is 16; only V-JEPA 2.1's positions are rescaled: leave it out"):
        load_predictor("random", model=PREDICTOR, clip=CLIP, side=16)
    with pytest.raises(SpecError, match="side is 0; it must be at least 1"):
        replace(NEW_PREDICTOR, side=0)


def test_the_predictor_takes_all_tokens_if_nothing_else_is_said(tmp_path: Path) -> None:
    bundle = export_bundle(request_for("predictor", context=None, targets=None), tmp_path / "bundle").bundle
    assert [info.shape for info in bundle.manifest.inputs[1:]] == [(1, TOKENS), (1, TOKENS)]


# what is refused


@pytest.mark.parametrize("backend_name", usable_backends())
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {}, r"inputs beside frames are none; a bundle of head predictor takes context_ids, target_ids"),
        (lambda e: e | {"mask": e["target_ids"]}, r"inputs beside frames are \['context_ids', 'mask', 'target_ids'\]"),
        (lambda e: e | {"target_ids": e["target_ids"][:, :4]}, r"target_ids are int64 \[1, 4\]; .* int64 \[1, 5\]"),
        (
            lambda e: e | {"target_ids": e["target_ids"].astype(np.int32)},
            r"target_ids are int32 \[1, 5\]; they must be",
        ),
        (lambda e: e | {"target_ids": [[1, 2, 3, 4, 5]]}, r"target_ids are None \[1, 5\]; they must be int64"),
        (lambda e: e | {"context_ids": e["context_ids"] + 9}, r"this bundle's tokens are 0 to 11"),
        (lambda e: e | {"context_ids": e["context_ids"] * 0}, r"context_ids name a token twice in one row"),
    ],
)
def test_other_ids_are_refused(
    change: Callable[[Any], Any], message: str, backend_name: str, bundles: Callable[[str], Bundle]
) -> None:
    bundle = bundles("predictor")
    frames = Reference.load(bundle).frames_BTHWC[:1]
    with open_backend(bundle, backend_name) as backend, pytest.raises(BackendError, match=message):
        backend.run(frames, ("predicted",), change(extras_of(bundle, 1)))


def test_other_actions_are_refused(bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles("action")
    frames, extras = Reference.load(bundle).frames_BTHWC[:1], extras_of(bundle, 1)
    wide = np.zeros((1, STEPS, 8), np.float32)
    with open_backend(bundle, "onnxruntime") as backend:
        with pytest.raises(BackendError, match=r"actions are float32 \[1, 3, 8\]; they must be float32 \[1, 3, 7\]"):
            backend.run(frames, ("predicted",), extras | {"actions": wide})
        with pytest.raises(BackendError, match="states have values that are not finite numbers"):
            backend.run(frames, ("predicted",), extras | {"states": np.full_like(extras["states"], np.nan)})
        with pytest.raises(BackendError, match=r"frames are uint8 \[1, 2, 32, 48, 3\]; they must be uint8 \[B, 3, 32"):
            backend.run(frames[:, :2], ("predicted",), extras)


def test_inputs_that_a_head_does_not_take_are_refused(bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles("embedding")
    with (
        open_backend(bundle, "onnxruntime") as backend,
        pytest.raises(BackendError, match=r"\['mask'\]; a bundle of head embedding takes none"),
    ):
        backend.run(Reference.load(bundle).frames_BTHWC, inputs={"mask": np.zeros((3, 1))})


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("predictor", {"context": 13}, "context is 13; of 12 tokens it must be from 1 to all"),
        ("predictor", {"targets": 0}, "targets is 0; of 12 tokens it must be from 1 to all"),
        ("embedding", {"targets": 3}, "context and targets are of the head predictor"),
        ("embedding", {"classes": 3}, "classes is not of the head embedding; leave it out, or export classifier"),
        ("predictor", {"pooling": "linear"}, "pooling is not of the head predictor; leave it out"),
        ("classifier", {"classes": None, "pooling": None}, "random weights need to know how many classes"),
        ("anticipation", {"classes": 5}, "classes are 5; this head needs 3"),
        ("predictor", {"ahead": 8}, "ahead is not of the head predictor; leave it out, or export anticipation"),
        ("tokens", {"context_only": True}, "context_only is not of the head tokens; leave it out, or export predictor"),
        ("tokens", {"predictor_side": 16}, "predictor_side is not of the head tokens; leave it out"),
        ("embedding", {"segments": 2}, "segments is not of the head embedding; leave it out, or export classifier"),
        ("classifier", {"segments": 2, "pooling": None}, "segments is 2; an image classifier looks at one clip"),
        ("classifier", {"encoder": "somewhere.pt"}, "random brings its own encoder; only a probe's .pt file needs"),
    ],
)
def test_options_that_do_not_fit_are_refused(head: str, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_bundle(request_for(head, **options), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ahead", [3, -2])
def test_a_moment_between_two_tokens_or_behind_is_refused(ahead: int, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"ahead is {ahead} frames; it must be a multiple of 2, or 0: the next moment"):
        export_bundle(request_for("anticipation", ahead=ahead), tmp_path / "bundle")


def test_segments_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="segments is 0; a classifier looks at one clip of a video at least"):
        export_bundle(request_for("classifier", segments=0), tmp_path / "bundle")
    module = load_classifier("random", encoder=load_encoder("random", model=SPEC), classes=5, segments=2)
    with pytest.raises(SpecError, match="there are 12 frames; 2 segments have 4 each"):
        module(torch.zeros(2, 12, 3, 32, 48))


def test_a_predictor_of_another_encoder_is_refused() -> None:
    encoder = load_encoder("random", model=SPEC)
    other = load_predictor("random", model=replace(PREDICTOR, encoder_dim=48), clip=CLIP)
    with pytest.raises(SpecError, match=r"the predictor takes 48 channels of .*; tiny gives 96 of"):
        PredictiveEncoder(encoder, other)
    actions = load_action_predictor("random", model=ACTION, steps=2, size=(32, 48))
    with pytest.raises(SpecError, match="the encoder's clip has 4 frames; before actions it is an image, doubled: 2"):
        ActionEncoder(encoder, actions)
    with pytest.raises(SpecError, match="the action predictor takes 96 channels of a grid"):
        ActionEncoder(load_encoder("random", model=SPEC, clip=replace(CLIP, height=48)), actions)


# the gate


SPOILED = {
    "classifier": "pooler.cross_attention_block.xattn.q.queries_1MD",
    "predictor": "predictor.mask_tokens.1",
    "anticipation": "predictor.predictor_proj.weight",
    "action": "predictor.order.mask_11MM",
}


@pytest.mark.parametrize("head", SPOILED)
def test_a_wrong_head_on_a_right_encoder_is_no_bundle(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace_wrongly(*arguments: Any, **options: Any) -> Any:
        traced = trace_model(*arguments, **options)
        tensor = traced.tensors[SPOILED[head]]
        traced.tensors[SPOILED[head]] = torch.zeros_like(tensor) if head == "action" else tensor.roll(1, dims=-1)
        return traced

    monkeypatch.setattr(pipeline, "trace_model", trace_wrongly)
    with pytest.raises(ParityError, match=r"portable.onnx is outside its gate: .*; no bundle was written"):
        export_bundle(request_for(head), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


# the command line


@pytest.mark.parametrize("head", CASES)
def test_every_bundle_answers_through_the_command_line(
    head: str, bundles: Callable[[str], Bundle], write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path
) -> None:
    bundle = bundles(head)
    command = ["run", str(bundle.path), str(write_video(scene)), "-o", str(tmp_path / "out.npz")]
    extras = extras_of(bundle, 1)
    if extras:
        np.savez(tmp_path / "in.npz", **extras)
        command += ["--inputs", str(tmp_path / "in.npz")]
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert {name: arrays[name].shape[1:] for name in arrays} == CASES[head][2]
        assert all(np.isfinite(arrays[name]).all() for name in arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.txt"], "out.txt ends in '.txt'; an output is a .npz file"),
        (["-o", "out.npz", "--inputs", "none.npz"], "none.npz is not a .npz file of plain arrays"),
        (["-o", "out.npz"], "inputs beside frames are none; a bundle of head predictor takes context_ids, target_ids"),
    ],
)
def test_a_bad_run_ends_in_one_line(
    options: list[str],
    message: str,
    bundles: Callable[[str], Bundle],
    write_video: Callable[..., Path],
    scene: FramesArray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["run", str(bundles("predictor").path), str(write_video(scene)), *options])
    assert done.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "change", "message"),
    [
        ("predictor", lambda e: e | {"target_ids": e["target_ids"] + 9}, "to 19; this bundle's tokens are 0 to 11"),
        ("predictor", lambda e: e | {"context_ids": e["context_ids"] * 0}, "context_ids name a token twice in one row"),
        ("action", lambda e: e | {"actions": np.zeros((1, STEPS, 6), np.float32)}, "they must be float32 [1, 3, 7]"),
    ],
)
def test_inputs_that_do_not_fit_end_in_one_line(
    head: str,
    change: Callable[[Any], Any],
    message: str,
    bundles: Callable[[str], Bundle],
    write_video: Callable[..., Path],
    scene: FramesArray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = extras_of(bundles(head), 1)
    np.savez(tmp_path / "in.npz", **change(given))
    command = ["run", bundles(head).path, write_video(scene), "--inputs", tmp_path / "in.npz", "-o", "out.npz"]
    with pytest.raises(SystemExit) as done:
        main(list(map(str, command)))
    assert done.value.code == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown


def test_the_verb_exports_every_kind_of_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = ["--layers", "1", "--frames", "2", "--size", "32", "--no-simplify"]
    command = ["export", "random", "--model", "vitl", *cut, "--head", "classifier", "--classes", "7"]
    with pytest.raises(SystemExit) as done:
        main([*command, "-o", str(tmp_path / "bundle")])
    assert done.value.code == 0
    assert "embeddings mean nothing" in " ".join(capsys.readouterr().err.split())
    assert Bundle.open(tmp_path / "bundle").manifest.classes == 7
    with pytest.raises(SystemExit) as done:
        main([*command[:-1], "many", "-o", str(tmp_path / "other")])
    assert done.value.code == 2
    assert "classes is 'many'; it must be a number, or for anticipation three" in capsys.readouterr().err


def test_the_verb_cuts_a_model_of_version_21(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "random", "--model", "vitb-2.1", "--frames", "2", "--size", "32", "--no-simplify", "--layers"]
    with pytest.raises(SystemExit) as done:
        main([*command, "4", "--head", "predictor", "-o", str(tmp_path / "bundle")])
    assert done.value.code == 0, capsys.readouterr().err
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.model.depth, manifest.model.levels, manifest.source.layers) == (4, (0, 1, 2, 3), 4)
    with pytest.raises(SystemExit) as done:
        main([*command, "1", "-o", str(tmp_path / "other")])
    assert done.value.code == 2
    assert "layers is 1; of vitb-2.1 keep 4 to 12" in " ".join(capsys.readouterr().err.split())


# whole models: ViT-L with each head as it was released, and V-JEPA 2-AC's predictor on an encoder cut to two blocks


WHOLE = {
    "classifier": ["--model", "vitl-ssv2", "--frames", "4"],
    "predictor": ["--model", "vitl", "--frames", "4"],
    "anticipation": ["--model", "vitl-ek100", "--frames", "4", "--classes", "97,300,3568"],
    "action": ["--model", "vitg-ac", "--frames", "2", "--layers", "2"],
}
WHOLE_OUTPUTS: dict[str, dict[str, tuple[int, ...]]] = {
    "classifier": {"tokens": (512, 1024), "embedding": (1024,), "logits": (174,)},
    "predictor": {"tokens": (512, 1024), "predicted": (512, 1024)},
    "anticipation": {"tokens": (512, 1024), "verb": (97,), "noun": (300,), "action": (3568,)},
    "action": {"tokens": (512, 1408), "predicted": (512, 1408)},
}


def run_apart(*command: object) -> str:
    """What a verb prints, in a process of its own."""
    words = [sys.executable, "-m", "vjepa2", *map(str, command)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("head", WHOLE)
def test_every_head_of_a_whole_model_passes_its_gate_and_answers(
    head: str, write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path
) -> None:
    """Random weights, 4 frames of 256 x 256, or 2 steps."""
    folder, video = tmp_path / "bundle", write_video(scene)
    try:
        told = run_apart("export", "random", *WHOLE[head], "--head", head, "--no-simplify", "--json", "-", "-o", folder)
        record, extras = json.loads(told), extras_of(Bundle.open(folder), 1)
        given = []
        if extras:
            np.savez(tmp_path / "in.npz", **extras)
            given = ["--inputs", tmp_path / "in.npz"]
        run_apart("run", folder, video, *given, "-o", tmp_path / "out.npz")
        named = run_apart("classify", folder, video) if head == "classifier" else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gigabytes
    with np.load(tmp_path / "out.npz") as arrays:
        assert {name: arrays[name].shape[1:] for name in arrays} == WHOLE_OUTPUTS[head]
        outputs = dict(arrays)
    assert all(np.isfinite(array).all() for array in outputs.values())
    assert set(record["parity"]) == {PORTABLE, ONNXRUNTIME}
    assert all(verdict["passed"] for verdict in record["parity"].values())
    if named is not None:
        labels = [pair.split()[0] for pair in named.strip().split("\t")[1:]]
        assert labels == [str(number) for number in np.argsort(-outputs["logits"][0], kind="stable")[:5]]
    worst = [
        f"{name}: token {row['token_cosine']:.9f}, relative max {row['relative_max']:.1e}"
        for name, row in record["parity"].items()
    ]
    print(f"{head}: {'; '.join(worst)}; {sum(record['seconds'].values()):.0f} s, {record['peak_bytes'] / 1e9:.1f} GB")
