"""Types that msgspec decodes by itself: whatever it makes is, to the types of all within, what the nodes make."""

from __future__ import annotations

import abc
import collections
import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar

import annotated_types
import attrs
import msgspec
import pydantic
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.arbitrary import examples

from openai_compat.errors import ConfigurationError, ResponseTypeError
from openai_compat.schema import direct
from openai_compat.schema.direct import Decode
from openai_compat.schema.json_value import decode_exactly
from openai_compat.schema.types import TypeSchema
from openai_compat.schema.validation import Walk
from openai_compat.wire import output
from openai_compat.wire.constrained import RegexOutput
from openai_compat.wire.output import Output
from openai_compat.wire.response import ChatResponse, Choice

UNSET = msgspec.UNSET


class Color(enum.Enum):
    """Plain."""

    RED = "red"
    BLUE = "blue"


class Number(enum.IntEnum):
    ONE = 1


class Guessing(enum.Enum):
    """One that makes a member of any text."""

    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Guessing:
        return cls.A


class Spelled(enum.Enum):
    """One whose member has another value as well."""

    A = "a"

    def __init__(self, value: str) -> None:
        type(self)._value2member_map_[value.upper()] = self


@attrs.define
class Line:
    name: str
    price: float
    count: int = 1


@attrs.frozen
class Order:
    customer: str
    lines: list[Line]
    color: Color | None = None
    tags: list[str] = attrs.Factory(list)


@dataclasses.dataclass
class Place:
    city: str
    at: Optional[list[float]]  # noqa: UP045 - another union than with |
    names: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float = 0.0
    y: Annotated[float, msgspec.Meta(ge=0, description="up")]


class Row(TypedDict, total=False):
    id: int
    kind: Literal["a", "b"]


class Bag(msgspec.Struct, rename="camel"):
    item_names: list[str]
    is_full: bool = False


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    held: T


DIRECT: list[Any] = [
    *(Line, Order, Place, Point, Row, Bag, Box[int], Box[list[Order]], list[Order], dict[str, Line], Line | None),
    *(str, int, float, bool, list[int], dict[str, dict[str, bool]], Optional[str], Color, Literal["a", "b"]),  # noqa: UP045
    *(Annotated[int, msgspec.Meta(ge=0, lt=10**6)], Annotated[str, msgspec.Meta(max_length=3, pattern="^a")]),
    *(Annotated[str, "in words"], Annotated[Line, msgspec.Meta(title="A line")], list[Row], list[Bag]),
    *(datetime.datetime, datetime.date, datetime.time, Annotated[list[int], msgspec.Meta(min_length=1, max_length=3)]),
    *(Annotated[dict[str, int], msgspec.Meta(max_length=1)], Annotated[datetime.datetime, msgspec.Meta(tz=True)]),
]


# Classes that do more than to keep their fields


@attrs.define
class Validated:
    a: int = attrs.field(validator=attrs.validators.ge(0))


@attrs.define
class Converted:
    a: str = attrs.field(converter=str.upper)


@attrs.frozen
class FrozenValidated:
    a: int = attrs.field(validator=attrs.validators.ge(0))


@attrs.frozen
class FrozenConverted:
    a: str = attrs.field(converter=str.upper)


class Base(abc.ABC):
    @abc.abstractmethod
    def told(self) -> str: ...


@attrs.define
class Abstract(Base):
    a: int


@attrs.define
class Renamed:
    a: int = attrs.field(alias="b")


@attrs.define
class Private:
    _a: int


@attrs.define
class PostInit:
    a: int

    def __attrs_post_init__(self) -> None:
        self.a += 1


@attrs.define
class PreInit:
    a: int

    def __attrs_pre_init__(self) -> None:
        raise ValueError("no")


@attrs.define
class Uninitialized:
    a: int
    b: int = attrs.field(default=7, init=False)


@attrs.define
class DefaultOfSelf:
    a: int = 2
    b: int = attrs.Factory(lambda self: self.a + 1, takes_self=True)


@attrs.define(init=False)
class OwnInit:
    a: int

    def __init__(self, a: int) -> None:
        self.a = a + 1


