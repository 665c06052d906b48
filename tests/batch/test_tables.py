"""Rows of CSV, JSONL and Parquet files through ``map_file``, and journals as tables."""

from __future__ import annotations

import csv
import datetime
import json
import os
import resource
import struct
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import Client, ConfigurationError, Journal
from openai_compat.batch import tables
from openai_compat.batch.journal import Entry
from openai_compat.batch.tables import parquet_schema, read_rows, writing_rows

pyarrow = pytest.importorskip("pyarrow", minversion="15")
parquet = pytest.importorskip("pyarrow.parquet")


def serve(request: Request) -> Reply:
    asked = request.json()["messages"][-1]["content"]
    return error_reply(400, "not this") if asked == "bad" else chat_reply(f"re: {asked}")


def client(server: ReplayServer) -> Client:
    return Client(f"{server.url}/v1", model="m", max_retries=0)


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(read_rows(path))


def test_a_parquet_file_keeps_its_columns_and_gets_the_answers(tmp_path: Path) -> None:
    when = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (1, 2, 3)]
    columns = {
        "word": pyarrow.array(["sun", "bad", "moon"], pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        "n": pyarrow.array([1, None, 3], pyarrow.int8()),
        "when": pyarrow.array(when, pyarrow.timestamp("ns", "UTC")),
        "tags": [["a"], [], None],
    }
    source = write_parquet(tmp_path / "in.parquet", columns, row_group_size=2)
    with ReplayServer(serve) as server:
        summary = client(server).map_file(source, tmp_path / "out.parquet", template="{word}", workers=2)
        again = client(server).map_file(source, tmp_path / "out.parquet", template="{word}", retry_failed=False)
        assert len(server.requests) == 3
    assert (summary.answered, summary.failed, again.from_journal) == (2, 1, 3)
    found = parquet.read_table(tmp_path / "out.parquet")
    before = parquet.read_schema(source)
    assert found.schema.names == ["word", "n", "when", "tags", "answer", "error"]
    assert [found.schema.field(name).type for name in before.names] == [
        before.field(name).type for name in before.names
    ]
    assert found["when"].to_pylist() == when
    assert found["tags"].to_pylist() == [["a"], [], None]
    assert found["answer"].to_pylist() == ["re: sun", None, "re: moon"]
    assert found["error"].to_pylist()[1].startswith("BadRequestError: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "out.parquet.journal"]


def test_times_of_nanoseconds_become_json(tmp_path: Path) -> None:
    columns = {
        "word": ["sun"],
        "when": pyarrow.array([1_700_000_000_000_000_000], pyarrow.timestamp("ns")),
        "lasts": pyarrow.array([5_000_000_000], pyarrow.duration("ns")),
        "bytes": [b"ab"],
    }
    source = write_parquet(tmp_path / "in.parquet", columns)
    with ReplayServer(serve) as server:
        client(server).map_file(source, tmp_path / "out.jsonl", template="{word}")
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["word"], row["when"], row["answer"]) == ("sun", "2023-11-14T22:13:20", "re: sun")


def test_a_parquet_column_that_is_there_twice_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    both = pyarrow.Table.from_arrays([pyarrow.array(["sun"]), pyarrow.array(["moon"])], names=["word", "word"])
    parquet.write_table(both, tmp_path / "in.parquet")
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match="two columns are named 'word'"):
            client(server).map_file(tmp_path / "in.parquet", tmp_path / "out.csv", template="{word}")
        assert not server.requests


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("source", ["in.csv", "in.jsonl", "in.parquet"])
def test_each_kind_becomes_each(tmp_path: Path, source: str, output: str) -> None:
    path = tmp_path / source
    if source == "in.csv":
        path.write_text("word,answer\nsun,old\nmoon,\n")
    elif source == "in.jsonl":
        path.write_text('{"word": "sun", "answer": 1}\n{"word": "moon", "more": {"x": [1]}}\n')
    else:
        write_parquet(path, {"word": ["sun", "moon"], "answer": [1, 2]})
    with ReplayServer(serve) as server:
        client(server).map_file(path, tmp_path / output, template="{word}")
    found = rows_of(tmp_path / output)
    assert [(row["word"], row["answer"], row["error"] or None) for row in found] == [
        ("sun", "re: sun", None),
        ("moon", "re: moon", None),
    ]
    if source == "in.jsonl" and output != "out.csv":
        assert found[1]["more"] == {"x": [1]}


