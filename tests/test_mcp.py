"""MCP tools against real servers: a child process over stdio, the same one over HTTP, and ones that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from anyio.from_thread import BlockingPortal
from support.mcp_server import PIXEL
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, tool_call

import openai_compat.tools.mcp
from openai_compat import Cancelled, CancelToken, Client, ConfigurationError, Image
from openai_compat.errors import ToolError
from openai_compat.tools.mcp import mcp_tools
from openai_compat.tools.tool import Tool

SERVER = [sys.executable, str(Path(__file__).parent / "support" / "mcp_server.py")]
SECRET = "c0ffee-5ecret-value"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    return {tool.spec.name: tool for tool in tools}


def eventually(true: Callable[[], object], seconds: float = 10.0) -> bool:
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("openai_compat mcp")}


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Every test, however its server fails, ends without our threads, and with the children that it began with."""
    threads, children = our_threads(), psutil.Process().children(recursive=True)
    yield
    assert our_threads() <= threads
    assert set(psutil.Process().children(recursive=True)) <= set(children)


@pytest.fixture(scope="module")
def stdio() -> Iterator[dict[str, Tool]]:
    with mcp_tools(command=SERVER) as tools:
        yield by_name(tools)


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    with subprocess.Popen([*SERVER, "http"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def http(http_url: str) -> Iterator[dict[str, Tool]]:
    with mcp_tools(url=http_url) as tools:
        yield by_name(tools)


@pytest.fixture(scope="module", params=["stdio", "http"])
def tools(request: pytest.FixtureRequest) -> dict[str, Tool]:
    found: dict[str, Tool] = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["stdio", "http"])
def where(request: pytest.FixtureRequest, http_url: str) -> dict[str, Any]:
    """How to reach a server that a test has for itself."""
    return {"url": http_url} if request.param == "http" else {"command": SERVER}


# What the model is told.


def test_all_pages_of_the_list_are_read(stdio: dict[str, Tool]) -> None:
    assert len(stdio) == 20
    assert {"add", "die"} <= set(stdio), "the first and the last"


def test_a_tool_is_described_as_the_server_does(stdio: dict[str, Tool]) -> None:
    spec = stdio["add"].spec
    number = {"type": "number"}
    assert spec.description == "Add two numbers."
    assert spec.parameters["properties"] == {"a": number, "b": number}
    assert spec.parameters["required"] == ["a", "b"]


def test_a_tool_without_a_description_gets_none_of_ours(stdio: dict[str, Tool]) -> None:
    assert stdio["nothing"].spec.description == ""


def test_a_tool_without_parameters_has_properties_all_the_same(stdio: dict[str, Tool]) -> None:
    assert stdio["pid"].spec.parameters == {"type": "object", "properties": {}}


def test_a_name_that_no_server_would_take_is_made_fit(stdio: dict[str, Tool]) -> None:
    assert stdio["files_read_all"].run({"path": "x"}) == "read x"


def test_only_some_under_a_prefix() -> None:
    with mcp_tools(command=SERVER, only={"pid", "files.read/all", "add"}, prefix="my.") as tools:
        assert [tool.spec.name for tool in tools] == ["my_add", "my_files_read_all", "my_pid"]
        assert by_name(tools)["my_add"].run({"a": 1, "b": 2}) == "3"


def test_only_takes_names_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no tool named 'sub', 'div'; it has add, fail, .*die") as caught:
        with mcp_tools(command=SERVER, only=["sub", "add", "div"]):
            pytest.fail("entered")
    assert caught.value.__context__ is None


# What a tool gives back.


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add", {"a": 2, "b": 3}, "5"),
        ("lines", {}, "one\ntwo"),
        ("structured", {}, {"n": 7}),
        ("both", {}, "n is 7"),
        ("nothing", {}, None),
        ("keywords", {"self": "a", "name": "b", "arguments": "c"}, "a+b+c"),
        (
            "resources",
            {},
            "remember\n[resource memo://2, application/zip, not shown]\n"
            "[resource memo: memo://3]\n[audio, audio/wav, not shown]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_a_result(name: str, arguments: Any, result: Any, tools: dict[str, Tool]) -> None:
    assert tools[name].run(arguments) == result


def test_an_image_is_an_image(stdio: dict[str, Tool]) -> None:
    text, image = stdio["picture"].run({})
    assert text == "one pixel"
    assert isinstance(image, Image)
    head, _, data = image.url.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == PIXEL


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", "^the disk is full\ntry later$"),
        ("fail_silently", "did not say why"),
        ("crash", "^Internal server error$"),
        ("malformed", "'seven' is not of type 'integer'"),
        ("add", "."),
    ],
)
def test_a_failure_is_told_to_the_model(name: str, message: str, tools: dict[str, Tool]) -> None:
    with pytest.raises(ToolError, match=message):
        tools[name].run({})


