"""Whether to try again, and when."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator
from email.utils import formatdate
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import json_values, quick, thorough

from openai_compat.errors import APIError, ConfigurationError
from openai_compat.wire.retry import MAX_WAIT, RetryPolicy, parse_duration, rate_limits, retry_after

NOW = 1_700_000_000.0

DURATIONS: dict[str, float | None] = {
    "6": 6.0,
    " 6 ": 6.0,
    "0.5": 0.5,
    "5.289s": 5.289,
    "6m0s": 360.0,
    "1h2m3s": 3723.0,
    "1d": 86400.0,
    "17ms": 0.017,
    "250us": 0.00025,
    "250µs": 0.00025,
    "8ns": 8e-9,
    "1m30.5s": 90.5,
    "": None,
    "0": None,
    "0s": None,
    "-1": None,
    "-5s": None,
    "nan": None,
    "inf": None,
    "-inf": None,
    "1e999": None,
    "1000000000": None,
    "9" * 400 + "s": None,
    "soon": None,
    "5 s": None,
    "5s later": None,
    "s5": None,
    "5x": None,
    "1.2.3s": None,
    "Wed, 21 Oct 2015 07:28:00 GMT": None,
}


@pytest.mark.parametrize(("text", "wanted"), DURATIONS.items(), ids=[key[:30] or "empty" for key in DURATIONS])
def test_parse_duration(text: str, wanted: float | None) -> None:
    assert parse_duration(text) == (wanted if wanted is None else pytest.approx(wanted))


def info(delay: Any) -> dict[str, Any]:
    """An error as Google's servers send it."""
    details = [None, {"@type": "type.googleapis.com/google.rpc.QuotaFailure"}, {"retryDelay": delay}]
    return {"error": {"code": 429, "details": details}}


HINTS: dict[str, tuple[dict[str, str], Any, float | None]] = {
    "nothing": ({}, None, None),
    "ms": ({"retry-after-ms": "1500"}, None, 1.5),
    "azure-ms": ({"x-ms-retry-after-ms": "250"}, None, 0.25),
    "ms-wins": ({"retry-after-ms": "1500", "retry-after": "60"}, info("7s"), 1.5),
    "bad-ms": ({"retry-after-ms": "-3", "retry-after": "60"}, None, 60.0),
    "seconds": ({"retry-after": "20"}, None, 20.0),
    "fraction": ({"retry-after": "0.25"}, None, 0.25),
    "duration": ({"retry-after": "1m30s"}, None, 90.0),
    "date": ({"retry-after": formatdate(NOW + 30, usegmt=True)}, None, 30.0),
    "past-date": ({"retry-after": formatdate(NOW - 30, usegmt=True)}, None, None),
    "present-date": ({"retry-after": formatdate(NOW, usegmt=True)}, None, None),
    "far-date": ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None, None),
    "other-zone": ({"retry-after": "Wed, 15 Nov 2023 00:13:50 +0200"}, None, 30.0),
    "impossible-date": ({"retry-after": "Fri, 99 Dec 2023 23:59:59 GMT"}, None, None),
    "year-0": ({"retry-after": "Sat, 01 Jan 0000 00:00:00 GMT"}, None, None),
    "word": ({"retry-after": "soon"}, None, None),
    "zero": ({"retry-after": "0"}, None, None),
    "negative": ({"retry-after": "-7"}, None, None),
    "header-before-body": ({"retry-after": "3"}, info("7s"), 3.0),
    "google": ({}, info("7.5s"), 7.5),
    "google-in-a-list": ({}, [info("7s")], 7.0),
    "google-negative": ({}, info("-7s"), None),
    "google-number": ({}, info(7), None),
    "empty-list": ({}, [], None),
    "no-details": ({}, {"error": {"details": {}}}, None),
    "text-error": ({}, {"error": "no"}, None),
    "text-body": ({}, "no", None),
    "requests-left": ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, None, 360.0),
    "tokens-left": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "17ms"}, None, 0.017),
    "both-left": (
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "2s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "5s",
        },
        None,
        5.0,
    ),
    "some-remaining": ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None, None),
    "no-reset": ({"x-ratelimit-remaining-requests": "0"}, None, None),
}


@pytest.mark.parametrize(("headers", "payload", "wanted"), HINTS.values(), ids=HINTS)
def test_retry_after(headers: dict[str, str], payload: Any, wanted: float | None) -> None:
    assert retry_after(headers, payload, NOW) == (wanted if wanted is None else pytest.approx(wanted))


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(
    "date",
    [
        pytest.param("Tue, 14 Nov 2023 22:13:50 GMT", id="IMF-fixdate"),
        pytest.param("Tuesday, 14-Nov-23 22:13:50 GMT", id="RFC 850"),
        pytest.param("Tue Nov 14 22:13:50 2023", id="asctime"),
        pytest.param("Tue, 14 Nov 2023 22:13:50 -0000", id="no zone known"),
    ],
)
def test_dates_of_http_are_utc_wherever_the_caller_lives(date: str) -> None:
    assert retry_after({"retry-after": date}, None, NOW) == pytest.approx(30.0)


