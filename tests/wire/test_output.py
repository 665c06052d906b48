"""Typed answers: the schema that is asked for, and the value that is found in a text."""

# No annotations from __future__: the classes inside of tests are to be found.

import contextlib
import datetime
import decimal
import enum
import itertools
import json
import pickle
import re
import string
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import examples

from openai_compat.errors import ConfigurationError, ResponseTypeError
from openai_compat.wire.messages import ToolCall
from openai_compat.wire.output import MAX_CANDIDATES, Output, repair_request
from openai_compat.wire.request import ChatRequest, build_messages
from openai_compat.wire.response import ChatResponse, Choice, ParsedResponse

T = TypeVar("T")


@attrs.frozen
class Person:
    name: str
    age: int


@dataclass
class Place:
    city: str
    rows: list[Person] = field(default_factory=list)


class Row(TypedDict):
    id: int


class Bag(msgspec.Struct):
    items: list[str]


class Model(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Size(enum.Enum):
    S = "small"
    L = "large"


class Pair(NamedTuple):
    x: int
    y: int


@attrs.frozen
class Node:
    name: str
    children: list["Node"] = attrs.field(factory=list)


@attrs.frozen
class Größe:
    wert: int
    mehr: Optional["Größe"] = None


@dataclass
class NodeList:
    """Its name begins with another's."""

    node: Node


@dataclass
class Box(Generic[T]):
    content: T


@attrs.frozen
class Money:
    value: float


@attrs.frozen
class Price:
    value: decimal.Decimal


class PricedModel(pydantic.BaseModel):
    value: decimal.Decimal


@attrs.frozen
class Free:
    """Nothing is required."""

    a: int = 0


PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
ALICE = '{"name": "Alice", "age": 30}'


def answer(text: str = "", **choice: Any) -> ChatResponse:
    return ChatResponse(choices=(Choice(text=text, **choice),), provider="p", request_id="r")


def read(response_type: Any, text: str, **choice: Any) -> Any:
    return Output.of(response_type).read(answer(text, **choice)).parsed


def problem(response_type: Any, text: str, **choice: Any) -> ResponseTypeError:
    with pytest.raises(ResponseTypeError) as caught:
        Output.of(response_type).read(answer(text, **choice))
    return caught.value


def wrapped(inner: dict[str, Any], **definitions: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {**made, "$defs": definitions} if definitions else made


# The schema


def test_a_class_stands_at_the_root() -> None:
    assert Output(Person).schema == {**PERSON, "title": "Person", "required": ["name", "age"]}


def test_classes_within_stay_definitions() -> None:
    schema = Output(Place).schema
    assert schema["properties"]["rows"]["items"] == {"$ref": "#/$defs/Person"}
    assert set(schema["$defs"]) == {"Person"}


@pytest.mark.parametrize(
    ("response_type", "inner"),
    [
        (int, {"type": "integer"}),
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (Literal["yes", "no"], {"enum": ["no", "yes"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Annotated[int, msgspec.Meta(ge=3)], {"type": "integer", "minimum": 3}),
    ],
    ids=str,
)
def test_what_is_no_object_is_put_into_one(response_type: Any, inner: dict[str, Any]) -> None:
    assert Output(response_type).schema == wrapped(inner)


def test_definitions_stand_at_the_root_of_what_is_wrapped() -> None:
    assert Output(list[Person]).schema == wrapped(
        {"type": "array", "items": {"$ref": "#/$defs/Person"}}, Person=Output(Person).schema
    )


@pytest.mark.parametrize("response_type", [dict, dict[str, int], Row, Bag, Model, Box[int]], ids=str)
def test_objects_are_not_wrapped(response_type: Any) -> None:
    schema = Output(response_type).schema
    assert schema["type"] == "object"
    assert "value" not in schema.get("properties", {})
    assert "$ref" not in schema


@pytest.mark.parametrize("response_type", [Node, Größe, NodeList, list[Node]], ids=str)
def test_a_class_that_holds_itself_keeps_its_definition(response_type: Any) -> None:
    schema = Output(response_type).schema
    assert schema["type"] == "object"
    assert references(schema) <= {f"#/$defs/{name}" for name in schema["$defs"]}
    assert references(schema) >= {f"#/$defs/{name}" for name in schema["$defs"]}


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def test_a_description_of_the_whole_is_kept() -> None:
    schema = Output(Annotated[Person, "Whom it is about"]).schema
    assert schema == {**Output(Person).schema, "description": "Whom it is about"}


@pytest.mark.parametrize("response_type", [Person, Node, list[Person], Person | Row, Literal["a"], Place], ids=str)
def test_in_strict_mode_every_object_is_closed(response_type: Any) -> None:
    def check(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert sorted(schema["required"]) == sorted(schema["properties"])
            for inner in schema.values():
                check(inner)
        elif isinstance(schema, list):
            for inner in schema:
                check(inner)

    schema = Output(response_type, strict=True).schema
    check(schema)
    assert schema["type"] == "object"


def test_a_schema_is_sent_as_it_is() -> None:
    for schema in (PERSON, {"type": "array"}, {}, {**PERSON, "x-mine": 1}):
        assert Output.of(schema).schema == Output.of(schema, strict=True).schema == schema


OPENAIS = {"name": "person", "schema": {**PERSON, "required": ["name", "age"]}, "strict": True}


@pytest.mark.parametrize("wrapped", [OPENAIS, {"type": "json_schema", "json_schema": OPENAIS}], ids=["inner", "outer"])
def test_openais_wrapper_of_a_schema_is_understood(wrapped: dict[str, Any]) -> None:
    output = Output.of(wrapped)
    assert output.schema == OPENAIS["schema"]
    assert output.asked(ChatRequest("hi")).strict is True
    assert problem(wrapped, '{"name": "Alice"}').path == "$"
    assert read(wrapped, ALICE) == {"name": "Alice", "age": 30}


def test_types_that_are_equal_but_not_the_same_are_told_apart() -> None:
    class A(msgspec.Struct):
        x: int

    class B(msgspec.Struct):
        x: int

    assert A | B == B | A
    assert type(read(A | B, '{"value": {"x": 1}}')) is A
    assert type(read(B | A, '{"value": {"x": 1}}')) is B
    assert read(Literal[1], '{"value": 1}') == 1
    assert problem(Literal[True], '{"value": 1}')


def test_an_output_is_made_once() -> None:
    assert Output.of(list[Person]) is Output.of(list[Person])
    assert Output.of(Person) is not Output.of(Person, strict=True)


@pytest.mark.parametrize(
    ("response_type", "message"),
    [
        ("Person", "'Person'' is not supported"),
        (5, "5"),
        (object(), "object"),
        ([Person], "not supported"),
        (Annotated[type, []], "not supported"),
        ((int, str), "not supported"),
        (type("Plain", (), {}), "Plain"),
        (list[int] | type, "type"),
        ({"type": "nope"}, "no JSON Schema: 'nope' is not valid"),
        ({"properties": 3}, "no JSON Schema: 3 is not of type 'object'"),
        ({"pattern": "("}, "no JSON Schema: '\\(' is not a 'regex'"),
        ({"$schema": []}, "no JSON Schema"),
        ({"$schema": 5}, "no JSON Schema"),
        # A reference that leads nowhere, before anything is asked.
        ({"$ref": "#/$defs/nowhere"}, "the reference '#/\\$defs/nowhere' leads nowhere"),
        ({"items": {"anyOf": [{"$ref": "#nowhere"}]}}, "leads nowhere"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "leads nowhere"),
        # What would check nothing.
        ({"name": str}, "that JSON Schema has no keywords for: 'name'"),
        ({"title": "A", "schema": {"type": "integer"}}, "no keywords for: 'schema'"),
        ({"name": "a", "description": "b"}, "no keywords for: 'name'"),
        ({"name": "a", "schema": "b"}, "no keywords for: 'name', 'schema'"),
        ({"nmae": {"type": "string"}, "age": {"type": "integer"}}, "no keywords for: 'nmae', 'age'"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "no keywords for: 'name'"),
    ],
)
def test_what_is_no_type_is_told(response_type: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Output.of(response_type)


@pytest.mark.slow
def test_a_schema_of_ones_own_in_strict_mode_has_its_limits() -> None:
    schema = {"properties": {f"p{at}": True for at in range(5001)}, "items": False, "$defs": {"a": True}}
    assert Output(schema).schema == schema
    with pytest.raises(ConfigurationError, match="at most 5,000 properties"):
        Output({"name": "many", "schema": schema, "strict": True})


def test_a_schema_nested_too_deeply_is_told() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"not": schema}
    with pytest.raises(ConfigurationError, match="no JSON Schema"):
        Output.of(schema)


def test_what_strict_mode_cannot_say_is_told() -> None:
    with pytest.raises(ConfigurationError, match="strict mode"):
        Output.of(dict[str, int], strict=True)


def test_without_jsonschema_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'openai-compat\[schema\]'"):
        Output.of(PERSON)
    assert read(Person, ALICE) == Person("Alice", 30)


@pytest.mark.parametrize("given_too", [{"response_schema": {}}, {"response_format": {"type": "json_object"}}], ids=str)
def test_two_schemas_are_one_too_many(given_too: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="response_type is given"):
        Output(Person).asked(ChatRequest("hi", **given_too))


# The value


@pytest.mark.parametrize(
    ("response_type", "text", "value"),
    [
        (Person, ALICE, Person("Alice", 30)),
        (Place, f'{{"city": "Oslo", "rows": [{ALICE}]}}', Place("Oslo", [Person("Alice", 30)])),
        (Row, '{"id": 3.0}', {"id": 3}),
        (Bag, '{"items": []}', Bag([])),
        (Model, ALICE, Model(name="Alice", age=30)),
        (Box[Person], f'{{"content": {ALICE}}}', Box(Person("Alice", 30))),
        (Node, '{"name": "a", "children": [{"name": "b"}]}', Node("a", [Node("b")])),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict, '{"value": 1}', {"value": 1}),
        (Any, '{"value": {"a": 1}}', {"a": 1}),
        (list[Person], f'{{"value": [{ALICE}]}}', [Person("Alice", 30)]),
        (list[Person], f"[{ALICE}]", [Person("Alice", 30)]),
        (Numbers, '{"value": [1]}', Numbers([1])),
        (Person | Row, '{"value": {"id": 1}}', {"id": 1}),
        (Person | Row, ALICE, Person("Alice", 30)),
        (Person | None, '{"value": null}', None),
        (Literal["yes", 1], '{"value": 1}', 1),
        (Size, '{"value": "small"}', Size.S),
        (int, '{"value": 3}', 3),
        (int | str, '{"value": "3"}', "3"),
        (float, '{"value": 3}', 3.0),
        (str, '{"value": ""}', ""),
        (bool, '{"value": false}', False),
        (tuple[int, str], '{"value": [1, "a"]}', (1, "a")),
        (set[int], '{"value": [1, 2, 1]}', {1, 2}),
        (Pair, '{"value": [1, 2]}', Pair(1, 2)),
        (bytes, '{"value": "aGk="}', b"hi"),
        (datetime.date, '{"value": "2024-02-29"}', datetime.date(2024, 2, 29)),
        (decimal.Decimal, '{"value": "1.50"}', decimal.Decimal("1.50")),
        (uuid.UUID, '{"value": "00000000-0000-0000-0000-000000000001"}', uuid.UUID(int=1)),
        (Money, '{"value": 1.5}', Money(1.5)),
        (Money | None, '{"value": {"value": 1.5}}', Money(1.5)),
        (Money | None, '{"value": 1.5}', Money(1.5)),
        (PERSON, '{"age": 3}', {"age": 3}),
        ({"type": "array"}, "[1]", [1]),
        ({"enum": ["a"]}, '"a"', "a"),
        ({}, "null", None),
    ],
    ids=str,
)
def test_the_value_of_every_kind_of_type(response_type: Any, text: str, value: Any) -> None:
    parsed = read(response_type, text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_the_answer_is_kept_whole() -> None:
    given_answer = answer(ALICE, reasoning="hm", finish_reason="stop")
    parsed = Output.of(Person).read(given_answer)
    assert isinstance(parsed, ParsedResponse)
    for each in attrs.fields(ChatResponse):
        assert getattr(parsed, each.name) == getattr(given_answer, each.name)
    assert (parsed.text, parsed.reasoning) == (ALICE, "hm")
    assert pickle.loads(pickle.dumps(parsed)) == parsed


def test_in_strict_mode_null_stands_for_what_was_left_out() -> None:
    output = Output.of(Place, strict=True)
    assert output.read(answer('{"city": "Oslo", "rows": null}')).parsed == Place("Oslo", [])


def fenced(text: str, language: str = "json") -> str:
    return f"```{language}\n{text}\n```"


BOB = '{"name": "Bob", "age": 41}'
TREE = '{"name": "root", "children": [{"name": "a", "children": []}, {"name": "b"}]}'


@pytest.mark.parametrize(
    ("response_type", "text", "value"),
    [
        # Fences
        (Person, fenced(ALICE), Person("Alice", 30)),
        (Person, fenced(ALICE, ""), Person("Alice", 30)),
        (Person, fenced(ALICE, "JSON5"), Person("Alice", 30)),
        (Person, fenced(ALICE).replace("\n", "\r\n"), Person("Alice", 30)),
        (Person, f"```json {ALICE} ```", Person("Alice", 30)),
        (Person, f"~~~json\n{ALICE}\n~~~", Person("Alice", 30)),
        (Person, f"```json\n{ALICE}", Person("Alice", 30)),
        (Person, f"`{ALICE}`", Person("Alice", 30)),
        (Person, f"Sure:\n\n{fenced(ALICE)}\n\nAnything else?", Person("Alice", 30)),
        (Person, f"{fenced('print({})', 'python')}\n{fenced(ALICE)}", Person("Alice", 30)),
        (Person, f"{fenced(ALICE)}\nIt prints:\n{fenced('{1: 2}', 'python')}", Person("Alice", 30)),
        (Person, f"{fenced(ALICE)} as {BOB} is not in a fence", Person("Alice", 30)),
        (Person, f"A draft: {fenced(ALICE)} Better: {fenced(BOB)}", Person("Bob", 41)),
        (list[int], f"{fenced('[2, 3]')} See [1].", [2, 3]),
        (int, f"So:\n{fenced('42')}", 42),
        (Literal["yes", "no"], f"So:\n{fenced('yes', 'text')}", "yes"),
        (Bag, '{"items": ["```json\\n{}\\n```"]}', Bag(["```json\n{}\n```"])),
        (Bag, 'See {"items": ["a ``` b", "```\\n[]\\n```"]}.', Bag(["a ``` b", "```\n[]\n```"])),
        # Words around
        (Person, f"The person is {ALICE}, I think.", Person("Alice", 30)),
        (Person, f"**{ALICE}**", Person("Alice", 30)),
        (Person, f"\ufeff{ALICE}", Person("Alice", 30)),
        (Person, f"\ufeff \n{ALICE} \n\x00", Person("Alice", 30)),
        (Person, f"\xa0{ALICE}\u200b", Person("Alice", 30)),
        (Person, f'He said "use this: {ALICE}"', Person("Alice", 30)),
        (Person, f"As [1] and {{name}} and [note] say: {ALICE}", Person("Alice", 30)),
        (Person, f"[Answer: {ALICE}]", Person("Alice", 30)),
        (Person, f"{{{ALICE}}}", Person("Alice", 30)),
        (Person, f":-{{ Well, {ALICE}", Person("Alice", 30)),
        (Person, f"x in [0, 1) and [2, 3) gives {ALICE}", Person("Alice", 30)),
        (Person, f"The keys {{'name', 'age'}}: {ALICE}", Person("Alice", 30)),
        (Person, f'The keys {{"name", "age"}}: {ALICE}', Person("Alice", 30)),
        (Person, f'<think>{{"name": "{{", }}</think>{ALICE}', Person("Alice", 30)),
        (Person, f'{{"a": 1}}{ALICE}', Person("Alice", 30)),
        (Person, f'{ALICE}{{"note": 1}}', Person("Alice", 30)),
        (Person, f"For example {BOB}. The answer is {ALICE}", Person("Alice", 30)),
        (Person, f"Thus {ALICE}, but not {{'name': 'Bob'}}", Person("Alice", 30)),
        (Person, '{"name": "a\nb", "age": 1}', Person("a\nb", 1)),
        (Person, 'So {"name": "a\nb\\"}{", "age": 1}.', Person('a\nb"}{', 1)),
        (Person, ("[1] " * MAX_CANDIDATES) + ALICE, Person("Alice", 30)),
        (Node, f"The tree: {TREE}", Node("root", [Node("a"), Node("b")])),
        (Person, fenced(fenced(ALICE)), Person("Alice", 30)),
        (list[Person], f"So [{ALICE}].", [Person("Alice", 30)]),
        (list[Person], f'So {{"value": [{ALICE}]}}.', [Person("Alice", 30)]),
        (list[bool], "So [true].", [True]),
        (list[list[int]], "So [[1], []].", [[1], []]),
        (list[int], "As [1] says: [2, 3]", [2, 3]),
        (PERSON, f"It is {ALICE}.", {"name": "Alice", "age": 30}),
        # Values without quotes
        (Literal["yes", "no"], "yes", "yes"),
        (Literal["yes", "no"], " yes\n", "yes"),
        (Literal["yes", "no"], "**yes**", "yes"),
        (Literal["yes", "no"], "`yes`.", "yes"),
        (Literal["yes", "no"], "'yes'", "yes"),
        (Literal["yes", "no"], "“yes.”", "yes"),
        (Literal["yes", "no"], '"yes"', "yes"),
        (Literal["yes", "no"], "\ufeffyes", "yes"),
        (Literal["yes.", "no"], "yes.", "yes."),
        (Literal["1", "2"], "1", "1"),
        (Literal["[x]", "[ ]"], "[x]", "[x]"),
        (Size, "large", Size.L),
        (int, "42", 42),
        (int, "**42**", 42),
        (int, "42.", 42),
        (int, "-7\n", -7),
        (int | None, "null", None),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (datetime.date, "`2024-02-29`", datetime.date(2024, 2, 29)),
        (str, "Hello there.", "Hello there."),
        (str, "  **Hello** [1] {name} [2, 3]! ", "**Hello** [1] {name} [2, 3]!"),
        (str, "42", "42"),
        (str, "[Verse 1]\nLa la", "[Verse 1]\nLa la"),
        (str, fenced("print(1)", "python"), fenced("print(1)", "python")),
        (str, 'Sure! {"value": "Hello"}', "Hello"),
        (int | str, "about 3", "about 3"),
    ],
    ids=str,
)
def test_where_models_hide_a_value(response_type: Any, text: str, value: Any) -> None:
    assert read(response_type, text) == value


@pytest.mark.parametrize(
    "text",
    ["NaN", "-Infinity", "1e500", "1e99999999999999999999", '{"value": NaN}', 'It is {"value": 1e999}', "[NaN] it is"],
)
@pytest.mark.parametrize(
    "response_type",
    [float, list[float], dict[str, float], Money, {"type": ["number", "object", "array"]}],
    ids=str,
)
def test_what_is_not_finite_is_no_number(response_type: Any, text: str) -> None:
    problem(response_type, text)


@pytest.mark.parametrize("kind", [decimal.Decimal, dict[str, decimal.Decimal], Price, PricedModel], ids=str)
@pytest.mark.parametrize("digits", ["100000000000000000.01", "0.1", "1E+500", "12345678901234567890", "-0.00"])
def test_a_decimal_has_the_digits_that_were_written(kind: Any, digits: str) -> None:
    if kind is PricedModel and "E" in digits:
        problem(kind, f'{{"value": {digits}}}')  # Pydantic would make a float of it
        return
    parsed = read(kind, f'{{"value": {digits}}}')
    made = parsed["value"] if isinstance(parsed, dict) else getattr(parsed, "value", parsed)
    assert str(made) == digits


NOTHING = r"^the answer does not fit its type: it has no JSON in it$"
NOT_JSON = r"^the answer does not fit its type: \$: not JSON: "


@pytest.mark.parametrize(
    ("response_type", "text", "message", "path"),
    [
        (Person, "I do not know.", NOTHING, "$"),
        (Person, "", NOTHING, "$"),
        (Person, "As [note] and {name} say", NOTHING, "$"),
        (Person, fenced("Alice, 30"), r"\$: not JSON", "$"),
        (Person, "Alice", NOTHING, "$"),
        (PERSON, "Alice", NOTHING, "$"),
        ({"type": "string"}, "Alice", NOTHING, "$"),
        # Broken JSON is not mended, and nothing within it is taken for the whole.
        (Person, '{"name": "Alice", "age": 30,}', NOT_JSON, "$"),
        (Person, "{'name': 'Alice', 'age': 30}", NOT_JSON, "$"),
        (Person, '{"name": "Alice", "age": 30', NOT_JSON, "$"),
        (Person, '{"name": "Alice, "age": 30}', NOT_JSON, "$"),
        (Person, '{"name": "Ali', NOT_JSON, "$"),
        (Person, '{"name": "Ali\\', NOT_JSON, "$"),
        (Person, '{"name": // who?\n"Alice", "age": 30}', NOT_JSON, "$"),
        (Node, TREE[:-2], NOT_JSON, "$"),
        (Node, TREE[:-1], NOT_JSON, "$"),
        (Node, TREE.replace('"b"}]', '"b"},]'), NOT_JSON, "$"),
        (Node, TREE.replace('"root"', "'root'"), NOT_JSON, "$"),
        (Node, f"So: {TREE[:-1]}", NOT_JSON, "$"),
        (Node, fenced(TREE[:-1]), NOT_JSON, "$"),
        (Node, fenced(TREE[:-1], "json")[:-3], NOT_JSON, "$"),
        (Free, '{"b": {}, "c": {"a": 1}', NOT_JSON, "$"),
        (Person, f"An example: {BOB}. The answer: {ALICE[:-1]}", NOT_JSON, "$"),
        (list[list[int]], "[[1], [2", NOT_JSON, "$"),
        (list[Person], f'{{"value": [{ALICE}, {{"name": ', NOT_JSON, "$"),
        (str, '{"value": "Hel', NOT_JSON, "$"),
        (str, "{", NOTHING, "$"),
        (str, "```json\n{ ", NOTHING, "$"),
        (str, '{"value": "Hello",}', NOT_JSON, "$"),
        (str, fenced('{"value": "Hello",}'), NOT_JSON, "$"),
        (Any, '{"value": "Hel', NOT_JSON, "$"),
        (int, "9" * 5000, r"\$", "$"),
        # Another type
        (Person, "42", r"\$: expected object, got int", "$"),
        (Person, f"[{ALICE}]", r"\$: expected object, got array", "$"),
        (Person, '{"name": "Alice"}', r"\$\.age: required, but missing", "$.age"),
        (Person, '{"name": "Alice", "age": "x"}', r"\$\.age: expected int, got str", "$.age"),
        (Person, '{"name": "Alice", "age": NaN}', r"\$\.age: expected a finite number", "$.age"),
        (Person, '[1] So {"name": "Alice", "age": "x"} [2]', r"\$\.age: expected int, got str", "$.age"),
        (Place, f'{{"city": "x", "rows": [{ALICE}, {{"name": 3}}]}}', r"\$\.rows\[1\]\.", "$.rows[1].name"),
        (list[Person], f'{{"value": [{ALICE}, {{"age": 1}}]}}', r"\$\[1\]\.name: required", "$[1].name"),
        (list[Person], "none", r"\$: expected array, got str", "$"),
        (Model, '{"name": "Alice", "age": -1}', r"\$\.age: input should be greater", "$.age"),
        (PERSON, '{"age": "x"}', r"\$\.age: 'x' is not of type 'integer'", "$.age"),
        (int, '{"value": "x"}', r"\$: expected int, got str", "$"),
        (int, '{"value": 1, "why": "x"}', r"\$: expected int, got object", "$"),
        (int, "forty-two", r"\$: expected int, got str", "$"),
        (str, '{"value": 3}', r"\$: expected str, got int", "$"),
        (bool, "Yes", r"\$: expected bool, got str", "$"),
        (Literal["yes", "no"], "I think yes", r"\$: expected 'yes' \| 'no', got 'I think yes'", "$"),
        (Literal["yes", "no"], '{"value": "maybe"}', r"\$: expected 'yes' \| 'no', got 'maybe'", "$"),
        (Literal["yes", "no"], '{"answer": "yes"}', r"\$: expected 'yes' \| 'no', got object", "$"),
        (datetime.date, "2024-02-30", r"\$: invalid", "$"),
    ],
    ids=str,
)
def test_what_does_not_fit_says_where(response_type: Any, text: str, message: str, path: str) -> None:
    error = problem(response_type, text)
    assert re.search(message, str(error))
    assert "\n" not in str(error)
    assert error.partial is not None
    assert (error.path, error.partial.text, error.provider, error.request_id) == (path, text, "p", "r")


def test_the_error_pickles() -> None:
    error = problem(Place, '{"city": "x", "rows": [1]}')
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.partial) == (str(error), "$.rows[0]", error.partial)


def test_a_refusal_is_told() -> None:
    for response_type in (Person, str, Any, PERSON):
        error = problem(response_type, "", refusal="I cannot help with that")
        assert str(error) == "the model refused: I cannot help with that"
        assert error.partial is not None
        assert error.partial.refusal


def test_an_answer_that_was_cut_off_is_told() -> None:
    for response_type, text in ((Person, ALICE[:-3]), (list[int], "[1, 2"), (str, '{"value": "abc'), (Person, "Well")):
        assert "cut off at max_tokens" in str(problem(response_type, text, finish_reason="length"))


def test_an_example_in_a_fence_is_not_the_answer_that_was_broken_off() -> None:
    assert problem(Person, f"For example\n```json\n{ALICE}\n```\nthen\n```json\n{ALICE[:-3]}").path == "$"


@pytest.mark.parametrize("reason", ["", "unknown", "stop", "EOS", "tool_calls"])
def test_a_bare_value_counts_where_nothing_cut_it(reason: str) -> None:
    assert read(int, "12", finish_reason=reason) == 12


CUT = [
    *({"finish_reason": reason} for reason in ("length", "content_filter", "MAX_TOKENS", "SAFETY", "a new one")),
    {"truncated": True},
]


def read_cut(response_type: Any, text: str, cut: dict[str, Any]) -> Any:
    whole = answer(text, **{key: value for key, value in cut.items() if key != "truncated"})
    return Output.of(response_type).read(attrs.evolve(whole, truncated="truncated" in cut)).parsed


@pytest.mark.parametrize("cut", CUT, ids=str)
@pytest.mark.parametrize(
    ("response_type", "text"),
    [
        (int, "12"),
        (float, "3.1"),
        (float, "3."),
        (str, "The capital of Nor"),
        (Literal["no", "none"], "no"),
        (Literal["no", "none"], "**no"),
        (bool, "true"),
        (int | None, "null"),
        (datetime.date, "2024-02-2"),
        (str, "```\nThe capi"),
        (str, "Run this:\n```\nls\n```\nand th"),
        (int, "```\n12\n``` or\n```\n13"),
        (Person, f"```json\n{ALICE}\n```\nNo:\n```json\n{ALICE[:-3]}"),
        ({"type": "integer"}, "12"),
    ],
    ids=str,
)
def test_in_an_answer_that_was_cut_nothing_open_is_a_value(response_type: Any, text: str, cut: dict[str, Any]) -> None:
    with pytest.raises(ResponseTypeError, match="cut off"):
        read_cut(response_type, text, cut)


@pytest.mark.parametrize("cut", CUT, ids=str)
@pytest.mark.parametrize(
    ("response_type", "text", "value"),
    [
        (Person, f"{ALICE}\nThat is bec", Person("Alice", 30)),
        (Literal["no", "none"], '"no"', "no"),
        (Literal["no", "none"], "```\nno\n```\nBec", "no"),
        (list[int], "[1, 2]", [1, 2]),
        (int, '{"value": 12}', 12),
        (int, "```json\n12\n```", 12),
    ],
    ids=str,
)
def test_only_words_after_the_value_were_cut_off(
    response_type: Any, text: str, value: Any, cut: dict[str, Any]
) -> None:
    assert read_cut(response_type, text, cut) == value


@pytest.mark.parametrize(
    ("response_type", "text"),
    [(float, ".75"), (int, ".75"), (Literal[5, 10], ".5"), (int, "-.5"), (int, "42.."), (int, "$5"), (int, "5%")],
    ids=str,
)
def test_no_character_of_a_value_is_stripped(response_type: Any, text: str) -> None:
    problem(response_type, text)


@pytest.mark.parametrize("text", ["", "Let me look.", ALICE])
def test_an_answer_that_calls_tools_has_no_value(text: str) -> None:
    call = ToolCall.from_wire({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}})
    assert read(Person, text, tool_calls=(call,)) is None


def test_only_the_first_choice_is_read() -> None:
    two = ChatResponse(choices=(Choice(text=ALICE), Choice(index=1, text="no")))
    assert Output.of(Person).read(two).parsed == Person("Alice", 30)


# A schema of the user's


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$ref": "#"}, "{}"),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_told(schema: dict[str, Any], text: str) -> None:
    assert "cannot be checked" in str(problem(schema, text))


def test_a_schema_names_its_own_draft() -> None:
    draft_4 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    assert "3" in str(problem(draft_4, "3"))
    with pytest.raises(ConfigurationError, match="not of type 'number'"):
        Output.of({"exclusiveMinimum": True})


LONG = "word " * 5000


@pytest.mark.parametrize(
    ("response_type", "text"),
    [
        (Literal["yes"], LONG),
        (Size, json.dumps({"value": LONG})),
        (dict[str, int], json.dumps({LONG: "x"})),
        ({"const": LONG}, "1"),
        ({"type": "integer"}, json.dumps(LONG)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_long_complaint_is_cut(response_type: Any, text: str) -> None:
    message = str(problem(response_type, text))
    assert len(message) < 400
    assert "…" in message


# Asking again


def test_the_request_of_a_repair() -> None:
    request = Output.of(Person).asked(ChatRequest("Who?", system="Be brief.", model="m", temperature=0.5))
    error = problem(Person, '{"name": "Ö"}')
    again = repair_request(request, error, Output(Person))
    assert build_messages(again) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": '{"name": "Ö"}'},
        {
            "role": "user",
            "content": "That cannot be used: the answer does not fit its type: $.age: required, but missing. "
            'Answer again, with nothing but JSON that fits this schema: {"title":"Person","type":"object",'
            '"properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"]}',
        },
    ]
    assert attrs.evolve(again, messages=()) == attrs.evolve(request, prompt=None, system=None)


def test_a_repair_of_words_says_that_there_is_no_json() -> None:
    request = Output.of(Person).asked(ChatRequest("Who?", model="m"))
    last = build_messages(repair_request(request, problem(Person, "Alice"), Output(Person)))[-1]["content"]
    assert last.startswith("That cannot be used: the answer does not fit its type: it has no JSON in it. Answer")


def test_a_repair_keeps_images() -> None:
    request = Output.of(Person).asked(ChatRequest("Who?", images=["https://example.com/a.png"], model="m"))
    again = repair_request(request, problem(Person, "x"), Output(Person))
    assert build_messages(again)[:1] == build_messages(request)


# Properties

JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PEOPLE = st.builds(lambda name, age: {"name": name, "age": age}, JSON_TEXT, st.integers(-9, 9))
TREES = st.recursive(
    st.builds(lambda name: {"name": name}, JSON_TEXT),
    lambda trees: st.builds(lambda name, children: {"name": name, "children": children}, JSON_TEXT, st.lists(trees)),
    max_leaves=6,
)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (str, JSON_TEXT),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (Literal["yes", "no"], st.sampled_from(["yes", "no"])),
    (Person, PEOPLE),
    (Node, TREES),
]
CONTAINERS: list[tuple[Any, Any]] = [
    (lambda kind: list[kind], st.lists),
    (lambda kind: dict[str, kind], lambda values: st.dictionaries(JSON_TEXT, values)),
    (lambda kind: Box[kind], lambda values: st.builds(lambda value: {"content": value}, values)),
    (lambda kind: kind | None, lambda values: st.none() | values),
]
WORDS = st.text(st.characters(exclude_characters="[]{}`", exclude_categories=["Cs"]), max_size=60)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    """A type, and a JSON value that fits it."""
    kind, values = draw(st.sampled_from(KINDS))
    for _ in range(draw(st.integers(0, 2))):
        of, make = draw(st.sampled_from(CONTAINERS))
        kind, values = of(kind), make(values)
    return kind, draw(values)


@examples(200)
@given(typed_values(), WORDS, WORDS, st.booleans(), st.sampled_from([None, 2]), st.booleans())
def test_a_value_is_found_among_words(
    typed: tuple[Any, Any], before: str, after: str, escaped: bool, indent: int | None, in_fence: bool
) -> None:
    kind, value = typed
    output = Output.of(kind)
    asked = {"value": value} if output.schema.get("properties", {}).keys() == {"value"} else value
    text = json.dumps(asked, ensure_ascii=escaped, indent=indent)
    alone = output.read(answer(text)).parsed
    if in_fence:
        text = f"\n```json\n{text}\n```\n"
    assert output.read(answer(before + text + after)).parsed == alone


@examples(200)
@given(typed_values(), st.data())
def test_a_piece_of_a_value_is_never_taken_for_the_whole(typed: tuple[Any, Any], data: st.DataObject) -> None:
    kind, value = typed
    output = Output.of(kind)
    asked = {"value": value} if output.schema.get("properties", {}).keys() == {"value"} else value
    text = json.dumps(asked)
    cut = data.draw(st.integers(1, len(text) - 1))
    with pytest.raises(ResponseTypeError):
        output.read(answer(text[:cut]))


PIECES = [*"{}[]\"\\'`,:1tn \n", "```json\n", '"value": ', "null", "\ud800", "\ufeff"]
ROUGH = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TYPES = [Person, Node, str, int, list[int], dict, Person | Row, Any, Model, PERSON]


@examples(200)
@given(ROUGH | st.text(), st.sampled_from(TYPES))
def test_no_text_raises_anything_else(text: str, response_type: Any) -> None:
    with contextlib.suppress(ResponseTypeError):
        parsed = Output.of(response_type).read(answer(text)).parsed
        assert response_type in (list[int], Any, Person | Row, PERSON) or isinstance(parsed, response_type)


LENGTH = 200_000
HOSTILE = {
    "braces": "{" * LENGTH,
    "brackets": "[" * LENGTH,
    "pairs": "[1]" * (LENGTH // 3),
    "objects": '{"a":1}' * (LENGTH // 7),
    "numbers": "[1," * (LENGTH // 3),
    "intervals": "[0, 1) " * (LENGTH // 7),
    "keys": '{"a":' * (LENGTH // 5),
    "nested": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "lists": "x" + "[" * 20_000 + "]" * 20_000,
    "escapes": '["' + '\\"' * (LENGTH // 2),
    "quotes": '["' * (LENGTH // 2),
    "backslashes": '["' + "\\" * LENGTH,
    "blanks": ("[" + " " * 1000) * 1000,
    "fences": "```\n" * (LENGTH // 4),
    "languages": "```" + "a" * LENGTH,
    "backticks": "`" * LENGTH,
    "prose": "[note] {name} " * (LENGTH // 14),
    "words": "word " * (LENGTH // 5),
    "markup": "*" * LENGTH + "x" + "*" * LENGTH,
    "line ends": "\n" * LENGTH + "x",
    "opened fence and blanks": "```json" + " " * LENGTH,
    "digits": "9" * LENGTH,
    "children": '{"name": "a", "children": [' * 300 + "]}" * 299,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("response_type", [Node, Literal["yes"], list[Person], PERSON], ids=str)
def test_hostile_texts_cost_little(name: str, response_type: Any) -> None:
    began = time.process_time()
    problem({**PERSON, "required": ["name"]} if response_type is PERSON else response_type, HOSTILE[name])
    # Most take a hundredth of a second; what grows with the square would take minutes.
    assert time.process_time() - began < 3


def test_a_deep_value_is_found_or_refused() -> None:
    for depth in itertools.chain(range(1, 200, 50), (1000, 3000)):
        text = '{"name": "a", "children": [' * depth + "]}" * depth
        try:
            assert read(Node, text).name == "a"
        except ResponseTypeError:
            assert depth > 150


def test_letters_of_any_script_are_words() -> None:
    for word in ("да", "是", "نعم", string.punctuation):
        assert read(str, word) == word


def test_the_json_of_a_value_is_found() -> None:
    answer = ChatResponse(choices=(Choice(text='Not {"value": "x"} but {"value": [1, 2]}.', finish_reason="stop"),))
    assert Output(list[int]).found(answer) == [1, 2]
    assert Output(Person).found(answer) is None


@pytest.mark.parametrize(
    ("partial", "wanted"),
    [({"value": [1]}, [1]), ({}, None), ({"value": 1, "other": 2}, {"value": 1, "other": 2}), ([1], [1])],
)
def test_a_value_comes_out_of_the_object_around_it(partial: Any, wanted: Any) -> None:
    assert Output(list[int]).unwrapped(partial) == wanted
    assert Output(Person).unwrapped(partial) == partial
