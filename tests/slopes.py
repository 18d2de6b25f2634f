"""Does a series of measurements grow, or is that within their noise?"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A line through points, and between what its slope lies with 95 % confidence."""

    points: int
    per_hour: float
    low: float
    high: float

    def is_within_noise(self, *, nothing: float, visible: float) -> bool:
        """Whether the slope may be none at all, and one of `visible` an hour would have been seen; NaN never passes.

        One that is certainly below `nothing` an hour passes too: of quiet series the smallest is told from none.
        """
        return (self.low <= 0 and self.high < visible) or self.high < nothing


def fit_slope(times_s: Sequence[float], values: Sequence[float], groups: Sequence[int], *, bin_s: float) -> Slope:
    """Least squares over means of `bin_s`, with a level for each group and one slope for all of them.

    Neighbours are alike, so that there are fewer independent points than points; their first autocorrelation says how
    much fewer.
    """
    bins: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for time_s, value, group in zip(times_s, values, groups, strict=True):
        bins.setdefault((group, int(time_s // bin_s)), []).append((time_s / 3600, value))
    points = np.array([np.mean(bins[key], axis=0) for key in sorted(bins)])
    owners = np.array([group for group, _ in sorted(bins)])
    for group in set(owners.tolist()):
        points[owners == group] -= points[owners == group].mean(axis=0)
    hours, sizes = points.T
    freedom = len(points) - len(set(owners.tolist())) - 1
    if freedom < 3 or not hours.any():
        raise ValueError(f"there are {len(points)} means of {bin_s:g} s; that is too few to judge: measure for longer")
    slope = float(hours @ sizes / (hours @ hours))
    rest = sizes - slope * hours
    power = float(rest @ rest)
    likeness = min(max(float(rest[1:] @ rest[:-1]) / power, 0.0), 0.9) if power else 0.0
    independent = max(1.0, freedom * (1 - likeness) / (1 + likeness))
    error = (power / independent / float(hours @ hours)) ** 0.5
    reach = _find_quantile(independent) * error
    return Slope(points=len(points), per_hour=slope, low=slope - reach, high=slope + reach)


def _find_quantile(freedom: float) -> float:
    """The 97.5 % point of Student's distribution, by the first terms of its expansion about the normal one."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
