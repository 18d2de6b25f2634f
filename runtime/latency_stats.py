"""Which figures do so many samples support: percentiles by MLPerf's early stopping, ratios of neighbours in time?"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PERCENTILES = (50, 90, 99)
CONFIDENCE = 0.99  # with which a percentile printed here is not below the true one: MLPerf's
INTERVAL = 0.95  # of ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A bound that `percent` of all calls keep, at MLPerf's confidence; None where there are too few samples."""

    percent: int
    bound_ms: float | None
    samples_needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Every sample of one kind, and what they say. Nothing is left out."""

    boundary: str  # what is between start and end
    samples_ms: tuple[float, ...]  # of queries, in order
    least_ms: float
    median_ms: float
    most_ms: float
    variation: float  # standard deviation / mean
    drift: float  # median of the last third / that of the first, less 1
    percentiles: tuple[Percentile, ...]
    clips_per_second: float  # over all queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long as the base: of turns that were neighbours in time."""

    base: str
    pairs: int
    ratio: float  # geometric mean over pairs of medians of turns
    each: tuple[float, ...]  # of every pair: the base first, then the other first, and so on
    low: float | None  # 95 % of Student's t on the logarithms; None of less than two pairs
    high: float | None


def summarise(samples_ms: Sequence[float], *, boundary: str, clips_a_query: int) -> Timing:
    """The figures of at least one sample."""
    mean_ms, third = statistics.fmean(samples_ms), max(1, len(samples_ms) // 3)
    first_ms, last_ms = statistics.median(samples_ms[:third]), statistics.median(samples_ms[-third:])
    return Timing(
        boundary=boundary,
        samples_ms=tuple(samples_ms),
        least_ms=min(samples_ms),
        median_ms=statistics.median(samples_ms),
        most_ms=max(samples_ms),
        variation=statistics.pstdev(samples_ms) / mean_ms,
        drift=last_ms / first_ms - 1,
        percentiles=tuple(bound_percentile(samples_ms, percent) for percent in PERCENTILES),
        clips_per_second=1e3 * clips_a_query / mean_ms,
    )


def bound_percentile(samples_ms: Sequence[float], percent: int, confidence: float = CONFIDENCE) -> Percentile:
    """The least sample that the true percentile does not exceed with `confidence`, whatever the distribution.

    As MLPerf stops early: of n samples the t-th largest, t being the most that may exceed the percentile such that so
    few or fewer would do so with a chance of at most 1 - confidence. Under 64 samples there is none of p90, under 662
    none of p99.
    """
    count, over = len(samples_ms), 0
    above = 1 - percent / 100
    chance = _chance_of(0, count, above)
    while over < count and (chance := chance + _chance_of(over + 1, count, above)) <= 1 - confidence:
        over += 1
    bound_ms = sorted(samples_ms)[count - over] if over else None
    return Percentile(percent=percent, bound_ms=bound_ms, samples_needed=count_needed(percent, confidence))


def count_needed(percent: int, confidence: float = CONFIDENCE) -> int:
    """The fewest samples that support a percentile: 64 for p90, 662 for p99."""
    count, above = 1, 1 - percent / 100
    while _chance_of(0, count, above) + _chance_of(1, count, above) > 1 - confidence:
        count += 1
    return count


def count_for_margin(percent: int, confidence: float = CONFIDENCE) -> int:
    """How many samples MLPerf asks for without early stopping: the margin is a twentieth of what lies above.

    23,886 for p90 and 262,742 for p99, before they are rounded up to multiples of 2^13.
    """
    above = 1 - percent / 100
    deviations = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    return round(deviations**2 * above * (1 - above) / (above / 20) ** 2)


def compare_pairs(base_ms: Sequence[float], candidate_ms: Sequence[float], *, base: str) -> Ratio:
    """Candidate over base, from medians of turns that were neighbours.

    A machine that slows down slows both, so each pair's logarithm counts as one independent figure, and these as
    normal: that is what the interval rests on.
    """
    each = tuple(ours / theirs for theirs, ours in zip(base_ms, candidate_ms, strict=True))
    logs, count = [math.log(ratio) for ratio in each], len(each)
    middle = statistics.fmean(logs)
    if count < 2:
        return Ratio(base=base, pairs=count, ratio=math.exp(middle), each=each, low=None, high=None)
    reach = student_quantile((1 + INTERVAL) / 2, count - 1) * statistics.stdev(logs) / math.sqrt(count)
    low, high = math.exp(middle - reach), math.exp(middle + reach)
    return Ratio(base=base, pairs=count, ratio=math.exp(middle), each=each, low=low, high=high)


def student_quantile(chance: float, freedom: int) -> float:
    """The value that Student's t of so many degrees of freedom stays below with `chance`, above one half."""
    low, high = 0.0, 1.0
    while _student_chance(high, freedom) < chance:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_chance(middle, freedom) < chance else (low, middle)
    return (low + high) / 2


def _student_chance(value: float, freedom: int) -> float:
    """P(T <= value) for value >= 0: the finite sum that holds for whole degrees of freedom."""
    angle = math.atan(value / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2


def _chance_of(hits: int, count: int, chance: float) -> float:
    """P(X = hits) of `count` trials that each happen with `chance`; by logarithms, for counts are large."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(chance) + (count - hits) * math.log1p(-chance))
