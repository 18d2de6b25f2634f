"""Is what a released file holds exported with its head, and does the bundle answer through the command line?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import usable_backends, version_21
from tests.released_files import meta_file, probe_state
from vjepa2 import checkpoints, head_checkpoints
from vjepa2.action_predictor import encode_steps
from vjepa2.bundle import Bundle
from vjepa2.checkpoints import Request, load_encoder
from vjepa2.cli import main
from vjepa2.errors import ExportError
from vjepa2.export import load_model
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.head_checkpoints import load_action_predictor, load_anticipation, load_classifier, load_predictor
from vjepa2.head_specs import ActionSpec, PredictorSpec, ProbeSpec
from vjepa2.heads import VideoClassifier
from vjepa2.registry import Release
from vjepa2.runtime import EmbeddingEngine, Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.parity import GATES
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, ModelSpec

CLIP = ClipSpec(frames=4, height=32, width=48)
SPEC = ModelSpec(name="tiny", family="vjepa2", dim=96, depth=2, heads=4, mlp_dim=96, clip=CLIP)
NEW = version_21(SPEC, (0, 1))
PREDICTOR = PredictorSpec(encoder_dim=96, dim=48, depth=2, heads=4, mlp_dim=64)
JOINED = replace(PREDICTOR, positions="interleaved", mask_tokens=8, levels=2, out_dim=192, has_modalities=True)
ACTION = ActionSpec(encoder_dim=96, dim=48, depth=2, heads=4, mlp_dim=64)
LAYERS = (0, 1)  # as Diving48's probes take four
ROWS = {
    "tiny": Release(spec=SPEC, file="tiny.pt", keys=("encoder", "target_encoder"), predictor=PREDICTOR),
    "tiny-2.1": Release(spec=NEW, file="new.pt", keys=("ema_encoder",), predictor=JOINED),
    "tiny-ac": Release(
        spec=replace(SPEC, name="tiny-ac", clip=replace(CLIP, frames=2)), keys=("encoder",), action=ACTION
    ),
    "tiny-ek": Release(spec=replace(SPEC, name="tiny-ek"), base="tiny", predictor=PREDICTOR, keys=("classifiers",)),
    "tiny-dive": Release(
        spec=replace(SPEC, name="tiny-dive"),
        base="tiny",
        keys=("classifiers",),
        probe=ProbeSpec(classes=(5,), layers=LAYERS, segments=2, views=3, frame_step=2),
    ),
}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of a tiny family."""
    for module in (checkpoints, head_checkpoints, load_model):
        monkeypatch.setattr(module, "RELEASES", ROWS)
        if hasattr(module, "find_release"):
            monkeypatch.setattr(module, "find_release", ROWS.__getitem__)


def run_verb(*arguments: object) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert done.value.code == 0


def clips_of(frames: FramesArray) -> Tensor:
    return torch.from_numpy(normalise(frames, RGB_MEAN, RGB_STD))


def run_bundle(folder: Path, video: Path, inputs: dict[str, Any] | None = None) -> tuple[FramesArray, dict[str, Any]]:
    """The frames that `vjepa2 run` takes of a video, and what it writes."""
    given = []
    if inputs is not None:
        np.savez(folder / "in.npz", **inputs)
        given = ["--inputs", folder / "in.npz"]
    run_verb("run", folder / "bundle", video, *given, "-o", folder / "out.npz")
    with EmbeddingEngine.open(folder / "bundle") as engine:
        frames = engine.read_clip(video)[None]
    with np.load(folder / "out.npz") as arrays:
        return frames, dict(arrays)


