"""Is what was measured of a bundle worse than it was: proofs that no longer hold, times and memory beyond a margin?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vjepa2.errors import BundleError

from .evidence import FILES, Evidence
from .latency_report import SCENES, LatencyReport, LatencyRow
from .latency_stats import Ratio, Timing

MARGIN = 0.05  # more time or memory than that is a regression


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure, or one verdict, before and after."""

    what: str
    old: str
    new: str
    change: float | None  # new / old; None of a verdict
    low: float | None  # 95 % interval of the change, where both sides had one
    high: float | None
    regressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every figure that both could have."""

    schema: int = 1
    margin: float = MARGIN
    passed: bool  # nothing regressed
    changes: tuple[Change, ...]


def compare_evidence(old: Evidence, new: Evidence) -> Comparison:
    """Hold the new to the old; `BundleError` if their figures cannot be compared."""
    _demand_comparable(old, new)
    try:
        changes = [*_compare_verdicts(old, new), *_compare_candidates(old, new), *_compare_latency(old, new)]
    except (ArithmeticError, ValueError) as error:
        raise BundleError(f"the reports hold times or sizes that nothing can have ({error}); measure again") from error
    if not changes:
        raise BundleError("the older report holds nothing that was measured; measure first, then compare")
    return Comparison(passed=not any(each.regressed for each in changes), changes=tuple(changes))


def describe_comparison(comparison: Comparison) -> str:
    """One line a figure, and what it comes to."""
    lines = []
    for each in comparison.changes:
        change = "" if each.change is None else f"  x {each.change:.3f}"
        change += "" if each.low is None else f" ({each.low:.3f} to {each.high:.3f})"
        lines.append(f"{'REGRESSED' if each.regressed else '       ok'}  {each.what}: {each.old} -> {each.new}{change}")
    count = sum(each.regressed for each in comparison.changes)
    return "\n".join([*lines, f"{count} of {len(lines)} regressed; the margin is {comparison.margin:.0%}"])


def _demand_comparable(old: Evidence, new: Evidence) -> None:
    facts = [("model", old.subject.model, new.subject.model), ("clip", old.subject.clip, new.subject.clip)]
    if old.latency and new.latency:
        ours, theirs = old.latency, new.latency
        facts += [
            ("scenario", ours.scenario, theirs.scenario),
            ("where end-to-end times begin", ours.starts_from, theirs.starts_from),
            ("processor", ours.machine.processor, theirs.machine.processor),
            ("cores", ours.machine.cores, theirs.machine.cores),
            ("GPUs", [each.name for each in ours.machine.gpus], [each.name for each in theirs.machine.gpus]),
        ]
    for name, before, after in facts:
        if before != after:
            raise BundleError(f"the reports differ in {name}: {before} and {after}; compare what is of one kind")
    for which, evidence in (("older", old), ("newer", new)):
        if evidence.foreign:
            others = "; ".join(evidence.foreign.values())
            raise BundleError(f"the {which} report holds figures that are not of its bundle: {others}; measure again")


def _compare_verdicts(old: Evidence, new: Evidence) -> Iterator[Change]:
    """A section that passed and does not any more, or is not there any more."""
    for section in FILES:
        before, after = getattr(old, section), getattr(new, section)
        if before is None:
            continue
        held = after is not None and after.passed
        yield _verdict(section, before.passed, None if after is None else after.passed, before.passed and not held)


def _compare_candidates(old: Evidence, new: Evidence) -> Iterator[Change]:
    before = {row.backend: row for row in old.parity.candidates} if old.parity else {}
    after = {row.backend: row for row in new.parity.candidates} if new.parity else {}
    for name, row in before.items():
        now = after.get(name)
        lost = row.passed and not (now is not None and now.passed)
        yield _verdict(f"parity in {name}", row.passed, None if now is None else now.passed, lost)


def _verdict(what: str, before: bool, after: bool | None, regressed: bool) -> Change:
    words = {True: "passed", False: "NOT passed", None: "not measured"}
    return Change(
        what=what, old=words[before], new=words[after], change=None, low=None, high=None, regressed=regressed
    )  # fmt: skip


def _compare_latency(old: Evidence, new: Evidence) -> Iterator[Change]:
    if old.latency is None:
        return
    after = {} if new.latency is None else _index(new.latency, new.subject.name)
    for name, row in _index(old.latency, old.subject.name).items():
        if row.compute is None:
            continue
        now = after.get(name)
        if now is None or now.compute is None:
            why = "not measured" if now is None else now.failure or "no times"
            yield Change(what=name, old="timed", new=why, change=None, low=None, high=None, regressed=True)
        else:
            yield from _compare_row(name, row, now, SCENES[old.latency.scenario].percentile)


def _index(report: LatencyReport, subject: str) -> Mapping[str, LatencyRow]:
    """Rows by what they are of; the bundle that the report lies in may be called something else the next time."""
    found = {}
    for row in report.rows:
        bundle = Path(row.bundle).name
        place = f" in {row.opened.precision} on {row.opened.device}" if row.opened else ""
        found[f"{row.backend}{place}{'' if bundle == subject else f' of {bundle}'}"] = row
    return found


def _compare_row(name: str, old: LatencyRow, new: LatencyRow, percent: int) -> Iterator[Change]:
    for kind in ("compute", "end_to_end"):
        before, after = getattr(old, kind), getattr(new, kind)
        ratios = getattr(old, f"{kind}_ratio"), getattr(new, f"{kind}_ratio")
        what = f"{name}, {kind.replace('_', ' ')}"
        if all(ratios) and ratios[0].base == ratios[1].base:
            yield _compare_ratios(what, *ratios)
        else:
            yield _figure(f"{what}, median ms", before.median_ms, after.median_ms)
        old_ms, new_ms = _bound(before, percent), _bound(after, percent)
        if old_ms is not None and new_ms is not None:
            yield _figure(f"{what}, p{percent} ms", old_ms, new_ms)
    if old.finished and new.finished:
        yield _figure(f"{name}, peak MB", old.finished.peak_bytes / 1e6, new.finished.peak_bytes / 1e6)
        if old.finished.device_bytes and new.finished.device_bytes:
            bytes_each = old.finished.device_bytes, new.finished.device_bytes
            yield _figure(f"{name}, device MB", *(size / 1e6 for size in bytes_each))


def _bound(timing: Timing, percent: int) -> float | None:
    return next((each.bound_ms for each in timing.percentiles if each.percent == percent), None)


def _compare_ratios(what: str, old: Ratio, new: Ratio) -> Change:
    """Times over the base's: with intervals only what is beyond the margin and no chance is a regression."""
    change, low, high = new.ratio / old.ratio, None, None
    if old.low and old.high and new.low and new.high:
        reach = math.hypot(*(math.log(each.high / each.low) / 2 for each in (old, new) if each.high and each.low))
        low, high = change * math.exp(-reach), change * math.exp(reach)
    surely = low is None or not low <= 1
    return Change(
        what=f"{what}, times as long as {new.base}", old=f"{old.ratio:.4g}", new=f"{new.ratio:.4g}", change=change,
        low=low, high=high, regressed=not change <= 1 + MARGIN and surely,
    )  # fmt: skip


def _figure(what: str, old: float, new: float) -> Change:
    change = new / old
    return Change(
        what=what, old=f"{old:.4g}", new=f"{new:.4g}", change=change, low=None, high=None,
        regressed=not change <= 1 + MARGIN,
    )  # fmt: skip
