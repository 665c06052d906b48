"""Which of several schemas a value was meant for, judged by what it looks like."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from typing import Any, NamedTuple

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", decimal.Decimal: "number"}


class Found(NamedTuple):
    """How much a value looks like a schema; to be compared, first things first."""

    fits: bool
    """It may fit."""
    listed: bool
    """Each property that has its values listed has one of them, as where a property tells classes apart."""
    known: int
    """How many of its keys the schema knows."""
    exact: int
    """How many of its numbers are of the very kind: an integer fits where numbers may have a point, too."""


class Likeness:
    """Compares a value, and all that is in it, with schemas that share their ``$defs``.

    Each pair of a value and a schema is looked at once, whatever the schemas hold of each other: the work is at most
    the size of the value times that of the schemas.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        # With the values themselves, so that no other value gets the identity of one that is gone.
        self._known: dict[tuple[int, int], tuple[Any, Any, Found]] = {}

    def meant(self, value: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema that a value follows, past references and unions."""
        schema = self._found(schema)
        meant = [self.meant(value, member) for member in members(schema)]
        return max(meant, key=lambda member: self.of(value, member)) if meant else schema

    def of(self, value: Any, schema: Mapping[str, Any]) -> Found:
        """How much a value looks like a schema. Looks no deeper than its properties, and those of a list's items."""
        if not isinstance(value, (dict, list)):
            return self._of(value, schema)
        pair = id(value), id(schema)
        if pair not in self._known:
            self._known[pair] = value, schema, self._of(value, schema)
        return self._known[pair][2]

    def _of(self, value: Any, schema: Mapping[str, Any]) -> Found:
        schema = self.meant(value, schema)
        fits = self._may_be(value, schema)
        if isinstance(value, list):
            rows, others = schema.get("prefixItems", []), schema.get("items")
            others = others if isinstance(others, Mapping) else {}
            inner = [self.of(item, rows[at] if at < len(rows) else others) for at, item in enumerate(value)]
            return Found(
                fits and all(item.fits for item in inner),
                fits and all(item.listed for item in inner),
                sum(item.known for item in inner),
                sum(item.exact for item in inner),
            )
        if not isinstance(value, Mapping):
            return Found(fits, fits, 0, int(not kinds(schema) or _TYPES.get(type(value)) in kinds(schema)))
        if "properties" not in schema:
            return Found(fits, fits, len(value), 0)
        properties, required = schema["properties"], schema.get("required", ())
        known = [name for name in value if name in properties]
        said = [name for name in known if value[name] is not None or name in required]
        fits = (
            fits
            and all(name in value for name in required)
            and all(self._may_be(value[name], properties[name]) for name in said)
        )
        listed = all(self._is_listed(value[name], properties[name]) for name in said)
        return Found(fits, listed, len(known), 0)

    def _may_be(self, value: Any, schema: Mapping[str, Any]) -> bool:
        """Whether a value is of a schema's type, or one of its listed values."""
        schema = self._found(schema)
        if inner := members(schema):
            return any(self._may_be(value, member) for member in inner)
        return (not kinds(schema) or not _types_of(value).isdisjoint(kinds(schema))) and self._is_listed(value, schema)

    def _is_listed(self, value: Any, schema: Mapping[str, Any]) -> bool:
        schema = self._found(schema)
        return value in schema.get("enum", [schema.get("const", value)])

    def _found(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema that a reference points to."""
        while "$ref" in schema:
            schema = self._definitions.get(schema["$ref"].rpartition("/")[2], {})
        return schema


def kinds(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema names."""
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def members(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas of which one is to be met."""
    return next((list(schema[key]) for key in ("anyOf", "oneOf", "allOf") if key in schema), [])


def _types_of(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {"object"}
    if isinstance(value, list):
        return {"array"}
    if value is None:
        return {"null"}
    kind = _TYPES.get(type(value), "")
    return {"integer", "number"} if kind == "integer" or (kind == "number" and is_whole(value)) else {kind}


def is_whole(number: float | decimal.Decimal) -> bool:
    """Whether a number is an integer, of whatever size."""
    if isinstance(number, float):
        return number.is_integer()
    return number.is_finite() and number == number.to_integral_value()
