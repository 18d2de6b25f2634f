"""In which order do images come, and as which tensors?

Axes: B batch, H, W pixels, C colours.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vjepa2.fitting import fit_pixels
from vjepa2.image_folder import Sample
from vjepa2.pixels import read_image
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels as the model's clip wants them, and what they show."""

    pixels_BHWC: Tensor  # uint8
    labels_B: Tensor  # int64


def order_epoch(samples: Sequence[Sample], *, seed: int, epoch: int) -> list[Sample]:
    """All samples in the order of one epoch, which follows from its arguments and from nothing else."""
    return [samples[index] for index in np.random.default_rng([seed, epoch]).permutation(len(samples))]


def read_batches(batches: Iterable[Sequence[Sample]], clip: ClipSpec, *, workers: int) -> Iterator[ImageBatch]:
    """Each of `batches` as tensors, in order; `workers` threads read ahead, and their number changes nothing else."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[ImageBatch]] = deque()
        try:
            for batch in batches:
                ahead.append(pool.submit(_read_batch, batch, clip))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def normalise_pixels(pixels_BHWC: Tensor) -> Tensor:
    """Float32 images `[B, C, H, W]` as the encoder was trained on them; bit for bit what the runtime computes."""
    mean_C, std_C = (torch.tensor(values, device=pixels_BHWC.device) for values in (RGB_MEAN, RGB_STD))
    return ((pixels_BHWC - 255 * mean_C) / (255 * std_C)).permute(0, 3, 1, 2).contiguous()


def _read_batch(samples: Sequence[Sample], clip: ClipSpec) -> ImageBatch:
    images = [fit_pixels(read_image(sample.file), clip) for sample in samples]
    labels = torch.tensor([sample.label for sample in samples])
    return ImageBatch(torch.from_numpy(np.stack(images)), labels)
