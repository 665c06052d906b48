"""The chat page of the web examples, in a real browser, with a server that says what each test tells it to."""

from __future__ import annotations

import json
import random
import re
import string
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from support.browser import browser, watch, watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["browser"]

FOLDER = Path(__file__).parent.parent / "docs" / "examples" / "chat_page"
FILLED = {
    "title": "Test chat",
    "chat_url": "/chat",
    "history_url": "/history",
    "reset_url": "/reset",
    "csrf_token": "s3cret",
    "static_url": "/static/",
}
SCRIPTS = ("chat.js", "markdown.js", "markdown-it.js")
STATIC = {
    **dict.fromkeys(SCRIPTS, "text/javascript; charset=utf-8"),
    "chat.css": "text/css; charset=utf-8",
}
SECONDS = 10.0


class Turn:
    """One question that the page asked, and the answer to it as the test goes on."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.body = body
        self.headers = headers
        self.gone = threading.Event()
        self.pieces: Queue[bytes | None] = Queue()
        self.start: Queue[tuple[str, list[tuple[str, str]]]] = Queue()

    @property
    def question(self) -> str:
        return json.loads(self.body)["message"]

    def stream(self, **headers: str) -> Turn:
        self.start.put(("200 OK", [("Content-Type", "text/event-stream; charset=utf-8"), *headers.items()]))
        return self

    def raw(self, text: str) -> Turn:
        self.pieces.put(text.encode())
        return self

    def send(self, event: str, **data: Any) -> Turn:
        return self.raw(f"event: {event}\ndata: {json.dumps(data)}\n\n")

    def text(self, delta: str) -> Turn:
        return self.send("text", delta=delta)

    def end(self) -> None:
        self.pieces.put(None)

    def done(self, finish_reason: str = "stop", *, truncated: bool = False) -> None:
        self.send("done", finish_reason=finish_reason, model="tiny-1", truncated=truncated).end()

    def reply(self, status: str, body: bytes, content_type: str = "application/json") -> None:
        self.start.put((status, [("Content-Type", content_type)]))
        self.pieces.put(body)
        self.end()

    def until_gone(self) -> bool:
        """Write comments until the browser is seen to have left; False where it stays."""
        for _ in range(500):
            self.raw(": still here\n\n")
            if self.gone.wait(0.02):
                return True
        return False

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (piece := self.pieces.get(timeout=60)) is not None:
                yield piece
        except GeneratorExit:
            self.gone.set()
            raise


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = False


class ChatServer:
    """Serves the page as a framework would. ``next_turn`` is the next question, ``history`` what a reload shows.

    The history comes once ``may_load`` is set.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, object]] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.turns: Queue[Turn] = Queue()
        self.all_turns: list[Turn] = []
        self.resets: list[str | None] = []
        self.broken: set[str] = set()
        self.unknown: list[str] = []
        page = (FOLDER / "chat.html").read_text()
        for name, value in FILLED.items():
            page = page.replace("{{ " + name + " }}", value)
        self.page = page.encode()
        self.server = make_server("127.0.0.1", 0, self.app, Threaded, Quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        for turn in self.all_turns:
            turn.start.put(("503 Over", []))
            turn.end()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def next_turn(self) -> Turn:
        return self.turns.get(timeout=SECONDS)

    def app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path in self.broken:
            start_response("500 Broken", [("Content-Type", "application/json")])
            return [b'{"error": {"message": "Out of order."}}']
        if (method, path) == ("GET", "/"):
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [self.page]
        if method == "GET" and path.startswith("/static/") and (name := path.removeprefix("/static/")) in STATIC:
            start_response("200 OK", [("Content-Type", STATIC[name])])
            return [(FOLDER / name).read_bytes()]
        if (method, path) == ("GET", "/history"):
            self.may_load.wait(SECONDS)
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps({"messages": self.history}).encode()]
        if (method, path) == ("POST", "/reset"):
            self.resets.append(environ.get("HTTP_X_CSRFTOKEN"))
            self.history = []
            start_response("204 No Content", [])
            return []
        if (method, path) == ("POST", "/chat"):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            turn = Turn(body, {k: str(v) for k, v in environ.items() if k.startswith(("HTTP_", "CONTENT_"))})
            self.all_turns.append(turn)
            self.turns.put(turn)
            start_response(*turn.start.get(timeout=60))
            return turn
        self.unknown.append(f"{method} {path}")
        start_response("404 Not Found", [])
        return []


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    try:
        yield server
    finally:
        server.close()
    assert server.unknown == []


@contextmanager
def opened(browser: Browser, server: ChatServer, **options: Any) -> Iterator[Page]:
    with watched_page(browser, **options) as page:
        page.goto(server.url)
        yield page


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """One tab for all tests that need no special one, and what went wrong in it."""
    with watched_page(browser) as page:
        yield page, watch(page)


@pytest.fixture
def page(tab: tuple[Page, list[str]], server: ChatServer) -> Iterator[Page]:
    """The page, freshly loaded; the test fails where one of its scripts does."""
    page, troubles = tab
    troubles.clear()
    page.goto(server.url)
    yield page
    page.goto("about:blank")
    assert troubles == []


def expect(locator: Locator) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def box(page: Page) -> Locator:
    return page.get_by_label("Your message")


def log(page: Page) -> Locator:
    return page.get_by_role("log")


def ask(page: Page, server: ChatServer, question: str = "Why?") -> Turn:
    box(page).fill(question)
    box(page).press("Enter")
    return server.next_turn()


def answer(page: Page) -> Locator:
    return page.locator("article.assistant").last


def idle(page: Page) -> None:
    expect(log(page)).to_have_attribute("aria-busy", "false")


# --- a turn


