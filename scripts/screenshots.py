"""Takes the pictures of the docs, with the real model: ``make screenshots``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import expect, sync_playwright
from support.browser import ARGUMENTS, NAMES
from support.chat_apps import serving

from openai_compat import LocalServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DOCS = Path(__file__).parent.parent / "docs"
IMAGES = DOCS / "images"
SIZE = {"width": 960, "height": 720}
QUESTION = "Write a Python function that adds two numbers, and explain it in a short list."
PATIENCE = 60_000
"""Milliseconds."""
TRIES = 10
"""A model this small does not always write what makes a picture."""


@contextmanager
def opened(browser: Browser, address: str, scheme: str) -> Iterator[Page]:
    context = browser.new_context(color_scheme=scheme, viewport=SIZE, device_scale_factor=1.5)
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def take_chat(browser: Browser, app: str, scheme: str, server: LocalServer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with serving(app, Path(folder), base_url=server.base_url, model=server.model) as address:
            for _ in range(TRIES):
                with opened(browser, address, scheme) as page:
                    page.get_by_label("Your message").fill(QUESTION)
                    page.keyboard.press("Enter")
                    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)
                    said = page.locator("article.assistant").inner_text()
                    if "def " in said and len(said) < 900:
                        page.screenshot(path=IMAGES / f"{app}-chat.png")
                        return
    raise SystemExit("the model wrote nothing that makes a picture; try again")


def take_notebook(browser: Browser) -> None:
    notebook = nbformat.read(DOCS / "examples" / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(DOCS / "examples")}}).execute()
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tour.html")
        # Without what it would load from the net.
        path.write_text(re.sub(r"<script[^>]*\bsrc=[^>]*></script>", "", html))
        with opened(browser, path.as_uri(), "light") as page:
            page.screenshot(path=IMAGES / "notebook.png")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    program = next(filter(None, map(shutil.which, NAMES)))
    with LocalServer(api_key="", slots=1) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        take_chat(browser, "flask", "light", server)
        take_chat(browser, "django", "dark", server)
        take_notebook(browser)
        browser.close()
    for image in sorted(IMAGES.iterdir()):
        print(f"{image.relative_to(DOCS.parent)}: {os.path.getsize(image) // 1024} kB")


if __name__ == "__main__":
    main()
