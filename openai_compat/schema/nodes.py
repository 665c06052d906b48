"""What a type is made of: nodes, each of which says its JSON Schema and converts decoded JSON.

Numbers with a point come as floats or as Decimals; the latter still have all their digits.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import getattr_static
from typing import Any, NamedTuple

import msgspec
from msgspec.inspect import DictType, EnumType, ListType, LiteralType, NoneType, Type, UnionType, type_info

from .direct import bare, fields_of
from .likeness import is_whole
from .problems import ValidationError, nested_error, path_step, type_name, uncapitalized
from .validation import Walk, with_floats

REF = "#/$defs/"
MAX_SHOWN = 50
"""Choices that an error names."""


class Definitions:
    """What stands under ``$defs``: classes by their names, with an underscore or more where another has that name."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self.defaults: list[tuple[dict[str, Any], Field]] = []
        """Schemas whose default is to be told once all are there, if it fits."""
        self._names: dict[int, str] = {}

    def reference(self, node: Node, title: str, schema: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A reference to a node's schema, which is made where it is not there yet."""
        if id(node) not in self._names:
            name = self._names[id(node)] = self._free(re.sub(r"[^\w.-]", "_", title, flags=re.ASCII))
            self.schemas[name] = {}  # taken, also by what refers to itself
            self.schemas[name] = schema()
        return {"$ref": REF + self._names[id(node)]}

    def adopt(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A schema whose own ``$defs`` move here, under other names where others have theirs."""
        own = schema.get("$defs", {})
        names = {name: name for name in own}

        def clashes(name: str) -> bool:
            there = self.schemas.get(names[name])
            return there is not None and there != _renamed(own[name], names)

        while clash := next(filter(clashes, own), None):
            names[clash] = self._free(names[clash] + "_")
        self.schemas.update({names[name]: _renamed(inner, names) for name, inner in own.items()})
        adopted: dict[str, Any] = _renamed({key: value for key, value in schema.items() if key != "$defs"}, names)
        return adopted

    def _free(self, name: str) -> str:
        while name in self.schemas:
            name += "_"
        return name


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """A schema with other names in its references; numbers that JSON lacks are left out."""
    if isinstance(schema, list):
        return [_renamed(item, names) for item in schema]
    if isinstance(schema, str) and schema.startswith(REF):
        name = schema.removeprefix(REF)
        return REF + names.get(name, name)
    if not isinstance(schema, dict):
        return schema
    return {
        key: _renamed(value, names)
        for key, value in schema.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


class Node:
    """A type."""

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        raise NotImplementedError

    def convert(self, value: Any, walk: Walk) -> Any:
        raise NotImplementedError

    def convert_key(self, text: str, walk: Walk) -> Any:
        """A property's name as the key of a dict: text, or the number that it spells."""
        try:
            return self.convert(text, walk)
        except ValidationError:
            try:
                number = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeError):
                number = None
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise
            return self.convert(number, walk)

    def is_direct(self, theirs: Type) -> bool:
        """Whether msgspec, which reads the type as ``theirs``, makes the same values of all that it takes."""
        return False


class AnyValue(Node):
    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {}

    def convert(self, value: Any, walk: Walk) -> Any:
        return with_floats(value)


class Scalar(Node):
    """What msgspec converts by itself: numbers, text, dates and so on, with their bounds."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        self._kind = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        self._schema = msgspec.json.schema(hint)
        if "$defs" in self._schema:
            raise TypeError(f"{hint} is not supported")
        if self._kind in _FORMATS:
            self._schema["format"] = _FORMATS[self._kind]

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return dict(self._schema)

    def convert(self, value: Any, walk: Walk) -> Any:
        if isinstance(value, (float, decimal.Decimal)):
            value = self._number(value)
        try:
            made = msgspec.convert(value, self._hint)
        except msgspec.ValidationError as error:
            if self._kind in _FORMATS and type(value) is str:
                return self._from_iso(value, error)
            raise _explained(error) from error
        except UnicodeError as error:
            raise ValidationError("$", "text that is not valid Unicode") from error
        if isinstance(made, decimal.Decimal) and not made.is_finite():
            raise ValidationError("$", "number out of range")
        return made

    def _number(self, number: float | decimal.Decimal) -> Any:
        if self._kind is int and is_whole(number) and -_LARGEST < number < _LARGEST:
            return int(number)
        if self._kind is decimal.Decimal:
            return decimal.Decimal(repr(number)) if isinstance(number, float) else number
        return with_floats(number)

    def _from_iso(self, text: str, refusal: msgspec.ValidationError) -> Any:
        """What Python reads, and RFC 3339 does not know: a day for a time, a space for the T, no seconds."""
        try:
            return msgspec.convert(self._kind.fromisoformat(text), self._hint)
        except msgspec.ValidationError as error:
            raise _explained(error) from error
        except ValueError:
            raise _explained(refusal) from refusal

    def is_direct(self, theirs: Type) -> bool:
        return self._kind in _DIRECT and bare(theirs) == bare(type_info(self._hint))

    @property
    def is_none(self) -> bool:
        """Whether it is null."""
        return self._kind in (None, type(None))


_DIRECT = (str, bool, int, float, datetime.datetime, datetime.date, datetime.time)
_FORMATS: dict[Any, str] = {datetime.datetime: "date-time", datetime.date: "date", datetime.time: "time"}
# As a float goes: an exponent in a few digits may stand for more memory than there is.
_LARGEST = decimal.Decimal("1e309")


def _explained(error: msgspec.ValidationError) -> ValidationError:
    problem = " ".join(str(error).replace("`", "").split())
    return ValidationError("$", uncapitalized(problem))


class Choice(Node):
    """One of several values: an enum, or a ``Literal``."""

    def __init__(self, choices: Iterable[tuple[Any, Any]], title: str = "", description: str = "") -> None:
        self._choices = list(choices)
        if not self._choices:
            raise TypeError(f"{title} has no members")
        for value, _ in self._choices:
            if value is not None and not isinstance(value, (bool, int, float, str)):
                raise TypeError(f"{title or 'Literal'} may only contain None, booleans, numbers and strings")
        self._title = title
        self._description = description

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        # Sorted, so that the order in which they are written makes no other schema.
        made = {"enum": sorted((value for value, _ in self._choices), key=_rank)}
        if not self._title:
            return made
        if self._description:
            made["description"] = self._description  # type: ignore[assignment]
        return definitions.reference(self, self._title, lambda: {"title": self._title, **made})

    def convert(self, value: Any, walk: Walk) -> Any:
        for listed, made in self._choices:
            if value is made or (value == listed and isinstance(value, bool) is isinstance(listed, bool)):
                return made
            if isinstance(listed, float) and isinstance(value, decimal.Decimal) and float(value) == listed:
                return made
        words = [repr(listed) for listed, _ in self._choices[:MAX_SHOWN]]
        more = " | …" if len(self._choices) > MAX_SHOWN else ""
        got = repr(value) if isinstance(value, (str, int, float)) else type_name(value)
        raise ValidationError("$", f"expected {' | '.join(words)}{more}, got {got}")

    def is_direct(self, theirs: Type) -> bool:
        theirs = bare(theirs)
        if not all(type(value) is str for value, _ in self._choices):
            return False
        if isinstance(theirs, EnumType):
            # Its class may know other values of its members, and make some of what is none.
            known: dict[Any, Any] = theirs.cls._value2member_map_
            return known == dict(self._choices) and getattr_static(theirs.cls, "_missing_") is _MISSING
        alike = all(type(made) is str for _, made in self._choices)
        return alike and isinstance(theirs, LiteralType) and set(theirs.values) == {made for _, made in self._choices}


_MISSING = getattr_static(enum.Enum, "_missing_")


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    return (2, value) if isinstance(value, str) else (1, value)


class Array(Node):
    """A list, a set, or a tuple of any length."""

    def __init__(self, items: Node, make: Callable[[list[Any]], Any]) -> None:
        self._items = items
        self._make = make

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        items = self._items.schema(definitions)
        unique = {"uniqueItems": True} if self._make in (set, frozenset) else {}
        return {"type": "array", **({"items": items} if items else {}), **unique}

    def convert(self, value: Any, walk: Walk) -> Any:
        made = [walk.convert(item, self._items, at) for at, item in enumerate(_items_of(value))]
        return made if self._make is list else _construct(self._make, made)

    def is_direct(self, theirs: Type) -> bool:
        theirs = bare(theirs)
        return self._make is list and isinstance(theirs, ListType) and self._items.is_direct(theirs.item_type)


class Field(NamedTuple):
    """A field or a parameter: its name in JSON and in Python, and its default, UNSET where that is not known."""

    name: str
    python_name: str
    node: Node
    required: bool = True
    default: Any = msgspec.UNSET

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        made = dict(self.node.schema(definitions))
        if self.default is not msgspec.UNSET:
            definitions.defaults.append((made, self))
        return made


class Titled(Node):
    """What stands under ``$defs`` by its title; without one, the schema stands where it is used."""

    def __init__(self, title: str, description: str) -> None:
        self._title = title
        self._description = description

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        if not self._title:
            return self._own(definitions)
        words = {"title": self._title, **({"description": self._description} if self._description else {})}
        return definitions.reference(self, self._title, lambda: {**words, **self._own(definitions)})

    def _own(self, definitions: Definitions) -> dict[str, Any]:
        """The schema without its title and description."""
        raise NotImplementedError


class Tuple(Titled):
    """Values of several types in their order: a tuple, a named tuple, a Struct that is written as an array."""

    def __init__(
        self, fields: list[Field], make: Callable[[list[Any]], Any], title: str = "", description: str = ""
    ) -> None:
        super().__init__(title, description)
        self.fields = fields
        self._make = make

    def _own(self, definitions: Definitions) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "array"}
        if self.fields:
            made["prefixItems"] = [field.schema(definitions) for field in self.fields]
            if not self._title:
                made["items"] = False
        return {**made, "minItems": self._fewest, "maxItems": len(self.fields)}

    @property
    def _fewest(self) -> int:
        return sum(field.required for field in self.fields)

    def convert(self, value: Any, walk: Walk) -> Any:
        items = _items_of(value)
        if not self._fewest <= len(items) <= len(self.fields):
            few = len(items) < self._fewest
            words = f"of length {len(self.fields)}"
            if self._fewest < len(self.fields):
                words = f"of length >= {self._fewest}" if few else f"of length <= {len(self.fields)}"
            raise ValidationError("$", f"expected array {words}, got {len(items)}")
        made = [
            walk.convert(item, field.node, at) for at, (item, field) in enumerate(zip(items, self.fields, strict=False))
        ]
        return _construct(self._make, made)


class Dict(Node):
    """A dict with free keys; ``keys`` is None where they are any text."""

    def __init__(self, keys: Node | None, values: Node) -> None:
        self._keys = keys
        self._values = values

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        values = self._values.schema(definitions)
        return {"type": "object", **({"additionalProperties": values} if values else {})}

    def convert(self, value: Any, walk: Walk) -> Any:
        made: dict[Any, Any] = {}
        for name, inner in _pairs_of(value):
            key = name if self._keys is None else self._key(name, self._keys, walk)
            if key in made:
                raise ValidationError(f"${path_step(name)}", "key: is there twice")
            made[key] = walk.convert(inner, self._values, name)
        return made

    def is_direct(self, theirs: Type) -> bool:
        theirs = bare(theirs)
        return self._keys is None and isinstance(theirs, DictType) and self._values.is_direct(theirs.value_type)

    @staticmethod
    def _key(name: str, keys: Node, walk: Walk) -> Any:
        try:
            return keys.convert_key(name, walk)
        except ValidationError as error:
            raise nested_error(name, ValidationError("$", f"key: {error.problem}")) from error


class Object(Titled):
    """What is made of named fields: a class, or the arguments of a function.

    Args:
        title: what it is called under ``$defs``; without one, the schema stands where it is used.
        make: called with the fields that are given, by their names in Python.
        passes: whether a value is of the type already.
        tag: a property with a value of its own.
        closed: whether other properties are refused.
        raw: names in Python of fields that ``make`` may want as the text that they were, where it refuses their values.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        title: str = "",
        description: str = "",
        passes: Callable[[Any], bool] = lambda value: False,
        tag: tuple[str, Any] | None = None,
        closed: bool = False,
        raw: Iterable[str] = (),
    ) -> None:
        super().__init__(title, description)
        self.fields: Sequence[Field] = ()  # set once they are known: they may hold the class itself
        self.tag = tag
        self._make = make
        self._passes = passes
        self._closed = closed
        self._raw = frozenset(raw)
        self._direct: bool | None = None

    def _own(self, definitions: Definitions) -> dict[str, Any]:
        tag = {self.tag[0]: {"enum": [self.tag[1]]}} if self.tag else {}
        properties = {**tag, **{field.name: field.schema(definitions) for field in self.fields}}
        made: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [*tag, *(field.name for field in self.fields if field.required)]:
            made["required"] = required
        if self._closed:
            made["additionalProperties"] = False
        return made

    def convert(self, value: Any, walk: Walk) -> Any:
        if self._passes(value):
            return value
        fields = {field.name: field for field in self.fields}
        given: dict[str, Any] = {}
        for name, inner in _pairs_of(value):
            if field := fields.get(name):
                given[field.python_name] = walk.convert(inner, field.node, name)
            elif self.tag and name == self.tag[0]:
                walk.convert(inner, Choice([(self.tag[1], None)]), name)
            elif self._closed:
                raise ValidationError(f"${path_step(name)}", "no such field")
        needed = [self.tag[0]] if self.tag else []
        for name in [*needed, *(field.name for field in self.fields if field.required)]:
            if name not in value:
                raise ValidationError(f"${path_step(name)}", "required, but missing")
        texts = {
            field.python_name: value[field.name]
            for field in self.fields
            if field.python_name in self._raw and isinstance(value.get(field.name), str)
        }
        try:
            return _construct(lambda fields: self._make(**fields), given)
        except (ValidationError, AttributeError) as refusal:
            if not texts:
                raise
            try:
                return _construct(lambda fields: self._make(**fields), given | texts)
            except (ValidationError, AttributeError):
                raise refusal from None

    def is_direct(self, theirs: Type) -> bool:
        if self._direct is None:
            # So a class that holds itself is not: how deep its values may be is for the walk to say.
            self._direct = False
            self._direct = self._is_direct(fields_of(bare(theirs), self._make))
        return self._direct

    def _is_direct(self, theirs: tuple[msgspec.inspect.Field, ...] | None) -> bool:
        if theirs is None or self.tag or self._closed or len(theirs) != len(self.fields):
            return False
        own = {(field.name, field.python_name, field.required): field.node for field in self.fields}
        names = [(field.encode_name, field.name, field.required) for field in theirs]
        return all(name in own and own[name].is_direct(field.type) for name, field in zip(names, theirs, strict=True))


