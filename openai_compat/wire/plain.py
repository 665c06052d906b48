"""What callers give as what JSON has: the types of other libraries never reach a body, nor change one by their methods.

Plain values, which nearly all are, cost a look at their type, and stay the objects that they are.
"""

from __future__ import annotations

import decimal
import enum
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..schema.json_value import json_key, to_json_value
from ..schema.text import text_of

_PLAIN = frozenset({str, int, float, bool, type(None)})
_KEYS = frozenset({str, int})


def plain(value: Any, name: str) -> Any:
    """A value as what JSON has, as ``to_json_value`` makes it; but a Decimal is a number, as in a parameter it is.

    Args:
        name: what the value is, for the error.

    Raises:
        ConfigurationError: it has no JSON form.
    """
    kind = type(value)
    if kind in _PLAIN or (kind is dict and not value):
        return value
    try:
        return _plain(value)
    except RecursionError:
        raise ConfigurationError(f"{name} is nested too deeply, or holds itself") from None
    except TypeError as error:
        raise ConfigurationError(f"{name} cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        items = [_plain(item) for item in value.values()]
        if all(type(key) in _KEYS for key in value) and all(map(operator.is_, items, value.values())):
            return value
        return dict(zip(map(_key, value), items, strict=True))
    if kind is list or kind is tuple:
        items = [_plain(item) for item in value]
        return value if all(map(operator.is_, items, value)) else items
    if isinstance(value, decimal.Decimal):
        return _number_of(value)
    return to_json_value(value)


def _key(key: Any) -> Any:
    return key if type(key) in _KEYS else json_key(key)


def text(value: Any, name: str) -> str:
    """Text as a plain ``str``.

    Raises:
        ConfigurationError: it is none; ``text_of`` says what is.
    """
    if type(value) is str:
        return value
    found = text_of(value)
    if found is None:
        raise ConfigurationError(f"{name} is a string, not {_called(value)}")
    return found


def label(value: Any, name: str) -> str:
    """A short text that names something: also a UUID, a path, a date or a whole number, as they are written.

    Raises:
        ConfigurationError: anything else.
    """
    if type(value) is str:
        return value
    made = plain(value, name)
    if isinstance(made, int) and not isinstance(made, bool):
        return str(made)
    if not isinstance(made, str):
        raise ConfigurationError(f"{name} is a string, not {_called(value)}")
    return made


def number(value: Any, name: str) -> int | float:
    """A number as Python's own, from any library.

    Raises:
        ConfigurationError: text, NaN, an infinity, or anything else that is no number.
    """
    kind = type(value)
    if kind is int or (kind is float and math.isfinite(value)):
        return value  # type: ignore[no-any-return]
    found = _number_of(value)
    if found is None:
        raise ConfigurationError(f"{name} is a number, not {_called(value)}")
    return found


def whole(value: Any, name: str) -> int:
    """A whole number, also where it comes as a float, as from a column of a table that misses some.

    Raises:
        ConfigurationError: anything else.
    """
    if type(value) is int:
        return value
    found = number(value, name)
    if isinstance(found, float) and not found.is_integer():
        raise ConfigurationError(f"{name} is a whole number, not {found!r}")
    return int(found)


def _number_of(value: Any) -> int | float | None:
    """A finite number as Python's own; None where a value is none."""
    if isinstance(value, enum.Enum):
        value = value.value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of an array library
        value = value.item()
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, (numbers.Real, decimal.Decimal)):
        return None
    found = float(value)
    if not math.isfinite(found):
        return None
    return int(value) if isinstance(value, decimal.Decimal) and value == value.to_integral_value() else found


def _called(value: Any) -> str:
    """A value in an error: its type, and itself where that is a number, for NaN is one."""
    kind = type(value).__name__
    return f"{value} ({kind})" if isinstance(value, (numbers.Number, decimal.Decimal)) else kind


class PlainFields:
    """Makes the fields of a new frozen value plain, each by the function that stands beside its name; None stays."""

    def __init__(self, fields: Mapping[str, Callable[[Any, str], Any]]) -> None:
        self._fields = tuple(fields.items())
        self._given = operator.attrgetter(*fields)

    def __call__(self, instance: Any) -> None:
        for (name, made_plain), given in zip(self._fields, self._given(instance), strict=True):
            if given is not None:
                made = made_plain(given, name)
                if made is not given:
                    object.__setattr__(instance, name, made)
