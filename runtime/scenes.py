"""What does a generated clip show: textured shapes that move over a moving ground, from a seed, and what is odd."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
OddClip = Literal["static", "black", "flashing", "noise", "saturated", "fast"]
_CUTS = 1000  # seeds of the scenes that a fast clip shows, apart from those of other clips


def generate_scene(frames: int, height: int, width: int, *, seed: int = 0, step: float = 6.0) -> Frames:
    """Frames `[T, H, W, 3]`, uint8 RGB; everything moves by about `step` pixels a frame, so frame order matters."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    waves = random.uniform(0.02, 0.12, (3, 2))
    drift = random.uniform(-step, step, 2)
    shapes = random.uniform(0, 1, (5, 4))  # row, column, size, heading
    colours = random.uniform(0, 255, (5, 3))
    scene = np.empty((frames, height, width, 3), np.uint8)
    for time in range(frames):
        y, x = rows + drift[0] * time, columns + drift[1] * time
        ground = [127 + 90 * np.sin(fy * y + fx * x + channel) for channel, (fy, fx) in enumerate(waves)]
        frame = np.stack(ground, axis=-1)
        for (row, column, size, heading), colour in zip(shapes, colours, strict=True):
            turn = 2 * np.pi * heading
            centre_y = (row * height + step * time * np.sin(turn)) % height
            centre_x = (column * width + step * time * np.cos(turn)) % width
            radius = (0.06 + 0.12 * size) * min(height, width)
            inside = (rows - centre_y) ** 2 + (columns - centre_x) ** 2 < radius**2
            frame[inside] = colour
        scene[time] = np.clip(frame, 0, 255)
    return scene


def generate_odd_clip(kind: OddClip, frames: int, height: int, width: int, *, seed: int = 0) -> Frames:
    """Frames `[T, H, W, 3]` of a kind that moving scenes are not; the same for the same numbers."""
    return _ODD[kind](frames, height, width, seed)


def _static(frames: int, height: int, width: int, seed: int) -> Frames:
    return np.repeat(generate_scene(1, height, width, seed=11 + seed), frames, axis=0)


def _black(frames: int, height: int, width: int, _: int) -> Frames:
    return np.zeros((frames, height, width, 3), np.uint8)


def _flashing(frames: int, height: int, width: int, seed: int) -> Frames:
    """Every other frame at half its brightness."""
    scene = generate_scene(frames, height, width, seed=12 + seed)
    scene[1::2] //= 2
    return scene


def _noise(frames: int, height: int, width: int, seed: int) -> Frames:
    return np.random.default_rng(13 + seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def _saturated(frames: int, height: int, width: int, seed: int) -> Frames:
    """Nothing but 0 and 255."""
    return np.where(generate_scene(frames, height, width, seed=14 + seed) > 127, 255, 0).astype(np.uint8)


def _fast(frames: int, height: int, width: int, seed: int) -> Frames:
    """Every frame another scene in strong colours: no video of the world changes more from frame to frame."""
    cuts = [generate_scene(1, height, width, seed=_CUTS + seed + number) for number in range(frames)]
    return np.clip((np.concatenate(cuts).astype(np.int16) - 127) * 3 + 127, 0, 255).astype(np.uint8)


_ODD: dict[OddClip, Callable[[int, int, int, int], Frames]] = {
    "static": _static,
    "black": _black,
    "flashing": _flashing,
    "noise": _noise,
    "saturated": _saturated,
    "fast": _fast,
}
