"""Streams as WSGI bodies: what ends them, what is handed over, and how silence is filled."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import queue
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import trustme
from support.browser_streams import IN_THE_MIDDLE, SSE, TICK, USAGE, events, model, no_headers, source_of, then_silence
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import (
    Cancelled,
    ChatResponse,
    Choice,
    Client,
    ConfigurationError,
    StreamEvent,
    StreamServerError,
    Timeout,
    Usage,
)
from openai_compat.web import EventStream, is_reconnect, wsgi_response
from openai_compat.web import stream as web_stream
from openai_compat.wire.response import CallInfo, ToolCallDelta


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
    monkeypatch.setattr(web_stream, "time", clock)
    unsent = StreamEvent("tool_call_delta", ToolCallDelta(position=0, id="", name="f", arguments="x"))
    stream: Any = Scripted("a", *[unsent] * 10, "b", *[unsent] * 2)
    sent = b"".join(EventStream(stream, format=format, heartbeat=3.0))
    first, last = (sent.index(piece) for piece in (b'"a"', b'"b"'))
    assert sent[first:last].count(TICK) == sent.count(TICK) == 3


def test_an_end_of_the_reading_thread_is_an_error_too() -> None:
    stream: Any = Scripted("a", KeyboardInterrupt())
    stream.tick_every = lambda seconds: False
    assert events(EventStream(stream))[-1][1]["code"] == "internal_error"


def test_who_does_not_wait_gets_an_event_however_soon_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = web_stream.spawn

    def spawn_and_wait(*arguments: Any, name: str) -> threading.Thread:
        thread = spawn(*arguments, name=name)
        thread.join(20)
        return thread

    monkeypatch.setattr(web_stream, "spawn", spawn_and_wait)
    with model([error_reply(429, "slow down")] * 2) as (_, client):
        body = EventStream(client.stream("hi"), first_wait=0)
        assert (body.status_code, [name for name, _ in events(body)]) == (200, ["error"])
        settled = EventStream(client.stream("hi"), first_wait=0)
        settled.settle()
        assert (settled.status_code, b"rate_limited" in b"".join(settled)) == (429, True)


@pytest.mark.parametrize(
    "options",
    [{"format": "xml"}, {"heartbeat": 0}, {"heartbeat": -1.0}, {"first_wait": -1}, {"heartbeat": float("inf")}],
)
def test_bad_arguments_are_told(options: dict[str, Any]) -> None:
    with model([]) as (server, client):
        with pytest.raises(ConfigurationError):
            EventStream(client.stream("hi"), **options)
        assert not server.requests


def test_a_source_waits_for_a_browser_that_reads_slowly() -> None:
    told = 0

    def run(*, sink: Any, cancel: Any) -> ChatResponse:
        nonlocal told
        while told < 2000:
            told += 1
            sink(StreamEvent("text", "x"))
        return ChatResponse(choices=(Choice(text="x" * told, finish_reason="stop"),))

    body = EventStream(run)
    for read, _ in enumerate(body):
        # One event may be on its way between the two.
        assert told <= read + web_stream.MAX_WAITING + 1
    assert told == 2000


def test_a_source_that_waits_for_a_slow_browser_ends_with_it() -> None:
    ended = threading.Event()

    def run(*, sink: Any, cancel: Any) -> ChatResponse:
        while not cancel.cancelled:
            sink(StreamEvent("text", "x"))
        ended.set()
        raise Cancelled

    with EventStream(run) as body:
        next(body)
    assert ended.wait(10)


WANTED = contextvars.ContextVar("WANTED", default="")


def called(*arguments: str) -> Reply:
    calls = [{"index": at, **tool_call("f", text, f"c{at}")} for at, text in enumerate(arguments)]
    return Reply(headers=EVENT_STREAM, body=[chunk({"tool_calls": calls}), *stream_pieces()])


@pytest.mark.parametrize("in_request", [False, True])
def test_tools_run_on_the_thread_of_the_response_where_that_is_asked_for(in_request: bool) -> None:
    threads: list[threading.Thread] = []

    def f(x: int) -> str:
        threads.append(threading.current_thread())
        if x == 2:
            raise LookupError("no two")
        return f"{x} {WANTED.get()}"

    WANTED.set("mine")
    with model([called('{"x": 1}', '{"x": 2}', "{}"), stream_reply("a")]) as (server, client):
        run = partial(client.run_tools, "hi", tools=[f])
        got = events(EventStream(run, tools_in_request=in_request))
        sent = [m["content"] for m in server.requests[1].json()["messages"] if m["role"] == "tool"]
    assert got[-1][0] == "done"
    assert sent[0] == "1 mine"
    assert "no two" in sent[1]
    assert "x" in sent[2]
    assert len(threads) == 2
    assert (set(threads) == {threading.current_thread()}) is in_request


def test_a_tool_in_the_request_may_run_tools_itself() -> None:
    def f() -> str:
        return "inner" if len(server.requests) > 1 else client.run_tools("deeper", tools=[f]).text

    replies = [called("{}"), chat_reply(tool_calls=[tool_call("f", "{}")]), chat_reply("x"), stream_reply("a")]
    with model(replies) as (server, client):
        assert events(EventStream(partial(client.run_tools, "hi", tools=[f]), tools_in_request=True))[-1][0] == "done"
        told = [m["content"] for m in server.requests[3].json()["messages"] if m["role"] == "tool"]
    assert told == ["x"]


@pytest.mark.parametrize("leaves", ["before the tool", "during the tool"])
def test_a_tool_in_the_request_ends_with_it(leaves: str) -> None:
    ran: list[int] = []

    def f() -> str:
        ran.append(1)
        body.cancel()
        return "x"

    with model([called("{}"), stream_reply("a")]) as (server, client):
        body = EventStream(partial(client.run_tools, "hi", tools=[f]), tools_in_request=True)
        pieces = [next(body)]
        if leaves == "during the tool":
            pieces += body
        body.close()
        for thread in threading.enumerate():
            if thread.name in ("openai_compat web", "openai_compat tool"):
                thread.join(10)
                assert not thread.is_alive()
        assert len(server.requests) == 1
    assert len(ran) == (leaves == "during the tool")
    assert b"done" not in b"".join(pieces)


UNTOLD = {"REQUEST_METHOD": "GET", "HTTP_HOST": "intranet:8000"}
ACROSS = {"REQUEST_METHOD": "GET", "HTTP_SEC_FETCH_SITE": "cross-site"}


@pytest.mark.parametrize(
    ("environ", "options", "status"),
    [
        (ACROSS, {}, 403),
        ({**ACROSS, "HTTP_ACCEPT": "text/event-stream"}, {}, 403),
        (ACROSS, {"cross_site": True}, 200),
        ({**ACROSS, "HTTP_SEC_FETCH_SITE": "same-origin"}, {}, 200),
        ({**ACROSS, "HTTP_SEC_FETCH_SITE": "same-site"}, {}, 200),
        ({**ACROSS, "HTTP_SEC_FETCH_SITE": "none"}, {}, 200),
        ({**UNTOLD, "HTTP_ORIGIN": "http://evil.example"}, {}, 403),
        ({**UNTOLD, "HTTP_ORIGIN": "null"}, {}, 403),
        ({**UNTOLD, "HTTP_ORIGIN": "http://evil.example"}, {"cross_site": True}, 200),
        ({**UNTOLD, "HTTP_ORIGIN": "http://intranet:8000"}, {}, 200),
        ({**UNTOLD, "HTTP_ORIGIN": "http://evil.example", "HTTP_SEC_FETCH_SITE": "same-origin"}, {}, 200),
        ({"REQUEST_METHOD": "GET"}, {}, 200),
        ({**ACROSS, "REQUEST_METHOD": "POST"}, {}, 200),
    ],
)
def test_a_page_of_another_site_cannot_ask_by_get(environ: Any, options: Any, status: int) -> None:
    with model([stream_reply("a")]) as (server, client):
        with EventStream(client.stream("hi"), environ=environ, **options) as body:
            said = b"".join(body)
        assert (body.status_code, len(server.requests)) == (status, status == 200)
        assert (b"Other sites may not ask here" in said) is (status == 403)


@pytest.mark.parametrize("callback", ["on_done", "on_disconnect", "source"])
def test_a_callback_that_would_have_to_be_awaited_is_refused_before_anything_is_asked(callback: str) -> None:
    async def never_runs(*_: Any, **__: Any) -> None:
        """Would never be awaited."""

    with model([]) as (server, client):
        arguments: Any = {"source": client.stream("hi"), callback: never_runs}
        with pytest.raises(ConfigurationError, match=f"{callback} is a plain function"):
            EventStream(**arguments)
        assert not server.requests


def test_an_answer_is_no_stream() -> None:
    answer: Any = ChatResponse(choices=(Choice(text="hi"),))
    with pytest.raises(ConfigurationError, match=r"give client\.stream\("):
        EventStream(answer)


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
    monkeypatch.setattr(web_stream, "CANCEL_SECONDS", 0.05)
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
    assert "a streamed function must return a ChatResponse, not NoneType" in caplog.text


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


def test_a_reconnect_is_told_to_stop_and_asks_nothing() -> None:
    environ = {"HTTP_LAST_EVENT_ID": "7"}
    assert is_reconnect(environ)
    assert not is_reconnect({})
    with model([stream_reply("a")]) as (server, client):
        body = EventStream(client.stream("hi"), environ=environ)
        assert (body.status, body.headers, list(body)) == ("204 No Content", [], [])
        assert not server.requests


EVENT_SOURCE = {"REQUEST_METHOD": "GET", "HTTP_ACCEPT": "text/event-stream"}


@pytest.mark.parametrize(("status", "code"), [(400, "invalid_request"), (429, "rate_limited"), (401, "unavailable")])
def test_an_event_source_is_told_by_an_event_why_there_is_no_answer(status: int, code: str) -> None:
    with model([error_reply(status, "sk-1")]) as (_, client):
        body = EventStream(client.stream("hi"), environ=EVENT_SOURCE)
    raw = list(body)
    ((name, data),) = events(raw)
    assert (body.status_code, dict(body.headers)["Content-Type"]) == (200, SSE)
    assert (name, data["code"]) == ("error", code)
    # Should its page not close it, it comes back with an id, and is told to stop.
    assert b"\nid: " in b"".join(raw)


@pytest.mark.parametrize(
    ("changed", "format"),
    [
        ({"REQUEST_METHOD": "POST"}, "sse"),
        ({"HTTP_ACCEPT": "*/*"}, "sse"),
        ({"HTTP_ACCEPT": "text/event-stream, application/json"}, "sse"),
        ({}, "openai"),
        ({}, "text"),
    ],
)
def test_any_other_client_is_told_by_the_status(changed: dict[str, str], format: Any) -> None:
    with model([error_reply(429)]) as (_, client):
        body = EventStream(client.stream("hi"), environ=EVENT_SOURCE | changed, format=format)
    assert (body.status_code, dict(body.headers)["Content-Type"]) == (429, "application/json")


def test_a_start_response_that_fails_ends_the_call() -> None:
    def start_response(*arguments: Any) -> None:
        raise AssertionError("headers already sent")

    with model(then_silence("a")) as (server, client):
        with pytest.raises(AssertionError, match="already sent"):
            wsgi_response(client.stream("hi"), {}, start_response)
        assert server.wait_closed()
