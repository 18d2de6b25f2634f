"""How does an encoder become a classifier of the images in a folder?"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vjepa2.checkpoints import Request, choose_clip, load_checkpoint
from vjepa2.classifier_files import describe_classifier, save_image_classifier
from vjepa2.encoder import Encoder
from vjepa2.errors import FinetuneError
from vjepa2.folder_model import read_model
from vjepa2.heads import ImageClassifier
from vjepa2.image_batches import order_epoch, read_batches
from vjepa2.image_folder import ImageFolder, Sample, scan_images
from vjepa2.recipe import Recipe
from vjepa2.registry import find_release
from vjepa2.run_folder import RunFolder
from vjepa2.spec import ModelSpec
from vjepa2.trainer import Evaluation, StepReport, Trainer, check_device, deterministic


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """Which encoder is trained on which images, and how."""

    weights: Request  # `frames`: how many equal ones an image is shown as; None: as its model would have it
    images: Path
    recipe: Recipe = field(default_factory=Recipe)
    val_fraction: float | None = None  # held out where the folder has no `val`
    from_scratch: bool = False  # only the shape of the model is taken; `weights.source` may be a config.json's folder

    def __post_init__(self) -> None:
        """Raise `FinetuneError` where random weights would stay as they are."""
        if self.from_scratch and not self.recipe.train_encoder:
            raise FinetuneError("the encoder is to be trained from scratch and is frozen; train it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is."""

    step: int
    steps: int
    epoch: int  # from 1 on
    report: StepReport
    evaluation: Evaluation | None  # the last there was


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A finished run."""

    folder: Path
    steps: int
    evaluation: Evaluation  # after the last step


def finetune_classifier(
    request: FinetuneRequest,
    output: str | Path,
    *,
    resume: bool = False,
    save_steps: int | None = None,
    workers: int = 2,
    announce: Callable[[Progress], None] = lambda _: None,
) -> FinetuneResult:
    """Train a classifier into the folder `output`, from where `load_image_classifier` and export read it.

    The run is kept after every epoch and, if asked, every `save_steps` steps. One that was killed goes on with
    `resume`, and on the same machine ends with the same weights and metrics, bit for bit. `announce` is called after
    every step.
    """
    recipe = request.recipe
    check_device(recipe)
    images = scan_images(request.images, val_fraction=request.val_fraction, seed=recipe.seed)
    with deterministic(recipe.device):
        classifier, source = make_classifier(request, images.labels)
        about = _describe_run(request, classifier, source, images)
        folder = (RunFolder.resume if resume else RunFolder.start)(Path(output), about)
        steps_an_epoch = math.ceil(len(images.train) / recipe.step_size)
        trainer = Trainer(classifier, recipe, recipe.epochs * steps_an_epoch)
        run = _Run(trainer, images, folder, steps_an_epoch, workers)
        return run.finish(save_steps or trainer.steps + 1, announce)


def make_classifier(request: FinetuneRequest, labels: tuple[str, ...]) -> tuple[ImageClassifier, dict[str, Any]]:
    """The classifier before its first step, its head's weights from the recipe's seed; and whence the others are."""
    weights = replace(request.weights, is_image=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.recipe.seed)
        if request.from_scratch:
            encoder, source = _make_encoder(weights), {"name": "from scratch"}
        else:
            encoder, loaded = load_checkpoint(weights)
            source = asdict(loaded)
        classifier = ImageClassifier(encoder, len(labels), head=request.recipe.head)
    classifier.labels = labels
    return classifier, source


def _make_encoder(weights: Request) -> Encoder:
    """The asked model for the asked clip, as PyTorch initialises it."""
    if isinstance(weights.model, ModelSpec):
        spec = weights.model
    elif Path(weights.source).is_dir():
        spec = read_model(Path(weights.source), Path(weights.source).resolve().name).spec
    else:
        spec = find_release(weights.source).spec
    return Encoder(spec, choose_clip(spec, weights))


def _describe_run(
    request: FinetuneRequest, classifier: ImageClassifier, source: dict[str, Any], images: ImageFolder
) -> dict[str, Any]:
    """What must be the same when a run is resumed."""
    digest = hashlib.sha256()
    for part in (images.train, images.val):
        for sample in part:
            place = sample.file.relative_to(images.path).as_posix()
            digest.update(f"{place} {sample.label} {sample.file.stat().st_size}\n".encode())
        digest.update(b"\n")
    machine: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if request.recipe.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "recipe": asdict(request.recipe),
        "model": describe_classifier(classifier),
        "weights": source,
        "images": {"train": len(images.train), "val": len(images.val), "sha256": digest.hexdigest()},
        "machine": machine,  # other sums in another order give other bits
    }


@dataclass(slots=True)
class _Run:
    """A run on its way."""

    trainer: Trainer
    images: ImageFolder
    folder: RunFolder
    steps_an_epoch: int
    workers: int
    evaluation: Evaluation | None = None

    def finish(self, save_steps: int, announce: Callable[[Progress], None]) -> FinetuneResult:
        """Train from where the folder's state is to the end."""
        state = self.folder.load_state()
        if state is not None:
            self.evaluation = state["evaluation"] and Evaluation(**state["evaluation"])
            self.trainer.load_state_dict(state["trainer"])
        while self.trainer.step < self.trainer.steps:
            epoch = self.trainer.step // self.steps_an_epoch
            for report in self._train_epoch(epoch):
                self.folder.log({"step": self.trainer.step, "epoch": epoch + 1, **asdict(report)})
                announce(self._progress(epoch + 1, report))
                if self.trainer.step % save_steps == 0 and self.trainer.step % self.steps_an_epoch:
                    self._save()
            self._end_epoch(epoch)
        assert self.evaluation is not None
        return FinetuneResult(folder=self.folder.path, steps=self.trainer.steps, evaluation=self.evaluation)

    def _train_epoch(self, epoch: int) -> Iterator[StepReport]:
        """The steps of an epoch that are still to be done."""
        recipe = self.trainer.recipe
        order = order_epoch(self.images.train, seed=recipe.seed, epoch=epoch)
        done = self.trainer.step % self.steps_an_epoch
        steps = _cut(order[done * recipe.step_size :], recipe.step_size)
        batches = [batch for step in steps for batch in _cut(step, recipe.batch_size)]
        reader = read_batches(batches, self.trainer.classifier.encoder.clip, workers=self.workers)
        for step in steps:
            yield self.trainer.train_step(islice(reader, math.ceil(len(step) / recipe.batch_size)), len(step))

    def _end_epoch(self, epoch: int) -> None:
        batches = _cut(self.images.val, self.trainer.recipe.batch_size)
        clip = self.trainer.classifier.encoder.clip
        self.evaluation = self.trainer.evaluate(read_batches(batches, clip, workers=self.workers))
        figures = {f"val_{name}": value for name, value in asdict(self.evaluation).items()}
        self.folder.log({"epoch": epoch + 1, **figures})
        save_image_classifier(self.trainer.classifier, self.folder.path)
        self._save()

    def _save(self) -> None:
        evaluation = self.evaluation and asdict(self.evaluation)
        self.folder.save_state({"trainer": self.trainer.state_dict(), "evaluation": evaluation})

    def _progress(self, epoch: int, report: StepReport) -> Progress:
        trainer = self.trainer
        return Progress(step=trainer.step, steps=trainer.steps, epoch=epoch, report=report, evaluation=self.evaluation)


def _cut(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]
