"""Stream payloads to events, and to the answer."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import (
    examples,
    growth,
    json_values,
    nested,
    nested_lists,
    payloads,
    pieces,
    texts,
    thorough,
)

from openai_compat.errors import StreamError
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.completeness import completeness_error
from openai_compat.wire.messages import ToolCall, Usage
from openai_compat.wire.reasoning import ThinkOptions
from openai_compat.wire.response import CallInfo, ChatResponse, Choice, ReplyInfo, StreamEvent

CALL = CallInfo(call_id="c1", provider="ollama", model="asked", origin="o")
OPENED = ThinkOptions(opened=True)


def run(*chunks: Any, **options: Any) -> tuple[list[StreamEvent], ChatResponse]:
    """The events of payloads, and the answer."""
    accumulator = Accumulator(CALL, **options)
    events = [event for chunk in chunks for event in accumulator.feed(chunk)]
    return events + accumulator.finish(), accumulator.response()


def chunk(delta: Any = None, finish_reason: Any = None, **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "model": "m", "choices": [choice], **fields}


def whole(message: Any, finish_reason: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], **fields}


def brief(events: list[StreamEvent]) -> list[tuple[str, Any]]:
    return [(event.kind, event.data) for event in events]


def test_one_event_for_each_delta_that_says_something() -> None:
    events, answer = run(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({"content": None}),
        chunk({}, "stop"),
    )
    assert brief(events) == [("text", "Hel"), ("text", "lo")]
    assert {(event.call_id, event.provider, event.model, event.done) for event in events} == {
        ("c1", "ollama", "asked", False)
    }
    assert (answer.text, answer.finish_reason, answer.model, answer.provider, answer.origin) == (
        "Hello",
        "stop",
        "m",
        "ollama",
        "o",
    )


TEXTS: dict[str, tuple[list[Any], str, str]] = {
    "delta": ([chunk({"content": "Hi"}, "stop")], "Hi", "stop"),
    "message": ([whole({"content": "Hi"})], "Hi", "stop"),
    "no-index": ([{"choices": [{"delta": {"content": "Hi"}}]}], "Hi", "unknown"),
    "index-text": (
        [{"choices": [{"index": "0", "delta": {"content": "H"}}]}, chunk({"content": "i"})],
        "Hi",
        "unknown",
    ),
    "finish-empty": ([chunk({"content": "Hi"}, "")], "Hi", "unknown"),
    "finish-null-text": ([chunk({"content": "Hi"}, "null")], "Hi", "unknown"),
    "finish-object": ([chunk({"content": "Hi"}, {"type": "stop"})], "Hi", "stop"),
    "finish-number": ([chunk({"content": "Hi"}, 7)], "Hi", "unknown"),
    "finish-everywhere": ([chunk({"content": "H"}, "stop"), chunk({"content": "i"}, "stop")], "Hi", "stop"),
    "finish-last": ([chunk({"content": "Hi"}, "stop"), chunk({}, "length")], "Hi", "length"),
    "delta-null": ([chunk(None), chunk({"content": "Hi"})], "Hi", "unknown"),
    "choices-null": ([{"choices": None}, chunk({"content": "Hi"})], "Hi", "unknown"),
    "choices-object": ([{"choices": {}}, chunk({"content": "Hi"})], "Hi", "unknown"),
    "choice-null": ([{"choices": [None]}, chunk({"content": "Hi"})], "Hi", "unknown"),
    "parts": ([chunk({"content": [{"type": "text", "text": "H"}, "i"]})], "Hi", "unknown"),
    "parts-nested": ([chunk({"content": {"content": [{"text": "H"}, {"text": "i"}]}})], "Hi", "unknown"),
    "number": ([chunk({"content": 7})], "7", "unknown"),
    "true": ([chunk({"content": True})], "", "unknown"),
    "not-a-payload": ([None, 7, "x", [], chunk({"content": "Hi"})], "Hi", "unknown"),
    "message-after-its-deltas": (
        [chunk({"content": "H"}), chunk({"content": "i"}), whole({"content": "Hi"})],
        "Hi",
        "stop",
    ),
    "message-after-some-deltas": ([chunk({"content": "H"}), whole({"content": "Hi"})], "Hi", "stop"),
    "message-after-held-back-text": ([chunk({"content": "a <"}), whole({"content": "a <"})], "a <", "stop"),
    "message-after-inline-reasoning": (
        [chunk({"content": "<think>x</think>"}), chunk({"content": "Hi"}), whole({"content": "<think>x</think>Hi"})],
        "Hi",
        "stop",
    ),
    "message-beside-a-delta": (
        [{"choices": [{"delta": {"content": "Hi"}, "message": {"content": "Hi"}}]}],
        "Hi",
        "unknown",
    ),
}


@pytest.mark.parametrize(("chunks", "text", "reason"), TEXTS.values(), ids=TEXTS)
def test_chunks_in_every_shape(chunks: list[Any], text: str, reason: str) -> None:
    events, answer = run(*chunks)
    assert (answer.text, answer.finish_reason) == (text, reason)
    assert "".join(event.delta for event in events) == text


REASONINGS: dict[str, tuple[list[Any], str]] = {
    "reasoning_content": ([{"reasoning_content": "h"}, {"reasoning_content": "m"}], "hm"),
    "reasoning": ([{"reasoning": "h"}, {"reasoning": "m"}], "hm"),
    "thinking": ([{"thinking": "hm"}], "hm"),
    "both": ([{"reasoning_content": "hm", "reasoning": "hm"}], "hm"),
    "and-details": ([{"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}], "hm"),
    "details": ([{"reasoning_details": [{"text": "h"}]}, {"reasoning_details": [{"summary": "m"}]}], "hm"),
    "details-of-a-secret": ([{"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}]}], ""),
    "details-null": ([{"reasoning_details": None}, {"reasoning_details": [None, 7]}], ""),
    "object": ([{"reasoning": {"text": "hm"}}], "hm"),
    "mistral": ([{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}], "hm"),
    "part": ([{"content": [{"type": "reasoning", "text": "hm"}]}], "hm"),
    "inline": ([{"content": "<thi"}, {"content": "nk> h"}, {"content": "m </think> Hi"}], "hm"),
    "null": ([{"reasoning_content": None}], ""),
}


@pytest.mark.parametrize(("deltas", "reasoning"), REASONINGS.values(), ids=REASONINGS)
def test_reasoning_in_every_field_is_read_once_and_never_as_text(deltas: list[Any], reasoning: str) -> None:
    events, answer = run(*map(chunk, deltas), chunk({"content": " there"}))
    assert answer.reasoning == "".join(event.reasoning for event in events) == reasoning
    assert answer.text.removeprefix("Hi").strip() == "there"


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "hm", "content": "Hi"},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm"}], "content": "Hi"},
        {"refusal": "No."},
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
    ],
    ids=lambda message: next(iter(message)),
)
def test_a_whole_message_after_its_own_deltas_says_nothing_twice(message: dict[str, Any]) -> None:
    assert run(chunk(message), whole(message, None))[1] == run(chunk(message))[1]


def test_inline_reasoning_is_kept_on_request() -> None:
    events, answer = run(
        chunk({"content": "<think>a</think>"}),
        chunk({"content": [{"type": "text", "text": ""}, "b"]}),
        think=ThinkOptions("keep"),
    )
    assert answer.text == "<think>a</think>b"
    assert brief(events) == [("text", "<think>a</think>"), ("text", "b")]


def test_thinking_that_the_prompt_opened() -> None:
    assert run(chunk({"content": "hm</think>Hi"}), think=OPENED)[1].choices == (Choice(text="Hi", reasoning="hm"),)


def test_other_tags() -> None:
    think = ThinkOptions(tags=("thought",))
    assert run(chunk({"content": "<thought>hm</thought>Hi"}), think=think)[1].reasoning == "hm"


def test_held_back_text_comes_at_the_end() -> None:
    accumulator = Accumulator()
    assert brief(accumulator.feed(chunk({"content": " <"}))) == []
    assert brief(accumulator.finish()) == [("text", " "), ("text", "<")]
    accumulator = Accumulator(think=ThinkOptions("all"))
    assert brief(accumulator.feed(chunk({"content": "a <"}))) == [("text", "a ")]
    assert brief(accumulator.finish()) == [("text", "<")]


def test_refusal() -> None:
    events, answer = run(
        chunk({"refusal": "No"}), chunk({"refusal": "."}), chunk({"refusal": None}), chunk({"refusal": 7})
    )
    assert brief(events) == [("refusal", "No"), ("refusal", ".")]
    assert answer.refusal == "No."


def test_a_refusal_among_the_parts_is_a_refusal_event_too() -> None:
    events, answer = run(whole({"content": [{"type": "refusal", "refusal": "No."}]}))
    assert answer.refusal == "No."
    assert brief(events) == [("refusal", "No.")]


def test_tool_calls_open_grow_and_are_done() -> None:
    events, answer = run(
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]}),
        chunk({}, "tool_calls"),
    )
    call = ToolCall(id="a", name="f", arguments={"x": 1}, arguments_json='{"x": 1}')
    assert [event.kind for event in events] == ["tool_call", "tool_call_delta", "tool_call_done"]
    assert (events[1].data.arguments, events[2].data) == ('{"x": 1}', call)
    assert answer.tool_calls == (call,)


def test_a_legacy_function_call_is_a_call() -> None:
    events, answer = run(
        chunk({"function_call": {"name": "f", "arguments": "{"}}), chunk({"function_call": {"arguments": "}"}})
    )
    assert [event.kind for event in events] == ["tool_call_done"]
    assert (answer.tool_calls[0].name, answer.tool_calls[0].arguments) == ("f", {})


def test_ids_that_are_made_are_nine_letters_and_digits_and_differ() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{}"}}]
    ids = [call.id for call in run(whole({"tool_calls": calls}))[1].tool_calls]
    other = [call.id for call in run({**whole({"tool_calls": calls}), "id": "y"})[1].tool_calls]
    assert len({*ids, *other}) == 4
    assert all(len(made) == 9 and made.isalnum() and made.isascii() for made in [*ids, *other])


def test_ids_may_be_made_by_the_caller() -> None:
    made = iter("abc")
    _, answer = run(whole({"tool_calls": [{"function": {"name": "f"}}]}), make_id=lambda: next(made))
    assert [call.id for call in answer.tool_calls] == ["a"]


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
SEVEN = Usage(input_tokens=5, output_tokens=7, total_tokens=12)
USAGES: dict[str, list[Any]] = {
    "own-chunk": [chunk({"content": "Hi"}), {"choices": [], "usage": USAGE}],
    "last-content-chunk": [chunk({"content": "Hi"}, usage=USAGE)],
    "running-totals": [
        chunk({"content": "H"}, usage={"prompt_tokens": 5, "completion_tokens": 1}),
        chunk({"content": "i"}, usage=USAGE),
    ],
    "null-after": [chunk({"content": "Hi"}, usage=USAGE), chunk({}, "stop", usage=None)],
    "in-the-choice": [{"choices": [{"delta": {"content": "Hi"}, "usage": USAGE}]}],
    "groq": [chunk({"content": "Hi"}), chunk({}, "stop", x_groq={"id": "r", "usage": USAGE})],
}


@pytest.mark.parametrize("chunks", USAGES.values(), ids=USAGES)
def test_the_last_usage_wins(chunks: list[Any]) -> None:
    events, answer = run(*chunks)
    assert answer.usage == SEVEN
    assert brief(events)[-1] == ("usage", SEVEN)


def test_missing_usage_is_zero_tokens() -> None:
    events, answer = run(chunk({"content": "Hi"}))
    assert (answer.usage, answer.input_tokens, answer.output_tokens) == (None, 0, 0)
    assert "usage" not in {event.kind for event in events}


def test_missing_model_is_the_one_asked_for() -> None:
    assert run({"choices": [{"delta": {"content": "Hi"}}]})[1].model == "asked"
    assert run({"model": 7, "choices": []})[1].model == "asked"
    assert run({"model": "given", "choices": []}, {"model": "", "choices": []})[1].model == "given"


def test_several_choices_are_kept_apart() -> None:
    events, answer = run(
        {"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]},
        several=True,
    )
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (0, "a", "unknown"),
        (1, "bB", "stop"),
    ]
    assert "".join(event.delta for event in events) == "a"


def test_choices_without_an_index_are_told_by_their_place() -> None:
    choices = [{"message": {"content": "a"}}, {"index": None, "message": {"content": "b"}}]
    _, answer = run({"choices": choices}, several=True)
    assert [choice.text for choice in answer.choices] == ["a", "b"]


def test_logprobs_grow() -> None:
    def said(logprobs: Any) -> Any:
        return {"choices": [{"delta": {"content": "x"}, "logprobs": logprobs}]}

    _, answer = run(
        said({"content": [1], "refusal": None}), said(None), said([3]), said({"content": [2], "refusal": [9], "n": 1})
    )
    assert answer.choices[0].logprobs == {"content": [1, 2], "refusal": [9], "n": 1}


def test_what_a_later_turn_must_echo_is_kept() -> None:
    _, answer = run(
        chunk({"content": "Hi", "reasoning_content": "h", "signature": "s"}),
        chunk({"reasoning_content": "m", "none": None}),
    )
    assert answer.choices[0].extra == {"reasoning_content": "hm", "signature": "s"}


def test_reasoning_details_are_joined_entry_by_entry() -> None:
    def said(**detail: Any) -> Any:
        return chunk({"reasoning_details": [detail]})

    _, answer = run(
        said(type="reasoning.text", index=0, text="h"),
        said(type="reasoning.text", index=0, text="m", signature=None, format="f"),
        said(type="reasoning.encrypted", index=1, data="x"),
        said(type="reasoning.encrypted", index=1, data="y"),
        said(type="reasoning.summary", summary="a"),
        said(type="reasoning.summary", summary="b"),
    )
    assert answer.choices[0].extra["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "hm", "format": "f"},
        {"type": "reasoning.encrypted", "index": 1, "data": "xy"},
        {"type": "reasoning.summary", "summary": "a"},
        {"type": "reasoning.summary", "summary": "b"},
    ]


def test_raw_of_a_stream_is_what_stands_beside_its_choices() -> None:
    _, answer = run(
        {"id": "1", "created": 7, "object": "chat.completion.chunk", "choices": [], "citations": ["a"]},
        chunk({"content": "Hi"}, system_fingerprint="f", service_tier=None),
    )
    assert answer.raw == {
        "id": "1",
        "created": 7,
        "object": "chat.completion.chunk",
        "citations": ["a"],
        "system_fingerprint": "f",
    }


ERRORS: dict[str, tuple[Any, str | None]] = {
    "error": ({"error": {"message": "no"}}, "no"),
    "beside-choices": (chunk({"content": "x"}, error={"message": "no"}), "no"),
    "in-the-choice": ({"choices": [{"delta": {"content": "x"}, "error": {"message": "no"}}]}, "no"),
    "base-resp": (chunk({"content": "x"}, base_resp={"status_code": 1, "status_msg": "no"}), "no"),
    "object": ({"object": "error", "message": "no"}, "no"),
    "detail": ({"detail": "no"}, "no"),
    "null": (chunk({"content": "x"}, error=None), None),
    "base-resp-fine": (chunk({"content": "x"}, base_resp={"status_code": 0}), None),
    "choice-null": ({"choices": [{"delta": {"content": "x"}, "error": None}]}, None),
    "empty-choices": ({"choices": [], "usage": USAGE}, None),
    "empty": ({}, None),
}


@pytest.mark.parametrize(("payload", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_a_chunk_is_told_after_its_text(payload: Any, message: str | None) -> None:
    accumulator = Accumulator()
    events = accumulator.feed(payload)
    assert (accumulator.error and accumulator.error.message) == message
    assert [event.delta for event in events] == (["x"] if payload.get("choices") else [])


def test_an_answer_so_far_does_not_change_as_more_arrives() -> None:
    accumulator = Accumulator()
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    details = [{"type": "t", "index": 0, "text": "h"}]
    first = {
        "choices": [
            {
                "delta": {"content": "a", "tool_calls": [call], "reasoning_details": details},
                "logprobs": {"content": [1]},
            }
        ]
    }
    accumulator.feed({"id": "1", **first})
    so_far = accumulator.response()
    before = copy.deepcopy(attrs.asdict(so_far))
    call["extra_content"] = {"s": 1}
    accumulator.feed({"extra": "later", **first})
    assert attrs.asdict(so_far) == before


def test_payloads_are_left_as_they_came() -> None:
    details = {"type": "t", "index": 0, "text": "h"}
    payload = {"choices": [{"delta": {"reasoning_details": [details]}, "logprobs": {"content": [1]}}]}
    before = copy.deepcopy(payload)
    run(payload, payload)
    assert payload == before


def test_finished_and_any_content() -> None:
    accumulator = Accumulator()
    assert (accumulator.finished, accumulator.any_content) == (False, False)
    accumulator.feed(chunk({"role": "assistant", "content": ""}))
    assert (accumulator.finished, accumulator.any_content) == (False, False)
    accumulator.feed(chunk({"reasoning_content": "hm"}, "stop"))
    assert (accumulator.finished, accumulator.any_content) == (True, True)


def test_response_has_what_the_caller_knows() -> None:
    accumulator = Accumulator()
    accumulator.feed(chunk({"content": "Hi"}))
    answer = accumulator.response(
        ReplyInfo("r", {"a": "b"}, latency_ms=9.0, first_token_ms=3.0), truncated=True, raw={"c": 1}
    )
    assert (answer.truncated, answer.latency_ms, answer.first_token_ms) == (True, 9.0, 3.0)
    assert (answer.request_id, answer.headers, answer.raw) == ("r", {"a": "b"}, {"c": 1})


# Half an answer

REASONS: dict[str, tuple[Any, bool]] = {
    "tool_calls": ("tool_calls", True),
    "stop": ("stop", True),
    "STOP": ("STOP", True),
    "function_call": ("function_call", True),
    "length": ("length", False),
    "content_filter": ("content_filter", False),
    "abort": ("abort", False),
    "unheard-of": ("xyz", False),
    "none": (None, False),
}


@pytest.mark.parametrize("arguments", ["", "null", None])
@pytest.mark.parametrize(("reason", "runs"), REASONS.values(), ids=REASONS)
def test_no_arguments_mean_an_empty_object_only_where_the_answer_is_whole(
    reason: Any, runs: bool, arguments: Any
) -> None:
    calls = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": arguments}}]
    events, answer = run(chunk({"tool_calls": calls}), chunk({}, reason))
    (call,) = answer.tool_calls
    assert (call.arguments, call.invalid) == (({}, False) if runs else (None, True))
    assert [event.tool_call for event in events if event.tool_call] == [call]
    (told,) = run(whole({"tool_calls": calls}, reason))[1].tool_calls
    assert told.invalid is not (runs or reason is None), "a message in one piece without a reason is whole"


def test_an_answer_of_which_something_is_lost_is_truncated_and_has_no_valid_call() -> None:
    accumulator = Accumulator()
    accumulator.feed(chunk({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}, "tool_calls"))
    accumulator.skipped += 1
    answer = accumulator.response()
    assert (answer.truncated, answer.skipped_events, answer.tool_calls[0].invalid) == (True, 1, True)


# One answer, or several


def test_where_one_answer_was_asked_for_whatever_comes_is_it() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    pieces = [("H", 0), ("e", 1), ("y", 7)]
    events, answer = run(
        *({"choices": [{"index": index, "delta": {"content": text}}]} for text, index in pieces),
        {"choices": [{"index": 1, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]},
    )
    assert "".join(event.delta for event in events) == answer.text == "Hey"
    assert [call.name for call in answer.tool_calls] == ["f"]
    assert len(answer.choices) == 1


@pytest.mark.slow
def test_choices_without_end_are_an_error() -> None:
    choices = [{"index": index, "delta": {"content": "x"}} for index in range(300_000)]
    with pytest.raises(StreamError, match="more than 1,000 choices"):
        run({"choices": choices}, several=True)
    assert len(run({"choices": choices})[1].choices) == 1


def test_text_without_end_is_an_error() -> None:
    piece = "x" * 1024 * 1024
    with pytest.raises(StreamError, match="longer than 67,108,864 characters"):
        run(*[chunk({"content": piece})] * 65)


def test_a_finish_reason_is_the_end_unless_more_comes_with_it() -> None:
    accumulator = Accumulator()
    found = []
    for reason, text in [("stop", "a"), ("stop", "b"), (None, "c"), ("stop", None)]:
        accumulator.feed(chunk({"content": text}, reason))
        found.append(accumulator.finished)
    assert found == [True, False, False, True]


# Thoughts told twice

TWICE: dict[str, tuple[list[Any], str, str]] = {
    "field-then-inline": ([{"reasoning": "hm"}, {"content": "<think>hm</think>Hi"}], "Hi", "hm"),
    "side-by-side": (
        [{"reasoning": "h", "content": "<think>h"}, {"reasoning": "m", "content": "m"}, {"content": "</think>Hi"}],
        "Hi",
        "hm",
    ),
    "space-around": ([{"reasoning": "hm\n"}, {"content": "\n<think>\nhm\n</think>\n\nHi"}], "Hi", "hm\n"),
    "prose": ([{"reasoning": "hm"}, {"content": "<think> is a tag"}], "<think> is a tag", "hm"),
    "other-thoughts": ([{"reasoning": "hm"}, {"content": "<think>a</think>b"}], "<think>a</think>b", "hm"),
    "longer": ([{"reasoning": "hm"}, {"content": "<think>hm, and</think>b"}], "<think>hm, and</think>b", "hm"),
    "no-tag": ([{"reasoning": "hm"}, {"content": " Hi"}], " Hi", "hm"),
    "half-a-tag": ([{"reasoning": "hm"}, {"content": "<thi"}], "<thi", "hm"),
}


@pytest.mark.parametrize(("deltas", "text", "reasoning"), TWICE.values(), ids=TWICE)
def test_thoughts_in_a_field_make_a_tag_prose(deltas: list[Any], text: str, reasoning: str) -> None:
    events, answer = run(*map(chunk, deltas), chunk({}, "stop"))
    assert (answer.text, answer.reasoning) == (text, reasoning)
    assert "".join(event.delta for event in events) == text
    message: dict[str, str] = {}
    for delta in deltas:
        for key, value in delta.items():
            message[key] = message.get(key, "") + value
    at_once = run(whole(message))[1]
    assert (at_once.text, at_once.reasoning) == (text, reasoning)


AFTERWARDS: dict[str, tuple[list[Any], str]] = {
    "same": ([{"reasoning": "hm, yes"}], "hm, yes"),
    "same-in-pieces": ([{"reasoning": "\nhm,"}, {"reasoning": " yes"}, {"reasoning": "\n"}], "hm, yes"),
    "other": ([{"reasoning": "no"}], "hm, yesno"),
    "other-in-the-end": ([{"reasoning": "hm,"}, {"reasoning": " no"}], "hm, yeshm, no"),
    "more": ([{"reasoning": "hm, yes"}, {"reasoning": " more"}], "hm, yeshm, yes more"),
    "whole": ([{"reasoning_content": "hm, yes", "reasoning": "hm, yes"}], "hm, yes"),
}


@pytest.mark.parametrize(("deltas", "reasoning"), AFTERWARDS.values(), ids=AFTERWARDS)
def test_thoughts_that_a_field_tells_after_the_content_are_kept_once(deltas: list[Any], reasoning: str) -> None:
    events, answer = run(
        chunk({"content": "<think>hm, yes</think>"}), *map(chunk, deltas), chunk({"content": "Hi"}, "stop")
    )
    assert (answer.text, answer.reasoning) == ("Hi", reasoning)
    assert "".join(event.reasoning for event in events) == reasoning


WORDS_OF_PARTS: dict[str, tuple[Any, str]] = {
    "mistral": ({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "hm"),
    "databricks": ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": "S"}]}, "hm"),
    "text": ({"type": "reasoning", "text": "hm"}, "hm"),
    "its-own-name": ({"type": "reasoning", "reasoning": "hm"}, "hm"),
}


@pytest.mark.parametrize(("part", "reasoning"), WORDS_OF_PARTS.values(), ids=WORDS_OF_PARTS)
def test_thoughts_as_parts(part: Any, reasoning: str) -> None:
    _, answer = run(chunk({"content": [part, {"type": "text", "text": "Hi"}]}, "stop"))
    assert (answer.text, answer.reasoning) == ("Hi", reasoning)


MESSAGES_BESIDE_DELTAS: dict[str, tuple[list[Any], str]] = {
    "only-there": ([{"delta": {"role": "assistant", "content": ""}, "message": {"content": "Hello"}}], "Hello"),
    "said-before": (
        [{"delta": {"content": "Hello"}}, {"delta": {"content": ""}, "message": {"content": "Hello"}}],
        "Hello",
    ),
    "trimmed": ([{"delta": {"content": "\n\nHello"}}, {"message": {"content": "Hello"}}], "\n\nHello"),
    "goes-on": ([{"delta": {"content": "Hel"}}, {"message": {"content": "Hello"}}], "Hello"),
    "so-far": (
        [
            {"delta": {"content": "Hel"}, "message": {"content": "Hel"}},
            {"delta": {"content": "lo"}, "message": {"content": "Hello"}},
        ],
        "Hello",
    ),
}


@pytest.mark.parametrize(("choices", "text"), MESSAGES_BESIDE_DELTAS.values(), ids=MESSAGES_BESIDE_DELTAS)
def test_a_message_beside_deltas(choices: list[Any], text: str) -> None:
    events, answer = run(*({"choices": [choice]} for choice in choices))
    assert answer.text == text
    assert "".join(event.delta for event in events) == text


def test_what_a_message_has_more_than_its_deltas_is_kept() -> None:
    steps = [{"thought": "x", "type": "web_search"}]
    said = {"delta": {"content": ""}, "message": {"content": "Hi", "reasoning_steps": steps}}
    _, answer = run(chunk({"content": "Hi"}), {"choices": [said]})
    assert answer.text == "Hi"
    assert answer.choices[0].extra["reasoning_steps"] == steps


def test_thoughts_in_a_field_take_the_tag_of_the_prompt_with_them() -> None:
    _, answer = run(chunk({"reasoning": "hm"}), chunk({"content": "Hi"}), think=OPENED)
    assert (answer.text, answer.reasoning) == ("Hi", "hm")


# Properties

contents = st.lists(st.sampled_from(["<think>", "</think>", "<", " ", "\n", "Hello", "é😀"]), max_size=8).map("".join)
objects = st.dictionaries(st.text(max_size=2), st.integers() | st.text(max_size=5), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    calls = [
        {
            "id": f"id{number}",
            "type": "function",
            "function": {"name": draw(st.sampled_from(["f", "g"])), "arguments": json.dumps(arguments)},
        }
        for number, arguments in enumerate(draw(st.lists(objects, max_size=3)))
    ]
    message: dict[str, Any] = {"role": "assistant"}
    if reasoning := draw(st.sampled_from(["", "", "let me see", " a\n b "])):
        message[draw(st.sampled_from(["reasoning_content", "reasoning"]))] = reasoning
    message["content"] = draw(st.none() | contents)
    if refusal := draw(st.sampled_from(["", "", "I will not."])):
        message["refusal"] = refusal
    if calls:
        message["tool_calls"] = calls
    if draw(st.booleans()):
        message["signature"] = "s"
    return message


@st.composite
def chunkings(draw: st.DrawFn, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Deltas that say the same as a whole message."""
    deltas: list[dict[str, Any]] = []
    for key, value in message.items():
        if key in ("reasoning_content", "reasoning", "content", "refusal") and isinstance(value, str):
            deltas += [{key: piece} for piece in draw(pieces(value))]
        elif key == "tool_calls":
            for index, call in enumerate(value):
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                first, *rest = draw(pieces(arguments))
                deltas.append({key: [{**call, "index": index, "function": {"name": name, "arguments": first}}]})
                deltas += [{key: [{"index": index, "function": {"arguments": piece}}]} for piece in rest]
        else:
            deltas.append({key: value})
    merged: list[dict[str, Any]] = [{}]
    for delta in deltas:
        if delta.keys() & merged[-1].keys() or draw(st.booleans()):
            merged.append({})
        merged[-1].update(delta)
    return merged


