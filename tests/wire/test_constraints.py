"""Choices, regular expressions and grammars: how each server is asked, and how answers are read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openai_compat.errors import ConfigurationError, ResponseTypeError
from openai_compat.wire.constrained import constrained_output
from openai_compat.wire.constraints import CHOICE_WAYS, GRAMMAR_WAYS, REGEX_WAYS, Constraints
from openai_compat.wire.dialect import AZURE, FIREWORKS, GENERIC, LLAMACPP, OPENAI, SGLANG, VLLM, Dialect
from openai_compat.wire.request import ChatRequest, build_body
from openai_compat.wire.response import ChatResponse, Choice


def added(request: ChatRequest, dialect: Dialect) -> dict[str, Any]:
    """What a request's body has beside model, messages and stream."""
    body, left_out = dialect.adapt(build_body(request, constraints=dialect.constraints))
    assert not left_out
    return {key: value for key, value in body.items() if key not in ("model", "messages", "stream")}


def schema(inner: dict[str, Any], *, strict: bool = False) -> dict[str, Any]:
    made = {
        "type": "object",
        "properties": {"value": {"type": "string", **inner}},
        "required": ["value"],
        "additionalProperties": False,
    }
    named = {"name": "output", "schema": made, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


CHOICE = ("yes", "n.o", 'a "b"')
ASKED: dict[str, tuple[Dialect, dict[str, Any], dict[str, Any]]] = {
    "choice": (GENERIC, {"choice": CHOICE}, schema({"enum": list(CHOICE)})),
    "choice-openai": (OPENAI, {"choice": CHOICE}, schema({"enum": list(CHOICE)}, strict=True)),
    "choice-llamacpp": (LLAMACPP, {"choice": CHOICE}, schema({"enum": list(CHOICE)})),
    "choice-vllm": (VLLM, {"choice": CHOICE}, {"structured_outputs": {"choice": list(CHOICE)}}),
    "choice-sglang": (SGLANG, {"choice": CHOICE}, {"regex": r'(yes|n\.o|a "b")'}),
    "choice-old-vllm": (
        Dialect(constraints=Constraints(choice="guided")),
        {"choice": CHOICE},
        {"guided_choice": list(CHOICE)},
    ),
    "choice-grammar": (
        Dialect(constraints=Constraints(choice="grammar")),
        {"choice": CHOICE},
        {"grammar": r'root ::= "yes" | "n.o" | "a \"b\""'},
    ),
    "regex": (GENERIC, {"regex": r"\d+"}, schema({"pattern": r"^(\d+)$"})),
    "regex-anchored": (GENERIC, {"regex": r"^\d+$"}, schema({"pattern": r"^(\d+)$"})),
    "regex-branches": (GENERIC, {"regex": "^a|b$"}, schema({"pattern": "^(^a|b$)$"})),
    "regex-branches-within": (GENERIC, {"regex": "^(a|b)[|]$"}, schema({"pattern": "^((a|b)[|])$"})),
    "regex-compiled": (GENERIC, {"regex": re.compile("a+")}, schema({"pattern": "^(a+)$"})),
    "regex-openai": (OPENAI, {"regex": "a+"}, schema({"pattern": "^(a+)$"}, strict=True)),
    "regex-vllm": (VLLM, {"regex": "^a+$"}, {"structured_outputs": {"regex": "a+"}}),
    "regex-sglang": (SGLANG, {"regex": "a+"}, {"regex": "a+"}),
    "regex-old-vllm": (Dialect(constraints=Constraints(regex="guided")), {"regex": "a+"}, {"guided_regex": "a+"}),
    "grammar-llamacpp": (LLAMACPP, {"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    "grammar-vllm": (VLLM, {"grammar": "g"}, {"structured_outputs": {"grammar": "g"}}),
    "grammar-sglang": (SGLANG, {"grammar": "g"}, {"ebnf": "g"}),
    "grammar-fireworks": (
        FIREWORKS,
        {"grammar": "g"},
        {"response_format": {"type": "grammar", "grammar": "g"}},
    ),
    "grammar-old-vllm": (
        Dialect(constraints=Constraints(grammar="guided")),
        {"grammar": "g"},
        {"guided_grammar": "g"},
    ),
    "likely-tokens": (
        VLLM,
        {"choice": ["a"], "logprobs": True},
        {"structured_outputs": {"choice": ["a"]}, "logprobs": True, "top_logprobs": 20},
    ),
    "more-likely-tokens": (
        LLAMACPP,
        {"choice": ["a"], "logprobs": True},
        {**schema({"enum": ["a"]}), "logprobs": True, "top_logprobs": 100},
    ),
    "fewer-likely-tokens": (
        VLLM,
        {"choice": ["a"], "logprobs": True, "top_logprobs": 5},
        {"structured_outputs": {"choice": ["a"]}, "logprobs": True, "top_logprobs": 5},
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_each_server_is_asked_in_its_own_way(name: str) -> None:
    dialect, fields, expected = ASKED[name]
    assert added(ChatRequest("hi", model="m", **fields), dialect) == expected


def test_every_way_is_in_the_table() -> None:
    used = {(name.partition("-")[0], getattr(dialect.constraints, name.partition("-")[0])) for name, (dialect, *_)
            in ASKED.items() if name.partition("-")[0] in ("choice", "regex", "grammar")}  # fmt: skip
    ways = {"choice": CHOICE_WAYS, "regex": REGEX_WAYS, "grammar": GRAMMAR_WAYS}
    assert used == {(name, way) for name, all_ways in ways.items() for way in all_ways if way != "none"}


@pytest.mark.parametrize(
    ("dialect", "fields", "words"),
    [
        (GENERIC, {"grammar": "g"}, "takes no grammar"),
        (OPENAI, {"grammar": "g"}, "type='custom'"),
        (FIREWORKS, {"regex": "a"}, "no regular expression"),
        (AZURE, {"regex": "a"}, "no regular expression"),
    ],
)
def test_what_a_server_cannot_be_asked_is_told_before_anything_is_sent(
    dialect: Dialect, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_body(ChatRequest("hi", model="m", **fields), constraints=dialect.constraints)


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": []},
        {"choice": "yes"},
        {"choice": [""]},
        {"choice": [" a"]},
        {"choice": [3]},
        {"choice": {"a": 1}},
        {"choice": 3},
        {"regex": "("},
        {"regex": re.compile("a", re.IGNORECASE)},
        {"regex": "(?i)a"},
        {"regex": "(?u)a"},
        {"regex": "a{99999999999}"},
        {"regex": 3},
        {"choice": ["a"], "regex": "a"},
        {"regex": "a", "grammar": "g"},
        {"choice": ["a"], "response_schema": {}},
        {"grammar": "g", "response_format": {"type": "text"}},
        {"response_mode": "json"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ChatRequest("hi", model="m", **fields)


def test_a_choice_that_comes_twice_is_one() -> None:
    assert ChatRequest("hi", choice=["a", "b", "a"]).choice == ("a", "b")


def answer(text: str, finish_reason: str = "stop") -> ChatResponse:
    return ChatResponse(choices=(Choice(text=text, finish_reason=finish_reason),))


@pytest.mark.parametrize(
    ("fields", "text", "value"),
    [
        ({"choice": ["good", "bad"]}, "good", "good"),
        ({"choice": ["good", "bad"]}, '{"value": "bad"}', "bad"),
        ({"choice": ["good", "bad"]}, '"bad"', "bad"),
        ({"choice": ["good", "bad"]}, " **good**.\n", "good"),
        ({"choice": ["1", "2"]}, "1", "1"),
        ({"choice": ["true"]}, "true", "true"),
        ({"choice": ['{"a": 1}', "[b]"]}, '{"a": 1}', '{"a": 1}'),
        ({"regex": r"\d{4}-\d\d"}, "2024-01", "2024-01"),
        ({"regex": r"\d{4}-\d\d"}, '{"value": "2024-01"}', "2024-01"),
        ({"regex": r"\d+"}, "12", "12"),
        ({"regex": "a|b"}, "b\n", "b"),
        ({"regex": r"\{\}"}, '{"value": "{}"}', "{}"),
        ({"regex": r'\{"n": \d+\}'}, '{"n": 5}', '{"n": 5}'),
        ({"regex": "(?i:yes)"}, "YES", "YES"),
    ],
)
def test_the_text_is_the_value(fields: dict[str, Any], text: str, value: str) -> None:
    output = constrained_output(ChatRequest("hi", **fields))
    assert output is not None
    read = output.read(answer(text))
    assert (read.text, read.parsed) == (value, value)


def test_so_is_that_of_further_answers_as_far_as_they_fit() -> None:
    texts = ('{"value": "good"}', '{"value": "bad"}', "bad", "neither")
    several = ChatResponse(choices=tuple(Choice(text=text, finish_reason="stop") for text in texts))
    for fields in ({"choice": ["good", "bad"]}, {"regex": "good|bad"}):
        output = constrained_output(ChatRequest("hi", **fields))
        assert output is not None
        assert [choice.text for choice in output.read(several).choices] == ["good", "bad", "bad", "neither"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"choice": ["good", "bad"]}, "Good"),
        ({"choice": ["good", "bad"]}, "goodness"),
        ({"choice": ["good", "bad"]}, '{"value": "fine"}'),
        ({"regex": r"\d+"}, "about 12"),
        ({"regex": r"\d+"}, "12\n13"),
        ({"regex": "a|b"}, "ac"),
        ({"regex": r"\d+"}, '{"value": 12.5}'),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], text: str) -> None:
    output = constrained_output(ChatRequest("hi", **fields))
    assert output is not None
    with pytest.raises(ResponseTypeError):
        output.read(answer(text))


def test_what_was_cut_off_is_no_match() -> None:
    output = constrained_output(ChatRequest("hi", regex=r"\d+"))
    assert output is not None
    with pytest.raises(ResponseTypeError, match="max_tokens"):
        output.read(answer("12", finish_reason="length"))


def test_a_regular_expression_that_takes_for_ever_does_not() -> None:
    output = constrained_output(ChatRequest("hi", regex="(a+)+"))
    assert output is not None
    with pytest.raises(ResponseTypeError):
        output.read(answer("a" * 5000 + "b"))


def test_a_grammar_is_not_checked() -> None:
    assert constrained_output(ChatRequest("hi", grammar="g")) is None
