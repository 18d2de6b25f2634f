"""Which frames of a video make a clip?"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError

Pad = Literal["none", "repeat-last"]
IndexArray = npt.NDArray[np.int64]


def choose_frames(total: int, count: int, *, pad: Pad = "none", name: str = "the video") -> IndexArray:
    """Numbers of `count` frames spread evenly over `total`: arange(count) * total // count, as in transformers.

    With fewer frames than `count`, a `VideoError`, unless `pad` repeats the last frame.
    """
    if total < 1:
        raise VideoError(f"{name} has no frames; give one that has {count}")
    if total < count and pad == "none":
        raise VideoError(
            f"{name} has {total} frames and the clip takes {count}; give a longer video, export for fewer frames, "
            "or ask to pad with repeat-last"
        )
    numbers = np.arange(count, dtype=np.int64) * max(total, count) // count
    return np.minimum(numbers, total - 1)
