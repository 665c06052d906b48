"""``client.map``: results, order, errors, what is read ahead, Ctrl-C, cancelling, and runs that are killed."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.echo import asked, client, echo, question
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, tool_call

from openai_compat import (
    AuthenticationError,
    BadRequestError,
    Cancelled,
    CancelToken,
    ChatRequest,
    ConfigurationError,
    InternalServerError,
    Journal,
    JournalError,
    MapResult,
    Timeout,
)
from openai_compat._bell import Bell
from openai_compat._threads import spawn
from openai_compat.batch import map as module
from openai_compat.batch.ask import Book
from openai_compat.batch.map import WithJournal
from openai_compat.batch.run import Arrivals

LIMIT = 60.0
"""Seconds for whatever has to happen at once."""


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(echo) as server:
        yield server


# ------------------------------------------------------------------------------------------------------ what comes


def test_every_request_has_its_answer(server: ReplayServer) -> None:
    results = list(client(server).map([f"q{i}" for i in range(50)], workers=4))
    assert sorted(result.index for result in results) == list(range(50))
    assert all(result.text == f"re: q{result.index}" and result.ok for result in results)
    assert all(result.request.prompt == f"q{result.index}" and len(result.attempts) == 1 for result in results)
    assert asked(server) == Counter({f"q{i}": 1 for i in range(50)})
    assert server.connections <= 4


def test_kinds_of_requests(server: ReplayServer) -> None:
    given: list[Any] = [
        "a prompt",
        ChatRequest("a request", temperature=0.5),
        [{"role": "user", "content": "messages"}],
        ("id-1", "a named prompt"),
        ("id-2", ChatRequest("a named request")),
        ("id-3", [{"role": "user", "content": "named messages"}]),
    ]
    results = list(client(server).map(given, ordered=True, max_tokens=7))
    assert [result.text.removeprefix("re: ") for result in results] == [
        *("a prompt", "a request", "messages", "a named prompt", "a named request", "named messages")
    ]
    assert [result.custom_id for result in results] == [None, None, None, "id-1", "id-2", "id-3"]
    assert all(request.json()["max_tokens"] == 7 for request in server.requests)


@given(order=st.permutations(range(6)), workers=st.integers(1, 8))
def test_in_order_whatever_is_answered_first(order: list[int], workers: int) -> None:
    turns = [threading.Event() for _ in order]

    def reply(request: Request) -> Reply:
        number = int(question(request))
        # Each waits for the one before it in the drawn order, where that is under way too.
        place = order.index(number)
        if place and max(order[place - 1], number) < workers:
            turns[order[place - 1]].wait(0.05)
        turns[number].set()
        return chat_reply(str(number))

    with ReplayServer(reply) as server:
        results = list(client(server).map((str(number) for number in range(6)), workers=workers, ordered=True))
    assert [result.text for result in results] == list("012345")


def test_typed_answers() -> None:
    @attrs.frozen
    class City:
        name: str

    with ReplayServer(lambda request: chat_reply(json.dumps({"name": question(request)}))) as server:
        results = list(client(server).map(["Rome", "Oslo"], response_type=City, ordered=True))
    assert [result.parsed for result in results] == [City("Rome"), City("Oslo")]
    assert all("response_format" in request.json() for request in server.requests)


def test_tools_run_within_each_request() -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    def reply(request: Request) -> Reply:
        messages = request.json()["messages"]
        if messages[-1]["role"] == "tool":
            return chat_reply(messages[-1]["content"])
        arguments = json.dumps({"number": int(messages[-1]["content"])})
        return chat_reply(None, finish_reason="tool_calls", tool_calls=[tool_call("double", arguments)])

    with ReplayServer(reply) as server:
        results = list(client(server).map((str(number) for number in range(5)), tools=[double], ordered=True))
    assert [result.text for result in results] == ["0", "2", "4", "6", "8"]
    assert len(server.requests) == 10


def test_nothing_to_ask(server: ReplayServer) -> None:
    run = client(server).map([])
    assert list(run) == []
    assert next(run, None) is None
    assert server.requests == []


# ---------------------------------------------------------------------------------------------------------- failures


def some_fail(request: Request) -> Reply:
    return error_reply(400, "not this one") if question(request) == "bad" else echo(request)


def test_a_failure_is_kept_in_its_place() -> None:
    with ReplayServer(some_fail) as server:
        good, bad, last = client(server).map(["good", "bad", "last"], ordered=True)
        assert len(server.requests) == 3
    assert (good.text, last.text) == ("re: good", "re: last")
    assert not bad.ok
    assert isinstance(bad.error, BadRequestError)
    assert (bad.text, len(bad.attempts)) == ("", 1)
    with pytest.raises(BadRequestError, match="not this one"):
        bad.result()


def test_a_failure_ends_the_run_where_that_is_wanted() -> None:
    with ReplayServer(some_fail) as server:
        run = client(server).map(
            itertools.chain(["good", "bad"], map(str, itertools.count())), on_error="raise", workers=1
        )
        assert next(run).text == "re: good"
        with pytest.raises(BadRequestError):
            next(run)
        assert len(server.requests) <= 5


def test_a_key_that_is_refused_ends_the_run() -> None:
    with ReplayServer([error_reply(401, "wrong key")]) as server:
        run = client(server, api_key="k").map((str(number) for number in itertools.count()), workers=2)
        with pytest.raises(AuthenticationError):
            list(run)
        assert len(server.requests) <= 4


def test_retries_are_in_the_result() -> None:
    with ReplayServer([error_reply(503, headers={"retry-after-ms": "1"}), chat_reply("at last")]) as server:
        (result,) = client(server, max_retries=1).map(["q"])
        assert len(server.requests) == 2
    assert [attempt.error is None for attempt in result.attempts] == [False, True]


@pytest.mark.parametrize(
    ("requests", "options", "message"),
    [
        ("a string", {}, "an iterable of prompts"),
        (ChatRequest("one"), {}, "an iterable of prompts"),
        (7, {}, "an iterable of prompts"),
        (["q"], {"workers": 0}, "workers must be"),
        (["q"], {"workers": True}, "workers must be"),
        (["q"], {"on_error": "ignore"}, "on_error must be"),
        (["q"], {"progress": "bar"}, "progress must be"),
        (["q"], {"repair": -1, "response_type": int}, "repair must be"),
    ],
)
def test_bad_input(server: ReplayServer, requests: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client(server).map(requests, **options)
    assert server.requests == []


def test_a_prompt_that_is_none_is_named(server: ReplayServer) -> None:
    run = client(server).map(["fine", ("row-1", 7)], ordered=True)
    with pytest.raises(ConfigurationError, match=r"request 1 \(row-1\): a prompt is a string"):
        list(run)


def test_what_the_iterable_raises_comes_out(server: ReplayServer) -> None:
    def requests() -> Iterator[str]:
        yield "q"
        raise LookupError("the file ended")

    run = client(server).map(requests(), ordered=True)
    with pytest.raises(LookupError, match="the file ended"):
        list(run)
    assert [result.text for result in run] in ([], ["re: q"])


# ------------------------------------------------------------------------------------------------------------- bounds


def test_no_more_is_taken_than_is_read(server: ReplayServer) -> None:
    taken: list[int] = []

    def requests() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield str(number)

    with client(server).map(requests(), workers=3) as run:
        for read in range(1, 40):
            next(run)
            assert len(taken) <= read + 6
    assert len(server.requests) <= len(taken) <= 46


def test_results_are_not_held(server: ReplayServer) -> None:
    requests = (ChatRequest(str(number)) for number in range(300))
    for result in client(server).map(requests, workers=2):
        last = result.index
    gc.collect()
    alive = [each for each in gc.get_objects() if isinstance(each, MapResult)]
    assert last >= 290
    assert len(alive) <= 10


def test_who_is_not_awaited_is_not_told_again_and_again() -> None:
    """The threads have more results than are read, and hurry for each."""
    bell = Bell()
    for _ in range(1000):
        bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)


def test_where_the_system_has_no_more_threads_those_there_are_ask_everything(
    server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def scarce(function: Callable[..., object], *, name: str) -> threading.Thread:
        begun.append(name)
        if len(begun) > 3:
            raise RuntimeError("can't start new thread")
        return spawn(function, name=name)

    with monkeypatch.context() as patched:
        patched.setattr("openai_compat.batch.threads.spawn", scarce)
        results = list(client(server).map([f"q{i}" for i in range(50)], workers=16))
    assert sorted(result.index for result in results) == list(range(50))
    assert len(begun) == 4


def test_never_more_calls_than_workers() -> None:
    under_way, most, lock = [0], [0], threading.Lock()

    def reply(request: Request) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        with lock:
            under_way[0] -= 1
        return echo(request)

    with ReplayServer(reply) as server:
        assert len(list(client(server).map(map(str, range(60)), workers=3))) == 60
        assert server.connections <= 3
    assert 1 <= most[0] <= 3


# ---------------------------------------------------------------------------------------------------------- the end


class Held:
    """Answers the first few, and holds all others until their clients leave."""

    def __init__(self, answered: int) -> None:
        self.waiting = threading.Semaphore(0)
        self._answered = answered

    def __call__(self, request: Request) -> Reply:
        if int(question(request)) < self._answered:
            return echo(request)

        def body() -> Iterator[bytes]:
            self.waiting.release()
            yield b"{"
            request.closed.wait(LIMIT)

        return Reply(headers={"Content-Type": "application/json"}, body=body())

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=LIMIT)


def leave_by_with(run: Any) -> None:
    with run:
        pass


def leave_by_close(run: Any) -> None:
    run.close()


@pytest.mark.parametrize("leave", [leave_by_with, leave_by_close])
def test_leaving_ends_what_is_under_way(leave: Callable[[Any], None]) -> None:
    held = Held(2)
    with ReplayServer(held) as server:
        run = client(server).map((str(number) for number in itertools.count()), workers=4)
        assert {next(run).ok, next(run).ok} == {True}
        held.wait(4)
        leave(run)
        assert server.wait_closed()
        assert len(server.requests) == 6
        assert list(run) == []


def test_a_run_that_is_dropped_ends(server: ReplayServer) -> None:
    held = Held(1)
    gc.disable()
    try:
        with ReplayServer(held) as server:
            for _ in client(server).map((str(number) for number in itertools.count()), workers=3):
                held.wait(3)
                break
            assert server.wait_closed()
            assert len(server.requests) == 4
    finally:
        gc.enable()


def test_a_token_ends_the_run() -> None:
    held, token = Held(1), CancelToken()
    with ReplayServer(held) as server:
        run = client(server).map((str(number) for number in itertools.count()), workers=2, cancel=token)
        next(run)
        held.wait(2)
        token.cancel()
        with pytest.raises(Cancelled):
            next(run)
        assert server.wait_closed()
        assert len(server.requests) == 3
        assert list(run) == []


def interrupt_a_wait(ready: Callable[[], bool] = lambda: True, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C, or send another signal, once all is ready and the main thread waits for a result."""
    main, waits = threading.main_thread().ident, Bell.wait.__code__
    assert main is not None

    def press() -> None:
        deadline = time.monotonic() + LIMIT
        while not (ready() and sys._current_frames()[main].f_code is waits) and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        os.kill(os.getpid(), number)

    threading.Thread(target=press, daemon=True).start()


