"""Opening a connection, so that cancelling and limits end it at any moment."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Any

from ..cancel import CancelToken
from .connection import shut_down


class Connecting:
    """The time in which a connection is opened on this thread, before there is a lease.

    Cancelling shuts down the socket that is known so far, again and again until this is over: it may be about to be
    waited on, or another may follow. So it goes when the time is over: others' limits are for each read, and a byte now
    and then prolongs them for ever.

    ``late`` says whether the time was over before the end, ``ends`` whether anything can end it.

    Args:
        cancel: ends the waiting, from any thread.

    Raises:
        TimeoutError: it failed because it took longer than ``end_in`` allows.
    """

    def __init__(self, cancel: CancelToken | None) -> None:
        self.late: bool = False
        self.ends: bool = cancel is not None
        self._timer: threading.Timer | None = None
        self._cancel = cancel
        self._lock = threading.Lock()
        self._over = True  # until it begins
        self._sock: socket.socket | None = None
        self._copy: socket.socket | None = None
        self._connection: Any = None

    def __enter__(self) -> Connecting:
        self._over = False
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
            self._cancel.subscribe(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._cancel is not None:
            self._cancel.unsubscribe(self._end)
        with self._lock:
            self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_copy()
        if self.late and isinstance(error, Exception):
            raise TimeoutError from None

    def end_in(self, seconds: float | None) -> None:
        """From now on it may take so long; None for ever."""
        if seconds is not None and not self._over:
            self.ends = True
            self._timer = threading.Timer(seconds, self._too_late)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, sock: socket.socket) -> None:
        """The socket that is about to be connected."""
        self._sock = sock

    def watch_copy(self, sock: socket.socket) -> None:
        """The connected socket that TLS is about to take over: a second descriptor of it can still be shut down."""
        if self.ends:
            # A mock of a socket has no descriptor.
            with self._lock, contextlib.suppress(Exception):
                self._close_copy()
                self._copy = self._sock = sock.dup()

    def hold(self, connection: Any) -> None:
        """A connection of urllib3's that this thread has taken out of its pool."""
        with self._lock:
            self._connection = connection

    def let_go(self, connection: Any) -> None:
        """urllib3 has its connection back."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def close_held(self) -> None:
        """Close the connection that urllib3 has not got back."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _too_late(self) -> None:
        with self._lock:
            self.late = not self._over
        self._keep_ending()

    def _end(self) -> None:
        threading.Thread(target=self._keep_ending, name="openai_compat cancel", daemon=True).start()

    def _keep_ending(self) -> None:
        while True:
            with self._lock:
                if self._over:
                    return
                for sock in (self._sock, getattr(self._connection, "sock", None)):
                    if isinstance(sock, socket.socket):
                        shut_down(sock)
            time.sleep(0.01)

    def _close_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()


def dial(address: tuple[str, int], timeout: float | None, connecting: Connecting) -> socket.socket:
    """Connect to the first address of a host that answers; ``connecting`` knows each socket before it is connected.

    Args:
        timeout: seconds for all of them; None for ever.
    """
    ends = None if timeout is None else time.monotonic() + timeout
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "the host has no address")
    for family, kind, protocol, _, where in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(None if ends is None else max(ends - time.monotonic(), 0.001))
            connecting.watch(sock)
            sock.connect(where)
            sock.settimeout(timeout)
            return sock
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


def close_sockets(error: BaseException) -> None:
    """Close what is open in the frames of an error: a handshake that a signal ends is known to nobody else."""
    step = error.__traceback__
    while step is not None:
        package = str(step.tb_frame.f_globals.get("__name__")).partition(".")[0]
        for value in list(step.tb_frame.f_locals.values()) if package in ("ssl", "urllib3") else ():
            if isinstance(value, socket.socket):
                value.close()
        step = step.tb_next
