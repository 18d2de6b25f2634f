"""Does the page do what it says in a browser: search, play, map, keys, a narrow screen, and nothing from elsewhere?

It needs Playwright and a Chromium: `apt-get install chromium`, or CHROMIUM= with the path of one.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from tests.search_corpora import FRAMES, draw_vectors, write_corpus
from tests.videos import write
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_run import RunSettings, run_corpus
from vjepa2.runtime.corpus_seal import seal_corpus
from vjepa2.runtime.search_cli import _listen
from vjepa2.runtime.search_open import open_search
from vjepa2.runtime.search_server import create_app
from vjepa2.runtime.search_service import SearchService
from vjepa2.runtime.search_upload import open_uploads

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright: Any = pytest.importorskip("playwright.sync_api", reason="could not import 'playwright': pip install it")
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium, or set CHROMIUM", allow_module_level=True)

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NASTY = "<img src=x onerror=alert(1)>.mp4"
LONG = 20  # clips, enough for novelty


@dataclass
class Watched:
    """A page, and all that went wrong on it or left this machine."""

    page: Any
    origin: str
    wrong: list[str] = field(default_factory=list)
    forgiven: tuple[str, ...] = ()  # what a test provokes

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))
        self.page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith((self.origin, f"blob:{self.origin}", "data:")):
            self.wrong.append(f"asked for {url}")

    def wait(self, script: str) -> None:
        """Until a piece of JavaScript is true. Playwright's own way is eval in the page, which its policy forbids."""
        until_s = time.monotonic() + 15
        while not self.page.evaluate(script):
            assert time.monotonic() < until_s, script
            self.page.wait_for_timeout(30)

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def pick(self, text: str) -> None:
        """Choose the only video with `text` in its name."""
        self.page.fill("#filter", text)
        self.wait("document.querySelectorAll('#videos button').length === 1")
        self.page.locator("#videos button", has_text=text).click()
        self.wait(f"document.querySelector('#query-name').textContent.includes({text!r})")
        self.page.wait_for_selector("#found .card")


class Served:
    """A service at an address, in a thread of its own."""

    def __init__(self, service: SearchService) -> None:
        self.service, listener = service, _listen(0)
        self.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self.service.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, scene: FramesArray, exported: Path) -> Iterator[Served]:
    """Three videos that a browser plays, of 20, 6 and 6 clips, and one that none can."""
    folder = tmp_path_factory.mktemp("page")
    videos = folder / "videos"
    videos.mkdir()
    long_THWC = np.concatenate([np.roll(scene, 9 * turn, axis=2) for turn in range(4)])[: LONG * FRAMES]
    write(videos / "long.webm", long_THWC, "libvpx")
    write(videos / "short.mp4", scene[::-1])
    write(videos / NASTY, scene)
    (videos / "broken.mp4").write_bytes(b"no video")
    plan = plan_corpus(str(videos), sampling="window", pad="none", frames=FRAMES, clips_per_shard=99)
    list(run_corpus(plan, exported, str(folder / "output"), RunSettings(backend="onnxruntime", threads=1)))
    seal_corpus(str(folder / "output"))
    corpus, index = open_search(str(folder / "output"))
    served = Served(SearchService(corpus, index, open_uploads(exported, corpus.run, corpus.policy, None)))
    yield served
    served.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """10,000 clips of 2,000 videos that are not there, not sealed."""
    centres_VD = draw_vectors(0, 2000, 64)
    vectors = [3 * centre_D + draw_vectors(number, 5, 64) for number, centre_D in enumerate(centres_VD)]
    names = [f"/not/there/{number:04d}.mp4" for number in range(2000)]
    output = write_corpus(tmp_path_factory.mktemp("large") / "output", names, vectors, seal=False)
    served = Served(SearchService(*open_search(str(output))))
    yield served
    served.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Any]:
    opened: list[tuple[Any, Watched]] = []

    def show(served: Served, width: int = 1280, height: int = 900, scheme: str = "light") -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        watched = Watched(context.new_page(), served.origin)
        opened.append((context, watched))
        watched.page.goto(served.origin)
        watched.page.wait_for_selector("#videos button")
        return watched

    yield show
    for context, watched in opened:
        context.close()
        assert [words for words in watched.wrong if not any(each in words for each in watched.forgiven)] == []


