"""Rows of prompts where a cluster has them: each asked once, and kept in Parquet files that other processes read."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import attrs
import pytest
from support.echo import question
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import Client, ConfigurationError, JournalError
from openai_compat.batch.journal import Entry
from openai_compat.batch.parts import Parts, name_of
from openai_compat.integrations.partitions import AskRows
from openai_compat.wire.request import ChatRequest

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    busy = iter([True])

    def reply(request: Request) -> Reply:
        asked = question(request)
        if asked == "q1" or (asked == "q2" and next(busy, False)):
            return error_reply(400 if asked == "q1" else 503, "no")
        return chat_reply(f"re: {asked}")

    with ReplayServer(reply) as server:
        yield server


@pytest.fixture
def client(server: ReplayServer) -> Client:
    return Client(f"{server.url}/v1", model="m", max_retries=0)


def test_rows_are_asked_once_wherever_they_come_again(
    server: ReplayServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pandas.DataFrame({"prompt": ["q0", "q1", "q2", "q0", None], "other": range(5)}, index=list("abcde"))
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(AskRows(client, "prompt", into="said", parts="parts", part_size=2, workers=1))
    monkeypatch.chdir("/")
    answers = pickle.loads(sent)(rows)
    assert list(answers.columns) == ["prompt", "other", "said", "error"]
    assert list(answers.index) == list("abcde")
    assert answers["said"].fillna("-").tolist() == ["re: q0", "-", "-", "re: q0", "-"]
    assert answers["error"].str.partition(":")[0].fillna("-").tolist() == [
        *("-", "BadRequestError", "InternalServerError", "-", "-"),
    ]
    # What may succeed now is asked again, and nothing else.
    again = pickle.loads(sent)(rows)
    assert again["said"].fillna("-").tolist() == ["re: q0", "-", "re: q2", "re: q0", "-"]
    assert Counter(map(question, server.requests)) == {"q0": 1, "q1": 1, "q2": 2}
    # The later of two rows of a request counts.
    once_more = pickle.loads(sent)(rows)
    assert once_more["said"].fillna("-").tolist() == ["re: q0", "-", "re: q2", "re: q0", "-"]
    assert len(server.requests) == 4


def test_a_process_keeps_its_client_from_one_partition_to_the_next(server: ReplayServer, client: Client) -> None:
    sent = pickle.dumps(AskRows(client, "prompt", workers=1))
    for number in range(3):
        pickle.loads(sent)(pandas.DataFrame({"prompt": ["q3", f"q{4 + number}"]}))
    assert (len(server.requests), server.connections) == (6, 1)


@attrs.frozen
class City:
    name: str
    size: int
    rivers: list[str]


@pytest.mark.parametrize(
    ("response_type", "types"),
    [
        (None, {"answer": "string", "error": "string"}),
        (int, {"answer": "Int64", "error": "string"}),
        (City, {"name": "string", "size": "Int64", "rivers": "object", "error": "string"}),
    ],
)
def test_the_types_of_columns_do_not_depend_on_the_rows(response_type: Any, types: dict[str, str]) -> None:
    def reply(request: Request) -> Reply:
        asked = question(request)
        if asked == "In bad?":
            return error_reply(400, "no")
        return chat_reply(json.dumps(3 if response_type is int else {"name": asked, "size": 3, "rivers": ["r"]}))

    with ReplayServer(reply) as server:
        asking = Client(f"{server.url}/v1", model="m", max_retries=0)
        ask = AskRows(asking, template="In {city}?", response_type=response_type)
        for cities in (["Rome", "bad"], ["Rome"], ["bad"], [None], []):
            answers = ask(pandas.DataFrame({"city": pandas.Series(cities, dtype=object)}))
            assert dict(answers.dtypes.astype(str)) == {"city": "object", **types}


def test_no_rows_ask_nothing_and_write_nothing(client: Client, server: ReplayServer, tmp_path: Path) -> None:
    none = pandas.DataFrame({"prompt": pandas.Series([], dtype=str)})
    assert list(AskRows(client, "prompt", parts=tmp_path / "parts")(none).columns) == ["prompt", "answer", "error"]
    assert not (tmp_path / "parts").exists()
    assert not server.requests


def test_a_key_that_may_not_be_in_a_pickle_is_told_at_once(server: ReplayServer) -> None:
    with pytest.raises(ConfigurationError, match="pickle_key=True"):
        AskRows(Client(f"{server.url}/v1", "sk-clear", model="m"), "prompt")


# ---------------------------------------------------------------------------------------------------------- parts


def entry(number: int) -> Entry:
    return Entry(key=b"%d" % number, status="answered", text=str(number), response=b"{}", retryable=True)


def test_parts_say_what_was_written(tmp_path: Path) -> None:
    with Parts(tmp_path, "a", size=2) as parts:
        parts.add(entry(1))
        assert not list(tmp_path.glob("*/*"))
        parts.add(entry(2), entry(3))
        parts.add(entry(4))
    assert len(list(tmp_path.glob("part=a/*.parquet"))) == 2
    again = Parts(tmp_path, "a", size=2)
    assert [again.get(b"%d" % number) for number in range(1, 5)] == [
        attrs.evolve(entry(number), finished_at=ANY) for number in range(1, 5)
    ]
    assert again.get(b"5") is None
    assert Parts(tmp_path, "b", size=2).get(b"1") is None


def test_of_two_rows_the_answer_counts_then_the_later(tmp_path: Path) -> None:
    for status, at, text in [
        ("failed", 1.0, "1"),
        ("answered", 3.0, "3"),
        ("answered", 2.0, "2"),
        ("failed", 4.0, "4"),
    ]:
        with Parts(tmp_path, "a", size=1) as parts:
            parts.add(attrs.evolve(entry(1), status=status, finished_at=at, text=text))
    found = Parts(tmp_path, "a", size=1).get(b"1")
    assert found is not None
    assert found.text == "3"


def test_what_is_no_part_of_this_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Parts(tmp_path, "a", size=1) as parts:
        parts.add(entry(1))
    with monkeypatch.context() as later:
        later.setattr("openai_compat.batch.parts.FORMAT", "2")
        with pytest.raises(JournalError, match="not written by this version"):
            Parts(tmp_path, "a", size=1)
    (tmp_path / "part=a" / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(JournalError, match="cannot be read"):
        Parts(tmp_path, "a", size=1)


def test_a_part_that_cannot_be_written(tmp_path: Path) -> None:
    parts = Parts(tmp_path, "a", size=1)
    shutil.rmtree(tmp_path / "part=a")
    with pytest.raises(JournalError, match="could not be written"):
        parts.add(entry(1))


def test_a_part_is_known_by_its_requests(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
    given = [["a", "b"], ["b", "a"], ["ab"], [("a", "b")], [ChatRequest("a")], [ChatRequest("a", max_tokens=3)]]
    assert len({name_of(requests) for requests in given}) == len(given)
    one, other = (ChatRequest("a", images=[tmp_path / "cat.png"]) for _ in range(2))
    assert name_of([one]) == name_of([other])
