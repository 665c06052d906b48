"""A small HTTP server that says exactly what a test tells it to, and remembers what it was asked.

::

    with ReplayServer([Reply(body=b"{}", headers={"Content-Type": "application/json"})]) as server:
        ...  # send requests to server.url
        assert server.requests[0].json() == {"model": "m"}

A reply's body may be a generator that waits in between, for instance on ``request.closed``, which is set as
soon as the client has left::

    def reply(request):
        def body():
            yield b"data: ...\\n\\n"
            request.closed.wait(10)
        return Reply(headers=EVENT_STREAM, body=body())

A connection can be ended at any stage of an exchange: ``hang_up`` is asked at each, and says how::

    with ReplayServer(replies, hang_up=lambda stage, number: "rst" if stage == "head" else None) as server:
        ...  # a reset as soon as the head of a request has come

Two threads serve a connection: one reads at all times, so that a client that leaves is noticed while the
other still waits in a body.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, parse_headers
from queue import SimpleQueue
from typing import Any, BinaryIO, Literal, TypeVar

EVENT_STREAM = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}

Framing = Literal["content-length", "chunked", "close"]
End = Literal["fin", "rst"]
"""How a connection ends: closed (after a close_notify under TLS), or reset."""
Stage = Literal["accept", "handshake", "head", "request", "status line", "headers", "body", "end"]
"""What has just been done: the connection accepted, TLS agreed on, the head of a request read, the whole request; the
status line sent, all headers, half of the body (its first piece where it is in pieces), the whole reply."""
HangUp = Callable[[Stage, int], End | None]
"""Asked at each stage of each connection, which it gets the number of, from 0."""
_Parts = tuple[str, str, HTTPMessage, bytes]
"""Method, path, headers, body."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Request:
    """What a client sent. ``closed`` is set when the connection that it came over is gone."""

    number: int
    connection: int
    method: str
    path: str
    headers: HTTPMessage
    body: bytes
    closed: threading.Event = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What to send back, and how.

    ``body`` is bytes, cut into one write each at ``splits``, or an iterable of pieces, one write each.
    ``framing`` is chosen as a server would where it is None: chunked for event streams and for bodies in
    pieces, else a Content-Length. ``declared_length`` is a Content-Length that need not be true. ``abort``
    ends the connection after the last piece but before the end of the body: ``fin`` by closing it, ``rst``
    by a reset. ``head`` replaces the status line and all headers (``head=b""`` with ``abort``: no answer).
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    splits: Sequence[int] = ()
    http: Literal["1.0", "1.1"] = "1.1"
    framing: Framing | None = None
    declared_length: int | None = None
    abort: End | None = None
    early_hints: bool = False
    head: bytes | None = None


Replies = Sequence[Reply | Callable[[Request], Reply]] | Callable[[Request], Reply]


