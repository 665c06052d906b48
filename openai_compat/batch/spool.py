"""The requests of a run that outlives them: on disk, for their answers come when all have been taken."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from .journal import JournalError
from .source import Item

_TABLE = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY, key BLOB, part INTEGER NOT NULL, request BLOB NOT NULL, error BLOB
);
CREATE INDEX items_key ON items (key);
CREATE INDEX items_part ON items (part, number);
"""


class Spool:
    """Requests by their place, their key, and the part that they wait for; gone with the process."""

    def __init__(self) -> None:
        # Without a name it is a file that the system removes, made once it does not fit into SQLite's cache.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_TABLE)
        self._database.execute("BEGIN")  # never committed: nobody else reads it

    def add(self, item: Item, key: bytes | None, part: int, error: Exception | None = None) -> None:
        """Keep a request; ``error`` says why it is not asked.

        Raises:
            ConfigurationError: it cannot be pickled.
            JournalError: the disk for temporary files is full.
        """
        try:
            request = pickle.dumps((item.custom_id, item.request))
        except Exception as unfit:
            raise ConfigurationError(f"request {item.index} cannot be pickled, to wait on disk: {unfit}") from unfit
        row = (item.index, key, part, request, None if error is None else pickle.dumps(error))
        with _explained():
            self._database.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?)", row)

    def part_of(self, key: bytes) -> int | None:
        """The part that an earlier request with this key waits for."""
        with _explained():
            row = self._database.execute("SELECT part FROM items WHERE key = ? LIMIT 1", (key,)).fetchone()
        return None if row is None else int(row[0])

    def first(self, key: bytes) -> Item | None:
        """The first request with this key."""
        return self._one("WHERE key = ? ORDER BY number LIMIT 1", key)[0]

    def after(self, number: int, part: int | None = None) -> tuple[Item | None, bytes | None, int, Exception | None]:
        """The next request behind a place, of one part or of all, with its key, its part and its error."""
        if part is None:
            return self._one("WHERE number > ? ORDER BY number LIMIT 1", number)
        return self._one("WHERE part = ? AND number > ? ORDER BY number LIMIT 1", part, number)

    def _one(self, where: str, *values: Any) -> tuple[Item | None, bytes | None, int, Exception | None]:
        with _explained():
            row = self._database.execute(
                f"SELECT number, key, part, request, error FROM items {where}", values
            ).fetchone()
        if row is None:
            return None, None, 0, None
        number, key, part, request, error = row
        return Item(number, *pickle.loads(request)), key, part, error and pickle.loads(error)

    def close(self) -> None:
        """Remove it."""
        self._database.close()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(f"the temporary file of the requests: {error}; see TMPDIR") from error
