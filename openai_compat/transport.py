"""Everything that blocks on a server: one pooled requests session, the bytes of a reply, and the retry loop."""

from __future__ import annotations

import contextlib
import contextvars
import http.client
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode, urlsplit

from .deadline import Deadline, Exchange
from .errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    Cancelled,
    ConfigurationError,
    Masked,
    OpenAICompatError,
    ResponseParseError,
)
from .wire.error_body import status_error
from .wire.retry import RetryPolicy
from .wire.sse import BEAT

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

READ_SIZE = 65536
MAX_ERROR_BODY = 65536
"""Bytes of an error's body that are read."""
ERROR_BODY_IDLE = 5.0
"""Seconds that an error's body may pause."""
MAX_INFLATION = 200
"""How many times its size on the wire a body may grow to, once it is over ``INFLATION_FROM``."""
INFLATION_FROM = 8 * 1024 * 1024
POOL_SIZE = 100
"""Connections that are kept, so that as many threads share one client without opening new ones."""


def retrying(attempt: Callable[[], T], policy: RetryPolicy, deadline: Deadline) -> T:
    """Call ``attempt`` until it succeeds or its error is not worth another try; that error is raised."""
    tries = 0
    while True:
        if deadline.cancel is not None:
            deadline.cancel.raise_if_cancelled()
        try:
            return attempt()
        except APIError as error:
            wait_to_retry(error, tries, policy, deadline)
        tries += 1


def wait_to_retry(error: APIError, tries: int, policy: RetryPolicy, deadline: Deadline) -> None:
    """Wait as long as the policy says after try number ``tries`` failed; raises ``error`` to give up."""
    delay = policy.delay(tries, error, random.random())
    if delay is None:
        raise error
    try:
        deadline.sleep(delay)
    except APITimeoutError as timeout:
        timeout.provider = error.provider
        raise timeout from error


