"""The results of ``client.map`` as they come, whoever asks for them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from .._bell import Bell
from .._log import logger
from ..cancel import CancelToken
from ..errors import BudgetExceededError
from ..wire.response import ChatResponse
from .journal import JournalError
from .result import MapResult

if TYPE_CHECKING:
    from typing import Self

    from .progress import Progress

log: logging.Logger = logger("batch")

R = TypeVar("R", bound=ChatResponse)

GRACE = 0.5
"""Seconds in which calls under way end after they were cancelled; what has not by then is left to itself."""

GLANCE = 0.1
"""Seconds after which a wait looks up: a Ctrl-C in the instant before it is heard only then."""

GATHER = 0.002
"""Seconds after which results that come fast are looked for: to be woken for each costs more than the result does."""


class Arrivals:
    """What has come of a run, and was not yielded yet: results, what went wrong, and None at the end."""

    def __init__(self) -> None:
        self.finished: dict[int, MapResult[Any]] = {}
        self._came: deque[MapResult[Any] | BaseException | None] = deque()
        self._news = Bell()
        self._taking = threading.RLock()
        self._sleeps = False
        self._fast = False

    def put(self, *came: MapResult[Any] | BaseException | None) -> None:
        """Results, what ended the run, or None after which nothing comes."""
        self._came.extend(came)
        if self._sleeps:
            self.hurry()

    def hurry(self) -> None:
        """Have what came read at once: somebody waits for that."""
        self._sleeps = False
        self._news.ring()

    def wait(self, seconds: float = math.inf) -> bool:
        """Whether something has come, within so many seconds."""
        began = time.monotonic()
        end = began + seconds
        while not self._came:
            if began >= end:
                return False
            pause = GATHER if self._fast else GLANCE
            self._sleeps = not self._fast
            if not self._came:  # nor in the instant before it was known that this sleeps
                self._news.wait(min(end - began, pause))
            now = time.monotonic()
            self._fast = bool(self._came) and now - began < 2 * GATHER
            began = now
        return True

    def take(self) -> list[MapResult[Any]] | BaseException | None:
        """Wait for what comes next; the results that have come go to ``finished``.

        May be called on several threads, and by what handles a signal within it: of those, each is told of the end.
        """
        self.wait()
        taken: list[MapResult[Any]] = []
        with self._taking:
            while self._came:
                first = self._came[0]
                if isinstance(first, MapResult):
                    # No call, and so no signal, between these three: what came is in one of both.
                    if self._came[0] is first:
                        self.finished[first.index] = first
                        del self._came[0]
                        taken.append(first)
                elif taken:
                    break
                else:
                    if first is not None and self._came[0] is first:
                        del self._came[0]
                    return first
        return taken


class Crew(Protocol):
    """Who asks. It does not know the ``MapRun``, so that its work ends when that is let go."""

    arrivals: Arrivals

    def begin(self) -> None:
        """Start to ask."""

    def read(self) -> None:
        """A result has been read: one more request may be taken."""

    def stop(self, *, cancel: bool) -> None:
        """Take nothing more; with ``cancel`` end what is under way."""


class MapRun(Generic[R]):
    """The results of ``client.map``, as they come; an iterator and a context manager.

    Requests are taken from what was given only as results are read, and a few further. After a Ctrl-C, or any
    other exception in it, the iterator still yields what had been finished.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        ordered: bool,
        on_error: Literal["keep", "raise"],
        progress: Progress | None = None,
        close: Callable[[], object] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._crew = crew
        self._cancel = cancel
        self._end: Callable[[], object] = lambda: crew.stop(cancel=True)
        self._on_error = on_error
        self._progress = progress
        self._close = close
        self._finished = crew.arrivals.finished
        self._next = 0 if ordered else None
        self._ended = False
        self._over_budget: BudgetExceededError | None = None
        if cancel is not None:
            cancel.subscribe(self._end)
        self._crew.begin()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MapResult[R]:
        try:
            result = self._result()
            if result is not None:
                self._crew.read()
        except JournalError as error:
            error.unsaved += self.stop()
            raise
        except BaseException:
            self.stop()
            raise
        if result is None:
            self.close()
            raise StopIteration
        if self._on_error == "raise" and result.error is not None:
            self.stop()
            del self._finished[result.index]
            raise result.error
        if self._next is not None:
            self._next = result.index + 1
        # No call, and so no Ctrl-C, between these two: what is not yielded stays.
        del self._finished[result.index]
        return result

    def _result(self) -> MapResult[R] | None:
        """The next result in the order that was asked for, which is kept until it is yielded; None after the last."""
        finished = self._finished
        while self._next not in finished if self._next is not None else not finished:
            if not self._ended:
                self._come()
            elif finished:
                # What came before a gap was yielded; after a stop, what came after it is still worth having.
                return finished[min(finished)]
            else:
                return None
        if self._next is not None:
            return finished[self._next]
        for first in finished:  # without a call, in which a signal could stop the run, and more come
            return finished[first]
        return None

    def _come(self) -> None:
        """Wait for what comes next."""
        came = self._crew.arrivals.take()
        if came is None:
            self._ended = True
            if self._cancel is not None:
                self._cancel.unsubscribe(self._end)
                self._cancel.raise_if_cancelled()
            if self._over_budget is not None:
                raise self._over_budget
        elif isinstance(came, BudgetExceededError):
            self._over_budget = came  # those under way are paid for: they are waited for
        elif isinstance(came, BaseException):
            raise came
        elif self._progress is not None:
            for result in came:
                self._progress.add(result)

    def stop(self) -> tuple[MapResult[R], ...]:
        """Take no more requests and end those under way; what was finished can still be read.

        Returns when the calls have ended, after half a second at the latest, with what no journal took.
        """
        unsaved: list[MapResult[R]] = []
        self._crew.stop(cancel=True)
        end = time.monotonic() + GRACE
        while not self._ended and self._crew.arrivals.wait(max(0.0, end - time.monotonic())):
            try:
                self._come()
            except JournalError as error:
                unsaved += error.unsaved
            except Exception as error:
                log.debug("after the end of a run: %s", error)
        if not self._ended:
            self._ended = True
            self._crew.arrivals.put(None)  # for who reads on another thread, or in the midst of it had a signal
        if self._progress is not None:
            self._progress.close()
        return tuple(unsaved)

    def close(self) -> None:
        """End the run, and close its progress bar and the journal that it opened."""
        self.stop()
        if self._close is not None:
            self._close()
            self._close = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Nobody reads any further. Without waiting: this may be any thread, at any place.
        crew = getattr(self, "_crew", None)
        if crew is not None:
            crew.stop(cancel=True)
