"""`python -m benchmarks.web`: streams to browsers through gunicorn, against what people write and a floor.

Three kinds of processes: the model, which writes the time into each token; gunicorn with one gthread worker; and this
one, which is all the browsers. The contestants take turns, round after round. CPU is the worker's, user and system.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import queue
import re
import select
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contestants import ENTRIES, Entry
from benchmarks.environments import prepare

BROWSERS = 50
TOKENS = 250
PAUSE = 0.02
SILENT = 40
ASKED = 1200
"""Questions to a server whose application used its client before the fork."""
SETTLED = 1.0
"""Seconds in which the model should have heard that a browser left."""

OURS = """
from flask import Flask
from openai_compat.integrations.flask import OpenAICompat, stream_response

app = Flask("app")
app.config.update(OPENAI_COMPAT_BASE_URL="http://127.0.0.1:{port}", OPENAI_COMPAT_MODEL="m")
llm = OpenAICompat(app)

def warm_up():
    with app.app_context():
        return llm.client.stream("warm").until_done()
"""
APPS = {
    "openai_compat, WSGI": """
from openai_compat import Client
from openai_compat.web import wsgi_response

client = Client("http://127.0.0.1:{port}", model="m")
warm_up = lambda: client.stream("warm").until_done()

def app(environ, start_response):
    return wsgi_response(client.stream(environ["PATH_INFO"]), environ, start_response)
""",
    "openai_compat, Flask": OURS
    + """
@app.get("/<path:question>")
def ask(question):
    return stream_response(llm.client.stream("/" + question))
""",
    "openai_compat, Flask, conversation": OURS
    + """
from functools import partial

@app.get("/<path:question>")
def ask(question):
    return stream_response(partial(llm.client.conversation().say, "/" + question))
""",
    "openai, Flask": """
import json
from flask import Flask, Response
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="k")
app = Flask("app")

def events(question):
    messages = [{{"role": "user", "content": question}}]
    for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            yield "data: " + json.dumps({{"delta": chunk.choices[0].delta.content}}) + "\\n\\n"

warm_up = lambda: list(events("warm"))

@app.get("/<path:question>")
def ask(question):
    return Response(events("/" + question), mimetype="text/event-stream")
""",
    "plain loop, Flask": """
import json
import requests
from flask import Flask, Response
from sseclient import SSEClient

session = requests.Session()
app = Flask("app")

def events(question):
    body = {{"model": "m", "stream": True, "messages": [{{"role": "user", "content": question}}]}}
    with session.post("http://127.0.0.1:{port}/v1/chat/completions", json=body, stream=True) as reply:
        reply.raise_for_status()
        for event in SSEClient(reply).events():
            if event.data != "[DONE]":
                delta = json.loads(event.data)["choices"][0]["delta"].get("content")
                if delta:
                    yield "data: " + json.dumps({{"delta": delta}}) + "\\n\\n"

warm_up = lambda: list(events("warm"))

@app.get("/<path:question>")
def ask(question):
    return Response(events("/" + question), mimetype="text/event-stream")
""",
    "floor": """
import http.client, json

def app(environ, start_response):
    connection = http.client.HTTPConnection("127.0.0.1", {port})
    body = json.dumps({{"messages": [{{"content": environ["PATH_INFO"]}}]}})
    connection.request("POST", "/v1/chat/completions", body)
    reply = connection.getresponse()
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return iter(lambda: reply.read1(65536), b"")

warm_up = lambda: None
""",
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = re.compile(rb"(?is)POST .*?content-length: *(\d+).*?\r\n\r\n(.*)")
WARM = """
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(8) as threads:
    for asked in [threads.submit(warm_up) for _ in range(8)]:
        asked.result()