def test_search_and_play_at_the_right_second(small: Served, show: Any) -> None:
    it = show(small)
    assert it.page.title() == "output: search"
    assert "32 clips of 3 videos" in it.page.inner_text("#facts")
    assert "broken.mp4" in it.page.text_content("#notes")
    it.pick("short")
    names = it.run("[...document.querySelectorAll('#found b')].map(name => name.textContent)")
    assert len(names) == 12
    assert set(names) == {NASTY, "long.webm"}
    cosines = it.run("[...document.querySelectorAll('#found [title=cosine]')].map(each => Number(each.textContent))")
    assert cosines == sorted(cosines, reverse=True)
    it.wait("document.querySelector('#found img')?.naturalWidth === 256")
    last = it.page.locator("#found .card").nth(11)
    row = int(last.get_attribute("data-row"))
    card = small.service.card(row)
    last.locator(".play").click()
    it.wait("document.getElementById('player').videoWidth === 160")
    source = it.run("document.getElementById('player').src")
    assert source == f"{small.origin}/videos/{card.video}#t={card.start_s:g},{card.end_s:g}"
    it.wait(f"document.getElementById('player').currentTime > {card.start_s - 0.01}")
    it.wait("document.getElementById('player').paused")  # at the end of the clip
    assert it.run("document.getElementById('player').currentTime") == pytest.approx(card.end_s, abs=0.3)
    last.locator(".from").click()
    it.wait(f"location.hash === '#{row}'")
    it.wait(f"document.querySelector('#strip [aria-current=true]')?.dataset.row === '{row}'")


def test_a_name_that_is_markup_is_text(small: Served, show: Any) -> None:
    it = show(small)
    it.pick("onerror")
    it.page.fill("#threshold", "0.5")
    it.page.click("#pairs-form button")
    it.page.wait_for_selector("#pairs-found .card")
    assert NASTY in it.page.inner_text("#query-name")
    assert NASTY in it.page.inner_text("#pairs-found")
    assert it.run("document.querySelectorAll('img[src=x], img[onerror]').length") == 0


def test_the_others_may_be_of_the_same_video(small: Served, show: Any) -> None:
    it = show(small)
    it.page.click("#videos button >> nth=1")
    it.page.wait_for_selector("#found .card")
    before = it.page.inner_text("#found")
    it.page.uncheck("#others")
    it.wait(f"document.getElementById('found').innerText !== {before!r}")
    it.page.select_option("#top", "24")
    it.wait("document.querySelectorAll('#found .card').length === 24")


def test_novelty_is_drawn_of_a_long_video_and_the_short_is_said(small: Served, show: Any) -> None:
    it = show(small)
    it.pick("long")
    it.page.wait_for_selector(".novel")
    assert it.run("document.querySelectorAll('.novel').length") == LONG - 16
    it.page.click(".novel >> nth=2")
    first = small.service.find_videos("long", 0, 1)[1][0]["first"]
    it.wait(f"location.hash === '#{first + 18}'")
    it.pick("short")
    it.wait("document.getElementById('novelty-says').textContent.includes('has 6 clips: too few')")
    assert it.run("document.querySelectorAll('.novel').length") == 0