@pytest.mark.parametrize("context_only", [False, True])
@pytest.mark.parametrize(("name", "key"), [("tiny", "target_encoder"), ("tiny-2.1", "ema_encoder")])
def test_a_predictor_is_exported_from_its_file_and_answers(
    name: str, key: str, context_only: bool, tmp_path: Path, write_video: Callable[..., Path], scene: FramesArray
) -> None:
    """V-JEPA 2's file has two encoders, of which one is named; 2.1's row knows the one that it has for use."""
    row = ROWS[name]
    encoder = load_encoder("random", model=row.spec, seed=5)
    predictor = load_predictor("random", model=row.predictor, clip=CLIP, seed=6)
    other = {part: torch.zeros_like(value) for part, value in encoder.state_dict().items()}
    states = {"encoder": other, key: encoder.state_dict(), "predictor": predictor.state_dict()}
    source = meta_file(tmp_path / "vit.pt", states, "module.backbone.")
    asked = ["--key", key] if name == "tiny" else []
    asked += ["--context-only"] if context_only else []
    cut = ["--frames", 4, "--context", 7, "--targets", 5, "--no-simplify"]
    run_verb("export", source, "--model", name, *asked, "--head", "predictor", *cut, "-o", tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.source.name, manifest.source.key, manifest.source.warning) == ("vit.pt", key, None)
    assert manifest.parts.context_only == context_only
    context, target = np.array([[9, 2, 4, 11, 0, 7, 5]]), np.array([[10, 1, 3, 8, 6]])
    frames, outputs = run_bundle(tmp_path, write_video(scene), {"context_ids": context, "target_ids": target})
    with torch.inference_mode():
        seen = torch.from_numpy(context) if context_only else None
        tokens = encoder(clips_of(frames), seen)
        given = encoder.encode_levels(clips_of(frames), seen) if row.spec.levels else tokens
        given = given if context_only else given[:, context[0]]
        predicted = predictor.predict(given, torch.from_numpy(context), torch.from_numpy(target))
    np.testing.assert_allclose(outputs["tokens"], tokens.numpy(), atol=1e-4)
    np.testing.assert_allclose(outputs["predicted"], predicted.numpy(), atol=1e-4)


def test_an_action_predictor_is_exported_from_its_file_and_answers(
    tmp_path: Path, write_video: Callable[..., Path], scene: FramesArray
) -> None:
    encoder = load_encoder("random", model=ROWS["tiny-ac"].spec, seed=5)
    predictor = load_action_predictor("random", model=ACTION, steps=3, size=(32, 48), seed=6)
    states = {"encoder": encoder.state_dict(), "predictor": predictor.state_dict()}
    source = meta_file(tmp_path / "ac.pt", states)
    cut = ["--frames", 3, "--no-simplify"]
    run_verb("export", source, "--model", "tiny-ac", "--head", "action", *cut, "-o", tmp_path / "bundle")
    random = np.random.default_rng(0)
    actions, states_BSC = (random.standard_normal((1, 3, 7)).astype(np.float32) for _ in range(2))
    frames, outputs = run_bundle(tmp_path, write_video(scene), {"actions": actions, "states": states_BSC})
    assert frames.shape == (1, 3, 32, 48, 3)
    with torch.inference_mode():
        tokens = encode_steps(encoder, clips_of(frames))
        predicted = predictor.predict(tokens, torch.from_numpy(actions), torch.from_numpy(states_BSC))
    np.testing.assert_allclose(outputs["tokens"], tokens.numpy(), atol=1e-4)
    np.testing.assert_allclose(outputs["predicted"], predicted.numpy(), atol=1e-4)


def test_a_probe_is_exported_from_its_file_with_the_encoder_from_another(tmp_path: Path) -> None:
    encoder = load_encoder("random", model=SPEC, seed=5)
    module = load_classifier("random", encoder=encoder, classes=5, seed=5)
    base = meta_file(tmp_path / "tiny.pt", {"encoder": encoder.state_dict()})
    probe = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(module)})
    weights = Request(source=str(probe), model="tiny-ek", key="encoder")
    request = ExportRequest(weights=weights, head="classifier", encoder=str(base), simplify=False)
    bundle = export_bundle(request, tmp_path / "bundle").bundle
    assert bundle.manifest.source.name == "probe.pt"
    assert set(bundle.manifest.source.files) == {"probe.pt", "tiny.pt"}
    assert bundle.manifest.source.warning is None
    with torch.inference_mode():
        expected = module(clips_of(generate_scene(4, 32, 48)[None]))
    with open_backend(bundle, "onnxruntime") as backend:
        got = backend.run(generate_scene(4, 32, 48)[None], ("logits",)).logits_BL
    assert got is not None
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("ahead", [None, 4])
def test_anticipation_is_exported_from_its_file_and_answers(
    ahead: int | None, tmp_path: Path, write_video: Callable[..., Path], scene: FramesArray
) -> None:
    """Verb, noun and action, a second ahead or as far as is asked for."""
    encoder = load_encoder("random", model=SPEC, seed=5)
    predictor = load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=CLIP.frames + 10), seed=5)
    made = load_anticipation("random", encoder=encoder, predictor=predictor, classes=(3, 4, 6), seed=5)
    with torch.no_grad():
        for part in (made.verb_classifier, made.noun_classifier, made.action_classifier):
            part.weight *= 30  # logits that tell six predicted tokens of eighteen
    states = {"encoder": encoder.state_dict(), "predictor": predictor.state_dict()}
    base = meta_file(tmp_path / "tiny.pt", states)
    probe = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(made)})
    asked = ["--model", "tiny-ek", "--encoder", base, "--key", "encoder", "--head", "anticipation", "--frames", 4]
    asked += [] if ahead is None else ["--ahead", ahead]
    run_verb("export", probe, *asked, "--no-simplify", "-o", tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.source.name, manifest.source.warning) == ("probe.pt", None)
    assert set(manifest.source.files) == {"probe.pt", "tiny.pt"}
    assert manifest.parts.ahead == (8 if ahead is None else ahead)
    frames, outputs = run_bundle(tmp_path, write_video(scene))
    modules = [
        load_anticipation(probe, encoder=encoder, predictor=predictor, model="tiny-ek", ahead=far)
        for far in (8 if ahead is None else ahead, 2)
    ]
    with torch.inference_mode():
        expected, nearer = (module(clips_of(frames)) for module in modules)
    for name, must, other in zip(("verb", "noun", "action"), expected, nearer, strict=True):
        np.testing.assert_allclose(outputs[name], must.numpy(), atol=1e-4, err_msg=name)
        assert np.abs(outputs[name] - other.numpy()).max() > 1e-3, name


