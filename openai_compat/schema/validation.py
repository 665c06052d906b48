"""One walk over a value and its type."""

from __future__ import annotations

import decimal
import math
from collections.abc import Mapping
from typing import Any, Protocol

from .likeness import Likeness
from .problems import Step, ValidationError, nested_error, path_step


class Converter(Protocol):
    """A type, as what converts decoded JSON into it."""

    def convert(self, value: Any, walk: Walk) -> Any:
        """The value of the type.

        Raises:
            ValidationError: it does not fit; the path begins at ``value``.
        """


class Walk:
    """One conversion. Each value is converted into each type once, for better or worse, and what came of it remembered.

    So the work is at most the size of the value times that of the type, also where unions of classes that look the same
    hold each other. ``steps`` counts it.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self.likeness: Likeness = Likeness(definitions)
        self.steps: int = 0
        # With the values themselves, so that no other value gets the identity of one that is gone.
        self._done: dict[tuple[int, int], tuple[Any, Any, ValidationError | None]] = {}

    def convert(self, value: Any, converter: Converter, step: Step | None = None) -> Any:
        """Convert a value, which stands at ``step`` of the one around it.

        Raises:
            ValidationError: it does not fit; the path begins at the value around it.
        """
        key = id(value), id(converter)
        done = self._done.get(key)
        if done is None:
            self.steps += 1
            try:
                done = value, converter.convert(value, self), None
            except ValidationError as misfit:
                done = value, None, misfit
            if isinstance(value, (dict, list)):
                self._done[key] = done
        _, made, error = done
        if error is None:
            return made
        raise error.with_traceback(None) if step is None else nested_error(step, error)


def with_floats(value: Any) -> Any:
    """A value with floats for its Decimals, which hold the digits of JSON's numbers until it is known what they become.

    Raises:
        ValidationError: a number that is not finite, or too large for a float.
    """
    if not isinstance(value, (dict, list, float, decimal.Decimal)):
        return value
    holder = [value]
    # No recursion: a value of any type may be nested as deeply as its JSON was.
    waiting: list[tuple[Any, Any, _Trail]] = [(holder, 0, None)]
    while waiting:
        around, at, trail = waiting.pop()
        inner = around[at]
        if isinstance(inner, (float, decimal.Decimal)):
            around[at] = _float(inner, trail)
        elif type(inner) is dict:
            around[at] = inner = dict(inner)
            waiting.extend((inner, key, (trail, key)) for key in inner)
        elif type(inner) is list:
            around[at] = inner = list(inner)
            waiting.extend((inner, place, (trail, place)) for place in range(len(inner)))
    return holder[0]


_Trail = tuple[Any, Step] | None  # the last step, and those before it


def _float(number: float | decimal.Decimal, trail: _Trail) -> float:
    made = float(number)
    if math.isfinite(made):
        return made
    steps: list[Step] = []
    while trail is not None:
        trail, step = trail
        steps.insert(0, step)
    finite = not isinstance(number, float) and number.is_finite()
    problem = "number out of range" if finite else "expected a finite number"
    raise ValidationError("$" + "".join(map(path_step, steps)), problem)
