"""Answers and stream events as values."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import msgspec
import pytest

from openai_compat.errors import APIError
from openai_compat.wire.messages import Message, ToolCall, Usage
from openai_compat.wire.response import CallInfo, ChatResponse, Choice, StreamEvent, ToolCallDelta

CALL = ToolCall(id="a", name="f", arguments={"x": 1}, arguments_json='{"x": 1}', extra={"e": 1})
INFO = CallInfo(call_id="c1", provider="ollama", model="m", origin="o")


def answer(**fields: Any) -> ChatResponse:
    return ChatResponse(choices=(Choice(**fields),), origin="o")


@pytest.mark.parametrize(
    ("choice", "empty"),
    [
        (Choice(), True),
        (Choice(text=" \n"), True),
        (Choice(reasoning="hm"), True),
        (Choice(text="x"), False),
        (Choice(tool_calls=(CALL,)), False),
        (Choice(refusal="no"), False),
    ],
)
def test_a_choice_without_text_call_or_refusal_is_empty(choice: Choice, empty: bool) -> None:
    assert choice.empty is empty


def test_an_answer_shows_its_first_choice() -> None:
    first = Choice(text="t", reasoning="r", refusal="f", tool_calls=(CALL,), finish_reason="stop")
    response = ChatResponse(choices=(first, Choice(index=1, text="other")))
    assert (response.text, response.reasoning, response.refusal) == ("t", "r", "f")
    assert (response.tool_calls, response.finish_reason) == ((CALL,), "stop")


def test_an_answer_without_choices_says_nothing() -> None:
    response = ChatResponse()
    assert (response.text, response.reasoning, response.refusal) == ("", "", "")
    assert (response.tool_calls, response.finish_reason) == ((), "unknown")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)),
        (Usage(), (0, 0)),
        (Usage(input_tokens=5), (5, 0)),
        (Usage(input_tokens=5, output_tokens=7), (5, 7)),
    ],
)
def test_tokens_are_zero_where_nothing_was_reported(usage: Usage | None, tokens: tuple[int, int]) -> None:
    response = ChatResponse(usage=usage)
    assert (response.input_tokens, response.output_tokens) == tokens


@pytest.mark.parametrize(
    ("output", "latency", "first", "wanted"),
    [
        (100, 2000.0, None, 50.0),
        (100, 2000.0, 1000.0, 100.0),
        (0, 2000.0, None, None),
        (None, 2000.0, None, None),
        (100, 0.0, None, None),
        (100, 5.0, 5.0, None),
    ],
)
def test_tokens_per_second(output: Any, latency: float, first: float | None, wanted: float | None) -> None:
    response = ChatResponse(usage=Usage(output_tokens=output), latency_ms=latency, first_token_ms=first)
    assert response.tokens_per_second == wanted


def test_rate_limits_come_from_the_headers() -> None:
    assert ChatResponse(headers={"x-ratelimit-reset-tokens": "1m0s", "x": "y"}).rate_limits == {"reset_tokens": 60.0}


MESSAGES: dict[str, tuple[ChatResponse, dict[str, Any]]] = {
    "text": (answer(text="Hi"), {"role": "assistant", "content": "Hi"}),
    "empty": (answer(), {"role": "assistant", "content": ""}),
    "calls": (answer(tool_calls=(CALL,)), {"role": "assistant", "content": None, "tool_calls": [CALL.to_wire()]}),
    "refusal": (answer(refusal="No."), {"role": "assistant", "content": "", "refusal": "No."}),
    "refusal-and-text": (answer(text="Hi", refusal="No."), {"role": "assistant", "content": "Hi"}),
    "plain-reasoning": (
        answer(
            text="Hi", extra={"reasoning_content": "a", "reasoning": "b", "thinking": "c", "reasoning_details": [1]}
        ),
        {"role": "assistant", "content": "Hi", "reasoning_details": [1]},
    ),
    "plain-reasoning-with-calls": (
        answer(tool_calls=(CALL,), extra={"reasoning_content": "a", "signature": "s"}),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL.to_wire()],
            "reasoning_content": "a",
            "signature": "s",
        },
    ),
}


@pytest.mark.parametrize(("response", "wire"), MESSAGES.values(), ids=MESSAGES)
def test_the_message_for_the_next_turn(response: ChatResponse, wire: dict[str, Any]) -> None:
    message = response.to_message()
    assert isinstance(message, Message)
    assert message.to_wire("o") == wire
    assert message.to_wire("another").keys() <= {"role", "content", "tool_calls"}


DELTA = ToolCallDelta(position=0, id="a", name="f", arguments="{")
ERROR = APIError("no")
ANSWER = answer(text="Hi")
USAGE = Usage(input_tokens=1)
EVENTS: dict[str, tuple[StreamEvent, dict[str, Any]]] = {
    "text": (StreamEvent("text", "x"), {"delta": "x"}),
    "text-of-another-choice": (StreamEvent("text", "x", 1), {}),
    "reasoning": (StreamEvent("reasoning", "x"), {"reasoning": "x"}),
    "reasoning-of-another-choice": (StreamEvent("reasoning", "x", 1), {}),
    "refusal": (StreamEvent("refusal", "x"), {"refusal": "x"}),
    "refusal-of-another-choice": (StreamEvent("refusal", "x", 1), {}),
    "tool_call": (StreamEvent("tool_call", DELTA), {"tool_call_delta": DELTA}),
    "tool_call_delta": (StreamEvent("tool_call_delta", DELTA), {"tool_call_delta": DELTA}),
    "tool_call_done": (StreamEvent("tool_call_done", CALL), {"tool_call": CALL}),
    "usage": (StreamEvent("usage", USAGE), {"usage": USAGE}),
    "done": (StreamEvent("done", ANSWER), {"response": ANSWER, "done": True}),
    "error": (StreamEvent("error", ERROR), {"error": ERROR}),
}
SILENT: dict[str, Any] = {
    "delta": "",
    "reasoning": "",
    "refusal": "",
    "tool_call_delta": None,
    "tool_call": None,
    "usage": None,
    "response": None,
    "done": False,
    "error": None,
}


@pytest.mark.parametrize(("event", "wanted"), EVENTS.values(), ids=EVENTS)
def test_an_event_says_one_thing_and_nothing_else(event: StreamEvent, wanted: dict[str, Any]) -> None:
    assert {name: getattr(event, name) for name in SILENT} == {**SILENT, **wanted}
    assert (str(event), f"{event}") == (event.delta, event.delta)


def test_an_event_names_its_call() -> None:
    event = StreamEvent("text", "x", 0, INFO)
    assert (event.call_id, event.provider, event.model) == ("c1", "ollama", "m")
    assert (StreamEvent("text").call_id, StreamEvent("text").data) == ("", "")


def test_equality_leaves_out_what_differs_between_calls() -> None:
    one = ChatResponse(choices=(Choice(text="x"),), latency_ms=1.0, request_id="a", headers={"a": "b"}, raw={"c": 1})
    other = ChatResponse(choices=(Choice(text="x"),), latency_ms=2.0, first_token_ms=1.0, origin="o")
    assert one == other
    assert one != attrs.evolve(other, truncated=True)


FULL = ChatResponse(
    choices=(Choice(text="x", tool_calls=(CALL,), logprobs={"content": [1]}, extra={"a": 1}), Choice(index=1)),
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, raw={"x": 1}),
    latency_ms=9.0,
    first_token_ms=3.0,
    truncated=True,
    request_id="r",
    headers={"a": "b"},
    raw={"c": 1},
    origin="o",
)
VALUES: dict[str, Any] = {
    "call-info": INFO,
    "choice": FULL.choices[0],
    "answer": FULL,
    "empty-answer": ChatResponse(),
    "delta": DELTA,
    "text-event": StreamEvent("text", "x", 1, INFO),
    "done-event": StreamEvent("done", FULL, 0, INFO),
    "call-event": StreamEvent("tool_call", DELTA),
    "usage-event": StreamEvent("usage", USAGE),
}


def fields_of(value: Any) -> dict[str, Any]:
    """All fields, those that equality leaves out as well."""
    fields: dict[str, Any] = value._asdict() if isinstance(value, CallInfo) else attrs.asdict(value)
    return fields


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_survive_pickle(value: Any) -> None:
    back = pickle.loads(pickle.dumps(value))
    assert type(back) is type(value)
    assert back == value
    assert fields_of(back) == fields_of(value)


# An event's data is whatever came, so that JSON alone cannot tell what to make of it.
TOLD_BY_JSON = {name: value for name, value in VALUES.items() if name == "text-event" or not name.endswith("-event")}


@pytest.mark.parametrize("value", TOLD_BY_JSON.values(), ids=TOLD_BY_JSON)
def test_values_survive_json(value: Any) -> None:
    back = msgspec.json.decode(msgspec.json.encode(value), type=type(value))
    assert back == value
    assert fields_of(back) == fields_of(value)


def test_an_error_event_survives_pickle() -> None:
    back = pickle.loads(pickle.dumps(StreamEvent("error", APIError("no", provider="p"))))
    assert (str(back.error), back.error.provider) == ("no", "p")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_are_frozen(value: Any) -> None:
    for name in fields_of(value):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
