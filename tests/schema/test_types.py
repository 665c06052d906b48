"""Types and signatures to JSON Schema, values checked against them, and values to JSON."""

# No annotations from __future__: get_type_hints has to find the names that stand inside of tests.

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
)

import attrs
import jsonschema
import msgspec
import numpy as np
import pydantic
import pytest
import typing_extensions
from hypothesis import assume, given
from hypothesis import strategies as st
from support.arbitrary import nested, nested_lists, quick, thorough
from typing_extensions import TypeAliasType

from openai_compat.errors import ConfigurationError
from openai_compat.schema.json_value import to_json_value
from openai_compat.schema.parameters import is_unbound_method
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.signature import Signature
from openai_compat.schema.types import TypeSchema
from openai_compat.wire.messages import Message

# ruff: noqa: UP006, UP007, UP045 - the older spellings are among what is tested

T = TypeVar("T")
Meta = msgspec.Meta


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shade(str, enum.Enum):  # noqa: UP042 - as older code has them
    DARK = "dark"


@dataclass
class Place:
    city: str
    country: str = "NZ"


@attrs.frozen
class Point:
    x: float


class Row(TypedDict):
    id: int


class Partial(TypedDict, total=False):
    id: Required[int]
    note: str


class Late(TypedDict):
    id: "Required[int]"
    note: "NotRequired[str]"


