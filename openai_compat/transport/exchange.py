"""One request and its reply, over one lease."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

from ..errors import APIConnectionError, APITimeoutError, OpenAICompatError, ResponseParseError
from ..redaction import SecretBytes
from .clock import Clock
from .http1 import BadReplyError, Head, body, read_head, split_head
from .lease import Lease

READ_SIZE = 65536
MAX_INFLATION = 200
"""How many times its size on the wire a body may grow to, once it is over ``INFLATION_FROM``."""
INFLATION_FROM = 8 * 1024 * 1024
_WRITE_SIZE = 262144
_ONE_SEND = 65536
"""A body up to this size goes out together with its head."""


_READ = {400, 422}
"""Statuses of refusals that say that the request was read."""


def read_end(pieces: Iterator[bytes], clock: Clock) -> None:
    """Read the end of a body whose answer is complete; what else may follow is not waited for."""
    clock.enter("idle", 0.05)
    for _ in range(4):
        if next(pieces, None) is None:
            return


def of_the_parent() -> APIConnectionError:
    """The error of a forked child that reads on."""
    return APIConnectionError("this reply belongs to the parent process; a forked child has to ask anew")


def inflated_too_far(total: int, received: int) -> ResponseParseError:
    """The error of a body that grows beyond reason."""
    return ResponseParseError(
        f"the reply grew to {total:,} bytes from {received:,}: a decompression bomb, or a broken server"
    )


class NoReplyError(ConnectionError):
    """The server closed the connection instead of answering."""


class Exchange:
    """Sends a request over a lease, and reads the reply; the lease ends with it.

    ``sent`` says whether any of the request has gone out, ``silent`` whether nothing has come back yet.
    """

    can_tick = True

    def __init__(self, lease: Lease, clock: Clock) -> None:
        self.lease = lease
        self.clock = clock
        self.sent: bool = False
        self.silent: bool = True
        self.received: int = 0
        self.pieces: Iterator[bytes] = iter(())
        self._sock = lease.sock
        self._process = os.getpid()
        self._socket_timeout: float | None = 0.0  # what the socket was told; at first by others
        self._rest = b""
        self._keep_alive = False
        self._ended = False

    def ask(self, head: bytes, content: bytes) -> Head:
        """Send the request; the head of the reply.

        Raises:
            APITimeoutError: a limit was reached.
            BadReplyError: what came is no HTTP reply.
            OSError: the connection broke.
        """
        self.clock.enter("first_token", self.clock.deadline.timeout.first_token)
        broken: OSError | None = None
        try:
            if len(content) <= _ONE_SEND:
                self._send(SecretBytes(head + content))
            else:
                self._send(head)
                self._send(content)
        except OSError as error:
            if not (isinstance(error, ConnectionError) or type(error).__name__ == "SSLEOFError"):
                raise
            # A server that refuses a large request may say so before it has read all of it.
            broken = error
        try:
            reply = self._read_head()
        except (OSError, BadReplyError):
            if broken is not None:
                raise broken from None
            raise
        # Who refuses a request may not have read it, and would take its rest for the next one.
        self._keep_alive = reply.keep_alive and broken is None and (reply.status < 300 or reply.status in _READ)
        self.pieces = self._decoded(reply)
        return reply

    def _send(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while rest:
            self._set_timeout()
            try:
                # As bytes where it can be: sockets of mocks know no other.
                sent = self._sock.send(rest if len(rest) <= _WRITE_SIZE else memoryview(rest)[:_WRITE_SIZE])
            except TimeoutError:
                self._timed_out()
                continue
            self.sent = True
            rest = memoryview(rest)[sent:]
            if rest:
                self.clock.progress()
                self.clock.check()
        self.clock.progress()

    def _read_head(self) -> Head:
        data = b""
        while True:
            looked = 0
            while (parts := split_head(data, looked)) is None:
                looked = len(data)
                more = self._read()
                if more == b"":
                    raise NoReplyError("closed without a reply") if not data else BadReplyError("its head is cut short")
                data += more or b""
            head = read_head(parts[0])
            data = parts[1]
            if head.status >= 200:
                self._rest = data
                return head
            if head.status == 101:
                raise BadReplyError("it switches to another protocol")
            # An informational reply, such as 103 Early Hints: the answer is still to come.

    def _decoded(self, head: Head) -> Iterator[bytes]:
        coding = head.headers.get("content-encoding", "").strip().lower()
        raw = self._raw(head)
        if coding in ("", "identity"):
            return raw
        if coding in ("gzip", "x-gzip", "deflate"):
            return self._inflated(raw, _Inflater(coding))
        return _Unreadable(coding)

    def _raw(self, head: Head) -> Iterator[bytes]:
        behind = yield from body(head, self._read)
        self._ended = True
        if behind or self._rest:
            # Bytes that belong to no reply would answer the next request.
            self._keep_alive = False

    def _inflated(self, raw: Iterator[bytes], inflater: _Inflater) -> Iterator[bytes]:
        total = 0
        for data in raw:
            if not data:
                yield data
            for piece in inflater.feed(data):
                total += len(piece)
                if total > INFLATION_FROM and total > self.received * MAX_INFLATION:
                    raise inflated_too_far(total, self.received)
                yield piece

    def _read(self) -> bytes | None:
        """The next bytes; none at the end, None where a tick came first."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        self._set_timeout()
        try:
            data: bytes = self._sock.recv(READ_SIZE)
        except TimeoutError:
            self._timed_out()
            return None
        self.received += len(data)
        if data:
            self.silent = False
        return data

    def _set_timeout(self) -> None:
        if self._process != os.getpid():
            raise of_the_parent()
        limit, armed = self.clock.wait(), self._socket_timeout
        # A system call for each read only where the limit has moved by more than a fiftieth.
        if limit != armed and not (limit and armed and limit <= armed <= limit * 1.02):
            self._socket_timeout = limit
            self._sock.settimeout(limit)

    def _timed_out(self) -> None:
        if not self.clock.timed_out():
            # No limit of ours has passed: this is someone else's TimeoutError, a signal handler's for instance.
            raise  # what the caller is handling

    def finish(self) -> bool:
        """The answer is complete: give the connection back if the body ends at once, else close it.

        Returns whether the body had not broken off, as far as that can be seen.
        """
        intact = True
        try:
            if not self._ended:
                read_end(self.pieces, self.clock)
        except (OSError, BadReplyError, OpenAICompatError) as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise  # a signal handler's: a limit of ours is an APITimeoutError
            # Whatever follows the answer must not cost the answer.
            intact = isinstance(error, APITimeoutError)
        finally:
            if self._ended and self._keep_alive:
                self.lease.release()
            else:
                self.lease.close()
        return intact

    def close(self) -> None:
        """The answer is not wanted any more, or cannot be had."""
        self.lease.close()
        self.pieces = iter(())  # or they and this would hold each other


