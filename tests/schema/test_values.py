"""A value is right, or it is refused: bounds that are not dropped, names, digits, and time that does not explode."""

# No annotations from __future__: the classes inside of tests are to be found.

import datetime
import decimal
import enum
import functools
import json
import math
import operator
import os
import pathlib
import random
import sys
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, Union

import annotated_types
import attrs
import msgspec
import pydantic
import pytest
import typing_extensions
from hypothesis import assume, given
from hypothesis import strategies as st
from support.arbitrary import attempt, json_values, thorough
from support.ids import without_address
from typing_extensions import ReadOnly, TypeAliasType

from openai_compat.errors import ConfigurationError
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.pydantic_types import MAX_STEPS
from openai_compat.schema.raw_schema import RawSchema
from openai_compat.schema.signature import Signature
from openai_compat.schema.strict import strict_schema, without_filler_nulls
from openai_compat.schema.types import TypeSchema
from openai_compat.schema.validation import Walk

# ruff: noqa: B008 - Pydantic's way to say what a parameter is


# Time


@dataclass
class Rule:
    field: str
    op: str
    value: str


@dataclass
class And:
    clauses: "list[Rule | And | Or]"


@dataclass
class Or:
    clauses: "list[Or | Rule | And]"


@dataclass
class File:
    name: str
    size: int


@dataclass
class Folder:
    name: str
    entries: "dict[str, File | Folder]"


@dataclass
class Late:
    """Is wrong only after its children are right."""

    clauses: "list[Late | Later]"
    op: str


@dataclass
class Later:
    clauses: "list[Later | Late]"
    op: int


Json = TypeAliasType("Json", Union[int, str, "list[Json]", "tuple[Json, ...]", "dict[str, Json]"])


def nest(depth: int, leaf: Any, wrap: Callable[[Any], Any]) -> Any:
    return functools.reduce(lambda inner, _: wrap(inner), range(depth), leaf)


def size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(size, inner))