class Endpoint(NamedTuple):
    """Where the API is: ``base`` without a trailing slash, ``query`` as given with it, ``userinfo`` taken out."""

    base: str
    host: str
    port: int | None
    query: str = ""
    userinfo: tuple[str, str] | None = None

    @classmethod
    def parse(cls, base_url: str) -> Endpoint:
        """Read a base URL: with or without ``/v1``, a trailing slash, a path of the API behind it, or a query.

        Raises:
            ConfigurationError: no http or https scheme, no host, or a bad port.
        """
        if not isinstance(base_url, str) or not base_url.strip():
            raise ConfigurationError("no base URL: give one such as 'http://localhost:11434/v1'")
        parts = urlsplit(base_url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = base_url.strip().rpartition("@")[2]
            raise ConfigurationError(
                f"the base URL must begin with http:// or https:// and name a host, as in 'http://localhost:11434/v1', "
                f"not {shown!r}"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"the base URL has a bad port: {error}") from None
        path = parts.path.rstrip("/")
        for tail in ("/chat/completions", "/embeddings", "/models"):
            path = path.removesuffix(tail)
        netloc = parts.netloc.rpartition("@")[2]
        userinfo = (parts.username or "", parts.password or "") if "@" in parts.netloc else None
        return cls(
            base=f"{parts.scheme}://{netloc}{path or '/v1'}",
            host=parts.hostname.lower(),
            port=port,
            query=parts.query,
            userinfo=userinfo,
        )

    @property
    def loopback(self) -> bool:
        """On this machine, where no proxy belongs in between."""
        host = self.host
        return host in ("localhost", "::1", "0.0.0.0") or host.endswith(".localhost") or host.startswith("127.")

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The URL of a path below the base."""
        joined = "&".join(part for part in (self.query, urlencode(query or {})) if part)
        return f"{self.base}{path}" + (f"?{joined}" if joined else "")


# Not a threading.local, which greenlets share where gevent came after this module.
_active: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("openai_compat exchange", default=None)


def active_exchange() -> Exchange | None:
    """The exchange that this thread is opening, for its connection to report to."""
    return _active.get()


class Reply:
    """The reply to a request: its status, its headers (lower-case names), and its body, read once."""

    def __init__(self, response: requests.Response, exchange: Exchange, transport: Transport, url: str) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.url = url
        self.heard = exchange.heard
        self._response = response
        self._exchange = exchange
        self._transport = transport
        self._plain = exchange.body is not None and "content-encoding" not in self.headers
        self._pieces: Iterator[bytes] = exchange.body.pieces() if self._plain else self._watched(iter(self._read1, b""))
        if not exchange.connected:
            # A session of the user's own, whose connections do not report.
            exchange.use(getattr(getattr(response.raw, "connection", None), "sock", None))

    @property
    def request_id(self) -> str | None:
        """The id under which the server knows this call."""
        return self.headers.get("x-request-id") or self.headers.get("request-id")

    def read(self) -> bytearray:
        """The whole body, decoded."""
        body = bytearray()
        self._read_into(body, self._exchange.deadline.timeout.idle)
        return body

    def read_refusal(self) -> bytes:
        """The body of an error, or as much as comes of it: the status must not be lost with it."""
        body = bytearray()
        idle = self._exchange.deadline.timeout.idle
        try:
            self._read_into(body, ERROR_BODY_IDLE if idle is None else min(idle, ERROR_BODY_IDLE), MAX_ERROR_BODY)
        except (APIConnectionError, ResponseParseError) as error:
            if isinstance(error, APITimeoutError) and error.phase == "total":
                raise
        return bytes(body)

    def _read_into(self, body: bytearray, idle: float | None, limit: int | None = None) -> None:
        self._exchange.enter("idle", idle)
        with self._guarded():
            # A session of the user's own may answer from elsewhere (a cache): there requests itself reads.
            own = self._exchange.body is not None
            chunks = self._pieces if own else self._watched(self._response.iter_content(READ_SIZE))
            for chunk in chunks:
                self._exchange.progress()
                body += chunk
                if limit is not None and len(body) >= limit:
                    break
            else:
                self._give_back()
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes, decoded, as they arrive."""
        with self._guarded():
            # Not "yield from", which would end the pieces with this generator: finish reads on.
            for piece in self._pieces:
                left = time.monotonic()
                yield piece or BEAT
                self._exchange.resume(left)

    def _read1(self) -> bytes:
        return self._response.raw.read1(READ_SIZE, decode_content=True) or b""

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks of a body that is compressed, or of a session of the user's own: timed, and no bomb."""
        total = 0
        while True:
            self._arm()
            chunk = next(chunks, None)
            if chunk is None:
                return
            total += len(chunk)
            self._check_inflation(total)
            yield chunk

    def beat_every(self, seconds: float) -> bool:
        """Whether ``chunks`` now gives ``BEAT`` whenever ``seconds`` pass without a piece of the answer.

        A compressed body, and a session of the user's own, cannot: there a read that timed out is not to be repeated.
        """
        if self._plain:
            self._exchange.beat_every(seconds)
        return self._plain

    def _arm(self) -> None:
        if not self._exchange.rearms and self._exchange.connected:
            self._exchange.arm()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong below becomes an error of this library, and closes the connection."""
        try:
            yield
            if self._exchange.deadline.cancelled:
                raise Cancelled  # its shutdown looks like an end of the body
        except GeneratorExit:
            raise
        except BaseException as error:
            self.close()
            raise self._transport.mapped(error, self._exchange) from _shown_cause(error)

    def _check_inflation(self, size: int) -> None:
        if size < INFLATION_FROM:
            return
        received = self._response.raw.tell()
        if received and size > received * MAX_INFLATION:
            raise ResponseParseError(
                f"the reply grew to {size:,} bytes from {received:,}: a decompression bomb, or a broken server",
                provider=self._transport.provider,
                request_id=self.request_id,
            )

    def finish(self) -> None:
        """The answer is complete: keep the connection if the body ends at once, else close it."""
        # Whatever follows the answer must not cost the answer.
        with contextlib.suppress(Exception):
            if self._exchange.connected:
                self._drain()
        self.close()

    def _drain(self) -> None:
        """Read what is left, which gives the connection back to its pool, unless that would take time."""
        self._exchange.enter("idle", 0.05)
        for _ in range(4):
            if next(self._pieces, None) is None:
                self._give_back()
                return

    def _give_back(self) -> None:
        """The body has been read to its end: its connection may serve another call, and is no longer ours to end."""
        self._exchange.detach()
        self._response.raw.release_conn()
        self._transport.left_behind(self._exchange.wire)

    def close(self) -> None:
        """Close the connection; the server sees it go, also where a forked child has a copy of the socket."""
        self._exchange.shut_down()
        self._response.close()
        self._forget()

    def _forget(self) -> None:
        if self._exchange.deadline.cancel is not None:
            self._exchange.deadline.cancel.unsubscribe(self._exchange.shut_down)


class Transport:
    """Sends prepared requests over one pooled session, from any thread.

    Args:
        endpoint: where to.
        provider: who is asked, for errors.
        headers: sent with every request.
        auth: makes the header that carries the key, anew for each request.
        secrets: gives the keys that no error may show.
        session: the user's own; its adapters, proxies, verification, auth and plugins apply.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        provider: str,
        headers: Mapping[str, str],
        auth: Callable[[], Mapping[str, str]],
        secrets: Callable[[], Iterable[str]],
        session: requests.Session | None = None,
        requests_auth: Any = None,
    ) -> None:
        self.endpoint = endpoint
        self.provider = provider
        self._headers = dict(headers)
        self._auth = auth
        self.secrets = secrets
        self._given = session
        self._requests_auth = requests_auth
        self._locks: dict[int, threading.Lock] = {}
        self._wire: _Wire | None = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: Deadline,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request; the reply's headers have come, its body has not.

        Raises:
            APIStatusError: the server refused.
            APIConnectionError: the request did not get through, or the server redirects elsewhere.
            APITimeoutError: it took too long.
            Cancelled: by the call's token.
        """
        url = self.endpoint.url(path, query)
        all_headers = {**self._headers, **self._auth(), **(headers or {})}
        while True:
            exchange = Exchange(deadline)
            try:
                response = self._exchange(exchange, method, url, body, all_headers)
                break
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Ctrl-C between the headers and the body: nobody else would close the connection.
                    exchange.shut_down()
                if deadline.cancel is not None:
                    deadline.cancel.unsubscribe(exchange.shut_down)
                if exchange.reused and _was_stale(error) and not deadline.cancelled:
                    continue
                raise self.mapped(error, exchange) from _shown_cause(error)
        reply = Reply(response, exchange, self, f"{self.endpoint.base}{path}")
        if reply.status >= 300:
            raise self._refusal(reply)
        return reply

    def _exchange(
        self, exchange: Exchange, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> requests.Response:
        wire = self._wire
        if wire is None or wire.process != os.getpid():
            wire = self._connect_wire()
        deadline = exchange.deadline
        opening = _active.set(exchange)
        try:
            if deadline.left == 0.0:
                raise TimeoutError
            if deadline.cancel is not None:
                deadline.cancel.subscribe(exchange.shut_down)
                deadline.cancel.raise_if_cancelled()
            timeout = (deadline.within(deadline.timeout.connect), deadline.within(deadline.timeout.first_token))
            exchange.wire = wire
            return wire.send(method, url, body, headers, timeout)
        finally:
            # An auth object may call another client within this call.
            _active.reset(opening)

    def _refusal(self, reply: Reply) -> APIError:
        body = reply.read_refusal()
        location = reply.headers.get("location")
        if reply.status < 400 and location:
            return APIConnectionError(
                f"{reply.url} redirects (HTTP {reply.status}) to {location.partition('?')[0]}; "
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

    def _connect_wire(self) -> _Wire:
        with self._lock:
            wire = self._wire
            if wire is None or wire.process != os.getpid():
                if wire is not None and self._given is not None:
                    from ._pool import renew

                    renew(self._given)
                # A parent's own is dropped, which closes this process's copies of its sockets and sends nothing.
                wire = self._wire = _Wire(self.endpoint, self._given, self._requests_auth, self._headers)
            return wire

    @property
    def _lock(self) -> threading.Lock:
        """This process's own: at a fork, another thread may hold that of the parent."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def mapped(self, error: BaseException, exchange: Exchange) -> BaseException:
        """The exception of this library for one from below; one that is not from below stays."""
        if exchange.deadline.cancelled and isinstance(error, Exception):
            return Cancelled()
        if isinstance(error, OpenAICompatError) or not isinstance(error, Exception):
            return error
        return _map_error(error, exchange, self.endpoint, self.provider)

    def left_behind(self, wire: _Wire | None) -> None:
        """A call is over; where the client was closed meanwhile, nobody else closes what it gave back."""
        if wire is not None and wire is not self._wire and self._given is None:
            wire.session.close()

    def close(self) -> None:
        """Close the pooled connections, unless the session is the user's own."""
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None and self._given is None and wire.process == os.getpid():
            wire.session.close()


