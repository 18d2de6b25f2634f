"""Writes a folder of pictures of ten kinds of shapes, from a seed: something small to learn from."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float64]

# class -> whether a point of the square [-1, 1] x [-1, 1] belongs to the shape
SHAPES: dict[str, Callable[[Plane, Plane], npt.NDArray[np.bool_]]] = {
    "bar-across": lambda y, x: (abs(y) < 0.3) & (abs(x) < 1),
    "bar-down": lambda y, x: (abs(x) < 0.3) & (abs(y) < 1),
    "cross": lambda y, x: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 1),
    "diamond": lambda y, x: abs(x) + abs(y) < 1,
    "disc": lambda y, x: x**2 + y**2 < 0.8,
    "frame": lambda y, x: (np.maximum(abs(x), abs(y)) < 0.9) & (np.maximum(abs(x), abs(y)) > 0.55),
    "ring": lambda y, x: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.4),
    "saltire": lambda y, x: (np.minimum(abs(x - y), abs(x + y)) < 0.35) & (np.maximum(abs(x), abs(y)) < 0.9),
    "square": lambda y, x: np.maximum(abs(x), abs(y)) < 0.8,
    "triangle": lambda y, x: (y < 0.8) & (y > 2 * abs(x) - 0.9),
}


def draw_shape(name: str, random: np.random.Generator, side: int = 64) -> npt.NDArray[np.uint8]:
    """Pixels `[side, side, 3]`, uint8: one shape of any colour, size and place on a noisy ground."""
    radius = random.uniform(0.22, 0.32) * side
    row, column = side / 2 + random.uniform(-0.12, 0.12, 2) * side
    y, x = (np.mgrid[:side, :side] - np.array([row, column])[:, None, None]) / radius
    ground, colour = random.uniform(0, 110, 3), random.uniform(145, 255, 3)
    if random.random() < 0.5:
        ground, colour = colour, ground
    picture = np.where(SHAPES[name](y, x)[..., None], colour, ground) + random.normal(0, 12, (side, side, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_shapes(
    folder: Path, count: int, *, names: Sequence[str] = tuple(SHAPES), side: int = 64, seed: int = 0
) -> None:
    """`count` PNG pictures of every shape of `names` under `folder`, one folder a shape."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        random = np.random.default_rng([seed, number])
        for index in range(count):
            Image.fromarray(draw_shape(name, random, side)).save(folder / name / f"{index:04}.png")


if __name__ == "__main__":
    write_shapes(Path(sys.argv[1]), 200)
