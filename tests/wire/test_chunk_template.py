"""Chunks that differ from an earlier one in one string alone are read as if each were decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import as_json, examples, json_values, payloads, pieces, texts

from openai_compat._json import decode_json
from openai_compat.wire import chunk_template as module
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.chunk_template import ChunkTemplate
from openai_compat.wire.event_data import Unreadable
from openai_compat.wire.sse import iter_payloads


def chunk(delta: Any, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "c", "created": 1, "model": "m", "choices": [{**choice, **fields}], "usage": None}


DELTAS: dict[str, Any] = {
    "content": lambda text: {"content": text},
    "with-role": lambda text: {"role": "assistant", "content": text, "refusal": None},
    "reasoning_content": lambda text: {"content": None, "reasoning_content": text},
    "reasoning": lambda text: {"reasoning": text},
    "arguments": lambda text: {"tool_calls": [{"index": 1, "function": {"arguments": text}}]},
    "arguments-alone": lambda text: {"tool_calls": [{"function": {"arguments": text}}]},
}


@pytest.mark.parametrize("make", DELTAS.values(), ids=DELTAS)
def test_a_chunk_that_brings_one_string_is_learnt(make: Any) -> None:
    template = ChunkTemplate()
    first = chunk(make("Hi"))
    template.learn(as_json(first), first)
    found = template.read(as_json(chunk(make('é "x"\n'))))
    if isinstance(found, str):
        assert found == 'é "x"\n'
    else:
        accumulator, other = Accumulator(), Accumulator()
        assert accumulator.feed(found) == other.feed(chunk(make('é "x"\n')))


NEVER: dict[str, Any] = {
    "two-strings": chunk({"content": "a", "reasoning": "b"}),
    "finish": chunk({"content": "a"}, finish_reason="stop"),
    "logprobs": chunk({"content": "a"}, logprobs={"content": [1]}),
    "other-key": chunk({"content": "a"}, stop_reason=7),
    "usage": {**chunk({"content": "a"}), "usage": {"prompt_tokens": 1}},
    "error": {**chunk({"content": "a"}), "error": "no"},
    "named": chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}),
    "with-id": chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{"}}]}),
    "two-calls": chunk({"tool_calls": [{"function": {"arguments": "{"}}] * 2}),
    "two-choices": {"choices": chunk({"content": "a"})["choices"] * 2},
    "empty": chunk({"content": ""}),
    "text-of-another-choice-of-words": {**chunk({"content": "a"}), "moderation": {"content": "b"}},
    "key-again-without-text": {**chunk({"content": "a"}), "moderation": {"content": 7}},
    "nothing": {},
}


@pytest.mark.parametrize("payload", NEVER.values(), ids=NEVER)
def test_a_chunk_that_brings_anything_else_is_not_learnt(payload: Any) -> None:
    template = ChunkTemplate()
    template.learn(as_json(payload), payload)
    assert template.read(as_json(payload)) is None


@pytest.mark.parametrize(
    "spoilt", [b'"a\nb"', b'"a","b"', b'"a', b"7", b'"\xff"', b'"a"}', b'"\\ud83d"', b'"\x00"', b""]
)
def test_what_is_no_string_is_decoded_like_any_other(spoilt: bytes) -> None:
    template = ChunkTemplate()
    first = as_json(chunk({"content": "Hi"}))
    template.learn(first, decode_json(first))
    assert template.read(first) == "Hi"
    assert template.read(first.replace(b'"Hi"', spoilt)) is None


def test_where_every_chunk_changes_nothing_more_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(module, "decode_json", lambda data: decoded.append(data) or decode_json(data))
    template = ChunkTemplate()
    for number in range(100):
        payload = {**chunk({"content": "a"}), "created": number}
        assert template.read(as_json(payload)) is None
        template.learn(as_json(payload), payload)
    assert len(decoded) < 20


# The proof: events and answer are those of the slow way, whatever comes.

_repeats = st.sampled_from(list(DELTAS.values())).flatmap(lambda make: st.lists(texts.map(make), max_size=5))
_chunks = st.lists(
    _repeats.map(lambda deltas: [chunk(delta) for delta in deltas])
    | payloads.map(lambda payload: [payload, payload])
    | json_values.map(lambda value: [chunk({"content": value})]),
    max_size=4,
).map(lambda groups: [payload for group in groups for payload in group])


def told(chunks: list[bytes], template: ChunkTemplate | None) -> tuple[list[Any], Any, int]:
    accumulator = Accumulator()

    def events() -> Iterator[Any]:
        for payload in iter_payloads(chunks, template=template):
            if type(payload) is str:
                yield from accumulator.feed_text(payload)
            elif type(payload) is Unreadable:
                accumulator.skipped += 1
            else:
                yield from accumulator.feed(payload)
        yield from accumulator.finish()

    return list(events()), accumulator.response(), accumulator.skipped


@examples(200)
@given(st.data(), _chunks, st.booleans())
def test_the_short_way_is_the_long_way(data: st.DataObject, chunks: list[Any], compact: bool) -> None:
    separators = (",", ":") if compact else None
    events = [b"data: " + json.dumps(payload, separators=separators).encode() + b"\n\n" for payload in chunks]
    for cut in (events, [b"".join(events)], data.draw(pieces(b"".join(events)))):
        assert repr(told(cut, ChunkTemplate())) == repr(told(cut, None))


def test_only_one_kind_of_payload_is_a_string() -> None:
    bodies = [b'"Hi"', b'data: "Hi"\n\n', b'data: ["Hi", [""], {}]\n\n', b'["Hi"]', b"data: Hi\n\n"]
    assert not [payload for body in bodies for payload in iter_payloads([body]) if type(payload) is str]
