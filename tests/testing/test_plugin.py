"""The pytest plugin, in suites of users' that a child runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openai_compat.testing import FakeServer, stream_of
from openai_compat.testing.plugin import file_name

from .suites import TWENTY, run, run_installed

pytestmark = pytest.mark.process


def test_a_suite_of_twenty_passes_with_real_calls_blocked(tmp_path: Path) -> None:
    suite = f"""{TWENTY}
def test_the_library_is_not_rewritten():
    from openai_compat import client
    assert "pytest" not in type(client.__loader__).__module__
"""
    said = run_installed(tmp_path, suite, ini="openai_compat_block = true\nfilterwarnings = error")
    assert "21 passed" in said, said


def test_a_suite_that_asks_for_nothing_pays_nothing(tmp_path: Path) -> None:
    suite = """
import socket, sys
import pytest

def test_nothing_of_it_is_loaded():
    loaded = {name for name in sys.modules if name.partition(".")[0] == "openai_compat"}
    assert loaded == {"openai_compat", "openai_compat.testing", "openai_compat.testing.plugin"}

def test_nothing_is_blocked():
    from openai_compat import APIConnectionError, Client
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(APIConnectionError):
        Client(f"http://127.0.0.1:{port}", max_retries=0).chat("hi", model="m")

@pytest.fixture
def recorded():
    class Own:
        def verify(self):
            raise AssertionError("not the plugin's to call")
    return Own()

@pytest.mark.real_calls
def test_the_mark_is_known_and_a_fixture_of_its_own_is_let_alone(recorded): pass
"""
    said = run(tmp_path, suite)
    assert "3 passed" in said, said


BLOCKED = """
import socket
import pytest, requests, responses
from openai_compat import APIConnectionError, Client, FallbackClient
from openai_compat.testing import FakeServer, RealCallBlockedError

URL = "https://api.example.com/v1"

def ask(**options):
    return Client(URL, "key", max_retries=0, **options).chat("hi", model="m").text

@pytest.mark.parametrize("options", [{}, {"session": requests.Session()}, {"proxies": {"https": "http://10.1.2.3:1"}}])
def test_fails_blocked(options):
    ask(**options)

def test_fails_swallowed():
    try:
        ask()
    except Exception:
        pass

def test_fails_in_threads():
    run = Client(URL, "key", max_retries=0, model="m").map(["a", "b"], workers=2)
    with pytest.raises(Exception):
        list(run)

def test_fails_local():
    with pytest.raises(RealCallBlockedError):
        Client.from_env(local=True)

@responses.activate
def test_passes_mocked():
    choice = {"index": 0, "message": {"role": "assistant", "content": "mocked"}, "finish_reason": "stop"}
    responses.post(f"{URL}/chat/completions", json={"choices": [choice]})
    assert ask() == "mocked"

def test_passes_fake():
    with FakeServer("fake") as server:
        assert server.client().chat("hi").text == "fake"
        assert server.client(session=requests.Session()).models()
        assert Client(server.url.replace("127.0.0.1", "localhost")).models()

def test_passes_other_sockets():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        socket.create_connection(bound.getsockname()).close()

@pytest.mark.real_calls
def test_passes_marked():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(APIConnectionError):
        Client(f"http://127.0.0.1:{port}", max_retries=0).chat("hi", model="m")

def test_fails_after_a_marked_one():
    ask()
"""


def test_real_calls_are_blocked_unless_marked(tmp_path: Path) -> None:
    said = run(tmp_path, BLOCKED, ini="openai_compat_block = true", environment={"OPENAI_BASE_URL": ""})
    failed = {line.split(" - ")[0].rpartition("::")[2] for line in said.splitlines() if line.startswith("FAILED")}
    assert {name.partition("[")[0] for name in failed} == {
        "test_fails_blocked",
        "test_fails_swallowed",
        "test_fails_in_threads",
        "test_fails_local",
        "test_fails_after_a_marked_one",
    }, said
    assert "7 failed, 4 passed" in said
    assert "a call to api.example.com:443 was blocked, for openai_compat_block is on" in said
    assert "a call to 10.1.2.3:1 was blocked" in said


UNSCRIPTED = """
import pytest
from openai_compat import Client
from openai_compat.testing import error

def test_swallowed(fake_server):
    try:
        Client.from_env().chat("the question")
    except Exception:
        pass

def test_raised(fake_client):
    fake_client.chat("another")

def test_scripted(fake_server):
    fake_server.add("ok")
    assert Client.from_env().chat("hi").text == "ok"
"""


def test_what_is_not_scripted_fails_the_test(tmp_path: Path) -> None:
    said = run(tmp_path, UNSCRIPTED)
    assert "2 failed, 1 passed in" in said, said
    assert "the fake server was asked what is not scripted:" in said
    assert "whose last message (user) is 'the question'" in said
    assert "- openai_compat -" in said, "what was found in a test that had failed"


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("test_rain", "test_rain"),
        ("TestRain::test_snow[a-1]", "TestRain.test_snow-a-1"),
        ("test_rain[a b]", "test_rain-a-b-[0-9a-f]{8}"),
        ("test_rain[a/b]", "test_rain-a-b-[0-9a-f]{8}"),
        (f"test_rain[{'x' * 300}]", "test_rain-x{90}-[0-9a-f]{8}"),
    ],
)
def test_a_recording_is_named_after_its_test(test: str, name: str) -> None:
    assert re.fullmatch(name, file_name(test))
    assert file_name(test) != file_name(f"{test}?")


RECORDED = """
import os
from openai_compat import Client

def test_an_answer(recorded):
    client = Client(os.environ["SERVER"], "sk-very-secret-key-1", model="m")
    assert client.chat(os.environ.get("QUESTION", "hi"), sink=lambda event: None).text == "Hello"
"""


def test_calls_are_recorded_and_replayed(tmp_path: Path) -> None:
    with FakeServer(stream_of("Hel", "lo"), stream_of("Hello")) as server:
        environment = {"SERVER": server.url}
        blocked = "openai_compat_block = true"

        said = run(tmp_path, RECORDED, ini=blocked, environment=environment)
        assert "1 failed" in said
        assert "--openai-compat-record=once" in said

        said = run(tmp_path, RECORDED, "--openai-compat-record=once", ini=blocked, environment=environment)
        assert "1 passed" in said, said
        (file,) = (tmp_path / "recordings" / "test_users").glob("*.json")
        assert file.name == "test_an_answer.json"
        assert "secret" not in file.read_text()

        said = run(tmp_path, RECORDED, ini=blocked, environment=environment)
        assert "1 passed" in said, said

        said = run(tmp_path, RECORDED, ini=blocked, environment={**environment, "QUESTION": "ho"})
        assert "1 failed" in said
        assert 'body.messages[0].content: "ho", not "hi"' in said
        assert len(server.requests) == 1
