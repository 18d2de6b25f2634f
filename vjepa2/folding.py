"""How do normalising pixels and projecting patches become one MatMul, and one again two?

Axes: D channels of a token, C colours, dt frames, dy rows, dx columns of a patch, P = dt * dy * dx * C.
"""

import torch
from torch import Tensor

from vjepa2.spec import RGB_MEAN, RGB_STD


def fold_patches(weight_DCtyx: Tensor, bias_D: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[P, D]` and bias `[D]` for raw pixels 0..255 that lie as frames do, colour fastest; folded in float64.

    Normalising is (pixel / 255 - mean) / std: its scale goes into the weight and its shift into the bias.
    """
    scale_C, shift_C = _normalisation()
    weight = weight_DCtyx.double()
    bias = bias_D.double() + (weight.flatten(2).sum(2) * shift_C).sum(1)
    scaled = weight * scale_C[:, None, None, None]
    return scaled.permute(2, 3, 4, 1, 0).flatten(0, 3).float().contiguous(), bias.float()


def unfold_patches(weight_PD: Tensor, bias_D: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What `fold_patches` was given, `shape` being the weight's; equal within float32's rounding."""
    dim, colours, frames, rows, columns = shape
    scale_C, shift_C = _normalisation()
    scaled = weight_PD.double().reshape(frames, rows, columns, colours, dim).permute(4, 3, 0, 1, 2)
    weight = scaled / scale_C[:, None, None, None]
    bias = bias_D.double() - (weight.flatten(2).sum(2) * shift_C).sum(1)
    return weight.float().contiguous(), bias.float()


def _normalisation() -> tuple[Tensor, Tensor]:
    """Scale and shift per colour: normalised = pixel * scale + shift."""
    mean_C, std_C = (torch.tensor(values, dtype=torch.float64) for values in (RGB_MEAN, RGB_STD))
    return 1 / (255 * std_C), -mean_C / std_C
