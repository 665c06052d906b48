"""Python values as JSON."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import types
from collections.abc import Mapping, Sequence, Set, ValuesView
from typing import Any

import attrs
import msgspec

from .decode import NotJSONError, decode_json
from .validation import ValidationError, with_floats

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


def with_digits(value: Any, text: str) -> Any:
    """A decoded value as ``decode_exactly`` decodes it; itself where it is not what the text says."""
    try:
        exact = decode_exactly(text)
        return exact if text and with_floats(exact) == value else value
    except (NotJSONError, ValidationError):
        return value


def to_json_value(value: Any) -> Any:
    """A value as what JSON has: attrs and Pydantic values, enums, dates, NumPy arrays, data frames, rows, and so on.

    What has names is an object, whatever else it is: mappings, named tuples, rows of databases, labelled series; a data
    frame is a list of them. Only sequences and sets are lists. Numbers that JSON lacks (NaN, infinities) and pandas' NA
    and NaT are null; characters that UTF-8 lacks (lone surrogates) are U+FFFD.

    Raises:
        TypeError: it has no JSON form, or one that would lose some of it.
    """
    try:
        return _json_of(value)
    except RecursionError:
        raise TypeError(f"{type(value).__name__} is nested too deeply, or holds itself") from None


def _json_of(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, type):
        raise TypeError(f"the class {value.__name__} has no JSON form")
    if isinstance(value, enum.Enum):
        return _json_of(value.value)
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return _time_of(value)
    if type(value).__module__.partition(".")[0] in _LIBRARIES and not isinstance(value, tuple):
        return _json_of_library(value)
    if isinstance(value, msgspec.Struct):
        return _json_of(msgspec.to_builtins(value, str_keys=True, enc_hook=_json_of))
    if (named := _names_of(value)) is not None:
        return {_json_key(key): _json_of(inner) for key, inner in named.items()}
    if isinstance(value, _LISTS) and not isinstance(value, _BYTES):
        return [_json_of(item) for item in value]
    if hasattr(value, "model_dump"):
        return _json_of(value.model_dump(mode="json"))
    if hasattr(value, "__fspath__"):
        return _json_of(value.__fspath__())
    if hasattr(value, "tolist") and not isinstance(value, _BYTES):  # arrays of other libraries
        return _json_of(value.tolist())
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        raise TypeError(f"{type(value).__name__} has no JSON form") from None


_BYTES = (bytes, bytearray, memoryview)
_LISTS = (Sequence, Set, ValuesView, collections.deque, array.array)


def _names_of(value: Any) -> Mapping[Any, Any] | None:
    """What has names as a mapping, else None."""
    if isinstance(value, Mapping):
        return value
    if attrs.has(type(value)) or dataclasses.is_dataclass(value):
        fields = attrs.fields(type(value)) if attrs.has(type(value)) else dataclasses.fields(value)
        shown = [field.name for field in fields if not field.name.startswith("_") and hasattr(value, field.name)]
        return {name: getattr(value, name) for name in shown}
    if isinstance(value, types.SimpleNamespace):
        return vars(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        made: Mapping[Any, Any] = value._asdict()
        return made
    if isinstance(getattr(value, "_mapping", None), Mapping):  # SQLAlchemy's rows
        return dict(value._mapping)
    # Rows of sqlite3, and others. Of a message, keys are only what stands before its text.
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__") and not hasattr(value, "get_payload"):
        return {key: value[key] for key in value.keys()}  # noqa: SIM118 - it need not be a dict
    return None


def _time_of(value: Any) -> str | None:
    if value != value:  # pandas' NaT
        return None
    # Those of pandas are more exact than a datetime, and are written by themselves.
    kind = next(kind for kind in type(value).__mro__ if kind.__module__ == "datetime")
    text: str = value.isoformat() if kind is not type(value) else msgspec.to_builtins(value)
    return text


def _json_key(key: Any) -> str:
    plain = key if isinstance(key, (str, int)) else _json_of(key)
    if isinstance(plain, (list, dict)):
        raise TypeError(f"keys of an object are text, not {type(key).__name__}")
    text: str = _json_of(
        plain if isinstance(plain, str) else next(iter(msgspec.to_builtins({plain: 0}, str_keys=True)))
    )
    return text


# Tables and arrays, which are the user's and not imported here

_LIBRARIES = ("numpy", "pandas", "polars")


def _json_of_library(value: Any) -> Any:
    name = type(value).__name__
    if name == "NAType":
        return None
    if hasattr(value, "to_dicts"):  # a data frame of Polars
        return _json_of(value.to_dicts())
    if hasattr(value, "to_list") and name == "Series" and not hasattr(value, "index"):
        return _json_of(value.to_list())
    if name in ("DataFrame", "Series"):
        return _json_of_pandas(value)
    if name in ("Interval", "Period"):
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _json_of_array(value)
    raise TypeError(f"{name} has no JSON form")


def _json_of_array(value: Any) -> Any:
    if value.dtype.kind == "V" and value.dtype.names:  # with names
        rows = value.tolist()
        names = value.dtype.names
        return _json_of(dict(zip(names, rows, strict=True)) if value.ndim == 0 else _named(rows, names))
    if value.dtype.kind in "mM":
        # As datetimes: what is finer comes as a bare number.
        unit = "us" if value.dtype.str[3:] in ("[ns]", "[ps]", "[fs]", "[as]") else ""
        value = value.astype(f"{value.dtype.kind}8[{unit}]") if unit else value
    return _json_of(value.tolist())


def _named(rows: Any, names: Sequence[str]) -> Any:
    return [_named(row, names) if isinstance(row, list) else dict(zip(names, row, strict=True)) for row in rows]


def _json_of_pandas(value: Any) -> Any:
    """A table as its rows, a series as its values by their labels; as rows, too, where these repeat."""
    numbered = type(value.index).__name__ == "RangeIndex" or (
        value.index.name is None and value.index.nlevels == 1 and value.index.dtype.kind in "iu"
    )
    if type(value).__name__ == "Series":
        if type(value.index).__name__ == "RangeIndex":
            return _json_of(value.tolist())
        if value.index.is_unique and value.index.nlevels == 1:
            return {_label(key): _json_of(inner) for key, inner in zip(value.index, value, strict=True)}
        value, numbered = value.to_frame(value.name if value.name is not None else "value"), False
    names = (
        []
        if numbered
        else [name if name is not None else f"index{at or ''}" for at, name in enumerate(value.index.names)]
    )
    names += list(value.columns)
    keys = [_label(name) for name in names]
    if len(set(keys)) < len(keys):
        raise TypeError(f"a DataFrame with two columns of one name has no JSON form: {', '.join(keys)}")
    columns = [value.iloc[:, at] for at in range(len(value.columns))]
    labels = [] if numbered else [value.index.get_level_values(at) for at in range(value.index.nlevels)]
    return [dict(zip(keys, map(_json_of, row), strict=True)) for row in zip(*labels, *columns, strict=True)]


def _label(label: Any) -> str:
    if isinstance(label, tuple):  # of a column under another
        return "_".join(map(_label, label))
    plain = _json_of(label)
    return "null" if plain is None else _json_key(plain)
