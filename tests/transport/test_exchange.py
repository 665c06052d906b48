"""One request and its reply over one lease: what is decoded, which connection is given back, and early refusals."""

from __future__ import annotations

import gzip
import itertools
import os
import socket
import ssl
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import quick

from openai_compat import APIConnectionError, APITimeoutError, Cancelled, CancelToken, ResponseParseError, Timeout
from openai_compat.timeouts import Deadline
from openai_compat.transport.clock import Clock
from openai_compat.transport.connection import Connection
from openai_compat.transport.exchange import INFLATION_FROM, READ_SIZE, Exchange, NoReplyError, _Inflater
from openai_compat.transport.http1 import BadReplyError
from openai_compat.transport.lease import Lease

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Ends:
    """How the leases of a test ended."""

    def __init__(self) -> None:
        self.kept: list[bool] = []

    def __call__(self, connection: Connection, keep: bool) -> None:
        self.kept.append(keep)
        connection.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


@pytest.fixture
def ends() -> Ends:
    return Ends()


Start = Callable[..., Exchange]


@pytest.fixture
def start(pair: tuple[socket.socket, socket.socket], ends: Ends) -> Start:
    """Makes the exchange over the pair."""

    def make(timeout: Timeout | None = None, cancel: CancelToken | None = None) -> Exchange:
        deadline = Deadline(timeout or Timeout(first_token=10, idle=10), cancel)
        return Exchange(Lease(Connection(pair[0]), ends, cancel), Clock(deadline, where="there"))

    return make


def answered(exchange: Exchange, theirs: socket.socket, reply: bytes, *, closed: bool = False) -> list[bytes]:
    """The pieces of the answer ``reply``, which is there before it is asked for."""
    theirs.sendall(reply)
    if closed:
        theirs.shutdown(socket.SHUT_WR)
    exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
    return list(exchange.pieces)


