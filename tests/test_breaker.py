"""The circuit breaker of one endpoint, with a clock that stands still."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat import APIConnectionError, APIError, RateLimitError, ResponseShapeError, StreamServerError
from openai_compat.breaker import Breaker, Fault, fault_of


def breaker(now: list[float], failures: int = 2) -> Breaker:
    return Breaker(failures=failures, cool_down=30, clock=lambda: now[0])


def test_what_began_before_it_opened_says_nothing_of_now() -> None:
    now = [0.0]
    one = breaker(now)
    late = [one.begin() for _ in range(3)]
    one.failed("exhausted", None, probe=False)
    now[0] = 20
    one.failed("exhausted", None, probe=late[0])
    one.succeeded(probe=late[1])
    assert (one.state, one.left) == ("open", 10)
    now[0] = 31
    probe = one.begin()
    assert probe
    one.end(probe=late[0])
    one.succeeded(probe=late[2])
    assert (one.state, one.ready) == ("half-open", False)
    one.succeeded(probe=probe)
    assert one.state == "closed"


def test_only_failures_in_a_row_count() -> None:
    one = breaker([0.0])
    for _ in range(5):
        one.failed("failed", None, probe=False)
        one.succeeded(probe=False)
    assert one.state == "closed"
    for _ in range(5):
        one.failed("busy", 1.0, probe=False)
    assert (one.state, one.resting) == ("closed", True)


@pytest.mark.parametrize(
    ("fault", "wait", "left"),
    [("failed", None, 30), ("failed", 10.0, 30), ("failed", 100.0, 100), ("exhausted", 1e9, 600), ("busy", 5.0, 30)],
)
def test_a_probe_that_fails_opens_it_again(fault: Fault, wait: float | None, left: float) -> None:
    now = [0.0]
    one = breaker(now)
    one.failed("exhausted", None, probe=False)
    now[0] = 30
    assert one.failed(fault, wait, probe=one.begin())
    assert (one.state, one.left) == ("open", left)


Step = st.one_of(
    st.tuples(st.just("later"), st.floats(0, 40)),
    st.tuples(st.just("begin"), st.just(0.0)),
    st.tuples(st.sampled_from(["succeeded", "failed", "busy", "exhausted", "nothing"]), st.floats(0, 1)),
)


@given(st.lists(Step, max_size=60))
def test_one_probe_at_a_time_and_never_stuck(steps: list[tuple[str, float]]) -> None:
    now = [0.0]
    one = breaker(now)
    under_way: list[bool] = []
    for what, amount in steps:
        if what == "later":
            now[0] += amount
        elif what == "begin":
            if one.ready:
                under_way.append(one.begin())
        elif under_way:
            probe = under_way.pop(int(amount * (len(under_way) - 1)))
            if what == "succeeded":
                one.succeeded(probe=probe)
            elif what != "nothing":
                one.failed(what, None, probe=probe)  # type: ignore[arg-type]
            one.end(probe=probe)
        assert sum(under_way) <= 1
        assert one.state != "open" or not one.ready
        assert one.ready or one.state == "open" or any(under_way)
    now[0] += 1000
    assert one.ready or any(under_way)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (APIConnectionError("certificate", retryable=False), "failed"),
        (ResponseShapeError("no choices", retryable=True), "failed"),
        (ResponseShapeError("empty"), "caller"),
        (StreamServerError("overloaded", retryable=True), "failed"),
        (StreamServerError("no credits", code="insufficient_quota"), "exhausted"),
        (StreamServerError("bad words", status_code=400), "caller"),
        (StreamServerError("what?"), "caller"),
        (RateLimitError("slow down", status_code=429, retry_after=120.0), "busy"),
        (RateLimitError("slow down", status_code=429, retry_after=121.0), "exhausted"),
        (RateLimitError("please top up", status_code=429), "exhausted"),
        (RateLimitError("please top up", status_code=429, retry_after=5.0), "busy"),
    ],
    ids=str,
)
def test_whose_fault_it_is(error: APIError, fault: Fault) -> None:
    assert fault_of(error) == fault