def test_an_interrupt_ends_the_run_and_leaves_what_was_finished() -> None:
    held = Held(2)
    with ReplayServer(held) as server:
        run = client(server).map((str(number) for number in itertools.count()), workers=3, ordered=True)
        assert next(run).text == "re: 0"
        assert next(run).text == "re: 1"
        held.wait(3)
        interrupt_a_wait()
        with pytest.raises(KeyboardInterrupt):
            next(run)
        assert server.wait_closed()
        assert len(server.requests) == 5
        assert list(run) == []


def test_what_was_finished_can_be_read_after_an_interrupt() -> None:
    """In order, the first one is never answered: all that were wait for it."""

    def reply(request: Request) -> Reply:
        if question(request) != "0":
            return echo(request)

        def body() -> Iterator[bytes]:
            yield b"{"
            request.closed.wait(LIMIT)

        return Reply(headers={"Content-Type": "application/json"}, body=body())

    with ReplayServer(reply) as server:
        run = client(server).map([str(number) for number in range(6)], workers=3, ordered=True)
        interrupt_a_wait(lambda: len(run._finished) == 5)
        with pytest.raises(KeyboardInterrupt):
            next(run)
        assert sorted(result.text for result in run) == [f"re: {number}" for number in range(1, 6)]


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what handles SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handle: signal.signal(signal.SIGUSR1, lambda *_: handle()) and None
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals")
def test_what_handles_a_signal_may_stop_the_run(handled: Callable[[Callable[[], object]], None]) -> None:
    held = Held(2)
    with ReplayServer(held) as server:
        run = client(server).map((str(number) for number in itertools.count()), workers=3)
        rescue = threading.Timer(LIMIT, run._crew.arrivals.put, [None])
        rescue.start()
        handled(run.stop)
        interrupt_a_wait(lambda: len(server.requests) == 5, signal.SIGUSR1)
        assert sorted(result.text for result in run) == ["re: 0", "re: 1"]
        assert server.wait_closed()
        assert rescue.is_alive()
        rescue.cancel()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals")
