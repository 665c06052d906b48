"""`python -m benchmarks.web`: what a token costs on its way through gunicorn to a browser, and how late it gets there.

One gthread worker, 50 browsers, a token every 20 ms to each. Beside ``openai_compat.web`` stands a bare floor, which
hands the server's bytes on as they come. Three processes: the model, which writes the time into each token, gunicorn,
and this one, which is all the browsers. CPU is that of the worker, user and system.
"""

from __future__ import annotations

import multiprocessing
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

BROWSERS = 50
TOKENS = 250
PAUSE = 0.02
THREADS = 60
APPS = {
    "openai_compat": """
from openai_compat import Client
from openai_compat.web import wsgi_response

client = Client("http://127.0.0.1:{port}", model="m")

def app(environ, start_response):
    return wsgi_response(client.stream("hi"), environ, start_response)
""",
    "floor": """
import http.client

def app(environ, start_response):
    connection = http.client.HTTPConnection("127.0.0.1", {port})
    connection.request("POST", "/v1/chat/completions", b"{{}}")
    reply = connection.getresponse()
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return iter(lambda: reply.read1(65536), b"")
""",
}


def model(port: multiprocessing.Queue[int]) -> None:
    """Answer every request with ``TOKENS`` tokens, one each ``PAUSE``, whose text is the time."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port.put(listener.getsockname()[1])
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


def talk(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        due = time.monotonic()
        for _ in range(TOKENS):
            due += PAUSE
            time.sleep(max(0.0, due - time.monotonic()))
            sock.sendall(chunk(b'{"content":"%.6f "}' % time.monotonic(), b"null"))
        sock.sendall(chunk(b"{}", b'"stop"') + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def chunk(delta: bytes, reason: bytes) -> bytes:
    head = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    event = head + delta + b',"finish_reason":' + reason + b"}]}\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def browse(port: int) -> list[float]:
    """Milliseconds that each token of all the browsers took to get here."""
    late: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(BROWSERS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                now = time.monotonic()
                late += [(now - float(sent)) * 1000 for sent in re.findall(rb'"(\d+\.\d{6}) "', data)]
                if not data:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
    return late


def measure(app: str, model_port: int) -> tuple[list[float], float]:
    """The delays, and the microseconds of CPU for each token."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        Path(folder, "app.py").write_text(APPS[app].format(port=model_port))
        command = [sys.executable, "-m", "gunicorn", "app:app", "--worker-class", "gthread", "--threads", str(THREADS)]
        command += [
            "--chdir",
            folder,
            "--bind",
            f"fd://{listener.fileno()}",
            "--no-control-socket",
            "--log-level=error",
        ]
        with subprocess.Popen(command, pass_fds=[listener.fileno()]) as arbiter:
            try:
                port = listener.getsockname()[1]
                browse(port)  # imports, connections
                (worker,) = psutil.Process(arbiter.pid).children()
                before = sum(worker.cpu_times()[:2])
                late = browse(port)
                spent = sum(worker.cpu_times()[:2]) - before
            finally:
                arbiter.terminate()
    if len(late) != BROWSERS * TOKENS:
        raise SystemExit(f"{app}: {len(late)} tokens of {BROWSERS * TOKENS} came")
    return late, spent / len(late) * 1e6


def main() -> None:
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=model, args=(port,), daemon=True)
    server.start()
    model_port = port.get()
    print("| | delay p50 (ms) | p95 (ms) | CPU a token (µs) |\n|---|---|---|---|")
    for name in APPS:
        late, cpu = measure(name, model_port)
        p50, p95 = statistics.median(late), statistics.quantiles(late, n=20)[-1]
        print(f"| {name} | {p50:.2f} | {p95:.2f} | {cpu:.0f} |", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