@attrs.define
class DerivedInit(Line):
    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.count += 1


class Undecorated(Line):
    """Not attrs' own, and with a ``__dict__``."""

    def __init__(self, name: str, price: float, count: int = 1) -> None:
        super().__init__(name.upper(), price, count)


@attrs.define
class OwnNew:
    a: int

    def __new__(cls, a: int) -> OwnNew:
        made = super().__new__(cls)
        made_by_new.append(made)
        return made


made_by_new: list[Any] = []


@attrs.define(unsafe_hash=True, cache_hash=True)
class Hashed:
    a: int


@attrs.define(on_setattr=attrs.setters.frozen)
class SetOnce:
    a: int


@attrs.define
class Failed(Exception):  # noqa: N818
    a: int


@dataclasses.dataclass
class After:
    a: int

    def __post_init__(self) -> None:
        self.a = -self.a


@dataclasses.dataclass
class WithInitVar:
    a: int
    scale: dataclasses.InitVar[int] = 2


@dataclasses.dataclass
class Setting:
    a: int

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value + 1)


@dataclasses.dataclass
class Unmade:
    a: int
    b: int = dataclasses.field(default=3, init=False)


class _Doubling:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        return 1 if instance is None else getattr(instance, self.name)

    def __set__(self, instance: Any, value: int) -> None:
        setattr(instance, self.name, 2 * value)


@dataclasses.dataclass
class Described:
    a: int = _Doubling()  # type: ignore[assignment]


def wrapping(cls: Any) -> Any:
    """As libraries that check arguments at run time do it."""
    init = cls.__init__

    def wrapper(self: Any, **fields: Any) -> None:
        init(self, **{name: value * 2 for name, value in fields.items()})

    cls.__init__ = wrapper
    wrapper.__signature__ = None  # type: ignore[attr-defined]
    del wrapper.__signature__  # type: ignore[attr-defined]
    wrapper.__wrapped__ = init  # type: ignore[attr-defined]
    return cls


@wrapping
@dataclasses.dataclass
class Wrapped:
    a: int


space: dict[str, Any] = {"__name__": __name__}
exec("class Written:\n    a: int\n    def __init__(self, a: int) -> None:\n        self.a = -a", space)
Written = dataclasses.dataclass(init=False)(space["Written"])
"""A program that stands in the command line has the same name as what dataclasses write."""


class _Meta(type):
    def __call__(cls, a: int) -> Any:
        return super().__call__(a=a * 3)


@dataclasses.dataclass
class Called(metaclass=_Meta):
    a: int


ids = itertools.count()


@dataclasses.dataclass
class Counted:
    a: int
    id: int = dataclasses.field(default_factory=lambda: next(ids))


@dataclasses.dataclass
class DefaultOfClass:
    """msgspec leaves the default to the class, and ``vars`` without it."""

    a: int = 1


@dataclasses.dataclass(slots=True)
class ImpliedNone:
    a: int = None  # type: ignore[assignment]


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


class Tagged(msgspec.Struct, tag=True):
    a: int


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Listed(msgspec.Struct, array_like=True):
    a: int


class StructAfter(msgspec.Struct):
    a: int

    def __post_init__(self) -> None:
        self.a += 1


class Pair(NamedTuple):
    a: int
    b: str = ""


class Model(pydantic.BaseModel):
    a: int