def steps_of(hint: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    """How many steps a conversion takes, and what came of it."""
    walks: list[Walk] = []
    begin = Walk.__init__

    def remember(self: Walk, definitions: Any) -> None:
        begin(self, definitions)
        walks.append(self)

    schema = TypeSchema(hint)
    monkeypatch.setattr(Walk, "__init__", remember)
    try:
        made: Any = schema.convert(value)
    except ValidationError as error:
        made = error
    monkeypatch.undo()
    return sum(walk.steps for walk in walks), made


EXPLOSIVE: dict[str, tuple[Any, Callable[[int], Any], bool]] = {
    "one-shape": (And, lambda depth: nest(depth, {"field": "a", "op": "="}, lambda inner: {"clauses": [inner]}), False),
    "entries": (
        Folder,
        lambda depth: nest(depth, {"name": "a", "size": "x"}, lambda inner: {"name": "d", "entries": {"e": inner}}),
        False,
    ),
    "right-below-and-wrong-above": (
        Late,
        lambda depth: nest(depth, {"clauses": [], "op": None}, lambda inner: {"clauses": [inner], "op": None}),
        False,
    ),
    "right": (And, lambda depth: nest(depth, {"clauses": []}, lambda inner: {"clauses": [inner]}), True),
    "lists-of-lists": (Json, lambda depth: nest(depth, None, lambda inner: [inner]), False),
}


@pytest.mark.parametrize(("hint", "make", "fits"), EXPLOSIVE.values(), ids=EXPLOSIVE)
def test_the_steps_of_a_check_grow_as_the_value_does(
    hint: Any, make: Callable[[int], Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, _ = steps_of(hint, make(20), monkeypatch)
    many, made = steps_of(hint, make(80), monkeypatch)
    assert isinstance(made, ValidationError) is not fits
    assert many < 5 * few


def test_the_path_of_a_wrong_leaf_is_that_of_the_leaf() -> None:
    value = nest(30, {"name": "a", "size": "x"}, lambda inner: {"name": "d", "entries": {"e": inner}})
    with pytest.raises(ValidationError, match=r"^\$(\.entries\.e){30}\.size: expected int, got str$"):
        TypeSchema(Folder).convert(value)


@thorough
@given(st.integers(0, 10**9))
def test_the_steps_are_at_most_the_value_times_the_type(seed: int) -> None:
    """Random classes that hold unions of each other, and a value of one with one wrong leaf."""
    random_ = random.Random(seed)
    names = [f"C{at}" for at in range(random_.randint(2, 4))]
    space: dict[str, Any] = {}
    shapes: dict[str, dict[str, list[str]]] = {}
    for name in names:
        shapes[name] = {
            f"f{at}": random_.sample(names, random_.randint(1, len(names))) for at in range(random_.randint(1, 2))
        }
        fields = [(key, f"list[{' | '.join(members)}]") for key, members in shapes[name].items()]
        space[name] = make_dataclass(name, [*fields, ("leaf", int)], namespace={"__module__": __name__})
    for cls in space.values():
        cls.__annotations__ = {
            key: eval(hint, {**space, "list": list}) if isinstance(hint, str) else hint
            for key, hint in cls.__annotations__.items()
        }

    def value(name: str, depth: int) -> Any:
        holds = {
            key: [value(random_.choice(members), depth - 1)] if depth else [] for key, members in shapes[name].items()
        }
        return {**holds, "leaf": 1}

    whole = value(names[0], random_.randint(1, 6))
    at = whole
    while random_.random() < 0.8 and (
        inner := [items[0] for items in at.values() if isinstance(items, list) and items]
    ):
        at = random_.choice(inner)
    at["leaf"] = "wrong"
    nodes = sum(2 + 3 * sum(map(len, shape.values())) for shape in shapes.values())
    with pytest.MonkeyPatch.context() as patch:
        steps, _ = steps_of(space[names[0]], whole, patch)
    assert steps <= size(whole) * nodes


class PydanticRule(pydantic.BaseModel):
    a: int


class PydanticAnd(pydantic.BaseModel):
    c: "list[PydanticRule | PydanticAnd | PydanticOr]"


class PydanticOr(pydantic.BaseModel):
    c: "list[PydanticRule | PydanticAnd | PydanticOr]"


PydanticAnd.model_rebuild()
PydanticOr.model_rebuild()


def test_what_pydantic_would_take_for_ever_over_is_refused_before_it_begins() -> None:
    schema = TypeSchema(PydanticAnd)
    small = nest(5, {"a": 1}, lambda inner: {"c": [inner]})
    assert isinstance(schema.convert(small), PydanticAnd)
    deep = nest(40, {"a": "x"}, lambda inner: {"c": [inner]})
    with pytest.raises(ValidationError, match=rf"more than {MAX_STEPS} steps.*need a discriminator"):
        schema.convert(deep)


@pytest.mark.slow
def test_a_long_list_is_not_taken_for_an_endless_check() -> None:
    rows = [{"a": at} for at in range(60_000)]
    made = TypeSchema(list[PydanticRule]).convert(rows)
    assert made[-1] == PydanticRule(a=59_999)
    whole = TypeSchema(PydanticAnd).convert({"c": rows})
    assert len(whole.c) == 60_000


def test_a_schema_of_the_users_is_checked_in_as_many_steps() -> None:
    ref = {"$ref": "#/$defs/and"}
    both = [{"$ref": "#/$defs/rule"}, ref, {"$ref": "#/$defs/or"}]
    holder = {"type": "object", "properties": {"c": {"type": "array", "items": {"anyOf": both}}}, "required": ["c"]}
    rule = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema = RawSchema({**ref, "$defs": {"rule": rule, "and": holder, "or": holder | {"title": "or"}}})
    for depth in (10, 40):
        with pytest.raises(ValidationError, match="^\\$"):
            schema.convert(nest(depth, {"a": "x"}, lambda inner: {"c": [inner]}))
    assert schema.convert(nest(40, {"a": 1}, lambda inner: {"c": [inner]}))


def test_nulls_are_taken_out_in_as_many_steps() -> None:
    schema = TypeSchema(Json, strict=False)
    value = nest(60, None, lambda inner: [inner])
    assert without_filler_nulls(value, schema.schema) == value


@dataclass
class OfA:
    a: int = 0


@dataclass
class OfB:
    b: int = 0


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (list[int] | list[float], [1, 2.5], [1.0, 2.5]),
        (list[list[int]] | list[list[float]], [[1], [2.5]], [[1.0], [2.5]]),
        (list[datetime.date] | tuple[str, str], ["", ""], ("", "")),
        (tuple[datetime.date, ...] | list[str], ["2024-01-01", "?"], ["2024-01-01", "?"]),
        (list[OfA] | list[OfB], [{}, {"b": 1}], [OfB(), OfB(1)]),
        (tuple[OfA, OfB] | tuple[OfB, OfA], [{}, {"a": 1}], (OfB(), OfA(1))),
        (float | int, 1, 1),
    ],
    ids=str,
)
def test_a_union_takes_what_one_of_its_members_takes(hint: Any, value: Any, made: Any) -> None:
    converted = TypeSchema(hint).convert(value)
    assert (converted, repr(converted)) == (made, repr(made))


# Bounds and tests, whoever wrote them


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


Meta = msgspec.Meta
INTEGER, STRING = {"type": "integer"}, {"type": "string"}

# What is written, the schema, what fits, and what does not.
BOUNDS: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    "msgspec": (Annotated[int, Meta(ge=1)], {**INTEGER, "minimum": 1}, 1, 0),
    "annotated-types": (Annotated[int, annotated_types.Ge(1)], {**INTEGER, "minimum": 1}, 1, 0),
    "interval": (
        Annotated[int, annotated_types.Interval(gt=0, le=9)],
        {**INTEGER, "exclusiveMinimum": 0, "maximum": 9},
        9,
        10,
    ),
    "multiple": (Annotated[int, annotated_types.MultipleOf(3)], {**INTEGER, "multipleOf": 3}, 3, 4),
    "length": (Annotated[str, annotated_types.Len(1, 3)], {**STRING, "minLength": 1, "maxLength": 3}, "a", ""),
    "length-of-a-list": (
        Annotated[list[int], annotated_types.MinLen(2)],
        {"type": "array", "items": INTEGER, "minItems": 2},
        [1, 2],
        [1],
    ),
    "length-of-a-set": (
        Annotated[set[int], annotated_types.MinLen(2)],
        {"type": "array", "items": INTEGER, "uniqueItems": True, "minItems": 2},
        [1, 2],
        [1, 1],
    ),
    "predicate": (Annotated[str, annotated_types.Predicate(str.islower)], STRING, "a", "A"),
    "lower-case": (annotated_types.LowerCase[str], STRING, "a", "A"),
    "field": (Annotated[int, pydantic.Field(ge=1)], {**INTEGER, "minimum": 1}, 1, 0),
    "field-with-words": (
        Annotated[int, pydantic.Field(ge=1, description="Nights.")],
        {**INTEGER, "minimum": 1, "description": "Nights."},
        1,
        0,
    ),
    "field-with-pattern": (Annotated[str, pydantic.Field(pattern="^a")], {**STRING, "pattern": "^a"}, "a", "b"),
    "positive": (pydantic.PositiveInt, {**INTEGER, "exclusiveMinimum": 0}, 1, -5),
    "constr": (pydantic.constr(max_length=2), {**STRING, "maxLength": 2}, "ab", "abc"),
    "conint": (pydantic.conint(ge=1), {**INTEGER, "minimum": 1}, 1, 0),
    "conlist": (
        pydantic.conlist(int, min_length=1),
        {"type": "array", "items": INTEGER, "minItems": 1},
        [1],
        [],
    ),
    "after-validator": (Annotated[int, pydantic.AfterValidator(even)], INTEGER, 2, 3),
    "bounds-of-a-union": (
        Annotated[int | None, Meta(ge=1)],
        {"anyOf": [{**INTEGER, "minimum": 1}, {"type": "null"}]},
        None,
        0,
    ),
    "bounds-of-an-alias": (
        Annotated[TypeAliasType("Nights", Annotated[int, Meta(le=9)]), Meta(ge=1)],
        {**INTEGER, "minimum": 1, "maximum": 9},
        9,
        10,
    ),
    "bounds-of-a-newtype": (
        Annotated[typing.NewType("Night", int), Meta(ge=1)],
        {**INTEGER, "minimum": 1},
        1,
        0,
    ),
    "predicate-that-is-an-object": (
        Annotated[str, annotated_types.Predicate(annotated_types.Not(str.islower))],
        STRING,
        "A",
        "a",
    ),
    "predicate-of-keys": (
        dict[Annotated[str, annotated_types.Predicate(str.islower)], int],
        {"type": "object", "additionalProperties": INTEGER},
        {"a": 1},
        {"A": 1},
    ),
    "date": (
        Annotated[datetime.date | None, pydantic.Field(ge=datetime.date(2024, 1, 1))],
        {"anyOf": [{**STRING, "format": "date"}, {"type": "null"}]},
        "2024-01-01",
        "2023-12-31",
    ),
    "decimal": (
        Annotated[decimal.Decimal | None, pydantic.Field(ge=0, lt=10)],
        {"anyOf": [{**STRING, "format": "decimal"}, {"type": "null"}]},
        "9.99",
        "10",
    ),
    "moment-without-a-zone": (
        Annotated[datetime.datetime, annotated_types.Gt(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))],
        {**STRING, "format": "date-time"},
        "2024-02-01T00:00:00Z",
        "2024-02-01T00:00:00",
    ),
    "narrower-inside": (Annotated[Annotated[int, Meta(ge=5)], Meta(ge=1)], {**INTEGER, "minimum": 5}, 5, 3),
    "shorter-inside": (
        Annotated[Annotated[str, Meta(max_length=1)], Meta(max_length=5)],
        {**STRING, "maxLength": 1},
        "a",
        "ab",
    ),
    "positive-and-more": (
        Annotated[pydantic.PositiveInt, pydantic.Field(ge=3, le=9)],
        {**INTEGER, "minimum": 3, "maximum": 9},
        3,
        2,
    ),
    "positive-and-less": (
        Annotated[pydantic.PositiveInt, pydantic.Field(ge=0)],
        {**INTEGER, "exclusiveMinimum": 0},
        1,
        0,
    ),
    "after-validator-with-words": (
        Annotated[int, pydantic.AfterValidator(even), Meta(description="Nights.")],
        {**INTEGER, "description": "Nights."},
        2,
        3,
    ),
    "function-of-somebody-elses": (Annotated[list[int], operator.add], {"type": "array", "items": INTEGER}, [1], 1),
    "doc": (Annotated[int, typing_extensions.Doc("Nights.")], {**INTEGER, "description": "Nights."}, 1, "x"),
}