class _Unreadable(Iterator[bytes]):
    """A body in a coding that was not asked for."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def __next__(self) -> bytes:
        raise ResponseParseError(f"the reply is encoded as {self._coding[:40]!r}, which was not asked for")


class _Inflater:
    """Decompresses gzip, and deflate with and without its zlib head, as it comes.

    Args:
        coding: as the reply's head names it. Either may turn out to be the other, only deflate to be raw.
    """

    def __init__(self, coding: str) -> None:
        self._may_be_raw = coding == "deflate"
        self._start = b""
        self._inflate: Any = None
        self._members = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` adds, in pieces of at most ``READ_SIZE`` bytes.

        Raises:
            ResponseParseError: not compressed, or damaged.
        """
        while data and not self._ended:
            if self._inflate is None:
                # Two bytes say what this is.
                data, self._start = self._start + data, b""
                if len(data) < 2:
                    self._start = data
                    return
                if self._members and data[:2] != _GZIP:
                    self._ended = True  # padding
                    return
                self._inflate = zlib.decompressobj(-15 if self._may_be_raw and not _has_head(data) else 47)
            try:
                piece = self._inflate.decompress(data, READ_SIZE)
                while len(piece) == READ_SIZE:
                    yield piece
                    piece = self._inflate.decompress(self._inflate.unconsumed_tail, READ_SIZE)
            except zlib.error as error:
                raise ResponseParseError(f"the reply cannot be decompressed: {error}") from None
            if piece:
                yield piece
            data = self._inflate.unused_data
            if self._inflate.eof:
                # There may be another member of a gzip file.
                self._members += 1
                self._inflate = None


_GZIP = b"\x1f\x8b"


def _has_head(data: bytes) -> bool:
    """Whether this begins as gzip (RFC 1952) or zlib (RFC 1950) does."""
    return data[:2] == _GZIP or (data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0)
