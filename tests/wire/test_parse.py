"""Bodies to answers: one JSON reply, or an event stream that came in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import as_json, attempt, cut, damaged, payloads, pieces, quick, thorough

from openai_compat.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    Cancelled,
    InternalServerError,
    OpenAICompatError,
    RateLimitError,
    ResponseParseError,
    ResponseShapeError,
    StreamError,
    StreamInterruptedError,
    StreamServerError,
)
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.embeddings import parse_embeddings_response
from openai_compat.wire.parse import (
    TICK_EVENT,
    attributed,
    decode_body,
    drain,
    parse_response,
    parse_stream,
    parse_turn,
    stream_events,
)
from openai_compat.wire.reasoning import ThinkOptions
from openai_compat.wire.response import CallInfo, ChatResponse, ReplyInfo, StreamEvent
from openai_compat.wire.sse import TICK

KEY = "Zq7-f3K9_vTn2Xw8RbLd0HcJ"
CALL = CallInfo(call_id="c1", provider="ollama", model="asked", origin="o")
REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "given",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "<think>hm</think>\nHello"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}


def chunk(content: str | None = None, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"model": "given", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **fields}


def sse(*payloads: Any, done: bool = True) -> bytes:
    body = b"".join(b"data: " + as_json(payload) + b"\n\n" for payload in payloads)
    return body + (b"data: [DONE]\n\n" if done else b"")


def reply(**fields: Any) -> bytes:
    return as_json({**REPLY, **fields})


def said(content: Any = None, finish_reason: Any = "stop", **message: Any) -> bytes:
    return as_json({"choices": [{"message": {"content": content, **message}, "finish_reason": finish_reason}]})


@pytest.mark.parametrize("kind", [bytes, bytearray, bytes.decode], ids=["bytes", "bytearray", "str"])
def test_a_reply(kind: Any) -> None:
    headers = {"x-ratelimit-remaining-requests": "3"}
    answer = parse_response(kind(as_json(REPLY)), call=CALL, reply=ReplyInfo("r", headers, latency_ms=9.0))
    assert (answer.text, answer.reasoning, answer.finish_reason, answer.model) == ("Hello", "hm", "stop", "given")
    assert (answer.input_tokens, answer.output_tokens, answer.usage and answer.usage.total_tokens) == (5, 7, 12)
    assert (answer.provider, answer.origin, answer.latency_ms, answer.request_id) == ("ollama", "o", 9.0, "r")
    assert (answer.raw, answer.headers, answer.truncated) == (REPLY, headers, False)
    assert answer.rate_limits == {"remaining_requests": 3.0}


def test_provider_is_stamped_and_the_model_asked_for_stands_in() -> None:
    answer = parse_response(said("Hi"), call=CALL)
    assert (answer.provider, answer.model) == ("ollama", "asked")


@pytest.mark.parametrize(
    "body",
    [b"", b" \n", b"<html><body>502</body></html>", b"upstream error", b'{"choices": [', b"{}{}", b"[" * 99_999],
    ids=["empty", "blank", "html", "text", "cut-short", "two", "deep"],
)
def test_not_json_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ResponseParseError, match="the reply of ollama is") as caught:
        parse_response(body, call=CALL, reply=ReplyInfo("r"))
    assert (caught.value.provider, caught.value.request_id) == ("ollama", "r")


BODIES: dict[str, tuple[bytes, str, bool]] = {
    "empty": (b"", "is empty", True),
    "blank": (b" \n", "is empty", True),
    "html": (b" <html>", "is an HTML page", False),
    "cut-short": (b'{"a": ', "is not JSON", True),
    "commas": (b'{"a": [%b]}' % (b"," * 5000), "is not JSON", False),
    "text": (b"upstream down", "is not JSON", False),
}


@pytest.mark.parametrize(("body", "message", "retryable"), BODIES.values(), ids=BODIES)
def test_a_parse_error_says_what_came_and_whether_to_retry(body: bytes, message: str, retryable: bool) -> None:
    with pytest.raises(ResponseParseError, match=f"the server {message}") as caught:
        decode_body(bytearray(body))
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("body", [b"no such key: quite-ordinary-words", b"<title>quite-ordinary-words</title>"])
def test_a_parse_error_does_not_show_the_key(body: bytes) -> None:
    for parse in (decode_body, parse_response, parse_embeddings_response):
        with pytest.raises(ResponseParseError) as caught:
            parse(bytearray(body), secrets=["quite-ordinary-words"])
        assert "***" in str(caught.value)
        assert "ordinary" not in str(caught.value)


NO_ANSWERS: dict[str, tuple[bytes, str]] = {
    "no-choices": (as_json({"id": "x"}), "no choices"),
    "empty-choices": (reply(choices=[]), "no choices"),
    "null-choices": (reply(choices=None), "no choices"),
    "null": (b"null", "no choices"),
    "text": (b'"Hi"', "no choices"),
    "list": (b"[]", "no choices"),
    "empty": (said(""), "is empty (finish_reason: 'stop')"),
    "null-content": (said(None, None), "is empty (finish_reason: 'unknown')"),
    "length": (said("", "length"), "hit max_tokens, likely while thinking; raise max_tokens or turn reasoning off"),
    "only-reasoning": (
        said("<think>hm", "length"),
        "holds only reasoning (finish_reason: 'length'): the model hit max_tokens",
    ),
    "reasoning-field": (said("", reasoning_content="hm"), "holds only reasoning (finish_reason: 'stop')"),
    "empty-stream": (sse(), "no choices"),
    "stream-of-nothing": (sse(chunk("", "length")), "hit max_tokens"),
}


@pytest.mark.parametrize(("body", "message"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_no_answer_is_a_shape_error(body: bytes, message: str) -> None:
    with pytest.raises(ResponseShapeError) as caught:
        parse_response(body, call=CALL, reply=ReplyInfo("r"))
    assert message in str(caught.value)
    assert (caught.value.provider, caught.value.request_id) == ("ollama", "r")


def test_a_shape_error_carries_the_empty_answer_with_its_reasoning_and_usage() -> None:
    body = as_json({**json.loads(said("<think>hm", "length")), "usage": {"completion_tokens": 9}})
    with pytest.raises(ResponseShapeError) as caught:
        parse_response(body, call=CALL)
    partial = caught.value.partial
    assert partial is not None
    assert (partial.text, partial.reasoning, partial.output_tokens, partial.finish_reason) == ("", "hm", 9, "length")


def test_missing_usage_and_finish_reason() -> None:
    answer = parse_response(said("Hi", None))
    assert (answer.usage, answer.input_tokens, answer.output_tokens, answer.finish_reason) == (None, 0, 0, "unknown")


def test_calls_or_a_refusal_without_text_are_an_answer() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    assert parse_response(said(None, "tool_calls", tool_calls=calls)).tool_calls[0].arguments == {"x": 1}
    assert parse_response(said(None, refusal="No.")).refusal == "No."


def test_options_reach_the_text() -> None:
    assert parse_response(said("<think>a</think>b"), think=ThinkOptions("keep")).text == "<think>a</think>b"
    assert parse_response(said("a</think>b"), think=ThinkOptions(opened=True)).text == "b"
    calls = [{"function": {"name": "f"}}]
    assert parse_response(said(None, tool_calls=calls), make_id=lambda: "made").tool_calls[0].id == "made"


ERRORS: dict[str, bytes] = {
    "json": as_json({"error": {"message": f"slow {KEY}", "code": 429, "type": "t"}}),
    "beside-choices": reply(error={"message": f"slow {KEY}", "code": 429, "type": "t"}),
    "in-a-choice": reply(choices=[{"error": {"message": f"slow {KEY}", "code": 429, "type": "t"}}]),
    "list": as_json([{"error": {"message": f"slow {KEY}", "code": 429, "type": "t"}}]),
    "array-of-chunks": as_json([chunk("Hi"), {"error": {"message": f"slow {KEY}", "code": 429, "type": "t"}}]),
    "stream": sse(chunk("Hi"), {"error": {"message": f"slow {KEY}", "code": 429, "type": "t"}}),
}


@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS)
def test_an_error_under_200_is_a_status_error(body: bytes) -> None:
    with pytest.raises(RateLimitError, match=r"HTTP 429 from ollama: slow \*\*\*") as caught:
        parse_response(body, call=CALL, reply=ReplyInfo("r", {"retry-after": "7"}), secrets=[KEY])
    error = caught.value
    assert (error.status_code, error.code, error.type, error.request_id, error.retry_after) == (429, 429, "t", "r", 7.0)
    assert KEY not in f"{error} {error!r} {vars(error)}"
    assert error.__cause__ is None


def test_a_wrong_path_is_named() -> None:
    with pytest.raises(APIStatusError, match="is it missing /v1"):
        parse_response(
            b'{"error": "Unexpected endpoint or method. (POST /chat/completions)"}', reply=ReplyInfo(url="http://h/x")
        )


def test_a_status_under_200_is_that_of_the_error() -> None:
    with pytest.raises(InternalServerError):
        parse_response(sse({"error": {"message": "busy", "code": 503}}))


# A stream in place of JSON

STREAMED = sse(chunk("<think>h"), chunk("m</think>\nHel"), chunk("lo"), chunk(None, "stop", usage=REPLY["usage"]))


def test_a_stream_that_was_not_asked_for_is_the_same_answer() -> None:
    assert parse_response(STREAMED, call=CALL) == parse_response(as_json(REPLY), call=CALL)


@pytest.mark.parametrize(
    ("body", "truncated"),
    [
        (sse(chunk("Hi", "stop"), done=False), False),
        (sse(chunk("Hi")), False),
        (sse(chunk("Hi"), done=False), True),
        (as_json([chunk("Hi")]), False),
        (said("Hi", None), False),
    ],
    ids=["finish_reason", "done", "neither", "array", "json"],
)
def test_an_answer_that_does_not_say_it_is_complete_is_truncated(body: bytes, truncated: bool) -> None:
    assert parse_response(body).truncated is truncated
    if truncated:
        with pytest.raises(StreamInterruptedError):
            parse_response(body, strict=True)
    else:
        assert parse_response(body, strict=True).text == "Hi"


@pytest.mark.parametrize("end", [b"\n\ndata: [DONE]\n\n", b"\ndata: [DONE]\n"])
def test_a_whole_body_that_done_follows_is_the_same_answer(end: bytes) -> None:
    wanted = parse_response(as_json(REPLY), call=CALL)
    assert parse_response(as_json(REPLY) + end, call=CALL, strict=True) == wanted
    assert pushed(as_json(REPLY) + end, strict=True)[1] == wanted


def test_a_large_stream_in_place_of_json_is_no_larger_than_allowed() -> None:
    assert len(parse_response(sse(chunk("x" * 1_000_000))).text) == 1_000_000


def test_a_turn_is_not_judged() -> None:
    assert parse_turn({"choices": []}) == ChatResponse()
    assert parse_turn(None) == ChatResponse()
    assert parse_turn(REPLY, call=CALL, reply=ReplyInfo("r")).request_id == "r"
    assert parse_turn([chunk("H"), chunk("i")]).text == "Hi"


def test_a_lone_surrogate_in_text_is_no_reason_to_fail() -> None:
    assert parse_response(said("\ud83d")).text == "\ufffd"
    assert parse_response('{"choices": [{"message": {"content": "\ud83d"}}]}').text


# Events of a stream


def events_of(chunks: list[bytes], **options: Any) -> tuple[list[StreamEvent], bool]:
    found: list[StreamEvent] = []
    stream = stream_events(chunks, Accumulator(CALL), **options)
    while True:
        try:
            found.append(next(stream))
        except StopIteration as stop:
            return found, stop.value


def test_done_ends_the_stream() -> None:
    events, complete = events_of([sse(chunk("Hi")), sse(chunk("more"))])
    assert ["".join(event.delta for event in events), complete] == ["Hi", True]


@pytest.mark.parametrize(
    ("body", "complete"),
    [
        (sse(chunk("Hi"), done=False), False),
        (sse(chunk("Hi", "stop"), done=False), True),
        (sse(), True),
        (b": x", False),
    ],
)
def test_whether_the_stream_said_that_it_is_complete(body: bytes, complete: bool) -> None:
    assert events_of([body])[1] is complete
    assert drain(stream_events([body], Accumulator())) is complete


def test_an_error_in_a_stream_comes_after_its_text() -> None:
    stream = stream_events(
        [sse(chunk("Hi", error={"message": f"no {KEY}"}))], Accumulator(CALL), request_id="r", secrets=[KEY]
    )
    assert next(stream).delta == "Hi"
    with pytest.raises(StreamServerError, match=r"ollama sent an error inside the stream: no \*\*\*") as caught:
        next(stream)
    assert caught.value.request_id == "r"


def test_an_event_that_is_too_large_names_the_provider() -> None:
    with pytest.raises(StreamError, match="larger than 10 bytes") as caught:
        drain(stream_events([b"data: " + b"x" * 99], Accumulator(CALL), max_event_bytes=10, request_id="r"))
    assert (caught.value.provider, caught.value.request_id) == ("ollama", "r")


def test_a_tick_is_an_event_that_says_nothing() -> None:
    events, complete = events_of([sse(chunk("Hi"), done=False), TICK, sse(chunk("!"))])
    assert [event is TICK_EVENT for event in events] == [False, True, False]
    assert ("".join(event.delta for event in events), complete) == ("Hi!", True)


def test_a_stream_is_cancelled_between_its_events() -> None:
    asked = iter([False, True])
    stream = stream_events(
        [sse(chunk("Hi"), done=False), sse(chunk("!"))], Accumulator(), is_cancelled=lambda: next(asked)
    )
    assert next(stream).delta == "Hi"
    with pytest.raises(Cancelled):
        next(stream)


def test_a_connection_that_breaks_after_the_end_ends_the_stream() -> None:
    def breaking(reason: str | None) -> Iterator[bytes]:
        yield sse(chunk("Hi", reason), done=False)
        raise APIConnectionError("reset")

    events: list[StreamEvent] = []
    with pytest.raises(APIConnectionError):
        events.extend(stream_events(breaking(None), Accumulator()))
    assert drain(stream_events(breaking("stop"), Accumulator())) is True


def test_attributed() -> None:
    error = APIError("x")
    assert attributed(error, "ollama", "r") is error
    assert (error.provider, error.request_id) == ("ollama", "r")


# Pushed into a sink


def pushed(*chunks: bytes, **options: Any) -> tuple[list[StreamEvent], ChatResponse | None, APIError | None]:
    heard: list[StreamEvent] = []
    try:
        return heard, parse_stream(chunks, heard.append, call=CALL, **options), None
    except APIError as error:
        return heard, None, error


def test_a_sink_hears_every_delta_and_then_the_answer() -> None:
    heard, answer, _ = pushed(STREAMED)
    assert [event.delta for event in heard if event.delta] == ["Hel", "lo"]
    assert [event.done for event in heard] == [False] * (len(heard) - 1) + [True]
    assert heard[-1].response is answer
    assert {(event.call_id, event.provider, event.model) for event in heard} == {("c1", "ollama", "asked")}
    assert answer == parse_response(as_json(REPLY), call=CALL)


FAILURES: dict[str, tuple[bytes, dict[str, Any], type[APIError], str]] = {
    "server": (sse(chunk("Hi"), {"error": {"message": "no"}}), {}, StreamServerError, "Hi"),
    "strict": (sse(chunk("Hi"), done=False), {"strict": True}, StreamInterruptedError, "Hi"),
    "empty": (sse(chunk(None, "length")), {}, ResponseShapeError, ""),
    "nothing": (b"", {}, ResponseParseError, ""),
    "html": (b"<html><title>502</title></html>", {}, ResponseParseError, ""),
    "text": (b"upstream down", {}, ResponseParseError, ""),
    "cut-json": (b'{"choices": [{"mess', {}, ResponseParseError, ""),
    "words": (sse(chunk("Hi"), done=False) + b"data: error: no\n\n", {}, StreamServerError, "Hi"),
    "lost": (sse(chunk("Hi"), done=False) + b'data: {"cho\n\n', {"strict": True}, StreamInterruptedError, "Hi"),
    "only-reasoning": (sse(chunk("<think>hm")), {}, ResponseShapeError, ""),
}


@pytest.mark.parametrize(("body", "options", "kind", "text"), FAILURES.values(), ids=FAILURES)
def test_a_sink_hears_one_error_last(body: bytes, options: Any, kind: type[APIError], text: str) -> None:
    heard, _, error = pushed(body, **options)
    assert type(error) is kind
    assert [event.error for event in heard] == [None] * (len(heard) - 1) + [error]
    assert not any(event.done for event in heard)
    assert error.provider == "ollama"
    assert error.partial is not None
    assert error.partial.text == text


def test_a_clean_end_without_a_word_is_a_truncated_answer() -> None:
    _, answer, _ = pushed(sse(chunk("Hi"), done=False))
    assert answer is not None
    assert (answer.text, answer.truncated, answer.finish_reason) == ("Hi", True, "unknown")


def test_a_partial_answer_holds_all_text_that_had_arrived() -> None:
    _, _, error = pushed(sse(chunk("a <"), {"error": "no"}))
    assert error is not None
    assert error.partial is not None
    assert error.partial.text == "a <"


@pytest.mark.parametrize("failure", [StopIteration, KeyError, KeyboardInterrupt])
def test_what_a_sink_raises_reaches_the_caller(failure: type[BaseException]) -> None:
    heard: list[StreamEvent] = []

    def sink(event: StreamEvent) -> None:
        heard.append(event)
        if len(heard) == 1:
            raise failure

    with pytest.raises((failure, RuntimeError)):
        parse_stream([STREAMED], sink)
    assert len(heard) == 1


def test_options_reach_a_streamed_text() -> None:
    assert pushed(sse(chunk("a</think>b")), think=ThinkOptions(opened=True))[0][-1].response.text == "b"  # type: ignore[union-attr]
    assert pushed(sse(chunk("<think>a")), think=ThinkOptions("keep"))[0][-1].response.text == "<think>a"  # type: ignore[union-attr]


# Properties


@quick
@given(st.data())
def test_any_cut_of_a_stream_is_the_same_answer(data: st.DataObject) -> None:
    heard, answer, _ = pushed(*data.draw(pieces(STREAMED)))
    assert answer == parse_response(as_json(REPLY), call=CALL)
    assert "".join(event.delta for event in heard) == "Hello"


bodies = (
    st.binary(max_size=60)
    | damaged(payloads)
    | payloads.map(as_json)
    | st.lists(payloads, max_size=3).map(as_json)
    | st.lists(payloads, max_size=3).map(lambda found: sse(*found))
    | damaged(st.just(REPLY))
)


@thorough
@given(bodies, st.booleans())
def test_arbitrary_bytes_are_an_answer_or_an_error_of_this_library(body: bytes, strict: bool) -> None:
    found = attempt(OpenAICompatError, parse_response, body, call=CALL, strict=strict, secrets=[KEY])
    if isinstance(found, OpenAICompatError):
        assert isinstance(found, APIError)
        assert found.provider == "ollama"
    else:
        assert not all(choice.empty for choice in found.choices)


@quick
@given(payloads.map(as_json))
def test_text_and_bytes_are_the_same_answer(body: bytes) -> None:
    from_bytes, from_text = attempt(APIError, parse_response, body), attempt(APIError, parse_response, body.decode())
    assert repr(from_bytes) == repr(from_text)


@thorough
@given(bodies, st.data())
def test_arbitrary_chunks_have_one_last_event(body: bytes, data: st.DataObject) -> None:
    heard, answer, error = pushed(*data.draw(pieces(body)))
    assert [event.done or event.error is not None for event in heard].count(True) == 1
    assert (heard[-1].response, heard[-1].error) == (answer, error)


@pytest.mark.parametrize("depth", [50, 480, 900])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"choices": [{"message": {"content": ', b"}}]}"),
        (b'{"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": ', b"}}]}}]}"),
        (b'{"choices": [], "error": ', b"}"),
        (b"", b""),
        (b"data: ", b"\n\n"),
    ],
    ids=["content", "arguments", "error", "whole", "stream"],
)
def test_bodies_nested_deeply_are_errors_of_this_library(before: bytes, after: bytes, depth: int) -> None:
    for opens, closes in ((b"[", b"]"), (b'{"error":', b"}"), (b'{"content":', b"}")):
        body = before + opens * depth + b'"deep"' + closes * depth + after
        assert isinstance(attempt(APIError, parse_response, body), (APIError, ChatResponse))


def test_cuts_are_what_they_say() -> None:
    assert cut(b"abcd", [3, 1, 1]) == [b"a", b"", b"bc", b"d"]


def test_a_number_of_thousands_of_digits_costs_a_whole_reply_nothing_but_itself() -> None:
    body = json.dumps(REPLY).replace('"prompt_tokens": 5', f'"prompt_tokens": {"9" * 5000}')
    response = parse_response(body)
    assert (response.text, response.output_tokens) == ("Hello", 7)
    assert response.usage is not None
    assert response.usage.input_tokens is None
    assert repr(response)


def test_half_a_body_or_two_of_them_are_no_reply() -> None:
    body = json.dumps(REPLY)
    for wrong in (body[:-1], body + body, body + "x"):
        with pytest.raises(ResponseParseError):
            parse_response(wrong)
