"""The pytest plugin: fixtures, and real calls blocked where a suite asks for it.

It loads nothing of the library until a test takes a fixture.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..client import Client
    from .blocking import Blocker
    from .recorder import Recorder
    from .server import FakeServer

_CHECKED = "fake_server", "recorded"
"""Fixtures that have something to say once a test has passed."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    # pytest rewrites the asserts of every package that has a plugin: to import the library would take seconds.
    marked = getattr(pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard("openai_compat")
    parser.getgroup("openai_compat").addoption(
        "--openai-compat-record",
        choices=("none", "once", "new_episodes", "all"),
        default="none",
        help="what the recorded fixture does with calls: replay only (none, the default), record where there is no "
        "file yet (once), record what is new (new_episodes), record all anew (all)",
    )
    parser.addini("openai_compat_block", "block real calls of openai_compat, but for marked tests", "bool", False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_calls: may call real servers, where openai_compat_block is on")
    if config.getini("openai_compat_block"):
        from .blocking import blocker

        blocker.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getini("openai_compat_block") and (blocker := _blocker()):
        blocker.on = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if (blocker := _blocker()) is not None and item.config.getini("openai_compat_block"):
        blocker.on = item.get_closest_marker("real_calls") is None
        blocker.blocked.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Once a test has passed: what a fixture found fails it, though the code under test may have swallowed it."""
    if complaints := _complaints(item):
        pytest.fail("\n".join(complaints), pytrace=False)


def pytest_exception_interact(node: object, report: object) -> None:
    """Where a test has failed: what a fixture found stands below."""
    if isinstance(node, pytest.Item) and isinstance(report, pytest.TestReport) and report.when == "call":
        told = [complaint for complaint in _complaints(node) if complaint not in report.longreprtext]
        report.sections += [("openai_compat", complaint) for complaint in told]


def _complaints(item: pytest.Item) -> list[str]:
    found = []
    for name in _CHECKED:
        fixture = getattr(item, "funcargs", {}).get(name)
        # A suite may have a fixture of its own by this name.
        if fixture is not None and type(fixture).__module__.startswith("openai_compat.testing."):
            try:
                fixture.verify()
            except AssertionError as complaint:
                found.append(str(complaint))
    if (blocker := _blocker()) is not None and blocker.on and blocker.blocked:
        found.append(f"real calls were blocked: {', '.join(dict.fromkeys(blocker.blocked))}")
    return found


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A fake server that the environment names, so that ``Client.from_env()`` asks it; see ``FakeServer``."""
    from ..providers import PROVIDERS
    from .server import FakeServer, UnscriptedRequestError

    server = FakeServer()
    # A patch of its own, which outlives ``monkeypatch.undo()`` in a test.
    with pytest.MonkeyPatch.context() as environment:
        keys = (known.key_variable for known in PROVIDERS.values() if known.key_variable)
        for name in (*keys, "OPENAI_API_VERSION", "AZURE_OPENAI_ENDPOINT", "OLLAMA_HOST"):
            environment.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):  # no proxy stands between a test and this machine
            environment.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server
    try:
        server.close()
    except UnscriptedRequestError as late:
        pytest.fail(str(late), pytrace=False)


@pytest.fixture
def fake_client(fake_server: FakeServer) -> Iterator[Client]:
    """A client of the fake server, which does not try again."""
    with fake_server.client(max_retries=0) as client:
        yield client


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """The calls of a test replayed from ``recordings/<module>/<test>.json`` beside it; see ``Recorder``."""
    from .recorder import Recorder

    name = file_name(request.node.nodeid.partition("::")[2])
    path = Path(request.path).parent / "recordings" / Path(request.path).stem
    recorder = Recorder(path / f"{name}.json", mode=request.config.getoption("--openai-compat-record"))
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def file_name(test: str) -> str:
    """A test's name as a file's, and no other test's: ``TestRain::test_snow[a-1]`` is ``TestRain.test_snow-a-1``.

    What else has no place in the name of a file is left out, and a digest of the whole stands at the end.
    """
    plain = test.replace("::", ".").replace("[", "-", 1).removesuffix("]")
    name = re.sub(r"[^\w.-]+", "-", plain)[:100]
    return name if name == plain else f"{name}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"


def _blocker() -> Blocker | None:
    """What blocks, where a suite has asked for it."""
    module = sys.modules.get("openai_compat.testing.blocking")
    return None if module is None else module.blocker
