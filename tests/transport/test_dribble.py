"""Servers and proxies that say a byte now and then, and never all: every limit holds, and who sent sees us leave."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from support.proxies import ConnectProxy
from support.replay import JSON, ReplayServer, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_body

from openai_compat import APITimeoutError, Cancelled, CancelToken, Client, InternalServerError, Timeout

SHORT = Timeout(connect=0.4, first_token=0.4, idle=0.4)
each_session = pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])


def for_ever(request: Request, begin: bytes = b"") -> Iterator[bytes]:
    yield begin
    while not request.closed.wait(0.02):
        yield b"x"


def asked(url: str, own: bool, cancel: CancelToken | None = None, **options: Any) -> None:
    with own_session() if own else contextlib.nullcontext() as session:
        Client(url, model="m", session=session, **{"timeout": SHORT, "max_retries": 0, **options}).chat(
            "hi", cancel=cancel
        )


@each_session
def test_the_body_of_an_error_does_not_keep_its_status_back(own: bool) -> None:
    with ReplayServer(lambda request: Reply(status=500, headers=JSON, body=for_ever(request))) as server:
        with pytest.raises(InternalServerError):
            asked(server.url, own)
        assert len(server.requests) == 1
        assert server.wait_closed()


@each_session
@pytest.mark.parametrize(
    ("timeout", "phase"), [(SHORT, "first_token"), (Timeout(total=0.4), "total")], ids=["first_token", "total"]
)
def test_a_head_that_never_ends(own: bool, timeout: Timeout, phase: str) -> None:
    with ReplayServer(lambda request: Reply(head=b"", body=for_ever(request, b"HTTP/1.1 200 OK\r\nA: "))) as server:
        with pytest.raises(APITimeoutError) as caught:
            asked(server.url, own, timeout=timeout, max_retries=2)
        assert (caught.value.phase, caught.value.retryable) == (phase, False)
        assert len(server.requests) == 1
        assert server.wait_closed()


@each_session
@pytest.mark.parametrize("cancelled", [False, True], ids=["limit", "cancel"])
def test_a_proxys_reply_that_never_ends(own: bool, cancelled: bool) -> None:
    token = CancelToken()
    left: list[bytes] = []

    class Dribbling(ConnectProxy):
        def greet(self, client: socket.socket) -> bool:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nA: ")
            if cancelled:
                token.cancel()
            client.settimeout(0.02)
            for _ in range(500):
                try:
                    left.append(client.recv(1))
                    break
                except TimeoutError:
                    client.sendall(b"x")
            return False

    with Dribbling(("127.0.0.1", 9)) as proxy:
        with pytest.raises(Cancelled if cancelled else APITimeoutError):
            asked(
                "https://api.example",
                own,
                token if cancelled else None,
                proxies={"https": proxy.url},
                timeout=None if cancelled else SHORT,
            )
    assert left == [b""]


@each_session
def test_a_handshake_that_is_not_answered_can_be_cancelled(own: bool) -> None:
    token = CancelToken()
    left: list[bytes] = []

    def serve() -> None:
        client, _ = mute.accept()
        with client:
            client.settimeout(5)  # less than the limit of a connection
            client.recv(65536)
            token.cancel()
            left.append(client.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(Cancelled):
            asked(f"https://127.0.0.1:{mute.getsockname()[1]}", own, token, timeout=60)
        server.join(20)
    assert left == [b""]


def test_a_host_with_many_addresses_has_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = [socket.socket() for _ in range(3)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(busy.getsockname())
    # In the socket module each has the whole limit for itself: all of them would take a minute.
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", busy.getsockname())] * 150
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: addresses)
    begun = time.monotonic()
    try:
        with pytest.raises(APITimeoutError):
            asked("http://many.example", own=False)
    finally:
        for one in (busy, *waiting):
            one.close()
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("code", [100, 102, 103])
@pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])
def test_an_interim_reply_gives_no_call_the_answer_of_another(own: bool, code: int) -> None:
    def replies(request: Request) -> Reply:
        word = request.json()["messages"][0]["content"]

        def late() -> Iterator[bytes]:
            yield b"HTTP/1.1 %d Soon\r\nA: b\r\n\r\n" % code
            request.closed.wait(0.05)
            answer = chat_body(word)
            yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer

        return Reply(head=b"", body=late())

    with ReplayServer(replies) as server, own_session() if own else contextlib.nullcontext() as session:
        client = Client(server.url, model="m", session=session, max_retries=0)
        for word in ("one", "two", "three"):
            try:
                said = client.chat(word).text
            except Exception as error:
                said = str(error)
            # http.client takes it for the answer before Python 3.12.
            assert said == word or (own and "interim reply" in said)
        assert len(server.requests) == 3


@pytest.mark.parametrize("coding", ["gzip", "zlib", "raw"])
def test_a_compressed_body_may_come_byte_by_byte(coding: str) -> None:
    plain = chat_body("whole")
    packed = {"gzip": gzip.compress(plain), "zlib": zlib.compress(plain), "raw": zlib.compress(plain)[2:-4]}[coding]
    headers = {**JSON, "Content-Encoding": "gzip" if coding == "gzip" else "deflate"}
    reply = Reply(headers=headers, body=packed, splits=range(1, len(packed)), framing="content-length")
    with ReplayServer([reply]) as server:
        assert Client(server.url, model="m").chat("hi").text == "whole"
