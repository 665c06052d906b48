"""Loopback proxies that lead everything to one address, and remember what they were asked for.

For plain ``http`` URLs a ``ReplayServer`` is proxy enough: it sees the absolute URL as its path.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
from collections.abc import Iterator


class _Proxy:
    def __init__(self, target: tuple[str, int]) -> None:
        self.asked: list[str] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._start(self._accept)

    def __enter__(self) -> _Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing = True
        with socket.create_connection(self._listener.getsockname()):
            self._threads[0].join()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing:
                client.close()
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._kept(client), contextlib.suppress(OSError, ValueError):
            if not self.greet(client):
                return
            with socket.create_connection(self._target) as server, self._kept(server):
                upward = self._start(self._pass_on, client, server)
                self._pass_on(server, client)
                upward.join()

    @contextlib.contextmanager
    def _kept(self, sock: socket.socket) -> Iterator[None]:
        self._open.add(sock)
        try:
            yield
        finally:
            self._open.discard(sock)
            sock.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        """All bytes, and the end: whoever leaves is seen to leave at the other side."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def greet(self, client: socket.socket) -> bool:
        """Whether what a client asked for is granted."""
        raise NotImplementedError


class ConnectProxy(_Proxy):
    """An HTTP proxy for CONNECT; ``heads`` are the requests whole. ``refuse`` is the status line's end of a refusal."""

    def __init__(self, target: tuple[str, int], *, refuse: str = "") -> None:
        self.heads: list[str] = []
        self._refuse = refuse
        super().__init__(target)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def greet(self, client: socket.socket) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            got = client.recv(1)
            if not got:
                return False
            head += got
        self.heads.append(head.decode("latin-1"))
        self.asked.append(self.heads[-1].split()[1])
        if self._refuse:
            client.sendall(f"HTTP/1.1 {self._refuse}\r\nContent-Length: 0\r\n\r\n".encode())
            return False
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


class SocksProxy(_Proxy):
    """A SOCKS 5 proxy (RFC 1928) without login. ``refuse`` is the code of a refusal."""

    def __init__(self, target: tuple[str, int], *, refuse: int = 0) -> None:
        self._refuse = refuse
        super().__init__(target)

    def greet(self, client: socket.socket) -> bool:
        stream = io.BufferedReader(socket.SocketIO(client, "r"), 1)
        _, methods = stream.read(2)
        stream.read(methods)
        client.sendall(b"\x05\x00")
        _, _, _, kind = stream.read(4)
        host = socket.inet_ntoa(stream.read(4)) if kind == 1 else stream.read(stream.read(1)[0]).decode()
        (port,) = struct.unpack("!H", stream.read(2))
        self.asked.append(f"{host}:{port}")
        client.sendall(bytes([5, self._refuse, 0, 1, 127, 0, 0, 1, 0, 1]))
        return not self._refuse
