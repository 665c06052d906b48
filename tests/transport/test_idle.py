"""Connections between calls: which are kept, how many, how long; replies that are more than they say, or too much."""

from __future__ import annotations

import gzip
import json
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Replies, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_body, chat_reply, chunk, error_reply, stream_pieces, stream_reply

from openai_compat import APIConnectionError, APIError, APIStatusError, Client

CALLS: dict[str, Callable[[Client], str]] = {
    "chat": lambda client: client.chat("hi").text,
    "stream": lambda client: client.stream("hi").until_done().text,
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_wire = pytest.mark.parametrize("wire", ["tcp", "tls"])
each_pool = pytest.mark.parametrize("pool", ["own pool", "session"])


def ok(request: Request) -> Reply:
    return stream_reply("ok") if request.json().get("stream") else chat_reply("ok")


@each_call
@pytest.mark.parametrize("expiry", [60.0, None, "default"])
def test_a_connection_is_kept(call: Callable[[Client], str], expiry: Any) -> None:
    options = {} if expiry == "default" else {"keepalive_expiry": expiry}
    with ReplayServer(ok) as server, Client(server.url, model="m", **options) as client:
        assert [call(client) for _ in range(5)] == ["ok"] * 5
        assert server.connections == 1


@each_call
@each_wire
def test_a_connection_that_has_been_idle_too_long_is_not_used_again(
    wire: str, call: Callable[[Client], str], tls: ssl.SSLContext
) -> None:
    with ReplayServer(ok, tls=tls if wire == "tls" else None) as server:
        with Client(server.url, model="m", max_retries=0, keepalive_expiry=0.05) as client:
            assert call(client) == "ok"
            threading.Event().wait(0.2)
            assert call(client) == "ok"
            assert server.connections == 2
            assert server.requests[0].closed.wait(10), "it is not used, and not closed either"
            assert [request.connection for request in server.requests] == [0, 1]


def test_a_call_that_lasts_is_not_idle() -> None:
    """The age that counts is that of the last use."""

    def slow(request: Request) -> Reply:
        request.closed.wait(0.5)
        return ok(request)

    with ReplayServer(slow) as server, Client(server.url, model="m", keepalive_expiry=0.4) as client:
        assert [client.chat("hi").text for _ in range(3)] == ["ok"] * 3
        assert server.connections == 1


def raw(head: str, body: bytes, **options: Any) -> Reply:
    """A reply whose head is said in full, on a connection that stays open on the server's side."""
    lines = [*head.splitlines(), "", ""]
    return Reply(head="\r\n".join(lines).encode(), body=body, framing="content-length", **options)


def headed(version: str, *headers: str, length: str = "%d") -> Callable[[Request], Reply]:
    """The right answer under such a head; ``length`` is how its length is said."""

    def reply(request: Request) -> Reply:
        if request.json().get("stream"):
            kind, text = "text/event-stream", b"".join(stream_pieces("ok"))
        else:
            kind, text = "application/json", chat_body("ok")
        said = length % len(text)
        return raw("\n".join([f"{version} 200 OK", f"Content-Type: {kind}", f"Content-Length: {said}", *headers]), text)

    return reply


@each_pool
@each_call
@pytest.mark.parametrize(
    "reply",
    [
        headed("HTTP/1.1", "Connection: close"),
        headed("HTTP/1.1", "connection: Close"),
        headed("HTTP/1.1", "Connection: x, close"),
        headed("HTTP/1.0"),
    ],
    ids=["close", "in other letters", "in a list", "HTTP/1.0"],
)
def test_a_connection_that_the_reply_says_ends_is_closed(
    reply: Replies, call: Callable[[Client], str], pool: str
) -> None:
    """Also where the server leaves its own side open."""
    with own_session() as session, ReplayServer(reply) as server:
        given = session if pool == "session" else None
        with Client(server.url, model="m", max_retries=0, session=given) as client:
            for number in range(3):
                assert call(client) == "ok"
                assert server.requests[number].closed.wait(10)
            assert [request.connection for request in server.requests] == [0, 1, 2]


FORGED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(chat_body("forged"))
BEHIND = {
    "a forged reply": FORGED + chat_body("forged"),
    "a line": b"\r\n",
    "a byte": b"x",
    "another chunk": b"5\r\nhello\r\n0\r\n\r\n",
}


@each_call
@each_wire
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("when", ["with it", "later"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_bytes_behind_a_reply_answer_nobody(
    behind: bytes, when: str, framing: str, wire: str, call: Callable[[Client], str], tls: ssl.SSLContext
) -> None:
    read, sent = threading.Event(), threading.Event()

    def pieces(body: bytes) -> Iterator[bytes]:
        reply = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if framing == "chunked" else body
        if when == "with it":
            yield reply + behind
        else:
            yield reply
            read.wait(10)
            yield behind
        sent.set()

    def reply(request: Request) -> Reply:
        if request.number:
            return ok(request)
        stream = request.json().get("stream")
        body = b"".join(stream_pieces("first")) if stream else chat_body("first")
        length = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {len(body)}"
        kind = EVENT_STREAM if stream else JSON
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind['Content-Type']}\r\n{length}\r\n\r\n"
        # What has a length that is not true would be taken for a reply that is cut.
        return Reply(head=head.encode(), body=pieces(body), framing="content-length")

    with ReplayServer(reply, tls=tls if wire == "tls" else None) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            assert call(client) == "first"
            read.set()
            assert sent.wait(10)
            assert [call(client), call(client)] == ["ok", "ok"]
            assert [request.connection for request in server.requests] == [0, 1, 1]
            assert server.requests[0].closed.wait(10)


def held(count: int) -> Callable[[Request], Reply]:
    """Streams that begin, and end when ``count`` of them have begun."""
    together = threading.Barrier(count)

    def body() -> Iterator[bytes]:
        yield chunk({"content": "o"})
        together.wait(20)
        yield from stream_pieces("k")

    return lambda request: Reply(headers=EVENT_STREAM, body=body())


def test_no_more_connections_are_kept_than_the_pool_has_room_for() -> None:
    size, calls = 2, 5
    with ReplayServer(held(calls)) as server, Client(server.url, model="m", pool_size=size) as client:
        for kept in (0, size):
            before = server.connections
            streams = [client.stream("hi") for _ in range(calls)]
            assert [next(stream).delta for stream in streams] == ["o"] * calls
            assert server.connections == before + calls - kept, "one was kept that should not be, or the reverse"
            assert [stream.until_done().text for stream in streams] == ["ok"] * calls
            server.wait_open(size)
        client.close()
        assert server.wait_closed()


def test_idle_connections_are_closed_with_the_client_and_those_in_use_with_their_call() -> None:
    with ReplayServer(held(2)) as server:
        client = Client(server.url, model="m")
        one, other = client.stream("hi"), client.stream("hi")
        assert [next(one).delta, next(other).delta] == ["o", "o"]
        assert one.until_done().text == "ok"
        client.close()
        # How many of the two requests came over which connection is the server's order: both have an end.
        assert other.until_done().text == "ok"
        assert server.wait_closed()
        server._replies = ok
        assert client.chat("hi").text == "ok"
        client.close()
        assert server.wait_closed()


LENGTHS = {"in two headers": "%d\nContent-Length: 5", "in one": "%d, 5"}


@each_call
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_contradict_each_other_are_named(length: str, call: Callable[[Client], str]) -> None:
    with ReplayServer(headed("HTTP/1.1", length=length)) as server:
        with Client(server.url, "key-0123456789", model="m", max_retries=0) as client:
            with pytest.raises(APIError, match="(?i)content-length") as caught:
                call(client)
            assert "api_key" not in str(caught.value)
            assert server.requests[0].closed.wait(10), "such a connection cannot be kept"


def test_a_length_that_is_said_twice_is_a_length() -> None:
    twice = f"%d\nContent-Length: {len(chat_body('ok'))}"
    with ReplayServer(headed("HTTP/1.1", length=twice)) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]


LIMIT = 100_000
"""Bytes."""


def large(size: int) -> bytes:
    """A chat completion of so many bytes, which do not compress away."""
    letters = random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size - len(chat_body("")))
    return chat_body("".join(letters))


