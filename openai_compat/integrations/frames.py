"""Columns of pandas and Polars: prompts to answers, texts to vectors.

::

    frame["summary"] = map_column(client, frame["text"], template="Summarise: {text}", max_tokens=60)
    frame["vector"] = embed_column(client, frame["text"])
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..client import Client


def map_column(
    client: Client,
    column: Any,
    *,
    template: str | None = None,
    response_type: Any = None,
    with_errors: bool = False,
    **options: Any,
) -> Any:
    """Ask a prompt for each row, and return the answers as a column of the same kind, with the same index.

    A prompt that comes twice is asked once. Rows in which a value is missing are not asked, and stay missing.

    Args:
        column: a ``Series`` of pandas or Polars; with ``template`` also a ``DataFrame``.
        template: a prompt with the names of columns, such as ``"Summarise: {text}"``; of a ``Series`` also with ``{}``.
        response_type: as for ``chat``. A type with fields (attrs, dataclass, pydantic, ``TypedDict``, ...) makes a
            ``DataFrame`` with a column for each.
        with_errors: return a ``DataFrame`` that has also the column ``error``: the exception as text, missing where
            there is an answer. Without fields the column before it is ``answer``.
        options: as for ``Client.map``: ``workers``, ``journal``, ``progress``, ``max_tokens``, ``on_error``, ...

    Raises:
        ConfigurationError: not such a column, or a template that does not fit.

    Warns:
        RuntimeWarning: rows that failed are missing, and ``with_errors`` is False.
    """
    library = _library(column)
    fields = _fields(response_type)
    if with_errors and "error" in fields:
        raise ConfigurationError("response_type has a field error of its own, which leaves no name for with_errors")
    rows = _rows_of(_prompts(library, template))
    answers: list[Any] = [None] * len(column)
    failures: list[Exception | None] = [None] * len(column)
    places = list(rows.values())
    with client.map(list(rows), response_type=response_type, **options) as run:
        for result in run:
            for row in places[result.index]:
                failures[row] = result.error
                if result.ok:
                    answers[row] = result.text if response_type is None else result.parsed
    if not fields:
        hint = str if response_type is None else response_type
        answer = library.column(answers, _scalar(hint), library.name)
        return _with_errors(library, {"answer": answer}, failures) if with_errors else _told(answer, failures)
    columns = {
        name: library.column([_part(answer, name) for answer in answers], _scalar(hint), name)
        for name, hint in fields.items()
    }
    return _with_errors(library, columns, failures) if with_errors else _told(library.frame(columns), failures)


def embed_column(client: Client, column: Any, *, with_errors: bool = False, **options: Any) -> Any:
    """Embed the text of each row, and return the vectors as a column of the same kind, with the same index.

    With pandas they are NumPy arrays of float32; with Polars the column is an ``Array``. A text that comes twice is
    embedded once. Missing and empty texts are not sent, and are missing.

    Args:
        column: a ``Series`` of pandas or Polars.
        with_errors: as for ``map_column``; the column before ``error`` is ``embedding``.
        options: as for ``Client.map_embeddings``: ``model``, ``dimensions``, ``batch_size``, ``journal``, ...

    Raises:
        ConfigurationError: not such a column.

    Warns:
        RuntimeWarning: rows that failed are missing, and ``with_errors`` is False.
    """
    library = _library(column)
    rows = _rows_of(text or None for text in _prompts(library, None))
    run = client.map_embeddings(list(rows), **options)
    vectors: Any = None
    try:
        if rows:
            vectors = run.to_array()
    except Exception:
        # Where all have failed, each row says why.
        if len(run.errors) < len(rows):
            raise
    finally:
        run.close()
    failures: list[Exception | None] = [None] * len(column)
    taken: list[int | None] = [None] * len(column)
    for number, places in enumerate(rows.values()):
        error = run.errors.get(number)
        for row in places:
            failures[row] = error
            taken[row] = number if error is None else None
    embedding = library.vectors(vectors, taken, options.get("dimensions"))
    return _with_errors(library, {"embedding": embedding}, failures) if with_errors else _told(embedding, failures)


def _with_errors(library: _Library, columns: dict[str, Any], failures: Sequence[Exception | None]) -> Any:
    told = [None if error is None else f"{type(error).__name__}: {error}" for error in failures]
    return library.frame({**columns, "error": library.column(told, str, "error")})


def _told(column: Any, failures: Sequence[Exception | None]) -> Any:
    failed = [error for error in failures if error is not None]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(failures)} rows failed and are missing, the first with "
            f"{type(failed[0]).__name__}: {failed[0]}; with_errors=True keeps what failed in a column",
            RuntimeWarning,
            stacklevel=3,
        )
    return column


def _prompts(library: _Library, template: str | None) -> list[str | None]:
    """The prompt of each row; None where a value is missing."""
    columns = library.columns
    if template is None:
        if library.is_frame:
            raise ConfigurationError("of a DataFrame a template says what is asked, such as 'Summarise: {text}'")
        (column,) = columns.values()
        values = library.values(column)
        for number, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"row {number} is {type(value).__name__}, not a string; a template makes one")
        return values
    if not library.is_frame:
        (column,) = columns.values()
        columns = {"": column, **columns}
    try:
        names = {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigurationError(f"the template {template!r} is none: {error}") from error
    if not names or not names <= columns.keys():
        known = ", ".join(filter(None, columns))
        raise ConfigurationError(f"the template {template!r} must name columns: {known}")
    if twice := names.intersection(library.twice):
        raise ConfigurationError(f"two columns are named {min(twice)!r}")
    used = {name: library.values(columns[name]) for name in names}
    prompts: list[str | None] = []
    for number, cells in enumerate(zip(*used.values(), strict=True)):
        row = dict(zip(used, cells, strict=True))
        try:
            prompts.append(None if any(cell is None for cell in cells) else _ROW.vformat(template, (), row))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the template {template!r} does not fit row {number}: {error}") from error
    return prompts


class _Row(Formatter):
    """Formats templates by name, where a number is the name of a column, too, and ``{}`` is a series."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs[str(key)] if str(key) in kwargs else kwargs[""]


