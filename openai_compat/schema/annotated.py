"""What stands in ``Annotated``: bounds, tests and words, by msgspec, annotated-types, Pydantic or ``Doc``."""

from __future__ import annotations

import operator
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec

from .parameters import is_union


def has_description(hint: Any) -> bool:
    if is_union(hint):
        return any(has_description(member) for member in typing.get_args(hint))
    if typing.get_origin(hint) is not Annotated:
        return False
    return any(item.description for item in normalized(typing.get_args(hint)[1:]) if isinstance(item, msgspec.Meta))


_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
WORDS = ("title", "description", "examples", "extra_json_schema")
_NAMES = {"Gt": "gt", "Ge": "ge", "Lt": "lt", "Le": "le", "MultipleOf": "multiple_of"}
_LENGTHS = {"MinLen": "min_length", "MaxLen": "max_length"}


class Check(NamedTuple):
    """What a value has to pass, and what is said of one that does not."""

    holds: Callable[[Any], object]
    problem: str


def normalized(metadata: Iterable[Any]) -> Iterator[Any]:
    """What stands in ``Annotated`` as msgspec's ``Meta`` or a test, whoever wrote it; else as it is."""
    for item in metadata:
        # annotated-types and Pydantic are the user's, and not imported here.
        home, name = type(item).__module__.partition(".")[0], type(item).__name__
        if isinstance(item, str):
            yield from [msgspec.Meta(description=item)] if item else []
        elif name == "FieldInfo" and home == "pydantic":
            yield from normalized(item.metadata)
            words = {"title": item.title, "description": item.description, "examples": item.examples}
            yield msgspec.Meta(**{word: said for word, said in words.items() if said})
        elif name in _NAMES and home == "annotated_types":
            yield _bound(_NAMES[name], getattr(item, _NAMES[name]))
        elif name in _LENGTHS and home == "annotated_types":
            yield msgspec.Meta(**{_LENGTHS[name]: getattr(item, _LENGTHS[name])})
        elif name == "Timezone" and item.tz in (None, ...):
            yield msgspec.Meta(tz=item.tz is ...)
        elif name == "Predicate" and home == "annotated_types":
            yield Check(item.func, f"{getattr(item.func, '__qualname__', repr(item.func))} does not hold")
        elif getattr(item, "__is_annotated_types_grouped_metadata__", False) and home == "annotated_types":
            yield from normalized(item)
        elif home in ("typing_extensions", "annotated_types") and hasattr(item, "documentation"):
            yield msgspec.Meta(description=item.documentation)
        elif home == "annotated_types" and name != "Unit":
            raise TypeError(f"{item!r} cannot be checked")
        else:
            yield item


_ORDER: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}


def _bound(name: str, bound: Any) -> msgspec.Meta | Check:
    said: dict[str, Any] = {name: bound}
    return msgspec.Meta(**said) if isinstance(bound, (int, float)) else order_check(name, bound)


def order_check(name: str, bound: Any) -> Check:
    """A bound that msgspec does not know: of dates, of Decimals."""
    if name not in _ORDER:
        raise TypeError(f"{name}={bound!r} cannot be checked")
    sign, holds = _ORDER[name]
    return Check(lambda value: value is None or holds(value, bound), f"expected {sign} {bound}")


def bounds_of(metas: Iterable[msgspec.Meta]) -> dict[str, Any]:
    """All bounds together: of two of a kind the narrower."""
    made: dict[str, Any] = {}
    said = [(name, getattr(meta, name)) for meta in metas for name in _BOUNDS if getattr(meta, name) is not None]
    for name, bound in said:
        if name in ("gt", "ge", "min_length"):
            bound = max(bound, made.get(name, bound))
        elif name in ("lt", "le", "max_length"):
            bound = min(bound, made.get(name, bound))
        elif made.get(name, bound) != bound:
            raise TypeError(f"{name} cannot be both {made[name]!r} and {bound!r}")
        made[name] = bound
    for beyond, least, tighter in (("gt", "ge", operator.ge), ("lt", "le", operator.le)):
        if beyond in made and least in made:
            del made[least if tighter(made[beyond], made[least]) else beyond]
    return made


def has_bounds(hint: Any) -> bool:
    """Whether there is a bound of msgspec's anywhere in a hint."""
    if isinstance(hint, msgspec.Meta):
        return bool(bounds_of([hint]))
    parts = [*typing.get_args(hint), *(hint.__metadata__ if typing.get_origin(hint) is Annotated else ())]
    return any(map(has_bounds, parts))


def is_pydantics(item: Any) -> bool:
    return type(item).__module__.partition(".")[0] in ("pydantic", "pydantic_core")
