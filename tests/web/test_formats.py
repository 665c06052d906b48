"""Each format of a streamed answer, byte by byte."""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from unittest import mock

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.browser_streams import IN_THE_MIDDLE, KEY, RICH, USAGE, events, model
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.wire_bodies import chunk, stream_pieces, stream_reply, tool_call

from openai_compat import (
    ChatResponse,
    Client,
    StreamEvent,
    StreamServerError,
    Usage,
)
from openai_compat.web import EventStream, formats, wsgi_response
from openai_compat.web.formats import ENCODERS, OpenAIEncoder, SSEEncoder
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.completeness import completeness_error
from openai_compat.wire.response import CallInfo, Choice


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
        encoder = ENCODERS[name]()
        raw = [encoder.encode(StreamEvent("text", text, 0, call)) for text in texts]
        if name == "sse":
            assert [data["delta"] for _, data in events(raw)] == texts
        elif name == "text":
            assert b"".join(raw).decode() == "".join(texts)
        else:
            assert all(piece.count(b"\n") == 2 and piece.endswith(b"\n\n") for piece in raw)
            deltas = [json.loads(piece[6:])["choices"][0]["delta"]["content"] for piece in raw]
            assert deltas == texts


def test_half_a_surrogate_pair_is_passed_on_for_the_browser_to_join() -> None:
    encoder = ENCODERS["sse"]()
    halves = [encoder.encode(StreamEvent("text", half)) for half in ("\ud83d", "\ude00")]
    assert [data["delta"] for _, data in events(halves)] == ["\ud83d", "\ude00"]
    assert ENCODERS["text"]().encode(StreamEvent("text", "\ud83d")) == b"?"


@pytest.mark.parametrize(
    ("format", "last"),
    [
        ("sse", b'event: error\nid: 2\ndata: {"message":"The model is not available.","type":"server_error",'),
        ("text", b"\n\n[The model is not available.]\n"),
        ("openai", b'data: {"error":{"message":"The model is not available.","type":"server_error",'),
    ],
)
def test_an_error_after_the_first_byte_is_the_last_event(format: Any, last: bytes) -> None:
    with model([Reply(headers=EVENT_STREAM, body=IN_THE_MIDDLE)]) as (_, client):
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


def test_an_event_source_is_given_an_id_to_come_back_with() -> None:
    with model([stream_reply("a")]) as (_, client):
        assert next(EventStream(client.stream("hi"))) == b"retry: 86400000\nid: 0\n"


CALL = CallInfo(call_id="c1", model="m")