LENGTH_2 = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class TestWhoKeepsTheConnection:
    @pytest.mark.parametrize(
        ("reply", "kept"),
        {
            "read to its end": (LENGTH_2 + b"ok", True),
            "chunks": (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", True),
            "behind an early hint": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + LENGTH_2 + b"ok", True),
            "behind 100 and 102": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + LENGTH_2 + b"ok", True),
            "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
            "an empty body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
            "refused, having read": (b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno", True),
            "refused, perhaps unread": (b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno", False),
            "failed": (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", False),
            "redirected": (b"HTTP/1.1 307 There\r\nContent-Length: 2\r\n\r\nno", False),
            "the server closes": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", False),
            "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
            "HTTP/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", True),
            "two framings": (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + b"0\r\n\r\n", False),
            "bytes behind a length": (LENGTH_2 + b"okHTTP/1.1 200", False),
            "bytes behind chunks": (CHUNKED + b"0\r\n\r\nH", False),
            "bytes behind no content": (b"HTTP/1.1 204 No Content\r\n\r\nok", False),
            "bytes behind an empty body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nok", False),
        }.values(),
    )
    def test_after_the_whole_reply(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends, reply: bytes, kept: bool
    ) -> None:
        exchange = start()
        answered(exchange, pair[1], reply)
        assert ends.kept == []
        exchange.finish()
        exchange.finish()
        exchange.close()
        assert ends.kept == [kept]

    def test_what_ends_with_the_connection_is_not_kept(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends
    ) -> None:
        exchange = start()
        assert answered(exchange, pair[1], b"HTTP/1.1 200 OK\r\n\r\nok", closed=True) == [b"ok"]
        exchange.finish()
        assert ends.kept == [False]

    def test_an_end_that_comes_at_once_is_read(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends
    ) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED + b"2\r\nok\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        assert next(exchange.pieces) == b"ok"
        pair[1].sendall(b"0\r\n\r\n")
        exchange.finish()
        assert ends.kept == [True]

    @pytest.mark.parametrize("behind", [b"", b"1\r\nx\r\n" * 3, b"rubbish\r\n"])
    def test_an_end_that_does_not_come_is_not_waited_for(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends, behind: bytes
    ) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED + b"2\r\nok\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        assert next(exchange.pieces) == b"ok"
        pair[1].sendall(behind)
        exchange.finish()
        assert ends.kept == [False]

    @pytest.mark.parametrize("kind", [type("SoftLimitError", (Exception,), {}), TimeoutError])
    def test_a_soft_limit_of_others_is_not_swallowed_at_the_end(
        self,
        start: Start,
        pair: tuple[socket.socket, socket.socket],
        ends: Ends,
        monkeypatch: pytest.MonkeyPatch,
        kind: type[Exception],
    ) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED + b"2\r\nok\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        assert next(exchange.pieces) == b"ok"

        def raised_by_a_signal() -> None:
            raise kind

        monkeypatch.setattr(exchange.clock, "wait", raised_by_a_signal)
        with pytest.raises(kind):
            exchange.finish()
        assert ends.kept == [False]

    def test_what_is_left_is_closed(self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED + b"2\r\nok\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        exchange.close()
        assert ends.kept == [False]

    def test_one_that_is_dropped_closes(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends
    ) -> None:
        exchange = start()
        answered(exchange, pair[1], LENGTH_2 + b"ok")
        del exchange
        assert ends.kept == [False]


class TestHeads:
    @pytest.mark.parametrize(
        ("reply", "error", "words"),
        [
            (b"", NoReplyError, "closed without a reply"),
            (b"HTTP/1.1 200 OK\r\nA: ", BadReplyError, "cut short"),
            (b"HTTP/1.1 101 Switching\r\n\r\n", BadReplyError, "another protocol"),
            (b"SSH-2.0-x\r\n", BadReplyError, "does not speak HTTP"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", NoReplyError, "closed without a reply"),
        ],
    )
    def test_that_are_none(
        self,
        start: Start,
        pair: tuple[socket.socket, socket.socket],
        reply: bytes,
        error: type[Exception],
        words: str,
    ) -> None:
        exchange = start()
        with pytest.raises(error, match=words):
            answered(exchange, pair[1], reply, closed=True)
        assert (exchange.sent, exchange.silent) == (True, not reply)

    def test_byte_by_byte(self, start: Start, pair: tuple[socket.socket, socket.socket]) -> None:
        exchange = start()
        reply = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH_2 + b"ok"
        got = iter(reply)
        exchange._sock = Scripted(recv=lambda: bytes([next(got)]))
        assert exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"").status == 200
        assert b"".join(exchange.pieces) == b"ok"
        assert exchange.received == len(reply)


class Scripted:
    """A socket that does as it is told."""

    def __init__(self, recv: Callable[[], bytes], send: Callable[[bytes], int] = len) -> None:
        self._recv = recv
        self._send = send
        self.limits: list[float | None] = []

    def settimeout(self, seconds: float | None) -> None:
        self.limits.append(seconds)

    def recv(self, size: int) -> bytes:
        return self._recv()

    def send(self, data: Any) -> int:
        return self._send(bytes(data))


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise error

    return fail


class TestRequests:
    def test_what_goes_out_in_pieces_arrives_whole(
        self, start: Start, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        exchange = start()
        pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        content = bytes(range(256)) * 4096
        came = bytearray()

        def serve() -> None:
            while len(came) < len(content) + 4:
                came.extend(pair[1].recv(65536))
            pair[1].sendall(LENGTH_2 + b"ok")

        server = threading.Thread(target=serve)
        server.start()
        assert exchange.ask(b"head", content).status == 200
        server.join(10)
        assert came == b"head" + content

    def test_a_small_request_is_one_write(self, start: Start) -> None:
        exchange, writes = start(), []
        exchange._sock = Scripted(lambda: LENGTH_2, lambda data: writes.append(data) or len(data))
        exchange.ask(b"head", b"content")
        assert writes == [b"headcontent"]

    @pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), ssl.SSLEOFError(8, "EOF")])
    @pytest.mark.parametrize("accepted", [0, 2])
    def test_a_refusal_that_came_while_a_large_body_was_sent_is_read(
        self, start: Start, ends: Ends, error: OSError, accepted: int
    ) -> None:
        sizes = iter([4, 1000][:accepted])
        sock = Scripted(
            lambda: b"HTTP/1.1 400 Too large\r\nContent-Length: 2\r\n\r\nno",
            lambda data: size if (size := next(sizes, 0)) else failing(error)(),
        )
        exchange = start()
        exchange._sock = sock
        head = exchange.ask(b"head", b"x" * 1_000_000)
        assert (head.status, list(exchange.pieces), exchange.sent) == (400, [b"no"], accepted > 0)
        exchange.finish()
        assert ends.kept == [False]

    @pytest.mark.parametrize("then", [lambda: b"", lambda: b"SSH-2.0", failing(ConnectionResetError("then"))])
    def test_without_one_the_first_failure_is_told(self, start: Start, then: Callable[[], bytes]) -> None:
        exchange = start()
        exchange._sock = Scripted(then, failing(BrokenPipeError("first")))
        with pytest.raises(BrokenPipeError, match="first") as caught:
            exchange.ask(b"head", b"")
        assert (exchange.sent, caught.value.__suppress_context__) == (False, True)

    def test_over_a_real_connection_that_is_reset(self, ends: Ends) -> None:
        """The server answers after a part of the body, and closes with bytes unread, which is a reset."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), 10)
            theirs, _ = listener.accept()
            theirs.settimeout(10)

            def refuse() -> None:
                theirs.recv(10_000)
                theirs.sendall(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
                theirs.close()

            server = threading.Thread(target=refuse)
            server.start()
            exchange = Exchange(Lease(Connection(ours), ends), Clock(Deadline(Timeout(first_token=10, idle=10))))
            assert exchange.ask(b"POST / HTTP/1.1\r\n\r\n", b"x" * 50_000_000).status == 413
            assert list(exchange.pieces) == [b"no"]
            exchange.finish()
            server.join(10)
        assert ends.kept == [False]


class TestLimits:
    def test_the_socket_is_told_only_where_that_changes_something(self, start: Start) -> None:
        class Turned(Clock):
            limit: float | None = 100.0

            def wait(self) -> float | None:
                return self.limit

        exchange = start()
        sock = exchange._sock = Scripted(lambda: b"x")
        clock = exchange.clock = Turned(Deadline(Timeout()))
        for limit in (100.0, 99.0, 98.5, 100.0, 50.0, 60.0, None, None, 60.0):
            clock.limit = limit
            exchange._read()
        assert sock.limits == [100.0, 50.0, 60.0, None, 60.0]

    def test_a_wait_that_was_the_sockets_own_passes_as_it_is(self, start: Start) -> None:
        exchange, alarm = start(), TimeoutError("from a signal handler")
        exchange._sock = Scripted(failing(alarm))
        with pytest.raises(TimeoutError) as caught:
            exchange.ask(b"head", b"")
        assert caught.value is alarm
        exchange._sock = Scripted(lambda: b"", failing(alarm))
        with pytest.raises(TimeoutError) as caught:
            exchange.ask(b"head", b"")
        assert caught.value is alarm

    def test_a_server_that_is_silent(self, start: Start) -> None:
        exchange = start(Timeout(first_token=0.06))
        with pytest.raises(APITimeoutError) as caught:
            exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        assert (caught.value.phase, exchange.silent) == ("first_token", True)

    def test_a_server_that_reads_nothing(self, start: Start) -> None:
        exchange = start(Timeout(first_token=0.06))
        with pytest.raises(APITimeoutError) as caught:
            exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"x" * 10_000_000)
        assert (caught.value.phase, exchange.sent) == ("first_token", True)

    def test_sending_is_progress(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each write takes less than the limit, all of them many times as long."""
        now = [1000.0]
        monkeypatch.setattr("openai_compat.transport.clock.time.monotonic", lambda: now[0])
        exchange = start(Timeout(first_token=10))

        def slow(data: bytes) -> int:
            now[0] += 9
            return 1000

        exchange._sock = Scripted(lambda: LENGTH_2, slow)
        assert exchange.ask(b"", b"x" * 100_000).status == 200
        assert now[0] == 1900

    @pytest.mark.parametrize("ending", ["cancel", "total"])
    def test_a_body_that_is_being_sent_ends_with_its_call(
        self, start: Start, ending: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1000.0]
        monkeypatch.setattr("openai_compat.transport.clock.time.monotonic", lambda: now[0])
        token = CancelToken()
        exchange = start(Timeout(total=5), token)

        def send(data: bytes) -> int:
            if ending == "cancel":
                token.cancel()
            else:
                now[0] += 6
            return 10

        exchange._sock = Scripted(lambda: b"", send)
        with pytest.raises(Cancelled if ending == "cancel" else APITimeoutError):
            exchange.ask(b"", b"x" * 100_000)

    def test_beats(self, start: Start, pair: tuple[socket.socket, socket.socket]) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED)
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        exchange.clock.tick_every(0.01)
        assert [next(exchange.pieces), next(exchange.pieces)] == [b"", b""]
        pair[1].sendall(b"2\r\nok\r\n0\r\n\r\n")
        assert [piece for piece in exchange.pieces if piece] == [b"ok"]

    def test_beats_of_a_compressed_stream(self, start: Start, pair: tuple[socket.socket, socket.socket]) -> None:
        exchange = start()
        pair[1].sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        exchange.clock.tick_every(0.01)
        assert next(exchange.pieces) == b""
        pair[1].sendall(gzip.compress(b"ok"))
        pair[1].shutdown(socket.SHUT_WR)
        assert [piece for piece in exchange.pieces if piece] == [b"ok"]

    def test_a_beat_while_the_request_is_sent_is_no_end(self, start: Start) -> None:
        exchange, late = start(), [TimeoutError()]
        exchange.clock.tick_every(60)

        def send(data: bytes) -> int:
            if late:
                exchange.clock._next_tick = 0.0  # its time has come
                raise late.pop()
            return len(data)

        exchange._sock = Scripted(lambda: LENGTH_2, send)
        assert exchange.ask(b"head", b"").status == 200

    def test_a_beat_before_the_head_is_no_answer(self, start: Start, pair: tuple[socket.socket, socket.socket]) -> None:
        exchange = start()
        exchange.clock.tick_every(0.01)
        beats = iter([TimeoutError(), TimeoutError(), None])

        def recv() -> bytes:
            if (beat := next(beats)) is not None:
                exchange.clock._next_tick = 0.0  # its time has come
                raise beat
            return LENGTH_2

        exchange._sock = Scripted(recv)
        assert exchange.ask(b"", b"").status == 200

    def test_a_forked_child_has_to_ask_anew(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends
    ) -> None:
        exchange = start()
        pair[1].sendall(CHUNKED + b"2\r\nok\r\n")
        exchange.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
        assert next(exchange.pieces) == b"ok"
        exchange._process = os.getppid()
        with pytest.raises(APIConnectionError, match="belongs to the parent process"):
            next(exchange.pieces)
        exchange.finish()
        assert ends.kept == [False]


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
}


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def inflated(data: bytes, cuts: list[int], coding: str) -> bytes:
    inflater = _Inflater(coding.strip().lower())
    found = [piece for part in pieces_of(data, cuts) for piece in inflater.feed(part)]
    assert all(0 < len(piece) <= READ_SIZE for piece in found)
    return b"".join(found)


