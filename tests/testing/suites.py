"""Users' test suites, run by pytest in a child that has the plugin by its entry point.

``python -m testing.suites``, in ``tests``, measures a suite of twenty tests.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import openai_compat

ROOT = Path(__file__).parents[2]
PACKAGE = Path(openai_compat.__file__).parents[1]

TWENTY = '''
import pytest

from openai_compat import Client, RateLimitError, tool
from openai_compat.testing import answer, error, stream_of, tool_call


def ask(question):
    """The code under test: it knows nothing of any test."""
    with Client.from_env(max_retries=0) as client:
        return client.chat(question).text


@tool
def weather(city: str) -> str:
    "The weather."
    return f"rain in {city}"


@pytest.mark.parametrize("number", range(8))
def test_an_answer(fake_server, number):
    fake_server.add(f"answer {number}")
    assert ask(f"question {number}") == f"answer {number}"
    fake_server.assert_asked(f"question {number}", times=1)


@pytest.mark.parametrize("number", range(4))
def test_a_stream(fake_server, fake_client, number):
    fake_server.add(stream_of("Hel", "lo"))
    pieces = []
    fake_client.chat("hi", sink=lambda event: pieces.append(event.delta))
    assert pieces[:2] == ["Hel", "lo"]


@pytest.mark.parametrize("number", range(4))
def test_a_tool(fake_server, fake_client, number):
    fake_server.add(answer(tool_calls=[tool_call("weather", city="Oslo")]))
    fake_server.add("It rains.")
    assert fake_client.run_tools("Weather?", tools=[weather]).text == "It rains."
    fake_server.assert_asked("rain in Oslo")


@pytest.mark.parametrize("number", range(2))
def test_an_error(fake_server, number):
    fake_server.add(error(429))
    with pytest.raises(RateLimitError):
        ask("hi")


@pytest.mark.parametrize("number", range(2))
def test_embeddings(fake_server, fake_client, number):
    assert fake_client.embed(["a", "b"]).dims == 8
'''


EARLY = "import sys, openai_compat, pytest; sys.exit(pytest.main())"


def run(folder: Path, suite: str, *options: str, ini: str = "", environment: Mapping[str, str] | None = None) -> str:
    """What pytest, with no plugin but ours, says of a suite; its exit status is the last line."""
    return _run(
        folder,
        suite,
        ["-p", "openai_compat.testing.plugin", *options],
        ini,
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(PACKAGE), **(environment or {})},
    )


def run_installed(folder: Path, suite: str, ini: str = "") -> str:
    """The same with all plugins that are installed, and ours by its entry point, as if this very tree were.

    The library is imported before pytest begins, as a program is that has a command for its tests.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    installed = folder / "site" / "openai_compat_tree-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "entry_points.txt").write_text(f"[pytest11]{setup['options.entry_points']['pytest11']}\n")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-compat-tree\nVersion: 0\n")
    (installed / "RECORD").write_text("openai_compat/__init__.py,,\nopenai_compat/client.py,,\n")
    path = os.pathsep.join([str(PACKAGE), str(installed.parent)])
    return _run(folder, suite, [], ini, {"PYTHONPATH": path}, start=["-c", EARLY])


def _run(
    folder: Path,
    suite: str,
    options: list[str],
    ini: str,
    environment: Mapping[str, str],
    start: Sequence[str] = ("-m", "pytest"),
) -> str:
    (folder / "test_users.py").write_text(suite)
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers --strict-config\n{ini}\n")
    done = subprocess.run(
        [sys.executable, *start, "-q", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": "", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return f"{done.stdout}\n{done.stderr}\nexit status {done.returncode}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        said = run(Path(made), TWENTY)
        found = re.search(r"\d+ passed in .*", said)
        sys.stdout.write(f"{found[0] if found else said}\n")
