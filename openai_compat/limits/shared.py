"""Buckets that the processes of a machine share, in an SQLite file.

pyrate-limiter, which has such buckets, keeps a row for each token that was asked for, and takes nothing back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from types import TracebackType

from ..errors import SharedLimitsError
from .bucket import Bucket

PATIENCE = 10.0
"""Seconds that another process may hold the file; a change takes less than a thousandth of one."""


class SharedBuckets:
    """A context manager within which some buckets are as all processes have left them, and nobody else changes them.

    Args:
        path: of the file, which is made where there is none.
        buckets: by the names that they have there.

    Raises:
        SharedLimitsError: the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], buckets: Mapping[str, Bucket]) -> None:
        self._path, self._buckets, self._process = path, buckets, os.getpid()
        try:
            self._db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            # A crash of the machine may take the last second with it: nothing here is older than a minute.
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, level REAL, filled_at REAL)")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def __del__(self) -> None:
        # A connection that was opened before a fork is the parent's to close.
        if "_db" in self.__dict__ and self._process == os.getpid():
            self._db.close()

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for name, level, filled_at in self._db.execute("SELECT name, level, filled_at FROM buckets").fetchall():
                if (bucket := self._buckets.get(name)) is not None:
                    bucket.level, bucket.filled_at = level, filled_at
        except BaseException as error:
            self._give_up()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        rows = [(name, bucket.level, bucket.filled_at) for name, bucket in self._buckets.items()]
        try:
            self._db.executemany("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except BaseException as failed:
            self._give_up()
            if isinstance(failed, sqlite3.Error):
                raise self._unusable(failed) from failed
            raise

    def _give_up(self) -> None:
        """Let other processes at the file again."""
        if self._db.in_transaction:
            self._db.rollback()

    def _unusable(self, error: sqlite3.Error) -> SharedLimitsError:
        return SharedLimitsError(f"limits: the shared file {os.fspath(self._path)!r} cannot be used: {error}")
