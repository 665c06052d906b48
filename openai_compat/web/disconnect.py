"""Notices browsers that disconnect, where the WSGI server hands over their sockets, or a2wsgi what its server says."""

from __future__ import annotations

import _socket
import logging
import os
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import attrs

from .._log import logger

log: logging.Logger = logger("web")

WeakCallback = Callable[[], Callable[[], None] | None]
"""A weak reference to what to call."""

POLL_INTERVAL = 0.25
"""Seconds between two looks at the sockets."""


def watch_disconnect(
    environ: Mapping[str, Any], on_disconnect: Callable[[], None], on_half_close: Callable[[], None] | None = None
) -> Callable[[], None]:
    """Call a method when the browser disconnects, where that can be told; returns the function that ends the watch.

    Over TCP, a browser that has only closed its own side, and still reads, looks the same as one that has left until
    something is written to it. ``on_half_close`` is called when one of the two has happened, to have that done;
    without it, both are a disconnect.

    Only weak references to the methods' object are kept.
    """
    callbacks = weakref.WeakMethod(on_disconnect), weakref.WeakMethod(on_half_close or on_disconnect)
    if "asgi.scope" in environ:
        return _watch_asgi(environ["wsgi.input"], callbacks[0])
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if sock is None or not hasattr(socket, "MSG_DONTWAIT"):
        return lambda: None
    global _watcher
    if _watcher.process != os.getpid():
        _watcher = DisconnectWatcher()
    return _watcher.add(sock, *callbacks)


def _watch_asgi(body: Any, callback: WeakCallback) -> Callable[[], None]:
    """Wait for the ASGI server's message, where a2wsgi's body of the request tells how to receive it."""
    if not all(hasattr(body, name) for name in ("buffer", "loop", "read", "receive")):
        return lambda: None
    import asyncio

    # The application may yet want to read what comes before that message.
    body.buffer.extend(body.read())
    message = asyncio.run_coroutine_threadsafe(body.receive(), body.loop)

    def received(message: Future[Any]) -> None:
        if message.cancelled() or message.exception() is not None or message.result()["type"] != "http.disconnect":
            return
        if (on_disconnect := callback()) is not None:
            on_disconnect()

    message.add_done_callback(received)

    def unwatch() -> None:
        message.cancel()

    return unwatch


@attrs.define(eq=False)
class Watched:
    """A browser's socket, and whom to tell of it."""

    sock: Any
    on_disconnect: WeakCallback
    on_half_close: WeakCallback
    half_closed: bool = False


class DisconnectWatcher:
    """One thread that watches the browsers of all streams, while there are any."""

    def __init__(self) -> None:
        self.process: int = os.getpid()
        # Reentrant, for the holder may drop the last reference to a stream, which then closes and unwatches itself.
        self._lock = threading.RLock()
        # In the order of their coming.
        self._watched: dict[Watched, None] = {}
        self._running = False

    def add(self, sock: Any, on_disconnect: WeakCallback, on_half_close: WeakCallback) -> Callable[[], None]:
        """Watch a browser's socket; returns the function that ends the watch."""
        watched = Watched(sock, on_disconnect, on_half_close)
        with self._lock:
            self._watched[watched] = None
            if not self._running:
                threading.Thread(target=self._run, name="openai_compat watcher", daemon=True).start()
                self._running = True
        return lambda: self._remove(watched)

    def _remove(self, watched: Watched) -> None:
        with self._lock:
            self._watched.pop(watched, None)

    def _run(self) -> None:
        while True:
            time.sleep(POLL_INTERVAL)
            callbacks: list[WeakCallback] = []
            with self._lock:
                try:
                    gone, half_closed = look(self._watched)
                except Exception:
                    log.exception("browsers cannot be watched; heartbeats will tell which have disconnected")
                    gone, half_closed = [], []
                    self._watched.clear()
                for one in gone:
                    del self._watched[one]
                    callbacks.append(one.on_disconnect)
                for one in half_closed:
                    if not one.half_closed:
                        one.half_closed = True
                        callbacks.append(one.on_half_close)
                self._running = bool(self._watched)
                last = not self._running
            for callback in callbacks:
                try:
                    if (call := callback()) is not None:
                        call()
                except Exception:
                    log.exception("a stream whose browser has disconnected could not be cancelled")
            if last:
                return


_watcher = DisconnectWatcher()


def look(watched: Iterable[Watched]) -> tuple[list[Watched], list[Watched]]:
    """Those whose browser has left, and those whose browser has closed its side of the connection at least."""
    gone: list[Watched] = []
    half_closed: list[Watched] = []
    if (new_poll := _system_poll()) is None:
        for one in watched:
            if (sees_end := _peek(one.sock)) is not False:
                (half_closed if sees_end else gone).append(one)
        return gone, half_closed
    poll = new_poll()
    descriptors = {one: one.sock.fileno() for one in watched}
    for descriptor in descriptors.values():
        if descriptor >= 0:
            poll.register(descriptor, select.POLLRDHUP)
    found = {-1: select.POLLHUP, **dict(poll.poll(0))}
    for one, descriptor in descriptors.items():
        if happened := found.get(descriptor):
            (half_closed if happened == select.POLLRDHUP else gone).append(one)
    return gone, half_closed


def _system_poll() -> Callable[[], Any] | None:
    """The operating system's own ``poll``, where it reports a peer that has closed its side."""
    if not hasattr(select, "POLLRDHUP"):
        return None
    # gevent removes poll, or replaces it with one that does not know POLLRDHUP.
    gevent = sys.modules.get("gevent.monkey")
    return gevent.get_original("select", "poll") if gevent is not None else select.poll


def _peek(sock: Any) -> bool | None:
    """Whether the browser has closed its side; None if the connection is gone."""
    try:
        # Not gevent's or TLS's own recv, which would wait, or accept no flags.
        return not _socket.socket.recv(getattr(sock, "_sock", sock), 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return None