@pytest.fixture
def dived(tmp_path: Path) -> VideoClassifier:
    """A probe of two layers, exported for two segments from its file through the command line."""
    encoder = load_encoder("random", model=SPEC, seed=5)
    module = VideoClassifier(encoder, 5, layers=LAYERS)
    made = load_classifier("random", encoder=encoder, classes=5, seed=5)
    module.pooler, module.linear = made.pooler, made.linear
    with torch.no_grad():
        module.linear.weight *= 30  # probabilities that are far from equal
    base = meta_file(tmp_path / "tiny.pt", {"encoder": encoder.state_dict()})
    probe = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(module)})
    asked = ["--model", "tiny-dive", "--encoder", base, "--key", "encoder", "--head", "classifier", "--segments", 2]
    cut = ["--frames", 4, "--batch", "dynamic", "--no-simplify"]
    run_verb("export", probe, *asked, *cut, "-o", tmp_path / "bundle")
    return module.eval()


def test_segments_and_layers_are_in_the_graph_and_views_are_averaged_over_it(
    dived: VideoClassifier,
    tmp_path: Path,
    write_video: Callable[..., Path],
    scene: FramesArray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Frames as high as the clip are not resized, so that views are plain cuts, which the test makes itself."""
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.frames_shape == (8, 32, 48, 3)
    assert bundle.manifest.parts.probe is not None
    assert (bundle.manifest.parts.probe.layers, bundle.manifest.parts.probe.segments) == (LAYERS, 2)
    assert [info.shape[1:] for info in bundle.manifest.outputs] == [(2 * CLIP.tokens, 96), (96,), (5,)]
    videos = [generate_scene(16, 32, 69, seed=seed) for seed in (1, 2)]
    evenly = [video[::2] for video in videos]
    views = [[frames[:, :, left : left + 48].reshape(2, 4, 32, 48, 3) for left in (0, 10, 20)] for frames in evenly]
    clips = clips_of(np.array(views).reshape(-1, 4, 32, 48, 3)).reshape(2, 3, 2, 4, 3, 32, 48)
    with torch.inference_mode():
        scores, one = dived.score(clips).numpy(), dived.score(clips[:, :1]).numpy()
        apart = dived.score(clips.flatten(1, 2)[:, :, None]).numpy()
    for name in usable_backends():
        with EmbeddingEngine.open(bundle.path, name) as engine:
            assert check_parity(Reference.load(bundle), engine.backend, GATES["fp32"]).passed
            results = engine.classify(videos, views=3, batch_size=2)
        for result, row in zip(results, scores, strict=True):
            assert result.labels == tuple(map(str, np.argsort(-row)))
            np.testing.assert_allclose(result.scores, np.sort(row)[::-1], atol=1e-5, err_msg=name)
    # a single view, or the probe on each segment alone, is something else
    assert np.abs(one - scores).max() > 1e-3
    assert np.abs(apart - scores).max() > 1e-3
    # and through the command line
    video = write_video(scene)
    run_verb("classify", tmp_path / "bundle", video, "--views", 3)
    shown = capsys.readouterr().out.strip().split("\t")
    with EmbeddingEngine.open(tmp_path / "bundle") as engine:
        (result,), (centre,) = engine.classify(video, views=3), engine.classify(video)
    assert shown[1:] == [f"{label} {score:.4f}" for label, score in zip(result.labels, result.scores, strict=True)]
    assert result != centre


def test_a_probe_is_scored_as_its_makers_did(
    dived: VideoClassifier,
    tmp_path: Path,
    write_video: Callable[..., Path],
    scene: FramesArray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two halves of a video, the start of each, four frames over eight: the numbers are those of the loader."""
    bundle = Bundle.open(tmp_path / "bundle")
    probe = bundle.manifest.parts.probe
    assert probe is not None
    assert (probe.segments, probe.views, probe.frame_step) == (2, 3, 2)
    video = generate_scene(24, 32, 69, seed=1)
    chosen = np.array([[0, 2, 5, 7], [12, 14, 17, 19]])
    views = [video[chosen][:, :, :, left : left + 48] for left in (0, 10, 20)]
    clips = clips_of(np.array(views).reshape(-1, 4, 32, 48, 3)).reshape(1, 3, 2, 4, 3, 32, 48)
    with torch.inference_mode():
        must = dived.score(clips).numpy()[0]
    with EmbeddingEngine.open(bundle.path, "onnxruntime") as engine:
        (result,) = engine.classify(video, sampling="joined:2", views=3)
        (evenly,) = engine.classify(video, views=3)
    assert result.labels == tuple(map(str, np.argsort(-must)))
    np.testing.assert_allclose(result.scores, np.sort(must)[::-1], atol=1e-5)
    assert np.abs(np.array(evenly.scores) - result.scores).max() > 1e-3
    file = write_video(scene)
    run_verb("classify", bundle.path, file, "--views", 3)
    note = "its makers evaluated it with --sampling joined:2 --views 3, and not with uniform and 3"
    assert note in " ".join(capsys.readouterr().err.split())
    run_verb("classify", bundle.path, file, "--views", 3, "--sampling", "joined:2")
    shown = capsys.readouterr()
    assert "its makers evaluated" not in " ".join(shown.err.split())
    with EmbeddingEngine.open(bundle.path) as engine:
        (result,) = engine.classify(file, views=3, sampling="joined:2")
    pairs = zip(result.labels, result.scores, strict=True)
    assert shown.out.strip().split("\t")[1:] == [f"{label} {score:.4f}" for label, score in pairs]


def test_a_cut_encoder_takes_a_random_probe_of_its_row(tmp_path: Path) -> None:
    weights = Request(source="random", model="tiny-ek", layers=1)
    request = ExportRequest(weights=weights, head="anticipation", classes=(3, 4, 6), simplify=False)
    manifest = export_bundle(request, tmp_path / "bundle").bundle.manifest
    assert (manifest.model.depth, manifest.source.layers) == (1, 1)
    assert manifest.parts.probe is not None
    assert manifest.parts.probe.classes == (3, 4, 6)
    assert manifest.source.warning is not None


def test_a_probe_on_another_encoder_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_encoder("random", model=SPEC, seed=5)
    narrow = load_encoder("random", model=replace(SPEC, dim=48), seed=5)
    wide_probe, narrow_probe = (load_classifier("random", encoder=one, classes=5, seed=5) for one in (encoder, narrow))
    for probe, base, said in (
        (narrow_probe, encoder, "holds a probe of tokens of 48 channels; tiny gives 96: put it on the encoder"),
        (wide_probe, narrow, "does not fit tiny: wrong shape patch_embed.proj.weight"),
    ):
        source = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(probe)})
        place = meta_file(tmp_path / "base.pt", {"encoder": base.state_dict()})
        command = ["export", source, "--model", "tiny-dive", "--encoder", place, "--key", "encoder"]
        with pytest.raises(SystemExit) as done:
            main([*map(str, command), "--head", "classifier", "-o", str(tmp_path / "bundle")])
        assert done.value.code == 2
        message = " ".join(capsys.readouterr().err.split())
        assert said in message
        assert "Traceback" not in message
        assert not (tmp_path / "bundle").exists()


def test_a_probe_without_its_encoder_is_told_what_it_lacks(tmp_path: Path) -> None:
    probe = meta_file(tmp_path / "probe.pt", {"classifiers": {}})
    request = ExportRequest(weights=Request(source=str(probe), model="tiny-dive"), head="classifier")
    with pytest.raises(ExportError, match="holds no encoder; say where that of tiny is with encoder"):
        export_bundle(request, tmp_path / "bundle")