INDIRECT: list[Any] = [
    *(Validated, Converted, FrozenValidated, FrozenConverted, Abstract, Renamed, Private, PostInit, PreInit),
    *(Uninitialized, DefaultOfSelf, OwnInit, DerivedInit, Undecorated, OwnNew, Hashed, SetOnce, Failed),
    *(After, WithInitVar, Setting, Unmade, Described, Wrapped, Written, Called, Counted, DefaultOfClass, ImpliedNone),
    *(Tree, Tagged, Closed, Listed, StructAfter, Pair, Model, collections.OrderedDict, Box, Box[Any]),
    *(Number, Guessing, Spelled, Literal[1, "a"], Literal[Color.RED]),
    *(int | float, int | str, Line | Place, int | None | str),
    *(Any, object, dict, list, dict[int, str], tuple[int, ...], tuple[int, str], set[str], frozenset[int]),
    *(datetime.timedelta, decimal.Decimal, bytes, uuid.UUID, None, Annotated[int, pydantic.Field(gt=0)]),
    *(Annotated[list[int], annotated_types.MinLen(1)], Annotated[set[int], msgspec.Meta(min_length=1)]),
    *(Annotated[int, annotated_types.Ge(1)], Annotated[int, msgspec.Meta(ge=1), annotated_types.Ge(2)]),
    *(Annotated[int, annotated_types.Predicate(bool)], Annotated[str, annotated_types.Len(1, 2)]),
    *(Annotated[list[int], annotated_types.MaxLen(1)], Annotated[decimal.Decimal, msgspec.Meta(ge=0)]),
]


def name_of(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace(__name__ + ".", "")


@pytest.mark.parametrize("hint", DIRECT, ids=name_of)
def test_types_that_are_direct(hint: Any) -> None:
    assert TypeSchema(hint).decoder() is not None


@pytest.mark.parametrize("hint", INDIRECT, ids=name_of)
@pytest.mark.parametrize(
    "around", [lambda hint: hint, lambda hint: list[hint], lambda hint: dict[str, hint]], ids=range(3)
)
def test_types_that_are_not(hint: Any, around: Callable[[Any], Any]) -> None:
    try:
        schema = TypeSchema(around(hint))
    except ConfigurationError:
        return  # has no schema either
    assert schema.decoder() is None


# The property

LEAVES: list[Any] = [
    *(str, int, float, bool, Color, Literal["red", "a", "b"], Annotated[float, msgspec.Meta(ge=0, multiple_of=0.5)]),
    *(Annotated[int, msgspec.Meta(ge=-5, le=2**70)], Annotated[int, msgspec.Meta(multiple_of=3)]),
    *(Annotated[str, msgspec.Meta(min_length=1, max_length=3)], Annotated[str, "words"]),
    *(datetime.datetime, datetime.date, datetime.time, Annotated[datetime.datetime, msgspec.Meta(tz=False)]),
    *(
        Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)],
        Annotated[dict[str, bool], msgspec.Meta(max_length=1)],
    ),
]
OTHERS: list[Any] = [hint for hint in INDIRECT if hint not in (None, Failed, OwnNew, Counted, PreInit)]
NAMES = ("a", "b", "name", "x", "value")


def _made(kind: str, fields: dict[str, tuple[Any, Any]], number: int) -> Any:
    """A class of these fields, whose defaults are ``UNSET`` where there are none."""
    needed = [(name, hint) for name, (hint, default) in fields.items() if default is UNSET]
    given = [(name, hint, default) for name, (hint, default) in fields.items() if default is not UNSET]
    name = f"C{number}"
    if kind in ("attrs", "frozen attrs", "validated", "converted", "dict attrs"):
        extra: dict[str, Any] = {}
        if kind == "validated":
            extra["validator"] = attrs.validators.not_(attrs.validators.in_(["", 0, 1, [], {}]))
        if kind == "converted":
            extra["converter"] = lambda value: value * 2 if isinstance(value, (int, str)) else value
        made = {each: attrs.field(type=hint, **extra) for each, hint in needed}
        made |= {each: attrs.field(type=hint, default=default, **extra) for each, hint, default in given}
        cls = attrs.make_class(name, made, frozen=kind == "frozen attrs", slots=kind != "dict attrs")
        cls.__annotations__ = {each: hint for each, (hint, _) in fields.items()}
        return cls
    if kind in ("dataclass", "slots", "frozen", "after"):
        more: dict[str, Any] = {"slots": kind == "slots", "frozen": kind == "frozen"}
        if kind == "after":
            more["namespace"] = {"__post_init__": lambda self: vars(self).update(after=1)}
        listed = [*needed, *((each, hint, dataclasses.field(default=default)) for each, hint, default in given)]
        return dataclasses.make_dataclass(name, listed, **more)
    if kind == "struct":
        return msgspec.defstruct(name, [*needed, *given])
    return TypedDict(name, {each: hint for each, (hint, _) in fields.items()}, total=not given)  # type: ignore[operator]


