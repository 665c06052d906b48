"""What needs requests and urllib3 loaded: the session, and connections that report their socket."""

from __future__ import annotations

import http.client
import io
import queue
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from http.cookiejar import CookieJar
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

from .deadline import Exchange
from .transport import READ_SIZE, active_exchange, netrc_exists

MAX_LINE = 65536
"""Longest line between chunks, as in http.client."""
HELD_BYTES = 65536
"""A body up to this size goes out together with its headers."""


class _TimedSocket:
    """A socket as http.client reads it, each of whose reads is limited to what is left of the exchange's time."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", "http.client reads bytes"
        return io.BufferedReader(_TimedReads(self._sock, self._exchange), READ_SIZE)


class _TimedReads(io.RawIOBase):
    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        # Keeps the socket open as long as this is, as http.client's own file would.
        self._raw = sock.makefile("rb", buffering=0)
        self._receive = sock.recv_into
        self._arm = exchange.arm
        exchange.rearm()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._arm()
        return self._receive(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Passes over informational replies: Python before 3.12 takes 103 Early Hints for the answer itself."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        self._exchange = exchange = active_exchange()
        super().__init__(sock if exchange is None else _TimedSocket(sock, exchange), *args, **kwargs)  # type: ignore[arg-type]
        if exchange is not None:
            exchange.body = self

    def _read_status(self) -> Any:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 < status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives, all that one read of the socket brought in one piece; an empty one is a beat.

        Does what ``read1`` of this class and of urllib3 do, a chunk at a time and at several times the cost.

        Raises:
            http.client.IncompleteRead: the body ended early, or its chunks are none.
        """
        if self.chunked:
            yield from _unchunked(partial(self._unless_due, self.fp.read1))
        else:
            while (data := self._unless_due(self.read1)) != b"":
                yield data or b""
            if self.length:
                raise http.client.IncompleteRead(b"", self.length)
        if not self.isclosed():
            # Tells http.client that the connection may be used again.
            self._close_conn()  # type: ignore[attr-defined]

    def _unless_due(self, read: Callable[[int], bytes]) -> bytes | None:
        """What one read brings; None where a beat came first."""
        try:
            return read(READ_SIZE)
        except TimeoutError:
            if self._exchange is None or not self._exchange.beat():
                raise
            return None


_HEAD = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match


def _unchunked(read: Callable[[], bytes | None]) -> Iterator[bytes]:
    """The data in a chunked body (RFC 9112, 7.1), up to its end; an empty piece where ``read`` has None."""
    buffer = b""
    left = 0
    ended = False
    while True:
        data = read()
        if data is None:
            yield b""
            continue
        if not data:
            raise http.client.IncompleteRead(b"")
        if not (buffer or left or ended) and (head := _HEAD(data)):
            size = int(head[1], 16)
            if size and len(data) == head.end() + size + 2 and data.endswith(b"\r\n"):
                # One chunk, the whole of it, as nearly always.
                yield data[head.end() : -2]
                continue
        buffer = buffer + data if buffer else data
        found: list[bytes] = []
        at = 0
        while at < len(buffer):
            if left:
                piece = buffer[at : at + left]
                found.append(piece)
                at += len(piece)
                left -= len(piece)
                continue
            end = buffer.find(b"\n", at) + 1
            if not end:
                break
            line = buffer[at:end].strip()
            at = end
            if ended:
                if not line:
                    if found:
                        yield b"".join(found)
                    return
            elif line:
                try:
                    left = _chunk_size(line)
                except http.client.IncompleteRead:
                    if found:
                        yield b"".join(found)  # what came before it is good
                    raise
                ended = not left
        buffer = buffer[at:]
        if len(buffer) > MAX_LINE:
            raise http.client.IncompleteRead(b"")
        if found:
            yield b"".join(found) if len(found) > 1 else found[0]


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if digits.strip(b"0123456789abcdefABCDEF") or not digits:
        raise http.client.IncompleteRead(b"")
    return int(digits, 16)


