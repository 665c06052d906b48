"""Exceptions that are not the network's reach the caller as they are.

A soft limit or an alarm is raised in the middle of whatever the main thread does, mostly in a socket call; others come
from auth objects, hooks, adapters and sinks.
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import pytest_socket
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from support.calls import CALLS, body, headers, reply, saying
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_pieces, tool_call

from openai_compat import (
    APIConnectionError,
    APITimeoutError,
    Client,
    InternalServerError,
    OpenAICompatError,
    Timeout,
)

# What is raised in the middle of urllib3's or ssl's work leaves them sockets that only the collector closes; that the
# server sees its connection close is asserted.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")

PATIENT = Timeout(connect=20, first_token=20, idle=20)


class SoftLimit(Exception):  # noqa: N818 - as task queues name theirs
    """As those of task queues: an Exception, raised by a signal handler."""


each_kind = pytest.mark.parametrize("kind", CALLS)
each_session = pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])
each_error = pytest.mark.parametrize(
    "error", [SoftLimit("over"), TimeoutError("over")], ids=["one of its own", "TimeoutError"]
)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_for_later_tests() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


def client_of(url: str, own: bool, **options: Any) -> Client:
    given = requests.Session() if own else None
    return Client(url, model="m", session=given, **{"timeout": PATIENT, **options})


class Alarm:
    """Raises an error in the main thread, once, as the handler of an alarm does."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self._over = threading.Event()
        self._ringing = threading.Lock()
        self._before: Any = None

    def __enter__(self) -> Alarm:
        self._before = signal.signal(signal.SIGALRM, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._ringing:
            self._over.set()
        signal.signal(signal.SIGALRM, self._before)

    def _handle(self, *_: object) -> None:
        if not self._over.is_set():
            self._over.set()
            raise self.error.with_traceback(None)  # one object for several tests

    def ring(self) -> None:
        """From another thread: a signal may come just before a system call that it was to interrupt, hence again."""
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(200):
            with self._ringing:
                if self._over.is_set():
                    return
                signal.pthread_kill(main, signal.SIGALRM)
            self._over.wait(0.05)


@contextlib.contextmanager
def ringing_when(reached: Callable[[], bool], alarm: Alarm) -> Iterator[None]:
    """Rings once something is so that only polling can tell."""
    done = threading.Event()

    def watch() -> None:
        for _ in range(1000):
            if reached():
                alarm.ring()
                return
            if done.wait(0.01):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(20)


def in_the_headers(request: Request, kind: str, alarm: Alarm) -> Reply:
    alarm.ring()
    request.closed.wait(10)
    return Reply(head=b"", abort="fin")


def in_the_body(request: Request, kind: str, alarm: Alarm) -> Reply:
    def pieces() -> Iterator[bytes]:
        yield body(kind, "abc")[:30]
        alarm.ring()
        request.closed.wait(10)

    return Reply(headers=headers(kind), body=pieces(), framing="chunked")


@each_kind
@each_session
@each_error
@pytest.mark.parametrize("phase", [in_the_headers, in_the_body])
def test_an_alarm_in_a_call_is_heard_as_it_is(kind: str, own: bool, error: Exception, phase: Any) -> None:
    with Alarm(error) as alarm:

        def replies(request: Request) -> Reply:
            return phase(request, kind, alarm) if request.number == 0 else reply(kind, "real")

        with ReplayServer(replies) as server:
            client = client_of(server.url, own)
            with pytest.raises(type(error)) as caught:
                CALLS[kind](client)
            assert caught.value is error
            assert server.requests[0].closed.wait(10)
            assert len(server.requests) == 1
            assert CALLS[kind](client) == "real"


@each_session
@each_error
@pytest.mark.parametrize("pulled", [True, False], ids=["iterator", "sink"])
def test_an_alarm_between_the_events_of_a_stream_is_heard_as_it_is(own: bool, error: Exception, pulled: bool) -> None:
    heard = threading.Event()

    def hear(event: object) -> None:
        heard.set()

    def ask(client: Client) -> None:
        if not pulled:
            client.chat("hi", sink=hear)
        with client.stream("hi") as stream:
            for event in stream:
                hear(event)

    with Alarm(error) as alarm:

        def replies(request: Request) -> Reply:
            def pieces() -> Iterator[bytes]:
                yield stream_pieces("a")[0]
                heard.wait(10)
                alarm.ring()
                request.closed.wait(10)

            return Reply(headers=EVENT_STREAM, body=pieces())

        with ReplayServer(replies) as server:
            with pytest.raises(type(error)) as caught:
                ask(client_of(server.url, own))
            assert caught.value is error
            assert server.requests[0].closed.wait(10)
            assert len(server.requests) == 1


@each_session
@each_error
def test_an_alarm_in_the_wait_between_two_tries_is_heard_as_it_is(own: bool, error: Exception) -> None:
    with Alarm(error) as alarm, ReplayServer([error_reply(503, headers={"Retry-After": "15"})]) as server:
        waiting = threading.Event()
        client = client_of(server.url, own, on_retry=lambda attempt: waiting.set())
        with ringing_when(waiting.is_set, alarm), pytest.raises(type(error)) as caught:
            client.chat("hi")
        assert caught.value is error
        assert len(server.requests) == 1


@each_session
@each_error
def test_an_alarm_while_connecting_is_heard_as_it_is(own: bool, error: Exception) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        # Nobody accepts, and the queue holds no more than these: whoever comes next waits for its connection.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        ours = {one.getsockname()[1] for one in waiting}

        def connecting() -> bool:
            return any(
                row.status == psutil.CONN_SYN_SENT
                and row.raddr
                and row.raddr.port == port
                and row.laddr.port not in ours
                for row in psutil.Process().net_connections("tcp")
            )

        try:
            with Alarm(error) as alarm, ringing_when(connecting, alarm), pytest.raises(type(error)) as caught:
                client_of(f"http://127.0.0.1:{port}", own).chat("hi")
            assert caught.value is error
        finally:
            for one in waiting:
                one.close()


@each_session
@each_error
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_alarm_in_the_handshake_or_while_sending_is_heard_as_it_is(own: bool, error: Exception, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, Alarm(error) as alarm:
        begun, over = threading.Event(), threading.Event()
        accepted: list[socket.socket] = []

        def accept() -> None:
            connection, _ = mute.accept()
            connection.recv(1, socket.MSG_PEEK)
            accepted.append(connection)
            begun.set()
            over.wait(20)
            connection.close()

        mute.settimeout(20)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            with ringing_when(begun.is_set, alarm), pytest.raises(type(error)) as caught:
                # More than the kernel takes: over HTTP it waits while it sends.
                client_of(f"{scheme}://127.0.0.1:{mute.getsockname()[1]}", own).chat("x" * 30_000_000)
            assert caught.value is error
        finally:
            over.set()
            acceptor.join(20)
        mute.settimeout(0)
        with pytest.raises(BlockingIOError):
            mute.accept()


@each_error
@pytest.mark.parametrize("parallel", [1, 8], ids=["calling thread", "pool"])
def test_an_alarm_in_a_tool_is_not_told_to_the_model(error: Exception, parallel: int) -> None:
    started, over = threading.Event(), threading.Event()

    def slow() -> str:
        """Takes its time."""
        started.set()
        over.wait(10)
        return "done"

    calls = chat_reply(None, finish_reason="tool_calls", tool_calls=[tool_call("slow", "{}")])
    with Alarm(error) as alarm, ReplayServer([calls, chat_reply("told")]) as server:
        client = client_of(server.url, False)
        try:
            with ringing_when(started.is_set, alarm), pytest.raises(type(error)) as caught:
                client.run_tools("hi", tools=[slow], max_parallel_tool_calls=parallel)
        finally:
            over.set()
        assert caught.value is error
        assert len(server.requests) == 1


WORKER = """
import os, threading
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from openai_compat import Client

here = os.path.dirname(os.path.abspath(__file__))
app = Celery("tasks", broker="filesystem://", backend=f"file://{here}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{here}/queue", "data_folder_out": f"{here}/queue", "control_folder": f"{here}/control"
}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_max_tasks_per_child = 1  # a tool that was left behind keeps its thread

def slow() -> str:
    "Takes its time."
    threading.Event().wait(15)
    return "done"

def ask(kind, url):
    client = Client(url, model="m")
    if kind == "chat":
        return client.chat("hi").text
    if kind == "stream":
        return client.stream("hi").until_done().text
    return client.run_tools("hi", tools=[slow], max_parallel_tool_calls=1 if kind == "tool" else 8).text

@app.task(name="call", soft_time_limit=1, time_limit=40)
def call(kind, url):
    try:
        return "answered: " + ask(kind, url)
    except SoftTimeLimitExceeded as error:
        return f"soft limit: {type(error).__module__}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


@pytest.fixture(scope="module")
def celery_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An app of Celery's with a real worker, which has processes of its own; the broker is a folder."""
    folder = tmp_path_factory.mktemp("celery")
    for name in ("queue", "control", "results"):
        (folder / name).mkdir()
    (folder / "soft_limits.py").write_text(WORKER)
    command = [sys.executable, "-m", "celery", "-A", "soft_limits", "worker", "--pool=prefork", "--concurrency=2"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    with open(folder / "log", "w") as log:
        worker = subprocess.Popen(
            [*command, *quiet],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        from soft_limits import app  # type: ignore[import-not-found]

        try:
            yield app
        finally:
            app.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(20)


@pytest.mark.parametrize("kind", ["chat", "stream", "tool", "tool in a pool"])
def test_a_soft_limit_of_celery_reaches_the_task(kind: str, celery_app: Any) -> None:
    calls = chat_reply(None, finish_reason="tool_calls", tool_calls=[tool_call("slow", "{}")])

    def silent(request: Request) -> Reply:
        request.closed.wait(15)
        return Reply(head=b"", abort="fin")

    with ReplayServer([calls, chat_reply("told")] if "tool" in kind else silent) as server:
        assert celery_app.tasks["call"].delay(kind, server.url).get(timeout=60) == "soft limit: billiard.exceptions"
        assert len(server.requests) == 1
        assert server.requests[0].closed.wait(10)


FOREIGN = [LookupError("mine"), FileNotFoundError(2, "no token", "token.txt"), TimeoutError("mine")]
each_foreign = pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)


class Failing(requests.auth.AuthBase):
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, request: Any) -> Any:
        self.calls += 1
        raise self.error


@each_kind
@each_foreign
@pytest.mark.parametrize("where", ["auth", "auth and session", "session", "key"])
def test_an_error_of_an_auth_object_is_raised_as_it_is(kind: str, error: Exception, where: str) -> None:
    failing = Failing(error)
    session = requests.Session() if "session" in where else None
    options: dict[str, Any] = {"session": session}
    if where == "session" and session is not None:
        session.auth = failing
    elif where == "key":
        options["api_key"] = lambda: failing(None)
    else:
        options["auth"] = failing
    with ReplayServer(saying("real")) as server:
        with pytest.raises(type(error)) as caught:
            CALLS[kind](Client(server.url, model="m", **options))
        assert caught.value is error
        assert (failing.calls, server.requests) == (1, [])


@each_kind
@each_foreign
def test_an_error_of_a_response_hook_is_raised_as_it_is(kind: str, error: Exception) -> None:
    def hook(*_: Any, **__: Any) -> None:
        raise error

    with ReplayServer(saying("real")) as server, requests.Session() as session:
        session.hooks["response"].append(hook)
        with pytest.raises(type(error)) as caught:
            CALLS[kind](Client(server.url, model="m", session=session))
        assert caught.value is error
        assert len(server.requests) == 1


def test_an_error_between_the_reply_and_its_reader_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    error = SoftLimit("over")

    def then_silence(request: Request) -> Reply:
        def pieces() -> Iterator[bytes]:
            yield stream_pieces("a")[0]
            request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=pieces())

    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    # On its way out of requests the reply is in no frame that could close it.
    monkeypatch.setattr("requests.sessions.extract_cookies_to_jar", raise_it)
    with ReplayServer([then_silence]) as server, requests.Session() as session:
        with pytest.raises(SoftLimit) as caught:
            Client(server.url, model="m", session=session).stream("hi").until_done()
        assert caught.value is error
        assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1


@each_kind
@pytest.mark.parametrize("error", [LookupError("mine"), RuntimeError("mine"), ValueError("mine")], ids=repr)
def test_an_error_of_an_adapter_is_raised_as_it_is(kind: str, error: Exception) -> None:
    class Broken(BaseAdapter):
        calls = 0

        def send(self, *_: Any, **__: Any) -> Any:
            self.calls += 1
            raise error

        def close(self) -> None:
            pass

    adapter = Broken()
    with requests.Session() as session:
        session.mount("http://", adapter)
        with pytest.raises(type(error)) as caught:
            CALLS[kind](Client("http://127.0.0.1:9", model="m", session=session))
    assert caught.value is error
    assert adapter.calls == 1


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("mine"),
        ConnectionResetError("mine"),
        ssl.SSLError("mine"),
        http.client.IncompleteRead(b""),
        urllib3.exceptions.ProtocolError("mine"),
        requests.exceptions.ConnectionError("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
@each_session
def test_an_error_of_a_sinks_own_network_is_not_the_calls(error: Exception, own: bool) -> None:
    def sink(event: object) -> None:
        raise error

    def replies(request: Request) -> Reply:
        def pieces() -> Iterator[bytes]:
            yield stream_pieces("a")[0]
            request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=pieces())

    with ReplayServer(replies) as server:
        with pytest.raises(type(error)) as caught:
            client_of(server.url, own).chat("hi", sink=sink)
        assert caught.value is error
        assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore:A test tried to use")  # pytest-socket warns as well as raising
@each_kind
@each_session
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize(
    ("block", "error"),
    [
        (pytest_socket.disable_socket, pytest_socket.SocketBlockedError),
        (lambda: pytest_socket.socket_allow_hosts(["192.0.2.1"]), pytest_socket.SocketConnectBlockedError),
    ],
    ids=["all", "this host"],
)
def test_what_pytest_socket_forbids_is_told_by_it(
    kind: str, own: bool, used: bool, block: Callable[[], None], error: type[Exception], waits: list[float]
) -> None:
    # The first reply's connection is not kept: what comes after has to connect.
    last = Reply(headers={**headers(kind), "Connection": "close"}, body=body(kind, "real"), framing="close")
    with ReplayServer([last]) as server:
        client = client_of(server.url, own)
        if used:
            assert CALLS[kind](client) == "real"
            assert server.wait_closed()
        block()
        try:
            with pytest.raises(error):
                CALLS[kind](client)
        finally:
            pytest_socket._remove_restrictions()
        assert (len(server.requests), waits) == (int(used), [])
        assert CALLS[kind](client) == "real"


@each_kind
def test_retries_of_an_adapter_are_its_own_affair(kind: str) -> None:
    retry = urllib3.Retry(total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    with (
        ReplayServer([error_reply(503), error_reply(503), reply(kind, "real")]) as server,
        requests.Session() as session,
    ):
        session.mount("http://", HTTPAdapter(max_retries=retry))
        answered = CALLS[kind](Client(server.url, model="m", session=session, max_retries=0))
        assert (answered, len(server.requests)) == ("real", 3)


@each_kind
@pytest.mark.parametrize(("raises", "error"), [(True, APIConnectionError), (False, InternalServerError)])
def test_an_adapter_whose_retries_run_out_has_failed(kind: str, raises: bool, error: type[Exception]) -> None:
    retry = urllib3.Retry(
        total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0, raise_on_status=raises
    )
    with ReplayServer([error_reply(503)]) as server, requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        with pytest.raises(error):
            CALLS[kind](Client(server.url, model="m", session=session, max_retries=0))
        assert len(server.requests) == 3


def certificate_error() -> Exception:
    error = ssl.SSLCertVerificationError("x")
    error.verify_message = "self-signed"
    return error


OUTER: dict[str, Exception] = {
    "refused": ConnectionRefusedError("elsewhere"),
    "reset": ConnectionResetError("elsewhere"),
    "unknown host": socket.gaierror(-2, "elsewhere"),
    "certificate": certificate_error(),
    "timeout": TimeoutError("elsewhere"),
    "http.client": http.client.RemoteDisconnected("elsewhere"),
    "urllib3": urllib3.exceptions.ProtocolError("elsewhere", ConnectionResetError("elsewhere")),
    "requests": requests.exceptions.ProxyError("elsewhere"),
    "our own": APITimeoutError("elsewhere", phase="connect"),
}


def silent(request: Request) -> Reply:
    request.closed.wait(10)
    return Reply(head=b"", abort="fin")


INNER: dict[str, Any] = {
    "timeout": silent,
    "reset": Reply(head=b"", abort="rst"),
    "closed": Reply(head=b"", abort="fin"),
    "no HTTP": Reply(head=b"junk\r\n\r\n", abort="fin"),
    "refusal": error_reply(401),
    "no JSON": Reply(headers={"Content-Type": "application/json"}, body=b"nope"),
}


def outcome(server: ReplayServer, own: bool, warm: bool, waits: list[float], patience: float) -> tuple[Any, ...]:
    """How a call fails, and what the server saw of it."""
    waits.clear()
    client = client_of(server.url, own, max_retries=1, timeout=Timeout(first_token=patience))
    if warm:
        assert client.chat("warm", timeout=20).text == "ok"
    before = len(server.requests)
    with pytest.raises(OpenAICompatError) as caught:
        client.chat("hi")
    error = caught.value
    return (
        type(error),
        str(error),
        getattr(error, "phase", None),
        getattr(error, "retryable", None),
        type(error.__cause__),
        len(server.requests) - before,
        len(waits),
    )


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("warm", [False, True], ids=["first connection", "kept connection"])
@each_session
def test_a_call_inside_an_except_block_is_judged_by_its_own_error(
    inner: str, outer: str, warm: bool, own: bool, waits: list[float]
) -> None:
    def replies(request: Request) -> Reply:
        failing = INNER[inner]
        if b"warm" in request.body:
            return chat_reply("ok")
        return failing(request) if callable(failing) else failing

    patience = 0.2 if inner == "timeout" else 20.0
    with ReplayServer(replies) as server:
        alone = outcome(server, own, warm, waits, patience)
        try:
            raise OUTER[outer]
        except Exception:
            within = outcome(server, own, warm, waits, patience)
    assert within == alone
    if inner == "timeout":
        assert alone[0] is APITimeoutError
        assert (alone[2], alone[3], alone[5], alone[6]) == ("first_token", False, 1, 0)


def test_a_fallback_is_judged_by_its_own_error(waits: list[float]) -> None:
    with ReplayServer([chat_reply()]) as gone:
        pass
    with ReplayServer(silent) as server:
        try:
            Client(gone.url, model="m", max_retries=0).chat("hi")
        except APIConnectionError:
            with pytest.raises(APITimeoutError) as caught:
                Client(server.url, model="m", timeout=Timeout(first_token=0.2)).chat("hi")
        assert (caught.value.phase, caught.value.retryable) == ("first_token", False)
        assert len(server.requests) == 1
    assert waits == []