@pytest.mark.parametrize(("hint", "schema", "fits", "misfit"), BOUNDS.values(), ids=BOUNDS)
def test_bounds_are_said_and_kept(hint: Any, schema: Any, fits: Any, misfit: Any) -> None:
    made = TypeSchema(hint)
    assert made.schema == schema
    made.convert(fits)
    with pytest.raises(ValidationError):
        made.convert(misfit)
    cls = make_dataclass("Made", [("x", hint)])
    TypeSchema(cls).convert({"x": fits})
    with pytest.raises(ValidationError, match=r"^\$\.x"):
        TypeSchema(cls).convert({"x": misfit})


@pytest.mark.parametrize(
    "hint",
    [
        Annotated[And, annotated_types.Ge(1)],
        Annotated[list[int], Meta(ge=1)],
        Annotated[And | Or, Meta(min_length=1)],
        Annotated[decimal.Decimal, Meta(multiple_of=2)],
        Annotated[int, Meta(multiple_of=2), annotated_types.MultipleOf(3)],
        Annotated[int, pydantic.AfterValidator(even), Meta(ge=1)],
        Annotated[list[Annotated[int, Meta(ge=1)]], pydantic.AfterValidator(list)],
        make_dataclass("Booked", [("nights", int, pydantic.Field(ge=1))]),
        attrs.make_class("Booked", {"nights": attrs.field(default=pydantic.Field(2, ge=1), type=int)}),
        msgspec.defstruct("Booked", [("nights", int, pydantic.Field(default=2, ge=1))]),
        Annotated[datetime.datetime, annotated_types.Timezone("UTC")],
    ],
    ids=without_address,
)
def test_bounds_that_cannot_be_kept_are_refused(hint: Any) -> None:
    with pytest.raises(ConfigurationError):
        TypeSchema(hint)


