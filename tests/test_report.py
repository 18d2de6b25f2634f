"""Does a page of evidence say what was measured, say what was not, ask no network, and let nothing through?"""

import json
import math
import shutil
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from tests.conftest import PREBUILT
from tests.measured import call, name_everything
from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError
from vjepa2.runtime.bench_cli import write_latency
from vjepa2.runtime.evidence import FILES, Evidence, gather_evidence, read_evidence, write_evidence
from vjepa2.runtime.graph_reports import DriftRecord, GraphRow
from vjepa2.runtime.latency_stats import Ratio
from vjepa2.runtime.parity_report import TokenMap
from vjepa2.runtime.report_compare import compare_evidence
from vjepa2.runtime.report_tokens import plot_tokens

pytest.importorskip("jinja2")
from vjepa2.runtime.report import list_verdicts, render_page, show_digits

VOID = {"meta", "link", "br", "img"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page's elements: each is closed where it was opened, and what it would fetch is kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        assert not any(name.startswith("on") for name in named), "nothing runs"
        self.tags.append(tag)
        self.ids += [named["id"]] if "id" in named else []
        target = [named[name] for name in ("src", "href", "srcset", "data", "xlink:href") if name in named]
        (self.links if tag == "a" else self.fetched).extend(target)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def evidence(measured: Path) -> Evidence:
    return gather_evidence(Bundle.open(measured))


def test_a_page_of_everything_is_whole_and_asks_no_network(measured: Path, evidence: Evidence, tmp_path: Path) -> None:
    file, twin = tmp_path / "page.html", tmp_path / "page.json"
    assert call("report", measured, "-o", file, "--json", twin) == 0
    page = Page(file.read_text())
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("svg") >= 5
    assert all(target.startswith("data:") for target in page.fetched)
    assert {target[1:] for target in page.links} <= set(page.ids), "every link leads somewhere"
    assert "url(" not in file.read_text()
    assert "RANDOM WEIGHTS" in file.read_text()
    assert evidence.foreign == {}
    if evidence.drift is not None:
        assert f"--backend onnxruntime --clip {evidence.drift.clip} --json" in evidence.commands["drift"]
    again = read_evidence(twin)
    assert (again.parity, again.latency, again.subject) == (evidence.parity, evidence.latency, evidence.subject)
    assert json.loads(twin.read_text())["schema"] == 1


def test_the_check_of_the_page_can_fail() -> None:
    assert Page('<p><img src="http://x/y.png"></p>').fetched == ["http://x/y.png"]
    with pytest.raises(AssertionError):
        Page("<p><b></p></b>")
    with pytest.raises(AssertionError, match="nothing runs"):
        Page('<p onclick="x"></p>')


def test_figures_of_the_reports_are_on_the_page(evidence: Evidence) -> None:
    text = render_page(evidence)
    assert evidence.parity is not None
    assert evidence.latency is not None
    for words in (
        evidence.parity.command, evidence.parity.candidates[0].worst_clip, "fails, as it must", "≥ 0.99999",
        f"{evidence.parity.candidates[0].worst.token_cosine:.9f}", "p90",
        evidence.latency.machine.processor, "What part of its limit", "Normalising pixels is in both times",
    ):  # fmt: skip
        assert words in text, words


def test_what_was_not_measured_is_told_with_its_command(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", bundle_copy) == 0
    told, text = capsys.readouterr().err, (bundle_copy / "reports" / "report.html").read_text()
    for verb in ("parity", "bench", "inspect", "drift"):
        assert f"vjepa2 {verb} {bundle_copy}" in told
        assert f"vjepa2 {verb} {bundle_copy}" in text
    assert text.count('<p class="missing">No ') == 7
    assert Page(text).open == []


def test_words_of_a_bundle_are_words_on_the_page(evidence: Evidence) -> None:
    text = render_page(name_everything(evidence, EVIL))
    assert EVIL not in text
    assert text.count("&lt;script&gt;") > 10
    assert "script" not in Page(text).tags


@pytest.mark.parametrize(
    ("value", "words"),
    [(12058.4, "12058"), (1000.0, "1000"), (13.454, "13.45"), (None, "-"), (math.nan, "no number")],
)
def test_times_have_four_digits_and_no_power_of_ten(value: float | None, words: str) -> None:
    assert show_digits(value) == words


def test_nan_is_told_and_drawn_and_never_passes(evidence: Evidence, tmp_path: Path) -> None:
    assert evidence.parity is not None
    row = evidence.parity.candidates[0]
    clip = row.clips[0]
    figures = replace(clip.figures, token_cosine=math.nan)
    broken = replace(row, worst=figures, passed=False)
    spoilt = replace(evidence, parity=replace(evidence.parity, candidates=(broken,), passed=False))
    assert "no number" in render_page(spoilt)
    write_evidence(str(tmp_path / "new.json"), spoilt)
    again = read_evidence(tmp_path / "new.json")
    assert again.parity is not None
    assert math.isnan(again.parity.candidates[0].worst.token_cosine)
    comparison = compare_evidence(evidence, again)
    assert [each.what for each in comparison.changes if each.regressed] == ["parity", "parity in onnxruntime"]


def test_a_benchmark_whose_row_gave_nan_is_written_and_read(measured: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(measured, tmp_path / "bundle"))
    report = gather_evidence(Bundle.open(folder)).latency
    assert report is not None
    row = report.rows[0]
    assert row.opened is not None
    opened = replace(row.opened, verdict=replace(row.opened.verdict, token_cosine=math.nan, passed=False))
    failed = replace(row, opened=opened, compute=None, end_to_end=None, failure="token_cosine is no number")
    write_latency(str(folder / FILES["latency"]), replace(report, passed=False, rows=(failed, *report.rows[1:])))
    text = render_page(gather_evidence(Bundle.open(folder)))
    assert "no times" in text
    assert "token_cosine is no number" in text


def test_a_map_shows_where_tokens_are_lost() -> None:
    tokens = TokenMap(clip="a", frames=2, distances_THW=(((1e-9, 1e-3), (math.nan, 1e-9)),), quiet=(3,))
    drawn = plot_tokens(tokens, 0.99999)
    paths = {part.split('fill="')[1].partition('"')[0] for part in drawn.split("<path ")[1:]}
    assert {"#dc2626", "#000", "#fff"} < paths
    assert "#dc2626" not in plot_tokens(tokens)


def test_a_map_tells_its_worst_tokens_without_colour() -> None:
    steps = (((1e-9, 1e-3), (2e-8, 1e-9)), ((1e-9, 4e-8), (3e-8, 1e-9)))
    drawn = plot_tokens(TokenMap(clip="a", frames=4, distances_THW=steps, quiet=(1,)))
    assert "<title>row 1, column 0: 2.0e-08</title>" in drawn, "the quiet one does not count"
    assert "<title>row 0, column 1: 4.0e-08</title>" in drawn
    assert drawn.count('font-weight="bold"') == 1
    assert 'font-weight="bold">4.0e-08</text>' in drawn
    lost = plot_tokens(TokenMap(clip="a", frames=4, distances_THW=(((math.nan,),), ((1.0,),)), quiet=(1,)))
    assert 'font-weight="bold">no number</text>' in lost
    assert ">none counts</text>" in lost


def test_a_map_lies_beneath_its_frames_or_says_that_they_are_not_there(evidence: Evidence) -> None:
    assert evidence.parity is not None
    row = evidence.parity.candidates[0]
    assert row.worst_map is not None
    page = Page(render_page(evidence))
    assert [target for target in page.fetched if "png" in target] == list(row.worst_map.pictures)
    assert len(row.worst_map.pictures) == 2
    bare = replace(row, worst_map=replace(row.worst_map, pictures=()))
    text = render_page(replace(evidence, parity=replace(evidence.parity, candidates=(bare,))))
    assert "data:image/png" not in text
    assert "the frames are not in this report" in text


def test_a_report_from_before_there_were_pictures_is_a_page_still(measured: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(measured, tmp_path / "bundle"))
    file = folder / FILES["parity"]
    record = json.loads(file.read_text())
    assert record["candidates"][0]["worst_map"].pop("pictures")
    file.write_text(json.dumps(record))
    assert call("report", folder) == 0
    record["candidates"][0]["worst_map"]["pictures"] = ["http://x/y.png", "data:image/png;base64,AAAA"]
    file.write_text(json.dumps(record))
    assert call("report", folder) == 2


def test_figures_of_another_bundle_are_called_so(measured: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(measured, tmp_path / "bundle"))
    for file in ("parity.json", "latency.json"):
        path, opened = folder / "reports" / file, Bundle.open(folder)
        sha256 = gather_evidence(opened).subject.manifest_sha256
        path.write_text(path.read_text().replace(sha256, "0" * 64))
    found = gather_evidence(Bundle.open(folder))
    assert found.foreign == {"parity": "parity of bundle in onnxruntime", "latency": "every time"}
    assert list_verdicts(found)["latency"] == "of another bundle"
    assert "Not of this bundle as it is now" in render_page(found)
    with pytest.raises(BundleError, match="figures that are not of its bundle"):
        compare_evidence(found, found)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"passed": true}'])
@pytest.mark.parametrize("section", sorted(FILES))
def test_a_report_that_is_none_is_refused(section: str, text: str, bundle_copy: Path) -> None:
    file = bundle_copy / FILES[section]
    file.parent.mkdir()
    file.write_text(text)
    assert call("report", bundle_copy) == 2


def slower(evidence: Evidence, factor: float, interval: float | None) -> Evidence:
    """The same with the second row so many times as slow beside the base, and so wide an interval of both."""
    assert evidence.latency is not None
    base, row = evidence.latency.rows
    ratio = Ratio(
        base=base.backend, pairs=3, ratio=factor, each=(factor,) * 3,
        low=interval and factor / interval, high=interval and factor * interval,
    )  # fmt: skip
    row = replace(row, compute_ratio=ratio, end_to_end_ratio=ratio)
    return replace(evidence, latency=replace(evidence.latency, rows=(base, row)))


@pytest.mark.parametrize(
    ("factor", "interval", "status"),
    [(1.04, None, 0), (1.06, None, 1), (1.06, 1.01, 1), (1.06, 1.2, 0), (1.04, 1.001, 0), (0.5, None, 0)],
)
def test_a_regression_is_beyond_the_margin_and_beyond_chance(
    factor: float, interval: float | None, status: int, evidence: Evidence, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_evidence(str(old), slower(evidence, 1.0, interval))
    write_evidence(str(new), slower(evidence, factor, interval))
    assert call("report", "--compare", old, new) == status


def scale_times(evidence: Evidence, name: str, factor: float) -> Evidence:
    assert evidence.latency is not None
    rows = []
    for row in evidence.latency.rows:
        assert row.compute is not None
        rows.append(replace(row, compute=replace(row.compute, **{name: getattr(row.compute, name) * factor})))
    return replace(evidence, latency=replace(evidence.latency, rows=tuple(rows)))


def without_times(evidence: Evidence) -> Evidence:
    assert evidence.latency is not None
    rows = tuple(replace(row, compute=None, failure="outside its gate") for row in evidence.latency.rows)
    return replace(evidence, latency=replace(evidence.latency, rows=rows))


def not_proved(evidence: Evidence) -> Evidence:
    assert evidence.parity is not None
    return replace(evidence, parity=replace(evidence.parity, passed=False, invalid=("a canary passes",)))


def with_memory(evidence: Evidence, factor: float) -> Evidence:
    assert evidence.latency is not None
    rows = []
    for row in evidence.latency.rows:
        assert row.finished is not None
        finished = replace(row.finished, peak_bytes=int(row.finished.peak_bytes * factor))
        rows.append(replace(row, finished=finished))
    return replace(evidence, latency=replace(evidence.latency, rows=tuple(rows)))


CHANGES: dict[str, tuple[Callable[[Evidence], Evidence], bool]] = {
    "nothing": (lambda each: each, False),
    "the base is slower": (lambda each: scale_times(each, "median_ms", 1.2), True),
    "the base is a little slower": (lambda each: scale_times(each, "median_ms", 1.03), False),
    "the base is faster": (lambda each: scale_times(each, "median_ms", 0.5), False),
    "the base is no number": (lambda each: scale_times(each, "median_ms", math.nan), True),
    "no times any more": (without_times, True),
    "the benchmark is gone": (lambda each: replace(each, latency=None), True),
    "parity is gone": (lambda each: replace(each, parity=None), True),
    "parity is invalid": (not_proved, True),
    "more memory": (lambda each: with_memory(each, 2), True),
    "less memory": (lambda each: with_memory(each, 0.5), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_counts_as_a_regression(name: str, evidence: Evidence) -> None:
    change, regressed = CHANGES[name]
    assert compare_evidence(evidence, change(evidence)).passed is not regressed


def test_what_cannot_be_compared_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    assert evidence.latency is not None
    file, other = tmp_path / "a.json", tmp_path / "b.json"
    write_evidence(str(file), evidence)
    machine = replace(evidence.latency.machine, processor="another")
    write_evidence(str(other), replace(evidence, latency=replace(evidence.latency, machine=machine)))
    assert call("report", "--compare", file, file) == 0
    assert call("report", "--compare", file, other) == 2
    assert call("report", "--compare", file, tmp_path / "none.json") == 2
    other.write_text(json.dumps({"schema": 9}))
    assert call("report", "--compare", file, other) == 2
    assert call("report") == 2
    assert call("report", tmp_path, "--compare", file, file) == 2
    base, row = evidence.latency.rows
    assert base.compute is not None
    zero = replace(evidence.latency, rows=(replace(base, compute=replace(base.compute, median_ms=0.0)), row))
    with pytest.raises(BundleError, match="that nothing can have"):
        compare_evidence(replace(evidence, latency=zero), evidence)
    empty = replace(evidence, parity=None, latency=None, lint=None, drift=None)
    with pytest.raises(BundleError, match="holds nothing that was measured"):
        compare_evidence(empty, evidence)


def shape_of(hint: Any) -> Any:
    """A type's fields, whatever it is called."""
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return {field.name: shape_of(hints[field.name]) for field in fields(hint)}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return [shape_of(each) for each in arguments]
    if origin is tuple:
        return (shape_of(arguments[0]),)
    return None


@pytest.mark.skipif(PREBUILT is not None, reason="nothing exports here")
def test_what_the_page_reads_of_graphs_is_what_export_writes() -> None:
    pytest.importorskip("onnx")
    from vjepa2.export.drift_report import DriftReport  # noqa: PLC0415
    from vjepa2.export.inspect_cli import GraphInspection  # noqa: PLC0415

    assert shape_of(DriftRecord) == shape_of(DriftReport)
    assert shape_of(GraphRow) == shape_of(GraphInspection)
