"""Columns of pandas and Polars: answers, typed columns, vectors; what is missing, what comes twice, what fails."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pydantic
import pytest
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import BadRequestError, Client, ConfigurationError
from openai_compat.integrations.frames import embed_column, map_column


def question(request: Request) -> str:
    text: str = request.json()["messages"][-1]["content"]
    return text


def reply(request: Request) -> Reply:
    if request.path.endswith("/embeddings"):
        texts = request.json()["input"]
        if "bad" in texts:
            return error_reply(400, "not this one")
        data = [{"index": place, "embedding": [len(text), 0.5]} for place, text in enumerate(texts)]
        return Reply(headers=JSON, body=json.dumps({"data": data}).encode())
    if "bad" in question(request):
        return error_reply(400, "not this one")
    return chat_reply(f"re: {question(request)}")


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(reply) as server:
        yield server


@pytest.fixture
def client(server: ReplayServer) -> Client:
    return Client(f"{server.url}/v1", model="m", max_retries=0)


def asked(server: ReplayServer) -> Counter[str]:
    return Counter(question(request) for request in server.requests)


def embedded(server: ReplayServer) -> Counter[str]:
    return Counter(text for request in server.requests for text in request.json()["input"])


TEXTS = ["a", None, "b", "a"]
COLUMNS = {
    "pandas": pd.Series(TEXTS, index=[7, 7, 3, 1], name="text"),
    "pandas-object": pd.Series(TEXTS, index=[7, 7, 3, 1], name="text", dtype=object),
    "pandas-string": pd.Series(TEXTS, index=list("wxyz"), name="text", dtype="string"),
    "polars": pl.Series("text", TEXTS),
}


def values(column: Any) -> list[Any]:
    """As Python's, with None where a value is missing."""
    if isinstance(column, pl.Series):
        return [cell.to_list() if isinstance(cell, pl.Series) else cell for cell in column]
    return [None if missing else cell for cell, missing in zip(column, column.isna(), strict=True)]


def same_rows(column: Any, given: Any) -> bool:
    return isinstance(column, pl.Series | pl.DataFrame) or column.index.equals(given.index)


@pytest.mark.parametrize("given", COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_answers(server: ReplayServer, client: Client, given: Any) -> None:
    answers = map_column(client, given)
    assert type(answers) is type(given)
    assert (answers.name, values(answers)) == ("text", ["re: a", None, "re: b", "re: a"])
    assert same_rows(answers, given)
    assert asked(server) == Counter(["a", "b"])
    if given.dtype != object:
        assert answers.dtype == given.dtype


@pytest.mark.parametrize("given", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("template", ["Say {text}.", "Say {}."])
def test_a_template_of_a_series(server: ReplayServer, client: Client, given: Any, template: str) -> None:
    assert values(map_column(client, given, template=template)) == ["re: Say a.", None, "re: Say b.", "re: Say a."]
    assert asked(server) == Counter(["Say a.", "Say b."])


FRAME = {"city": ["Rome", "Oslo", None, "Rome"], "year": [1960, 1952, 1964, 1960], "note": [None, "x", "y", "z"]}


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(FRAME, index=[5, 5, 6, 7]), pl.DataFrame(FRAME)], ids=["pandas", "polars"]
)
def test_a_template_of_several_columns(server: ReplayServer, client: Client, frame: Any) -> None:
    answers = map_column(client, frame, template="{city} in {year:d}", max_tokens=4)
    assert values(answers) == ["re: Rome in 1960", "re: Oslo in 1952", None, "re: Rome in 1960"]
    assert same_rows(answers, frame)
    assert asked(server) == Counter(["Rome in 1960", "Oslo in 1952"])
    assert all(request.json()["max_tokens"] == 4 for request in server.requests)


@attrs.frozen
class AttrsCity:
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


@dataclasses.dataclass
class DataclassCity:
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


class StructCity(msgspec.Struct):
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


class PydanticCity(pydantic.BaseModel):
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


class DictCity(TypedDict):
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


