"""Where is a token: sin-cos tables, computed in float64 and stored as float32.

Axes: N tokens, K channels per head, P pairs of channels, D channels of a token.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BASE = 10_000.0
_Float64 = npt.NDArray[np.float64]

RotaryLayout = Literal["tiled", "interleaved"]


def get_3d_sincos_pos_embed(
    embed_dim: int,
    grid_size: int | tuple[int, int],
    grid_depth: int,
    cls_token: bool = False,
) -> Tensor:
    """Fixed table float32 `[N(+1), embed_dim]` for N = depth x height x width tokens, width fastest.

    A third of the channels encode time, half of the rest height, what is left width, in this order; each axis
    is the usual table of Vaswani et al. (arXiv 1706.03762), sines first. `cls_token` puts a row of zeros first.
    """
    rows, columns = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
    if min(embed_dim, rows, columns, grid_depth) < 1:
        raise ValueError(
            f"embed_dim is {embed_dim} and the grid {grid_depth} x {rows} x {columns}; all must be positive"
        )
    time_dim = embed_dim // 3
    height_dim = (embed_dim - time_dim) // 2
    axis_dims = (time_dim, height_dim, embed_dim - time_dim - height_dim)
    places = token_places((grid_depth, rows, columns))
    table_ND = np.concatenate([_axis_table(dim, place) for dim, place in zip(axis_dims, places, strict=True)], axis=1)
    if cls_token:
        table_ND = np.concatenate([np.zeros((1, embed_dim)), table_ND])
    return torch.from_numpy(table_ND.astype(np.float32))


def rotary_tables(
    grid: tuple[int, int, int], head_dim: int, layout: RotaryLayout = "tiled", side: int | None = None
) -> tuple[Tensor, Tensor]:
    """Tables (cos, sin) `[N, head_dim]` of `x * cos + swap(x) * sin`, where swap exchanges the two of a pair.

    They are float32, or float64 where that is torch's default.
    The sine carries the swap's sign. Channels in blocks of time, height and width; what remains of a head is not
    turned. `side` rescales rows and columns, see `token_places`. `tiled` is what V-JEPA 2 was trained with: channel j
    of a block turns by frequency j mod m, though the pairs are neighbours, so the two of a pair turn differently
    (facebookresearch/vjepa2, pull request 15).
    """
    block = 2 * (head_dim // 3 // 2)
    pairs = block // 2
    omega_P = 1 / _BASE ** (np.arange(pairs) / pairs)
    omega_K = np.tile(omega_P, 2) if layout == "tiled" else np.repeat(omega_P, 2)
    angles_NK = np.zeros((int(np.prod(grid)), head_dim))
    angles_NK[:, : 3 * block] = np.concatenate([np.outer(place, omega_K) for place in token_places(grid, side)], axis=1)
    sign_K = np.where(np.arange(head_dim) % 2 == 0, -1.0, 1.0)
    cos_NK, sin_NK = np.cos(angles_NK), np.sin(angles_NK) * sign_K
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return torch.from_numpy(cos_NK).to(dtype), torch.from_numpy(sin_NK).to(dtype)


def token_places(grid: tuple[int, int, int], side: int | None = None) -> tuple[_Float64, _Float64, _Float64]:
    """Time, row and column of every token, each float64 `[N]`, column fastest.

    With `side` rows and columns run from 0 to `side - 1` whatever the grid is, as V-JEPA 2.1 was trained; of a grid
    of one row or column there is only the first.
    """
    time, row, column = np.indices(grid, dtype=np.float64).reshape(3, -1)
    if side is not None:
        row *= (side - 1) / max(grid[1] - 1, 1)
        column *= (side - 1) / max(grid[2] - 1, 1)
    return time, row, column


def _axis_table(dim: int, places_N: _Float64) -> _Float64:
    sines = (dim + 1) // 2
    omega = 1 / _BASE ** (np.arange(sines) / (dim / 2)) if dim else np.zeros(0)
    angles = np.outer(places_N, omega)
    return np.concatenate([np.sin(angles), np.cos(angles[:, : dim // 2])], axis=1)
