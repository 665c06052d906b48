"""HTTP/1.1 without I/O: heads against http.client, bodies against h11, and every split of the bytes."""

from __future__ import annotations

import http.client
import io
import itertools
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.arbitrary import quick, thorough

from openai_compat.transport.http1 import MAX_HEAD, BadReplyError, Head, Read, body, read_head, request_head, split_head


def reader(pieces: list[bytes | None]) -> Read:
    """Gives the pieces, then the end for ever."""
    rest = iter(pieces)
    return lambda: next(rest, b"")


def read_all(head: Head, pieces: list[bytes | None]) -> tuple[list[bytes], bytes]:
    """The pieces of a body, and all that came behind it, read or not."""
    read = reader(pieces)
    reading = body(head, read)
    found: list[bytes] = []
    while True:
        try:
            found.append(next(reading))
        except StopIteration as stop:
            behind: bytes = stop.value
            while more := read():
                behind += more
            return found, behind


def split(data: bytes, cuts: list[int]) -> list[bytes | None]:
    """``data``, cut at these places; none of the pieces is empty."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def framed(framing: str, length: int = 0) -> Head:
    return Head(200, {}, framing, length, keep_alive=True)  # type: ignore[arg-type]


CHUNKED = framed("chunked")


class TestHead:
    @pytest.mark.parametrize(
        ("line", "status", "keep_alive"),
        [
            ("HTTP/1.1 200 OK", 200, True),
            ("HTTP/1.1 200", 200, True),
            ("HTTP/1.1 200 ", 200, True),
            ("HTTP/1.0 200 OK", 200, False),
            ("HTTP/1.1 599 Whatever it is: \xe9", 599, True),
            ("HTTP/1.1 999 Request denied", 999, True),
            *(
                (line, None, None)
                for line in ("HTTP/2 200 OK", "HTTP/1.2 200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK")
            ),
            *((line, None, None) for line in ("HTTP/1.1 200OK", "HTTP/1.1  200 OK", "HTTP/1.1 099 OK", "HTTP/1.1", "")),
            *((line, None, None) for line in ("ICY 200 OK", "http/1.1 200 OK", " HTTP/1.1 200 OK", "+OK ready")),
        ],
    )
    def test_status_lines(self, line: str, status: int | None, keep_alive: bool | None) -> None:
        data = f"{line}\r\nContent-Length: 1".encode("latin-1")
        if status is None:
            with pytest.raises(BadReplyError, match="does not speak HTTP"):
                read_head(data)
        else:
            assert read_head(data) == Head(status, {"content-length": "1"}, "length", 1, bool(keep_alive))

    @pytest.mark.parametrize(
        ("lines", "headers"),
        [
            ("A: 1\nB:2\nC:   3  \nD:", {"a": "1", "b": "2", "c": "3", "d": ""}),
            ("A: 1\na: 2\nB: 3\nA: 4", {"a": "1, 2, 4", "b": "3"}),
            ("A: 1\n 2\n\t3 \nB: 4", {"a": "1 2 3", "b": "4"}),
            (" a: lone\nB: 4", {"b": "4"}),
            ("no colon\nB: 4", {"b": "4"}),
            ("no colon\n folded\nB: 4", {"b": "4"}),
            ("A: 1\nno colon\n folded\nB: 4", {"a": "1", "b": "4"}),
            ("A : 1", {"a": "1"}),
            ("A: b: c", {"a": "b: c"}),
            ("A: \xe9", {"a": "\xe9"}),
        ],
    )
    @pytest.mark.parametrize("newline", ["\r\n", "\n"])
    def test_headers(self, lines: str, headers: dict[str, str], newline: str) -> None:
        head = read_head(f"HTTP/1.1 200 OK\n{lines}".replace("\n", newline).encode("latin-1"))
        assert head.headers == headers

    @pytest.mark.parametrize(
        ("status", "lines", "expected"),
        [
            (200, "", ("close", 0, False)),
            (200, "Content-Length: 5", ("length", 5, True)),
            (200, "Content-Length: 5\nContent-Length: 5", ("length", 5, True)),
            (200, "Content-Length: 5, 5", ("length", 5, True)),
            (200, "Content-Length: 5\nConnection: close", ("length", 5, False)),
            (200, "Content-Length: 5\nConnection: Keep-Alive, Close", ("length", 5, False)),
            (200, "Content-Length: 5\nConnection: keep-alive\nConnection: close", ("length", 5, False)),
            (200, "Transfer-Encoding: chunked", ("chunked", 0, True)),
            (200, "Transfer-Encoding: gzip, Chunked", ("chunked", 0, True)),
            (200, "Transfer-Encoding: chunked\nConnection: close", ("chunked", 0, False)),
            (200, "Transfer-Encoding: chunked\nContent-Length: 5", ("chunked", 0, False)),
            (200, "Content-Length: 5\nTransfer-Encoding: chunked", ("chunked", 0, False)),
            (200, "Transfer-Encoding: chunked, gzip\nContent-Length: 5", ("close", 0, False)),
            (200, "Transfer-Encoding: identity\nContent-Length: 5", ("length", 5, True)),
            (200, "Content-Length: 5\nConnection: keep-alive\nX: 1.0", ("length", 5, True)),
            (204, "Content-Length: 5", ("length", 0, True)),
            (204, "Connection: close", ("length", 0, False)),
            (304, "Transfer-Encoding: chunked", ("length", 0, True)),
            (103, "Link: </style.css>", ("length", 0, True)),
        ],
    )
    def test_where_the_body_ends(self, status: int, lines: str, expected: tuple[str, int, bool]) -> None:
        head = read_head(f"HTTP/1.1 {status} OK\n{lines}".encode())
        assert (head.framing, head.length, head.keep_alive) == expected

    @pytest.mark.parametrize(
        ("lines", "keep_alive"),
        [("", False), ("Connection: keep-alive", True), ("Connection: Keep-Alive, Upgrade", True)],
    )
    def test_http_1_0_keeps_a_connection_where_it_says_so(self, lines: str, keep_alive: bool) -> None:
        assert read_head(f"HTTP/1.0 200 OK\nContent-Length: 5\n{lines}".encode()).keep_alive is keep_alive

    @pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x5", "5 5", "five", "\xb2", "9" * 19])
    def test_a_content_length_that_is_no_number(self, value: str) -> None:
        with pytest.raises(BadReplyError, match="not a number of bytes"):
            read_head(f"HTTP/1.1 200 OK\r\nContent-Length: {value}".encode("latin-1"))

    @pytest.mark.parametrize("lines", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 6"])
    def test_two_lengths_are_none(self, lines: str) -> None:
        with pytest.raises(BadReplyError, match="two different values of Content-Length"):
            read_head(f"HTTP/1.1 200 OK\r\n{lines}".encode())

    @quick
    @given(
        st.sampled_from([200, 201, 400, 404, 429, 500, 503]),
        st.sampled_from([b"", b"OK", b"Not Found", b"caf\xe9"]),
        st.lists(
            st.tuples(
                st.text("abcXYZ-019_", min_size=1, max_size=8).map("X-{}".format),
                st.text(
                    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0"),
                    max_size=20,
                ).map(str.strip),
            ),
            max_size=8,
        ),
        st.sampled_from([None, "0", "17"]),
        st.sampled_from([None, "close", "keep-alive"]),
        st.sampled_from(["\r\n", "\n"]),
    )
    def test_says_what_http_client_says(
        self,
        status: int,
        reason: bytes,
        fields: list[tuple[str, str]],
        length: str | None,
        connection: str | None,
        newline: str,
    ) -> None:
        fields = fields + [(n, v) for n, v in (("Content-Length", length), ("Connection", connection)) if v]
        lines = "".join(f"{name}: {value}{newline}" for name, value in fields).encode("latin-1")
        data = b"HTTP/1.1 %d %b%b%b%b" % (status, reason, newline.encode(), lines, newline.encode())
        parts = split_head(data)
        assert parts is not None
        ours = read_head(parts[0])

        class Sock:
            def makefile(self, mode: str) -> io.BytesIO:
                return io.BytesIO(data)

        theirs = http.client.HTTPResponse(Sock())  # type: ignore[arg-type]
        theirs.begin()
        names = {name.lower() for name, _ in fields}
        expected = {name: ", ".join(str(value) for value in theirs.msg.get_all(name, [])) for name in names}
        assert (ours.status, ours.headers) == (theirs.status, expected)
        assert ours.framing == ("close" if theirs.length is None else "length")
        assert ours.length == (theirs.length or 0)
        assert ours.keep_alive is not theirs.will_close
        theirs.close()


class TestSplitHead:
    @pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
    @pytest.mark.parametrize("behind", [b"", b"{}", b"\r\n\r\nx"])
    def test_any_split_gives_the_same(self, end: bytes, behind: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nA: 1"
        data = head + end + behind
        for cut in range(len(head + end)):
            assert split_head(data[:cut]) is None
            assert split_head(data, cut) == (head, behind)

    @pytest.mark.parametrize("data", [b"S", b"SSH-2.0-OpenSSH_9", b"HTTQ", b"\x15\x03\x01", b"<html>", b"\r\n"])
    def test_what_is_not_http_is_not_waited_for(self, data: bytes) -> None:
        with pytest.raises(BadReplyError, match="does not speak HTTP"):
            split_head(data)

    def test_a_head_may_be_large_but_not_larger(self) -> None:
        start, end = b"HTTP/1.1 200 OK\r\nA: ", b"\r\n\r\n"
        largest = start + b"x" * (MAX_HEAD - len(start) - len(end))
        assert split_head(largest) is None
        assert split_head(largest + end + b"body") == (largest, b"body")
        for data in (largest + b"x" + end, largest + b"x" * 5, largest + b"x" * 100_000 + end):
            with pytest.raises(BadReplyError, match="larger than 65,536"):
                split_head(data)


def test_the_head_of_a_request_hides_what_it_holds_from_tracebacks() -> None:
    head = request_head("POST", "/v1/x?a=b", {"Host": "h", "Authorization": "Bearer sk-1"})
    assert head == b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk-1\r\n\r\n"
    assert "sk-1" not in repr(head)


class TestCounted:
    @quick
    @given(st.binary(max_size=60), st.binary(max_size=20), st.lists(st.integers(0, 80), max_size=6))
    def test_any_split_gives_the_same(self, content: bytes, behind: bytes, cuts: list[int]) -> None:
        found, rest = read_all(framed("length", len(content)), split(content + behind, cuts))
        assert (b"".join(found), rest) == (content, behind)

    def test_an_end_that_comes_early(self) -> None:
        reading = body(framed("length", 9), reader([b"abc", b"de"]))
        assert [next(reading), next(reading)] == [b"abc", b"de"]
        with pytest.raises(BadReplyError, match="4 bytes of the reply are missing"):
            next(reading)


@quick
@given(st.binary(max_size=60), st.lists(st.integers(0, 80), max_size=6))
def test_until_closed_is_all(content: bytes, cuts: list[int]) -> None:
    found, rest = read_all(framed("close"), split(content, cuts))
    assert (b"".join(found), rest) == (content, b"")


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (framed("length", 2), [None, b"a", None, None, b"b"]),
        (framed("close"), [None, b"a", None, None, b"b"]),
        (CHUNKED, [None, b"1\r\na\r\n", None, None, b"1\r\nb\r\n0\r\n\r\n"]),
    ],
)
def test_a_pause_is_an_empty_piece(head: Head, pieces: list[bytes | None]) -> None:
    assert read_all(head, pieces) == ([b"", b"a", b"", b"", b"b"], b"")


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and its bytes in chunks, with extensions, trailers and sizes as servers spell them."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    extension = st.sampled_from([b"", b";a", b";a=b;c=d", b';a="q"'])
    size = st.sampled_from([b"%x", b"%X", b"%04x", b"%08X"])
    chunks = [(draw(size) % len(piece)) + draw(extension) + b"\r\n" + piece + b"\r\n" for piece in pieces]
    last = draw(st.sampled_from([b"0", b"000"])) + draw(extension) + b"\r\n"
    trailers = draw(st.sampled_from([b"", b"A: 1\r\n", b"A: 1\r\nDigest: sha-256=abc\r\n"]))
    return b"".join(pieces), b"".join(chunks) + last + trailers + b"\r\n"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes
    behind: bytes
    keep_alive: bool


def by_h11(data: bytes) -> Reply:
    """A whole reply, after which the connection is closed, as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    status, headers, content = 0, {}, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        if isinstance(event, h11.Data):
            content += event.data
        if isinstance(event, h11.EndOfMessage):
            keep_alive = connection.their_state is h11.DONE and not connection.trailing_data[1]
            return Reply(status, headers, content, connection.trailing_data[0], keep_alive)
        if event is h11.NEED_DATA:
            connection.receive_data(b"")


