"""MCP servers that misbehave: a child process that writes what it may not, or dies; an HTTP server that breaks off."""

from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request

from openai_compat import ConfigurationError
from openai_compat.errors import ToolError
from openai_compat.tools.mcp import mcp_tools

RAW = [sys.executable, str(Path(__file__).parent / "support" / "raw_mcp_server.py")]
SECRET = "c0ffee-5ecret-value"


def in_time(call: Callable[[], Any]) -> Any:
    """What a call gives, unless it hangs."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    # A daemon: one that hangs keeps no test from ending.
    threading.Thread(target=run, daemon=True).start()
    return done.result(timeout=20)


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("openai_compat")]


# A child process.


def test_bytes_that_are_not_utf8_are_replaced_and_later_calls_go_on() -> None:
    with mcp_tools(command=RAW) as (tool,):
        answers = [in_time(lambda x=x: tool.run({"x": x})) for x in ("", "latin1", "print", "")]
    assert answers == ["fine", "caf\ufffd", "fine", "fine"]


def test_what_a_server_prints_to_its_stdout_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with mcp_tools(command=RAW) as (tool,):
        for _ in range(3):
            assert in_time(lambda: tool.run({"x": "print"})) == "fine"
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "raw_mcp_server.py) prints to its stdout, which is for messages: warn: caf\ufffd 1" in record.getMessage()
    assert record.exc_info is None
    assert logging.getLogger("mcp.client.stdio").filters == []


def test_a_server_that_died_is_named_with_its_last_words(caplog: pytest.LogCaptureFixture) -> None:
    with mcp_tools(command=RAW) as (tool,):
        for x in ("die", "", ""):
            with pytest.raises(ToolError, match=r"raw_mcp_server\.py\) has ended; it wrote:\nout of memory$"):
                in_time(lambda x=x: tool.run({"x": x}))
    (said,) = ours(caplog)
    assert "has ended; it wrote: out of memory" in said


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        ("svg", "[image, image/svg+xml, not shown]"),
        ("broken", "[image, image/png, not shown]"),
        ("no picture", "[image, image/png, not shown]"),
    ],
)
def test_what_is_no_picture_is_not_shown_as_one(x: str, shown: str) -> None:
    with mcp_tools(command=RAW) as (tool,):
        assert tool.run({"x": x}) == shown
        with pytest.raises(ToolError, match='"reason": "the disk is full"'):
            tool.run({"x": "reasons"})


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a.b", "a/b"], {}, r"would have one name, 'a_b': 'a\.b' and 'a/b'; leave it out with only="),
        (["a_b", "a/b"], {"prefix": "p."}, "would have one name, 'p_a_b': 'a_b' and 'a/b'"),
        (["x" * 65], {}, f"a name has 65 characters, at most 64 can be told: '{'x' * 65}'"),
        (["x" * 60], {"prefix": "first"}, "65 characters"),
    ],
)
def test_names_that_cannot_be_told_are_refused_with_the_originals(names: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("a name has", "whose name has")):
        with mcp_tools(command=[*RAW, *names], **options):
            pytest.fail("entered")
    with mcp_tools(command=[*RAW, *names, "ok"], only=["ok"]) as (tool,):
        assert tool.spec.name == "ok"


FORKED = """
import os, signal, sys
from openai_compat import ConfigurationError, mcp_tools

with mcp_tools(command=sys.argv[1:]) as (tool,):
    pid = os.fork()
    if not pid:
        signal.alarm(30)
    try:
        print(tool.run({}), flush=True)
    except ConfigurationError as error:
        print("refused" if "not to its fork" in str(error) else error, flush=True)
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        print(tool.run({}), flush=True)
print("left", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_refused_and_leaves_the_block() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, *RAW]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert sorted(ran.stdout.split()) == ["fine", "fine", "left", "left", "refused"], ran.stderr
    assert ran.returncode == 0


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from openai_compat import mcp_tools

def beside():
    open(sys.argv[1], "w").close()

with mcp_tools(command=sys.argv[2:]) as (tool,):
    gevent.spawn_later(0.01, beside)
    print(tool.run({"x": sys.argv[1]}))