class Job(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What to do."""

    first_step: str
    retries: int = 3


class Pair(NamedTuple):
    a: int
    b: str = ""


class User(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(default=1, ge=0)


class Team(pydantic.BaseModel):
    lead: User
    members: list[User] = []


class Folder(pydantic.BaseModel):
    files: list[str]
    inside: list["Folder"] = []


class Mixed(pydantic.BaseModel):
    value: int | list[int]


class Reading(pydantic.BaseModel):
    value: float


CYCLE: dict[str, Any] = {}
CYCLE["name"] = CYCLE


class Arguments(msgspec.Struct):
    """Has the name that the library itself uses."""

    a: int


@dataclass
class Tree:
    value: int
    left: Optional["Tree"] = None
    right: "Tree | None" = None


@attrs.define
class Chain:
    next: "Chain | None" = None


class Nest(TypedDict):
    inner: "list[Nest]"


class Knot(msgspec.Struct):
    knots: "dict[str, Knot]" = {}


@dataclass
class Leaf:
    value: int


@dataclass
class Branch:
    """Has leaves."""

    children: "list[Branch | Leaf]"
    label: str = "twig"


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Either(Generic[T]):
    content: "T | Point"


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str] = []


@dataclass
class Click:
    x: int
    y: int
    kind: Literal["click"] = "click"


@dataclass
class Type:
    text: str
    kind: Literal["type"] = "type"


@dataclass
class Scroll:
    x: int
    y: int
    kind: Literal["scroll"] = "scroll"


@attrs.frozen
class Plan:
    step: Click | Type
    user: User | None = None
    then: tuple[Click | Type, ...] = ()


class PlanRow(TypedDict):
    step: "Click | Type"
    note: NotRequired[str]


class PlanBack(typing_extensions.TypedDict, total=False):
    step: Required[Click | Type]


class PlanStruct(msgspec.Struct, rename="kebab", tag="plan", forbid_unknown_fields=True):
    first_step: Click | Type
    times: int = 1


def positive(value: int) -> int:
    if value <= 0:
        raise ValueError("must be\nabove zero")
    return value


@attrs.frozen
class Bounded:
    """Has what msgspec would pass over: a converter, a field of its own, and a default made of another."""

    low: int = attrs.field(converter=positive)
    made: str = attrs.field(init=False, default="here")
    high: int = attrs.field(default=attrs.Factory(lambda self: self.low + 1, takes_self=True))


@dataclass
class Total:
    parts: list[int]
    start: dataclasses.InitVar[int] = 0
    total: int = dataclasses.field(init=False)

    def __post_init__(self, start: int) -> None:
        self.total = start + sum(self.parts)


@attrs.frozen
class Checked:
    days: int = attrs.field(validator=attrs.validators.ge(1))


class Marker:
    """An object that JSON does not know."""


@dataclass
class Odd:
    name: str
    path: Any = dataclasses.field(default_factory=dict)
    marker: Any = Marker
    ratio: float = float("nan")


@dataclass
class Ratio:
    value: float = float("nan")
    least: float = 0.5


class Context(Generic[T]):
    """What the caller fills in."""


Id = NewType("Id", int)
Step = NewType("Step", Union[Click, Type])  # type: ignore[valid-newtype]


Alias = TypeAliasType("Alias", list[Union[Click, Type]])


@pydantic.dataclasses.dataclass
class Range:
    low: int
    high: int = 9

    @pydantic.field_validator("high")
    @classmethod
    def above_zero(cls, value: int) -> int:
        return positive(value)


@dataclass
class Counted:
    count: int = dataclasses.field(init=False)

    def __init__(self, *parts: int) -> None:
        self.count = len(parts)


class Weather:
    def now(self, city: str) -> str:
        return city

    @classmethod
    def made(cls, city: str) -> "Weather":
        return cls()

    @staticmethod
    def told(city: str) -> str:
        return city

    def __call__(self, city: "str", *, days: "int" = 1) -> str:
        return city


class Request:
    def __init__(self, url: str, *, tries: "int" = 3) -> None: ...


def plain(city: str, days: int = 3, *, unit: Literal["C", "F"] = "C") -> str:
    return f"{city} {days} {unit}"


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def same_name(kind: str, module: str) -> Any:
    """A class named ``Same`` with a field named after its module."""
    if kind == "pydantic":
        return pydantic.create_model("Same", __module__=module, **{module: (int, ...)})  # type: ignore[call-overload]
    made = attrs.make_class("Same", {module: attrs.field(type=int)})
    made.__module__ = module
    made.__annotations__ = {module: int}
    return made


REQUIRED = object()


def of(hint: Any, default: Any = REQUIRED) -> Any:
    """A function of one parameter, ``x``."""

    def function(x: Any) -> None: ...

    function.__annotations__ = {"x": hint}
    if default is not REQUIRED:
        function.__defaults__ = (default,)
    return function


def scope(source: str) -> Any:
    """The function ``call`` of a source text, as it is under ``from __future__ import annotations``."""
    space = dict(globals())
    exec(compile("from __future__ import annotations\n" + source, "<test>", "exec"), space)
    return space["call"]


STRING, INTEGER, NUMBER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "null"}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def array_of(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def any_of(*members: Any, **more: Any) -> dict[str, Any]:
    return {"anyOf": list(members), **more}


def object_of(title: str, properties: Any, required: Sequence[str] | None = None, **more: Any) -> dict[str, Any]:
    """The schema of a class; all is required unless it is said what."""
    made = {"title": title, "type": "object", "properties": properties, **more}
    names = list(properties) if required is None else list(required)
    return {**made, "required": names} if names else made


UNIT = {"title": "Unit", "enum": ["celsius", "fahrenheit"]}
LEVEL = {"title": "Level", "enum": [1, 2]}
PLACE = object_of("Place", {"city": STRING, "country": {**STRING, "default": "NZ"}}, ["city"])
POINT = object_of("Point", {"x": NUMBER})
ROW = object_of("Row", {"id": INTEGER})
JOB = object_of(
    "Job",
    {"firstStep": STRING, "retries": {**INTEGER, "default": 3}},
    ["firstStep"],
    description="What to do.",
    additionalProperties=False,
)
USER = object_of(
    "User",
    {"name": {"title": "Name", **STRING}, "age": {"title": "Age", **INTEGER, "default": 1, "minimum": 0}},
    ["name"],
)
TEAM = object_of(
    "Team",
    {"lead": ref("User"), "members": array_of(ref("User"), title="Members", default=[])},
    ["lead"],
)
FOLDER = object_of(
    "Folder",
    {
        "files": array_of(STRING, title="Files"),
        "inside": array_of(ref("Folder"), title="Inside", default=[]),
    },
    ["files"],
)
CLICK = object_of("Click", {"x": INTEGER, "y": INTEGER, "kind": {"enum": ["click"], "default": "click"}}, ["x", "y"])
TYPE = object_of("Type", {"text": STRING, "kind": {"enum": ["type"], "default": "type"}}, ["text"])
PLAN = object_of(
    "Plan",
    {
        "step": any_of(ref("Click"), ref("Type")),
        "user": any_of(ref("User"), NULL, default=None),
        "then": array_of(any_of(ref("Click"), ref("Type")), default=[]),
    },
    ["step"],
)
MARK = {"type": "object"}

# What a parameter's type becomes: the type, the schema of the parameter, and what stands under $defs.
TYPES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "str": (str, STRING, {}),
    "int": (int, INTEGER, {}),
    "float": (float, NUMBER, {}),
    "bool": (bool, {"type": "boolean"}, {}),
    "none": (None, NULL, {}),
    "any": (Any, {}, {}),
    "object": (object, {}, {}),
    "bytes": (bytes, {**STRING, "contentEncoding": "base64"}, {}),
    "date": (datetime.date, {**STRING, "format": "date"}, {}),
    "datetime": (datetime.datetime, {**STRING, "format": "date-time"}, {}),
    "aware-datetime": (Annotated[datetime.datetime, Meta(tz=True)], {**STRING, "format": "date-time"}, {}),
    "timedelta": (datetime.timedelta, {**STRING, "format": "duration"}, {}),
    "uuid": (uuid.UUID, {**STRING, "format": "uuid"}, {}),
    "decimal": (decimal.Decimal, {**STRING, "format": "decimal"}, {}),
    "text": ("int", INTEGER, {}),
    "text-union": ("int | None", any_of(INTEGER, NULL), {}),
    "text-inside": (list["Place"], array_of(ref("Place")), {"Place": PLACE}),
    "newtype": (Id, INTEGER, {}),
    "newtype-of-union": (Step, any_of(ref("Click"), ref("Type")), {"Click": CLICK, "Type": TYPE}),
    "final": (Final[int], INTEGER, {}),
    "typevar": (T, {}, {}),
    "alias": (Alias, array_of(any_of(ref("Click"), ref("Type"))), {"Click": CLICK, "Type": TYPE}),
    "schema-of-ones-own": (
        Annotated[pathlib.PurePosixPath, Meta(extra_json_schema={"type": "string", "format": "path"})],
        {**STRING, "format": "path"},
        {},
    ),
    "annotated-text": (Annotated[int, "How many."], {**INTEGER, "description": "How many."}, {}),
    "annotated-empty-text": (Annotated[int, ""], INTEGER, {}),
    "annotated-meta": (
        Annotated[int, Meta(ge=1, lt=9, multiple_of=2, description="How many.")],
        {**INTEGER, "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2, "description": "How many."},
        {},
    ),
    "annotated-both": (
        Annotated[str, "A word.", Meta(pattern="^a", max_length=3)],
        {**STRING, "pattern": "^a", "maxLength": 3, "description": "A word."},
        {},
    ),
    "annotated-inside": (list[Annotated[int, "One."]], array_of({**INTEGER, "description": "One."}), {}),
    "annotated-class": (Annotated[Place, "Where."], {**ref("Place"), "description": "Where."}, {"Place": PLACE}),
    "annotated-model": (Annotated[User, "Who."], {**ref("User"), "description": "Who."}, {"User": USER}),
    "annotated-union": (
        Annotated[Click | Type, "What."],
        any_of(ref("Click"), ref("Type"), description="What."),
        {"Click": CLICK, "Type": TYPE},
    ),
    "literal": (Literal["b", "a"], {"enum": ["a", "b"]}, {}),
    "literal-mixed": (Literal["a", 2, None], {"enum": [None, 2, "a"]}, {}),
    "literal-or": (Literal["a"] | int, any_of({"enum": ["a"]}, INTEGER), {}),
    "enum": (Unit, ref("Unit"), {"Unit": UNIT}),
    "int-enum": (Level, ref("Level"), {"Level": LEVEL}),
    "str-enum-before-3.11": (Shade, ref("Shade"), {"Shade": {"title": "Shade", "enum": ["dark"]}}),
    "optional": (Optional[int], any_of(INTEGER, NULL), {}),
    "optional-class": (Place | None, any_of(ref("Place"), NULL), {"Place": PLACE}),
    "optional-model": (User | None, any_of(ref("User"), NULL), {"User": USER}),
    "union": (Union[int, str, list[int]], any_of(INTEGER, STRING, array_of(INTEGER)), {}),
    "union-of-strings": (
        datetime.date | uuid.UUID | None,
        any_of({**STRING, "format": "date"}, {**STRING, "format": "uuid"}, NULL),
        {},
    ),
    "union-of-lists": (list[int] | set[str], any_of(array_of(INTEGER), array_of(STRING, uniqueItems=True)), {}),
    "union-of-classes": (Place | Point, any_of(ref("Place"), ref("Point")), {"Place": PLACE, "Point": POINT}),
    "union-of-each-kind": (
        Union[Place, Point, Row, Job, User, int, None],
        any_of(ref("Place"), ref("Point"), ref("Row"), ref("Job"), ref("User"), INTEGER, NULL),
        {"Place": PLACE, "Point": POINT, "Row": ROW, "Job": JOB, "User": USER},
    ),
    "union-with-dict": (
        Point | dict[str, int],
        any_of(ref("Point"), {"type": "object", "additionalProperties": INTEGER}),
        {"Point": POINT},
    ),
    "union-in-list": (list[User | Place], array_of(any_of(ref("User"), ref("Place"))), {"User": USER, "Place": PLACE}),
    "union-in-dict": (
        dict[str, Point | Row],
        {"type": "object", "additionalProperties": any_of(ref("Point"), ref("Row"))},
        {"Point": POINT, "Row": ROW},
    ),
    "union-in-sequence": (
        Sequence[Point | Row],
        array_of(any_of(ref("Point"), ref("Row"))),
        {"Point": POINT, "Row": ROW},
    ),
    "union-in-optional-list": (
        list[Point | Row] | None,
        any_of(array_of(any_of(ref("Point"), ref("Row"))), NULL),
        {"Point": POINT, "Row": ROW},
    ),
    "tagged-union": (
        Cat | Dog,
        any_of(
            ref("Cat"),
            ref("Dog"),
            discriminator={"propertyName": "type", "mapping": {"Cat": "#/$defs/Cat", "Dog": "#/$defs/Dog"}},
        ),
        {
            "Cat": object_of("Cat", {"type": {"enum": ["Cat"]}, "lives": INTEGER}),
            "Dog": object_of("Dog", {"type": {"enum": ["Dog"]}, "tricks": array_of(STRING, default=[])}, ["type"]),
        },
    ),
    "list": (list[str], array_of(STRING), {}),
    "bare-list": (list, {"type": "array"}, {}),
    "old-list": (typing.List[int], array_of(INTEGER), {}),
    "iterable": (Iterable[int], array_of(INTEGER), {}),
    "sequence": (Sequence[int], array_of(INTEGER), {}),
    "bounded-list": (
        Annotated[list[int], Meta(min_length=1, max_length=3)],
        array_of(INTEGER, minItems=1, maxItems=3),
        {},
    ),
    "set": (set[int], array_of(INTEGER, uniqueItems=True), {}),
    "tuple": (tuple[int, ...], array_of(INTEGER), {}),
    "fixed-tuple": (
        tuple[int, Place | Point],
        {
            "type": "array",
            "prefixItems": [INTEGER, any_of(ref("Place"), ref("Point"))],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
        {"Place": PLACE, "Point": POINT},
    ),
    "dict": (dict[str, int], {"type": "object", "additionalProperties": INTEGER}, {}),
    "bare-dict": (dict, {"type": "object"}, {}),
    "mapping": (Mapping[str, Any], {"type": "object"}, {}),
    "int-keys": (dict[int, str], {"type": "object", "additionalProperties": STRING}, {}),
    "dataclass": (Place, ref("Place"), {"Place": PLACE}),
    "attrs": (Point, ref("Point"), {"Point": POINT}),
    "typeddict": (Row, ref("Row"), {"Row": ROW}),
    "typeddict-not-total": (
        Partial,
        ref("Partial"),
        {"Partial": object_of("Partial", {"id": INTEGER, "note": STRING}, ["id"])},
    ),
    "typeddict-in-text": (Late, ref("Late"), {"Late": object_of("Late", {"id": INTEGER, "note": STRING}, ["id"])}),
    "struct": (Job, ref("Job"), {"Job": JOB}),
    "namedtuple": (
        Pair,
        ref("Pair"),
        {
            "Pair": {
                "title": "Pair",
                "type": "array",
                "prefixItems": [INTEGER, {**STRING, "default": ""}],
                "minItems": 1,
                "maxItems": 2,
            }
        },
    ),
    "model": (User, ref("User"), {"User": USER}),
    "nested-model": (Team, ref("Team"), {"User": USER, "Team": TEAM}),
    "models": (list[Team], array_of(ref("Team")), {"User": USER, "Team": TEAM}),
    "recursive-model": (Folder, ref("Folder"), {"Folder": FOLDER}),
    "recursive-dataclass": (
        Tree,
        ref("Tree"),
        {
            "Tree": object_of(
                "Tree",
                {
                    "value": INTEGER,
                    "left": any_of(ref("Tree"), NULL, default=None),
                    "right": any_of(ref("Tree"), NULL, default=None),
                },
                ["value"],
            )
        },
    ),
    "recursive-attrs": (
        Chain,
        ref("Chain"),
        {"Chain": object_of("Chain", {"next": any_of(ref("Chain"), NULL, default=None)}, [])},
    ),
    "recursive-typeddict": (Nest, ref("Nest"), {"Nest": object_of("Nest", {"inner": array_of(ref("Nest"))})}),
    "recursive-struct": (
        Knot,
        ref("Knot"),
        {
            "Knot": object_of(
                "Knot", {"knots": {"type": "object", "additionalProperties": ref("Knot"), "default": {}}}, []
            )
        },
    ),
    "recursive-union": (
        Branch,
        ref("Branch"),
        {
            "Branch": object_of(
                "Branch",
                {"children": array_of(any_of(ref("Branch"), ref("Leaf"))), "label": {**STRING, "default": "twig"}},
                ["children"],
                description="Has leaves.",
            ),
            "Leaf": object_of("Leaf", {"value": INTEGER}),
        },
    ),
    "generic": (Box[int], ref("Box_int_"), {"Box_int_": object_of("Box[int]", {"content": INTEGER})}),
    "generic-unbound": (Box, ref("Box"), {"Box": object_of("Box", {"content": {}})}),
    "generics": (
        tuple[Box[int], Box[str]],
        {
            "type": "array",
            "prefixItems": [ref("Box_int_"), ref("Box_str_")],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
        {
            "Box_int_": object_of("Box[int]", {"content": INTEGER}),
            "Box_str_": object_of("Box[str]", {"content": STRING}),
        },
    ),
    "generic-of-union": (
        Either[Place],
        ref("Either_Place_"),
        {
            "Either_Place_": object_of("Either[Place]", {"content": any_of(ref("Place"), ref("Point"))}),
            "Place": PLACE,
            "Point": POINT,
        },
    ),
    "attrs-of-unions": (Plan, ref("Plan"), {"Plan": PLAN, "Click": CLICK, "Type": TYPE, "User": USER}),
    "typeddict-of-union": (
        PlanRow,
        ref("PlanRow"),
        {
            "PlanRow": object_of("PlanRow", {"step": any_of(ref("Click"), ref("Type")), "note": STRING}, ["step"]),
            "Click": CLICK,
            "Type": TYPE,
        },
    ),
    "struct-of-union": (
        PlanStruct,
        ref("PlanStruct"),
        {
            "PlanStruct": object_of(
                "PlanStruct",
                {
                    "type": {"enum": ["plan"]},
                    "first-step": any_of(ref("Click"), ref("Type")),
                    "times": {**INTEGER, "default": 1},
                },
                ["type", "first-step"],
                additionalProperties=False,
            ),
            "Click": CLICK,
            "Type": TYPE,
        },
    ),
    "attrs-converter": (
        Bounded,
        ref("Bounded"),
        {
            "Bounded": object_of(
                "Bounded",
                {"low": INTEGER, "high": INTEGER},
                ["low"],
                description="Has what msgspec would pass over: a converter, a field of its own, "
                "and a default made of another.",
            )
        },
    ),
    "dataclass-initvar": (
        Total,
        ref("Total"),
        {"Total": object_of("Total", {"parts": array_of(INTEGER), "start": {**INTEGER, "default": 0}}, ["parts"])},
    ),
    "defaults-that-are-not-json": (
        Odd,
        ref("Odd"),
        {"Odd": object_of("Odd", {"name": STRING, "path": {"default": {}}, "marker": {}, "ratio": NUMBER}, ["name"])},
    ),
    "default-that-json-lacks": (
        Ratio,
        ref("Ratio"),
        {"Ratio": object_of("Ratio", {"value": NUMBER, "least": {**NUMBER, "default": 0.5}}, [])},
    ),
    "same-name": (
        Union[same_name("attrs", "one"), same_name("attrs", "two")],
        any_of(ref("Same"), ref("Same_")),
        {"Same": object_of("Same", {"one": INTEGER}), "Same_": object_of("Same", {"two": INTEGER})},
    ),
    "same-name-of-models": (
        tuple[same_name("pydantic", "one"), same_name("pydantic", "two")],  # type: ignore[misc]
        {"type": "array", "prefixItems": [ref("Same"), ref("Same_")], "items": False, "minItems": 2, "maxItems": 2},
        {
            "Same": object_of("Same", {"one": {"title": "One", **INTEGER}}),
            "Same_": object_of("Same", {"two": {"title": "Two", **INTEGER}}),
        },
    ),
    "same-name-of-both": (
        Union[same_name("pydantic", "one"), list[same_name("attrs", "two")]],  # type: ignore[misc]
        any_of(ref("Same"), array_of(ref("Same_"))),
        {
            "Same": object_of("Same", {"one": {"title": "One", **INTEGER}}),
            "Same_": object_of("Same", {"two": INTEGER}),
        },
    ),
}


def parameters(properties: Any, required: Sequence[str] = (), defs: Any = None) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = list(required)
    return {**made, "$defs": defs} if defs else made


CITY = parameters({"city": STRING}, ["city"])
CITY_AND_DAYS = parameters({"city": STRING, "days": {**INTEGER, "default": 1}}, ["city"])

# Whole signatures: the function, and the schema of its parameters.
SIGNATURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "function": (
        plain,
        parameters(
            {
                "city": STRING,
                "days": {**INTEGER, "default": 3},
                "unit": {"enum": ["C", "F"], "default": "C"},
            },
            ["city"],
        ),
    ),
    "nothing": (lambda: None, parameters({})),
    "lambda": (lambda a, b=1: a, parameters({"a": {}, "b": {"default": 1}}, ["a"])),
    "lambda-true": (lambda a, b=True: a, parameters({"a": {}, "b": {"default": True}}, ["a"])),
    "keyword-only": (
        scope("def call(*, a: int, b: str = 'x'): ..."),
        parameters({"a": INTEGER, "b": {**STRING, "default": "x"}}, ["a"]),
    ),
    "future-annotations": (
        scope("def call(a: list[Place] | None, b: Click | Type) -> NoSuchName: ..."),
        parameters(
            {"a": any_of(array_of(ref("Place")), NULL), "b": any_of(ref("Click"), ref("Type"))},
            ["a", "b"],
            {"Place": PLACE, "Click": CLICK, "Type": TYPE},
        ),
    ),
    "future-class": (
        scope("import attrs\n@attrs.define\nclass call:\n  a: int\n  b: Place | None = None"),
        parameters({"a": INTEGER, "b": any_of(ref("Place"), NULL, default=None)}, ["a"], {"Place": PLACE}),
    ),
    "bound-method": (Weather().now, CITY),
    "unbound-method": (Weather.now, CITY),
    "unbound-wrapped-method": (wrapped(Weather.now), CITY),
    "class-method": (Weather.made, CITY),
    "static-method": (Weather.told, CITY),
    "callable-object": (Weather(), CITY_AND_DAYS),
    "class": (Request, parameters({"url": STRING, "tries": {**INTEGER, "default": 3}}, ["url"])),
    "dataclass": (Place, parameters({"city": STRING, "country": {**STRING, "default": "NZ"}}, ["city"])),
    "model": (
        User,
        parameters({"name": STRING, "age": {**INTEGER, "minimum": 0, "default": 1}}, ["name"]),
    ),
    "struct": (Job, parameters({"first_step": STRING, "retries": {**INTEGER, "default": 3}}, ["first_step"])),
    "wrapped": (wrapped(Weather().now), CITY),
    "wrapped-future": (wrapped(scope("def call(city: str): ...")), CITY),
    "twice-wrapped-partial": (wrapped(wrapped(functools.partial(plain, days=1, unit="C"))), CITY),
    "partial": (
        functools.partial(plain, unit="F"),
        parameters({"city": STRING, "days": {**INTEGER, "default": 3}}, ["city"]),
    ),
    "partial-positional": (
        functools.partial(plain, "Oslo"),
        parameters({"days": {**INTEGER, "default": 3}, "unit": {"enum": ["C", "F"], "default": "C"}}),
    ),
    "partial-first-by-name": (
        functools.partial(plain, city="Oslo"),
        parameters({"days": {**INTEGER, "default": 3}, "unit": {"enum": ["C", "F"], "default": "C"}}),
    ),
    "partial-of-partial": (
        functools.partial(functools.partial(plain, "Oslo"), unit="F"),
        parameters({"days": {**INTEGER, "default": 3}}),
    ),
    "partial-of-method": (functools.partial(Weather(), days=2), CITY),
    "partial-of-wrapped": (functools.partial(wrapped(plain), days=2, unit="C"), CITY),
    "partial-of-class": (functools.partial(Request, tries=1), parameters({"url": STRING}, ["url"])),
    "same-class-twice": (
        scope("def call(a: Plan, b: list[Plan], c: Team, d: User): ..."),
        parameters(
            {"a": ref("Plan"), "b": array_of(ref("Plan")), "c": ref("Team"), "d": ref("User")},
            ["a", "b", "c", "d"],
            {"Plan": PLAN, "Click": CLICK, "Type": TYPE, "User": USER, "Team": TEAM},
        ),
    ),
    "class-named-as-ours": (
        of(Arguments),
        parameters(
            {"x": ref("Arguments")},
            ["x"],
            {
                "Arguments": object_of(
                    "Arguments", {"a": INTEGER}, description="Has the name that the library itself uses."
                )
            },
        ),
    ),
    "model-named-as-ours": (
        of(pydantic.create_model("Arguments", a=(int, ...))),
        parameters(
            {"x": ref("Arguments")},
            ["x"],
            {"Arguments": object_of("Arguments", {"a": {"title": "A", **INTEGER}})},
        ),
    ),
    "default-none": (of(int, None), parameters({"x": any_of(INTEGER, NULL, default=None)})),
    "default-none-optional": (of(int | None, None), parameters({"x": any_of(INTEGER, NULL, default=None)})),
    "default-none-any": (of(Any, None), parameters({"x": {"default": None}})),
    "default-none-described": (
        of(Annotated[str, "Which."], None),
        parameters({"x": any_of({**STRING, "description": "Which."}, NULL, default=None)}),
    ),
    "default-list": (of(list[int], [1]), parameters({"x": array_of(INTEGER, default=[1])})),
    "default-set": (of(set[int], {1}), parameters({"x": array_of(INTEGER, uniqueItems=True, default=[1])})),
    "default-dict": (
        of(dict[str, int], {"a": 1}),
        parameters({"x": {"type": "object", "additionalProperties": INTEGER, "default": {"a": 1}}}),
    ),
    "default-enum": (of(Unit, Unit.F), parameters({"x": {**ref("Unit"), "default": "fahrenheit"}}, (), {"Unit": UNIT})),
    "default-attrs": (
        of(Point, Point(1.5)),
        parameters({"x": {**ref("Point"), "default": {"x": 1.5}}}, (), {"Point": POINT}),
    ),
    "default-model": (
        of(User, User(name="Ada")),
        parameters({"x": {**ref("User"), "default": {"name": "Ada", "age": 1}}}, (), {"User": USER}),
    ),
    "default-of-union": (
        of(Click | Type, Type("hi")),
        parameters(
            {"x": any_of(ref("Click"), ref("Type"), default={"text": "hi", "kind": "type"})},
            (),
            {"Click": CLICK, "Type": TYPE},
        ),
    ),
    "default-date": (
        of(datetime.date, datetime.date(2024, 2, 29)),
        parameters({"x": {**STRING, "format": "date", "default": "2024-02-29"}}),
    ),
    "default-no-json": (of(Any, Marker()), parameters({"x": {}})),
    "default-nan": (of(float, float("nan")), parameters({"x": NUMBER})),
    "default-misfit": (of(int, "three"), parameters({"x": INTEGER})),
    "default-sentinel": (of(int, ...), parameters({"x": INTEGER})),
    "default-attrs-nothing": (of(int, attrs.NOTHING), parameters({"x": INTEGER})),
}
TABLE = {
    **{name: (of(hint), parameters({"x": schema}, ["x"], defs)) for name, (hint, schema, defs) in TYPES.items()},
    **{f"signature-{name}": case for name, case in SIGNATURES.items()},
}


def test_the_table_is_a_table() -> None:
    assert len(TABLE) == len(TYPES) + len(SIGNATURES) >= 60


@pytest.mark.parametrize(("function", "expected"), TABLE.values(), ids=TABLE)
def test_schema_of_a_signature(function: Any, expected: dict[str, Any]) -> None:
    schema = Signature(function).parameters
    assert schema == expected
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator.check_schema(msgspec.json.decode(msgspec.json.encode(schema)))
    references = set(_references(schema))
    assert references <= {f"#/$defs/{name}" for name in schema.get("$defs", {})}


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        yield from (schema["$ref"],) if "$ref" in schema else ()
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for item in inner:
        yield from _references(item)


def test_schema_of_a_string_enum() -> None:
    made = enum.StrEnum("Made", ["A", "B"])
    assert TypeSchema(made).schema["$defs"]["Made"] == {"title": "Made", "enum": ["a", "b"]}


READY = {name: case for name, case in TYPES.items() if not name.startswith("text")}
"""Types without text in them, which is read where a function stands."""


@pytest.mark.parametrize(("hint", "schema", "defs"), READY.values(), ids=READY)
def test_schema_of_a_type_is_that_of_a_parameter(hint: Any, schema: Any, defs: Any) -> None:
    assert TypeSchema(hint).schema == ({**schema, "$defs": defs} if defs else schema)


def test_descriptions_are_for_parameters_that_have_none() -> None:
    function = scope("def call(a: int, b: Annotated[int, 'mine'], c: Annotated[int, Meta(ge=1)], d: Place = None): ...")
    words = dict.fromkeys("abcde", "told")
    properties = Signature(function, descriptions=words).parameters["properties"]
    assert [properties[name].get("description") for name in "abcd"] == ["told", "mine", "told", "told"]


def test_a_described_optional_keeps_its_own_description() -> None:
    properties = Signature(of(Annotated[int, "mine"], None), descriptions={"x": "told"}).parameters["properties"]
    assert "told" not in str(properties)
    assert "mine" in str(properties)


def test_a_default_is_not_mistaken_for_an_equal_one() -> None:
    defaults = [
        Signature(of(Any, value)).parameters["properties"]["x"]["default"] for value in (1, True, 1.0, 0, False)
    ]
    assert [repr(value) for value in defaults] == ["1", "True", "1.0", "0", "False"]


def test_schemas_are_not_shared() -> None:
    first = Signature(of(Team)).parameters
    first["$defs"]["User"]["properties"].clear()
    assert Signature(of(Team)).parameters == TABLE["nested-model"][1]


def test_nested_models_of_one_name_are_told_apart() -> None:
    def outer(name: str, module: str) -> Any:
        inner = same_name("pydantic", module)
        middle = pydantic.create_model("Middle", __module__=module, same=(inner, ...))
        return pydantic.create_model(name, __module__=module, middle=(middle, ...))

    one, two = outer("One", "one"), outer("Two", "two")
    schema = TypeSchema(tuple[one, two]).schema

    def follow(reference: Any, *names: str) -> Any:
        found = schema["$defs"][reference["$ref"].removeprefix("#/$defs/")]["properties"]
        return follow(found[names[0]], *names[1:]) if names else set(found)

    assert follow(schema["prefixItems"][0], "middle", "same") == {"one"}
    assert follow(schema["prefixItems"][1], "middle", "same") == {"two"}


def test_a_model_may_have_one_of_its_own_name_inside() -> None:
    outer = pydantic.create_model("Same", __module__="two", inner=(same_name("pydantic", "one"), ...))
    schema = TypeSchema(outer).schema
    assert schema == {
        **ref("Same_"),
        "$defs": {
            "Same": object_of("Same", {"one": {"title": "One", **INTEGER}}),
            "Same_": object_of("Same", {"inner": ref("Same")}),
        },
    }


def test_two_classes_of_one_name_and_module_are_told_apart() -> None:
    one, two = same_name("attrs", "one"), same_name("attrs", "one")
    schema = TypeSchema(tuple[one, two])
    assert schema.schema["prefixItems"] == [ref("Same"), ref("Same_")]
    assert [type(item) for item in schema.convert([{"one": 1}, {"one": 1}])] == [one, two]


# What the caller fills in


@pytest.mark.parametrize(
    "hint",
    [
        Context,
        Context[int],
        "Context",
        Context | None,
        Annotated[Context, "x"],
        Annotated[Context | None, "x"],  # type: ignore[type-arg]
    ],
    ids=str,
)
@pytest.mark.parametrize("strict", [False, True])
def test_injected_parameters_stay_out(hint: Any, strict: bool) -> None:
    def call(city: str, context: Any, days: int = 1) -> None: ...

    call.__annotations__["context"] = hint
    signature = Signature(call, injected=Context, strict=strict)
    assert signature.injected == ["context"]
    assert list(signature.parameters["properties"]) == ["city", "days"]
    assert signature.convert({"city": "Oslo"}) == {"city": "Oslo"}
    with pytest.raises(ValidationError, match=r"^\$\.context: no such field$"):
        signature.convert({"city": "Oslo", "context": None})


def test_a_list_of_what_is_injected_is_not_injected() -> None:
    assert Signature(of(list[Place]), injected=Place).injected == []


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("items", "keys", "self", "cls", "_private", "__dunder__", "__init__", "__post_init__", "__struct_fields__"),
        *("field", "fields", "given", "name", "tag", "schema", "größe", "p0", "p1", "type", "default", "ref", "mro"),
    ],
)
def test_any_name_may_name_a_parameter(name: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def call(x: int, {name}: int = 2): ...", space)
    signature = Signature(space["call"])
    assert set(signature.parameters["properties"]) == {"x", name}
    assert signature.convert({"x": 1, name: 5}) == {"x": 1, name: 5}
    assert signature.convert({"x": 1}) == {"x": 1}


# What is refused


def several(*args: int) -> None: ...


def keywords(**kwargs: int) -> None: ...


def positional(a: int, /) -> None: ...


class Unhappy(pydantic.BaseModel):
    call: Callable[[], int]


class Arrays(msgspec.Struct, array_like=True, tag=True):
    step: Click | Type


REFUSED: dict[str, tuple[Any, str]] = {
    "positional-only": (positional, "given by name; 'a' cannot be"),
    "several": (several, "given by name; 'args' cannot be"),
    "keywords": (keywords, "given by name; 'kwargs' cannot be"),
    "class": (of(pytest.Item), "no JSON Schema for parameter 'x': .*Item"),
    "class-inside": (of(list[Box[pytest.Item]]), "no JSON Schema for parameter 'x': .*Item"),
    "class-in-union": (of(int | pytest.Item), "no JSON Schema for parameter 'x': .*Item"),
    "complex": (of(complex), "parameter 'x': type <class 'complex'> is not supported"),
    "callable": (of(Callable[[], int]), "parameter 'x'"),
    "model": (of(Unhappy), "parameter 'x': .*Callable"),
    "never": (of(typing.NoReturn), "parameter 'x'"),
    "bytes-literal": (of(Literal[b"a"]), "parameter 'x': Literal may only contain"),
    "enum-of-tuples": (of(enum.Enum("E", {"A": (1, 5)})), "parameter 'x': E may only contain"),
    "no-members": (of(enum.Enum("E", {})), "parameter 'x'"),
    "bounds-of-another-type": (of(Annotated[int, Meta(min_length=3)]), "parameter 'x': Can only set `min_length`"),
    "bounds-too-wide": (of(Annotated[int, Meta(le=2**64)]), "parameter 'x': Integer bounds"),
    "bad-pattern": (of("Annotated[str, Meta(pattern='(')]"), "parameter 'x' cannot be read: missing \\)"),
    "array-like-with-a-tag": (of(Arrays), "parameter 'x': Arrays is array_like"),
    "constructor": (of(Counted), "parameter 'x': a tool's parameters are given by name; 'parts' cannot be"),
    "unknown-name": (of("NoSuchName"), "parameter 'x' cannot be read: name 'NoSuchName'"),
    "no-annotation": (of("list["), "parameter 'x' cannot be read"),
    "value": (of(3), "parameter 'x'"),
    "no-signature": (min, "signature cannot be read|given by name"),
    "classmethod-object": (Weather.__dict__["made"], "signature cannot be read"),
    "not-callable": (3, "signature cannot be read"),
    "unreadable-class": (scope("import attrs\n@attrs.define\nclass call:\n  a: NoSuchName"), "NoSuchName"),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("strict", [False, True])
def test_what_has_no_schema_is_refused(function: Any, message: str, strict: bool) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Signature(function, strict=strict)
    assert "\n" not in str(caught.value)


# Methods


METHODS: dict[str, tuple[Any, bool]] = {
    "function": (plain, False),
    "local-function": (of(int), False),
    "unbound": (Weather.now, True),
    "wrapped": (wrapped(Weather.now), True),
    "bound": (Weather().now, False),
    "class-method": (Weather.made, False),
    "static-method": (Weather.told, False),
    "callable": (Weather(), False),
    "class": (Weather, False),
    "partial": (functools.partial(Weather.now), True),
    "cached": (functools.lru_cache(Weather.now), True),
    "partial-of-an-instance": (functools.partial(Weather.now, Weather()), False),
    "builtin": (len, False),
    "nothing": (None, False),
}


@pytest.mark.parametrize(("function", "expected"), METHODS.values(), ids=METHODS)
def test_unbound_methods_are_told(function: Any, expected: bool) -> None:
    assert is_unbound_method(function) is expected


# Conversion


def click(**changes: Any) -> dict[str, Any]:
    return {"kind": "click", "x": 1, "y": 2, **changes}


class Part(enum.Enum):
    """Of a whole."""

    HALF = 0.5


class Nowhere(NamedTuple):
    pass


class Span(NamedTuple):
    """From here to there."""

    first: int
    last: int = 9


CONVERTED: dict[str, tuple[Any, Any, Any]] = {
    "str": (str, "é", "é"),
    "lone-surrogate": (str, "\ud83d", "\ud83d"),
    "int": (int, 3, 3),
    "int-as-float": (int, 3.0, 3),
    "int-as-large-float": (int, 1e21, 10**21),
    "int-beyond-64-bits": (int, 2**70, 2**70),
    "bounded-int-beyond-64-bits": (Annotated[int, Meta(ge=1)], 2**70, 2**70),
    "bounded-int-as-float": (Annotated[int, Meta(ge=1)], 3.0, 3),
    "literal-as-float": (Literal[3], 3.0, 3),
    "enum-as-float": (Level, 2.0, Level.HIGH),
    "float": (float, 1.5, 1.5),
    "float-as-int": (float, 3, 3.0),
    "float-from-huge-int": (float, 2**70, float(2**70)),
    "any-float": (Any, 3.0, 3.0),
    "ints-inside": (dict[str, list[int]], {"a": [1.0, 2]}, {"a": [1, 2]}),
    "date": (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
    "datetime": (datetime.datetime, "2024-02-29T12:00:00", datetime.datetime(2024, 2, 29, 12)),
    "timedelta": (datetime.timedelta, "P1DT1S", datetime.timedelta(1, 1)),
    "uuid": (uuid.UUID, "00000000-0000-0000-0000-000000000001", uuid.UUID(int=1)),
    "decimal": (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    "bytes": (bytes, "YWI=", b"ab"),
    "enum": (Unit, "celsius", Unit.C),
    "newtype": (Id, 3, 3),
    "literal-none": (Literal["a", None], None, None),
    "set": (set[int], [1, 1, 2], {1, 2}),
    "tuple": (tuple[int, ...], [1, 2], (1, 2)),
    "fixed-tuple": (tuple[int, str], [1, "a"], (1, "a")),
    "iterable": (Iterable[int], [1], [1]),
    "int-keys": (dict[int, str], {"1": "a"}, {1: "a"}),
    "enum-keys": (dict[Unit, int], {"celsius": 1}, {Unit.C: 1}),
    "dataclass": (Place, {"city": "Oslo"}, Place("Oslo")),
    "unknown-keys-of-a-class": (Place, {"city": "Oslo", "zip": 1}, Place("Oslo")),
    "typeddict": (Row, {"id": 1}, {"id": 1}),
    "struct": (Job, {"firstStep": "a"}, Job("a")),
    "namedtuple": (Pair, [1], Pair(1)),
    "model": (User, {"name": "Ada"}, User(name="Ada")),
    "models": (list[Team], [{"lead": {"name": "Ada"}}], [Team(lead=User(name="Ada"))]),
    "recursive-model": (Folder, {"files": [], "inside": [{"files": []}]}, Folder(files=[], inside=[Folder(files=[])])),
    "tree": (Tree, {"value": 1, "left": {"value": 2.0}}, Tree(1, Tree(2))),
    "generic": (Box[int], {"content": 1}, Box(1)),
    "generic-of-union": (Either[Place], {"content": {"city": "Oslo"}}, Either(Place("Oslo"))),
    "optional-model": (User | None, None, None),
    "union-by-keys": (Click | Type, {"text": "hi"}, Type("hi")),
    "union-by-tag": (Click | Scroll | Type, click(kind="scroll"), Scroll(1, 2)),
    "union-with-optional": (Click | Type | None, None, None),
    "union-of-strings": (datetime.date | uuid.UUID | str, "x", "x"),
    "union-first-string-that-fits": (datetime.date | str, "2024-02-29", datetime.date(2024, 2, 29)),
    "union-of-lists": (list[Click] | list[Type], [{"text": "hi"}], [Type("hi")]),
    "union-keeps-most": (Point | dict[str, int], {"x": 1, "y": 2}, {"x": 1, "y": 2}),
    "union-of-listed-and-number": (Literal[7] | float, 0, 0.0),
    "union-of-enum-and-number": (Level | float, 5, 5.0),
    "union-of-listed-and-text": (Literal["a"] | str, "b", "b"),
    "union-with-pattern": (Annotated[str, Meta(pattern="^a")] | list[int], [1], [1]),
    "union-class-or-dict": (Point | dict[str, int], {"x": 1.5}, Point(1.5)),
    "union-dict": (Place | dict[str, int], {"a": 1}, {"a": 1}),
    "union-of-models": (User | Team, {"lead": {"name": "Ada"}}, Team(lead=User(name="Ada"))),
    "union-with-int": (User | int, 3.0, 3),
    "tagged-union": (Cat | Dog, {"type": "Dog"}, Dog()),
    "branch": (
        Branch,
        {"children": [{"value": 1}, {"children": []}], "label": "a"},
        Branch([Leaf(1), Branch([])], "a"),
    ),
    "plan": (
        Plan,
        {"step": {"text": "hi"}, "user": {"name": "Ada"}, "then": [click()]},
        Plan(Type("hi"), User(name="Ada"), (Click(1, 2),)),
    ),
    "plan-row": (PlanRow, {"step": click()}, {"step": Click(1, 2)}),
    "plan-of-typing-extensions": (list[PlanBack | Row], [{"step": click()}], [{"step": Click(1, 2)}]),
    "plan-struct": (PlanStruct, {"type": "plan", "first-step": click()}, PlanStruct(Click(1, 2))),
    "plan-struct-or-model": (
        PlanStruct | User,
        {"type": "plan", "first-step": click(), "times": 2},
        PlanStruct(Click(1, 2), 2),
    ),
    "constructor-with-converter": (Bounded, {"low": 1}, Bounded(1, 2)),
    "constructor-with-initvar": (list[Total], [{"parts": [1, 2], "start": 4}], [Total([1, 2], 4)]),
    "alias": (Alias, [{"text": "hi"}], [Type("hi")]),
    "model-dataclass": (list[Range], [{"low": 1}], [Range(1)]),
    "schema-of-ones-own": (
        Annotated[pathlib.PurePosixPath, Meta(extra_json_schema={"type": "string"})],
        "a/b",
        pathlib.PurePosixPath("a/b"),
    ),
    "decimal-of-a-float": (decimal.Decimal, 0.1, decimal.Decimal("0.1")),
    "enum-of-floats": (Part, decimal.Decimal("0.5"), Part.HALF),
    "no-fields": (Nowhere, [], Nowhere()),
    "left-out-item": (Span, [1], Span(1)),
    "described-keys": (dict[Annotated[int, Meta(description="A year.")], str], {"2024": "a"}, {2024: "a"}),
    "instances-pass": (list[Plan | User | Point], [Plan(Click(1, 2)), User(name="a"), Point(1)], None),
}


@pytest.mark.parametrize(("hint", "value", "expected"), CONVERTED.values(), ids=CONVERTED)
def test_values_are_converted(hint: Any, value: Any, expected: Any) -> None:
    made = TypeSchema(hint).convert(value)
    expected = value if expected is None and value is not None else expected
    assert made == expected
    assert type(made) is type(expected)
    assert Signature(of(hint)).convert({"x": value}) == {"x": expected}


def test_a_strict_model_takes_what_json_has() -> None:
    class Strict(pydantic.BaseModel, strict=True):
        day: datetime.date
        tags: set[str]
        unit: Unit

    made = TypeSchema(Strict).convert({"day": "2024-02-29", "tags": ["a"], "unit": "celsius"})
    assert (made.day, made.tags, made.unit) == (datetime.date(2024, 2, 29), {"a"}, Unit.C)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), decimal.Decimal("1e500"), 10**400], ids=str)
@pytest.mark.parametrize("hint", [float, Annotated[float, Meta(ge=0)], Any, Ratio, Reading], ids=str)
def test_what_no_float_holds_is_refused(hint: Any, number: Any) -> None:
    value = {"value": number} if isinstance(hint, type) and hint is not float else number
    if hint is Any and isinstance(number, int):
        return  # an integer has as many digits as it likes
    with pytest.raises(ValidationError, match=r"^\$(\.value)?: .*(out of range|finite number)"):
        TypeSchema(hint).convert(value)


def test_missing_arguments_are_left_to_the_function() -> None:
    assert Signature(plain).convert({"city": "Oslo"}) == {"city": "Oslo"}


MISFITS: dict[str, tuple[Any, Any, str]] = {
    "type": (int, "three", "$: expected int, got str"),
    "no-coercion": (int, "3", "$: expected int, got str"),
    "bool-is-no-int": (int, True, "$: expected int, got bool"),
    "fraction": (int, 3.5, "$: expected int, got float"),
    "bound": (Annotated[int, Meta(ge=1)], 0, "$: expected int >= 1"),
    "bound-below-64-bits": (Annotated[int, Meta(ge=1)], -(2**70), "$: expected int >= 1"),
    "pattern": (Annotated[str, Meta(pattern="^a")], "b", "$: expected str matching regex '^a'"),
    "float-out-of-range": (float, 10**400, "$: number out of range"),
    "null": (str, None, "$: expected str, got null"),
    "union": (int | list[int] | None, "x", "$: expected int | array | null, got str"),
    "literal": (Literal["a"], "b", "$: expected 'a', got 'b'"),
    "literal-that-looks-like-a-path": (
        Box[Literal["a"]],
        {"content": "b` - at `$.x`"},
        "$.content: expected 'a', got 'b` - at `$.x`'",
    ),
    "literal-in-lines": (Literal["a"], "b\n\tc", r"$: expected 'a', got 'b\n\tc'"),
    "enum": (Unit, "kelvin", "$: expected 'celsius' | 'fahrenheit', got 'kelvin'"),
    "surrogate": (datetime.date, "\ud83d", "$: text that is not valid Unicode"),
    "decimal-that-is-no-number": (decimal.Decimal, "NaN", "$: number out of range"),
    "no-time-zone": (
        Annotated[datetime.datetime, Meta(tz=True)],
        "2024-02-29 10:00",
        "$: expected datetime with a timezone component",
    ),
    "equal-items": (Annotated[frozenset[int], Meta(min_length=2)], [1, 1], "$: expected array of length >= 2"),
    "too-few-items": (Span, [], "$: expected array of length >= 1, got 0"),
    "too-many-items": (Span, [1, 2, 3], "$: expected array of length <= 2, got 3"),
    "date": (datetime.date, "today", "$: invalid RFC3339 encoded date"),
    "uuid": (uuid.UUID, "x", "$: invalid UUID"),
    "decimal": (decimal.Decimal, "x", "$: invalid decimal string"),
    "bytes": (bytes, "é", "$: invalid base64 encoded string"),
    "timedelta": (datetime.timedelta, 3, "$: expected duration, got int"),
    "item": (list[int], [1, "x"], "$[1]: expected int, got str"),
    "set-item": (set[int], [1, None], "$[1]: expected int, got null"),
    "tuple-length": (tuple[int, str], [1], "$: expected array of length 2, got 1"),
    "tuple-item": (tuple[int, str], [1, 2], "$[1]: expected str, got int"),
    "dict-value": (dict[str, int], {"a": 1, "b": "x"}, "$.b: expected int, got str"),
    "dict-value-under-odd-key": (dict[str, int], {"a b": "x"}, '$["a b"]: expected int, got str'),
    "dict-value-under-key-in-lines": (dict[str, int], {"a\nb": "x"}, '$["a\\nb"]: expected int, got str'),
    "dict-in-dict": (
        dict[str, dict[str, list[int]]],
        {"a": {"b": [1]}, "c": {"d": [], "e": [1, "x"]}},
        "$.c.e[1]: expected int, got str",
    ),
    "dict-key": (dict[int, int], {"1": 1, "x": 1}, "$.x: key: expected int, got str"),
    "dict-enum-key": (Box[dict[Level, int]], {"content": {"x": 1}}, "$.content.x: key: expected 1 | 2, got 'x'"),
    "dict-too-small": (Annotated[dict[str, int], Meta(min_length=1)], {}, "$: expected object of length >= 1"),
    "object": (Place, "Oslo", "$: expected object, got str"),
    "missing": (Place, {}, "$.city: required, but missing"),
    "missing-inside": (list[Place], [{}], "$[0].city: required, but missing"),
    "missing-renamed": (Job, {"retries": 1}, "$.firstStep: required, but missing"),
    "unknown": (Job, {"firstStep": "a", "x": 1}, "$.x: no such field"),
    "unknown-odd": (Job, {"firstStep": "a", "x\n`y": 1}, '$["x\\n`y"]: no such field'),
    "field": (Place, {"city": 3}, "$.city: expected str, got int"),
    "field-deep": (Tree, {"value": 1, "left": {"value": None}}, "$.left.value: expected int, got null"),
    "validator": (list[Checked], [{"days": 0}], "$[0]: 'days' must be >= 1: 0"),
    "converter": (list[Bounded], [{"low": 0}], "$[0]: must be above zero"),
    "key-with-a-dot": (
        dict[str, TypedDict("Dotted", {"a.b": dict[str, int]})],  # type: ignore[misc]
        {"c": {"a.b": {"d": "x"}}},
        '$.c["a.b"].d: expected int, got str',
    ),
    "schema-of-ones-own": (
        list[Annotated[fractions.Fraction, Meta(extra_json_schema={"type": "string"})]],
        ["1/2", "x"],
        "$[1]: Invalid literal for Fraction: 'x'",
    ),
    "union-in-a-model": (
        Mixed,
        {"value": [1, "x"]},
        "$.value[1]: input should be a valid integer, unable to parse string as an integer",
    ),
    "typeddict": (Row, {"id": "1"}, "$.id: expected int, got str"),
    "struct-tag": (Cat | Dog, {"type": "Cow"}, "$.type: expected 'Cat' | 'Dog', got 'Cow'"),
    "namedtuple": (Pair, [1, 2], "$[1]: expected str, got int"),
    "generic": (Box[int], {"content": "x"}, "$.content: expected int, got str"),
    "model": (User, {"name": 3}, "$.name: input should be a valid string"),
    "model-type": (User, 3, "$: input should be an object"),
    "model-missing": (list[Team], [{"lead": {}}], "$[0].lead.name: required, but missing"),
    "model-item": (
        dict[str, Team],
        {"a": {"lead": {"name": "a"}, "members": [3]}},
        "$.a.members[0]: input should be an object",
    ),
    "model-bound": (User, {"name": "a", "age": -1}, "$.age: input should be greater than or equal to 0"),
    "union-of-classes": (Click | Type, 3, "$: expected object, got int"),
    "union-of-all": (Click | Type | int | list[str], "x", "$: expected object | int | array, got str"),
    "union-by-keys": (Click | Type, {"x": 1, "y": "2"}, "$.y: expected int, got str"),
    "union-by-tag": (Click | Scroll, click(kind="scroll", y=None), "$.y: expected int, got null"),
    "union-of-strings": (datetime.date | uuid.UUID, "x", "$: invalid RFC3339 encoded date"),
    "union-inside": (list[Click | Type], [click(), {"text": 3}], "$[1].text: expected str, got int"),
    "union-with-model": (
        User | Click,
        {"name": "a", "age": "x"},
        "$.age: input should be a valid integer, unable to parse string as an integer",
    ),
    "union-missing": (Click | Type, click(x=None, z=3), "$.x: expected int, got null"),
    "union-of-lists": (list[Click] | list[Type], [{"text": 1}], "$[0].text: expected str, got int"),
    "plan": (Plan, {"step": {"text": "hi"}, "user": {"name": None}}, "$.user.name: input should be a valid string"),
    "plan-deep": (dict[str, Plan], {"a": {"step": click(x="1")}}, "$.a.step.x: expected int, got str"),
    "plan-tuple": (Plan, {"step": click(), "then": [click(), {}]}, "$.then[1].x: required, but missing"),
    "plan-struct": (PlanStruct, {"type": "plan", "first-step": 3}, '$["first-step"]: expected object, got int'),
    "plan-struct-tag": (PlanStruct, {"type": "no", "first-step": click()}, "$.type: expected 'plan', got 'no'"),
    "branch": (
        Branch,
        {"children": [{"children": [{"value": "x"}]}]},
        "$.children[0].children[0].value: expected int, got str",
    ),
    "initvar": (Total, {"parts": [], "start": "x"}, "$.start: expected int, got str"),
    "no-json": (int, Marker(), "$: expected int, got Marker"),
    "no-json-inside": (Place, {"city": {1, 2}}, "$.city: expected str, got set"),
    "no-json-in-a-model": (User, {"name": Marker()}, "$: Encoding objects of type Marker is unsupported"),
    "keys-that-are-no-text": (Place, {3: "x"}, '$["3"]: key: expected str'),
}


@pytest.mark.parametrize(("hint", "value", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_told_in_one_line_with_its_path(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeSchema(hint).convert(value)
    assert str(caught.value) == message
    assert message.startswith(caught.value.path + ": ")
    with pytest.raises(ValidationError) as caught:
        Signature(of(hint)).convert({"x": value})
    assert str(caught.value) == message.replace("$", "$.x", 1)


ODDITIES: dict[str, tuple[Any, Any, str]] = {
    "unhashable": (set, [[1]], "$.x[0]: unhashable type: 'list'"),
    "cycle-in-a-model": (User, CYCLE, "$: nested too deeply"),
    "lone-surrogate-as-key": (Place, {"\ud83d": 1}, "$.x[0].city: required, but missing"),
    "lone-surrogate-as-literal": (Literal["a"], "\ud83d", r"$.x[0]: expected 'a', got '\ud83d'"),
    "lone-surrogate-in-a-model": (User, {"name": "\ud83d"}, "$.x[0]: text that is not valid Unicode"),
}


@pytest.mark.parametrize(("hint", "value", "message"), ODDITIES.values(), ids=ODDITIES)
def test_odd_values_are_refused_too(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Signature(of(list[hint])).convert({"x": [value]})
    assert str(caught.value) == message


ARGUMENTS: dict[str, tuple[Any, str]] = {
    "type": ({"city": "Oslo", "days": "three"}, "$.days: expected int, got str"),
    "missing": ({"days": 1}, "$.city: required, but missing"),
    "unknown": ({"city": "Oslo", "x": 1}, "$.x: no such field"),
    "not-one-of": ({"city": "Oslo", "unit": "K"}, "$.unit: expected 'C' | 'F', got 'K'"),
    "null-for-a-default": ({"city": "Oslo", "days": None}, "$.days: expected int, got null"),
    "no-object": (["Oslo"], "$: expected object, got array"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Signature(plain).convert(arguments)
    assert str(caught.value) == message


def test_the_rest_is_told_where_an_integer_was_written_as_a_float() -> None:
    with pytest.raises(ValidationError, match=r"^\$\.city: expected str, got null$"):
        Signature(plain).convert({"city": None, "days": 3.0})


class Endless(TypedDict, total=False):
    error: "Endless"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("hint", [Endless, Chain, Branch, Folder], ids=lambda hint: hint.__name__)
def test_what_is_nested_too_deeply_is_refused(hint: Any, strict: bool) -> None:
    schema = TypeSchema(hint, strict=strict)
    for value in (nested(20_000, {"Chain": "next"}.get(hint.__name__, "error")), nested_lists(20_000)):
        with pytest.raises(ValidationError):
            schema.convert(value)
    deep: Any = {"children": [], "files": []}
    for _ in range(20_000):
        deep = {"children": [deep], "files": [], "inside": [deep], "next": deep, "error": deep}
    with pytest.raises(ValidationError, match=r"^\$.*: nested too deeply$"):
        schema.convert(deep)
    with pytest.raises(ValidationError, match=r"^\$.*: nested too deeply$"):
        Signature(of(hint), strict=strict).convert({"x": deep})


def test_the_blame_in_a_large_dict_is_found_quickly() -> None:
    value = {f"k{at}": list(range(10)) for at in range(20_000)}
    value["k19999"] = [1, "x"]  # type: ignore[list-item]
    with pytest.raises(ValidationError, match=r"^\$\.k19999\[1\]: expected int, got str$"):
        TypeSchema(dict[str, list[int]]).convert(value)


UNSAFE = """
import gc
from dataclasses import make_dataclass
from typing import Annotated, Union
from msgspec import Meta
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.types import TypeSchema
from openai_compat.schema.signature import Signature

def use(hint):
    def call(x): ...
    call.__annotations__ = {"x": hint}
    Signature(call)
    schema = TypeSchema(hint)
    for value in ("a", 1, [1], {"one": [1], "two": []}):
        try:
            schema.convert(value)
        except ValidationError:
            pass

for narrow in (Annotated[str, Meta(pattern="^a", min_length=1)], Annotated[int, Meta(ge=1)]):
    for other in (list[int], dict[str, int], set[int], tuple[int, ...], tuple[int, str]):
        for hint in (Union[narrow, other], Union[other, narrow, None]):
            use(hint)
            use(list[hint])
            use(make_dataclass("Made", [("one", hint), ("two", list[int] | set[int])]))
            gc.collect()
print("unharmed")
"""


def test_no_union_lets_msgspec_free_what_is_not_its_own() -> None:
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    run = subprocess.run(
        [sys.executable, "-c", UNSAFE], capture_output=True, text=True, env=environment, errors="replace"
    )
    assert (run.stdout, run.returncode) == ("unharmed\n", 0), run.stderr[:2000]


def test_an_error_of_the_users_own_goes_through() -> None:
    @dataclass
    class Broken:
        x: int

        def __post_init__(self) -> None:
            raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        TypeSchema(Broken).convert({"x": 1})


def test_an_error_can_be_pickled() -> None:
    error = ValidationError("$.a", "no")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path) == ("$.a: no", "$.a")


# Types of any shape: what fits is converted, what does not is refused with a path.


class Kind(NamedTuple):
    """A type, with a strategy of its values: each as JSON, and as JSON under strict mode."""

    hint: Any
    pairs: st.SearchStrategy[tuple[Any, Any]]
    takes_null: bool = False
    exact_paths: bool = True


def plain_kind(hint: Any, values: st.SearchStrategy[Any], **more: Any) -> Kind:
    return Kind(hint, values.map(lambda value: (value, value)), **more)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LEAVES = (
    plain_kind(str, texts),
    plain_kind(int, st.integers() | st.integers(-(2**53), 2**53).map(float)),
    # Whole numbers that the digit below takes too: in a union of both they are its, as in msgspec.
    plain_kind(float, st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 9)),
    plain_kind(bool, st.booleans()),
    plain_kind(None, st.none(), takes_null=True),
    plain_kind(Literal["a", "b", 7], st.sampled_from(["a", "b", 7])),
    plain_kind(Literal["a", None], st.sampled_from(["a", None]), takes_null=True),
    plain_kind(Unit, st.sampled_from(["celsius", "fahrenheit"])),
    plain_kind(Level, st.sampled_from([1, 2])),
    plain_kind(datetime.date, st.dates().map(datetime.date.isoformat)),
    plain_kind(Annotated[int, Meta(ge=0, le=9, description="A digit.")], st.integers(0, 9)),
    plain_kind(Annotated[str, Meta(pattern="^a")], texts.map("a".__add__)),
)
numbers = itertools.count()
FAMILIES = ("dataclass", "attrs", "struct", "typeddict", "pydantic")
FIELDS = ("one", "two", "three")


def make_class(family: str, fields: Mapping[str, Any], optional: set[str]) -> Any:
    """A class of a family; what is optional has None as its default."""
    name = f"Made{next(numbers)}"
    needed = [(key, hint) for key, hint in fields.items() if key not in optional]
    others = [(key, hint) for key, hint in fields.items() if key in optional]
    if family == "dataclass":
        return dataclasses.make_dataclass(name, [*needed, *((key, hint, None) for key, hint in others)])
    if family == "attrs":
        space = {"__annotations__": dict(needed + others), **dict.fromkeys(optional), "__module__": __name__}
        return attrs.define(type(name, (), space))
    if family == "struct":
        return msgspec.defstruct(name, [*needed, *((key, hint, None) for key, hint in others)])
    if family == "typeddict":
        return TypedDict(  # type: ignore[operator]
            name, {key: NotRequired[hint] if key in optional else hint for key, hint in fields.items()}
        )
    model = {key: (hint, None if key in optional else ...) for key, hint in fields.items()}
    return pydantic.create_model(name, **model)  # type: ignore[call-overload]


@st.composite
def classes(draw: st.DrawFn, kinds: st.SearchStrategy[Kind], *, fewest: int = 0, all_required: bool = False) -> Kind:
    family = draw(st.sampled_from(FAMILIES))
    if family == "pydantic":
        kinds = st.sampled_from(LEAVES)
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), kinds, min_size=fewest, max_size=3))
    optional = {key for key in fields if not all_required and draw(st.booleans())}
    hint = make_class(family, {key: kind.hint for key, kind in fields.items()}, optional)

    @st.composite
    def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
        lenient, strict = {}, {}
        for key, kind in fields.items():
            if key in optional and draw(st.booleans()):
                strict[key] = None
                if kind.takes_null:  # then null is a value, and not what stands for nothing
                    lenient[key] = None
            else:
                lenient[key], strict[key] = draw(kind.pairs)
        return lenient, strict

    return Kind(hint, pairs(), exact_paths=all(kind.exact_paths for kind in fields.values()))


def lists(kind: Kind) -> Kind:
    pairs = st.lists(kind.pairs, max_size=3).map(lambda items: ([a for a, _ in items], [b for _, b in items]))
    return Kind(list[kind.hint], pairs, exact_paths=kind.exact_paths)  # type: ignore[name-defined]


def dicts(kind: Kind) -> Kind:
    pairs = st.dictionaries(texts, kind.pairs, max_size=3)
    both = pairs.map(lambda items: ({k: a for k, (a, _) in items.items()}, {k: b for k, (_, b) in items.items()}))
    return Kind(dict[str, kind.hint], both, exact_paths=kind.exact_paths)  # type: ignore[name-defined]


def tuples(kinds: Sequence[Kind]) -> Kind:
    pairs = st.tuples(*(kind.pairs for kind in kinds))
    both = pairs.map(lambda items: ([a for a, _ in items], [b for _, b in items]))
    return Kind(tuple[tuple(kind.hint for kind in kinds)], both, exact_paths=all(kind.exact_paths for kind in kinds))  # type: ignore[misc]


def optionals(kind: Kind) -> Kind:
    return Kind(Optional[kind.hint], st.just((None, None)) | kind.pairs, takes_null=True, exact_paths=False)


def unions(kinds: Sequence[Kind]) -> Kind:
    pairs = st.one_of([kind.pairs for kind in kinds])
    takes_null = any(kind.takes_null for kind in kinds)
    return Kind(Union[tuple(kind.hint for kind in kinds)], pairs, takes_null=takes_null, exact_paths=False)


def kinds(*, strict: bool = False) -> st.SearchStrategy[Kind]:
    """Types of any shape. Of dicts and tuples strict mode knows nothing."""

    def larger(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
        several = st.lists(inner, min_size=2, max_size=3)
        made = inner.map(lists) | inner.map(optionals) | several.map(unions) | classes(inner)
        return made if strict else made | inner.map(dicts) | several.map(tuples)

    return st.recursive(st.sampled_from(LEAVES), larger, max_leaves=6)


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["date"]))


def covers(whole: Any, part: Any) -> bool:
    """Whether all that was given came through."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and covers(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(covers, whole, part))
    return bool(whole == part)


@thorough
@given(st.data())
def test_what_fits_is_converted_and_nothing_is_lost(data: st.DataObject) -> None:
    kind = data.draw(kinds())
    value, _ = data.draw(kind.pairs)
    schema = TypeSchema(kind.hint)
    validator(schema.schema).validate(value)
    assert covers(to_json_value(schema.convert(value)), value)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all that is in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def replaced(value: Any, path: Sequence[Any], other: Any) -> Any:
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def as_path(steps: Iterable[str | int]) -> str:
    def step(name: str | int) -> str:
        if isinstance(name, int):
            return f"[{name}]"
        return f".{name}" if name.isidentifier() else f"[{json.dumps(name)}]"

    return "$" + "".join(map(step, steps))


WRONG = ("not this", 12.5, None, {"?": 0}, [["?"]])


@thorough
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_path_of_what_is_wrong(data: st.DataObject) -> None:
    kind = data.draw(kinds())
    value, _ = data.draw(kind.pairs)
    place = data.draw(st.sampled_from(places(value)))
    value = replaced(value, place, data.draw(st.sampled_from(WRONG)))
    schema = TypeSchema(kind.hint)
    assume(not validator(schema.schema).is_valid(value))
    with pytest.raises(ValidationError) as caught:
        schema.convert(value)
    assert "\n" not in str(caught.value)
    if kind.exact_paths and all(isinstance(step, int) or step.isidentifier() for step in place):
        assert caught.value.path.startswith(as_path(place))


all_required = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: inner.map(lists) | inner.map(dicts) | classes(inner, all_required=True),
    max_leaves=4,
)


