"""A lease ends once, and shuts nothing down afterwards; what opens a connection is cancelled wherever it waits."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from support.lines import lines_run
from support.replay import ReplayServer, Reply

from openai_compat import Cancelled, CancelToken, Timeout
from openai_compat.timeouts import Deadline
from openai_compat.transport import Endpoint, Settings
from openai_compat.transport.connecting import Connecting
from openai_compat.transport.connection import Connection
from openai_compat.transport.lease import BorrowedLease, Lease
from openai_compat.transport.route import Route

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


class Ends:
    """How leases ended; the connections stay open."""

    def __init__(self) -> None:
        self.kept: list[bool] = []

    def __call__(self, connection: Connection, keep: bool) -> None:
        self.kept.append(keep)


def is_open(pair: Pair) -> bool:
    with contextlib.suppress(OSError):
        pair[0].send(b"x")
    return pair[1].recv(1) == b"x"


def in_child(*steps: Callable[[], object]) -> int:
    """The exit status of a forked child that does this, and is ended where it takes five seconds."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            for step in steps:
                step()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


class TestLease:
    @pytest.mark.parametrize("ending", ["release", "close"])
    def test_ends_once_and_shuts_nothing_down_afterwards(self, pair: Pair, ending: str) -> None:
        ends, token = Ends(), CancelToken()
        lease = Lease(Connection(pair[0]), ends, token)
        getattr(lease, ending)()
        lease.close()
        lease.release()
        lease.shut_down()
        token.cancel()
        del lease
        assert (ends.kept, is_open(pair)) == ([ending == "release"], True)

    @pytest.mark.parametrize("how", ["shut_down", "cancel"])
    def test_until_then_it_can_be_shut_down(self, pair: Pair, how: str) -> None:
        ends, token = Ends(), CancelToken()
        lease = Lease(Connection(pair[0]), ends, token)
        assert is_open(pair)
        if how == "cancel":
            token.cancel()
        else:
            lease.shut_down()
        assert (is_open(pair), ends.kept) == (False, [])
        lease.close()
        assert ends.kept == [False]

    def test_a_token_that_was_cancelled_before_shuts_it_down(self, pair: Pair) -> None:
        token = CancelToken()
        token.cancel()
        lease = Lease(Connection(pair[0]), Ends(), token)
        assert not is_open(pair)
        lease.close()

    def test_dropping_closes_and_the_token_forgets_it(self, pair: Pair) -> None:
        ends, token = Ends(), CancelToken()
        lease = Lease(Connection(pair[0]), ends, token)
        assert len(token._listeners) == 1
        del lease
        assert (ends.kept, token._listeners) == ([False], set())

    def test_dropping_in_a_cycle_closes_too(self, pair: Pair) -> None:
        ends = Ends()
        holder: dict[str, Any] = {"lease": Lease(Connection(pair[0]), ends)}
        holder["itself"] = holder
        del holder
        gc.collect()
        assert ends.kept == [False]

    def test_dropping_what_is_over_runs_no_code_in_which_a_signal_could_be_lost(self, pair: Pair) -> None:
        leases = [Lease(Connection(pair[0]), Ends(), CancelToken())]
        leases[0].release()
        assert lines_run(leases.clear) == 0

    def test_whether_it_was_kept(self, pair: Pair) -> None:
        connection = Connection(pair[0])
        assert not Lease(connection, Ends()).reused
        connection.reused = True
        assert Lease(connection, Ends()).reused

    def test_threads_that_shut_down_what_is_over(self, pair: Pair) -> None:
        """Whoever has the connection next is never hit, however often it changes hands."""
        connection = Connection(pair[0])
        over = threading.Event()
        late: list[Lease] = []

        def attack() -> None:
            while not over.is_set():
                for lease in late[-3:]:
                    lease.shut_down()

        attackers = [threading.Thread(target=attack) for _ in range(3)]
        for thread in attackers:
            thread.start()
        try:
            for _ in range(1000):
                token = CancelToken()
                lease = Lease(connection, lambda connection, keep: None, token)
                lease.release()
                late.append(lease)
                token.cancel()
                assert is_open(pair)
        finally:
            over.set()
            for thread in attackers:
                thread.join(10)

    def test_many_threads_end_it_once(self, pair: Pair) -> None:
        for _ in range(200):
            ends = Ends()
            lease = Lease(Connection(pair[0]), ends)
            together = threading.Barrier(4)

            def end(lease: Lease = lease, together: threading.Barrier = together) -> None:
                together.wait(10)
                lease.release()

            threads = [threading.Thread(target=end) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert ends.kept == [True]

    def test_a_forked_child_ends_only_its_copy(self, pair: Pair) -> None:
        lease = Lease(Connection(pair[0]), lambda connection, keep: connection.close(), CancelToken())
        assert in_child(lease.shut_down, lease.close) == 0
        assert is_open(pair)
        lease.close()

    def test_a_child_does_not_wait_for_a_thread_of_its_parent(self, pair: Pair) -> None:
        """At the fork another thread is about to shut the connection down; it will never be done in the child."""
        token = CancelToken()
        lease = Lease(Connection(pair[0]), lambda connection, keep: connection.close(), token)
        locked, release = threading.Event(), threading.Event()

        class Slow:
            process = os.getpid()

            def shut_down(self) -> None:
                locked.set()
                release.wait(10)

        connection, lease._connection = lease._connection, Slow()  # type: ignore[assignment]
        thread = threading.Thread(target=token.cancel)
        thread.start()
        assert locked.wait(10)
        lease._connection = connection
        status = in_child(lease.shut_down, lease.close)
        release.set()
        thread.join(10)
        assert (status, is_open(pair)) == (0, True)
        lease.close()


class TestConnection:
    def test_quiet(self, pair: Pair) -> None:
        connection = Connection(pair[0])
        assert connection.usable()
        pair[1].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert not connection.usable()

    def test_not_quiet_once_it_has_ended(self, pair: Pair) -> None:
        connection = Connection(pair[0])
        pair[1].shutdown(socket.SHUT_WR)
        assert not connection.usable()
        connection.close()
        assert not connection.usable()

    def test_where_there_is_no_poll(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(select, "poll")
        connection = Connection(pair[0])
        assert connection.usable()
        pair[1].send(b"x")
        assert not connection.usable()
        connection.close()
        assert not connection.usable()

    def test_what_is_no_socket_is_not_trusted(self) -> None:
        class Sock:
            closed = False

            def close(self) -> None:
                self.closed = True

        sock = Sock()
        connection = Connection(sock)
        assert not connection.usable()
        connection.close()
        assert sock.closed

    @pytest.mark.parametrize("where", ["shutdown", "close"])
    def test_the_timeout_error_of_a_signal_handler_passes(self, pair: Pair, where: str) -> None:
        class Sock(socket.socket):
            def shutdown(self, how: int) -> None:
                self.interrupt("shutdown")

            def close(self) -> None:
                super().close()
                self.interrupt("close")

            def interrupt(self, place: str) -> None:
                raise TimeoutError("over") if place == where else OSError(errno.ENOTCONN, "not connected")

        connection = Connection(Sock(fileno=os.dup(pair[0].fileno())))
        with pytest.raises(TimeoutError, match="over"):
            connection.close()
        connection.sock.detach()

    def test_tls_within_tls_is_the_socket_below(self, pair: Pair) -> None:
        class Within:
            socket = pair[0]

            def close(self) -> None:
                self.socket.close()

        connection = Connection(Within())
        assert connection.usable()
        connection.close()
        assert pair[1].recv(1) == b""

    @pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="other names on this system")
    def test_asks_the_server_whether_it_is_still_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection = Connection(socket.create_connection(listener.getsockname()))
        sock = connection.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes = [
            sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}")) for name in ("IDLE", "INTVL", "CNT")
        ]
        assert probes[0] + probes[1] * probes[2] <= 120
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()

    def test_shutting_down_wakes_a_reader_under_tls(self, certified: tuple[ssl.SSLContext, str]) -> None:
        with ReplayServer([Reply()], tls=certified[0]) as server:
            context = ssl.create_default_context(cafile=certified[1])
            sock = context.wrap_socket(socket.create_connection(server.address), server_hostname="127.0.0.1")
            connection = Connection(sock)
            threading.Timer(0.01, connection.shut_down).start()
            sock.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
            connection.close()