KINDS = ("attrs", "frozen attrs", "dict attrs", "dataclass", "slots", "frozen", "struct", "typed dict")
UNUSUAL = ("validated", "converted", "after")


@st.composite
def hints(draw: st.DrawFn, depth: int = 3) -> Any:
    """A type, mostly one that msgspec can decode directly."""
    shape = draw(
        st.sampled_from(["leaf", "list", "dict", "optional", "class", "class", "class"] if depth else ["leaf"])
    )
    if shape == "leaf":
        return draw(st.sampled_from(OTHERS if draw(st.integers(0, 9)) == 7 else LEAVES))
    if shape == "class":
        kind = draw(st.sampled_from(UNUSUAL if draw(st.integers(0, 9)) == 7 else KINDS))
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
        fields = {}
        for name in names:
            hint, optional = draw(hints(depth=depth - 1)), draw(st.integers(0, 3))
            fields[name] = (
                (hint | None, None) if not optional else (hint, 1 if optional == 1 and hint is int else UNSET)
            )
        return _made(kind, fields, draw(st.integers(0, 10**6)))
    inner = draw(hints(depth=depth - 1))
    return {"list": list[inner], "dict": dict[str, inner], "optional": inner | None}[shape]


NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "1e2",
    "1E-2",
    "0e5",
    "12345678901234567890",
    "9007199254740993",
    "1.5",
    "3",
    "-6",
]
NUMBERS += ["9007199254740993.0", "1e400", "1e-400", "5e-324", "2.2250738585072011e-308", "1" * 39, "-" + "9" * 30]
NUMBERS += [
    "0." + "1" * 40,
    "1e99999999999999999999",
    "1e-99999999999999999999",
    "179769313486231580793e289",
    "18446744073709551616",
]
STRINGS = ["", "a", "red", "blue", "RED", "b", "abcd", "é", "\U0001f600", "2020-01-01", "1", "x\n"]
STRINGS += ["2020-01-01T10:00:00Z", "2020-01-01T10:00:00.5", "2020-01-01 10:00", "10:00:00", "10:00:00+01:00", "20:00"]
numbers = st.sampled_from(NUMBERS) | st.floats(allow_nan=False).map(json.dumps) | st.integers().map(str)
strings = st.sampled_from(STRINGS).map(json.dumps) | st.sampled_from(
    ['"\\ud800"', '"\\ud83d\\ude00"', '"\x01"', '"\\u0061"']
)
anything = st.recursive(
    numbers | strings | st.sampled_from(["null", "true", "false", "NaN", "-Infinity", "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3).map(
            lambda fields: "{" + ",".join(f'"{key}": {value}' for key, value in fields.items()) + "}"
        )
    ),
    max_leaves=5,
)


@st.composite
def texts(draw: st.DrawFn, schema: Any, definitions: Any) -> str:
    """JSON that mostly fits a schema: keys in any order, twice, too many, missing; numbers in all spellings."""
    odd = draw(st.integers(0, 39))
    if odd == 7:
        return draw(anything)
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return draw(texts(draw(st.sampled_from(schema["anyOf"])), definitions))
    if "enum" in schema:
        return json.dumps(draw(st.sampled_from(schema["enum"])))
    kinds = schema.get("type", "any")
    kind = draw(st.sampled_from(kinds)) if isinstance(kinds, list) else kinds
    if kind == "array":
        items = schema.get("items") or {}
        return f"[{', '.join(draw(st.lists(texts(items, definitions), max_size=3)))}]"
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        pairs = [
            (name, draw(texts(inner, definitions))) for name, inner in known.items() if draw(st.integers(0, 19)) != 7
        ]
        if isinstance(others, dict):
            pairs += [
                (draw(st.sampled_from(NAMES)), draw(texts(others, definitions))) for _ in range(draw(st.integers(0, 2)))
            ]
        if pairs and not draw(st.integers(0, 7)):
            pairs.append((draw(st.sampled_from(NAMES)), draw(anything)))
        if pairs and not draw(st.integers(0, 7)):
            name, _ = draw(st.sampled_from(pairs))
            pairs.append((name, draw(texts(known.get(name, {}), definitions))))
        pairs = draw(st.permutations(pairs))
        return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"
    spelled = {"string": strings, "number": numbers, "integer": numbers, "boolean": st.sampled_from(["true", "false"])}
    return draw({**spelled, "null": st.just("null")}.get(kind, anything))


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, to the types of all within and the order of dicts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if attrs.has(type(one)) or dataclasses.is_dataclass(one) or isinstance(one, msgspec.Struct):
        return same(state(one), state(other))
    return bool(one == other)


