"""The replay server itself: what the other tests stand on."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import get_args

import pytest
import trustme
from support.replay import EVENT_STREAM, JSON, End, ReplayServer, Replies, Reply, Request, Stage, send_reply

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(server: ReplayServer, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    if context:
        return http.client.HTTPSConnection(*server.address, timeout=10, context=context)
    return http.client.HTTPConnection(*server.address, timeout=10)


@contextmanager
def served(replies: Replies) -> Iterator[tuple[ReplayServer, http.client.HTTPConnection]]:
    with ReplayServer(replies) as server, closing(connect(server)) as connection:
        yield server, connection


@contextmanager
def served_raw(replies: Replies) -> Iterator[tuple[ReplayServer, socket.socket]]:
    with ReplayServer(replies) as server, socket.create_connection(server.address, timeout=10) as sock:
        yield server, sock


def get(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, bytes]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def answer(sock: socket.socket, sent: bytes = ASK) -> bytes:
    """All that comes back until the server closes; the sending side is closed, so that it does."""
    sock.sendall(sent)
    sock.shutdown(socket.SHUT_WR)
    return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def body_of(text: bytes) -> bytes:
    return text.partition(b"\r\n\r\n")[2]


def test_a_plain_body_has_a_content_length_and_leaves_the_connection_open() -> None:
    with served([Reply(headers=JSON, body=b"{}")]) as (server, connection):
        assert [get(connection) for _ in range(3)] == [(200, b"{}")] * 3
        assert server.connections == 1
        assert len(server.requests) == 3


def test_what_goes_over_the_wire_is_what_was_asked_for() -> None:
    with served_raw([Reply(status=520, headers={"X-Name": "v"}, body=b"abc")]) as (_, sock):
        assert answer(sock) == b"HTTP/1.1 520 Unknown\r\nX-Name: v\r\nContent-Length: 3\r\n\r\nabc"


def test_replies_come_in_order_and_the_last_repeats() -> None:
    with served([Reply(status=500), Reply(body=b"a"), Reply(body=b"b")]) as (_, connection):
        assert [get(connection) for _ in range(4)] == [(500, b""), (200, b"a"), (200, b"b"), (200, b"b")]


def test_the_order_of_replies_holds_over_several_connections() -> None:
    with served([Reply(body=b"a"), Reply(body=b"b")]) as (server, one), closing(connect(server)) as two:
        assert [get(one), get(two)] == [(200, b"a"), (200, b"b")]
        assert server.connections == 2
        assert [request.connection for request in server.requests] == [0, 1]


def test_a_callable_sees_the_request() -> None:
    with served(lambda request: Reply(body=request.path.encode())) as (_, connection):
        assert get(connection, "/a?b=c") == (200, b"/a?b=c")


def test_requests_are_recorded() -> None:
    with served([Reply()]) as (server, connection):
        connection.request("POST", "/v1/x?y=z", body=b'{"n": 1}', headers={"Api-Key": "k"})
        connection.getresponse().read()
        (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/v1/x?y=z", b'{"n": 1}')
    assert request.json() == {"n": 1}
    assert request.headers["api-key"] == request.headers["API-KEY"] == "k"
    assert "authorization" not in request.headers


def test_a_chunked_request_body_is_read_in_full() -> None:
    with served([Reply(body=b"ok")]) as (server, connection):
        connection.request("POST", "/", body=iter([b"ab", b"c"]), encode_chunked=True)
        assert connection.getresponse().read() == b"ok"
        assert get(connection) == (200, b"ok")
        assert [request.body for request in server.requests] == [b"abc", b""]


def test_a_client_that_expects_a_100_gets_it() -> None:
    with served_raw([Reply(body=b"ok")]) as (server, sock):
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert body_of(answer(sock, b"hi")) == b"ok"
        assert server.requests[0].body == b"hi"


def test_event_streams_are_chunked() -> None:
    with served_raw([Reply(headers=EVENT_STREAM, body=b"data: 1\n\n")]) as (_, sock):
        assert body_of(answer(sock)) == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"


def test_split_bodies_are_chunked_one_chunk_a_write() -> None:
    with served_raw([Reply(headers=JSON, body=b"abcdef", splits=(1, 4))]) as (_, sock):
        assert body_of(answer(sock)) == b"1\r\na\r\n3\r\nbcd\r\n2\r\nef\r\n0\r\n\r\n"


def test_chunked_replies_keep_the_connection() -> None:
    body = bytes(range(256)) * 4
    with served([Reply(headers=EVENT_STREAM, body=body, splits=range(1, 1024))]) as (server, connection):
        assert [get(connection) for _ in range(2)] == [(200, body)] * 2
        assert server.connections == 1


def test_splits_without_chunks_are_writes_of_their_own() -> None:
    # Whether they also arrive apart is up to the network, hence a look at the writes.
    reply = Reply(body=b"abcdef", splits=(1, 4), framing="content-length")
    request = Request(0, 0, "GET", "/", http.client.HTTPMessage(), b"", threading.Event())
    writes: list[bytes] = []
    assert send_reply(request, reply, writes.append)
    assert writes[1:] == [b"a", b"bcd", b"ef"]


def test_http_10_ends_a_stream_by_closing() -> None:
    with served_raw([Reply(headers=EVENT_STREAM, body=b"data: 1\n\n", http="1.0")]) as (_, sock):
        sock.sendall(ASK)
        assert read_to_end(sock) == b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"


def test_http_10_knows_a_content_length() -> None:
    with served_raw([Reply(http="1.0", body=b"ab")]) as (_, sock):
        sock.sendall(ASK)
        assert read_to_end(sock) == b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab"


def test_a_close_delimited_body() -> None:
    with served_raw([Reply(body=b"ab", framing="close")]) as (_, sock):
        sock.sendall(ASK)
        assert read_to_end(sock) == b"HTTP/1.1 200 OK\r\n\r\nab"


def test_a_client_that_asks_for_the_end_of_the_connection_gets_it() -> None:
    with served_raw([Reply(body=b"ab")]) as (_, sock):
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert body_of(read_to_end(sock)) == b"ab"


def test_no_body_where_http_allows_none() -> None:
    with served([Reply(status=204, body=b"ghost"), Reply(body=b"real")]) as (_, connection):
        assert [get(connection), get(connection)] == [(204, b""), (200, b"real")]


@pytest.mark.parametrize("abort", [None, "fin"])
def test_a_false_content_length(abort: str | None) -> None:
    with served([Reply(body=b"short", declared_length=400, abort=abort)]) as (_, connection):
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(connection)
        assert (caught.value.partial, caught.value.expected) == (b"short", 395)


def test_an_aborted_body_is_shorter_than_promised() -> None:
    with served([Reply(body=b"short", abort="fin")]) as (_, connection):
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(connection)
        assert (caught.value.partial, caught.value.expected) == (b"short", 1)


def test_an_aborted_chunked_body_has_no_last_chunk() -> None:
    with served_raw([Reply(headers=EVENT_STREAM, body=b"abc", abort="fin")]) as (_, sock):
        sock.sendall(ASK)
        assert body_of(read_to_end(sock)) == b"3\r\nabc\r\n"


@pytest.mark.parametrize("framing", ["content-length", "chunked", "close"])
def test_a_reset_comes_after_what_was_sent(framing: str) -> None:
    seen = []
    with served_raw([Reply(body=b"abc", framing=framing, abort="rst")]) as (_, sock):
        sock.sendall(ASK)
        with pytest.raises(ConnectionResetError):
            seen.extend(iter(lambda: sock.recv(1), b""))
    assert b"abc" in b"".join(seen)


@pytest.mark.parametrize("abort", ["fin", "rst"])
def test_no_answer_at_all(abort: str) -> None:
    with served([Reply(head=b"", abort=abort)]) as (server, connection):
        # RemoteDisconnected is a ConnectionResetError, too.
        with pytest.raises(ConnectionResetError):
            get(connection)
        assert len(server.requests) == 1


def test_an_answer_that_is_not_http() -> None:
    with served([Reply(head=b"SSH-2.0-x\r\n")]) as (_, connection), pytest.raises(http.client.BadStatusLine):
        get(connection)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize(
    ("stage", "requests", "seen"),
    [
        ("accept", 0, b""),
        ("handshake", 0, b""),
        ("head", 0, b""),
        ("request", 1, b""),
        ("status line", 1, HEAD[:17]),
        ("headers", 1, HEAD),
        ("body", 1, HEAD + b"ab"),
        ("end", 1, HEAD + b"abcd"),
    ],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_connection_ends_at_any_stage(stage: Stage, how: End, requests: int, seen: bytes) -> None:
    reached: list[Stage] = []
    ended = "rst"

    def hang_up(now: Stage, number: int) -> End | None:
        reached.append(now)
        return how if now == stage else None

    with ReplayServer([Reply(body=b"abcd")], hang_up=hang_up) as server:
        got = b""
        # A reset may come before the call that connects has returned.
        with contextlib.suppress(OSError), socket.create_connection(server.address, timeout=10) as sock:
            sock.sendall(ASK)
            while piece := sock.recv(65536):
                got += piece
            ended = "fin"
        assert server.wait_closed()
        assert (got, len(server.requests)) == (seen, requests)
        assert ended == how or stage in ("accept", "handshake")  # a request that nobody has read is answered by a reset
    assert reached == list(get_args(Stage))[: list(get_args(Stage)).index(stage) + 1]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_only_kept_connections_are_idle(how: End) -> None:
    with served([Reply(body=b"abcd")]) as (server, connection), closing(connect(server)) as fresh:
        fresh.connect()
        get(connection)
        server.wait_idle()
        assert (server.end_idle(how), server.end_idle(how)) == (1, 0)
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            get(connection)
        assert get(fresh) == (200, b"abcd")


def test_early_hints_come_first() -> None:
    with served_raw([Reply(body=b"ab", early_hints=True)]) as (_, sock):
        first, second, body = answer(sock).split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"ab"


def test_a_body_may_wait_between_its_pieces() -> None:
    read = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"one"
        assert read.wait(10)
        yield b"two"

    with served([Reply(body=body())]) as (_, connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read1(100) == b"one"
        read.set()
        assert response.read() == b"two"


class Waiting:
    """Replies with a body that goes on until the client has left, and says how it ended."""

    def __init__(self) -> None:
        self.left: bool | None = None
        self.cleaned_up = threading.Event()

    def __call__(self, request: Request) -> Reply:
        return Reply(headers=EVENT_STREAM, body=self.body(request))

    def body(self, request: Request) -> Iterator[bytes]:
        try:
            yield b"one"
            self.left = request.closed.wait(10)
            yield b"two" * 1_000_000  # nobody takes this: the write fails
        finally:
            self.cleaned_up.set()


def start_reading(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read1(100) == b"one"
    return response


def test_a_client_that_leaves_is_noticed_while_the_body_waits() -> None:
    waiting = Waiting()
    with served(waiting) as (server, connection):
        response = start_reading(connection)
        assert not server.wait_closed(0)
        response.close()
        connection.close()
        assert server.wait_closed()
        assert waiting.cleaned_up.wait(10)
        assert waiting.left


def test_an_idle_client_that_leaves_is_noticed() -> None:
    with served([Reply()]) as (server, connection):
        get(connection)
        assert not server.wait_closed(0)
        connection.close()
        assert server.wait_closed()


def test_closing_frees_a_body_that_waits_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    waiting = Waiting()
    with served(waiting) as (server, busy), closing(connect(server)) as idle:
        idle.connect()
        with start_reading(busy):
            server.close()
    assert waiting.cleaned_up.is_set()
    assert set(threading.enumerate()) == before


def test_closing_twice_does_no_harm_and_the_port_is_free() -> None:
    with ReplayServer([]) as server:
        server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=10)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort"])
def test_what_is_not_a_request_is_hung_up_on(sent: bytes) -> None:
    with served_raw([Reply()]) as (server, sock):
        assert answer(sock, sent) == b""
        assert not server.requests


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    big = b"x" * 1_000_000
    replies = [Reply(body=b"one"), Reply(body=big), Reply(body=b"last", framing="close")]
    with ReplayServer(replies, tls=server_tls) as server, closing(connect(server, client_tls)) as connection:
        assert server.url.startswith("https://127.0.0.1:")
        assert [get(connection)[1] for _ in range(3)] == [b"one", big, b"last"]
        assert server.connections == 1
        assert server.wait_closed()


def test_a_tls_client_that_leaves_is_noticed_while_the_body_waits(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    waiting = Waiting()
    with ReplayServer(waiting, tls=server_tls) as server, closing(connect(server, client_tls)) as connection:
        start_reading(connection).close()
        connection.close()
        assert server.wait_closed()
        assert waiting.cleaned_up.wait(10)
        assert waiting.left


def test_a_reset_under_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    reply = Reply(headers=EVENT_STREAM, body=b"abc", abort="rst")
    with ReplayServer([reply], tls=server_tls) as server, closing(connect(server, client_tls)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        # Many versions of Python report a reset under TLS as a mere end.
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            response.read()


def test_a_tls_client_that_does_not_trust_the_server_is_hung_up_on(server_tls: ssl.SSLContext) -> None:
    stranger = ssl.create_default_context()
    with ReplayServer([Reply()], tls=server_tls) as server, closing(connect(server, stranger)) as connection:
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.connect()
        assert server.wait_closed()
        assert not server.requests
