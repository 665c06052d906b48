"""What a function takes, as a JSON Schema and as a check of arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from ..errors import ConfigurationError
from .annotated import has_description
from .parameters import mentions, or_none, parameters_of
from .pydantic_types import is_pydantic_field
from .reader import Arguments, Parameter
from .types import TypeSchema


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
        self._defaults: dict[str, Callable[[], Any]] = {}
        parameters: list[Parameter] = []
        for parameter, hint in parameters_of(function):
            name = parameter.name
            if injected is not None and mentions(hint, injected):
                self.injected.append(name)
                continue
            if make := _field_default(parameter.default):
                # Called without it, the function would get Pydantic's description in place of a value.
                self._defaults[name] = make
                hint = or_none(Annotated[hint, parameter.default], make())
                parameter = parameter.replace(default=make())
            elif is_pydantic_field(parameter.default):
                hint, parameter = Annotated[hint, parameter.default], parameter.replace(default=parameter.empty)
            hint = _with_description(hint, (descriptions or {}).get(name, ""))
            try:
                TypeSchema(hint, strict=strict)
            except ConfigurationError as error:
                raise ConfigurationError(f"no JSON Schema for parameter {name!r}: {error}") from error
            required = parameter.default is parameter.empty
            parameters.append(Parameter(name, hint, required, msgspec.UNSET if required else parameter.default))
        self._type = TypeSchema(Arguments(tuple(parameters)), strict=strict)
        self.parameters: dict[str, Any] = self._type.schema

    def convert(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as the function wants them; only those that are given.

        Raises:
            ValidationError: they do not fit.
        """
        given: dict[str, Any] = self._type.convert(arguments)
        return {**{name: make() for name, make in self._defaults.items() if name not in given}, **given}


def _field_default(default: Any) -> Callable[[], Any] | None:
    """What makes the default that ``Field(…)`` tells of."""
    if not is_pydantic_field(default) or default.is_required():
        return None
    return functools.partial(default.get_default, call_default_factory=True)


def _with_description(hint: Any, otherwise: str) -> Any:
    return Annotated[hint, msgspec.Meta(description=otherwise)] if otherwise and not has_description(hint) else hint
