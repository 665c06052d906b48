"""The journal: what it keeps, what it refuses, and many writers."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.echo import client
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, tool_call

from openai_compat import APIError, APITimeoutError, Client, Journal, JournalError, RateLimitError, ToolError
from openai_compat.batch import journal as module
from openai_compat.batch.journal import Entry, request_key
from openai_compat.batch.stored import failed, restored_error

KEY = b"k" * 16


def entry(number: int = 0, **fields: Any) -> Entry:
    return Entry(key=number.to_bytes(16, "big"), status="answered", response=b"{}", **fields)


def test_what_is_added_is_there_in_its_order(tmp_path: Path) -> None:
    added = [entry(number, custom_id=f"row-{number}", text="é\u2028\0", seconds=0.5) for number in range(1200)]
    with Journal(tmp_path / "j.db") as journal:
        for each in added:
            journal.add(each)
        assert list(journal) == added
        assert journal.get(added[7].key) == added[7]
        assert journal.get(KEY) is None
        assert len(journal) == 1200
    with Journal(str(tmp_path / "j.db")) as journal:
        assert list(journal) == added


def test_what_is_added_is_in_the_file_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        journal.add(entry(text="here"))
        with sqlite3.connect(tmp_path / "j.db") as other:
            assert other.execute("SELECT text FROM answers").fetchall() == [("here",)]
        other.close()


def test_the_first_answer_stays_and_a_failure_gives_way(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        for status, text in [("failed", "1"), ("failed", "2"), ("answered", "3"), ("answered", "4"), ("failed", "5")]:
            journal.add(Entry(key=KEY, status=status, text=text))
        found = journal.get(KEY)
        assert found is not None
        assert (found.status, found.text, len(journal)) == ("answered", "3", 1)


def test_what_is_added_is_found_whoever_added_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the journal was opened, through it, or through another one."""
    monkeypatch.setattr(module, "_LOOK", 0.0)
    with Journal(tmp_path / "j.db") as other:
        other.add(*map(entry, range(0, 2000, 2)))
        with Journal(tmp_path / "j.db") as journal:
            for number in range(20):
                assert (journal.find(entry(number).key) is None) == (number % 2 == 1)
            journal.add(entry(3), entry(5))
            other.add(entry(1), entry(7))
            journal.add(entry(9))
            other.add(entry(11))
            found = [number for number in range(20) if journal.find(entry(number).key) is not None]
    assert found == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18]


@given(st.lists(st.binary(min_size=16, max_size=16)), st.binary(min_size=16, max_size=16))
def test_no_key_that_was_seen_is_taken_for_a_new_one(keys: list[bytes], other: bytes) -> None:
    seen = bytearray(2**21)
    for key in keys:
        module._see(seen, key)
    for key in (*keys, other):
        place, bit = module._place(key)
        assert bool(seen[place] & bit) == (key[:3] in {each[:3] for each in keys})


def test_many_rows_at_once_and_one_of_them_twice(tmp_path: Path) -> None:
    rows = [entry(number, text=str(number)) for number in range(100)]
    with Journal(tmp_path / "j.db") as journal:
        journal.add(*rows, entry(7, text="again"))
        journal.add()
        assert list(journal) == rows


def test_many_threads_write_at_once(tmp_path: Path) -> None:
    numbers = itertools.count()
    with Journal(tmp_path / "j.db") as journal:

        def write() -> None:
            for _ in range(50):
                number = next(numbers)
                journal.add(entry(number))
                assert journal.get(number.to_bytes(16, "big")) is not None

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert journal.counts() == {"answered": 400, "failed": 0}