class _Wire:
    """The requests session of one process, made at its first call, with the environment's settings read once."""

    def __init__(
        self, endpoint: Endpoint, session: requests.Session | None, auth: Any, headers: Mapping[str, str]
    ) -> None:
        from ._pool import new_session, settings

        self.process = os.getpid()
        self._plain = session is None and auth is None
        self.session = session if session is not None else new_session(POOL_SIZE)
        if auth is not None:
            self.session.auth = auth
        self._settings, netrc = settings(self.session, endpoint.base, loopback=endpoint.loopback)
        userinfo = endpoint.userinfo or netrc
        self._fallback_auth = _basic(*userinfo) if userinfo else {}
        self._adapter = self.session.get_adapter(endpoint.base)

    def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: tuple[float | None, float | None],
    ) -> requests.Response:
        """Send a request; only its URL, headers and body are new, all else was prepared once."""
        import requests
        from requests.structures import CaseInsensitiveDict

        if self._fallback_auth and not any(name in headers for name in ("Authorization", "api-key")):
            headers = {**headers, **self._fallback_auth}
        if not self._plain:
            request = requests.Request(method, url, data=body, headers=dict(headers))
            return self.session.send(
                self.session.prepare_request(request),
                stream=True,
                allow_redirects=False,
                timeout=timeout,
                **self._settings,
            )
        prepared = requests.PreparedRequest()
        prepared.method = method
        prepared.url = url
        prepared.headers = CaseInsensitiveDict(headers)
        prepared.body = body
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body))
        # types-requests does not know that a connect timeout may be None.
        return self._adapter.send(prepared, stream=True, timeout=cast(Any, timeout), **self._settings)


