"""A JSON Schema of the user's, checked with jsonschema: nothing is fetched, and no schema takes for ever."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError
from .formats import is_of_format
from .js_pattern import python_pattern
from .problems import ValidationError, path_step
from .safe_search import TooLongError, found_in
from .validation import with_floats

MAX_STEPS = 300_000
"""Pairs of a value and a schema that are looked at before a check is given up."""

_MAPS = frozenset(["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"])
_LITERALS = frozenset(["const", "default", "enum", "examples"])
# What says something of a value but refuses none by itself.
_WORDS = frozenset(
    [
        *("$anchor", "$comment", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema", "$vocabulary", "id", *_MAPS),
        *("additionalItems", "contentEncoding", "contentMediaType", "contentSchema", "default", "deprecated"),
        *("description", "else", "examples", "maxContains", "minContains", "readOnly", "then", "title", "writeOnly"),
    ]
)


class RawSchema:
    """A schema, and the check of values, which stay the decoded JSON.

    Args:
        schema: a JSON Schema of any draft since the third (the newest where ``$schema`` names none), or OpenAI's object
            around one, ``{"name": …, "schema": …, "strict": …}``.
        formats: whether ``format`` is checked; by the standard it is not.
        documents: other schemas that references may name, by their URIs.
        what: what the schema is called in errors.

    Raises:
        ConfigurationError: it is no JSON Schema, a reference leads nowhere, or jsonschema is not installed.
    """

    def __init__(
        self,
        schema: Mapping[str, Any] | bool,
        *,
        formats: bool = True,
        documents: Mapping[str, Any] | None = None,
        what: str = "response_type",
    ) -> None:
        try:
            import jsonschema
            import referencing.jsonschema
        except ImportError:
            raise ConfigurationError(
                "checking an answer against a JSON Schema needs jsonschema: pip install 'openai-compat[schema]'; "
                "response_schema= asks for the schema without checking"
            ) from None
        self.schema: Any
        self.strict: bool
        self.schema, self.strict = _unwrapped(schema)
        self._formats = formats
        self._patterns: dict[str, str] = {}
        try:
            kind = jsonschema.validators.validator_for(self.schema, default=jsonschema.Draft202012Validator)
            kind.check_schema(_prepared(self.schema, {}, root=False))
            self._prepared = _prepared(self.schema, self._patterns)
            specification = referencing.jsonschema.specification_with(kind.META_SCHEMA.get("$schema", ""))
            self._registry = referencing.jsonschema.EMPTY_REGISTRY.with_resources(
                (uri, referencing.Resource.from_contents(document, default_specification=specification))
                for uri, document in (documents or {}).items()
            )
            self._kind = _once_each(kind)
            _check_references(self._made(), specification)
        except Exception as error:  # SchemaError, or what jsonschema itself stumbles over
            raise ConfigurationError(f"{what} is no JSON Schema: {getattr(error, 'message', error)}") from error
        unknown = _unknown(self.schema, kind.VALIDATORS) if isinstance(self.schema, dict) else []
        if unknown and not self.schema.keys() & kind.VALIDATORS.keys():
            raise ConfigurationError(
                f"{what} is a dict that JSON Schema has no keywords for: {', '.join(map(repr, unknown))}"
            )

    def convert(self, value: Any) -> Any:
        """The value, with floats for its Decimals.

        Raises:
            ValidationError: it does not fit.
        """
        from jsonschema.exceptions import best_match

        value = with_floats(value)
        try:
            error = best_match(self._made().iter_errors(value))
        except BaseException as failure:  # whatever the user's schema and the model's value make of each other
            # rpds, in which references are kept, panics where the stack ends within one of its comparisons.
            if not isinstance(failure, Exception) and type(failure).__name__ != "PanicException":
                raise
            raise ValidationError("$", f"cannot be checked: {failure}") from failure
        if error is not None:
            raise ValidationError("$" + "".join(map(path_step, error.absolute_path)), error.message)
        return value

    def _made(self) -> Any:
        return self._kind(self._prepared, registry=self._registry, format_checker=_Check(self._patterns, self._formats))


def _unknown(schema: Any, validators: Mapping[str, Any]) -> list[str]:
    return [word for word in schema if word not in validators and word not in _WORDS and not word.startswith("x-")]


def _unwrapped(schema: Mapping[str, Any] | bool) -> tuple[Any, bool]:
    """A schema out of the object that OpenAI puts around it, and whether that says ``strict``."""
    if not isinstance(schema, Mapping):
        return schema, False
    if schema.keys() == {"type", "json_schema"} and isinstance(schema["json_schema"], Mapping):
        schema = schema["json_schema"]
    if isinstance(schema.get("schema"), Mapping) and schema.keys() <= {"name", "description", "schema", "strict"}:
        return dict(schema["schema"]), schema.get("strict") is True
    return dict(schema), False


def _prepared(schema: Any, patterns: dict[str, str], *, root: bool = True) -> Any:
    """A copy with Python's patterns for JavaScript's, which are noted by the others.

    Without the ``$schema`` of its root: jsonschema would go on with another class than the one that was made for it.
    """
    if isinstance(schema, list):
        return [_prepared(item, patterns, root=False) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LITERALS:
            made[key] = value
        elif key == "pattern" and isinstance(value, str):
            made[key] = _noted(value, patterns)
        elif key in _MAPS and isinstance(value, Mapping):
            named = key == "patternProperties"
            made[key] = {
                _noted(name, patterns) if named else name: _prepared(inner, patterns, root=False)
                for name, inner in value.items()
            }
        elif not (root and key == "$schema"):
            made[key] = _prepared(value, patterns, root=False)
    return made


def _noted(pattern: str, patterns: dict[str, str]) -> str:
    made = python_pattern(pattern)
    patterns[made] = pattern
    return made


def _check_references(validator: Any, specification: Any) -> None:
    """Look each reference up, so that one that leads nowhere is found before anything is asked."""
    root = specification.create_resource(validator.schema)
    waiting = [(root, validator._resolver)]
    while waiting:
        resource, resolver = waiting.pop()
        if not isinstance(resource.contents, Mapping):
            continue
        for word in ("$ref", "$dynamicRef"):
            if isinstance(reference := resource.contents.get(word), str):
                try:
                    resolver.lookup(reference)
                except Exception:  # of several kinds
                    raise ConfigurationError(f"the reference {reference!r} leads nowhere") from None
        waiting += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]


class _Check:
    """What goes with one check: jsonschema hands it on as the one that checks formats."""

    def __init__(self, patterns: Mapping[str, str], formats: bool) -> None:
        self.patterns = patterns
        self._formats = formats
        # With the values themselves, so that no other value gets the identity of one that is gone.
        self.known: dict[Any, tuple[Any, Any, Any]] = {}

    def check(self, value: Any, name: str) -> None:
        from jsonschema.exceptions import FormatError

        if self._formats and isinstance(value, str) and not is_of_format(value, name):
            raise FormatError(f"{value!r} is not a {name!r}")


def _frozen(value: Any) -> Any:
    """A JSON value as one that equals where JSON's would: 1 and 1.0, but not 1 and true."""
    if isinstance(value, dict):
        return dict, frozenset((name, _frozen(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return list, tuple(map(_frozen, value))
    return (bool, value) if isinstance(value, bool) else value


@functools.lru_cache(maxsize=16)
def _once_each(kind: Any) -> Any:
    """A validator class that checks each value against each schema once, and remembers the one error that says most.

    Without it, a schema whose unions hold each other takes time that grows exponentially with the value's depth.
    """
    import jsonschema
    from jsonschema.exceptions import best_match

    def pattern(validator: Any, said: str, value: Any, schema: Any) -> Iterator[Any]:
        shown = validator.format_checker.patterns.get(said, said)
        try:
            if isinstance(value, str) and not found_in(said, value):
                yield jsonschema.ValidationError(f"{value!r} does not match {shown!r}")
        except TooLongError as error:
            yield jsonschema.ValidationError(str(error))

    def unique(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        # jsonschema compares each item with each other.
        if wanted and isinstance(value, list) and len(set(map(_frozen, value))) < len(value):
            yield jsonschema.ValidationError(f"{value!r} has non-unique elements")

    made = jsonschema.validators.extend(kind, {"pattern": pattern, "uniqueItems": unique})
    every = made.descend

    def descend(
        self: Any, instance: Any, schema: Any, path: Any = None, schema_path: Any = None, resolver: Any = None
    ) -> Iterator[Any]:
        check = self.format_checker
        scope = (resolver or self._resolver).dynamic_scope()
        key = id(instance), id(schema), tuple(dict.fromkeys(uri for uri, _ in scope))
        if key not in check.known:
            if len(check.known) >= MAX_STEPS:
                raise RuntimeError(f"it takes more than {MAX_STEPS} steps")
            check.known[key] = instance, schema, best_match(every(self, instance, schema, resolver=resolver))
        error = check.known[key][2]
        if error is not None:
            inner = list(error.absolute_path)
            yield type(error)(
                error.message,
                path=inner if path is None else [path, *inner],
                validator=error.validator,
                validator_value=error.validator_value,
                instance=error.instance,
                schema=error.schema,
                type_checker=self.TYPE_CHECKER,
            )

    made.descend = descend
    return made
