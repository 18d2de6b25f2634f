"""Are videos given the classes that PyTorch gives them, by name?"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2ForVideoClassification

from vjepa2.checkpoints import Request
from vjepa2.classifier_files import load_image_classifier, save_image_classifier
from vjepa2.cli import main
from vjepa2.encoder import Encoder
from vjepa2.errors import BackendError
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.head_checkpoints import read_labels
from vjepa2.heads import ImageClassifier, ImageHead
from vjepa2.runtime import EmbeddingEngine, open_backend
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.classify import rank_classes
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, ModelSpec
from vjepa2.weights import fill_random

CLIP = ClipSpec(frames=2, height=32, width=32)
SPEC = ModelSpec(name="tiny", family="vjepa2", dim=48, depth=2, heads=2, mlp_dim=96, clip=CLIP)
LABELS = ("cat", "dog", "cow")


def save_classifier(folder: Path, head: ImageHead) -> Path:
    classifier = ImageClassifier(Encoder(SPEC), len(LABELS), head=head)
    fill_random(classifier, seed=1)
    classifier.labels = LABELS
    save_image_classifier(classifier, folder)
    return folder


def expected_scores(logits: torch.Tensor) -> list[tuple[tuple[str, ...], list[float]]]:
    ranked = logits.double().softmax(-1).sort(descending=True)
    return [
        (tuple(LABELS[number] for number in numbers), scores)
        for numbers, scores in zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
    ]


@pytest.fixture(scope="module", params=["linear", "attentive"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image classifier, and its bundle in it."""
    folder = save_classifier(tmp_path_factory.mktemp(request.param) / "model", request.param)
    export_bundle(ExportRequest(weights=Request(source=str(folder)), simplify=False), folder / "bundle")
    return folder


@pytest.fixture
def engine(trained: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine.open(trained / "bundle") as opened:
        yield opened


def clips_of(engine: EmbeddingEngine, videos: list[FramesArray]) -> torch.Tensor:
    frames = np.stack([engine.clips.read_one(video) for video in videos])
    return torch.from_numpy(normalise(frames, RGB_MEAN, RGB_STD))


def test_a_trained_classifier_names_classes_as_pytorch_does(
    engine: EmbeddingEngine, trained: Path, scene: FramesArray
) -> None:
    videos = [scene, scene[::-1], scene[5:]]
    classifier = load_image_classifier(trained)
    with torch.inference_mode():
        logits = classifier.classify(classifier.pool(classifier.encoder(clips_of(engine, videos))))
    results = engine.classify(videos, batch_size=2)
    for (labels, scores), result in zip(expected_scores(logits), results, strict=True):
        assert result.labels == labels
        np.testing.assert_allclose(result.scores, scores, atol=1e-5)
        assert sum(result.scores) == pytest.approx(1)
    assert engine.classify(scene, top=1)[0].labels == results[0].labels[:1]


def test_a_classifier_of_transformers_is_exported_with_its_labels(tmp_path: Path, scene: FramesArray) -> None:
    config = VJEPA2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2.0,
        crop_size=32,
        frames_per_clip=4,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        id2label=dict(enumerate(LABELS)),
    )
    torch.manual_seed(0)
    model = VJEPA2ForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    request = ExportRequest(
        weights=Request(source=str(tmp_path / "model")), head="classifier", probe="transformers", simplify=False
    )
    bundle = export_bundle(request, tmp_path / "bundle").bundle
    assert bundle.manifest.labels == LABELS
    assert bundle.manifest.source.warning is None
    with EmbeddingEngine.open(bundle.path) as engine:
        result = engine.classify(scene)[0]
        with torch.inference_mode():
            logits = model(pixel_values_videos=clips_of(engine, [scene])).logits
    (labels, scores), *_ = expected_scores(logits)
    assert result.labels == labels
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)


