"""Sends the requests of one client, from any thread: over leases of its own, or on requests' own way."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .._imports import importing
from ..credentials import Secrets, secrets_in_login, secrets_in_query, secrets_in_session, secrets_in_url
from ..errors import APIConnectionError, APIError, APIStatusError, NotFoundError
from ..redaction import redact_error_body
from ..wire.error_body import status_error
from . import failures
from .call import Call, Sending
from .clock import Clock
from .endpoint import Endpoint
from .exchange import Exchange
from .http1 import request_head
from .patching import unpatched
from .pool import Pool
from .reply import Reply
from .route import Route, basic
from .settings import Settings

if TYPE_CHECKING:
    import requests

    from .by_requests import Sessions

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Default for the largest body that is read as a whole: 2,048 long vectors as decimal numbers pass."""

STALE_WITHIN = 2.0
"""Seconds after sending within which a kept connection turns out to be closed; one that breaks later was read from."""


class _Request(NamedTuple):
    """What is sent; ``path`` is below the endpoint's base."""

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    query: Mapping[str, str] | None


class Transport:
    """Sends requests, from any thread.

    Args:
        endpoint: where to.
        provider: who is asked, for errors.
        headers: sent with every request.
        auth: makes the header that carries the key, anew for each request.
        has_key: whether a key was given, so that netrc's password is not for this server.
        secrets: what no error may show; is told what is found on the way, a proxy's login for instance.
        settings: how connections are made.
        session: the user's own; its adapters, proxies, verification, auth and plugins apply.
        requests_auth: an auth object of requests.
        max_response_bytes: most that a body may have that is read as a whole.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        provider: str,
        headers: Mapping[str, str],
        auth: Callable[[], Mapping[str, str]],
        has_key: bool,
        secrets: Secrets,
        settings: Settings,
        session: requests.Session | None = None,
        requests_auth: Any = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self.endpoint: Endpoint = endpoint
        self.provider = provider
        once = dict({name.lower(): (name, value) for name, value in headers.items()}.values())
        self._headers = merged_headers({"Host": endpoint.authority}, once)
        self._auth = auth
        self._has_key = has_key
        self.secrets = secrets
        secrets.keep([*secrets_in_login(endpoint.userinfo), *secrets_in_query(endpoint.query)])
        self._settings = settings
        self._given = session
        self._requests_auth = requests_auth
        self._max_bytes = max_response_bytes
        self._locks: dict[int, threading.Lock] = {}
        self._pool: Pool | None = None
        self._sessions: Sessions | None = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        call: Call,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        at_root: bool = False,
    ) -> Reply:
        """Send one request; the reply's headers have come, its body has not.

        With ``at_root`` the path is not one of the API's, which ends in ``/v1``, but stands beside it.

        Raises:
            APIStatusError: the server refused.
            APIConnectionError: the request did not get through, or the server redirects elsewhere.
            APITimeoutError: it took too long.
            Cancelled: by the call's token.
        """
        all_headers = merged_headers(self._headers, self._auth())
        if headers:
            all_headers = merged_headers(all_headers, headers)
        if call.idempotency_key and method == "POST" and not _among(all_headers, "idempotency-key"):
            all_headers["Idempotency-Key"] = call.idempotency_key
        request = _Request(method, path, body, all_headers, query)
        endpoint = self.endpoint.at_root() if at_root else self.endpoint
        try:
            reply = self._send(endpoint, request, call)
        except NotFoundError as error:
            if not endpoint.guessed:
                raise
            call.again(error, "root")
            found = self._at_the_root(error, endpoint, request, call)
            if found is None:
                raise error from None
            reply = found
        else:
            if endpoint.guessed:
                self.endpoint = endpoint._replace(guessed=False)
        return reply

    def _at_the_root(self, error: NotFoundError, endpoint: Endpoint, request: _Request, call: Call) -> Reply | None:
        """Where the guessed ``/v1`` is not found, the root is tried, once for a client; what works is remembered.

        None where ``error`` says it all.
        """
        self.endpoint = endpoint._replace(guessed=False)
        root = endpoint.at_root()
        try:
            reply = self._send(root, request, call)
        except APIStatusError as other:
            if other.status_code not in (404, 405):
                self.endpoint = root
                raise
            tried = f"{endpoint.base}; nor is there an API at {root.base} (HTTP {other.status_code})"
            error.args = (f"{error} (asked at {tried})",)
            return None
        except APIError:
            return None
        self.endpoint = root
        return reply

    def _send(self, endpoint: Endpoint, request: _Request, call: Call) -> Reply:
        own_way = self._given is None and self._requests_auth is None and unpatched()
        send = self._send_over_lease if own_way else self._send_by_requests
        url = endpoint.url(request.path, request.query)
        if endpoint.userinfo and not _authorized(request.headers):
            request = request._replace(headers={**request.headers, **basic(*endpoint.userinfo)})
        with call.sending(Sending(request.method, url, request.path, request.headers, request.body)):
            reply = send(endpoint, request, call, url)
        call.status = reply.status
        if reply.status >= 300:
            raise self._status_error(reply)
        return reply

    def _send_over_lease(self, endpoint: Endpoint, request: _Request, call: Call, url: str) -> Reply:
        """Over a lease of our own."""
        pool = self._pool_of(endpoint)
        route = pool.route
        target = url if route.absolute else type(url)(url[url.index("/", 8) :])
        headers = dict(request.headers)
        if route.absolute:
            headers.update(route.proxy_headers)
        if route.login and not _authorized(headers):
            headers.update(basic(*route.login))
        if request.body is not None:
            headers["Content-Length"] = str(len(request.body))
        head = request_head(request.method, target, headers)
        fresh = False
        while True:
            clock = Clock(call.deadline, where=endpoint.base, provider=self.provider)
            exchange: Exchange | None = None
            try:
                lease = pool.lease(call.deadline, fresh=fresh)
                exchange = Exchange(lease, clock)
                answer = exchange.ask(head, request.body or b"")
                call.sent = True
                break
            except BaseException as error:
                if exchange is not None:
                    exchange.close()
                    call.sent = exchange.sent
                    unread = exchange.silent and clock.quiet() < STALE_WITHIN and failures.closed_by_server(error)
                    if lease.reused and unread and not call.deadline.cancelled and call.replay(error):
                        fresh = True
                        continue
                explained = self._explained(error, clock, endpoint, route.proxied)
                try:
                    if explained is error:
                        raise
                    raise explained from failures.root_cause(error)
                finally:
                    del explained  # or this frame, the callers' and the exception hold each other
        return self._reply(answer.status, answer.headers, exchange, endpoint, request.path, route.proxied)

    def _send_by_requests(self, endpoint: Endpoint, request: _Request, call: Call, url: str) -> Reply:
        """Through ``requests.Session.send``, where others look on."""
        with importing:
            from . import by_requests

        settings: dict[str, Any]
        login = None
        proxied = ""
        if self._given is not None:
            session = self._session(by_requests, None)
            settings = by_requests.settings_of(session, endpoint)
            settings.update(self._own_settings())
        else:
            route = self._pool_of(endpoint).route
            session = self._session(by_requests, route)
            login = route.login
            proxied = route.proxied
            scheme = "https" if endpoint.secure else "http"
            settings = {
                "proxies": {scheme: route.proxy} if route.proxy else {},
                "verify": route.verify if isinstance(route.verify, (bool, str)) and route.verify != "system" else True,
                "cert": self._settings.cert,
            }
        headers = request.headers
        if login and not _authorized(headers):
            headers = {**headers, **basic(*login)}
        auth = self._requests_auth
        if auth is None and session.auth is None and _authorized(headers):
            auth = by_requests.keep_authorization
        clock = Clock(call.deadline, where=endpoint.base, provider=self.provider)
        call.sent = not call.deadline.cancelled  # as far as can be seen from here
        try:
            response, content = by_requests.send(
                session,
                request.method,
                url,
                request.body,
                headers,
                clock,
                auth=auth,
                settings=settings,
                secrets=self.secrets(),
            )
        except BaseException as error:
            explained = self._explained(error, clock, endpoint, proxied)
            try:
                if explained is error:
                    raise
                raise explained from failures.root_cause(error)
            finally:
                del explained  # or this frame, the callers' and the exception hold each other
        lower = {name.lower(): value for name, value in response.headers.items()}
        return self._reply(response.status_code, lower, content, endpoint, request.path, proxied)

    def _own_settings(self) -> dict[str, Any]:
        """What the caller said beside a session of their own."""
        said = self._settings
        own = {"verify": said.verify, "cert": said.cert, "proxies": said.proxies}
        return {name: value for name, value in own.items() if value is not None}

    def _reply(
        self, status: int, headers: Mapping[str, str], body: Any, endpoint: Endpoint, path: str, proxied: str
    ) -> Reply:
        clock = body.clock
        return Reply(
            status,
            headers,
            body,
            url=f"{endpoint.base}{path}",
            explain=lambda error: self._explained(error, clock, endpoint, proxied),
            max_bytes=self._max_bytes,
        )

    def _explained(self, error: BaseException, clock: Clock, endpoint: Endpoint, proxied: str) -> BaseException:
        """What to raise for an exception from below, with no secret in either."""
        explained = failures.translated(error, clock, endpoint, self.provider, proxied)
        if self._given is not None:
            self.secrets.keep_a_while(secrets_in_session(self._given))
        failures.hide(self.secrets(), explained, error)
        return explained

    def _status_error(self, reply: Reply) -> APIError:
        body = reply.read_error()
        if self._given is not None:
            self.secrets.keep_a_while(secrets_in_session(self._given))
        location = reply.headers.get("location")
        if reply.status < 400 and location:
            return APIConnectionError(
                f"{reply.url} redirects (HTTP {reply.status}) to {self._shown_address(location)}; "
                "use the base URL that this belongs to",
                provider=self.provider,
                request_id=reply.request_id,
            )
        return status_error(
            reply.status,
            reply.headers,
            body,
            provider=self.provider,
            url=reply.url,
            request_id=reply.request_id,
            secrets=self.secrets(),
            now=time.time(),
        )

    def _shown_address(self, url: str) -> str:
        """A URL of a server's, as an error may show it: without login and query."""
        bare = re.sub(r"//[^/]*@", "//", url.partition("?")[0].partition("#")[0])
        return redact_error_body(failures.printable(bare), secrets=self.secrets())

    def _pool_of(self, endpoint: Endpoint) -> Pool:
        """This process's pool, made anew where the environment has changed what it says of connections."""
        pool = self._pool
        if pool is not None and pool.process == os.getpid() and pool.route.environment == self._settings.environment():
            return pool
        with self._lock:
            pool = self._pool
            if pool is None or pool.process != os.getpid() or pool.route.environment != self._settings.environment():
                if pool is not None:
                    # In a forked child this closes the child's copies, and sends nothing.
                    pool.close()
                route = Route(endpoint, self._settings, login=not self._has_key and endpoint.userinfo is None)
                self.secrets.keep([*secrets_in_url(route.proxy), *secrets_in_login(route.login)])
                pool = self._pool = Pool(route, size=self._settings.pool_size, expiry=self._settings.keepalive_expiry)
            return pool

    def _session(self, by_requests: Any, route: Route | None) -> requests.Session:
        with self._lock:
            if self._sessions is None:
                self._sessions = by_requests.Sessions(self._given, pool_size=self._settings.pool_size)
            session: requests.Session = self._sessions.session(route)
            return session

    @property
    def _lock(self) -> threading.Lock:
        """This process's own: at a fork, another thread may hold that of the parent."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def close(self) -> None:
        """Close the connections that wait, unless the session is the user's own; those in use end with their call."""
        with self._lock:
            pool, self._pool = self._pool, None
            sessions, self._sessions = self._sessions, None
        if pool is not None:
            pool.close()
        if sessions is not None:
            sessions.close()


def merged_headers(headers: Mapping[str, str], further: Mapping[str, str]) -> dict[str, str]:
    """Headers, and further ones in place of those of the same name, in whatever letter case."""
    names = {name.lower() for name in further}
    return {**{name: value for name, value in headers.items() if name.lower() not in names}, **further}


def _authorized(headers: Mapping[str, str]) -> bool:
    return _among(headers, "authorization", "api-key")


def _among(headers: Mapping[str, str], *names: str) -> bool:
    return any(name.lower() in names for name in headers)
