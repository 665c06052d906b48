"""How many threads are awake: what they say that they took of a processor decides, on a clock that the test turns."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.echo import asked, client, echo
from support.replay import ReplayServer

from openai_compat.batch import concurrency as module
from openai_compat.batch.concurrency import HOLD, Concurrency

LIMIT = 30.0
SPAN = 1.01 * module.SPAN
"""Enough to decide, however it is rounded."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Threads:
    """Threads of a crew, each of which says once how much of a processor it took, and is then awake or at rest."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock = clock
        self.concurrency = Concurrency()
        self.awake = count
        self.changed = threading.Condition()
        self.begun: list[threading.Thread] = []
        for _ in range(count):
            self.concurrency.join()
        self.concurrency.worked(0.0, 0)

    def say(self, cpu: float) -> None:
        """One of them took so much."""

        def worked() -> None:
            self.concurrency.worked(cpu, 0)
            with self.changed:
                self.awake += 1
                self.changed.notify_all()

        with self.changed:
            self.awake -= 1
        self.begun.append(threading.Thread(target=worked))
        self.begun[-1].start()

    def busy_for(self, seconds: float, share: float, requests: int = 100) -> None:
        """Time passes, of which they take so large a part, for so many requests."""
        self.concurrency._requests += requests
        self.concurrency._cpu += seconds * share  # before: who looks in this moment shall not see them idle
        self.clock.now += seconds
        self.say(0.0)

    def wait_for(self, awake: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.awake == awake, LIMIT), self.awake

    def stays(self, awake: int) -> None:
        """Nobody wakes as long as several looks take."""
        with self.changed:
            assert not self.changed.wait_for(lambda: self.awake != awake, 5 * module.LOOKOUT), self.awake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def threads(clock: Clock) -> Iterator[Callable[[int], Threads]]:
    made: list[Threads] = []

    def make(count: int) -> Threads:
        made.append(Threads(clock, count))
        return made[-1]

    yield make
    for each in made:
        each.concurrency.stop()
        for thread in each.begun:
            thread.join(LIMIT)
            assert not thread.is_alive()


def rest_half(crew: Threads, count: int) -> None:
    """Bring half of the threads to rest."""
    crew.busy_for(SPAN, 1.0)
    for _ in range(count // 2 - 1):
        crew.say(0.0)
    crew.wait_for(count - count // 2)


@pytest.mark.parametrize(("share", "resting"), [(1.0, 1), (0.85, 1), (0.75, 0), (0.0, 0)])
def test_busy_threads_rest(threads: Callable[[int], Threads], share: float, resting: int) -> None:
    crew = threads(4)
    crew.busy_for(SPAN, share)
    if resting:
        crew.stays(3)
    else:
        crew.wait_for(4)


def test_half_of_them_rest(threads: Callable[[int], Threads]) -> None:
    crew = threads(7)
    rest_half(crew, 7)
    crew.say(0.0)
    crew.wait_for(4)


def test_the_last_one_never_rests(threads: Callable[[int], Threads]) -> None:
    crew = threads(1)
    for _ in range(3):
        crew.busy_for(SPAN, 1.0)
        crew.wait_for(1)


def test_nothing_is_decided_before_enough_was_seen(threads: Callable[[int], Threads]) -> None:
    crew = threads(4)
    crew.busy_for(SPAN / 2, 1.0)
    crew.wait_for(4)


def test_all_come_back_once_the_others_wait(threads: Callable[[int], Threads]) -> None:
    """They are four times as many with each look, so that a server that has become slow is soon asked by all again."""
    crew = threads(8)
    rest_half(crew, 8)
    deadline = time.monotonic() + LIMIT
    while crew.awake < 8 and time.monotonic() < deadline:
        crew.clock.now += module.LOOKOUT
        with crew.changed:
            crew.changed.wait(module.LOOKOUT)
    crew.wait_for(8)


@pytest.mark.parametrize(("after", "missed"), [(50, True), (85, True), (95, False), (130, False)])
def test_those_without_whom_less_is_done_come_back(threads: Callable[[int], Threads], after: int, missed: bool) -> None:
    """As where they compute outside the interpreter, and so at the same time."""
    crew = threads(2)
    crew.busy_for(SPAN, 1.0)
    crew.wait_for(1)
    for _ in range(module.SPANS - 1):
        crew.busy_for(SPAN, 0.85, after)
        crew.stays(1)  # once does not count
    crew.busy_for(SPAN, 0.85, after)
    if missed:
        crew.wait_for(2)
    else:
        crew.stays(1)


@pytest.mark.parametrize(("share", "requests", "come_back"), [(0.9, 50, False), (0.7, 100, False), (0.5, 100, True)])
def test_once_that_is_known_they_come_back_only_where_there_is_room(
    threads: Callable[[int], Threads], share: float, requests: int, come_back: bool
) -> None:
    """Less may be done then for other reasons, and with more threads no more."""
    crew = threads(2)
    rest_half(crew, 2)
    for _ in range(module.SPANS + 2):
        crew.busy_for(SPAN, 0.9)
        crew.stays(1)
    for _ in range(module.SPANS - 1):
        crew.busy_for(SPAN, share, requests)
        crew.stays(1)
    crew.busy_for(SPAN, share, requests)
    if come_back:
        crew.wait_for(2)
    else:
        crew.stays(1)


def test_now_and_then_it_is_tried_whether_they_are_of_use_by_now(threads: Callable[[int], Threads]) -> None:
    crew = threads(2)
    rest_half(crew, 2)
    crew.busy_for(module.TRY_AGAIN - SPAN, 0.9, 15_000)
    crew.stays(1)
    crew.busy_for(SPAN, 0.9)
    crew.wait_for(2)
    crew.busy_for(SPAN, 1.0)
    crew.busy_for(SPAN, 1.0)
    crew.stays(1)


def test_no_more_rest_before_it_is_known_whether_the_first_are_missed(threads: Callable[[int], Threads]) -> None:
    crew = threads(4)
    rest_half(crew, 4)
    for _ in range(module.SPANS):
        crew.busy_for(SPAN, 1.0)
        crew.stays(2)
    crew.busy_for(SPAN, 1.0)
    crew.stays(1)


def test_where_there_is_nothing_to_ask_nobody_comes_back(threads: Callable[[int], Threads]) -> None:
    crew = threads(4)
    rest_half(crew, 4)
    crew.concurrency.starved()
    crew.concurrency.starved()
    for _ in range(5):
        crew.clock.now += 1.0
        crew.stays(2)
    crew.concurrency.fed()
    crew.clock.now += 1.01 * module.IDLE_FOR
    crew.wait_for(4)


def test_seconds_without_anything_to_ask_make_nobody_look_idle(threads: Callable[[int], Threads]) -> None:
    crew = threads(2)
    crew.concurrency.starved()
    crew.concurrency.starved()
    crew.clock.now += 100.0
    crew.concurrency.fed()
    crew.concurrency.fed()
    crew.busy_for(SPAN, 1.0)
    crew.stays(1)


def test_who_was_called_back_is_not_sent_away_at_once(threads: Callable[[int], Threads]) -> None:
    crew = threads(2)
    rest_half(crew, 2)
    crew.clock.now += 1.01 * module.IDLE_FOR
    crew.wait_for(2)
    for _ in range(int(HOLD / SPAN) // 2):
        crew.busy_for(SPAN, 1.0)
        crew.wait_for(2)
    crew.clock.now += HOLD
    crew.concurrency.worked(0.0, 0)
    crew.busy_for(SPAN, 1.0)
    crew.stays(1)


def test_stop_wakes_all(threads: Callable[[int], Threads]) -> None:
    crew = threads(8)
    rest_half(crew, 8)
    crew.concurrency.stop()
    crew.wait_for(8)
    crew.busy_for(SPAN, 1.0)
    crew.wait_for(8)


class _Resting(Concurrency):
    """Sends to rest whoever asks, as long as another one is awake."""

    def worked(self, cpu: float, requests: int) -> None:
        with self._lock:
            rests = self._awake > 1
        if rests:
            self._change(awake=-1)
            self._rest()
            self._change(awake=1)


@pytest.mark.parametrize("journal", [False, True])
def test_a_run_whose_threads_rest_asks_everything_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, journal: bool
) -> None:
    monkeypatch.setattr("openai_compat.batch.threads.Concurrency", _Resting)
    monkeypatch.setattr("openai_compat.batch.threads.TELL_EVERY", 0.0)
    prompts = [f"q{number}" for number in range(200)]
    with ReplayServer(echo) as server:
        run = client(server).map(prompts, workers=8, journal=tmp_path / "j.db" if journal else None, ordered=True)
        assert [result.text for result in run] == [f"re: {prompt}" for prompt in prompts]
        assert asked(server) == Counter(prompts)


def test_threads_at_rest_end_with_their_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_compat.batch.threads.Concurrency", _Resting)
    monkeypatch.setattr("openai_compat.batch.threads.TELL_EVERY", 0.0)
    before = set(threading.enumerate())
    with ReplayServer(echo) as server, client(server) as asking:
        run = asking.map(map(str, range(10_000)), workers=8)
        for _ in range(50):
            next(run)
        run.close()
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("openai_compat map"):
                thread.join(LIMIT)
                assert not thread.is_alive()
