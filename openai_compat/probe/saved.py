"""A server's dialect in a file, as a probe writes it and a client reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigurationError
from ..wire.dialect import Dialect

VERSION = 1
"""Of the file's form."""


def dialect_from(given: Dialect | Mapping[str, Any] | str | os.PathLike[str]) -> Dialect:
    """The dialect that a client was given: itself, what a file of a probe holds, or the path of one.

    Raises:
        ConfigurationError: it is none, or the file cannot be read.
    """
    if isinstance(given, Dialect):
        return given
    if isinstance(given, (str, os.PathLike)):
        where = os.fspath(given)
        try:
            given = msgspec.json.decode(Path(where).read_bytes())
        except OSError as error:
            raise ConfigurationError(f"dialect: cannot read {where!r}: {error.strerror or error}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigurationError(f"dialect: {where!r} is not JSON: {error}") from error
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"dialect is a Dialect, or the path of a probe's file, not {type(given).__name__}")
    fields = given.get("dialect", given)
    version = given.get("version")
    later = isinstance(version, int) and version > VERSION
    written = " (the file was written by a later release)" if later else ""
    unknown = fields.keys() - {field.name for field in Dialect.__attrs_attrs__} if isinstance(fields, Mapping) else ()
    if unknown:
        raise ConfigurationError(f"dialect: unknown {', '.join(sorted(map(str, unknown)))}{written}")
    try:
        return msgspec.convert(fields, Dialect)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"dialect: {error}{written}") from error


def dialect_fields(dialect: Dialect) -> dict[str, Any]:
    """A dialect as JSON has it."""
    made: dict[str, Any] = msgspec.to_builtins(dialect, builtin_types=())
    return {**made, "leaves_out": sorted(dialect.leaves_out)}
