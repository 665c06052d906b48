"""Answers in Parquet files, which those who ask write: a journal for each part of a run.

For clusters whose answers are too many for one program and its SQLite file. Needs pyarrow.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from .journal import Entry, JournalError

if TYPE_CHECKING:
    from typing import Self

    from pyarrow import Schema
    from pyarrow.fs import FileSystem

FORMAT = "1"
"""Written into each file. A later one may hold what this version would misread."""

_MARK = b"openai_compat.parts"
_ARROW = {"bytes": "binary", "str": "string", "int": "int64", "bool": "bool", "float": "double"}
_canonical = msgspec.json.Encoder(order="deterministic", enc_hook=str).encode


def name_of(requests: Iterable[Any]) -> str:
    """What a part of a run is known by: a hash of its requests, whoever asks them."""
    return hashlib.sha256(_canonical(list(requests))).hexdigest()[:16]


class Parts:
    """Files of answers, ``part=<name>/<random>.parquet``, with the columns of the journal's table ``answers``.

    Used like a ``Journal``, by one process at a time; two that ask the same part write a request's answer twice.

    Args:
        directory: a path, or a URI that pyarrow knows (``s3://bucket/folder``), for all parts of the run; made where
            it is not there yet.
        name: of the part.
        size: answers in a file: what is asked again if the process is killed.

    Raises:
        JournalError: a file is of a newer version, or cannot be read.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, *, size: int) -> None:
        self._files, root = _file_system(location(directory))
        self._directory, self._size = f"{root}/part={name}", size
        self._lock = threading.Lock()
        self._new: list[Entry] = []
        # Of two rows of a request an answer counts, and then the later.
        found = sorted(self._read(), key=lambda entry: (entry.status == "answered", entry.finished_at))
        self._known = {entry.key: entry for entry in found}

    def _read(self) -> Iterator[Entry]:
        from pyarrow import ArrowException, fs, parquet

        try:
            self._files.create_dir(self._directory, recursive=True)
            for found in self._files.get_file_info(fs.FileSelector(self._directory)):
                if found.base_name.startswith(".") or not found.base_name.endswith(".parquet"):
                    continue
                with self._files.open_input_file(found.path) as file:
                    table = parquet.ParquetFile(file).read()
                if (table.schema.metadata or {}).get(_MARK) != FORMAT.encode():
                    raise JournalError(f"{found.path} was not written by this version of openai_compat")
                yield from (Entry(**row) for row in table.to_pylist())
        except (ArrowException, OSError) as error:
            raise JournalError(f"the parts in {self._directory} cannot be read: {error}") from error

    def get(self, key: bytes) -> Entry | None:
        """What is known of a request."""
        return self._known.get(key)

    find = get  # all of it is in memory

    def add(self, *entries: Entry) -> None:
        """Keep answers and failures; they are in a file once there are enough for one, or at the end.

        Raises:
            JournalError: the file could not be written.
        """
        with self._lock:
            self._known.update((entry.key, entry) for entry in entries)
            self._new += entries
            if len(self._new) >= self._size:
                self._write()

    def tidy(self) -> None:
        """Nothing is to be done: a file stays as it was written."""

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            if self._new:
                self._write()

    def _write(self) -> None:
        from pyarrow import ArrowException, Table, parquet

        name = f"{uuid.uuid4().hex[:12]}.parquet"
        # Readers of a directory leave out what begins with a dot.
        path, part = f"{self._directory}/{name}", f"{self._directory}/.{name}"
        table = Table.from_pylist([attrs.asdict(entry) for entry in self._new], schema=_schema())
        try:
            parquet.write_table(table, part, filesystem=self._files)
            self._files.move(part, path)
        except (ArrowException, OSError) as error:
            raise JournalError(f"{path} could not be written: {error}; what was written before stays") from error
        self._new = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def location(directory: str | os.PathLike[str]) -> str:
    """The same directory for a process that has another working directory."""
    path = os.fspath(directory)
    return path if "://" in path else os.path.abspath(path)


def _file_system(directory: str) -> tuple[FileSystem, str]:
    from pyarrow import fs

    if "://" not in directory:
        return fs.LocalFileSystem(), directory
    files, path = fs.FileSystem.from_uri(directory)
    return files, path.rstrip("/")


def _schema() -> Schema:
    import pyarrow

    types = {field.name: _ARROW[str(field.type).removesuffix(" | None")] for field in attrs.fields(Entry)}
    columns = [(name, pyarrow.type_for_alias(alias)) for name, alias in types.items()]
    return pyarrow.schema(columns, metadata={_MARK: FORMAT.encode()})
