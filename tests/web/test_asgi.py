"""Django, and WSGI applications in their adapters, behind real ASGI servers."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces

from openai_compat import Client

SITE = """
import os
from functools import partial
from urllib.parse import unquote

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests only",
    OPENAI_COMPAT={"BASE_URL": os.environ["UPSTREAM"], "MODEL": "m", "MAX_RETRIES": 0},
)
django.setup()
from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

from openai_compat.integrations.django import get_client, stream_response
from openai_compat.web import wsgi_response

left = []


def ask(request, question):
    keep = lambda answer: left.append(answer.text)
    return stream_response(request, get_client().stream(question), heartbeat=60, on_disconnect=keep)


def run(request, question):
    return stream_response(request, partial(get_client().chat, question), heartbeat=60)


async def ask_async(request, question):
    return ask(request, question)


urlpatterns = [
    path("def/<question>", ask),
    path("run/<question>", run),
    path("async/<question>", ask_async),
    path("left", lambda request: HttpResponse(" ".join(left))),
]


def wsgi(environ, start_response):
    question = unquote(environ["PATH_INFO"].rpartition("/")[2])
    return wsgi_response(get_client().stream(question), environ, start_response, heartbeat=60)


site, by_a2wsgi, by_asgiref = get_asgi_application(), WSGIMiddleware(wsgi), WsgiToAsgi(wsgi)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    inner = {"a2wsgi": by_a2wsgi, "asgiref": by_asgiref}.get(scope["path"].split("/")[1], site)
    await inner(scope, receive, send)
