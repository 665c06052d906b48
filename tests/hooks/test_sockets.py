"""Sockets that are others than they were: mocks (httpretty, mocket), guards of tests, gevent, eventlet."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from support.calls import CALLS, saying
from support.replay import ReplayServer
from support.wire_bodies import chat_body

from openai_compat import Client
from openai_compat.transport.connection import shut_down
from openai_compat.transport.pool import _close_all


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(saying("real")) as server:
        yield server


class FakeSocket:
    """As mocks have them: no socket at all, nor all of its methods."""

    sent: list[bytes]

    def __init__(self, *_: Any) -> None:
        self.sent = []
        answer = chat_body("mocked")
        self._reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer

    def settimeout(self, seconds: float | None) -> None:
        pass

    def setsockopt(self, *_: object) -> None:
        pass

    def connect(self, address: object) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def send(self, data: bytes) -> int:
        if not isinstance(data, bytes):
            raise TypeError
        self.sent.append(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        reply, self._reply = self._reply[:size], self._reply[size:]
        return reply

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no real socket to {name}")


def test_a_mock_of_sockets_answers_also_where_a_connection_was_kept(
    server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(server.url, model="m", max_retries=0)
    assert client.chat("hi").text == "real"
    server.wait_idle()
    with monkeypatch.context() as patch:
        made: list[FakeSocket] = []

        class Made(FakeSocket):
            def connect(self, address: object) -> None:
                made.append(self)

        patch.setattr(socket, "socket", Made)
        assert [client.chat("hi").text for _ in range(2)] == ["mocked"] * 2
        assert [b"".join(fake.sent).partition(b"\r\n")[0] for fake in made] == [
            b"POST /v1/chat/completions HTTP/1.1"
        ] * 2
    assert len(server.requests) == 1
    assert server.wait_closed()
    assert client.chat("hi").text == "real"


def test_a_guard_of_tests_holds_for_connections_from_before_it(
    server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(socket.socket):
        def __new__(cls, *_: Any, **__: Any) -> Guarded:
            raise LookupError("no network here")

    client = Client(server.url, model="m", max_retries=0)
    CALLS["chat"](client)
    server.wait_idle()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Guarded)
        with pytest.raises(LookupError, match="no network here"):
            CALLS["chat"](client)
    assert len(server.requests) == 1


@pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])
def test_a_handshake_that_a_foreign_error_ends_leaves_no_connection_open(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(*_: object, **__: object) -> None:
        raise LookupError("the handler of a signal")

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", over)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with ReplayServer([], tls=server_side) as server, requests.Session() as session:
        client = Client(server.url, model="m", session=session if own else None)
        with pytest.raises(LookupError) as caught:
            client.chat("hi")
        # While the error is held, its frames hold the socket.
        assert caught.tb is not None
        assert server.wait_closed()


def test_each_kind_of_socket_is_shut_down_in_its_own_way() -> None:
    class Wrapped:
        """As eventlet's: what it can is a field of each."""

        def __init__(self, sock: socket.socket) -> None:
            self.shutdown = sock.shutdown

    for kind in (lambda sock: sock, Wrapped):
        here, there = socket.socketpair()
        with here, there:
            there.settimeout(10)
            shut_down(kind(here))  # type: ignore[arg-type]
            assert there.recv(1) == b""


def test_tls_is_not_told_when_its_socket_is_shut_down() -> None:
    here, there = socket.socketpair()
    with (
        there,
        ssl.create_default_context().wrap_socket(here, server_hostname="x", do_handshake_on_connect=False) as tls,
    ):
        state = tls._sslobj  # type: ignore[attr-defined]
        shut_down(tls)
        # SSLSocket.shutdown would take it from whoever reads.
        assert state is not None
        assert tls._sslobj is state  # type: ignore[attr-defined]
        there.settimeout(10)
        assert there.recv(1) == b""


def test_at_exit_others_may_still_take_and_give_back() -> None:
    closed: list[int] = []
    leased: set[Any] = set()

    class Connection:
        def close(self) -> None:
            closed.append(id(self))
            leased.discard(self)
            leased.update({Connection(), Connection()})

    leased.update({Connection() for _ in range(3)})
    _close_all([], leased)
    assert len(closed) == 3
