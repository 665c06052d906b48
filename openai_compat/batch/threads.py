"""The threads of ``client.map``: they take requests one by one, and ask no further ahead than is read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Protocol

from .._log import logger
from .._threads import spawn
from ..cancel import CancelToken
from ..errors import Cancelled
from .concurrency import Concurrency
from .run import Arrivals
from .source import Item

log: logging.Logger = logger("batch")

TELL_EVERY = 0.005
"""Seconds after which a thread says how much of a processor it has had."""


class Ask(Protocol):
    """What asks, on any thread, and hands on what comes."""

    def __call__(self, item: Item, token: CancelToken) -> object:
        """Ask one request; its result is handed on by now, or soon is."""

    def finish(self) -> object:
        """Hand on what has not been; nothing more is asked."""


class ThreadCrew:
    """Threads of this process, each with one call under way; two requests for each are so, or answered and not read.

    Args:
        arrivals: where ``ask`` hands its results on.
        workers: how many threads there may be.
    """

    def __init__(self, items: Iterator[Item], ask: Ask, arrivals: Arrivals, workers: Callable[[], int]) -> None:
        self.arrivals: Arrivals = arrivals
        self._items, self._ask, self._workers = items, ask, workers
        self._token = CancelToken()
        self._slots: SimpleQueue[None] = SimpleQueue()
        self._concurrency = Concurrency()
        self._taking = threading.Lock()
        self._over = False
        self._begun = 0
        self._ended = 0

    def begin(self) -> None:
        """One more thread, which begins the next as soon as it has something to do."""
        spawn(self._work, name="openai_compat map")
        self._begun += 1  # before the slots, without which it does not end
        self._concurrency.join()
        self.read()
        self.read()

    def read(self) -> None:
        """A result has been read: one more request may be taken."""
        self._slots.put(None)

    def stop(self, *, cancel: bool) -> None:
        """Take nothing more; with ``cancel`` end what is under way."""
        self._over = True
        self._concurrency.stop()
        for _ in range(self._begun):
            self._slots.put(None)
        if cancel:
            self._token.cancel()

    def _wait_for_slot(self) -> None:
        if self._slots.empty():
            self.arrivals.hurry()
            self._concurrency.starved()
            self._slots.get()
            self._concurrency.fed()
        else:
            self._slots.get()

    def _take(self) -> Item | None:
        with self._taking:
            if self._over:
                return None
            item = next(self._items, None)
            if item is None:
                self.stop(cancel=False)
            elif self._begun < self._workers():
                self._begin_another()
            return item

    def _begin_another(self) -> None:
        try:
            self.begin()
        except RuntimeError as error:  # the system has no more; those that there are ask everything
            begun = self._begun
            self._workers = lambda: begun
            log.warning("%d threads ask, and no more: %s", begun, error)

    def _work(self) -> None:
        try:
            self._ask_all()
        except Cancelled:
            pass  # nothing came of it
        except BaseException as error:
            self.stop(cancel=not isinstance(error, Exception))
            self.arrivals.put(error)
        finally:
            with self._taking:
                self._ended += 1
                last = self._ended == self._begun
            if last:
                self._over = True
                self._finish()

    def _ask_all(self) -> None:
        spent: float | None = None
        told, asked = 0.0, 0
        while True:
            self._wait_for_slot()
            item = self._take()
            if item is None:
                return
            self._ask(item, self._token)
            asked += 1
            if (now := time.monotonic()) - told >= TELL_EVERY:
                told, before, spent = now, spent, time.thread_time()
                if before is not None:  # not of the first, which opens a connection, and imports what is needed
                    self._concurrency.worked(spent - before, asked)
                asked = 0

    def _finish(self) -> None:
        try:
            self._ask.finish()
        except Exception as error:
            self.arrivals.put(error)
        finally:
            self.arrivals.put(None)