def test_a_field_of_pydantics_is_never_passed_to_a_function() -> None:
    def book(
        nights: int = pydantic.Field(ge=1),
        rooms: int = pydantic.Field(default=2, ge=1, description="Rooms."),
        tags: list[str] = pydantic.Field(default_factory=list),
        note: str = pydantic.Field(default=None),
    ) -> None: ...

    signature = Signature(book)
    assert signature.parameters["required"] == ["nights"]
    assert signature.parameters["properties"]["rooms"] == {
        **INTEGER,
        "minimum": 1,
        "description": "Rooms.",
        "default": 2,
    }
    assert signature.convert({"nights": 3}) == {"nights": 3, "rooms": 2, "tags": [], "note": None}
    assert signature.convert({"nights": 3, "rooms": 5, "note": "x"})["rooms"] == 5
    for arguments in ({}, {"nights": -5}, {"nights": 1, "rooms": 0}):
        with pytest.raises(ValidationError):
            signature.convert(arguments)


@pytest.mark.parametrize(
    ("hint", "value", "shown", "misfit"),
    [
        (pydantic.HttpUrl, "https://example.org/a", "https://example.org/a", "a"),
        (pydantic.AwareDatetime, "2024-01-01T00:00:00Z", "2024-01-01 00:00:00+00:00", "2024-01-01T00:00:00"),
        (pydantic.PastDate, "2024-01-01", "2024-01-01", "9999-01-01"),
        (pydantic.SecretStr, "a", "**********", 1),
        (pydantic.UUID4, str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=1))),
    ],
    ids=str,
)
def test_types_of_pydantics_are_checked_by_it(hint: Any, value: Any, shown: str, misfit: Any) -> None:
    cls = make_dataclass("Made", [("x", hint)])
    assert str(TypeSchema(cls).convert({"x": value}).x) == shown
    with pytest.raises(ValidationError, match=r"^\$\.x: ([a-z][a-z ]|UUID)"):
        TypeSchema(cls).convert({"x": misfit})


