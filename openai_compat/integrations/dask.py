"""Dask bags and data frames of prompts: each partition is asked by the worker that has it, and its answers stay there.

For answers that are too many for one program. ``client.map(..., executor=)`` brings them here, and has a journal.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from ..batch.chunks import Work
from ..batch.parts import Parts, location, name_of
from .partitions import PART_SIZE, AskRows

if TYPE_CHECKING:
    from dask.bag import Bag
    from dask.dataframe import DataFrame

    from ..batch.result import MapResult
    from ..client import Client


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
    work = Work(partial(client.map, **{**options, "ordered": True}), options.get("workers", 16))
    work.pickled()  # what cannot be is told here
    asked: Bag = bag.map_partitions(_ask_partition, work, None if parts is None else location(parts), part_size)
    return asked


def ask_frame(client: Client, frame: DataFrame, column: str | None = None, **options: Any) -> DataFrame:
    """The frame with the answers in a column ``answer``, and what failed in a column ``error``.

    Nothing is asked before the frame is computed or written.

    Args:
        column: has the prompts.
        options: as for ``AskRows``: ``template``, ``into``, ``parts``, ``response_type``, and what ``map`` takes.
    """
    rows: Any = frame
    ask = AskRows(client, column, **options)
    asked: DataFrame = rows.map_partitions(ask, meta=ask(rows._meta))
    return asked


def _ask_partition(prompts: Any, work: Work, parts: str | None, part_size: int) -> list[MapResult[Any]]:
    asked = list(prompts)
    if parts is None:
        return list(work.ask(asked))
    with Parts(parts, name_of(asked), size=part_size) as journal:
        return list(work.ask(asked, journal=journal))
