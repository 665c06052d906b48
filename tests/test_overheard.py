"""Whatever the suite logs, prints, raises or stores is looked through for the keys that it uses."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.overheard import Overheard

from openai_compat import Client

KEY = "sk-overheard-55aa77"
TESTS = Path(__file__).parent
SUITE = f"""
import logging, subprocess, sys
from openai_compat import APIConnectionError, Client, OpenAICompatError

KEY = {KEY!r}

def test_key_is_used(): Client("http://127.0.0.1:9/v1", KEY).close()
def test_logged(): logging.getLogger("any").warning("asked with %s", KEY)
def test_printed(): print("asked with", KEY)
def test_printed_and_read(capsys): print("asked with", KEY); capsys.readouterr()
def test_printed_by_a_child(): subprocess.run([sys.executable, "-c", f"print({{KEY!r}})"], capture_output=True)
def test_raised(): OpenAICompatError(f"asked with {{KEY}}")
def test_led_to_an_error():
    try:
        raise OSError(f"asked with {{KEY}}")
    except OSError as error:
        APIConnectionError("lost").__cause__ = error
def test_stored(tmp_path): (tmp_path / "run.sqlite").write_bytes(b"\\x00\\xffasked with " + KEY.encode())
def test_nothing(tmp_path): print("asked"); (tmp_path / "any.py").write_text(KEY)
"""
"""One way out a test; the first and the last let nothing out."""


@pytest.fixture
def listener() -> Overheard:
    found = Overheard()
    found.learn([KEY])
    return found


@pytest.mark.process
def test_each_way_out_fails_its_test_in_a_worker(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from support.overheard import Overheard\n"
        "def pytest_configure(config): config.pluginmanager.register(Overheard())\n"
    )
    (tmp_path / "test_suite.py").write_text(SUITE)
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    options = ["-n1", "-p", "no:cacheprovider", "-rE", "--basetemp", str(tmp_path / "made")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    every = re.findall(r"def (test_\w+)", SUITE)
    assert set(re.findall(r"^ERROR test_suite.py::(\w+)", ran.stdout, re.MULTILINE)) == {*every[1:-1]}, ran.stdout
    assert f"{len(every)} passed, {len(every) - 2} errors" in ran.stdout


def test_the_key_of_a_client_is_known(request: pytest.FixtureRequest) -> None:
    whole: Overheard = request.config.pluginmanager.get_plugin("overheard")
    Client("http://127.0.0.1:9/v1", KEY[::-1]).close()
    assert KEY[::-1] in whole.keys


def test_where_a_key_is_said_is_found_once(listener: Overheard) -> None:
    listener.say("logged", f"asked with {KEY}")
    assert listener.found() == [f"logged: 'asked with {KEY}'"]
    assert listener.found() == []


@pytest.mark.parametrize("around", ["", "Bearer ", "u:", "user:"])
def test_a_key_in_base64_is_found(listener: Overheard, around: str) -> None:
    listener.say("printed", base64.b64encode(f"{around}{KEY}:".encode()).decode())
    assert listener.found()


def test_nothing_else_is_a_key(listener: Overheard) -> None:
    listener.learn(["short"])
    listener.say("printed", f"short {KEY[:-1]} {base64.b64encode(KEY[:-3].encode()).decode()}")
    assert listener.found() == []


def test_much_that_is_said_is_looked_through_on_the_way(listener: Overheard) -> None:
    listener.say("printed", KEY)
    for number in range(2000):
        listener.say("printed", f"{number}")
    assert len(listener._said) < 600
    assert listener.found() == [f"printed: '{KEY}'"]
