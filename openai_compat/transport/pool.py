"""The connections that wait for another call."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Iterable
from itertools import chain

from ..timeouts import Deadline
from .connecting import Connecting
from .connection import Connection
from .lease import Lease
from .route import Route


class Pool:
    """The connections of one process to one endpoint; used from any thread.

    It has no lock, which a fork might leave locked: the methods of a deque and of a set are whole.

    Args:
        route: opens connections.
        size: most that are kept.
        expiry: seconds after which a kept connection is not used again; None for ever.
    """

    def __init__(self, route: Route, *, size: int, expiry: float | None) -> None:
        self.route = route
        self.process: int = os.getpid()
        self._size = size
        self._expiry = expiry
        self._idle: deque[Connection] = deque()
        self._leased: set[Connection] = set()
        self._closed = False
        # Held from outside, so that no socket is collected before it is closed.
        weakref.finalize(self, _close_all, self._idle, self._leased)

    def lease(self, deadline: Deadline, *, fresh: bool = False) -> Lease:
        """A connection: a kept one where there is one of use, unless ``fresh``, else a new one."""
        connection = None if fresh else self._next()
        while connection is not None and (self._expired(connection) or not connection.usable()):
            connection.close()
            connection = self._next()
        if connection is None:
            with Connecting(deadline.cancel) as connecting:
                connection = self.route.connect(deadline, connecting)
        self._leased.add(connection)
        return Lease(connection, self._end, deadline.cancel)

    def close(self) -> None:
        """Close all that are idle, and whatever is released from now on."""
        self._closed = True
        while (connection := self._next()) is not None:
            connection.close()

    def _end(self, connection: Connection, keep: bool) -> None:
        """A lease is over."""
        self._leased.discard(connection)
        if not keep or self._closed or connection.process != os.getpid() or len(self._idle) >= self._size:
            connection.close()
            return
        connection.reused = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        with contextlib.suppress(IndexError):  # another thread may take the oldest first
            while self._expired(self._idle[0]):
                self._idle.popleft().close()
        if self._is_closed():  # meanwhile, by another thread
            self.close()

    def _next(self) -> Connection | None:
        try:
            # The one used last: those that are not needed grow old.
            return self._idle.pop()
        except IndexError:
            return None

    def _expired(self, connection: Connection) -> bool:
        return self._expiry is not None and time.monotonic() - connection.idle_since >= self._expiry

    def _is_closed(self) -> bool:
        return self._closed


def _close_all(*connections: Iterable[Connection]) -> None:
    # Copies: at the end of the program other threads may still go on.
    for connection in chain(*map(list, connections)):
        connection.close()