def test_a_call_that_takes_too_long(where: dict[str, Any], tmp_path: Path) -> None:
    with mcp_tools(**where, call_timeout=3.0) as tools:
        with pytest.raises(ToolError, match="no answer within 3 s"):
            by_name(tools)["slow"].run({"folder": str(tmp_path)})
        assert eventually((tmp_path / "cancelled").exists), "the server was not told"
        assert by_name(tools)["add"].run({"a": 1, "b": 1}) == "2"


def test_a_server_that_dies_fails_its_calls_and_closes_quietly() -> None:
    with mcp_tools(command=SERVER) as tools:
        for name in ("die", "pid"):
            with pytest.raises(ToolError, match="Connection closed"):
                by_name(tools)[name].run({})


# Threads and loops.


def test_calls_from_several_threads_are_under_way_together(tools: dict[str, Tool]) -> None:
    meet = tools["meet"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: meet.run({"guests": 4}), range(4), timeout=30))
    assert answers == ["all here"] * 4


def test_it_blocks_as_well_where_a_loop_is_running() -> None:
    async def cell() -> Any:
        with mcp_tools(command=SERVER, only=["add"]) as (add,):
            return add.run({"a": 2, "b": 2})

    assert asyncio.run(cell()) == "4"


def test_two_servers_at_a_time() -> None:
    with mcp_tools(command=SERVER, only=["pid"], prefix="one_") as one:
        with mcp_tools(command=SERVER, only=["pid"], prefix="two_") as two:
            assert len({tool.run({}) for tool in (*one, *two)}) == 2


# The end.


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
def test_the_child_is_gone_after_the_block(raised: type[BaseException] | None) -> None:
    with contextlib.nullcontext() if raised is None else pytest.raises(raised) as caught:
        with mcp_tools(command=SERVER, only=["pid"]) as (tool,):
            pid = int(tool.run({}))
            assert psutil.pid_exists(pid)
            if raised is not None:
                raise raised("mine")
    assert not psutil.pid_exists(pid), "not ended, or not reaped"
    if caught is not None:
        assert caught.value.args == ("mine",)


def test_the_connections_are_closed_after_the_block(http_url: str) -> None:
    port = int(http_url.split(":")[2].partition("/")[0])

    def connected() -> set[int]:
        found = psutil.Process().net_connections(kind="tcp")
        return {there.laddr.port for there in found if there.raddr and there.raddr.port == port}

    others = connected()
    with mcp_tools(url=http_url, only=["add"]) as (add,):
        add.run({"a": 1, "b": 1})
        ours = connected() - others
        assert ours
    assert not connected() & ours


def test_a_tool_used_after_the_block_says_so() -> None:
    with mcp_tools(command=SERVER, only=["add"]) as (add,):
        pass
    with pytest.raises(ConfigurationError, match=r"'add' is closed: call it inside the `with mcp_tools"):
        add.run({"a": 1, "b": 1})


