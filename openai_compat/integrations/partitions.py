"""Rows of prompts where a cluster has them: one value that Dask, Ray Data and Spark call with each of their partitions.

::

    ask = AskRows(client, "prompt", parts="s3://bucket/answers", max_tokens=60)

    frame.map_partitions(ask)                                      # Dask; or ask_frame
    dataset.map_batches(ask, batch_format="pandas")                # Ray Data
    table.mapInPandas(lambda frames: map(ask, frames), schema)     # Spark
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from ..batch.chunks import Work
from ..batch.parts import Parts, location, name_of
from .frames import map_column, text_columns

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..client import Client

PART_SIZE = 1000
"""Answers in a file of ``parts``."""


class AskRows:
    """Asks a prompt for each row of a pandas ``DataFrame``, and returns it with the answers in more columns.

    A pickle of it is small where the client is; each process makes one client of it, and keeps that for all its
    partitions. A partition whose worker is killed is asked again as a whole; with ``parts``, only what had not been
    written there.

    Args:
        client: any; its key comes from the environment, or ``pickle_key=True`` lets it travel.
        column: has the prompts.
        template: in place of a column of prompts, a prompt with the names of columns: ``"Summarise: {text}"``.
        into: the column of the answers; what failed is in a column ``error``. A ``response_type`` with fields makes a
            column for each in its place.
        parts: a directory that all workers reach, as a path or a URI (``s3://bucket/folder``): each writes its answers
            there, as Parquet files, and what they have is not asked again. Needs pyarrow.
        part_size: answers in each of these files.
        options: as for ``map_column`` and ``map``; ``workers`` is the number of calls under way in each process.

    Raises:
        ConfigurationError: the client, or a type or tool, cannot go to another process.
    """

    def __init__(
        self,
        client: Client,
        column: str | None = None,
        *,
        template: str | None = None,
        into: str = "answer",
        parts: str | os.PathLike[str] | None = None,
        part_size: int = PART_SIZE,
        **options: Any,
    ) -> None:
        ask = partial(map_column, client, template=template, with_errors=True, **options)
        self._work = Work(ask, options.get("workers", 16))
        self._work.pickled()  # what cannot be is told here
        self._column, self._into = column, into
        self._texts = {"error", *text_columns(options.get("response_type"))}
        self._parts = None if parts is None else location(parts)
        self._part_size = part_size

    def __call__(self, rows: DataFrame) -> DataFrame:
        """The rows with their answers."""
        prompts: Any = rows if self._column is None else rows[self._column]
        if self._parts is None or not len(rows):
            answers = self._work.ask(prompts)
        else:
            name = name_of(rows.to_dict("records") if self._column is None else prompts.tolist())
            with Parts(self._parts, name, size=self._part_size) as journal:
                answers = self._work.ask(prompts, journal=journal)
        # The same types in all partitions, also in one where all is missing.
        columns = {name: answers[name].astype("string") if name in self._texts else answers[name] for name in answers}
        return rows.assign(**{self._into if name == "answer" else name: column for name, column in columns.items()})
