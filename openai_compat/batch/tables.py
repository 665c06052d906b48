"""Rows of CSV, JSONL and Parquet files, read and written a few at a time."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from .._json import NotJSONError, decode_json, encode_reply
from ..errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]
Write = Callable[[Row], object]

READ_ROWS = 1000
"""Rows of a Parquet file that are in memory at a time, beside the pages that they are on."""

MAX_FIELD = 256 * 1024 * 1024
"""Characters of one field of a CSV file."""

GROUP_ROWS = 5000
"""Rows in a row group that is written: so many wait in memory."""


def check_kind(path: Path) -> None:
    """Raise ``ConfigurationError`` where a name does not say which kind of table the file is."""
    if path.suffix not in (".csv", ".jsonl", ".ndjson", ".parquet"):
        raise ConfigurationError(f"{path}: a .csv, .jsonl or .parquet file is wanted")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Each row as a dict.

    Raises:
        ConfigurationError: the file is of another kind, or a line is no row.
    """
    check_kind(path)
    if path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".parquet":
        with _parquet(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=READ_ROWS):
                yield from batch.to_pylist()
    else:
        with reading_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_row(line, f"{path}:{number}")


@contextlib.contextmanager
def reading_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The lines of a file in UTF-8; ``ConfigurationError`` where it is in another encoding."""
    with open(path, encoding="utf-8-sig", newline=newline) as lines:
        try:
            yield lines
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is not in UTF-8: {error}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    if csv.field_size_limit() < MAX_FIELD:
        csv.field_size_limit(MAX_FIELD)  # the whole process's, of 131,072 characters: a document has more
    with reading_text(path, newline="") as lines:
        records = csv.reader(lines)
        try:
            columns = next(filter(None, records), [])
            _check_names(path, columns)
            for record in filter(None, records):
                if any(record[len(columns) :]):
                    raise ConfigurationError(
                        f"{path}:{records.line_num}: more fields than columns: is a comma not in quotes?"
                    )
                yield dict(itertools.zip_longest(columns, record[: len(columns)], fillvalue=""))
        except csv.Error as error:
            raise ConfigurationError(f"{path}:{records.line_num}: no CSV: {error}") from error


def _check_names(path: Path, columns: list[str]) -> None:
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise ConfigurationError(f"{path}: two columns are named {twice!r}")


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = decode_json(line)
    except NotJSONError as error:
        raise ConfigurationError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{where}: a row is a JSON object")
    return row


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    arrow = _arrow()
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error
    with file:
        yield file


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigurationError("Parquet files need pyarrow: pip install 'openai-compat[parquet]'") from error
    return pyarrow


def parquet_schema(source: Path, further: Mapping[str, str]) -> pyarrow.Schema:
    """The columns of a table as those of a Parquet file; of JSONL, all rows are looked at.

    Args:
        further: columns behind them, or in place of those of the same name: the names of their types.

    Raises:
        ConfigurationError: a column has values of several types.
    """
    arrow = _arrow()
    if source.suffix == ".parquet":
        with _parquet(source) as file:
            schema = file.schema_arrow
    elif source.suffix == ".csv":
        schema = arrow.schema([(name, arrow.string()) for name in next(read_rows(source), {})])
    else:
        rows = read_rows(source)
        schema = arrow.schema([])
        while chunk := list(itertools.islice(rows, READ_ROWS)):
            names = dict.fromkeys(name for row in chunk for name in row)
            try:
                found = arrow.table({name: [row.get(name) for row in chunk] for name in names}).schema
                schema = arrow.unify_schemas([schema, found], promote_options="permissive")
            except (arrow.ArrowException, UnicodeError, OverflowError) as error:
                raise ConfigurationError(f"{source} has no columns that Parquet can hold: {error}") from error
    return arrow.schema([*(field for field in schema if field.name not in further), *_fields(further)])


def _fields(types: Mapping[str, str]) -> list[Any]:
    arrow = _arrow()
    made = {"floats": arrow.list_(arrow.float32())}
    return [arrow.field(name, made.get(kind) or getattr(arrow, kind)()) for name, kind in types.items()]


def typed_schema(types: Mapping[str, str]) -> pyarrow.Schema:
    """Columns of these types: pyarrow's names of them, and ``"floats"`` for a list of float32."""
    return _arrow().schema(_fields(types))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file that takes the place of ``path`` once it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_rows(path: Path, columns: tuple[str, ...], schema: Callable[[], pyarrow.Schema]) -> Iterator[Write]:
    """A function that writes a row; the file is there when all are written.

    Args:
        columns: of a CSV file.
        schema: of a Parquet file.
    """
    check_kind(path)
    with replacing(path) as part:
        if path.suffix == ".parquet":
            with _writing_parquet(part, schema()) as write:
                yield write
        else:
            # Half a character of a row of JSON is written as a question mark.
            with open(part, "w", encoding="utf-8", errors="replace", newline="") as file:
                if path.suffix == ".csv":
                    rows = csv.DictWriter(file, columns, extrasaction="ignore")
                    rows.writeheader()
                    yield rows.writerow
                else:
                    yield lambda row: file.write(_json_line(row).decode() + "\n")


def _json_line(row: Row) -> bytes:
    try:
        return encode_reply(row)
    except TypeError:
        # With pandas installed, times of nanoseconds are its own.
        return msgspec.json.encode(row, enc_hook=lambda value: value.isoformat())


@contextlib.contextmanager
def _writing_parquet(path: Path, schema: pyarrow.Schema) -> Iterator[Write]:
    arrow = _arrow()
    import pyarrow.parquet

    waiting: list[Row] = []

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            try:
                writer.write_table(arrow.Table.from_pylist(waiting, schema=schema))
            except (arrow.ArrowException, UnicodeError, OverflowError) as error:
                raise ConfigurationError(f"the rows do not fit the columns of {path}: {error}") from error
            waiting.clear()

        def write(row: Row) -> None:
            waiting.append(row)
            if len(waiting) >= GROUP_ROWS:
                flush()

        yield write
        if waiting:
            flush()