@thorough
@given(st.data())
def test_what_is_missing_is_told_by_its_path(data: st.DataObject) -> None:
    kind = data.draw(classes(all_required, fewest=1, all_required=True))
    value, _ = data.draw(kind.pairs)
    place = data.draw(st.sampled_from([place for place in places(value) if place and place[-1] in FIELDS]))
    holder = functools.reduce(lambda found, step: found[step], place[:-1], value)
    value = replaced(value, place[:-1], {key: item for key, item in holder.items() if key != place[-1]})
    with pytest.raises(ValidationError) as caught:
        TypeSchema(kind.hint).convert(value)
    assert str(caught.value) == f"{as_path(place)}: required, but missing"


@quick
@given(kinds())
def test_a_signature_says_what_its_types_say(kind: Kind) -> None:
    schema, alone = Signature(of(kind.hint)).parameters, TypeSchema(kind.hint).schema
    assert schema["properties"]["x"] == {key: value for key, value in alone.items() if key != "$defs"}
    assert schema.get("$defs") == alone.get("$defs")


# Values to JSON


@attrs.frozen
class Talk:
    messages: list[Message]
    _hidden: int = 3


class Holder(msgspec.Struct, rename="camel"):
    the_user: User
    when: datetime.date


class Name(str):
    """A string that is more, as those of template engines are."""