def test_a_jsonl_file_whose_columns_no_parquet_file_can_hold_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"word": "sun"}\n{"word": {"of": 1}}\n')
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match="has no columns that Parquet can hold"):
            client(server).map_file(source, tmp_path / "out.parquet", template="{word}")
        assert server.requests == []
    assert not (tmp_path / "out.parquet").exists()


def test_types_are_those_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "READ_ROWS", 2)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"{json.dumps({'n': value})}\n" for value in [None, None, 1, None, 2.5, 3]))
    assert parquet_schema(source, {"answer": "string"}) == pyarrow.schema(
        [("n", pyarrow.float64()), ("answer", pyarrow.string())]
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.parquet", b"no parquet at all", "is no Parquet file"),
        ("in.parquet", b"", "is no Parquet file"),
        ("in.xlsx", b"", r"a \.csv, \.jsonl or \.parquet file is wanted"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        rows_of(tmp_path / name)


def test_an_output_of_another_kind_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("word\nsun\n")
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match=r"out\.xlsx: a \.csv, \.jsonl or \.parquet"):
            client(server).map_file(tmp_path / "in.csv", tmp_path / "out.xlsx", template="{word}")
        assert server.requests == []


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'openai-compat\[parquet\]'"):
        rows_of(tmp_path / "in.parquet")


def test_rows_are_written_in_groups_and_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "GROUP_ROWS", 100)
    path = tmp_path / "t.parquet"
    schema = pyarrow.schema([("n", pyarrow.int64())])
    with writing_rows(path, (), lambda: schema) as write:
        for number in range(250):
            write({"n": number})
        assert not path.exists()
    file = parquet.ParquetFile(path)
    assert [file.metadata.row_group(index).num_rows for index in range(3)] == [100, 100, 50]
    assert [row["n"] for row in read_rows(path)] == list(range(250))


def test_a_row_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    schema = pyarrow.schema([("n", pyarrow.int64())])
    with (
        pytest.raises(ConfigurationError, match="do not fit the columns"),
        writing_rows(tmp_path / "t.parquet", (), lambda: schema) as write,
    ):
        write({"n": "text"})
    assert list(tmp_path.iterdir()) == []


# Journals

