"""Dask bags and data frames of prompts: each partition is asked by the worker that has it, and its answers stay there.

For answers that are too many for one program. ``client.map(..., executor=)`` brings them here, and has a journal.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..batch.chunks import Work

if TYPE_CHECKING:
    from dask.bag import Bag
    from dask.dataframe import DataFrame
    from pandas import DataFrame as Pandas

    from ..batch.result import MapResult
    from ..client import Client


def ask_bag(client: Client, prompts: Bag, **options: Any) -> Bag:
    """A bag of ``MapResult``, one for each of the prompts, in their order.

    Nothing is asked before the bag is computed or written. A partition whose worker is killed is asked again as a
    whole.

    Args:
        client: each worker process gets a copy of it once, by its pickle.
        prompts: whatever ``map`` takes.
        options: as for ``map``; ``workers`` is the number of calls under way for each partition.
    """
    bag: Any = prompts  # Dask's own methods have no types
    asked: Bag = bag.map_partitions(_ask_partition, _work(client, options))
    return asked


def ask_frame(client: Client, frame: DataFrame, column: str, *, into: str = "answer", **options: Any) -> DataFrame:
    """The frame with the answers to a column of prompts in a column ``into``, and what failed in a column ``error``.

    Nothing is asked before the frame is computed or written. A partition whose worker is killed is asked again as a
    whole.

    Args:
        client: each worker process gets a copy of it once, by its pickle.
        options: as for ``map``; ``workers`` is the number of calls under way for each partition.
    """
    rows: Any = frame
    meta = _with_answers(rows._meta, into, [])
    asked: DataFrame = rows.map_partitions(_ask_rows, _work(client, options), column, into, meta=meta)
    return asked


def _work(client: Client, options: dict[str, Any]) -> Work:
    work = Work(partial(client.map, **{**options, "ordered": True}), options.get("workers", 16))
    work.pickled()  # what cannot be is told here
    return work


def _ask_partition(prompts: Any, work: Work) -> list[MapResult[Any]]:
    return list(work.ask(prompts))


def _ask_rows(rows: Pandas, work: Work, column: str, into: str) -> Pandas:
    return _with_answers(rows, into, _ask_partition(rows[column].tolist(), work))


def _with_answers(rows: Pandas, into: str, results: list[MapResult[Any]]) -> Pandas:
    import pandas

    answers = [result.text if result.ok else None for result in results]
    errors = [None if result.error is None else f"{type(result.error).__name__}: {result.error}" for result in results]
    return rows.assign(
        **{
            into: pandas.Series(answers, index=rows.index, dtype="string"),
            "error": pandas.Series(errors, index=rows.index, dtype="string"),
        }
    )
