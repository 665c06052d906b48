"""Streams through real WSGI servers: who stays gets all, who leaves frees the model, nothing leaks."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import requests
from support.browser_streams import model, then_silence
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply

from openai_compat import (
    APIStatusError,
    Client,
)
from openai_compat.web import wsgi_response


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def wsgi(app: Callable[..., Iterable[bytes]]) -> Iterator[tuple[str, int]]:
    server = make_server("127.0.0.1", 0, app, server_class=Threaded, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_openai_client_reads_through_a_wsgi_server() -> None:
    with model([stream_reply("a", "b"), error_reply(429, "slow down")]) as (_, client):

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            return wsgi_response(client.stream("hi"), environ, start_response, format="openai", headers=[("X-A", "b")])

        with wsgi(app) as (host, port), Client(f"http://{host}:{port}", model="x", max_retries=0) as browser:
            answer = browser.stream("hi").until_done()
            assert (answer.text, answer.finish_reason, answer.headers["x-a"]) == ("ab", "stop", "b")
            with pytest.raises(APIStatusError, match="Too many questions") as caught:
                browser.chat("hi")
            assert caught.value.status_code == 429


def test_without_its_socket_a_browser_that_left_is_noticed_by_heartbeats(capfd: pytest.CaptureFixture[str]) -> None:
    with model(then_silence("a")) as (server, client):

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            return wsgi_response(client.stream("hi"), environ, start_response, heartbeat=0.1)

        with wsgi(app) as address:
            browser = Browser(address)
            assert b"a" in browser.until(b'"a"')
            browser.leave()
            assert server.wait_closed()
    capfd.readouterr()  # wsgiref tells of the broken pipe


class Browser:
    """A connection that asked for ``/`` and reads what comes."""

    def __init__(self, address: tuple[str, int], path: str = "/", headers: str = "") -> None:
        self._sock = socket.create_connection(address, timeout=30)
        self._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        self.got = b""

    def until(self, what: bytes) -> bytes:
        """All that has come when ``what`` has, or at the end."""
        while what not in self.got and (data := self._sock.recv(65536)):
            self.got += data
        return self.got

    def leave(self) -> None:
        self._sock.close()


APP = """
import json
import os
import threading
from openai_compat import Client
from openai_compat.web import wsgi_response

client = Client(os.environ["UPSTREAM"], model="m", max_retries=0)
# Before the fork, so that workers inherit a connection.
assert client.chat("warm up").text == "warm"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/state":
        threads = [thread.name for thread in threading.enumerate() if "openai_compat" in thread.name]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([threads, len(os.listdir("/proc/self/fd"))]).encode()]
    stream = client.stream(environ["PATH_INFO"])
    return wsgi_response(stream, environ, start_response, heartbeat=float(os.environ["HEARTBEAT"]))
"""
WORKERS = {
    "gthread": ["--worker-class", "gthread", "--threads", "60", "--workers", "1"],
    "two-processes": ["--worker-class", "gthread", "--threads", "60", "--workers", "2"],
    "gevent": ["--worker-class", "gevent", "--workers", "1"],
}


@contextlib.contextmanager
def gunicorn(worker: str, upstream: str, folder: Path, *, heartbeat: float) -> Iterator[tuple[str, int]]:
    """A real server in a process of its own, its application loaded before the workers are forked."""
    pytest.importorskip("gunicorn")
    if worker == "gevent":
        pytest.importorskip("gevent")
    (folder / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", "app:app", "--preload", "--chdir", str(folder)]
        command += [
            "--bind",
            f"fd://{listener.fileno()}",
            "--graceful-timeout",
            "2",
            "--no-control-socket",
            *WORKERS[worker],
        ]
        environment = {"UPSTREAM": upstream, "HEARTBEAT": str(heartbeat), "PATH": "", "PYTHONWARNINGS": "ignore"}
        log = (folder / "log").open("w+")
        with log, subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], stderr=log) as process:
            try:
                yield listener.getsockname()
            finally:
                process.terminate()
                process.wait(30)
                log.seek(0)
                told = log.read()
    # What gunicorn says of an exception that has reached it.
    assert not any(words in told for words in ("Error handling request", "Socket error", "Exception in")), told


class Upstream:
    """Answers ``/tokens N`` with pieces that name their question, and ``/silent N`` with nothing."""

    def __init__(self, tokens: int = 30) -> None:
        self._tokens = tokens
        self.asked: dict[str, Request] = {}
        self.halfway = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self, request: Request) -> Reply:
        question = request.json()["messages"][-1]["content"]
        if question == "warm up":
            return chat_reply("warm")
        self.asked[question] = request
        body = self._silence(request) if question.startswith("/silent") else self._talk(question)
        return Reply(headers=EVENT_STREAM, body=body)

    def _talk(self, question: str) -> Iterator[bytes]:
        for number in range(self._tokens):
            if number == self._tokens // 2:
                self.halfway.release()
                self.go_on.wait(30)
            yield chunk({"content": f"<{question} {number}>"})
        yield from stream_pieces()

    def _silence(self, request: Request) -> Iterator[bytes]:
        yield b": nothing to say\n\n"
        request.closed.wait(60)


def state(address: tuple[str, int]) -> tuple[list[str], int]:
    """The library's threads and the open files of a worker."""
    threads, files = requests.get(f"http://{address[0]}:{address[1]}/state", timeout=30).json()
    return threads, files


