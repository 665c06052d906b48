"""Replies in every dialect, sent in any cut, some of them damaged: nothing made up, nothing lost, nothing half run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.arbitrary import cut, examples, pieces

from openai_compat.errors import APIError, StreamInterruptedError
from openai_compat.tools.loop import run_tools_loop
from openai_compat.tools.tool import Toolbox
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.completeness import completeness_error
from openai_compat.wire.event_data import Unreadable
from openai_compat.wire.parse import drain, parse_response, stream_events
from openai_compat.wire.request import ChatRequest, ToolSpec
from openai_compat.wire.response import ChatResponse, StreamEvent
from openai_compat.wire.sse import iter_payloads

PNG = "data:image/png;base64,iVBORw0KGgo="


@attrs.frozen
class Said:
    """A reply: what it says, and its events as a server sends them."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, dict[str, Any]], ...]
    pictures: int
    events: tuple[bytes, ...]

    def body(self, end: bytes = b"\n\n") -> bytes:
        return b"".join(event.replace(b"\n", end[: len(end) // 2]) + end for event in self.events)


def deltas_of_calls(draw: st.DrawFn, calls: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    style = draw(st.sampled_from(["indexed", "index-0", "no-index", "repeated", "drifting", "objects"]))
    deltas: list[dict[str, Any]] = []
    for number, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        first = {"id": f"id{number}", "type": "function", "function": {"name": name, "arguments": ""}}
        rest: list[Any] = [{"function": {"arguments": piece}} for piece in draw(pieces(text))]
        if style == "objects":
            first["function"] = {"name": name, "arguments": arguments}
            rest = []
        if style == "repeated":
            rest = [{**first, "function": {"name": name, **piece["function"]}} for piece in rest]
        for place, entry in enumerate([first, *rest]):
            if style in ("indexed", "repeated"):
                entry["index"] = number
            elif style == "index-0":
                entry["index"] = 0
            elif style == "drifting":
                entry["index"] = 100 * number + place
            deltas.append({"tool_calls": [entry]})
    return deltas


@st.composite
def replies(draw: st.DrawFn, *, finish: bool = True) -> Said:
    words = draw(
        st.lists(st.sampled_from(["Hi ", "a\nb ", "<b>", "é😀", "{}", "</think>", "data: ", "\u2028"]), max_size=5)
    )
    text = "".join(f"{number}{word}" for number, word in enumerate(words))
    reasoning = draw(st.sampled_from(["", "", "let me see", "one\n\ntwo"]))
    calls = draw(
        st.lists(
            st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("xy"), st.integers(0, 9))),
            max_size=3,
        )
    )
    pictures = draw(st.integers(0, 2))
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    how = draw(st.sampled_from(["reasoning_content", "reasoning", "details", "blocks", "inline", "parts"]))
    for piece in draw(pieces(reasoning)) if reasoning and how != "inline" else ():
        if how == "details":
            deltas.append({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": piece}]})
        elif how == "blocks":
            deltas.append({"thinking_blocks": [{"type": "thinking", "thinking": piece}]})
        elif how == "parts":
            deltas.append({"content": [{"type": "thinking", "thinking": piece}]})
        else:
            deltas.append({how: piece})
    content = f"<think>{reasoning}</think>{text}" if reasoning and how == "inline" else text
    deltas += [{"content": piece} for piece in draw(pieces(content))]
    deltas += [
        {"content": "", "images": [{"type": "image_url", "image_url": {"url": PNG + str(at)}, "index": at}]}
        for at in range(pictures)
    ]
    deltas += deltas_of_calls(draw, calls)
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    payloads = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    reason = "tool_calls" if calls else "stop"
    payloads.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    payloads.append({**head, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    events = [b"data: " + json.dumps(payload, ensure_ascii=draw(st.booleans())).encode() for payload in payloads]
    for at in sorted(draw(st.lists(st.integers(0, len(events)), max_size=2)), reverse=True):
        events.insert(at, draw(st.sampled_from([b": ping", b"data: ", b"data: keepalive", b"id: 7\nevent: ping"])))
    return Said(text, reasoning, tuple(calls), pictures, (*events, b"data: [DONE]"))


def read(
    chunks: list[bytes], *, strict: bool = False
) -> tuple[list[StreamEvent], ChatResponse | None, APIError | None]:
    """The events, and the answer or what is raised in its place."""
    accumulator = Accumulator()
    events: list[StreamEvent] = []
    try:
        stream = stream_events(chunks, accumulator, strict=strict)
        while True:
            try:
                events.append(next(stream))
            except StopIteration as stop:
                complete = bool(stop.value)
                break
        answer = accumulator.response(truncated=not complete)
        error = completeness_error(answer, complete=complete, strict=strict)
        return events, answer if error is None else None, error
    except APIError as error:
        return events, None, error


def ran(answer: ChatResponse) -> list[tuple[str, dict[str, Any]]]:
    """The calls that the tool loop runs when it is given this answer."""
    seen: list[tuple[str, dict[str, Any]]] = []

    class Runs:
        def call(self, name: str, arguments: Mapping[str, Any]) -> str:
            seen.append((name, dict(arguments)))
            return "done"

    replies = iter([answer, parse_response(b'{"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]}')])
    anything = {"type": "object", "additionalProperties": True}
    tools = Toolbox([ToolSpec(name, parameters=anything) for name in ("f", "g")], Runs())
    run_tools_loop(lambda request: next(replies), ChatRequest("hi", model="m"), tools, max_parallel_tool_calls=1)
    return seen


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.delta for event in events)


@examples(200)
@given(st.data(), replies(), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]))
def test_a_whole_reply_is_all_that_was_sent(data: st.DataObject, said: Said, end: bytes) -> None:
    assume(said.text.strip() or said.calls or said.pictures)
    events, answer, error = read(data.draw(pieces(said.body(end))), strict=True)
    assert error is None
    assert answer is not None
    assert (answer.text, answer.reasoning, answer.truncated) == (said.text, said.reasoning, False)
    assert text_of(events) == said.text
    assert "".join(event.reasoning for event in events) == said.reasoning
    assert [(call.name, call.arguments) for call in answer.tool_calls] == list(said.calls)
    assert len(answer.images) == len([event for event in events if event.image]) == said.pictures
    assert (answer.input_tokens, answer.output_tokens) == (3, 2)
    assert ran(answer) == list(said.calls)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Said, bytes]:
    """A reply, and its bytes with one event that cannot be read any more."""
    said = draw(replies())
    events = list(said.events)
    at = draw(st.sampled_from([at for at, event in enumerate(events) if event.startswith(b'data: {"id"')]))
    event = events[at]
    begin = draw(st.integers(len(b'data: {"'), len(event) - 1))
    end = draw(st.integers(begin, len(event)))
    kind = draw(st.sampled_from(["cut", "hole", "byte", "glued"]))
    if kind == "cut":
        broken = event[:begin]
    elif kind == "hole":
        broken = event[:begin] + event[end:]
    elif kind == "byte":
        broken = event[:begin] + draw(st.sampled_from([b"\x00", b"{", b'"', b"}", b"\xff"])) + event[begin + 1 :]
    else:
        broken = event[:begin] + (events.pop(at + 1) if at + 1 < len(events) - 1 else b"")
    events[at] = broken
    # What can still be read as one whole chunk is none that a client could tell from a whole one.
    assume(any(type(payload) is Unreadable for payload in iter_payloads([broken + b"\n\n"])))
    return said, attrs.evolve(said, events=tuple(events)).body()


def is_part_of(text: str, whole: str) -> bool:
    """Whether ``text`` is ``whole`` with something left out."""
    left = iter(whole)
    return all(character in left for character in text)


@examples(200)
@given(st.data(), damaged())
def test_a_damaged_reply_is_never_a_whole_one(data: st.DataObject, sent: tuple[Said, bytes]) -> None:
    said, body = sent
    chunks = data.draw(pieces(body))
    events, answer, _ = read(chunks)
    assert is_part_of(text_of(events), f"<think>{said.reasoning}</think>{said.text}")
    assert answer is None or (answer.truncated and answer.skipped_events and ran(answer) == [])
    strict_events, strict_answer, strict_error = read(chunks, strict=True)
    assert strict_answer is None
    assert type(strict_error) is StreamInterruptedError
    assert text_of(events).startswith(text_of(strict_events))


@examples(200)
@given(st.data(), replies(), st.sampled_from(["length", "content_filter", None]), st.booleans())
def test_a_reply_that_was_cut_runs_no_half_call(
    data: st.DataObject, said: Said, reason: str | None, done: bool
) -> None:
    ends = next(at for at, event in enumerate(said.events) if b'"finish_reason": "' in event)
    kept = data.draw(st.integers(0, ends))
    tail = (
        []
        if reason is None
        else [b"data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": reason}]}).encode()]
    )
    tail += [b"data: [DONE]"] if done else []
    body = attrs.evolve(said, events=(*said.events[:kept], *tail)).body()
    events, answer, _ = read(cut(body, []))
    assert is_part_of(text_of(events), said.text) or said.reasoning
    if answer is not None:
        found = ran(answer)
        assert found == list(said.calls[: len(found)])
        assert answer.truncated is not bool(reason or done)


@pytest.mark.parametrize("strict", [False, True])
def test_an_answer_in_place_of_a_stream_is_judged_alike(strict: bool) -> None:
    body = b'data: {"choices": [{"delta": {"content": "is "}}]}\n\ndata: {"cho\n\ndata: [DONE]\n\n'
    if strict:
        with pytest.raises(StreamInterruptedError, match="cannot be read"):
            parse_response(body, strict=True)
    else:
        answer = parse_response(body)
        assert (answer.text, answer.truncated, answer.skipped_events) == ("is ", True, 1)
    assert drain(stream_events([body], Accumulator())) is False
