"""A real browser for tests of pages: `pytest_plugins = ["browser"]` in a test file gives it these fixtures.

They need Playwright (the extra `browser`) and a Chromium: Debian's (`apt install chromium`), Chrome, or the one that
`playwright install chromium` brings. Tests that use them are skipped, with the reason, where one is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

WIDE, NARROW = 1280, 390
"""Widths in pixels at which every page is looked at: a desk's screen, a telephone's."""


@dataclass(frozen=True)
class Visit:
    """A page in a browser context of its own: other visits share no cookies and no storage with it."""

    page: Any  # playwright.sync_api.Page
    errors: list[str] = field(default_factory=list)  # What the console shows as an error, and uncaught exceptions.
    requests: list[str] = field(default_factory=list)  # All addresses that were asked for, the page's own first.

    @property
    def too_wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture(scope="module")  # not longer: while it is open, asyncio.run fails in this thread
def browser() -> Iterator[Any]:
    """A headless Chromium (playwright.sync_api.Browser)."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install 'ratlip[browser]'")
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, PROGRAMS)), own if Path(own).is_file() else None)
        if program is None:
            pytest.skip("no Chromium: apt install chromium, or playwright install chromium")
        # Containers run tests as root and have a small /dev/shm; both stop a Chromium with its sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a page: visit(address, width=1280, dark=False, offline=False) -> Visit. All are closed after the test."""
    contexts = []

    def opened(address: str, width: int = WIDE, *, dark: bool = False, offline: bool = False) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            offline=offline,
            accept_downloads=True,
        )
        contexts.append(context)
        context.set_default_timeout(200_000)  # milliseconds: how long a busy machine takes proves nothing
        visit = Visit(context.new_page())
        visit.page.on("console", lambda said: visit.errors.append(said.text) if said.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.goto(address)
        return visit

    yield opened
    for context in contexts:
        context.close()
