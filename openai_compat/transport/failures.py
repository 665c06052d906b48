"""Whose exception is it? What the network's layers raise becomes an error of this library; all else passes."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

from ..errors import (
    APIConnectionError,
    APITimeoutError,
    Cancelled,
    ConfigurationError,
    OpenAICompatError,
    Phase,
    ResponseParseError,
)
from ..redaction import mask_secrets
from .clock import Clock
from .endpoint import Endpoint
from .http1 import BadReplyError

_NETWORK = {
    getattr(errno, name)
    for name in ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "EADDRNOTAVAIL", "ENOTCONN", "EPIPE", "EBADF")
    if hasattr(errno, name)
}
_TUNNEL = "Tunnel connection failed: "
"""How http.client begins the refusal of a proxy, which has no class of its own."""
_PACKAGES = ("requests", "urllib3", "socks")
_LAYERS = (
    *_PACKAGES,
    "openai_compat",
    "socket",
    "ssl",
    "http",
    "gevent",
    "eventlet",
    "encodings",
    "selectors",
    "truststore",
)
_SHOWING = (
    *("http", "json", "requests", "urllib3", "openai_compat._json", "openai_compat.wire"),
    *(f"openai_compat.transport.{name}" for name in ("by_requests", "exchange", "http1", "reply")),
)
"""Whose frames hold requests as they are sent, and replies as they came."""
_TIMEOUTS = ("Timeout", "ConnectTimeout", "ReadTimeout", "ConnectTimeoutError", "ReadTimeoutError")


def translated(error: BaseException, clock: Clock, endpoint: Endpoint, provider: str, proxy: str = "") -> BaseException:
    """The exception of this library for one from below; one that is not from below is returned as it is.

    Args:
        error: what was raised within the call.
        clock: of the exchange.
        endpoint: who was called.
        provider: who that is.
        proxy: the name of the setting that put a proxy in between.
    """
    if isinstance(error, OpenAICompatError):
        if isinstance(error, APIConnectionError) and not error.provider:
            error.provider = provider
        return error
    if not isinstance(error, Exception) or not _of_the_network(error):
        return error
    if clock.deadline.cancelled:
        return Cancelled()
    chain = chain_of(error)
    foreign = next((item for item in chain if isinstance(item, OSError) and _raised_elsewhere(item)), None)
    if foreign is not None and not _package(foreign):
        # A signal handler's, raised in the middle of a system call, which urllib3 took for the socket's own.
        return foreign
    if any(map(_is_timeout, chain)):
        return _timeout(chain, clock, endpoint, provider)
    return _explained(error, chain, endpoint, provider, proxy)


def root_cause(error: BaseException) -> BaseException | None:
    """What to chain: the error at the root, whose text holds neither URL nor headers."""
    if isinstance(error, OpenAICompatError) or not isinstance(error, Exception):
        return None
    roots = [
        item
        for item in chain_of(error)
        if isinstance(item, OSError) and (not _package(item) or _raised_elsewhere(item))
    ]
    # Without its frames, whose variables hold the request as it was sent.
    return roots[-1].with_traceback(None) if roots else None


def hide(secrets: Iterable[str], *errors: BaseException) -> None:
    """Take secrets out of exceptions and all that hangs on them, contexts too, that error reports may show.

    Their texts are masked, and frames dropped whose variables hold requests as they are sent, or replies as they came.
    What the caller is handling is left alone: it is no part of the call.
    """
    secrets = tuple(secrets)
    callers = _callers()
    seen: list[BaseException] = []
    waiting: list[Any] = [*errors]
    while waiting and len(seen) < 50:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or item in seen:
            continue
        seen.append(item)
        waiting += [getattr(item, "reason", None), *item.args, item.__cause__]
        if not _caught_in(item.__context__, callers):
            waiting.append(item.__context__)
        shown = tuple(mask_secrets(part, secrets) if isinstance(part, str) else part for part in item.args)
        if shown != item.args:
            BaseException.__setattr__(item, "args", shown)  # some exceptions are frozen
        for name, value in list(vars(item).items()):
            # requests puts the request as it was sent on its exceptions; where tblib is loaded, a pickle has all of it.
            if type(value).__name__ == "PreparedRequest":
                vars(item)[name] = None
            elif isinstance(value, str) and (hidden := mask_secrets(value, secrets)) != value:
                vars(item)[name] = hidden
        _drop_frames(item)


def _callers() -> set[FrameType]:
    """The frames that called into this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__.partition(".")[0]:
        frame = frame.f_back
    callers: set[FrameType] = set()
    while frame is not None:
        callers.add(frame)
        frame = frame.f_back
    return callers


