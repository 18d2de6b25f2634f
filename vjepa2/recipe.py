"""What decides how a training run ends, and how fast does each parameter learn at each step?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vjepa2.errors import FinetuneError
from vjepa2.heads import ImageClassifier, ImageHead

Autocast = Literal["none", "bf16", "fp16"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that the trained weights depend on, beside the images and the weights at the start."""

    head: ImageHead = "linear"
    train_encoder: bool = False
    epochs: int = 10
    batch_size: int = 32  # images in memory at once
    accumulate: int = 1  # batches a step
    learning_rate: float = 1e-3  # of the head, at the top of the schedule
    layer_decay: float = 1.0  # each block learns this much slower than the one behind it
    weight_decay: float = 0.05  # not of biases and norms
    warmup: float = 0.1  # the part of all steps in which the rate rises
    clip_norm: float = 1.0  # the gradient's norm is cut to this
    autocast: Autocast = "none"
    device: Device = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `FinetuneError` for a number that cannot be trained with."""
        for field in ("epochs", "batch_size", "accumulate"):
            _check(field, getattr(self, field), getattr(self, field) >= 1, "at least 1")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "positive")
        _check("clip_norm", self.clip_norm, self.clip_norm > 0, "positive")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        _check("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "above 0 and at most 1")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "at least 0 and below 1")
        _check("seed", self.seed, 0 <= self.seed < 2**31, f"from 0 to {2**31 - 1}")
        if self.layer_decay != 1 and not self.train_encoder:
            raise FinetuneError(
                f"layer_decay is {self.layer_decay} and the encoder is frozen; leave it out, or train it"
            )

    @property
    def step_size(self) -> int:
        """Images a step."""
        return self.batch_size * self.accumulate


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """What the learning rate of step 0 .. steps - 1 is multiplied by: a rise to 1, then half a cosine down to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def parameter_groups(classifier: ImageClassifier, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: what shares a learning rate, `top_rate`, and a weight decay. Frozen parameters are in none."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    layers = classifier.encoder.spec.depth + 1
    for name, parameter in _trained_parameters(classifier):
        layer, decays = _layer_of(name, layers), parameter.ndim > 1
        rate = recipe.learning_rate * recipe.layer_decay ** (layers - layer)
        fresh = {"params": [], "top_rate": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        groups.setdefault((layer, decays), fresh)["params"].append((name, parameter))
    return list(groups.values())


def _trained_parameters(classifier: ImageClassifier) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in classifier.named_parameters() if parameter.requires_grad)


def _layer_of(name: str, layers: int) -> int:
    """0 for what makes patches into tokens, 1 .. depth for the blocks, `layers` for what comes behind them."""
    part, _, rest = name.removeprefix("encoder.").partition(".")
    if not name.startswith("encoder.") or part.startswith("norm"):
        return layers
    return int(rest.split(".")[0]) + 1 if part == "blocks" else 0


def _check(field: str, value: float, holds: bool, must: str) -> None:
    if not holds:
        raise FinetuneError(f"{field} is {value}; it must be {must}")
