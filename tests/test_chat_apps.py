"""The whole path: the example applications in a real browser, on real servers, with the real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask
from flask import request as asked
from support.browser import browser, watched_page
from support.chat_apps import APPS, serving
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.wire_bodies import chunk, stream_reply
from werkzeug.serving import make_server

from openai_compat import Client, LocalServer
from openai_compat.integrations.flask import stream_response

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["browser"]

QUESTION = "Write a very long story about the sea, with many chapters."
WATCH = """() => {
    window.lengths = [];
    const text = () => [...document.querySelectorAll("article.assistant .markdown")].at(-1)?.textContent ?? "";
    new MutationObserver(() => window.lengths.push(text().length))
        .observe(document.getElementById("log"), {subtree: true, childList: true, characterData: true});
}"""


def expect(locator: Locator) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your message").fill(question)
    page.keyboard.press("Enter")


def idle(page: Page) -> None:
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false", timeout=60_000)


def answer(page: Page) -> Locator:
    return page.locator("article.assistant").last.locator(".markdown")


def busy_slots(server: LocalServer) -> int:
    root = server.base_url.removesuffix("/v1")
    return sum(slot["is_processing"] for slot in requests.get(f"{root}/slots", timeout=10).json())


def slot_is_free(server: LocalServer) -> bool:
    deadline = time.monotonic() + 10
    while busy_slots(server) and time.monotonic() < deadline:
        pass
    return not busy_slots(server)


SERVED = [(app, gunicorn) for app in APPS for gunicorn in (True, False)]


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: served[0] + ("-gunicorn" if served[1] else ""))
def site(
    request: pytest.FixtureRequest, local_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    app, gunicorn = request.param
    folder = tmp_path_factory.mktemp(app)
    with serving(app, folder, base_url=local_server.base_url, model=local_server.model, gunicorn=gunicorn) as address:
        yield address


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    with watched_page(browser) as page:
        page.goto(address)
        yield page


def test_words_arrive_one_after_another_and_are_there_after_a_reload(browser: Browser, site: str) -> None:
    with opened(browser, site) as page:
        said = ""
        while len(said.split()) < 10:  # a model this small may also say "Sure."
            page.evaluate(WATCH)
            ask(page, "Who are you?")
            expect(page.locator("article.assistant.streaming")).to_be_visible()
            idle(page)
            said = answer(page).inner_text()
        assert len(set(page.evaluate("() => window.lengths"))) >= 5
        expect(page.get_by_role("alert")).to_have_count(0)
        page.reload()
        expect(page.locator("article.user p").last).to_have_text("Who are you?")
        assert answer(page).inner_text() == said
        page.get_by_role("button", name="New chat").click()
        page.get_by_role("button", name="Delete and start").click()
        expect(page.locator("article")).to_have_count(0)
        page.reload()
        expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    with opened(browser, site) as page:
        expect(page.locator("article")).to_have_count(0)


def test_stop_stops_and_frees_the_models_slot(browser: Browser, site: str, local_server: LocalServer) -> None:
    with opened(browser, site) as page:
        ask(page, QUESTION)
        expect(answer(page)).to_have_text(re.compile(r"\w+ \w+"), timeout=60_000)
        assert busy_slots(local_server) == 1
        page.get_by_role("button", name="Stop the answer").click()
        assert slot_is_free(local_server)
        note = page.locator("article.assistant .note")
        expect(note).to_have_text("Stopped.")
        idle(page)
        # What was not yet drawn, and what was on its way, may be there as well.
        said = answer(page).inner_text()[:10]
        page.reload()
        expect(page.locator("article.user p")).to_have_text(QUESTION)
        expect(answer(page)).to_have_text(re.compile(re.escape(said)))
        expect(note).to_have_text("Stopped.")


def test_a_tab_that_is_closed_frees_the_models_slot(browser: Browser, site: str, local_server: LocalServer) -> None:
    with opened(browser, site) as page:
        ask(page, QUESTION)
        expect(answer(page)).to_have_text(re.compile(r"\w+ \w+"), timeout=60_000)
        assert busy_slots(local_server) == 1
    assert slot_is_free(local_server)


@pytest.mark.parametrize("app", APPS)
def test_an_error_is_shown_when_the_models_server_is_killed(browser: Browser, app: str, tmp_path: Path) -> None:
    with (
        LocalServer(api_key="", slots=1) as server,
        serving(app, tmp_path, base_url=server.base_url, model=server.model) as site,
    ):
        with opened(browser, site) as page:
            alert = page.get_by_role("alert")
            ask(page, QUESTION)
            expect(answer(page)).to_have_text(re.compile(r"\w+ \w+"), timeout=60_000)
            os.kill(server.pid or 0, signal.SIGKILL)
            expect(alert).to_have_text("The model cannot be reached.")
            expect(page.locator("article.assistant .note")).to_have_text("The answer broke off here.")
            ask(page, "Are you there?")
            idle(page)
            expect(alert).to_have_text("The model cannot be reached.")
            page.reload()
            expect(page.locator("article")).to_have_count(0)


ATTACK = """Here: <script>alert(1)</script><img src=x onerror="alert(2)"><svg onload=alert(3)></svg>

