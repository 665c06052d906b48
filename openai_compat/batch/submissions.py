"""What a journal knows of batches at a provider: which were submitted, and which requests are in them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..cancel import CancelToken
from .journal import Journal, JournalError


class Submission(NamedTuple):
    """A row of the table ``batches``; ``batch_id`` is None where nobody knows yet whether the batch was made."""

    number: int
    server: str
    endpoint: str
    submitted_at: float
    input_file_id: str
    batch_id: str | None
    finished: bool


_SELECT = "SELECT number, server, endpoint, submitted_at, input_file_id, batch_id, finished FROM batches"


class Submissions:
    """The tables ``batches`` and ``submitted`` of a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def of(self, key: bytes) -> Submission | None:
        """Where a request was submitted last."""
        query = f"{_SELECT} WHERE number = (SELECT batch FROM submitted WHERE key = ?)"
        return next((Submission(*row) for row in self._journal._read(query, key)), None)

    def unmade(self, server: str) -> list[Submission]:
        """Those of a server whose file was uploaded, and whose batch may have been made or not."""
        query = f"{_SELECT} WHERE server = ? AND batch_id IS NULL ORDER BY number"
        return [Submission(*row) for row in self._journal._read(query, server)]

    def add(self, server: str, endpoint: str, input_file_id: str, keys: Iterable[bytes]) -> Submission:
        """A file with these requests has been uploaded."""
        row = (server, endpoint, time.time(), input_file_id)
        with self._journal._changing() as connection:
            number = connection.execute(
                "INSERT INTO batches (server, endpoint, submitted_at, input_file_id, status) "
                "VALUES (?, ?, ?, ?, 'uploaded')",
                row,
            ).lastrowid
            assert number is not None
            connection.executemany("INSERT OR REPLACE INTO submitted VALUES (?, ?)", ((key, number) for key in keys))
        return Submission(number, *row, None, False)

    def made(self, submission: Submission, batch_id: str, status: str) -> Submission:
        """The batch of a file has been made."""
        with self._journal._changing() as connection:
            connection.execute(
                "UPDATE batches SET batch_id = ?, status = ? WHERE number = ?", (batch_id, status, submission.number)
            )
        return submission._replace(batch_id=batch_id)

    def refused(self, submission: Submission) -> None:
        """There is no batch of this file, nor will there be."""
        with self._journal._changing() as connection:
            connection.execute("DELETE FROM submitted WHERE batch = ?", (submission.number,))
            connection.execute("DELETE FROM batches WHERE number = ?", (submission.number,))

    def ended(self, submission: Submission, status: str) -> None:
        """All that came of a batch is in the journal."""
        with self._journal._changing() as connection:
            connection.execute(
                "UPDATE batches SET finished = 1, status = ? WHERE number = ?", (status, submission.number)
            )

    def has(self, submission: Submission, key: bytes) -> bool:
        """Whether a request is in a batch."""
        return bool(self._journal._read("SELECT 1 FROM submitted WHERE key = ? AND batch = ?", key, submission.number))

    def keys(self, submission: Submission) -> Iterator[bytes]:
        """The requests that are in a batch."""
        last = b""
        while True:
            query = "SELECT key FROM submitted WHERE batch = ? AND key > ? ORDER BY key LIMIT 1000"
            rows = self._journal._read(query, submission.number, last)
            if not rows:
                return
            last = rows[-1][0]
            for (key,) in rows:
                yield key


@contextlib.contextmanager
def submitting(path: Path, token: CancelToken) -> Iterator[None]:
    """One process at a time, of all that have this journal; the others wait.

    The lock is SQLite's on a file beside the journal, so that the system opens it where a process is killed.
    """
    try:
        lock = sqlite3.connect(path.with_name(f"{path.name}.submitting"), timeout=0, isolation_level=None)
    except sqlite3.Error as error:
        raise JournalError(f"no file can be made beside the journal {path}: {error}") from error
    try:
        while True:
            try:
                lock.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise JournalError(f"the lock beside the journal {path}: {error}") from error
            if token.wait(0.2):
                token.raise_if_cancelled()
        yield
    finally:
        lock.close()
