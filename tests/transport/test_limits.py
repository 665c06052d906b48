"""Which limit runs, since when, and what the next wait may take; on a clock that the tests turn."""

from __future__ import annotations

from typing import Any

import pytest

from openai_compat import APITimeoutError, Cancelled, CancelToken, Timeout
from openai_compat import timeouts as deadline_module
from openai_compat.timeouts import Deadline
from openai_compat.transport import clock as clock_module
from openai_compat.transport.clock import END_OF_BODY_TIME, Clock


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock_module, "time", time)
    monkeypatch.setattr(deadline_module, "time", time)
    return time


def reading(timeout: Timeout, cancel: CancelToken | None = None) -> Clock:
    """A clock of an exchange whose answer is being read."""
    clock = Clock(Deadline(timeout, cancel), where="there", provider="p")
    clock.enter("idle", timeout.idle)
    return clock


@pytest.mark.parametrize(
    ("timeout", "after", "left"),
    [
        (Timeout(idle=10), 4, 6),
        (Timeout(idle=10, total=8), 4, 4),
        (Timeout(idle=3, total=8), 1, 2),
        (Timeout(idle=None, total=8), 4, 4),
        (Timeout(idle=None), 4, None),
    ],
)
def test_a_wait_may_take_what_is_left_of_the_phase_and_the_call(
    time: Time, timeout: Timeout, after: float, left: float | None
) -> None:
    clock = reading(timeout)
    time.now += after
    assert clock.wait() == left
    clock.check()


@pytest.mark.parametrize("timeout", [Timeout(idle=3), Timeout(idle=None, total=3), Timeout(idle=9, total=3)])
def test_nothing_is_waited_for_when_nothing_is_left(time: Time, timeout: Timeout) -> None:
    clock = reading(timeout)
    time.now += 3
    for look in (clock.wait, clock.check, clock.timed_out):
        with pytest.raises(APITimeoutError) as caught:
            look()
        assert caught.value.phase == ("total" if timeout.total else "idle")


def test_a_phase_begins_with_connecting(time: Time) -> None:
    clock = Clock(Deadline(Timeout(connect=5, first_token=9)))
    assert (clock.phase, clock.wait()) == ("connect", 5)
    time.now += 4
    clock.enter("first_token", 9)
    assert (clock.phase, clock.wait()) == ("first_token", 9)


def test_progress_begins_the_phase_anew(time: Time) -> None:
    clock = reading(Timeout(idle=10))
    time.now += 9
    clock.progress()
    time.now += 4
    assert clock.wait() == 6


def test_what_a_consumer_takes_does_not_count_for_the_phase(time: Time) -> None:
    clock = reading(Timeout(idle=10))
    time.now += 4
    since = time.now
    time.now += 1000
    clock.exclude(since)
    assert clock.wait() == 6


def test_but_for_the_total(time: Time) -> None:
    clock = reading(Timeout(idle=10, total=50))
    since = time.now
    time.now += 48
    clock.exclude(since)
    assert clock.wait() == 2


def test_a_consumer_that_had_the_event_before_the_phase_began(time: Time) -> None:
    clock = reading(Timeout(idle=10))
    since = time.now - 500
    clock.progress()
    time.now += 1
    clock.exclude(since)
    assert clock.wait() == 10


def test_the_first_token_begins_the_idle_limit_and_other_payloads_do_not(time: Time) -> None:
    clock = Clock(Deadline(Timeout(first_token=100, idle=10)))
    clock.enter("first_token", 100)
    time.now += 40
    clock.on_payload(token=False)
    assert (clock.phase, clock.wait()) == ("first_token", 60)
    clock.on_payload(token=True)
    time.now += 4
    assert (clock.phase, clock.wait()) == ("idle", 6)
    clock.on_payload(token=False)
    clock.on_payload(token=True)
    assert clock.wait() == 6
    clock.progress()  # its consumer has handled it
    assert clock.wait() == 10


