"""What is in a model that has not been trained: seeded weights under which mistakes show."""

import re
import zlib

import torch
from torch import Tensor, nn

RANDOM_WARNING = "the weights are random: every number is real, and the embeddings mean nothing"
_STD = 0.02  # transformers' initializer_range
_SHARPEN = 4.0  # on query and key rows
_SHARPEN_DIM = 1024  # wider models are sharpened less, to ViT-L's attention
_QUERY_AND_KEY = re.compile(r"attn\.(qkv|q|kv)\.weight$")  # `xattn.q`, `xattn.kv` are those of a pooler
_ROWS = {"qkv": 2, "q": 1, "kv": 1}  # how many of a tensor's squares are queries or keys
_LAYER_NORM = re.compile(r"norm\w*(\.\d+)?\.weight$")


def fill_random(module: nn.Module, seed: int) -> None:
    """Give every parameter of `module` (which may be on the meta device) seeded values, on the CPU, in float32.

    Transformers' initialisation leaves attention uniform, so that a wrong rotary layout passes every gate; here the
    query and key weights are four times as large, and no bias is zero and no gain one. Scores grow with the width: with
    four on ViT-g, float32 itself is 7e-5 from float64 on a small clip, with ViT-L's sharpness 1.5e-5. Each tensor's
    values follow from the seed and its name alone, so a model cut to fewer layers keeps the weights of those it has.
    """
    state = {name: _values(name, tuple(old.shape), seed) for name, old in module.named_parameters()}
    module.load_state_dict(state, strict=True, assign=True)


def _values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    # 32 bits: the generator of the CPU does not look at more
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.empty(shape, device="cpu")
    if len(shape) > 1:
        nn.init.trunc_normal_(values, std=_STD, generator=generator)
        match = _QUERY_AND_KEY.search(name)
        if match:  # values follow, if the tensor holds them
            values[: _ROWS[match[1]] * shape[1]] *= _SHARPEN * min(1.0, (_SHARPEN_DIM / shape[1]) ** 0.5)
        # nothing normalises a pooler's queries: small ones would leave its attention uniform
        return values / _STD if name.endswith("query_tokens") else values
    is_gain = _LAYER_NORM.search(name) is not None
    return values.normal_(std=0.1 if is_gain else _STD, generator=generator) + float(is_gain)