class Count(int):
    """A number that is more."""


JSON: dict[str, tuple[Any, Any]] = {
    "scalars": ([None, True, 1, 1.5, "é", 2**70], [None, True, 1, 1.5, "é", 2**70]),
    "nan": ([float("nan"), float("inf"), np.float64("nan"), np.array([1, np.nan])], [None, None, None, [1, None]]),
    "lone-surrogates": ({"a\ud83d": "b\ud83dc", "\ud83d\ude00": 1}, {"a\ufffd": "b\ufffdc", "😀": 1}),
    "subclasses": ([Name("a"), Count(3), np.str_("b")], ["a", 3, "b"]),
    "tuple": ((1, (2,)), [1, [2]]),
    "namedtuple": (Pair(1, "b"), {"a": 1, "b": "b"}),
    "set": ({1}, [1]),
    "frozenset": (frozenset([Unit.C]), ["celsius"]),
    "deque": (collections.deque([1]), [1]),
    "range": (range(3), [0, 1, 2]),
    "views": ([{"a": 1}.keys(), {"a": 1}.values()], [["a"], [1]]),
    "keys": (
        {1: "a", 1.5: "b", Unit.C: "c", datetime.date(2024, 2, 29): "d"},
        {"1": "a", "1.5": "b", "celsius": "c", "2024-02-29": "d"},
    ),
    "mappings": (
        [
            collections.OrderedDict(a=1),
            types.MappingProxyType({"b": Unit.C}),
            collections.ChainMap({"c": 1}),
            collections.Counter("aa"),
        ],
        [{"a": 1}, {"b": "celsius"}, {"c": 1}, {"a": 2}],
    ),
    "user-dict": (collections.UserDict(a=[Point(1)]), {"a": [{"x": 1.0}]}),
    "message": (Message(role="user", content="hi"), {"role": "user", "content": "hi"}),
    "messages-inside": (Talk([Message(role="user", content="hi")]), {"messages": [{"role": "user", "content": "hi"}]}),
    "attrs": (Point(1.5), {"x": 1.5}),
    "dataclass": ([Box(Place("Oslo"))], [{"content": {"city": "Oslo", "country": "NZ"}}]),
    "struct": (
        Holder(User(name="Ada"), datetime.date(2024, 2, 29)),
        {"theUser": {"name": "Ada", "age": 1}, "when": "2024-02-29"},
    ),
    "mapping-in-struct": (Knot({"a": types.MappingProxyType({"b": 1})}), {"knots": {"a": {"b": 1}}}),
    "tagged-struct": (Cat(9), {"type": "Cat", "lives": 9}),
    "model": (Team(lead=User(name="Ada")), {"lead": {"name": "Ada", "age": 1}, "members": []}),
    "model-inside": (Box([User(name="Ada")]), {"content": [{"name": "Ada", "age": 1}]}),
    "enums": ([Unit.C, Level.HIGH, Shade.DARK], ["celsius", 2, "dark"]),
    "dates": (
        [
            datetime.date(2024, 2, 29),
            datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
            datetime.timedelta(1),
        ],
        ["2024-02-29", "2024-02-29T00:00:00Z", "P1D"],
    ),
    "uuid-and-decimal": ([uuid.UUID(int=1), decimal.Decimal("1.10")], ["00000000-0000-0000-0000-000000000001", "1.10"]),
    "bytes": ([b"ab", bytearray(b"ab"), memoryview(b"ab")], ["YWI="] * 3),
    "path": ([pathlib.PurePosixPath("a/b")], ["a/b"]),
    "numpy-scalars": ([np.int64(3), np.float32(1.5), np.bool_(True)], [3, 1.5, True]),
    "numpy-arrays": ({"a": np.array([[1, 2], [3, 4]]), "b": np.zeros(())}, {"a": [[1, 2], [3, 4]], "b": 0.0}),
    "numpy-dates": (np.array(["2024-02-29"], dtype="datetime64[D]"), ["2024-02-29"]),
    "array": (array.array("i", [1]), [1]),
}


