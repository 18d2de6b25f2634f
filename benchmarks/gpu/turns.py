"""How are variants compared that share one GPU: warm until flat, then in turns, forwards and backwards."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .pipes import Block, VariantError

FLAT = 0.02  # two blocks' medians differ by less
_LEAST_WARM, _MOST_WARM = 3, 40  # blocks
Run = Callable[[int], Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one kind over all rounds; nothing is left out."""

    calls: int
    least_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    variation: float  # standard deviation / mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One variant."""

    warm_blocks: int
    is_flat: bool  # whether warming up ended because it was flat
    gpu: Timing | None  # None where events cannot be set
    wall: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long a variant takes as the base, of neighbours in time."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All variants over the same rounds."""

    rounds: int
    variants: dict[str, Compared]
    failures: dict[str, str]  # variants that did not run
    wall_ratios: dict[str, Ratio]  # to each one's base
    gpu_ratios: dict[str, Ratio]


def compare(
    runs: Mapping[str, Run],
    *,
    bases: Mapping[str, str],
    rounds: int,
    calls: int,
    halfway: Callable[[], object] = lambda: None,
) -> Comparison:
    """Warm each up, then let each run `calls` calls a round, in an order that turns around from round to round.

    Ratios are to the variant that `bases` names, if both ran. A variant that fails is told, and nothing that it did
    before. `halfway` is called once, between rounds, when the GPU has just worked.
    """
    failures: dict[str, str] = {}
    warm: dict[str, tuple[int, bool]] = {}
    blocks: dict[str, list[Block]] = {name: [] for name in runs}

    def attempt(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except VariantError as error:
            failures[name] = str(error)
            del blocks[name]

    for name in runs:
        attempt(name, lambda name=name: warm.update({name: warm_up(runs[name], calls)}))  # type: ignore[misc]
    for number in range(rounds):
        if number == rounds // 2:
            halfway()
        for name in list(blocks) if number % 2 == 0 else list(reversed(blocks)):
            attempt(name, lambda name=name: blocks[name].append(runs[name](calls)))  # type: ignore[misc]
    walls = {name: [block.wall_ms for block in done] for name, done in blocks.items()}
    gpus = {name: [block.gpu_ms for block in done] for name, done in blocks.items() if done[0].gpu_ms}
    return Comparison(
        rounds=rounds,
        variants={
            name: Compared(
                warm_blocks=warm[name][0],
                is_flat=warm[name][1],
                gpu=summarise(gpus[name]) if name in gpus else None,
                wall=summarise(walls[name]),
            )
            for name in blocks
        },
        failures=failures,
        wall_ratios=_ratios(walls, bases),
        gpu_ratios=_ratios(gpus, bases),
    )


def warm_up(run: Run, calls: int) -> tuple[int, bool]:
    """Blocks until two neighbours' medians are as good as equal, and whether that came about."""
    before = float("inf")
    for count in range(1, _MOST_WARM + 1):
        now = statistics.median(run(calls).wall_ms)
        if count >= _LEAST_WARM and abs(now - before) < FLAT * before:
            return count, True
        before = now
    return _MOST_WARM, False


def summarise(rounds: Sequence[Sequence[float]]) -> Timing:
    """The figures of every call of every round."""
    ordered = sorted(time for block in rounds for time in block)
    mean = statistics.fmean(ordered)
    return Timing(
        calls=len(ordered),
        least_ms=ordered[0],
        p50_ms=statistics.median(ordered),
        p90_ms=percentile(ordered, 90),
        p99_ms=percentile(ordered, 99),
        variation=statistics.pstdev(ordered) / mean,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of all values do not exceed."""
    place = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(place) - 1, 0)]


def _ratios(times: Mapping[str, Sequence[Sequence[float]]], bases: Mapping[str, str]) -> dict[str, Ratio]:
    """Of every variant that has a base, if both are there."""
    found = {}
    for name, base in bases.items():
        if name in times and base in times:
            pairs = zip(times[name], times[base], strict=True)
            each = [statistics.median(block) / statistics.median(first) for block, first in pairs]
            found[name] = Ratio(median=statistics.median(each), least=min(each), most=max(each))
    return found
