"""A Chromium for tests of pages: it asks for nothing of its own, and what a page says, runs or asks for is kept.

It needs Playwright and a Chromium: `apt-get install chromium`, or CHROMIUM= with the path of one.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

sync_api: Any = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def launch() -> Iterator[Any]:
    """A headless browser of Playwright's; without a Chromium the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or set CHROMIUM")
    with sync_api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page of `width` pixels at `address`, and what it did while it was open."""

    browser: Any
    address: str
    width: int
    said: list[str] = field(default_factory=list)  # on the console, as an error or in a dialog
    asked: list[str] = field(default_factory=list)  # addresses, but for its own and what lies in it

    def __post_init__(self) -> None:
        self.page = self.browser.new_page(viewport={"width": self.width, "height": 900})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(self.address)

    def _dismiss(self, dialog: Any) -> None:
        self.said.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, address: str) -> None:
        if address.partition("#")[0] != self.address and not address.startswith("data:"):
            self.asked.append(address)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()
