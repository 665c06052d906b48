"""Time limits and cancelling; on a clock that the tests turn."""

from __future__ import annotations

import math
import pickle
import threading
from typing import Any

import pytest

from openai_compat import APITimeoutError, Cancelled, CancelToken, ConfigurationError, Timeout
from openai_compat import timeouts as module
from openai_compat.timeouts import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


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

    @pytest.mark.parametrize(
        ("value", "meant"),
        [
            ((3, 5), "Timeout(connect=3, first_token=5, idle=5)"),
            ({"idle": 7}, "Timeout(idle=7)"),
            ([], "Timeout(total=60)"),
        ],
    )
    def test_how_another_kind_is_written_is_told(self, value: Any, meant: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Timeout.of(value)
        assert str(caught.value).endswith(f"write {meant}")


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

    def test_a_listener_that_fails_keeps_no_other_from_being_called(self, caplog: pytest.LogCaptureFixture) -> None:
        token, heard = CancelToken(), []
        for name in ("one", "two"):
            token.subscribe(lambda name=name: heard.append(name) or 1 / 0)
        token.cancel()
        assert (sorted(heard), token.cancelled) == (["one", "two"], True)
        assert [record.getMessage() for record in caplog.records] == ["a listener of a CancelToken failed"] * 2

    def test_a_copy_knows_whether_it_was_cancelled(self) -> None:
        token = CancelToken()
        token.subscribe(lambda: None)
        assert not pickle.loads(pickle.dumps(token)).cancelled
        token.cancel()
        assert pickle.loads(pickle.dumps(token)).cancelled


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