"""


def test_greenlets_go_on_beside_a_call(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    command = [sys.executable, "-W", "ignore", "-c", GREENLETS, str(tmp_path / "beside"), *RAW]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "fine\n", ran.stderr


def test_a_call_has_an_end_by_default() -> None:
    assert inspect.signature(mcp_tools).parameters["call_timeout"].default == 300.0


# Over HTTP.


class Sessions:
    """A server whose sessions can be forgotten; ``answers`` says what comes of a call, by its ``x``."""

    def __init__(self, **answers: Callable[[Request], Reply]) -> None:
        self.answers = answers
        self.known: set[str] = set()
        self.begun = 0
        self.ran: list[str] = []

    def __call__(self, request: Request) -> Reply:
        if request.method != "POST":
            return Reply(status=405 if request.method == "GET" else 200)
        asked = request.json()
        if asked.get("method") == "initialize":
            self.begun += 1
            session = f"s{self.begun}"
            self.known.add(session)
            version = asked["params"]["protocolVersion"]
            info = {"name": "sessions", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {}, "serverInfo": info}
            return self.reply(asked, {"Mcp-Session-Id": session}, result=result)
        if asked.get("method") == "server/discover":
            return self.reply(asked, error={"code": -32601, "message": "no"})
        if request.headers["Mcp-Session-Id"] not in self.known:
            return Reply(status=404, body=b"no such session")
        if "id" not in asked:
            return Reply(status=202)
        if asked["method"] == "tools/list":
            return self.reply(asked, result={"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})
        x = asked["params"]["arguments"].get("x", "")
        self.ran.append(x)
        if x in self.answers:
            return self.answers[x](request)
        return self.reply(asked, result={"content": [{"type": "text", "text": "fine"}]})

    @staticmethod
    def reply(asked: Any, headers: Any = None, **said: Any) -> Reply:
        body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}).encode()
        return Reply(headers={**JSON, **(headers or {})}, body=body)


@pytest.mark.parametrize(
    "cut",
    [
        Reply(head=b"", abort="fin"),
        Reply(head=b"", abort="rst"),
        Reply(headers=JSON, body=b'{"jsonrpc":"2.0",', declared_length=900, abort="fin"),
        Reply(headers=JSON, body=b'{"jsonrpc":"2.0",', declared_length=900, abort="rst"),
        Reply(headers=EVENT_STREAM, body=b": wait\n\n", abort="fin"),
        Reply(headers=EVENT_STREAM, body=b": wait\n\n", abort="rst"),
        Reply(headers=EVENT_STREAM, body=b": wait\n\n"),
    ],
    ids=["no answer", "reset", "half an answer", "half and reset", "half a stream", "stream and reset", "no event"],
)
def test_an_exchange_that_breaks_fails_its_own_call_only(cut: Reply, caplog: pytest.LogCaptureFixture) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> Reply:
        arrived.set()
        assert go_on.wait(20)
        return sessions.reply(request.json(), result={"content": [{"type": "text", "text": "slow"}]})

    sessions = Sessions(cut=lambda request: cut, slow=slow)
    with ReplayServer(sessions) as server, mcp_tools(url=server.url) as (tool,), ThreadPoolExecutor(1) as pool:
        beside = pool.submit(tool.run, {"x": "slow"})
        try:
            assert arrived.wait(20)
            with pytest.raises(ToolError, match=r".") as caught:
                in_time(lambda: tool.run({"x": "cut"}))
        finally:
            go_on.set()
        assert beside.result(timeout=20) == "slow"
        assert in_time(lambda: tool.run({})) == "fine"
        (said,) = ours(caplog)
        assert server.url in said, "logged at once"
        assert str(caught.value).startswith(f"the MCP server ({server.url}): ")
        assert str(caught.value).partition("): ")[2] in said
    assert "Connection closed" not in str(caught.value)
    assert sessions.ran == ["slow", "cut", ""], "nothing runs twice"
    assert sessions.begun == 1


def test_a_session_that_was_forgotten_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Sessions()
    with ReplayServer(sessions) as server, mcp_tools(url=server.url) as (tool,):
        assert tool.run({}) == "fine"
        for _ in range(2):
            sessions.known.clear()
            assert in_time(lambda: tool.run({})) == "fine"
        assert in_time(lambda: tool.run({})) == "fine"
    assert sessions.begun == 3
    warnings = [said for said in ours(caplog) if said.startswith("a session is not known any more: ")]
    assert len(warnings) == 2, "each is logged once"
    assert server.url in warnings[0]


def test_calls_at_once_open_a_forgotten_session_once() -> None:
    sessions = Sessions()
    with ReplayServer(sessions) as server, mcp_tools(url=server.url) as (tool,), ThreadPoolExecutor(8) as pool:
        sessions.known.clear()
        assert list(pool.map(tool.run, [{}] * 8, timeout=20)) == ["fine"] * 8
    assert sessions.begun == 2


def test_a_server_that_is_gone_says_so_and_is_found_again(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Sessions(gone=lambda request: Reply(head=b"", abort="fin"))
    with ReplayServer(sessions) as server, mcp_tools(url=server.url) as (tool,):
        for _ in range(3):
            with pytest.raises(ToolError):
                in_time(lambda: tool.run({"x": "gone"}))
        assert len(ours(caplog)) == 1, "one warning until it is back"
        assert in_time(lambda: tool.run({})) == "fine"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(status=401, body=b"who?"),
            "HTTP 401 Unauthorized: it does not know these credentials; .*headers=: who?",
        ),
        (Reply(status=403, body=b""), "HTTP 403 Forbidden: these credentials may not do this$"),
        (Reply(status=429, headers={"Retry-After": "7"}), "HTTP 429 Too Many Requests: .*: try again after 7 s$"),
        (Reply(status=500, headers=JSON, body=b'{"error": {"message": "disk full"}}'), "HTTP 500 .*: disk full$"),
        (
            Reply(
                status=400, headers=JSON, body=b'{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":"bad"}}'
            ),
            "^bad$",
        ),
        (Reply(status=401, body=f"no {SECRET}".encode()), r"no \*\*\*"),
    ],
)
def test_a_status_says_what_it_is(reply: Reply, message: str) -> None:
    sessions = Sessions(refused=lambda request: reply)
    with ReplayServer(sessions) as server, mcp_tools(url=server.url, headers={"X-Key": SECRET}) as (tool,):
        with pytest.raises(ToolError, match=message) as caught:
            in_time(lambda: tool.run({"x": "refused"}))
        assert SECRET not in str(caught.value)
        assert in_time(lambda: tool.run({})) == "fine"
    assert sessions.begun == 1


def test_a_status_at_the_start_says_what_it_is() -> None:
    with ReplayServer(lambda request: Reply(status=401)) as server:
        with pytest.raises(ConfigurationError, match="did not start .*HTTP 401 Unauthorized: .*headers="):
            with mcp_tools(url=server.url):
                pytest.fail("entered")
