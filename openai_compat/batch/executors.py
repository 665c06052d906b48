"""``client.map`` over any ``concurrent.futures.Executor``: threads, processes, a cluster.

Requests go out in chunks, so that a pickle and a place in the executor's queue cost little for each. The journal stays
with the driver, where the run was begun: what a killed process had under way is asked again, what was answered is not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, cast

import attrs

from .._threads import spawn
from ..cancel import CancelToken
from ..errors import Cancelled, ConfigurationError, OpenAICompatError
from ..limits.current import in_force
from .ask import Book, Outcome, result_of
from .chunks import Outcomes, Work, ask_chunk
from .run import Arrivals
from .source import Item

TRIES = 4
"""How often a chunk is given to the executor where the process that had it was killed; then the run ends."""

LINGER = 0.1
"""Seconds without news after which a chunk goes out that is not full yet."""

LOOK = 5.0
"""Seconds after which an executor is asked again how large it is."""


class Pool:
    """An executor as a run uses it, and another one in its place where its processes were killed.

    Args:
        executor: or a function that makes one, which is then shut down at the end.
    """

    def __init__(self, executor: Executor | Callable[[], Executor], work: Work) -> None:
        self._make: Callable[[], Executor] | None = None
        if in_force.get():
            raise ConfigurationError(
                "the block of a budget does not hold for what executor= runs: give the budget to the client"
            )
        if not hasattr(executor, "submit"):
            self._make = executor
            executor = executor()
        self._executor: Executor = cast("Executor", executor)
        self._work = work
        self._replacing = threading.Lock()
        self._places = 0
        self._next_look = 0.0
        if not isinstance(self._executor, ThreadPoolExecutor):
            work.pickled()  # what cannot be is told before anything is asked

    def submit(self, requests: Sequence[Any]) -> Future[Outcomes]:
        """Hand in a chunk."""
        used = self._executor
        try:
            return used.submit(ask_chunk, self._work, requests)
        except BrokenExecutor:
            if self._make is None:
                raise
            with self._replacing:
                if self._executor is used:
                    used.shutdown(wait=False)
                    self._executor = self._make()
            return self._executor.submit(ask_chunk, self._work, requests)

    def ask(self, requests: Sequence[Any], token: CancelToken) -> list[Outcome]:
        """Hand in a chunk, and wait for what comes of each request.

        Raises:
            Cancelled: by the token; calls under way in other processes run to their end.
        """
        found: dict[int, Outcome] = {}
        for tries in range(1, TRIES + 1):
            missing = [place for place in range(len(requests)) if place not in found]
            try:
                outcomes = _result(self.submit([requests[place] for place in missing]), token)
            except Cancelled:
                self._work.token.cancel()
                raise
            except BaseException as error:
                if not self.lost(error) or tries == TRIES:
                    raise
                continue
            found.update((missing[place], came) for place, came in outcomes.found.items())
            if outcomes.failure is not None:
                raise outcomes.failure
            if len(found) == len(requests):
                return [found[place] for place in range(len(requests))]
        raise interrupted()

    def lost(self, error: BaseException) -> bool:
        """Whether the process that had a chunk is gone, and another may take it."""
        if isinstance(error, BrokenExecutor):
            return self._make is not None
        if isinstance(error, (CancelledError, KeyboardInterrupt)):
            return True  # a Ctrl-C that the worker got alone
        # Dask's own words for it, which has tried it on other workers by then.
        return type(error).__name__ in ("KilledWorker", "FutureCancelledError")

    def places(self) -> int:
        """How many chunks run at a time, as of some seconds ago."""
        if time.monotonic() >= self._next_look:
            self._places = places(self._executor)
            self._next_look = time.monotonic() + LOOK
        return self._places

    def close(self) -> None:
        """Shut down the executor that was made here."""
        if self._make is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Outcomes], token: CancelToken) -> Outcomes:
    done = threading.Event()
    wake = done.set
    future.add_done_callback(lambda _: wake())
    token.subscribe(wake)
    done.wait()
    token.unsubscribe(wake)
    if token.cancelled:
        future.cancel()
        raise Cancelled
    return future.result()


def interrupted() -> OpenAICompatError:
    """What ends a run whose processes are interrupted again and again."""
    return OpenAICompatError(f"a process was interrupted {TRIES} times over the same requests")


@attrs.define
class _Asked:
    """A request that is out, and what a journal knows it by."""

    item: Item
    key: bytes = b""
    body: bytes = b""


@attrs.define(eq=False)
class _Chunk:
    asked: list[_Asked]
    tries: int = 0


class ExecutorCrew:
    """Sends requests to an executor, and keeps what comes back.

    One thread takes requests and sends them, another takes the answers. Two chunks for each of the executor's places
    are under way or wait to be read.
    """

    def __init__(self, items: Iterator[Item], work: Work, pool: Pool, *, chunk_size: int, book: Book | None) -> None:
        self.arrivals: Arrivals = Arrivals()
        self._items, self._work, self._pool, self._chunk_size, self._book = items, work, pool, chunk_size, book
        self._ahead = 0
        self._slots = threading.Semaphore(0)
        self._over = False
        self._sending = threading.RLock()
        self._full: list[_Asked] = []
        self._out: dict[_Chunk, Future[Outcomes]] = {}
        self._back: SimpleQueue[_Chunk | None] = SimpleQueue()
        self._under_way: dict[bytes, list[Item]] = {}

    def begin(self) -> None:
        """Start the two threads."""
        spawn(self._take_all, name="openai_compat map takes")
        spawn(self._settle_all, name="openai_compat map keeps")

    def read(self) -> None:
        """A result has been read: one more request may be taken."""
        self._slots.release()

    def stop(self, *, cancel: bool) -> None:
        """Take nothing more; with ``cancel`` end what this process has under way, and what waits in the executor.

        Calls under way in other processes run to their end.
        """
        self._over = True
        self._slots.release()
        if cancel:
            self._work.token.cancel()
            for future in list(self._out.values()):
                future.cancel()

    # What goes out

    def _take_all(self) -> None:
        try:
            while True:
                if not self._slots.acquire(blocking=False):
                    self._wait()
                item = None if self._over else next(self._items, None)
                if item is None:
                    break
                self._take(item)
            if not self._over:
                self._send()
        except Exception as error:
            self.stop(cancel=False)
            self.arrivals.put(error)
        except BaseException as error:
            self.stop(cancel=True)
            self.arrivals.put(error)
        finally:
            self._over = True
            self._back.put(None)

    def _wait(self) -> None:
        """Until one more request may be taken; a cluster may have grown meanwhile."""
        if not self._out:
            self._send()
        while True:
            ahead = 2 * self._pool.places() * self._chunk_size
            if ahead > self._ahead:
                self._slots.release(ahead - self._ahead)
                self._ahead = ahead
            if self._slots.acquire(timeout=LOOK):
                return

    def _take(self, item: Item) -> None:
        asked = _Asked(item)
        if self._book is not None:
            try:
                asked = _Asked(item, *self._book.key(item, self._work.token))
            except (ConfigurationError, TypeError, ValueError) as error:
                self.arrivals.put(result_of(item, (None, error, 0.0)))
                return
            with self._sending:
                if asked.key in self._under_way:
                    # The same question twice: who asks it first answers both.
                    self._under_way[asked.key].append(item)
                    return
                known = self._book.found(item, asked.key)
                if known is not None:
                    self.arrivals.put(known)
                    return
                self._under_way[asked.key] = []
        with self._sending:
            self._full.append(asked)
            if len(self._full) >= self._chunk_size:
                self._send()

    def _send(self) -> None:
        with self._sending:
            if self._full:
                chunk, self._full = _Chunk(self._full), []
                self._submit(chunk)

    def _submit(self, chunk: _Chunk) -> None:
        chunk.tries += 1
        requests = [each.item.request for each in chunk.asked]
        with self._sending:
            future = self._pool.submit(requests)
            self._out[chunk] = future
        future.add_done_callback(lambda done: self._back.put(chunk))
        if self._work.token.cancelled:
            future.cancel()

    # What comes back

    def _settle_all(self) -> None:
        taking = True
        try:
            while taking or self._out:
                try:
                    back = self._back.get(timeout=LINGER)
                except Empty:
                    self._send()
                    continue
                if back is None:
                    taking = False
                    continue
                try:
                    self._settle(back)
                except BaseException as error:
                    self.stop(cancel=True)
                    self.arrivals.put(error)
        finally:
            self._pool.close()
            self.arrivals.put(None)

    def _settle(self, chunk: _Chunk) -> None:
        try:
            # Dask computes what a killed worker had answered again, as long as anybody holds its future.
            outcomes = self._out.pop(chunk).result()
        except BaseException as error:
            if self._work.token.cancelled:
                return
            if not self._pool.lost(error) or chunk.tries >= TRIES:
                raise
            self._submit(chunk)
            return
        missing = [each for place, each in enumerate(chunk.asked) if place not in outcomes.found]
        self._keep([(chunk.asked[place], came) for place, came in outcomes.found.items()])
        if outcomes.failure is not None:
            raise outcomes.failure
        if missing and not self._work.token.cancelled:
            if chunk.tries >= TRIES:
                raise interrupted()
            self._submit(_Chunk(missing, chunk.tries))

    def _keep(self, answers: list[tuple[_Asked, Outcome]]) -> None:
        if self._book is None:
            for asked, came in answers:
                self.arrivals.put(result_of(asked.item, came))
            return
        for result in self._book.keep(*((asked.item, asked.key, asked.body, came) for asked, came in answers)):
            self.arrivals.put(result)
        for asked, _ in answers:
            with self._sending:
                same = self._under_way.pop(asked.key)
            for item in same:
                known = self._book.found(item, asked.key)
                assert known is not None
                self.arrivals.put(known)


def places(executor: Executor) -> int:
    """How many chunks an executor runs at a time, as far as it says; else one for each processor of this machine."""
    dask = getattr(executor, "_client", None)
    threads_of_dask: Callable[[], dict[str, int]] | None = getattr(dask, "nthreads", None)
    if threads_of_dask is not None:
        return max(2, sum(threads_of_dask().values()))
    for name in ("num_workers", "_max_workers"):
        if isinstance(number := getattr(executor, name, None), int) and number > 0:
            return number
    return os.cpu_count() or 1