class ReplayServer:
    """Serves ``replies`` in the order of the requests; the last one repeats. A callable picks them itself.

    One of the replies may be a callable too, to which its request is given.

    ``slowly`` is how many bytes of each connection are read 64 KB at a time, with a pause of 30 ms before each; what
    follows is read at once.

    Waits inside a callable or a body have to end once ``request.closed`` is set, or else by themselves.
    """

    def __init__(
        self,
        replies: Replies,
        *,
        tls: ssl.SSLContext | None = None,
        hang_up: HangUp = lambda stage, number: None,
        slowly: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self._replies = replies
        self._tls = tls
        self._hang_up = hang_up
        self._slowly = slowly
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        if slowly:
            # Or else the system reads what this server does not.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._acceptor = threading.Thread(target=self._accept, name="replay-accept", daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self.address[0]}:{self.address[1]}"

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted."""
        return len(self._connections)

    def wait_closed(self, timeout: float = 10.0) -> bool:
        """Whether all connections so far are gone, closed by the client or by a reply, within ``timeout``."""
        deadline = time.monotonic() + timeout
        return all(
            connection.closed.wait(max(0.0, deadline - time.monotonic())) for connection in list(self._connections)
        )

    def wait_open(self, most: int, timeout: float = 10.0) -> None:
        """Until no more connections than that are open."""
        deadline = time.monotonic() + timeout
        while (still := sum(not connection.closed.is_set() for connection in list(self._connections))) > most:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{still} open connections, not {most}")
            threading.Event().wait(0.001)

    def wait_ended(self, number: int, timeout: float = 10.0) -> None:
        """Until the server has closed a connection, and the client could know it."""
        self._connections[number].join(timeout)

    def wait_idle(self, count: int = 1, timeout: float = 10.0) -> None:
        """Until so many connections are idle: they have had an answer, and no new request.

        A client may know that a reply is over before the server has noted it.
        """
        deadline = time.monotonic() + timeout
        while (idle := sum(connection.idle for connection in list(self._connections))) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{idle} idle connections, not {count}")
            threading.Event().wait(0.001)  # not time.sleep, which tests of pauses replace

    def end_idle(self, how: End, timeout: float = 10.0) -> int:
        """End the idle connections; how many they were.

        When this returns, they are closed, and what has been sent on them is with the client.
        """
        ended = [connection for connection in list(self._connections) if connection.end_idle(how)]
        for connection in ended:
            connection.join(timeout)
        return len(ended)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        # The acceptor sits in accept(); one last connection wakes it on every platform.
        with contextlib.suppress(OSError):
            socket.create_connection(self.address).close()
        self._acceptor.join()
        self._listener.close()
        for connection in self._connections:
            connection.cut()
        for connection in self._connections:
            connection.join(10.0)

    def __enter__(self) -> ReplayServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closing:
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = _TlsChannel(sock, self._tls, self._slowly) if self._tls else _Channel(sock, self._slowly)
            connection = _Connection(self, channel, len(self._connections))
            self._connections.append(connection)
            connection.start()

    def stage(self, stage: Stage, connection: int) -> None:
        """Called when a stage is reached.

        Raises:
            Ended: the connection is to end here.
        """
        if how := self._hang_up(stage, connection):
            raise Ended(how)

    def record(self, connection: _Connection, parts: _Parts) -> Request:
        with self._lock:
            request = Request(len(self.requests), connection.number, *parts, connection.closed)
            self.requests.append(request)
        return request

    def reply_to(self, request: Request) -> Reply:
        if callable(self._replies):
            return self._replies(request)
        if not self._replies:
            raise RuntimeError(f"no reply was planned for {request.method} {request.path}")
        reply = self._replies[min(request.number, len(self._replies) - 1)]
        return reply(request) if callable(reply) else reply


class Ended(Exception):  # noqa: N818 - not an error of anybody's
    """This connection ends here, in the way that ``how`` says."""

    def __init__(self, how: End) -> None:
        super().__init__(how)
        self.how: End = how


class _Connection:
    def __init__(self, server: ReplayServer, channel: _Channel, number: int) -> None:
        self.closed = threading.Event()
        self._server = server
        self._channel = channel
        self.number = number
        self._inbox: SimpleQueue[Request | Ended | None] = SimpleQueue()
        self._begun = self._answered = 0
        self._ending = False
        self._changing = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"replay-read-{number}", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"replay-write-{number}", daemon=True)

    def start(self) -> None:
        self._reader.start()
        self._writer.start()

    def cut(self) -> None:
        self._channel.shutdown(socket.SHUT_RDWR)

    @property
    def idle(self) -> bool:
        """Whether a reply is over, and no request has begun since."""
        return self._begun == self._answered > 0 and not self._ending and not self.closed.is_set()

    def end_idle(self, how: End) -> bool:
        """Whether the connection was idle, and is ending now."""
        with self._changing:
            if not self.idle:
                return False
            self._ending = True
        self._inbox.put(Ended(how))
        return True

    def join(self, timeout: float) -> None:
        self._writer.join(timeout)
        if self._writer.is_alive():
            raise RuntimeError("a reply still waits although its client is gone")

    def _read(self) -> None:
        try:
            self._stage("accept")
            self._channel.handshake()
            self._stage("handshake")
            stream = io.BufferedReader(self._channel)
            while parts := _read_request(stream, self._channel.send, self._stage):
                request = self._server.record(self, parts)
                self._stage("request")
                self._inbox.put(request)
        except Ended as ended:
            self._inbox.put(ended)
        except (OSError, ValueError, HTTPException):
            pass  # the client left in mid-request, or does not speak HTTP: nothing to answer
        finally:
            self.closed.set()
            self._inbox.put(None)

    def _write(self) -> None:
        how: End | None = None
        try:
            while request := self._inbox.get():
                if isinstance(request, Ended):
                    raise request
                reply = self._server.reply_to(request)
                how = reply.abort
                if not send_reply(request, reply, self._channel.send, self._stage):
                    break
                with self._changing:
                    self._answered += 1
        except Ended as ended:
            how = ended.how
        except OSError:
            pass  # the client left in mid-reply
        finally:
            self._hang_up(reset=how == "rst")

    def _stage(self, stage: Stage) -> None:
        if stage == "head":
            with self._changing:
                self._begun += 1
        self._server.stage(stage, self.number)

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self._channel.reset_on_close()
        else:
            self._channel.finish()
        # This wakes the reader and puts nothing on the wire; a FIN now would come in front of the reset.
        self._channel.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._channel.hang_up()


class _Channel(io.RawIOBase):
    """A connected socket: a readable stream for one thread, ``send`` for another."""

    def __init__(self, sock: socket.socket, slowly: int = 0) -> None:
        self._sock = sock
        self._slowly = slowly
        self._closing = threading.Lock()

    def readable(self) -> bool:
        return True

    def handshake(self) -> None:
        pass

    def readinto(self, buffer: Any) -> int:
        return self._receive_into(memoryview(buffer))

    def _receive_into(self, buffer: memoryview) -> int:
        if self._slowly <= 0:
            return self._sock.recv_into(buffer)
        threading.Event().wait(0.03)
        size = self._sock.recv_into(buffer[:65536])
        self._slowly -= size
        return size

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.shutdown(socket.SHUT_WR)

    def reset_on_close(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def shutdown(self, how: int) -> None:
        with self._closing, contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def hang_up(self) -> None:
        with self._closing:
            self._sock.close()


class _TlsChannel(_Channel):
    """TLS in memory, since an ``SSLSocket`` cannot be read in one thread and written in another."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, slowly: int = 0) -> None:
        super().__init__(sock, slowly)
        self._received = bytearray(65536)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._using = threading.Lock()

    def handshake(self) -> None:
        self._read_until_done(self._tls.do_handshake)

    def readinto(self, buffer: Any) -> int:
        data = self._read_until_done(lambda: self._tls.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes) -> None:
        with self._using:
            rest = memoryview(data)
            while rest:
                rest = rest[self._tls.write(rest) :]
            self._flush()

    def finish(self) -> None:
        # unwrap() writes our close_notify, then fails for want of the client's, which nobody waits for.
        with self._using, contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        super().finish()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._sock.sendall(data)

    def _read_until_done(self, operation: Callable[[], Value]) -> Value:
        while True:
            with self._using:
                try:
                    return operation()
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self._flush()
            size = self._receive_into(memoryview(self._received))
            if not size:
                # Not told to OpenSSL, which would answer with an alert, even in front of a reset.
                raise ConnectionError("the client has closed the connection")
            with self._using:
                self._incoming.write(self._received[:size])


def _read_request(stream: BinaryIO, send: Callable[[bytes], None], at: Callable[[Stage], None]) -> _Parts | None:
    """One request in full, or None where the client has closed the connection between two requests."""
    line = stream.readline()
    if not line:
        return None
    method, path, _version = line.decode("latin-1").split()
    headers = parse_headers(stream)
    at("head")
    if "100-continue" in headers.get("Expect", "").lower():
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        return method, path, headers, _read_chunks(stream)
    return method, path, headers, _read_exactly(stream, int(headers.get("Content-Length", "0")))


def _read_chunks(stream: BinaryIO) -> bytes:
    chunks = []
    while size := int(stream.readline().split(b";")[0], 16):
        chunks.append(_read_exactly(stream, size))
        stream.readline()
    parse_headers(stream)  # trailers, and the blank line
    return b"".join(chunks)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionError("the client left in mid-request")
    return data


def send_reply(
    request: Request, reply: Reply, send: Callable[[bytes], None], at: Callable[[Stage], None] = lambda stage: None
) -> bool:
    """Whether the connection may be kept for another request. ``at`` is called at each stage."""
    framing = _framing(reply)
    bodiless = request.method == "HEAD" or reply.status in (204, 304)
    if reply.early_hints:
        send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    head = _head(reply, None if bodiless else framing) if reply.head is None else reply.head
    try:
        at("status line")
    except Ended:
        send(head[: head.find(b"\n") + 1])
        raise
    send(head)
    at("headers")
    sent = 0 if bodiless else _send_body(reply, framing, send, at)
    if reply.abort:
        return False
    if framing == "chunked" and not bodiless:
        send(b"0\r\n\r\n")
    at("end")
    # A client that was promised more than there is would wait for ever on an open connection.
    short = reply.declared_length is not None and reply.declared_length > sent
    last = request.headers.get("Connection", "").lower() == "close"
    return not (framing == "close" or reply.http == "1.0" or short or last)


def _send_body(reply: Reply, framing: Framing, send: Callable[[bytes], None], at: Callable[[Stage], None]) -> int:
    sent = 0
    pieces = _pieces(reply)
    try:
        for number, piece in enumerate(pieces):
            try:
                if not number:
                    at("body")
            except Ended:
                part = piece[: len(piece) // 2] if isinstance(reply.body, bytes) else piece
                send(_chunk(part) if framing == "chunked" else part)
                raise
            if piece:
                send(_chunk(piece) if framing == "chunked" else piece)
                sent += len(piece)
            if framing != "chunked" and reply.splits:
                # The pause is part of the reply: chunks keep pieces apart, here only time does.
                time.sleep(min(0.002, 0.2 / len(reply.splits)))
    finally:
        # A generator's own cleanup runs here, also when the client has left.
        if isinstance(pieces, Iterator) and hasattr(pieces, "close"):
            pieces.close()
    return sent


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _pieces(reply: Reply) -> Iterable[bytes]:
    body = reply.body
    if not isinstance(body, bytes):
        return body
    edges = [0, *reply.splits, len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def _framing(reply: Reply) -> Framing:
    if reply.framing:
        return reply.framing
    if reply.declared_length is not None:
        return "content-length"
    if reply.head is not None:
        return "close"
    event_stream = "text/event-stream" in _header(reply, "content-type").lower()
    if isinstance(reply.body, bytes) and not reply.splits and not event_stream:
        return "content-length"
    return "chunked" if reply.http == "1.1" else "close"


def _head(reply: Reply, framing: Framing | None) -> bytes:
    reason = HTTPStatus(reply.status).phrase if reply.status in list(HTTPStatus) else "Unknown"
    lines = [f"HTTP/{reply.http} {reply.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif framing == "content-length" and not _header(reply, "content-length"):
        lines.append(f"Content-Length: {_length(reply)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def _length(reply: Reply) -> int:
    if reply.declared_length is not None:
        return reply.declared_length
    if not isinstance(reply.body, bytes):
        raise ValueError("a body in pieces needs declared_length to be sent with a Content-Length")
    # An aborted body has to be shorter than promised, or else nothing would be cut off.
    return len(reply.body) + (1 if reply.abort else 0)


def _header(reply: Reply, name: str) -> str:
    return next((value for key, value in reply.headers.items() if key.lower() == name), "")
