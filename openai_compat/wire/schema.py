"""Python types to JSON Schema, and values checked against them.

msgspec does both. What it refuses (a union of several classes, a class with such a union in it) is put behind a
stand-in: a class of ours, for which msgspec asks back through its hooks, as it does for Pydantic models.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import functools
import inspect
import json
import math
import re
import typing
from collections import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union

import attrs
import msgspec

from ..errors import ConfigurationError
from .json_value import to_json_value
from .parameters import has_fields, is_typed_dict, is_union, parameters_of
from .strict import likeness, strict_schema, without_filler_nulls

_REF = "#/$defs/"


class ValidationError(ValueError):
    """A value does not fit its type. ``path`` says where, as in ``$.days`` or ``$.rows[2].id``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problem)


class TypeSchema:
    """A type as a JSON Schema, and the conversion of decoded JSON into it.

    Args:
        hint: what msgspec takes (builtins, enums, ``Literal``, attrs classes, dataclasses, TypedDicts, Structs, and
            collections, unions and ``Annotated`` forms of them), Pydantic models, and unions of any of these. Another
            class may have its schema in ``Annotated[…, msgspec.Meta(extra_json_schema=…)]``: it is called with the
            value.
        strict: a schema in the subset that OpenAI's strict mode takes.

    Raises:
        ConfigurationError: the type has no JSON Schema.
    """

    def __init__(self, hint: Any, *, strict: bool = False) -> None:
        try:
            self._hint = _described(hint)
            self._lenient = _schema_of(self._hint)
        # Types are the user's, and so is the code that runs when they are looked at.
        except Exception as error:
            raise ConfigurationError(_reason(error)) from error
        self.schema = strict_schema(self._lenient) if strict else self._lenient
        self._strict = strict

    def convert(self, value: Any) -> Any:
        """Decoded JSON as the type. An integer may be written as ``3.0``.

        Raises:
            ValidationError: it does not fit.
        """
        try:
            if self._strict:
                value = without_filler_nulls(value, self._lenient)
            try:
                return _convert(value, self._hint)
            except ValidationError:
                return _convert(_with_integers(value), self._hint)
        except RecursionError as error:
            raise ValidationError("$", "nested too deeply") from error


def has_description(hint: Any) -> bool:
    if is_union(hint):
        return any(has_description(member) for member in typing.get_args(hint))
    return typing.get_origin(hint) is Annotated and any(_description(item) for item in typing.get_args(hint)[1:])


def _description(metadata: Any) -> str:
    """What a part of ``Annotated`` says: a plain string, or msgspec's own."""
    return metadata if isinstance(metadata, str) else getattr(metadata, "description", None) or ""


# Stand-ins for what msgspec refuses