def test_closing_ends_a_call_on_another_thread(where: dict[str, Any], tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with mcp_tools(**where, only=["slow"]) as (slow,):
            call = pool.submit(slow.run, {"folder": str(tmp_path)})
            assert eventually((tmp_path / "started").exists)
        with pytest.raises(ConfigurationError, match="'slow' is closed"):
            call.result(timeout=10)


@contextlib.contextmanager
def ctrl_c_after(path: Path) -> Iterator[None]:
    """Interrupts the block as soon as there is a file."""
    heard = threading.Event()

    def hear(*_: object) -> None:
        if not heard.is_set():
            heard.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        if eventually(path.exists):
            # A signal may come just before a wait that it was to end, hence again.
            for _ in range(200):
                os.kill(os.getpid(), signal.SIGINT)
                if heard.wait(0.05):
                    return

    before = signal.signal(signal.SIGINT, hear)
    helper = threading.Thread(target=interrupt)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        heard.set()
        helper.join()
        signal.signal(signal.SIGINT, before)


def test_a_cancelled_token_ends_the_call_there_too(tools: dict[str, Tool], tmp_path: Path) -> None:
    token = CancelToken()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(tools["slow"].run, {"folder": str(tmp_path)}, token)
        assert eventually((tmp_path / "started").exists)
        token.cancel()
        with pytest.raises(Cancelled):
            call.result(timeout=10)
    assert eventually((tmp_path / "cancelled").exists), "the server was not told"
    assert tools["add"].run({"a": 1, "b": 1}, CancelToken()) == "2"


def test_a_token_that_is_cancelled_already_begins_no_call(stdio: dict[str, Tool], tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    for turn in range(20):
        with pytest.raises(Cancelled):
            stdio["touch"].run({"path": str(tmp_path / str(turn))}, token)
    stdio["touch"].run({"path": str(tmp_path / "last")})
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_call_there_too(tools: dict[str, Tool], tmp_path: Path) -> None:
    with ctrl_c_after(tmp_path / "started"):
        tools["slow"].run({"folder": str(tmp_path)})
    assert eventually((tmp_path / "cancelled").exists), "the server was not told"
    assert tools["pid"].run({}).isdigit(), "the session does not live on"


def test_a_call_whose_caller_is_torn_away_while_it_begins_ends_too(
    tools: dict[str, Tool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = BlockingPortal.start_task_soon

    def torn(portal: BlockingPortal, *call: Any) -> None:
        begin(portal, *call)
        assert eventually((tmp_path / "started").exists)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockingPortal, "start_task_soon", torn)
        with pytest.raises(KeyboardInterrupt):
            tools["slow"].run({"folder": str(tmp_path)})
    assert eventually((tmp_path / "cancelled").exists), "the server was not told"
    assert tools["pid"].run({}).isdigit(), "the session does not live on"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_it_starts_leaves_no_child(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with ctrl_c_after(started):
        with mcp_tools(command=python(f"open({str(started)!r}, 'w'); import sys; sys.stdin.buffer.raw.readall()")):
            pytest.fail("entered")


# Servers that do not start.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ["no-such-program", "--fast"]}, r"\(no-such-program --fast\): .*No such file"),
        ({"command": SERVER, "cwd": "/no/such/folder"}, r"mcp_server\.py\): .*No such file.*/no/such/folder"),
        ({"command": python("import sys; sys.exit('no licence')")}, r"Connection closed; it wrote:\nno licence$"),
        ({"command": python("print('hello')")}, "Connection closed$"),
        ({"command": python("import time; time.sleep(600)"), "timeout": 0.2}, r"no answer within 0\.2 s$"),
        ({"url": "http://127.0.0.1:9/mcp"}, r"\(http://127\.0\.0\.1:9/mcp\): All connection attempts failed$"),
    ],
    ids=["no program", "no folder", "ends at once", "speaks no MCP", "silent", "refuses"],
)
def test_a_server_that_does_not_start(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        with mcp_tools(**options):
            pytest.fail("entered")
    assert str(caught.value).startswith("the MCP server did not start (")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "anyio's groups would be shown"


def test_a_silent_http_server_is_left_in_time() -> None:
    def silent(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            request.closed.wait(20)
            yield b""

        return Reply(headers=JSON, body=body())

    with ReplayServer(silent) as server:
        with pytest.raises(ConfigurationError, match=r"no answer within 0\.2 s"):
            with mcp_tools(url=server.url, timeout=0.2):
                pytest.fail("entered")
        assert server.wait_closed()


def test_only_the_last_of_a_long_log_is_shown() -> None:
    code = "import sys; sys.stderr.write('early ' + 'x' * 300_000 + '\\nlast words'); sys.exit(1)"
    with pytest.raises(ConfigurationError, match=r"x\nlast words$") as caught:
        with mcp_tools(command=python(code)):
            pytest.fail("entered")
    assert len(str(caught.value)) < 5000
    assert "early" not in str(caught.value).partition("it wrote:")[2]


def test_a_server_that_logs_a_lot_is_not_held_up() -> None:
    code = f"import sys; sys.stderr.write('x' * 1_000_000); import runpy; sys.argv = {SERVER[1:]!r}\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with mcp_tools(command=python(code), only=["add"]) as (add,):
        assert add.run({"a": 1, "b": 1}) == "2"


@pytest.mark.skipif(os.name != "posix", reason="sh")
def test_a_process_that_a_server_leaves_behind_holds_nobody_up() -> None:
    before = our_threads()
    script = "sleep 60 >/dev/null <&- & echo left $! behind >&2; exit 1"
    with pytest.raises(ConfigurationError, match=r"left \d+ behind") as caught:
        with mcp_tools(command=["sh", "-c", script]):
            pytest.fail("entered")
    os.kill(int(re.findall(r"left (\d+) behind", str(caught.value))[-1]), signal.SIGKILL)
    assert eventually(lambda: our_threads() <= before)


# What nobody may see.


def test_no_value_of_the_environment_is_shown() -> None:
    code = "import os, sys; sys.exit('refused: ' + os.environ['LICENCE'] + ' from ' + os.environ['FOLDER'])"
    folder = os.path.dirname(__file__)
    with pytest.raises(ConfigurationError) as caught:
        with mcp_tools(command=[*python(code), f"--licence={SECRET}"], env={"LICENCE": SECRET, "FOLDER": folder}):
            pytest.fail("entered")
    assert f"refused: *** from {folder}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:9/mcp", {"X-Licence": SECRET}),
        ("http://127.0.0.1:9/mcp", {"X-Licence": SECRET + "\x01"}),
        (f"http://user:{SECRET}@127.0.0.1:9/mcp?licence={SECRET}", None),
    ],
    ids=["header", "illegal header", "url"],
)
def test_no_header_and_no_password_is_shown(url: str, headers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\(http://127\.0\.0\.1:9/mcp\)") as caught:
        with mcp_tools(url=url, headers=headers):
            pytest.fail("entered")
    assert SECRET[:8] not in str(caught.value)


# The arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either command= or url="),
        ({"command": SERVER, "url": "http://127.0.0.1:9/"}, "either command= or url="),
        ({"command": "python server.py"}, "a list of words"),
        ({"command": []}, "a list of words"),
        ({"command": SERVER, "headers": {"A": "b"}}, "headers go with url="),
        ({"url": "http://127.0.0.1:9/", "env": {"A": "b"}}, "go with command="),
        ({"url": "http://127.0.0.1:9/", "cwd": "."}, "go with command="),
        ({"url": "127.0.0.1:9/mcp"}, "an http or https URL"),
        ({"url": "file:///etc/passwd"}, "an http or https URL"),
        ({"url": "http://127.0.0.1:9/", "headers": {"A": "b\r\nC: d"}}, "'A' has a line break"),
        ({"command": SERVER, "env": {"PORT": 8000}}, "env 'PORT' must be a string"),
        ({"command": SERVER, "only": "add"}, r"such as \['add'\]"),
        ({"command": SERVER, "timeout": 0}, "timeout must be a positive number"),
        ({"command": SERVER, "timeout": None}, "timeout must be a positive number"),
        ({"command": SERVER, "call_timeout": -1.0}, "call_timeout must be a positive number"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        mcp_tools(**options)


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'openai-compat\[mcp\]'"):
        mcp_tools(command=SERVER)


def test_the_program_gets_its_variables_and_its_folder_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "ours")
    with mcp_tools(command=SERVER, env={"THEIRS": "theirs"}, cwd=tmp_path, only=["environment"]) as (tool,):
        assert tool.run({"variable": "THEIRS"}) == f"theirs\n{tmp_path.name}"
        assert tool.run({"variable": "OURS"}).startswith("unset")


def test_headers_go_with_every_call(http_url: str) -> None:
    with mcp_tools(url=http_url, headers={"X-Mine": "yes"}, only=["header"]) as (tool,):
        assert tool.run({"name": "X-Mine"}) == "yes"


# A server of the first kind of the protocol, with a session that has to be ended.


class OldServer:
    """Knows ``initialize`` but not ``server/discover``; with ``hangs``, it never answers a DELETE."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs = hangs

    def __call__(self, request: Request) -> Reply:
        if request.method != "POST":
            return self.delete(request) if request.method == "DELETE" else Reply(status=405)
        asked = request.json()
        if "id" not in asked:
            return Reply(status=202)
        result: dict[str, Any] = {}
        if asked["method"] == "initialize":
            version = asked["params"]["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}}
        elif asked["method"] == "tools/list":
            result = {"tools": [{"name": "old", "inputSchema": {"type": "object"}}]}
        else:
            error = {"code": -32601, "message": "Method not found"}
            return Reply(headers=JSON, body=json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode())
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
        return Reply(headers={**JSON, "Mcp-Session-Id": "s1"}, body=json.dumps(answer).encode())

    def delete(self, request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            request.closed.wait(20)
            yield b""

        return Reply(headers=JSON, body=body() if self.hangs else b"")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_session_over_http_is_ended_and_not_waited_for(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_compat.tools.mcp, "CLOSE_SECONDS", 0.3 if hangs else 20.0)
    with ReplayServer(OldServer(hangs=hangs)) as server:
        with mcp_tools(url=server.url, headers={"X-Mine": "yes"}) as (old,):
            assert old.spec.name == "old"
        assert server.wait_closed()
    last = server.requests[-1]
    assert (last.method, last.headers["Mcp-Session-Id"]) == ("DELETE", "s1")
    assert {request.headers["X-Mine"] for request in server.requests} == {"yes"}


# The whole loop.


def test_a_model_runs_the_tools(stdio: dict[str, Tool]) -> None:
    calls = [
        tool_call("add", '{"a": 2, "b": 3}', "c1"),
        tool_call("fail", "{}", "c2"),
        tool_call("structured", "", "c3"),
    ]
    asks = chat_reply(None, finish_reason="tool_calls", tool_calls=calls)
    with ReplayServer([asks, chat_reply("5 it is")]) as server, Client(server.url, model="m") as client:
        answer = client.run_tools("What is 2 + 3?", tools=stdio.values())
    assert answer.text == "5 it is"
    first, second = (request.json() for request in server.requests)
    told = {entry["function"]["name"]: entry["function"] for entry in first["tools"]}
    assert told.keys() == stdio.keys()
    assert told["add"]["parameters"]["required"] == ["a", "b"]
    results = {m["tool_call_id"]: m["content"] for m in second["messages"] if m["role"] == "tool"}
    assert results["c1"] == "5"
    assert "the disk is full" in results["c2"]
    assert json.loads(results["c3"]) == {"n": 7}