@examples(200)
@given(
    st.data(),
    messages(),
    st.sampled_from(["stop", "length", "tool_calls", None]),
    st.sampled_from(["leading", "all", "keep"]),
)
def test_a_whole_message_and_any_chunking_of_it_are_the_same_choice(
    data: st.DataObject, message: dict[str, Any], reason: str | None, inline_think: Any
) -> None:
    deltas = data.draw(chunkings(message))
    chunks = [chunk(delta) for delta in deltas] + [chunk({}, reason)]
    think = ThinkOptions(inline_think)
    events, streamed = run(*chunks, think=think)
    _, at_once = run(whole(message, reason), think=think)
    assert streamed.choices == at_once.choices
    assert "".join(event.delta for event in events) == at_once.text
    assert "".join(event.reasoning for event in events) == at_once.reasoning
    assert tuple(event.tool_call for event in events if event.tool_call) == at_once.tool_calls


def checked(feed: list[Any], think: ThinkOptions) -> ChatResponse:
    """What a caller does with payloads, whatever they are."""
    accumulator = Accumulator(think=think)
    events = [event for payload in feed for event in accumulator.feed(payload)] + accumulator.finish()
    response = accumulator.response()
    assert all(
        type(event.data) is str and event.data for event in events if event.kind in ("text", "reasoning", "refusal")
    )
    assert "".join(event.delta for event in events) == next((c.text for c in response.choices if c.index == 0), "")
    for choice in response.choices:
        assert all(
            type(value) is str for value in (choice.text, choice.reasoning, choice.refusal, choice.finish_reason)
        )
        assert all(call.id for call in choice.tool_calls)
    error = completeness_error(response, complete=accumulator.finished, strict=False)
    str(error)
    pickle.dumps(response)
    response.to_message().to_wire()
    return response


