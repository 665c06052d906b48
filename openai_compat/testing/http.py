"""HTTP/1.1 on a loopback socket: a thread accepts, and one serves each connection."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from typing import NamedTuple

POLL = 0.005
"""Seconds between two looks at whether a pause is over, or the client gone."""
_CHANGING = threading.Lock()


class Left(Exception):  # noqa: N818 - no error of anybody's
    """The client has left, or the server closes."""


class HungUp(Exception):  # noqa: N818
    """The connection has been ended here, as a test wanted it."""


class Received(NamedTuple):
    """A request; names of headers are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """One request, and its reply, which ``handle`` sends."""

    def __init__(self, received: Received, sock: socket.socket, connection: int, closing: threading.Event) -> None:
        self.received = received
        self.connection = connection
        self._sock = sock
        self._closing = closing
        self._chunked = False

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The whole reply at once."""
        self._send(_head(status, {**headers, "content-length": str(len(body))}) + body)

    def promise(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The head of a reply and half of its body."""
        self._send(_head(status, {**headers, "content-length": str(len(body))}) + body[: len(body) // 2])

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a reply whose body comes in pieces."""
        self._chunked = True
        self._send(_head(status, {**headers, "transfer-encoding": "chunked"}))

    def write(self, piece: bytes) -> None:
        """A piece of the body; before a ``begin``, bytes as they are."""
        if piece:
            self._send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def end(self) -> None:
        """The end of a body in pieces."""
        self._send(b"0\r\n\r\n")

    def wait(self, ready: Callable[[], bool]) -> None:
        """Until it is ready.

        Raises:
            Left: the client has left meanwhile, or the server closes.
        """
        self._sock.settimeout(POLL)
        try:
            while not ready():
                try:
                    if not self._sock.recv(1, socket.MSG_PEEK):
                        raise Left
                    self._closing.wait(POLL)  # it has sent more, and will have to wait
                except TimeoutError:
                    pass
                except OSError:
                    raise Left from None
                if self._closing.is_set():
                    raise Left
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(None)

    def cut(self) -> None:
        """Close the connection."""
        raise HungUp

    def reset(self) -> None:
        """Reset the connection."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise HungUp

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError:
            raise Left from None


class HTTPServer:
    """Listens on a port of the loopback interface.

    Args:
        handle: called for each request, on the thread of its connection.
    """

    def __init__(self, handle: Callable[[Exchange], None]) -> None:
        self.connections: int = 0
        self.closing: threading.Event = threading.Event()
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="fake server", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """End all connections; a reply that waits ends too."""
        with _CHANGING:
            if self.closing.is_set():
                return
            self.closing.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self.address).close()  # wakes the thread that accepts
        self._acceptor.join()
        self._listener.close()
        for sock, thread in list(self._open.items()):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if thread is not threading.current_thread():
                thread.join(10)

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.closing.is_set():
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(
                target=self._serve, args=(sock, self.connections), name="fake server connection", daemon=True
            )
            self._open[sock] = thread
            self.connections += 1
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, sock.makefile("rb") as stream, contextlib.suppress(Left, HungUp):
            while received := _next_request(stream, sock):
                self._handle(Exchange(received, sock, number, self.closing))
                if "close" in received.headers.get("connection", "").lower():
                    break
        self._open.pop(sock, None)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _next_request(stream: io.BufferedReader, sock: socket.socket) -> Received | None:
    """A request; None where the client has left, or speaks no HTTP."""
    try:
        return _read_request(stream, sock)
    except (OSError, ValueError, HTTPException):
        return None


def _read_request(stream: io.BufferedReader, sock: socket.socket) -> Received | None:
    """One request in full; None where the client has closed the connection between two."""
    line = stream.readline()
    if not line:
        return None
    method, path, _ = line.decode("latin-1").split()
    headers = {name.lower(): value for name, value in parse_headers(stream).items()}
    if "100-continue" in headers.get("expect", "").lower():
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    body = _read_chunks(stream) if chunked else _read_exactly(stream, int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


def _read_chunks(stream: io.BufferedReader) -> bytes:
    chunks = []
    while size := int(stream.readline().split(b";")[0], 16):
        chunks.append(_read_exactly(stream, size))
        stream.readline()
    parse_headers(stream)  # trailers, and the blank line
    return b"".join(chunks)


def _read_exactly(stream: io.BufferedReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise Left
    return data