class TestBorrowedLease:
    """The lease of requests' own way."""

    def borrowed(
        self, server: ReplayServer, token: CancelToken
    ) -> tuple[requests.Session, requests.Response, BorrowedLease]:
        session = requests.Session()
        response = session.get(server.url, stream=True, timeout=10)
        return session, response, BorrowedLease(response.raw, token)

    @pytest.mark.parametrize("framing", ["content-length", "chunked", "close"])
    def test_ends_where_urllib3_takes_its_connection_back(self, framing: Any) -> None:
        token = CancelToken()
        with ReplayServer([Reply(body=b"ok", framing=framing)]) as server:
            session, response, lease = self.borrowed(server, token)
            assert lease.sock is not None
            sock = lease.sock
            assert response.content == b"ok"
            assert (lease.sock, token._listeners) == (None, set())
            token.cancel()
            lease.shut_down()
            if framing != "close":
                assert session.get(server.url, timeout=10).content == b"ok"
                assert (server.connections, sock.fileno() > 0) == (1, True)
            close(session)

    def test_until_then_it_can_be_shut_down(self) -> None:
        token = CancelToken()

        def body(closed: threading.Event) -> Iterator[bytes]:
            yield b"ok"
            closed.wait(10)

        with ReplayServer(lambda request: Reply(body=body(request.closed))) as server:
            session, response, lease = self.borrowed(server, token)
            assert next(response.iter_content(2)) == b"ok"
            threading.Timer(0.01, token.cancel).start()
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                assert response.raw.read(1) == b""
            assert server.requests[0].closed.wait(10)
            response.close()
            close(session)
            lease.end()

    def test_the_response_is_not_kept_alive(self) -> None:
        with ReplayServer([Reply(body=b"ok")]) as server:
            session, response, lease = self.borrowed(server, CancelToken())
            released, reference = response.raw.release_conn, weakref.ref(response.raw)
            response.close()
            close(session)
            del response
            gc.collect()
            assert (reference(), lease.sock) == (None, None)
            released()

    def test_what_has_no_socket(self) -> None:
        token = CancelToken()
        lease = BorrowedLease(urllib3.HTTPResponse(b"ok"), token)
        assert lease.sock is None
        token.cancel()
        lease.end()

    def test_a_forked_child_shuts_nothing_down(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        token = CancelToken()
        with ReplayServer([Reply(body=b"ok")]) as server:
            session, response, lease = self.borrowed(server, token)
            lease._process = os.getppid()
            token.cancel()
            assert response.content == b"ok"
            close(session)


def close(session: requests.Session) -> None:
    for adapter in session.adapters.values():
        pools = adapter.poolmanager.pools  # type: ignore[attr-defined]
        for key in pools.keys():  # noqa: SIM118 - not a dict
            pools[key].close()
    session.close()


@contextlib.contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """Where connecting waits for ever: the queue of the listener is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def silent_listener() -> Iterator[tuple[str, int]]:
    """Accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


class TestConnecting:
    @pytest.fixture(params=["connect", "handshake", "proxy", "tunnel", "socks", "socks with tls"])
    def stuck(self, request: pytest.FixtureRequest) -> Iterator[Route]:
        """A route on which opening a connection waits for ever."""
        phase = request.param
        with full_listener() if phase in ("connect", "proxy") else silent_listener() as (host, port):
            there = f"http{'s' if phase in ('handshake', 'tunnel', 'socks with tls') else ''}://"
            proxy = {"proxy": "http", "tunnel": "http", "socks": "socks5", "socks with tls": "socks5h"}.get(phase)
            settings = Settings(
                proxies={"all": f"{proxy}://{host}:{port}"} if proxy else None, trust_env=False, verify=False
            )
            address = "api.invalid" if phase in ("proxy", "tunnel", "socks with tls") else f"{host}:{port}"
            yield Route(Endpoint.parse(f"{there}{address}/v1"), settings, login=False)

    def test_is_cancelled_wherever_it_waits(self, stuck: Route) -> None:
        token = CancelToken()
        deadline = Deadline(Timeout(connect=60), token)
        threading.Timer(0.05, token.cancel).start()
        with pytest.raises((OSError, urllib3.exceptions.HTTPError)):
            with Connecting(token) as connecting:
                stuck.connect(deadline, connecting)
        assert deadline.elapsed_ms < 30_000
        assert token._listeners == set()

    def test_is_not_begun_after_the_cancelling(self) -> None:
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            with Connecting(token):
                pytest.fail("begun")

    def test_needs_no_token(self) -> None:
        with Connecting(None):
            pass

    def test_what_was_opened_before_the_cancelling_is_not_touched(self, pair: Pair) -> None:
        """The connection has been handed over; that somebody still looks for it must not end it."""
        token = CancelToken()
        with Connecting(token) as connecting:
            sock = pair[0]
            connecting.watch(sock)
        token.cancel()
        for thread in threading.enumerate():
            if thread.name == "openai_compat cancel":
                thread.join(10)
        assert is_open((sock, pair[1]))

    def test_sockets_of_other_threads_are_not_touched(self, pair: Pair) -> None:
        token, ready, done = CancelToken(), threading.Event(), threading.Event()

        def other(sock: socket.socket) -> None:
            ready.set()
            done.wait(10)

        thread = threading.Thread(target=other, args=(pair[0],))
        thread.start()
        ready.wait(10)

        def open_nothing() -> None:
            # Long enough for several looks.
            token.cancel()
            threading.Event().wait(0.05)

        with Connecting(token):
            open_nothing()
        done.set()
        thread.join(10)
        assert is_open(pair)

    def test_the_looking_ends_with_the_opening(self) -> None:
        token, others = CancelToken(), set(threading.enumerate())
        with Connecting(token):
            token.cancel()
            (looking,) = set(threading.enumerate()) - others
        looking.join(10)
        assert not looking.is_alive()


GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket, sys, time
import gevent
from openai_compat import Cancelled, CancelToken, Client

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0 if sys.argv[1] == "connect" else 9)
waiting = []
for _ in range(4 if sys.argv[1] == "connect" else 0):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(listener.getsockname())
    waiting.append(sock)
