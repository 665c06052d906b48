"""An open connection: its socket, whether it may be used again, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from types import TracebackType
from typing import Any


class Connection:
    """An open connection to a server, or to a proxy on the way.

    Args:
        sock: connected, behind TLS where there is any.
        owner: what has to live as long as the socket: urllib3's connection.
    """

    def __init__(self, sock: Any, owner: object = None) -> None:
        self.sock = sock
        self.process: int = os.getpid()
        self.reused: bool = False
        self.idle_since: float = 0.0
        self._owner = owner
        # TLS within TLS, through a proxy, is no socket itself.
        self._inner = sock if isinstance(sock, socket.socket) else getattr(sock, "socket", None)
        if self._inner is not None:
            _set_options(self._inner)

    def usable(self) -> bool:
        """Whether nothing has come while it was idle: neither an end nor bytes that belong to no reply.

        Nor may sockets have become others meanwhile, by gevent, a mock, or a guard of tests.
        """
        return isinstance(self._inner, socket.socket) and not _readable(self._inner)

    def shut_down(self) -> None:
        """Wake whoever is blocked on it; the server sees it end."""
        if self._inner is not None and self.process == os.getpid():
            shut_down(self._inner)

    def close(self) -> None:
        """Close it; in a forked child only the child's copy."""
        self.shut_down()
        with _ignoring(OSError):
            self.sock.close()


def shut_down(sock: socket.socket) -> None:
    """Shut a socket down in both directions."""
    # Not SSLSocket's own shutdown, which would pull the TLS state from under a reader.
    kinds = (kind for kind in type(sock).__mro__ if "shutdown" in vars(kind) and "SSL" not in kind.__name__)
    kind: Any = next(kinds, None)
    with _ignoring(OSError, TypeError):
        if kind is not None:
            kind.shutdown(sock, socket.SHUT_RDWR)
        elif "shutdown" in getattr(sock, "__dict__", ()):  # eventlet's have their own each, those of mocks none
            sock.shutdown(socket.SHUT_RDWR)


_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    # A gateway that drops idle connections says nothing: probes find out within two minutes.
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 45),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 5),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
)


def _set_options(sock: socket.socket) -> None:
    for level, name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            with _ignoring(OSError):
                sock.setsockopt(level, option, value)


class _ignoring(contextlib.suppress):  # noqa: N801 - a verb, as its base
    """What the system says of a socket is ignored, but for a TimeoutError: nothing waits here, so it is a handler's."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, TimeoutError) and error.errno is None:
            return False
        return bool(super().__exit__(kind, error, traceback))


def _readable(sock: socket.socket) -> bool:
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True
