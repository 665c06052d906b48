"""What needs requests and urllib3 loaded: the session, and connections that report their socket."""

from __future__ import annotations

import http.client
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from .transport import _active, netrc_exists


class _Response(http.client.HTTPResponse):
    """Passes over informational replies: Python before 3.12 takes 103 Early Hints for the answer itself."""

    def _read_status(self) -> Any:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 < status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Reporting:
    """Tells the exchange that this thread is opening which socket it has."""

    response_class = _Response
    sock: Any
    timeout: Any

    def _report(self) -> None:
        exchange = getattr(_active, "exchange", None)
        if exchange is not None and self.sock is not None:
            exchange.use(self.sock)

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        exchange = getattr(_active, "exchange", None)
        if exchange is not None:
            exchange.use(sock)
        return sock

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._report()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            # A pooled connection still has the timeout of its last read.
            self.sock.settimeout(self.timeout)
            self._report()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self) -> Any:
        exchange = getattr(_active, "exchange", None)
        if exchange is not None:
            exchange.phase = "first_token"
        return super().getresponse()  # type: ignore[misc]


class _HTTP(_Reporting, HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPS(_Reporting, HTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

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
