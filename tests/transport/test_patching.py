"""Who sees the call: each spot that a program may patch is seen when it is, and no more once it is restored."""

from __future__ import annotations

import functools
import http.client
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import requests
import requests.adapters
import requests.sessions
import urllib3.connection
import urllib3.connectionpool
import urllib3.response
import urllib3.util.connection
from support.lines import traced
from support.replay import ReplayServer
from support.wire_bodies import chat_reply

from openai_compat import Client
from openai_compat.transport import patching
from openai_compat.transport.patching import _WATCHED, unpatched

SPOTS = [(module, path) for module, paths in _WATCHED.items() for path in paths]


def owner_of(module: str, path: str) -> tuple[Any, str]:
    owner: Any = sys.modules[module]
    *names, last = path.split(".")
    for name in names:
        owner = getattr(owner, name)
    return owner, last


def wrapped(function: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Wrapper:
    """As wrapt's wrappers are: no function."""

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function
        self.__module__ = function.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


def replacement(value: Any) -> Any:
    if isinstance(value, int):
        return 1
    if isinstance(value, type):
        return type(value.__name__, (value,), {})
    return wrapped(value)


@pytest.mark.parametrize(("module", "path"), SPOTS, ids=[".".join(spot) for spot in SPOTS])
def test_a_spot_that_is_patched_and_restored(module: str, path: str) -> None:
    owner, name = owner_of(module, path)
    assert unpatched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, replacement(getattr(owner, name)))
        assert not unpatched()
        assert not unpatched()
    assert unpatched()


@pytest.mark.parametrize("make", [wrapped, Wrapper, functools.partial])
def test_whatever_the_wrapper_is(make: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.Session, "send", make(requests.Session.send))
    assert not unpatched()


def test_one_that_is_patched_twice_and_restored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.Session, "send", wrapped(requests.Session.send))
    assert not unpatched()
    with pytest.MonkeyPatch.context() as inner:
        inner.setattr(requests.Session, "send", wrapped(requests.Session.send))
        assert not unpatched()
    assert not unpatched()


def test_a_spot_that_is_taken_away_and_comes_back() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(urllib3.response.HTTPResponse, "read1")
        unpatched()
    assert unpatched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib3.response.HTTPResponse, "read1", wrapped(urllib3.response.HTTPResponse.read1))
        assert not unpatched()


def test_everything_watched_is_there() -> None:
    """A spot that urllib3 or requests no longer has would be watched in vain."""
    assert len(patching._find_spots()) == len(SPOTS)
    assert all(name in space for space, name in patching._find_spots())


def test_a_call_goes_where_it_is_seen_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        seen.append(str(request.url))
        return original(adapter, request, **options)

    original = requests.adapters.HTTPAdapter.send
    with ReplayServer([chat_reply()]) as server, Client(f"{server.url}/v1", model="m") as client:
        client.chat("hi")
        assert seen == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(requests.adapters.HTTPAdapter, "send", look)
            client.chat("hi")
        assert seen == [f"{server.url}/v1/chat/completions"]
        client.chat("hi")
        assert (len(seen), len(server.requests)) == (1, 3)


def test_what_is_not_loaded_is_not_patched_and_not_loaded_to_see() -> None:
    program = """
import sys
from openai_compat.transport.patching import unpatched
assert unpatched()
assert "requests" not in sys.modules and "urllib3" not in sys.modules, sorted(sys.modules)
import http.client
send = http.client.HTTPConnection.send
http.client.HTTPConnection.send = lambda *args: send(*args)
assert not unpatched()
http.client.HTTPConnection.send = send
assert unpatched()
import requests
assert unpatched()
requests.Session.send = lambda *args: None
assert not unpatched()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_debug_level_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    assert not unpatched()


def test_to_look_is_cheap() -> None:
    """Where nothing has changed no spot is searched or judged: a dozen lines are executed, whatever is watched."""
    unpatched()
    lines = 0

    def count(frame: types.FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_name == "unpatched"
        assert frame.f_code.co_name not in ("_find_spots", "_original")
        return count

    traced(count, unpatched)
    # A list comprehension counts its line once for each of its items.
    assert 0 < lines <= 12 + len(_WATCHED) + len(SPOTS)
