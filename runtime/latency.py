"""How long does a backend take, beside another one, on the same clips, at the same time?

Each row is a process of its own, and has no times unless the very bundle passed its gate in that very backend before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from vjepa2 import __version__
from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError, MissingDependencyError

from .backends.choice import BACKENDS, find_missing
from .bench_draft import Draft
from .bench_harness import BenchOptions, Harness, Surroundings
from .latency_report import LatencyReport, LatencyRow
from .machine_state import Machine
from .roofline import Rates, take_best
from .scaling import Point, Scaling, fit_scaling

__all__ = ["BASE", "BenchOptions", "LatencyReport", "Plan", "Surroundings", "measure_latency", "plan_rows"]

Save = Callable[[LatencyReport], None]
BASE = "transformers"  # what everything is compared with where it is among the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which rows there will be, and which there cannot be."""

    rows: tuple[tuple[Bundle, str], ...]
    skipped: dict[str, str]


_HERE = Surroundings()


def plan_rows(
    bundles: Sequence[Bundle],
    backends: Sequence[str],
    *,
    known: Sequence[str] = tuple(BACKENDS),
    device: str | None = None,
) -> Plan:
    """Every backend asked for on every bundle; without any asked for, each of `known` that can run here.

    A backend that was asked for and cannot run here is an error, and so are bundles of different models.
    """
    _refuse_other_models(bundles)
    rows, skipped = [], {}
    for bundle in bundles:
        for name in backends or known:
            missing = find_missing(name, device, bundle)
            if missing and backends:
                raise MissingDependencyError(f"{bundle.path.name} cannot be timed: {missing}")
            if missing:
                skipped[f"{name} on {bundle.path.name}"] = missing
            else:
                rows.append((bundle, name))
    if not rows:
        raise MissingDependencyError(f"nothing here runs these bundles: {'; '.join(skipped.values())}")
    return Plan(rows=tuple(rows), skipped=skipped)


def measure_latency(
    plan: Plan,
    options: BenchOptions,
    surroundings: Surroundings = _HERE,
    *,
    command: str = "",
    save: Save = lambda _: None,
) -> LatencyReport:
    """Time every row; `save` is given what is known, called partial, before the first and after each of them.

    Ctrl-C ends it early: what was measured is kept, and stays partial.
    """
    harness = Harness(options, surroundings)
    log = _Log(plan, options, surroundings.describe_machine(), harness, command, save)
    log.keep()  # a place that cannot be written to is told before minutes are spent
    partial = False
    try:
        for group in _group_rows(plan):
            harness.measure_group(group, ended=log.keep)
    except KeyboardInterrupt:
        partial = True
    finally:
        harness.close()
    return log.keep(partial=partial)


@dataclass(frozen=True, slots=True)
class _Log:
    """The report so far, handed to `save`."""

    plan: Plan
    options: BenchOptions
    machine: Machine
    harness: Harness
    command: str
    save: Save

    def keep(self, *, partial: bool = True) -> LatencyReport:
        """Draw the rows up and save."""
        report = self._draw_up(partial)
        self.save(report)
        return report

    def _draw_up(self, partial: bool) -> LatencyReport:
        plan, options, drafts = self.plan, self.options, self.harness.drafts
        starts_from = "frames in host memory" if options.video is None else f"the file {options.video}"
        best = _find_best_rates(drafts)
        rows = tuple(draft.finish(self.machine.cores, starts_from, best) for draft in drafts)
        faults = [f"{row.backend} on {row.bundle}: {row.failure}" for row in rows if row.failure]
        faults += ["it was interrupted, or still goes on: rows are missing or short"] if partial else []
        model = plan.rows[0][0].manifest.model
        return LatencyReport(
            passed=not faults,
            partial=partial,
            faults=tuple(faults),
            command=self.command,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            vjepa2=__version__,
            model=model.name,
            blocks=model.depth,
            scenario=options.scenario,
            starts_from=starts_from,
            machine=self.machine,
            rows=rows,
            scaling=tuple(_fit_rows(rows, {str(bundle.path): bundle for bundle, _ in plan.rows})),
            skipped=plan.skipped,
        )


def _group_rows(plan: Plan) -> list[list[tuple[Bundle, str]]]:
    """Rows of equal clips and batch, `BASE` first where it is among them."""
    groups: dict[object, list[tuple[Bundle, str]]] = {}
    for bundle, name in plan.rows:
        groups.setdefault((bundle.manifest.clip, bundle.manifest.batch), []).append((bundle, name))
    return [sorted(rows, key=lambda row: row[1] != BASE) for rows in groups.values()]


def _find_best_rates(drafts: Sequence[Draft]) -> dict[tuple[str, str], Rates]:
    """Of each device and precision, over all rows."""
    measured: dict[tuple[str, str], list[Rates]] = {}
    for draft in drafts:
        if draft.rated and draft.finished and isinstance(draft.finished.rates, Rates):
            measured.setdefault(draft.rated, []).append(draft.finished.rates)
    return {key: take_best(rates) for key, rates in measured.items()}


def _refuse_other_models(bundles: Sequence[Bundle]) -> None:
    first = bundles[0]
    for bundle in bundles[1:]:
        ours, theirs = ((each.manifest.model, each.manifest.head) for each in (first, bundle))
        if ours != theirs:
            told = (f"{model.name} of {model.depth} blocks with head {head}" for model, head in (ours, theirs))
            names = f"{first.path.name} and {bundle.path.name}"
            raise BundleError(f"{names} are bundles of different models: {', '.join(told)}; bench one model at a time")


def _fit_rows(rows: Sequence[LatencyRow], bundles: dict[str, Bundle]) -> list[Scaling]:
    """How each backend's time grows over the bundles, in each precision."""
    points: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        if row.compute is None or row.opened is None:
            continue
        clip = bundles[row.bundle].manifest.clip
        point = Point(
            frames=clip.frames,
            pixels=clip.height * clip.width,
            batch=row.opened.clips,
            compute_ms=row.compute.median_ms,
            unstable=bool(row.unstable),
        )
        points.setdefault((row.backend, row.opened.precision), []).append(point)
    return [
        fit
        for (backend, precision), measured in points.items()
        for fit in fit_scaling(f"{backend} in {precision}", measured)
    ]
