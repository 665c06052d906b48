"""Requests' own way: through ``requests.Session.send``, where the session is the user's, or something is patched."""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import os
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from http.cookiejar import CookieJar
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..errors import APIConnectionError
from ..redaction import mask_secrets, masked
from . import failures
from .clock import Clock
from .connecting import Connecting, close_sockets
from .endpoint import Endpoint
from .exchange import INFLATION_FROM, MAX_INFLATION, READ_SIZE, inflated_too_far, of_the_parent, read_end
from .lease import BorrowedLease
from .patching import original, unpatched
from .route import Route
from .settings import SYSTEM


class Sessions:
    """The session that calls go through: the user's own, or one of whatever class ``requests.Session`` is now.

    Args:
        given: the user's own.
        pool_size: connections that one of ours keeps.
    """

    def __init__(self, given: requests.Session | None, *, pool_size: int) -> None:
        self._given = given
        self._pool_size = pool_size
        self._made: requests.Session | None = None
        self._process = os.getpid()

    def session(self, route: Route | None) -> requests.Session:
        """The session for a call; in a forked child with pools of its own. To be called by one thread at a time."""
        if self._given is not None:
            if self._process != os.getpid():
                _reset_after_fork(self._given)
                self._process = os.getpid()
            return self._given
        if self._made is None or type(self._made) is not requests.Session or self._process != os.getpid():
            self._process = os.getpid()
            self._made = self._new(route)
        return self._made

    def close(self) -> None:
        """Close what was made here."""
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def _new(self, route: Route | None) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # the route has read the environment
        system = route is not None and route.verify == SYSTEM
        adapter = _SystemAdapter(route) if system and route is not None else HTTPAdapter(pool_maxsize=self._pool_size)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session


class _SystemAdapter(HTTPAdapter):
    """Trusts the certificates of the operating system."""

    def __init__(self, route: Route) -> None:
        self._route = route
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._route.context())


def send(
    session: requests.Session,
    method: str,
    url: str,
    content: bytes | None,
    headers: Mapping[str, str],
    clock: Clock,
    *,
    auth: Any,
    settings: Mapping[str, Any],
    secrets: Iterable[str],
) -> tuple[requests.Response, RequestsBody]:
    """Send a request; the headers of its reply have come.

    Args:
        auth: a requests auth object, or None where the session's own or netrc applies.
        settings: proxies, verification and certificates.
        secrets: what urllib3's log is not to show.
    """
    deadline = clock.deadline
    request = requests.Request(method, url, data=content, headers=_as_sent(headers), auth=auth)
    connect, first_token = deadline.within(deadline.timeout.connect), deadline.within(deadline.timeout.first_token)
    if 0.0 in (connect, first_token):
        raise clock.error()
    limit = None if connect is None or first_token is None else deadline.within(connect + first_token)
    # When the connection is there cannot be seen from here.
    clock.enter("first_token", deadline.timeout.first_token)
    options = {"stream": True, "allow_redirects": False, "timeout": (connect, first_token), **settings}
    connecting = Connecting(deadline.cancel)
    try:
        with connecting, _hidden_in_log(secrets):
            connecting.end_in(limit)
            response = _sent(session, request, options, connecting)
        reading = RequestsBody(response, clock)
    except BaseException as error:
        # A signal, or a hook of the session's, may end it between urllib3 and here.
        connecting.close_held()
        close_sockets(error)
        raise
    if connecting.late:
        # http.client takes a head that ends early for a whole one.
        reading.close()
        raise TimeoutError
    if response.status_code < 200:
        # The answer is still to come, and would be read as the next one's.
        reading.close()
        raise APIConnectionError(
            f"an interim reply (HTTP {response.status_code}) came before the answer; Python's http.client takes it for "
            "the answer before Python 3.12"
        )
    return response, reading


def _as_sent(headers: Mapping[str, str]) -> dict[str, str]:
    # Recorders write down what they see, and cannot write what is masked.
    return dict(headers) if unpatched() else {name: str(value) for name, value in headers.items()}


_connecting: contextvars.ContextVar[Connecting | None] = contextvars.ContextVar("openai_compat", default=None)


def _sent(
    session: requests.Session, request: requests.Request, options: dict[str, Any], connecting: Connecting
) -> requests.Response:
    prepared = session.prepare_request(request)
    with _watched(session, prepared, connecting, options):
        if original(type(session).request):
            return session.send(prepared, **options)
        # A session that logs in there, or a trace. What the environment says of proxies has been read.
        options["proxies"] = {"no_proxy": "*", **(options.get("proxies") or {})}
        given = vars(request)
        return session.request(**{name: given[name] for name in _GIVEN}, **options)


_secrets: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("openai_compat.secrets", default=())


