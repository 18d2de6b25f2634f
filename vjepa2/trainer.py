"""What happens in one step of training, and in one evaluation?

Axes: B batch, H, W pixels, C colours, L classes.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vjepa2.errors import FinetuneError
from vjepa2.heads import ImageClassifier
from vjepa2.image_batches import ImageBatch, normalise_pixels
from vjepa2.recipe import Device, Recipe, parameter_groups, rate_factor

_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step."""

    loss: float  # mean over its images, before the step
    learning_rate: float  # of the head
    gradient_norm: float | None  # before it was cut; None where fp16 overflowed and the step was left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a classifier does on held-out images, in float32."""

    loss: float
    top1: float  # the part of the images whose class is the first guess
    top5: float  # or among the first five


class Trainer:
    """A classifier, its optimizer, and how many of `steps` were done."""

    def __init__(self, classifier: ImageClassifier, recipe: Recipe, steps: int) -> None:
        self.classifier = classifier.to(recipe.device)
        self.recipe, self.steps, self.step = recipe, steps, 0
        classifier.encoder.requires_grad_(recipe.train_encoder)
        self.optimizer = torch.optim.AdamW(parameter_groups(classifier, recipe), lr=recipe.learning_rate)
        self.scaler = torch.amp.GradScaler(recipe.device, enabled=recipe.autocast == "fp16")

    def train_step(self, batches: Iterable[ImageBatch], images: int) -> StepReport:
        """One step on `batches` of `images` images together, as if they were one batch."""
        factor = rate_factor(self.step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["top_rate"]
        self.optimizer.zero_grad()
        loss = sum(self._backward(batch, images) for batch in batches)
        if not math.isfinite(loss):
            raise FinetuneError(f"the loss is {loss} at step {self.step}; lower the learning rate")
        norm = self._update()
        self.step += 1
        return StepReport(loss=loss, learning_rate=factor * self.recipe.learning_rate, gradient_norm=norm)

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[ImageBatch]) -> Evaluation:
        """The classifier's figures over all `batches`."""
        images, loss, top1, top5 = 0, 0.0, 0, 0
        self.classifier.eval()
        for batch in batches:
            logits_BL = self.classifier(normalise_pixels(batch.pixels_BHWC.to(self.recipe.device))).cpu()
            ranked = logits_BL.topk(min(5, logits_BL.shape[1])).indices == batch.labels_B[:, None]
            images += len(batch.labels_B)
            loss += F.cross_entropy(logits_BL, batch.labels_B, reduction="sum").item()
            top1 += int(ranked[:, 0].sum())
            top5 += int(ranked.sum())
        return Evaluation(loss=loss / images, top1=top1 / images, top5=top5 / images)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on beside the recipe and the images: tensors and plain values."""
        trained = {name: value.detach() for name, value in self.classifier.named_parameters() if value.requires_grad}
        random = {"cpu": torch.get_rng_state()}
        if self.recipe.device == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()
        return {
            "step": self.step,
            "parameters": trained,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step = state["step"]
        with torch.no_grad():
            for name, value in state["parameters"].items():
                self.classifier.get_parameter(name).copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if self.recipe.device == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"])

    def _backward(self, batch: ImageBatch, images: int) -> float:
        """Add a batch's gradients to the step's; its part of the step's loss."""
        device, dtype = self.recipe.device, _DTYPES[self.recipe.autocast]
        self.classifier.train()
        pixels_BHWC, labels_B = batch.pixels_BHWC.to(device), batch.labels_B.to(device)
        with torch.autocast(device, dtype, enabled=self.recipe.autocast != "none"):
            logits_BL = self.classifier(normalise_pixels(pixels_BHWC))
        loss = F.cross_entropy(logits_BL.float(), labels_B, reduction="sum") / images
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _update(self) -> float | None:
        """Cut the gradient and step; the gradient's norm, or None if it overflowed in fp16 and nothing was changed."""
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise FinetuneError(f"the gradient is {norm} at step {self.step}; lower the learning rate")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm if math.isfinite(norm) else None


def check_device(recipe: Recipe) -> None:
    """Raise `FinetuneError` if the recipe's device, or its autocast on it, is not to be had here."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise FinetuneError("device is cuda and PyTorch sees no GPU here; choose cpu, or install a PyTorch with CUDA")
    if recipe.autocast == "none":
        return
    if recipe.device == "cuda":
        has = recipe.autocast == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = getattr(torch.ops.mkldnn, f"_is_mkldnn_{recipe.autocast}_supported")()
    if not has:
        raise FinetuneError(f"this {recipe.device} does not compute in {recipe.autocast}; leave autocast out")


@contextmanager
def deterministic(device: Device) -> Iterator[None]:
    """Inside, PyTorch uses only kernels that give the same bits each time, or says that it has none."""
    if device == "cuda":  # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
