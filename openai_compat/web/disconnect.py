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
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

log: logging.Logger = logging.getLogger("openai_compat")

WeakCallback = Callable[[], Callable[[], None] | None]
"""A weak reference to what to call when a browser disconnects."""

POLL_INTERVAL = 0.25
"""Seconds between two looks at the sockets."""


def watch_disconnect(environ: Mapping[str, Any], on_disconnect: Callable[[], None]) -> Callable[[], None]:
    """Call a method when the browser disconnects, where that can be told; returns the function that ends the watch.

    Only a weak reference to the method's object is kept.
    """
    if "asgi.scope" in environ:
        return _watch_asgi(environ["wsgi.input"], weakref.WeakMethod(on_disconnect))
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if sock is None or not hasattr(socket, "MSG_DONTWAIT"):
        return lambda: None
    global _watcher
    if _watcher.process != os.getpid():
        _watcher = DisconnectWatcher()
    return _watcher.add(weakref.WeakMethod(on_disconnect), sock)


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


class DisconnectWatcher:
    """One thread that watches the browsers of all streams, while there are any."""

    def __init__(self) -> None:
        self.process: int = os.getpid()
        # Reentrant, for the holder may drop the last reference to a stream, which then closes and unwatches itself.
        self._lock = threading.RLock()
        self._sockets: dict[WeakCallback, Any] = {}
        self._running = False

    def add(self, callback: WeakCallback, sock: Any) -> Callable[[], None]:
        """Watch a browser's socket; returns the function that ends the watch."""
        with self._lock:
            self._sockets[callback] = sock
            if not self._running:
                threading.Thread(target=self._run, name="openai_compat watcher", daemon=True).start()
                self._running = True
        return lambda: self._remove(callback)

    def _remove(self, callback: WeakCallback) -> None:
        with self._lock:
            self._sockets.pop(callback, None)

    def _run(self) -> None:
        while True:
            time.sleep(POLL_INTERVAL)
            with self._lock:
                try:
                    gone = disconnected(self._sockets)
                except Exception:
                    log.exception("browsers cannot be watched; heartbeats will tell which have disconnected")
                    gone = []
                    self._sockets.clear()
                for callback in gone:
                    del self._sockets[callback]
                self._running = bool(self._sockets)
                last = not self._running
            for callback in gone:
                try:
                    if (on_disconnect := callback()) is not None:
                        on_disconnect()
                except Exception:
                    log.exception("a stream whose browser has disconnected could not be cancelled")
            if last:
                return


_watcher = DisconnectWatcher()


def disconnected(sockets: Mapping[WeakCallback, Any]) -> list[WeakCallback]:
    """Those whose browser has closed its side of the connection."""
    if (new_poll := _system_poll()) is None:
        return [callback for callback, sock in sockets.items() if _is_closed(sock)]
    poll = new_poll()
    descriptors = {callback: sock.fileno() for callback, sock in sockets.items()}
    for descriptor in descriptors.values():
        if descriptor >= 0:
            poll.register(descriptor, select.POLLRDHUP)
    hung_up = {-1, *(descriptor for descriptor, _ in poll.poll(0))}
    return [callback for callback, descriptor in descriptors.items() if descriptor in hung_up]


def _system_poll() -> Callable[[], Any] | None:
    """The operating system's own ``poll``, where it reports a peer that has closed its side."""
    if not hasattr(select, "POLLRDHUP"):
        return None
    # gevent removes poll, or replaces it with one that does not know POLLRDHUP.
    gevent = sys.modules.get("gevent.monkey")
    return gevent.get_original("select", "poll") if gevent is not None else select.poll


def _is_closed(sock: Any) -> bool:
    try:
        # Not gevent's or TLS's own recv, which would wait, or accept no flags.
        return not _socket.socket.recv(getattr(sock, "_sock", sock), 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
