"""Everything that blocks on a server: one pooled requests session, timeouts, cancellation, and waiting to try again."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import attrs

from .errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    Cancelled,
    ConfigurationError,
    OpenAICompatError,
    Phase,
    ResponseParseError,
)
from .wire.error_body import status_error
from .wire.retry import RetryPolicy

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

READ_SIZE = 65536
MAX_ERROR_BODY = 65536
"""Bytes of an error's body that are read."""
MAX_INFLATION = 200
"""How many times its size on the wire a body may grow to, once it is over ``INFLATION_FROM``."""
INFLATION_FROM = 8 * 1024 * 1024
POOL_SIZE = 100
"""Connections that are kept, so that as many threads share one client without opening new ones."""


def _seconds(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
        raise ConfigurationError(f"timeout: {attribute.name} must be a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeout:
    """How long to wait, in seconds; None is for ever.

    Args:
        connect: for the connection, TLS included.
        first_token: from then to the first byte of the reply; without a stream that is the whole answer.
        idle: between two pieces of the reply.
        total: for the whole call, retries included. A plain number given as a timeout is this.
    """

    connect: float | None = attrs.field(default=10.0, validator=_seconds)
    first_token: float | None = attrs.field(default=600.0, validator=_seconds)
    idle: float | None = attrs.field(default=120.0, validator=_seconds)
    total: float | None = attrs.field(default=None, validator=_seconds)

    @classmethod
    def of(cls, value: Timeout | float | None) -> Timeout:
        """``value`` as a Timeout; None means no limit at all."""
        if isinstance(value, Timeout):
            return value
        if value is None:
            return cls(connect=None, first_token=None, idle=None)
        return cls(total=value)


class CancelToken:
    """Ends calls from another thread: give it to a call as ``cancel=``, and call ``cancel()``.

    One token may be given to many calls; once cancelled it stays so.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` has been called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """End every call that has this token, in whatever phase it is."""
        self._event.set()
        with self._lock:
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.shut_down()

    def wait(self, seconds: float) -> bool:
        """Wait; True as soon as the token is cancelled."""
        return self._event.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if the token is."""
        if self.cancelled:
            raise Cancelled

    def _watch(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.add(exchange)

    def _forget(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)


class Deadline:
    """When a call has to be over."""

    def __init__(self, timeout: Timeout, cancel: CancelToken | None = None) -> None:
        self.timeout = timeout
        self.cancel = cancel
        self.started = time.monotonic()

    def limit(self, seconds: float | None, phase: Phase) -> tuple[float | None, Phase]:
        """The shorter of ``seconds`` and what is left of the total, and which of them it is."""
        total = self.timeout.total
        if total is None:
            return seconds, phase
        left = max(self.started + total - time.monotonic(), 0.0)
        return (seconds, phase) if seconds is not None and seconds <= left else (left, "total")

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.monotonic() - self.started) * 1000

    def sleep(self, seconds: float) -> None:
        """Wait to try again; ends early with ``Cancelled``, or at once with a timeout that would come before."""
        if self.timeout.total is not None and self.started + self.timeout.total - time.monotonic() < seconds:
            raise APITimeoutError(
                f"no time is left to try again: {seconds:.1f} s are to be waited, {self.timeout.total:g} s were given",
                phase="total",
            )
        if self.cancel is None:
            time.sleep(seconds)
        elif self.cancel.wait(seconds):
            raise Cancelled


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


_active = threading.local()
"""The exchange that this thread is opening, for its connection to report its socket to."""


class Exchange:
    """One request and its reply: what another thread needs to end it, and what the reader needs to time it."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.phase: Phase = "connect"
        self._sock: Any = None

    def use(self, sock: Any) -> None:
        """The connection's socket, from the moment there is one."""
        self._sock = sock
        if self.cancelled:
            self.shut_down()

    @property
    def connected(self) -> bool:
        """Whether there is a socket to time and to shut down."""
        return self._sock is not None

    @property
    def cancelled(self) -> bool:
        """Whether the caller has ended the call."""
        return self.deadline.cancel is not None and self.deadline.cancel.cancelled

    def shut_down(self) -> None:
        """Wake whoever is blocked on the socket."""
        sock = self._sock
        if sock is not None:
            # Not SSLSocket's own shutdown, which would pull the TLS state from under the reader.
            with contextlib.suppress(OSError, TypeError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def arm(self, seconds: float | None, phase: Phase) -> None:
        """Limit the next read."""
        limit, self.phase = self.deadline.limit(seconds, phase)
        if limit == 0.0:
            raise TimeoutError
        if self._sock is not None:
            # A reply that closes its connection has closed the socket once all of it is read.
            with contextlib.suppress(OSError):
                self._sock.settimeout(limit)


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


class Reply:
    """The reply to a request: its status, its headers (lower-case names), and its body, read once."""

    def __init__(self, response: requests.Response, exchange: Exchange, transport: Transport, url: str) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.url = url
        self._response = response
        self._exchange = exchange
        self._transport = transport
        if not exchange.connected:
            # A session of the user's own, whose connections do not report.
            exchange.use(getattr(getattr(response.raw, "connection", None), "sock", None))

    @property
    def request_id(self) -> str | None:
        """The id under which the server knows this call."""
        return self.headers.get("x-request-id") or self.headers.get("request-id")

    def read(self, limit: int | None = None) -> bytearray:
        """The whole body, decoded; of one longer than ``limit`` bytes, its beginning."""
        body = bytearray()
        try:
            for chunk in self._timed(self._response.iter_content(READ_SIZE)):
                body += chunk
                self._check_inflation(len(body))
                if limit is not None and len(body) >= limit:
                    break
        except BaseException as error:
            self.close()
            raise self._mapped(error) from _shown_cause(error)
        self.finish()
        return body

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes, decoded, as they arrive."""
        raw = self._response.raw
        read1: Callable[..., bytes] | None = getattr(raw, "read1", None)
        try:
            if read1 is None:
                yield from self._timed(self._response.iter_content(READ_SIZE))
                return
            total = 0
            while True:
                self._exchange.arm(self._exchange.deadline.timeout.idle, "idle")
                chunk = read1(READ_SIZE, decode_content=True)
                if not chunk:
                    break
                total += len(chunk)
                self._check_inflation(total)
                yield chunk
            if self._exchange.cancelled:
                raise Cancelled
        except GeneratorExit:
            raise
        except BaseException as error:
            self.close()
            raise self._mapped(error) from _shown_cause(error)

    def _timed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        idle = self._exchange.deadline.timeout.idle
        while True:
            self._exchange.arm(idle, "idle")
            try:
                chunk = next(chunks)
            except StopIteration:
                break
            yield chunk
        if self._exchange.cancelled:
            raise Cancelled

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

    def _mapped(self, error: BaseException) -> BaseException:
        return self._transport.mapped(error, self._exchange)

    def finish(self) -> None:
        """The answer is complete: keep the connection if the body ends at once, else close it."""
        # Whatever follows the answer must not cost the answer.
        with contextlib.suppress(Exception):
            if self._exchange.connected:
                self._drain()
        self.close()

    def _drain(self) -> None:
        """Read what is left, which gives the connection back to its pool, unless that would take time."""
        self._exchange.arm(0.05, "idle")
        for _ in range(4):
            if not self._response.raw.read1(READ_SIZE):
                return

    def close(self) -> None:
        """Close the connection; the server sees it go."""
        self._response.close()
        self._forget()

    def _forget(self) -> None:
        if self._exchange.deadline.cancel is not None:
            self._exchange.deadline.cancel._forget(self._exchange)


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
        self._lock = threading.Lock()
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
        wire = self._wire or self._connect_wire()
        url = self.endpoint.url(path, query)
        exchange = Exchange(deadline)
        connect, _ = deadline.limit(deadline.timeout.connect, "connect")
        first, _ = deadline.limit(deadline.timeout.first_token, "first_token")
        _active.exchange = exchange
        try:
            if connect == 0.0 or first == 0.0:
                exchange.phase = "total"
                raise TimeoutError
            if deadline.cancel is not None:
                deadline.cancel._watch(exchange)
                deadline.cancel.raise_if_cancelled()
            all_headers = {**self._headers, **self._auth(), **(headers or {})}
            response = wire.send(method, url, body, all_headers, (connect, first))
        except BaseException as error:
            if deadline.cancel is not None:
                deadline.cancel._forget(exchange)
            raise self.mapped(error, exchange) from _shown_cause(error)
        finally:
            _active.exchange = None
        reply = Reply(response, exchange, self, f"{self.endpoint.base}{path}")
        if reply.status >= 300:
            raise self._refusal(reply)
        return reply

    def _refusal(self, reply: Reply) -> APIError:
        body = reply.read(MAX_ERROR_BODY)
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
            bytes(body),
            provider=self.provider,
            url=reply.url,
            request_id=reply.request_id,
            secrets=self.secrets(),
            now=time.time(),
        )

    def _connect_wire(self) -> _Wire:
        with self._lock:
            if self._wire is None:
                self._wire = _Wire(self.endpoint, self._given, self._requests_auth, self._headers)
            return self._wire

    def mapped(self, error: BaseException, exchange: Exchange) -> BaseException:
        """The exception of this library for one from below; one that is not from below stays."""
        if exchange.cancelled and isinstance(error, Exception):
            return Cancelled()
        if isinstance(error, OpenAICompatError) or not isinstance(error, Exception):
            return error
        return _map_error(error, exchange, self.endpoint, self.provider)

    def close(self) -> None:
        """Close the pooled connections, unless the session is the user's own."""
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None and self._given is None:
            wire.session.close()


class _Wire:
    """The requests session, made at the first call, with the environment's settings read once."""

    def __init__(
        self, endpoint: Endpoint, session: requests.Session | None, auth: Any, headers: Mapping[str, str]
    ) -> None:
        from ._pool import new_session, settings

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

    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")}


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
    return roots[-1] if roots else None


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
    # After the refusals: urllib3 counts them among its connect timeouts.
    if first(requests.exceptions.ConnectTimeout, u3.ConnectTimeoutError):
        return _timeout(exchange, "connect", where, provider)
    if first(requests.exceptions.ReadTimeout, u3.ReadTimeoutError, TimeoutError, socket.timeout):
        phase = exchange.phase if exchange.phase != "connect" else "first_token"
        return _timeout(exchange, phase, where, provider)
    if first(u3.DecodeError, requests.exceptions.ContentDecodingError):
        return ResponseParseError(f"the reply of {where} cannot be decompressed", provider=provider)
    if first(ssl.SSLError):
        return APIConnectionError(f"TLS with {where} failed: {first(ssl.SSLError).reason}", provider=provider)
    retryable = bool(first(u3.HTTPError, requests.exceptions.ConnectionError, OSError))
    root = next((item for item in reversed(chain) if str(item) and not _of_requests(item)), error)
    what = "ended before the reply was complete" if first(u3.IncompleteRead, u3.ProtocolError) else "broke"
    return APIConnectionError(
        f"the connection to {where} {what} ({type(root).__name__})", provider=provider, retryable=retryable
    )


def _timeout(exchange: Exchange, phase: Phase, where: str, provider: str) -> APITimeoutError:
    timeout = exchange.deadline.timeout
    if timeout.total is not None and exchange.deadline.elapsed_ms / 1000 >= timeout.total - 0.001:
        phase = "total"
    seconds = getattr(timeout, phase)
    what = {
        "connect": "no connection to {where} within {seconds:g} s",
        "first_token": "no answer from {where} within {seconds:g} s",
        "idle": "nothing more from {where} for {seconds:g} s",
        "total": "the call to {where} took more than {seconds:g} s in all",
    }[phase]
    return APITimeoutError(
        what.format(where=where, seconds=seconds or 0) + f" (timeout: {phase})",
        phase=phase,
        provider=provider,
        # A server that is slow to answer may still be at work: to ask again would double its load.
        retryable=phase == "connect",
    )


def netrc_exists() -> bool:
    """Whether a netrc file is there to be read: to look for it is cheap, to load its parser is not."""
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    return any(os.path.exists(os.path.expanduser(path)) for path in paths)
