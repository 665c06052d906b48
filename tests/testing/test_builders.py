"""Answers as bytes and values, without a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import attrs
import pytest

import openai_compat.testing
from openai_compat import Accumulator, ConfigurationError, Usage, parse_response
from openai_compat.testing import answer, error, fault, raw_reply, stream_of, tool_call
from openai_compat.testing.answers import Frame, chunk_steps, words


def test_an_answer_is_a_value() -> None:
    said = answer("Hello there", reasoning="hm", tool_calls=[tool_call("f", x=1)], usage=Usage(input_tokens=3))
    found = said.response
    assert (found.text, found.reasoning, found.finish_reason) == ("Hello there", "hm", "tool_calls")
    assert [(call.name, call.arguments) for call in found.tool_calls] == [("f", {"x": 1})]
    assert (found.input_tokens, found.model) == (3, "fake-model")
    assert parse_response(said.body) == found


def test_an_answer_is_events() -> None:
    said = stream_of("Hel", 0.5, threading.Event(), "lo", fault("cut"), tool_calls=[tool_call("f", "{}")])
    kinds = [event.kind for event in said.events]
    assert kinds == ["text", "text", "tool_call", "tool_call_delta", "tool_call_done", "usage", "done"]
    assert said.events[-1].response is not None
    assert said.events[-1].response.text == said.text == "Hello"


def test_a_stream_is_bytes_as_openai_sends_them() -> None:
    chunks = stream_of("Hi").chunks
    assert b"".join(chunks) == stream_of("Hi").stream
    assert chunks[-1] == b"data: [DONE]\n\n"
    opening, text, end, usage = (json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks[:-1])
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert text["choices"][0] == {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["completion_tokens"], text["usage"]) == ([], 1, None)
    assert {chunk["object"] for chunk in (opening, text, end, usage)} == {"chat.completion.chunk"}


def test_calls_come_in_pieces_as_openai_sends_them() -> None:
    said = answer(tool_calls=[tool_call("f", city="Oslo, Norway"), tool_call("g")])
    deltas = [json.loads(chunk.removeprefix(b"data: "))["choices"][0]["delta"] for chunk in said.chunks[:-2]]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    first, *pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    call_id = first["id"]
    assert first == {"index": 0, "id": call_id, "type": "function", "function": {"name": "f", "arguments": ""}}
    assert pieces[0] == {"index": 0, "function": {"arguments": '{"city":'}}
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("include", "count"), [(True, 1), (False, 0)])
def test_usage_comes_where_it_is_asked_for(include: bool, count: int) -> None:
    sent = b"".join(step for step in chunk_steps(answer("a"), Frame(include_usage=include)) if isinstance(step, bytes))
    assert sent.count(b'"prompt_tokens"') == count
    assert sent.count(b'"usage":null') == 3 * count


@pytest.mark.parametrize(
    ("text", "size", "pieces"),
    [
        ("", None, []),
        ("one", None, ["one"]),
        ("one two\n three", None, ["one", " two", "\n three"]),
        ("  a ", None, ["  a", " "]),
        ("abcde", 2, ["ab", "cd", "e"]),
    ],
)
def test_a_text_in_pieces(text: str, size: int | None, pieces: list[str]) -> None:
    assert words(text, size) == pieces
    assert "".join(pieces) == text


def test_pauses_stand_between_the_pieces() -> None:
    assert answer("a b c", pause=2).steps == ("a", 2, " b", 2, " c")


@attrs.frozen
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"), [(Point(1), '{"x":1}'), ([1, None], "[1,null]"), (True, "true"), ("a", "a")]
)
def test_values_are_json(value: object, text: str) -> None:
    assert answer(value).text == text


def test_a_tool_call_takes_its_arguments_by_name_or_as_they_are() -> None:
    assert tool_call("f", x=1).arguments_json == '{"x":1}'
    assert tool_call("f", {"id": 1}, y=2).arguments == {"id": 1, "y": 2}
    assert tool_call("f", "{", id="a").arguments_json == "{"
    assert tool_call("f").arguments_json == "{}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stream_of("a", None), "a step of a stream is text, seconds, an Event or a fault, not NoneType"),  # type: ignore[arg-type]
        (lambda: fault("slow"), "a fault is one of reset, cut, stall, garbage, not 'slow'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent_is_told_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_an_error_has_openais_body() -> None:
    found = error(429, retry_after=1.5)
    assert found.headers["retry-after"] == "1.5"
    assert json.loads(found.body) == {
        "error": {
            "message": "a scripted error, HTTP 429",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert json.loads(error(400, "no", code="c", type="t", param="p").body)["error"] == {
        "message": "no",
        "type": "t",
        "param": "p",
        "code": "c",
    }


def test_a_raw_reply_is_as_it_is() -> None:
    assert raw_reply("é").body == "é".encode()
    assert raw_reply({"a": 1}, status=418).headers["content-type"] == "application/json"


def test_an_accumulator_reads_a_stream_of_the_builders() -> None:
    accumulator = Accumulator()
    for chunk in stream_of("a", "b").chunks[:-1]:
        accumulator.feed(json.loads(chunk.removeprefix(b"data: ")))
    assert accumulator.response().text == "ab"


def test_every_name_of_the_room_resolves() -> None:
    for name in openai_compat.testing.__all__:
        value = getattr(openai_compat.testing, name)
        assert value.__module__ == f"openai_compat.testing.{openai_compat.testing._HOME[name]}"
    assert set(openai_compat.testing.__all__) <= set(dir(openai_compat.testing))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        openai_compat.testing.nonsense  # noqa: B018
