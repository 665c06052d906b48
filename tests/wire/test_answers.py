"""Answers as models write them, and what becomes of each. ``python tests/wire/test_answers.py`` prints the docs' page."""

# ruff: noqa: E501 - a table
# No annotations from __future__: the classes are to be found.

import datetime
import decimal
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from openai_compat.errors import ResponseTypeError
from openai_compat.wire.output import Output
from openai_compat.wire.response import ChatResponse, Choice

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"


@dataclass
class Person:
    name: str
    age: int


YesNo = Literal["yes", "no"]
Numbers = list[int]
People = list[Person]
Days = Annotated[int, msgspec.Meta(ge=1, le=7)]
Date = datetime.date
Decimal = decimal.Decimal
ALICE = '{"name": "Alice", "age": 30}'
BOB = '{"name": "Bob", "age": 41}'

# What it is, the type, the answer, whether it was cut off, and the value or the error.
ANSWERS: list[tuple[str, str, str, bool, str]] = [
    ("JSON alone", "Person", '{"name": "Alice", "age": 30}', False, "Person(name='Alice', age=30)"),
    ("with blanks around", "Person", '\n  {"name": "Alice", "age": 30}\n', False, "Person(name='Alice', age=30)"),
    ("in a fence", "Person", '```json\n{"name": "Alice", "age": 30}\n```', False, "Person(name='Alice', age=30)"),
    (
        "in a fence without a language",
        "Person",
        '```\n{"name": "Alice", "age": 30}\n```',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "in a fence, with words",
        "Person",
        'Sure! Here it is:\n\n```json\n{"name": "Alice", "age": 30}\n```\n\nAnything else?',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "in a fence that nothing closes",
        "Person",
        '```json\n{"name": "Alice", "age": 30}',
        False,
        "Person(name='Alice', age=30)",
    ),
    ("after words", "Person", 'The person is {"name": "Alice", "age": 30}', False, "Person(name='Alice', age=30)"),
    (
        "before words",
        "Person",
        '{"name": "Alice", "age": 30} I hope that helps!',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "between words",
        "Person",
        'I think {"name": "Alice", "age": 30} is right.',
        False,
        "Person(name='Alice', age=30)",
    ),
    ("bold", "Person", '**{"name": "Alice", "age": 30}**', False, "Person(name='Alice', age=30)"),
    (
        "an example before it",
        "Person",
        'For example {"name": "Bob", "age": 41}. The answer is {"name": "Alice", "age": 30}.',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "two fences",
        "Person",
        'A draft:\n```json\n{"name": "Bob", "age": 41}\n```\nBetter:\n```json\n{"name": "Alice", "age": 30}\n```',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "two values, of which the last does not fit",
        "Person",
        '{"name": "Alice", "age": 30} and {"note": 1}',
        False,
        "Person(name='Alice', age=30)",
    ),
    (
        "two lines of JSON",
        "Person",
        '{"name": "Alice", "age": 30}\n{"name": "Bob", "age": 41}',
        False,
        "Person(name='Bob', age=41)",
    ),
    (
        "a footnote before it",
        "Person",
        'As [1] says: {"name": "Alice", "age": 30}',
        False,
        "Person(name='Alice', age=30)",
    ),
    ("a footnote after it", "Person", '{"name": "Alice", "age": 30} [1]', False, "Person(name='Alice', age=30)"),
    ("a key more", "Person", '{"name": "Alice", "age": 30, "city": "Oslo"}', False, "Person(name='Alice', age=30)"),
    (
        "a key less",
        "Person",
        '{"name": "Alice"}',
        False,
        "error: the answer does not fit its type: $.age: required, but missing",
    ),
    (
        "keys in other case",
        "Person",
        '{"Name": "Alice", "Age": 30}',
        False,
        "error: the answer does not fit its type: $.name: required, but missing",
    ),
    (
        "a number as text",
        "Person",
        '{"name": "Alice", "age": "30"}',
        False,
        "error: the answer does not fit its type: $.age: expected int, got str",
    ),
    (
        "a number in words",
        "Person",
        '{"name": "Alice", "age": "thirty"}',
        False,
        "error: the answer does not fit its type: $.age: expected int, got str",
    ),
    ("an integer with a point", "Person", '{"name": "Alice", "age": 30.0}', False, "Person(name='Alice', age=30)"),
    (
        "a fraction for an integer",
        "Person",
        '{"name": "Alice", "age": 30.5}',
        False,
        "error: the answer does not fit its type: $.age: expected int, got float",
    ),
    (
        "null for what is required",
        "Person",
        '{"name": "Alice", "age": null}',
        False,
        "error: the answer does not fit its type: $.age: expected int, got null",
    ),
    (
        "a list around it",
        "Person",
        '[{"name": "Alice", "age": 30}]',
        False,
        "error: the answer does not fit its type: $: expected object, got array",
    ),
    (
        "an object around it",
        "Person",
        '{"person": {"name": "Alice", "age": 30}}',
        False,
        "error: the answer does not fit its type: $.name: required, but missing",
    ),
    (
        "the schema instead of a value",
        "Person",
        '{"type": "object", "properties": {"name": {"type": "string"}}}',
        False,
        "error: the answer does not fit its type: $.name: required, but missing",
    ),
    (
        "a comma too many",
        "Person",
        '{"name": "Alice", "age": 30,}',
        False,
        "error: the answer does not fit its type: $: not JSON",
    ),
    (
        "single quotes",
        "Person",
        "{'name': 'Alice', 'age': 30}",
        False,
        "error: the answer does not fit its type: $: not JSON",
    ),
    (
        "a comment",
        "Person",
        '{"name": "Alice", // her\n"age": 30}',
        False,
        "error: the answer does not fit its type: $: not JSON",
    ),
    (
        "an end of line in a string",
        "Person",
        '{"name": "Al\nice", "age": 30}',
        False,
        "Person(name='Al\\nice', age=30)",
    ),
    (
        "only words",
        "Person",
        "Alice is 30 years old.",
        False,
        "error: the answer does not fit its type: it has no JSON in it",
    ),
    ("nothing", "Person", "", False, "error: the answer does not fit its type: it has no JSON in it"),
    (
        "a refusal in words",
        "Person",
        "I cannot help with that.",
        False,
        "error: the answer does not fit its type: it has no JSON in it",
    ),
    (
        "cut in a string",
        "Person",
        '{"name": "Ali',
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    (
        "cut before the bracket",
        "Person",
        '{"name": "Alice", "age": 3',
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    (
        "cut in the words after it",
        "Person",
        '{"name": "Alice", "age": 30}\nThat is bec',
        True,
        "Person(name='Alice', age=30)",
    ),
    (
        "cut after an example",
        "Person",
        'For example {"name": "Bob", "age": 41}, so {"name": "Alice", "age": ',
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    (
        "a list",
        "People",
        '[{"name": "Alice", "age": 30}, {"name": "Bob", "age": 41}]',
        False,
        "[Person(name='Alice', age=30), Person(name='Bob', age=41)]",
    ),
    (
        "a list in its wrapper",
        "People",
        '{"value": [{"name": "Alice", "age": 30}]}',
        False,
        "[Person(name='Alice', age=30)]",
    ),
    (
        "a list with one wrong",
        "People",
        '[{"name": "Alice", "age": 30}, {"name": "Bob"}]',
        False,
        "error: the answer does not fit its type: $[1].age: required, but missing",
    ),
    (
        "a cut list",
        "People",
        '[{"name": "Alice", "age": 30}, {"name": ',
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    (
        "one for a list",
        "People",
        '{"name": "Alice", "age": 30}',
        False,
        "error: the answer does not fit its type: $: expected array, got object",
    ),
    ("numbers", "Numbers", "[1, 2, 3]", False, "[1, 2, 3]"),
    ("numbers with points", "Numbers", "[1.0, 2]", False, "[1, 2]"),
    (
        "numbers without brackets",
        "Numbers",
        "1, 2, 3",
        False,
        "error: the answer does not fit its type: $: expected array, got str",
    ),
    ("a word", "YesNo", "yes", False, "'yes'"),
    ("a word in its wrapper", "YesNo", '{"value": "yes"}', False, "'yes'"),
    ("a word with a full stop", "YesNo", "yes.", False, "'yes'"),
    ("a bold word", "YesNo", "**no**", False, "'no'"),
    ("a word in quotes", "YesNo", '"yes"', False, "'yes'"),
    (
        "a word in other case",
        "YesNo",
        "Yes",
        False,
        "error: the answer does not fit its type: $: expected 'yes' | 'no', got 'Yes'",
    ),
    (
        "a word in a sentence",
        "YesNo",
        "I would say yes",
        False,
        "error: the answer does not fit its type: $: expected 'yes' | 'no', got 'I would say yes'",
    ),
    (
        "another word",
        "YesNo",
        "maybe",
        False,
        "error: the answer does not fit its type: $: expected 'yes' | 'no', got 'maybe'",
    ),
    (
        "a cut word",
        "YesNo",
        "no",
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    ("a word in quotes, then cut", "YesNo", '"no"', True, "'no'"),
    ("a number", "int", "42", False, "42"),
    ("a number with a full stop", "int", "42.", False, "42"),
    ("a bold number", "int", "**42**", False, "42"),
    ("a number in a fence", "int", "```\n42\n```", False, "42"),
    (
        "a number in a sentence",
        "int",
        "The answer is 42",
        False,
        "error: the answer does not fit its type: $: expected int, got str",
    ),
    (
        "a number in words, alone",
        "int",
        "forty-two",
        False,
        "error: the answer does not fit its type: $: expected int, got str",
    ),
    (
        "a number with separators",
        "int",
        "1,000",
        False,
        "error: the answer does not fit its type: $: expected int, got str",
    ),
    (
        "a cut number",
        "int",
        "12",
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    (
        "a point before digits",
        "float",
        ".75",
        False,
        "error: the answer does not fit its type: $: expected float, got str",
    ),
    (
        "a point before digits, for an integer",
        "int",
        ".75",
        False,
        "error: the answer does not fit its type: $: expected int, got str",
    ),
    ("a percentage", "float", "75%", False, "error: the answer does not fit its type: $: expected float, got str"),
    ("an exponent", "float", "1e3", False, "1000.0"),
    (
        "too large for a float",
        "float",
        "1e500",
        False,
        "error: the answer does not fit its type: $: number out of range",
    ),
    ("NaN", "float", "NaN", False, "error: the answer does not fit its type: $: expected a finite number"),
    (
        "a cut fraction",
        "float",
        "3.1",
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    ("all digits of a Decimal", "Decimal", "100000000000000000.01", False, "Decimal('100000000000000000.01')"),
    ("a number out of bounds", "Days", "9", False, "error: the answer does not fit its type: $: expected int <= 7"),
    ("true", "bool", "true", False, "True"),
    ("True", "bool", "True", False, "error: the answer does not fit its type: $: expected bool, got str"),
    ("yes for a bool", "bool", "yes", False, "error: the answer does not fit its type: $: expected bool, got str"),
    ("a day", "Date", "2024-02-29", False, "datetime.date(2024, 2, 29)"),
    (
        "a day that is none",
        "Date",
        "2023-02-29",
        False,
        "error: the answer does not fit its type: $: invalid RFC3339 encoded date",
    ),
    (
        "a day in words",
        "Date",
        "February 29, 2024",
        False,
        "error: the answer does not fit its type: $: invalid RFC3339 encoded date",
    ),
    ("text", "str", "Oslo is the capital of Norway.", False, "'Oslo is the capital of Norway.'"),
    ("text in its wrapper", "str", '{"value": "Oslo"}', False, "'Oslo'"),
    ("text with brackets", "str", "[Verse 1]\nLa la", False, "'[Verse 1]\\nLa la'"),
    (
        "a cut text",
        "str",
        "The capital of Nor",
        True,
        "error: the answer was cut off at max_tokens, before it fitted its type; raise max_tokens",
    ),
    ("a broken wrapper", "str", '{"value": "Oslo",}', False, "error: the answer does not fit its type: $: not JSON"),
    ("a class or nothing", "Person | None", "null", False, "None"),
    ("a class or a word", "Person | YesNo", "no", False, "'no'"),
]


def outcome(kind: str, text: str, cut: bool) -> str:
    answer = ChatResponse(choices=(Choice(text=text, finish_reason="length" if cut else "stop"),))
    try:
        return repr(Output.of(globals().get(kind) or eval(kind)).read(answer).parsed)
    except ResponseTypeError as error:
        return "error: " + re.sub(
            r"(not JSON): .*", r"\1", str(error)
        )  # the rest is the standard library's, as it is now


@pytest.mark.parametrize(("what", "kind", "text", "cut", "expected"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_an_answer_is_read_or_refused(what: str, kind: str, text: str, cut: bool, expected: str) -> None:
    assert outcome(kind, text, cut) == expected


def test_the_table_is_a_table() -> None:
    assert len(ANSWERS) >= 60
    assert len({row[0] for row in ANSWERS}) == len(ANSWERS)


def test_the_docs_show_it() -> None:
    assert PAGE.read_text() == page()


def page() -> str:
    def cell(text: str) -> str:
        shown = text.replace("\n", "⏎")
        for mark in "&<|*`":
            shown = shown.replace(mark, f"&#{ord(mark)};")
        return f"<code>{shown}</code>" if shown else "(empty)"

    rows = [
        f"| {what} | {cell(kind)} | {cell(text)}{' (cut off)' if cut else ''} | "
        + (expected if expected.startswith("error") else cell(expected)).replace("|", "&#124;")
        + " |"
        for what, kind, text, cut, expected in ANSWERS
    ]
    head = """# Answers as models write them

What `response_type` makes of an answer's text: a value, or an error. The value may be the whole text, in a code fence, or
among words; if several fit, it is the last. Broken JSON is not repaired, and a part is never taken for the whole. If the
answer was cut off (at `max_tokens`, by a filter, or with its stream), only what a bracket, a quotation mark or a fence
closes is a value. `⏎` is a line break. (`python tests/wire/test_answers.py` prints this page, and a test compares it.)

`Person` has a `name` and an `age`; `Days` is an `int` from 1 to 7.

| Answer | Type | Text | Result |
|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