class _AnyInstance(type):
    """msgspec checks what a conversion gave against its class; a stand-in has no values of its own."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _AnyOf(metaclass=_AnyInstance):
    """Stands for a union that msgspec refuses: of several classes, or of several kinds of string, and so on."""

    members: ClassVar[tuple[Any, ...]]


class _Built(metaclass=_AnyInstance):
    """Stands for a class that msgspec cannot make: its fields are converted, and given to its constructor."""

    hint: ClassVar[Any]


class Field(NamedTuple):
    """A field or a parameter: its name in JSON and in Python, and its default, UNSET where that is not known."""

    name: str
    python_name: str
    hint: Any
    required: bool
    default: Any = msgspec.UNSET


class _Shadow(msgspec.Struct):
    """The fields of a function or a class, for msgspec. What is not given is unset: defaults stay where they are."""

    fields: ClassVar[tuple[Field, ...]]

    def given(self) -> dict[str, Any]:
        values = ((field.python_name, getattr(self, f"p{at}")) for at, field in enumerate(self.fields))
        return {name: value for name, value in values if value is not msgspec.UNSET}


def shadow_of(name: str, fields: Iterable[Field], *, doc: str | None = None, **options: Any) -> type[_Shadow]:
    fields = tuple(fields)
    # The names of the fields are names in JSON only, and need not be free in a Struct.
    made: Any = msgspec.defstruct(
        name,
        [(f"p{at}", _described(field.hint), _struct_field(field)) for at, field in enumerate(fields)],
        bases=(_Shadow,),
        namespace={"__doc__": doc, "fields": fields},
        kw_only=True,
        **options,
    )
    return typing.cast("type[_Shadow]", made)


def _struct_field(field: Field) -> Any:
    if field.required:
        return msgspec.field(name=field.name)
    return msgspec.field(name=field.name, default_factory=lambda: msgspec.UNSET)


_COLLECTIONS: dict[Any, Any] = {
    **{kind: kind for kind in (list, tuple, set, frozenset, dict)},
    **dict.fromkeys((abc.Mapping, abc.MutableMapping), dict),
    **dict.fromkeys((abc.Set, abc.MutableSet), set),
    **dict.fromkeys((abc.Iterable, abc.Collection, abc.Sequence, abc.MutableSequence), list),
}


def _described(hint: Any) -> Any:
    """A hint as msgspec takes it: stand-ins for what it refuses, descriptions where it looks for them."""
    hint = _without_alias(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner: Any = _described(args[0])
        for item in args[1:]:
            inner = Annotated[inner, msgspec.Meta(description=item) if isinstance(item, str) and item else item]
        return inner
    if is_union(hint):
        members = tuple(_described(member) for member in args)
        union: Any = Union[members]  # noqa: UP007 - made of a tuple
        return union if _takes(union) else _AnyInstance("AnyOf", (_AnyOf,), {"members": members})
    if origin in _COLLECTIONS and args:
        return _COLLECTIONS[origin][tuple(arg if arg is Ellipsis else _described(arg) for arg in args)]
    if hint is object:
        return Any
    return _built(hint) if has_fields(origin or hint) and not _takes(hint) else hint


def _without_alias(hint: Any) -> Any:
    """What a ``NewType`` or a ``type`` statement stands for."""
    while hasattr(hint, "__supertype__") or type(hint).__name__ == "TypeAliasType":
        hint = hint.__supertype__ if hasattr(hint, "__supertype__") else hint.__value__
    return hint


def _takes(hint: Any) -> bool:
    """Whether msgspec has a schema for a hint, and makes its values as their own constructors would."""
    try:
        if not all(map(_is_plain, _parts(hint, []))):
            return False
        msgspec.json.schema_components((hint,), schema_hook=_any_schema)
    except Exception:  # of the user's types; describing them tells what it is
        return False
    return True


def _any_schema(custom: Any) -> dict[str, Any]:
    if _is_pydantic(custom) or issubclass(custom, (_AnyOf, _Built)):
        return {"title": custom.__name__}
    raise NotImplementedError


def _parts(hint: Any, found: list[Any]) -> list[Any]:
    """A hint and all that it is made of, the fields of classes too."""
    hint = _without_alias(hint)
    if hint not in found:
        found.append(hint)
        inner = list(typing.get_args(hint))
        cls = typing.get_origin(hint) or hint
        if has_fields(cls):
            inner += typing.get_type_hints(cls, include_extras=True).values()
        for part in inner:
            _parts(part, found)
    return found


def _is_plain(hint: Any) -> bool:
    """Whether msgspec does right by a hint, what is in it aside."""
    if is_union(hint):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return len(members) == 1 or not any(map(_is_narrowed, members))
    cls = typing.get_origin(hint) or hint
    # It sets the attributes of a value itself.
    if dataclasses.is_dataclass(cls):
        return not hasattr(cls, "__pydantic_validator__") and all(field.init for field in dataclasses.fields(cls))
    if isinstance(cls, type) and attrs.has(cls):
        return all(field.init and field.converter is None for field in attrs.fields(cls))
    return True


def _is_narrowed(member: Any) -> bool:
    """Whether a union with this member is one that msgspec gets wrong.

    Up to 0.22 it refuses 0 for ``Literal[7] | float``, and frees memory that is not its own after a union of a list and
    a string with a pattern, and some others with bounds.
    """
    return typing.get_origin(member) in (Annotated, Literal) or isinstance(member, enum.EnumMeta)


@functools.lru_cache(maxsize=1024)
def _built(hint: Any) -> _AnyInstance:
    return _AnyInstance("Built", (_Built,), {"hint": hint})


@functools.lru_cache(maxsize=1024)
def _shadow(hint: Any) -> type[_Shadow]:
    """The fields of a class that msgspec cannot make."""
    cls = typing.get_origin(hint) or hint
    args = ", ".join(getattr(arg, "__name__", str(arg)) for arg in typing.get_args(hint))
    options: dict[str, Any] = {"module": cls.__module__}
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        if config.array_like:
            raise TypeError(f"{cls.__name__} is array_like, and msgspec does not take what is in it")
        options |= {name: getattr(config, name) for name in ("tag", "tag_field", "forbid_unknown_fields")}
    doc = cls.__doc__ or ""
    if doc.startswith(f"{cls.__name__}("):
        doc = ""  # written by dataclasses
    name = f"{cls.__name__}[{args}]" if args else cls.__name__
    return shadow_of(name, _fields(cls, hint), doc=inspect.cleandoc(doc), **options)


def _fields(cls: Any, hint: Any) -> Iterator[Field]:
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    if is_typed_dict(cls):
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
            inner, required = _unwrapped(annotation, name in cls.__required_keys__)
            yield Field(name, name, _filled_in(inner, given), required)
        return
    renamed = {}
    if issubclass(cls, msgspec.Struct):
        renamed = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    for parameter, annotation in parameters_of(cls):
        name, required = parameter.name, parameter.default is parameter.empty
        default = msgspec.UNSET if required else parameter.default
        yield Field(renamed.get(name, name), name, _filled_in(annotation, given), required, default)


def _unwrapped(hint: Any, required: bool) -> tuple[Any, bool]:
    """A TypedDict's key without ``Required`` or ``NotRequired``, which Python misses in annotations that are text."""
    word = str(typing.get_origin(hint)).rpartition(".")[2]
    return (typing.get_args(hint)[0], word == "Required") if word in ("Required", "NotRequired") else (hint, required)