def test_words_arrive_one_after_another(page: Page, server: ChatServer) -> None:
    turn = ask(page, server, "  Why is the sky blue?\n")
    assert turn.question == "Why is the sky blue?"
    assert turn.headers["CONTENT_TYPE"] == "application/json"
    assert turn.headers["HTTP_X_CSRFTOKEN"] == "s3cret"
    assert "text/event-stream" in turn.headers["HTTP_ACCEPT"]
    expect(page.locator("article.user p")).to_have_text("Why is the sky blue?")
    expect(box(page)).to_have_value("")
    turn.stream()
    for delta, so_far in [("Light", "Light"), (" is", "Light is"), (" **scat", "Light is **scat")]:
        turn.text(delta)
        expect(answer(page).locator(".markdown")).to_have_text(so_far)
    turn.text("tered**.")
    expect(answer(page).locator("strong")).to_have_text("scattered")
    turn.send("usage", input_tokens=20, output_tokens=1300, total_tokens=1320).done()
    expect(answer(page).locator(".facts")).to_have_text("tiny-1 · 1,320 tokens")
    idle(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert server.turns.empty()


PIECES = 'event: text\r\ndata: {"delta":\r\ndata: "Grüße 🌍"}\r\nid: 7\r\nretry: 1\r\n\r\n: beat\r\n\r\n'


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("size", [1, 1000])
def test_an_event_stream_may_be_cut_anywhere(page: Page, server: ChatServer, newline: str, size: int) -> None:
    turn = ask(page, server).stream()
    raw = ("\ufeff" + PIECES.replace("\r\n", newline)).encode()
    for at in range(0, len(raw), size):
        turn.pieces.put(raw[at : at + size])
    turn.raw("event: surprise\ndata: {}\n\ndata: 3\n\nevent: text\ndata: null\n\n")
    turn.done()
    idle(page)
    expect(answer(page).locator(".markdown")).to_have_text("Grüße 🌍")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_reasoning_is_folded(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().send("reasoning", delta="First *this*")
    fold = answer(page).locator("details.reasoning")
    expect(fold.locator("summary")).to_have_text("Thinking…")
    expect(fold.locator("em")).to_have_text("this")
    expect(fold.locator("em")).not_to_be_visible()
    turn.text("So.")
    expect(fold.locator("summary")).to_have_text("Reasoning")
    fold.locator("summary").press("Enter")
    expect(fold.locator("em")).to_be_visible()
    turn.done()
    idle(page)
    expect(fold).to_have_attribute("open", "")


def test_tool_calls_stand_between_the_text_before_and_after(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().text("Let me look.")
    turn.send("tool_call", name="weather", arguments={"city": "<b>Rome</b>"})
    turn.send("tool_call", name="clock", arguments='{"zone": "UTC"}').text("It rains.").done()
    idle(page)
    assert [part.split(" ")[0] for part in classes(answer(page))] == [
        "unseen",
        "markdown",
        "tool",
        "tool",
        "markdown",
        "foot",
    ]
    tools = answer(page).locator("details.tool")
    assert tools.locator("summary").all_text_contents() == ["Used weather", "Used clock"]
    assert tools.locator("pre").all_text_contents() == ['{\n  "city": "<b>Rome</b>"\n}', '{"zone": "UTC"}']


def classes(locator: Locator) -> list[str]:
    return locator.evaluate("node => [...node.children].map(child => child.className)")


@pytest.mark.parametrize(
    ("reason", "truncated", "remarks"),
    [
        ("stop", False, []),
        ("length", False, ["The answer reached its length limit."]),
        ("length", True, ["The answer reached its length limit."]),
        ("content_filter", False, ["The answer was cut off by the content filter."]),
        ("unknown", True, ["The answer broke off here."]),
    ],
)
def test_an_answer_that_was_cut_short_says_so(
    page: Page, server: ChatServer, reason: str, truncated: bool, remarks: list[str]
) -> None:
    ask(page, server).stream().text("Half").done(reason, truncated=truncated)
    expect(page.locator("#send")).to_be_visible()
    expect(answer(page).locator(".note")).to_have_text(remarks)


def test_a_second_question_waits_for_the_first_answer(page: Page, server: ChatServer) -> None:
    turn = ask(page, server, "one").stream().text("1")
    expect(answer(page)).to_contain_text("1")
    box(page).fill("two")
    box(page).press("Enter")
    expect(box(page)).to_have_value("two")
    turn.done()
    idle(page)
    assert server.turns.empty()
    box(page).press("Enter")
    assert server.next_turn().question == "two"


def test_nothing_is_asked_where_nothing_is_written(page: Page, server: ChatServer) -> None:
    box(page).press("Enter")
    page.get_by_role("button", name="Send").click()
    box(page).fill(" \n ")
    box(page).press("Enter")
    assert ask(page, server, "real").question == "real"
    assert len(server.all_turns) == 1


def test_enter_that_ends_a_composed_word_does_not_send(page: Page, server: ChatServer) -> None:
    box(page).fill("にほん")
    init = "{key: 'Enter', isComposing: true, bubbles: true, cancelable: true}"
    assert box(page).evaluate(f"node => node.dispatchEvent(new KeyboardEvent('keydown', {init}))")
    expect(box(page)).to_have_value("にほん")
    assert server.turns.empty()


# --- stop


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_aborts_the_request_and_keeps_what_came(page: Page, server: ChatServer, how: str) -> None:
    turn = ask(page, server).stream().text("Once upon")
    expect(answer(page)).to_contain_text("Once upon")
    stop = page.get_by_role("button", name="Stop the answer")
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    if how == "button":
        stop.click()
    else:
        page.keyboard.press("Escape")
    assert turn.until_gone()
    idle(page)
    expect(answer(page).locator(".markdown")).to_have_text("Once upon")
    expect(answer(page).locator(".note")).to_have_text("Stopped.")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(stop).to_be_hidden()
    expect(box(page)).to_be_focused()
    ask(page, server, "again").stream().text("Fine.").done()
    expect(answer(page).locator(".markdown")).to_have_text("Fine.")


def test_stop_before_the_answer_begins(page: Page, server: ChatServer) -> None:
    turn = ask(page, server)
    page.get_by_role("button", name="Stop the answer").click()
    expect(answer(page).locator(".note")).to_have_text("Stopped before the answer began.")
    turn.stream()
    assert turn.until_gone()


def test_escape_without_an_answer_does_nothing(page: Page, server: ChatServer) -> None:
    box(page).fill("draft")
    page.keyboard.press("Escape")
    expect(box(page)).to_have_value("draft")


def test_leaving_the_page_ends_the_request(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().text("a")
    expect(answer(page)).to_contain_text("a")
    page.goto("about:blank")
    assert turn.until_gone()
    assert len(server.all_turns) == 1


# --- errors


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        ("429 Too Many", b'{"error": {"message": "Slow <b>down</b>."}}', "Slow <b>down</b>."),
        ("502 Bad Gateway", b"<html>oops", "The server answered with an error (502)."),
        ("500 Oops", b'{"error": "text"}', "The server answered with an error (500)."),
        ("500 Oops", b'{"error": {"message": {"a": 1}}}', "The server answered with an error (500)."),
        ("403 Forbidden", b"null", "The server answered with an error (403)."),
        ("200 OK", b"{}", "The server did not answer with a stream."),
    ],
)
def test_an_error_status_is_shown(page: Page, server: ChatServer, status: str, body: bytes, shown: str) -> None:
    ask(page, server, "Why?\nHow?").reply(status, body)
    expect(page.get_by_role("alert")).to_have_text(shown)
    expect(answer(page).locator(".note")).to_have_text("No answer came.")
    idle(page)
    box(page).fill("a draft")
    page.get_by_role("button", name="Try again").click()
    turn = server.next_turn()
    assert turn.question == "Why?\nHow?"
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(box(page)).to_be_focused()
    turn.stream().text("So.").done()
    idle(page)
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article.user p")).to_have_text("Why?\nHow?")
    expect(answer(page).locator(".markdown")).to_have_text("So.")
    expect(box(page)).to_have_value("a draft")
    assert len(server.all_turns) == 2


LOST = "The connection was lost before the answer was complete."


@pytest.mark.parametrize(
    ("name", "tail", "shown"),
    [
        ("error event", 'event: error\ndata: {"message": "The model fell asleep."}\n\n', "The model fell asleep."),
        ("error event without words", "event: error\ndata: {}\n\n", "The server reported an error."),
        ("end", "", LOST),
        ("end within an event", 'event: done\ndata: {"finish_reason": "stop"}\n', LOST),
        ("not JSON", "event: text\ndata: {oops\n\n", "The server sent something that this page does not understand."),
    ],
)
def test_an_answer_that_breaks_off_is_kept_and_marked(
    page: Page, server: ChatServer, name: str, tail: str, shown: str
) -> None:
    ask(page, server).stream().text("Half an").raw(tail).end()
    expect(page.get_by_role("alert")).to_have_text(shown)
    expect(answer(page).locator(".markdown")).to_have_text("Half an")
    expect(answer(page).locator(".note")).to_have_text("The answer broke off here.")
    idle(page)
    page.get_by_role("button", name="Try again").click()
    turn = server.next_turn()
    assert turn.question == "Why?"
    turn.stream().text("Whole").done()
    expect(answer(page).locator(".markdown")).to_have_text("Whole")
    expect(page.locator("article")).to_have_count(2)
    assert len(server.all_turns) == 2


def test_a_connection_that_is_cut_is_shown(page: Page, server: ChatServer) -> None:
    turn = ask(page, server)
    turn.stream(**{"Content-Length": "100000"}).text("Half")
    expect(answer(page).locator(".markdown")).to_have_text("Half")
    turn.end()
    expect(page.get_by_role("alert")).to_have_text(LOST)
    expect(answer(page).locator(".markdown")).to_have_text("Half")


def test_a_connection_that_is_cut_after_the_answer_does_no_harm(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream(**{"Content-Length": "100000"}).text("Whole")
    turn.send("done", finish_reason="length", model="tiny-1")
    expect(answer(page).locator(".note")).to_be_visible()
    turn.end()
    expect(answer(page).locator(".facts")).to_have_text("tiny-1")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_cannot_be_reached_is_shown(page: Page, server: ChatServer) -> None:
    page.route("**/chat", lambda route: route.abort(), times=1)
    box(page).fill("Why?")
    box(page).press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server could not be reached.")


@pytest.mark.parametrize("draft", ["", "a draft"])
def test_a_failure_that_is_dismissed_loses_no_question(page: Page, server: ChatServer, draft: str) -> None:
    ask(page, server).reply("500 Oops", b"{}")
    expect(page.get_by_role("alert")).to_be_visible()
    box(page).fill(draft)
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(box(page)).to_be_focused()
    if draft:
        expect(box(page)).to_have_value(draft)
        expect(page.locator("article.user p")).to_have_text("Why?")
        expect(answer(page).locator(".note")).to_have_text("No answer came.")
    else:
        expect(box(page)).to_have_value("Why?")
        expect(page.locator("article")).to_have_count(0)
        expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()


def test_a_broken_off_answer_stays_where_its_failure_is_dismissed(page: Page, server: ChatServer) -> None:
    ask(page, server).stream().text("Half").end()
    page.get_by_role("button", name="Dismiss").click()
    expect(answer(page).locator(".note")).to_have_text("The answer broke off here.")
    expect(page.locator("article")).to_have_count(2)
    expect(box(page)).to_have_value("")


def test_the_page_asks_once_only(page: Page, server: ChatServer) -> None:
    assert "EventSource(" not in (FOLDER / "chat.js").read_text()
    ask(page, server).stream().raw("retry: 1\nid: 1\n\n").text("a").end()
    expect(page.get_by_role("alert")).to_have_text(LOST)
    # Far more time than the server's own wish for a reconnection.
    page.evaluate("() => new Promise(done => setTimeout(done, 300))")
    assert len(server.all_turns) == 1


# --- what the server keeps


def test_a_reload_shows_the_history(page: Page, server: ChatServer) -> None:
    ask(page, server).stream().text("gone").done()
    idle(page)
    server.history = [
        {"role": "user", "content": "*Why*\n<b>blue</b>?", "reasoning": ""},
        {"role": "assistant", "content": "Because of **light**.", "reasoning": "Hm."},
    ]
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    assert page.locator("article.user p").inner_text() == "*Why*\n<b>blue</b>?"
    assert answer(page).locator(".markdown").last.inner_html() == '<p dir="auto">Because of <strong>light</strong>.</p>'
    expect(answer(page).locator("summary")).to_have_text("Reasoning")
    expect(page.locator("#welcome")).to_be_hidden()
    expect(log(page)).to_have_attribute("aria-live", "polite")
    expect(page.get_by_role("status")).to_have_text("")


def test_a_reload_shows_tool_calls_within_their_answer(page: Page, server: ChatServer) -> None:
    turn = ask(page, server, "one").stream().text("Let me look.")
    turn.send("tool_call", name="weather", arguments={"city": "<b>Rome</b>"}).text("It rains.").done()
    idle(page)
    live = answer(page).locator(":scope > :not(.foot)").evaluate_all("nodes => nodes.map(node => node.outerHTML)")
    calls = [{"name": "weather", "arguments": {"city": "<b>Rome</b>"}}]
    server.history = [
        {"role": "user", "content": "one", "reasoning": "", "tool_calls": []},
        {"role": "assistant", "content": "Let me look.", "reasoning": "", "tool_calls": calls},
        {"role": "assistant", "content": "It rains.", "reasoning": "", "tool_calls": []},
        {"role": "user", "content": "two", "reasoning": "", "tool_calls": []},
        {"role": "assistant", "content": "", "reasoning": "", "tool_calls": [{"name": "clock", "arguments": None}]},
        {"role": "user", "content": "three", "reasoning": "", "tool_calls": []},
        {"role": "assistant", "content": "3", "reasoning": "", "tool_calls": []},
        {"role": "assistant", "content": "4", "reasoning": "", "tool_calls": []},
    ]
    page.reload()
    expect(page.locator("article.user p")).to_have_text(["one", "two", "three"])
    answers = page.locator("article.assistant")
    expect(answers).to_have_count(4)
    loaded = answers.first.locator(":scope > :not(.foot)").evaluate_all("nodes => nodes.map(node => node.outerHTML)")
    assert loaded == live
    assert answers.nth(1).locator("details.tool").all_inner_texts() == ["Used clock"]
    assert answers.locator(".markdown").all_inner_texts() == ["Let me look.", "It rains.", "3", "4"]
    expect(page.get_by_role("button", name="Copy answer")).to_have_count(3)


@pytest.mark.parametrize("turns", [0, 1, 40])
def test_the_message_box_stays_where_it_is_while_the_history_loads(
    browser: Browser, server: ChatServer, turns: int
) -> None:
    server.history = [{"role": role, "content": "line"} for _ in range(turns) for role in ("user", "assistant")]
    where = "node => Object.values(node.getBoundingClientRect().toJSON())"
    with watched_page(browser) as page:
        server.may_load.clear()
        page.goto(server.url)
        expect(page.locator("#composer")).to_be_in_viewport()
        before = page.locator("#composer").evaluate(where)
        server.may_load.set()
        expect(page.locator("article")).to_have_count(2 * turns)
        expect(page.locator("#welcome")).to_be_visible(visible=turns == 0)
        assert page.locator("#composer").evaluate(where) == pytest.approx(
            before, abs=1
        )  # a scrolled page has no halves


def test_a_reload_shows_what_was_stopped(page: Page, server: ChatServer) -> None:
    server.history = [
        {"role": "user", "content": "Why?", "reasoning": "", "stopped": False},
        {"role": "assistant", "content": "Because", "reasoning": "", "stopped": True},
    ]
    page.reload()
    expect(answer(page).locator(".markdown")).to_have_text("Because")
    expect(answer(page).locator(".note")).to_have_text("Stopped.")


NOT_YET = {"messages": []}
CUT_OFF = [
    {"role": "user", "content": "Why?", "reasoning": "", "stopped": False},
    {"role": "assistant", "content": "Because", "reasoning": "", "stopped": True},
]


def test_a_reload_within_an_answer_waits_until_it_is_kept(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().text("Because")
    expect(answer(page)).to_contain_text("Because")
    server.history = CUT_OFF
    page.route("**/history", lambda route: route.fulfill(json=NOT_YET), times=1)
    page.reload()
    expect(answer(page).locator(".markdown")).to_have_text("Because")
    expect(box(page)).to_have_value("")
    assert turn.until_gone()
    assert len(server.all_turns) == 1


def test_a_reload_before_an_answer_gives_the_question_back(page: Page, server: ChatServer) -> None:
    turn = ask(page, server)
    page.reload()
    expect(box(page)).to_have_value("Why?")
    turn.stream()
    assert turn.until_gone()
    page.reload()
    expect(box(page)).to_have_value("Why?")
    assert len(server.all_turns) == 1


def test_a_history_that_does_not_load_is_shown(page: Page, server: ChatServer) -> None:
    server.broken.add("/history")
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("The conversation so far could not be loaded. Out of order.")
    server.broken.clear()
    server.history = [{"role": "user", "content": "old"}]
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("article.user p")).to_have_text("old")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_new_chat_asks_first_and_empties_the_history(page: Page, server: ChatServer) -> None:
    server.history = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "answer", "reasoning": ""}]
    page.reload()
    dialog = page.get_by_role("dialog", name="Start a new chat?")
    page.get_by_role("button", name="New chat").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Keep it").click()
    expect(page.locator("article")).to_have_count(2)
    page.get_by_role("button", name="New chat").click()
    dialog.get_by_role("button", name="Delete and start").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(box(page)).to_be_focused()
    assert server.resets == ["s3cret"]


def test_a_new_chat_ends_the_answer_that_is_coming(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().text("a")
    expect(answer(page)).to_contain_text("a")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Delete and start").click()
    assert turn.until_gone()
    expect(page.locator("article")).to_have_count(0)
    assert server.resets == ["s3cret"]


def test_a_new_chat_that_fails_is_shown(page: Page, server: ChatServer) -> None:
    server.history = [{"role": "user", "content": "old"}]
    page.reload()
    server.broken.add("/reset")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Delete and start").click()
    expect(page.get_by_role("alert")).to_have_text("The conversation could not be deleted. Out of order.")
    expect(page.locator("article")).to_have_count(1)
    server.broken.clear()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("article")).to_have_count(0)


# --- keyboard, screen reader, screen


def test_an_error_does_not_push_the_end_of_the_answer_out_of_sight(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream().text("line\n\n" * 60)
    expect(answer(page)).to_contain_text("line")
    until(page, AT_END)
    turn.end()
    expect(page.get_by_role("alert")).to_be_visible()
    until(page, AT_END)
    box(page).fill("a\nb\nc\nd\ne")
    until(page, AT_END)
    expect(page.get_by_role("button", name="Jump to the latest message")).to_be_hidden()


def test_a_scroll_event_after_the_page_grew_does_not_stop_following(page: Page, server: ChatServer) -> None:
    ask(page, server).stream().text("line\n\n" * 60)
    expect(answer(page)).to_contain_text("line")
    until(page, AT_END)
    page.evaluate(
        """() => {
          document.querySelector("textarea").style.height = "300px";
          document.dispatchEvent(new Event("scroll"));
        }"""
    )
    until(page, AT_END)
    expect(page.get_by_role("button", name="Jump to the latest message")).to_be_hidden()


def test_the_keyboard_is_enough(page: Page, server: ChatServer) -> None:
    expect(box(page)).to_be_focused()
    page.reload()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Shift+Tab")
    skip = page.get_by_role("link", name="Skip to the message box")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(box(page)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")
    turn = server.next_turn()
    assert turn.question == "one\ntwo"
    expect(box(page)).to_be_focused()
    turn.stream().text("```py\nx = 1\n```")
    expect(answer(page).locator("pre")).to_have_text("x = 1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop the answer")).to_be_focused()
    page.keyboard.press("Enter")
    assert turn.until_gone()
    expect(box(page)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Copy answer")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("group", name="Code, py")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Copy code")).to_be_focused()


RIGHT_TO_LEFT = """`code` שלום

# כותרת

- אחת
- two

> > ציטוט

| שם | name |
|---|---|
| א | b |

```py
שלום = 1
```

$$שלום$$
"""


def test_text_from_right_to_left(page: Page, server: ChatServer) -> None:
    box(page).fill("שלום")
    direction = "node => getComputedStyle(node).direction"
    assert box(page).evaluate(direction) == "rtl"
    ask(page, server, "שלום").stream().text(RIGHT_TO_LEFT).done()
    idle(page)
    assert page.locator("article.user p").evaluate(direction) == "rtl"
    for selector in ["p:has(> code)", "h3", "ul", "li >> nth=0", "blockquote >> nth=0", ".table", "td >> nth=0"]:
        assert answer(page).locator(selector).evaluate(direction) == "rtl", selector
    for selector in ["p > code", ".code", ".code pre", "pre.math", ".facts"]:
        assert answer(page).locator(selector).evaluate(direction) == "ltr", selector
    # An English item of that list reads from left to right, but beside its mark.
    english = answer(page).locator("li").last
    assert english.evaluate("node => getComputedStyle(node).unicodeBidi") == "plaintext"
    assert english.evaluate("node => getComputedStyle(node).textAlign") == "right"
    for selector, side in [("ul", "paddingRight"), ("blockquote >> nth=0", "borderRightWidth")]:
        size = f"node => parseFloat(getComputedStyle(node).{side})"
        assert answer(page).locator(selector).evaluate(size) > 1, selector


def test_what_has_the_focus_shows_it(page: Page) -> None:
    outline = "node => getComputedStyle(node).outlineStyle"
    page.keyboard.press("Tab")
    for target in ["#question", "#send", "#new-chat", ".suggestion", ".skip"]:
        element = page.locator(target).first
        element.focus()
        if target == "#question":
            # The box around it shows the focus, once.
            assert element.evaluate(outline) == "none"
            element = page.locator("#composer")
        assert element.evaluate(outline) == "solid", target


def test_roles_and_names(page: Page) -> None:
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title() == "Test chat"
    for role, name in [
        ("banner", None),
        ("main", None),
        ("form", "Message"),
        ("log", "Conversation"),
        ("textbox", "Your message"),
        ("button", "Send"),
        ("button", "New chat"),
        ("status", None),
    ]:
        expect(page.get_by_role(role, name=name)).to_have_count(1)  # type: ignore[arg-type]
    expect(page.get_by_role("heading", level=1)).to_have_text("Test chat")
    expect(box(page)).to_have_accessible_description(re.compile("Enter sends.*Escape stops"))
    unnamed = "nodes => nodes.filter(n => !n.textContent.trim() && !n.getAttribute('aria-label')).length"
    assert page.locator("button").evaluate_all(unnamed) == 0
    assert page.locator("[id]").evaluate_all("nodes => nodes.length - new Set(nodes.map(n => n.id)).size") == 0


def test_a_screen_reader_hears_the_whole_answer_once(page: Page, server: ChatServer) -> None:
    expect(log(page)).to_have_attribute("aria-live", "polite")
    expect(log(page)).to_have_attribute("aria-busy", "false")
    turn = ask(page, server).stream().send("reasoning", delta="hm").text("# Yes\n\nIt")
    status = page.get_by_role("status")
    expect(answer(page)).to_contain_text("It")
    expect(log(page)).to_have_attribute("aria-busy", "true")
    expect(answer(page)).to_have_attribute("aria-live", "off")
    expect(status).to_have_text("Answering…")
    turn.text(" **is**.\n\n```py\nx\n```").done()
    idle(page)
    assert answer(page).get_attribute("aria-live") is None
    assert status.text_content() == "Answer complete. Yes\nIt is.\nx"
    expect(page.get_by_role("article").last.get_by_role("heading", level=2)).to_have_text("Assistant")
    expect(page.get_by_role("article").first.get_by_role("heading", level=2)).to_have_text("You")


def test_what_is_read_out_keeps_words_apart(page: Page, server: ChatServer) -> None:
    text = "Look:\n\n- a\n  - b\n- c\n\n> d\n\n| Name | Age |\n|---|---|\n| Ann<br>Lee | 7 |\n\n$$\nx\n$$"
    ask(page, server).stream().text(text).send("tool_call", name="clock", arguments={}).text("End.").done()
    expect(page.get_by_role("status")).to_contain_text("complete")
    read = page.get_by_role("status").text_content()
    assert read == "Answer complete. Look:\na\nb\nc\nd\nName, Age\nAnn\nLee, 7\n$$\nx\n$$\nEnd."


def test_what_was_read_out_is_gone_soon(browser: Browser, server: ChatServer) -> None:
    with watched_page(browser) as page:
        page.clock.install()
        page.goto(server.url)
        turn = ask(page, server).stream().text("Once.")
        expect(answer(page)).to_contain_text("Once.")
        page.clock.fast_forward(4000)
        turn.done()
        status = page.get_by_role("status")
        expect(status).to_have_text("Answer complete. Once.")
        page.clock.fast_forward(3000)
        expect(status).to_have_text("Answer complete. Once.")
        page.clock.fast_forward(2500)
        expect(status).to_have_text("")


COPYABLE = """Yes, **so**:

```py
print('<hi>')

\tx
```"""
NO_CLIPBOARD = """
window.board = navigator.clipboard;
Object.defineProperty(navigator, "clipboard", { value: undefined });
"""


@pytest.mark.parametrize("clipboard", [True, False])
def test_code_and_answers_can_be_copied(browser: Browser, server: ChatServer, clipboard: bool) -> None:
    server.history = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": COPYABLE, "reasoning": "Hm."},
        {"role": "assistant", "content": "", "reasoning": "Hm."},
    ]
    with watched_page(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        if not clipboard:
            page.add_init_script(NO_CLIPBOARD)
        page.goto(server.url)
        for name, copied in [("Copy code", "print('<hi>')\n\n\tx"), ("Copy answer", COPYABLE)]:
            button = page.get_by_role("button", name=name)
            button.press("Enter")
            expect(button).to_have_text("Copied")
            expect(button).to_be_focused()
            expect(page.get_by_role("status")).to_have_text("Copied")
            assert page.evaluate("() => (window.board ?? navigator.clipboard).readText()") == copied


def test_an_answer_around_a_tool_call_is_copied_whole(browser: Browser, server: ChatServer) -> None:
    with opened(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        turn = ask(page, server).stream().text("One ").text("two.").send("tool_call", name="clock", arguments={})
        expect(answer(page)).to_contain_text("clock")
        expect(page.get_by_role("button", name="Copy answer")).to_have_count(0)
        turn.text("Three.").done()
        button = page.get_by_role("button", name="Copy answer")
        button.click()
        expect(button).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == "One two.\n\nThree."


def test_a_suggestion_fills_the_message_box(page: Page) -> None:
    suggestion = page.locator(".suggestion").first
    text = suggestion.inner_text()
    suggestion.click()
    expect(box(page)).to_have_value(text)
    expect(box(page)).to_be_focused()


def test_the_message_box_grows_and_shrinks(page: Page) -> None:
    height = "node => node.clientHeight"
    one = box(page).evaluate(height)
    box(page).fill("a\nb\nc\nd")
    assert box(page).evaluate(height) > 2.5 * one
    box(page).fill("a\n" * 200)
    assert box(page).evaluate(height) <= page.evaluate("() => innerHeight") * 0.4 + 1
    box(page).fill("")
    assert box(page).evaluate(height) == one


def test_a_draft_outlives_a_reload_until_it_is_sent(page: Page, server: ChatServer) -> None:
    height = "node => node.clientHeight"
    box(page).fill("a\nb\nc\nd")
    tall = box(page).evaluate(height)
    page.reload()
    expect(box(page)).to_have_value("a\nb\nc\nd")
    assert box(page).evaluate(height) == tall
    box(page).press("Enter")
    server.next_turn().stream().done()
    idle(page)
    page.reload()
    expect(box(page)).to_have_value("")


def test_a_browser_that_keeps_nothing_is_enough(browser: Browser, server: ChatServer) -> None:
    with watched_page(browser) as page:
        refuse = "get: () => { throw new DOMException('no', 'SecurityError'); }"
        page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {{ {refuse} }});")
        page.goto(server.url)
        ask(page, server).stream().text("Yes.").done()
        expect(answer(page).locator(".markdown")).to_have_text("Yes.")


AT_END = "() => document.documentElement.scrollHeight - innerHeight - scrollY < 2"


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's own way is refused by the page's security policy."""
    page.evaluate(
        f"""async () => {{
          const end = performance.now() + 20_000;
          while (!({condition})()) {{
            if (performance.now() > end) throw new Error({condition!r} + " has not come true");
            await new Promise(requestAnimationFrame);
          }}
        }}"""
    )


def test_the_page_follows_a_reader_at_the_end_only(page: Page, server: ChatServer) -> None:
    turn = ask(page, server).stream()
    latest = page.get_by_role("button", name="Jump to the latest message")
    turn.text("line\n\n" * 60 + "first")
    expect(answer(page)).to_contain_text("first")
    until(page, AT_END)
    expect(latest).to_be_hidden()
    page.mouse.move(400, 300)
    page.mouse.wheel(0, -500)
    expect(latest).to_be_visible()
    until(page, f"() => !({AT_END})()")
    before = page.evaluate("() => scrollY")
    turn.text("line\n\n" * 60 + "second")
    expect(answer(page)).to_contain_text("second")
    assert page.evaluate("() => new Promise(requestAnimationFrame).then(() => scrollY)") <= before
    latest.click()
    until(page, AT_END)
    expect(latest).to_be_hidden()
    turn.text("line\n\n" * 60 + "third").done()
    idle(page)
    until(page, AT_END)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, server: ChatServer, width: int) -> None:
    wide = "| " + " | ".join(f"column {n}" for n in range(12)) + " |\n" + "|---" * 12 + "|\n"
    content = f"{'word' * 80}\n\n```\n{'code ' * 80}\n```\n\n{wide}\n\n`{'y' * 300}` https://x.test/{'z' * 300}"
    server.history = [{"role": "user", "content": "q" * 300}, {"role": "assistant", "content": content}]
    with opened(browser, server, viewport={"width": width, "height": 700}) as page:
        expect(page.locator("article")).to_have_count(2)
        assert page.evaluate("() => document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, server: ChatServer, scheme: Any) -> None:
    """At least 4.5 to 1, for every pair of colours in which the page writes."""
    pairs = [
        ("ink", "paper"),
        ("ink", "bubble"),
        ("ink", "raised"),
        ("ink", "sunken"),
        ("soft", "paper"),
        ("soft", "raised"),
        ("soft", "sunken"),
        ("soft", "bubble"),
        ("accent", "paper"),
        ("on-accent", "accent"),
        ("alert", "alert-paper"),
        ("alert-paper", "alert"),
        ("paper", "ink"),
    ]

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    with opened(browser, server, color_scheme=scheme) as page:
        read = "(root, names) => names.map(name => getComputedStyle(root).getPropertyValue(`--${name}`))"
        names = sorted({name for pair in pairs for name in pair})
        colours = dict(zip(names, page.locator("html").evaluate(read, names), strict=True))
        for pair in pairs:
            one, other = (luminance(colours[name]) for name in pair)
            ratio = (max(one, other) + 0.05) / (min(one, other) + 0.05)
            assert ratio >= 4.5, (pair, ratio)


def test_motion_stops_for_those_who_ask(browser: Browser, server: ChatServer) -> None:
    moves = "node => getComputedStyle(node, '::after').animationName"
    for wish, name in [("reduce", "none"), ("no-preference", "breathe")]:
        with opened(browser, server, reduced_motion=wish) as page:
            turn = ask(page, server).stream().text("a")
            expect(answer(page)).to_contain_text("a")
            assert answer(page).evaluate(moves) == name
            turn.done()
            idle(page)


def test_the_dot_of_a_streaming_answer_stays_in_forced_colours(browser: Browser, server: ChatServer) -> None:
    with opened(browser, server, forced_colors="active") as page:
        turn = ask(page, server).stream().text("a")
        expect(answer(page)).to_contain_text("a")
        colour = "node => getComputedStyle(node, '::after').backgroundColor"
        paper = page.locator("html").evaluate("node => getComputedStyle(node).backgroundColor")
        assert answer(page).evaluate(colour) not in {paper, "rgba(0, 0, 0, 0)"}
        turn.done()
        idle(page)


# --- the template


def test_the_template_holds_its_placeholders_and_nothing_else_that_a_template_would_read() -> None:
    text = (FOLDER / "chat.html").read_text()
    assert set(re.findall(r"\{\{.*?\}\}", text)) == {"{{ " + name + " }}" for name in FILLED}
    assert not re.search(r"\{%|\{#|%\}|#\}", text)


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_inline_script_or_style() -> None:
    text = (FOLDER / "chat.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)
    assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""]
    assert set(re.findall(r"https?://[^'\"\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in (FOLDER / "chat.css").read_text()
    assert "@import" not in (FOLDER / "chat.css").read_text()
    for name in SCRIPTS:
        script = (FOLDER / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", script
        )
        assert set(re.findall(r"""^import .* from "(.*)";$""", script, re.MULTILINE)) <= {
            f"./{each}" for each in SCRIPTS
        }


def test_the_vendored_parser_is_there_with_its_licence_and_version() -> None:
    version = re.match(r"/\*! markdown-it ([\d.]+) ", (FOLDER / "markdown-it.js").read_text())
    licences = (FOLDER / "markdown-it.LICENSE.txt").read_text()
    assert version is not None
    assert licences.startswith(f"markdown-it {version[1]} (MIT)")
    for part in ("entities", "linkify-it", "mdurl", "punycode.js", "uc.micro"):
        assert re.search(rf"^{part} [\d.]+ \([\w-]+\)$", licences, re.MULTILINE), part


def test_without_a_csrf_token_no_header_is_sent(browser: Browser, server: ChatServer) -> None:
    server.page = server.page.replace(b"s3cret", b"")
    with opened(browser, server) as page:
        turn = ask(page, server)
        assert "HTTP_X_CSRFTOKEN" not in turn.headers
        turn.stream().done()
        idle(page)


# --- scripts in an answer

ATTACKS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1><script>window.hacked=1</script></svg>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "</textarea><script>window.hacked=1</script>",
    "</article></main><base href=//evil.test><form action=//evil.test><input autofocus onfocus=window.hacked=1>",
    "[a](javascript:window.hacked=1)",
    "[a]( java\tscript:window.hacked=1)",
    "[a](<java\x00script:window.hacked=1>)",
    "[a](JaVaScRiPt:window.hacked=1)",
    "[a](javascript&#58;window.hacked=1)",
    "[a](javascript&colon;window.hacked=1)",
    "[a](\x01javascript:window.hacked=1)",
    "[a](data:text/html;base64,PHNjcmlwdD5wYXJlbnQuaGFja2VkPTE8L3NjcmlwdD4=)",
    "[a](vbscript:msgbox(1))",
    "[a](blob:http://x/1)",
    "[a](file:///etc/passwd)",
    "[a](//evil.test)",
    "![a](javascript:window.hacked=1)",
    "![a](data:image/svg+xml,<svg/onload=window.hacked=1>)",
    "<javascript:window.hacked=1>",
    '[a](https://x.test "><img src=x onerror=window.hacked=1>")',
    '[a](https://x.test"onmouseover="window.hacked=1)',
    "[<img src=x onerror=window.hacked=1>](https://x.test)",
    "# <img src=x onerror=window.hacked=1>",
    "`<img src=x onerror=window.hacked=1>`",
    "```<img/src=x/onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
    '```" onclick=window.hacked=1\nx\n```',
    "| <img src=x onerror=window.hacked=1> | b |\n|---|---|\n| <script>window.hacked=1</script> | [a](javascript:1) |",
    "- <details open ontoggle=window.hacked=1>\n> <video><source onerror=window.hacked=1>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; &#60;img src=x onerror=window.hacked=1&#62;",
    "<style>*{display:none}</style><link rel=stylesheet href=//evil.test><meta http-equiv=refresh content=0>",
    "<a href=javascript:window.hacked=1>x</a>",
    "__proto__ [a](__proto__) {{constructor}} ${window.hacked=1}",
]
WATCH = """
document.addEventListener("securitypolicyviolation", event => (window.violations ||= []).push(event.violatedDirective));
"""
ALLOWED = {
    *("article", "button", "details", "div", "span", "summary"),
    *("h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "blockquote", "pre", "hr"),
    *("table", "thead", "tbody", "tr", "th", "td"),
    *("a", "br", "code", "del", "em", "strong"),
}
DOUBTFUL = """() => [...document.querySelectorAll("#log *")].flatMap(node => [
    node.localName,
    ...[...node.attributes].map(({name, value}) => `${node.localName}.${name}` + (name === "href" ? `=${value}` : "")),
])"""


def assert_harmless(page: Page) -> None:
    found = set(page.evaluate(DOUBTFUL))
    addresses = {name.removeprefix("a.href=") for name in found if name.startswith("a.href=")}
    attributes = {name.split(".")[1] for name in found if "." in name and not name.startswith("a.href=")}
    assert {name for name in found if "." not in name} <= ALLOWED
    assert attributes <= {"class", "target", "rel", "title", "tabindex", "role", "aria-label", "type", "start", "dir"}
    assert all(address.startswith(("https://", "http://", "mailto:")) for address in addresses)
    assert page.evaluate("() => [window.hacked, window.violations]") == [None, None]


def test_no_script_in_an_answer_runs(browser: Browser, server: ChatServer) -> None:
    with watched_page(browser) as page:
        page.add_init_script(WATCH)
        page.goto(server.url)
        turn = ask(page, server, ATTACKS[0]).stream()
        for attack in ATTACKS:
            turn.send("reasoning", delta=attack).text(attack).send("tool_call", name=attack, arguments={attack: attack})
        turn.send("done", finish_reason="__proto__", model="<img src=x onerror=window.hacked=1>").end()
        idle(page)
        assert answer(page).locator("> .markdown").count() == len(ATTACKS)
        assert_harmless(page)
        server.history = [
            {"role": role, "content": x, "reasoning": x} for x in ATTACKS for role in ("user", "assistant")
        ]
        page.reload()
        expect(page.locator("article")).to_have_count(2 * len(ATTACKS))
        assert_harmless(page)
        for link in page.locator("#log a").all():
            assert link.get_attribute("rel") == "noopener noreferrer nofollow"
            assert link.get_attribute("target") == "_blank"


def test_no_script_in_an_error_runs(page: Page, server: ChatServer) -> None:
    ask(page, server).stream().send("error", message=ATTACKS[1]).end()
    expect(page.get_by_role("alert")).to_have_text(ATTACKS[1])
    assert page.locator("#problem img").count() == 0


def test_the_policy_would_stop_what_the_page_does_not(browser: Browser, server: ChatServer) -> None:
    """The second line of defence: were HTML ever made from an answer, no script in it would run."""
    refused = """() => {
        try { document.body.innerHTML = "<img src=x onerror=window.hacked=1>"; return null; }
        catch (error) { return error.name; }
    }"""
    with browser.new_page() as page:
        page.goto(server.url)
        assert page.evaluate(refused) == "TypeError"


# --- Markdown


def link(address: str, text: str, extra: str = "") -> str:
    return f'<a href="{address}" target="_blank" rel="noopener noreferrer nofollow"{extra}>{text}</a>'


def code(text: str, language: str = "") -> str:
    label = f"Code, {language}" if language else "Code"
    return (
        f'<div class="code"><div class="code-head"><span>{language or "code"}</span>'
        '<button type="button" class="copy" aria-label="Copy code">Copy</button></div>'
        f'<pre tabindex="0" role="group" aria-label="{label}"><code>{text}</code></pre></div>'
    )


def math(text: str) -> str:
    return f'<code class="math">{text}</code>'


def formula(text: str) -> str:
    return f'<pre class="math" tabindex="0" role="group" aria-label="Formula"><code>{text}</code></pre>'


def table(html: str) -> str:
    return f'<div class="table" tabindex="0" role="group" aria-label="Table"><table>{html}</table></div>'


MARKDOWN = [
    ("", ""),
    ("one\ntwo\n\n\n three ", "<p>one\ntwo</p><p>three</p>"),
    ("a & b < c > d", "<p>a &amp; b &lt; c &gt; d</p>"),
    ("a\r\nb\r\n\r\nc", "<p>a\nb</p><p>c</p>"),
    # headings, rules
    ("# A\n## B ##\n### C\n#### D\n###### F", "<h3>A</h3><h4>B</h4><h5>C</h5><h6>D</h6><h6>F</h6>"),
    ("#hash\n####### seven\n# *it* `c`", "<p>#hash\n####### seven</p><h3><em>it</em> <code>c</code></h3>"),
    ("text\n# C#\n#", "<p>text</p><h3>C#</h3><h3></h3>"),
    ("a\n\n---\n***\n_ _ _\nb", "<p>a</p><hr><hr><hr><p>b</p>"),
    ("--", "<p>--</p>"),
    ("A *b*\nc\n===\nD\n---\ne", "<h3>A <em>b</em>\nc</h3><h4>D</h4><p>e</p>"),
    ("a\n-\n\n===\n- b\n---", "<h4>a</h4><p>===</p><ul><li>b</li></ul><hr>"),
    # a list that begins is no heading for a moment
    ("a\n-", "<p>a\n-</p>"),
    ("a *b*\n -- ", "<p>a <em>b</em>\n--</p>"),
    ("a\n=", "<p>a\n=</p>"),
    ("1. a\n   -", "<ol><li>a\n-</li></ol>"),
    ("1. a\n   - b", "<ol><li>a<ul><li>b</li></ul></li></ol>"),
    ("> a\n> -", "<blockquote><p>a\n-</p></blockquote>"),
    ("a\n-\n", "<h4>a</h4>"),
    ("a\n---", "<h4>a</h4>"),
    ("# a -", "<h3>a -</h3>"),
    ("A\n-\nb\n-", "<h4>A</h4><p>b\n-</p>"),
    # emphasis
    (
        "*a* _b_ **c** __d__ ~~e~~ ***f***",
        "<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <del>e</del> <em><strong>f</strong></em></p>",
    ),
    ("**a *b* c** *a **b** c*", "<p><strong>a <em>b</em> c</strong> <em>a <strong>b</strong> c</em></p>"),
    ("snake_case_name 2 * 3 * 4 ~5 to ~6", "<p>snake_case_name 2 * 3 * 4 ~5 to ~6</p>"),
    ("**open and *half", "<p>**open and *half</p>"),
    ("*a **b* c**", "<p><em>a <em><em>b</em> c</em></em></p>"),
    (
        "**Note:**text **「引用」**です **Tip:**💡",
        "<p><strong>Note:</strong>text <strong>「引用」</strong>です <strong>Tip:</strong>💡</p>",
    ),
    (
        "un*frigging*believable (_x_) __init__.py",
        "<p>un<em>frigging</em>believable (<em>x</em>) <strong>init</strong>.py</p>",
    ),
    ("a **** b", "<p>a **** b</p>"),
    (
        r"\*a\* \_b\_ \\ \q \`c\` \[d](https://e.test)",
        f"<p>*a* _b_ \\ \\q `c` [d]({link('https://e.test/', 'https://e.test')})</p>",
    ),
    # code
    ("`a*b*` ``c`d`` ` e ` `` ` ``", "<p><code>a*b*</code> <code>c`d</code> <code>e</code> <code>`</code></p>"),
    ("`open **b** ``c``", "<p>`open <strong>b</strong> <code>c</code></p>"),
    ("`<b>&amp;\\*`", "<p><code>&lt;b&gt;&amp;amp;\\*</code></p>"),
    (
        "```python title=x\ndef f():\n\treturn 1\n\n\n# no heading\n```\nafter",
        code("def f():\n\treturn 1\n\n\n# no heading", "python") + "<p>after</p>",
    ),
    ("~~~\n```\n~~~~\n", code("```")),
    ("````md\n```py\nx\n```\n````", code("```py\nx\n```", "md")),
    ("para\n```\n<b>\n``` x\nopen", "<p>para</p>" + code("&lt;b&gt;\n``` x\nopen")),
    ("```js", code("", "js")),
    ("```js\n", code("", "js")),
    ("```js\nlet a;\n", code("let a;", "js")),
    ("a\n    b\n\n    # c\n\n\td\n      *e*\n\nf", "<p>a\nb</p>" + code("# c\n\nd\n  *e*") + "<p>f</p>"),
    ("    - a\n\n    ```\n    b\n    ```", code("- a\n\n```\nb\n```")),
    ("- a\n\n      b\n- c", f"<ul><li>a{code('b')}</li><li>c</li></ul>"),
    # formulas
    (
        r"Area \(\pi r^2\), \[a_1 * b_1 \\ c\] and $$x_{i}*y_{j}*z_k$$.",
        "<p>Area "
        + math(r"\(\pi r^2\)")
        + ", "
        + math(r"\[a_1 * b_1 \\ c\]")
        + " and "
        + math("$$x_{i}*y_{j}*z_k$$")
        + ".</p>",
    ),
    (
        r"$a_1*b_1*c$ the $n$th, ($\{1, 2\}$) **$x$** $\$5$",
        "<p>"
        + math("$a_1*b_1*c$")
        + " the "
        + math("$n$")
        + "th, ("
        + math(r"$\{1, 2\}$")
        + ") <strong>"
        + math("$x$")
        + "</strong> "
        + math(r"$\$5$")
        + "</p>",
    ),
    ("$5 and $10, US$5 and US$, 100$/200$, $5-$10", "<p>$5 and $10, US$5 and US$, 100$/200$, $5-$10</p>"),
    ("A ($$), B ($$), C ($$$) $$, $$$ $$", "<p>A ($$), B ($$), C ($$$) $$, $$$ $$</p>"),
    (
        "$HOME/$PATH:${A}/${b} $a$b `$x$` $`c`$ $ d $ \\$e$",
        "<p>$HOME/$PATH:${A}/${b} $a$b <code>$x$</code> $<code>c</code>$ $ d $ $e$</p>",
    ),
    (r"\\(a\\) \(open \[x](y) $$z", r"<p>\(a\) (open [x](y) $$z</p>"),
    (
        "so\n$$\nx_{i}*y_{j}\n\n# a < b \\\\\n$$\nthen\n\\[ \\{1\\}\n*2* \\].\nend",
        "<p>so</p>"
        + formula("$$\nx_{i}*y_{j}\n\n# a &lt; b \\\\\n$$")
        + "<p>then</p>"
        + formula("\\[ \\{1\\}\n*2* \\].")
        + "<p>end</p>",
    ),
    ("$$a_1$$\n$$b_2$$ is *it*", formula("$$a_1$$") + f"<p>{math('$$b_2$$')} is <em>it</em></p>"),
    ("$$ a\n\n*b*\n\n\\[x] *c*\n\n$$$ d", formula("$$ a") + "<p><em>b</em></p><p>[x] <em>c</em></p><p>$$$ d</p>"),
    ("1. a\n   \\[\n   x\n     y\n   \\]\n2. b", "<ol><li>a" + formula("\\[\nx\n  y\n\\]") + "</li><li>b</li></ol>"),
    ("\\[ *x*\ny", formula("\\[ *x*\ny")),
    # lists
    ("- a\n- b\n* c\n+ d", "<ul><li>a</li><li>b</li></ul><ul><li>c</li></ul><ul><li>d</li></ul>"),
    ("1. a\n2. b\n\n3. c\n\n\nd", "<ol><li>a</li><li>b</li><li>c</li></ol><p>d</p>"),
    ("7) a\n8) b", '<ol start="7"><li>a</li><li>b</li></ol>'),
    (
        "- a\n  - b\n    1. c\n  - d\n- e",
        "<ul><li>a<ul><li>b<ol><li>c</li></ol></li><li>d</li></ul></li><li>e</li></ul>",
    ),
    ("1. a\n  - b\n2. c", '<ol><li>a</li></ol><ul><li>b</li></ul><ol start="2"><li>c</li></ol>'),
    ("- a\n\n  b\n- c", "<ul><li><p>a</p><p>b</p></li><li>c</li></ul>"),
    ("1. a\n   ```py\n   x\n     y\n   ```\n2. b", f"<ol><li>a{code('x' + chr(10) + '  y', 'py')}</li><li>b</li></ol>"),
    ("1. a\n```\nx\n```\n2. b", f'<ol><li>a</li></ol>{code("x")}<ol start="2"><li>b</li></ol>'),
    ("text\n- a\n- **b**\nmore", "<p>text</p><ul><li>a</li><li><strong>b</strong>\nmore</li></ul>"),
    ("1. a\nmore\n2. b\n\nc", "<ol><li>a\nmore</li><li>b</li></ol><p>c</p>"),
    ("- a\n  - *b\nc*\n- d\n# e", "<ul><li>a<ul><li><em>b\nc</em></li></ul></li><li>d</li></ul><h3>e</h3>"),
    ("- a\n\n  b\nc\n\nd", "<ul><li><p>a</p><p>b\nc</p></li></ul><p>d</p>"),
    ("- a\n7. b", '<ul><li>a</li></ul><ol start="7"><li>b</li></ol>'),
    ("- # a\nb\n-\nc", "<ul><li><h3>a</h3></li></ul><h4>b</h4><p>c</p>"),
    ("- ```\n  x\ny", f"<ul><li>{code('x')}</li></ul><p>y</p>"),
    ("- ```\n  x\n  ```\ny", f"<ul><li>{code('x')}</li></ul><p>y</p>"),
    ("- $$\n  x\ny", "<ul><li>" + formula("$$\nx") + "</li></ul><p>y</p>"),
    ("- $$x$$\ny", "<ul><li>" + formula("$$x$$") + "</li></ul><p>y</p>"),
    (
        "- |a|\n  |-|\n  |b|\nc",
        f"<ul><li>{table('<thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody>')}</li></ul><p>c</p>",
    ),
    ("- a\n===\n> b\n===", "<ul><li>a\n===</li></ul><blockquote><p>b\n===</p></blockquote>"),
    ("In\n1984. was\n-\nend", "<h4>In\n1984. was</h4><p>end</p>"),
    ("-\ta\n\t- b", "<ul><li>a<ul><li>b</li></ul></li></ul>"),
    ("- \n- a", "<ul><li></li><li>a</li></ul>"),
    (
        "- [ ] a\n- [x] **b**\n- [X](c)\n1. [ ]",
        '<ul><li class="task">☐ a</li><li class="task">☑ <strong>b</strong></li><li>[X](c)</li></ul>'
        "<ol><li>[ ]</li></ol>",
    ),
    ("-a\n1.b", "<p>-a\n1.b</p>"),
    # quotes
    (
        "> a\n> > b\n>\n> - c\nd",
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote><ul><li>c\nd</li></ul></blockquote>",
    ),
    (
        "> a\nb\n> > c\nd\n\ne",
        "<blockquote><p>a\nb</p><blockquote><p>c\nd</p></blockquote></blockquote><p>e</p>",
    ),
    (
        "> ```\n> x\ny\n> # z\nw",
        f"<blockquote>{code('x')}</blockquote><p>y</p><blockquote><h3>z</h3></blockquote><p>w</p>",
    ),
    (">a\n> ```\n> x\n> ```", f"<blockquote><p>a</p>{code('x')}</blockquote>"),
    # tables
    (
        "| a | b | c |\n|:--|--:|:-:|\n| 1 | `x\\|y` | **z** |\n| 2 |\n| 1 | 2 | 3 | 4 |\n\nafter",
        table(
            '<thead><tr><th>a</th><th class="right">b</th><th class="centre">c</th></tr></thead>'
            '<tbody><tr><td>1</td><td class="right"><code>x|y</code></td>'
            '<td class="centre"><strong>z</strong></td></tr>'
            '<tr><td>2</td><td class="right"></td><td class="centre"></td></tr>'
            '<tr><td>1</td><td class="right">2</td><td class="centre">3</td></tr></tbody>'
        )
        + "<p>after</p>",
    ),
    (
        "intro\na | b\n--- | ---\n1<br>2 | 3\n4\n\nafter",
        "<p>intro</p>"
        + table(
            "<thead><tr><th>a</th><th>b</th></tr></thead>"
            "<tbody><tr><td>1<br>2</td><td>3</td></tr><tr><td>4</td><td></td></tr></tbody>"
        )
        + "<p>after</p>",
    ),
    ("| a | b |\n|---|\nx", "<p>| a | b |\n|---|\nx</p>"),
    ("| a |\n|---|", table("<thead><tr><th>a</th></tr></thead>")),
    # links
    (
        '[a *b*](https://x.test/?q=1&amp;r=2 "T")',
        "<p>" + link("https://x.test/?q=1&amp;r=2", "a <em>b</em>", ' title="T"') + "</p>",
    ),
    ("[a](http://x.test/a_(b)_c)", f"<p>{link('http://x.test/a_(b)_c', 'a')}</p>"),
    ("[a](mailto:a@b.test)", f"<p>{link('mailto:a@b.test', 'a')}</p>"),
    ("[a](<http://x.test/a>)", f"<p>{link('http://x.test/a', 'a')}</p>"),
    ("[a](ftp://x) [b](/c) [c]() [d] [e][1]", "<p>[a](ftp://x) [b](/c) c [d] [e][1]</p>"),
    ("![b *x*](https://x.test/i)", "<p>" + link("https://x.test/i", "b <em>x</em>", ' class="image"') + "</p>"),
    (
        "![a]() ![]() ![](/b) [1]: https://x.test/",
        f"<p>a image ![](/b) [1]: {link('https://x.test/', 'https://x.test/')}</p>",
    ),
    ("![](https://x.test/j)", "<p>" + link("https://x.test/j", "image", ' class="image"') + "</p>"),
    ("[![badge](https://x.test/b)](https://x.test/)", f"<p>{link('https://x.test/', 'badge')}</p>"),
    ("[a [b](https://b.test/) c](ftp://c)", f"<p>[a {link('https://b.test/', 'b')} c](ftp://c)</p>"),
    ("[a [b](https://b.test/) c](mailto:c)", f"<p>[a {link('https://b.test/', 'b')} c](mailto:c)</p>"),
    ("<https://x.test/a>", f"<p>{link('https://x.test/a', 'https://x.test/a')}</p>"),
    ("(see https://x.test/b_c_d).", f"<p>(see {link('https://x.test/b_c_d', 'https://x.test/b_c_d')}).</p>"),
    ("**https://x.test/d**", f"<p><strong>{link('https://x.test/d', 'https://x.test/d')}</strong></p>"),
    ("ahttps://no.test", "<p>ahttps://no.test</p>"),
    ("[https://x.test/](https://x.test/)", f"<p>{link('https://x.test/', 'https://x.test/')}</p>"),
    ("*[a*](https://x.test/)", f"<p>*{link('https://x.test/', 'a*')}</p>"),
    ("https:// http://.", "<p>https:// http://.</p>"),
    # breaks, entities, HTML
    ("a  \nb\\\nc<br/>d<BR>e", "<p>a<br>\nb<br>\nc<br>d<br>e</p>"),
    ("&lt;b&gt; &amp;lt; &#65;&#x42; &nbsp; &bogus; &#0;", "<p>&lt;b&gt; &amp;lt; AB &nbsp; &amp;bogus; \ufffd</p>"),
    (
        "&copy;&mdash;&apos;&rArr; &rarr &constructor; &toString;",
        "<p>©—'⇒ &amp;rarr &amp;constructor; &amp;toString;</p>",
    ),
    ("<div>\n<b>x</b>\n</div>", "<p>&lt;div&gt;\n&lt;b&gt;x&lt;/b&gt;\n&lt;/div&gt;</p>"),
    ("constructor __proto__ toString", "<p>constructor <strong>proto</strong> toString</p>"),
]

RENDER = """async sources => {
    const { Markdown } = await import("/static/markdown.js");
    return sources.map(source => {
        const root = document.createElement("div");
        const markdown = new Markdown(root);
        markdown.append(source);
        markdown.flush();
        return root.innerHTML.replace(/ dir="(?:auto|ltr)"/g, "");
    });
}"""
STREAM = """async sources => {
    const { Markdown } = await import("/static/markdown.js");
    return sources.map(pieces => {
        const root = document.createElement("div");
        const markdown = new Markdown(root);
        for (const piece of pieces) {
            markdown.append(piece);
            markdown.flush();
        }
        return root.innerHTML.replace(/ dir="(?:auto|ltr)"/g, "");
    });
}"""


def test_markdown(page: Page) -> None:
    sources = [source for source, _ in MARKDOWN]
    rendered = page.evaluate(RENDER, sources)
    assert dict(zip(sources, rendered, strict=True)) == dict(MARKDOWN)


def test_markdown_that_streams_ends_up_the_same(page: Page) -> None:
    sources = [source for source, _ in MARKDOWN] + ["\n\n".join(source for source, _ in MARKDOWN)[:3000]]
    whole = page.evaluate(RENDER, sources)
    assert page.evaluate(STREAM, [list(source) for source in sources]) == whole


def test_any_markdown_streams_to_the_same_and_stays_harmless(page: Page) -> None:
    rng = random.Random(4)
    parts = [
        *"*_~`#>-+|[]()!<&\\\n \t",
        "\n\n",
        "\n- ",
        "\n  ",
        "\n1. ",
        "\n```",
        "\n> ",
        "\n|a|b|\n|-|-|\n",
        "](",
        "https://x.y",
        *("$", "$$", "\n$$\n", "\\(", "\\)", "\n\\[", "\\]"),
    ]
    parts += [
        *string.ascii_lowercase[:8],
        "**",
        "&lt;",
        "<br>",
        "  \n",
        "\n---\n",
        "\n# ",
        "javascript:",
        "\r\n",
        "🌍",
        "![",
        "~~",
    ]
    texts = [[rng.choice(parts) for _ in range(rng.randrange(1, 70))] for _ in range(300)]
    whole = page.evaluate(RENDER, ["".join(text) for text in texts])
    streamed = page.evaluate(STREAM, texts)
    assert streamed == whole
    everything = "".join(whole)
    assert set(re.findall(r"<(\w+)", everything)) <= ALLOWED
    assert not re.search(r'<[^>]* on\w+=|href="(?!https?:|mailto:)', everything)


MARKED = """async pieces => {
    const { Markdown } = await import("/static/markdown.js");
    const root = document.createElement("div");
    const markdown = new Markdown(root);
    const marked = new Set();
    for (const piece of pieces) {
        markdown.append(piece);
        markdown.flush();
        for (const node of [...root.children].slice(0, -3)) {
            node.dataset.closed = "";
            marked.add(node);
        }
    }
    return [root.children.length, [...marked].filter(node => node.parentNode === root).length, marked.size];
}"""


def test_closed_blocks_are_left_alone(page: Page) -> None:
    """A block that were made anew would differ from its marked self, and take its place."""
    pieces = [f"paragraph {n} **b**\n\n```py\nx = {n}\n```\n\n- a\n- b\n\n" for n in range(40)]
    assert page.evaluate(MARKED, pieces) == [120, 117, 117]


def test_a_node_that_stays_the_same_is_the_same_node(page: Page) -> None:
    same = """async () => {
        const { Markdown } = await import("/static/markdown.js");
        const root = document.createElement("div");
        const markdown = new Markdown(root);
        markdown.append("- one **bold**\\n- two\\n  ```py\\n  x");
        markdown.flush();
        const nodes = ["strong", "button", "code", "li"].map(name => root.querySelector(name));
        const text = root.querySelector("code").firstChild;
        markdown.append(" = 1\\n  ```\\n- three");
        markdown.flush();
        return [...nodes, text].map(node => root.contains(node)).concat(text.data);
    }"""
    assert page.evaluate(same) == [True] * 5 + ["x = 1"]


HOSTILE = [
    "*a " * 80_000,
    "a* " * 80_000,
    "**a _b " * 40_000,
    "*a _b* c_ " * 20_000,
    "[" * 200_000,
    "![" * 120_000 + "]" * 120_000,
    "[a](" * 80_000,
    "[a](<" * 80_000,
    '[a](https://x "' * 40_000,
    "[a](" + " " * 200_000,
    "`" + "`a``" * 40_000,
    " ".join("`" * n for n in range(1, 400)),
    "> " * 80_000 + "a",
    "- " * 80_000 + "a",
    "\n".join(" " * (2 * n) + "- a" for n in range(500)),
    "|" * 200_000 + "\n" + "|-" * 200_000,
    "| " * 2000 + "\n" + "|-" * 2000 + "\n" + "|\n" * 5000,
    "- a\nb\n  c\n" * 40_000,
    "> " * 12 + "a" + "\nb\n> c" * 40_000,
    "# " + " #" * 80_000 + "x",
    "-" * 200_000 + "x",
    "- " * 3 + " " * 200_000 + "x",
    "a" + " " * 200_000 + "b",
    "http://" * 80_000,
    "http://a" + "(" * 200_000,
    "https://" + "." * 200_000,
    "&#" * 120_000,
    "<" * 200_000,
    "\\" * 200_000,
    "~~a" * 80_000,
    "$a" * 100_000,
    "$$a " * 48_000,
    "\\(a" * 60_000,
    "\\[\n" * 60_000,
    "***a" * 20_000 + "a***" * 20_000,
    "- " + "-" * 400_000 + "x",
    "- " * 200_000 + "x",
    "- a\n  -\n" * 20_000,
    "a|\n" + "-" * 400_000 + "x",
    "a\n-\n" * 20_000,
    "[a]() " * 20_000,
    "a  \n" * 40_000,
]


@pytest.mark.timeout(180)
def test_no_text_makes_rendering_slow(page: Page) -> None:
    """Each takes less than a second, and minutes where the time grows with the square of the length."""
    timed = """async source => {
        const { Markdown } = await import("/static/markdown.js");
        const root = document.createElement("div");
        const began = performance.now();
        const markdown = new Markdown(root);
        markdown.append(source);
        markdown.flush();
        const depth = node => 1 + Math.max(0, ...[...node.children].slice(0, 50).map(depth));
        return [performance.now() - began, depth(root)];
    }"""
    for source in HOSTILE:
        milliseconds, depth = page.evaluate(timed, source)
        assert milliseconds < 10_000, source[:40]
        assert depth < 80, source[:40]


def test_a_long_answer_streams_in_linear_time(page: Page, server: ChatServer) -> None:
    """Two thousand paragraphs and a long open code block, piece by piece through the whole page."""
    turn = ask(page, server).stream()
    for n in range(2000):
        turn.text(f"Paragraph {n} with **bold** words.\n\n")
    turn.text("```py\n")
    for n in range(2000):
        turn.text(f"x{n} = {n}\n")
    turn.text("```").done()
    idle(page)
    assert answer(page).locator("p").count() == 2001  # and the line with the model's name
    assert len(answer(page).locator("pre").inner_text().splitlines()) == 2000