def _basic(user: str, password: str) -> dict[str, str]:
    import base64

    return {"Authorization": Masked("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii"))}


def _was_stale(error: BaseException) -> bool:
    """Whether a server closed a kept connection just as it was used again: it has not seen the request."""
    stale = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
    return any(isinstance(item, stale) for item in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and all that it wraps, in requests' and urllib3's ways too."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(seen) < 20:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            waiting += [getattr(item, "reason", None), *item.args, item.__cause__, item.__context__]
    return seen


def _shown_cause(error: BaseException) -> BaseException | None:
    """What to chain: the error at the root, whose text holds neither URL nor headers."""
    if isinstance(error, OpenAICompatError) or not isinstance(error, Exception):
        return None
    roots = [item for item in _chain(error) if isinstance(item, (OSError, ssl.SSLError)) and not _of_requests(item)]
    # Without its frames, whose variables hold the request as it was sent.
    return roots[-1].with_traceback(None) if roots else None


def _of_requests(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "requests"


def _map_error(error: Exception, exchange: Exchange, endpoint: Endpoint, provider: str) -> OpenAICompatError:
    import requests
    import urllib3.exceptions as u3

    chain = _chain(error)
    where = endpoint.base

    def first(*types: type[BaseException]) -> Any:
        return next((item for item in chain if isinstance(item, types)), None)

    if isinstance(error, (requests.exceptions.InvalidHeader, UnicodeEncodeError)):
        # requests and http.client show the header's value, which may be a key.
        return ConfigurationError("a header has a character that HTTP does not allow in it; check api_key and headers")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, u3.LocationValueError)):
        return ConfigurationError(f"the base URL cannot be used: {where}")
    certificate = first(ssl.SSLCertVerificationError)
    if certificate is not None:
        return APIConnectionError(
            f"the certificate of {where} does not fit: {certificate.verify_message}; for a certificate authority "
            "of your own set REQUESTS_CA_BUNDLE, or give a requests session with verify set",
            provider=provider,
        )
    if first(u3.ProxyError, requests.exceptions.ProxyError):
        return APIConnectionError(f"the proxy on the way to {where} does not work", provider=provider, retryable=True)
    if first(ConnectionRefusedError):
        help_ = "; is the server running? `openai-compat serve` starts one" if endpoint.loopback else ""
        return APIConnectionError(
            f"nothing listens at {where} (connection refused){help_}", provider=provider, retryable=True
        )
    if first(socket.gaierror):
        return APIConnectionError(
            f"the host {endpoint.host!r} is not known (or there is no network)", provider=provider, retryable=True
        )
    # After the refusals, which urllib3 counts among its connect timeouts.
    timeouts = (requests.exceptions.Timeout, u3.TimeoutError, TimeoutError, socket.timeout)
    if first(*timeouts):
        return exchange.timeout(where, provider)
    if first(u3.DecodeError, requests.exceptions.ContentDecodingError):
        return ResponseParseError(f"the reply of {where} cannot be decompressed", provider=provider)
    if first(ssl.SSLError):
        return APIConnectionError(f"TLS with {where} failed: {first(ssl.SSLError).reason}", provider=provider)
    retryable = bool(first(u3.HTTPError, http.client.HTTPException, requests.exceptions.ConnectionError, OSError))
    root = next((item for item in reversed(chain) if str(item) and not _of_requests(item)), error)
    what = "ended before the reply was complete" if first(http.client.IncompleteRead, u3.ProtocolError) else "broke"
    return APIConnectionError(
        f"the connection to {where} {what} ({type(root).__name__})", provider=provider, retryable=retryable
    )


def netrc_exists() -> bool:
    """Whether a netrc file is there to be read: to look for it is cheap, to load its parser is not."""
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    return any(os.path.exists(os.path.expanduser(path)) for path in paths)