def _filled_in(hint: Any, given: Mapping[Any, Any]) -> Any:
    """A hint with its type variables replaced."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, Any)
    variables = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    return hint[tuple(given.get(variable, Any) for variable in variables)] if variables else hint


def _is_pydantic(hint: Any) -> bool:
    # Told by its methods: Pydantic is the user's, and not imported here.
    return isinstance(hint, type) and hasattr(hint, "model_json_schema") and hasattr(hint, "model_validate_json")


# Schemas


def _schema_of(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a hint, its classes under ``$defs``."""
    hints, models = [hint], list[Any]()

    def position(kind: str, item: Any, items: list[Any]) -> dict[str, Any]:
        if item not in items:
            items.append(item)
        return {"$ref": f"{kind}{items.index(item)}"}

    def hook(custom: Any) -> dict[str, Any]:
        if _is_pydantic(custom):
            return position("model ", custom, models)
        if issubclass(custom, _Built):
            return position("hint ", _shadow(custom.hint), hints)
        if issubclass(custom, _AnyOf):
            return {"anyOf": [position("hint ", member, hints) for member in custom.members]}
        raise NotImplementedError

    described = 0
    while described < len(hints):
        # All at once, again with what the hooks were asked for: so msgspec tells classes of the same name apart.
        described = len(hints)
        schemas, definitions = msgspec.json.schema_components(hints, schema_hook=hook, ref_template=_REF + "{name}")
    places = {f"hint {at}": schema for at, schema in enumerate(schemas)}
    for shadow, schema in zip(hints, schemas, strict=True):
        if isinstance(shadow, type) and issubclass(shadow, _Shadow):
            _add_defaults(definitions[schema["$ref"].removeprefix(_REF)]["properties"], shadow)
    for at, model in enumerate(models):
        places[f"model {at}"] = _adopted(_pydantic_schema(model), definitions)
    for definition in definitions.values():
        if definition.get("required") == []:
            del definition["required"]  # says nothing
    definitions = {name: _with_places(schema, places) for name, schema in definitions.items()}
    whole: dict[str, Any] = _with_places(schemas[0], places)
    return {**whole, "$defs": definitions} if definitions else whole


def _add_defaults(properties: dict[str, Any], shadow: type[_Shadow]) -> None:
    for field in shadow.fields:
        if field.default is msgspec.UNSET or field.default is attrs.NOTHING:
            continue
        try:
            default = to_json_value(field.default)
            _convert(default, _described(field.hint))
        except (TypeError, ValidationError):
            continue  # not JSON, or not what the annotation says: the model need not know it
        properties[field.name] = {**properties[field.name], "default": default}