Few = typing.TypeVar("Few", int, str)


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (Few, "a", "a"),
        (typing.AnyStr, "YWJj", "YWJj"),
        (typing.LiteralString, "a", "a"),
        (os.PathLike, "a", pathlib.Path("a")),
        (str | os.PathLike[str], "a", "a"),
    ],
    ids=str,
)
def test_what_stands_for_other_types(hint: Any, value: Any, made: Any) -> None:
    assert TypeSchema(hint).convert(value) == made
    with pytest.raises(ValidationError):
        TypeSchema(hint).convert(1.5)


ELEMENT = typing.TypeVar("ELEMENT", bound=int)
OTHER = typing.TypeVar("OTHER")


@dataclass
class Several(typing.Generic[ELEMENT]):
    items: list[ELEMENT]
    one: dict[str, ELEMENT] = field(default_factory=dict)


Maybe = TypeAliasType("Maybe", list[OTHER] | None, type_params=(OTHER,))


@pytest.mark.parametrize(
    ("hint", "fits", "misfit"),
    [
        (Several, {"items": [1]}, {"items": ["a"]}),
        (Several, {"items": [], "one": {"a": 1}}, {"items": [], "one": {"a": "b"}}),
        (Several[bool], {"items": [True]}, {"items": [1]}),
        (Annotated[Maybe[int], Meta(min_length=2)], [1, 2], [1]),
        (Annotated[Maybe[int], Meta(min_length=2)], None, ["a", "b"]),
        (list[ELEMENT], [1], ["a"]),
    ],
    ids=str,
)
def test_bounds_of_type_variables_are_kept(hint: Any, fits: Any, misfit: Any) -> None:
    TypeSchema(hint).convert(fits)
    with pytest.raises(ValidationError):
        TypeSchema(hint).convert(misfit)


class Place:
    """Not a path itself, though it has one."""

    def __fspath__(self) -> str:
        return "a"


def test_a_class_with_a_path_is_not_made_a_path_of() -> None:
    with pytest.raises(ConfigurationError, match="Place'> is not supported"):
        TypeSchema(Place)


