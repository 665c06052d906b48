"""Python signatures to JSON Schema, and arguments checked against them."""

# No annotations from __future__: get_type_hints has to find the names that stand inside of tests.

import datetime
import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pytest

from openai_compat.errors import ConfigurationError
from openai_compat.wire.schema import Signature


@dataclass
class Place:
    city: str
    country: str = "NZ"


@attrs.frozen
class Point:
    x: float


class Row(TypedDict):
    id: int


class Arguments(msgspec.Struct):
    """Has the name that the library itself uses."""

    a: int


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


def plain(city: str, days: int = 3, *, unit: Literal["C", "F"] = "C") -> str:
    return f"{city} {days} {unit}"


def test_row_04_schema_of_a_signature() -> None:
    assert Signature(plain).parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 3},
            "unit": {"enum": ["C", "F"], "default": "C"},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_schema_of_no_parameters() -> None:
    def nothing() -> None: ...

    signature = Signature(nothing)
    assert signature.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert signature.convert({}) == {}


def test_schema_of_classes_stands_in_defs() -> None:
    def visit(place: Place, point: Point, row: Row, unit: Unit) -> None: ...

    schema = Signature(visit).parameters
    assert schema["properties"]["place"] == {"$ref": "#/$defs/Place"}
    assert set(schema["$defs"]) == {"Place", "Point", "Row", "Unit"}
    assert schema["$defs"]["Place"]["required"] == ["city"]


def test_a_class_of_the_users_may_be_named_arguments() -> None:
    def call(arguments: Arguments) -> None: ...

    schema = Signature(call).parameters
    assert set(schema["properties"]) == {"arguments"}
    reference = schema["properties"]["arguments"]["$ref"].removeprefix("#/$defs/")
    assert set(schema["$defs"][reference]["properties"]) == {"a"}
    assert Signature(call).convert({"arguments": {"a": 1}}) == {"arguments": Arguments(1)}


def test_a_parameter_without_annotation_is_any_value() -> None:
    def call(a, b=1): ...  # type: ignore[no-untyped-def]

    schema = Signature(call).parameters
    assert schema["properties"] == {"a": {}, "b": {"default": 1}}
    assert Signature(call).convert({"a": [None]}) == {"a": [None], "b": 1}


def test_constraints_and_descriptions_are_kept() -> None:
    def call(days: Annotated[int, msgspec.Meta(ge=1, description="How many.")]) -> None: ...

    assert Signature(call).parameters["properties"]["days"] == {
        "type": "integer",
        "minimum": 1,
        "description": "How many.",
    }
    with pytest.raises(ValueError, match=r">= 1.*\$\.days"):
        Signature(call).convert({"days": 0})


def test_annotations_may_be_text() -> None:
    def call(days: "int | None" = None) -> "str": ...  # type: ignore[empty-body]

    assert Signature(call).convert({"days": 3}) == {"days": 3}


def test_a_method_and_a_callable_object_have_signatures() -> None:
    class Weather:
        def now(self, city: str) -> str:
            return city

    assert list(Signature(Weather().now).parameters["properties"]) == ["city"]


@pytest.mark.parametrize(
    "name", ["items", "keys", "self", "cls", "_private", "field", "name", "tag", "schema", "größe"]
)
def test_any_name_may_name_a_parameter(name: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def call(x: int, {name}: int = 2): ...", space)
    signature = Signature(space["call"])
    assert set(signature.parameters["properties"]) == {"x", name}
    assert signature.convert({"x": 1, name: 5}) == {"x": 1, name: 5}


def test_defaults_that_can_change_are_fresh_for_every_call() -> None:
    def call(tags: list[str] = [], options: dict[str, int] = {}) -> None: ...  # noqa: B006

    signature = Signature(call)
    signature.convert({})["tags"].append("x")
    assert signature.convert({}) == {"tags": [], "options": {}}


def positional(a: int, /) -> None: ...


def several(*args: int) -> None: ...


def keywords(**kwargs: int) -> None: ...


def custom(a: pytest.Item) -> None: ...


def two_classes(a: Place | Point) -> None: ...


def unknown(a: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821


REFUSED: dict[str, tuple[Any, str]] = {
    "positional": (positional, "given by name; 'a' cannot be"),
    "several": (several, "given by name; 'args' cannot be"),
    "keywords": (keywords, "given by name; 'kwargs' cannot be"),
    "custom": (custom, "no JSON Schema for parameter 'a'"),
    "two-classes": (two_classes, "no JSON Schema for"),
    "unknown-name": (unknown, "NoSuchName"),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_schema_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Signature(function)


def test_row_15_arguments_are_converted() -> None:
    def visit(place: Place, when: datetime.date, unit: Unit = Unit.C, *, rows: tuple[Row, ...] = ()) -> None: ...

    given = {"place": {"city": "Oslo"}, "when": "2024-02-29", "unit": "fahrenheit", "rows": [{"id": 1}]}
    assert Signature(visit).convert(given) == {
        "place": Place("Oslo"),
        "when": datetime.date(2024, 2, 29),
        "unit": Unit.F,
        "rows": ({"id": 1},),
    }


def test_row_15_missing_arguments_have_their_defaults() -> None:
    assert Signature(plain).convert({"city": "Oslo"}) == {"city": "Oslo", "days": 3, "unit": "C"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"city": "Oslo", "days": "three"}, r"Expected `int`, got `str` - at `\$\.days`"),
    "no-coercion": ({"city": "Oslo", "days": "3"}, r"\$\.days"),
    "bool-is-no-int": ({"city": "Oslo", "days": True}, r"\$\.days"),
    "missing": ({"days": 1}, "missing required field `city`"),
    "unknown": ({"city": "Oslo", "x": 1}, "unknown field `x`"),
    "not-one-of": ({"city": "Oslo", "unit": "K"}, r"\$\.unit"),
    "null": ({"city": None}, r"\$\.city"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_row_15_arguments_that_do_not_fit_are_refused_with_their_path(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Signature(plain).convert(arguments)