def state(value: Any) -> dict[str, Any]:
    """All that there is in a value of a class."""
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    kept = {
        name: getattr(value, name) for name in slots if name not in ("__weakref__", "__dict__") and hasattr(value, name)
    }
    return kept | dict(sorted(getattr(value, "__dict__", {}).items()))


def check(schema: TypeSchema, decode: Decode, text: str) -> bool:
    """Whether msgspec takes a text; then it makes the same of it."""
    value = decode(text)
    if value is UNSET:
        return False
    exact = schema.convert(decode_exactly(text))
    assert same(value, exact), (value, exact)
    return True


@examples(600)
@given(st.data())
def test_what_is_decoded_directly_is_what_the_nodes_make(data: st.DataObject) -> None:
    """Types of all kinds, some of classes with code of their own; JSON that fits them, and some that does not."""
    hint = data.draw(hints())
    try:
        schema = TypeSchema(hint, strict=data.draw(st.booleans()))
    except ConfigurationError:
        return
    decode = schema.decoder()
    if decode is None:
        event("not direct")
        return
    for _ in range(5):
        text = data.draw(texts(schema.schema, schema.schema.get("$defs", {})))
        event("taken" if check(schema, decode, text) else "refused")


SPELLED: dict[str, tuple[Any, str]] = {
    "an int as 1.0": (int, "1.0"),
    "an int as 1e2": (int, "1e2"),
    "an int with more digits than a float": (int, "9007199254740993.0"),
    "minus nothing": (int, "-0"),
    "minus nothing as a float": (float, "-0.0"),
    "minus nothing for a float": (float, "-0"),
    "an int for a float": (float, "1"),
    "an int of 60 bits for a float": (float, "1152921504606846977"),
    "an int of 100 bits for a float": (float, "1267650600228229401496703205377"),
    "an int of 100 bits": (int, "1267650600228229401496703205377"),
    "an int of 4,000 bits": (int, str(2**4000)),
    "a float of 400 digits": (float, "0." + "7" * 400),
    "a float near nothing": (float, "1e-400"),
    "the least float": (float, "4.9406564584124654e-324"),
    "a key that is there twice": (Line, '{"name": "a", "price": 1, "name": "b"}'),
    "a key that is there twice in a dict": (dict[str, int], '{"a": 1, "b": 2, "a": 3}'),
    "a time": (datetime.datetime, '"2024-03-01T10:00:00.25+01:00"'),
    "a time as Python writes it": (datetime.datetime, '"2024-03-01 10:00"'),
    "a day for a time": (datetime.datetime, '"2024-03-01"'),
    "a list within bounds": (Annotated[list[int], msgspec.Meta(max_length=2)], '{"value": [1, 2.0]}'),
    "a field too many": (Line, '{"name": "a", "price": 1, "other": {"a": [1e999, -0.0, null]}}'),
    "fields in another order": (Order, '{"lines": [], "customer": "c"}'),
    "defaults": (Order, '{"customer": "c", "lines": [{"name": "a", "price": 1.5}]}'),
    "null": (Order, '{"customer": "c", "lines": [], "color": null}'),
    "a member": (Order, '{"customer": "c", "lines": [], "color": "red"}'),
    "an empty TypedDict": (Row, "{}"),
    "a TypedDict": (Row, '{"kind": "b", "other": 1, "id": 3}'),
    "a renamed field": (Bag, '{"itemNames": ["a"]}'),
    "a generic class": (Box[list[Order]], '{"held": []}'),
    "half a character": (Line, '{"name": "\\ud83d", "price": 1}'),
    "a whole character": (Line, '{"name": "\\ud83d\\ude00", "price": 1}'),
    "half a character in a field too many": (Line, '{"name": "a", "price": 1, "other": "\\ud83d"}'),
    "half a character as it is": (Line, '{"name": "\ud83d", "price": 1}'),
    "a raw line feed": (Line, '{"name": "a\n", "price": 1}'),
    "a value": (list[int], '{"value": [1, 2]}'),
    "a value twice": (list[int], '{"value": "a", "value": [1, 2]}'),
    "a value that stands alone": (list[int], "[1, 2]"),
    "a value of None": (Line | None, '{"value": null}'),
    "a class with another field, value": (Line | None, '{"value": null, "name": "a", "price": 1}'),
    "a class in a value": (Line | None, '{"value": {"name": "a", "price": 1}}'),
    "a class alone, which has a field called value": (list[dict[str, int]] | None, '{"value": [{"value": 1}]}'),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "a value and more": (list[int], '{"value": [1], "other": 1}'),
    "infinity": (float, "1e400"),
    "Infinity": (float, "Infinity"),
    "NaN": (float, "NaN"),
    "a bool for an int": (int, "true"),
    "an int for a bool": (bool, "1"),
    "an int as text": (int, '"1"'),
    "a fraction for an int": (int, "1.5"),
    "half a character for a color": (Color, '"\\ud800"'),
    "no color": (Color, '"green"'),
    "a name of a color": (Color, '"RED"'),
    "less than is allowed": (Annotated[int, msgspec.Meta(ge=0)], "-1"),
    "a field too many, nested too deeply": (Line, f'{{"name": "a", "price": 1, "other": {"[" * 9999 + "]" * 9999}}}'),
    "a list beyond its bounds": (Annotated[list[int], msgspec.Meta(max_length=2)], '{"value": [1, 2, 3]}'),
    "a time for a day": (datetime.date, '"2024-03-01T00:00:00"'),
    "seconds for a time": (datetime.datetime, "1709284800"),
    "a field that is missing": (Line, '{"name": "a"}'),
    "null for a field with a default": (Line, '{"name": "a", "price": 1, "count": null}'),
}