# Statements of newer Pythons, with the type, what fits, and what does not.
STATEMENTS: dict[str, tuple[tuple[int, int], str, str, Any, Any]] = {
    "alias": ((3, 12), "type Nights = Annotated[int, Meta(ge=1)]", "Nights", 1, 0),
    "alias-within-bounds": ((3, 12), "type Whole = int", "Annotated[Whole, Meta(ge=1)]", 1, 0),
    "alias-that-holds-itself": ((3, 12), "type Tree = int | list[Tree]", "Tree", [1, [2]], [1, ["a"]]),
    "aliases-of-each-other": ((3, 12), "type One = int | Two\ntype Two = list[One]", "One", [[1]], [["a"]]),
    "alias-with-a-variable": ((3, 12), "type Some[T] = list[T] | None", "Some[Some[int]]", [[1], None], [["a"]]),
    "alias-of-pairs": (
        (3, 12),
        "type Pairs[T] = tuple[T, Pairs[T]] | None",
        "Pairs[int]",
        [1, [2, None]],
        [1, ["a", None]],
    ),
    "alias-of-what-comes-later": ((3, 12), "type Ahead = list[Behind]\ntype Behind = int", "Ahead", [1], ["a"]),
    "class-with-a-bound": (
        (3, 12),
        "class Holder[T: int](msgspec.Struct):\n  x: list[T]",
        "Holder",
        {"x": [1]},
        {"x": ["a"]},
    ),
    "class-with-choices": ((3, 12), "@attrs.frozen\nclass Of[T: (int, str)]:\n  x: T", "Of", {"x": "a"}, {"x": 0.5}),
    "class-that-holds-itself": (
        (3, 12),
        "@dataclass\nclass Chain[T]:\n  x: T\n  next: 'Chain[T] | None' = None",
        "Chain[int]",
        {"x": 1, "next": {"x": 2}},
        {"x": 1, "next": {"x": "a"}},
    ),
    "variable-with-a-default": ((3, 13), "type Listed[T = int] = list[T]", "Listed", [1], ["a"]),
    "read-only": (
        (3, 13),
        "class Told(typing.TypedDict):\n  x: typing.ReadOnly[typing.NotRequired[int]]",
        "Told",
        {},
        {"x": "a"},
    ),
}


@pytest.mark.parametrize(("python", "source", "hint", "fits", "misfit"), STATEMENTS.values(), ids=STATEMENTS)
def test_statements_of_newer_pythons(python: tuple[int, int], source: str, hint: str, fits: Any, misfit: Any) -> None:
    if sys.version_info < python:
        pytest.skip(f"a statement of Python {python[0]}.{python[1]}")
    names = dict(globals())
    exec(source, names)
    made = TypeSchema(eval(hint, names))
    made.convert(fits)
    with pytest.raises(ValidationError):
        made.convert(misfit)


# Names


def lower(value: str) -> str:
    return value.lower()


@attrs.frozen
class Document:
    _id: str
    body: str = ""


@attrs.frozen
class LoweredDocument:
    _id: str
    body: str = attrs.field(default="", converter=lower)


@pytest.mark.parametrize("cls", [Document, LoweredDocument])
def test_a_key_is_the_name_of_its_attribute(cls: Any) -> None:
    schema = TypeSchema(cls)
    assert set(schema.schema["$defs"][cls.__name__]["properties"]) == {"_id", "body"}
    assert schema.convert({"_id": "7", "body": "a"})._id == "7"
    with pytest.raises(ValidationError, match=r"^\$\._id: required, but missing$"):
        schema.convert({"id": "7"})


class Renamed(msgspec.Struct, rename="camel"):
    item_names: list[str]
    is_full: bool = False
    kept_tags: list[str] = []


def test_a_default_is_that_of_a_field_which_has_another_name_in_json() -> None:
    schema = TypeSchema(Renamed)
    properties = schema.schema["$defs"]["Renamed"]["properties"]
    assert {name: said.get("default") for name, said in properties.items()} == {
        "itemNames": None,
        "isFull": False,
        "keptTags": [],
    }
    assert schema.convert({"itemNames": ["a"]}) == Renamed(["a"])


# What was refused without need