"""
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "site_app:app", "--lifespan", "off", "--fd"],
    "daphne": ["-m", "daphne", "site_app:app", "--fd"],
    "hypercorn": ["-m", "hypercorn", "site_app:app", "--bind"],
}


class Upstream:
    """A model that is silent before its first word, after it, or until told to go on; or refuses."""

    def __init__(self) -> None:
        self.asked: dict[str, Request] = {}
        self.go_on: dict[str, threading.Event] = defaultdict(threading.Event)

    def __call__(self, request: Request) -> Reply:
        question = request.json()["messages"][-1]["content"]
        self.asked[question] = request
        if question.startswith("refuse"):
            return error_reply(429, "slow down", headers={"Retry-After": "7"})
        return Reply(headers=EVENT_STREAM, body=self._body(question, request))

    def _body(self, question: str, request: Request) -> Iterator[bytes]:
        if question.startswith("nothing"):
            request.closed.wait(30)
            return
        yield chunk({"content": "first"})
        if question.startswith("one"):
            request.closed.wait(30)
            return
        self.go_on[question].wait(30)
        yield from stream_pieces("second")


@dataclass
class Site:
    port: int
    upstream: Upstream
    opened: list[http.client.HTTPConnection] = field(default_factory=list)

    def get(self, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.opened.append(connection)
        connection.request("GET", path)
        return connection, connection.getresponse()


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One process for all tests of a server."""
    for module in (request.param, "django", "a2wsgi"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("site")
    (folder / "site_app.py").write_text(SITE)
    upstream = Upstream()
    log = (folder / "log").open("w+")
    with ReplayServer(upstream) as model, log:
        environment = {**os.environ, "UPSTREAM": model.url, "PYTHONWARNINGS": "ignore"}
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            port, descriptor = listener.getsockname()[1], listener.fileno()
            where = f"fd://{descriptor}" if request.param == "hypercorn" else str(descriptor)
            process = subprocess.Popen(
                [sys.executable, *SERVERS[request.param], where],
                cwd=folder,
                env=environment,
                pass_fds=[descriptor],
                stdout=log,
                stderr=log,
            )
        # Connections wait for the server to start, and are refused if it has died.
        with process:
            try:
                yield Site(port, upstream)
            finally:
                process.terminate()
                process.wait(30)
        told = (folder / "log").read_text()
    assert not re.search("Exception in ASGI application|/openai_compat/", told), told


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    yield running
    # A test that fails leaves its connection to another test to be blamed for.
    while running.opened:
        running.opened.pop().close()


def until(reply: http.client.HTTPResponse, what: bytes) -> bytes:
    """All that has come when ``what`` has, or at the end."""
    got = b""
    while what not in got and (piece := reply.read1()):
        got += piece
    return got


DJANGO = ["def", "run", "async"]


@pytest.mark.parametrize("view", [*DJANGO, "a2wsgi", "asgiref"])
def test_words_come_one_by_one(site: Site, view: str) -> None:
    question = f"two {view}"
    connection, reply = site.get(f"/{view}/{question.replace(' ', '%20')}")
    assert reply.status == 200
    got = until(reply, b"first")
    assert b"first" in got
    assert b"second" not in got
    site.upstream.go_on[question].set()
    assert b"event: done" in until(reply, b"event: done")
    connection.close()


@pytest.mark.parametrize("view", [*DJANGO, "a2wsgi"])
def test_a_browser_that_leaves_frees_the_model_while_it_is_silent(site: Site, view: str) -> None:
    question = f"one {view}"
    connection, reply = site.get(f"/{view}/{question.replace(' ', '%20')}")
    assert b"first" in until(reply, b"first")
    assert not site.upstream.asked[question].closed.is_set()
    reply.close()
    connection.close()
    assert site.upstream.asked[question].closed.wait(10)


@pytest.mark.parametrize("view", [*DJANGO, "a2wsgi"])
def test_a_browser_that_leaves_before_the_first_word_frees_the_model(site: Site, view: str) -> None:
    question = f"nothing {view}"
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("GET", f"/{view}/{question.replace(' ', '%20')}")
    for _ in range(1000):
        if question in site.upstream.asked:
            break
        threading.Event().wait(0.01)
    connection.close()
    assert site.upstream.asked[question].closed.wait(10)


def test_what_had_come_is_handed_over_when_the_browser_leaves(site: Site) -> None:
    connection, reply = site.get("/def/one%20kept")
    until(reply, b"first")
    reply.close()
    connection.close()
    for _ in range(100):
        connection, reply = site.get("/left")
        if b"first" in reply.read():
            break
        connection.close()
        threading.Event().wait(0.05)
    else:
        pytest.fail("on_disconnect was not called")
    connection.close()


@pytest.mark.parametrize("view", ["def", "run", "a2wsgi", "asgiref"])
def test_an_error_before_the_first_word_has_a_status(site: Site, view: str) -> None:
    connection, reply = site.get(f"/{view}/refuse")
    assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert json.loads(reply.read())["error"]["code"] == "rate_limited"
    connection.close()


def test_an_error_is_an_event_where_the_view_must_not_wait(site: Site) -> None:
    connection, reply = site.get("/async/refuse")
    assert reply.status == 200
    assert b'event: error\nid: 1\ndata: {"message":"Too many questions' in until(reply, b"event: error")
    connection.close()


def test_the_words_of_the_docs_end_with_a_browser_of_starlette_that_leaves() -> None:
    over = threading.Event()

    def one_word(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield chunk({"content": "a"})
            while not over.wait(0.05):
                yield chunk({"content": "b"})

        return Reply(headers=EVENT_STREAM, body=body())

    page = (Path(__file__).parents[2] / "docs/production.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "iterate_in_threadpool" in block)
    sent: list[bytes] = []

    async def visit(app: Any) -> None:
        begun = asyncio.Event()

        async def receive() -> Any:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                sent.append(message["body"])
                begun.set()

        await asyncio.wait_for(app({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send), 20)

    with ReplayServer(one_word) as server, Client(server.url, model="m") as client:
        names: dict[str, Any] = {"client": client}
        exec(example, names)
        gc.disable()
        try:
            asyncio.run(visit(asyncio.run(names["ask"](None))))
            assert server.requests[0].closed.wait(20)
        finally:
            gc.enable()
            over.set()
    assert sent[0] == b"a"
