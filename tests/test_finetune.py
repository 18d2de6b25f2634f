"""Is it learnt, does a killed run end as one that was let be, and does the result say the same elsewhere?"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoConfig, VJEPA2ForVideoClassification

from examples.make_shapes import write_shapes
from tests.conftest import version_21
from tests.test_image_folder import write_image
from vjepa2.checkpoints import Request, load_checkpoint, load_encoder
from vjepa2.classifier_files import is_image_classifier, load_image_classifier, save_image_classifier
from vjepa2.cli import main
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError, ExportError, FinetuneError, SpecError
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.finetune import FinetuneRequest, Progress, finetune_classifier, make_classifier
from vjepa2.finetune_cli import _show_progress
from vjepa2.fitting import fit_pixels
from vjepa2.heads import ImageClassifier, ImageHead
from vjepa2.image_batches import ImageBatch, normalise_pixels, read_batches
from vjepa2.image_folder import scan_images
from vjepa2.pixels import read_image
from vjepa2.recipe import Recipe, parameter_groups, rate_factor
from vjepa2.registry import find_release
from vjepa2.run_folder import RunFolder
from vjepa2.runtime.backends import open_backend
from vjepa2.spec import ClipSpec, ModelSpec
from vjepa2.trainer import Evaluation, StepReport, Trainer, check_device
from vjepa2.weights import fill_random

ROOT = Path(__file__).parent.parent
CLIP = ClipSpec(frames=2, height=48, width=48, patch=8)
SPEC = ModelSpec(name="small", family="vjepa2", dim=64, depth=3, heads=4, mlp_dim=128, clip=CLIP)
TINY = replace(SPEC, name="tiny", dim=24, depth=2, heads=2, mlp_dim=40, clip=replace(CLIP, height=32, width=32))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of twelve images."""
    folder = tmp_path_factory.mktemp("images") / "shapes"
    write_shapes(folder, 12, side=32)
    return folder


def request_for(
    images: Path, spec: ModelSpec = TINY, val_fraction: float | None = None, **recipe: Any
) -> FinetuneRequest:
    options = {"train_encoder": True, "epochs": 2, "batch_size": 25, **recipe}
    return FinetuneRequest(
        weights=Request(source="scratch", model=spec),
        images=images,
        recipe=Recipe(**options),
        val_fraction=val_fraction,
        from_scratch=True,
    )


def tiny_classifier(
    head: ImageHead = "linear", classes: int = 3, spec: ModelSpec = TINY, clip: ClipSpec | None = None
) -> ImageClassifier:
    classifier = ImageClassifier(Encoder(spec, clip), classes, head=head)
    fill_random(classifier, seed=1)
    classifier.labels = tuple(f"class {number}" for number in range(classes))
    return classifier.eval()


