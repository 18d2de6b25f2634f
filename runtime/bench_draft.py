"""What has been measured of a row so far, and what becomes of it when measuring ends, early or not?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from vjepa2.manifest import Manifest

from .bench_row import Finished, Opened, Subject
from .latency_report import Disturbance, LatencyRow
from .latency_stats import Ratio, Timing, compare_pairs, summarise
from .machine_state import CpuTime, MachineState, find_throttling
from .query_timer import Turn
from .roofline import Limit, Rates, find_limit
from .warm_up import WarmUp

_STEADY = 0.05  # variation and drift, at most
_OTHERS, _STOLEN = 0.05, 0.02  # of the cores, at most
_FEWEST_FOR_DRIFT = 6  # samples

Moment = tuple[float, MachineState, CpuTime]  # seconds of the clock, and the machine then


@dataclass(slots=True)
class Draft:
    """A row that is being measured."""

    bundle: str
    backend: str
    manifest: Manifest
    subject: Subject
    failure: str | None = None
    opened: Opened | None = None
    warm: WarmUp | None = None
    finished: Finished | None = None
    turns: list[Turn] = field(default_factory=list)
    pairs: list[tuple[Turn, Turn]] = field(default_factory=list)  # the base's and its own, neighbours in time
    base: str | None = None  # that it was paired with
    moments: list[Moment] = field(default_factory=list)  # before and after each stretch of timing

    @property
    def samples(self) -> int:
        """Queries timed so far."""
        return sum(len(turn.end_to_end_ms) for turn in self.turns)

    @property
    def rated(self) -> tuple[str, str] | None:
        """What its rates are of, if they were measured: device and precision."""
        if self.opened is None or self.finished is None or isinstance(self.finished.rates, str):
            return None
        return self.opened.device, self.opened.precision

    def finish(self, cores: int, starts_from: str, best: Mapping[tuple[str, str], Rates]) -> LatencyRow:
        """The row; its times only if nothing failed, and its limit by the `best` rates of its device and precision."""
        opened, turns = self.opened, [] if self.failure else self.turns
        compute = end_to_end = None
        if opened is not None and turns:
            compute = summarise(
                [ms for turn in turns for ms in turn.compute_ms], boundary=turns[0].boundary, clips_a_query=opened.clips
            )
            end_to_end = summarise(
                [ms for turn in turns for ms in turn.end_to_end_ms],
                boundary=f"{starts_from} to results in host memory",
                clips_a_query=opened.clips,
            )
        limit, no_limit = self._find_limit(compute, best)
        disturbance = self._find_disturbance(cores)
        return LatencyRow(
            bundle=self.bundle,
            backend=self.backend,
            failure=self.failure,
            opened=opened,
            warm_up=self.warm,
            compute=compute,
            end_to_end=end_to_end,
            compute_ratio=self._compare("compute_ms"),
            end_to_end_ratio=self._compare("end_to_end_ms"),
            finished=self.finished,
            limit=limit,
            no_limit=no_limit,
            disturbance=disturbance,
            unstable=() if compute is None else find_instability(compute, self.warm, disturbance, limit),
        )

    def _compare(self, kind: str) -> Ratio | None:
        if self.base is None or not self.pairs or self.failure:
            return None
        base_ms = [median(getattr(base, kind)) for base, _ in self.pairs]
        return compare_pairs(base_ms, [median(getattr(own, kind)) for _, own in self.pairs], base=self.base)

    def _find_limit(
        self, compute: Timing | None, best: Mapping[tuple[str, str], Rates]
    ) -> tuple[Limit | None, str | None]:
        if compute is None or self.finished is None or self.opened is None:
            return None, "it was not measured to the end"
        if self.rated is None:
            return None, str(self.finished.rates)
        rates = best[self.rated]
        return find_limit(self.manifest, self.opened.clips, self.opened.calls, rates, compute.median_ms), None

    def _find_disturbance(self, cores: int) -> Disturbance | None:
        stretches = list(zip(self.moments[::2], self.moments[1::2], strict=False))
        if not stretches:
            return None
        lasted_s = cores * sum(end[0] - start[0] for start, end in stretches)
        others_s = sum((b.busy_s - b.ours_s) - (a.busy_s - a.ours_s) for (_, _, a), (_, _, b) in stretches)
        stolen_s = sum(b.stolen_s - a.stolen_s for (_, _, a), (_, _, b) in stretches)
        return Disturbance(
            before=stretches[0][0][1],
            after=stretches[-1][1][1],
            others_share=max(0.0, others_s / lasted_s) if lasted_s else 0.0,
            stolen_share=stolen_s / lasted_s if lasted_s else 0.0,
        )


def find_instability(
    compute: Timing, warm: WarmUp | None, disturbance: Disturbance | None, limit: Limit | None = None
) -> tuple[str, ...]:
    """Every reason not to trust a row's times as they stand; the row is shown all the same."""
    found = []
    if compute.variation > _STEADY:
        found.append(f"times vary by {compute.variation:.0%} (standard deviation; at most {_STEADY:.0%})")
    if len(compute.samples_ms) >= _FEWEST_FOR_DRIFT and abs(compute.drift) > _STEADY:
        found.append(f"the last third takes {compute.drift:+.0%} of the first (at most {_STEADY:.0%})")
    if warm is not None and not warm.flat:
        found.append(f"it was not flat after {warm.earlier_calls} calls and {warm.turns} turns of warming up")
    if limit is not None and limit.fraction > 1:
        found.append(
            f"faster than its limit ({limit.fraction:.0%}): the device does more than {limit.rates.measured_by} "
            "reached, by better kernels or undisturbed, so that is no limit of it"
        )
    if disturbance is not None:
        found += find_throttling(disturbance.before, disturbance.after)
        found += _list_shares(disturbance)
    return tuple(found)


def _list_shares(disturbance: Disturbance) -> Sequence[str]:
    shares = (
        ("others took", disturbance.others_share, _OTHERS),
        ("the machine below took", disturbance.stolen_share, _STOLEN),
    )
    return [f"{who} {share:.0%} of the cores (at most {most:.0%})" for who, share, most in shares if share > most]
