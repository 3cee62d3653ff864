"""A real browser for the console's tests: Debian's chromium by Playwright, axe-core for accessibility, a log of requests.

No other host is ever asked: the browser's own background traffic is switched off, and what a page asks for is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.support.demands import lacking

ROOT = Path(__file__).parents[2]
AXE = ROOT / "console" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-proxy-server"),
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def find_chromium() -> str:
    """Return a chromium's path; skips the test where none is installed, fails it where one is demanded (`.ci/run`)."""
    named = os.environ.get("CHROMIUM")
    for candidate in [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise lacking("no chromium is installed (apt install chromium, or name one in CHROMIUM)", "REQUIRE_BROWSER")


@contextmanager
def browser() -> Iterator:
    """Start chromium, headless."""
    path = find_chromium()
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make install)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield found
        finally:
            found.close()


class Visit:
    """One browser context on one gateway, with everything it asked for and everything that went wrong."""

    def __init__(self, browser, base: str, *, scheme: str = "light", viewport: dict | None = None) -> None:
        self.base = base
        self.context = browser.new_context(viewport=viewport or DESKTOP, color_scheme=scheme, reduced_motion="reduce")
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.expected_status: set[int] = set()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message) -> None:
        if message.type in ("error", "warning"):
            refused = any(f"status of {status}" in message.text for status in self.expected_status)
            if not refused:
                self.faults.append(message.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *_: object) -> None:
        self.context.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Nothing went wrong, and no other host was asked."""
        assert self.faults == []
        others = [url for url in self.asked if not url.startswith((f"{self.base}/", "blob:"))]
        assert others == []

    def open(self, where: str, heading: str | None = None) -> None:
        """Go to a page of the console and wait for its heading."""
        self.page.goto(f"{self.base}/#/{where}")
        if heading is not None:
            self.page.get_by_role("heading", level=1, name=heading).wait_for()

    def wind(self) -> None:
        """Give the page a clock that `later` can turn on; for timers that it sets from now on."""
        self.page.clock.install()

    def later(self, seconds: float) -> None:
        """Let so much time pass for the page at once."""
        self.page.clock.fast_forward(round(seconds * 1_000))

    def settle(self) -> None:
        """Wait until nothing on the page says that it is still being read."""
        self.page.wait_for_function("() => !/(Loading|Reading|Asking)[^.]* …/.test(document.body.innerText)")

    def violations(self) -> list:
        """Return what axe finds wrong with the page as it stands."""
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(AXE.read_text())
        return self.page.evaluate(
            "axe.run().then(({violations}) => violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))]))"
        )

    def overflows(self) -> bool:
        """Tell whether the page is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