_ROW = _Row()


def _rows_of(prompts: Iterable[str | None]) -> dict[str, list[int]]:
    """Each prompt once, with the rows that ask it."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if prompt is not None:
            rows.setdefault(prompt, []).append(row)
    return rows


def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a type and their types; none of a type that is one value."""
    if not isinstance(kind, type):
        return {}
    names: Iterable[str]
    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind)]
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif typing.is_typeddict(kind):
        names = kind.__annotations__
    else:
        listed = ("model_fields", "__struct_fields__", "_fields")
        names = next((getattr(kind, name) for name in listed if hasattr(kind, name)), ())
    hints: dict[str, Any] = {}
    # The types of a class within a function may be out of reach; its columns are then of objects.
    with contextlib.suppress(NameError):
        hints = typing.get_type_hints(kind) if names else {}
    return {name: hints.get(name) for name in names}


def text_columns(response_type: Any) -> set[str]:
    """Those of the columns of ``map_column`` that hold text and nothing else."""
    fields = _fields(response_type) or {"answer": str if response_type is None else response_type}
    return {name for name, hint in fields.items() if _scalar(hint) is str}


def _part(answer: Any, name: str) -> Any:
    if isinstance(answer, Mapping):
        return answer.get(name)
    return None if answer is None else getattr(answer, name)


