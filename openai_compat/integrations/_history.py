"""Where an application's chat stores its visitors' conversations.

In plain ``sqlite3``, which every Python has: a few statements need no ORM, nor a place in the application's database.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..errors import ConfigurationError

DAY = 24 * 60 * 60
BUSY_TIMEOUT = 30.0
"""Seconds that one process waits for another that is writing."""


class History(Protocol):
    """A store of conversations, one per owner. Messages are plain JSON values.

    A conversation has an id, which ``forget`` changes, and which is the empty string until something is stored.
    """

    def load(self, owner: str, newest: int) -> tuple[str, list[dict[str, Any]]]:
        """The id of the owner's conversation, and its ``newest`` messages, oldest first."""

    def add(self, owner: str, id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Append messages, all or none; none if the id of the owner's conversation has changed."""

    def forget(self, owner: str) -> None:
        """Delete the messages, and give the conversation a new id."""


class SQLiteHistory:
    """Conversations in one SQLite file, which all processes of a machine may share.

    Args:
        path: of the file, which only its owner may read.
        days: after which an unused conversation is deleted.
    """

    def __init__(self, path: str | os.PathLike[str], *, days: float = 30) -> None:
        self._path = path
        self._seconds = days * DAY

    def load(self, owner: str, newest: int) -> tuple[str, list[dict[str, Any]]]:
        with self._database() as database:
            found = database.execute(
                "SELECT id FROM conversation WHERE owner = ? AND updated > ?", (owner, self._expiry())
            ).fetchone()
            if found is None:
                return "", []
            query = "SELECT message FROM message WHERE owner = ? ORDER BY number DESC LIMIT ?"
            rows = database.execute(query, (owner, newest)).fetchall()
            return found[0], [json.loads(message) for (message,) in reversed(rows)]

    def add(self, owner: str, id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        with self._database() as database:
            self._begin_write(database)
            found = database.execute("SELECT id FROM conversation WHERE owner = ?", (owner,)).fetchone()
            if (found[0] if found else "") != id:
                return
            self._touch(database, owner, id)
            texts = [(owner, json.dumps(message)) for message in messages]
            database.executemany("INSERT INTO message (owner, message) VALUES (?, ?)", texts)

    def forget(self, owner: str) -> None:
        with self._database() as database:
            self._begin_write(database)
            database.execute("DELETE FROM message WHERE owner = ?", (owner,))
            self._touch(database, owner, secrets.token_hex(8))

    def _expiry(self) -> float:
        return time.time() - self._seconds

    def _touch(self, database: sqlite3.Connection, owner: str, id: str) -> None:
        database.execute("INSERT OR REPLACE INTO conversation VALUES (?, ?, ?)", (owner, id, time.time()))

    def _begin_write(self, database: sqlite3.Connection) -> None:
        """Keep other writers out, and delete what has expired."""
        database.execute("BEGIN IMMEDIATE")
        limit = (self._expiry(),)
        database.execute(
            "DELETE FROM message WHERE owner IN (SELECT owner FROM conversation WHERE updated <= ?)", limit
        )
        database.execute("DELETE FROM conversation WHERE updated <= ?", limit)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A new connection for each use, for none may be shared between threads or survive a fork."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise ConfigurationError(f"conversations cannot be stored in {self._path}: {error.strerror}") from error
        with contextlib.closing(sqlite3.connect(self._path, timeout=BUSY_TIMEOUT)) as database, database:
            database.executescript(_TABLES)
            yield database


_TABLES = """
CREATE TABLE IF NOT EXISTS conversation (owner TEXT PRIMARY KEY, id TEXT NOT NULL, updated REAL NOT NULL);
CREATE INDEX IF NOT EXISTS conversation_updated ON conversation (updated);
CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, owner TEXT NOT NULL, message TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS message_owner ON message (owner, number);
"""
