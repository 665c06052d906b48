"""Which values are text, whatever their type."""

from __future__ import annotations

import collections
import enum
from typing import Any


def text_of(value: Any) -> str | None:
    """The text that a value is, as a plain ``str``; None where it is none.

    Text are also subclasses of ``str`` (Django's SafeString, MarkupSafe's Markup, NumPy's ``str_``), translations that
    are made when they are shown (Django's, Babel's, Flask-Babel's), proxies of text, and members of enums that are it.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, str):
        return str.__str__(value)  # its own __str__ may be of its own type, or show an enum's name
    if issubclass(kind, enum.Enum):
        return text_of(value.value)
    return str.__str__(str(value)) if _shows_text(value) else None


def _shows_text(value: Any) -> bool:
    if isinstance(value, (str, collections.UserString)):  # a proxy has the class of what it stands for
        return True
    if any(base.__name__ == "Promise" and base.__module__ == "django.utils.functional" for base in type(value).__mro__):
        return hasattr(type(value), "casefold")
    # Others hand on what they are asked for to the text. No more is asked of a stranger than for an attribute.
    return isinstance(getattr(getattr(value, "casefold", None), "__self__", None), str)
