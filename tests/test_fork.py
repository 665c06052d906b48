"""One client in a process and its forked children: every answer belongs to its question."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, chunk, stream_pieces

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PRELUDE = """
import faulthandler, os, signal, sys, threading, traceback
import requests
from openai_compat import APIConnectionError, Client

# Who hangs says where, and dies of it.
faulthandler.register(signal.SIGALRM, chain=True)
url = sys.argv[1]
client = Client(url, model="m", timeout=20, max_retries=0)

def ask(question):
    # Half of them as a stream.
    answer = client.stream(question).until_done() if question[-1] in "02468" else client.chat(question)
    assert answer.text == question, f"{answer.text!r} is no answer to {question!r}"

def in_child(work):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(30)
    try:
        work()
    except Exception:
        traceback.print_exc()
        os._exit(1)
    sys.exit(0)

def wait(*pids):
    failed = [pid for pid in pids if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    assert not failed, f"{len(failed)} of {len(pids)} children failed"
"""


def echo(request: Request) -> Reply:
    question = request.json()["messages"][-1]["content"]
    if request.json().get("stream"):
        return Reply(headers=EVENT_STREAM, body=stream_pieces(*question))
    return chat_reply(question)


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplayServer]:
    tls = None
    if request.param == "https":
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with ReplayServer(echo, tls=tls) as server:
        yield server


def start(script: str, server: ReplayServer) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + script, server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, server: ReplayServer) -> None:
    with start(script, server) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors


MANY = """
{session}
over = threading.Event()
failures = []

def busy(name, rounds=10**9):
    try:
        for number in range(rounds):
            if over.is_set():
                return
            ask(f"{{name}} {{number}}")
    except Exception:
        failures.append(traceback.format_exc())

def together(name, threads, rounds):
    running = [threading.Thread(target=busy, args=(f"{{name}} {{i}}", rounds), daemon=True) for i in range(threads)]
    for thread in running:
        thread.start()
    return running

def child():
    failures.clear()
    for thread in together(os.getpid(), 3, 8):
        thread.join()
    assert not failures, failures[0]

ask("before 1")
parents = together("parent", {threads}, 10**9)
children = []
for _ in range(16):
    ask("between 1")
    children.append(in_child(child))
wait(*children)
over.set()
for thread in parents:
    thread.join()
assert not failures, failures[0]
client.close()
"""


GIVEN = """
session = requests.Session()
client = Client(url, model="m", timeout=20, max_retries=0, session=session)
"""


def test_many_children_and_threads_share_one_client(server: ReplayServer) -> None:
    run(MANY.format(session="", threads=6), server)
    assert len(server.requests) >= 16 * 24


def test_a_session_that_was_given_gets_pools_of_its_own_in_each_child(server: ReplayServer) -> None:
    run(MANY.format(session=GIVEN, threads=6), server)
    assert len(server.requests) >= 16 * 24


def test_a_child_leaves_its_parents_connection_alone(server: ReplayServer) -> None:
    run(
        """
def grandchild():
    ask("grandchild 1")

def child():
    client.close()
    ask("child 1")
    wait(in_child(grandchild))

ask("parent 1")
wait(in_child(child), in_child(client.close), in_child(lambda: None))
ask("parent 2")
client.close()
""",
        server,
    )
    by_question = {request.json()["messages"][-1]["content"]: request.connection for request in server.requests}
    assert by_question["parent 1"] == by_question["parent 2"]
    assert len(set(by_question.values())) == 3


POOLS = "session.adapters['https://' if url.startswith('https') else 'http://'].poolmanager.pools"
LOCKS = {
    "the client's": ("", "client._transport._lock"),
    "a fallback's": ("client = Client.fallback([client])", "client._endpoints._lock"),
    "the session's cookies": (GIVEN, "session.cookies._cookies_lock"),
    "urllib3's pools": (GIVEN, f"{POOLS}.lock"),
    "urllib3's kept connections": (GIVEN, f"{POOLS}.get(next(iter({POOLS}.keys()))).pool.mutex"),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_that_a_thread_held_at_the_fork_do_not_stop_the_child(server: ReplayServer, lock: str) -> None:
    session, held = LOCKS[lock]
    run(
        session
        + f"""
ask("parent 1")
held, release = threading.Event(), threading.Event()
lock = {held}

def hold():
    with lock:
        held.set()
        release.wait()

def child():
    ask("child 1")
    client.close()

holder = threading.Thread(target=hold)
holder.start()
held.wait()
pid = in_child(child)
release.set()
holder.join()
wait(pid)
client.close()
""",
        server,
    )


def test_a_child_has_none_of_its_parents_calls_in_its_balance(server: ReplayServer) -> None:
    run(
        """
client = Client.fallback([client, Client(url, model="m", timeout=20)], balance=True)
stream = client.stream("parent 2")
next(stream)

def outstanding():
    return [endpoint.outstanding for endpoint in client.endpoints]

def child():
    assert outstanding() == [0, 0]
    ask("child 1")
    stream.close()
    assert outstanding() == [0, 0]
    client.close()

assert outstanding() == [1, 0]
wait(in_child(child))
assert stream.until_done().text == "parent 2"
assert outstanding() == [0, 0]
client.close()
""",
        server,
    )


def gated(gate: threading.Event) -> Iterator[bytes]:
    yield chunk({"content": "first"})
    gate.wait(30)
    yield from stream_pieces(" last")


HALF_READ = """
from openai_compat import APIConnectionError
stream = client.stream("hi")
assert next(stream).delta == "first"

def child():
    {in_child}

wait(in_child(child))
print("go", flush=True)
assert stream.until_done().text == "first last"
client.close()
"""


@pytest.mark.parametrize(
    "in_child",
    ["stream.cancel()", "stream.close()", "pass", "os._exit(0)", "client.close()"],
)
def test_a_stream_of_the_parent_goes_on_whatever_the_child_does(server: ReplayServer, in_child: str) -> None:
    gate = threading.Event()
    server._replies = lambda request: Reply(headers=EVENT_STREAM, body=gated(gate))
    process = start(HALF_READ.format(in_child=in_child), server)
    assert process.stdout is not None
    said = process.stdout.readline()
    gate.set()
    _, errors = process.communicate(timeout=60)
    assert (said, process.returncode) == ("go\n", 0), errors


def test_a_child_cannot_read_its_parents_stream(server: ReplayServer) -> None:
    gate = threading.Event()
    server._replies = lambda request: Reply(headers=EVENT_STREAM, body=gated(gate))
    read = """
    try:
        stream.until_done()
    except APIConnectionError as error:
        assert "parent process" in str(error)
    else:
        raise AssertionError("the child has read it")
"""
    process = start(HALF_READ.format(in_child=read.strip()), server)
    assert process.stdout is not None
    said = process.stdout.readline()
    gate.set()
    _, errors = process.communicate(timeout=60)
    assert (said, process.returncode) == ("go\n", 0), errors


def test_the_server_sees_a_stream_closed_though_a_child_has_a_copy_of_its_socket(server: ReplayServer) -> None:
    gate = threading.Event()
    server._replies = lambda request: Reply(headers=EVENT_STREAM, body=gated(gate))
    process = start(
        """
stream = client.stream("hi")
next(stream)
pid = in_child(sys.stdin.readline)
stream.close()
wait(pid)
client.close()
""",
        server,
    )
    try:
        while not server.requests:
            assert process.poll() is None
            threading.Event().wait(0.01)
        assert server.requests[0].closed.wait(10)
        assert process.poll() is None, "the child is still there"
    finally:
        gate.set()
        _, errors = process.communicate("\\n", timeout=60)
    assert process.returncode == 0, errors


def test_a_child_looks_after_its_own_browsers(server: ReplayServer) -> None:
    gate = threading.Event()
    server._replies = lambda request: Reply(headers=EVENT_STREAM, body=gated(gate))
    with start(
        """
import socket
from openai_compat.web import EventStream

def visit():
    ours, browser = socket.socketpair()
    return EventStream(client.stream("hi"), environ={"gunicorn.socket": ours}, heartbeat=60), browser, ours

def leave(body, browser, ours):
    browser.close()
    list(body)
    ours.close()

parents = visit()
wait(in_child(lambda: leave(*visit())))
# Its parent's was not cancelled with it.
assert b"first" in next(parents[0]) + next(parents[0])
leave(*parents)
client.close()
""",
        server,
    ) as process:
        _, errors = process.communicate()
    gate.set()
    assert process.returncode == 0, errors
    assert server.wait_closed()
