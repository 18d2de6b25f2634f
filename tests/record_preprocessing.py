"""What does transformers' VJEPA2VideoProcessor make of pictures of every shape? `make record-preprocess` asks it.

It needs torchvision; what it gave lies in data/processor.npz: for each crop and each picture's shape some rows of the
pixels before normalisation, and the SHA-256 of all of them.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TARGET = Path(__file__).parent / "data" / "processor.npz"
ASPECTS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 10), (16, 9), (2, 1), (21, 9), (32, 9), (3, 4), (9, 16), (1, 2))
SHORT_SIDES = (97, 180, 240, 480, 720)  # pixels
CROPS = (256, 384)
ROWS = (0, 1, 127, -1)  # of the crop


def list_shapes() -> list[tuple[int, int]]:
    """Height and width of every picture."""
    return [
        (side, round(side * across / down)) if across >= down else (round(side * down / across), side)
        for across, down in ASPECTS
        for side in SHORT_SIDES
    ]


def paint(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture `[H, W, 3]` of noise over gradients, the same on every machine: integers and nothing else."""
    row, column, colour = np.ogrid[:height, :width, :3]
    noise = (row * 374761393 + column * 668265263 + colour * 974634777).astype(np.uint32)
    noise = (noise ^ (noise >> np.uint32(13))) * np.uint32(1274126177)
    smooth = (row * 255 // height + column * 255 // width + 60 * colour) // 3
    picture: npt.NDArray[np.uint8] = ((noise >> np.uint32(24)) // 2 + smooth.astype(np.uint32) // 2).astype(np.uint8)
    return picture


def import_processor() -> Any:
    """The processor's class, with the two operators declared that torchvision's own library would bring."""
    import torch  # noqa: PLC0415  (first, to declare them in)

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers import VJEPA2VideoProcessor  # noqa: PLC0415

    return VJEPA2VideoProcessor


def record() -> None:
    """Write what the processor gives for every crop and shape."""
    processor_class = import_processor()
    arrays: dict[str, Any] = {}
    for crop in CROPS:
        processor = processor_class(crop_size=crop)
        rows, digests = [], []
        for height, width in list_shapes():
            tensors = processor([paint(height, width)], do_rescale=False, do_normalize=False, return_tensors="np")
            pixels_HWC = np.ascontiguousarray(tensors["pixel_values_videos"][0, 0].transpose(1, 2, 0))
            assert pixels_HWC.dtype == np.uint8
            assert pixels_HWC.shape == (crop, crop, 3)
            rows.append(pixels_HWC[list(ROWS)])
            digests.append(hashlib.sha256(pixels_HWC.tobytes()).hexdigest())
        arrays |= {f"rows_{crop}": np.stack(rows), f"sha256_{crop}": np.array(digests)}
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    record()
