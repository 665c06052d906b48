"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.overheard import Overheard

from openai_compat import LocalServer
from openai_compat.providers import PROVIDERS

# A shell that runs this in the background ignores Ctrl-C, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, so that a change is judged by what it changes; nightly looks for new ones.
steady = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", steady, max_examples=10)
settings.register_profile("ci", steady, max_examples=50)
settings.register_profile("nightly", steady, derandomize=False, max_examples=1000)
settings.load_profile("ci")

HERE = Path(__file__).parent
NEEDS = {
    "real_model": ("test_chat_apps", "test_docs", "test_local", "test_real_server"),
    "browser": ("test_chat_apps", "test_chat_page"),
    "kernel": ("test_jupyter",),
    "process": (
        *("hooks/test_foreign_exceptions", "test_celery", "test_cli", "test_fork", "test_mcp", "test_soak"),
        *("transport/test_fork_moments", "web/test_asgi", "web/test_openai_clients", "web/test_servers"),
        *("web/test_event_sources", "test_mcp_faults", "display/test_exports", "display/test_rewrite"),
        *("test_gradio", "test_limits_redis", "test_streamlit"),
    ),
}
"""By file, what its tests need beside Python; a single test is marked where it stands, or by the fixture it takes."""
FIXTURES = {"local_server": "real_model"}
LONG = (
    *("transport/test_fault_table", "test_real_server", "test_chat_page", "test_chat_apps", "transport/test_clock"),
    *("test_mcp", "hooks/test_foreign_exceptions", "test_faults", "web/test_openai_clients", "test_docs"),
    *("schema/test_values", "schema/test_types", "transport/test_fork_moments", "test_transport", "test_fork"),
    *("test_celery", "test_jupyter", "test_soak", "hooks/test_traces", "transport/test_pool_property"),
    *("web/test_stream", "test_local", "fuzz/test_fuzz"),
)
"""Begun first, the longest before others, so that no worker is left alone with one of them at the end."""


SLOW = (
    "batch/",
    "fuzz/",
    "hooks/",
    "probe/",
    "testing/",
    "transport/",
    "web/",
    "test_cache",
    "test_fallback",
    "test_faults",
    "test_limits",
    "test_otel",
    "test_tool_pool",
    "test_django",
    "test_flask",
    "test_transport",
    "test_corpus_tools",
    "test_threads",
)
"""What ``--quick`` leaves out, with what is marked ``slow``: it talks over many sockets, waits, or loads much."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="what runs in seconds, with few examples")


def named(path: Path) -> str:
    return path.relative_to(HERE).with_suffix("").as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = (*SLOW, *(name for files in NEEDS.values() for name in files))
    return True if config.getoption("quick") and named(collection_path).startswith(left_out) else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Overheard(), "overheard")
    if config.getoption("quick"):
        settings.load_profile("quick")
    for name in NEEDS:
        config.addinivalue_line("markers", f"{name}: needs it")
    config.addinivalue_line("markers", "slow: takes more than a second")
    config.addinivalue_line(
        "markers", "own_exception: a key is in an exception of the test's own, which stays as it is"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONG)}
    for item in items:
        name = named(item.path)
        for need, files in NEEDS.items():
            if name in files:
                item.add_marker(need)
        for fixture in FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(FIXTURES[fixture])
    items.sort(key=lambda item: order.get(named(item.path), len(order)))
    if config.getoption("quick"):
        kept = [item for item in items if not any(item.get_closest_marker(name) for name in ("slow", *NEEDS))]
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept


def pytest_collection_finish() -> None:
    # Thousands of tests are no garbage: every full collection would look through them again.
    gc.collect()
    gc.freeze()


@pytest.fixture
def slow_alarm() -> Iterator[None]:
    """A signal that comes soon, and is handled for longer than what is waited for meanwhile."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no alarms")
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.5))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


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
    """The real llama.cpp server with the real model, on one core, for its threads wait by spinning; without a key."""
    with LocalServer(api_key="", threads=1) as server:
        yield server
