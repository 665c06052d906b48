"""What a function takes, as a JSON Schema and as a check of arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from ..errors import ConfigurationError
from .parameters import mentions, parameters_of
from .schema import Field, TypeSchema, ValidationError, has_description, root_in_place, shadow_of
from .strict import strict_schema, without_filler_nulls


class Signature:
    """What a function takes by name, as a JSON Schema and as a check of arguments.

    Args:
        function: a function, a method, a ``functools.partial`` (what it fixes is hidden), a class or a callable object.
            A parameter without an annotation is taken as any JSON value; one whose default is None may be null.
        descriptions: of parameters whose annotation has none.
        injected: a type whose parameters the caller fills in; they stay out of the schema, and their names are in
            ``injected``.
        strict: a schema in the subset that OpenAI's strict mode takes.

    Raises:
        ConfigurationError: a parameter that cannot be given by name, or a type that has no schema.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        descriptions: Mapping[str, str] | None = None,
        injected: type | None = None,
        strict: bool = False,
    ) -> None:
        self.injected: list[str] = []
        fields: list[Field] = []
        for parameter, hint in parameters_of(function):
            name = parameter.name
            if injected is not None and mentions(hint, injected):
                self.injected.append(name)
                continue
            hint = _with_description(hint, (descriptions or {}).get(name, ""))
            try:
                TypeSchema(hint, strict=strict)
            except ConfigurationError as error:
                raise ConfigurationError(f"no JSON Schema for parameter {name!r}: {error}") from error
            required = parameter.default is parameter.empty
            fields.append(Field(name, name, hint, required, msgspec.UNSET if required else parameter.default))
        self._type = TypeSchema(shadow_of("(arguments)", fields, forbid_unknown_fields=True))
        self._lenient = root_in_place(self._type.schema)
        self.parameters: dict[str, Any] = strict_schema(self._lenient) if strict else self._lenient
        self._strict = strict

    def convert(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as the function wants them; only those that are given.

        Raises:
            ValidationError: they do not fit.
        """
        try:
            given = without_filler_nulls(arguments, self._lenient) if self._strict else arguments
        except RecursionError as error:
            raise ValidationError("$", "nested too deeply") from error
        arguments_by_name: dict[str, Any] = self._type.convert(given).given()
        return arguments_by_name


def _with_description(hint: Any, otherwise: str) -> Any:
    return Annotated[hint, msgspec.Meta(description=otherwise)] if otherwise and not has_description(hint) else hint