ENTRIES = [
    Entry(
        key=bytes(16),
        custom_id="a",
        model="m",
        provider="p",
        server="http://s/v1",
        status="answered",
        text='say "hi",\nü',
        finish_reason="stop",
        input_tokens=3,
        output_tokens=2,
        attempts=2,
        seconds=0.5,
        finished_at=100.0,
        request='{"model":"m"}',
        response=b'{"choices":[]}',
    ),
    Entry(
        key=b"1" * 16,
        status="failed",
        error="RateLimitError: slow",
        retryable=True,
        finished_at=101.0,
        response=b'{"class":"RateLimitError","message":"slow"}',
    ),
    Entry(key=b"2" * 16, status="answered", input_tokens=1, finished_at=102.0, response=struct.pack("<2f", 0.5, -1.0)),
]
DEFAULT = [
    *("custom_id", "model", "provider", "server", "status", "text", "finish_reason", "input_tokens", "output_tokens"),
    *("error", "retryable", "attempts", "seconds", "finished_at"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with Journal(tmp_path / "j.db") as made:
        made.add(*ENTRIES)
        yield made


def test_a_journal_as_jsonl(journal: Journal, tmp_path: Path) -> None:
    assert journal.export(tmp_path / "j.jsonl") == 3
    first, second, third = rows_of(tmp_path / "j.jsonl")
    assert list(first) == DEFAULT
    assert (first["text"], first["server"], first["retryable"]) == ('say "hi",\nü', "http://s/v1", None)
    assert (second["error"], second["retryable"], third["text"]) == ("RateLimitError: slow", True, None)
    assert journal.export(tmp_path / "j.jsonl", ["key", "request", "response", "embedding"]) == 3
    assert rows_of(tmp_path / "j.jsonl") == [
        {"key": "00" * 16, "request": {"model": "m"}, "response": {"choices": []}, "embedding": None},
        {
            "key": "31" * 16,
            "request": None,
            "response": {"class": "RateLimitError", "message": "slow"},
            "embedding": None,
        },
        {"key": "32" * 16, "request": None, "response": None, "embedding": [0.5, -1.0]},
    ]


def test_a_journal_as_csv(journal: Journal, tmp_path: Path) -> None:
    journal.export(str(tmp_path / "j.csv"), ["text", "retryable", "response", "embedding"])
    with open(tmp_path / "j.csv", newline="", encoding="utf-8") as lines:
        assert list(csv.reader(lines)) == [
            ["text", "retryable", "response", "embedding"],
            ['say "hi",\nü', "", '{"choices":[]}', ""],
            ["", "True", '{"class":"RateLimitError","message":"slow"}', ""],
            ["", "", "", "[0.5,-1.0]"],
        ]


def test_a_journal_as_parquet(journal: Journal, tmp_path: Path) -> None:
    journal.export(tmp_path / "j.parquet")
    assert parquet.read_schema(tmp_path / "j.parquet").names == DEFAULT
    journal.export(tmp_path / "j.parquet", ["text", "retryable", "input_tokens", "response", "embedding"])
    found = parquet.read_table(tmp_path / "j.parquet")
    assert [str(field.type) for field in found.schema] == [
        *("string", "bool", "int64", "string", "list<element: float>"),
    ]
    assert found["retryable"].to_pylist() == [None, True, None]
    assert found["embedding"].to_pylist() == [None, None, [0.5, -1.0]]
    assert found["response"].to_pylist()[0] == '{"choices":[]}'


@pytest.mark.parametrize("columns", [[], ["text", "nothing"], "text"])
def test_columns_that_a_journal_does_not_have(journal: Journal, tmp_path: Path, columns: Any) -> None:
    with pytest.raises(ConfigurationError, match="no columns of a journal"):
        journal.export(tmp_path / "j.csv", columns)
    assert not (tmp_path / "j.csv").exists()


@pytest.mark.parametrize("name", ["j.csv", "j.jsonl", "j.parquet"])
def test_an_export_that_fails_leaves_the_last_one_and_the_journal(journal: Journal, tmp_path: Path, name: str) -> None:
    journal.export(tmp_path / name, ["text"])
    before = (tmp_path / name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal.add(*(Entry(key=os.urandom(16), status="answered", text=os.urandom(2000).hex()) for _ in range(200)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # what a full disk says in other words
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.export(tmp_path / name, ["text"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*")) == sorted(["j.db", "j.db-shm", "j.db-wal", name])
    assert journal.export(tmp_path / name, ["text"]) == 203


@pytest.mark.parametrize("name", ["j.jsonl", "j.parquet"])
def test_an_export_never_holds_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tables, "GROUP_ROWS", 100)
    with Journal(tmp_path / "j.db") as journal:
        for start in range(0, 6000, 1000):
            journal.add(
                *(
                    Entry(key=number.to_bytes(16, "big"), status="answered", text="x" * 1000)
                    for number in range(start, start + 1000)
                )
            )
        tracemalloc.start()
        try:
            assert journal.export(tmp_path / name, ["text"]) == 6000
            assert tracemalloc.get_traced_memory()[1] < 2_000_000  # of 6 MB
        finally:
            tracemalloc.stop()


@settings(max_examples=15)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_survives(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        with Journal(Path(folder) / "j.db") as journal:
            journal.add(*(Entry(key=os.urandom(16), status="answered", text=text) for text in texts))
            for name in ("t.jsonl", "t.parquet"):
                journal.export(Path(folder) / name, ["text"])
                assert [row["text"] for row in read_rows(Path(folder) / name)] == texts
