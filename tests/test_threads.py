"""Threads that run users' code."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest

from openai_compat import Tool, _threads, tool
from openai_compat._threads import at_thread_end, spawn
from openai_compat.futures import CallFuture
from openai_compat.sinks import ThreadSink
from openai_compat.tools.pool import run_calls
from openai_compat.tools.tool import Toolbox
from openai_compat.wire.messages import ToolCall
from openai_compat.wire.response import StreamEvent

NAME = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that have ended."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(_threads, "_at_end", [])
    at_thread_end(lambda: threads.append(threading.current_thread()))
    return threads


def test_a_thread_runs_in_a_copy_of_the_context_and_keeps_nobody_from_leaving() -> None:
    seen: list[Any] = []

    def work(number: int) -> None:
        seen.append((number, NAME.get(), threading.current_thread().daemon, threading.current_thread().name))
        NAME.set("changed")

    NAME.set("ann")
    spawn(work, 3, name="mine").join(10)
    assert (seen, NAME.get()) == ([(3, "ann", True, "mine")], "ann")


def test_every_hook_is_called_once_whatever_happens(
    ended: list[threading.Thread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def fail() -> None:
        raise ValueError("mine")

    _threads._at_end.insert(0, fail)
    for _ in range(2):
        at_thread_end(_threads._at_end[1])
    thread = spawn(fail, name="mine")
    thread.join(10)
    assert ended == [thread]
    assert "could not be closed" in caplog.text


@tool
def nothing() -> str:
    """Does nothing."""
    return ""


def tools() -> None:
    calls = [ToolCall(id=str(number), name="nothing", arguments_json="{}") for number in range(2)]
    run_calls(Toolbox([nothing]), calls)


def sink() -> None:
    with ThreadSink(lambda event: None) as sink:
        sink.emit(StreamEvent("text", "a"))


@pytest.mark.parametrize(
    ("use", "count"),
    [
        (tools, 2),
        (sink, 1),
        (lambda: CallFuture(lambda token: 1).result(10), 1),
    ],
    ids=["tools", "sink", "submit"],
)
def test_wherever_users_code_has_a_thread_its_end_is_told(use: Any, count: int, ended: list[threading.Thread]) -> None:
    assert isinstance(nothing, Tool)
    before = set(threading.enumerate())
    use()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert len(ended) == count