"""
ENVIRONMENT = Entry(
    "web",
    "streams to browsers",
    "",
    (*ENTRIES[0].requirements, "flask", "gunicorn", "openai", "sseclient-py"),
    from_tree=True,
)


class Model:
    """A server in a process of its own. A question's path says how it answers; who leaves in the midst is noted.

    ``/flow`` has ``TOKENS`` tokens, one each ``PAUSE``; ``/silent`` has one, and then nothing; any other is echoed.
    """

    def __init__(self) -> None:
        self._ports: multiprocessing.Queue[int] = multiprocessing.Queue()
        self._left: multiprocessing.Queue[float] = multiprocessing.Queue()
        self._process = multiprocessing.Process(target=self._serve, daemon=True)
        self._process.start()
        self.port = self._ports.get()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def left(self, count: int, since: float, patience: float) -> list[float]:
        """After how many seconds the first ``count`` were heard to have left; those that were not are missing."""
        times: list[float] = []
        deadline = since + patience
        while len(times) < count and (wait := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                took = self._left.get(timeout=wait) - since
                times += [took] if took > 0 else []  # else it left an earlier contestant
        return times

    def _serve(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self._ports.put(listener.getsockname()[1])
            while True:
                threading.Thread(target=self._talk, args=(listener.accept()[0],), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError):
            while question := _question(sock):
                sock.sendall(HEAD)
                if not self._answer(sock, question):
                    self._left.put(time.monotonic())
                    return
                sock.sendall(_chunk(b"{}", b'"stop"') + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _answer(self, sock: socket.socket, question: str) -> bool:
        """The tokens; False where the client left."""
        if not question.startswith(("/flow", "/silent")):
            sock.sendall(_chunk(json.dumps({"content": f"<{question}>"}).encode(), b"null"))
            return True
        due = time.monotonic()
        for _ in range(1 if question.startswith("/silent") else TOKENS):
            due += PAUSE
            if _gone(sock, max(0.0, due - time.monotonic())):
                return False
            try:
                sock.sendall(_chunk(b'{"content":"%.6f "}' % time.monotonic(), b"null"))
            except OSError:
                return False
        return not (question.startswith("/silent") and _gone(sock, 60))


def _question(sock: socket.socket) -> str:
    """The last message of the next request; empty at the end of the connection, or if what comes is no request.

    Processes that share a connection after a fork write into each other's requests.
    """
    got = b""
    while not (found := REQUEST.fullmatch(got)) or len(found[2]) < int(found[1]):
        data = sock.recv(65536)
        if not data:
            return ""
        got += data
    try:
        return str(json.loads(found[2])["messages"][-1]["content"])
    except ValueError:
        return ""


def _gone(sock: socket.socket, wait: float) -> bool:
    return bool(select.select([sock], [], [], wait)[0]) and not sock.recv(1, socket.MSG_PEEK)


def _chunk(delta: bytes, reason: bytes) -> bytes:
    head = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    event = head + delta + b',"finish_reason":' + reason + b"}]}\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


@contextlib.contextmanager
def gunicorn(app: str, model: Model, *, threads: int, warm: bool = False) -> Iterator[tuple[int, int]]:
    """The port and the process of gunicorn, with one worker; with ``warm``, its client was used before the fork."""
    python = prepare(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        code = APPS[app].format(port=model.port) + (WARM if warm else "")
        Path(folder, "app.py").write_text(code)
        command = [str(python), "-m", "gunicorn", "app:app", "--worker-class", "gthread", "--threads", str(threads)]
        command += ["--workers", "2" if warm else "1", *(["--preload"] if warm else [])]
        command += ["--chdir", folder, "--bind", f"fd://{listener.fileno()}", "--graceful-timeout", "1"]
        command += ["--no-control-socket", "--log-level=critical"]
        with subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL) as arbiter:
            try:
                port = listener.getsockname()[1]
                Browser(port, "/echo").read_all(30)
                yield port, arbiter.pid
            finally:
                arbiter.terminate()


class Browser:
    """A connection that asked for a path."""

    def __init__(self, port: int, path: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def read_all(self, patience: float) -> bytes:
        """All that comes until the end; what came so far, where that takes too long."""
        self.sock.settimeout(patience)
        got = b""
        with self.sock, contextlib.suppress(TimeoutError):
            while data := self.sock.recv(65536):
                got += data
        return got


def read_together(browsers: Sequence[Browser], seconds: float = 60) -> list[float]:
    """Read all of them to their ends, or for a time; milliseconds that each token took to get here."""
    late: list[float] = []
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for browser in browsers:
            selector.register(browser.sock, selectors.EVENT_READ)
        while selector.get_map() and (wait := until - time.monotonic()) > 0:
            for key, _ in selector.select(wait):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                now = time.monotonic()
                late += [(now - float(sent)) * 1000 for sent in re.findall(rb'"(\d+\.\d{6}) "', data)]
                if not data:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
    return late


def flow(app: str, model: Model) -> dict[str, float]:
    """What a token costs, and how late it is."""
    with gunicorn(app, model, threads=60) as (port, arbiter):
        read_together([Browser(port, "/flow") for _ in range(BROWSERS)])  # imports, connections
        (worker,) = psutil.Process(arbiter).children()
        before = sum(worker.cpu_times()[:2])
        late = read_together([Browser(port, "/flow") for _ in range(BROWSERS)])
        spent = sum(worker.cpu_times()[:2]) - before
    if len(late) != BROWSERS * TOKENS:
        raise SystemExit(f"{app}: {len(late)} tokens of {BROWSERS * TOKENS} came")
    return {
        "delay p50 (ms)": statistics.median(late),
        "delay p95 (ms)": statistics.quantiles(late, n=20)[-1],
        "CPU a token (µs)": spent / len(late) * 1e6,
    }


def leave(app: str, model: Model) -> dict[str, float]:
    """Of 50 browsers 25 leave; how many of those the model hears of in a second, and whether the others get all."""
    with gunicorn(app, model, threads=60) as (port, _):
        browsers = [Browser(port, "/flow") for _ in range(BROWSERS)]
        read_together(browsers, 1)
        since = time.monotonic()
        for browser in browsers[::2]:
            browser.sock.close()
        flowing = model.left(BROWSERS // 2, since, SETTLED)
        staying = browsers[1::2]
        complete = sum(got.count(b" ") > 0 and _ended(got) for got in (one.read_all(20) for one in staying))
        model.left(BROWSERS, time.monotonic(), 0.5)  # late ones
        silent = [Browser(port, "/silent") for _ in range(BROWSERS // 2)]
        read_together(silent, 1)
        since = time.monotonic()
        for browser in silent:
            browser.sock.close()
        heard = model.left(len(silent), since, SETTLED)
    return {
        "left while tokens flow: heard in 1 s, of 25": len(flowing),
        "the slowest (s)": max(flowing, default=float("nan")),
        "left while silent: heard in 1 s, of 25": len(heard),
        "complete, of the 25 others": complete,
    }


def _ended(got: bytes) -> bool:
    return got.endswith(b"0\r\n\r\n")


def newcomer(app: str, model: Model) -> dict[str, float]:
    """All threads have a silent stream whose browser left: how long until somebody else is served."""
    with gunicorn(app, model, threads=SILENT) as (port, _):
        left = [Browser(port, "/silent") for _ in range(SILENT)]
        read_together(left, 1.5)
        for browser in left:
            browser.sock.close()
        began = time.monotonic()
        served = b"</newcomer>" in Browser(port, "/newcomer").read_all(8)
        took = time.monotonic() - began
        model.left(SILENT, time.monotonic(), 1)
    return {"a newcomer after 40 who left silent streams (s, none in 8)": took if served else float("nan")}


def preload(app: str, model: Model) -> dict[str, float]:
    """Two processes whose client was used before the fork: how many answers are wrong or missing."""
    wrong = 0
    lock = threading.Lock()
    with gunicorn(app, model, threads=8, warm=True) as (port, _):

        def ask(first: int) -> None:
            nonlocal wrong
            for number in range(first, first + ASKED // 8):
                got = Browser(port, f"/q{number}").read_all(10)
                with lock:
                    wrong += f"</q{number}>".encode() not in got

        threads = [threading.Thread(target=ask, args=(i * ASKED // 8,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {f"wrong answers of {ASKED}, client used before the fork": wrong}


PARTS: dict[str, Any] = {"flow": flow, "leave": leave, "newcomer": newcomer, "preload": preload}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web")
    parser.add_argument("--rounds", type=int, default=3, help="of each part (default: 3)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    given = parser.parse_args()
    model = Model()
    for part in given.only.split(","):
        found: dict[str, dict[str, list[float]]] = {app: {} for app in APPS}
        for number in range(given.rounds):
            for app, rows in found.items():
                print(f"{part} {number + 1}/{given.rounds}: {app}", file=sys.stderr)
                for name, value in PARTS[part](app, model).items():
                    rows.setdefault(name, []).append(value)
        print(table(found), flush=True)
    model.close()


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """A row for each measure, medians of the rounds; nan is none."""
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for name in next(iter(found.values())):
        figures = [statistics.median(rows[name]) for rows in found.values()]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.2f}".removesuffix(".00") for figure in figures) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