def encoded(*events: StreamEvent, **options: Any) -> list[Any]:
    """The data of each event, decoded, and the last one as it is."""
    encoder = OpenAIEncoder(**options)
    blocks = (encoder.preamble + b"".join(map(encoder.encode, events))).decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def test_chunks_say_what_those_of_openai_say() -> None:
    answer = ChatResponse(
        choices=(Choice(text="ab", finish_reason="stop"),),
        model="m-served",
        usage=Usage(input_tokens=3, output_tokens=2, total_tokens=5, cached_tokens=1),
    )
    said = [StreamEvent("text", "a", 0, CALL), StreamEvent("text", "b", 0, CALL), StreamEvent("done", answer, 0, CALL)]
    with mock.patch.object(formats.time, "time", return_value=1700000000.9):
        got = encoded(*said, include_usage=True)
    head = {"id": "chatcmpl-c1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
    assert got == [
        {**head, "usage": None, "choices": [one({"role": "assistant", "content": "a"})]},
        {**head, "usage": None, "choices": [one({"content": "b"})]},
        {**head, "usage": None, "choices": [one({}, "stop")]},
        {
            **head,
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
            "choices": [],
        },
        "[DONE]",
    ]
    assert all("usage" not in chunk for chunk in encoded(*said))


def one(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


@pytest.mark.parametrize(
    ("stream_options", "sent"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({"include_obfuscation": True}, False),
        ({}, False),
        (None, False),
        ("include_usage", False),
        (["include_usage"], False),
    ],
)
def test_the_tokens_are_sent_only_where_the_client_asks(stream_options: Any, sent: bool) -> None:
    with ReplayServer([Reply(headers=EVENT_STREAM, body=RICH)]) as server, Client(server.url) as client:
        stream = client.stream("hi", model="m")
        body = wsgi_response(stream, {}, mock.Mock(), format="openai", stream_options=stream_options)
        assert (b'"usage"' in b"".join(body)) is sent
    assert server.requests[0].json()["stream_options"] == {"include_usage": True}


def test_a_stream_has_an_id_and_a_model_where_its_events_have_none() -> None:
    answer = ChatResponse(choices=(Choice(finish_reason="stop"),), model="m-served")
    heads = [encoded(StreamEvent("done", answer))[0] for _ in range(2)]
    assert len({head["id"] for head in heads}) == 2
    assert [head["model"] for head in heads] == ["m-served"] * 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("m", "m"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("accounts/fireworks/models/qwen3", "accounts/fireworks/models/qwen3"),
        ("ft:gpt-4o:org::id", "ft:gpt-4o:org::id"),
        ("smollm2-q8.gguf", "smollm2-q8.gguf"),
        ("/home/ann/models/smollm2-q8.gguf", "smollm2-q8.gguf"),
        ("/srv/qwen/", "qwen"),
        ("models/smollm2-q8.gguf", "smollm2-q8.gguf"),
        ("./models/a", "a"),
        ("~/a", "a"),
        (r"C:\Users\ann\a.gguf", "a.gguf"),
        (r"\\host\share\a.gguf", "a.gguf"),
        ("file:///srv/a", "a"),
        ("s3://bucket/team/a", "a"),
        ("home/ann/A.GGUF", "A.GGUF"),
        ("srv/a.onnx", "a.onnx"),
        ("", ""),
    ],
)
def test_no_path_of_the_models_server_reaches_the_browser(name: str, shown: str) -> None:
    answer = ChatResponse(choices=(Choice(finish_reason="stop"),), model=name)
    done = StreamEvent("done", answer, 0, CallInfo("c1", "p", name))
    assert events([SSEEncoder().encode(done)])[0][1]["model"] == shown
    assert encoded(done)[0]["model"] == shown


def test_a_choice_far_out_opens_no_more_than_there_can_be() -> None:
    got = encoded(StreamEvent("text", "a", 10**9, CALL), StreamEvent("text", "b", 10**9, CALL))
    assert [chunk["choices"][0]["index"] for chunk in got] == [*range(128), 10**9, 10**9]


def test_calls_that_a_function_leaves_to_its_client_are_sent() -> None:
    with model([Reply(headers=EVENT_STREAM, body=RICH)]) as (_, client):
        passed_on = list(EventStream(partial(client.chat, "hi"), format="openai"))
    with model([Reply(headers=EVENT_STREAM, body=passed_on)]) as (_, browser):
        answer = browser.chat("hi", sink=lambda event: None)
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("call_1", "f", {"x": 1}),
        ("call_2", "g", {}),
    ]


PIECES = ["{", "}", '{"x": 1}', "{}", '"y"', ": 2", " ", "", "null", None]
DELTAS = st.lists(
    st.fixed_dictionaries(
        {
            "function": st.fixed_dictionaries(
                {}, optional={"name": st.sampled_from(["f", "g", ""]), "arguments": st.sampled_from(PIECES)}
            )
        },
        optional={"index": st.integers(0, 3), "id": st.sampled_from(["a", "b", "c", "", None])},
    ),
    max_size=8,
)


@example([{"function": {"name": "f", "arguments": "{"}}, {"function": {"arguments": "}"}}])
@example([{"function": {"name": "f", "arguments": "{}"}}, {"function": {"arguments": '{"x": 1}'}}])
@given(DELTAS)
def test_each_call_is_announced_once_and_whole_at_the_end(deltas: list[dict[str, Any]]) -> None:
    state = Accumulator(CALL)
    events = [event for delta in deltas for event in state.feed({"choices": [{"delta": {"tool_calls": [delta]}}]})]
    events += state.finish()
    answer = state.response()
    if completeness_error(answer, complete=True, strict=False):
        return  # such an answer ends as an error
    got: list[dict[str, str]] = []
    for data in encoded(*events, StreamEvent("done", answer, 0, CALL))[:-1]:
        for piece in data["choices"][0]["delta"].get("tool_calls", ()):
            if piece["index"] == len(got):
                got.append({"id": piece["id"], "name": piece["function"]["name"], "arguments": ""})
                assert piece["type"] == "function"
            else:
                assert piece.keys() == {"index", "function"}
                assert piece["function"].keys() == {"arguments"}
            got[piece["index"]]["arguments"] += piece["function"]["arguments"]
    # Of arguments that cannot be read, an empty object before them may have been sent, or not.
    for sent, call in zip(got, answer.tool_calls, strict=True):
        assert (sent["id"], sent["name"]) == (call.id, call.name)
        without = call.arguments_json.removeprefix("{}" if call.invalid else "")
        assert sent["arguments"] in (call.arguments_json, without)
