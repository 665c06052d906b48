"""JSON Schema in the subset that OpenAI's strict mode takes.

Source: OpenAI's guide to structured outputs, "Supported schemas": every property is required, no object takes others,
what may be left out is null instead, and only some keywords are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError
from .likeness import Likeness, kinds, members

_OF_ANY = ("$ref", "$defs", "anyOf", "const", "description", "enum", "title", "type")
_OF_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_OF_OTHERS = ("additionalProperties", "format", "items", "maxItems", "minItems", "pattern", "properties", "required")
_KEYWORDS = frozenset({*_OF_ANY, *_OF_NUMBERS, *_OF_OTHERS})
_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"])
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema for strict mode; bounds that it cannot say are left out, and still checked here afterwards.

    Raises:
        ConfigurationError: what strict mode has no words for: any value, a dict with free keys, a tuple of several
            types (the message has the path); or more than it takes.
    """
    made = _strict(schema, "$")
    check_limits(made)
    return made


def check_limits(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that is larger than what strict mode takes, by the guide's numbers.

    Raises:
        ConfigurationError: the message has the limit.
    """
    enums = [part["enum"] for part in _parts(schema) if "enum" in part]
    names = [name for part in _parts(schema) for key in ("properties", "$defs") for name in part.get(key, ())]
    texts = [value for values in enums for value in values if isinstance(value, str)]
    texts += [part["const"] for part in _parts(schema) if isinstance(part.get("const"), str)]
    depth = _depth(schema, schema.get("$defs", {}), {})
    for count, limit, words in (
        (depth, 10, "objects within each other"),
        (sum(len(part.get("properties", ())) for part in _parts(schema)), 5_000, "properties"),
        (sum(map(len, enums)), 1_000, "values of enums"),
        (sum(map(len, names + texts)), 120_000, "characters in names and enums"),
    ):
        if count > limit:
            raise ConfigurationError(f"strict mode takes at most {limit:,} {words}; here are {count:,}")
    for values in enums:
        size = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > 250 and size > 15_000:
            raise ConfigurationError(
                f"strict mode takes at most 15,000 characters in an enum of more than 250 values; here are {size:,}"
            )


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema, and those within it."""
    yield schema
    for inner in (*_inner(schema), *schema.get("$defs", {}).values()):
        yield from _parts(inner if isinstance(inner, Mapping) else {})


def _inner(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")]
    return [part for part in inner if isinstance(part, Mapping)]  # a user's may be true or false


def _depth(schema: Mapping[str, Any], definitions: Mapping[str, Any], known: dict[str, int]) -> int:
    """How many objects stand within each other; one that holds itself is counted once."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in known:
            known[name] = 0
            known[name] = _depth(definitions.get(name, {}), definitions, known)
        return known[name]
    return ("properties" in schema) + max((_depth(inner, definitions, known) for inner in _inner(schema)), default=0)


def _strict(schema: Any, path: str) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"{path}: strict mode needs a type; {schema!r} is not one")
    made = {key: value for key, value in schema.items() if key in _KEYWORDS}
    if "prefixItems" in schema:
        raise ConfigurationError(f"{path}: strict mode has no tuples of several types; use a class")
    if "oneOf" in schema:
        made["anyOf"] = schema["oneOf"]
    if len(schema.get("allOf", ())) == 1:
        made["anyOf"] = schema["allOf"]  # how older Pydantic gives a reference a description
    if "$ref" in made and "description" in made:
        made["anyOf"] = [{"$ref": made["$ref"]}]
    if "$ref" in made:
        # A reference stands alone.
        kept = ("anyOf", "description", "$defs") if "anyOf" in made else ("$ref", "$defs")
        made = {key: made[key] for key in kept if key in made}
    if made.get("format") not in _FORMATS:
        made.pop("format", None)
    if "type" not in made and ("enum" in made or "const" in made):
        made["type"] = _type_of(made.get("enum", [made.get("const")]), path)
    if "anyOf" in made:
        made["anyOf"] = [_strict(member, path) for member in made["anyOf"]]
    if "items" in made:
        made["items"] = _strict(made["items"], f"{path}[]")
    if "$defs" in made:
        made["$defs"] = {name: _strict(inner, name) for name, inner in made["$defs"].items()}
    if not made.keys() & {"type", "anyOf", "$ref"}:
        raise ConfigurationError(f"{path}: strict mode needs a type; any value is not one")
    if "array" in kinds(made) and "items" not in made:
        raise ConfigurationError(f"{path}: strict mode needs the type of a list's items")
    if "object" in kinds(made):
        _close(made, schema, path)
    return made


def _type_of(values: Iterable[Any], path: str) -> str | list[str]:
    """The type of an enum's values; strict mode wants it said."""
    named = sorted({_TYPES.get(type(value), "") for value in values})
    if "" in named:
        raise ConfigurationError(f"{path}: strict mode has no enums of lists or objects")
    return named[0] if len(named) == 1 else named


def _close(made: dict[str, Any], schema: Mapping[str, Any], path: str) -> None:
    """Make an object's properties all there is, and all of them required."""
    if schema.get("additionalProperties", False) is not False or "properties" not in schema:
        raise ConfigurationError(f"{path}: strict mode has no dict with free keys; use a class, or a list of pairs")
    required = schema.get("required", ())
    properties = {name: _strict(inner, f"{path}.{name}") for name, inner in schema["properties"].items()}
    sure = {*required, *(name for name, inner in schema["properties"].items() if _is_constant(inner))}
    made["properties"] = {name: inner if name in sure else _or_null(inner) for name, inner in properties.items()}
    made["required"] = list(properties)
    made["additionalProperties"] = False


def _is_constant(schema: Mapping[str, Any]) -> bool:
    """Whether its default is the one value that there is, as of a tag that tells classes apart."""
    return "default" in schema and schema.get("enum", [schema.get("const", ...)]) == [schema["default"]]


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if _takes_null(schema):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    made = {**schema, "type": [*kinds(schema), "null"]}
    if "enum" in schema or "const" in schema:
        made["enum"] = [*schema.get("enum", [made.pop("const", None)]), None]
    return made


def _takes_null(schema: Mapping[str, Any]) -> bool:
    if not schema.keys() & {"type", "anyOf", "oneOf", "allOf", "$ref", "enum", "const"}:
        return True
    if "enum" in schema or "const" in schema:
        return None in schema.get("enum", [schema.get("const", "")])
    return "null" in kinds(schema) or any(map(_takes_null, members(schema)))


def without_filler_nulls(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value without the nulls that strict mode made the model write for what it would have left out.

    Args:
        schema: as it was before it was made strict.
    """
    return _unfilled(value, schema, Likeness(schema.get("$defs", {})))


def _unfilled(value: Any, schema: Mapping[str, Any], likeness: Likeness) -> Any:
    schema = likeness.meant(value, schema)
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        return {
            name: _unfilled(inner, properties.get(name, {}), likeness)
            for name, inner in value.items()
            if inner is not None or name in required or name not in properties or _takes_null(properties[name])
        }
    if isinstance(value, list):
        return [_unfilled(item, schema.get("items") or {}, likeness) for item in value]
    return value
