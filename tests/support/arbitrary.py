"""Hypothesis strategies that several test files share: arbitrary JSON, replies of roughly the right shape, and cuts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from time import process_time
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

T = TypeVar("T", str, bytes)


def examples(count: int) -> settings:
    """So many examples where the profile has 100, and in proportion in the others."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


quick = examples(100)
thorough = examples(200)

WORDS = (
    "",
    " ",
    "null",
    "stop",
    "length",
    "error",
    "[DONE]",
    "7",
    "-1",
    "429",
    "1e999",
    "9" * 400,
    "<think>",
    "</think>",
    "<",
    "text",
    "thinking",
    "refusal",
    "{",
    "{}",
    '{"a": 1}',
    '"',
    "\\",
    "\ud83d",
    "\ude00",
    "<html>",
    "<title>x</title>",
)
KEYS = (
    "error",
    "errors",
    "detail",
    "message",
    "msg",
    "base_resp",
    "status_code",
    "status_msg",
    "code",
    "type",
    "param",
    "loc",
    "metadata",
    "raw",
    "status",
    "success",
    "object",
    "id",
    "created",
    "model",
    "choices",
    "index",
    "delta",
    "usage",
    "content",
    "role",
    "finish_reason",
    "logprobs",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "function_call",
    "text",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "refusal",
    "summary",
    "x_groq",
    "data",
    "embedding",
    "models",
    "details",
    "retryDelay",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "owned_by",
    "extra_content",
)


def cut(whole: T, at: Iterable[int]) -> list[T]:
    """``whole`` in pieces, cut at the given places; pieces may be empty."""
    edges = [0, *sorted(at), len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


@st.composite
def pieces(draw: st.DrawFn, whole: T) -> list[T]:
    """``whole`` in pieces, cut anywhere."""
    return cut(whole, draw(st.lists(st.integers(0, len(whole)), max_size=12)))


texts = st.sampled_from(WORDS) | st.text(st.characters(), max_size=12)
"""Any strings that JSON can spell, lone surrogates among them."""
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 404, 2**63])
scalars = st.none() | st.booleans() | numbers | texts
keys = st.sampled_from(KEYS) | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=16,
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly of the right shape, now and then anything at all."""
    return st.one_of(strategy, strategy, strategy, json_values)


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: _maybe(value) for name, value in fields.items()})


_indexes = st.none() | st.integers(0, 2) | st.sampled_from(["0", 1.0, -1])
_functions = _some(name=texts, arguments=texts, signature=texts)
_calls = _some(index=_indexes, id=st.sampled_from(["", "a", "b"]), type=texts, function=_functions, extra_content=texts)
_details = _some(type=texts, text=texts, summary=texts, data=texts, index=_indexes)
_parts = _some(type=st.sampled_from(["text", "thinking", "refusal"]), text=texts, thinking=texts, refusal=texts)
_deltas = _some(
    role=texts,
    content=texts | st.lists(_maybe(_parts), max_size=3),
    reasoning_content=texts,
    reasoning=texts,
    reasoning_details=st.lists(_maybe(_details), max_size=3),
    refusal=texts,
    tool_calls=st.lists(_maybe(_calls), max_size=3),
    function_call=_functions,
)
_logprobs = _some(content=st.lists(json_values, max_size=2), refusal=st.lists(json_values, max_size=2))
_choices = _some(index=_indexes, delta=_deltas, message=_deltas, finish_reason=texts, logprobs=_logprobs)
_usages = _some(prompt_tokens=numbers, completion_tokens=numbers, prompt_tokens_details=_some(cached_tokens=numbers))
payloads = _maybe(_some(id=texts, model=texts, choices=st.lists(_maybe(_choices), max_size=3), usage=_usages))
"""Payloads of a stream, or whole replies, most of them nearly right."""


def as_json(value: Any) -> bytes:
    """JSON as the standard library spells it: NaN, huge integers and lone surrogates included."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """JSON in which one byte is another, or all from some byte on is missing."""
    whole = json.dumps(draw(values), ensure_ascii=False).encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, len(whole) - 1))
    return (
        whole[:at]
        + draw(st.binary(min_size=1, max_size=1) | st.just(b""))
        + whole[at + 1 :][: draw(st.integers(0, 999))]
    )


def nested(depth: int, key: str = "error") -> Any:
    """Objects inside objects, the innermost a string."""
    value: Any = "deep"
    for _ in range(depth):
        value = {key: value}
    return value


def nested_lists(depth: int) -> Any:
    """Lists inside lists, the innermost a string."""
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def growth(work: Callable[[int], object], size: int) -> float:
    """How many times as long ``work`` takes on four times the size: 4 where its cost is linear, 16 where quadratic."""

    def cost(amount: int) -> float:
        start = process_time()
        work(amount)
        return process_time() - start

    found = []
    # A busy machine makes a measurement too large, hence several; what is clearly linear needs only one.
    while len(found) < 3 and min(found, default=16.0) > 8:
        small = min(cost(size), cost(size))
        found.append(cost(4 * size) / max(small, 0.005))
    return min(found)


def attempt(kind: type[Exception], work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What ``work`` returns, or the exception of this kind that it raises; others go on."""
    try:
        return work(*args, **options)
    except kind as error:
        return error
