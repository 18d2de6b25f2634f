"""What is a parameter called in a released file: one table, read in both directions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

STACKED = "predictor.embeddings.mask_tokens"  # one tensor of all mask tokens, which are ours by number

# inside a block, where encoder and predictor agree
_BLOCK_NAMES: dict[str, tuple[str, ...]] = {
    "norm1": ("norm1",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_POOLER_NAMES: dict[str, tuple[str, ...]] = {
    "norm1": ("layer_norm1",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "norm2": ("layer_norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


def _within(ours: str, theirs: str, table: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{name}": tuple(f"{theirs}.{part}" for part in parts) for name, parts in table.items()}


# ours (Meta's names without their wrappers' prefixes) -> Hugging Face's; several names are parts of a packed tensor
_HUGGING_FACE: dict[str, tuple[str, ...]] = {
    "patch_embed.proj": ("encoder.embeddings.patch_embeddings.proj",),
    **_within("blocks.{}", "encoder.layer.{}", _BLOCK_NAMES),
    "norm": ("encoder.layernorm",),
    "predictor_embed": ("predictor.embeddings.predictor_embeddings",),
    "mask_tokens": (STACKED,),
    **_within("predictor_blocks.{}", "predictor.layer.{}", _BLOCK_NAMES),
    "predictor_norm": ("predictor.layernorm",),
    "predictor_proj": ("predictor.proj",),
    "pooler": ("pooler",),
    **_within("pooler.blocks.{}", "pooler.self_attention_layers.{}", _POOLER_NAMES),
    "pooler.cross_attention_block.norm1": ("pooler.cross_attention_layer.layer_norm1",),
    "pooler.cross_attention_block.xattn.q": ("pooler.cross_attention_layer.cross_attn.q_proj",),
    "pooler.cross_attention_block.xattn.kv": (
        "pooler.cross_attention_layer.cross_attn.k_proj",
        "pooler.cross_attention_layer.cross_attn.v_proj",
    ),
    "pooler.cross_attention_block.norm2": ("pooler.cross_attention_layer.layer_norm2",),
    "pooler.cross_attention_block.mlp.fc1": ("pooler.cross_attention_layer.mlp.fc1",),
    "pooler.cross_attention_block.mlp.fc2": ("pooler.cross_attention_layer.mlp.fc2",),
    "linear": ("classifier",),
}
_META_WRAPPERS = re.compile(r"^(module\.)?(backbone\.)?")
_BLOCK = re.compile(r"(?<=blocks\.)\d+")

# the parts of the released files; a module is one of them, or two
HUGGING_FACE_PARTS = ("encoder.", "predictor.", "pooler.", "classifier.")
HUGGING_FACE_OTHERS = HUGGING_FACE_PARTS[1:]  # which an encoder does not have
META_OTHERS = ("pos_embed", "predictor_pos_embed")  # fixed tables that old files carry; rotary models never used them


def huggingface_names(name: str) -> tuple[str, ...]:
    """Hugging Face's names of our parameter, in the order in which `pack` wants them."""
    stem, kind = name.rsplit(".", 1)
    block = _BLOCK.search(stem)
    pattern = _BLOCK.sub("{}", stem)
    number = block.group() if block else ""
    return tuple(f"{theirs.format(number)}.{kind}" for theirs in _HUGGING_FACE[pattern])


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names, packed tensors cut apart and mask tokens stacked."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = huggingface_names(name)
        renamed.update(zip(theirs, tensor.chunk(len(theirs)), strict=True))
    stacked = [renamed.pop(f"{STACKED}.{row}") for row in range(sum(name.startswith(STACKED) for name in renamed))]
    return renamed | ({STACKED: torch.stack(stacked)} if stacked else {})


def unstack(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The rows of Hugging Face's stacked mask tokens under the names that `huggingface_names` gives them."""
    name = prefix + STACKED
    return {f"{name}.{row}": tensor for row, tensor in enumerate(state[name])} if name in state else {}


def meta_name(key: str) -> str:
    """Our name of a key in a Meta checkpoint: the wrappers' prefixes taken off."""
    return _META_WRAPPERS.sub("", key)


def pack(tensors: list[Tensor]) -> Tensor:
    """One tensor from the parts it is kept in."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
