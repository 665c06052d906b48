"""Time limits, cancelling, and the exchange that both are about; on a clock that the tests turn."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from openai_compat import APIConnectionError, APITimeoutError, Cancelled, CancelToken, ConfigurationError, Timeout
from openai_compat import deadline as module
from openai_compat.deadline import Deadline, Exchange, interruptible


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Sock:
    """What a socket is told."""

    def __init__(self) -> None:
        self.limits: list[float | None] = []

    def settimeout(self, seconds: float | None) -> None:
        self.limits.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


def reading(timeout: Timeout, cancel: CancelToken | None = None) -> tuple[Exchange, Sock]:
    """An exchange whose answer is being read."""
    exchange, sock = Exchange(Deadline(timeout, cancel)), Sock()
    exchange.use(sock)
    exchange.enter("idle", timeout.idle)
    return exchange, sock


class TestTimeout:
    @pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan, True, "5", [1]])
    @pytest.mark.parametrize("name", ["connect", "first_token", "idle", "total"])
    def test_a_limit_is_a_positive_number(self, name: str, bad: Any) -> None:
        with pytest.raises(ConfigurationError, match=f"{name} must be a positive number"):
            Timeout(**{name: bad})

    def test_a_number_is_the_total_and_none_is_for_ever(self) -> None:
        given = Timeout(idle=3)
        assert Timeout.of(given) is given
        assert Timeout.of(5) == Timeout(total=5)
        assert Timeout.of(None) == Timeout(connect=None, first_token=None, idle=None, total=None)


class TestCancelToken:
    def test_who_listens_is_called_once_whenever_it_came(self) -> None:
        token, heard = CancelToken(), []
        early, late, gone = (lambda: heard.append("early")), (lambda: heard.append("late")), (lambda: heard.append("!"))
        token.subscribe(early)
        token.subscribe(gone)
        token.unsubscribe(gone)
        token.unsubscribe(gone)
        token.raise_if_cancelled()
        assert not token.cancelled
        assert not token.wait(0)
        token.cancel()
        token.subscribe(late)
        assert (heard, token.cancelled, token.is_cancelled(), token.wait(60)) == (["early", "late"], True, True, True)
        with pytest.raises(Cancelled):
            token.raise_if_cancelled()

    def test_a_listener_may_leave_while_it_is_called(self) -> None:
        token = CancelToken()

        def leave() -> None:
            token.unsubscribe(leave)

        token.subscribe(leave)
        token.cancel()


class TestInterruptible:
    def test_gives_what_the_function_gives(self) -> None:
        def fail() -> None:
            raise KeyError("x")

        for token in (None, CancelToken()):
            assert interruptible(lambda: 5, token) == 5
            with pytest.raises(KeyError):
                interruptible(fail, token)

    def test_a_cancelled_one_is_not_called_or_not_waited_for(self) -> None:
        token, release = CancelToken(), threading.Event()
        threading.Timer(0.01, token.cancel).start()
        with pytest.raises(Cancelled):
            interruptible(lambda: release.wait(60), token)
        release.set()
        with pytest.raises(Cancelled):
            interruptible(lambda: pytest.fail("called"), token)


class TestDeadline:
    def test_the_total_runs_from_the_start(self, clock: Clock) -> None:
        deadline = Deadline(Timeout(total=10))
        clock.now += 4
        assert (deadline.left, deadline.within(7), deadline.within(3), deadline.within(None)) == (6, 6, 3, 6)
        assert deadline.elapsed_ms == 4000
        clock.now += 40
        assert (deadline.left, deadline.within(3)) == (0, 0)

    def test_without_a_total_nothing_is_limited(self, clock: Clock) -> None:
        deadline = Deadline(Timeout())
        clock.now += 1e9
        assert (deadline.left, deadline.within(7), deadline.within(None)) == (None, 7, None)

    def test_does_not_wait_for_what_comes_too_late(self, clock: Clock) -> None:
        deadline = Deadline(Timeout(total=10))
        deadline.sleep(9)
        with pytest.raises(
            APITimeoutError, match=r"no time is left to try again: 2\.0 s are to be waited, 10 s"
        ) as got:
            deadline.sleep(2)
        assert (clock.slept, got.value.phase) == ([9], "total")

    def test_cancelling_wakes_who_waits(self) -> None:
        token = CancelToken()
        Deadline(Timeout(), token).sleep(0.001)
        threading.Timer(0.01, token.cancel).start()
        with pytest.raises(Cancelled):
            Deadline(Timeout(), token).sleep(60)


class TestExchange:
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
    def test_a_read_may_take_what_is_left_of_the_phase_and_the_call(
        self, clock: Clock, timeout: Timeout, after: float, left: float | None
    ) -> None:
        exchange, sock = reading(timeout)
        clock.now += after
        exchange.arm()
        assert sock.limits == [left]

    @pytest.mark.parametrize("timeout", [Timeout(idle=3), Timeout(idle=None, total=3), Timeout(idle=9, total=3)])
    def test_nothing_is_read_when_nothing_is_left(self, clock: Clock, timeout: Timeout) -> None:
        exchange, sock = reading(timeout)
        clock.now += 3
        with pytest.raises(TimeoutError):
            exchange.arm()
        assert sock.limits == []

    def test_progress_begins_the_phase_anew_and_a_busy_reader_does_not_use_it_up(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(idle=10))
        clock.now += 9
        exchange.progress()
        left = clock.now
        clock.now += 1000
        exchange.resume(left)
        clock.now += 4
        exchange.arm()
        assert sock.limits == [6]

    def test_sets_the_socket_only_where_that_changes_something(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(idle=100))
        for _ in range(50):
            exchange.arm()
            clock.now += 0.02
            exchange.progress()
        assert sock.limits == [100]
        clock.now += 50
        exchange.arm()
        assert sock.limits == [100, 50]
        exchange.rearm()  # a pooled connection was set by others
        exchange.arm()
        assert sock.limits == [100, 50, 50]

    def test_a_beat_comes_when_no_piece_does_and_the_limit_still_holds(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(idle=25))
        assert not exchange.beat()
        exchange.beat_every(10)
        exchange.arm()
        clock.now += 10
        assert exchange.beat()
        exchange.arm()
        clock.now += 10
        assert exchange.beat()
        exchange.arm()
        assert sock.limits == [10, 5]  # the second was as long as the first
        clock.now += 5
        assert not exchange.beat()
        with pytest.raises(TimeoutError):
            exchange.arm()

    def test_a_piece_holds_the_beat_but_words_of_no_piece_do_not(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(idle=100))
        exchange.beat_every(10)
        clock.now += 6
        exchange.heard(token=True)
        exchange.arm()
        clock.now += 6
        exchange.heard(token=False)
        exchange.arm()
        assert sock.limits == [10, 4]

    def test_a_token_a_moment_costs_no_system_call_with_beats(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(idle=100))
        exchange.beat_every(10)
        for _ in range(500):
            exchange.arm()
            clock.now += 0.02
            exchange.heard(token=True)
        assert sock.limits == [10]

    def test_the_first_token_begins_the_idle_limit_and_other_payloads_do_not(self, clock: Clock) -> None:
        exchange, sock = reading(Timeout(first_token=100, idle=10))
        exchange.enter("first_token", 100)
        clock.now += 40
        exchange.heard(token=False)
        exchange.arm()
        exchange.heard(token=True)
        clock.now += 4
        exchange.arm()
        exchange.heard(token=False)
        exchange.arm()
        assert (exchange.phase, sock.limits) == ("idle", [60, 6, 10])

    def test_a_forked_child_may_neither_read_nor_end_it(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        exchange = Exchange(Deadline(Timeout()))
        exchange.use(ours)
        exchange._process = os.getppid()
        exchange.shut_down()
        ours.send(b"still open")
        assert theirs.recv(99) == b"still open"
        with pytest.raises(APIConnectionError, match="belongs to the parent process"):
            exchange.arm()

    def test_is_shut_down_until_its_connection_goes_back(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        exchange = Exchange(Deadline(Timeout()))
        exchange.shut_down()  # nothing is there yet
        exchange.use(ours)
        exchange.detach()
        exchange.shut_down()
        ours.send(b"kept")
        assert (theirs.recv(99), exchange.connected) == (b"kept", False)
        exchange.use(ours)
        exchange.shut_down()
        assert theirs.recv(99) == b""

    def test_a_socket_that_comes_after_the_cancelling_is_shut_down(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        token = CancelToken()
        exchange = Exchange(Deadline(Timeout(), token))
        token.cancel()
        exchange.use(pair[0])
        assert pair[1].recv(99) == b""

    @pytest.mark.parametrize(
        ("phase", "said"),
        [
            ("connect", "no connection to there within 1 s"),
            ("first_token", "no answer from there within 2 s"),
            ("idle", "nothing more from there for 3 s"),
        ],
    )
    def test_says_which_limit_was_reached(self, clock: Clock, phase: Any, said: str) -> None:
        timeout = Timeout(connect=1, first_token=2, idle=3, total=50)
        exchange = Exchange(Deadline(timeout))
        exchange.enter(phase, getattr(timeout, phase))
        clock.now += 5
        error = exchange.timeout("there", "p")
        assert (str(error), error.phase, error.retryable) == (f"{said} (timeout: {phase})", phase, phase == "connect")
        clock.now += 50
        late = exchange.timeout("there", "p")
        assert (str(late), late.phase) == ("the call to there took more than 50 s in all (timeout: total)", "total")