def test_an_upload_is_searched_by_and_something_else_is_refused(
    small: Served, show: Any, scene: FramesArray, tmp_path: Path
) -> None:
    it = show(small)
    it.forgiven = ("status of 422",)
    text = tmp_path / "notes.mp4"
    text.write_text("this is no video")
    it.page.set_input_files("#file", text)
    it.wait("document.getElementById('said').textContent.startsWith('notes.mp4: it cannot be searched by')")
    assert it.run("document.getElementById('said').className") == "bad"
    it.page.set_input_files("#file", write(tmp_path / "copy.mp4", scene))
    it.page.wait_for_selector("#found .card")
    first = it.page.locator("#found .card").first
    assert first.locator("b").inner_text() == NASTY
    assert first.locator("[title=cosine]").inner_text() == "1.0000"
    it.wait("document.getElementById('player').videoWidth === 160")
    assert it.run("document.getElementById('player').src").startswith(f"blob:{small.origin}")
    assert it.page.is_disabled("#others")
    it.page.click("#strip button >> nth=3")
    it.wait("document.querySelector('#found .words .row span')?.textContent === '0:01.5 \u2013 0:02.0'")


def test_a_video_may_be_dropped_anywhere(small: Served, show: Any) -> None:
    it = show(small)
    it.run("""async () => {
      const bytes = await (await fetch("/videos/1")).blob();
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([bytes], "<b>mine</b>.webm"));
      for (const name of ["dragover", "drop"]) {
        document.body.dispatchEvent(new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true }));
      }
    }""")
    it.page.wait_for_selector("#found .card")
    assert it.page.inner_text("#query-name").startswith("<b>mine</b>.webm, ")
    assert it.page.locator("#found [title=cosine]").first.inner_text() == "1.0000"


def test_everything_can_be_done_by_keys(small: Served, show: Any) -> None:
    it = show(small)
    it.page.focus("#filter")
    it.page.keyboard.press("Tab")
    it.page.keyboard.press("ArrowDown")
    it.page.keyboard.press("Enter")
    it.page.wait_for_selector("#found .card")
    assert it.page.inner_text("#query-name").startswith("long.webm")
    it.page.focus("#found .play >> nth=0")
    it.page.keyboard.press("ArrowRight")
    assert it.run("[...document.querySelectorAll('#found .play')].indexOf(document.activeElement)") == 1
    it.page.keyboard.press("ArrowDown")
    place = it.run("[...document.querySelectorAll('#found .play')].indexOf(document.activeElement)")
    assert place > 2
    it.page.keyboard.press("Enter")
    it.wait(f"document.querySelectorAll('#found .card')[{place}].classList.contains('playing')")
    it.page.keyboard.press("Tab")
    it.wait("document.activeElement.textContent === 'Search from this'")  # the browser moves it after the key's event
    it.page.keyboard.press("Enter")
    it.wait("!document.querySelector('#query-name').textContent.startsWith('long.webm')")
    it.page.focus("#canvas")
    it.page.keyboard.press("ArrowRight")  # begins at the query
    before = it.run("location.hash")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "+", "+", "-", "0", "ArrowRight"):
        it.page.keyboard.press(key)
    it.wait("document.getElementById('map-point').textContent.trim() !== ''")
    it.page.keyboard.press("ArrowLeft")
    it.page.keyboard.press("Enter")
    it.wait(f"location.hash !== {before!r}")
    focused = it.run("getComputedStyle(document.activeElement).outlineStyle")
    assert focused == "solid", "where the keys go is seen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_have_contrast(scheme: str, small: Served, show: Any) -> None:
    it = show(small, scheme=scheme)
    it.page.click("#videos button")
    it.page.wait_for_selector("#found .card")
    ratios = it.run("""() => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255)
          .map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
          const colour = getComputedStyle(at).backgroundColor;
          if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "rgb(255, 255, 255)";
      };
      return [...document.querySelectorAll("p, h1, h2, b, button, label, span, summary, select, input")]
        .filter((each) => each.checkVisibility() && each.textContent.trim())
        .map((each) => [light(getComputedStyle(each).color), light(ground(each))].sort((a, b) => b - a))
        .map(([high, low]) => (high + 0.05) / (low + 0.05));
    }""")
    assert len(ratios) > 50
    assert min(ratios) > 4.5, "WCAG AA"


