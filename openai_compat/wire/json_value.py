"""Python values as JSON."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import msgspec

from .decode import decode_json

_decode = msgspec.json.Decoder(float_hook=decimal.Decimal).decode


def decode_exactly(text: str) -> Any:
    """Decode JSON as ``decode_json`` does, with Decimals for floats: they have all the digits that were written.

    Raises:
        NotJSONError: it is none.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        decode_json(text)
        return json.loads(text.lstrip("\ufeff"), strict=False, parse_float=decimal.Decimal)


def to_json_value(value: Any) -> Any:
    """A value as what JSON has: attrs and Pydantic values, enums, NumPy numbers and arrays, paths, and so on.

    A mapping is an object, whatever else it is. Numbers that JSON lacks (NaN, infinities) are null; characters that
    UTF-8 lacks (lone surrogates) are U+FFFD.

    Raises:
        TypeError: it has no JSON form.
    """
    try:
        return _json_of(value)
    except RecursionError:
        raise TypeError(f"{type(value).__name__} is nested too deeply, or holds itself") from None


def _json_of(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, (enum.Enum, type)):
        if isinstance(value, str):
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, Mapping):
            return {_json_key(key): _json_of(inner) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return [_json_of(item) for item in value]
        if attrs.has(type(value)) or dataclasses.is_dataclass(value):
            fields = attrs.fields(type(value)) if attrs.has(type(value)) else dataclasses.fields(value)
            shown = [field.name for field in fields if not field.name.startswith("_") and hasattr(value, field.name)]
            return {name: _json_of(getattr(value, name)) for name in shown}
    return _json_of(msgspec.to_builtins(value, str_keys=True, enc_hook=_custom_json))


def _json_key(key: Any) -> str:
    text: str = _json_of(key if isinstance(key, str) else next(iter(msgspec.to_builtins({key: None}, str_keys=True))))
    return text


def _custom_json(value: Any) -> Any:
    if isinstance(value, type):
        raise TypeError(f"the class {value.__name__} has no JSON form")
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
