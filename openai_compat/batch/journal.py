"""Answers on disk: an SQLite file that a run writes to as it goes, and that the same run goes on from."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import operator
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import OpenAICompatError

if TYPE_CHECKING:
    from typing import Self

    from .result import MapResult

FORMAT = 2
"""Written into each journal. A later one may hold what this version would misread; earlier ones are brought up."""

LOCK_TIMEOUT = 30.0
"""Seconds to wait for another process that writes to the journal."""

MAX_REQUEST = 100_000
"""Bytes of a request that are stored, for people to read; of a longer one, with pictures in it, only the hash."""

_PAGES = 8000
"""Of the write-ahead log before they go into the file: each then goes there once, not with every few answers."""

_TIDY = 1000
"""Answers after which some of the log goes there before, on a thread that has the time."""

_TOGETHER = 32
"""Rows that one statement writes: SQLite takes 999 values in one, at least."""

_BITS = 24
"""Of a key, by which it is seen in memory that nothing is known of it: 2 MiB, enough for some millions."""

_LOOK = 0.1
"""Seconds after which what other processes have written is looked for."""

_BATCHES = """
CREATE TABLE batches (
    number INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    input_file_id TEXT NOT NULL,
    batch_id TEXT,
    status TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE submitted (key BLOB PRIMARY KEY, batch INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX submitted_batch ON submitted (batch);
"""
_TABLES = f"""
CREATE TABLE journal (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    custom_id TEXT,
    model TEXT,
    provider TEXT,
    server TEXT,
    status TEXT NOT NULL CHECK (status IN ('answered', 'failed')),
    text TEXT,
    finish_reason TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    error TEXT,
    retryable INTEGER,
    attempts INTEGER NOT NULL,
    seconds REAL NOT NULL,
    finished_at REAL NOT NULL,
    request TEXT,
    response BLOB
);
{_BATCHES}
INSERT INTO journal VALUES ('format', '{FORMAT}');
"""
_STEPS = {
    "1": f"""
ALTER TABLE answers ADD COLUMN provider TEXT;
ALTER TABLE answers ADD COLUMN server TEXT;
{_BATCHES}
UPDATE journal SET value = '2' WHERE name = 'format';
""",
}
"""By format, what makes the next one of it."""
_COLUMNS = [
    *(
        "key",
        "custom_id",
        "model",
        "provider",
        "server",
        "status",
        "text",
        "finish_reason",
        "input_tokens",
        "output_tokens",
    ),
    *("error", "retryable", "attempts", "seconds", "finished_at", "request", "response"),
]
_ROW = f"({', '.join('?' * len(_COLUMNS))})"


@functools.cache
def _insert(rows: int) -> str:
    """One statement for all: between two, other threads would have their turn.

    An answer that another process gave to the same request stays; a failure gives way.
    """
    return f"""
INSERT INTO answers ({", ".join(_COLUMNS)}) VALUES {", ".join([_ROW] * rows)}
ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])}
WHERE answers.status = 'failed'
"""


class JournalError(OpenAICompatError):
    """The journal cannot be used: it is of a newer format, no journal, locked, or the disk is full.

    What had been written stays. ``unsaved`` has the results that came after it.
    """

    def __init__(self, message: str = "", *, unsaved: tuple[MapResult[Any], ...] = ()) -> None:
        super().__init__(message)
        self.unsaved = unsaved


@attrs.frozen(kw_only=True)
class Entry:
    """One row of the table ``answers``.

    Args:
        key: of the request and its id, see ``request_key``.
        provider: who answered; None in a journal of an earlier version.
        server: the base URL of who answered.
        status: ``"answered"`` or ``"failed"``.
        error: the class of the exception and its message, as in a traceback.
        retryable: whether the same request might succeed later.
        attempts: how often it was sent.
        finished_at: POSIX time in seconds.
        request: the body as JSON, where not too long.
        response: the body of the reply, as JSON; of a text that was embedded, its vector as float32 numbers; of a
            failure, what the exception is made of again.
    """

    key: bytes
    custom_id: str | None = None
    model: str | None = None
    provider: str | None = None
    server: str | None = None
    status: str
    text: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    retryable: bool | None = None
    attempts: int = 1
    seconds: float = 0.0
    finished_at: float = attrs.field(factory=time.time)
    request: str | None = None
    response: bytes | None = None


_as_row = operator.attrgetter(*_COLUMNS)


def request_key(custom_id: str | None, body: bytes) -> bytes:
    """What a request is known by: 16 bytes of SHA-256 over its id and its canonical body."""
    name = b"" if custom_id is None else custom_id.encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"%d:%b%b" % (len(name), name, body)).digest()[:16]


def _set_wal(connection: sqlite3.Connection) -> None:
    """Turn to write-ahead mode; where two connections do so at once, SQLite refuses one of them without waiting."""
    end = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.005)


def _place(key: bytes) -> tuple[int, int]:
    """Of a key among those that were seen: a byte and a bit."""
    number = int.from_bytes(key[: _BITS // 8], "big")
    return number >> 3, 1 << (number & 7)


def _see(seen: bytearray, key: bytes) -> None:
    place, bit = _place(key)
    seen[place] |= bit


@attrs.define
class _Addition:
    """What one thread adds."""

    rows: list[tuple[Any, ...]]
    written: bool = False


class Journal:
    """An SQLite file of answers, in write-ahead mode: a process may be killed at any moment.

    Several threads, and several processes of one machine, may write to it. The table ``answers`` is plain SQL for other
    programs. After a loss of power the last answers may be missing; the file is whole.

    Args:
        path: made where it is not there yet. Not on a network drive, which SQLite's locks do not work on.

    Raises:
        JournalError: it is something else, of a newer version, or cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._pending: deque[_Addition] = deque()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._failed: JournalError | None = None
        self._keys: bytearray | None = None
        self._last = 0
        self._version = 0
        self._looked = 0.0
        self._untidy = 0
        self._process = os.getpid()
        try:
            self._writer = self._open()
            self._reader = self._open()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=LOCK_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=2 * _TOGETHER,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables where there are none, and see that they are a journal's."""
        _set_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES}")
        if self._format(connection) == str(FORMAT):
            return
        # Looked at again once nobody else can write: two processes may make, or bring up, one journal.
        connection.execute("BEGIN IMMEDIATE")
        try:
            while (written := self._format(connection)) != str(FORMAT):
                for statement in (_TABLES if written is None else _STEPS[written]).split(";"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _format(self, connection: sqlite3.Connection) -> str | None:
        """The format that is written there; None where there is nothing yet.

        Raises:
            JournalError: it is no journal, or one of a format that this version does not read.
        """
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not known:
            return None
        if not {"journal", "answers"} <= known:
            raise JournalError(f"{self.path} is an SQLite file, but no journal")
        (written,) = connection.execute("SELECT value FROM journal WHERE name = 'format'").fetchone() or ("",)
        if written != str(FORMAT) and written not in _STEPS:
            raise JournalError(
                f"{self.path} has format {written or 'unknown'}; this version of openai_compat reads format {FORMAT}"
            )
        return str(written)

    def __del__(self) -> None:
        # Of a run that was dropped: nobody else has it, and no lock is taken where the collector may have come.
        for name in ("_writer", "_reader"):
            if name in self.__dict__ and self._process == os.getpid():
                self.__dict__[name].close()

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written is there."""
        with self._writing, self._reading:
            self._close()

    def _close_if_idle(self) -> None:
        """Close the file, unless a thread is still at it: then it is closed once nobody has the journal any more."""
        if self._writing.acquire(blocking=False):
            try:
                if self._reading.acquire(blocking=False):
                    try:
                        self._close()
                    finally:
                        self._reading.release()
            finally:
                self._writing.release()

    def _close(self) -> None:
        if self._process == os.getpid():
            self._writer.close()
            self._reader.close()

    def get(self, key: bytes) -> Entry | None:
        """What is known of a request."""
        rows = self._read(f"SELECT {', '.join(_COLUMNS)} FROM answers WHERE key = ?", key)
        return Entry(**dict(zip(_COLUMNS, rows[0], strict=True))) if rows else None

    def find(self, key: bytes) -> Entry | None:
        """What is known of a request, but for what another process may have written in the last tenth of a second.

        Much faster than ``get`` where nothing is.
        """
        if self._keys is None or time.monotonic() - self._looked > _LOOK:
            with self._writing:
                try:
                    keys = self._look()
                except sqlite3.Error as error:
                    raise self._explained(error) from error
        else:
            keys = self._keys
        place, bit = _place(key)
        return self.get(key) if keys[place] & bit else None

    def _look(self) -> bytearray:
        """See which keys there are: all at first, then those that another connection has added."""
        keys, query = self._keys, f"SELECT number, key FROM answers WHERE number > {self._last}"
        if keys is None:
            keys, query = bytearray(2 ** (_BITS - 3)), "SELECT number, key FROM answers"  # of the index alone
        # Before the rows, so that what is added meanwhile is looked for the next time.
        (version,) = self._writer.execute("PRAGMA data_version").fetchone()
        if self._keys is None or version != self._version:
            last = self._last
            for number, key in self._writer.execute(query):
                last = max(last, number)
                _see(keys, key)
            self._last = last
        self._keys, self._version, self._looked = keys, version, time.monotonic()
        return keys

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def add(self, *entries: Entry) -> None:
        """Write answers and failures; they are in the file when this returns.

        What several threads add at a time goes into one transaction.

        Raises:
            JournalError: it could not be written, nor will anything be after it.
        """
        if not entries:
            return
        mine = _Addition([_as_row(entry) for entry in entries])
        self._pending.append(mine)
        with self._writing:
            if mine.written:
                return  # by who had the lock before
            if self._failed is not None:
                raise self._failed
            additions = []
            while self._pending:
                additions.append(self._pending.popleft())
            try:
                rows = [row for addition in additions for row in addition.rows]
                self._write(rows)
            except sqlite3.Error as error:
                self._failed = self._explained(error)
                raise self._failed from error
            self._untidy += len(rows)
            for addition in additions:
                addition.written = True
            if self._keys is not None:
                for row in rows:
                    _see(self._keys, row[0])

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        if len(rows) <= _TOGETHER:
            self._insert(rows)
            return
        with self._transaction():
            for start in range(0, len(rows), _TOGETHER):
                self._insert(rows[start : start + _TOGETHER])

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        self._writer.execute(_insert(len(rows)), list(itertools.chain.from_iterable(rows)))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, for other tables than ``answers``.

        Raises:
            JournalError: it could not be written; nothing of it was.
        """
        with self._writing:
            try:
                with self._transaction() as connection:
                    yield connection
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def tidy(self) -> None:
        """Put what is in the write-ahead log into the file, where it is much; others may write meanwhile.

        Raises:
            JournalError: it cannot be put there.
        """
        if self._untidy >= _TIDY:
            self._untidy = 0
            self._read("PRAGMA wal_checkpoint(PASSIVE)")

    def __len__(self) -> int:
        return sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """How many requests are ``"answered"`` and ``"failed"``."""
        found = dict(self._read("SELECT status, count(*) FROM answers GROUP BY status"))
        return {"answered": found.get("answered", 0), "failed": found.get("failed", 0)}

    def __iter__(self) -> Iterator[Entry]:
        """All entries, in the order in which they were written; the file may grow meanwhile."""
        last = 0
        while True:
            rows = self._read(
                f"SELECT number, {', '.join(_COLUMNS)} FROM answers WHERE number > ? ORDER BY number LIMIT 500", last
            )
            if not rows:
                return
            last = rows[-1][0]
            for _, *row in rows:
                yield Entry(**dict(zip(_COLUMNS, row, strict=True)))

    def export(self, path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> int:
        """Write the entries to a table, a few at a time; the number of its rows.

        Args:
            path: of a ``.csv``, ``.jsonl`` or ``.parquet`` file (extra ``parquet``), made once it is whole.
            columns: which, in their order: fields of ``Entry``, and ``"embedding"`` for vectors as numbers. By default
                all but ``key``, ``request``, ``response`` and ``embedding``. What is JSON is an object in JSONL, and
                text elsewhere.

        Raises:
            ConfigurationError: another kind of file, or no such column; no pyarrow.
            OSError: the file cannot be written; the journal stays as it is.
        """
        from .export import export_entries

        return export_entries(self, Path(path), columns)

    def _explained(self, error: sqlite3.Error) -> JournalError:
        told = str(error)
        if "locked" in told:
            told = f"another process has held its lock for {LOCK_TIMEOUT:.0f} s"
        return JournalError(f"the journal {self.path}: {told}; what was written before stays")


def open_journal(
    journal: Journal | str | os.PathLike[str] | None,
) -> tuple[Journal | None, Callable[[], None] | None]:
    """The journal of a run, and what closes it at the end: of one that was opened before, nothing does.

    A thread may by then still wait for another process's lock; the end of the run does not.
    """
    if not isinstance(journal, (str, os.PathLike)):
        return journal, None
    opened = Journal(journal)
    return opened, opened._close_if_idle