@pytest.mark.parametrize(("value", "expected"), JSON.values(), ids=JSON)
def test_values_become_json(value: Any, expected: Any) -> None:
    made = to_json_value(value)
    assert made == expected
    assert repr(made) == repr(json.loads(json.dumps(made)))
    msgspec.json.encode(made)


def endless() -> Any:
    holder: list[Any] = []
    holder.append({"a": (holder,)})
    return holder


@attrs.define
class Loop:
    inner: Any = None


def looped() -> Any:
    made = Loop()
    made.inner = [made]
    return made


NOT_JSON: dict[str, tuple[Any, str]] = {
    "object": (Marker(), "^Marker has no JSON form$"),
    "inside": ([{"a": Marker()}], "^Marker has no JSON form$"),
    "in-attrs": (Box([Marker()]), "^Marker has no JSON form$"),
    "in-struct": (Arguments(Marker()), "^Marker has no JSON form$"),  # type: ignore[arg-type]
    "generator": ((x for x in "ab"), "^generator has no JSON form$"),
    "iterator": (iter([1]), "^list_iterator has no JSON form$"),
    "count": (itertools.count(), "^count has no JSON form$"),
    "function": (plain, "^function has no JSON form$"),
    "class": (Marker, "^the class Marker has no JSON form$"),
    "enum-class": (Unit, "^the class Unit has no JSON form$"),
    "model-class": ([User], "^the class User has no JSON form$"),
    "attrs-class": (Point, "^the class Point has no JSON form$"),
    "complex": (1j, "^complex has no JSON form$"),
    "numpy-complex": (np.array([1j]), "^complex has no JSON form$"),
    "exception": (ValueError("a"), "^ValueError has no JSON form$"),
    "key": ({(1, 2): 3}, "keys"),
    "cycle": (endless(), "holds itself"),
    "attrs-cycle": (looped(), "holds itself"),
    "deep": (nested(100_000), "nested too deeply"),
}


@pytest.mark.parametrize(("value", "message"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_json_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        to_json_value(value)


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_any_json_can_be_sent(value: Any) -> None:
    made = to_json_value(value)
    msgspec.json.encode(made).decode()
    assert to_json_value(made) == made
