"""Which of several schemas a value was meant for, told by what it looks like."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from typing import Any

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", decimal.Decimal: "number"}


class Likeness:
    """Compares a value, and all that is in it, with schemas that share their ``$defs``.

    Each pair of a value and a schema is looked at once, whatever the schemas hold of each other: the work is at most
    the size of the value times that of the schemas.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        # With the values themselves, so that no other value gets the identity of one that is gone.
        self._known: dict[tuple[int, int], tuple[Any, Any, tuple[bool, bool, int]]] = {}

    def meant(self, value: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema that a value follows, past references and unions."""
        schema = self._found(schema)
        meant = [self.meant(value, member) for member in members(schema)]
        return max(meant, key=lambda member: self.of(value, member)) if meant else schema

    def of(self, value: Any, schema: Mapping[str, Any]) -> tuple[bool, bool, int]:
        """How much a value looks like a schema, to be compared with others. Looks no deeper than its properties.

        Returns:
            Whether it may fit; whether each property that has its values listed has one of them, as where a property
            tells classes apart; and how many of its keys the schema knows, or whether it is the very kind of number.
        """
        if not isinstance(value, (dict, list)):
            return self._of(value, schema)
        pair = id(value), id(schema)
        if pair not in self._known:
            self._known[pair] = value, schema, self._of(value, schema)
        return self._known[pair][2]

    def _of(self, value: Any, schema: Mapping[str, Any]) -> tuple[bool, bool, int]:
        schema = self.meant(value, schema)
        fits = self._may_be(value, schema)
        items = schema.get("items")
        if isinstance(value, list) and value and fits and isinstance(items, Mapping):
            return self.of(value[0], items)
        if not isinstance(value, Mapping):
            return fits, fits, int(not kinds(schema) or _TYPES.get(type(value)) in kinds(schema))
        if "properties" not in schema:
            return fits, fits, len(value)
        properties, required = schema["properties"], schema.get("required", ())
        known = [name for name in value if name in properties]
        said = [name for name in known if value[name] is not None or name in required]
        fits = (
            fits
            and all(name in value for name in required)
            and all(self._may_be(value[name], properties[name]) for name in said)
        )
        listed = all(self._is_listed(value[name], properties[name]) for name in said)
        return fits, listed, len(known)

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