@thorough
@given(
    st.lists(payloads, max_size=4),
    st.builds(ThinkOptions, st.sampled_from(["leading", "all", "keep"]), st.none(), st.booleans()),
)
def test_arbitrary_payloads_never_raise(feed: list[Any], think: ThinkOptions) -> None:
    checked(feed, think)


PATHS: dict[str, Any] = {
    "content": lambda value: chunk({"content": value}),
    "message-content": lambda value: whole({"content": value}),
    "reasoning": lambda value: chunk({"reasoning": value}),
    "thinking": lambda value: chunk({"content": [{"type": "thinking", "thinking": value}]}),
    "refusal": lambda value: chunk({"content": [{"type": "refusal", "refusal": value}]}),
    "refusal-field": lambda value: chunk({"refusal": value}),
    "arguments": lambda value: chunk({"tool_calls": [{"function": {"name": "f", "arguments": value}}]}),
    "name": lambda value: chunk({"tool_calls": [{"function": {"name": value, "arguments": value}}]}),
    "id": lambda value: chunk({"tool_calls": [{"id": value, "index": value, "function": {"name": "f"}}]}),
    "legacy": lambda value: chunk({"function_call": {"name": "f", "arguments": value}}),
    "details": lambda value: chunk(
        {"reasoning_details": [{"index": 0, "text": value}, {"index": 0, "text": value, "data": value}]}
    ),
    "details-index": lambda value: chunk(
        {"reasoning_details": [{"index": value, "text": "a"}, {"index": value, "text": "b"}]}
    ),
    "finish-reason": lambda value: chunk({}, value),
    "finish-type": lambda value: chunk({}, {"type": value}),
    "usage": lambda value: chunk(
        {"content": "x"}, usage={"prompt_tokens": value, "prompt_tokens_details": {"cached_tokens": value}}
    ),
    "x_groq": lambda value: chunk({}, x_groq=value),
    "logprobs": lambda value: {
        "choices": [{"logprobs": {"content": value}}, {"index": 0, "logprobs": {"content": value}}]
    },
    "index": lambda value: {"choices": [{"index": value, "delta": {"content": "x"}}]},
    "error": lambda value: {"error": value},
    "choice-error": lambda value: {"choices": [{"error": value}]},
    "id-and-model": lambda value: {"id": value, "model": value, "created": value, "choices": value},
    "anything": lambda value: value,
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@examples(40)
@given(values=st.lists(json_values | texts, min_size=1, max_size=2))
def test_arbitrary_values_in_every_place_never_raise(path: Any, values: list[Any]) -> None:
    checked([path(value) for value in values], ThinkOptions())


@pytest.mark.parametrize("depth", [50, 480, 900])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_values_nested_deeply_never_raise(path: Any, depth: int) -> None:
    for value in (nested_lists(depth), nested(depth, "text"), nested(depth, "error")):
        accumulator = Accumulator()
        accumulator.feed(path(value))
        accumulator.finish()
        accumulator.response()


# Cost

MANY: dict[str, Any] = {
    "text": {"content": "a b"},
    "reasoning": {"reasoning_content": "a b"},
    "inline": {"content": "<think>a"},
    "held-back": {"content": "<"},
    "details": {"reasoning_details": [{"type": "t", "index": 0, "text": "a b"}]},
    "arguments": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "[1"}}]},
    "legacy": {"function_call": {"arguments": "[1"}},
    "extra": {"signature": "s"},
    "audio": {"audio": {"id": "a", "data": "AAAA", "transcript": "x"}},
    "pictures": {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    "citations": {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]},
    "thinking-blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "a b"}]},
    "thoughts-told-twice": {"reasoning": "ab", "content": "ab"},
    "empty": {},
    "white-space": {"content": " "},
}


@pytest.mark.parametrize("delta", MANY.values(), ids=MANY)
def test_cost_is_linear_in_the_number_of_deltas(delta: Any) -> None:
    def feed(amount: int) -> None:
        accumulator = Accumulator()
        for _ in range(amount):
            accumulator.feed(chunk(delta))
        accumulator.finish()

    assert growth(feed, 4_000) < 10


def test_each_delta_is_known_when_it_came() -> None:
    accumulator = Accumulator()
    assert [len(accumulator.feed(chunk({"content": "a "}))) for _ in range(5)] == [1] * 5