class AnyOf(Node):
    """A union: the first member that fits, of those that the value looks most like; others would drop some of it."""

    def __init__(self, members: Sequence[Node]) -> None:
        self._members = members
        self._schemas: list[dict[str, Any]] = []

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        self._schemas = [member.schema(definitions) for member in self._members]
        made: dict[str, Any] = {"anyOf": self._schemas}
        tags = [member.tag for member in self._members if isinstance(member, Object)]
        names = [schema.get("$ref", "") for schema in self._schemas]
        if len(tags) == len(self._members) and all(tags) and len({tag[0] for tag in tags if tag}) == 1:
            mapping = {tag[1]: name for tag, name in zip(tags, names, strict=True) if tag}
            made["discriminator"] = {"propertyName": tags[0][0] if tags[0] else "", "mapping": mapping}
        return made

    def convert(self, value: Any, walk: Walk) -> Any:
        found = [walk.likeness.of(value, schema) for schema in self._schemas]
        best = max(found)
        refusals: dict[int, ValidationError] = {}
        for at in sorted(range(len(found)), key=found.__getitem__, reverse=True):
            if (found[at].fits, found[at].listed, found[at].known) < (best.fits, best.listed, best.known):
                break
            try:
                return walk.convert(value, self._members[at])
            except ValidationError as error:
                refusals[at] = error
        errors = [refusals[at] for at in sorted(refusals)]
        expected = [re.fullmatch(r"expected (.+), got (.+)", error.problem) for error in errors]
        if len({error.path for error in errors}) == 1 and expected[0] and all(expected):
            words = dict.fromkeys(word for match in expected if match for word in match[1].split(" | "))
            raise ValidationError(errors[0].path, f"expected {' | '.join(words)}, got {expected[0][2]}")
        # The one that got furthest names what was meant.
        raise max(errors, key=lambda error: len(re.findall(r"[.\[]", error.path)))

    def is_direct(self, theirs: Type) -> bool:
        """Only of a type or None: nothing else has to be told apart from it."""
        theirs = bare(theirs)
        if not isinstance(theirs, UnionType):
            return False
        own = [member for member in self._members if not (isinstance(member, Scalar) and member.is_none)]
        others = [member for member in theirs.types if not isinstance(bare(member), NoneType)]
        return len(own) == len(others) == 1 and own[0].is_direct(others[0])


