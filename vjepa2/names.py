"""What is a parameter called in a released file: one table, read in both directions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# ours (Meta's names without their wrappers' prefixes) -> Hugging Face's; three names are the thirds of a packed tensor
_HUGGING_FACE: dict[str, tuple[str, ...]] = {
    "patch_embed.proj": ("embeddings.patch_embeddings.proj",),
    "blocks.{}.norm1": ("layer.{}.norm1",),
    "blocks.{}.attn.qkv": (
        "layer.{}.attention.query",
        "layer.{}.attention.key",
        "layer.{}.attention.value",
    ),
    "blocks.{}.attn.proj": ("layer.{}.attention.proj",),
    "blocks.{}.norm2": ("layer.{}.norm2",),
    "blocks.{}.mlp.fc1": ("layer.{}.mlp.fc1",),
    "blocks.{}.mlp.fc2": ("layer.{}.mlp.fc2",),
    "norm": ("layernorm",),
}
_META_WRAPPERS = re.compile(r"^(module\.)?(backbone\.)?")
_BLOCK = re.compile(r"(?<=blocks\.)\d+")

# other parts of the released files, which an encoder does not have
HUGGING_FACE_OTHERS = ("predictor.", "pooler.", "classifier.")
META_OTHERS = ("pos_embed",)  # a fixed table that old files carry; rotary models never used it


def huggingface_names(name: str) -> tuple[str, ...]:
    """Hugging Face's names of our parameter, in the order in which `pack` wants them."""
    stem, kind = name.rsplit(".", 1)
    block = _BLOCK.search(stem)
    pattern = _BLOCK.sub("{}", stem)
    number = block.group() if block else ""
    return tuple(f"encoder.{theirs.format(number)}.{kind}" for theirs in _HUGGING_FACE[pattern])


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names, packed tensors cut apart."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = huggingface_names(name)
        renamed.update(zip(theirs, tensor.chunk(len(theirs)), strict=True))
    return renamed


def meta_name(key: str) -> str:
    """Our name of a key in a Meta checkpoint: the wrappers' prefixes taken off."""
    return _META_WRAPPERS.sub("", key)


def pack(tensors: list[Tensor]) -> Tensor:
    """One tensor from the parts it is kept in."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
