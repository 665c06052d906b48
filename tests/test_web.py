"""Streams to browsers: what they read, what an error looks like, and what becomes of the model when they leave."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import http.client
import json
import logging
import queue
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from unittest import mock
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import attrs
import pytest
import requests
import trustme
from hypothesis import given
from hypothesis import strategies as st
from replay import EVENT_STREAM, ReplayServer, Reply, Request
from wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call

import openai_compat.web.stream as web
from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Cancelled,
    ChatResponse,
    Client,
    ConfigurationError,
    ResponseShapeError,
    StreamEvent,
    StreamServerError,
    Timeout,
    Usage,
)
from openai_compat.web import EventStream, PublicError, is_reconnect, public_error, wsgi_response
from openai_compat.wire.response import CallInfo, Choice, ToolCallDelta

SSE = "text/event-stream; charset=utf-8"
TICK = b": \n\n"


@contextlib.contextmanager
def model(replies: Any, **options: Any) -> Iterator[tuple[ReplayServer, Client]]:
    with ReplayServer(replies) as server, Client(server.url, model="m", max_retries=0, **options) as client:
        yield server, client


def events(body: Iterable[bytes]) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event, read as a browser would."""
    found = []
    for block in b"".join(body).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def then_silence(*texts: str) -> Callable[[Request], Reply]:
    """These pieces, and nothing more until the client has left."""

    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            for text in texts:
                yield chunk({"content": text})
            request.closed.wait(30)

        return Reply(headers=EVENT_STREAM, body=body())

    return reply


def no_headers(request: Request) -> Reply:
    request.closed.wait(30)
    return Reply(head=b"", abort="fin")


RICH = [
    chunk({"role": "assistant", "reasoning_content": "hm\nm"}),
    chunk({"content": 'a "b"\n\n'}),
    chunk({"tool_calls": [{"index": 0, **tool_call("f", "")}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]}),
    chunk({"tool_calls": [{"index": 1, **tool_call("g", "{}", "call_2")}]}),
    chunk({}, finish_reason="tool_calls"),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
    b"data: [DONE]\n\n",
]
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, "cached_tokens": None, "reasoning_tokens": None}


def test_server_sent_events_tell_all_there_is() -> None:
    with model([Reply(headers=EVENT_STREAM, body=RICH)]) as (_, client):
        body = EventStream(client.stream("hi"))
        assert body.status == "200 OK"
        raw = list(body)
    assert [line for line in b"".join(raw).split(b"\n") if line.startswith(b"id:")] == [b"id: %d" % i for i in range(7)]
    assert raw[0].startswith(b"retry: ")
    assert events(raw) == [
        ("reasoning", {"delta": "hm\nm"}),
        ("text", {"delta": 'a "b"\n\n'}),
        ("tool_call", {"id": "call_1", "name": "f", "arguments": {"x": 1}}),
        ("tool_call", {"id": "call_2", "name": "g", "arguments": {}}),
        ("usage", USAGE),
        ("done", {"finish_reason": "tool_calls", "model": "m-served", "usage": USAGE, "truncated": False}),
    ]


def test_headers_keep_proxies_from_holding_the_answer_back() -> None:
    with model([stream_reply("a")]) as (_, client):
        for name, content_type in {"sse": SSE, "openai": SSE, "text": "text/plain; charset=utf-8"}.items():
            with EventStream(client.stream("hi"), format=name) as body:  # type: ignore[arg-type]
                headers = dict(body.headers)
            assert headers == {
                "Content-Type": content_type,
                "Cache-Control": "no-cache, no-transform",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
            }


def test_plain_text_is_the_text_of_the_first_choice() -> None:
    second = {"index": 1, "delta": {"content": "other"}}
    pieces = [*RICH[:2], b"data: " + json.dumps({"choices": [second]}).encode() + b"\n\n", *stream_pieces("é")]
    with model([Reply(headers=EVENT_STREAM, body=pieces)]) as (_, client):
        assert b"".join(EventStream(client.stream("hi", n=2), format="text")).decode() == 'a "b"\n\né'