def _caught_in(error: BaseException | None, frames: set[FrameType]) -> bool:
    return error is not None and error.__traceback__ is not None and error.__traceback__.tb_frame in frames


def _drop_frames(error: BaseException) -> None:
    steps: list[TracebackType] = []
    step = error.__traceback__
    while step is not None:
        name = f"{step.tb_frame.f_globals.get('__name__')}."
        if not any(name.startswith(f"{module}.") for module in _SHOWING):
            steps.append(step)
        step = step.tb_next
    following: TracebackType | None = None
    for step in reversed(steps):
        step.tb_next = following
        following = step
    error.with_traceback(following)


def printable(words: str) -> str:
    """Words of a server's or a proxy's, as they may stand in an error: neither long nor with codes for a terminal."""
    return "".join(filter(str.isprintable, words))[:200]


def closed_by_server(error: BaseException) -> bool:
    """Whether a connection was closed by the server, which has then not seen the request if nothing came back."""
    return isinstance(error, ConnectionError) or _defined_in_ssl(error, "SSLEOFError")


def chain_of(error: BaseException) -> list[BaseException]:
    """An exception and all that it wraps, in requests' and urllib3's ways too.

    Never ``__context__``: inside an ``except`` block it leads out of the call, to what the caller is handling.
    """
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(seen) < 20:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            waiting += [getattr(item, "reason", None), *item.args, item.__cause__]
    return seen


def _of_the_network(error: Exception) -> bool:
    if isinstance(error, (ConnectionError, socket.gaierror, BadReplyError)):
        return True
    # By their modules' names: over plain TCP neither module is loaded.
    if any(cls.__module__ in ("ssl", "http.client") for cls in type(error).__mro__):
        return True
    if _package(error):
        return not isinstance(error, Warning)  # which the user made an error
    if isinstance(error, TimeoutError):
        return not _raised_elsewhere(error)
    if isinstance(error, PermissionError):
        return _raised_in(error) == "socket"  # a firewall's, not a file's
    return isinstance(error, OSError) and (error.errno in _NETWORK or str(error).startswith(_TUNNEL))


