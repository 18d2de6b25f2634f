"""Is a page of evidence whole in a real browser: on a phone, at a desk and on paper, silent, and asking for nothing?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Watched, launch
from tests.measured import name_everything
from vjepa2.bundle import Bundle
from vjepa2.runtime.evidence import Evidence, gather_evidence

pytest.importorskip("jinja2")
from vjepa2.runtime.report import write_page

PAPER = 718  # pixels between the margins of A4
SECTIONS = ("model", "machine", "parity", "canaries", "latency", "roofline", "memory", "lint", "drift", "commands")
HOSTILE = "<script>document.title='owned'</script><img src=https://example.org/x.png onerror=alert(1)>\"'><b>"
HOSTILE_PLOT = """<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="alert(1)">
<script>alert(2)</script>
<image href="https://example.org/y.png"/><rect width="9" height="9"/></svg>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def evidence(measured: Path) -> Evidence:
    return gather_evidence(Bundle.open(measured))


def write(folder: Path, evidence: Evidence) -> str:
    """A page's address."""
    write_page(folder / "page.html", evidence)
    return (folder / "page.html").as_uri()


def find_faults(seen: Watched) -> list[str]:
    """What is wrong with a page as it lies open."""
    faults = [f"says {words}" for words in seen.said] + [f"asks for {address}" for address in seen.asked]
    wide = seen.page.evaluate("document.documentElement.scrollWidth")
    if wide > seen.width:
        faults.append(f"is {wide} pixels wide")
    faults += [
        f"has a broken picture of {size}"
        for size in seen.page.evaluate(
            "[...document.images].filter((each) => !each.naturalWidth).map((each) => each.src.length)"
        )
    ]
    for link in seen.page.locator("a").all():
        target = link.get_attribute("href")
        if not target.startswith("#") or seen.page.locator(f"[id='{target[1:]}']").count() != 1:
            faults.append(f"links to {target}")
    return faults


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_whole_on_a_phone_and_at_a_desk(
    width: int, browser: Any, evidence: Evidence, tmp_path: Path
) -> None:
    with Watched(browser, write(tmp_path, evidence), width) as seen:
        assert find_faults(seen) == []
        assert [each.get_attribute("id") for each in seen.page.locator("section").all()] == list(SECTIONS)
        for name in SECTIONS:
            assert seen.page.locator(f"#{name} h2").is_visible(), name
            assert seen.page.locator(f"#{name}").inner_text().count("\n") >= 1, "a section is more than its name"
        for link in seen.page.locator("a").all():
            link.click()
            name = seen.page.evaluate("location.hash.slice(1)")
            top = seen.page.locator(f"#{name}").bounding_box()["y"]
            assert -1 <= top < 900, f"{name} is in sight"
            seen.page.evaluate("scrollTo(0, 0)")
        assert find_faults(seen) == []


def test_a_page_of_a_bundle_that_nothing_was_measured_of_is_whole(browser: Any, exported: Path, tmp_path: Path) -> None:
    with Watched(browser, write(tmp_path, gather_evidence(Bundle.open(exported))), 360) as seen:
        assert find_faults(seen) == []
        assert [each.get_attribute("id") for each in seen.page.locator("section").all()] == list(SECTIONS)


def test_the_page_fits_paper(browser: Any, evidence: Evidence, tmp_path: Path) -> None:
    with Watched(browser, write(tmp_path, evidence), PAPER) as seen:
        seen.page.emulate_media(media="print")
        assert find_faults(seen) == [], "nothing scrolls on paper"
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
        assert find_faults(seen) == []


def test_the_frames_of_the_worst_clip_are_seen_above_their_patches(
    browser: Any, evidence: Evidence, tmp_path: Path
) -> None:
    assert evidence.parity is not None
    tokens = evidence.parity.candidates[0].worst_map
    assert tokens is not None
    with Watched(browser, write(tmp_path, evidence), 360) as seen:
        pictures = seen.page.locator("#parity figure image").all()
        assert len(pictures) == len(tokens.pictures) == 2
        for picture in pictures:
            box = picture.bounding_box()
            assert box["width"] / box["height"] == pytest.approx(96 / 64, rel=0.02)
        sizes = seen.page.evaluate(
            """Promise.all([...document.querySelectorAll("#parity figure image")].map(async (each) => {
                const image = new Image();
                image.src = each.getAttribute("href");
                await image.decode();
                return [image.naturalWidth, image.naturalHeight];
            }))"""
        )
        assert sizes == [[96, 64]] * 2


def test_hostile_names_are_words(browser: Any, evidence: Evidence, tmp_path: Path) -> None:
    spoilt = name_everything(evidence, HOSTILE)
    if spoilt.drift is not None:
        spoilt = replace(spoilt, drift=replace(spoilt.drift, plot=HOSTILE_PLOT))
    with Watched(browser, write(tmp_path, spoilt), 360) as seen:
        assert find_faults(seen) == []
        assert seen.page.title() == f"{HOSTILE}: evidence"
        assert seen.page.locator("h1").inner_text() == HOSTILE
        assert seen.page.locator("body").inner_text().count(HOSTILE) > 10
        assert seen.page.locator("script, b, img[onerror]").count() == 0


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.log('here')</script>", "says here"),
        ("<script>nothing.there</script>", "says nothing is not defined"),
        ("<script>alert('here')</script>", "says a dialog: here"),
        ("<img src='page.png'>", "asks for file:"),
        ("<img src='http://127.0.0.1:9/x.png'>", "asks for http:"),
        ("<img src='data:image/png;base64,AAAA'>", "has a broken picture"),
        ("<p style='width: 500px'>wide</p>", "pixels wide"),
        ("<a href='#none'>nowhere</a>", "links to #none"),
        ("<a href='http://127.0.0.1:9/'>elsewhere</a>", "links to http"),
    ],
)
def test_the_check_of_a_page_can_fail(body: str, fault: str, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><link rel='icon' href='data:,'>{body}")
    with Watched(browser, file.as_uri(), 360) as seen:
        assert any(fault in each for each in find_faults(seen)), find_faults(seen)
