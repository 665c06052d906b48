"""Browsers that disconnect while their answer is under way."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from support.browser_streams import TICK, events, model, no_headers, source_of, then_silence
from support.replay import EVENT_STREAM, Reply, Request
from support.wire_bodies import chunk, stream_pieces

from openai_compat.web import EventStream, disconnect, stream
from openai_compat.web.disconnect import DisconnectWatcher, Watched, look


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(stream, "TICK_SECONDS", 0.04)


@pytest.fixture(params=["poll", "peek"])
def way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "peek":
        monkeypatch.delattr(select, "POLLRDHUP")
    elif not hasattr(select, "POLLRDHUP"):
        pytest.skip("this system has no POLLRDHUP")
    return str(request.param)


def connection() -> tuple[socket.socket, socket.socket]:
    """Our side and the browser's, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        browser = socket.create_connection(listener.getsockname(), timeout=10)
        ours, _ = listener.accept()
    return ours, browser


def watched(sock: Any) -> Watched:
    return Watched(sock, lambda: None, lambda: None)


def test_a_browser_that_has_gone_is_told_from_one_that_waits(way_to_look: str) -> None:
    pairs = [connection() for _ in range(5)]
    ours = [pair[0] for pair in pairs]
    waits, half_closed, reset, closed, sent = (pair[1] for pair in pairs)
    half_closed.shutdown(socket.SHUT_WR)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    ours[3].close()
    sent.send(b"GET")
    found = look([watched(sock) for sock in ours])
    assert [[ours.index(one.sock) for one in some] for some in found] == [[2, 3], [1]]
    for sock in (*ours, waits, half_closed, closed, sent):
        sock.close()


def send_all(body: EventStream, sock: socket.socket) -> None:
    """What a WSGI server does with a body."""
    with sock, body, contextlib.suppress(OSError):
        for piece in body:
            sock.sendall(piece)


