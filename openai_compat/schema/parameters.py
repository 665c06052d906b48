"""The parameters of anything that can be called, and what their annotations mean."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union

import attrs
import msgspec

from ..errors import ConfigurationError


def parameters_of(function: Any) -> Iterator[tuple[inspect.Parameter, Any]]:
    """The parameters that a caller may give by name, and their annotations."""
    inner = innermost(function)
    fixed = _fixed(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
        of_fields = _hints_of_init(inner) if has_fields(inner) else {}
    except Exception as error:  # of the user's annotations
        raise ConfigurationError(f"the signature cannot be read: {error}") from error
    if parameters and is_unbound_method(function):
        del parameters[0]
    names = _names_around(inner)
    for parameter in parameters:
        if parameter.name in fixed:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError(f"a tool's parameters are given by name; {parameter.name!r} cannot be")
        hint = of_fields[parameter.name] if parameter.name in of_fields else _annotation(parameter, names, inner)
        if isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        yield parameter, or_none(hint, parameter.default)


def innermost(function: Any) -> Any:
    """The function in partials and wrappers."""
    while (within := _within(function)) is not None:
        function = within
    return function


def _within(function: Any) -> Any:
    if isinstance(function, functools.partial):
        return function.func
    return None if hasattr(function, "__signature__") else getattr(function, "__wrapped__", None)


def _fixed(function: Any) -> set[str]:
    """The names of what partials give."""
    fixed: set[str] = set()
    while function is not None:
        fixed.update(function.keywords if isinstance(function, functools.partial) else ())
        function = _within(function)
    return fixed


def or_none(hint: Any, default: Any) -> Any:
    """A hint that allows what ``= None`` allows, said or not."""
    if default is None and not mentions(hint, type(None)) and hint is not Any:
        return Union[hint, None]  # noqa: UP007 - also where | is not defined
    return hint


def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of a class, also those that are text and name what only its function knows."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return typing.get_type_hints(cls, localns=_names_inside(cls), include_extras=True)


def value_of(alias: Any) -> Any:
    """What an alias stands for, also where that is text."""
    holder = types.SimpleNamespace(__annotations__={"hint": alias.__value__})
    names = {**vars(sys.modules.get(alias.__module__, object)), alias.__name__: alias}
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]


def _hints_of_init(cls: Any) -> dict[str, Any]:
    """What a class's constructor takes: of an attrs field with a converter, what the converter says that it takes."""
    hints = hints_of(cls)
    if not attrs.has(cls):
        return hints
    taken: dict[str, Any] = {}
    for field in attrs.fields(cls):
        hint = hints.get(field.name, Any)
        taken[field.alias] = hint if field.converter is None else _taken_by(field.converter, hint)
    return taken


def _taken_by(converter: Any, otherwise: Any) -> Any:
    converter = getattr(converter, "converter", converter)  # attrs.Converter
    try:
        first = next(iter(inspect.signature(converter).parameters.values()))
        hints = typing.get_type_hints(converter if inspect.isroutine(converter) else type(converter).__call__)
        return otherwise if isinstance(converter, type) else hints.get(first.name, otherwise)
    except Exception:  # of a builtin, or of the user's annotations
        return otherwise


def _names_around(function: Any) -> dict[str, Any]:
    """The names that a function's annotations may use."""
    if not isinstance(function, type):
        return getattr(function if inspect.isroutine(function) else type(function).__call__, "__globals__", {})
    names: dict[str, Any] = {}
    for base in reversed(function.__mro__):
        names.update(vars(sys.modules.get(base.__module__, object)))
    return names


def _names_inside(made: Any) -> dict[str, Any]:
    """What a class or a function that was made in a function may name: itself, and what is there while that runs."""
    place, _, name = str(getattr(made, "__qualname__", "")).rpartition(".<locals>.")
    # Python 3.12 does not look for a class's own type parameters in annotations that are text.
    names = {name: made} | {variable.__name__: variable for variable in getattr(made, "__type_params__", ())}
    frame = sys._getframe() if place else None
    while frame is not None:
        if frame.f_code.co_qualname == place and frame.f_globals.get("__name__") == made.__module__:
            return {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def _annotation(parameter: inspect.Parameter, names: dict[str, Any], function: Any) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
    try:
        try:
            return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
        except NameError:
            names = {**names, **_names_inside(function)}
            return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
    except Exception as error:
        raise ConfigurationError(f"the annotation of parameter {parameter.name!r} cannot be read: {error}") from error


def is_unbound_method(function: Any) -> bool:
    """Whether a function, with what is wrapped around it, stands in a class body and takes ``self``."""
    inner = innermost(function)
    owner = getattr(inner, "__qualname__", "").rpartition(".")[0]
    if not isinstance(inner, types.FunctionType) or not owner or owner.endswith("<locals>"):
        return False
    return next(iter(inspect.signature(function).parameters), "") in ("self", "cls")


def is_union(hint: Any) -> bool:
    """Whether a hint is ``A | B``, ``Union`` or ``Optional``."""
    return typing.get_origin(hint) in (Union, types.UnionType)


def mentions(hint: Any, wanted: Any) -> bool:
    """Whether a hint is ``wanted``, or a union or ``Annotated`` form of it."""
    if typing.get_origin(hint) is Annotated:
        return mentions(typing.get_args(hint)[0], wanted)
    if is_union(hint):
        return any(mentions(member, wanted) for member in typing.get_args(hint))
    return hint is wanted or typing.get_origin(hint) is wanted


def is_typed_dict(cls: Any) -> bool:
    # Before Python 3.13, typing does not know those of typing_extensions, which Pydantic asks for.
    return isinstance(cls, type) and issubclass(cls, dict) and hasattr(cls, "__required_keys__")


def has_fields(cls: Any) -> bool:
    """Whether a class is made of annotated fields."""
    return isinstance(cls, type) and (
        attrs.has(cls) or dataclasses.is_dataclass(cls) or is_typed_dict(cls) or issubclass(cls, msgspec.Struct)
    )