def test_a_narrow_screen_has_no_sideways_scroll_and_the_player_in_sight(small: Served, show: Any) -> None:
    it = show(small, 390, 844)
    it.page.click("#videos button")
    it.page.wait_for_selector("#found .card")
    it.page.fill("#threshold", "0.5")
    it.page.click("#pairs-form button")
    it.page.wait_for_selector("#pairs-found .card")
    assert it.run("document.documentElement.scrollWidth") <= 390
    it.page.locator("#found .play").nth(9).click()
    assert it.run("scrollY") > 400
    box = it.run(
        "(() => { const b = document.getElementById('player').getBoundingClientRect(); return [b.top, b.bottom]; })()"
    )
    assert 0 <= box[0] < box[1] <= 844
    it.page.click("#close")
    assert not it.page.is_visible("#player")


def test_ten_thousand_rows_stay_quick(large: Served, show: Any) -> None:
    begun_s = time.monotonic()
    it = show(large)
    it.forgiven = ("status of 404",)  # pictures of videos that are not there
    it.wait("document.getElementById('map-says').textContent.startsWith('Every clip')")
    assert "10,000 clips of 2,000 videos" in it.page.inner_text("#facts")
    assert "Not sealed: " in it.page.inner_text("#notes")
    assert "start vjepa2 search with the corpus's bundle" in it.page.inner_text("#no-upload")
    assert it.run("document.querySelectorAll('#videos button').length") == 50
    assert time.monotonic() - begun_s < 10
    it.page.click("#more-videos")
    it.wait("document.querySelectorAll('#videos button').length === 100")
    it.page.focus("#canvas")
    it.page.keyboard.press("ArrowRight")
    drawn_ms = it.run("""async () => {
      const frame = () => new Promise(requestAnimationFrame);
      const canvas = document.getElementById("canvas");
      const box = canvas.getBoundingClientRect();
      await frame();
      const begun = performance.now();
      for (let step = 0; step < 20; step++) {
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: step % 2 ? "ArrowLeft" : "+" }));
        const place = { clientX: box.left + 20 * step, clientY: box.top + 200, bubbles: true };
        canvas.dispatchEvent(new PointerEvent("pointermove", place));
        await frame();
        await frame();
      }
      return (performance.now() - begun) / 20;
    }""")
    assert drawn_ms < 500  # about 40 where nothing else runs
    for key in ("0", "ArrowRight", "Enter"):
        it.page.keyboard.press(key)
    it.page.wait_for_selector("#found .card")
    it.wait("document.getElementById('player-note').textContent.includes('it is not a file that can be read')")


def test_a_click_on_the_map_takes_the_point_under_it(large: Served, show: Any) -> None:
    it = show(large)
    it.forgiven = ("status of 404",)  # pictures of videos that are not there
    it.wait("document.getElementById('map-says').textContent.startsWith('Every clip')")
    drawn = large.service.map
    far = int(np.argmax(np.hypot(drawn.x, drawn.y)))  # nobody is near it
    it.page.locator("#canvas").scroll_into_view_if_needed()
    width, height = it.run(
        "[document.getElementById('canvas').clientWidth, document.getElementById('canvas').clientHeight]"
    )
    unit, stretch = min(width, height) / 2 - 16, min(2, width / height) if width > height else 1
    place = {"x": width / 2 + drawn.x[far] * unit * stretch, "y": height / 2 - drawn.y[far] * unit}
    it.page.click("#canvas", position=place)
    it.wait(f"location.hash === '#{drawn.rows[far]}'")
    it.page.wait_for_selector("#found .card")


def test_a_server_that_is_gone_is_said(small: Served, show: Any) -> None:
    it = show(small)
    it.forgiven = ("ERR_FAILED",)
    it.page.route("**/api/**", lambda route: route.abort())
    it.page.click("#videos button")
    it.wait("document.getElementById('said').textContent.includes('is vjepa2 search still running?')")