def test_the_end_is_not_waited_for_as_long_as_a_piece(time: Time) -> None:
    clock = reading(Timeout(idle=100))
    clock.on_payload(token=False, over=True)
    assert (clock.phase, clock.wait()) == ("idle", END_OF_BODY_TIME)


class TestBeats:
    def test_come_when_no_piece_does_and_the_limit_still_holds(self, time: Time) -> None:
        clock = reading(Timeout(idle=25))
        assert not clock.timed_out()
        clock.tick_every(10)
        assert clock.wait() == 10
        time.now += 10
        assert clock.timed_out()
        assert clock.wait() == 10
        time.now += 10
        assert clock.timed_out()
        assert clock.wait() == 5
        time.now += 5
        for look in (clock.timed_out, clock.wait):
            with pytest.raises(APITimeoutError):
                look()

    def test_a_wait_that_ended_before_its_beat_was_not_ours(self, time: Time) -> None:
        clock = reading(Timeout(idle=25))
        clock.tick_every(10)
        time.now += 9
        assert not clock.timed_out()
        time.now += 0.99
        assert clock.timed_out()

    def test_one_that_is_late_comes_at_once(self, time: Time) -> None:
        clock = reading(Timeout(idle=None))
        clock.tick_every(10)
        time.now += 30
        assert clock.wait() == 0.001

    def test_a_piece_holds_the_beat_but_words_of_no_piece_do_not(self, time: Time) -> None:
        clock = reading(Timeout(idle=100))
        clock.tick_every(10)
        time.now += 6
        clock.progress()
        assert clock.wait() == 10
        time.now += 6
        clock.on_payload(token=False)
        assert clock.wait() == 4


class TestCancelling:
    def test_is_seen_by_a_check(self, time: Time) -> None:
        token = CancelToken()
        clock = reading(Timeout(idle=10), token)
        clock.check()
        token.cancel()
        with pytest.raises(Cancelled):
            clock.check()

    def test_comes_before_a_limit(self, time: Time) -> None:
        token = CancelToken()
        clock = reading(Timeout(idle=10), token)
        token.cancel()
        time.now += 99
        with pytest.raises(Cancelled):
            clock.check()


class TestPassed:
    @pytest.mark.parametrize(
        ("phase", "after", "passed"),
        [
            (None, 9.94, False),
            (None, 9.96, True),
            (None, 11, True),
            ("connect", 4, False),
            ("connect", 5, True),
            ("first_token", 6, False),
            ("first_token", 7, True),
            ("total", 6, False),
        ],
    )
    def test_a_limit(self, time: Time, phase: Any, after: float, passed: bool) -> None:
        clock = reading(Timeout(connect=5, first_token=7, idle=10))
        time.now += after
        assert clock.expired(phase) is passed

    def test_none(self, time: Time) -> None:
        clock = reading(Timeout.of(None))
        time.now += 1e9
        assert not clock.expired()
        assert not clock.expired("connect")


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("connect", "no connection to there within 1 s"),
        ("first_token", "no answer from there within 2 s"),
        ("idle", "nothing more from there for 3 s"),
    ],
)
def test_says_which_limit_was_reached(time: Time, phase: Any, said: str) -> None:
    timeout = Timeout(connect=1, first_token=2, idle=3, total=50)
    clock = reading(timeout)
    clock.enter(phase, getattr(timeout, phase))
    time.now += 5
    error = clock.error()
    assert (str(error), error.phase, error.provider) == (f"{said} (timeout: {phase})", phase, "p")
    assert error.retryable is (phase == "connect")
    time.now += 50
    late = clock.error()
    assert (str(late), late.phase) == ("the call to there took more than 50 s in all (timeout: total)", "total")


def test_a_wait_that_ends_a_moment_before_the_total_names_it(time: Time) -> None:
    """As gevent's timers do: what has as good as passed is the total, not the phase."""
    clock = reading(Timeout(idle=100, total=3))
    time.now += 2.98
    with pytest.raises(APITimeoutError) as caught:
        clock.timed_out()
    assert caught.value.phase == "total"
