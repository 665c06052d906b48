"""A TLS handshake in steps: no fork within one, none held up between them."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest

from openai_compat._imports import importing
from openai_compat.transport.handshake import HandshakeSocket, in_steps


@pytest.fixture
def context(certified: tuple[ssl.SSLContext, str]) -> ssl.SSLContext:
    return in_steps(ssl.create_default_context(cafile=certified[1]))


@pytest.mark.parametrize("timeout", [20.0, None])
def test_forks_wait_for_a_step_and_not_for_the_server(
    context: ssl.SSLContext,
    certified: tuple[ssl.SSLContext, str],
    timeout: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[tuple[bool, float | None]] = []
    step = ssl.SSLSocket.do_handshake
    free: list[bool] = []

    def counted(sock: ssl.SSLSocket, block: bool = False) -> None:
        if isinstance(sock, HandshakeSocket):
            steps.append((importing._is_owned(), sock.gettimeout()))  # type: ignore[attr-defined]
        step(sock, block)

    def serve() -> None:
        plain, _ = listener.accept()
        plain.recv(1, socket.MSG_PEEK)  # it is waiting for us
        free.append(importing.acquire(timeout=10))
        importing.release()
        with certified[0].wrap_socket(plain, server_side=True) as sock:
            sock.sendall(b"ok")

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", counted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        plain = socket.create_connection(listener.getsockname())
        plain.settimeout(timeout)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            assert (sock.recv(2), sock.gettimeout()) == (b"ok", timeout)
        server.join(20)
    assert len(steps) > 1
    assert set(steps) == {(True, 0.0)}
    assert free == [True]


def test_a_server_that_says_nothing(context: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        plain = socket.create_connection(mute.getsockname(), timeout=0.1)
        with pytest.raises(TimeoutError):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_one_that_never_waits_is_left_so(context: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        plain = socket.create_connection(mute.getsockname(), timeout=5)
        sock: Any = context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False)
        with sock:
            sock.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                sock.do_handshake()


def test_sockets_of_others_stay_theirs() -> None:
    class Theirs(ssl.SSLSocket):
        pass

    context = ssl.create_default_context()
    context.sslsocket_class = Theirs
    assert in_steps(context).sslsocket_class is Theirs
