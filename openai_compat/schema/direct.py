"""Types that msgspec decodes to the very values that their nodes make, in a fraction of the time."""

from __future__ import annotations

import abc
import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import attrs
import msgspec
from msgspec.inspect import DataclassType, Field, Metadata, StructType, Type, TypedDictType, type_info

Decode = Callable[[str], Any]
"""Of JSON to a value; UNSET where msgspec refuses it, which says nothing of what the nodes would make of it."""


class Reading(Protocol):
    """A type that knows whether msgspec reads it as it does itself."""

    def is_direct(self, theirs: Type) -> bool: ...


def refuse(text: str) -> Any:
    """Stands in for a decoder where a type has none."""
    return msgspec.UNSET


def decoder(hint: Any, node: Reading, name: str = "") -> Decode | None:
    """What decodes a type; None where msgspec would make other values of it than its node, or might.

    Args:
        name: of the property of an object, without others, in which the value stands.
    """
    try:
        with _as_they_were(_classes_in(hint)):
            if not node.is_direct(type_info(hint)):
                return None
            outer = msgspec.defstruct("Outer", [(name, hint)], forbid_unknown_fields=True) if name else hint
            decode = msgspec.json.Decoder(outer).decode
    # What msgspec has no decoder for, or cannot read the annotations of.
    except Exception:
        return None

    def decoded(text: str) -> Any:
        try:
            value = decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return msgspec.UNSET
        return getattr(value, name) if name else value

    return decoded


@contextlib.contextmanager
def _as_they_were(classes: Iterable[type]) -> Iterator[None]:
    """Classes without what msgspec leaves in them, with which cloudpickle can send none."""
    clean = [cls for cls in classes if _CACHE not in vars(cls)]
    try:
        yield
    finally:
        for cls in clean:
            if _CACHE in vars(cls):
                with contextlib.suppress(AttributeError):  # another thread was here
                    delattr(cls, _CACHE)


_CACHE = "__msgspec_cache__"


def _classes_in(hint: Any) -> Iterable[type]:
    """All classes that msgspec may see in a type."""
    known: dict[int, type] = {}
    waiting = [hint]
    while waiting:
        inner = waiting.pop()
        waiting += typing.get_args(inner)
        waiting += [getattr(inner, name) for name in ("__supertype__", "__value__") if hasattr(inner, name)]
        cls = typing.get_origin(inner) or inner
        if isinstance(cls, type) and id(cls) not in known:
            known[id(cls)] = cls
            with contextlib.suppress(Exception):  # of names that nobody finds, as msgspec does not
                waiting += typing.get_type_hints(cls, include_extras=True).values()
    return known.values()


def bare(theirs: Type) -> Type:
    """How msgspec reads a type, without what is said of it in words."""
    return bare(theirs.type) if isinstance(theirs, Metadata) else theirs


def fields_of(theirs: Type, cls: Any) -> tuple[Field, ...] | None:
    """The fields that msgspec sets of a class; None where a call of the class may do more than set them.

    What has a ``__dict__`` has it in the order of the JSON.
    """
    if not isinstance(theirs, (DataclassType, StructType, TypedDictType)):
        return None
    # Any other factory may tell how often it was called, also for what is refused in the end.
    if any(field.default_factory not in _FACTORIES for field in theirs.fields):
        return None
    return theirs.fields if isinstance(theirs, TypedDictType) or _only_keeps(cls, theirs.fields) else None


_FACTORIES = (msgspec.NODEFAULT, list, dict, set, frozenset, tuple)
_METACLASSES = (type, abc.ABCMeta, type(msgspec.Struct))
_HOOKS = ("__post_init__", "__attrs_pre_init__", "__attrs_post_init__", "__attrs_init__", "__del__")


@attrs.frozen
class _Frozen:
    """One of attrs' frozen classes, which all have the same ``__setattr__``."""


def _only_keeps(cls: Any, fields: tuple[Field, ...]) -> bool:
    """Whether a class is made by setting its fields, with no code of the user's."""
    if type(cls) not in _METACLASSES or inspect.isabstract(cls) or any(hasattr(cls, hook) for hook in _HOOKS):
        return False
    if issubclass(cls, msgspec.Struct):
        return cls.__new__ is msgspec.Struct.__new__ and cls.__init__ is msgspec.Struct.__init__
    if cls.__new__ is not object.__new__ or any(_is_there(cls, field.name) for field in fields):
        return False
    init = vars(cls).get("__init__")
    if not isinstance(init, types.FunctionType):
        return False
    code = init.__code__
    if code.co_filename.startswith("<attrs generated "):
        set_alone = cls.__setattr__ in (object.__setattr__, _Frozen.__setattr__)
        caches = "_attrs_cached_hash" in (*code.co_names, *code.co_consts)
        return set_alone and not caches and all(map(_is_kept, attrs.fields(cls)))
    # Those of frozen dataclasses go past their own __setattr__.
    set_alone = cls.__setattr__ is object.__setattr__ or cls.__dataclass_params__.frozen
    return set_alone and code.co_qualname == "__create_fn__.<locals>.__init__"


def _is_kept(field: attrs.Attribute[Any]) -> bool:
    return field.validator is None and field.converter is None


def _is_there(cls: type, name: str) -> bool:
    """Whether a class has an attribute that is not a slot: a default, which msgspec does not set, or a descriptor."""
    there = inspect.getattr_static(cls, name, attrs.NOTHING)
    return there is not attrs.NOTHING and not isinstance(there, types.MemberDescriptorType)
