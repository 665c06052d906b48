"""Hypothesis strategies: streams of every kind, cut anywhere, each with what it says.

::

    @given(streams())
    def test_my_reader(stream):
        assert my_reader(stream.chunks) == stream.text
"""

from __future__ import annotations

import itertools
from typing import Any

import attrs
from hypothesis import strategies as st

from .._json import encode_json
from ..wire.messages import ToolCall, Usage
from .answers import Answer, words

__all__ = ["SplitStream", "answers", "streams"]


@attrs.frozen(kw_only=True)
class SplitStream:
    """A streamed reply: its bytes in the pieces in which they come, and what they say."""

    answer: Answer
    chunks: tuple[bytes, ...]

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.answer.text

    @property
    def reasoning(self) -> str:
        """Its reasoning."""
        return self.answer.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Its calls."""
        return self.answer.tool_calls

    @property
    def finish_reason(self) -> str:
        """Why the model stopped."""
        return self.answer.finish_reason or ""

    @property
    def usage(self) -> Usage | None:
        """The tokens that it tells."""
        return self.answer.usage


# What JSON escapes, what ends a line somewhere, what has more than one byte; no "<", which might begin a tag.
_CHARACTERS = st.sampled_from(
    "aZ09 _-.,:;{}[]()\"\\/'`*#>&\n\r\t\0\x0b\x7f\x85\u2028\u2029\ufeff\u00e9\u0301\u4e16\U0001f600"
)
_TEXT = st.text(_CHARACTERS, max_size=40)
_NAMES = st.text(st.sampled_from("abcxyz_"), min_size=1, max_size=8)
_SIMPLE: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | _TEXT
_VALUES: st.SearchStrategy[Any] = _SIMPLE | st.lists(_SIMPLE, max_size=3) | st.dictionaries(_NAMES, _SIMPLE, max_size=3)


@st.composite
def answers(draw: st.DrawFn, *, reasoning: bool = True, tool_calls: bool = True) -> Answer:
    """Answers with text, or tool calls, or both.

    Args:
        reasoning: whether some think aloud.
        tool_calls: whether some call tools, in parallel too.
    """
    called = draw(st.lists(st.tuples(_NAMES, st.dictionaries(_NAMES, _VALUES, max_size=3)), max_size=3 * tool_calls))
    text = draw(_TEXT.map(str.strip).filter(bool) if not called else _TEXT.map(str.strip))
    put_in, put_out = draw(st.integers(1, 10_000)), draw(st.integers(1, 10_000))
    calls = (
        ToolCall(id=f"call_{place}", name=name, arguments=arguments, arguments_json=encode_json(arguments).decode())
        for place, (name, arguments) in enumerate(called)
    )
    return Answer(
        steps=tuple(words(text, draw(st.integers(1, 20)))),
        reasoning=draw(_TEXT.map(str.strip)) if reasoning else "",
        tool_calls=tuple(calls),
        usage=Usage(
            input_tokens=put_in,
            output_tokens=put_out,
            total_tokens=put_in + put_out,
            cached_tokens=0,
            reasoning_tokens=0,
        ),
        finish_reason="tool_calls" if called else draw(st.sampled_from(["stop", "length", "content_filter"])),
        done=draw(st.booleans()),
    )


@st.composite
def streams(draw: st.DrawFn, *, reasoning: bool = True, tool_calls: bool = True) -> SplitStream:
    """Streamed replies that are valid and whole, their bytes cut anywhere, also within a character.

    Args:
        reasoning: whether some think aloud.
        tool_calls: whether some call tools, in parallel too.
    """
    said = draw(answers(reasoning=reasoning, tool_calls=tool_calls))
    body = said.stream
    if draw(st.booleans()):  # a keep-alive in front
        body = b": keep-alive\n\n" + body
    if draw(st.booleans()):
        body = body.replace(b"\n", b"\r\n")
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=12))})
    if draw(st.integers(0, 9)) == 0:
        cuts = list(range(len(body) + 1))  # a byte at a time
    return SplitStream(answer=said, chunks=tuple(body[start:end] for start, end in itertools.pairwise(cuts)))
