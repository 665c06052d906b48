"""Who owns a connection: a lease, from the moment that it is taken until it is given back or closed."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..cancel import CancelToken


class Connection:
    """An open connection to a server, or to a proxy on the way.

    Args:
        sock: connected, behind TLS where there is any.
        owner: what has to live as long as the socket: urllib3's connection.
    """

    def __init__(self, sock: Any, owner: object = None) -> None:
        self.sock = sock
        self.process = os.getpid()
        self.reused = False
        self.idle_since = 0.0
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
        with contextlib.suppress(OSError):
            self.sock.close()


def shut_down(sock: socket.socket) -> None:
    """Shut a socket down in both directions."""
    # Not SSLSocket's own shutdown, which would pull the TLS state from under a reader.
    kinds = (kind for kind in type(sock).__mro__ if "shutdown" in vars(kind) and "SSL" not in kind.__name__)
    kind: Any = next(kinds, None)
    with contextlib.suppress(OSError, TypeError):
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
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)


def _readable(sock: socket.socket) -> bool:
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


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
        self.sock = connection.sock
        self.reused = connection.reused
        self._connection: Connection | None = connection
        self._end = end
        self._lock = _ProcessLock()
        self._end_subscription = _subscribed(self, cancel)

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
            self._end_subscription()
            self._end(connection, keep)

    def __del__(self) -> None:
        self.close()


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
        raw: urllib3's response, which gives its connection back by itself once its body has ended.
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


class Opening:
    """The time in which a connection is opened on this thread, before there is a lease.

    Cancelling shuts down the socket that is known so far, again and again until the opening is over: it may be about to
    be waited on, or another may follow. So it goes when the time is over: others' limits are for each read, and a byte
    now and then prolongs them for ever.

    ``late`` says whether the time was over before the end, ``ends`` whether anything can end it.

    Args:
        cancel: ends the waiting, from any thread.

    Raises:
        TimeoutError: it failed because it took longer than ``end_in`` allows.
    """

    def __init__(self, cancel: CancelToken | None) -> None:
        self.late = False
        self.ends = cancel is not None
        self._timer: threading.Timer | None = None
        self._cancel = cancel
        self._lock = threading.Lock()
        self._over = True  # until it begins
        self._sock: socket.socket | None = None
        self._connection: Any = None

    def __enter__(self) -> Opening:
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
        self._close_spare()
        if self.late and isinstance(error, Exception):
            raise TimeoutError from None

    def end_in(self, seconds: float | None) -> None:
        """From now on it may take so long; None for ever."""
        if seconds is not None and not self._over:
            self.ends = True
            self._timer = threading.Timer(seconds, self._too_late)
            self._timer.daemon = True
            self._timer.start()

    def use(self, sock: socket.socket) -> None:
        """The socket that is about to be connected."""
        self._sock = sock

    def use_spare(self, sock: socket.socket) -> None:
        """The connected socket that TLS is about to take over: a second descriptor of it can still be shut down."""
        if self.ends:
            # A mock of a socket has no descriptor.
            with self._lock, contextlib.suppress(Exception):
                self._close_spare()
                self._spare = self._sock = sock.dup()

    _spare: socket.socket | None = None

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

    def _close_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()


def dial(address: tuple[str, int], timeout: float | None, opening: Opening) -> socket.socket:
    """Connect to the first address of a host that answers; the opening knows each socket before it is connected.

    Args:
        timeout: seconds for all of them; None for ever.
    """
    ends = None if timeout is None else time.monotonic() + timeout
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "the host has no address")
    for family, kind, protocol, _, where in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(None if ends is None else max(ends - time.monotonic(), 0.001))
            opening.use(sock)
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
