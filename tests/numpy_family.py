"""The family once more, in plain numpy and float64: slow, and sharing nothing with the model but its parameters.

Axes: B batch, N tokens, D channels of a token, M queries, A heads, K channels per head.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float64]
State = Mapping[str, Array]


def state_of(module: nn.Module) -> State:
    """A module's parameters in float64."""
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def under(state: State, prefix: str) -> State:
    """The parameters whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def linear(state: State, name: str, x: Array) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state: State, name: str, x: Array, eps: float) -> Array:
    return normalise(x, eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def normalise(x: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    out: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return out


def gelu(x: Array) -> Array:
    erf = torch.special.erf(torch.from_numpy(x / np.sqrt(2))).numpy()  # numpy has none
    out: Array = x * (1 + erf) / 2
    return out


def mlp(state: State, name: str, x: Array) -> Array:
    return linear(state, f"{name}.fc2", gelu(linear(state, f"{name}.fc1", x)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out


def attend(q_BMD: Array, k_BND: Array, v_BND: Array, heads: int) -> Array:
    """Head by head."""
    size = q_BMD.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores_BMN = q_BMD[..., part] @ k_BND[..., part].swapaxes(1, 2) / np.sqrt(size)
        mixed.append(softmax(scores_BMN) @ v_BND[..., part])
    return np.concatenate(mixed, axis=-1)


def plain_block(state: State, x: Array, heads: int, eps: float) -> Array:
    dim = x.shape[-1]
    qkv = linear(state, "attn.qkv", layer_norm(state, "norm1", x, eps))
    mixed = attend(qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :], heads)
    x = x + linear(state, "attn.proj", mixed)
    return x + mlp(state, "mlp", layer_norm(state, "norm2", x, eps))


def pooler(state: State, tokens_BND: Array, heads: int, eps: float = 1e-5) -> Array:
    """Three self-attention blocks and a cross-attention block whose queries are not normed."""
    dim = tokens_BND.shape[-1]
    for block in range(3):
        tokens_BND = plain_block(under(state, f"blocks.{block}."), tokens_BND, heads, eps)
    cross = under(state, "cross_attention_block.")
    queries = np.repeat(state["query_tokens"], len(tokens_BND), axis=0)
    kv = linear(cross, "xattn.kv", layer_norm(cross, "norm1", tokens_BND, eps))
    queries = queries + attend(linear(cross, "xattn.q", queries), kv[..., :dim], kv[..., dim:], heads)
    return queries + mlp(cross, "mlp", layer_norm(cross, "norm2", queries, eps))