def test_further_choices_say_which_they_are() -> None:
    second = {"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}
    pieces = [b"data: " + json.dumps({"choices": [second]}).encode() + b"\n\n", *stream_pieces("a")]
    with model([Reply(headers=EVENT_STREAM, body=pieces)]) as (_, client):
        assert events(EventStream(client.stream("hi", n=2)))[:2] == [
            ("text", {"delta": "other", "choice": 1}),
            ("text", {"delta": "a"}),
        ]


def test_a_call_whose_arguments_are_broken_is_marked() -> None:
    pieces = [chunk({"tool_calls": [{"index": 0, **tool_call("f", '{"x": ')}]}), *stream_pieces()]
    with model([Reply(headers=EVENT_STREAM, body=pieces)]) as (_, client):
        (name, data), *_ = events(EventStream(client.stream("hi")))
    assert name == "tool_call"
    assert data == {"id": "call_1", "name": "f", "arguments": None, "invalid": True, "arguments_json": '{"x": '}


UPSTREAM: dict[str, list[bytes]] = {
    "rich": RICH,
    "text": stream_pieces("a", "b"),
    "length": stream_pieces("a", finish_reason="length"),
    "no-finish-reason": stream_pieces("a", finish_reason=None),
    "cut": stream_pieces("a", finish_reason=None, done=False),
    "refusal": [chunk({"refusal": "no"}), *stream_pieces()],
    "two-choices": [
        b"data: " + json.dumps({"choices": [{"index": i, "delta": {"content": t}, "finish_reason": "stop"}]}).encode()
        + b"\n\n"
        for i, t in enumerate("ab")
    ],
    "legacy-call": [chunk({"function_call": {"name": "f", "arguments": "{}"}}), *stream_pieces()],
    "call-without-id": [chunk({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}), *stream_pieces()],
}  # fmt: skip


@pytest.mark.parametrize("pieces", UPSTREAM.values(), ids=UPSTREAM)
def test_the_openai_format_reads_back_as_the_same_answer(pieces: list[bytes]) -> None:
    with model([Reply(headers=EVENT_STREAM, body=pieces)]) as (_, client):
        stream = client.stream("hi", n=2)
        passed_on = list(EventStream(stream, format="openai", stream_options={"include_usage": True}))
    with model([Reply(headers=EVENT_STREAM, body=passed_on)]) as (_, browser):
        again = browser.stream("hi", n=2).until_done()
    answer = stream.response
    # Without a finish reason, only an answer that is cut short may stay.
    choices = answer.choices if answer.truncated else [_finished(choice) for choice in answer.choices]
    assert (list(again.choices), again.usage, again.truncated) == (list(choices), answer.usage, answer.truncated)


def _finished(choice: Choice) -> Choice:
    return attrs.evolve(choice, finish_reason="stop") if choice.finish_reason == "unknown" else choice


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_any_text_survives(texts: list[str]) -> None:
    call = CallInfo(call_id="c", model="m")
    for name in ("sse", "text", "openai"):
        form = web._FORMATS[name](answered_here=False)
        raw = [form.encode(StreamEvent("text", text, 0, call)) for text in texts]
        if name == "sse":
            assert [data["delta"] for _, data in events(raw)] == texts
        elif name == "text":
            assert b"".join(raw).decode() == "".join(texts)
        else:
            assert all(piece.count(b"\n") == 2 and piece.endswith(b"\n\n") for piece in raw)
            deltas = [json.loads(piece[6:])["choices"][0]["delta"]["content"] for piece in raw]
            assert deltas == texts


def test_half_a_surrogate_pair_is_passed_on_for_the_browser_to_join() -> None:
    form = web._FORMATS["sse"](answered_here=False)
    halves = [form.encode(StreamEvent("text", half)) for half in ("\ud83d", "\ude00")]
    assert [data["delta"] for _, data in events(halves)] == ["\ud83d", "\ude00"]
    assert web._FORMATS["text"](answered_here=False).encode(StreamEvent("text", "\ud83d")) == b"?"


KEY = "sk-very-secret-key"
REFUSALS: list[tuple[int, dict[str, Any], int, str]] = [
    (400, {}, 400, "invalid_request"),
    (400, {"code": "context_length_exceeded"}, 400, "context_length_exceeded"),
    (400, {"code": "API_KEY_INVALID"}, 400, "invalid_request"),
    (401, {}, 502, "unavailable"),
    (403, {}, 502, "unavailable"),
    (404, {"code": "model_not_found"}, 502, "unavailable"),
    (413, {}, 413, "invalid_request"),
    (422, {}, 400, "invalid_request"),
    (429, {}, 429, "rate_limited"),
    (500, {}, 502, "unavailable"),
    (503, {}, 503, "overloaded"),
    (504, {}, 504, "timeout"),
]


@pytest.mark.parametrize("format", ["sse", "text", "openai"])
@pytest.mark.parametrize(("status", "error", "public", "code"), REFUSALS)
def test_an_error_before_the_first_byte_is_a_status_and_a_body(
    format: Any, status: int, error: dict[str, Any], public: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = f"no: {KEY} at http://10.0.0.7/v1"
    with model([error_reply(status, message, headers={"Retry-After": "1.2"}, **error)], api_key=KEY) as (_, client):
        body = EventStream(client.stream("hi"), format=format)
        raw = b"".join(body)
    headers = dict(body.headers)
    shown = json.loads(raw)["error"]
    assert (body.status_code, body.status.split()[0], shown["code"]) == (public, str(public), code)
    assert set(shown) == {"message", "type", "code"}
    assert KEY not in raw.decode() + str(headers)
    assert client.base_url not in raw.decode()
    assert "10.0.0.7" not in raw.decode()
    assert (headers["Content-Type"], headers["Content-Length"]) == ("application/json", str(len(raw)))
    assert headers.get("Retry-After") == "2"
    ours = public in (500, 502, 503, 504)
    level = logging.ERROR if ours else logging.WARNING
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [(level, ours)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (APITimeoutError("http://10.0.0.7"), 504, "timeout"),
        (APIConnectionError("http://10.0.0.7"), 502, "unreachable"),
        (StreamServerError("x", status_code=429), 429, "rate_limited"),
        (StreamServerError("x"), 502, "unavailable"),
        (ResponseShapeError("x"), 502, "bad_answer"),
        (Cancelled(), 503, "cancelled"),
        (ConfigurationError("x"), 500, "internal_error"),
        (OSError("x"), 500, "internal_error"),
        (APIStatusError("x", status_code=529), 503, "overloaded"),
        (APIStatusError("x", status_code=408), 504, "timeout"),
    ],
)
def test_what_a_visitor_may_know(error: Exception, status: int, code: str) -> None:
    shown = public_error(error)
    assert (shown.status, shown.code, shown.retry_after) == (status, code, None)
    assert "10.0.0.7" not in shown.message
    assert isinstance(shown, PublicError)


def test_nothing_listening_is_a_bad_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with Client(address, model="m", max_retries=0) as client:
        body = EventStream(client.stream("hi"))
        assert (body.status, json.loads(b"".join(body))["error"]["code"]) == ("502 Bad Gateway", "unreachable")


IN_THE_MIDDLE = [chunk({"content": "a"}), b'data: {"error": {"message": "' + KEY.encode() + b'", "code": 500}}\n\n']


@pytest.mark.parametrize(
    ("format", "last"),
    [
        ("sse", b'event: error\nid: 2\ndata: {"message":"The model is not available.","type":"server_error",'),
        ("text", b"\n\n[The model is not available.]\n"),
        ("openai", b'data: {"error":{"message":"The model is not available.","type":"server_error",'),
    ],
)
def test_an_error_after_the_first_byte_is_the_last_event(format: Any, last: bytes) -> None:
    with model([Reply(headers=EVENT_STREAM, body=IN_THE_MIDDLE)], api_key=KEY) as (_, client):
        body = EventStream(client.stream("hi"), format=format)
        raw = list(body)
    assert body.status_code == 200
    assert raw[-1].startswith(last)
    assert sum(b"available" in piece for piece in raw) == 1
    assert KEY.encode() not in b"".join(raw)


def test_an_openai_client_raises_what_was_an_error() -> None:
    with model([Reply(headers=EVENT_STREAM, body=IN_THE_MIDDLE)]) as (_, client):
        passed_on = list(EventStream(client.stream("hi"), format="openai"))
    with model([Reply(headers=EVENT_STREAM, body=passed_on)]) as (_, browser):
        with pytest.raises(StreamServerError, match="The model is not available"):
            browser.stream("hi").until_done()


class Scripted:
    """What an ``EventStream`` needs of a stream, with events and failures of the test's own."""

    def __init__(self, *script: Any) -> None:
        self.call = CallInfo()
        self.closed = False
        self._script = iter(script)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> StreamEvent:
        item = next(self._script)
        if isinstance(item, BaseException):
            raise item
        return item if isinstance(item, StreamEvent) else StreamEvent("text", item)

    def tick_every(self, seconds: float) -> bool:
        return True

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        raise OSError("in close")


@pytest.mark.parametrize("error", [OSError("secret"), ValueError("secret"), BrokenPipeError(), KeyError("secret")])
@pytest.mark.parametrize("script", [(), ("a",), ("a", "b")])
def test_no_exception_reaches_the_server(
    error: Exception, script: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    stream: Any = Scripted(*script, error)
    body = EventStream(stream)
    raw = b"".join(body)
    body.close()
    assert (body.status_code, stream.closed) == (200 if script else 500, True)
    assert b"internal_error" in raw
    assert b"secret" not in raw
    assert error in [record.exc_info and record.exc_info[1] for record in caplog.records]


@pytest.mark.parametrize("format", ["sse", "openai"])
def test_events_that_the_browser_does_not_get_do_not_keep_heartbeats_away(
    format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = mock.Mock(wraps=time)
    clock.monotonic.side_effect = range(100)
    monkeypatch.setattr(web, "time", clock)
    unheard = StreamEvent("tool_call_delta", ToolCallDelta(position=0, id="", name="f", arguments="x"))
    stream: Any = Scripted("a", *[unheard] * 10, "b", *[unheard] * 2)
    sent = b"".join(EventStream(stream, format=format, heartbeat=3.0))
    first, last = (sent.index(piece) for piece in (b'"a"', b'"b"'))
    assert sent[first:last].count(TICK) == sent.count(TICK) == 3


def test_an_end_of_the_reading_thread_is_an_error_too() -> None:
    stream: Any = Scripted("a", KeyboardInterrupt())
    stream.tick_every = lambda seconds: False
    assert events(EventStream(stream))[-1][1]["code"] == "internal_error"


@pytest.mark.parametrize(
    "options",
    [{"format": "xml"}, {"heartbeat": 0}, {"heartbeat": -1.0}, {"first_wait": 0}, {"heartbeat": float("inf")}],
)
def test_bad_arguments_are_told(options: dict[str, Any]) -> None:
    with model([]) as (server, client):
        with pytest.raises(ConfigurationError):
            EventStream(client.stream("hi"), **options)
        assert not server.requests


class Pauses:
    """Each pause lasts until enough heartbeats have come; with ``keepalive``, comments come all the while."""

    def __init__(self, keepalive: bytes = b"") -> None:
        self._keepalive = keepalive
        self._go = threading.Semaphore(0)

    def over(self) -> None:
        self._go.release()

    def wait(self) -> Iterator[bytes]:
        while not self._go.acquire(timeout=0.02 if self._keepalive else 20):
            if self._keepalive:
                yield self._keepalive

    def body(self) -> Iterator[bytes]:
        last = chunk({"content": "c"})
        yield chunk({"content": "a"})
        yield from self.wait()
        yield chunk({"content": "b"}).replace(b"\n\n", b"\r")
        yield from self.wait()
        yield b"\n\r\n"
        yield from self.wait()
        yield last[:9]
        if not self._keepalive:
            yield from self.wait()
        yield last[9:]
        yield from stream_pieces()


def zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


CARRIERS: dict[str, dict[str, Any]] = {
    "chunked": {},
    "until-closed": {"framing": "close"},
    "content-length": {"declared_length": sum(map(len, [chunk({"content": "a"})] * 3 + stream_pieces())) + 2},
    "compressed": {"headers": {**EVENT_STREAM, "Content-Encoding": "gzip"}},
    "tls": {},
    "given-session": {},
    "comments": {},
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_silence_is_filled_with_heartbeats_and_nothing_is_lost(
    carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = Pauses(b": still here\n\n" if carrier == "comments" else b"")
    options: dict[str, Any] = {"headers": EVENT_STREAM, **CARRIERS[carrier]}
    body = zipped(pauses.body()) if carrier == "compressed" else pauses.body()
    tls = None
    if carrier == "tls":
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ReplayServer([Reply(body=body, **options)], tls=tls))
        session = stack.enter_context(requests.Session()) if carrier == "given-session" else None
        client = stack.enter_context(Client(server.url, model="m", session=session))
        beats, got = 0, b""
        for piece in EventStream(client.stream("hi"), heartbeat=0.05):
            got += piece
            beats = beats + 1 if piece == TICK else 0
            if beats == 2:
                beats = 0
                pauses.over()
        assert [data.get("delta") for _, data in events([got])] == ["a", "b", "c", None]
        assert got.count(TICK) >= 6


@pytest.mark.parametrize("reply", [then_silence(), no_headers], ids=["headers", "no-headers"])
def test_silence_before_the_first_token_is_filled_too(reply: Any) -> None:
    with model(reply) as (server, client):
        body = EventStream(client.stream("hi"), heartbeat=0.05)
        assert body.status_code == 200
        pieces = [next(body) for _ in range(4)]
        body.close()
        assert pieces[1:] == [TICK] * 3
        assert server.wait_closed()
        assert list(body) == []


def test_heartbeats_do_not_put_off_a_timeout() -> None:
    with model(then_silence("a"), timeout=Timeout(idle=0.5)) as (server, client):
        began = time.monotonic()
        raw = list(EventStream(client.stream("hi"), heartbeat=0.1))
        took = time.monotonic() - began
        assert server.wait_closed()
    assert events(raw)[-1][1]["code"] == "timeout"
    assert raw.count(TICK) >= 2
    assert 0.5 <= took < 5


def test_text_has_no_heartbeats_to_show() -> None:
    with model(then_silence("a")) as (_, client):
        body = EventStream(client.stream("hi"), format="text", heartbeat=0.05)
        assert [next(body) for _ in range(3)] == [b"a", b"", b""]
        body.close()


@pytest.mark.parametrize("read", [0, 1, 2, 3])
@pytest.mark.parametrize("reply", [then_silence("a", "b"), no_headers], ids=["two-tokens", "no-headers"])
def test_closing_ends_the_call_wherever_it_is(reply: Any, read: int) -> None:
    with model(reply) as (server, client):
        body = EventStream(client.stream("hi"), heartbeat=0.1)
        for _ in range(read):
            next(body)
        body.close()
        body.close()
        assert server.wait_closed()
        assert list(body) == []


def test_closing_from_another_thread_frees_the_reader() -> None:
    with model(then_silence("a")) as (server, client):
        body = EventStream(client.stream("hi"), heartbeat=30)
        assert b"a" in next(body) + next(body)
        reader = threading.Thread(target=list, args=(body,))
        reader.start()
        body.close()
        reader.join(10)
        assert not reader.is_alive()
        assert server.wait_closed()


def test_an_application_that_stops_the_stream_ends_it_with_what_has_come() -> None:
    with model(then_silence("a")) as (server, client):
        stream = client.stream("hi")
        body = EventStream(stream, heartbeat=30)
        got = [next(body), next(body)]
        stream.cancel()
        got += list(body)
        assert server.wait_closed()
    assert [name for name, _ in events(got)] == ["text", "done"]
    assert events(got)[-1][1]["truncated"] is True


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the collector may come to the socket first, and says so
@pytest.mark.parametrize("watched", [False, True])
def test_a_stream_that_is_forgotten_is_closed_at_last(watched: bool) -> None:
    ours, browser = socket.socketpair()
    with model(then_silence("a")) as (server, client), ours, browser:
        body = EventStream(client.stream("hi"), environ={"gunicorn.socket": ours} if watched else None)
        next(body)
        gone = weakref.ref(body)
        del body
        gc.collect()
        assert gone() is None
        assert server.wait_closed()


def test_a_run_of_tools_is_one_answer() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    asked = Reply(
        headers=EVENT_STREAM,
        body=[
            chunk({"tool_calls": [{"index": 0, **tool_call("add", '{"a": 1, "b": 2}')}]}),
            chunk({}, finish_reason="tool_calls"),
            chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
            b"data: [DONE]\n\n",
        ],
    )
    end = chunk(usage={"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8})
    answered = Reply(headers=EVENT_STREAM, body=[*stream_pieces("three")[:-1], end, b"data: [DONE]\n\n"])
    total = {**USAGE, "input_tokens": 10, "output_tokens": 3, "total_tokens": 13}
    with model([asked, answered] * 3) as (_, client):
        run = partial(client.run_tools, "1 + 2?", tools=[add])
        assert events(EventStream(run)) == [
            ("tool_call", {"id": "call_1", "name": "add", "arguments": {"a": 1, "b": 2}}),
            ("text", {"delta": "three"}),
            ("usage", total),
            ("done", {"finish_reason": "stop", "model": "m-served", "usage": total, "truncated": False}),
        ]
        assert b"".join(EventStream(run, format="text")) == b"three"
        passed_on = list(EventStream(run, format="openai", stream_options={"include_usage": True}))
    with model([Reply(headers=EVENT_STREAM, body=passed_on)]) as (_, browser):
        again = browser.stream("hi").until_done()
    assert (again.text, again.tool_calls, again.finish_reason, again.usage) == ("three", (), "stop", Usage(**total))


def test_a_conversation_goes_on_while_it_is_streamed() -> None:
    with model([stream_reply("a"), stream_reply("b")]) as (server, client):
        talk = client.conversation()
        for question in ("1", "2"):
            list(EventStream(partial(talk.say, question)))
        assert [message["content"] for message in talk.messages] == ["1", "a", "2", "b"]
        assert server.connections == 1


VISITOR = contextvars.ContextVar("VISITOR", default="nobody")


def test_a_function_runs_in_the_callers_context_and_the_answer_is_complete_when_it_returns() -> None:
    seen = []
    may_return = threading.Event()
    with model([stream_reply("a")]) as (_, client):

        def turn(sink: Any, cancel: Any) -> ChatResponse:
            answer = client.chat("hi", sink=sink, cancel=cancel)
            assert may_return.wait(10)
            seen.append(VISITOR.get())
            return answer

        VISITOR.set("ann")
        body = EventStream(turn, heartbeat=0.05)
        assert [name for name, _ in events([next(body), next(body)])] == ["text"]
        assert next(body) == TICK
        may_return.set()
        assert events(body)[-1][0] == "done"
    assert seen == ["ann"]


def source_of(client: Client, kind: str) -> Any:
    return client.stream("hi") if kind == "stream" else partial(client.chat, "hi")


@pytest.mark.parametrize("kind", ["stream", "function"])
def test_an_answer_is_handed_over_before_the_browser_knows_that_it_is_complete(kind: str) -> None:
    heard: list[Any] = []
    with model([stream_reply("a")]) as (_, client):

        def store(answer: ChatResponse) -> None:
            heard.append((answer.text, threading.current_thread()))

        for piece in EventStream(source_of(client, kind), on_done=store):
            heard.append(piece)
    assert heard[-2] == ("a", threading.current_thread())
    assert heard[-1].startswith(b"event: done")


@pytest.mark.parametrize("kind", ["stream", "function"])
def test_an_answer_that_fails_or_is_left_is_not_handed_over(kind: str) -> None:
    stored: list[ChatResponse] = []
    with model([Reply(headers=EVENT_STREAM, body=IN_THE_MIDDLE), error_reply(500, "no")]) as (_, client):
        for _ in range(2):
            list(EventStream(source_of(client, kind), on_done=stored.append))
    with model(then_silence("a")) as (server, client):
        body = EventStream(source_of(client, kind), on_done=stored.append)
        next(body)
        body.close()
        assert server.wait_closed()
        assert list(body) == []
    assert stored == []


@pytest.mark.parametrize("kind", ["stream", "function"])
@pytest.mark.parametrize("read", [1, 2])
def test_what_had_come_is_handed_over_when_the_response_is_closed(kind: str, read: int) -> None:
    left: list[Any] = []
    with model(then_silence("a", "b")) as (server, client):
        body = EventStream(
            source_of(client, kind), on_disconnect=lambda answer: left.append((answer, threading.get_ident()))
        )
        for _ in range(read):
            next(body)
        body.close()
        body.close()
        assert server.wait_closed()
    ((answer, thread),) = left
    assert (answer.text[:1], answer.truncated, thread) == ("a", True, threading.get_ident())


@pytest.mark.parametrize("kind", ["stream", "function"])
def test_what_had_come_is_handed_over_when_the_browser_goes(kind: str) -> None:
    left: list[ChatResponse] = []
    server_side, browser = socket.socketpair()
    with model(then_silence("a", "b")) as (_, client), server_side:
        body = EventStream(source_of(client, kind), environ={"gunicorn.socket": server_side}, on_disconnect=left.append)
        for piece in body:
            if b'"b"' in piece:
                browser.close()
        assert left == []
        body.close()
    assert [(answer.text, answer.truncated) for answer in left] == [("ab", True)]


@pytest.mark.parametrize("kind", ["stream", "function"])
@pytest.mark.parametrize("reply", ["complete", "fails", "refused", "no-headers", "silent", "head", "reconnect"])
def test_only_who_leaves_in_the_midst_leaves_something(kind: str, reply: str) -> None:
    replies: Any = {
        "fails": [Reply(headers=EVENT_STREAM, body=IN_THE_MIDDLE)],
        "refused": [error_reply(500, "no")],
        "no-headers": no_headers,
        "silent": then_silence(),
    }.get(reply, [stream_reply("a")])
    environ = {"head": {"REQUEST_METHOD": "HEAD"}, "reconnect": {"HTTP_LAST_EVENT_ID": "1"}}.get(reply)
    left: list[ChatResponse] = []
    with model(replies) as (_, client):
        with EventStream(source_of(client, kind), environ=environ, heartbeat=0.05, on_disconnect=left.append) as body:
            for piece in body:
                if piece == TICK:
                    break
    assert left == []


def test_a_function_that_is_complete_when_its_browser_leaves_hands_over_all_of_it() -> None:
    left: list[ChatResponse] = []
    with model([stream_reply("a")]) as (_, client):
        body = EventStream(partial(client.chat, "hi"), on_disconnect=left.append)
        next(body)
        assert body._reader is not None
        body._reader.join(10)
        body.close()
    assert [(answer.text, answer.truncated) for answer in left] == [("a", False)]


def test_half_a_value_is_handed_over_as_its_text() -> None:
    left: list[ChatResponse] = []
    with model(then_silence('{"a"')) as (_, client):
        body = EventStream(client.stream("hi", response_type=dict[str, int]), on_disconnect=left.append)
        next(body)
        body.close()
    assert [(answer.text, answer.truncated) for answer in left] == [('{"a"', True)]


def test_what_cannot_be_kept_is_logged_and_does_not_reach_the_server(caplog: pytest.LogCaptureFixture) -> None:
    def store(answer: ChatResponse) -> None:
        raise OSError("disk full")

    with model(then_silence("a")) as (_, client):
        body = EventStream(client.stream("hi"), on_disconnect=store)
        next(body)
        body.close()
    assert "disk full" in caplog.text


def test_a_function_that_cannot_be_cancelled_does_not_hold_up_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "ENDING_SECONDS", 0.05)
    go_on = threading.Event()
    left: list[ChatResponse] = []

    def turn(sink: Any, cancel: Any) -> ChatResponse:
        sink(StreamEvent("text", "a"))
        go_on.wait(30)
        raise Cancelled

    body = EventStream(turn, on_disconnect=left.append)
    next(body)
    body.close()
    go_on.set()
    assert (left, "is lost" in caplog.text) == ([], True)


@pytest.mark.parametrize("kind", ["stream", "function"])
def test_an_answer_that_cannot_be_stored_is_an_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def store(answer: ChatResponse) -> None:
        raise OSError("disk full: secret")

    with model([stream_reply("a")]) as (_, client):
        raw = list(EventStream(source_of(client, kind), on_done=store))
    assert [name for name, _ in events(raw)] == ["text", "error"]
    assert b"secret" not in b"".join(raw)
    assert "disk full" in caplog.text


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize(
    ("raised", "code"), [(ValueError("secret"), "internal_error"), (StreamServerError("x"), "unavailable")]
)
def test_a_function_that_fails_has_an_answer_that_fails(raised: Exception, code: str, heard: bool) -> None:
    def turn(sink: Any, cancel: Any) -> ChatResponse:
        if heard:
            sink(StreamEvent("text", "a"))
        raise raised

    body = EventStream(turn)
    raw = b"".join(body)
    assert (body.status_code == 200) is heard
    assert code.encode() in raw
    assert b"secret" not in raw


def test_a_function_that_returns_no_answer_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    nothing: Any = lambda sink, cancel: None  # noqa: E731
    assert EventStream(nothing).status_code == 500
    assert "a function that is streamed returns its answer, not NoneType" in caplog.text


@pytest.mark.parametrize("way", ["closed", "forgotten"])
@pytest.mark.parametrize("reply", [then_silence("a"), no_headers], ids=["token", "no-headers"])
def test_a_browser_that_leaves_cancels_the_function(reply: Any, way: str) -> None:
    ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with model(reply) as (server, client):

        def turn(sink: Any, cancel: Any) -> ChatResponse:
            try:
                return client.chat("hi", sink=sink, cancel=cancel)
            except BaseException as error:
                ended.put(error)
                raise

        body = EventStream(turn, heartbeat=0.1)
        next(body)
        if way == "closed":
            body.close()
        del body
        gc.collect()
        assert isinstance(ended.get(timeout=10), Cancelled)
        assert server.wait_closed()


@pytest.mark.parametrize("kind", ["stream", "function"])
def test_a_head_request_gets_the_headers_and_asks_nothing(kind: str) -> None:
    with model([stream_reply("a")]) as (server, client):
        body = EventStream(source_of(client, kind), environ={"REQUEST_METHOD": "HEAD"})
        assert (body.status_code, dict(body.headers)["Content-Type"], list(body)) == (200, SSE, [])
        assert not server.requests


def test_a_reconnect_does_not_call_the_function() -> None:
    called = []
    body = EventStream(lambda **options: called.append(options), environ={"HTTP_LAST_EVENT_ID": "7"})  # type: ignore[arg-type]
    assert (body.status_code, list(body), called) == (204, [], [])


def test_a_complete_stream_leaves_its_connection_in_the_pool() -> None:
    with model([stream_reply("a"), stream_reply("b")]) as (server, client):
        for _ in range(2):
            with EventStream(client.stream("hi")) as body:
                list(body)
        assert server.connections == 1


def test_an_event_source_is_given_an_id_to_come_back_with() -> None:
    with model([stream_reply("a")]) as (_, client):
        assert next(EventStream(client.stream("hi"))) == b"retry: 86400000\nid: 0\n\n"


def test_a_reconnect_is_told_to_stop_and_asks_nothing() -> None:
    environ = {"HTTP_LAST_EVENT_ID": "7"}
    assert is_reconnect(environ)
    assert not is_reconnect({})
    with model([stream_reply("a")]) as (server, client):
        body = EventStream(client.stream("hi"), environ=environ)
        assert (body.status, body.headers, list(body)) == ("204 No Content", [], [])
        assert not server.requests


def test_a_start_response_that_fails_ends_the_call() -> None:
    def start_response(*arguments: Any) -> None:
        raise AssertionError("headers already sent")

    with model(then_silence("a")) as (server, client):
        with pytest.raises(AssertionError, match="already sent"):
            wsgi_response(client.stream("hi"), {}, start_response)
        assert server.wait_closed()


@pytest.fixture(params=["poll", "peek"])
def way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "peek":
        monkeypatch.delattr(select, "POLLRDHUP")
    elif not hasattr(select, "POLLRDHUP"):
        pytest.skip("this system has no POLLRDHUP")
    return str(request.param)


def test_a_browser_that_has_gone_is_told_from_one_that_waits(way_to_look: str) -> None:
    pairs = [socket.socketpair() for _ in range(5)]
    ours = [pair[0] for pair in pairs]
    waits, left, reset, closed, sent = (pair[1] for pair in pairs)
    left.shutdown(socket.SHUT_WR)
    reset.close()
    ours[3].close()
    sent.send(b"GET")
    callbacks: dict[web.Leave, Any] = {(lambda: None): sock for sock in ours}
    gone = web._gone(callbacks)
    assert [callbacks[leave] for leave in gone] == [ours[1], ours[2], ours[3]]
    for sock in (*ours, waits, left, closed, sent):
        sock.close()


@pytest.mark.parametrize("reply", [then_silence("a"), then_silence(), no_headers], ids=["token", "silent", "headless"])
@pytest.mark.parametrize("name", ["gunicorn.socket", "werkzeug.socket"])
def test_a_browser_that_leaves_frees_the_model_at_once(reply: Any, name: str, way_to_look: str) -> None:
    server_side, browser = socket.socketpair()
    with model(reply) as (server, client), server_side:
        leaving = threading.Timer(0.3, browser.close)
        leaving.start()
        body = EventStream(client.stream("hi"), environ={name: server_side}, heartbeat=60)
        raw = list(body)
        assert server.requests[0].closed.wait(5)
        body.close()
        leaving.join()
    assert not any(b"done" in piece or b"error" in piece for piece in raw)


GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket
from openai_compat.web import stream as web
pairs = [socket.socketpair() for _ in range(4)]
ours = [pair[0] for pair in pairs]
pairs[1][1].close()
ours[2].close()
pairs[3][1].send(b"unread")
pairs[3][1].close()
sockets = {(lambda: None): sock for sock in ours}
print([ours.index(sockets[leave]) for leave in web._gone(sockets)])
"""


def test_gevents_sockets_are_looked_at_by_the_systems_own_poll() -> None:
    pytest.importorskip("gevent")
    told = subprocess.run([sys.executable, "-c", GEVENT], capture_output=True, text=True, check=True)
    assert told.stdout == "[1, 2, 3]\n"


def test_a_browser_that_leaves_before_the_answer_begins_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    server_side, browser = socket.socketpair()
    with model(no_headers) as (server, client), server_side:
        leaving = threading.Timer(0.1, browser.close)
        leaving.start()
        list(EventStream(partial(client.chat, "hi"), environ={"gunicorn.socket": server_side}, heartbeat=60))
        leaving.join()
        assert server.wait_closed()
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_browser_is_watched_although_a_thread_could_not_be_started_before() -> None:
    told = threading.Event()
    ours, browser = socket.socketpair()
    lookout = web.DisconnectWatcher()
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        with pytest.raises(RuntimeError):
            lookout.add(lambda: None, ours)
    lookout.add(lambda: told.set, ours)
    browser.close()
    assert told.wait(10)
    ours.close()


def test_the_lookout_outlives_a_socket_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    ours, browser = socket.socketpair()
    lookout = web.DisconnectWatcher()
    lookout.add(lambda: None, object())
    while lookout._looking:
        threading.Event().wait(0.01)
    lookout.add(lambda: told.set, ours)
    browser.close()
    assert told.wait(10)
    assert "cannot be watched" in caplog.text
    ours.close()


def test_the_lookout_outlives_a_stream_that_cannot_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise RuntimeError("mine")

    told = threading.Event()
    first, second = socket.socketpair(), socket.socketpair()
    lookout = web.DisconnectWatcher()
    lookout.add(lambda: fails, first[0])
    lookout.add(lambda: told.set, second[0])
    first[1].close()
    second[1].close()
    assert told.wait(10)
    assert "could not be cancelled" in caplog.text
    first[0].close()
    second[0].close()


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def wsgi(app: Callable[..., Iterable[bytes]]) -> Iterator[tuple[str, int]]:
    server = make_server("127.0.0.1", 0, app, server_class=Threaded, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_openai_client_reads_through_a_wsgi_server() -> None:
    with model([stream_reply("a", "b"), error_reply(429, "slow down")]) as (_, client):

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            return wsgi_response(client.stream("hi"), environ, start_response, format="openai", headers=[("X-A", "b")])

        with wsgi(app) as (host, port), Client(f"http://{host}:{port}", model="x", max_retries=0) as browser:
            answer = browser.stream("hi").until_done()
            assert (answer.text, answer.finish_reason, answer.headers["x-a"]) == ("ab", "stop", "b")
            with pytest.raises(APIStatusError, match="Too many questions") as caught:
                browser.chat("hi")
            assert caught.value.status_code == 429


def test_without_its_socket_a_browser_that_left_is_noticed_by_heartbeats(capfd: pytest.CaptureFixture[str]) -> None:
    with model(then_silence("a")) as (server, client):

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            return wsgi_response(client.stream("hi"), environ, start_response, heartbeat=0.1)

        with wsgi(app) as address:
            browser = Browser(address)
            assert b"a" in browser.until(b'"a"')
            browser.leave()
            assert server.wait_closed()
    capfd.readouterr()  # wsgiref tells of the broken pipe


class Browser:
    """A connection that asked for ``/`` and reads what comes."""

    def __init__(self, address: tuple[str, int], path: str = "/", headers: str = "") -> None:
        self._sock = socket.create_connection(address, timeout=30)
        self._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        self.got = b""

    def until(self, what: bytes) -> bytes:
        """All that has come when ``what`` has, or at the end."""
        while what not in self.got and (data := self._sock.recv(65536)):
            self.got += data
        return self.got

    def leave(self) -> None:
        self._sock.close()


APP = """
import json
import os
import threading
from openai_compat import Client
from openai_compat.web import wsgi_response

client = Client(os.environ["UPSTREAM"], model="m", max_retries=0)
# Before the fork, so that workers inherit a connection.
assert client.chat("warm up").text == "warm"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/state":
        threads = [thread.name for thread in threading.enumerate() if "openai_compat" in thread.name]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([threads, len(os.listdir("/proc/self/fd"))]).encode()]
    stream = client.stream(environ["PATH_INFO"])
    return wsgi_response(stream, environ, start_response, heartbeat=float(os.environ["HEARTBEAT"]))
"""
WORKERS = {
    "gthread": ["--worker-class", "gthread", "--threads", "60", "--workers", "1"],
    "two-processes": ["--worker-class", "gthread", "--threads", "60", "--workers", "2"],
    "gevent": ["--worker-class", "gevent", "--workers", "1"],
}


@contextlib.contextmanager
def gunicorn(worker: str, upstream: str, folder: Path, *, heartbeat: float) -> Iterator[tuple[str, int]]:
    """A real server in a process of its own, its application loaded before the workers are forked."""
    pytest.importorskip("gunicorn")
    if worker == "gevent":
        pytest.importorskip("gevent")
    (folder / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", "app:app", "--preload", "--chdir", str(folder)]
        command += [
            "--bind",
            f"fd://{listener.fileno()}",
            "--graceful-timeout",
            "2",
            "--no-control-socket",
            *WORKERS[worker],
        ]
        environment = {"UPSTREAM": upstream, "HEARTBEAT": str(heartbeat), "PATH": "", "PYTHONWARNINGS": "ignore"}
        log = (folder / "log").open("w+")
        with log, subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], stderr=log) as process:
            try:
                yield listener.getsockname()
            finally:
                process.terminate()
                process.wait(30)
                log.seek(0)
                told = log.read()
    # What gunicorn says of an exception that has reached it.
    assert not any(words in told for words in ("Error handling request", "Socket error", "Exception in")), told


class Upstream:
    """Answers ``/tokens N`` with pieces that name their question, and ``/silent N`` with nothing."""

    def __init__(self, tokens: int = 30) -> None:
        self._tokens = tokens
        self.asked: dict[str, Request] = {}
        self.halfway = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self, request: Request) -> Reply:
        question = request.json()["messages"][-1]["content"]
        if question == "warm up":
            return chat_reply("warm")
        self.asked[question] = request
        body = self._silence(request) if question.startswith("/silent") else self._talk(question)
        return Reply(headers=EVENT_STREAM, body=body)

    def _talk(self, question: str) -> Iterator[bytes]:
        for number in range(self._tokens):
            if number == self._tokens // 2:
                self.halfway.release()
                self.go_on.wait(30)
            yield chunk({"content": f"<{question} {number}>"})
        yield from stream_pieces()

    def _silence(self, request: Request) -> Iterator[bytes]:
        yield b": nothing to say\n\n"
        request.closed.wait(60)


def state(address: tuple[str, int]) -> tuple[list[str], int]:
    """The library's threads and the open files of a worker."""
    threads, files = requests.get(f"http://{address[0]}:{address[1]}/state", timeout=30).json()
    return threads, files


@pytest.mark.parametrize("worker", WORKERS)
def test_of_fifty_browsers_those_that_leave_are_noticed_the_others_get_all_and_nothing_leaks(
    worker: str, tmp_path: Path
) -> None:
    talk = Upstream()
    with ReplayServer(talk) as server, gunicorn(worker, server.url, tmp_path, heartbeat=60) as address:
        _, files = state(address)
        paths = [f"/tokens{i}" for i in range(42)]
        browsers = {path: Browser(address, path) for path in paths}
        silent = {path: Browser(address, path) for path in [f"/silent{i}" for i in range(8)]}
        for _ in paths:
            assert talk.halfway.acquire(timeout=30)
        while not talk.asked.keys() >= silent.keys():
            threading.Event().wait(0.01)
        leaving = paths[::3]
        for path in leaving:
            assert f"<{path} 0>".encode() in browsers[path].until(f"<{path} 0>".encode())
            browsers[path].leave()
        for browser in silent.values():
            browser.leave()
        # Nothing is written to the browsers meanwhile, not even a heartbeat.
        for path in [*leaving, *silent]:
            assert talk.asked[path].closed.wait(10), path
        talk.go_on.set()
        staying = set(paths) - set(leaving)
        for path in staying:
            got = browsers[path].until(b"event: done").decode()
            assert [f"<{path} {number}>" in got for number in range(30)] == [True] * 30
            assert got.count("event: text") == 30
            browsers[path].leave()
        deadline = time.monotonic() + 10
        # Of all the connections to the model, those of complete answers are kept.
        while (
            time.monotonic() < deadline and (found := state(address)) and (found[0] or found[1] > files + len(staying))
        ):
            threading.Event().wait(0.05)
        assert found[0] == []
        assert found[1] <= files + len(staying)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="this system has no POLLRDHUP")
def test_people_who_left_silent_streams_do_not_keep_out_a_newcomer(tmp_path: Path) -> None:
    talk = Upstream()
    talk.go_on.set()
    with ReplayServer(talk) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        left = [Browser(address, f"/silent{i}") for i in range(60)]
        for i in range(60):
            while f"/silent{i}" not in talk.asked:
                threading.Event().wait(0.01)
        for browser in left:
            browser.leave()
        began = time.monotonic()
        newcomer = Browser(address, "/tokens")
        assert b"event: done" in newcomer.until(b"event: done")
        assert time.monotonic() - began < 8
        newcomer.leave()
        assert all(talk.asked[f"/silent{i}"].closed.wait(5) for i in range(60))


def test_a_browsers_reconnect_gets_no_content_from_a_real_server(tmp_path: Path) -> None:
    talk = Upstream()
    with ReplayServer(talk) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/tokens", headers={"Last-Event-ID": "3"})
        reply = connection.getresponse()
        assert (reply.status, reply.read(), talk.asked) == (204, b"", {})
        connection.close()


def test_an_upstream_error_is_a_json_page_on_a_real_server(tmp_path: Path) -> None:
    def refuse(request: Request) -> Reply:
        return (
            error_reply(429, "no", headers={"Retry-After": "7"}) if request.json().get("stream") else chat_reply("warm")
        )

    with ReplayServer(refuse) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/")
        reply = connection.getresponse()
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
        assert json.loads(reply.read())["error"]["code"] == "rate_limited"
        connection.close()
