"""What does one page of evidence say of a bundle: HTML that asks no network and runs no script?"""

import base64
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vjepa2.outputs import write_whole

from .canaries import NAMES
from .evidence import Evidence
from .latency_report import NORMALISING, SCENES
from .latency_table import tell_ms
from .neighbours import overlap_by_chance
from .parity_report import CandidateRow, ParityReport
from .report_plots import plot_limits, plot_ratios, plot_times
from .report_tokens import plot_tokens

PAGE = "report.html.j2"
RANDOM = ("random", "hard")  # names of weights that nothing was learnt with


def write_page(file: Path, evidence: Evidence) -> None:
    """Write the page, whole or not at all."""
    text = render_page(evidence)
    write_whole(file, lambda stream: stream.write(text.encode()))


def render_page(evidence: Evidence) -> str:
    """The page; every word of a bundle or a report is escaped."""
    rooms = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rooms.filters |= {"figure": show_figure, "digits": show_digits, "bytes": show_bytes}
    latency, drift = evidence.latency, evidence.drift
    plots = {} if latency is None else {
        "compute": plot_times(latency, "compute"),
        "end_to_end": plot_times(latency, "end_to_end"),
        "ratios": plot_ratios(latency),
        "limits": plot_limits(latency),
    }  # fmt: skip
    return rooms.get_template(PAGE).render(
        evidence=evidence,
        is_random=evidence.subject.source.name in RANDOM,
        verdicts=list_verdicts(evidence),
        canary_names=NAMES,
        canaries=_by_candidate(evidence.parity),
        candidates=() if evidence.parity is None else _worst_first(evidence.parity),
        by_chance=overlap_by_chance,
        plot_tokens=plot_tokens,
        plots=plots,
        normalising=NORMALISING,
        percent=0 if latency is None else SCENES[latency.scenario].percentile,
        drift_plot="" if drift is None else _as_image(drift.plot),
    )


def list_verdicts(evidence: Evidence) -> dict[str, str]:
    """Section -> what it comes to: passed or not, or why that cannot be said."""
    found = {}
    for name in ("parity", "latency", "lint", "drift"):
        report = getattr(evidence, name)
        if report is None:
            found[name] = "not measured"
        elif name in evidence.foreign:
            found[name] = "of another bundle"
        elif getattr(report, "invalid", ()):
            found[name] = "INVALID"
        elif getattr(report, "partial", False):
            found[name] = "partial"
        else:
            found[name] = "passed" if report.passed else "NOT passed"
    if found["latency"] == "passed" and evidence.latency and any(row.unstable for row in evidence.latency.rows):
        found["latency"] = "passed, with unstable times"
    return found


def show_figure(value: float | None, form: str = ".7f") -> str:
    """A number, or what it is instead."""
    if value is None:
        return "-"
    return "no number" if math.isnan(value) else format(value, form)


def show_digits(value: float | None) -> str:
    """A number with four digits, or what it is instead."""
    return show_figure(value) if value is None or math.isnan(value) else tell_ms(value)


def show_bytes(size: int | None) -> str:
    """Bytes in units of a million, few of them in thousands."""
    if size is None:
        return "-"
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _worst_first(report: ParityReport) -> list[CandidateRow]:
    """Candidates that did not pass, then by their worst token; NaN is the worst."""
    return sorted(report.candidates, key=lambda row: (row.passed, _or_least(row.worst.token_cosine)))


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _by_candidate(report: ParityReport | None) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for canary in () if report is None else report.canaries:
        found.setdefault(canary.candidate, {})[canary.name] = canary
    return found


def _as_image(svg: str) -> str:
    """An address of a picture that is part of the page; as a picture it runs and fetches nothing, whatever it holds."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
