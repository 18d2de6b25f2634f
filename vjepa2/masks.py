"""Which tokens does a mask name?

Axes: B batch, N tokens, K tokens that are named, D channels of a token.
"""

import torch
from torch import Tensor

from vjepa2.errors import SpecError


def check_ids(name: str, ids_BK: Tensor, batch: int, tokens: int) -> None:
    """Raise `SpecError` unless each of `batch` rows names at least one of `tokens` tokens, and none twice."""
    if ids_BK.dtype != torch.int64 or ids_BK.ndim != 2 or len(ids_BK) != batch or not ids_BK.shape[1]:
        raise SpecError(
            f"{name} are {ids_BK.dtype} {list(ids_BK.shape)}; they must be int64 [{batch}, K], a row for each clip"
        )
    least, most = int(ids_BK.min()), int(ids_BK.max())
    if least < 0 or most >= tokens:
        raise SpecError(f"{name} are from {least} to {most}; this model's tokens are 0 to {tokens - 1}")
    ordered_BK = ids_BK.sort(dim=1).values
    repeated = ordered_BK[:, 1:][ordered_BK[:, 1:] == ordered_BK[:, :-1]]
    if len(repeated):
        raise SpecError(f"{name} name token {int(repeated[0])} twice in one row; name each token once")


def take_tokens(x_BND: Tensor, ids_BK: Tensor) -> Tensor:
    """The named tokens `[B, K, D]`, in the order of `ids_BK`."""
    return x_BND.gather(1, ids_BK[..., None].expand(-1, -1, x_BND.shape[2]))
