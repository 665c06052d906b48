"""``client.map``: who asks, and what is looked up before and written down after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import Any

from ..cancel import CancelToken
from ..errors import ConfigurationError
from .ask import Asker, Book, outcome, result_of
from .journal import open_journal
from .options import RunOptions
from .progress import progress_bar
from .result import MapResult
from .run import Crew, MapRun, ThreadCrew
from .source import Item, read_requests


def map_requests(asker: Asker, requests: Iterable[Any], options: RunOptions) -> MapRun[Any]:
    """Begin to ask; see ``Client.map``."""
    items = read_requests(requests, asker.make)
    total = len(requests) if options.total is None and isinstance(requests, Sized) else options.total
    bar = progress_bar(options.progress, total)
    kept, close = open_journal(options.journal)
    book = None if kept is None else Book(asker, kept, options.retry_failed)
    workers = options.workers
    crew: Crew
    if options.executor is None:
        ask = without_journal(asker) if book is None else WithJournal(asker, book)
        crew = ThreadCrew(items, ask, lambda: workers)
    else:
        from .chunks import Work
        from .executors import ExecutorCrew, Pool

        work = Work(partial(outcome, asker.ask), workers)
        pool = Pool(options.executor, work)
        crew = ExecutorCrew(items, work, pool, chunk_size=options.chunk_size or workers, book=book)
    return MapRun(
        crew, ordered=options.ordered, on_error=options.on_error, progress=bar, close=close, cancel=options.cancel
    )


def without_journal(asker: Asker) -> Callable[[Item, CancelToken], MapResult[Any]]:
    """A function that asks a server and keeps nothing."""

    def ask(item: Item, token: CancelToken) -> MapResult[Any]:
        return result_of(item, outcome(asker.ask, item.request, token))

    return ask


class WithJournal:
    """A function that looks into a journal before it asks, and writes into it after."""

    def __init__(self, asker: Asker, book: Book) -> None:
        self._asker, self._book = asker, book
        self._lock = threading.Lock()
        self._under_way: dict[bytes, threading.Event] = {}

    def __call__(self, item: Item, token: CancelToken) -> MapResult[Any]:
        try:
            key, body = self._book.key(item, token)
        except (ConfigurationError, TypeError, ValueError) as error:
            return result_of(item, (None, error, 0.0))
        mine = threading.Event()
        while True:
            with self._lock:
                other = self._under_way.setdefault(key, mine)
            if other is mine:
                break
            # The same question twice: whoever asks it writes the answer down.
            while not other.wait(0.1):
                token.raise_if_cancelled()
        try:
            known = self._book.found(item, key)
            if known is not None:
                return known
            (result,) = self._book.keep((item, key, body, outcome(self._asker.ask, item.request, token)))
            return result
        finally:
            with self._lock:
                del self._under_way[key]
            mine.set()