def _pydantic_schema(model: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema(ref_template=_REF + "{model}")
    definitions = schema.pop("$defs", {})
    if schema.keys() != {"$ref"}:
        name = re.sub(r"[^\w.-]", "_", model.__name__)
        while name in definitions:
            name += "_"
        definitions[name], schema = schema, {"$ref": _REF + name}
    return {**schema, "$defs": definitions}


def _adopted(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema whose definitions have moved to ``definitions``, under other names where others have theirs."""
    own = schema.pop("$defs")
    places = {_REF + name: {"$ref": _REF + name} for name in own}
    names = {name: name for name in own}

    def clashes(name: str) -> bool:
        return names[name] in definitions and definitions[names[name]] != _with_places(own[name], places)

    while clash := next(filter(clashes, own), None):
        names[clash] += "_"
        places[_REF + clash] = {"$ref": _REF + names[clash]}
    definitions.update({names[name]: _with_places(inner, places) for name, inner in own.items()})
    moved: dict[str, Any] = _with_places(schema, places)
    return moved


def _with_places(schema: Any, places: Mapping[str, Any]) -> Any:
    """A schema with references replaced by what stands in their places; numbers that JSON lacks are left out."""
    if isinstance(schema, list):
        return [_with_places(item, places) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _with_places(value, places)
        for key, value in schema.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
    reference = made.get("$ref")
    if isinstance(reference, str) and reference in places:
        del made["$ref"]
        target = places[reference]
        made = {**(target if target.get("$ref") == reference else _with_places(target, places)), **made}
    return made


def root_in_place(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of arguments in place of the reference to it, without its title."""
    definitions = dict(schema["$defs"])
    own = definitions.pop(schema["$ref"].removeprefix(_REF))
    made = {key: value for key, value in own.items() if key != "title"}
    return {**made, "$defs": definitions} if definitions else made


def _reason(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, KeyError):
        return f"two classes have the same name: {error}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    # msgspec's advice is for its own users: what they would pass to it.
    return lines[-1] if lines[0].startswith("Generating JSON schema") else lines[0]


# Conversion


def _convert(value: Any, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint, str_keys=True, dec_hook=_convert_custom)
    except msgspec.ValidationError as error:
        raise _explained(error, value, hint) from error
    except UnicodeError as error:
        raise ValidationError("$", "text that is not valid Unicode") from error
    except TypeError as error:  # a list in a set
        raise ValidationError("$", str(error)) from error


def _convert_custom(hint: Any, value: Any) -> Any:
    if issubclass(type(hint), _AnyInstance):
        return _convert_to_any(hint, value) if issubclass(hint, _AnyOf) else _build(hint.hint, value)
    cls = typing.get_origin(hint) or hint
    if isinstance(value, cls):
        return value
    return _convert_pydantic(cls, value) if _is_pydantic(cls) else cls(value)


def _build(hint: Any, value: Any) -> Any:
    cls = typing.get_origin(hint) or hint
    if not is_typed_dict(cls) and isinstance(value, cls):
        return value
    return cls(**_convert(value, _shadow(hint)).given())


def _convert_pydantic(model: Any, value: Any) -> Any:
    try:
        # As JSON, where also a strict model takes text for a date and a list for a set.
        return model.model_validate_json(json.dumps(value))
    except ValueError as error:
        if not hasattr(error, "errors"):
            raise
        raise _explained_pydantic(error.errors(), value) from error


def _convert_to_any(union: type[_AnyOf], value: Any) -> Any:
    """The first member that fits, of those that the value looks like: others would drop some of it."""
    likenesses = [likeness(value, schema, schema.get("$defs", {})) for schema in _member_schemas(union)]
    errors: list[ValidationError] = []
    for found, member in zip(likenesses, union.members, strict=True):
        if found < max(likenesses):
            continue
        try:
            return _convert(value, member)
        except ValidationError as error:
            errors.append(error)
    expected = [re.fullmatch(r"expected (.+), got (.+)", error.problem) for error in errors]
    words = list(dict.fromkeys(match[1] for match in expected if match))
    if len(words) > 1 and all(error.path == "$" for error in errors) and expected[0]:
        raise ValidationError("$", f"expected {' | '.join(words)}, got {expected[0][2]}")
    # The one that got furthest names what was meant.
    raise max(errors, key=lambda error: len(re.findall(r"[.\[]", error.path)))


@functools.lru_cache(maxsize=1024)
def _member_schemas(union: type[_AnyOf]) -> list[dict[str, Any]]:
    return [_schema_of(member) for member in union.members]


def _with_integers(value: Any) -> Any:
    """A value with ``3`` for ``3.0``: in JSON they are the same number, and models write either."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _with_integers(inner) for name, inner in value.items()}
    return [_with_integers(item) for item in value] if isinstance(value, list) else value


# What was wrong, and where

_AT = re.compile(r"(.*) - at (`key` in )?`(\$.*)`", re.DOTALL)
_STEP = re.compile(r"\.[^.\[]+|\[\d+\]|\[\.\.\.\]")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_PYDANTIC_WORDS = {"missing": "required, but missing", "extra_forbidden": "no such field"}


def _explained(error: msgspec.ValidationError, value: Any, hint: Any) -> ValidationError:
    """msgspec's words as ``path: problem``, in one line."""
    problem, path = str(error), "$"
    if at := _AT.fullmatch(problem):
        problem, path = at[1], at[3]
        if at[2]:
            problem, path = f"key: {problem[:1].lower()}{problem[1:]}", path + "[...]"
        path = _with_keys(path, error, value, hint)
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return ValidationError(path + cause.path[1:], cause.problem)
    if cause is not None:  # said by the user's own class
        return ValidationError(path, " ".join(problem.split()) or type(cause).__name__)
    if field := _FIELD.fullmatch(problem):
        missing = field[1].startswith("missing")
        return ValidationError(path + _step(field[2]), "required, but missing" if missing else "no such field")
    problem = " ".join(problem.replace("`", "").split())
    return ValidationError(path, problem[:1].lower() + problem[1:])


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() else f"[{json.dumps(step)}]"


def _with_keys(path: str, error: msgspec.ValidationError, value: Any, hint: Any) -> str:
    """A path with the keys that msgspec leaves out: it writes ``[...]`` for any of a dict."""
    steps: list[str | int] = []
    try:
        for step in _STEP.findall(path):
            if step == "[...]":
                steps.append(_failing_key(steps, error, value, hint))
            else:
                steps.append(int(step[1:-1]) if step[0] == "[" else step[1:])
    except (LookupError, TypeError, AttributeError):  # the value is not decoded JSON, or a name has a dot in it
        return path
    return "$" + "".join(map(_step, steps))


def _failing_key(steps: Sequence[str | int], error: msgspec.ValidationError, value: Any, hint: Any) -> str:
    """The key of the dict at ``steps`` that is to blame: without it and those after it, it is another error or none."""
    items = list(_at(value, steps).items())

    def fails(count: int) -> bool:
        try:
            msgspec.convert(_put(value, steps, dict(items[:count])), hint, str_keys=True, dec_hook=_convert_custom)
        except (msgspec.MsgspecError, ValueError, TypeError) as other:
            return str(other) == str(error)
        return False

    return str(items[bisect.bisect_left(range(1, len(items) + 1), True, key=fails)][0])


def _at(value: Any, steps: Iterable[str | int]) -> Any:
    for step in steps:
        value = value[step]
    return value


def _put(value: Any, steps: Sequence[str | int], inner: Any) -> Any:
    """A copy of a value with something else at ``steps``."""
    if not steps:
        return inner
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    copy[steps[0]] = _put(value[steps[0]], steps[1:], inner)
    return copy


def _explained_pydantic(errors: Iterable[Mapping[str, Any]], value: Any) -> ValidationError:
    """The first of Pydantic's errors, of those that lie deepest."""
    found = [_located(error, value) for error in errors]
    depth = max(len(steps) for steps, _ in found)
    steps, problem = next(item for item in found if len(item[0]) == depth)
    return ValidationError("$" + "".join(map(_step, steps)), problem)


def _located(error: Mapping[str, Any], value: Any) -> tuple[list[str | int], str]:
    steps: list[str | int] = []
    for at, step in enumerate(error["loc"], 1):
        # What is not in the value is the name of a union's member, unless it is what is missing.
        if (isinstance(value, Mapping) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            steps.append(step)
            value = value[step]
        elif error["type"] == "missing" and at == len(error["loc"]):
            steps.append(step)
    problem = " ".join(_PYDANTIC_WORDS.get(error["type"], error["msg"]).split())
    return steps, problem[:1].lower() + problem[1:]