def answer(text: str, **fields: Any) -> ChatResponse:
    return ChatResponse(choices=(Choice(text=text, finish_reason="stop"),), **fields)


def exactly(hint: Any, strict: bool) -> Output:
    """How a type is read without msgspec's help."""
    made = Output(hint, strict=strict)
    made._decode = direct.refuse
    return made


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("hint", "text"), SPELLED.values(), ids=SPELLED)
def test_a_value_is_the_same_either_way(hint: Any, text: str, strict: bool) -> None:
    strict = strict and "dict" not in str(hint)
    made = Output(hint, strict=strict)
    assert TypeSchema(hint, strict=strict).decoder() is not None
    assert same(made.read(answer(text)).parsed, exactly(hint, strict).read(answer(text)).parsed)


@pytest.mark.parametrize(("hint", "text"), REFUSED.values(), ids=REFUSED)
def test_a_value_is_refused_either_way(hint: Any, text: str) -> None:
    said = []
    for made in (Output(hint), exactly(hint, strict=False)):
        with pytest.raises(ResponseTypeError) as refusal:
            made.read(answer(text))
        said.append((str(refusal.value), refusal.value.path))
    assert said[0] == said[1]


@pytest.mark.parametrize("text", ["12", '{"value": 12', "a 12", "", "{"])
def test_of_an_answer_that_was_cut_only_what_is_closed_counts(text: str) -> None:
    with pytest.raises(ResponseTypeError):
        Output(int).read(attrs.evolve(answer(text), truncated=True))
    assert Output(int).read(attrs.evolve(answer('{"value": 12}'), truncated=True)).parsed == 12


def test_what_a_regular_expression_does_not_match_is_refused() -> None:
    assert RegexOutput("[0-9]+").read(answer('{"value": "12"}')).parsed == "12"
    with pytest.raises(ResponseTypeError):
        RegexOutput("[0-9]+").read(answer('{"value": "twelve"}'))


