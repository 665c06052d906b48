"""Whose exception is it? What the network's layers raise is mapped; all else passes as it is."""

from __future__ import annotations

import builtins
import errno
import http.client
import inspect
import itertools
import socket
import ssl
import time
import traceback
import types
import warnings
from typing import Any

import pytest
import requests
import requests.exceptions
import urllib3.exceptions

from openai_compat import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    ConfigurationError,
    OpenAICompatError,
    ResponseParseError,
    Timeout,
)
from openai_compat.timeouts import Deadline
from openai_compat.transport import Endpoint
from openai_compat.transport.clock import Clock
from openai_compat.transport.exchange import NoReplyError
from openai_compat.transport.failures import chain_of, closed_by_server, root_cause, translated
from openai_compat.transport.http1 import BadReplyError

ENDPOINT = Endpoint.parse("https://api.example/v1?key=sk-in-the-query")


def told(
    error: BaseException,
    *,
    endpoint: Endpoint = ENDPOINT,
    proxy: str = "",
    timeout: Timeout | None = None,
    cancel: CancelToken | None = None,
) -> BaseException:
    return translated(error, Clock(Deadline(timeout or Timeout(), cancel), where=endpoint.base), endpoint, "p", proxy)


def raised(error: BaseException, module: str = "urllib3.connection") -> BaseException:
    """``error``, raised in a module of this name."""
    space = {"__name__": module, "error": error}
    try:
        exec(compile("def fail():\n    raise error\nfail()", "somewhere", "exec"), space)
    except BaseException as caught:
        return caught
    raise AssertionError


RETRIED, LASTING = True, False
BROKE, CUT = "broke", "ended before the reply was complete"
_TABLE: list[tuple[type[BaseException], tuple[Any, ...], type[BaseException] | None, bool, str]] = [
    # what is raised, with what; what it becomes (None: itself), whether that is tried again, and its words
    (ConnectionRefusedError, (errno.ECONNREFUSED, "x"), APIConnectionError, RETRIED, "nothing listens at"),
    (ConnectionResetError, (errno.ECONNRESET, "x"), APIConnectionError, RETRIED, BROKE),
    (ConnectionAbortedError, (errno.ECONNABORTED, "x"), APIConnectionError, RETRIED, BROKE),
    (BrokenPipeError, (errno.EPIPE, "x"), APIConnectionError, RETRIED, BROKE),
    (NoReplyError, ("closed without a reply",), APIConnectionError, RETRIED, BROKE),
    (BadReplyError, ("it does not speak HTTP",), APIConnectionError, RETRIED, "no whole HTTP reply: it does not speak"),
    (TimeoutError, (errno.ETIMEDOUT, "x"), APIConnectionError, RETRIED, BROKE),
    (TimeoutError, ("timed out",), APITimeoutError, LASTING, "by a limit that is not this client's"),
    (socket.gaierror, (socket.EAI_NONAME, "x"), APIConnectionError, RETRIED, "the host 'api.example' is not known"),
    (ssl.SSLError, (1, "x"), APIConnectionError, RETRIED, BROKE),  # no reason of OpenSSL's
    (ssl.SSLCertVerificationError, ("expired",), APIConnectionError, LASTING, "does not fit: expired"),
    (ssl.SSLEOFError, (8, "x"), APIConnectionError, RETRIED, BROKE),
    (ssl.SSLZeroReturnError, (6, "x"), APIConnectionError, RETRIED, BROKE),
    *((OSError, (code, "x"), APIConnectionError, RETRIED, BROKE) for code in (errno.ENETUNREACH, errno.EHOSTUNREACH)),
    *((OSError, (code, "x"), APIConnectionError, RETRIED, BROKE) for code in (errno.EADDRNOTAVAIL, errno.EBADF)),
    (FileNotFoundError, (errno.ENOENT, "x"), None, LASTING, ""),
    (OSError, (errno.EMFILE, "x"), None, LASTING, ""),
    (OSError, ("whatever",), None, LASTING, ""),
    *((kind, ("x",), None, LASTING, "") for kind in (ValueError, KeyError, RuntimeError, MemoryError, UnicodeError)),
    *((kind, (), None, LASTING, "") for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration)),
    (http.client.IncompleteRead, (b"", 5), APIConnectionError, RETRIED, CUT),
    (http.client.RemoteDisconnected, ("x",), APIConnectionError, RETRIED, BROKE),
    (http.client.BadStatusLine, ("x",), APIConnectionError, RETRIED, BROKE),
    (requests.exceptions.ConnectionError, ("x",), APIConnectionError, RETRIED, BROKE),
    (requests.exceptions.ChunkedEncodingError, ("x",), APIConnectionError, RETRIED, CUT),
    (requests.exceptions.ContentDecodingError, ("x",), ResponseParseError, LASTING, "cannot be decompressed"),
    (requests.exceptions.ConnectTimeout, ("x",), APITimeoutError, RETRIED, "did not answer in time"),
    (requests.exceptions.ReadTimeout, ("x",), APITimeoutError, LASTING, "did not answer in time"),
    (requests.exceptions.Timeout, ("x",), APITimeoutError, LASTING, "did not answer in time"),
    (requests.exceptions.ProxyError, ("x",), APIConnectionError, RETRIED, "the proxy on the way"),
    (requests.exceptions.SSLError, ("x",), APIConnectionError, LASTING, "TLS with https://api.example/v1 failed"),
    (requests.exceptions.InvalidHeader, ("sk-1",), ConfigurationError, LASTING, "a header has a character"),
    (requests.exceptions.InvalidURL, ("x",), ConfigurationError, LASTING, "the base URL cannot be used"),
    (requests.exceptions.MissingSchema, ("x",), ConfigurationError, LASTING, "the base URL cannot be used"),
    (requests.exceptions.InvalidSchema, ("No adapter",), ConfigurationError, LASTING, "the base URL cannot be used"),
    (
        requests.exceptions.InvalidSchema,
        ("Missing dependencies for SOCKS support.",),
        ConfigurationError,
        LASTING,
        "needs PySocks",
    ),
    (requests.exceptions.InvalidProxyURL, ("x",), ConfigurationError, LASTING, "the proxy on the way"),
    (urllib3.exceptions.ProxySchemeUnknown, ("ftp",), ConfigurationError, LASTING, "the proxy on the way"),
    (urllib3.exceptions.ProtocolError, ("x",), APIConnectionError, RETRIED, CUT),
    (urllib3.exceptions.IncompleteRead, (1, 5), APIConnectionError, RETRIED, CUT),
    (urllib3.exceptions.DecodeError, ("x",), ResponseParseError, LASTING, "cannot be decompressed"),
    (urllib3.exceptions.ConnectTimeoutError, ("x",), APITimeoutError, RETRIED, "did not answer in time"),
    (urllib3.exceptions.ReadTimeoutError, (None, "u", "x"), APITimeoutError, LASTING, "did not answer in time"),
    (urllib3.exceptions.LocationParseError, ("x",), ConfigurationError, LASTING, "the base URL cannot be used"),
    (urllib3.exceptions.InsecureRequestWarning, ("x",), None, LASTING, ""),
    (requests.exceptions.RequestsWarning, ("x",), None, LASTING, ""),
]


