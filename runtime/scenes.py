"""What does a generated clip show: textured shapes that move over a moving ground, from a seed."""

import numpy as np
import numpy.typing as npt


def generate_scene(frames: int, height: int, width: int, *, seed: int = 0, step: float = 6.0) -> npt.NDArray[np.uint8]:
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
