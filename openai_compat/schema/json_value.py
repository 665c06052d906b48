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
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from typing import Any

import attrs
import msgspec

from .._json import NotJSONError, decode_json
from .problems import ValidationError
from .text import text_of
from .validation import with_floats


def _exactly(number: str) -> decimal.Decimal | float:
    """A number with its digits; infinity, as ``float`` has it, where its exponent has too many for a Decimal."""
    try:
        return decimal.Decimal(number)
    except decimal.InvalidOperation:
        return float(number)


_decode = msgspec.json.Decoder(float_hook=_exactly).decode


def decode_exactly(text: str) -> Any:
    """Decode JSON as ``decode_json`` does, with Decimals for floats: they have all the digits that were written.

    Raises:
        NotJSONError: it is none.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        decode_json(text)
        return json.loads(text.lstrip("\ufeff"), strict=False, parse_float=_exactly)


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
    frame is a list of them, with its labels unless they only count its rows. Only sequences and sets are lists. Numbers
    that JSON lacks (NaN, infinities) and pandas' NA and NaT are null; characters that UTF-8 lacks (lone surrogates) are
    U+FFFD.

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
    if isinstance(value, (str, collections.UserString)):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return str(value) if value.is_finite() else None
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return _time_of(value)
    if (library := _library_of(value)) is not None:
        return _LIBRARIES[library](value)
    if isinstance(value, msgspec.Struct):
        return _json_of_struct(value)
    if (named := _names_of(value)) is not None:
        return _object(named)
    if isinstance(value, memoryview) and (value.format not in "Bbc" or value.ndim != 1):
        return _json_of(value.tolist())
    if isinstance(value, _BYTES):
        return msgspec.to_builtins(bytes(value))
    if isinstance(value, _LISTS):
        return [_json_of(item) for item in value]
    if (text := text_of(value)) is not None:
        return text
    if hasattr(value, "model_dump"):
        return _json_of_model(value)
    if hasattr(value, "__fspath__"):
        return _json_of(value.__fspath__())
    if hasattr(value, "tolist"):  # arrays of other libraries
        return _json_of(value.tolist())
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        raise TypeError(f"{type(value).__name__} has no JSON form") from None


_BYTES = (bytes, bytearray, memoryview)
_LISTS = (Sequence, Set, ValuesView, collections.deque, array.array)


def _object(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        name = json_key(key)
        if name in made:
            raise TypeError(f"an object with two keys {name!r} has no JSON form")
        made[name] = _json_of(value)
    return made


def json_key(key: Any) -> str:
    """The key of an object that a mapping's key becomes.

    Raises:
        TypeError: it has no text.
    """
    plain = _json_of(key)
    if isinstance(plain, (list, dict)):
        raise TypeError(f"keys of an object are text, not {type(key).__name__}")
    return plain if isinstance(plain, str) else json.dumps(plain)


def _names_of(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What has names as pairs of these and values, else None."""
    if isinstance(value, Mapping) and callable(every := getattr(value, "getlist", None)):  # several values to a name
        return [(key, every(key)) for key in value]
    if isinstance(value, Mapping):
        return value.items()
    if attrs.has(type(value)) or dataclasses.is_dataclass(value):
        fields = attrs.fields(type(value)) if attrs.has(type(value)) else dataclasses.fields(value)
        shown = [field.name for field in fields if not field.name.startswith("_") and hasattr(value, field.name)]
        return [(name, getattr(value, name)) for name in shown]
    if isinstance(value, types.SimpleNamespace):
        return vars(value).items()
    if isinstance(value, tuple) and hasattr(type(value), "n_sequence_fields"):  # os.stat, time.localtime
        return _names_of_structure(value)
    if isinstance(getattr(value, "_mapping", None), Mapping):  # SQLAlchemy's rows
        return zip(value._fields, value, strict=True)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        made: Mapping[Any, Any] = value._asdict()
        return made.items()
    if any(base.__module__ == "sqlite3" and base.__name__ == "Row" for base in type(value).__mro__):
        # By their places: names that differ in case only are one to it.
        return zip(value.keys(), value, strict=True)
    # Of a message, keys are only what stands before its text.
    if all(callable(getattr(value, name, None)) for name in _OF_MAPPINGS) and not hasattr(value, "get_payload"):
        return [(key, value[key]) for key in value.keys()]  # noqa: SIM118 - it need not be a dict
    return None


_OF_MAPPINGS = ("keys", "values", "__getitem__")


def _names_of_structure(value: Any) -> Iterable[tuple[str, Any]]:
    """What C tells of a file or a time; not all of it is in the tuple, and not all in the tuple has a name."""
    _, (visible, hidden) = value.__reduce__()
    return [*zip(type(value).__match_args__, visible, strict=False), *hidden.items()]


