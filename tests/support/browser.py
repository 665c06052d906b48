"""A real browser for tests of web pages: Chromium without a window, driven by Playwright's blocking interface.

::

    from support.browser import browser  # a fixture

    def test_page(browser: Browser) -> None:
        with watched_page(browser) as page:
            page.goto(url)
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 10_000
"""Milliseconds that a page may take for anything; a page that works needs far less."""


def _missing(what: str) -> NoReturn:
    """Where the tests must run, on CI, nothing may be skipped unseen."""
    message = f"the tests in a browser need {what}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


# One for a module, not for the session: while it is open, Playwright's event loop counts as running in this thread,
# and whatever else wants asyncio here, or Django's ORM, would be refused.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with a profile of its own, which is thrown away."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _missing("playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        _missing("Chromium on the PATH: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


def watch(page: Page) -> list[str]:
    """What goes wrong in the page from now on: uncaught exceptions, dialogs, and errors on its console.

    The browser's own line about each request that fails is left out: failing may be the server's part in a test.
    """
    troubles: list[str] = []

    def dialog(opened: Dialog) -> None:
        troubles.append(f"dialog: {opened.message}")
        opened.dismiss()

    def console(line: ConsoleMessage) -> None:
        if line.type == "error" and not line.text.startswith("Failed to load resource"):
            troubles.append(line.text)

    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", dialog)
    page.on("console", console)
    return troubles


@contextlib.contextmanager
def watched_page(browser: Browser, **context: Any) -> Iterator[Page]:
    """A page in a context of its own; the block fails where a script of the page did, or a dialog opened.

    Args:
        browser: the fixture.
        context: for ``browser.new_context``, for instance ``color_scheme="dark"``.
    """
    opened = browser.new_context(**context)
    try:
        opened.set_default_timeout(PATIENCE)
        page = opened.new_page()
        troubles = watch(page)
        yield page
    finally:
        opened.close()
    assert troubles == []