[click](javascript:alert(4)) <a href="javascript:alert(5)">me</a> <iframe srcdoc="<script>alert(6)</script>"></iframe>
"""


@pytest.mark.parametrize("app", APPS)
def test_script_in_an_answer_does_not_run(browser: Browser, app: str, tmp_path: Path) -> None:
    with ReplayServer([stream_reply(*re.findall(".{1,7}", ATTACK, re.DOTALL))]) as model:
        with serving(app, tmp_path, base_url=model.url) as site, opened(browser, site) as page:
            ask(page, "Attack me!")
            idle(page)
            for _ in range(2):
                expect(answer(page)).to_contain_text("<script>alert(1)</script>")
                expect(page.locator("article :is(img, iframe, script, [onload])")).to_have_count(0)
                expect(page.locator("article a[href^='javascript']")).to_have_count(0)
                page.reload()


DOCS = Path(__file__).parent.parent / "docs"
PAGE_OF_FLASK = DOCS / "flask.md"
TUTORIAL = DOCS / "tutorial.md"


def test_the_script_in_the_docs_reads_the_events(browser: Browser) -> None:
    script = re.findall("^```js\n(.*?)^```", PAGE_OF_FLASK.read_text(), re.MULTILINE | re.DOTALL)[0]
    broken = b'data: {"error": {"message": "x"}}\n\n'
    answers = [stream_reply("Grüße\n", "\n🌍"), Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"}), broken])]
    with ReplayServer(answers) as model, Client(model.url, model="m") as client:
        app = Flask("docs")
        app.add_url_rule("/", view_func=lambda: "<!DOCTYPE html>")
        ask = lambda: stream_response(client.stream(asked.json["question"]))  # noqa: E731
        app.add_url_rule("/ask", "ask", ask, methods=["POST"])
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            told: list[str] = []
            page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
            for _ in answers:
                page.evaluate("async () => { const question = 'hi', output = document.body;" + script + "}")
            assert page.locator("body").text_content() == "Grüße\n\n🌍a"
            assert told == ["The model is not available."]
            page.close()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def test_the_page_of_the_tutorial_shows_the_call_and_then_the_answer(
    browser: Browser, local_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BASE_URL", local_server.base_url), ("API_KEY", "none"), ("MODEL", local_server.model)):
        monkeypatch.setenv(f"OPENAI_{name}", value)
    [program] = re.findall(r"`app.py`:\n\n```python\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    [html] = re.findall(r"^```html\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "page.html").write_text(html)
    command = [sys.executable, "-m", "flask", "run", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as flask:
        try:
            assert flask.stderr is not None
            told = iter(flask.stderr.readline, "")
            address = next(found[1] for line in told if (found := re.search(r"Running on (http://\S+)", line)))
            with watched_page(browser) as page:
                page.goto(address)
                page.get_by_role("button").click()
                expect(page.locator("#calls")).to_have_text("Calls weather", timeout=30_000)
                expect(page.locator("#answer")).to_contain_text("unny", timeout=30_000)
        finally:
            flask.terminate()


@pytest.mark.parametrize("app", APPS)
def test_one_command_starts_the_page_with_a_model_of_its_own(app: str, tmp_path: Path) -> None:
    with serving(app, tmp_path, gunicorn=False) as site, requests.Session() as visitor:
        visitor.get(site, timeout=60)
        headers = {"X-CSRFToken": visitor.cookies.get("csrftoken", "")}
        reply = visitor.post(f"{site}chat/ask", json={"message": "Say hello."}, headers=headers, timeout=60)
        assert "event: done" in reply.text
        assert len(visitor.get(f"{site}chat/history", timeout=60).json()["messages"]) == 2