def _json_of_struct(value: msgspec.Struct) -> Any:
    config = value.__struct_config__
    fields = [(field, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
    tag = [] if config.tag is None else [(config.tag_field, config.tag)]
    if config.array_like:
        return [*(name for _, name in tag), *(_json_of(inner) for _, inner in fields)]
    shown = [
        (field.encode_name, inner)
        for field, inner in fields
        if inner is not msgspec.UNSET and not (config.omit_defaults and _is_default(field, inner))
    ]
    return _object([*tag, *shown])


def _is_default(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    if field.default is not msgspec.NODEFAULT:
        return type(value) is type(field.default) and bool(value == field.default)
    return type(value) is field.default_factory and type(value) in (list, dict, set) and not value


def _json_of_model(value: Any) -> Any:
    try:
        return _json_of(value.model_dump(mode="json"))
    except ValueError:  # what Pydantic has no JSON for, and there may be some here
        return _json_of(value.model_dump())


def _time_of(value: Any) -> str | None:
    if value != value:  # pandas' NaT
        return None
    # Those of pandas are more exact than a datetime, and are written by themselves.
    kind = next(kind for kind in type(value).__mro__ if kind.__module__ == "datetime")
    text: str = value.isoformat() if kind is not type(value) else msgspec.to_builtins(value)
    return text


# Tables and arrays, which are the user's and not imported here


def _library_of(value: Any) -> str | None:
    """Which library's a value is, also where its class is the user's."""
    if isinstance(value, tuple):  # a row
        return None
    homes = (base.__module__.partition(".")[0] for base in type(value).__mro__)
    return next((home for home in homes if home in _LIBRARIES), None)


def _kinds(value: Any) -> set[str]:
    return {base.__name__ for base in type(value).__mro__}


def _json_of_polars(value: Any) -> Any:
    if "DataFrame" in _kinds(value):
        columns = [_json_of_polars(column) for column in value.get_columns()]
        return [dict(zip(map(_json_of, value.columns), row, strict=True)) for row in zip(*columns, strict=True)]
    if "Series" not in _kinds(value):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    if getattr(value.dtype, "time_unit", "") != "ns":
        return _json_of(value.to_list())
    if not hasattr(value.dtype, "time_zone"):
        return [None if count is None else _duration(count, "ns") for count in value.to_physical().to_list()]
    return value.dt.strftime("%Y-%m-%dT%H:%M:%S%.f" + ("%:z" if value.dtype.time_zone else "")).to_list()


def _json_of_numpy(value: Any) -> Any:
    if not hasattr(value, "dtype") or not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    kind = value.dtype.kind
    if value.dtype.names:
        if value.ndim:
            return [_json_of(row) for row in value]
        row = value[()]
        return _object((name, row[name]) for name in value.dtype.names)
    if kind == "M":
        return _json_of_moments(value)
    if kind == "m":
        return _json_of_durations(value)
    if kind == "c":
        raise TypeError("complex has no JSON form")
    if kind == "f" and value.dtype.itemsize > 8:  # which Python's float is not
        value = value.astype("f8")
    return _json_of(value.tolist())


_WHOLE = {"Y": "D", "M": "D", "W": "D", "h": "s", "m": "s"}
_SECONDS = {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}
_PARTS = {"ms": -3, "us": -6, "ns": -9, "ps": -12, "fs": -15, "as": -18}


def _json_of_moments(value: Any) -> Any:
    unit, _ = sys.modules["numpy"].datetime_data(value.dtype)
    return _each(value.astype(f"M8[{_WHOLE[unit]}]" if unit in _WHOLE else value.dtype).astype(str).tolist(), _moment)


def _moment(text: str) -> str | None:
    if text == "NaT":
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json_of_durations(value: Any) -> Any:
    unit, count = sys.modules["numpy"].datetime_data(value.dtype)
    known = sys.modules["numpy"].isnat(value)
    numbers = sys.modules["numpy"].where(known, None, value.astype("i8").astype(object) * count)
    return _each(numbers.tolist(), lambda number: None if number is None else _duration(number, unit))


def _duration(count: int, unit: str) -> str | int:
    if unit == "generic":
        return count
    sign, size = "-" * (count < 0), abs(count)
    if unit in ("Y", "M"):
        return f"{sign}P{size}{unit}"
    exact = decimal.Decimal(size * _SECONDS.get(unit, 1)).scaleb(_PARTS.get(unit, 0)).normalize()
    return f"{sign}PT{exact:f}S"


def _each(value: Any, make: Callable[[Any], Any]) -> Any:
    """What is made of each item of an array, or of the one that is all."""
    return [_each(item, make) for item in value] if isinstance(value, list) else make(value)


def _json_of_pandas(value: Any) -> Any:
    kinds = _kinds(value)
    if "NAType" in kinds:
        return None
    if "DataFrame" in kinds:
        return _json_of_frame(value)
    if "Series" in kinds:
        return _json_of_series(value)
    if kinds & {"Interval", "Period"}:
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _json_of(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _json_of_series(value: Any) -> Any:
    """A series as its values by their labels; as rows where these repeat, and as a list where they only count it."""
    if _only_counts(value.index):
        return [_json_of(inner) for inner in value]
    if value.index.nlevels == 1:
        labels = [_label(label) for label in value.index]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, map(_json_of, value), strict=True))
    return _json_of_frame(value.to_frame(value.name if value.name is not None else "value"))


def _json_of_frame(value: Any) -> list[dict[str, Any]]:
    """A table as its rows."""
    index = value.index
    names = [] if _only_counts(index) else list(index.names)
    names = [name if name is not None else f"index{at or ''}" for at, name in enumerate(names)]
    keys = [_label(name) for name in [*names, *value.columns]]
    if len(set(keys)) < len(keys):
        raise TypeError(f"a DataFrame with two columns of one name has no JSON form: {', '.join(keys)}")
    labels = [index.get_level_values(at) for at in range(len(names))]
    columns = [value.iloc[:, at] for at in range(len(value.columns))]
    return [dict(zip(keys, map(_json_of, row), strict=True)) for row in zip(*labels, *columns, strict=True)]


def _only_counts(index: Any) -> bool:
    """Whether labels are no more than the numbers of the rows; others may be years, or say which rows these are."""
    return "RangeIndex" in _kinds(index) and index.name is None and index.start == 0 and index.step == 1


def _label(label: Any) -> str:
    return "_".join(map(_label, label)) if isinstance(label, tuple) else json_key(label)  # of one under another


_LIBRARIES = {"numpy": _json_of_numpy, "pandas": _json_of_pandas, "polars": _json_of_polars}
