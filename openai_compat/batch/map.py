"""``client.map``: who asks, and what is looked up before and written down after."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from functools import partial
from typing import Any

from ..cancel import CancelToken
from ..errors import ConfigurationError
from .ask import Answer, Asker, Book, outcome, result_of
from .journal import JournalError, open_journal
from .options import RunOptions
from .progress import progress_bar
from .result import MapResult
from .run import Ask, Crew, MapRun, ThreadCrew
from .source import Item, read_requests

FAST = 0.02
"""Seconds of a request from which on its thread asks nothing more until the answer is on disk."""

GATHER = 0.00006
"""Seconds for each other request under way, of 16 at most, in which ``FAST`` answers gather, to be written as one."""


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


def without_journal(asker: Asker) -> Ask:
    """A function that asks a server and keeps nothing."""

    def ask(item: Item, token: CancelToken) -> list[list[MapResult[Any]]]:
        return [[result_of(item, outcome(asker.ask, item.request, token))]]

    return ask


class WithJournal:
    """A function that looks into a journal before it asks, and has no result that is not written there.

    Whichever thread has an answer while none writes does so, for all. One that waited long for it goes on when it is
    written, so that after a kill no more than one request for each thread is asked again. A ``FAST`` one goes on at
    once: two for each are, at the most, which is soon done, and waiting would take another tenth of the throughput.
    """

    def __init__(self, asker: Asker, book: Book) -> None:
        self._asker, self._book = asker, book
        self._lock = threading.Lock()
        self._under_way: dict[bytes, list[Item]] = {}
        self._came: deque[Answer] = deque()
        self._writing = threading.Lock()

    def __call__(self, item: Item, token: CancelToken) -> Iterator[list[MapResult[Any]]]:
        try:
            key, body = self._book.key(item, token)
        except (ConfigurationError, TypeError, ValueError) as error:
            yield [result_of(item, (None, error, 0.0))]
            return
        with self._lock:
            same = self._under_way.get(key)
            if same is not None:
                # The same question twice: who asks it first answers both.
                same.append(item)
                return
            self._under_way[key] = []
        known = self._book.found(item, key)
        if known is not None:
            yield [known, *self._same(key)]
            return
        came = outcome(self._asker.ask, item.request, token)
        self._came.append((item, key, body, came))
        yield from self._save(fast=came[2] < FAST)

    def _save(self, *, fast: bool) -> Iterator[list[MapResult[Any]]]:
        wait = not fast
        failed: JournalError | None = None
        # Looked at again after each release: what came meanwhile, of who did not wait, is left to this thread.
        while (wait or self._came) and self._writing.acquire(blocking=wait):
            wait = False
            try:
                if fast:
                    time.sleep(GATHER * max(0, min(16, len(self._under_way) - 1)))
                came = [self._came.popleft() for _ in range(len(self._came))]
                results = self._book.keep(*came)
            except JournalError as error:
                failed = JournalError(str(error), unsaved=(*(failed.unsaved if failed else ()), *error.unsaved))
                continue
            finally:
                self._writing.release()
            yield [*results, *(each for _, key, _, _ in came for each in self._same(key))]
        if failed is not None:
            raise failed

    def _same(self, key: bytes) -> list[MapResult[Any]]:
        """The results of all others that asked what is known by now."""
        with self._lock:
            same = self._under_way.pop(key)
        results = []
        for item in same:
            known = self._book.found(item, key)
            assert known is not None
            results.append(known)
        return results