@pytest.mark.parametrize(
    ("kind", "args", "becomes", "retryable", "words"),
    _TABLE,
    ids=[f"{kind.__module__}.{kind.__name__}{args}" for kind, args, *_ in _TABLE],
)
def test_what_it_becomes(
    kind: type[BaseException],
    args: tuple[Any, ...],
    becomes: type[BaseException] | None,
    retryable: bool,
    words: str,
) -> None:
    for error in (kind(*args), raised(kind(*args))):
        found = told(error)
        if becomes is None:
            assert found is error
            continue
        assert (type(found), getattr(found, "retryable", False)) == (becomes, retryable)
        assert words in str(found)


def example(kind: type[BaseException]) -> BaseException | None:
    """An exception of a class, with whatever its arguments are."""
    attempts: list[tuple[Any, ...]] = [("sk-secret",), (None, "sk-secret"), (None, "/?key=sk-secret", "sk-secret")]
    for args in (*attempts, (5, 5), ("h", None, socket.gaierror(1, "x")), ("x", "sk-secret", 5), ()):
        try:
            error = kind(*args)
            str(error)
        except (TypeError, AttributeError, ValueError):
            continue
        return error
    return None


@pytest.mark.parametrize("module", [requests.exceptions, urllib3.exceptions, http.client, ssl, socket, builtins])
def test_every_class_becomes_one_of_ours_or_stays_itself(module: types.ModuleType) -> None:
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, BaseException)]
    for kind in kinds:
        error = example(kind)
        if error is None:
            continue
        found = told(error)
        ours = isinstance(found, OpenAICompatError)
        package = kind.__module__.partition(".")[0] in ("requests", "urllib3")
        network = package or issubclass(kind, http.client.HTTPException)
        connection = issubclass(kind, (ConnectionError, ssl.SSLError, socket.gaierror, TimeoutError))
        assert ours is ((network or connection) and not issubclass(kind, Warning)), kind
        assert ours or found is error
        if ours and not isinstance(error, ssl.SSLCertVerificationError):  # which is quoted: it knows no request
            assert "sk-secret" not in str(found)
        if isinstance(found, APIError):
            assert found.provider == "p"


