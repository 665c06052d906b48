"""JSON as values of types, and schemas that others wrote."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import attrs

from openai_compat._json import NotJSONError, decode_event, decode_json, encode_json
from openai_compat.errors import ConfigurationError, ResponseTypeError
from openai_compat.schema.js_pattern import python_pattern
from openai_compat.schema.json_value import decode_exactly, to_json_value
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.raw_schema import RawSchema
from openai_compat.schema.strict import strict_schema
from openai_compat.schema.types import TypeSchema
from openai_compat.wire.output import Output
from openai_compat.wire.response import ChatResponse, Choice

from .inputs import attempt, json_value, text


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Note(TypedDict, total=False):
    when: datetime.datetime
    price: decimal.Decimal
    key: uuid.UUID


@attrs.frozen
class Leaf:
    kind: Literal["leaf"]
    size: int


@attrs.frozen
class Branch:
    kind: Literal["branch"]
    children: list[Branch | Leaf]
    colour: Colour | None = None
    at: Point | None = None
    notes: dict[str, Note] = attrs.field(factory=dict)


attrs.resolve_types(Branch, globals(), locals())
HINTS: tuple[Any, ...] = (Branch, list[int | str], dict[int, float], datetime.timedelta | bool, tuple[int, ...], str)
SCHEMAS = [TypeSchema(hint) for hint in HINTS]
OUTPUTS = [Output(hint) for hint in HINTS]


def decoded(data: bytes) -> None:
    """JSON in any spelling is decoded or refused; what is decoded can be written, and is the same again."""
    value = attempt(lambda: decode_json(data), NotJSONError)
    decode_event(text(data))
    if isinstance(value, NotJSONError):
        return
    plain = attempt(lambda: to_json_value(value), TypeError)
    if not isinstance(plain, TypeError):
        assert repr(to_json_value(decode_json(encode_json(plain)))) == repr(plain)
        attempt(lambda: decode_exactly(text(data)), NotJSONError)


def converted(data: bytes) -> None:
    """A value of a type, or what of it does not fit."""
    value = attempt(lambda: decode_exactly(text(data)), NotJSONError)
    for schema in SCHEMAS:
        made = attempt(lambda: schema.convert(value), ValidationError)  # noqa: B023 - called at once
        if isinstance(made, ValidationError):
            assert made.path.startswith("$")
        else:
            to_json_value(made)


def typed_answer(data: bytes) -> None:
    """The text of an answer as a value of a type, or a documented error that has the answer."""
    answer = ChatResponse(choices=(Choice(text=text(data), finish_reason="length" if data[-1:] == b"~" else "stop"),))
    for output in OUTPUTS:
        result = attempt(lambda: output.read(answer), ResponseTypeError)  # noqa: B023 - called at once
        assert isinstance(result, ResponseTypeError) or result.text == answer.text


def raw_schema(data: bytes) -> None:
    """A schema, a line break and a value: refused as a schema, or the value fits, or it does not."""
    written, _, value = data.partition(b"\n")
    schema = json_value(written)
    if not isinstance(schema, (dict, bool)) or b"attern" in written:  # a user's pattern takes as long as it takes
        return
    checker = attempt(lambda: RawSchema(schema), ConfigurationError)
    if isinstance(checker, RawSchema):
        if isinstance(schema, dict):
            attempt(lambda: strict_schema(schema), ConfigurationError)
        before = json.dumps(json_value(value))
        made = attempt(lambda: checker.convert(json_value(value)), ValidationError)
        assert isinstance(made, ValidationError) or json.dumps(made) == before


def pattern(data: bytes) -> None:
    """A pattern of JavaScript's is one of Python's, or refused; one of letters and digits alone is itself."""
    written = text(data)
    made = attempt(lambda: python_pattern(written), ConfigurationError)
    if isinstance(made, str):
        assert not written.isalnum() or made == written
    if len(written) < 500:  # Python's own compiler is slow where a long one has many properties
        attempt(lambda: RawSchema({"pattern": written}), ConfigurationError)
