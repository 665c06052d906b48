"""A journal's entries as a table, for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .._json import encode_json
from ..errors import ConfigurationError
from .tables import typed_schema, writing_rows

TYPES = {
    "key": "string",
    "custom_id": "string",
    "model": "string",
    "provider": "string",
    "server": "string",
    "status": "string",
    "text": "string",
    "finish_reason": "string",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "error": "string",
    "retryable": "bool_",
    "attempts": "int64",
    "seconds": "float64",
    "finished_at": "float64",
    "request": "string",
    "response": "string",
    "embedding": "floats",
}
LEFT_OUT = frozenset({"key", "request", "response", "embedding"})
"""Columns that have to be named: they are large, or for this library alone."""


def export_entries(entries: Iterable[Any], path: Path, columns: Sequence[str] | None) -> int:
    """Write them; see ``Journal.export``."""
    names = tuple(columns) if columns is not None else tuple(name for name in TYPES if name not in LEFT_OUT)
    if isinstance(columns, str) or not names or (unknown := set(names) - TYPES.keys()):
        told = ", ".join(sorted(unknown)) if names and not isinstance(columns, str) else repr(columns)
        raise ConfigurationError(f"no columns of a journal: {told}; there are {', '.join(TYPES)}")
    as_objects = path.suffix in (".jsonl", ".ndjson")
    count = 0
    with writing_rows(path, names, lambda: typed_schema({name: TYPES[name] for name in names})) as write:
        for entry in entries:
            row = {name: _value(entry, name, as_objects=as_objects) for name in names}
            if path.suffix == ".csv" and row.get("embedding") is not None:
                row["embedding"] = encode_json(row["embedding"]).decode()
            write(row)
            count += 1
    return count


def _value(entry: Any, name: str, *, as_objects: bool) -> Any:
    vector = entry.status == "answered" and entry.text is None
    if name == "embedding":
        return list(memoryview(entry.response).cast("f")) if vector and entry.response else None
    if name == "response":
        return None if vector or entry.response is None else _json(entry.response, as_objects)
    if name == "request":
        return None if entry.request is None else _json(entry.request.encode(), as_objects)
    if name == "retryable":
        return None if entry.retryable is None else bool(entry.retryable)
    value = getattr(entry, name)
    return value.hex() if name == "key" else value


def _json(kept: bytes, as_object: bool) -> Any:
    return msgspec.Raw(kept) if as_object else kept.decode()
