"""Probabilities of choices, from the log probabilities of tokens."""

from __future__ import annotations

import enum
import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat.errors import ResponseTypeError
from openai_compat.wire.choice_probabilities import choice_probabilities
from openai_compat.wire.output import Output
from openai_compat.wire.response import ChatResponse, Choice


class Size(enum.Enum):
    S = "small"
    L = "large"


def entry(token: str | bytes, probability: float) -> dict[str, Any]:
    said = token.encode() if isinstance(token, str) else token
    logprob = math.log(probability) if probability else -9999.0
    return {"token": said.decode(errors="replace"), "bytes": list(said), "logprob": logprob}


def place(taken: str | bytes, /, **likely: float) -> dict[str, Any]:
    return of(taken, likely)


def of(taken: str | bytes, likely: dict[Any, float]) -> dict[str, Any]:
    return {**entry(taken, likely.get(taken, 0.0)), "top_logprobs": [entry(token, p) for token, p in likely.items()]}


def sure(token: str) -> dict[str, Any]:
    return of(token, {token: 1.0})


HEAD = [sure('{"'), sure("value"), sure('":')]
CASES: dict[str, tuple[list[Any], Any, list[Any], dict[Any, float]]] = {
    "one-token": (["good", "bad"], "good", [place("good", good=0.75, bad=0.25)], {"good": 0.75, "bad": 0.25}),
    "scaled": (["good", "bad"], "good", [place("good", good=0.6, bad=0.2, so=0.2)], {"good": 0.75, "bad": 0.25}),
    "same-beginning": (
        ["good", "bad"],
        "good",
        [of("go", {"go": 0.4, "g": 0.1, "good": 0.1, "bad": 0.2, "ba": 0.1, "x": 0.1}), sure("od")],
        {"good": 6 / 9, "bad": 3 / 9},
    ),
    "blanks": (
        ["good", "bad"],
        "good",
        [of(" good", {" good": 0.5, "good": 0.25, " bad": 0.2, "bad": 0.05})],
        {"good": 0.75, "bad": 0.25},
    ),
    "case-matters": (["good", "bad"], "good", [of("good", {"good": 0.5, "Good": 0.4, "bad": 0.1})],
                     {"good": 5 / 6, "bad": 1 / 6}),
    "followed": (
        ["great", "green", "bad"],
        "green",
        [of("gre", {"gre": 0.8, "bad": 0.2}), of("en", {"en": 0.75, "at": 0.25})],
        {"great": 0.2, "green": 0.6, "bad": 0.2},
    ),
    "shared-evenly": (
        ["great", "green", "bad"],
        "bad",
        [of("bad", {"bad": 0.6, "gre": 0.4})],
        {"great": 0.2, "green": 0.2, "bad": 0.6},
    ),
    "shared-by-what-is-known": (
        ["great", "green", "bad"],
        "bad",
        [of("bad", {"bad": 0.5, "gre": 0.2, "great": 0.225, "green": 0.075})],
        {"great": 0.375, "green": 0.125, "bad": 0.5},
    ),
    "one-begins-the-other-and-ends": (
        ["no", "nowhere"],
        "no",
        [of("no", {"no": 1.0}), of(".", {".": 0.75, "where": 0.25})],
        {"no": 0.75, "nowhere": 0.25},
    ),
    "one-begins-the-other-and-the-text-ends": (["no", "nowhere"], "no", [sure("no")], {"no": 1.0, "nowhere": 0.0}),
    "longer-word": (["no", "yes"], "yes", [of("yes", {"yes": 0.5, "nothing": 0.4, "no": 0.1})],
                    {"no": 1 / 6, "yes": 5 / 6}),
    "json": (
        ["good", "bad"],
        "good",
        [*HEAD, sure(' "'), of("good", {"good": 0.75, "bad": 0.25}), sure('"}')],
        {"good": 0.75, "bad": 0.25},
    ),
    "json-quote-in-token": (
        ["good", "bad"],
        "good",
        [*HEAD, of(' "good', {' "good': 0.5, ' "bad': 0.2, '"good': 0.1, ' "': 0.2}), sure('"}')],
        # What is only a quote begins both, and says nothing.
        {"good": 0.75, "bad": 0.25},
    ),
    "json-begins-in-token": (
        ["good", "bad"],
        "good",
        [sure('{"value'), of('":"', {'":"': 0.9, '": "': 0.1}), of("good", {"good": 0.75, "bad": 0.25}), sure('"}')],
        {"good": 0.75, "bad": 0.25},
    ),
    "json-ends-with-quote": (
        ["no", "now"],
        "no",
        [*HEAD, sure('"'), sure("no"), of('"', {'"': 0.5, "w": 0.5}), sure("}")],
        {"no": 0.5, "now": 0.5},
    ),
    "whole-json-string": (["a", "b"], "a", [sure('"'), of("a", {"a": 0.5, "b": 0.5}), sure('"')], {"a": 0.5, "b": 0.5}),
    "booleans": ([True, False], True, [*HEAD, of(" true", {" true": 0.9, " false": 0.1}), sure("}")],
                 {True: 0.9, False: 0.1}),
    "numbers": ([1, 12], 12, [*HEAD, sure("1"), of("2", {"2": 0.5, "}": 0.5}), sure("}")], {1: 0.5, 12: 0.5}),
    "null": (["a", None], None, [*HEAD, of("null", {"null": 0.5, '"a': 0.5}), sure("}")], {"a": 0.5, None: 0.5}),
    "halves-of-a-character": (
        ["ä", "ö"],
        "ä",
        [of(b"\xc3", {b"\xc3": 1.0}), of(b"\xa4", {b"\xa4": 0.75, b"\xb6": 0.25})],
        {"ä": 0.75, "ö": 0.25},
    ),
    "escaped": (
        ["ä", "o"],
        "ä",
        [*HEAD, sure('"'), of("\\u00e4", {"\\u00e4": 0.75, "o": 0.25}), sure('"}')],
        {"ä": 0.75, "o": 0.25},
    ),
    "thoughts-before": (
        ["good", "bad"],
        "good",
        [sure("<think>"), of("good", {"good": 0.1, "bad": 0.9}), sure("</think>"), of("good", {"good": 1.0})],
        {"good": 1.0, "bad": 0.0},
    ),
    "not-among-the-likely": (["a", "b"], "a", [{**entry("a", 0.25), "top_logprobs": [entry("b", 0.75)]}],
                             {"a": 0.25, "b": 0.75}),
    "no-likely-ones": (["a", "b"], "a", [entry("a", 0.25)], {"a": 1.0, "b": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_added_up(name: str) -> None:
    choices, chosen, content, expected = CASES[name]
    found = choice_probabilities(choices, chosen, {"content": content})
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": "x"},
        {"content": [{"token": "x"}]},
        {"content": [None]},
        {"content": [entry("elsewhere", 1.0)]},
        {"content": [{**entry("good", 1.0), "logprob": float("nan")}]},
        pytest.param({"content": [{**entry("good", 1.0), "logprob": -(10**400)}]}, id="no float is as small"),
        {"content": [{**entry("good", 1.0), "logprob": True}]},
        {"tokens": ["good"], "token_logprobs": [-1.0]},
    ],
    ids=str,
)
def test_without_numbers_there_is_nothing(logprobs: Any) -> None:
    assert choice_probabilities(["good", "bad"], "good", logprobs) is None


def test_a_token_without_bytes_is_its_text() -> None:
    content = [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -0.5}]}]
    assert choice_probabilities(["a", "b"], "a", {"content": content}) == pytest.approx({"a": 0.5, "b": 0.5})


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.data())
def test_they_are_probabilities(choices: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(choices))
    said = json.dumps({"value": chosen})
    cuts = sorted(data.draw(st.sets(st.integers(1, len(said)), max_size=6)) | {0, len(said)})
    tokens = st.dictionaries(st.text(max_size=4), st.floats(0.0, 1.0), max_size=4)
    content = [
        of(said[begin:end], {**data.draw(tokens), said[begin:end]: 0.5}) for begin, end in itertools.pairwise(cuts)
    ]
    found = choice_probabilities(choices, chosen, {"content": content})
    assert found is not None
    assert found.keys() == set(choices)
    assert sum(found.values()) == pytest.approx(1)
    assert all(0 <= mass <= 1.0000001 for mass in found.values())


def test_an_answer_has_them_where_there_were_choices() -> None:
    logprobs = {"content": [place("true", true=0.75, false=0.25)]}
    answer = ChatResponse(choices=(Choice(text="true", finish_reason="stop", logprobs=logprobs),))
    assert Output(bool).read(answer).choice_probabilities == pytest.approx({True: 0.75, False: 0.25})
    sized = {"content": [place("small", small=0.75, large=0.25)]}
    small = ChatResponse(choices=(Choice(text="small", finish_reason="stop", logprobs=sized),))
    assert Output(Size).read(small).choice_probabilities == pytest.approx({Size.S: 0.75, Size.L: 0.25})
    assert Output(list[bool]).choices == ()
    assert Output(str).read(answer).choice_probabilities is None
    with pytest.raises(ResponseTypeError):
        Output(int).read(answer)
