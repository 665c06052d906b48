"""What tools return, as the JSON that the model gets."""

# ruff: noqa: E501 - a table

from __future__ import annotations

import array
import collections
import datetime
import decimal
import email.message
import enum
import io
import json
import pathlib
import re
import sqlite3
import threading
import time
import types
import uuid
import xml.etree.ElementTree
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pydantic
import pytest
import requests
import sqlalchemy
from werkzeug.datastructures import MultiDict

from openai_compat.schema.json_value import decode_exactly, to_json_value, with_digits
from openai_compat.wire.messages import Message

DAY = datetime.date(2024, 2, 29)
SALES = pd.DataFrame(
    {
        "city": ["Oslo", "Rome", "Oslo"],
        "amount": [10, 20, 30],
        "day": ["Mon", "Mon", "Tue"],
    }
)


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Place:
    city: str
    points: list[Point] = field(default_factory=list)


@attrs.frozen
class City:
    name: str
    founded: datetime.date = DAY


@attrs.frozen
class Secretive:
    shown: int
    _hidden: int = 2


class User(pydantic.BaseModel):
    name: str
    when: datetime.date


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Job(msgspec.Struct, rename="camel"):
    first_step: str


class Cat(msgspec.Struct, tag=True):
    lives: int


class Unit(enum.Enum):
    C = "celsius"


class Level(enum.IntEnum):
    LOW = 1


class Blob(pydantic.BaseModel):
    data: bytes


class Holder(pydantic.BaseModel):
    inside: Any


class Box(msgspec.Struct):
    inside: Any


class Vector(msgspec.Struct, array_like=True, tag="v"):
    size: int
    end: Point


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int = 1
    b: list[int] = []


class Frame(pd.DataFrame):
    """A table of the user's own kind."""


def sqlite_rows(query: str = "select 'Oslo' as city, 5 as amount") -> list[sqlite3.Row]:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def sqlalchemy_result(query: str = "select 'Oslo' as city, 5 as amount") -> Any:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        made = connection.execute(sqlalchemy.text(query)).freeze()()
    engine.dispose()
    return made


def sqlalchemy_rows() -> Any:
    return sqlalchemy_result().all()


def cursor() -> sqlite3.Cursor:
    connection = sqlite3.connect(":memory:")
    made = connection.cursor()
    connection.close()
    return made


def mail() -> email.message.EmailMessage:
    made = email.message.EmailMessage()
    made["Subject"] = "Hello"
    made.set_content("How are you?")
    return made


# A tool's value, and what the model gets; a text that begins with ! is why it gets none.


class Tensor:
    def tolist(self) -> list[int]:
        return [1, 2]


class Registry:
    """Answers like a mapping, and is none."""

    def keys(self) -> list[str]:
        return ["a"]

    def values(self) -> list[int]:
        return [1]

    def __getitem__(self, name: str) -> int:
        return {"a": 1}[name]