class Named(Node):
    """A type that holds itself by the name of an alias."""

    def __init__(self, title: str) -> None:
        self.inner: Node = AnyValue()
        self.used = False
        self._title = title

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return definitions.reference(self, self._title, lambda: self.inner.schema(definitions))

    def convert(self, value: Any, walk: Walk) -> Any:
        return walk.convert(value, self.inner)


class Described(Node):
    """A type, and what else is said of it."""

    def __init__(self, inner: Node, words: Mapping[str, Any]) -> None:
        self._inner = inner
        self._words = words

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {**self._inner.schema(definitions), **self._words}

    def convert(self, value: Any, walk: Walk) -> Any:
        return self._inner.convert(value, walk)

    def convert_key(self, text: str, walk: Walk) -> Any:
        return self._inner.convert_key(text, walk)

    def is_direct(self, theirs: Type) -> bool:
        return self._inner.is_direct(theirs)


class Bounded(Node):
    """A collection of so many items."""

    def __init__(self, inner: Node, least: int, most: int | None, words: Mapping[str, Any]) -> None:
        self._inner = inner
        self._least = least
        self._most = most
        self._words = words

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {**self._inner.schema(definitions), **self._words}

    def convert(self, value: Any, walk: Walk) -> Any:
        made = self._inner.convert(value, walk)
        if len(made) < self._least:
            raise ValidationError("$", f"expected {type_name(value)} of length >= {self._least}")
        if self._most is not None and len(made) > self._most:
            raise ValidationError("$", f"expected {type_name(value)} of length <= {self._most}")
        return made

    def is_direct(self, theirs: Type) -> bool:
        theirs = bare(theirs)
        if not isinstance(theirs, (ListType, DictType)):
            return False
        bounds = theirs.min_length or 0, theirs.max_length
        return bounds == (self._least, self._most) and self._inner.is_direct(theirs)