def random_batch(count: int, classes: int = 3, seed: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return ImageBatch(pixels, torch.randint(0, classes, (count,), generator=generator))


def state_after(recipe: Recipe, steps: list[list[ImageBatch]], head: ImageHead = "linear") -> dict[str, Tensor]:
    trainer = Trainer(tiny_classifier(head), recipe, len(steps))
    for batches in steps:
        trainer.train_step(batches, sum(len(batch.labels_B) for batch in batches))
    return {name: value.clone() for name, value in trainer.classifier.state_dict().items()}


# what is learnt


def test_four_shapes_are_learnt_from_nothing(tmp_path: Path) -> None:
    names = ("bar-across", "bar-down", "disc", "frame")
    write_shapes(tmp_path / "shapes", 100, names=names, side=48)
    options = {"epochs": 20, "batch_size": 32, "learning_rate": 3e-3}
    request = request_for(tmp_path / "shapes", replace(SPEC, depth=2), 0.25, **options)
    assert finetune_classifier(request, tmp_path / "run").evaluation.top1 >= 0.9


@pytest.mark.slow
def test_ten_shapes_are_learnt_from_nothing_and_told_apart_by_onnx_runtime(tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", 300)
    request = request_for(tmp_path / "shapes", SPEC, 0.2, epochs=20, batch_size=50, learning_rate=3e-3)
    result = finetune_classifier(request, tmp_path / "run")
    assert result.evaluation.top1 >= 0.95
    images = scan_images(tmp_path / "shapes", val_fraction=0.2)
    ours, theirs = classify_in_both(tmp_path, [sample.file for sample in images.val])
    assert ours == theirs
    right = [label == sample.label for label, sample in zip(theirs, images.val, strict=True)]
    assert np.mean(right) == pytest.approx(result.evaluation.top1)


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_a_frozen_encoder_stays_as_it_was(head: ImageHead) -> None:
    before = tiny_classifier(head).state_dict()
    after = state_after(Recipe(head=head), [[random_batch(6)]], head)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("encoder.")}


def test_a_trained_encoder_learns_in_every_parameter() -> None:
    before = tiny_classifier().state_dict()
    after = state_after(Recipe(train_encoder=True), [[random_batch(6)]])
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_accumulated_batches_are_one_large_batch() -> None:
    whole = random_batch(7)
    parts = [ImageBatch(whole.pixels_BHWC[cut], whole.labels_B[cut]) for cut in (slice(3), slice(3, 5), slice(5, 7))]
    recipe = Recipe(train_encoder=True, learning_rate=1e-3)
    at_once, in_parts = state_after(recipe, [[whole]] * 3), state_after(recipe, [parts] * 3)
    for name, value in at_once.items():
        # AdamW divides by the gradient's size: where that is rounding alone, so is the step's direction
        torch.testing.assert_close(in_parts[name], value, atol=1e-4, rtol=1e-4)
    other = state_after(recipe, [parts[:2]] * 3)
    assert not torch.allclose(other["head.weight"], at_once["head.weight"], atol=1e-4, rtol=1e-4)


def test_the_gradient_is_cut_to_its_norm() -> None:
    trainer = Trainer(tiny_classifier(), Recipe(train_encoder=True, clip_norm=0.01), 1)
    report = trainer.train_step([random_batch(6)], 6)
    assert report.gradient_norm is not None
    assert report.gradient_norm > 0.01
    gradients = [value.grad for value in trainer.classifier.parameters() if value.grad is not None]
    assert float(torch.cat([gradient.flatten() for gradient in gradients]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_rate_rises_and_then_falls_along_half_a_cosine() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3
    assert rate_factor(0, 100, 0.0) == 1


def test_each_layer_learns_slower_than_the_one_behind_it_and_biases_and_norms_do_not_decay() -> None:
    classifier = tiny_classifier("attentive")
    recipe = Recipe(train_encoder=True, learning_rate=1.0, layer_decay=0.5, weight_decay=0.3)
    found = {
        name: (group["top_rate"], group["weight_decay"])
        for group in parameter_groups(classifier, recipe)
        for name, _ in group["params"]
    }
    assert set(found) == {name for name, _ in classifier.named_parameters()}
    assert found["encoder.patch_embed.proj.weight"] == (0.125, 0.3)
    assert found["encoder.blocks.0.attn.qkv.weight"] == (0.25, 0.3)
    assert found["encoder.blocks.1.attn.qkv.bias"] == (0.5, 0.0)
    assert found["encoder.blocks.1.norm1.weight"] == (0.5, 0.0)
    assert found["encoder.norm.weight"] == (1.0, 0.0)
    assert found["pooler.blocks.0.attn.qkv.weight"] == (1.0, 0.3)
    assert found["head.weight"] == (1.0, 0.3)


def test_evaluation_counts_first_guesses_and_first_five() -> None:
    classifier = tiny_classifier(classes=8)
    batches = [random_batch(5, 8), random_batch(3, 8, seed=1)]
    figures = Trainer(classifier, Recipe(), 1).evaluate(batches)
    with torch.no_grad():
        logits = torch.cat([classifier(normalise_pixels(batch.pixels_BHWC)) for batch in batches])
    labels = torch.cat([batch.labels_B for batch in batches])
    order = logits.argsort(dim=1, descending=True)
    assert figures.top1 == sum(int(row[0] == label) for row, label in zip(order, labels, strict=True)) / 8
    assert figures.top5 == sum(int(label in row[:5]) for row, label in zip(order, labels, strict=True)) / 8
    assert figures.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))


@pytest.mark.parametrize(("frames", "shown"), [(None, 2), (2, 2), (16, 16)])
def test_an_image_is_as_many_equal_frames_as_asked(shapes: Path, frames: int | None, shown: int) -> None:
    request = request_for(shapes)
    request = replace(request, weights=replace(request.weights, frames=frames))
    classifier, _ = make_classifier(request, ("a", "b"))
    assert classifier.encoder.clip.frames == shown
    images = torch.randn(2, 3, 32, 32)
    clips = images[:, None].repeat(1, shown, 1, 1, 1)
    torch.testing.assert_close(classifier(images), classifier.head(classifier.encoder(clips).mean(dim=1)))


@pytest.mark.parametrize(("frames", "tubelet"), [(None, 1), (1, 1), (2, 2), (16, 2)])
def test_an_image_of_version_21_is_one_or_by_option_a_video(shapes: Path, frames: int | None, tubelet: int) -> None:
    request = request_for(shapes, VERSION_21)
    request = replace(request, weights=replace(request.weights, frames=frames))
    clip = make_classifier(request, ("a", "b"))[0].encoder.clip
    assert (clip.frames, clip.tubelet) == (frames or 1, tubelet)


def test_no_frames_are_no_clip(shapes: Path) -> None:
    request = request_for(shapes)
    with pytest.raises(SpecError, match="frames is 0; it must be a positive multiple of 2"):
        make_classifier(replace(request, weights=replace(request.weights, frames=0)), ("a", "b"))
    with pytest.raises(SpecError, match="frames is 1; it must be a positive multiple of 2"):
        make_classifier(replace(request, weights=replace(request.weights, frames=1)), ("a", "b"))


def test_an_image_goes_the_way_of_images_in_version_21() -> None:
    spec = find_release("vitb-2.1").spec
    spec = replace(spec, dim=96, heads=4, mlp_dim=100, clip=replace(spec.clip, height=32, width=32))
    encoder = Encoder(spec, replace(spec.clip, frames=1, tubelet=1))
    classifier = ImageClassifier(encoder, 5)
    fill_random(classifier, seed=0)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(classifier(images), classifier.head(encoder(images[:, None]).mean(dim=1)))
    classifier(images).sum().backward()
    assert encoder.patch_embed_img.proj.weight.grad is not None
    assert encoder.patch_embed.proj.weight.grad is None


# a run that is killed


def run_script(images: Path, output: Path, resume: bool) -> list[str]:
    script = f"""
from pathlib import Path
from vjepa2.finetune import finetune_classifier
from tests.test_finetune import request_for
request = request_for(Path({str(images)!r}), epochs=4, batch_size=5, accumulate=2, layer_decay=0.8)
finetune_classifier(request, {str(output)!r}, resume={resume}, save_steps=3)
"""
    return [sys.executable, "-W", "error", "-c", script]


def run_apart(images: Path, output: Path, *, resume: bool = False, kill_after: int | None = None) -> None:
    """A run in a process of its own, let be or killed once it has written so many lines of metrics."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(run_script(images, output, resume), cwd=ROOT, env=environment)
    metrics = output / "metrics.jsonl"
    while kill_after is not None and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= kill_after:
            process.kill()
        time.sleep(0.001)
    assert process.wait() == (0 if kill_after is None else -signal.SIGKILL)


def test_a_run_that_is_killed_twice_ends_as_one_that_was_let_be(shapes: Path, tmp_path: Path) -> None:
    # of 40 steps and 4 evaluations; a kill drawn late may find that the run has ended
    kills = sorted(random.sample(range(2, 26), 2))
    run_apart(shapes, tmp_path / "whole")
    run_apart(shapes, tmp_path / "killed", kill_after=kills[0])
    run_apart(shapes, tmp_path / "killed", resume=True, kill_after=kills[1])
    run_apart(shapes, tmp_path / "killed", resume=True)
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == ["config.json", "metrics.jsonl", "model.safetensors", "run.json", "state.pt"]
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == names, kills
    for name in names[:-1]:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, kills)


@pytest.mark.parametrize("lost", ["optimizer", "step"])
def test_a_state_that_lacks_something_would_be_noticed(shapes: Path, tmp_path: Path, lost: str) -> None:
    """The test above can fail: what is not kept shows in the weights."""
    classifier, _ = make_classifier(request_for(shapes), ("a", "b", "c"))
    recipe = Recipe(train_encoder=True)
    batches = [[random_batch(4, seed=step)] for step in range(4)]
    whole = Trainer(classifier, recipe, 4)
    for step in batches[:2]:
        whole.train_step(step, 4)
    folder = RunFolder.start(tmp_path / "run", {})
    folder.save_state(whole.state_dict())
    kept, spoilt_state = folder.load_state(), folder.load_state()  # twice: a trainer goes on in the tensors it is given
    assert kept is not None
    assert spoilt_state is not None
    fresh, spoilt = Trainer(tiny_classifier(), recipe, 4), Trainer(tiny_classifier(), recipe, 4)
    spoilt_state[lost] = spoilt.state_dict()[lost]
    fresh.load_state_dict(kept)
    spoilt.load_state_dict(spoilt_state)
    for step in batches[2:]:
        for trainer in (whole, fresh, spoilt):
            trainer.train_step(step, 4)
    must = whole.classifier.state_dict()
    assert all(torch.equal(value, must[name]) for name, value in fresh.classifier.state_dict().items())
    assert not all(torch.equal(value, must[name]) for name, value in spoilt.classifier.state_dict().items())


def test_progress_is_shown_on_a_terminal_and_nowhere_else() -> None:
    report = StepReport(loss=1.25, learning_rate=1e-3, gradient_norm=1.0)
    first = Progress(step=1, steps=40, epoch=1, report=report, evaluation=None)
    later = replace(first, step=30, epoch=2, evaluation=Evaluation(loss=0.5, top1=0.875, top5=1.0))
    shown = []
    for is_terminal in (True, False):
        stream = io.StringIO()
        with _show_progress(Console(file=stream, force_terminal=is_terminal, width=100)) as announce:
            announce(first)
            announce(later)
        shown.append(stream.getvalue())
    assert "epoch 2  loss 1.250  top-1 87.5%" in shown[0]
    assert "30/40" in shown[0]
    assert shown[1].strip() == ""


def test_metrics_are_one_object_a_line_and_resuming_a_finished_run_changes_nothing(
    shapes: Path, tmp_path: Path
) -> None:
    request = request_for(shapes)
    seen: list[Progress] = []
    result = finetune_classifier(request, tmp_path / "run", announce=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, 3, 4, 5, None, 6, 7, 8, 9, 10, None]
    assert set(lines[0]) == {"step", "epoch", "loss", "learning_rate", "gradient_norm"}
    assert lines[-1] == {
        "epoch": 2,
        "val_loss": result.evaluation.loss,
        "val_top1": result.evaluation.top1,
        "val_top5": result.evaluation.top5,
    }
    assert [progress.step for progress in seen] == list(range(1, 11))
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    assert finetune_classifier(request, tmp_path / "run", resume=True) == result
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_run_is_resumed_as_it_was_begun_or_not_at_all(shapes: Path, tmp_path: Path) -> None:
    request = request_for(shapes, epochs=1)
    finetune_classifier(request, tmp_path / "run")
    with pytest.raises(FinetuneError, match="holds a run already; resume it, or choose another folder"):
        finetune_classifier(request, tmp_path / "run")
    other = replace(request, recipe=replace(request.recipe, epochs=3))
    with pytest.raises(FinetuneError, match=r"begun otherwise: recipe\.epochs was 1 and is 3; ask for the same"):
        finetune_classifier(other, tmp_path / "run", resume=True)
    torch.set_num_threads(2)
    with pytest.raises(FinetuneError, match=r"machine\.threads was 1 and is 2"):
        finetune_classifier(request, tmp_path / "run", resume=True)
    torch.set_num_threads(1)
    with pytest.raises(FinetuneError, match="nowhere holds no run that could be resumed"):
        finetune_classifier(request, tmp_path / "nowhere", resume=True)
    (tmp_path / "run" / "state.pt").write_bytes(b"cut off")
    with pytest.raises(FinetuneError, match=r"state\.pt is damaged"):
        finetune_classifier(request, tmp_path / "run", resume=True)


def test_what_was_being_written_when_a_run_was_killed_is_swept_away(shapes: Path, tmp_path: Path) -> None:
    request = request_for(shapes, epochs=1)
    finetune_classifier(request, tmp_path / "run")
    (tmp_path / "run" / ".state.pt.4711").write_bytes(b"half a st")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as metrics:
        before = metrics.tell()
        metrics.write(b'{"step": 6, "ep')
    finetune_classifier(request, tmp_path / "run", resume=True)
    assert not (tmp_path / "run" / ".state.pt.4711").exists()
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size == before
    os.truncate(tmp_path / "run" / "metrics.jsonl", before - 1)
    with pytest.raises(FinetuneError, match=r"metrics\.jsonl is shorter than it was; start the run anew"):
        finetune_classifier(request, tmp_path / "run", resume=True)


def test_a_run_that_was_killed_before_its_first_state_begins_again(shapes: Path, tmp_path: Path) -> None:
    request = request_for(shapes, epochs=1)
    result = finetune_classifier(request, tmp_path / "whole")
    finetune_classifier(request, tmp_path / "killed")
    (tmp_path / "killed" / "state.pt").unlink()
    assert finetune_classifier(request, tmp_path / "killed", resume=True).evaluation == result.evaluation
    names = ("metrics.jsonl", "model.safetensors")
    assert all((tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_a_run_whose_images_changed_is_not_resumed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(4):
            write_image(tmp_path / "images" / name / f"{number}.png", number)
    request = request_for(tmp_path / "images", epochs=1)
    finetune_classifier(request, tmp_path / "run")
    write_image(tmp_path / "images" / "cat" / "0.png", size=(10, 10))
    with pytest.raises(FinetuneError, match=r"images\.sha256 was"):
        finetune_classifier(request, tmp_path / "run", resume=True)


def test_a_folder_with_something_in_it_is_not_written_into(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(FinetuneError, match="is not empty; choose another folder"):
        finetune_classifier(request_for(shapes), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


# options that cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be positive"),
        ({"layer_decay": 1.5, "train_encoder": True}, "layer_decay is 1.5; it must be above 0 and at most 1"),
        ({"layer_decay": 0.5}, "layer_decay is 0.5 and the encoder is frozen; leave it out, or train it"),
        ({"warmup": 1.0}, "warmup is 1.0; it must be at least 0 and below 1"),
        ({"seed": -1}, "seed is -1; it must be from 0"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        Recipe(**options)
    assert message in str(caught.value)


def test_a_random_encoder_is_not_frozen(shapes: Path) -> None:
    with pytest.raises(FinetuneError, match="is to be trained from scratch and is frozen; train it"):
        request_for(shapes, train_encoder=False)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FinetuneError, match="device is cuda and PyTorch sees no GPU here"):
        check_device(Recipe(device="cuda"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(FinetuneError, match="this cpu does not compute in bf16; leave autocast out"):
        check_device(Recipe(autocast="bf16"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    check_device(Recipe(autocast="bf16"))


def test_autocast_computes_in_half_and_keeps_weights_in_full() -> None:
    exact = state_after(Recipe(train_encoder=True), [[random_batch(6)]] * 2)
    for autocast in ("bf16", "fp16"):
        rough = state_after(Recipe(train_encoder=True, autocast=autocast), [[random_batch(6)]] * 2)
        assert {value.dtype for value in rough.values()} == {torch.float32}
        assert not torch.equal(rough["head.weight"], exact["head.weight"])
        torch.testing.assert_close(rough["head.weight"], exact["head.weight"], atol=5e-3, rtol=0)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    trainer = Trainer(tiny_classifier(), Recipe(), 1)
    with torch.no_grad():
        trainer.classifier.head.bias[0] = float("nan")
    with pytest.raises(FinetuneError, match="the loss is nan at step 0; lower the learning rate"):
        trainer.train_step([random_batch(2)], 2)


# what is written


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_a_classifier_is_read_back_bit_for_bit(tmp_path: Path, head: ImageHead) -> None:
    classifier = tiny_classifier(head)
    assert not is_image_classifier(tmp_path)
    save_image_classifier(classifier, tmp_path)
    assert is_image_classifier(tmp_path)
    loaded = load_image_classifier(tmp_path)
    assert loaded.labels == ("class 0", "class 1", "class 2")
    state = loaded.state_dict()
    assert set(state) == set(classifier.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())
    encoder = load_encoder(tmp_path)
    assert all(
        torch.equal(value, encoder.state_dict()[name]) for name, value in classifier.encoder.state_dict().items()
    )
    assert load_image_classifier(tmp_path, encoder).encoder is encoder


def test_transformers_reads_the_attentive_classifier_and_gives_the_same_logits(tmp_path: Path) -> None:
    classifier = tiny_classifier("attentive")
    save_image_classifier(classifier, tmp_path)
    loaded: Any = VJEPA2ForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    theirs, about = loaded
    assert all(".predictor." in name for name in about["missing_keys"])
    assert not about["unexpected_keys"]
    assert theirs.config.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        must = theirs.eval()(images[:, None].repeat(1, 2, 1, 1, 1)).logits
        torch.testing.assert_close(classifier(images), must, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dim", [24, 68, 1408])
@pytest.mark.parametrize("mlp_dim", [40, 41, 97, 6144])
def test_the_mlps_width_survives_being_written_as_a_ratio(tmp_path: Path, dim: int, mlp_dim: int) -> None:
    spec = replace(TINY, dim=dim, mlp_dim=mlp_dim, depth=1, heads=2)
    save_image_classifier(tiny_classifier(spec=spec), tmp_path)
    assert load_image_classifier(tmp_path).encoder.spec.mlp_dim == mlp_dim


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda config: config["vjepa2_edge"].update(head="attentive"),
            "does not fit its config.json: missing pooler.",
        ),
        (lambda config: config["vjepa2_edge"].update(head="round"), "has no image classifier's head ('round')"),
        (
            lambda config: config["id2label"].update({"3": "d"}),
            "wrong shape head.weight torch.float32 [3, 24], must be",
        ),
        (lambda config: config["id2label"].update({"7": "d"}), "it must name the classes 0, 1, 2 and so on"),
        (lambda config: config.update(num_hidden_layers=3), "missing vjepa2.encoder.layer.2"),
        (lambda config: config.update(num_hidden_layers=1), "left over vjepa2.encoder.layer.1"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    save_image_classifier(tiny_classifier(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spoil(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_image_classifier(tmp_path)
    assert message in str(caught.value)


VERSION_21 = version_21(replace(TINY, heads=4), (0, 1))
OTHERS = [VERSION_21, replace(TINY, positions="sincos"), replace(TINY, clip=replace(TINY.clip, width=64))]
OTHER_NAMES = ["2.1", "sincos", "oblong"]


@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("spec", OTHERS, ids=OTHER_NAMES)
def test_what_hugging_face_has_no_words_for_is_read_back_bit_for_bit_too(
    spec: ModelSpec, head: ImageHead, tmp_path: Path
) -> None:
    clip = spec.make_clip(spec.image_frames, spec.clip.height, spec.clip.width)
    classifier = tiny_classifier(head, spec=spec, clip=clip)
    save_image_classifier(classifier, tmp_path)
    assert is_image_classifier(tmp_path)
    loaded, encoder = load_image_classifier(tmp_path), load_encoder(tmp_path)
    assert (loaded.encoder.spec, loaded.encoder.clip) == (encoder.spec, encoder.clip) == (spec, clip)
    assert encoder.clip.is_image == bool(spec.levels)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    for name, value in classifier.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    assert load_image_classifier(tmp_path, encoder).encoder is encoder
    with pytest.raises(ValueError, match="vjepa2_edge"):  # rather than a V-JEPA 2 that was never trained
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("spec", [VERSION_21, replace(OTHERS[2], positions="sincos")], ids=["2.1", "sincos and oblong"])
def test_what_hugging_face_has_no_words_for_is_trained_and_gives_the_same_guesses_elsewhere(
    spec: ModelSpec, shapes: Path, tmp_path: Path
) -> None:
    """V-JEPA 2.1 by its own patches for images, which learn, as those for videos do not."""
    request = request_for(shapes, spec, epochs=2, learning_rate=5e-3)
    finetune_classifier(request, tmp_path / "run")
    begun, _ = make_classifier(request, scan_images(shapes).labels)
    trained = load_image_classifier(tmp_path / "run")
    changed = {name for name, value in begun.state_dict().items() if not torch.equal(value, trained.state_dict()[name])}
    assert changed == {name for name, _ in begun.named_parameters()} - {
        f"encoder.{name}" for name in begun.encoder.idle_parameters
    }
    files = [sample.file for sample in scan_images(shapes).val]
    ours, theirs = classify_in_both(tmp_path, files, simplify=False)
    assert ours == theirs


def test_a_stopped_run_of_version_21_goes_on_though_half_its_patches_never_learn(shapes: Path, tmp_path: Path) -> None:
    """Parameters without a gradient have no state in the optimizer."""
    request = request_for(shapes, VERSION_21, epochs=1)

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    finetune_classifier(request, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune_classifier(request, tmp_path / "stopped", save_steps=2, announce=stop)
    finetune_classifier(request, tmp_path / "stopped", save_steps=2, resume=True)
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_a_folder_at_another_size_keeps_the_words_that_it_was_written_in(tmp_path: Path) -> None:
    """Its names are those of its file, whatever clip is asked for."""
    save_image_classifier(tiny_classifier(), tmp_path)
    encoder, _ = load_checkpoint(Request(source=str(tmp_path), size=(32, 64)))
    assert load_image_classifier(tmp_path, encoder).encoder.clip.width == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ours: ours.pop("model"), "model is None; it must be an object"),
        (lambda ours: ours["model"].update(depth="2"), "model.depth is '2'; it must be int"),
        (lambda ours: ours["clip"].update(step=3), "clip has unknown keys ['step']"),
    ],
)
def test_words_of_ours_that_do_not_describe_a_model_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    save_image_classifier(tiny_classifier(spec=VERSION_21), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config["vjepa2_edge"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tmp_path)
    assert f"has a model under vjepa2_edge that cannot be read: {message}" in str(caught.value)


# what is exported


def classify_in_both(folder: Path, files: list[Path], *, simplify: bool = True) -> tuple[list[int], list[int]]:
    """The first guesses of the run in `folder`, by PyTorch and, exported, by ONNX Runtime."""
    classifier = load_image_classifier(folder / "run")
    clip = classifier.encoder.clip
    request = ExportRequest(weights=Request(source=str(folder / "run")), simplify=simplify)
    bundle = export_bundle(request, folder / "bundle").bundle
    frames = np.stack([np.repeat(fit_pixels(read_image(file), clip)[None], clip.frames, axis=0) for file in files])
    with open_backend(bundle, "onnxruntime") as backend:
        logits = backend.run(frames, ("logits",)).logits_BL
    assert logits is not None
    with torch.inference_mode():
        images = normalise_pixels(torch.from_numpy(frames[:, 0].copy()))
        ours = classifier(images)
    np.testing.assert_allclose(logits, ours.numpy(), atol=1e-4, rtol=1e-4)
    return ours.argmax(dim=1).tolist(), logits.argmax(axis=1).tolist()


def test_an_exported_run_has_its_labels_and_gives_the_same_guesses(shapes: Path, tmp_path: Path) -> None:
    finetune_classifier(request_for(shapes, epochs=6, learning_rate=5e-3), tmp_path / "run")
    images = scan_images(shapes)
    ours, theirs = classify_in_both(tmp_path, [sample.file for sample in images.val])
    assert ours == theirs
    assert len(set(ours)) > 1
    record = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert record["head"] == "classifier"
    assert record["classes"] == 10
    assert record["labels"] == list(images.labels)
    assert record["source"]["warning"] is None


def test_a_trained_head_takes_no_classes_at_export(tmp_path: Path) -> None:
    save_image_classifier(tiny_classifier("attentive"), tmp_path)
    with pytest.raises(ExportError, match="takes no classes but its own"):
        export_bundle(ExportRequest(weights=Request(source=str(tmp_path)), classes=5), tmp_path / "bundle")


# the command line


def run_verb(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert isinstance(done.value.code, int)
    return done.value.code


def test_the_verb_trains_resumes_and_exports(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image_classifier(tiny_classifier(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    begin: list[str | Path] = ["finetune", tmp_path / "model", shapes, "-o", tmp_path / "run"]
    asked = [*begin, "--from-scratch", "--train-encoder", "--epochs", "1", "--frames", "4"]
    assert run_verb(*asked, "--json", "-") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["steps"] == 4
    assert "of the held-out images right" in " ".join(output.err.split())
    assert run_verb(*asked) == 2
    assert "holds a run already; resume it" in capsys.readouterr().err
    assert run_verb(*asked, "--resume") == 0
    assert run_verb("export", tmp_path / "run", "-o", tmp_path / "bundle") == 0
    record = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert record["clip"]["frames"] == 4
    assert record["labels"][0] == "bar-across"


def test_the_verb_starts_from_weights(shapes: Path, tmp_path: Path) -> None:
    save_image_classifier(tiny_classifier(), tmp_path / "model")
    frozen: list[str | Path] = ["finetune", tmp_path / "model", shapes, "--epochs", "1"]
    assert run_verb(*frozen, "-o", tmp_path / "frozen", "--head", "attentive") == 0
    assert run_verb(*frozen, "-o", tmp_path / "trained", "--train-encoder") == 0
    assert run_verb(*frozen, "-o", tmp_path / "oblong", "--size", "32x48") == 0
    assert load_encoder(tmp_path / "oblong").clip.width == 48
    before, frozen_, trained = (load_encoder(tmp_path / name).state_dict() for name in ("model", "frozen", "trained"))
    assert all(torch.equal(value, frozen_[name]) for name, value in before.items())
    assert not any(torch.equal(value, trained[name]) for name, value in before.items())
    assert load_image_classifier(tmp_path / "frozen").pooler is not None
    assert json.loads((tmp_path / "trained" / "run.json").read_text())["recipe"]["layer_decay"] == 0.75


def test_the_verb_says_which_image_is_broken(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image_classifier(tiny_classifier(), tmp_path / "model")
    for name in ("cat", "dog"):
        for number in range(4):
            write_image(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "dog" / "2.png").write_bytes(b"GIF89a, it says")
    assert run_verb("finetune", tmp_path / "model", tmp_path / "images", "-o", tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "dog/2.png" in message
    assert "mend it or take it out of its folder" in message
    assert "Traceback" not in message


def test_reading_ahead_ends_with_its_reader(shapes: Path) -> None:
    """Whoever stops early, as a run that fails, leaves no thread behind."""
    train = scan_images(shapes).train
    reader = read_batches([[sample] for sample in train], CLIP, workers=2)
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert next(reader, None) is None