ORDER = json.dumps({"customer": "c", "lines": [{"name": "a", "price": 1.5, "count": 2}], "color": "blue", "tags": []})


@pytest.mark.parametrize("text", [ORDER, f" {ORDER}\n", f"```json\n{ORDER}\n```", f"Here it is:\n```\n{ORDER}\n```"])
def test_a_whole_answer_is_decoded_by_nothing_else(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Output(Order)
    steps: list[str] = []
    monkeypatch.setattr(Walk, "convert", lambda *args: steps.append("walk"))
    monkeypatch.setattr(output, "decode_exactly", lambda *args: steps.append("exactly"))
    if "`" not in text:
        monkeypatch.setattr(output, "decode_json", lambda *args: steps.append("json"))
    assert made.read(answer(text)).parsed == Order("c", [Line("a", 1.5, 2)], Color.BLUE)
    assert steps == []


def odd_is_refused(self: Any, field: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{value} is odd")


@attrs.define
class Even:
    a: int = attrs.field(validator=odd_is_refused)


@attrs.define
class Holder:
    inner: list[Even]
    b: str = attrs.field(converter=str.upper)


@dataclasses.dataclass
class Summed:
    parts: list[int]
    total: int = 0

    def __post_init__(self) -> None:
        self.total = sum(self.parts)


def test_code_of_the_users_still_runs() -> None:
    assert Output(Summed).read(answer('{"parts": [1, 2]}')).parsed == Summed([1, 2])
    assert Output(Summed).read(answer('{"parts": [1, 2]}')).parsed.total == 3
    held = Output(list[Holder]).read(answer('{"value": [{"inner": [{"a": 2}], "b": "x"}]}')).parsed
    assert held == [Holder([Even(2)], "X")]
    with pytest.raises(ResponseTypeError, match=r"1 is odd") as refusal:
        Output(list[Holder]).read(answer('{"value": [{"inner": [{"a": 1}], "b": "x"}]}'))
    assert refusal.value.path == "$[0].inner[0]"


def test_what_has_no_field_need_only_be_json() -> None:
    """Such numbers have more digits than Python reads, and so the nodes get nothing to convert."""
    text = f'{{"name": "a", "price": 1, "other": {"1" * 5000}}}'
    assert Output(Line).read(answer(text)).parsed == Line("a", 1.0)
    with pytest.raises(ResponseTypeError):
        exactly(Line, strict=False).read(answer(text))


def test_nothing_stays_in_classes() -> None:
    """What msgspec leaves there can be in no pickle."""

    class Inner(enum.Enum):
        A = "a"

    @attrs.define
    class Outer:
        inner: Inner

    class Typed(TypedDict):
        outer: dict[str, list[Outer]]

    @dataclasses.dataclass
    class Generic_(Generic[T]):  # noqa: N801
        typed: T

    before = [set(vars(cls)) for cls in (Inner, Outer, Typed, Generic_)]
    assert TypeSchema(Generic_[Typed]).decoder() is None  # whose names nobody finds from outside
    Outer.__annotations__ = {"inner": Inner}
    Typed.__annotations__ = {"outer": dict[str, list[Outer]]}
    Generic_.__annotations__ = {"typed": T}
    decode = TypeSchema(Generic_[Typed]).decoder()
    assert decode is not None
    assert decode('{"typed": {"outer": {"a": [{"inner": "a"}]}}}') == Generic_({"outer": {"a": [Outer(Inner.A)]}})
    assert [set(vars(cls)) for cls in (Inner, Outer, Typed, Generic_)] == before
    cloudpickle = pytest.importorskip("cloudpickle")
    assert cloudpickle.loads(cloudpickle.dumps(Outer))


def test_what_a_user_of_msgspec_has_in_a_class_stays() -> None:
    msgspec.json.Decoder(Line)
    try:
        assert TypeSchema(Order).decoder() is not None
        assert direct._CACHE in vars(Line)
        assert direct._CACHE not in vars(Order)
    finally:
        delattr(Line, direct._CACHE)
