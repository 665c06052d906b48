"""Browsers that disconnect while their answer is under way."""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import sys
import threading
from functools import partial
from typing import Any
from unittest import mock

import pytest
from support.browser_streams import model, no_headers, then_silence

from openai_compat.web import EventStream
from openai_compat.web.disconnect import DisconnectWatcher, WeakCallback, disconnected


@pytest.fixture(params=["poll", "peek"])
def way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "peek":
        monkeypatch.delattr(select, "POLLRDHUP")
    elif not hasattr(select, "POLLRDHUP"):
        pytest.skip("this system has no POLLRDHUP")
    return str(request.param)


def test_a_browser_that_has_gone_is_told_from_one_that_waits(way_to_look: str) -> None:
    pairs = [socket.socketpair() for _ in range(5)]
    ours = [pair[0] for pair in pairs]
    waits, left, reset, closed, sent = (pair[1] for pair in pairs)
    left.shutdown(socket.SHUT_WR)
    reset.close()
    ours[3].close()
    sent.send(b"GET")
    callbacks: dict[WeakCallback, Any] = {(lambda: None): sock for sock in ours}
    gone = disconnected(callbacks)
    assert [callbacks[callback] for callback in gone] == [ours[1], ours[2], ours[3]]
    for sock in (*ours, waits, left, closed, sent):
        sock.close()


@pytest.mark.parametrize("reply", [then_silence("a"), then_silence(), no_headers], ids=["token", "silent", "headless"])
@pytest.mark.parametrize("name", ["gunicorn.socket", "werkzeug.socket"])
def test_a_browser_that_leaves_frees_the_model_at_once(reply: Any, name: str, way_to_look: str) -> None:
    server_side, browser = socket.socketpair()
    with model(reply) as (server, client), server_side:
        leaving = threading.Timer(0.3, browser.close)
        leaving.start()
        body = EventStream(client.stream("hi"), environ={name: server_side}, heartbeat=60)
        raw = list(body)
        assert server.requests[0].closed.wait(5)
        body.close()
        leaving.join()
    assert not any(b"done" in piece or b"error" in piece for piece in raw)


GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket
from openai_compat.web.disconnect import disconnected
pairs = [socket.socketpair() for _ in range(4)]
ours = [pair[0] for pair in pairs]
pairs[1][1].close()
ours[2].close()
pairs[3][1].send(b"unread")
pairs[3][1].close()
sockets = {(lambda: None): sock for sock in ours}
print([ours.index(sockets[callback]) for callback in disconnected(sockets)])
"""


def test_gevents_sockets_are_looked_at_by_the_systems_own_poll() -> None:
    pytest.importorskip("gevent")
    told = subprocess.run([sys.executable, "-c", GEVENT], capture_output=True, text=True, check=True)
    assert told.stdout == "[1, 2, 3]\n"


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
            watcher.add(lambda: None, ours)
    watcher.add(lambda: told.set, ours)
    browser.close()
    assert told.wait(10)
    ours.close()


def test_the_watcher_outlives_a_socket_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    ours, browser = socket.socketpair()
    watcher = DisconnectWatcher()
    watcher.add(lambda: None, object())
    while watcher._running:
        threading.Event().wait(0.01)
    watcher.add(lambda: told.set, ours)
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
    watcher.add(lambda: fails, first[0])
    watcher.add(lambda: told.set, second[0])
    first[1].close()
    second[1].close()
    assert told.wait(10)
    assert "could not be cancelled" in caplog.text
    first[0].close()
    second[0].close()
