"""Streams that Hypothesis makes are read as what they say."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import Phase, given, settings

from openai_compat import ChatResponse, parse_response, parse_stream
from openai_compat.testing.strategies import SplitStream, streams


def check(found: ChatResponse, made: SplitStream) -> None:
    assert (found.text, found.reasoning, found.finish_reason) == (made.text, made.reasoning, made.finish_reason)
    assert found.tool_calls == made.tool_calls
    assert found.usage == made.usage
    assert not found.truncated


@given(made=streams())
def test_streams_say_what_they_say_however_they_are_cut(made: SplitStream) -> None:
    events = []
    check(parse_stream(made.chunks, events.append), made)
    assert "".join(event.delta for event in events) == made.text


@given(made=streams())
def test_the_same_answers_as_one_body(made: SplitStream) -> None:
    check(parse_response(made.answer.body), made)


@given(made=streams(reasoning=False, tool_calls=False))
def test_what_is_not_wanted_is_left_out(made: SplitStream) -> None:
    assert (made.reasoning, made.tool_calls) == ("", ())
    assert made.text.strip()


KINDS: dict[str, Callable[[SplitStream], object]] = {
    "parallel calls": lambda made: len(made.tool_calls) > 1,
    "reasoning and text": lambda made: made.reasoning and made.text,
    "a character in two halves": lambda made: any(map(_halves_a_character, made.chunks)),
    "CRLF": lambda made: b"\r\n" in b"".join(made.chunks),
    "a keep-alive": lambda made: b"".join(made.chunks).startswith(b":"),
    "no [DONE]": lambda made: not b"".join(made.chunks).rstrip().endswith(b"[DONE]"),
    "a byte at a time": lambda made: len(made.chunks) > 100,
}


def test_all_kinds_are_made() -> None:
    seen: set[str] = set()

    @settings(max_examples=200, phases=[Phase.generate], derandomize=True, database=None)
    @given(made=streams())
    def look(made: SplitStream) -> None:
        seen.update(name for name, is_one in KINDS.items() if is_one(made))

    look()
    assert seen == set(KINDS)


def _halves_a_character(chunk: bytes) -> bool:
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return True
    return False