contents = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda block, times: block * times, st.binary(min_size=1, max_size=4), st.integers(1, 40_000)),
)
cuts_of_it = st.lists(st.integers(0, 300), max_size=8)


class TestDecoding:
    @pytest.mark.parametrize("coding", CODINGS)
    @quick
    @given(content=contents, cuts=cuts_of_it)
    def test_any_split_gives_the_same(self, coding: str, content: bytes, cuts: list[int]) -> None:
        assert inflated(CODINGS[coding](content), cuts, coding) == content

    @pytest.mark.parametrize("coding", CODINGS)
    def test_byte_by_byte(self, coding: str) -> None:
        data = CODINGS[coding](b"some words " * 9)
        assert inflated(data, list(range(len(data))), coding) == b"some words " * 9

    @quick
    @given(
        members=st.lists(contents, min_size=1, max_size=4), cuts=cuts_of_it, padding=st.sampled_from([b"", b"\0" * 9])
    )
    def test_members_and_padding(self, members: list[bytes], cuts: list[int], padding: bytes) -> None:
        data = b"".join(map(gzip.compress, members)) + padding
        edges = list(itertools.accumulate(len(gzip.compress(member)) for member in members))
        for around in (cuts, edges, [edge + 1 for edge in edges]):
            assert inflated(data, around, "gzip") == b"".join(members)

    @pytest.mark.parametrize("size", [READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE])
    @pytest.mark.parametrize("coding", CODINGS)
    def test_where_a_piece_is_exactly_full(self, coding: str, size: int) -> None:
        for content in (b"x" * size, os.urandom(size)):
            assert inflated(CODINGS[coding](content), [], coding) == content

    @pytest.mark.parametrize("coding", CODINGS)
    @pytest.mark.parametrize("data", [b'{"error": "plain text"}', b"not compressed", b"<html>", b"\xff" * 40])
    def test_what_is_not_compressed(self, coding: str, data: bytes) -> None:
        for cuts in ([], [1], list(range(len(data)))):
            with pytest.raises(ResponseParseError, match="cannot be decompressed"):
                inflated(data, cuts, coding)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_damage_in_the_middle(self, coding: str) -> None:
        data = bytearray(CODINGS[coding](os.urandom(1000)))
        data[-6] ^= 0xFF
        with pytest.raises(ResponseParseError, match="cannot be decompressed"):
            inflated(bytes(data), [20, 500], coding)

    @pytest.mark.parametrize("coding", CODINGS)
    def test_what_is_cut_gives_what_came(self, coding: str) -> None:
        data = CODINGS[coding](os.urandom(1000))
        assert len(inflated(data[:-20], [7, 99], coding)) > 900

    @pytest.mark.parametrize("coding", ["", "identity", "Identity", *CODINGS])
    def test_over_an_exchange(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends, coding: str
    ) -> None:
        exchange = start()
        data = CODINGS.get(coding, bytes)(b"ok" * 50)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(data))
        assert b"".join(answered(exchange, pair[1], head + data)) == b"ok" * 50
        exchange.finish()
        assert ends.kept == [True]

    @pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "x" * 100])
    def test_a_coding_that_was_not_asked_for(
        self, start: Start, pair: tuple[socket.socket, socket.socket], ends: Ends, coding: str
    ) -> None:
        exchange = start()
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: 2\r\n\r\n".encode()
        with pytest.raises(ResponseParseError, match=f"encoded as '{coding[:40]}', which was not asked for"):
            answered(exchange, pair[1], head + b"ok")
        exchange.finish()
        assert ends.kept == [False]

    def test_a_bomb_is_refused_while_it_is_small(self, start: Start) -> None:
        deflate = zlib.compressobj(wbits=31)
        block = b"\0" * 1_000_000
        bomb = b"".join(deflate.compress(block) for _ in range(100)) + deflate.flush()
        parts = iter([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", bomb])
        exchange = start()
        exchange._sock = Scripted(lambda: next(parts, b""))
        exchange.ask(b"", b"")
        tracemalloc.start()
        taken = 0
        try:
            for piece in exchange.pieces:
                taken += len(piece)
        except ResponseParseError as error:
            assert "a decompression bomb, or a broken server" in str(error)  # noqa: PT017 - what came before counts
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert INFLATION_FROM <= taken <= len(bomb) * 200 + READ_SIZE
        assert peak < 1_000_000

    def test_what_shrinks_well_but_is_small_is_no_bomb(self, start: Start) -> None:
        content = b"\0" * (INFLATION_FROM - 1)
        parts = iter([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(content)])
        exchange = start()
        exchange._sock = Scripted(lambda: next(parts, b""))
        exchange.ask(b"", b"")
        assert sum(map(len, exchange.pieces)) == len(content)