def made(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    Journal(path).close()
    made(path, "UPDATE journal SET value = '3' WHERE name = 'format'")
    with pytest.raises(JournalError, match=r"has format 3; this version of openai_compat reads format 2"):
        Journal(path)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT value FROM journal").fetchall() == [("3",)]
    database.close()


FORMAT_1 = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE journal (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE answers (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, custom_id TEXT, model TEXT, "
    "status TEXT NOT NULL CHECK (status IN ('answered', 'failed')), text TEXT, finish_reason TEXT, "
    "input_tokens INTEGER, output_tokens INTEGER, error TEXT, retryable INTEGER, attempts INTEGER NOT NULL, "
    "seconds REAL NOT NULL, finished_at REAL NOT NULL, request TEXT, response BLOB)",
    "INSERT INTO journal VALUES ('format', '1')",
    "INSERT INTO answers VALUES "
    "(1, x'00000000000000000000000000000007', 'seven', 'm', 'answered', 'hi', 'stop', 3, 2, NULL, NULL, 1, 0.5, "
    "100.0, '{}', x'7b7d')",
)
"""What the first version made."""


def test_a_journal_of_the_first_format_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    made(path, *FORMAT_1)
    old = entry(7, custom_id="seven", model="m", text="hi", finish_reason="stop", input_tokens=3, output_tokens=2)
    with Journal(path) as journal, Journal(path) as again:
        old = attrs.evolve(old, seconds=0.5, finished_at=100.0, request="{}")
        new = entry(8, provider="openai", server="https://api.openai.com/v1")
        journal.add(new)
        assert list(again) == [old, new]
        assert journal._read("SELECT value FROM journal WHERE name = 'format'") == [("2",)]


class Busy(sqlite3.Connection):
    """As where another connection turns the same new file at the same moment: SQLite refuses one without waiting."""

    refused = 0

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and Busy.refused < 3:
            Busy.refused += 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(sql, *args)


def test_a_new_file_that_another_process_turns_as_well_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Busy, **options))
    with Journal(tmp_path / "j.db") as journal:
        assert journal.counts() == {"answered": 0, "failed": 0}
    assert Busy.refused == 3


def test_many_processes_make_or_bring_up_one_journal(tmp_path: Path) -> None:
    """As many connections, begun at once: each finds a whole journal, or makes it."""
    for number in range(10):
        path = tmp_path / f"{number}.db"
        if number % 2:
            made(path, *FORMAT_1)
        start = threading.Barrier(4)

        def opened(path: Path, start: threading.Barrier) -> int:
            start.wait(10)
            with Journal(path) as journal:
                return len(journal)

        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(opened, path, start) for _ in range(4)]
            assert [each.result(30) for each in found] == [number % 2] * 4


def test_a_bringing_up_that_fails_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.db"
    made(path, *FORMAT_1)
    steps = module._STEPS["1"]
    monkeypatch.setitem(module._STEPS, "1", steps + "UPDATE no_such_table SET x = 1;")
    with pytest.raises(JournalError, match="no such table"):
        Journal(path)
    monkeypatch.setitem(module._STEPS, "1", steps)
    with Journal(path) as journal:
        assert len(journal) == 1


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        journal.add(entry(1))
        journal._writer.execute("PRAGMA max_page_count = 1")  # no smaller than the file is: the next page is refused
        with pytest.raises(JournalError, match="database or disk is full; what was written before stays"):
            journal.add(*(entry(number, text="x" * 4000) for number in range(2, 9)))
        with pytest.raises(JournalError, match="full"):
            journal.add(entry(1000))
        assert len(journal) == 1
    with Journal(tmp_path / "j.db") as journal:
        assert list(journal) == [entry(1, finished_at=next(iter(journal)).finished_at)]


@pytest.mark.parametrize("where", ["custom_id", "model", "finish_reason", "content"])
def test_half_a_character_costs_no_answers(tmp_path: Path, where: str) -> None:
    words = {"model": "m", "finish_reason": "stop", "content": "hi", "custom_id": "a", where: "caf\ud800s"}
    choice = {"index": 0, "message": {"content": words["content"]}, "finish_reason": words["finish_reason"]}
    body = {"model": words["model"], "choices": [choice]}
    with ReplayServer([Reply(headers=JSON, body=json.dumps(body).encode())]) as server:
        client = Client(f"{server.url}/v1", model="m", max_retries=0)
        for _ in range(2):
            (result,) = client.map([(words["custom_id"], "hi")], journal=tmp_path / "j.db")
            assert result.ok
            assert result.custom_id == words["custom_id"]
        assert len(server.requests) == 1


def test_another_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    made(path, "CREATE TABLE mine (x)")
    with pytest.raises(JournalError, match="is an SQLite file, but no journal"):
        Journal(path)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    database.close()


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, which are longer than a header of SQLite's\n" * 40)
    with pytest.raises(JournalError, match="not a database"):
        Journal(path)
    assert path.read_text().startswith("my notes")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="unable to open"):
        Journal(tmp_path / "no" / "j.db")


def test_another_process_that_holds_the_lock_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.05)
    with Journal(tmp_path / "j.db") as journal:
        journal.add(entry(1))
        holder = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another process has held its lock"):
            journal.add(entry(2))
        holder.execute("ROLLBACK")
        holder.close()
        with pytest.raises(JournalError, match="another process has held its lock"):
            journal.add(entry(3))
        assert [each.key for each in journal] == [entry(1).key]


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.add(entry())
    with pytest.raises(JournalError, match="closed"):
        journal.get(KEY)


