"""Which images does a folder hold, of which classes, and which of them are held out?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vjepa2.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_VAL_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """An image file and the number of its class."""

    file: Path
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Images to learn from and images to be tested on; class `i` is called `labels[i]`."""

    path: Path
    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]


def scan_images(path: str | Path, *, val_fraction: float | None = None, seed: int = 0) -> ImageFolder:
    """The images of a folder with one folder a class, or with two such folders, `train` and `val`.

    Without `train` and `val`, a part of every class is held out: `val_fraction` of its images (a tenth), at least
    one, chosen by `seed` and the order of the names alone. Classes are numbered in the order of their names.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; give one that holds a folder of images for each class")
    held = {name for name in ("train", "val") if (folder / name).is_dir()}
    if len(held) == 1:
        raise ImageError(f"{folder} has {held.pop()!r} alone of train and val; give both, or class folders only")
    if not held:
        return _split(folder, _scan_classes(folder), _VAL_FRACTION if val_fraction is None else val_fraction, seed)
    if val_fraction is not None:
        raise ImageError(f"{folder} has a folder val and val_fraction is {val_fraction}; leave one of them out")
    train, val = _scan_classes(folder / "train"), _scan_classes(folder / "val")
    if set(train) != set(val):
        raise ImageError(f"{folder}: train and val differ in the classes {sorted(set(train) ^ set(val))}")
    return ImageFolder(path=folder, labels=tuple(train), train=_number(train), val=_number(val))


def _scan_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, both in the order of their names."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ImageError(f"{folder} has {len(names)} class folders; a classifier needs at least two")
    classes = {name: _find_images(folder / name) for name in names}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ImageError(f"{folder} has no image in {empty}; fill or remove these folders ({', '.join(SUFFIXES)})")
    return classes


def _find_images(folder: Path) -> list[Path]:
    """The images under `folder`, however deep."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _split(folder: Path, classes: dict[str, list[Path]], val_fraction: float, seed: int) -> ImageFolder:
    if not 0 < val_fraction < 1:
        raise ImageError(f"val_fraction is {val_fraction}; it must lie between 0 and 1")
    train, val = {}, {}
    for number, (name, files) in enumerate(classes.items()):
        if len(files) < 2:
            raise ImageError(f"{folder / name} has one image; to hold one out there must be at least two")
        order = np.random.default_rng([seed, number]).permutation(len(files))
        count = min(max(1, round(val_fraction * len(files))), len(files) - 1)
        val[name] = [files[index] for index in sorted(order[:count])]
        train[name] = [files[index] for index in sorted(order[count:])]
    return ImageFolder(path=folder, labels=tuple(classes), train=_number(train), val=_number(val))


def _number(classes: dict[str, list[Path]]) -> tuple[Sample, ...]:
    return tuple(Sample(file, label) for label, files in enumerate(classes.values()) for file in files)