def vectors(size: int) -> bytes:
    return json.dumps({"data": [{"index": 0, "embedding": [1.5] * (size // 5)}], "model": "m"}).encode()


BODIES: dict[str, tuple[Callable[[Client], Any], Callable[[int], Reply]]] = {
    "with its length": (CALLS["chat"], lambda size: Reply(headers=JSON, body=large(size))),
    "chunked": (CALLS["chat"], lambda size: Reply(headers=JSON, body=large(size), framing="chunked")),
    "to the end": (CALLS["chat"], lambda size: Reply(headers=JSON, body=large(size), framing="close")),
    "compressed": (
        CALLS["chat"],
        lambda size: Reply(headers={**JSON, "Content-Encoding": "gzip"}, body=gzip.compress(large(size))),
    ),
    "embeddings": (lambda client: client.embed("hi"), lambda size: Reply(headers=JSON, body=vectors(size))),
    "models": (
        lambda client: client.models(),
        lambda size: Reply(headers=JSON, body=b'{"data": [%b]}' % b",".join([b'{"id": "m"}'] * (size // 12))),
    ),
}


@each_pool
@pytest.mark.parametrize(("call", "reply"), BODIES.values(), ids=BODIES)
def test_a_body_has_a_size_limit(
    call: Callable[[Client], Any], reply: Callable[[int], Reply], pool: str, pauses: list[float]
) -> None:
    with own_session() as session, ReplayServer([reply(4 * LIMIT)]) as server:
        given = session if pool == "session" else None
        with Client(server.url, model="m", max_response_bytes=LIMIT, session=given) as client:
            with pytest.raises(APIError, match="max_response_bytes") as caught:
                call(client)
            assert (caught.value.retryable, len(server.requests), pauses) == (False, 1, [])
            assert not isinstance(caught.value, APIConnectionError)
            assert server.requests[0].closed.wait(10), "the rest of it is in the connection"


@pytest.mark.parametrize(("call", "reply"), BODIES.values(), ids=BODIES)
def test_a_body_below_the_limit_passes(call: Callable[[Client], Any], reply: Callable[[int], Reply]) -> None:
    with ReplayServer([reply(LIMIT // 2)]) as server:
        with Client(server.url, model="m", max_retries=0, max_response_bytes=LIMIT) as client:
            call(client)


def test_a_body_without_end_is_left() -> None:
    def endless(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            while not request.closed.is_set():
                yield b" " * 65536

        return Reply(headers=JSON, body=body(), framing="chunked")

    with ReplayServer(endless) as server:
        with Client(server.url, model="m", max_retries=0, timeout=60, max_response_bytes=LIMIT) as client:
            with pytest.raises(APIError, match="max_response_bytes"):
                client.chat("hi")
        assert server.wait_closed()


def test_a_refusal_that_is_too_large_is_still_a_refusal() -> None:
    with ReplayServer([error_reply(400, "no " * LIMIT)]) as server:
        with Client(server.url, model="m", max_retries=0, max_response_bytes=LIMIT) as client:
            with pytest.raises(APIStatusError, match="no no") as caught:
                client.chat("hi")
    assert caught.value.status_code == 400


def test_the_default_lets_a_full_batch_of_long_vectors_pass() -> None:
    """2,048 vectors of 3,072 numbers, as text: some 130 MB. Only its length is sent."""
    head = "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 130000000"
    with ReplayServer([raw(head, b'{"data": ', abort="fin")]) as server:
        with Client(server.url, model="m", max_retries=0) as client, pytest.raises(APIConnectionError):
            client.embed("hi")


def test_the_default_is_a_limit() -> None:
    head = "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 300000000"
    with ReplayServer([raw(head, b'{"data": ')]) as server:
        with Client(server.url, model="m", max_retries=0, timeout=5) as client:
            with pytest.raises(APIError, match="max_response_bytes"):
                client.chat("hi")