def test_a_signal_that_takes_longer_than_a_wait_does_not_prolong_it(
    handled: Callable[[Callable[[], object]], None],
) -> None:
    arrivals = Arrivals()
    rescue = threading.Timer(LIMIT, arrivals.hurry)
    rescue.start()
    handled(lambda: time.sleep(0.2))
    interrupt_a_wait(number=signal.SIGUSR1)
    assert not arrivals.wait(0.1)
    assert rescue.is_alive()
    rescue.cancel()


def test_all_who_wait_learn_of_the_end() -> None:
    """Who stops a run, and who reads it on another thread."""
    arrivals = Arrivals()
    waiting = [threading.Thread(target=arrivals.take, daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    arrivals.put(None)
    for thread in waiting:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_stop_does_not_leave_others_waiting_for_what_does_not_end() -> None:
    goes_on, begun = threading.Event(), threading.Event()

    def items() -> Iterator[str]:
        yield "a"
        begun.set()
        assert goes_on.wait(LIMIT)

    with ReplayServer(echo) as server:
        run = client(server).map(items(), workers=2)
        assert next(run).text == "re: a"
        read: list[Any] = []
        reader = threading.Thread(target=lambda: read.extend(run), daemon=True)
        reader.start()
        assert begun.wait(LIMIT)
        run.close()
        reader.join(LIMIT)
        assert not reader.is_alive()
        goes_on.set()
    assert read == []


# -------------------------------------------------------------------------------------------------------- the journal


def test_the_same_line_again_asks_nothing_twice(server: ReplayServer, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    first = list(client(server).map(map(str, range(20)), journal=path, workers=3))
    again = list(client(server).map(map(str, range(30)), journal=path, workers=3, ordered=True))
    assert asked(server) == Counter({str(number): 1 for number in range(30)})
    assert sorted(result.text for result in first) == sorted(result.text for result in again[:20])
    assert [result.from_journal for result in again] == [True] * 20 + [False] * 10
    assert [result.text for result in again] == [f"re: {number}" for number in range(30)]


def test_a_kept_answer_is_the_answer(server: ReplayServer, tmp_path: Path) -> None:
    (first,) = client(server).map(["q"], journal=tmp_path / "j.db")
    (kept,) = client(server).map(["q"], journal=tmp_path / "j.db")
    assert attrs.evolve(kept, from_journal=False) == first
    assert (kept.response and kept.response.usage) == (first.response and first.response.usage)
    assert kept.seconds == first.seconds
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("first", "second", "requests"),
    [
        ("q", "q", 1),
        (("a", "q"), ("a", "q"), 1),
        (("a", "q"), ("b", "q"), 2),
        (("a", "q"), "q", 2),
        (("a", "q"), ("a", "other"), 2),
        (ChatRequest("q", temperature=0), ChatRequest("q", temperature=1), 2),
        (ChatRequest("q", model="m"), "q", 1),
        (ChatRequest("q", model="n"), "q", 2),
        ([{"role": "user", "content": "q"}], "q", 1),
        ([{"content": "q", "role": "user"}], [{"role": "user", "content": "q"}], 1),
    ],
)
def test_what_a_request_is_known_by(
    server: ReplayServer, tmp_path: Path, first: Any, second: Any, requests: int
) -> None:
    for each in (first, second):
        (result,) = client(server).map([each], journal=tmp_path / "j.db")
        assert result.ok
    assert len(server.requests) == requests


def test_a_question_that_comes_twice_is_asked_once(server: ReplayServer, tmp_path: Path) -> None:
    results = list(client(server).map(["same"] * 40, journal=tmp_path / "j.db", workers=8))
    assert [result.text for result in results] == ["re: same"] * 40
    assert len(server.requests) == 1


def test_a_question_that_comes_twice_does_not_hold_up_others(tmp_path: Path) -> None:
    """All workers but one are free to ask the others, whose answers the same one waits for here."""
    others = threading.Semaphore(0)

    def reply(request: Request) -> Reply:
        if question(request) == "same":
            for _ in range(3):
                assert others.acquire(timeout=LIMIT)
        else:
            others.release()
        return echo(request)

    with ReplayServer(reply) as server:
        prompts = ["same", "same", "a", "b", "c"]
        results = list(client(server).map(prompts, journal=tmp_path / "j.db", workers=3, ordered=True))
        assert asked(server) == Counter({"same": 1, "a": 1, "b": 1, "c": 1})
    assert [result.text for result in results] == [f"re: {prompt}" for prompt in prompts]
    assert [result.from_journal for result in results] == [False, True, False, False, False]


@pytest.mark.parametrize("workers", [1, 3])
def test_while_the_journal_is_locked_no_more_is_asked_than_may_be_asked_again(tmp_path: Path, workers: int) -> None:
    with ReplayServer(echo) as server, Journal(tmp_path / "j.db") as journal:
        holder = sqlite3.connect(tmp_path / "j.db", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        counted: list[int] = []

        def let_go() -> None:
            deadline = time.monotonic() + LIMIT
            while len(server.requests) < workers and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)  # for those too many: there are none
            counted.append(len(server.requests))
            holder.execute("ROLLBACK")

        thread = threading.Thread(target=let_go)
        thread.start()
        assert len(list(client(server).map(map(str, range(40)), journal=journal, workers=workers))) == 40
        thread.join(LIMIT)
        holder.close()
    assert counted == [workers]


def test_the_end_of_a_run_does_not_wait_for_a_journal_that_is_locked(tmp_path: Path) -> None:
    """Its thread does, and writes the answer once the other process lets go."""
    Journal(tmp_path / "j.db").close()
    holder = sqlite3.connect(tmp_path / "j.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    rescue = threading.Timer(LIMIT / 3, holder.rollback)
    rescue.start()
    before = set(threading.enumerate())
    with ReplayServer(echo) as server, client(server).map(["a"], workers=1, journal=tmp_path / "j.db") as run:
        server.wait_idle()
        (asks,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "openai_compat map")
        deadline = time.monotonic() + LIMIT
        while sys._current_frames()[asks.ident or 0].f_code is not Journal._insert.__code__:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert rescue.is_alive()
    rescue.cancel()
    holder.execute("ROLLBACK")
    asks.join(LIMIT)
    assert list(run) == []
    assert holder.execute("SELECT text FROM answers").fetchall() == [("re: a",)]
    holder.close()


def late(thread: threading.Thread | None = None) -> bool:
    return (thread or threading.current_thread()).name == "openai_compat map writes"


@pytest.fixture
def written_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the thread that writes late has begun; nobody else writes before that."""
    monkeypatch.setattr(module, "GATHER", 1e9)
    begun, keep = threading.Event(), Book.keep

    def keep_and_tell(self: Book, *answers: Any) -> list[MapResult[Any]]:
        if late():
            begun.set()
        if late() and any(item.request.prompt == "unfit" for item, *_ in answers):
            raise RuntimeError("unfit")
        return keep(self, *answers)

    monkeypatch.setattr(Book, "keep", keep_and_tell)
    return begun


def last_after(begun: threading.Event) -> Callable[[Request], Reply]:
    def reply(request: Request) -> Reply:
        if question(request) == "last":
            assert begun.wait(LIMIT)
        return echo(request)

    return reply


def test_what_is_written_late_comes_before_the_end(
    written_late: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = threading.Event()
    same, finish = WithJournal._same, WithJournal.finish

    def hold_up(self: WithJournal, key: bytes) -> list[MapResult[Any]]:
        if late():
            assert ends.wait(LIMIT)
            time.sleep(0.1)  # for the end to come first, were this not waited for
        return same(self, key)

    def finish_and_tell(self: WithJournal) -> None:
        ends.set()
        finish(self)

    monkeypatch.setattr(WithJournal, "_same", hold_up)
    monkeypatch.setattr(WithJournal, "finish", finish_and_tell)
    with ReplayServer(last_after(written_late)) as server:
        results = list(client(server).map(["a", "b", "last"], workers=4, journal=tmp_path / "j.db"))
    assert sorted(result.index for result in results) == [0, 1, 2]
    assert not any(map(late, threading.enumerate()))


def test_what_goes_wrong_late_comes_out(written_late: threading.Event, tmp_path: Path) -> None:
    with ReplayServer(last_after(written_late)) as server, pytest.raises(RuntimeError, match="unfit"):
        list(client(server).map(["unfit", "last"], workers=3, journal=tmp_path / "j.db"))


def flaky(status: int) -> Callable[[Request], Reply]:
    return lambda request: error_reply(status, "no luck", code="why") if request.number == 0 else echo(request)


@pytest.mark.parametrize(
    ("status", "retry_failed", "requests"),
    [(503, None, 2), (429, None, 2), (400, None, 1), (503, True, 2), (400, True, 2), (503, False, 1), (400, False, 1)],
)
def test_what_failed_is_asked_again(tmp_path: Path, status: int, retry_failed: bool | None, requests: int) -> None:
    with ReplayServer(flaky(status)) as server:
        (first,) = client(server).map(["q"], journal=tmp_path / "j.db")
        assert isinstance(first.error, BadRequestError if status == 400 else Exception)
        (second,) = client(server).map(["q"], journal=tmp_path / "j.db", retry_failed=retry_failed)
        assert len(server.requests) == requests
    if requests == 2:
        assert second.text == "re: q"
    else:
        assert type(second.error) is type(first.error)
        assert str(second.error) == str(first.error)
        assert (getattr(second.error, "status_code", 0), getattr(second.error, "code", "")) == (status, "why")


def test_a_failure_gives_way_to_an_answer_and_an_answer_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with ReplayServer(flaky(500)) as server:
        for _ in range(3):
            list(client(server).map(["q"], journal=path))
        assert len(server.requests) == 2
    with Journal(path) as journal:
        assert journal.counts() == {"answered": 1, "failed": 0}


def test_a_failure_is_asked_once_a_run(tmp_path: Path) -> None:
    with ReplayServer([error_reply(503, "down")]) as server:
        results = list(client(server).map(["same"] * 5, journal=tmp_path / "j.db", retry_failed=True))
        assert len(server.requests) == 1
    assert [type(result.error) for result in results] == [InternalServerError] * 5


def test_typed_answers_come_back_typed(tmp_path: Path) -> None:
    with ReplayServer([chat_reply("[1, 2]")]) as server:
        for _ in range(2):
            (result,) = client(server).map(["q"], response_type=list[int], journal=tmp_path / "j.db")
            assert result.parsed == [1, 2]
        assert len(server.requests) == 1


def test_the_table_is_plain_sql(server: ReplayServer, tmp_path: Path) -> None:
    list(client(server).map([("row-7", "q")], journal=tmp_path / "j.db"))
    with sqlite3.connect(tmp_path / "j.db") as database:
        row = database.execute("SELECT custom_id, status, text, input_tokens, output_tokens, request FROM answers")
        (custom_id, status, text, tokens_in, tokens_out, request) = row.fetchone()
    database.close()
    assert (custom_id, status, text, tokens_in, tokens_out) == ("row-7", "answered", "re: q", 3, 2)
    assert json.loads(request)["messages"] == [{"role": "user", "content": "q"}]


def test_a_journal_that_cannot_be_written_ends_the_run_and_loses_nothing(server: ReplayServer, tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
        journal._writer.execute(f"PRAGMA max_page_count = {pages + 8}")  # a disk that is full after these
        run = client(server).map((f"{number} {'x' * 1000}" for number in itertools.count()), journal=journal, workers=4)
        seen = []
        with pytest.raises(JournalError, match=r"full; what was written before stays") as caught:
            seen.extend(run)
        seen.extend(run)
        unsaved = {result.index for result in caught.value.unsaved}
        assert unsaved
        written = {int(entry.text.split()[1]) for entry in journal if entry.text}
        answered = {int(question(request).split()[0]) for request in server.requests}
    assert {result.index for result in seen} <= written
    assert written | unsaved <= answered
    assert not written & unsaved
    # What was under way was ended, as by Ctrl-C.
    assert len(answered - written - unsaved) < 4


PROGRAM = """
import sys
from openai_compat import Client
url, journal, count, workers = sys.argv[1:]
with Client(url, model="m", max_retries=0) as client:
    for result in client.map(map(str, range(int(count))), journal=journal, workers=int(workers)):
        assert result.ok, result.error
        print(result.index, flush=True)
"""


@pytest.mark.process
def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    """One request for each worker is sent again after a kill, at the most."""
    count, workers, kills = 300, 4, 6
    path = tmp_path / "j.db"
    printed: set[int] = set()
    with ReplayServer(echo) as server:
        for kill in range(kills + 1):
            command = [sys.executable, "-c", PROGRAM, f"{server.url}/v1", str(path), str(count), str(workers)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
                assert process.stdout is not None
                lines = (
                    process.stdout
                    if kill == kills
                    else itertools.islice(process.stdout, len(printed), len(printed) + 37)
                )
                printed.update(int(line) for line in lines)
                if kill < kills:
                    process.kill()
            assert process.returncode == (0 if kill == kills else -signal.SIGKILL)
        sent = asked(server)
    with Journal(path) as journal:
        texts = [entry.text for entry in journal]
    assert sorted(texts, key=str) == sorted((f"re: {number}" for number in range(count)), key=str)
    assert printed == set(range(count))
    assert set(sent) == {str(number) for number in range(count)}
    assert sum(sent.values()) - count <= kills * workers


@pytest.mark.process
def test_two_processes_on_one_journal_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with ReplayServer(echo) as server:
        command = [sys.executable, "-c", PROGRAM, f"{server.url}/v1", str(path), "200", "4"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all({int(line) for line in output.split()} == set(range(200)) for output in outputs)
    with Journal(path) as journal:
        assert journal.counts() == {"answered": 200, "failed": 0}


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    path, down = tmp_path / "j.db", threading.Event()

    def reply(request: Request) -> Reply:
        return error_reply(503, "restarting") if down.is_set() else echo(request)

    with ReplayServer(reply) as server:
        face = client(server, timeout=Timeout(total=LIMIT))
        list(face.map(map(str, range(10)), journal=path))
        down.set()
        failed = [result for result in face.map(map(str, range(20)), journal=path) if not result.ok]
        assert len(failed) == 10
        down.clear()
        assert all(result.ok for result in face.map(map(str, range(20)), journal=path))
        assert len(server.requests) == 30


def test_an_answer_that_another_thread_has_just_made_room_for_is_written_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was due, and is not any more once the lock is free: then it is for the thread that writes late."""
    others, last = threading.Semaphore(0), threading.Event()
    is_due, due = WithJournal._is_due, itertools.cycle([True, False])

    def reply(request: Request) -> Reply:
        if question(request) == "0":
            for _ in range(3):
                assert others.acquire(timeout=LIMIT)
            time.sleep(0.1)  # in which they are written, and who writes late goes to sleep
            last.set()
        else:
            others.release()
        return echo(request)

    monkeypatch.setattr(WithJournal, "_is_due", lambda self: next(due) if last.is_set() else is_due(self))
    results: list[str] = []
    with ReplayServer(reply) as server:
        run = client(server).map(map(str, range(4)), journal=tmp_path / "j.db", workers=2, ordered=True)
        reader = threading.Thread(target=lambda: results.extend(result.text for result in run), daemon=True)
        reader.start()
        reader.join(10)
        assert results == [f"re: {number}" for number in range(4)]
        assert len(server.requests) == 4
