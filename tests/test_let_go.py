"""Streams that nobody reads any more: the server sees the connection close at once, without the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_reply, chunk, error_reply, stream_reply, tool_call

from openai_compat import Client, OpenAICompatError, StreamEvent, Timeout
from openai_compat.web import EventStream


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def unfinished(request: Request) -> Reply:
    """Half a JSON value, and then nothing for as long as the client stays."""

    def body() -> Iterator[bytes]:
        yield chunk({"content": '{"a": "'})
        yield chunk({"content": "b"})
        assert request.closed.wait(10)

    return Reply(headers=EVENT_STREAM, body=body())


@pytest.fixture(params=["own way", "a session of the user's", "an auth object", "a fallback", "hooks", "traces"])
def client(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Client]]:
    """Makes a client; whichever way its calls go."""
    with contextlib.ExitStack() as stack:

        def made(url: str) -> Client:
            options: dict[str, Any] = {}
            if request.param == "a session of the user's":
                options = {"session": stack.enter_context(own_session())}
            elif request.param == "an auth object":
                options = {"auth": lambda prepared: prepared}
            elif request.param == "hooks":
                kinds = ("on_request", "on_response", "on_retry", "on_event", "on_error")
                options = dict.fromkeys(kinds, lambda event: None)
            one = stack.enter_context(Client(url, model="m", **options))
            if request.param == "traces":
                pytest.importorskip("openai_compat.integrations.otel").instrument(one)
            return Client.fallback([one]) if request.param == "a fallback" else one

        yield made


def once(client: Client) -> None:
    next(client.stream("hi"))


def loop(client: Client) -> None:
    for _ in client.stream("hi"):
        break


def loop_over_text(client: Client) -> None:
    for _ in client.stream("hi").text_stream:
        break


def islice(client: Client) -> None:
    assert list(itertools.islice(client.stream("hi").text_stream, 2)) == ['{"a": "', "b"]


def iterator_alone(client: Client) -> None:
    events = iter(client.stream("hi"))
    assert next(events).delta


def exception(client: Client) -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in client.stream("hi"):
            raise ZeroDivisionError


def response_so_far(client: Client) -> None:
    stream = client.stream("hi")
    next(stream)
    assert stream.response.truncated


def partial_value(client: Client) -> None:
    stream = client.stream("hi", response_type=dict[str, str])
    next(stream), next(stream)
    assert stream.partial == {"a": "b"}


def typed_loop(client: Client) -> None:
    stream = client.stream("hi", response_type=dict[str, str])
    for _ in stream:
        assert stream.partial == {"a": ""}
        break


def generator_around(client: Client) -> None:
    def words() -> Iterator[str]:
        yield from client.stream("hi").text_stream

    next(words())


def generator_closed(client: Client) -> None:
    def words() -> Iterator[str]:
        yield from client.stream("hi").text_stream

    generator = words()
    next(generator)
    generator.close()


def refuse(event: StreamEvent) -> None:
    raise ZeroDivisionError


def sink_raises(client: Client) -> None:
    with contextlib.suppress(ZeroDivisionError):
        client.chat("hi", sink=refuse)


def tool(a: str) -> str:
    return a


def rounds_raise(client: Client) -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in client.tool_rounds("hi", tools=[tool], sink=refuse):
            pass


def conversation_raises(client: Client) -> None:
    with contextlib.suppress(ZeroDivisionError):
        client.conversation().say("hi", sink=refuse)


def response_to_a_browser(client: Client) -> None:
    next(EventStream(client.stream("hi")))


def response_in_openai_chunks(client: Client) -> None:
    next(EventStream(client.stream("hi"), format="openai"))


def response_not_begun(client: Client) -> None:
    EventStream(client.stream("hi"))


def iterator_of_a_response(client: Client) -> None:
    pieces = iter(EventStream(client.stream("hi")))
    next(pieces), next(pieces)


def response_of_a_function(client: Client) -> None:
    next(EventStream(partial(client.chat, "hi")))


@pytest.mark.parametrize(
    "leave",
    [
        *(once, loop, loop_over_text, islice, iterator_alone, exception, response_so_far, partial_value, typed_loop),
        *(generator_around, generator_closed, sink_raises, rounds_raise, conversation_raises),
        *(response_to_a_browser, response_in_openai_chunks, response_not_begun, iterator_of_a_response),
        response_of_a_function,
    ],
    ids=lambda leave: leave.__name__,
)
def test_the_server_sees_at_once_that_a_stream_was_left(
    leave: Callable[[Client], None], client: Callable[[str], Client]
) -> None:
    with ReplayServer(unfinished) as server:
        leave(client(server.url))
        assert server.wait_closed()
        assert len(server.requests) == 1


def test_nothing_of_a_stream_that_was_left_waits_for_the_collector(client: Callable[[str], Client]) -> None:
    with ReplayServer(unfinished) as server:
        stream = client(server.url).stream("hi")
        next(stream)
        reading = stream._reading
        assert reading.reply is not None
        parts = [weakref.ref(part) for part in (reading, reading.reply, reading.reply._body, reading.accumulator)]
        del stream, reading
        assert [part() for part in parts] == [None] * 4


def test_ctrl_c_in_until_done_ends_the_call(client: Callable[[str], Client]) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield chunk({"content": "a"})
            signal.pthread_kill(main, signal.SIGINT)
            assert request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(reply) as server:
        with pytest.raises(KeyboardInterrupt):
            client(server.url).stream("hi").until_done()
        assert server.wait_closed()


def test_rounds_that_are_left_run_no_tool_and_keep_the_connection(client: Callable[[str], Client]) -> None:
    pieces = [chunk({"tool_calls": [{"index": 0, **tool_call("tool", '{"a": "b"}')}]})]
    pieces += [chunk({}, finish_reason="tool_calls"), b"data: [DONE]\n\n"]
    ran: list[str] = []

    def tool(a: str) -> None:
        ran.append(a)

    alive = weakref.ref(tool)
    with ReplayServer([Reply(headers=EVENT_STREAM, body=pieces), stream_reply("a")]) as server:
        one = client(server.url)
        for _ in one.tool_rounds("hi", tools=[tool], sink=lambda event: None):
            break
        del tool, _
        assert (ran, alive()) == ([], None)
        server.wait_idle()
        one.chat("hi", sink=lambda event: None)
        assert server.connections == 1


class Held:
    """What a caller has open in a frame of its own."""


ERROR = b'data: {"error": {"message": "no"}}\n\n'
FAILURES: dict[str, Any] = {
    "401": error_reply(401),
    "500": error_reply(500),
    "404 at both addresses": error_reply(404),
    "redirect": Reply(status=302, headers={"Location": "/elsewhere"}),
    "not JSON": Reply(headers=JSON, body=b"<html>"),
    "no choices": Reply(headers=JSON, body=b"{}"),
    "empty": chat_reply(""),
    "an error in the stream": Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"}), ERROR]),
    "neither finish_reason nor [DONE]": stream_reply("a", finish_reason=None, done=False),
    "cut off": Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"})], abort="fin"),
    "reset": Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"})], abort="rst"),
    "silence": unfinished,
    "no reply": Reply(head=b"", abort="fin"),
}
CALLS: dict[str, Callable[[Client], object]] = {
    "chat": lambda client: client.chat("hi"),
    "chat with a sink": lambda client: client.chat("hi", sink=lambda event: None),
    "typed": lambda client: client.chat("hi", response_type=int),
    "text_stream": lambda client: list(client.stream("hi").text_stream),
    "until_done": lambda client: client.stream("hi").until_done(),
    "run_tools": lambda client: client.run_tools("hi", tools=[tool], sink=lambda event: None),
    "embed": lambda client: client.embed("hi"),
    "models": lambda client: client.models(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_call_that_fails_does_not_keep_what_its_callers_have_open(failure: str, call: str) -> None:
    held: list[weakref.ref[Held]] = []

    def caller(client: Client) -> None:
        one = Held()
        held.append(weakref.ref(one))
        CALLS[call](client)

    with ReplayServer([FAILURES[failure]]) as server:
        options: dict[str, Any] = {"max_retries": 0, "truncated": "raise", "timeout": Timeout(idle=0.05)}
        with Client(server.url, model="m", **options) as client:
            with contextlib.suppress(OpenAICompatError):
                caller(client)
                pytest.fail("it has to fail")
        assert [one() for one in held] == [None]