class TupleCity(NamedTuple):
    name: str
    people: int
    coast: bool | None
    area: float
    tags: list[str]


CITY_TYPES = [AttrsCity, DataclassCity, StructCity, PydanticCity, DictCity, TupleCity]
CITY = {"people": 2**40, "coast": True, "area": 1.5, "tags": ["x", "y"]}
TYPED = {"pandas": ("Int64", "boolean", "float64"), "polars": (pl.Int64, pl.Boolean, pl.Float64)}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("kind", CITY_TYPES, ids=lambda kind: kind.__name__)
def test_typed_columns(library: str, kind: type) -> None:
    given: Any = COLUMNS[library]

    def city(request: Request) -> Reply:
        told = {"name": question(request), **CITY}
        return chat_reply(json.dumps({"value": list(told.values())} if kind is TupleCity else told))

    with ReplayServer(city) as server:
        frame = map_column(Client(f"{server.url}/v1", model="m"), given, response_type=kind)
        assert len(server.requests) == 2
    assert type(frame) is (pd.DataFrame if library == "pandas" else pl.DataFrame)
    assert list(frame.columns) == ["name", *CITY]
    assert values(frame["name"]) == ["a", None, "b", "a"]
    for name, value in CITY.items():
        assert values(frame[name]) == [value, None, value, value]
    assert [frame[name].dtype for name in ("people", "coast", "area")] == list(TYPED[library])
    assert same_rows(frame, given)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(
    ("kind", "told", "dtypes"),
    [
        (int, 7, {"pandas": "Int64", "polars": pl.Int64}),
        (bool, True, {"pandas": "boolean", "polars": pl.Boolean}),
        (Literal["x", "y"], "x", {"polars": pl.String}),
        (list[str], ["x"], {"pandas": object, "polars": pl.List(pl.String)}),
        (int, 2**70, {"pandas": object, "polars": pl.Object}),
    ],
    ids=["int", "bool", "Literal", "list", "large"],
)
def test_typed_values(library: str, kind: Any, told: Any, dtypes: dict[str, Any]) -> None:
    given: Any = COLUMNS[library]
    with ReplayServer([chat_reply(json.dumps({"value": told}))]) as server:
        client = Client(f"{server.url}/v1", model="m")
        column = map_column(client, given, response_type=kind)
    assert values(column) == [told, None, told, told]
    assert library not in dtypes or column.dtype == dtypes[library]
    assert column.name == "text"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_what_failed_is_missing_and_told(server: ReplayServer, client: Client, library: str) -> None:
    given: Any = pd.Series(["a", "bad", None, "bad"]) if library == "pandas" else pl.Series(["a", "bad", None, "bad"])
    with pytest.warns(RuntimeWarning, match="2 of 4 rows failed and are missing, the first with BadRequestError"):
        assert values(map_column(client, given)) == ["re: a", None, None, None]
    frame = map_column(client, given, with_errors=True)
    assert list(frame.columns) == ["answer", "error"]
    assert values(frame["answer"]) == ["re: a", None, None, None]
    errors = values(frame["error"])
    assert [error and error.partition(":")[0] for error in errors] == [None, "BadRequestError", None, "BadRequestError"]
    assert asked(server) == Counter({"a": 2, "bad": 2})
    with pytest.raises(BadRequestError):
        map_column(client, given, on_error="raise")


def test_columns_whose_names_are_numbers(server: ReplayServer, client: Client) -> None:
    frame = pd.DataFrame([["cat", "tree"], ["cow", "barn"]])
    asked = map_column(client, frame, template="{0} in {1}")
    assert asked.tolist() == ["re: cat in tree", "re: cow in barn"]