class TestForeign:
    @pytest.mark.parametrize("module", ["celery.utils", "__main__", "tests.mine", "moto.core", "socketpool"])
    @pytest.mark.parametrize(
        "error", [TimeoutError(), ConnectionResetError(), PermissionError(13, "x"), ssl.SSLError()]
    )
    def test_what_others_raise_passes(self, module: str, error: Exception) -> None:
        found = raised(error, module)
        assert told(found) is found

    def test_also_where_urllib3_took_it_for_the_sockets_own(self) -> None:
        alarm = raised(TimeoutError("by a signal"), "my_worker")
        for wrapping in (
            urllib3.exceptions.ReadTimeoutError(None, "u", "x"),  # type: ignore[arg-type]
            urllib3.exceptions.ProtocolError("x", alarm),
            requests.ConnectionError(urllib3.exceptions.ProtocolError("x", alarm)),
        ):
            wrapping.__cause__ = alarm
            assert told(raised(wrapping)) is alarm

    def test_words_of_a_mock_are_its_own(self) -> None:
        refusal = raised(requests.ConnectionError("no mock address: GET https://api.example"), "requests_mock.mocker")
        found = told(refusal)
        assert type(found) is APIConnectionError
        assert root_cause(refusal) is refusal

    @pytest.mark.parametrize("module", ["socket", "gevent._socket3", "openai_compat.transport.exchange", "ssl"])
    def test_what_the_layers_raise_does_not(self, module: str) -> None:
        for error in (TimeoutError(), ConnectionResetError(), ssl.SSLError(1, "x")):
            assert isinstance(told(raised(error, module)), APIConnectionError)

    def test_a_firewall_that_forbids_connecting(self) -> None:
        """Not a file that may not be read."""
        forbidden = told(raised(PermissionError(errno.EACCES, "x"), "socket"))
        assert (type(forbidden), getattr(forbidden, "retryable", None)) == (APIConnectionError, True)
        for module in ("urllib3.util.ssl_", "requests.adapters", "openai_compat.transport.route"):
            unreadable = raised(PermissionError(errno.EACCES, "x"), module)
            assert told(unreadable) is unreadable


class TestContext:
    def test_is_never_followed(self) -> None:
        """A call within an except block is not judged by what the caller handles."""
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "of another call")
        except ConnectionRefusedError:
            error = raised(TimeoutError("timed out"), "socket")
        assert isinstance(error.__context__, ConnectionRefusedError)
        assert chain_of(error) == [error]
        assert type(told(error)) is APITimeoutError
        assert root_cause(error) is error

    def test_causes_reasons_and_arguments_are(self) -> None:
        root = ConnectionRefusedError(errno.ECONNREFUSED, "x")
        new = urllib3.exceptions.NewConnectionError(None, "x")  # type: ignore[arg-type]
        new.__cause__ = root
        error = requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/?key=sk-1", new))  # type: ignore[arg-type]
        assert root in chain_of(error)
        assert "nothing listens" in str(told(error))
        assert root_cause(error) is root

    def test_a_circle_ends(self) -> None:
        error, other = OSError("a"), OSError("b")
        error.__cause__, other.__cause__ = other, error
        assert chain_of(error) == [error, other]
        long = [OSError(str(number)) for number in range(50)]
        for one, two in itertools.pairwise(long):
            one.__cause__ = two
        assert chain_of(long[0]) == long[:20]


class TestOurs:
    def test_stay_what_they_are(self) -> None:
        error, other = APIConnectionError("x"), ConfigurationError("y")
        assert (told(error), told(other)) == (error, other)
        assert error.provider == "p"
        named = APIConnectionError("x", provider="q")
        assert told(named) is named
        assert named.provider == "q"

    def test_a_cancelled_call_is_cancelled_whatever_broke(self) -> None:
        token = CancelToken()
        token.cancel()
        assert type(told(ConnectionResetError(), cancel=token)) is Cancelled
        mine = ValueError()
        assert told(mine, cancel=token) is mine


