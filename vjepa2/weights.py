"""What is in a model that has not been trained: seeded weights under which mistakes show."""

import zlib

import torch
from torch import Tensor, nn

RANDOM_WARNING = "the weights are random: every number is real, and the embeddings mean nothing"
_STD = 0.02  # transformers' initializer_range
_SHARPEN = 4.0  # on query and key rows


def fill_random(module: nn.Module, seed: int) -> None:
    """Give every parameter of `module` (which may be on the meta device) seeded values, on the CPU, in float32.

    Transformers' initialisation leaves attention uniform, so that a wrong rotary layout passes every gate; here the
    query and key weights are four times as large, and no bias is zero and no gain one. Each tensor's values follow
    from the seed and its name alone, so a model cut to fewer layers keeps the weights of those it has.
    """
    state = {name: _values(name, tuple(old.shape), seed) for name, old in module.named_parameters()}
    module.load_state_dict(state, strict=True, assign=True)


def _values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    # 32 bits: the generator of the CPU does not look at more
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.empty(shape, device="cpu")
    if len(shape) > 1:
        nn.init.trunc_normal_(values, std=_STD, generator=generator)
        if name.endswith("attn.qkv.weight"):
            values[: 2 * shape[1]] *= _SHARPEN
        return values
    spread = 0.1 if _is_gain(name) else _STD
    return values.normal_(std=spread, generator=generator) + float(_is_gain(name))


def _is_gain(name: str) -> bool:
    layer, _, kind = name.rpartition(".")
    return kind == "weight" and layer.rpartition(".")[2].startswith("norm")
