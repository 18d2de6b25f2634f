"""The family once more, in plain numpy and float64: slow, and sharing nothing with the model but its parameters.

Axes: B batch, N tokens, D channels of a token, M queries, A heads, K channels per head.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float64]
State = Mapping[str, Array]
_erf = np.vectorize(math.erf)  # numpy has none
DTYPES = [torch.float32, torch.float64]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Models that are made inside have parameters and tables of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def sharpen(module: nn.Module) -> None:
    """Make queries and keys as large as they are at width 1024, so that mistakes in attention show."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("attn.qkv.weight"):
                value[: 2 * value.shape[1]] *= (1024 / value.shape[1]) ** 0.5


def assert_same(got: torch.Tensor, must: Array) -> None:
    """Both in float64: within 1e-9; in float32: within 1e-5, relative to what is larger than one."""
    assert got.shape == must.shape
    limit = 1e-9 if got.dtype == torch.float64 else 1e-5 * max(1.0, float(np.abs(must).max()))
    assert float(np.abs(got.double().numpy() - must).max()) <= limit


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
    out: Array = x * (1 + _erf(x / np.sqrt(2))) / 2
    return out


def mlp(state: State, name: str, x: Array) -> Array:
    return linear(state, f"{name}.fc2", gelu(linear(state, f"{name}.fc1", x)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out


def attend(q_BMD: Array, k_BND: Array, v_BND: Array, heads: int, mask_MN: Array | None = None) -> Array:
    """Head by head; `mask_MN` is added to the scores."""
    size = q_BMD.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores_BMN = q_BMD[..., part] @ k_BND[..., part].swapaxes(1, 2) / np.sqrt(size)
        if mask_MN is not None:
            scores_BMN = scores_BMN + mask_MN
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


def turn(x_BND: Array, places_N3: Array, heads: int, layout: str) -> Array:
    """Rotary positions, channel by channel: each of time, row and column has its block in every head."""
    size = x_BND.shape[-1] // heads
    pairs = size // 3 // 2
    out_BND = x_BND.copy()
    for head in range(heads):
        for axis in range(3):
            for channel in range(2 * pairs):
                step = channel % pairs if layout == "tiled" else channel // 2
                angle_N = places_N3[..., axis] / 10_000 ** (step / pairs)
                here = head * size + axis * 2 * pairs + channel
                there, sign = (here + 1, -1) if channel % 2 == 0 else (here - 1, 1)
                out_BND[..., here] = x_BND[..., here] * np.cos(angle_N) + sign * x_BND[..., there] * np.sin(angle_N)
    return out_BND


def rotary_block(state: State, x: Array, places_N3: Array, heads: int, layout: str, mask: Array | None = None) -> Array:
    dim = x.shape[-1]
    qkv = linear(state, "attn.qkv", layer_norm(state, "norm1", x, 1e-6))
    q, k = (turn(qkv[..., part * dim : (part + 1) * dim], places_N3, heads, layout) for part in (0, 1))
    x = x + linear(state, "attn.proj", attend(q, k, qkv[..., 2 * dim :], heads, mask))
    return x + mlp(state, "mlp", layer_norm(state, "norm2", x, 1e-6))


def places(ids: npt.NDArray[np.int64], rows: int, columns: int, side: int | None = None) -> Array:
    """Time, row and column of tokens by number; rows and columns rescaled to 0 .. side - 1."""
    row, column = (ids % (rows * columns) // columns).astype(float), (ids % columns).astype(float)
    if side is not None:
        row = row * (side - 1) / (rows - 1) if rows > 1 else row
        column = column * (side - 1) / (columns - 1) if columns > 1 else column
    return np.stack([(ids // (rows * columns)).astype(float), row, column], axis=-1)


def patches(state: State, name: str, clips_BTCHW: Array) -> Array:
    """Tokens, one by one: a tubelet's pixels times the projection."""
    weight = state[f"{name}.proj.weight"]
    tubelet, patch = weight.shape[2], weight.shape[3]
    _, frames, _, height, width = clips_BTCHW.shape
    tokens = [
        np.einsum(
            "btcyx,dctyx->bd",
            clips_BTCHW[:, t : t + tubelet, :, y : y + patch, x : x + patch],
            weight,
        )
        for t in range(0, frames, tubelet)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    return np.stack(tokens, axis=1) + state[f"{name}.proj.bias"]


def encoder(
    state: State,
    clips_BTCHW: Array,
    *,
    heads: int,
    version: str = "2.1",
    layers: list[int],
    ids_BK: npt.NDArray[np.int64] | None = None,
) -> list[Array]:
    """Normed tokens after each of `layers`; `layers` of version 2.1 must be its levels."""
    image = version == "2.1" and clips_BTCHW.shape[1] == 1
    x = patches(state, "patch_embed_img" if image else "patch_embed", clips_BTCHW)
    if version == "2.1":
        x = x + state["img_mod_embed" if image else "video_mod_embed"]
    ids = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2])
    if ids_BK is not None:
        x, ids = np.stack([x[row, kept] for row, kept in enumerate(ids_BK)]), ids_BK
    rows, columns = clips_BTCHW.shape[3] // 16, clips_BTCHW.shape[4] // 16
    where = places(ids, rows, columns, 16 if version == "2.1" else None)
    layout = "interleaved" if version == "2.1" else "tiled"
    normed = []
    for block in range(max(layers) + 1):
        x = rotary_block(under(state, f"blocks.{block}."), x, where, heads, layout)
        if block in layers:
            name = f"norms_block.{layers.index(block)}" if version == "2.1" else "norm"
            normed.append(layer_norm(state, name, x, 1e-6))
    return normed


def predictor(
    state: State,
    tokens_BKD: Array,
    context_ids_BK: npt.NDArray[np.int64],
    target_ids_BL: npt.NDArray[np.int64],
    *,
    heads: int,
    grid: tuple[int, int],
    version: str = "2",
    side: int | None = None,
    modality: str = "video_mod_embed",
    mask_index: int = 1,
) -> tuple[Array, Array | None]:
    """Predicted tokens at the targets and, of version 2.1, at the context."""
    if "predictor_embed.weight" in state:
        x = linear(state, "predictor_embed", tokens_BKD)
    else:
        x = linear(state, "predictor_embed.2", gelu(linear(state, "predictor_embed.0", tokens_BKD)))
    masks = np.tile(state[f"mask_tokens.{mask_index}"], (*target_ids_BL.shape, 1))
    x = np.concatenate([x, masks], axis=1)
    if version == "2.1":
        x = x + state[modality]
    where = places(np.concatenate([context_ids_BK, target_ids_BL], axis=1), *grid, side)
    for block in range(sum(name.endswith("norm1.weight") for name in state)):
        layout = "tiled" if version == "2" else "interleaved"
        x = rotary_block(under(state, f"predictor_blocks.{block}."), x, where, heads, layout)
    x = layer_norm(state, "predictor_norm", x, 1e-6)
    count = tokens_BKD.shape[1]
    context = linear(state, "predictor_proj_context", x[:, :count]) if version == "2.1" else None
    return linear(state, "predictor_proj", x[:, count:]), context


def action_predictor(
    state: State, tokens_BND: Array, actions_BSC: Array, states_BSC: Array, *, heads: int, grid: tuple[int, int]
) -> Array:
    """One sequence of action, state and image after the other; a step sees no later one."""
    each = grid[0] * grid[1]
    sequence, where, step_of, is_image = [], [], [], []
    for step in range(actions_BSC.shape[1]):
        image = linear(state, "predictor_embed", tokens_BND[:, step * each : (step + 1) * each])
        sequence += [
            linear(state, "action_encoder", actions_BSC[:, step : step + 1]),
            linear(state, "state_encoder", states_BSC[:, step : step + 1]),
            image,
        ]
        where += [
            [[step, 0, 0]],
            [[step, 0, 0]],
            [[step, row, col] for row in range(grid[0]) for col in range(grid[1])],
        ]
        step_of += [step] * (each + 2)
        is_image += [False, False] + [True] * each
    x = np.concatenate(sequence, axis=1)
    steps = np.array(step_of)
    mask = np.where(steps[:, None] >= steps[None], 0.0, -np.inf)
    where_M3 = np.concatenate(where).astype(float)
    for block in range(sum(name.endswith("norm1.weight") for name in state)):
        x = rotary_block(under(state, f"predictor_blocks.{block}."), x, where_M3, heads, "tiled", mask)
    return linear(state, "predictor_proj", layer_norm(state, "predictor_norm", x[:, np.array(is_image)], 1e-6))
