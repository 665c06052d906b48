"""Who owns a connection: a lease, from the moment that it is taken until it is released or closed."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..cancel import CancelToken
from .connection import Connection, shut_down


class Lease:
    """A connection while one exchange owns it.

    It ends exactly once, by ``release`` or by ``close``; after that it can shut nothing down. One that is dropped
    closes its connection.

    Args:
        connection: out of the pool, or new.
        end: takes the connection back; told whether it may serve another exchange.
        cancel: shuts the connection down, from any thread.
    """

    def __init__(
        self, connection: Connection, end: Callable[[Connection, bool], object], cancel: CancelToken | None = None
    ) -> None:
        self.sock: Any = connection.sock
        self.reused: bool = connection.reused
        self._connection: Connection | None = connection
        self._end = end
        self._lock = _ProcessLock()
        self._end_subscription = _subscribed(self, cancel)
        # Not __del__, which would run for each lease at its end: what a signal handler raises in there is lost.
        self._dropped = weakref.finalize(self, _close, connection, end, self._end_subscription)
        self._dropped.atexit = False

    def shut_down(self) -> None:
        """Wake the exchange, which finds its connection ended; nothing once the lease is over."""
        with self._lock:
            if self._connection is not None:
                self._connection.shut_down()

    def release(self) -> None:
        """A reply was read to its end: the connection may serve another exchange."""
        self._over(keep=True)

    def close(self) -> None:
        """Close the connection."""
        self._over(keep=False)

    def _over(self, *, keep: bool) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._dropped.detach()
            self._end_subscription()
            self._end(connection, keep)


def _close(
    connection: Connection, end: Callable[[Connection, bool], object], end_subscription: Callable[[], object]
) -> None:
    end_subscription()
    end(connection, False)


class _ProcessLock:
    """A lock that a forked child does not wait for: a thread that is lost there may hold it, and will do nothing."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __enter__(self) -> None:
        if self._process == os.getpid():
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        if self._process == os.getpid():
            self._lock.release()


class BorrowedLease:
    """A connection that urllib3 owns, as long as the body that is read over it: a lease on requests' own way.

    Args:
        raw: urllib3's response, which releases its connection by itself once its body has ended.
        cancel: shuts the connection down, from any thread.
    """

    def __init__(self, raw: Any, cancel: CancelToken | None = None) -> None:
        self.sock: Any = _socket_of(raw)
        self._process = os.getpid()
        self._lock = _ProcessLock()
        if self.sock is not None:
            # From the moment that urllib3 takes it back, the connection is no longer ours to end.
            release, response = type(raw).release_conn, weakref.ref(raw)

            def released() -> None:
                self.end()
                if (alive := response()) is not None:
                    release(alive)

            raw.release_conn = released
        self._end_subscription = _subscribed(self, cancel)

    def shut_down(self) -> None:
        """Wake the reader of the body; nothing once urllib3 has its connection back."""
        with self._lock:
            if self.sock is not None and self._process == os.getpid():
                shut_down(self.sock)

    def end(self) -> None:
        """From now on nothing is shut down."""
        with self._lock:
            self.sock = None
        self._end_subscription()


def _socket_of(raw: Any) -> socket.socket | None:
    # A reply that closes its connection has taken the socket from it: urllib3 remembers whom to shut down.
    sock = getattr(getattr(raw, "_sock_shutdown", None), "__self__", None)
    if not isinstance(sock, socket.socket):
        sock = getattr(getattr(raw, "connection", None), "sock", None)
    return sock if isinstance(sock, socket.socket) else None


def _subscribed(lease: Lease | BorrowedLease, cancel: CancelToken | None) -> Callable[[], object]:
    """Have a token end a lease, without keeping it alive; returns what ends that."""
    if cancel is None:
        return _nothing
    reference = weakref.ref(lease)

    def shut_down() -> None:
        if (alive := reference()) is not None:
            alive.shut_down()

    cancel.subscribe(shut_down)
    return lambda: cancel.unsubscribe(shut_down)


def _nothing() -> None:
    pass