def _package(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _PACKAGES


def _raised_elsewhere(error: BaseException) -> bool:
    """Whether code that is neither ours nor the network's raised it: a signal handler, a mock."""
    package = _raised_in(error)
    return package is not None and package not in _LAYERS


def _raised_in(error: BaseException) -> str | None:
    """The package whose code raised it; None where it was never raised."""
    step = error.__traceback__
    if step is None:
        return None
    while step.tb_next is not None:
        step = step.tb_next
    return str(step.tb_frame.f_globals.get("__name__")).partition(".")[0]


def _defined_in_ssl(error: BaseException, name: str) -> bool:
    return any(cls.__module__ == "ssl" and cls.__name__ == name for cls in type(error).__mro__)


def _is_timeout(error: BaseException) -> bool:
    # One with a number is the system's: it gave the connection up, no limit was reached.
    return (isinstance(error, TimeoutError) and error.errno is None) or (
        _package(error) and type(error).__name__ in _TIMEOUTS
    )


def _timeout(chain: list[BaseException], clock: Clock, endpoint: Endpoint, provider: str) -> APITimeoutError:
    """A limit that was reached: one of ours, or one that an adapter or the socket module has."""
    # On requests' own way the clock cannot see when the connection is there.
    connecting = any("Connect" in type(item).__name__ for item in chain)
    if clock.expired() and not (connecting and clock.phase == "first_token"):
        return clock.error()
    if clock.phase == "first_token" and clock.expired("connect"):
        # urllib3 calls a handshake that takes too long a read.
        connecting = connecting or any(type(item).__module__.startswith("requests.") for item in chain)
    waiting: Phase = "connect" if connecting else "first_token" if clock.phase == "connect" else clock.phase
    phase: Phase = "total" if clock.deadline.left == 0.0 else waiting
    if clock.expired(phase):
        return clock.error_for(phase)
    return APITimeoutError(
        f"{endpoint.base} did not answer in time, by a limit that is not this client's",
        phase=phase,
        provider=provider,
        retryable=connecting,
    )


def _explained(
    error: Exception, chain: list[BaseException], endpoint: Endpoint, provider: str, proxy: str
) -> OpenAICompatError:
    where = endpoint.base

    def first(*types: type[BaseException]) -> Any:
        return next((item for item in chain if isinstance(item, types)), None)

    def named(*names: str) -> bool:
        return any(_package(item) and type(item).__name__ in names for item in chain)

    def tls(name: str) -> Any:
        return next((item for item in chain if _defined_in_ssl(item, name)), None)

    def failed(words: str, *, retryable: bool) -> APIConnectionError:
        return APIConnectionError(words, provider=provider, retryable=retryable)

    if named("InvalidHeader"):
        # requests shows the header's value, which may be a key.
        return ConfigurationError("a header has a character that HTTP does not allow in it; check api_key and headers")
    if any("SOCKS support" in str(item) for item in chain if _package(item)):
        return ConfigurationError("a SOCKS proxy needs PySocks: pip install 'openai-compat[socks]'")
    if named("InvalidProxyURL", "ProxySchemeUnknown", "ProxySchemeUnsupported"):
        return ConfigurationError(f"the proxy on the way to {where} cannot be used; give one as in 'http://host:3128'")
    if named("InvalidURL", "InvalidSchema", "MissingSchema", "LocationValueError", "LocationParseError"):
        return ConfigurationError(f"the base URL cannot be used: {where}")
    # What Python code raises has none of the attributes that OpenSSL's own errors have.
    certificate = tls("SSLCertVerificationError")
    if certificate is not None:
        said = getattr(certificate, "verify_message", "") or "".join(map(str, certificate.args[-1:]))
        return failed(
            f"the certificate of {where} does not fit: {said}; for a certificate authority "
            "of your own give verify= its file, or set REQUESTS_CA_BUNDLE",
            retryable=False,
        )
    tunnel = next((str(item) for item in chain if str(item).startswith(_TUNNEL)), None)
    if tunnel is not None:
        said = printable(tunnel.removeprefix(_TUNNEL))
        hint = " (it wants a user and a password in its URL)" if said.startswith("407") else ""
        by = f" ({proxy})" if proxy else ""
        return failed(f"the proxy{by} on the way to {where} refuses: {said}{hint}", retryable=said.startswith("5"))
    by_proxy = named("ProxyError", "ProxyConnectionError", "GeneralProxyError", "SOCKS5Error", "SOCKS5AuthError")
    if by_proxy or (proxy and (first(ConnectionRefusedError, socket.gaierror) or named("NewConnectionError"))):
        by = f" ({proxy})" if proxy else ""
        return failed(f"the proxy{by} on the way to {where} does not work", retryable=True)
    if first(ConnectionRefusedError):
        help_ = "; is the server running? `openai-compat serve` starts one" if endpoint.loopback else ""
        return failed(f"nothing listens at {where} (connection refused){help_}", retryable=True)
    if first(socket.gaierror):
        return failed(f"the host {endpoint.host!r} is not known (or there is no network)", retryable=True)
    if named("DecodeError", "ContentDecodingError"):
        return ResponseParseError(f"the reply of {where} cannot be decompressed", provider=provider)
    encrypted = tls("SSLError")
    ended = tls("SSLEOFError") or tls("SSLZeroReturnError")
    said = getattr(encrypted, "reason", None)
    # Without a reason, or at an end, it is the connection that broke.
    if not ended and (said or (encrypted is None and named("SSLError"))):
        return failed(f"TLS with {where} failed: {said or type(error).__name__}", retryable=False)
    bad = first(BadReplyError)
    if bad is not None:
        return failed(f"the reply of {where} is no whole HTTP reply: {bad}", retryable=True)
    root = next((item for item in reversed(chain) if str(item) and not _package(item)), error)
    cut = named("ProtocolError", "ChunkedEncodingError") or type(root).__name__ == "IncompleteRead"
    what = "ended before the reply was complete" if cut else "broke"
    return failed(f"the connection to {where} {what} ({type(root).__name__})", retryable=True)