@pytest.mark.parametrize("kind", ["stream", "function"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_browser_that_closes_its_side_alone_gets_its_answer(kind: str, begun: bool, way_to_look: str) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield chunk({"content": "a"}) if begun else b": nothing yet\n\n"
        go_on.wait(20)
        yield chunk({"content": "b"})
        yield from stream_pieces()

    ours, browser = connection()
    with model([Reply(headers=EVENT_STREAM, body=pieces())]) as (_, client), browser:
        if not begun:
            browser.shutdown(socket.SHUT_WR)
        body = EventStream(source_of(client, kind), environ={"gunicorn.socket": ours}, heartbeat=60)
        sending = threading.Thread(target=send_all, args=(body, ours))
        sending.start()
        if begun:
            browser.shutdown(socket.SHUT_WR)
        got = b""
        while TICK not in got and (data := browser.recv(65536)):
            got += data
        go_on.set()
        while data := browser.recv(65536):
            got += data
        sending.join(10)
    assert [name for name, _ in events([got])] == ["text"] * (1 + begun) + ["done"]
    assert events([got])[-1][1]["truncated"] is False


@pytest.mark.parametrize("format", ["sse", "openai", "text"])
@pytest.mark.parametrize("reply", [then_silence("a"), then_silence(), no_headers], ids=["token", "silent", "headless"])
def test_a_browser_that_closes_both_sides_is_noticed(reply: Any, format: Any, way_to_look: str) -> None:
    ours, browser = connection()
    with model(reply) as (server, client):
        browser.close()
        body = EventStream(client.stream("hi"), environ={"gunicorn.socket": ours}, format=format, heartbeat=60)
        sending = threading.Thread(target=send_all, args=(body, ours))
        sending.start()
        assert server.wait_closed()
        sending.join(10)
        assert not sending.is_alive()


@pytest.mark.parametrize("reply", [then_silence("a"), then_silence(), no_headers], ids=["token", "silent", "headless"])
@pytest.mark.parametrize("name", ["gunicorn.socket", "werkzeug.socket"])
def test_a_browser_that_leaves_frees_the_model_at_once(reply: Any, name: str, way_to_look: str) -> None:
    server_side, browser = socket.socketpair()
    leaving = threading.Timer(0.1, browser.close)

    def asked(request: Request) -> Reply:
        leaving.start()
        return reply(request)

    with model(asked) as (server, client), server_side:
        body = EventStream(client.stream("hi"), environ={name: server_side}, heartbeat=60)
        sent: list[bytes] = []
        with contextlib.suppress(BrokenPipeError), body:
            for piece in body:
                sent.append(piece)
                server_side.sendall(piece)
        assert server.requests[0].closed.wait(5)
        leaving.join()
    assert not any(b"done" in piece or b"error" in piece for piece in sent)


GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket
from openai_compat.web.disconnect import Watched, look
pairs = [socket.socketpair() for _ in range(4)]
ours = [pair[0] for pair in pairs]
pairs[1][1].close()
ours[2].close()
pairs[3][1].send(b"unread")
pairs[3][1].close()
gone, half_closed = look([Watched(sock, None, None) for sock in ours])
print([ours.index(one.sock) for one in gone], half_closed)
"""


def test_gevents_sockets_are_looked_at_by_the_systems_own_poll() -> None:
    pytest.importorskip("gevent")
    told = subprocess.run([sys.executable, "-c", GEVENT], capture_output=True, text=True, check=True)
    assert told.stdout == "[1, 2, 3] []\n"


def test_a_browser_that_leaves_before_the_answer_begins_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    server_side, browser = socket.socketpair()
    with model(no_headers) as (server, client), server_side:
        leaving = threading.Timer(0.1, browser.close)
        leaving.start()
        list(EventStream(partial(client.chat, "hi"), environ={"gunicorn.socket": server_side}, heartbeat=60))
        leaving.join()
        assert server.wait_closed()
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_browser_is_watched_although_a_thread_could_not_be_started_before() -> None:
    told = threading.Event()
    ours, browser = socket.socketpair()
    watcher = DisconnectWatcher()
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        with pytest.raises(RuntimeError):
            watcher.add(ours, lambda: None, lambda: None)
    watcher.add(ours, lambda: told.set, lambda: None)
    browser.close()
    assert told.wait(10)
    ours.close()


def test_the_watcher_outlives_a_socket_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    ours, browser = socket.socketpair()
    watcher = DisconnectWatcher()
    watcher.add(object(), lambda: None, lambda: None)
    while watcher._running:
        threading.Event().wait(0.01)
    watcher.add(ours, lambda: told.set, lambda: None)
    browser.close()
    assert told.wait(10)
    assert "cannot be watched" in caplog.text
    ours.close()


def test_the_watcher_outlives_a_stream_that_cannot_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise RuntimeError("mine")

    told = threading.Event()
    first, second = socket.socketpair(), socket.socketpair()
    watcher = DisconnectWatcher()
    watcher.add(first[0], lambda: fails, lambda: None)
    watcher.add(second[0], lambda: told.set, lambda: None)
    first[1].close()
    second[1].close()
    assert told.wait(10)
    assert "could not be cancelled" in caplog.text
    first[0].close()
    second[0].close()


class Loop:
    """An event loop on a thread of its own, and a request on it: its body in two messages, then silence."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.cancelled = threading.Event()
        self._messages = [{"body": b"he", "more_body": True}, {"body": b"llo", "more_body": False}]
        self._left = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_forever)

    async def receive(self) -> Any:
        if self._messages:
            return {"type": "http.request", **self._messages.pop(0)}
        try:
            await self._left.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self._left.set)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.mark.parametrize("leaves", [True, False])
def test_a2wsgi_tells_of_the_browser_and_its_body_is_left_to_the_application(leaves: bool) -> None:
    wsgi = pytest.importorskip("a2wsgi.wsgi")
    told, unneeded = threading.Event(), threading.Event()
    with Loop() as request:
        body = wsgi.Body(request.loop, request.receive)
        assert body.read(1) == b"h"
        unwatch = disconnect.watch_disconnect({"asgi.scope": {}, "wsgi.input": body}, told.set, unneeded.set)
        assert body.read() == b"ello"
        if leaves:
            request.leave()
            assert told.wait(10)
            unwatch()
        else:
            unwatch()
            assert request.cancelled.wait(10)
            assert not told.is_set()


def test_an_adapter_that_tells_nothing_is_taken_as_it_is() -> None:
    told = threading.Event()
    disconnect.watch_disconnect({"asgi.scope": {}, "wsgi.input": io.BytesIO()}, told.set, told.set)()
    assert not told.is_set()
