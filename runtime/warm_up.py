"""When is a backend warm: when its turns no longer become shorter or longer, not after a fixed number of them."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FLAT = 0.03  # medians of two neighbouring windows differ by less
_WINDOW = 2  # turns
_MOST_TURNS = 60
_TURN_MS = 100  # a turn lasts at least about so long
_MOST_CALLS = 200  # a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """How it went."""

    earlier_calls: int  # which the proof of parity made
    turns: int
    calls: int  # in these turns
    calls_a_turn: int  # from here on
    flat: bool  # False: the bound was reached first
    medians_ms: tuple[float, ...]  # of the earlier calls and of each turn


def warm_up(
    run: Callable[[int], Sequence[float]],
    earlier_ms: Sequence[float],
    *,
    most_s: float = 30.0,
    clock: Callable[[], float] = time.perf_counter,
) -> WarmUp:
    """Let `run` make turns of so many calls until their medians are flat, `most_s` are over or 60 turns are made.

    The first of `earlier_ms`, calls that were made already, counts for nothing: it loads, compiles and allocates.
    """
    medians_ms, calls, total, turns, start_s = list(earlier_ms[1:]), 1, 0, 0, clock()
    while not (flat := _is_flat(medians_ms)) and turns < _MOST_TURNS and (not turns or clock() - start_s < most_s):
        samples_ms = run(calls)
        medians_ms.append(statistics.median(samples_ms))
        total, turns = total + calls, turns + 1
        calls = _count_calls(medians_ms[-1])
    if medians_ms:
        calls = _count_calls(medians_ms[-1])
    return WarmUp(
        earlier_calls=len(earlier_ms),
        turns=turns,
        calls=total,
        calls_a_turn=calls,
        flat=flat,
        medians_ms=tuple(medians_ms),
    )


def _is_flat(medians_ms: Sequence[float]) -> bool:
    if len(medians_ms) < 2 * _WINDOW:
        return False
    before = statistics.median(medians_ms[-2 * _WINDOW : -_WINDOW])
    return abs(statistics.median(medians_ms[-_WINDOW:]) / before - 1) < FLAT


def _count_calls(call_ms: float) -> int:
    """Calls that fill a turn."""
    return max(1, min(_MOST_CALLS, math.ceil(_TURN_MS / max(call_ms, 1e-3))))
