"""A process that is forked at any moment of another thread's call, its first one included: no child hangs.

Python's locks on modules that are being imported stay held in a child whose parent's other thread held them, and so do
all other locks. Who hangs says where, and ends by an alarm.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, stream_pieces

MOMENTS = max(20, settings.default.max_examples // 5)
"""For each of first and later calls, over TCP and TLS; at night many more."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
each_wire = pytest.mark.parametrize("wire", ["tcp", "tls"])


def echo(request: Request) -> Reply:
    question = request.json()["messages"][-1]["content"]
    if request.json().get("stream"):
        return Reply(headers=EVENT_STREAM, body=stream_pieces(*question))
    return chat_reply(question)


# Each moment has a process of its own, forked from one that has made no call.
FORKING = """
import faulthandler, os, signal, sys, threading, time, traceback
from openai_compat import Client

# Who hangs says where, and dies of it.
faulthandler.register(signal.SIGALRM, chain=True)
url, call, moments = sys.argv[1], sys.argv[2], int(sys.argv[3])

def ask(client, question):
    answer = client.stream(question).until_done() if "stream" in question else client.chat(question)
    assert answer.text == question, f"{answer.text!r} is no answer to {question!r}"

def forked(work, seconds):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(seconds)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def moment(after):
    client = Client(url, model="m", timeout=30, max_retries=0)
    over = threading.Event()
    done = []

    def calls(name):
        while True:
            ask(client, f"{name} chat")
            ask(client, f"{name} stream")
            done.append(name)
            if call == "first" or over.is_set():
                return

    def child():
        ask(client, "child chat")
        ask(Client(url, model="m", timeout=30, max_retries=0), "child of its own, stream")
        ask(client, "child stream")

    if call == "later":
        ask(client, "before")
    names = ["a"] if call == "first" else ["a", "b", "c"]
    threads = [threading.Thread(target=calls, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    time.sleep(after)
    well = ended_well(forked(child, 30))
    over.set()
    for thread in threads:
        thread.join(20)
    assert well, "the child failed"
    assert set(done) == set(names), "a call of the parent's failed"

span = 0.15 if call == "first" else 0.02
failed = []
for number in range(moments):
    after = span * number / moments
    if not ended_well(forked(lambda: moment(after), 90)):
        failed.append(f"{after:.4f} s")
    if len(failed) == 2:
        break
assert not failed, f"forks that failed, by their time after the start of the call: {failed}"
"""


@needs_fork
@pytest.mark.parametrize("call", ["first", "later"])
@each_wire
def test_fork(wire: str, call: str, tls: ssl.SSLContext) -> None:
    with ReplayServer(echo, tls=tls if wire == "tls" else None) as server:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, server.url, call, str(MOMENTS)]
        ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=110)
    assert ran.returncode == 0, ran.stderr


STARTING = """
import multiprocessing, sys, threading
from openai_compat import Client

def ask(client, url, name):
    client = client or Client(url, model="m", timeout=30)
    for question in (f"{name} 1", f"{name} 2"):
        assert client.chat(question).text == client.stream(question).until_done().text == question

if __name__ == "__main__":
    url, method, what, when = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["openai_compat"])
    client = Client(url, model="m", timeout=30)
    if when == "after":
        ask(client, url, "parent")
    thread = threading.Thread(target=ask, args=(client, url, "meanwhile"), daemon=True)
    thread.start()
    given = client if what == "pickled" else None
    children = [context.Process(target=ask, args=(given, url, f"child {n}"), daemon=True) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(40)
    thread.join(40)
    assert not thread.is_alive()
    assert [child.exitcode for child in children] == [0, 0]
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["fresh", "pickled"])
@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=needs_fork)])
def test_multiprocessing(method: str, what: str, when: str, tmp_path: Path) -> None:
    """A child with a client of its own, or the parent's, before and after the parent has used it."""
    script = tmp_path / "script.py"
    script.write_text(STARTING)
    with ReplayServer(echo) as server:
        command = [sys.executable, str(script), server.url, method, what, when]
        ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=110)
    assert ran.returncode == 0, ran.stderr


APP = """
import os, threading, time
from openai_compat import Client

url = os.environ["UPSTREAM"]
client = Client(url, model="m", timeout=30, max_retries=0)
threading.Thread(target=client.chat, args=("at the start",), daemon=True).start()
time.sleep(float(os.environ["AFTER"]))

def app(environ, start_response):
    question = environ["PATH_INFO"]
    own = Client(url, model="m", timeout=30, max_retries=0)
    answers = [client.chat(question).text, own.chat(question).text, client.stream(question).until_done().text]
    own.close()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    return [" ".join(answers).encode()]
"""
WORKERS = 3


@needs_fork
@pytest.mark.parametrize("after", [0, 0.03, 0.1])
def test_gunicorn_that_loads_the_application_before_it_forks(after: float, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)

    def get(number: int) -> str:
        connection = http.client.HTTPConnection(*address, timeout=40)
        try:
            connection.request("GET", f"/{number}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    with ReplayServer(echo) as server, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        address = listener.getsockname()
        command = [sys.executable, "-m", "gunicorn", "app:app", "--preload", "--chdir", str(tmp_path)]
        # A worker that hangs is ended, and its browser told so.
        command += ["--workers", str(WORKERS), "--timeout", "15", "--graceful-timeout", "2", "--no-control-socket"]
        command += ["--bind", f"fd://{listener.fileno()}"]
        environment = {**os.environ, "UPSTREAM": server.url, "AFTER": str(after), "PYTHONWARNINGS": "ignore"}
        log = (tmp_path / "log").open("w+")
        with log, subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], stderr=log) as process:
            try:
                with ThreadPoolExecutor(WORKERS * 4) as browsers:
                    pages = list(browsers.map(get, range(WORKERS * 4)))
            finally:
                process.terminate()
                process.wait(30)
                log.seek(0)
                told = log.read()
    assert pages == [" ".join([f"/{number}"] * 3) for number in range(WORKERS * 4)], told
