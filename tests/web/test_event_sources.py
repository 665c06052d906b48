"""``format="sse"`` as npm's readers of server-sent events hear it; the examples for pages do what they promise."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.browser_streams import IN_THE_MIDDLE, KEY, RICH, TICK
from support.node import Node, running_node
from support.replay import EVENT_STREAM, Framing, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces

from openai_compat import Client
from openai_compat.web import EventStream
from openai_compat.web.formats import Format

PAUSE = b""
"""Stands for a silence of the model that lasts until a heartbeat was sent."""
READERS = ("eventsource", "eventsource-parser", "@microsoft/fetch-event-source")
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = {
    f"{page.stem}-{number}": re.sub(r"(?m)^import .*$", "", code)
    for page in sorted(DOCS.glob("*.md"))
    for number, code in enumerate(re.findall(r"^```js\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
}
"""What pages are told to run; the imports are there already."""


class Site:
    """A page's ``/ask`` on a socket, in front of a model's server that sends ``pieces``."""

    def __init__(self, pieces: Sequence[bytes] | Reply, format: Format, stack: contextlib.ExitStack) -> None:
        self._pieces = pieces
        self._format = format
        self._beats = threading.Semaphore(0)
        self.upstream = stack.enter_context(ReplayServer(self._say))
        self._client = stack.enter_context(Client(self.upstream.url, KEY, model="m", max_retries=0))
        self.server = stack.enter_context(ReplayServer(self._ask))
        self.url = f"{self.server.url}/ask"

    def _say(self, request: Request) -> Reply:
        def body(pieces: Iterable[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                if piece is PAUSE:
                    assert self._beats.acquire(timeout=20)
                yield piece

        return self._pieces if isinstance(self._pieces, Reply) else Reply(headers=EVENT_STREAM, body=body(self._pieces))

    def _ask(self, request: Request) -> Reply:
        environ = {"REQUEST_METHOD": request.method, "HTTP_ACCEPT": request.headers.get("Accept", "")}
        if (last := request.headers.get("Last-Event-ID")) is not None:
            environ["HTTP_LAST_EVENT_ID"] = last
        body = EventStream(
            self._client.stream("hi"),
            format=self._format,
            environ=environ,
            heartbeat=0.02 if not isinstance(self._pieces, Reply) and PAUSE in self._pieces else 15.0,
        )
        framing: Framing = "chunked" if "Content-Length" not in dict(body.headers) else "content-length"
        return Reply(status=body.status_code, headers=dict(body.headers), body=self._counted(body), framing=framing)

    def _counted(self, body: EventStream) -> Iterator[bytes]:
        with body:
            for piece in body:
                yield piece
                if piece == TICK:
                    self._beats.release()


@contextlib.contextmanager
def site(pieces: Sequence[bytes] | Reply, format: Format = "sse") -> Iterator[Site]:
    """The model is asked exactly once, by exactly one request."""
    with contextlib.ExitStack() as stack:
        yield (made := Site(pieces, format, stack))
        assert (len(made.server.requests), len(made.upstream.requests)) == (1, 1)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node("read_events.mjs") as process:
        yield process


def heard(node: Node, reader: str, url: str) -> list[tuple[str, Any]]:
    """Each message's name and data; every one has data."""
    return [(name, json.loads(data)) for name, data in node.ask(reader=reader, url=url)["messages"]]


WITH_SILENCE = [PAUSE, PAUSE, chunk({"content": "Hé\n\n"}), PAUSE, PAUSE, *stream_pieces("llo")]
LINES = ("a\r\n", "\u2028", "\n\ndata: x\n\n", ":", "\ufeff")
ANSWERS: dict[str, tuple[list[bytes], list[str], str]] = {
    "all there is": (RICH, ["reasoning", "text", "tool_call", "tool_call", "usage", "done"], 'a "b"\n\n'),
    "silence": (WITH_SILENCE, ["text", "text", "done"], "Hé\n\nllo"),
    "ends of lines": (stream_pieces(*LINES), ["text"] * len(LINES) + ["done"], "".join(LINES)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("pieces", "names", "text"), ANSWERS.values(), ids=ANSWERS)
def test_every_reader_hears_the_answer_and_nothing_else(
    pieces: list[bytes], names: list[str], text: str, reader: str, node: Node
) -> None:
    with site(pieces) as page:
        messages = heard(node, reader, page.url)
    assert [name for name, _ in messages] == names
    assert "".join(data["delta"] for name, data in messages if name == "text") == text


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_hears_of_an_error_in_the_middle(reader: str, node: Node) -> None:
    with site(IN_THE_MIDDLE) as page:
        messages = heard(node, reader, page.url)
    assert [name for name, _ in messages] == ["text", "error"]
    assert messages[-1][1]["message"] == "The model is not available."


@pytest.mark.parametrize("reader", ["eventsource-parser", "@microsoft/fetch-event-source"])
def test_of_openais_format_readers_hear_no_empty_messages_either(reader: str, node: Node) -> None:
    with site([PAUSE, chunk({"content": "a"}), PAUSE, *stream_pieces("b")], "openai") as page:
        messages = node.ask(reader=reader, url=page.url)["messages"]
    assert messages.pop() == ["message", "[DONE]"]
    assert {name for name, _ in messages} == {"message"}
    assert [json.loads(data)["choices"][0]["delta"].get("content") for _, data in messages] == ["a", "b", None]


def test_every_reader_has_an_example() -> None:
    code = "".join(EXAMPLES.values())
    assert all(f"{name}(" in code for name in ("new EventSource", "EventSourceParserStream", "fetchEventSource"))


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_shows_the_answer(code: str, node: Node) -> None:
    with site(stream_pieces("Hé", "llo")) as page:
        assert node.ask(code=code, url=page.url) == {"text": "Héllo", "alerted": None}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "The model does not accept this question."),
        (429, "Too many questions at the moment; try again later."),
        (401, "The model is not available."),
    ],
)
@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_tells_why_there_is_no_answer(code: str, status: int, message: str, node: Node) -> None:
    with site(error_reply(status, "sk-1")) as page:
        assert node.ask(code=code, url=page.url) == {"text": "", "alerted": message}


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_tells_that_an_answer_failed(code: str, node: Node) -> None:
    with site(IN_THE_MIDDLE) as page:
        assert node.ask(code=code, url=page.url) == {"text": "a", "alerted": "The model is not available."}


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_tells_of_an_error_that_is_not_ours(code: str, node: Node) -> None:
    body = b'{"error": {"message": "Who are you?"}}'
    with ReplayServer([Reply(status=403, headers={"Content-Type": "application/json"}, body=body)]) as server:
        read = node.ask(code=code, url=f"{server.url}/ask")
        assert len(server.requests) == 1
    assert (read["text"], bool(read["alerted"])) == ("", True)