def from_text(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


@attrs.frozen
class Converted:
    day: datetime.date = attrs.field(converter=datetime.date.fromisoformat)
    by: datetime.date = attrs.field(default="2024-03-01", converter=from_text)
    where: pathlib.PurePosixPath = attrs.field(default="a", converter=pathlib.PurePosixPath)
    tags: tuple[str, ...] = attrs.field(default=(), converter=tuple)


@attrs.frozen
class Undecided:
    x: int = None  # type: ignore[assignment]
    y: "Undecided | Rule | None" = None


class Mixed(enum.Enum):
    A = 1
    B = "two"
    C = None
    D = 2.5


class ReadOnlyRow(TypedDict):
    id: ReadOnly[int]
    note: typing_extensions.NotRequired[ReadOnly[str]]


class Pair(NamedTuple):
    a: int
    b: "Pair | None" = None


class Cells(msgspec.Struct, array_like=True):
    rule: "Rule | And"
    count: int = 1


DATETIME, DATE, TIME = datetime.datetime, datetime.date, datetime.time
TAKEN: dict[str, tuple[Any, Any, Any]] = {
    "datetime": (DATETIME, "2024-02-29T12:00:00Z", DATETIME(2024, 2, 29, 12, tzinfo=datetime.UTC)),
    "datetime-with-a-space": (DATETIME, "2024-02-29 12:00", DATETIME(2024, 2, 29, 12)),
    "datetime-of-a-day": (DATETIME, "2024-02-29", DATETIME(2024, 2, 29)),
    "date-without-dashes": (DATE, "20240229", DATE(2024, 2, 29)),
    "time-without-seconds": (TIME, "12:30", TIME(12, 30)),
    "path": (pathlib.PurePosixPath, "a/b", pathlib.PurePosixPath("a/b")),
    "path-of-this-system": (pathlib.Path, "a/b", pathlib.Path("a/b")),
    "mixed-enum": (list[Mixed], [1, "two", None, 2.5], list(Mixed)),
    "mixed-enum-exactly": (Mixed, decimal.Decimal("2.5"), Mixed.D),
    "literal-true": (Literal[True, "x"], True, True),
    "literal-of-an-enum": (Literal[Mixed.B], "two", Mixed.B),
    "read-only": (ReadOnlyRow, {"id": 1}, {"id": 1}),
    "recursive-alias": (Json, {"a": [1, ["x"]]}, {"a": [1, ["x"]]}),
    "recursive-named-tuple": (Pair, [1, [2]], Pair(1, Pair(2))),
    "struct-as-an-array": (Cells, [{"clauses": []}], Cells(And([]))),
    "null-for-a-default-of-none": (Undecided, {"x": None, "y": {"x": 1}}, Undecided(None, Undecided(1))),
    "text-for-a-converter": (
        Converted,
        {"day": "2024-02-29", "where": "a/b", "tags": ["x"]},
        Converted("2024-02-29", "2024-03-01", "a/b", ["x"]),
    ),
    "union-of-exact-numbers": (float | int, 3, 3),
    "union-of-exact-floats": (int | float, 3.0, 3.0),
    "enum-keys-that-are-numbers": (dict[Literal[1, 2], str], {"1": "a"}, {1: "a"}),
}


@pytest.mark.parametrize(("hint", "value", "expected"), TAKEN.values(), ids=TAKEN)
def test_what_python_takes_is_taken(hint: Any, value: Any, expected: Any) -> None:
    made = TypeSchema(hint).convert(value)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(("kind", "name"), [(DATETIME, "date-time"), (DATE, "date"), (TIME, "time")])
@pytest.mark.parametrize("strict", [False, True])
def test_dates_say_their_format(kind: Any, name: str, strict: bool) -> None:
    assert TypeSchema(kind, strict=strict).schema == {"type": "string", "format": name}


def test_a_recursive_alias_refers_to_itself() -> None:
    schema = TypeSchema(Json).schema
    assert schema["$ref"] == "#/$defs/Json"
    assert {"type": "array", "items": {"$ref": "#/$defs/Json"}} in schema["$defs"]["Json"]["anyOf"]


def test_classes_that_are_made_in_a_function_may_name_each_other() -> None:
    @dataclass
    class Leaf:
        value: int

    @dataclass
    class Tree:
        children: "list[Tree | Leaf]"
        root: Optional["Tree"] = None

    def plant(tree: "Tree") -> None: ...

    value = {"children": [{"value": 1}, {"children": []}]}
    expected = Tree([Leaf(1), Tree([])])
    assert TypeSchema(Tree).convert(value) == expected
    assert Signature(plant).convert({"tree": value}) == {"tree": expected}


def test_a_local_class_may_name_itself_where_its_function_has_ended() -> None:
    def make() -> Any:
        @dataclass
        class Node:
            inner: "Node | None" = None

        return Node

    node = make()
    assert TypeSchema(node).convert({"inner": {"inner": None}}) == node(node(None))


def test_two_keys_that_are_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r'^\$\["1\.0"\]: key: is there twice$'):
        TypeSchema(dict[int, str]).convert({"1": "a", "1.0": "b"})