@pytest.mark.parametrize("table", [None, {"0": "cat"}, {"0": "cat", "2": "cow"}, ["cat", "dog"]], ids=str)
def test_labels_that_do_not_name_every_class_are_none(table: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": table}))
    assert read_labels(tmp_path, None, 2) is None


def test_every_backend_gives_the_same_scores(trained: Path, scene: FramesArray) -> None:
    rows = []
    for name in ("pytorch", "onnxruntime", "onnxruntime-portable"):
        with EmbeddingEngine.open(trained / "bundle", name) as engine:
            rows.append(engine.classify(scene)[0].scores)
    np.testing.assert_allclose(rows, [rows[0]] * 3, atol=1e-5)


def test_a_bundle_without_a_classifier_is_refused(exported: Path, scene: FramesArray) -> None:
    with (
        EmbeddingEngine.open(exported) as engine,
        pytest.raises(BackendError, match="bundle has no classifier, its head is embedding; export one with --head"),
    ):
        engine.classify(scene)


def test_no_class_is_no_answer(engine: EmbeddingEngine, scene: FramesArray) -> None:
    with pytest.raises(ValueError, match="top is 0; it must be at least 1"):
        engine.classify(scene, top=0)
    with pytest.raises(ValueError, match="views is 0; it must be at least 1"):
        engine.classify(scene, views=0)


def test_scores_are_softmax_in_float64_and_numbers_stand_for_missing_names() -> None:
    logits = np.array([[[1000, 1001, 0, 1001]]], np.float32)
    (result,) = rank_classes(logits, None, 3)
    assert result.labels == ("1", "3", "0")
    share = 1 / (2 + np.exp(-1))
    np.testing.assert_allclose(result.scores, [share, share, share * np.exp(-1)], rtol=1e-12)


def test_views_are_averaged_as_probabilities() -> None:
    logits = np.array([[[6.0, 0, 0], [0, 3.0, 0], [0, 3.0, 0]]], np.float32)
    (result,) = rank_classes(logits, None, 3)
    powers = np.exp(logits[0])
    means = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
    assert result.labels == ("1", "0", "2")
    np.testing.assert_allclose(result.scores, means[[1, 0, 2]], rtol=1e-6)
    assert rank_classes(logits.mean(axis=1, keepdims=True), None, 1)[0].scores[0] < 0.5 < result.scores[0]


def run_verb(*arguments: object) -> object:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code


def test_the_verb_prints_one_line_a_video(
    trained: Path,
    write_video: Callable[..., Path],
    scene: FramesArray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = write_video(scene, "a.mp4"), write_video(scene[::-1], "b.mp4")  # in one folder
    target = tmp_path / "out.json"
    assert run_verb("classify", trained / "bundle", videos[0].parent, "--top", 2, "--json", target) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(video) for video in videos]
    record = json.loads(target.read_text())
    for line, row in zip(lines, record["videos"], strict=True):
        assert len(row["labels"]) == len(row["scores"]) == 2
        assert line.split("\t")[1] == f"{row['labels'][0]} {row['scores'][0]:.4f}"
    assert f"by {record['backend']} on cpu in fp32 (auto: " in output.err
    assert run_verb("classify", trained / "bundle", videos[0], "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["videos"]) == 1


def test_the_verb_says_when_there_is_nothing_to_name(
    exported: Path, write_video: Callable[..., Path], scene: FramesArray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("classify", exported, write_video(scene)) == 2
    message = capsys.readouterr().err
    assert "bundle has no classifier, its head is embedding" in message.replace("\n", " ")
    assert "Traceback" not in message


def test_random_classes_are_numbers_and_said_to_mean_nothing(
    write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ExportRequest(weights=Request(source="random", model=SPEC), classes=4, simplify=False)
    bundle = export_bundle(request, tmp_path / "bundle").bundle
    assert bundle.manifest.labels is None
    with open_backend(bundle, "pytorch") as backend:
        assert backend.run(np.zeros(CLIP.frames_shape(2), np.uint8), ("logits",)).logits_BL is not None
    assert run_verb("classify", bundle.path, write_video(scene)) == 0
    output = capsys.readouterr()
    assert {part.split(" ")[0] for part in output.out.strip().split("\t")[1:]} == {"0", "1", "2", "3"}
    assert "embeddings mean nothing" in " ".join(output.err.split())