scheme = "https" if sys.argv[1] == "handshake" else "http"
client = Client(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1", model="m", verify=False)
token = CancelToken()
gevent.spawn_later(0.1, token.cancel)
try:
    client.chat("hi", cancel=token, timeout=60)
except Cancelled:
    print("cancelled")
"""


@pytest.mark.parametrize("phase", ["connect", "handshake", "first_token"])
def test_cancelling_under_gevent(phase: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GEVENT, phase], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.returncode) == ("cancelled\n", 0), done.stderr


Listener = Callable[[], object]


class TestToken:
    def test_threads_that_come_and_go_while_it_is_cancelled(self) -> None:
        """Whoever came before the cancelling or after it is told."""
        for _ in range(100):
            token, together = CancelToken(), threading.Barrier(4)
            told: list[list[int]] = [[], [], []]

            def come(mine: list[int], token: CancelToken = token, together: threading.Barrier = together) -> None:
                listeners: list[Listener] = [lambda: mine.append(1), lambda: None, lambda: None]
                together.wait(10)
                for listener in listeners:
                    token.subscribe(listener)
                for listener in listeners[1:]:
                    token.unsubscribe(listener)

            threads = [threading.Thread(target=come, args=(mine,)) for mine in told]
            for thread in threads:
                thread.start()
            together.wait(10)
            token.cancel()
            for thread in threads:
                thread.join(10)
            assert all(told)

    def test_a_listener_that_fails_does_not_stop_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        token, heard = CancelToken(), []

        def fail() -> None:
            raise RuntimeError("x")

        listeners: list[Listener] = [lambda: heard.append(1), fail, lambda: heard.append(2)]
        for listener in listeners:
            token.subscribe(listener)
        token.cancel()
        assert (sorted(heard), caplog.messages) == ([1, 2], ["a listener of a CancelToken failed"])
