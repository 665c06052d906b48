"""JSON from servers: msgspec first, and what it is too strict for by the standard library."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
encode_json = msgspec.json.Encoder().encode


def encode_reply(value: Any) -> bytes:
    """What a server sent, as JSON again; half a character, which a model may write, stays escaped."""
    try:
        return encode_json(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


class NotJSONError(ValueError):
    """Not JSON. ``cut_short`` is True where the text ends before the value does."""

    def __init__(self, message: str, *, cut_short: bool = False) -> None:
        super().__init__(message)
        self.cut_short = cut_short


def decode_json(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode JSON; also takes NaN, raw control characters, damaged UTF-8 and a BOM.

    Raises:
        NotJSONError: for anything else, nesting too deep to decode included.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeError) as strict:
        cut_short = "truncated" in str(strict)
    except RecursionError:
        raise NotJSONError("JSON nested too deep") from None
    text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
    try:
        return json.loads(text.lstrip("\ufeff"), strict=False)
    except RecursionError:
        raise NotJSONError("JSON nested too deep") from None
    except ValueError as error:
        problem = str(error)
    # Not within the handler: the decoder's error holds the whole text, which may echo a key.
    raise NotJSONError(problem, cut_short=cut_short)


def decode_reply(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode a whole reply; as of an event, an integer of too many digits costs nothing but itself.

    Raises:
        NotJSONError: as for ``decode_json``.
    """
    try:
        return decode_json(data)
    except NotJSONError:
        values, rest = decode_event(data if isinstance(data, str) else bytes(data).decode("utf-8", "replace"), most=1)
        if not values or rest:
            raise
        return values[0]


def decode_event(
    text: str, *, most: int | None = None, check: Callable[[], object] = lambda: None
) -> tuple[list[Any], str]:
    """The JSON objects that a line holds one after the other, and the rest, which is empty where all could be read.

    Takes what cannot be meant otherwise: a trailing comma, and an integer of too many digits, which becomes None.

    Args:
        most: how many objects are wanted.
        check: called every 1,000 objects.
    """
    values, rest = _objects(text, most, check)
    if not rest.startswith("{") or len(values) == most:
        return values, rest
    mended = _TRAILING_COMMA.sub(r"\1", rest)
    more, after = _objects(mended, most and most - len(values), check) if mended != rest else ([], rest)
    return (values + more, after) if more else (values, rest)


def _objects(text: str, most: int | None, check: Callable[[], object]) -> tuple[list[Any], str]:
    """The objects at the start of a text, and the rest, from the first one on that cannot be read."""
    values: list[Any] = []
    at = len(text) - len(text.lstrip())
    with contextlib.suppress(ValueError, RecursionError):
        while text.startswith("{", at) and len(values) != most:
            if len(values) % 1000 == 999:
                check()
            value, at = _EVENT.raw_decode(text, at)
            values.append(value)
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
    return values, text[at:]


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


MAX_DIGITS = 4000
"""Python refuses to read, or to show, integers of more than 4,300."""
_EVENT = json.JSONDecoder(strict=False, parse_int=_int)
_BETWEEN = re.compile(r"[\s,]*(?:data:\s*(?=[{\[]))?")
# What stands in strings is passed over whole.
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+"?)|,(?=\s*[}\]])', re.DOTALL)


def as_int(value: Any) -> int | None:
    """The count that ``value`` stands for: 7, 7.0, 7.9 and "7" are 7; anything else, and 2**53 + 1, is None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = int(float(value)) if isinstance(value, (str, float)) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= MAX_COUNT else None


MAX_COUNT = 2**53
"""What is larger counts nothing: it overflows the columns of databases, and other languages' numbers."""


def as_text(value: Any) -> str:
    """``value`` where it is a string, else the empty string."""
    return value if isinstance(value, str) else ""


def as_mapping(value: Any) -> Mapping[str, Any]:
    """``value`` where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}
