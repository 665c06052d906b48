"""HTTP/1.1 without I/O (RFC 9112): what a request says, what the head of a reply says, and where its body ends.

Written by hand because ``http.client`` takes longer for the head of a small reply than msgspec for its body, takes
``103 Early Hints`` for the answer before Python 3.12, and hides how much of the next reply it has read. h11 makes
several events of each chunk, which is most of the time that a token may cost; tests hold what is read here against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import Literal, NamedTuple

from ..redaction import SecretBytes

MAX_HEAD = 65536
"""Most bytes that the head of a reply, or a line between chunks, may have."""

Read = Callable[[], bytes | None]
"""Returns the next bytes, none at the end, None where nothing came for a while."""
Pieces = Generator[bytes, None, bytes]
"""The pieces of a body, an empty one where ``Read`` gave None; returns what came behind the body."""


class BadReplyError(Exception):
    """What came is no HTTP reply, or one cut short."""


class Head(NamedTuple):
    """The head of a reply. ``headers`` have lower-case names; ``length`` counts where ``framing`` is "length"."""

    status: int
    headers: dict[str, str]
    framing: Literal["length", "chunked", "close"]
    length: int
    keep_alive: bool
    """Whether the connection may serve another request afterwards."""


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The bytes in front of a request's body."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return SecretBytes(f"{method} {target} HTTP/1.1\r\n{lines}\r\n", "latin-1")


_END_OF_HEAD = re.compile(rb"\r?\n\r?\n").search
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?").fullmatch


def split_head(data: bytes, looked: int = 0) -> tuple[bytes, bytes] | None:
    """The head and what follows it, or None where the head is not yet whole.

    Args:
        data: what has come.
        looked: how much of it was looked through before.

    Raises:
        BadReplyError: no head ends within ``MAX_HEAD`` bytes, or this is not HTTP.
    """
    found = _END_OF_HEAD(data, max(looked - 3, 0))
    if found is not None and found.end() <= MAX_HEAD:
        return data[: found.start()], data[found.end() :]
    if found is not None or len(data) > MAX_HEAD:
        raise BadReplyError(f"the head of the reply is larger than {MAX_HEAD:,} bytes")
    if not b"HTTP/".startswith(data[:5]):
        raise BadReplyError("it does not speak HTTP")
    return None


def read_head(head: bytes) -> Head:
    """The head of a reply, without the blank line that ends it.

    Raises:
        BadReplyError: no status line of HTTP/1, or lengths that contradict each other.
    """
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    status_line = _STATUS_LINE(first)
    if status_line is None:
        raise BadReplyError("it does not speak HTTP")
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t"):
            # A folded line goes on with the one before it.
            if name:
                headers[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower() if colon else ""
        value = value.strip()
        if colon:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(status_line[2])
    keep_alive = _keep_alive(headers.get("connection", "").lower(), http11=status_line[1] == "1")
    if status < 200 or status in (204, 304):
        return Head(status, headers, "length", 0, keep_alive)
    codings = headers.get("transfer-encoding", "").lower()
    declared = headers.get("content-length")
    if codings and codings != "identity":
        if codings.rpartition(",")[2].strip() == "chunked":
            # Both framings at once is how replies are smuggled: nothing behind it is to be trusted.
            return Head(status, headers, "chunked", 0, keep_alive and declared is None)
        return Head(status, headers, "close", 0, keep_alive=False)
    if declared is None:
        return Head(status, headers, "close", 0, keep_alive=False)
    lengths = {length.strip() for length in declared.split(",")}
    if len(lengths) > 1:
        raise BadReplyError("its head has two different values of Content-Length")
    (length,) = lengths
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise BadReplyError("its Content-Length is not a number of bytes")
    return Head(status, headers, "length", int(length), keep_alive)


def _keep_alive(connection: str, *, http11: bool) -> bool:
    options = {option.strip() for option in connection.split(",")}
    return "close" not in options and (http11 or "keep-alive" in options)


def body(head: Head, read: Read) -> Pieces:
    """The body behind a head, all that one read brought in one piece.

    Raises:
        BadReplyError: it ended early, or its chunks are none.
    """
    if head.framing == "chunked":
        return _chunked(read)
    return _counted(read, head.length) if head.framing == "length" else _until_closed(read)


def _counted(read: Read, left: int) -> Pieces:
    while left:
        data = read()
        if data is None:
            yield b""
            continue
        if not data:
            raise BadReplyError(f"{left} bytes of the reply are missing")
        if len(data) > left:
            yield data[:left]
            return data[left:]
        left -= len(data)
        yield data
    return b""


def _until_closed(read: Read) -> Pieces:
    while (data := read()) != b"":
        yield data or b""
    return b""


_ONE_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match


def _chunked(read: Read) -> Pieces:
    buffer = b""
    left = 0
    ended = False
    while True:
        data = read()
        if data is None:
            yield b""
            continue
        if not data:
            raise BadReplyError("the last chunk is missing")
        if not (buffer or left or ended) and (line := _ONE_CHUNK(data)):
            size = int(line[1], 16)
            if size and len(data) == line.end() + size + 2 and data.endswith(b"\r\n"):
                # One chunk, the whole of it, as nearly always.
                yield data[line.end() : -2]
                continue
        buffer = buffer + data if buffer else data
        found: list[bytes] = []
        at = 0
        while at < len(buffer):
            if left:
                piece = buffer[at : at + left]
                found.append(piece)
                at += len(piece)
                left -= len(piece)
                continue
            end = buffer.find(b"\n", at) + 1
            if not end:
                break
            text = buffer[at:end].strip()
            at = end
            if ended and not text:
                if found:
                    yield b"".join(found)
                return buffer[at:]
            if text and not ended:
                size_text = text.partition(b";")[0].strip()
                if not size_text or len(size_text) > 16 or size_text.strip(b"0123456789abcdefABCDEF"):
                    if found:
                        yield b"".join(found)  # what came before it is good
                    raise BadReplyError("the size of a chunk is not a number")
                left = int(size_text, 16)
                ended = not left
        buffer = buffer[at:]
        if len(buffer) > MAX_HEAD:
            raise BadReplyError(f"a line between chunks is longer than {MAX_HEAD:,} bytes")
        if found:
            yield b"".join(found) if len(found) > 1 else found[0]