VALUES: dict[str, tuple[Any, str]] = {
    # pandas
    "frame": (
        pd.DataFrame({"city": ["Oslo", "Rome"], "amount": [10, 20]}),
        '[{"city": "Oslo", "amount": 10}, {"city": "Rome", "amount": 20}]',
    ),
    "frame-selected": (SALES.nlargest(1, "amount"), '[{"index": 2, "city": "Oslo", "amount": 30, "day": "Tue"}]'),
    "frame-by-years": (
        pd.DataFrame.from_dict({2020: {"amount": 1}, 2021: {"amount": 2}}, orient="index"),
        '[{"index": 2020, "amount": 1}, {"index": 2021, "amount": 2}]',
    ),
    "frame-by-a-column-that-counts": (
        pd.DataFrame({"id": [0, 1], "amount": [5, 6]}).set_index("id"),
        '[{"id": 0, "amount": 5}, {"id": 1, "amount": 6}]',
    ),
    "frame-of-the-users": (Frame({"a": [1, 2]}), '[{"a": 1}, {"a": 2}]'),
    "frame-with-nanoseconds": (
        pd.DataFrame({"a": pd.to_datetime(["2024-02-29T12:00:00.123456789Z"])}),
        '[{"a": "2024-02-29T12:00:00.123456789+00:00"}]',
    ),
    "frame-of-nothing": (pd.DataFrame({"a": []}), "[]"),
    "frame-grouped": (
        SALES.groupby("city")[["amount"]].sum(),
        '[{"city": "Oslo", "amount": 40}, {"city": "Rome", "amount": 20}]',
    ),
    "frame-grouped-twice": (
        SALES.groupby(["city", "day"])[["amount"]].sum(),
        '[{"city": "Oslo", "day": "Mon", "amount": 10}, {"city": "Oslo", "day": "Tue", "amount": 30}, {"city": "Rome", "day": "Mon", "amount": 20}]',
    ),
    "frame-labelled": (
        pd.DataFrame({"amount": [1, 2]}, index=["a", "b"]),
        '[{"index": "a", "amount": 1}, {"index": "b", "amount": 2}]',
    ),
    "frame-of-dates": (
        pd.DataFrame({"amount": [1]}, index=pd.to_datetime(["2024-02-29"])),
        '[{"index": "2024-02-29T00:00:00", "amount": 1}]',
    ),
    "frame-with-gaps": (
        pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None], "c": pd.to_datetime(["2024-02-29", None])}),
        '[{"a": 1.5, "b": "x", "c": "2024-02-29T00:00:00"}, {"a": null, "b": null, "c": null}]',
    ),
    "frame-of-nullable-integers": (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), '[{"a": 1}, {"a": null}]'),
    "frame-of-categories": (pd.DataFrame({"a": pd.Categorical(["x", "y"])}), '[{"a": "x"}, {"a": "y"}]'),
    "frame-with-columns-under-columns": (
        SALES.groupby("city").agg({"amount": ["sum", "max"]}),
        '[{"city": "Oslo", "amount_sum": 40, "amount_max": 30}, {"city": "Rome", "amount_sum": 20, "amount_max": 20}]',
    ),
    "frame-pivoted": (
        SALES.pivot_table(index="city", columns="day", values="amount"),
        '[{"city": "Oslo", "Mon": 10.0, "Tue": 30.0}, {"city": "Rome", "Mon": 20.0, "Tue": null}]',
    ),
    "frame-described": (
        SALES[["amount"]].describe().loc[["count", "max"]],
        '[{"index": "count", "amount": 3.0}, {"index": "max", "amount": 30.0}]',
    ),
    "frame-with-numbers-for-names": (pd.DataFrame([[1, 2]]), '[{"0": 1, "1": 2}]'),
    "frame-of-lists": (pd.DataFrame({"a": [[1, 2], [3]]}), '[{"a": [1, 2]}, {"a": [3]}]'),
    "frame-of-booleans": (pd.DataFrame({"a": [True, False]}), '[{"a": true}, {"a": false}]'),
    "series": (pd.Series([1, 2]), "[1, 2]"),
    "series-grouped": (SALES.groupby("city")["amount"].sum(), '{"Oslo": 40, "Rome": 20}'),
    "series-counted": (SALES["city"].value_counts(), '{"Oslo": 2, "Rome": 1}'),
    "series-grouped-twice": (
        SALES.groupby(["city", "day"])["amount"].sum(),
        '[{"city": "Oslo", "day": "Mon", "amount": 10}, {"city": "Oslo", "day": "Tue", "amount": 30}, {"city": "Rome", "day": "Mon", "amount": 20}]',
    ),
    "series-with-one-label-twice": (
        pd.Series([1, 2], index=["a", "a"], name="amount"),
        '[{"index": "a", "amount": 1}, {"index": "a", "amount": 2}]',
    ),
    "series-selected": (SALES["amount"][SALES["amount"] > 15], '{"1": 20, "2": 30}'),
    "series-by-years": (pd.Series([1, 2], index=range(2020, 2022)), '{"2020": 1, "2021": 2}'),
    "series-by-booleans": (pd.Series([1, 2], index=[True, False]), '{"true": 1, "false": 2}'),
    "series-with-labels-that-look-alike": (
        pd.Series([1, 2], index=[1, "1"]),
        '[{"index": 1, "value": 1}, {"index": "1", "value": 2}]',
    ),
    "series-of-a-row": (SALES.iloc[0], '{"city": "Oslo", "amount": 10, "day": "Mon"}'),
    "series-of-dates": (pd.Series(pd.to_datetime(["2024-02-29", None])), '["2024-02-29T00:00:00", null]'),
    "series-with-nothing-for-a-label": (pd.Series([1, 2], index=["a", None]), '{"a": 1, "null": 2}'),
    "series-by-month": (pd.Series([1], index=pd.period_range("2024-02", periods=1, freq="M")), '{"2024-02": 1}'),
    "index": (pd.Index(["a", "b"]), '["a", "b"]'),
    "index-of-dates": (pd.date_range("2024-02-29", periods=1), '["2024-02-29T00:00:00"]'),
    "index-of-moments-with-zone": (
        pd.DatetimeIndex(["2024-02-29T12:00:00.123456789Z"]),
        '["2024-02-29T12:00:00.123456789+00:00"]',
    ),
    "array-of-pandas": (pd.array([1, None], dtype="Int64"), "[1, null]"),
    "timestamp": (pd.Timestamp("2024-02-29 12:00"), '"2024-02-29T12:00:00"'),
    "timestamp-with-zone": (pd.Timestamp("2024-02-29 12:00", tz="Europe/Oslo"), '"2024-02-29T12:00:00+01:00"'),
    "timedelta-of-pandas": (pd.Timedelta(days=1, seconds=1), '"P1DT0H0M1S"'),
    "nat": (pd.NaT, "null"),
    "na": (pd.NA, "null"),
    "period": (pd.Period("2024-02"), '"2024-02"'),
    "interval": (pd.Interval(0, 5), '"(0, 5]"'),
    "categories": (pd.Categorical(["x", "y", "x"]), '["x", "y", "x"]'),
    "records": (SALES.head(1).to_dict("records"), '[{"city": "Oslo", "amount": 10, "day": "Mon"}]'),
    "tuples-of-a-frame": (
        list(SALES.head(1).itertuples(index=False)),
        '[{"city": "Oslo", "amount": 10, "day": "Mon"}]',
    ),
    # NumPy
    "array": (np.array([1, 2]), "[1, 2]"),
    "array-of-arrays": (np.array([[1.5, 2], [np.nan, np.inf]]), "[[1.5, 2.0], [null, null]]"),
    "array-of-nothing": (np.array([]), "[]"),
    "array-of-no-dimension": (np.array(3), "3"),
    "array-of-text": (np.array(["a", "b"]), '["a", "b"]'),
    "array-of-objects": (np.array([{"a": 1}, None], dtype=object), '[{"a": 1}, null]'),
    "array-of-days": (np.array(["2024-02-29", "NaT"], dtype="datetime64[D]"), '["2024-02-29", null]'),
    "array-of-nanoseconds": (np.array(["2024-02-29T12:00"], dtype="datetime64[ns]"), '["2024-02-29T12:00:00"]'),
    "array-of-differences": (np.array([60], dtype="timedelta64[s]"), '["PT60S"]'),
    "array-with-names": (
        np.array([(1, "a"), (2, "b")], dtype=[("id", "i4"), ("name", "U1")]),
        '[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]',
    ),
    "array-with-names-one": (np.array([(1, "a")], dtype=[("id", "i4"), ("name", "U1")])[0], '{"id": 1, "name": "a"}'),
    "array-with-names-in-names": (
        np.array([((1, 2), "2024-02-29")], dtype=[("p", [("x", "i4"), ("y", "i4")]), ("day", "M8[ns]")]),
        '[{"p": {"x": 1, "y": 2}, "day": "2024-02-29T00:00:00"}]',
    ),
    "moment-of-nanoseconds": (np.datetime64("2024-02-29T12:00:00.123456789"), '"2024-02-29T12:00:00.123456789"'),
    "day-far-away": (np.datetime64("20000-01-01"), '"20000-01-01"'),
    "month": (np.datetime64("2024-02"), '"2024-02-01"'),
    "difference-of-nanoseconds": (np.timedelta64(-5, "ns"), '"-PT0.000000005S"'),
    "differences-of-months": (np.array([5, "NaT"], dtype="m8[M]"), '["P5M", null]'),
    "long-double": (np.longdouble("0.5"), "0.5"),
    "array-of-long-doubles": (np.array([[0.5]], dtype=np.longdouble), "[[0.5]]"),
    "array-masked": (np.ma.masked_array([1, 2], mask=[False, True]), "[1, null]"),
    "numpy-integer": (np.int64(3), "3"),
    "numpy-float": (np.float32(0.5), "0.5"),
    "numpy-boolean": (np.bool_(True), "true"),
    "numpy-text": (np.str_("a"), '"a"'),
    "numpy-day": (np.datetime64("2024-02-29"), '"2024-02-29"'),
    # Polars
    "polars-frame": (
        pl.DataFrame({"city": ["Oslo"], "amount": [10], "day": [DAY]}),
        '[{"city": "Oslo", "amount": 10, "day": "2024-02-29"}]',
    ),
    "polars-grouped": (
        pl.DataFrame({"city": ["Oslo", "Oslo"], "amount": [1, 2]}).group_by("city").sum(),
        '[{"city": "Oslo", "amount": 3}]',
    ),
    "polars-series": (pl.Series("amount", [1, None]), "[1, null]"),
    "polars-nanoseconds": (
        pl.DataFrame({"a": pl.Series(["2024-02-29T12:00:00.123456789"]).str.to_datetime(time_unit="ns")}),
        '[{"a": "2024-02-29T12:00:00.123456789"}]',
    ),
    "polars-differences": (pl.Series([5, None]).cast(pl.Duration("ns")), '["PT0.000000005S", null]'),
    "polars-rows": (pl.DataFrame({"a": [1]}).rows(named=True), '[{"a": 1}]'),
    "polars-struct": (pl.DataFrame({"a": [{"b": 1}]}), '[{"a": {"b": 1}}]'),
    # Databases
    "sqlite-row": (sqlite_rows()[0], '{"city": "Oslo", "amount": 5}'),
    "sqlite-rows": (sqlite_rows(), '[{"city": "Oslo", "amount": 5}]'),
    "sqlite-names-in-two-cases": (sqlite_rows("select 1 as id, 2 as ID")[0], '{"id": 1, "ID": 2}'),
    "sqlalchemy-row": (sqlalchemy_rows()[0], '{"city": "Oslo", "amount": 5}'),
    "sqlalchemy-rows": (sqlalchemy_rows(), '[{"city": "Oslo", "amount": 5}]'),
    "sqlalchemy-mapping": (sqlalchemy_rows()[0]._mapping, '{"city": "Oslo", "amount": 5}'),
    "tuples-of-a-cursor": ([("Oslo", 5)], '[["Oslo", 5]]'),
    # Classes
    "dataclass": (Place("Oslo"), '{"city": "Oslo", "points": []}'),
    "dataclass-inside": ([Place("Oslo", [Point(1, 2)])], '[{"city": "Oslo", "points": [{"x": 1, "y": 2}]}]'),
    "attrs": (City("Oslo"), '{"name": "Oslo", "founded": "2024-02-29"}'),
    "attrs-private": (Secretive(1), '{"shown": 1}'),
    "pydantic": (User(name="Ada", when=DAY), '{"name": "Ada", "when": "2024-02-29"}'),
    "pydantic-inside": ({"users": [User(name="Ada", when=DAY)]}, '{"users": [{"name": "Ada", "when": "2024-02-29"}]}'),
    "pydantic-root": (Numbers([1, 2]), "[1, 2]"),
    "pydantic-bytes": (Blob(data=b"\xff"), '{"data": "/w=="}'),
    "pydantic-holds-a-frame": (Holder(inside=pd.DataFrame({"a": [1]})), '{"inside": [{"a": 1}]}'),
    "pydantic-holds-attrs": (Holder(inside=Secretive(1)), '{"inside": {"shown": 1}}'),
    "struct-holds-a-named-tuple": (Box(Point(1, 2)), '{"inside": {"x": 1, "y": 2}}'),
    "struct-holds-attrs": (Box(Secretive(1)), '{"inside": {"shown": 1}}'),
    "struct-holds-a-frame": (Box(pd.DataFrame({"a": [1]})), '{"inside": [{"a": 1}]}'),
    "struct-as-array": (Vector(1, Point(1, 2)), '["v", 1, {"x": 1, "y": 2}]'),
    "struct-without-defaults": (Sparse(b=[1]), '{"b": [1]}'),
    "struct": (Job("a"), '{"firstStep": "a"}'),
    "struct-tagged": (Cat(9), '{"type": "Cat", "lives": 9}'),
    "named-tuple": (Point(1, 2), '{"x": 1, "y": 2}'),
    "named-tuples": ([Point(1, 2)], '[{"x": 1, "y": 2}]'),
    "namespace": (types.SimpleNamespace(a=1), '{"a": 1}'),
    "enum": (Unit.C, '"celsius"'),
    "enum-of-numbers": (Level.LOW, "1"),
    "enum-as-key": ({Unit.C: 1}, '{"celsius": 1}'),
    "message": (Message(role="user", content="hi"), '{"role": "user", "content": "hi"}'),
    # Collections
    "nothing": (None, "null"),
    "text": ("Sunny.", '"Sunny."'),
    "text-with-half-a-character": ("a\ud83d", '"a�"'),
    "number": (3, "3"),
    "huge-number": (2**70, "1180591620717411303424"),
    "fraction": (0.1, "0.1"),
    "no-number": (float("nan"), "null"),
    "set": ({1}, "[1]"),
    "frozen-set": (frozenset(["a"]), '["a"]'),
    "deque": (collections.deque([1, 2], maxlen=2), "[1, 2]"),
    "range": (range(3), "[0, 1, 2]"),
    "keys": ({"a": 1}.keys(), '["a"]'),
    "values": ({"a": 1}.values(), "[1]"),
    "items": ({"a": 1}.items(), '[["a", 1]]'),
    "ordered": (collections.OrderedDict(b=1, a=2), '{"b": 1, "a": 2}'),
    "counter": (collections.Counter("aab"), '{"a": 2, "b": 1}'),
    "default-dict": (collections.defaultdict(list, a=[1]), '{"a": [1]}'),
    "chain": (collections.ChainMap({"a": 1}, {"b": 2}), '{"b": 2, "a": 1}'),
    "numbers-as-keys": ({1: "a", 2.5: "b"}, '{"1": "a", "2.5": "b"}'),
    "day-as-key": ({DAY: 1}, '{"2024-02-29": 1}'),
    "user-list": (collections.UserList([1]), "[1]"),
    "nothing-and-truth-as-keys": ({None: 1, True: 2, 0.5: 3}, '{"null": 1, "true": 2, "0.5": 3}'),
    "user-text": (collections.UserString("a"), '"a"'),
    "several-values-of-a-name": (MultiDict([("a", "1"), ("a", "2")]), '{"a": ["1", "2"]}'),
    "view-of-bytes": (memoryview(b"abcd")[::2], '"YWM="'),
    "view-of-numbers": (memoryview(array.array("i", [1, 2])), "[1, 2]"),
    "structure-of-c": (
        time.gmtime(0),
        '{"tm_year": 1970, "tm_mon": 1, "tm_mday": 1, "tm_hour": 0, "tm_min": 0, "tm_sec": 0, "tm_wday": 3, "tm_yday": 1, "tm_isdst": 0, "tm_zone": "GMT", "tm_gmtoff": 0}',
    ),
    "array-of-c": (array.array("d", [0.5]), "[0.5]"),
    # Dates, and others
    "day": (DAY, '"2024-02-29"'),
    "moment": (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), '"2024-02-29T12:00:00Z"'),
    "moment-without-zone": (datetime.datetime(2024, 2, 29, 12), '"2024-02-29T12:00:00"'),
    "clock": (datetime.time(12, 30), '"12:30:00"'),
    "difference": (datetime.timedelta(hours=36), '"P1DT43200S"'),
    "decimal": (decimal.Decimal("1.10"), '"1.10"'),
    "decimal-that-is-none": (decimal.Decimal("NaN"), "null"),
    "uuid": (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    "bytes": (b"ab", '"YWI="'),
    "path": (pathlib.PurePosixPath("a/b"), '"a/b"'),
    "headers": (
        requests.structures.CaseInsensitiveDict({"Content-Type": "text/plain"}),
        '{"Content-Type": "text/plain"}',
    ),
    # Refused by name
    "generator": ((letter for letter in "ab"), "!generator has no JSON form"),
    "iterator": (iter([1]), "!list_iterator has no JSON form"),
    "map": (map(str, [1]), "!map has no JSON form"),
    "exception": (ValueError("a"), "!ValueError has no JSON form"),
    "object": (object(), "!object has no JSON form"),
    "function": (len, "!builtin_function_or_method has no JSON form"),
    "class": (Place, "!the class Place has no JSON form"),
    "module": (array, "!module has no JSON form"),
    "complex": (1j, "!complex has no JSON form"),
    "array-of-complex": (np.array([1j]), "!complex has no JSON form"),
    "mail": (mail(), "!EmailMessage has no JSON form"),
    "response": (requests.Response(), "!Response has no JSON form"),
    "file": (io.StringIO("a"), "!StringIO has no JSON form"),
    "cursor": (cursor(), "!Cursor has no JSON form"),
    "sqlalchemy-result": (sqlalchemy_result(), "!IteratorResult has no JSON form"),
    "polars-lazy": (pl.DataFrame({"a": [1]}).lazy(), "!LazyFrame has no JSON form"),
    "pandas-groups": (SALES.groupby("city"), "!DataFrameGroupBy has no JSON form"),
    "frame-with-one-name-twice": (
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        "!a DataFrame with two columns of one name has no JSON form: a, a",
    ),
    "sqlite-one-name-twice": (
        sqlite_rows("select 1 as id, 2 as id")[0],
        "!an object with two keys 'id' has no JSON form",
    ),
    "sqlalchemy-one-name-twice": (
        sqlalchemy_result("select 1 as id, 2 as id").one(),
        "!an object with two keys 'id' has no JSON form",
    ),
    "keys-that-look-alike": ({1: "a", "1": "b"}, "!an object with two keys '1' has no JSON form"),
    "pydantic-holds-an-object": (Holder(inside=object()), "!object has no JSON form"),
    "element": (xml.etree.ElementTree.fromstring("<a>b</a>"), "!Element has no JSON form"),
    "tuple-as-key": ({(1, 2): 3}, "!keys of an object are text, not tuple"),
    "of-numpy-but-no-array": (np.random.default_rng(0), "!Generator has no JSON form"),
    "lock": (threading.Lock(), "!lock has no JSON form"),
    "array-of-another-library": (Tensor(), "[1, 2]"),
    "keys-and-values": (Registry(), '{"a": 1}'),
    "pattern": (re.compile("a"), "!Pattern has no JSON form"),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES)