@attrs.frozen
class Validated:
    kind: str = attrs.field(validator=attrs.validators.in_(["a", "b"]))
    count: int = attrs.field(default=1, validator=attrs.validators.instance_of(int))


def test_an_attrs_validator_is_told_by_its_text() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeSchema(Validated).convert({"kind": "c"})
    assert str(caught.value) == "$: 'kind' must be in ['a', 'b'] (got 'c')"


def test_choices_are_named_but_not_all_of_very_many() -> None:
    with pytest.raises(ValidationError, match=r"^\$: expected 1 \| 'two' \| None \| 2\.5, got 'x'$"):
        TypeSchema(Mixed).convert("x")
    many = Literal[tuple(f"n{at}" for at in range(99))]  # type: ignore[valid-type]
    with pytest.raises(ValidationError, match=r"'n49' \| …, got 'x'$"):
        TypeSchema(many).convert("x")


# As msgspec and Pydantic do it


def the_same(one: Any, other: Any) -> bool:
    return bool(one == other) and type(one) is type(other) and repr(one) == repr(other)


BY_OTHERS: tuple[Any, ...] = (
    *(bool, int, float, str, None, Literal["a", 7], datetime.date, datetime.timedelta),
    *(list[int], set[str], dict[str, int], tuple[int, str], tuple[int, ...], int | str, float | None, list[int] | str),
    *(Annotated[int, Meta(ge=0)], Annotated[str, Meta(min_length=1)], dict[str, list[float]]),
)
roughly = st.sampled_from(
    ["a", "", 7, 7.0, -1, True, None, "2024-02-29", "P1D", [], [1], [1, "a"], ["x"], {"a": 1}, {}, 1.5]
)
values = st.one_of(
    roughly, json_values, st.lists(roughly, max_size=3), st.dictionaries(st.sampled_from("abc"), roughly)
)


def with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: with_integers(inner) for key, inner in value.items()}
    return [with_integers(item) for item in value] if isinstance(value, list) else value


def is_finite(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(is_finite, inner)) and not (isinstance(value, float) and not math.isfinite(value))


@thorough
@given(st.sampled_from(BY_OTHERS), values)
def test_a_value_is_what_msgspec_gives_or_an_error_with_a_path(hint: Any, value: Any) -> None:
    assume(is_finite(value))
    expected: Any = None
    refused = False
    try:
        expected = msgspec.convert(value, hint, str_keys=True)
    except (msgspec.ValidationError, UnicodeError, TypeError):
        try:  # an integer may be written as 3.0
            expected = msgspec.convert(with_integers(value), hint, str_keys=True)
        except (msgspec.ValidationError, UnicodeError, TypeError):
            refused = True
    made = attempt(ValidationError, TypeSchema(hint).convert, value)
    assert isinstance(made, ValidationError) is refused
    assert made.path.startswith("$") if refused else the_same(made, expected)


class Address(pydantic.BaseModel):
    street: str
    number: int = pydantic.Field(default=1, ge=0)


class Person(pydantic.BaseModel, extra="forbid"):
    name: str
    born: datetime.date | None = None
    homes: list[Address] = []
    size: float | str = 1.0


people = st.fixed_dictionaries(
    {"name": st.text(max_size=3) | roughly},
    optional={
        "born": st.sampled_from(["2024-02-29", None, 3, "x"]),
        "homes": st.lists(
            st.fixed_dictionaries({"street": st.just("a") | roughly}, optional={"number": roughly}), max_size=2
        ),
        "size": roughly,
        "more": roughly,
    },
)


@thorough
@given(people | values)
def test_a_model_is_what_pydantic_gives_or_an_error_with_a_path(value: Any) -> None:
    assume(is_finite(value))
    text = json.dumps(value)
    assume("\\ud" not in text)
    expected = attempt(pydantic.ValidationError, Person.model_validate_json, text)
    made = attempt(ValidationError, TypeSchema(Person).convert, value)
    if isinstance(made, ValidationError):
        assert made.path.startswith("$")
        assert isinstance(expected, pydantic.ValidationError) or "out of range" in made.problem
    else:
        assert the_same(made, expected)


def test_a_strict_schema_is_made_of_what_a_type_says() -> None:
    assert strict_schema(TypeSchema(Folderless).schema) == TypeSchema(Folderless, strict=True).schema


@dataclass
class Folderless:
    name: str
    tags: list[str] = field(default_factory=list)
