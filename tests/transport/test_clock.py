"""Which limit has passed, whatever a server sends: floods without a token, slow consumers, slow uploads.

A flood goes on until the client leaves, or for much longer than any limit here; its end is then the wrong error.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request, Stage
from support.sessions import own_session
from support.wire_bodies import chat_reply, chunk, stream_pieces

from openai_compat import APITimeoutError, Cancelled, CancelToken, Client, StreamEvent, Timeout

FIRST = chunk({"content": "first"})
LIMIT = 0.4
"""Seconds."""
FLOOD = 10.0
"""Seconds after which a flood ends, where nobody ends it."""
LINES = 3000
"""In one write: some 30 kB."""

FLOODS = {
    "comments": b": hi\n\n" * LINES,
    "comment lines": b": hi\n" * LINES,
    "empty objects": b"data: {}\n\n" * LINES,
    "no choices": b'data: {"choices": []}\n\n' * LINES,
    "role only": b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n' * (LINES // 10),
    "junk events": b"data: junk\n\n" * LINES,
    "junk lines": b"junk\n" * LINES,
    "other fields": b"event: ping\nid: 1\nretry: 5\n\n" * LINES,
    "blank lines": b"\n" * LINES,
    # One event, whose end never comes.
    "short lines of an event": b"data: x\n" * LINES,
    "empty lines of an event": b"data:\n" * LINES,
    "one line": b"x" * 30_000,
}
each_flood = pytest.mark.parametrize("flood", FLOODS)


def flooding(piece: bytes, first: bytes, started: threading.Event) -> Callable[[Request], Reply]:
    def body(request: Request) -> Iterator[bytes]:
        yield first
        end = time.monotonic() + FLOOD
        for turn in itertools.count():
            if request.closed.is_set() or time.monotonic() > end:
                return
            if turn == 20:
                started.set()
            yield piece

    return lambda request: Reply(headers=EVENT_STREAM, body=body(request))


def flooded(flood: str, *, token: bool, timeout: Timeout, cancel: CancelToken | None = None) -> BaseException:
    """What a stream under this flood ends with."""
    started = threading.Event()
    # The flood may be the rest of an event that has begun.
    first = FIRST if token else b": hello\n\n"
    if flood == "one line":
        first += b'data: {"x": "'
    delivered = threading.Event()
    text: list[str] = []

    def hear(event: StreamEvent) -> None:
        if event.delta:
            text.append(event.delta)
            delivered.set()

    def end() -> None:
        delivered.wait(FLOOD)
        started.wait(FLOOD)
        assert cancel is not None
        cancel.cancel()

    if cancel is not None:
        threading.Thread(target=end, daemon=True).start()
    with ReplayServer(flooding(FLOODS[flood], first, started)) as server:
        # No limit on an event's size but what comes within the flood's time.
        client = Client(server.url, model="m", max_retries=0, timeout=timeout, max_event_bytes=1 << 32)
        with client, pytest.raises((APITimeoutError, Cancelled)) as caught:
            client.chat("hi", sink=hear, cancel=cancel)
        assert server.wait_closed()
    assert text == (["first"] if token else [])
    return caught.value


@each_flood
def test_a_flood_is_not_a_first_token(flood: str) -> None:
    error = flooded(flood, token=False, timeout=Timeout(first_token=LIMIT, idle=60, total=60))
    assert isinstance(error, APITimeoutError)
    assert (error.phase, error.retryable) == ("first_token", False)


@each_flood
def test_a_flood_is_idle(flood: str) -> None:
    error = flooded(flood, token=True, timeout=Timeout(first_token=60, idle=LIMIT, total=60))
    assert isinstance(error, APITimeoutError)
    assert error.phase == "idle"
    assert error.partial is not None
    assert error.partial.text == "first"


@each_flood
def test_the_total_holds_in_a_flood(flood: str) -> None:
    error = flooded(flood, token=False, timeout=Timeout(first_token=60, idle=60, total=LIMIT))
    assert isinstance(error, APITimeoutError)
    assert error.phase == "total"


@each_flood
def test_a_flood_can_be_cancelled(flood: str) -> None:
    error = flooded(flood, token=True, timeout=Timeout(first_token=60, idle=60, total=60), cancel=CancelToken())
    assert isinstance(error, Cancelled)


def short_lines(megabytes: int) -> bytes:
    """An event of very many lines, which is one JSON value."""
    head, _, tail = FIRST.removeprefix(b"data: ").strip().partition(b", ")
    return b"data: " + head + b",\n" + b"data: \n" * (megabytes * 1_000_000 // 7) + b"data: " + tail + b"\n\n"


@pytest.mark.parametrize("line", [b"data: \n", b"event: a\n", b"id: 1234\n", b": comment\n"])
def test_an_event_of_very_many_short_lines_is_read_in_time(line: bytes) -> None:
    """4 MB: half a second in linear time, half a minute in quadratic."""
    event = short_lines(4).replace(b"data: \n", line)
    body = [event, *stream_pieces(" last")]
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server, Client(server.url, model="m") as client:
        assert client.chat("hi", sink=lambda event: None, timeout=Timeout(total=12)).text == "first last"


@pytest.mark.parametrize("end", ["total", "cancel"])
def test_an_event_of_very_many_short_lines_can_be_ended(end: str) -> None:
    """All of it has been sent when the limit passes: it is the framer that looks."""
    sent = threading.Event()
    token = CancelToken()

    def body(request: Request) -> Iterator[bytes]:
        yield FIRST
        yield short_lines(16)[:-2]
        sent.set()
        request.closed.wait(30)

    if end == "cancel":
        threading.Thread(target=lambda: (sent.wait(30), token.cancel()), daemon=True).start()
    with ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body(request))) as server:
        timeout = Timeout(first_token=60, idle=60, total=LIMIT if end == "total" else 60)
        with Client(server.url, model="m", max_retries=0, timeout=timeout) as client:
            with pytest.raises(APITimeoutError if end == "total" else Cancelled):
                client.chat("hi", sink=lambda event: None, cancel=token)


each_pool = pytest.mark.parametrize("pool", ["own pool", "session"])


@each_pool
@pytest.mark.parametrize("flood", ["nothing", "comments"])
def test_a_slow_consumer_is_not_taken_for_a_silent_server(flood: str, pool: str) -> None:
    """All has been sent before the consumer takes twice as long over each event as the server may be silent."""
    sent = threading.Event()

    def body(request: Request) -> Iterator[bytes]:
        for piece in stream_pieces("a", "b", "c"):
            yield piece
            yield FLOODS.get(flood, b"")[:6000]
        sent.set()

    def consume(event: StreamEvent) -> None:
        assert sent.wait(20)
        threading.Event().wait(LIMIT)

    with (
        own_session() as session,
        ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body(request))) as server,
    ):
        timeout = Timeout(first_token=30, idle=LIMIT / 2, total=60)
        given = session if pool == "session" else None
        with Client(server.url, model="m", max_retries=0, timeout=timeout, session=given) as client:
            assert client.chat("hi", sink=consume).text == "abc"


def test_a_consumer_who_holds_an_event_leaves_the_server_its_time() -> None:
    """The clock stops while the consumer holds an event, and goes on after: a silent server is still found out."""

    def body(request: Request) -> Iterator[bytes]:
        yield FIRST
        request.closed.wait(30)

    with ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body(request))) as server:
        client = Client(server.url, model="m", max_retries=0, timeout=Timeout(idle=LIMIT, total=60))
        with client, client.stream("hi") as stream:
            assert next(stream).delta == "first"
            threading.Event().wait(3 * LIMIT)
            with pytest.raises(APITimeoutError) as caught:
                stream.until_done()
    assert caught.value.phase == "idle"


@pytest.mark.parametrize("slowly", ["upload", "handshake", "key"])
@each_pool
def test_the_first_token_is_waited_for_when_the_request_is_sent(slowly: str, pool: str, tls: ssl.SSLContext) -> None:
    """All that comes before takes longer than the first token may; the reply comes at once."""
    limit = 1.5

    def wait() -> str:
        threading.Event().wait(1.5 * limit)
        return "key"

    def at(stage: Stage, connection: int) -> None:
        if (slowly, stage) == ("handshake", "accept"):
            wait()

    # The last part, which the system may hold for the server when the client is done with it, is read at once.
    size = 4_000_000 if slowly == "upload" else 0
    question = "x" * (size and size + 8_000_000)
    with own_session() as session, ReplayServer(chat_only, tls=tls, hang_up=at, slowly=size) as server:
        client = Client(
            server.url,
            wait if slowly == "key" else None,
            model="m",
            max_retries=0,
            session=session if pool == "session" else None,
            timeout=Timeout(connect=30, first_token=limit, idle=30, total=100),
        )
        with client:
            began = time.monotonic()
            assert client.chat(question or "hi").text == "ok"
            assert time.monotonic() - began > limit, "nothing was slow"


def chat_only(request: Request) -> Reply:
    return chat_reply()


def test_an_upload_that_stands_still_is_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with Client(url, model="m", max_retries=0, timeout=Timeout(first_token=1, idle=60, total=60)) as client:
            with pytest.raises(APITimeoutError) as caught:
                client.chat("x" * 30_000_000)
    assert (caught.value.phase, caught.value.retryable) == ("first_token", False)


@pytest.mark.parametrize("end", ["total", "cancel"])
def test_an_upload_that_gets_on_can_be_ended(end: str) -> None:
    token = CancelToken()
    if end == "cancel":
        threading.Timer(LIMIT, token.cancel).start()
    timeout = Timeout(first_token=30, idle=30, total=LIMIT if end == "total" else 60)
    with ReplayServer(chat_only, slowly=1 << 30) as server:
        with Client(server.url, model="m", max_retries=0, timeout=timeout) as client:
            with pytest.raises(APITimeoutError if end == "total" else Cancelled) as caught:
                client.chat("x" * 30_000_000, cancel=token)
        assert server.wait_closed()
        assert server.requests == []
    assert getattr(caught.value, "phase", "total") == "total"