def test_what_the_model_gets(value: Any, expected: str) -> None:
    if expected.startswith("!"):
        with pytest.raises(TypeError) as caught:
            to_json_value(value)
        assert str(caught.value) == expected[1:]
    else:
        assert json.dumps(to_json_value(value), ensure_ascii=False) == expected


def test_the_table_is_a_table() -> None:
    assert len(VALUES) >= 100


EXACT: dict[str, tuple[str, Any]] = {
    "digits": ('{"a": [0.10, 1e2]}', {"a": [decimal.Decimal("0.10"), decimal.Decimal("1e2")]}),
    "integers": ("12345678901234567890123", 12345678901234567890123),
    "byte-order-mark": ("\ufeff1.50", decimal.Decimal("1.50")),
    "line-end-in-a-text": ('["a\nb", 0.10]', ["a\nb", decimal.Decimal("0.10")]),
}


@pytest.mark.parametrize(("text", "expected"), EXACT.values(), ids=EXACT)
def test_all_digits_are_kept(text: str, expected: Any) -> None:
    assert repr(decode_exactly(text)) == repr(expected)


def test_digits_are_only_taken_from_the_text_of_the_value() -> None:
    assert repr(with_digits({"a": 0.1}, '{"a": 0.10}')) == repr({"a": decimal.Decimal("0.10")})
    for text in ("", "no JSON", '{"a": 0.2}', '{"a": 1e999}'):
        value = {"a": 0.1}
        assert with_digits(value, text) is value
