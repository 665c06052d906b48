"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from openai_compat import LocalServer
from openai_compat.providers import PROVIDERS

# A shell that runs this in the background ignores Ctrl-C, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, server or proxy of whoever runs the tests."""
    named = {row.key_variable for row in PROVIDERS.values() if row.key_variable}
    others = {"OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_VERSION", "AZURE_OPENAI_ENDPOINT", "OLLAMA_HOST", "NETRC"}
    proxies = {name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")}
    for name in named | others | proxies:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def local_server() -> Iterator[LocalServer]:
    """The real llama.cpp server with the real model."""
    with LocalServer() as server:
        yield server
