"""Python's annotations and classes, read into nodes."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import inspect
import pathlib
import typing
from collections import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import attrs
import msgspec

from .annotated import WORDS, Check, bounds_of, has_bounds, is_pydantics, normalized, order_check
from .nodes import (
    AnyOf,
    AnyValue,
    Array,
    Bounded,
    Checked,
    Choice,
    Custom,
    Described,
    Dict,
    Field,
    Named,
    Node,
    Object,
    Scalar,
    Tuple,
)
from .parameters import has_fields, hints_of, is_typed_dict, is_union, parameters_of, value_of
from .pydantic_types import PydanticType, is_pydantic, is_pydantic_field


class Parameter(NamedTuple):
    """What a function takes by name."""

    name: str
    hint: Any
    required: bool
    default: Any = msgspec.UNSET


class Arguments(NamedTuple):
    """Stands for a type: what a function takes. Its values are dicts of what is given."""

    parameters: tuple[Parameter, ...]


_COLLECTIONS: dict[Any, Any] = {
    **{kind: kind for kind in (list, tuple, set, frozenset, dict)},
    **dict.fromkeys((abc.Mapping, abc.MutableMapping), dict),
    **dict.fromkeys((abc.Set, abc.MutableSet), set),
    **dict.fromkeys((abc.Iterable, abc.Collection, abc.Sequence, abc.MutableSequence), list),
}
_QUALIFIERS = ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
_UNSET = type(msgspec.UNSET)
_PATH = {"type": "string", "format": "path"}


class Reader:
    """Reads one type into nodes; a class that is met again is the same node, or a type that holds itself had no end."""

    def __init__(self) -> None:
        self._classes: dict[Any, Node] = {}
        self._aliases: dict[Any, Named] = {}

    def node(self, hint: Any) -> Node:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        cls = origin or hint
        if isinstance(hint, Arguments):
            return self._arguments(hint)
        if not isinstance(cls, abc.Hashable):
            raise TypeError(f"{hint!r} is not supported as a type")
        if hasattr(hint, "__supertype__"):  # a NewType
            return self.node(hint.__supertype__)
        if type(cls).__name__ == "TypeAliasType":
            return self._alias(hint, cls)
        if str(origin).rpartition(".")[2] in _QUALIFIERS:
            return self.node(args[0])
        if isinstance(hint, typing.TypeVar):
            return self.node(_meant_by(hint))
        if hint is typing.LiteralString:
            return Scalar(str)
        if origin is Annotated:
            return self._annotated(args[0], args[1:])
        if hint in (Any, object):
            return AnyValue()
        if is_union(hint):
            return self._union([self.node(member) for member in args if member is not _UNSET])
        if origin is Literal:
            return Choice(_listed(hint))
        if cls in _COLLECTIONS:
            return self._collection(_COLLECTIONS[cls], args)
        if isinstance(cls, type):
            return self._class(hint, cls)
        return Scalar(hint)

    def _union(self, members: Sequence[Node]) -> Node:
        return members[0] if len(members) == 1 else AnyOf(members)

    def _alias(self, hint: Any, alias: Any) -> Node:
        key = repr(hint), id(alias)
        if key in self._aliases:
            self._aliases[key].used = True
            return self._aliases[key]
        named = self._aliases[key] = Named(str(hint))
        named.inner = self.node(_aliased(hint))
        del self._aliases[key]
        return named if named.used else named.inner

    def _collection(self, kind: type, args: tuple[Any, ...]) -> Node:
        if kind is dict:
            key, value = args or (str, Any)
            return Dict(None if key in (str, Any) else self.node(key), self.node(value))
        if kind is tuple and args[1:] != (Ellipsis,) and args:
            return Tuple([Field(str(at), "", self.node(arg)) for at, arg in enumerate(args) if arg != ()], tuple)
        return Array(self.node(args[0]) if args else AnyValue(), kind)

    def _annotated(self, hint: Any, metadata: Iterable[Any]) -> Node:
        said = list(normalized(metadata))
        metas = [item for item in said if isinstance(item, msgspec.Meta)]
        words = {word: getattr(meta, word) for meta in metas for word in WORDS if getattr(meta, word) is not None}
        words |= words.pop("extra_json_schema", {})
        if any(map(is_pydantics, said)):
            whole = Annotated[(hint, *metadata)]
            if has_bounds(whole):
                raise TypeError("Pydantic does not see the bounds of msgspec.Meta; use its Field")
            return Described(PydanticType(whole), words) if words else PydanticType(whole)
        bounds = bounds_of(metas)
        try:
            node = self._bounded(hint, bounds) if bounds else self.node(hint)
        except Exception:
            if not isinstance(hint, type) or not any(meta.extra_json_schema for meta in metas):
                raise
            node = Custom(hint, words)
        for item in said:
            if isinstance(item, Check):
                node = Checked(node, *item)
        return Described(node, words) if words else node

    def _bounded(self, hint: Any, bounds: Mapping[str, Any]) -> Node:
        """A type within bounds; those of a union bind the members that have such bounds."""
        if hasattr(hint, "__supertype__"):
            return self._bounded(hint.__supertype__, bounds)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if type(origin or hint).__name__ == "TypeAliasType":
            return self._bounded(_aliased(hint), bounds)
        meta = msgspec.Meta(**bounds)
        if origin is Annotated:
            return self._annotated(args[0], [*args[1:], meta])
        if is_union(hint):
            return self._bounded_union(args, bounds)
        if (origin or hint) in _COLLECTIONS:
            kind = _COLLECTIONS[origin or hint]
            words = msgspec.json.schema(Annotated[kind, meta])  # or it says what is wrong
            least, most = bounds.get("min_length", 0), bounds.get("max_length")
            return Bounded(self.node(hint), least, most, {key: words[key] for key in words.keys() - {"type"}})
        if hint is decimal.Decimal:
            node = self.node(hint)
            for name, bound in bounds.items():
                node = Checked(node, *order_check(name, bound))
            return node
        return Scalar(Annotated[hint, meta])

    def _bounded_union(self, members: Iterable[Any], bounds: Mapping[str, Any]) -> Node:
        nodes: list[Node] = []
        refusals: list[Exception] = []
        for member in members:
            try:
                nodes.append(self._bounded(member, bounds))
            except Exception as error:
                refusals.append(error)
                nodes.append(self.node(member))
        if len(refusals) == len(nodes):
            raise refusals[0]
        return self._union(nodes)

    # Classes

    def _class(self, hint: Any, cls: type) -> Node:
        key = repr(hint), id(cls)
        if key not in self._classes:
            self._classes[key] = self._made(hint, cls, key)
        return self._classes[key]

    def _made(self, hint: Any, cls: type, key: Any) -> Node:
        if is_pydantic(cls):
            return PydanticType(hint)
        if issubclass(cls, enum.Enum):
            listed = [(member.value, member) for member in cls]
            return Choice(listed, cls.__name__, _own_doc(cls))
        if issubclass(cls, pathlib.PurePath) or (cls.__module__, cls.__name__) == ("os", "PathLike"):
            return Custom(cls if issubclass(cls, pathlib.PurePath) else pathlib.Path, _PATH)
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return self._named_tuple(hint, cls, key)
        if has_fields(cls):
            return self._object(hint, cls, key)
        return PydanticType(hint) if hasattr(cls, "__get_pydantic_core_schema__") else Scalar(hint)

    def _named_tuple(self, hint: Any, cls: Any, key: Any) -> Node:
        row = self._classes[key] = Tuple([], lambda items: cls(*items), _title(hint, cls), _own_doc(cls))
        hints = hints_of(cls)
        for name in cls._fields:
            default = cls._field_defaults.get(name, msgspec.UNSET)
            _refuse_field(name, default)
            node = self.node(_filled_in(hints.get(name, Any), _given(hint, cls)))
            row.fields.append(Field(name, name, node, default is msgspec.UNSET, default))
        return row

    def _object(self, hint: Any, cls: Any, key: Any) -> Node:
        config = cls.__struct_config__ if issubclass(cls, msgspec.Struct) else None
        if config is not None and config.array_like:
            if config.tag is not None:
                raise TypeError(f"{cls.__name__} is array_like and has a tag, which is not supported")
            row = self._classes[key] = Tuple([], lambda items: cls(*items), _title(hint, cls), _own_doc(cls))
            row.fields.extend(self._fields(hint, cls))
            return row
        typed_dict = is_typed_dict(cls)
        made = self._classes[key] = Object(
            cls,
            title=_title(hint, cls),
            description=_own_doc(cls),
            passes=lambda value: not typed_dict and isinstance(value, cls),
            tag=(config.tag_field, config.tag) if config is not None and config.tag is not None else None,
            closed=config is not None and config.forbid_unknown_fields,
            raw=[field.alias for field in attrs.fields(cls) if field.converter] if attrs.has(cls) else (),
        )
        made.fields = tuple(self._fields(hint, cls))
        return made

    def _fields(self, hint: Any, cls: Any) -> Iterator[Field]:
        given = _given(hint, cls)
        if is_typed_dict(cls):
            for name, annotation in hints_of(cls).items():
                node = self.node(_filled_in(_unqualified(annotation), given))
                yield Field(name, name, node, _is_required(annotation, name in cls.__required_keys__))
            return
        renamed: dict[str, str] = {}
        if issubclass(cls, msgspec.Struct):
            renamed = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        elif attrs.has(cls):
            renamed = {field.alias: field.name for field in attrs.fields(cls)}
        for parameter, annotation in parameters_of(cls):
            _refuse_field(parameter.name, parameter.default)
            name, required = parameter.name, parameter.default is parameter.empty
            default = msgspec.UNSET if required else _plain_default(parameter.default, cls, renamed.get(name, name))
            node = self.node(_filled_in(annotation, given))
            yield Field(renamed.get(name, name), name, node, required, default)

    def _arguments(self, hint: Arguments) -> Node:
        made = Object(dict, closed=True)
        made.fields = tuple(
            Field(name, name, self.node(annotation), required, default)
            for name, annotation, required, default in hint.parameters
        )
        return made


def _aliased(hint: Any) -> Any:
    """What an alias stands for, with its own type variables replaced."""
    alias = typing.get_origin(hint) or hint
    return _filled_in(value_of(alias), dict(zip(alias.__type_params__, typing.get_args(hint), strict=False)))


def _meant_by(variable: Any) -> Any:
    if variable is typing.AnyStr:
        return str
    if hasattr(variable, "has_default") and variable.has_default():  # since Python 3.13
        return variable.__default__
    return typing.Union[variable.__constraints__] if variable.__constraints__ else variable.__bound__ or Any  # noqa: UP007


def _listed(hint: Any) -> Iterator[tuple[Any, Any]]:
    """The values of a ``Literal``, in JSON and in Python."""
    for value in typing.get_args(hint):
        yield (value.value if isinstance(value, enum.Enum) else value), value


def _title(hint: Any, cls: type) -> str:
    args = ", ".join(getattr(arg, "__name__", str(arg)) for arg in typing.get_args(hint))
    return f"{cls.__name__}[{args}]" if args else cls.__name__


def _own_doc(cls: type) -> str:
    """What a class says of itself, not what it inherits, nor what was written for it."""
    doc = vars(cls).get("__doc__")
    return "" if not isinstance(doc, str) or doc.startswith(f"{cls.__name__}(") else inspect.cleandoc(doc)


def _refuse_field(name: str, default: Any) -> None:
    if is_pydantic_field(default):
        raise TypeError(f"the default of {name!r} is Pydantic's Field, which only its own classes read; use Annotated")


def _plain_default(default: Any, cls: Any, name: str) -> Any:
    """A default, also where it is made anew for each value."""
    factory: Any = None
    if attrs.has(cls) and default is attrs.NOTHING:
        made = getattr(attrs.fields(cls), name).default
        factory = made.factory if isinstance(made, attrs.Factory) and not made.takes_self else None  # type: ignore[arg-type]
    elif dataclasses.is_dataclass(cls):
        factory = next((field.default_factory for field in dataclasses.fields(cls) if field.name == name), None)
    elif issubclass(cls, msgspec.Struct):
        info = next(field for field in msgspec.structs.fields(cls) if field.encode_name == name)
        factory = info.default_factory
    # No other factory is called only to be told.
    return factory() if factory in (list, dict, set, frozenset, tuple) else default


def _given(hint: Any, cls: Any) -> dict[Any, Any]:
    return dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))


def _unqualified(hint: Any) -> Any:
    while str(typing.get_origin(hint)).rpartition(".")[2] in _QUALIFIERS:
        hint = typing.get_args(hint)[0]
    return hint


def _is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a TypedDict's key is; Python misses the word in annotations that are text."""
    while (word := str(typing.get_origin(hint)).rpartition(".")[2]) in _QUALIFIERS:
        if word in ("Required", "NotRequired"):
            return word == "Required"
        hint = typing.get_args(hint)[0]
    return otherwise


def _filled_in(hint: Any, given: Mapping[Any, Any]) -> Any:
    """A hint with its type variables replaced."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    variables = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    filled = (given.get(each, each if isinstance(each, typing.TypeVar) else Any) for each in variables)
    return hint[tuple(filled)] if variables else hint