@pytest.mark.parametrize("worker", WORKERS)
def test_of_fifty_browsers_those_that_leave_are_noticed_the_others_get_all_and_nothing_leaks(
    worker: str, tmp_path: Path
) -> None:
    talk = Upstream()
    with ReplayServer(talk) as server, gunicorn(worker, server.url, tmp_path, heartbeat=60) as address:
        _, files = state(address)
        paths = [f"/tokens{i}" for i in range(42)]
        browsers = {path: Browser(address, path) for path in paths}
        silent = {path: Browser(address, path) for path in [f"/silent{i}" for i in range(8)]}
        for _ in paths:
            assert talk.halfway.acquire(timeout=30)
        while not talk.asked.keys() >= silent.keys():
            threading.Event().wait(0.01)
        leaving = paths[::3]
        for path in leaving:
            assert f"<{path} 0>".encode() in browsers[path].until(f"<{path} 0>".encode())
            browsers[path].leave()
        for browser in silent.values():
            browser.leave()
        # Nothing is written to the browsers meanwhile, not even a heartbeat.
        for path in [*leaving, *silent]:
            assert talk.asked[path].closed.wait(10), path
        talk.go_on.set()
        staying = set(paths) - set(leaving)
        for path in staying:
            got = browsers[path].until(b"event: done").decode()
            assert [f"<{path} {number}>" in got for number in range(30)] == [True] * 30
            assert got.count("event: text") == 30
            browsers[path].leave()
        deadline = time.monotonic() + 10
        # Of all the connections to the model, those of complete answers are kept.
        while (
            time.monotonic() < deadline and (found := state(address)) and (found[0] or found[1] > files + len(staying))
        ):
            threading.Event().wait(0.05)
        assert found[0] == []
        assert found[1] <= files + len(staying)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="this system has no POLLRDHUP")
def test_people_who_left_silent_streams_do_not_keep_out_a_newcomer(tmp_path: Path) -> None:
    talk = Upstream()
    talk.go_on.set()
    with ReplayServer(talk) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        left = [Browser(address, f"/silent{i}") for i in range(60)]
        for i in range(60):
            while f"/silent{i}" not in talk.asked:
                threading.Event().wait(0.01)
        for browser in left:
            browser.leave()
        began = time.monotonic()
        newcomer = Browser(address, "/tokens")
        assert b"event: done" in newcomer.until(b"event: done")
        assert time.monotonic() - began < 8
        newcomer.leave()
        assert all(talk.asked[f"/silent{i}"].closed.wait(5) for i in range(60))


def test_a_browsers_reconnect_gets_no_content_from_a_real_server(tmp_path: Path) -> None:
    talk = Upstream()
    with ReplayServer(talk) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/tokens", headers={"Last-Event-ID": "3"})
        reply = connection.getresponse()
        assert (reply.status, reply.read(), talk.asked) == (204, b"", {})
        connection.close()


def test_an_upstream_error_is_a_json_page_on_a_real_server(tmp_path: Path) -> None:
    def refuse(request: Request) -> Reply:
        return (
            error_reply(429, "no", headers={"Retry-After": "7"}) if request.json().get("stream") else chat_reply("warm")
        )

    with ReplayServer(refuse) as server, gunicorn("gthread", server.url, tmp_path, heartbeat=60) as address:
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("GET", "/")
        reply = connection.getresponse()
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
        assert json.loads(reply.read())["error"]["code"] == "rate_limited"
        connection.close()
