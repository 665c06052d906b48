"""The pulled stream: its events, its answer, and leaving it early."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import (
    Client,
    ConfigurationError,
    NotFoundError,
    ResponseShapeError,
    StreamEvent,
    StreamInterruptedError,
    StreamServerError,
)


def test_events_are_pulled_one_by_one_and_the_answer_stands_at_the_end() -> None:
    with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi") as stream:
            events = list(stream)
        assert [event.kind for event in events] == ["text", "text", "done"]
        assert stream.response.text == "ab"
        assert stream.response.first_token_ms is not None
        assert stream.response.first_token_ms <= stream.response.latency_ms


def test_nothing_is_sent_before_the_first_event_is_asked_for() -> None:
    with ReplayServer([stream_reply("a")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi"):
            pass
        assert not server.requests


def test_next_and_for_read_the_same_stream() -> None:
    with ReplayServer([stream_reply("a", "b", "c")]) as server, Client(server.url, model="m") as client:
        stream = client.stream("hi")
        assert next(stream).delta == "a"
        assert [event.delta for event in stream] == ["b", "c", ""]
        with pytest.raises(StopIteration):
            next(stream)


def test_text_alone() -> None:
    pieces = [chunk({"reasoning_content": "hm"}), *stream_pieces("a", "b")]
    with ReplayServer([Reply(headers=EVENT_STREAM, body=pieces)]) as server, Client(server.url, model="m") as client:
        stream = client.stream("hi")
        assert list(stream.text_stream) == ["a", "b"]
        assert stream.response.reasoning == "hm"


def test_until_done_gives_the_answer() -> None:
    with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
        assert client.stream("hi").until_done().text == "ab"


def test_the_answer_so_far_can_be_looked_at() -> None:
    with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi") as stream:
            with pytest.raises(ConfigurationError, match=r"not been read yet: .*until_done\(\)"):
                _ = stream.response
            assert not server.requests
            next(stream)
            assert stream.response.text == "a"


def test_leaving_early_closes_the_connection() -> None:
    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield stream_pieces("a")[0]
            assert request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        with client.stream("hi") as stream:
            assert next(stream).delta == "a"
        assert server.wait_closed()
        assert stream.response.text == "a"
        assert list(stream) == []


def test_cancelling_a_silent_stream_from_another_thread_ends_it_with_what_had_come() -> None:
    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield stream_pieces("a")[0]
            request.closed.wait(20)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        stream = client.stream("hi")
        assert next(stream).delta == "a"
        canceller = threading.Timer(0.1, stream.cancel)
        canceller.start()
        assert [(event.kind, event.response and event.response.text) for event in stream] == [("done", "a")]
        canceller.join()
        assert stream.response.truncated
        assert server.wait_closed()


def read(client: Client) -> tuple[list[StreamEvent], Exception | None]:
    events: list[StreamEvent] = []
    try:
        with client.stream("hi") as stream:
            for event in stream:
                events.append(event)
    except Exception as error:
        return events, error
    return events, None


@pytest.mark.parametrize(
    ("reply", "kind", "partial"),
    [
        (error_reply(404, "no model"), NotFoundError, None),
        (stream_reply("a", finish_reason=None, done=False), StreamInterruptedError, "a"),
        (stream_reply(finish_reason="stop"), ResponseShapeError, ""),
        (
            Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"}), b'data: {"error":"boom"}\n\n']),
            StreamServerError,
            "a",
        ),
    ],
)
def test_a_failure_is_one_last_event_then_its_exception(reply: Reply, kind: type, partial: str | None) -> None:
    with ReplayServer([reply]) as server, Client(server.url, model="m", truncated="raise", max_retries=0) as client:
        events, error = read(client)
    assert isinstance(error, kind)
    assert events[-1].error is error
    assert not any(event.done or event.error for event in events[:-1])
    assert error.provider == "127.0.0.1"  # type: ignore[attr-defined]
    if partial is not None:
        assert error.partial.text == partial  # type: ignore[attr-defined]


def test_a_clean_end_that_says_nothing_is_flagged_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with ReplayServer([stream_reply("a", finish_reason=None, done=False)]) as server:
        answer = Client(server.url, model="m").stream("hi").until_done()
    assert (answer.text, answer.truncated, answer.finish_reason) == ("a", True, "unknown")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("options", [{"finish_reason": None}, {"done": False}])
def test_done_or_a_finish_reason_is_complete(options: Any) -> None:
    with ReplayServer([stream_reply("a", **options)]) as server:
        assert not Client(server.url, model="m", truncated="raise").stream("hi").until_done().truncated


@pytest.mark.parametrize("abort", ["fin", "rst"])
def test_a_transfer_cut_after_the_finish_reason_costs_nothing(abort: Any) -> None:
    cut = Reply(headers=EVENT_STREAM, body=stream_pieces("a", done=False), abort=abort)
    with ReplayServer([cut]) as server, Client(server.url, model="m", truncated="raise") as client:
        answer = client.stream("hi").until_done()
    assert (answer.text, answer.finish_reason, answer.truncated) == ("a", "stop", False)


@pytest.mark.slow
@pytest.mark.parametrize("more", [b"", b": ping\n\n"], ids=["silence", "keep-alives"])
def test_silence_after_the_finish_reason_and_usage_costs_nothing(more: bytes) -> None:
    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield chunk({"content": "a"})
            yield chunk({}, finish_reason="stop", usage={"prompt_tokens": 1, "completion_tokens": 1})
            for _ in range(60):
                if request.closed.wait(0.5):
                    break
                yield more

        return Reply(headers=EVENT_STREAM, body=(piece for piece in body() if piece))

    with ReplayServer([reply]) as server, Client(server.url, model="m", truncated="raise") as client:
        answer = client.stream("hi").until_done()
        assert server.wait_closed(), "the client leaves: the server would go on for 30 s"
    assert (answer.text, answer.finish_reason, answer.truncated, answer.input_tokens) == ("a", "stop", False, 1)


@pytest.mark.parametrize("abort", ["fin", "rst"])
def test_a_transfer_cut_after_done_alone_is_no_whole_answer(abort: Any) -> None:
    cut = Reply(headers=EVENT_STREAM, body=stream_pieces("Half an ", finish_reason=None), abort=abort)
    with ReplayServer([cut, cut]) as server:
        assert Client(server.url, model="m").stream("hi").until_done().truncated
        with pytest.raises(StreamInterruptedError) as caught:
            Client(server.url, model="m", truncated="raise").stream("hi").until_done()
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half an "


def test_a_finish_reason_with_every_chunk_says_nothing_of_a_transfer_cut_short() -> None:
    body = [chunk({"content": text}, finish_reason="stop") for text in ("a", "b")]
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body, abort="fin")]) as server:
        events, error = read(Client(server.url, model="m"))
    assert type(error).__name__ == "APIConnectionError"
    assert [event.kind for event in events] == ["text", "text", "error"]


def test_a_transfer_cut_short_raises_even_where_truncation_is_returned() -> None:
    cut = Reply(headers=EVENT_STREAM, body=stream_pieces("a", finish_reason=None, done=False), abort="fin")
    with ReplayServer([cut]) as server, Client(server.url, model="m") as client:
        events, error = read(client)
    assert type(error).__name__ == "APIConnectionError"
    assert [event.kind for event in events] == ["text", "error"]


def test_one_json_body_in_place_of_a_stream() -> None:
    with (
        ReplayServer([Reply(headers=JSON, body=chat_body("whole"))]) as server,
        Client(server.url, model="m") as client,
    ):
        events, error = read(client)
    assert error is None
    assert [(event.kind, event.delta) for event in events] == [("text", "whole"), ("usage", ""), ("done", "")]


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("body", [chat_body("whole"), b"".join(stream_pieces("whole"))], ids=["json", "events"])
def test_a_body_read_to_its_end_leaves_its_connection_in_the_pool(body: bytes, framing: Any) -> None:
    with ReplayServer([Reply(headers=JSON, body=body, framing=framing)]) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            for _ in range(3):
                assert client.stream("hi").until_done().text == "whole"
                assert client.chat("hi").text == "whole"
            assert server.connections == 1


def test_tool_calls_are_opened_grown_and_completed() -> None:
    def piece(**function: str) -> bytes:
        return chunk({"tool_calls": [{"index": 0, "id": "c1", "function": function}]})

    pieces = [piece(name="add", arguments=""), piece(arguments='{"a":'), piece(arguments="1}"), *stream_pieces()]
    with ReplayServer([Reply(headers=EVENT_STREAM, body=pieces)]) as server, Client(server.url, model="m") as client:
        events, error = read(client)
    assert error is None
    assert [event.kind for event in events] == [
        "tool_call",
        "tool_call_delta",
        "tool_call_delta",
        "tool_call_done",
        "done",
    ]
    assert events[0].tool_call_delta is not None
    assert events[0].tool_call_delta.name == "add"
    assert events[3].tool_call is not None
    assert events[3].tool_call.arguments == {"a": 1}


def test_tool_calls_stream_through_the_loop() -> None:
    call = chunk({"tool_calls": [{"index": 0, **tool_call("add", '{"a": 1, "b": 2}')}]})
    first = Reply(headers=EVENT_STREAM, body=[call, *stream_pieces(finish_reason="tool_calls")])

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    events: list[StreamEvent] = []
    with ReplayServer([first, stream_reply("3")]) as server, Client(server.url, model="m") as client:
        answer = client.run_tools("1 + 2?", tools=[add], sink=events.append)
        assert server.requests[1].json()["messages"][-1]["content"] == "3"
    assert answer.text == "3"
    assert [event.kind for event in events if event.done] == ["done", "done"]
    assert len({event.call_id for event in events}) == 2


def test_one_event_has_a_size_limit() -> None:
    def endless(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield b'data: {"x":"'
            while not request.closed.is_set():
                yield b"x" * 65536

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(endless) as server, Client(server.url, model="m", max_event_bytes=1_000_000) as client:
        _, error = read(client)
        assert server.wait_closed()
    assert "larger than 1,000,000 bytes" in str(error)