class TestTimeouts:
    def test_a_limit_of_ours_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(Deadline(Timeout(connect=1, first_token=2, total=50)), where="there")
        now = time.monotonic()
        monkeypatch.setattr("openai_compat.transport.clock.time.monotonic", lambda: now + 1.5)
        found = translated(TimeoutError("timed out"), clock, ENDPOINT, "p")
        assert (str(found), found.phase) == ("no connection to there within 1 s (timeout: connect)", "connect")  # type: ignore[attr-defined]
        monkeypatch.setattr("openai_compat.transport.clock.time.monotonic", lambda: now + 51)
        found = translated(TimeoutError("timed out"), clock, ENDPOINT, "p")
        assert "took more than 50 s in all" in str(found)

    @pytest.mark.parametrize(
        ("error", "after", "phase", "ours"),
        [
            (requests.ConnectTimeout("x"), 1.5, "connect", True),
            (requests.ReadTimeout("x"), 2.5, "first_token", True),
            (requests.ReadTimeout("x"), 0.5, "first_token", False),
            (requests.ConnectTimeout("x"), 0.5, "connect", False),
        ],
    )
    def test_on_requests_own_way_the_error_says_which(
        self, error: Exception, after: float, phase: str, ours: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There the clock never sees the connection come: its phase stays what it was at the start."""
        clock = Clock(Deadline(Timeout(connect=1, first_token=2)), where="there")
        clock._seconds = None
        now = time.monotonic()
        monkeypatch.setattr("openai_compat.transport.clock.time.monotonic", lambda: now + after)
        found = translated(error, clock, ENDPOINT, "p")
        assert isinstance(found, APITimeoutError)
        assert (found.phase, "not this client's" not in str(found)) == (phase, ours)


class TestProxies:
    @pytest.mark.parametrize(
        "error",
        [ConnectionRefusedError(111, "x"), socket.gaierror(1, "x"), requests.exceptions.ProxyError("x")],
    )
    def test_the_setting_is_named(self, error: Exception) -> None:
        assert "the proxy (HTTPS_PROXY) on the way to https://api.example/v1 does not work" in str(
            told(error, proxy="HTTPS_PROXY")
        )

    @pytest.mark.parametrize(("said", "retryable"), [("407 Login", False), ("403 No", False), ("502 Bad", True)])
    def test_what_it_said_to_connect(self, said: str, retryable: bool) -> None:
        error = requests.exceptions.ProxyError(OSError(f"Tunnel connection failed: {said}"))
        found = told(error)
        assert isinstance(found, APIConnectionError)
        assert str(found).startswith(f"the proxy on the way to https://api.example/v1 refuses: {said}")
        assert ("a user and a password" in str(found)) == said.startswith("407")
        assert found.retryable == retryable


def test_how_to_start_a_server_is_told_on_this_machine_only() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert "openai-compat serve" in str(told(refused, endpoint=Endpoint.parse("http://localhost:1/v1")))
    assert "openai-compat serve" not in str(told(refused))


def test_nothing_shows_a_key_or_a_query() -> None:
    url = "/v1/chat/completions?key=sk-in-the-query"
    new = urllib3.exceptions.NewConnectionError(None, f"Failed: {url}")  # type: ignore[arg-type]
    new.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    errors: list[Exception] = [
        requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, url, new)),  # type: ignore[arg-type]
        requests.exceptions.InvalidHeader(f"Authorization: {url}"),
        requests.exceptions.InvalidURL(url),
        requests.ReadTimeout(urllib3.exceptions.ReadTimeoutError(None, url, url)),  # type: ignore[arg-type]
        urllib3.exceptions.LocationParseError(url),
    ]
    for error in errors:
        shown = told(error)
        shown.__cause__ = root_cause(error)
        assert "sk-in-the-query" not in "".join(traceback.format_exception(shown))


def test_the_cause_has_no_frames_which_hold_the_request() -> None:
    root = raised(ConnectionResetError(errno.ECONNRESET, "x"), "openai_compat.transport.exchange")
    assert root_cause(root) is root
    assert root.__traceback__ is None
    for error in (APIConnectionError("x"), KeyboardInterrupt(), requests.ConnectionError("x")):
        assert root_cause(error) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (NoReplyError(), True),
        (ssl.SSLEOFError(8, "EOF"), True),
        (BadReplyError(), False),
        (TimeoutError(), False),
        (ssl.SSLError(1, "x"), False),
        (APIConnectionError("x"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_gone(error: BaseException, expected: bool) -> None:
    assert closed_by_server(error) is expected


def test_a_warning_that_the_user_made_an_error_is_theirs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(urllib3.exceptions.InsecureRequestWarning) as caught:
            warnings.warn("unverified", urllib3.exceptions.InsecureRequestWarning, stacklevel=1)
    assert told(caught.value) is caught.value