def _scalar(hint: Any) -> type | None:
    """``int`` of ``int``, ``int | None`` and ``Optional[int]``; None of what is not a single number or text."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [each for each in typing.get_args(hint) if each is not types.NoneType]
        hint = others[0] if len(others) == 1 else None
    return hint if hint in (str, int, float, bool) else None


class _Library:
    """What is done with a column, by either library.

    Args:
        columns: by name; a ``Series`` without a name has the name ``""``.
        name: of a column of answers.
        twice: names that several columns have.
    """

    columns: dict[str, Any]
    is_frame: bool
    name: Any
    twice: Collection[str] = ()

    def values(self, column: Any) -> list[Any]:
        """The cells, None where one is missing."""
        raise NotImplementedError

    def column(self, values: list[Any], kind: type | None, name: Any) -> Any:
        raise NotImplementedError

    def vectors(self, vectors: Any, taken: list[int | None], dimensions: int | None) -> Any:
        raise NotImplementedError

    def frame(self, columns: dict[str, Any]) -> Any:
        raise NotImplementedError


class _Pandas(_Library):
    def __init__(self, given: Any) -> None:
        import pandas

        self._pandas, self._given = pandas, given
        self.is_frame = isinstance(given, pandas.DataFrame)
        self.name = None if self.is_frame else given.name
        if self.is_frame:
            self.columns = {str(name): given.iloc[:, place] for place, name in enumerate(given.columns)}
            self.twice = {name for name, count in Counter(map(str, given.columns)).items() if count > 1}
        else:
            self.columns = {"" if given.name is None else str(given.name): given}

    def values(self, column: Any) -> list[Any]:
        return [None if missing else cell for cell, missing in zip(column, column.isna(), strict=True)]

    def column(self, values: list[Any], kind: type | None, name: Any) -> Any:
        values = list(map(_whole, values))
        dtype = {int: "Int64", bool: "boolean", float: "float64", str: None}.get(kind, object) if kind else object
        if kind is str and isinstance(getattr(self._given, "dtype", None), self._pandas.StringDtype):
            dtype = self._given.dtype
        try:
            return self._pandas.Series(values, index=self._given.index, name=name, dtype=dtype)
        except (OverflowError, TypeError, ValueError):
            # A whole number of more than 64 bits: what was answered is not lost.
            return self._pandas.Series(values, index=self._given.index, name=name, dtype=object)

    def vectors(self, vectors: Any, taken: list[int | None], dimensions: int | None) -> Any:
        import numpy

        cells = numpy.full(len(taken), None, dtype=object)
        for row, number in enumerate(taken):
            if number is not None:
                cells[row] = vectors[number]
        return self._pandas.Series(cells, index=self._given.index, name=self.name)

    def frame(self, columns: dict[str, Any]) -> Any:
        # By their arrays: labels may come twice, and are not to be matched.
        arrays = {name: series.array for name, series in columns.items()}
        return self._pandas.DataFrame(arrays, index=self._given.index)


class _Polars(_Library):
    def __init__(self, given: Any) -> None:
        import polars

        self._polars = polars
        self.is_frame = isinstance(given, polars.DataFrame)
        self.name = "" if self.is_frame else given.name
        series = given.get_columns() if self.is_frame else [given]
        self.columns = {each.name: each for each in series}

    def values(self, column: Any) -> list[Any]:
        cells: list[Any] = column.to_list()
        return cells

    def column(self, values: list[Any], kind: type | None, name: Any) -> Any:
        polars, values = self._polars, list(map(_whole, values))
        dtypes = {int: polars.Int64, bool: polars.Boolean, float: polars.Float64, str: polars.String}
        try:
            return polars.Series(name, values, dtype=dtypes.get(kind) if kind else None)
        except (OverflowError, TypeError, ValueError, polars.exceptions.PolarsError):
            return polars.Series(name, values, dtype=polars.Object)

    def vectors(self, vectors: Any, taken: list[int | None], dimensions: int | None) -> Any:
        polars = self._polars
        if vectors is None:
            dtype = polars.Array(polars.Float32, dimensions) if dimensions else polars.Null()
            return polars.Series(self.name, taken, dtype=polars.Null()).cast(dtype)
        return polars.Series(self.name, vectors).gather(polars.Series(taken, dtype=polars.UInt32))

    def frame(self, columns: dict[str, Any]) -> Any:
        return self._polars.DataFrame(columns)


def _whole(value: Any) -> Any:
    """A model may write half a character, which no column of text holds."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and not value.isascii() else value


_KINDS: dict[str, Callable[[Any], _Library]] = {"pandas": _Pandas, "polars": _Polars}


def _library(column: Any) -> _Library:
    for name, kind in _KINDS.items():
        # Who has such a column has loaded its library.
        module = sys.modules.get(name)
        if module is not None and isinstance(column, (module.Series, module.DataFrame)):
            return kind(column)
    raise ConfigurationError(f"a Series or DataFrame of pandas or Polars is wanted, not {type(column).__name__}")
