"""Python types to JSON Schema, and values checked against them."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import ConfigurationError
from .direct import Decode, decoder
from .json_value import to_json_value
from .nodes import Definitions
from .problems import ValidationError
from .reader import Reader
from .strict import strict_schema, without_filler_nulls
from .validation import Walk


class TypeSchema:
    """A type as a JSON Schema, and the conversion of decoded JSON into it.

    Args:
        hint: builtins, enums, ``Literal``, dates, paths, attrs classes, dataclasses, TypedDicts, named tuples,
            Structs, Pydantic models, and collections, unions, aliases and ``Annotated`` forms of them. Another class
            may have its schema in ``Annotated[…, msgspec.Meta(extra_json_schema=…)]``: it is called with the value.
        strict: a schema in the subset that OpenAI's strict mode takes.

    Raises:
        ConfigurationError: the type has no JSON Schema.
    """

    def __init__(self, hint: Any, *, strict: bool = False) -> None:
        definitions = Definitions()
        try:
            self._node = Reader().node(hint)
            lenient = self._node.schema(definitions)
            _add_defaults(definitions)
        # Types are the user's, and so is the code that runs when they are looked at.
        except Exception as error:
            raise ConfigurationError(_reason(error)) from error
        self._definitions = definitions.schemas
        self._lenient = {**lenient, "$defs": self._definitions} if self._definitions else lenient
        self.schema: dict[str, Any] = strict_schema(self._lenient) if strict else self._lenient
        self._strict = strict
        self._hint = hint

    def decoder(self, name: str = "") -> Decode | None:
        """What makes of JSON the very values that ``convert`` makes, but faster; None where there is no such.

        Of what it refuses, ``convert`` may still make a value. What a class has no field for it does not look at.

        Args:
            name: of the property of an object, without others, in which the value stands.
        """
        return decoder(self._hint, self._node, name)

    def convert(self, value: Any) -> Any:
        """Decoded JSON as the type. An integer may be written as ``3.0``; a Decimal keeps the digits of a number.

        Raises:
            ValidationError: it does not fit.
        """
        try:
            if self._strict:
                value = without_filler_nulls(value, self._lenient)
            return Walk(self._definitions).convert(value, self._node)
        except RecursionError as error:
            raise ValidationError("$", "nested too deeply") from error


def _add_defaults(definitions: Definitions) -> None:
    for schema, field in definitions.defaults:
        if field.default is attrs.NOTHING:
            continue
        try:
            default = to_json_value(field.default)
            Walk(definitions.schemas).convert(default, field.node)
        except (TypeError, ValidationError):
            continue  # not JSON, or not what the annotation says: the model need not know it
        schema["default"] = default


def _reason(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    # msgspec's advice is for its own users: what they would pass to it.
    return lines[-1] if lines[0].startswith("Generating JSON schema") else lines[0]
