"""The arguments of a call, checked against the JSON Schema by hand that the model was shown."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from ..errors import ConfigurationError
from .js_pattern import python_pattern
from .json_value import to_json_value
from .problems import Step, ValidationError, path_step, type_name
from .raw_schema import RawSchema
from .safe_search import TooLongError, found_in

MAX_PROBLEM = 500
"""Characters of a problem that the model is told: it may quote what the model sent."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "array": list,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}


class OfferedArguments:
    """What a schema by hand offers, and the check that a call keeps to it.

    A schema that lists properties offers these and no others, unless it says otherwise with ``additionalProperties`` or
    ``patternProperties``; one of a whole call that lists none offers none. Types, ``required``, ``enum`` and ``const``
    are checked too, and everything else that a schema says where jsonschema is installed.

    Args:
        parameters: the schema.
        values: whether values are checked; otherwise only names are.

    Raises:
        ConfigurationError: it is no JSON Schema.
    """

    def __init__(self, parameters: Mapping[str, Any], *, values: bool = True) -> None:
        self._schema: dict[str, Any] = parameters if isinstance(parameters, dict) else {}
        self._values = values
        self._raw = RawSchema(self._schema, what="parameters") if values and _has_jsonschema() else None

    def check(self, arguments: Mapping[str, Any], *, hidden: Collection[str] = ()) -> None:
        """Refuse arguments that were not offered.

        Args:
            hidden: names that no schema can offer.

        Raises:
            ValidationError: with the path of what does not fit.
        """
        for name in arguments:
            if name in hidden:
                raise ValidationError(f"${path_step(name)}", "no such field")
        try:
            self._check_parts(arguments)
        except TooLongError as error:
            raise ValidationError("$", str(error)) from error
        if self._raw is not None:
            try:
                self._raw.convert(dict(arguments))
            except ValidationError as error:
                raise ValidationError(error.path, error.problem[:MAX_PROBLEM]) from error.__cause__

    def _check_parts(self, arguments: Mapping[str, Any]) -> None:
        # No recursion: a value may be nested as deeply as its JSON was.
        waiting: list[tuple[Any, list[Any], tuple[Step, ...]]] = [(dict(arguments), [self._schema], ())]
        while waiting:
            value, said, path = waiting.pop()
            if self._values:
                for schema in self._at_once(said, ("allOf",)):
                    _check_value(value, schema, path)
            schemas = list(self._at_once(said, ("allOf", "anyOf", "oneOf")))
            if isinstance(value, list):
                waiting += [
                    (item, [inner for schema in schemas for inner in _of_item(schema, at)], (*path, at))
                    for at, item in enumerate(value)
                ]
            elif isinstance(value, dict):
                lists = any("properties" in schema for schema in schemas)
                for name, inner in value.items():
                    offers = [offer for schema in schemas for offer in _of_name(schema, name)]
                    if not offers and (lists or not path):
                        raise _problem((*path, name), "no such field")
                    waiting.append((inner, [offer for offer in offers if isinstance(offer, dict)], (*path, name)))

    def _at_once(self, said: list[Any], unions: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Schemas, and those that they apply to the same value."""
        seen: set[int] = set()
        waiting = [schema for schema in reversed(said) if isinstance(schema, dict)]
        while waiting:
            schema = waiting.pop()
            if id(schema) in seen:
                continue
            seen.add(id(schema))
            yield schema
            inner = [self._referred(schema.get(word)) for word in ("$ref", "$dynamicRef")]
            for word in unions:
                inner += schema[word] if isinstance(schema.get(word), list) else []
            if len(unions) > 1:
                inner += [schema.get(word) for word in ("if", "then", "else")]
                dependent = schema.get("dependentSchemas")
                inner += dependent.values() if isinstance(dependent, dict) else []
            waiting += [found for found in inner if isinstance(found, dict)]

    def _referred(self, reference: Any) -> Any:
        """What a reference inside the schema names; None for any other."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        head, *steps = unquote(reference[1:]).split("/")
        found: Any = self._anchored(head) if head else self._schema
        for step in steps:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found

    def _anchored(self, anchor: str) -> Any:
        waiting: list[Any] = [self._schema]
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, dict) and anchor in (inner.get("$anchor"), inner.get("$dynamicAnchor")):
                return inner
            waiting += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else []
        return None


def _of_name(schema: dict[str, Any], name: str) -> list[Any]:
    """What a schema says of the property of a name; nothing where it does not offer it."""
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    said = [properties[name]] if isinstance(properties, dict) and name in properties else []
    if isinstance(patterns, dict):
        said += [inner for pattern, inner in patterns.items() if found_in(python_pattern(pattern), name)]
    others = [schema.get(word, False) for word in ("additionalProperties", "unevaluatedProperties")]
    return said or [other for other in others if other is not False]


def _of_item(schema: dict[str, Any], at: int) -> list[Any]:
    """What a schema says of an item of a list."""
    before = schema.get("prefixItems")
    if isinstance(before, list) and at < len(before):
        return [before[at]]
    items = schema.get("items")
    if isinstance(items, list):
        return [items[at] if at < len(items) else schema.get("additionalItems")]
    return [items]


def _check_value(value: Any, schema: dict[str, Any], path: tuple[Step, ...]) -> None:
    types = schema.get("type")
    named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    if named and not any(_is_of_type(value, name) for name in named):
        raise _problem(path, f"expected {' or '.join(map(str, named))}, got {type_name(value)}")
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(allowed, list) and not any(_equal(value, known) for known in allowed):
        raise _problem(path, f"expected {' | '.join(json.dumps(known, ensure_ascii=False) for known in allowed)}")
    required = schema.get("required")
    if isinstance(value, dict) and isinstance(required, list):
        for name in required:
            if isinstance(name, str) and name not in value:
                raise _problem((*path, name), "required, but missing")


def _is_of_type(value: Any, name: Any) -> bool:
    if name == "integer":
        return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value % 1 == 0))
    known = _TYPES.get(name) if isinstance(name, str) else None
    if known is None:
        return True
    return isinstance(value, known) and (name == "boolean" or not isinstance(value, bool))


def _equal(value: Any, known: Any) -> bool:
    """As in JSON, where true is not 1."""
    return bool(value == known) and isinstance(value, bool) == isinstance(known, bool)


def _problem(path: tuple[Step, ...], problem: str) -> ValidationError:
    return ValidationError("$" + "".join(map(path_step, path)), problem[:MAX_PROBLEM])


@functools.cache
def _has_jsonschema() -> bool:
    from importlib.util import find_spec

    return find_spec("jsonschema") is not None


def offered_arguments(parameters: Any, *, values: bool = True) -> OfferedArguments:
    """The ``OfferedArguments`` of a schema; one that is not JSON, or no object, offers nothing.

    Raises:
        ConfigurationError: it is no JSON Schema.
    """
    try:
        text = msgspec.json.encode(to_json_value(parameters if parameters is not None else {}))
    except TypeError as error:
        raise ConfigurationError(f"parameters is no JSON Schema: {error}") from error
    return _made(text, values)


@functools.lru_cache(maxsize=256)
def _made(text: bytes, values: bool) -> OfferedArguments:
    return OfferedArguments(msgspec.json.decode(text), values=values)
