"""``client.map``: who asks, and what is looked up before and written down after."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from functools import partial
from queue import SimpleQueue
from typing import Any

from .._threads import spawn
from ..cancel import CancelToken
from ..errors import ConfigurationError
from .ask import Answer, Asker, Book, outcome, result_of
from .journal import open_journal
from .options import RunOptions
from .progress import progress_bar
from .result import MapResult
from .run import Arrivals, Crew, MapRun
from .source import Item, read_requests
from .threads import Ask, ThreadCrew

GATHER = 0.005
"""Seconds in which answers gather, to be written as one, where their threads need not wait for that."""

LATE = 0.02
"""Seconds after which they are written even if no other comes."""


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
        arrivals = Arrivals()
        ask: Ask = (
            WithoutJournal(asker, arrivals.put) if book is None else WithJournal(asker, book, workers, arrivals.put)
        )
        crew = ThreadCrew(items, ask, arrivals, lambda: workers)
    else:
        from .chunks import Work
        from .executors import ExecutorCrew, Pool

        work = Work(partial(outcome, asker.ask), workers)
        pool = Pool(options.executor, work)
        crew = ExecutorCrew(items, work, pool, chunk_size=options.chunk_size or workers, book=book)
    return MapRun(
        crew, ordered=options.ordered, on_error=options.on_error, progress=bar, close=close, cancel=options.cancel
    )


Put = Callable[..., object]
"""Takes results that may be read."""


class WithoutJournal:
    """Asks a server, and keeps nothing."""

    def __init__(self, asker: Asker, put: Put) -> None:
        self._asker, self._put = asker, put

    def __call__(self, item: Item, token: CancelToken) -> None:
        self._put(result_of(item, outcome(self._asker.ask, item.request, token)))

    def finish(self) -> None:
        pass


class WithJournal:
    """Looks into a journal before it asks, and hands on no result that is not written there.

    No more requests than there are ``workers`` are under way or not yet written, so that after a kill no more are asked
    again. A thread whose answer leaves room for another request goes on; where there is no room, or the last answers
    were written ``GATHER`` seconds ago, it writes what has come, or waits for the one that does.
    """

    def __init__(self, asker: Asker, book: Book, workers: int, put: Put) -> None:
        self._asker, self._book, self._put = asker, book, put
        self._lock = threading.Lock()
        self._under_way: dict[bytes, list[Item]] = {}
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(workers):
            self._room.put(None)
        self._came: deque[Answer] = deque()
        self._writing = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._sleeps = False
        self._wrote = 0.0
        self._over = threading.Event()
        self._late = spawn(self._write_late, name="openai_compat map writes")

    def __call__(self, item: Item, token: CancelToken) -> None:
        try:
            key, body = self._book.key(item, token)
        except (ConfigurationError, TypeError, ValueError) as error:
            self._put(result_of(item, (None, error, 0.0)))
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
            self._put(known, *self._same(key))
            return
        if self._room.empty():
            self._write(self._room.empty)
        self._room.get()
        try:
            came = outcome(self._asker.ask, item.request, token)
        except BaseException:
            self._room.put(None)
            raise
        self._came.append((item, key, body, came))
        if self._is_due():
            self._write(self._is_due)
        if self._came and self._sleeps:
            self._sleeps = False
            self._wake.put(None)

    def finish(self) -> None:
        self._over.set()
        self._wake.put(None)
        self._late.join()  # it hands on what it has written
        self._write(lambda: True)

    def _is_due(self) -> bool:
        return self._room.empty() or self._is_old(GATHER)

    def _is_old(self, seconds: float = LATE) -> bool:
        return time.monotonic() - self._wrote >= seconds

    def _write(self, is_due: Callable[[], bool]) -> None:
        """Write whatever has come, where that is still due after the one that writes by now."""
        with self._writing:
            came = [self._came.popleft() for _ in range(len(self._came))] if is_due() else ()
            if not came:
                return
            try:
                results = self._book.keep(*came)
                self._wrote = time.monotonic()
            finally:
                for _ in came:
                    self._room.put(None)
        self._put(*results, *itertools.chain.from_iterable([self._same(key) for _, key, _, _ in came]))

    def _write_late(self) -> None:
        """Write what nobody has: those that are under way may take long."""
        while not self._over.is_set():
            self._sleeps = True
            if not self._came:  # nor in the instant before it was known that this sleeps
                self._wake.get()
            self._over.wait(LATE)
            try:
                self._write(self._is_old)
                self._book.tidy()
            except Exception as error:
                self._put(error)

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