class _Reporting:
    """Tells the exchange that this thread is opening which socket it has, and sends head and body in one write."""

    response_class = _Response
    sock: Any
    timeout: Any
    host: str
    port: int
    _dns_host: str
    source_address: Any
    socket_options: Any
    _held: list[bytes] | None = None

    def _report(self) -> None:
        exchange = active_exchange()
        if exchange is not None and self.sock is not None:
            exchange.use(self.sock)

    def _new_conn(self) -> socket.socket:
        exchange = active_exchange()
        if exchange is None:
            sock: socket.socket = super()._new_conn()  # type: ignore[misc]
            return sock
        try:
            return self._connect(exchange)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error  # type: ignore[arg-type]

    def _connect(self, exchange: Exchange) -> socket.socket:
        """As urllib3 does, but the exchange knows the socket before it is connected, so that it can be shut down."""
        failure: OSError = OSError("the host has no address")
        host = self._dns_host.strip("[]")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, self.port, allowed_gai_family(), socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                if self.source_address:
                    sock.bind(self.source_address)
                exchange.use(sock)
                exchange.arm()
                sock.connect(address)
                return sock
            except OSError as error:
                failure = error
                sock.close()
        raise failure

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._report()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            # A pooled connection still has the timeout of its last read.
            self.sock.settimeout(self.timeout)
            self._report()
            exchange = active_exchange()
            if exchange is not None:
                exchange.reused = True
        self._held = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            held, self._held = self._held, None
        if held:
            self.send(b"".join(held))

    def send(self, data: Any) -> None:
        # http.client makes two writes of a request, which cost a third of a small call.
        if self._held is not None and isinstance(data, bytes) and len(data) <= HELD_BYTES:
            self._held.append(data)
            return
        held, self._held = self._held, None
        if self.sock is None:
            self.connect()
        self._await_answer()
        if held:
            super().send(b"".join(held))  # type: ignore[misc]
        super().send(data)  # type: ignore[misc]

    def _await_answer(self) -> None:
        """Connected: from here on it is the answer that is waited for, sending included."""
        exchange = active_exchange()
        if exchange is not None and exchange.phase == "connect":
            exchange.enter("first_token", exchange.deadline.timeout.first_token)
            exchange.arm()


class _HTTP(_Reporting, HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPS(_Reporting, HTTPSConnection):  # type: ignore[misc]
    _spare: socket.socket | None = None

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            if self._spare is not None:
                self._spare.close()
                self._spare = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        exchange = active_exchange()
        if exchange is not None:
            # TLS takes the descriptor over before the handshake: a second one can still be shut down.
            self._spare = sock.dup()
            exchange.use(self._spare)
        return sock


class _Kept:
    """The kept connections of a pool, as urllib3 uses a queue; has no lock, which a fork might leave locked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: deque[Any] = deque()
        self.qsize = self._kept.__len__

    def put(self, item: Any, block: bool = False) -> None:
        if len(self._kept) >= self._size:
            raise queue.Full
        self._kept.append(item)

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        try:
            return self._kept.pop()
        except IndexError:
            raise queue.Empty from None


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP
    QueueCls = _Kept  # type: ignore[assignment]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS
    QueueCls = _Kept  # type: ignore[assignment]


class _Adapter(HTTPAdapter):
    """requests' adapter without what is the same for every request to one server, or of no use to it (cookies)."""

    _direct: Any = None

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        if proxies:
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        if self._direct is None:
            self._direct = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return self._direct

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.reason = resp.reason
        response.url = req.url
        response.request = req
        response.connection = self  # through which digest auth answers
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def close(self) -> None:
        # urllib3 leaves it to the garbage collector to close the pools that it clears.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - a container that is not iterable
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        self._direct = None
        super().close()

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        # The way past proxies parses the URL twice more.
        return super().request_url(request, proxies) if proxies else request.path_url

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


def new_session(pool_size: int) -> requests.Session:
    """A session whose connections report their sockets."""
    session = requests.Session()
    adapter = _Adapter(pool_maxsize=pool_size)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def renew(session: requests.Session) -> None:
    """Give a session that was used before a fork pools of its own in the child, and locks that no lost thread holds."""
    if isinstance(session.cookies, CookieJar):
        session.cookies._cookies_lock = threading.RLock()  # type: ignore[attr-defined]
    for adapter in session.adapters.values():
        given: Any = adapter
        if isinstance(adapter, HTTPAdapter):
            for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
                _forget_pools(manager.pools)
            adapter.init_poolmanager(given._pool_connections, given._pool_maxsize, block=given._pool_block)
            adapter.proxy_manager = {}


def _forget_pools(pools: Any) -> None:
    """Drop this process's copies of the kept connections; urllib3 closes pools when they are collected, or at exit."""
    pools.lock = threading.RLock()
    for key in pools.keys():  # noqa: SIM118 - a container that is not iterable
        kept = pools.get(key).pool
        if isinstance(kept, queue.Queue):
            kept.__init__(kept.maxsize)  # type: ignore[misc]


def settings(session: requests.Session, base: str, *, loopback: bool) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """What the environment and the session say for all requests to ``base``: proxies, verification, netrc's login.

    Proxies from the environment are not for servers on this machine; the session's own are.
    """
    merged: dict[str, Any] = dict(session.merge_environment_settings(base, {}, True, None, None))
    merged.pop("stream")
    if loopback:
        merged["proxies"] = dict(session.proxies)
    login = None
    if session.trust_env and session.auth is None and netrc_exists():
        login = requests.utils.get_netrc_auth(base)
    return merged, login