@thorough
@given(st.text() | st.from_regex(r"-?[0-9]{1,12}(\.[0-9]+)?(ms|s|m|h|d)?", fullmatch=True) | st.floats().map(str))
def test_durations_are_positive_and_finite(text: str) -> None:
    seconds = parse_duration(text)
    assert seconds is None or (seconds > 0 and math.isfinite(seconds))


_hints = st.one_of(
    st.text(max_size=20),
    st.floats().map(str),
    st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,5} [0-9]{2}:[0-9]{2}:[0-9]{2} [A-Z+\-0-9]{1,5}"),
    st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


@thorough
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ms-retry-after-ms",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ]
        ),
        _hints,
    ),
    json_values | _hints.map(info),
    st.floats(0, 4e9),
)
def test_waits_are_positive_and_finite(headers: dict[str, str], payload: Any, now: float) -> None:
    wait = retry_after(headers, payload, now)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


@pytest.mark.parametrize("text", [":" + "0" * 60_000, "1" * 60_000 + "x", "1 " * 30_000, "1ms" * 20_000])
def test_a_long_hint_costs_nothing(text: str) -> None:
    began = process_time()
    assert (
        retry_after({"retry-after": text, "retry-after-ms": text, "x-ratelimit-reset-tokens": text}, None, NOW) is None
    )
    assert rate_limits({"x-ratelimit-reset-tokens": text}) == {}
    # Each digit is looked through again from the next one: that takes some twenty seconds.
    assert process_time() - began < 2


def test_rate_limits() -> None:
    assert rate_limits(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-reset-tokens": "0",
            "x-ratelimit-limit-tokens": "-1",
            "x-ratelimit-note": "none",
            "x-request-id": "7",
        }
    ) == {"limit_requests": 60.0, "remaining_requests": 0.0, "remaining_tokens": 149984.0, "reset_requests": 1.0}


def failed(retryable: bool = True, wait: float | None = None) -> APIError:
    return APIError("no", retryable=retryable, retry_after=wait)


DELAYS: dict[str, tuple[int, APIError, float, float | None]] = {
    "first": (0, failed(), 0.0, 0.5),
    "second": (1, failed(), 0.0, 1.0),
    "fourth": (3, failed(), 0.0, 4.0),
    "longest": (6, failed(), 0.0, 8.0),
    "jittered": (0, failed(), 1.0, 0.25),
    "half-jittered": (1, failed(), 0.5, 0.75),
    "given-up": (7, failed(), 0.0, None),
    "final": (0, failed(retryable=False), 0.0, None),
    "final-with-hint": (0, failed(retryable=False, wait=1.0), 0.0, None),
    "hint": (0, failed(wait=30.0), 1.0, 30.0),
    "longest-hint": (0, failed(wait=MAX_WAIT), 0.0, MAX_WAIT),
    "absurd-hint": (0, failed(wait=MAX_WAIT + 1), 0.0, None),
}


@pytest.mark.parametrize(("attempt", "error", "jitter", "wanted"), DELAYS.values(), ids=DELAYS)
def test_delay(attempt: int, error: APIError, jitter: float, wanted: float | None) -> None:
    assert RetryPolicy(max_retries=7).delay(attempt, error, jitter) == wanted


def test_delay_of_a_patient_caller() -> None:
    assert RetryPolicy(max_retries=5000).delay(4000, failed(), 0.0) == 8.0


@quick
@given(st.integers(0, 100), st.floats(0, 1), st.none() | st.floats(0.001, 1e9))
def test_delay_is_never_negative_or_longer_than_the_longest_wait(
    attempt: int, jitter: float, hint: float | None
) -> None:
    delay = RetryPolicy(max_retries=101).delay(attempt, failed(wait=hint), jitter)
    assert delay is None or 0 < delay <= (8.0 if hint is None else MAX_WAIT)


def test_default_policy_tries_thrice() -> None:
    delays = [RetryPolicy().delay(attempt, failed(), 0.0) for attempt in range(4)]
    assert delays == [0.5, 1.0, None, None]


@pytest.mark.parametrize("value", [-1, True, 1.5, "2", None])
def test_max_retries_is_a_count(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_retries must be a whole number"):
        RetryPolicy(max_retries=value)


def test_policy_survives_pickle_and_json() -> None:
    policy = RetryPolicy(max_retries=5, first_wait=0.1)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert msgspec.json.decode(msgspec.json.encode(policy), type=RetryPolicy) == policy


@pytest.mark.parametrize("value", [-1, True, math.nan, math.inf, "2", None, MAX_WAIT + 1])
@pytest.mark.parametrize("name", ["first_wait", "longest_wait"])
def test_waits_are_seconds(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be from 0 to"):
        RetryPolicy(**{name: value})