@contextlib.contextmanager
def _hidden_in_log(secrets: Iterable[str]) -> Iterator[None]:
    """Meanwhile urllib3, which logs whole URLs, and headers that it cannot read, logs none with a secret in it."""
    for name in ("urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_hide)  # once, however often
    hiding = _secrets.set(tuple(secrets))
    try:
        yield
    finally:
        _secrets.reset(hiding)


def _hide(record: logging.LogRecord) -> bool:
    if (secrets := _secrets.get()) and isinstance(record.args, tuple):
        record.args = tuple(
            [
                mask_secrets(str(value), secrets) if isinstance(value, (str, BaseException)) else value
                for value in record.args
            ]
        )
        if record.exc_info:
            # What the message says once more, with the headers in it.
            record.exc_info = record.exc_text = None
    return True


_GIVEN = ("method", "url", "data", "headers", "auth")


@contextlib.contextmanager
def _watched(
    session: requests.Session, prepared: requests.PreparedRequest, connecting: Connecting, settings: Mapping[str, Any]
) -> Iterator[None]:
    """While a request is sent, ``Connecting`` knows which connection of urllib3's it is sent over, so as to end it."""
    _watch_pool(session, prepared, settings)
    watching = _connecting.set(connecting)
    try:
        yield
    finally:
        _connecting.reset(watching)


def _watch_pool(session: requests.Session, prepared: requests.PreparedRequest, settings: Mapping[str, Any]) -> None:
    """Have the pool that a request will use tell the ``Connecting`` of its thread what it hands out and takes back."""
    try:
        adapter = session.get_adapter(str(prepared.url))
        if not isinstance(adapter, HTTPAdapter):
            return
        verify, proxies, cert = (settings.get(name) for name in ("verify", "proxies", "cert"))
        pool: Any = adapter.get_connection_with_tls_context(prepared, verify, proxies=proxies, cert=cert)
    except Exception:
        return  # what is wrong with the request or the session is raised when it is sent
    if "_get_conn" in vars(pool):
        return
    reference = weakref.ref(pool)

    def get_conn(*args: Any, **kwargs: Any) -> Any:
        # Looked up late: recorders replace the methods of the class.
        connection = type(reference())._get_conn(reference(), *args, **kwargs)  # type: ignore[union-attr]
        if (connecting := _connecting.get()) is not None:
            connecting.hold(connection)
            _watch_connection(connection)
        return connection

    def put_conn(connection: Any) -> Any:
        if (connecting := _connecting.get()) is not None:
            connecting.let_go(connection)
        return type(reference())._put_conn(reference(), connection)  # type: ignore[union-attr]

    pool._get_conn, pool._put_conn = get_conn, put_conn


def _watch_connection(connection: Any) -> None:
    """Have a connection tell the ``Connecting`` of its thread which socket TLS is about to take out of sight."""
    if "_new_conn" in vars(connection) or not hasattr(type(connection), "_new_conn"):
        return
    reference = weakref.ref(connection)

    def new_conn() -> Any:
        sock = type(reference())._new_conn(reference())  # type: ignore[union-attr]
        if (connecting := _connecting.get()) is not None:
            connecting.watch_copy(sock)
        return sock

    connection._new_conn = new_conn


def keep_authorization(request: Any) -> Any:
    """An auth object that changes nothing: with one, requests does not put netrc's password in place of a key."""
    return request


def settings_of(session: requests.Session, endpoint: Endpoint) -> dict[str, Any]:
    """What a user's session and the environment say of proxies, verification and certificates.

    Proxies from the environment are not for servers on this machine; the session's own are.
    """
    merged: dict[str, Any] = dict(session.merge_environment_settings(endpoint.base, {}, True, None, None))
    merged.pop("stream")
    if endpoint.loopback:
        merged["proxies"] = dict(session.proxies)
    merged["proxies"] = masked(merged["proxies"])
    return merged


class _Lines:
    """The file that http.client and urllib3 read from, within the limits: the lines after a body may never end."""

    def __init__(self, file: io.BufferedReader, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def readline(self, *size: int) -> bytes:
        self._clock.check()
        return self._file.readline(*size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class RequestsBody:
    """The body of a response of requests."""

    can_tick = False

    def __init__(self, response: requests.Response, clock: Clock) -> None:
        self.clock = clock
        self._response = response
        self._process = os.getpid()
        self._lease = BorrowedLease(response.raw, clock.deadline.cancel)
        message: Any = getattr(response.raw, "_fp", None)
        if isinstance(getattr(message, "fp", None), io.BufferedReader):
            message.fp = _Lines(message.fp, clock)
        clock.enter("first_token", clock.deadline.timeout.first_token)
        self.pieces: Iterator[bytes] = self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        total = 0
        for piece in self._read() if self._lease.sock is not None else self._response.iter_content(READ_SIZE):
            if self._process != os.getpid():
                raise of_the_parent()
            total += len(piece)
            received = self._response.raw.tell() if total > INFLATION_FROM else 0
            if received and total > received * MAX_INFLATION:
                raise inflated_too_far(total, received)
            yield piece

    def _read(self) -> Iterator[bytes]:
        raw = self._response.raw
        while True:
            # Once urllib3 has the connection back, only what it has buffered is left.
            limit = self.clock.wait()
            if (sock := self._lease.sock) is not None:
                sock.settimeout(limit)
            data = raw.read1(READ_SIZE, decode_content=True)
            if not data:
                return
            yield data

    def finish(self) -> bool:
        """The answer is complete: urllib3 takes its connection back if the body ends at once.

        Returns whether the body had not broken off, as far as that can be seen.
        """
        intact = True
        # Whatever follows the answer must not cost the answer.
        try:
            read_end(self.pieces, self.clock)
        except Exception as error:
            names = {type(item).__name__ for item in failures.chain_of(error)}
            intact = bool(names & {"APITimeoutError", "ReadTimeoutError", "TimeoutError"})
        self.close()
        return intact

    def close(self) -> None:
        """Close the connection, unless urllib3 has it back."""
        self.pieces = iter(())  # or they and this would hold each other
        self._lease.shut_down()
        self._lease.end()
        if _pool_is_locked(self._response.raw):
            # Perhaps by this very thread, which the garbage collector has interrupted there.
            threading.Thread(target=self._response.close, name="openai_compat close", daemon=True).start()
        else:
            self._response.close()


def _pool_is_locked(raw: Any) -> bool:
    """Whether to give urllib3 its connection back would have to wait."""
    mutex = getattr(getattr(getattr(raw, "_pool", None), "pool", None), "mutex", None)
    return mutex is not None and mutex.locked()


def _reset_after_fork(session: requests.Session) -> None:
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
