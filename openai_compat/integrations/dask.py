"""Dask bags and data frames of prompts: each partition is asked by the worker that has it, and its answers stay there.

For answers that are too many for one program. ``client.map(..., executor=)`` brings them here, and has a journal.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from ..batch.chunks import Work
from ..batch.parts import Parts, name_of
from .frames import map_column

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask.bag import Bag
    from dask.dataframe import DataFrame
    from pandas import DataFrame as Pandas

    from ..batch.result import MapResult
    from ..client import Client

PART_SIZE = 1000
"""Answers in a file of ``parts``."""


def ask_bag(
    client: Client,
    prompts: Bag,
    *,
    parts: str | os.PathLike[str] | None = None,
    part_size: int = PART_SIZE,
    **options: Any,
) -> Bag:
    """A bag of ``MapResult``, one for each of the prompts, in their order.

    Nothing is asked before the bag is computed or written. A partition whose worker is killed is asked again as a
    whole; with ``parts``, only what had not been written there.

    Args:
        client: each worker process gets a copy of it once, by its pickle.
        prompts: whatever ``map`` takes.
        parts: a directory that all workers reach, as a path or a URI (``s3://bucket/folder``): each writes its answers
            there, as Parquet files, and what they have is not asked again. Needs pyarrow.
        part_size: answers in each of these files.
        options: as for ``map``, without ``journal``; ``workers`` is the number of calls under way for each partition.
    """
    bag: Any = prompts  # Dask's own methods have no types
    work = _work(partial(client.map, **{**options, "ordered": True}), options)
    asked: Bag = bag.map_partitions(_ask_partition, work, parts, part_size)
    return asked


def ask_frame(
    client: Client,
    frame: DataFrame,
    column: str | None = None,
    *,
    template: str | None = None,
    into: str = "answer",
    parts: str | os.PathLike[str] | None = None,
    part_size: int = PART_SIZE,
    **options: Any,
) -> DataFrame:
    """The frame with the answers in a column ``into``, and what failed in a column ``error``.

    Nothing is asked before the frame is computed or written. A partition whose worker is killed is asked again as a
    whole; with ``parts``, only what had not been written there.

    Args:
        client: each worker process gets a copy of it once, by its pickle.
        column: has the prompts.
        template: in place of a column of prompts, a prompt with the names of columns: ``"Summarise: {text}"``.
        parts, part_size: as for ``ask_bag``.
        options: as for ``map_column`` of ``integrations.frames``: a ``response_type`` with fields makes a column for
            each. ``workers`` is the number of calls under way for each partition.
    """
    rows: Any = frame
    ask = partial(map_column, client, template=template, with_errors=True, **options)
    work = _work(ask, options)
    meta = _ask_rows(rows._meta, work, column, into, None, part_size)
    asked: DataFrame = rows.map_partitions(_ask_rows, work, column, into, parts, part_size, meta=meta)
    return asked


def _work(ask: Callable[..., Any], options: dict[str, Any]) -> Work:
    work = Work(ask, options.get("workers", 16))
    work.pickled()  # what cannot be is told here
    return work


def _ask_partition(
    prompts: Any, work: Work, parts: str | os.PathLike[str] | None, part_size: int
) -> list[MapResult[Any]]:
    asked = list(prompts)
    if parts is None:
        return list(work.ask(asked))
    with Parts(parts, name_of(asked), size=part_size) as journal:
        return list(work.ask(asked, journal=journal))


def _ask_rows(
    rows: Pandas, work: Work, column: str | None, into: str, parts: str | os.PathLike[str] | None, part_size: int
) -> Pandas:
    prompts: Any = rows if column is None else rows[column]
    if parts is None:
        answers = work.ask(prompts)
    else:
        name = name_of(prompts.to_dict("records") if column is None else prompts.tolist())
        with Parts(parts, name, size=part_size) as journal:
            answers = work.ask(prompts, journal=journal)
    answers = answers.rename(columns={"answer": into})
    return rows.assign(**{name: answers[name] for name in answers.columns})