def by_ours(data: bytes, cuts: list[int]) -> Reply:
    """The same, with the bytes behind the head cut anywhere."""
    parts = split_head(data)
    assert parts is not None
    head = read_head(parts[0])
    found, behind = read_all(head, split(parts[1], cuts))
    return Reply(head.status, head.headers, b"".join(found), behind, head.keep_alive)


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@quick
@given(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 503 ", b"HTTP/1.1 429 Too Many"]),
    st.sampled_from([b"", b"Connection: close\r\n", b"CONNECTION: x, Close\r\n"]),
    st.sampled_from(["length", "chunked", "close"]),
    chunked(),
    st.binary(max_size=20),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_a_whole_reply_is_what_h11_reads(
    line: bytes, connection: bytes, framing: str, chunked: tuple[bytes, bytes], behind: bytes, cuts: list[int]
) -> None:
    content, in_chunks = chunked
    how, sent = {
        "length": (b"Content-Length: %d\r\n" % len(content), content),
        "chunked": (b"Transfer-Encoding: chunked\r\n", in_chunks),
        "close": (b"", content),
    }[framing]
    data = line + b"\r\n" + connection + how + b"X-A:  b c \r\n\r\n" + sent + behind
    assert by_ours(data, cuts) == by_h11(data)


def broken(pieces: list[bytes | None]) -> tuple[bytes, str]:
    """What a body that is broken gives before it says so, and what it says."""
    found = b""
    try:
        for piece in body(CHUNKED, reader(pieces)):
            found += piece
    except BadReplyError as error:
        return found, str(error)
    raise AssertionError("not broken")


class TestChunked:
    @quick
    @given(chunked(), st.binary(max_size=20), st.lists(st.integers(0, 400), max_size=10))
    @example((b"ab", b"2\r\nab\r\n0\r\n\r\n"), b"", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    def test_any_split_gives_what_h11_gives(self, chunked: tuple[bytes, bytes], behind: bytes, cuts: list[int]) -> None:
        content, data = chunked
        expected = by_h11(CHUNKED_HEAD + data + behind)
        assert (expected.content, expected.behind) == (content, behind)
        assert by_ours(CHUNKED_HEAD + data + behind, cuts) == expected

    @thorough
    @given(chunked(), st.data(), st.lists(st.integers(0, 400), max_size=4))
    def test_of_damaged_bytes_what_h11_reads_is_read_alike(
        self, chunked: tuple[bytes, bytes], data: st.DataObject, cuts: list[int]
    ) -> None:
        wire = bytearray(chunked[1])
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(wire)))
            wire[at : at + data.draw(st.integers(0, 2))] = data.draw(
                st.sampled_from([b"", b"0", b"f", b";", b"\r\n", b"\n"])
            )
        try:
            expected = by_h11(CHUNKED_HEAD + wire)
        except h11.RemoteProtocolError:
            return  # h11 is stricter than servers are
        assert by_ours(CHUNKED_HEAD + wire, cuts) == expected

    @quick
    @given(chunked(), st.lists(st.integers(0, 400), max_size=5), st.data())
    def test_a_body_that_is_cut_is_never_whole(
        self, chunked: tuple[bytes, bytes], cuts: list[int], data: st.DataObject
    ) -> None:
        content, wire = chunked
        cut = wire[: data.draw(st.integers(0, len(wire) - 1))]
        found, error = broken(split(cut, cuts))
        assert (content.startswith(found), error) == (True, "the last chunk is missing")

    @pytest.mark.parametrize("data", [b"2\nab\n0\n\n", b"2 \r\nab\r\n0 \r\n\r\n", b"\r\n2\r\nab\r\n\r\n0\r\n\r\n"])
    def test_what_servers_get_away_with(self, data: bytes) -> None:
        for cut in range(len(data)):
            found, rest = read_all(CHUNKED, split(data, [cut]))
            assert (b"".join(found), rest) == (b"ab", b"")

    @pytest.mark.parametrize("size", [b"x", b"-1", b"0x2", b"2x", b"2 2", b";a", b"1" * 17, b"\xb2", b"{}"])
    def test_a_size_that_is_no_number_and_what_came_before_it_is_good(self, size: bytes) -> None:
        data = b"2\r\nab\r\n" + size + b"\r\ncd\r\n0\r\n\r\n"
        for cut in range(len(data)):
            assert broken(split(data, [cut])) == (b"ab", "the size of a chunk is not a number")

    def test_all_that_a_read_brings_is_one_piece(self) -> None:
        data = b"".join(b"1\r\n%c\r\n" % char for char in b"abcdef")
        assert read_all(CHUNKED, [data + b"0\r\n\r\n"]) == ([b"abcdef"], b"")
        assert read_all(CHUNKED, [b"6\r\nabcdef\r\n", b"0\r\n\r\n"]) == ([b"abcdef"], b"")
        assert read_all(CHUNKED, [b"6\r\nabc", b"def\r\n0\r\n\r\n"]) == ([b"abc", b"def"], b"")

    @pytest.mark.parametrize("start", [b"", b"0\r\nA: ", b"2\r\nab\r\n2;"])
    def test_a_line_without_end_is_not_collected(self, start: bytes) -> None:
        read = 0

        def endless() -> bytes:
            nonlocal read
            read += 1
            return start if read == 1 and start else b"x" * 1000

        with pytest.raises(BadReplyError, match="longer than 65,536"):
            for _ in body(CHUNKED, endless):
                pass
        assert read < 70