def test_a_column_that_is_there_twice_is_told(server: ReplayServer, client: Client) -> None:
    frame = pd.DataFrame([["cat", "tree", "dog"]], columns=["a", "b", "a"])
    assert map_column(client, frame, template="{b}").tolist() == ["re: tree"]
    with pytest.raises(ConfigurationError, match="two columns are named 'a'"):
        map_column(client, frame, template="{a}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("library", [pd, pl])
@pytest.mark.parametrize("with_errors", [True, False])
def test_half_a_character_costs_no_column(library: Any, with_errors: bool) -> None:
    with ReplayServer([chat_reply("caf\ud800")]) as server:
        asking = Client(f"{server.url}/v1", model="m", max_retries=0)
        given = library.Series(["a", "b"])
        answers = map_column(asking, given, with_errors=with_errors)
    column = answers["answer"] if with_errors else answers
    assert column.to_list() == ["caf\ufffd", "caf\ufffd"]
    assert column.dtype == (pl.String if library is pl else pd.Series(["a"]).dtype)


def test_nothing_to_ask(server: ReplayServer, client: Client) -> None:
    for given in (pd.Series([], dtype=object), pd.Series([None, None], dtype=object), pl.Series("x", [None, None])):
        for column in (map_column(client, given), embed_column(client, given)):
            assert values(column) == [None] * len(given)
    assert embed_column(client, pl.Series("x", [None]), dimensions=2).dtype == pl.Array(pl.Float32, 2)
    assert server.requests == []


def test_a_journal_goes_on(server: ReplayServer, client: Client, tmp_path: Path) -> None:
    given = COLUMNS["pandas"]
    for _ in range(2):
        assert values(map_column(client, given, journal=tmp_path / "j.db")) == ["re: a", None, "re: b", "re: a"]
    assert asked(server) == Counter(["a", "b"])


@attrs.frozen
class HasError:
    error: str


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (["a"], {}, "a Series or DataFrame of pandas or Polars"),
        (pd.DataFrame({"a": ["x"]}), {}, "a template says"),
        (pl.DataFrame({"a": ["x"]}), {"template": "{b}"}, "must name columns: a"),
        (pd.Series(["x"], name="a"), {"template": "no column"}, "must name columns: a"),
        (pd.Series(["x"], name="a"), {"template": "{a"}, "is none"),
        (pd.Series(["x"], name="a"), {"template": "{a:d}"}, "does not fit row 0"),
        (pd.Series([None, 7], name="a", dtype=object), {}, "row 1 is int, not a string"),
        (pl.Series([7]), {}, "row 0 is int, not a string"),
        (pd.Series(["x"]), {"response_type": HasError, "with_errors": True}, "a field error of its own"),
    ],
)
def test_bad_input(server: ReplayServer, client: Client, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        map_column(client, given, **options)
    assert server.requests == []


# ------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("given", COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_vectors(server: ReplayServer, client: Client, given: Any) -> None:
    column = embed_column(client, given, batch_size=1)
    assert type(column) is type(given)
    assert column.name == "text"
    assert same_rows(column, given)
    found = [None if vector is None else list(vector) for vector in values(column)]
    assert found == [[1.0, 0.5], None, [1.0, 0.5], [1.0, 0.5]]
    if isinstance(column, pl.Series):
        assert column.dtype == pl.Array(pl.Float32, 2)
    else:
        assert np.stack(column.dropna()).dtype == np.float32
    assert embedded(server) == Counter(["a", "b"])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_text_that_has_no_vector(server: ReplayServer, client: Client, library: Any) -> None:
    given = library.Series(["a", "bad", "", None, "bad", "ccc"])
    with pytest.warns(RuntimeWarning, match="2 of 6 rows failed"):
        column = embed_column(client, given)
    assert [None if vector is None else vector[0] for vector in values(column)] == [1.0, None, None, None, None, 3.0]
    frame = embed_column(client, given, with_errors=True)
    assert list(frame.columns) == ["embedding", "error"]
    assert [error is None for error in values(frame["error"])] == [True, False, True, True, False, True]
    alone = embed_column(client, library.Series(["bad"]), with_errors=True)
    assert values(alone["embedding"]) == [None]
    assert "BadRequestError" in values(alone["error"])[0]
    with pytest.raises(BadRequestError):
        embed_column(client, given, on_error="raise")
