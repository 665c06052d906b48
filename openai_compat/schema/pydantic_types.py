"""Types that only Pydantic knows, checked by Pydantic; it is the user's, and imported only where they have it."""

from __future__ import annotations

import decimal
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .likeness import members
from .nodes import REF, Definitions, Node
from .problems import Step, ValidationError, path_step, uncapitalized
from .validation import Walk

MAX_STEPS = 200_000
"""Most that Pydantic may have to look at more than once: each member of a union in each member of that around it."""

MAX_TIMES = 20
"""How often it may look at each pair of a value and a type in any case, as in a long list."""

_LARGEST = sys.float_info.max
_WORDS = {"missing": "required, but missing", "extra_forbidden": "no such field"}
_encode = msgspec.json.Encoder(decimal_format="number").encode


def is_pydantic(hint: Any) -> bool:
    """Whether a class is a Pydantic model, or a dataclass of Pydantic's."""
    return isinstance(hint, type) and "__pydantic_validator__" in vars(hint)


def is_pydantic_field(value: Any) -> bool:
    """Whether a default is what ``Field(...)`` returns, in place of a value."""
    return type(value).__name__ == "FieldInfo" and type(value).__module__.startswith("pydantic.")


class PydanticType(Node):
    """A model, or another type that Pydantic knows."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        self._adapter = sys.modules["pydantic"].TypeAdapter(hint)
        self._title = getattr(hint, "__name__", "") if isinstance(hint, type) else ""
        self._whole: dict[str, Any] = self._adapter.json_schema(ref_template=REF + "{model}")
        self._made: dict[str, Any] | None = None

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        if self._made is None:
            whole = dict(self._whole)
            if self._title and whole.keys() - {"$ref", "$defs"}:
                own = dict(whole.pop("$defs", {}))
                name = re.sub(r"[^\w.-]", "_", self._title)
                while name in own:
                    name += "_"
                whole = {"$ref": REF + name, "$defs": {**own, name: whole}}
            self._made = definitions.adopt(whole)
        return dict(self._made)

    def convert(self, value: Any, walk: Walk) -> Any:
        if isinstance(self._hint, type) and isinstance(value, self._hint):
            return value
        _Effort(self._whole.get("$defs", {})).check(value, self._whole)
        try:
            # As JSON, where also a strict model takes text for a date and a list for a set.
            made = self._adapter.validate_json(_encode(value))
            exact = _with_digits(value, self._adapter.dump_python(made, by_alias=True, warnings=False))
            return made if exact is value else self._adapter.validate_json(_encode(exact))
        except UnicodeError as error:
            raise ValidationError("$", "text that is not valid Unicode") from error
        except TypeError as error:
            raise ValidationError("$", str(error)) from error
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise
            raise _explained(error.errors(include_url=False, include_context=False), value) from error


def _with_digits(value: Any, made: Any) -> Any:
    """A value with text for numbers of which Decimals were made: Pydantic reads them as floats. Itself without any."""
    if isinstance(value, decimal.Decimal) and isinstance(made, decimal.Decimal):
        return str(value)
    if isinstance(value, dict) and isinstance(made, dict):
        exact: Any = {name: _with_digits(item, made.get(name)) for name, item in value.items()}
        return exact if any(exact[name] is not value[name] for name in value) else value
    if isinstance(value, list) and isinstance(made, (list, tuple)) and len(value) == len(made):
        exact = [_with_digits(item, inner) for item, inner in zip(value, made, strict=True)]
        return exact if any(new is not old for new, old in zip(exact, value, strict=True)) else value
    return value


class _Effort:
    """How much Pydantic would have to look at, counted before it does."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._known: dict[tuple[int, int], tuple[Any, Any, int]] = {}

    def check(self, value: Any, schema: Mapping[str, Any]) -> None:
        if self._of(value, schema) - len(self._known) * MAX_TIMES > MAX_STEPS:
            raise ValidationError(
                "$", f"takes Pydantic more than {MAX_STEPS} steps to check; unions of models need a discriminator"
            )

    def _of(self, value: Any, schema: Any) -> int:
        if isinstance(value, (int, float, decimal.Decimal)) and not -_LARGEST <= value <= _LARGEST:
            raise ValidationError("$", "number out of range")  # Pydantic would make it infinite
        if not isinstance(value, (dict, list)) or not isinstance(schema, Mapping):
            return 1
        pair = id(value), id(schema)
        if pair not in self._known:
            self._known[pair] = value, schema, self._count(value, schema)
        return self._known[pair][2]

    def _count(self, value: Any, schema: Mapping[str, Any]) -> int:
        if "$ref" in schema:
            return self._of(value, self._definitions.get(schema["$ref"].removeprefix(REF), {}))
        tag = schema.get("discriminator")
        if tag and isinstance(value, dict):
            chosen = tag.get("mapping", {}).get(str(value.get(tag["propertyName"])))
            return 1 if chosen is None else self._of(value, {"$ref": chosen})
        if inner := members(schema):
            return sum(self._of(value, member) for member in inner)
        if isinstance(value, dict):
            properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
            steps = ((name, item, properties.get(name, others)) for name, item in value.items())
        else:
            rows, others = schema.get("prefixItems", []), schema.get("items", {})
            steps = ((at, item, rows[at] if at < len(rows) else others) for at, item in enumerate(value))
        return 1 + sum(self._beneath(step, item, inner) for step, item, inner in steps)

    def _beneath(self, step: Step, value: Any, schema: Any) -> int:
        try:
            return self._of(value, schema)
        except ValidationError as error:
            raise ValidationError(f"${path_step(step)}{error.path[1:]}", error.problem) from None


def _explained(errors: Iterable[Mapping[str, Any]], value: Any) -> ValidationError:
    """The first of Pydantic's errors, of those that lie deepest."""
    found = [_located(error, value) for error in errors]
    depth = max(len(steps) for steps, _ in found)
    steps, problem = next(item for item in found if len(item[0]) == depth)
    return ValidationError("$" + "".join(map(path_step, steps)), problem)


def _located(error: Mapping[str, Any], value: Any) -> tuple[list[Step], str]:
    steps: list[Step] = []
    for at, step in enumerate(error["loc"], 1):
        # What is not in the value is the name of a union's member, unless it is what is missing.
        if (isinstance(value, Mapping) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            steps.append(step)
            value = value[step]
        elif error["type"] == "missing" and at == len(error["loc"]):
            steps.append(step)
    problem = " ".join(_WORDS.get(error["type"], error["msg"]).split())
    return steps, uncapitalized(problem)
