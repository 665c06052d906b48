"""Schemas for OpenAI's strict mode: what it accepts, what it cannot say, and the nulls that it makes of defaults."""

import datetime
import enum
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal, TypedDict

import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import thorough

from openai_compat.errors import ConfigurationError
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.signature import Signature
from openai_compat.schema.strict import strict_schema, without_filler_nulls
from openai_compat.schema.types import TypeSchema
from openai_compat.wire.output import Output

from .test_types import (
    INTEGER,
    NULL,
    STRING,
    TABLE,
    Box,
    Click,
    Kind,
    Place,
    Plan,
    Point,
    Team,
    Type,
    Unit,
    User,
    any_of,
    array_of,
    kinds,
    object_of,
    of,
    ref,
    scope,
)

Meta = msgspec.Meta

# OpenAI's guide to structured outputs, "Supported schemas".
TYPES = {"string", "number", "boolean", "integer", "object", "array", "null"}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
KEYWORDS = {
    None: {"title", "description", "type", "enum", "const", "anyOf", "$ref", "$defs"},
    "string": {"pattern", "format"},
    "number": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "integer": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


def complaints(schema: Any, path: str = "$") -> Iterator[str]:
    """What OpenAI would refuse a schema for."""
    if "$ref" in schema and schema.keys() - {"$ref", "$defs"}:
        yield f"{path}: $ref cannot have keywords {set(schema)}"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds and not schema.keys() & {"$ref", "anyOf"}:
        yield f"{path}: schema must have a 'type' key"
    if not TYPES.issuperset(kinds) or len(set(kinds)) != len(kinds):
        yield f"{path}: {kinds} are not types"
    for keyword in schema.keys() - KEYWORDS[None].union(*(KEYWORDS.get(kind, ()) for kind in kinds)):
        yield f"{path}: {keyword!r} is not permitted"
    if schema.get("format", "date") not in FORMATS:
        yield f"{path}: {schema['format']!r} is not a supported format"
    if "array" in kinds and not isinstance(schema.get("items"), dict):
        yield f"{path}: array schema missing items"
    if "object" in kinds:
        if schema.get("additionalProperties") is not False:
            yield f"{path}: 'additionalProperties' is required to be supplied and to be false"
        if sorted(schema.get("required", [])) != sorted(schema.get("properties", [None])):
            yield f"{path}: 'required' is required to include every key in properties"
    if None in schema.get("enum", []) and "null" not in kinds:
        yield f"{path}: enum value null does not validate against {kinds}"
    for name in ("properties", "$defs"):
        for key, inner in schema.get(name, {}).items():
            yield from complaints(inner, f"{path}.{key}")
    for inner in schema.get("anyOf", []):
        yield from complaints(inner, path)
    if "items" in schema:
        yield from complaints(schema["items"], f"{path}[]")


# What strict mode has no words for, of the types and signatures that the library takes.
UNSAID = {
    "needs a type": [
        "any object typevar generic-unbound defaults-that-are-not-json signature-lambda signature-lambda-true",
        "signature-default-none-any signature-default-no-json",
    ],
    "type of a list's items": ["bare-list"],
    "no tuples of several types": ["fixed-tuple generics namedtuple same-name-of-models"],
    "no dict with free keys": [
        "dict bare-dict mapping int-keys union-with-dict union-in-dict recursive-struct signature-default-dict"
    ],
}
REFUSED = {name: words for words, lines in UNSAID.items() for line in lines for name in line.split()}


@pytest.mark.parametrize("name", sorted(TABLE.keys() - REFUSED.keys()))
def test_strict_schema_is_one_that_openai_accepts(name: str) -> None:
    function, lenient = TABLE[name]
    schema = Signature(function, strict=True).parameters
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(complaints(schema)) == []
    assert schema["type"] == "object"
    assert list(schema["properties"]) == schema["required"] == list(lenient["properties"])


@pytest.mark.parametrize(("name", "words"), REFUSED.items(), ids=REFUSED)
def test_what_strict_mode_cannot_say_is_refused_with_its_parameter(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^no JSON Schema for parameter '\w+': \S+: strict mode .*{words}"):
        Signature(TABLE[name][0], strict=True)


class Loose(pydantic.BaseModel, extra="allow"):
    name: str


class Aliased(pydantic.BaseModel):
    kind: Literal["a"] = "a"
    when: datetime.date = pydantic.Field(default=datetime.date(2024, 2, 29), alias="atDay")
    mail: str = pydantic.Field(default="", min_length=3, max_length=9, pattern="^a")


class Oval(pydantic.BaseModel):
    shape: Literal["oval"]
    width: float = 1.0


class Square(pydantic.BaseModel):
    shape: Literal["square"]
    side: float = 1.0


class Drawing(pydantic.BaseModel):
    shapes: list[Annotated[Oval | Square, pydantic.Field(discriminator="shape")]]


class Corner(enum.Enum):
    HERE = (1, 2)
    THERE = "there"


class Cornered(pydantic.BaseModel):
    corner: Corner


class Deep(TypedDict):
    rows: list[dict[str, list[Any]]]


@dataclass
class Holder:
    a: tuple[Deep, ...]


PATHS: dict[str, tuple[Any, str]] = {
    "any": (Any, "$: strict mode needs a type"),
    "item": (list[Any], "$: strict mode needs the type of a list's items"),
    "bare-item": (list[list], "$[]: strict mode needs the type of a list's items"),  # type: ignore[type-arg]
    "in-union": (int | dict[str, int], "$: strict mode has no dict"),
    "in-class": (Holder, "Deep.rows[]: strict mode has no dict"),
    "in-model": (Loose, "Loose: strict mode has no dict"),
    "enum-of-lists": (Cornered, "Corner: strict mode has no enums of lists or objects"),
}


@pytest.mark.parametrize(("hint", "message"), PATHS.values(), ids=PATHS)
def test_what_strict_mode_cannot_say_is_refused_with_its_path(hint: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TypeSchema(hint, strict=True)
    assert str(caught.value).startswith(message)


STRICT: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": (str, STRING),
    "bounds": (
        Annotated[int, Meta(ge=1, lt=9, multiple_of=2)],
        {**INTEGER, "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
    ),
    "bounds-unsaid": (Annotated[str, Meta(pattern="^a", max_length=3)], {**STRING, "pattern": "^a"}),
    "items-bounds": (Annotated[list[int], Meta(min_length=1, max_length=3)], array_of(INTEGER, minItems=1, maxItems=3)),
    "set": (set[int], array_of(INTEGER)),
    "literal": (Literal["b", "a"], {"type": "string", "enum": ["a", "b"]}),
    "literal-mixed": (Literal["a", 2, None], {"type": ["integer", "null", "string"], "enum": [None, 2, "a"]}),
    "date": (datetime.date, {**STRING, "format": "date"}),
    "uuid": (uuid.UUID, {**STRING, "format": "uuid"}),
    "bytes": (bytes, STRING),
    "optional": (int | None, any_of(INTEGER, NULL)),
    "enum": (Unit, {**ref("Unit"), "$defs": {"Unit": {"title": "Unit", **STRING, "enum": ["celsius", "fahrenheit"]}}}),
    "described-class": (
        Annotated[Point, "Where."],
        {
            **any_of(ref("Point"), description="Where."),
            "$defs": {"Point": object_of("Point", {"x": {"type": "number"}}, additionalProperties=False)},
        },
    ),
    "class": (
        Place,
        {
            **ref("Place"),
            "$defs": {
                "Place": object_of(
                    "Place", {"city": STRING, "country": {"type": ["string", "null"]}}, additionalProperties=False
                )
            },
        },
    ),
    "model": (
        Aliased,
        {
            **ref("Aliased"),
            "$defs": {
                "Aliased": object_of(
                    "Aliased",
                    {
                        "kind": {"title": "Kind", **STRING, "const": "a"},
                        "atDay": {"title": "Atday", "type": ["string", "null"], "format": "date"},
                        "mail": {"title": "Mail", "type": ["string", "null"], "pattern": "^a"},
                    },
                    additionalProperties=False,
                )
            },
        },
    ),
}


@pytest.mark.parametrize(("hint", "expected"), STRICT.values(), ids=STRICT)
def test_schema_under_strict_mode(hint: Any, expected: Any) -> None:
    assert TypeSchema(hint, strict=True).schema == expected


OPTIONAL: dict[str, tuple[Any, Any]] = {
    "scalar": (of(int, 3), {"type": ["integer", "null"]}),
    "literal": (of(Literal["a", "b"], "a"), {"type": ["string", "null"], "enum": ["a", "b", None]}),
    "constant": (of(Literal["a"], "a"), {**STRING, "enum": ["a"]}),
    "constant-that-is-not-its-default": (of(Literal["a"], "b"), {"type": ["string", "null"], "enum": ["a", None]}),
    "literal-none": (of(Literal["a", None], "a"), {"type": ["null", "string"], "enum": [None, "a"]}),
    "class": (of(Place, Place("Oslo")), any_of(ref("Place"), NULL)),
    "described-class": (of(Annotated[Point, "Where."], Point(1)), any_of(ref("Point"), NULL, description="Where.")),
    "union": (of(int | str, 3), any_of(INTEGER, STRING, NULL)),
    "nullable": (of(int | None, 3), any_of(INTEGER, NULL)),
    "list": (of(list[int], []), {"type": ["array", "null"], "items": INTEGER}),
    "described": (of(Annotated[int, "Days."], 3), {"type": ["integer", "null"], "description": "Days."}),
}


@pytest.mark.parametrize(("function", "expected"), OPTIONAL.values(), ids=OPTIONAL)
def test_what_may_be_left_out_may_be_null(function: Any, expected: Any) -> None:
    assert Signature(function, strict=True).parameters["properties"]["x"] == expected


@dataclass
class Recursive:
    inner: "list[Recursive]"


FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one-of": ({"oneOf": [STRING, INTEGER], "discriminator": {}}, any_of(STRING, INTEGER)),
    "all-of-one": ({"allOf": [ref("A")], "description": "d", "default": {}}, any_of(ref("A"), description="d")),
    "const": ({"const": "a"}, {"const": "a", "type": "string"}),
    "numbers": ({"enum": [1, 2.5, True]}, {"enum": [1, 2.5, True], "type": ["boolean", "integer", "number"]}),
    "unknown-words": ({**STRING, "examples": ["a"], "format": "uri", "minLength": 3, "x-y": 1}, STRING),
    "property-named-as-a-keyword": (
        {"type": "object", "properties": {"default": STRING, "$ref": INTEGER}, "required": ["default"]},
        {
            "type": "object",
            "properties": {"default": STRING, "$ref": {"type": ["integer", "null"]}},
            "required": ["default", "$ref"],
            "additionalProperties": False,
        },
    ),
    "nullable-object": (
        {"type": ["object", "null"], "properties": {"a": STRING}, "required": ["a"]},
        {
            "type": ["object", "null"],
            "properties": {"a": STRING},
            "required": ["a"],
            "additionalProperties": False,
        },
    ),
}


@pytest.mark.parametrize("inner", [True, False, "string"])
@pytest.mark.parametrize("where", ["items", "anyOf", "properties"])
def test_a_schema_that_is_true_or_false_is_refused_with_its_path(where: str, inner: Any) -> None:
    held = {"items": inner, "anyOf": [inner], "properties": {"a": inner}}[where]
    kind = {"items": "array", "anyOf": "string", "properties": "object"}[where]
    with pytest.raises(ConfigurationError, match=rf"\$.*: strict mode needs a type; {inner!r} is not one"):
        strict_schema({"type": kind, where: held})


@pytest.mark.parametrize(("schema", "expected"), FOREIGN.values(), ids=FOREIGN)
def test_schemas_that_others_write(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    before = msgspec.json.encode(schema)
    assert strict_schema(schema) == expected
    assert msgspec.json.encode(schema) == before


def nested_objects(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def of_properties(names: Any) -> dict[str, Any]:
    properties = dict.fromkeys(names, STRING)
    return {"type": "object", "properties": properties, "required": list(properties)}


# By the guide, at the limit and beyond it.
LIMITS: dict[str, tuple[Any, Any, str]] = {
    "depth": (nested_objects(10), nested_objects(11), "at most 10 objects within each other; here are 11"),
    "properties": (
        of_properties(f"p{at}" for at in range(5000)),
        of_properties(f"p{at}" for at in range(5001)),
        "at most 5,000 properties; here are 5,001",
    ),
    "enums": (
        {"enum": list(range(1000))},
        {"anyOf": [{"enum": list(range(500))}, {"enum": list(range(501))}]},
        "at most 1,000 values of enums; here are 1,001",
    ),
    "names": (
        of_properties(["a" * 60_000, "b" * 60_000]),
        of_properties(["a" * 60_000, "b" * 60_001]),
        "at most 120,000 characters in names and enums; here are 120,001",
    ),
    "large-enum": (
        {"enum": [f"{at:060}" for at in range(250)]},
        {"enum": [f"{at:060}" for at in range(251)]},
        "at most 15,000 characters in an enum of more than 250 values; here are 15,060",
    ),
}


@pytest.mark.parametrize(("largest", "larger", "message"), LIMITS.values(), ids=LIMITS)
def test_what_is_larger_than_strict_mode_takes_is_refused_with_the_limit(
    largest: Any, larger: Any, message: str
) -> None:
    strict_schema(largest)
    with pytest.raises(ConfigurationError, match=message):
        strict_schema(larger)


def test_depth_is_counted_past_references_and_a_class_in_itself_once() -> None:
    TypeSchema(Recursive, strict=True)
    definitions = {f"d{at}": {**nested_objects(2), "properties": {"a": ref(f"d{at + 1}")}} for at in range(10)}
    with pytest.raises(ConfigurationError, match="here are 11"):
        strict_schema({**ref("d0"), "$defs": {**definitions, "d10": nested_objects(1)}})


def test_the_object_around_a_list_counts_too() -> None:
    hint: Any = int
    for at in range(10):
        hint = make_dataclass(f"Made{at}", [("a", hint)])
    Output(hint, strict=True)
    with pytest.raises(ConfigurationError, match="here are 11"):
        Output(list[hint], strict=True)


def test_a_strict_schema_is_strict_already() -> None:
    for name in sorted(TABLE.keys() - REFUSED.keys()):
        schema = Signature(TABLE[name][0], strict=True).parameters
        assert strict_schema(schema) == schema


# Values under strict mode

FILLED: dict[str, tuple[Any, Any, Any]] = {
    "default": (of(int, 3), {"x": None}, {}),
    "given": (of(int, 3), {"x": 4}, {"x": 4}),
    "null-is-a-value": (of(int | None, 3), {"x": None}, {"x": None}),
    "null-is-a-listed-value": (of(Literal["a", None], "a"), {"x": None}, {"x": None}),
    "null-in-class": (of(Place), {"x": {"city": "Oslo", "country": None}}, {"x": Place("Oslo")}),
    "null-in-list": (of(list[Place]), {"x": [{"city": "Oslo", "country": None}]}, {"x": [Place("Oslo")]}),
    "null-in-optional": (of(Place | None), {"x": {"city": "Oslo", "country": None}}, {"x": Place("Oslo")}),
    "null-item": (of(list[int | None]), {"x": [1, None]}, {"x": [1, None]}),
    "null-in-union": (
        of(list[Click | Type]),
        {"x": [{"text": "hi", "kind": "type"}, {"x": 1, "y": 2, "kind": "click"}]},
        {"x": [Type("hi"), Click(1, 2)]},
    ),
    "null-in-union-of-lists": (
        of(list[Click] | list[Type]),
        {"x": [{"text": "hi", "kind": "type"}]},
        {"x": [Type("hi")]},
    ),
    "null-in-models": (
        of(Team),
        {"x": {"lead": {"name": "a", "age": None}, "members": [{"name": "b", "age": None}]}},
        {"x": Team(lead=User(name="a"), members=[User(name="b")])},
    ),
    "null-in-discriminated-models": (
        of(Drawing),
        {"x": {"shapes": [{"shape": "square", "side": None}, {"shape": "oval", "width": None}]}},
        {"x": Drawing(shapes=[Square(shape="square"), Oval(shape="oval")])},
    ),
    "null-in-plan": (
        of(Plan),
        {"x": {"step": {"text": "hi", "kind": "type"}, "user": None, "then": None}},
        {"x": Plan(Type("hi"))},
    ),
    "null-in-generic": (
        of(Box[Place | Point]),
        {"x": {"content": {"city": "Oslo", "country": None}}},
        {"x": Box(Place("Oslo"))},
    ),
    "alias": (of(Aliased), {"x": {"kind": "a", "atDay": None, "mail": None}}, {"x": Aliased()}),
}


@pytest.mark.parametrize(("function", "given_", "expected"), FILLED.values(), ids=FILLED)
def test_nulls_that_stand_for_nothing_are_taken_out(function: Any, given_: Any, expected: Any) -> None:
    signature = Signature(function, strict=True)
    jsonschema.validate(given_, signature.parameters)
    before = msgspec.json.encode(given_)
    assert signature.convert(given_) == expected
    assert msgspec.json.encode(given_) == before


@dataclass
class First:
    a: int
    b: int = 1


@dataclass
class Second:
    a: str
    b: str | None


def test_a_null_belongs_to_the_class_that_the_value_fits() -> None:
    schema = TypeSchema(First | Second, strict=True)
    assert schema.convert({"a": "x", "b": None}) == Second("x", None)
    assert schema.convert({"a": 1, "b": None}) == First(1)


@dataclass
class Nothing:
    pass


@dataclass
class Listed:
    a: int
    b: Literal["x", "y"] = "x"


def test_a_null_in_place_of_a_listed_value_belongs_to_the_class_that_lists_it() -> None:
    assert TypeSchema(list[Nothing | Listed], strict=True).convert([{"a": 0, "b": None}]) == [Listed(0)]


MISFITS: dict[str, tuple[Any, Any, str]] = {
    "null-for-what-is-required": (of(int), {"x": None}, "$.x: expected int, got null"),
    "missing": (of(int), {}, "$.x: required, but missing"),
    "unknown": (of(int, 3), {"x": None, "y": None}, "$.y: no such field"),
    "bound-that-strict-mode-cannot-say": (
        of(Annotated[str, Meta(max_length=2)]),
        {"x": "abc"},
        "$.x: expected str of length <= 2",
    ),
    "not-an-object": (of(int), [], "$: expected object, got array"),
    "inside": (of(Place), {"x": {"city": None, "country": None}}, "$.x.city: expected str, got null"),
}


@pytest.mark.parametrize(("function", "arguments", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_under_strict_mode_too(function: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Signature(function, strict=True).convert(arguments)
    assert str(caught.value) == message


def test_what_the_schema_does_not_know_is_left_alone() -> None:
    value = {"a": None, "b": [None, {"c": None}], "d": ({"e": None},)}
    known = {"type": "object", "properties": {"a": {}}}
    for schema in ({}, {"type": "object"}, known, {"$ref": "#/$defs/None"}, {"anyOf": [{"type": "string"}]}):
        assert without_filler_nulls(value, schema) == value


def test_text_annotations_are_read_under_strict_mode() -> None:
    function = scope("def call(a: list[Place], b: Click | Type = None): ...")
    signature = Signature(function, strict=True)
    assert list(complaints(signature.parameters)) == []
    assert signature.convert({"a": [], "b": None}) == {"a": [], "b": None}


@thorough
@given(st.data())
def test_any_type_is_said_as_openai_wants_it_and_read_back(data: st.DataObject) -> None:
    kind: Kind = data.draw(kinds(strict=True))
    lenient, filled = data.draw(kind.pairs)
    schema, strict = TypeSchema(kind.hint), TypeSchema(kind.hint, strict=True)
    jsonschema.Draft202012Validator.check_schema(strict.schema)
    assert list(complaints(strict.schema)) == []
    jsonschema.Draft202012Validator(strict.schema).validate(filled)
    assert as_plain(strict.convert(filled)) == as_plain(schema.convert(lenient))


def as_plain(value: Any) -> Any:
    """A value with types in it, for 1, True and 1.0 are equal."""
    if isinstance(value, Mapping):
        return {key: as_plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_plain(item) for item in value]
    return type(value), value
