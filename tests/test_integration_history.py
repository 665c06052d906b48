"""Conversations in an SQLite file."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from openai_compat import ConfigurationError
from openai_compat.integrations._history import SQLiteHistory


def texts(history: SQLiteHistory, owner: str = "ann") -> list[Any]:
    return [message["text"] for message in history.load(owner, 1000)[1]]


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "more": [1, None]} for text in texts]


def test_messages_come_back_in_order_and_each_owner_has_their_own(tmp_path: Path) -> None:
    history = SQLiteHistory(tmp_path / "deep" / "h.sqlite3")
    assert history.load("ann", 1000) == ("", [])
    history.add("ann", "", said("1", "2"))
    history.add("ben", "", said("é\ud83d"))
    history.add("ann", "", said("3"))
    again = SQLiteHistory(tmp_path / "deep" / "h.sqlite3")
    assert again.load("ann", 1000) == ("", said("1", "2", "3"))
    assert again.load("ben", 1000) == ("", said("é\ud83d"))


def test_the_newest_messages_are_loaded_without_the_others(tmp_path: Path) -> None:
    history = SQLiteHistory(tmp_path / "h.sqlite3")
    history.add("ann", "", said("1", "2", "3"))
    history.add("ben", "", said("4"))
    assert history.load("ann", 2) == ("", said("2", "3"))


def test_what_was_forgotten_stays_so(tmp_path: Path) -> None:
    history = SQLiteHistory(tmp_path / "h.sqlite3")
    ids = set()
    for _ in range(3):
        conversation, messages = history.load("ann", 1000)
        assert messages == []
        history.add("ann", conversation, said("1"))
        history.forget("ann")
        history.add("ann", conversation, said("late"))
        ids.add(conversation)
    assert (texts(history), len(ids)) == ([], 3)
    assert b"late" not in (tmp_path / "h.sqlite3").read_bytes()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    SQLiteHistory(tmp_path / "h.sqlite3").add("ann", "", said("1"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_old_conversations_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = SQLiteHistory(tmp_path / "h.sqlite3", days=2)
    history.add("ann", "", said("1"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400 * 1.5)
    history.add("ben", "", said("2"))
    monkeypatch.setattr(time, "time", lambda: now + 86_400 * 2.5)
    assert history.load("ann", 1000) == ("", [])
    history.forget("eve")
    assert texts(history, "ben") == ["2"]
    with sqlite3.connect(tmp_path / "h.sqlite3") as database:
        assert [owner for (owner,) in database.execute("SELECT owner FROM message")] == ["ben"]
    database.close()


def _add(path: Path, name: str) -> None:
    history = SQLiteHistory(path)
    for number in range(25):
        history.add("ann", "", said(f"{name}{number}"))


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_add, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found = texts(SQLiteHistory(path))
    assert [text for text in found if text[0] == "a"] == [f"a{number}" for number in range(25)]
    assert [text for text in found if text[0] == "b"] == [f"b{number}" for number in range(25)]


def test_a_place_where_nothing_can_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="conversations cannot be stored in .*h.sqlite3"):
        SQLiteHistory(os.path.join(tmp_path, "file", "h.sqlite3")).load("ann", 1000)
