"""Python signatures to JSON Schema, and arguments checked against them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import ConfigurationError


class Signature:
    """What a function takes, as a JSON Schema and as a check of arguments.

    Args:
        function: its parameters need annotations that msgspec can describe; one without is taken as any JSON value.

    Raises:
        ConfigurationError: a parameter that cannot be given by name, or a type that has no schema.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise ConfigurationError(f"the annotations cannot be read: {error}") from error
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigurationError(f"a tool's parameters are given by name; {name!r} cannot be")
            hint = hints.get(name, Any)
            required = parameter.default is parameter.empty
            fields.append((name, hint) if required else (name, hint, parameter.default))
            try:
                msgspec.json.schema(hint)
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"no JSON Schema for parameter {name!r}: {error}") from error
        try:
            self._struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"no JSON Schema for the parameters: {error}") from error

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema, of type object."""
        (reference,), components = msgspec.json.schema_components((self._struct,), ref_template="#/$defs/{name}")
        own = components.pop(reference["$ref"].rpartition("/")[2])
        schema = {"type": "object", "properties": own["properties"]}
        if own.get("required"):
            schema["required"] = own["required"]
        schema["additionalProperties"] = False
        if components:
            schema["$defs"] = components
        return schema

    def convert(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as the function wants them.

        Raises:
            ValueError: they do not fit; the message has the path, as in ``Expected `int`, got `str` - at `$.days```.
        """
        converted = msgspec.convert(arguments, self._struct)
        return {name: getattr(converted, name) for name in self._struct.__struct_fields__}