@given(st.tuples(st.none() | st.text(), st.binary()), st.tuples(st.none() | st.text(), st.binary()))
def test_different_requests_have_different_keys(one: tuple[str | None, bytes], other: tuple[str | None, bytes]) -> None:
    same = one[1] == other[1] and (one[0] or "") == (other[0] or "")
    assert (request_key(*one) == request_key(*other)) == same


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down", status_code=429, code="rate", retry_after=3.0, retryable=True, provider="openai"),
        APITimeoutError("no token in 3 s", phase="first_token", retryable=True),
        APIError("broken"),
        ToolError("no such row"),
    ],
)
def test_an_exception_of_ours_comes_back(error: Exception) -> None:
    restored = restored_error(failed(KEY, None, None, error, 1.0))
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert vars(restored) == vars(error)


@pytest.mark.parametrize("error", [LookupError("row 3"), OSError(5, "input/output error")])
def test_an_exception_of_others_comes_back_as_its_words(error: Exception) -> None:
    restored = restored_error(failed(KEY, None, None, error, 1.0))
    assert type(restored) is APIError
    assert str(restored) == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kept", [b"", b"[]", b"{}", b'{"class": "status_error_class", "message": "m"}', b"\xff"])
def test_a_failure_that_somebody_changed_runs_nothing(kept: bytes) -> None:
    changed = Entry(key=KEY, status="failed", response=kept)
    if b"message" in kept:
        assert type(restored_error(changed)) is APIError
    else:
        with pytest.raises(JournalError, match="holds no failure"):
            restored_error(changed)


def test_what_an_exception_of_others_has_under_our_names_may_be_anything(tmp_path: Path) -> None:
    error = ValueError("no")
    vars(error).update(code=object(), status_code=10**30, provider="\ud800", attempts=3, body={1}, retry_after=print)
    with Journal(tmp_path / "j.db") as journal:
        journal.add(failed(KEY, None, None, error, 1.0))
        (kept,) = journal
    assert (kept.error, kept.attempts, kept.provider) == ("ValueError: no", 0, None)


def test_half_a_character_of_a_model_s_is_kept(tmp_path: Path) -> None:
    reply = Reply(headers=JSON, body=b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}')
    with ReplayServer([reply]) as server:
        client = Client(f"{server.url}/v1", model="m")
        texts = [next(client.map(["hi"], journal=tmp_path / "j.db")).text for _ in range(2)]
        assert len(server.requests) == 1
    assert texts == ["a\ud800b"] * 2


def test_what_a_client_learns_of_its_server_makes_no_other_request_of_the_same(tmp_path: Path) -> None:
    missing = "The `reasoning_content` in the thinking mode must be passed back to the API."
    thinking = chat_reply("<think>Add them.</think>", tool_calls=[tool_call("add", "{}")])

    def reply(request: Request) -> Reply:
        messages = request.json()["messages"]
        if len(messages) == 1:
            return thinking
        return chat_reply("3") if "reasoning_content" in messages[1] else error_reply(400, missing)

    with ReplayServer(reply) as server:
        call = client(server).chat("1 + 2?")
        rest = [call.to_message(), {"role": "tool", "tool_call_id": "call_1", "content": "3"}]
        turns = [[{"role": "user", "content": f"{number} + 2?"}, *rest] for number in range(3)]
        for from_journal in (False, True):
            results = list(client(server).map(turns, workers=1, ordered=True, journal=tmp_path / "j.db"))
            assert [(result.text, result.from_journal) for result in results] == [("3", from_journal)] * 3
        assert len(server.requests) == 1 + 1 + 3


def test_what_is_in_the_log_goes_into_the_file_where_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIDY", 50)
    path = tmp_path / "j.db"

    def in_the_file() -> int:
        with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as alone:
            (count,) = alone.execute("SELECT count(*) FROM answers").fetchone()
        alone.close()
        return int(count)

    with Journal(path) as journal:
        journal.add(*map(entry, range(20)))
        journal._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        journal.add(*map(entry, range(20, 49)))
        journal.tidy()
        assert in_the_file() == 20
        journal.add(entry(49))
        journal.tidy()
        assert in_the_file() == 50
        journal.add(entry(50))
        journal.tidy()
        assert in_the_file() == 50
        assert len(journal) == 51