class Checked(Node):
    """A type whose values pass a test; ``problem`` is said of those that do not."""

    def __init__(self, inner: Node, holds: Callable[[Any], object], problem: str) -> None:
        self._inner = inner
        self._holds = holds
        self._problem = problem

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return self._inner.schema(definitions)

    def convert(self, value: Any, walk: Walk) -> Any:
        made = self._inner.convert(value, walk)
        if not _construct(self._holds, made):
            raise ValidationError("$", self._problem)
        return made

    def convert_key(self, text: str, walk: Walk) -> Any:
        made = self._inner.convert_key(text, walk)
        if not _construct(self._holds, made):
            raise ValidationError("$", self._problem)
        return made


class Custom(Node):
    """A class that is called with the value."""

    def __init__(self, cls: type, schema: Mapping[str, Any]) -> None:
        self._cls = cls
        self._schema = schema

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return dict(self._schema)

    def convert(self, value: Any, walk: Walk) -> Any:
        if isinstance(value, self._cls):
            return value
        if self._schema.get("type") == "string" and not isinstance(value, str):
            raise ValidationError("$", f"expected str, got {type_name(value)}")
        return _construct(self._cls, with_floats(value))


def _construct(make: Callable[[Any], Any], value: Any) -> Any:
    """What a class makes of a value; what it says of one that it refuses is an error like any other."""
    try:
        return make(value)
    except ValidationError:
        raise
    except (ValueError, TypeError) as error:
        # attrs' validators raise with more than their text.
        text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        raise ValidationError("$", " ".join(text.split()) or type(error).__name__) from error


def _items_of(value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    raise ValidationError("$", f"expected array, got {type_name(value)}")


def _pairs_of(value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ValidationError("$", f"expected object, got {type_name(value)}")
    for name, inner in value.items():
        if not isinstance(name, str):
            raise ValidationError(f"${path_step(str(name))}", "key: expected str")
        yield name, inner
