"""Which tensors of a file are those of a predictor or a probe?"""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from vjepa2.checkpoint_files import SafetensorsState, read_meta_checkpoint, weight_files
from vjepa2.checkpoints import RANDOM
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError
from vjepa2.filling import fill_module
from vjepa2.names import HUGGING_FACE_PARTS, META_OTHERS, STACKED, huggingface_names, meta_name, unstack
from vjepa2.weights import fill_random


@dataclass(frozen=True, slots=True)
class PartPlace:
    """Where a part's tensors are."""

    source: str | Path
    folder: Path | None  # in Hugging Face's layout
    key: str  # of a Meta file
    parts: tuple[str, ...] = ()  # what its names begin with in Hugging Face's layout

    def open(self) -> tuple[Mapping[str, Tensor], str]:
        """The tensors by name, and the prefix that encoder and predictor have in a classification model's file."""
        if self.folder is None:
            state = read_meta_checkpoint(Path(self.source), self.key)
            return {meta_name(name): tensor for name, tensor in state.items()}, ""
        held = SafetensorsState(weight_files(self.folder))
        prefix = "vjepa2." if any(name.startswith("vjepa2.") for name in held) else ""
        return ChainMap(unstack(held, prefix) if "predictor." in self.parts else {}, held), prefix  # type: ignore[arg-type]


def fill_part(module: nn.Module, place: PartPlace, seed: int | None) -> None:
    """Put the part at `place` into `module`, strictly, or values from a `seed` if it is to be random."""
    if place.source == RANDOM:
        fill_random(module, seed or 0)
        return
    if seed is not None:
        raise CheckpointError(f"only random weights take a seed; {place.source} was given {seed}")
    state, prefix = place.open()
    names = [name for name, _ in module.named_parameters()]
    where, what = place.folder or Path(place.source), "the probe" if place.key == "classifiers" else "the predictor"
    if place.folder is None:
        fill_module(module, what, state, {name: (name,) for name in names}, META_OTHERS, where)
        return
    theirs = {name: tuple(_prefix(part, prefix) for part in huggingface_names(name)) for name in names}
    others = [prefix + STACKED, *(_prefix(part, prefix) for part in HUGGING_FACE_PARTS if part not in place.parts)]
    fill_module(module, what, state, theirs, tuple(others), where)


def _prefix(name: str, prefix: str) -> str:
    return prefix + name if name.startswith(("encoder.", "predictor.")) else name


def count_classes(place: PartPlace, layers: tuple[str, ...], asked: tuple[int, ...]) -> tuple[int, ...]:
    """How many classes each linear layer has, as the file says; random weights have as many as were asked for."""
    if place.source == RANDOM:
        if len(asked) != len(layers) or min(asked) < 1:
            raise CheckpointError(f"random weights need counts of classes for {', '.join(layers)}; given: {asked}")
        return asked
    state, _ = place.open()
    names = [huggingface_names(f"{layer}.bias")[0] if place.folder else f"{layer}.bias" for layer in layers]
    missing = [name for name in names if name not in state]
    if missing:
        raise CheckpointError(f"{place.source} has no {', '.join(missing)}; it is not a file of such a probe")
    return tuple(len(state[name]) for name in names)


def refuse_other_width(place: PartPlace, encoder: Encoder) -> None:
    """Raise `CheckpointError` if the probe at `place` takes tokens of another width."""
    if place.source == RANDOM:
        return
    queries = place.open()[0].get("pooler.query_tokens")
    if queries is not None and queries.shape[-1] != encoder.spec.dim:
        raise CheckpointError(
            f"{place.source} holds a probe of tokens of {queries.shape[-1]} channels; {encoder.spec.name} gives "
            f"{encoder.spec.dim}: put it on the encoder that it was trained on"
        )
