"""How does the time grow with frames, size and batch: the exponent that the measured points themselves show?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vjepa2.schema import ADDED_LATER

Axis = Literal["frames", "pixels", "batch"]
AXES: tuple[Axis, ...] = ("frames", "pixels", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One bundle's time, and where it lies on each axis."""

    frames: int
    pixels: int  # of a frame
    batch: int  # clips a query
    compute_ms: float  # median
    unstable: bool = field(default=False, metadata=ADDED_LATER)  # whether its row is, and so any line through it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A line through logarithms: time grows as axis ** exponent."""

    backend: str
    axis: Axis
    points: tuple[Point, ...]
    exponent: float
    residual: float | None  # a point's largest deviation from the line, as a part; None of two points: they fit always

    @property
    def unstable(self) -> int:
        """How many of the points are not to be trusted."""
        return sum(point.unstable for point in self.points)


def fit_scaling(backend: str, points: Sequence[Point]) -> list[Scaling]:
    """A fit for every axis on which at least two points lie that agree on the others."""
    found = []
    for axis in AXES:
        rest = [other for other in AXES if other != axis]
        lines: dict[tuple[int, ...], list[Point]] = {}
        for point in points:
            lines.setdefault(tuple(getattr(point, other) for other in rest), []).append(point)
        for line in lines.values():
            if len({getattr(point, axis) for point in line}) > 1:
                found.append(_fit(backend, axis, sorted(line, key=lambda point: int(getattr(point, axis)))))
    return found


def _fit(backend: str, axis: Axis, points: Sequence[Point]) -> Scaling:
    places = np.log([getattr(point, axis) for point in points])
    times = np.log([point.compute_ms for point in points])
    exponent, offset = np.polyfit(places, times, 1)
    deviations = np.abs(times - (exponent * places + offset))
    return Scaling(
        backend=backend,
        axis=axis,
        points=tuple(points),
        exponent=float(exponent),
        residual=math.expm1(float(deviations.max())) if len(points) > 2 else None,
    )
