"""``Client(limits=...)``: what the server sees of it, who waits, and what ends a wait."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, error_reply, stream_reply

from openai_compat import (
    APIError,
    APIStatusError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    Limits,
    RateLimitError,
    Timeout,
)
from openai_compat.limits.bucket import Bucket
from openai_compat.limits.estimate import input_tokens, output_tokens
from openai_compat.limits.pace import LONGEST_PAUSE, Pace
from openai_compat.limits.shared import SharedBuckets

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""


def client(server: ReplayServer, limits: Limits | None, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", limits=limits, **{"max_retries": 0, **options})


# -------------------------------------------------------------------------------------------------------- the bucket


def taken_at(bucket: Bucket, pauses: list[float], amounts: list[int]) -> list[tuple[float, int]]:
    """When how much was taken, by somebody who asks after each pause and waits as long as he is told."""
    now, taken = 1000.0, []
    for pause, amount in zip(pauses, amounts, strict=True):
        now += pause
        for _ in range(3):
            seconds = bucket.wait(amount, now)
            if seconds == 0:
                break
            now += seconds
        assert bucket.wait(amount, now) == 0, "who has waited as told may go"
        bucket.take(amount)
        taken.append((now, amount))
    return taken


def most_in_a_minute(taken: list[tuple[float, int]]) -> int:
    # A little less than a minute, for sums of fractions.
    return max(sum(amount for at, amount in taken if start <= at < start + 59.999) for start, _ in taken)


@given(
    st.one_of(st.integers(1, 5), st.integers(50, 150)),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 2.0, 30.0, 61.0, 600.0]), st.integers(1, 200)), min_size=1, max_size=4
    ),
)
def test_never_more_requests_than_allowed_in_any_minute(per_minute: int, runs: list[tuple[float, int]]) -> None:
    pauses = [pause if not number else 0.0 for pause, count in runs for number in range(count)]
    taken = taken_at(Bucket(per_minute), pauses, [1] * len(pauses))
    assert most_in_a_minute(taken) <= per_minute


@given(
    st.integers(60, 100_000),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.01, 1.0, 70.0]), st.floats(0, 3)),
        min_size=1,
        max_size=100,
    ),
)
def test_tokens_overshoot_by_no_more_than_one_large_request(per_minute: int, asked: list[tuple[float, float]]) -> None:
    bucket = Bucket(per_minute)
    amounts = [int(bucket.burst * times) for _, times in asked]
    taken = taken_at(bucket, [pause for pause, _ in asked], amounts)
    assert most_in_a_minute(taken) <= per_minute + max(0.0, max(amounts) - bucket.burst)


@pytest.mark.parametrize("per_minute", [1, 3, 59, 60, 61, 500, 1_000_000])
def test_what_is_allowed_can_be_used(per_minute: int) -> None:
    count = min(per_minute, 2000)
    taken = taken_at(Bucket(per_minute), [0.0] * count, [1] * count)
    assert taken[-1][0] - taken[0][0] <= 60 * count / per_minute * 1.02


def test_what_was_estimated_too_high_comes_back_and_too_low_is_paid_off() -> None:
    bucket = Bucket(6000)
    bucket.take(100)
    bucket.take(-60)
    assert bucket.wait(60, 0.0) == 0
    bucket.take(200)
    assert bucket.wait(1, 0.0) == pytest.approx((200 - 60 + 1) / bucket.rate)


# ---------------------------------------------------------------------------------------------------------- the pace


def test_without_refusals_nothing_is_slower() -> None:
    pace = Pace(None)
    for _ in range(1000):
        assert pace.wait(0.0) == 0
        pace.begin(0.0)


def refused(pace: Pace, *, under_way: int) -> list[int]:
    numbers = [pace.begin(0.0) for _ in range(under_way)]
    pace.refused(numbers[0])
    return numbers


def test_one_refusal_slows_and_does_not_stop() -> None:
    pace = Pace(16)
    refused(pace, under_way=16)
    assert pace.window == pytest.approx(16 * 0.7)


def test_calls_that_were_under_way_at_a_refusal_are_refused_for_the_same_reason() -> None:
    pace = Pace(16)
    numbers = refused(pace, under_way=16)
    for number in numbers:
        pace.refused(number)
        pace.answered(number, 0.05)
    assert pace.window == pytest.approx(16 * 0.7)


def test_the_window_is_whole_again_after_a_few_rounds() -> None:
    pace = Pace(16)
    numbers = refused(pace, under_way=16)
    for _ in numbers:
        pace.end()
    rounds = 0
    while pace.window < 16:
        for number in [pace.begin(0.0) for _ in range(int(pace.window))]:
            pace.answered(number, 0.05)
            pace.end()
        rounds += 1
    assert rounds <= 15
    assert pace.window == 16


def test_a_server_that_refuses_on_is_asked_less_and_less_but_never_for_ever_left() -> None:
    pace, now, gaps = Pace(None), 0.0, []
    pace.answered(pace.begin(now), 0.05)
    pace.end()
    for _ in range(60):
        seconds = pace.wait(now)
        now += seconds
        gaps.append(seconds)
        pace.refused(pace.begin(now))
        pace.end()
    assert gaps == pytest.approx(sorted(gaps))
    assert gaps[-1] == pytest.approx(LONGEST_PAUSE)
    pace.answered(pace.begin(now), 0.05)
    pace.end()
    assert pace.wait(now) < LONGEST_PAUSE


def asking_a_limited_server(per_second: float, seconds: float) -> tuple[int, int]:
    """How many of a client's calls, each of 50 ms and one after the other, were answered and refused."""
    pace, now, answered, refusals, allowance = Pace(None), 0.0, 0, 0, 1.0
    while now < seconds:
        since = now
        now += pace.wait(now)
        number = pace.begin(now)
        now += 0.05
        allowance = min(1.0, allowance + (now - since) * per_second)
        if allowance >= 1:
            allowance -= 1
            answered += 1
            pace.answered(number, 0.05)
        else:
            refusals += 1
            pace.refused(number)
        pace.end()
    return answered, refusals


@pytest.mark.parametrize("per_second", [0.2, 1.0, 5.0, 15.0])
def test_the_pace_finds_a_limit_that_nobody_told(per_second: float) -> None:
    answered, refusals = asking_a_limited_server(per_second, 300 / per_second)
    assert answered >= 0.8 * 300
    assert refusals <= answered / 8


def headers(**said: object) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": str(value) for name, value in said.items()}


@pytest.mark.parametrize(
    ("said", "tokens", "pause"),
    [
        ({}, 0, 0),
        ({"limit_requests": 60, "remaining_requests": 1, "reset_requests": "59s"}, 0, 0),
        ({"limit_requests": 60, "remaining_requests": 0, "reset_requests": "1m0s"}, 0, 1),
        ({"limit_requests": 3, "remaining_requests": 0, "reset_requests": "1m"}, 0, 20),
        ({"limit_tokens": 6000, "remaining_tokens": 400, "reset_tokens": "56s"}, 500, 5),
        ({"limit_tokens": 6000, "remaining_tokens": 500, "reset_tokens": "55s"}, 500, 0),
        ({"remaining_requests": 0, "reset_requests": "40s"}, 0, 0),
        ({"limit_requests": 60, "remaining_requests": 0, "reset_requests": "-1"}, 0, 0),
    ],
    ids=str,
)
def test_calls_go_as_fast_as_the_server_says_that_its_limit_fills_up(
    said: dict[str, object], tokens: float, pause: float
) -> None:
    pace = Pace(None)
    pace.begin(100.0)
    pace.told(headers(**said), tokens, 100.0)
    assert pace.wait(100.0) == pytest.approx(pause)


def test_what_the_server_said_is_not_believed_for_ever() -> None:
    pace = Pace(None)
    pace.told(headers(limit_requests=2, remaining_requests=0, reset_requests="10s"), 0, 100.0)
    pace.begin(109.0)
    assert pace.wait(109.5) == pytest.approx(4.5)
    assert pace.wait(111.0) == 0


# ------------------------------------------------------------------------------------------------------ the estimate


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "a" * 40}]}, 14),
        ({"messages": [{"role": "user", "content": "ä" * 20}]}, 14),
        ({"messages": [{"role": "user", "content": None}]}, 4),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a" * 8}, {"type": "image_url", "image_url": {}}],
                    }
                ]
            },
            1006,
        ),
        ({"messages": ["odd"]}, 4),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 4),
        ({"input": "a" * 40}, 10),
        ({"input": ["a" * 40, "a" * 40]}, 20),
        ({"input": [[1, 2, 3], [4]]}, 4),
        ({"input": [1, 2, 3]}, 3),
        ({"input": "a"}, 1),
    ],
    ids=str,
)
def test_input_tokens(body: dict[str, Any], tokens: int) -> None:
    assert input_tokens(body) == tokens


def test_tools_and_calls_count() -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}]}
    assert input_tokens({**plain, "tools": [{"function": {"description": "x" * 400}}]}) > 100
    called = {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"arguments": "x" * 400}]}]}
    assert input_tokens(called) > 100


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": []}, 300),
        ({"messages": [], "max_tokens": 20}, 20),
        ({"messages": [], "max_completion_tokens": 20, "n": 3}, 60),
        ({"messages": [], "max_tokens": 5000}, 300),
        ({"input": "a"}, 0),
    ],
    ids=str,
)
def test_output_tokens(body: dict[str, Any], tokens: int) -> None:
    assert output_tokens(body, 300.0) == tokens


# --------------------------------------------------------------------------------------------- what the server sees


class Held:
    """Replies that wait until they are let go; notes how many were there at once."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.let_go = threading.Event()
        self.came = threading.Semaphore(0)
        self.at_once = self.most = 0
        self._reply = reply or chat_reply()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.came.release()
        self.let_go.wait(LIMIT)
        with self._lock:
            self.at_once -= 1
        return self._reply


def in_threads(count: int, call: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def waiting(limits: Limits) -> int:
    """How many calls wait for their turn."""
    gate = limits._gates.get(os.getpid())
    return len(gate._queue) if gate else 0


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def under_way(limits: Limits) -> int:
    return limits._gates[os.getpid()]._pace.under_way


def test_no_more_calls_are_under_way_than_allowed_in_all_clients_that_share_the_limits() -> None:
    held, limits = Held(), Limits(concurrency=3)
    with ReplayServer(held) as server, client(server, limits) as one, client(server, limits) as two:
        threads = [*in_threads(4, lambda: one.chat("hi")), *in_threads(4, lambda: two.chat("hi"))]
        for _ in range(3):
            assert held.came.acquire(timeout=LIMIT)
        until(lambda: waiting(limits) == 5)
        assert len(server.requests) == 3
        held.let_go.set()
        join(threads)
        assert (held.most, len(server.requests)) == (3, 8)
    assert under_way(limits) == 0


def test_map_keeps_to_them() -> None:
    held, limits = Held(), Limits(concurrency=2)
    held.let_go.set()
    with ReplayServer(held) as server, client(server, limits) as asking:
        assert all(result.response for result in asking.map(["hi"] * 20, workers=8))
        assert held.most <= 2
        assert len(server.requests) == 20


def embeddings(request: Request) -> Reply:
    return Reply(headers=JSON, body=b'{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":7}}')


def level(limits: Limits, which: int) -> float:
    bucket = limits._gates[os.getpid()]._buckets[which]
    assert bucket is not None
    return bucket.burst - bucket.level


CALLS: dict[str, tuple[Any, Callable[[Client], object]]] = {
    "chat": (lambda request: chat_reply(), lambda asking: asking.chat("hi")),
    "sink": (
        lambda request: stream_reply("ok"),
        lambda asking: asking.chat("hi", sink=lambda event: None),
    ),
    "stream": (lambda request: stream_reply("ok"), lambda asking: asking.stream("hi").until_done()),
    "embed": (embeddings, lambda asking: asking.embed("hi")),
    "submit": (lambda request: chat_reply(), lambda asking: asking.submit("hi").result(LIMIT)),
    "map": (lambda request: chat_reply(), lambda asking: list(asking.map(["hi"]))),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_call_takes_one_permit_for_each_request_and_gives_it_back(name: str) -> None:
    reply, call = CALLS[name]
    limits = Limits(requests_per_minute=60_000, concurrency=1)
    with ReplayServer([error_reply(500, headers={"retry-after-ms": "1"}), reply]) as server:
        call(client(server, limits, max_retries=1))
        assert len(server.requests) == 2
    assert under_way(limits) == 0
    assert limits._gates[os.getpid()]._pace._begun == 2


def test_what_was_estimated_is_corrected_by_the_answers_usage() -> None:
    limits = Limits(input_tokens_per_minute=1, output_tokens_per_minute=1)
    with ReplayServer([chat_reply()]) as server:
        client(server, limits).chat("a" * 4000, max_tokens=1000)
    # At a token a minute next to nothing has come in since.
    assert (round(level(limits, 1)), round(level(limits, 2))) == (3, 2)


def test_a_count_that_cannot_be_stops_nobody_for_years() -> None:
    limits = Limits(input_tokens_per_minute=600, output_tokens_per_minute=600)
    body = json.loads(chat_body()) | {"usage": {"prompt_tokens": 2**53, "completion_tokens": 2**53}}
    with ReplayServer([Reply(headers=JSON, body=json.dumps(body).encode())]) as server:
        with client(server, limits) as asking:
            asking.chat("hi", max_tokens=5)
    (gate,) = limits._gates.values()
    for bucket in gate._buckets[1:]:
        assert bucket is not None
        assert 500 < bucket.wait(1, time.monotonic()) < 700
    assert gate._usual_output < 2000


def test_a_stream_is_corrected_too() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":70,"completion_tokens":9}}\n\n'
    said = stream_reply("ok", done=False)
    assert isinstance(said.body, list)
    limits = Limits(input_tokens_per_minute=1, output_tokens_per_minute=1)
    with ReplayServer([Reply(headers=said.headers, body=[*said.body, usage])]) as server:
        client(server, limits).stream("hi").until_done()
    assert (round(level(limits, 1)), round(level(limits, 2))) == (70, 9)


def test_a_refused_request_costs_no_tokens() -> None:
    limits = Limits(requests_per_minute=1, input_tokens_per_minute=1)
    with ReplayServer([error_reply(400)]) as server, pytest.raises(APIStatusError):
        client(server, limits).chat("a" * 4000)
    assert (round(level(limits, 0)), round(level(limits, 1))) == (1, 0)


@pytest.mark.parametrize("how", ["close", "drop", "done"])
def test_a_stream_that_is_left_is_no_longer_under_way(how: str) -> None:
    limits = Limits(concurrency=1)
    with ReplayServer([stream_reply("a", "b")]) as server, client(server, limits) as asking:
        stream = asking.stream("hi")
        first = next(stream)
        assert (first.data, under_way(limits)) == ("a", 1)
        if how == "close":
            stream.close()
        elif how == "done":
            assert [event.kind for event in (next(stream), next(stream))] == ["text", "done"]
        else:
            del stream
        assert under_way(limits) == 0
        assert asking.stream("hi").until_done().text == "ab"


SAID_IN_A_STREAM = b'data: {"error":{"code":429,"message":"too much"}}\n\n'


@pytest.mark.parametrize(
    ("reply", "slows"),
    [
        (error_reply(429), True),
        (error_reply(503), True),
        (error_reply(500), False),
        (error_reply(400), False),
        (error_reply(429, code="insufficient_quota", type="insufficient_quota"), False),
        (Reply(headers=EVENT_STREAM, body=[SAID_IN_A_STREAM]), True),
        (Reply(head=b"", abort="fin"), False),
    ],
    ids=["429", "503", "500", "400", "quota", "in a stream", "broken"],
)
def test_what_slows(reply: Reply, slows: bool) -> None:
    limits = Limits(concurrency=4)
    with ReplayServer([reply]) as server, client(server, limits) as asking, pytest.raises(APIError):
        asking.stream("hi").until_done()
    assert (limits._gates[os.getpid()]._pace.window < 4) == slows


def test_one_429_slows_and_does_not_stop() -> None:
    """While the refused call waits out its hint, which is longer than this test, all others are answered."""
    limits = Limits(concurrency=4)

    def reply(request: Request) -> Reply:
        return error_reply(429, headers={"Retry-After": "100"}) if request.number == 5 else chat_reply()

    with ReplayServer(reply) as server, client(server, limits, max_retries=1) as asking:
        token = CancelToken()
        results = asking.map(["hi"] * 60, workers=4, cancel=token)
        answered = [next(results).response for _ in range(59)]
        assert all(answered)
        assert len(server.requests) == 60
        token.cancel()
        with pytest.raises(Cancelled):
            list(results)
    assert under_way(limits) == 0


def test_refusals_and_hints_are_heeded_by_all() -> None:
    limits = Limits()
    said = headers(limit_requests=1, remaining_requests=0, reset_requests="100s")
    with ReplayServer([error_reply(429, headers=said)]) as server, client(server, limits) as asking:
        with pytest.raises(RateLimitError):
            asking.chat("hi")
        with pytest.raises(APITimeoutError, match="limits"):
            asking.chat("hi", timeout=0.01)
        assert len(server.requests) == 1
    assert limits._gates[os.getpid()]._pace._spacing == 100


def test_an_answer_that_says_that_nothing_is_left_is_heeded_before_any_refusal() -> None:
    limits = Limits()
    said = headers(limit_requests=1, remaining_requests=0, reset_requests="100s")
    with (
        ReplayServer([Reply(headers={**JSON, **said}, body=chat_body())]) as server,
        client(server, limits) as asking,
    ):
        asking.chat("hi")
        with pytest.raises(APITimeoutError, match="limits"):
            asking.chat("hi", timeout=0.01)
        assert len(server.requests) == 1


# ---------------------------------------------------------------------------------------------- what ends a wait


@pytest.fixture
def full() -> Iterator[tuple[Client, Limits, ReplayServer]]:
    """A client whose one request a minute has been sent."""
    limits = Limits(requests_per_minute=1)
    with ReplayServer([chat_reply()]) as server, client(server, limits) as asking:
        asking.chat("hi")
        yield asking, limits, server
        assert len(server.requests) == 1, "who waits sends nothing"


def test_the_calls_total_time_ends_a_wait(full: tuple[Client, Limits, ReplayServer]) -> None:
    asking, limits, _ = full
    with pytest.raises(APITimeoutError, match="the limits had no room for it within 0.05 s") as caught:
        asking.chat("hi", timeout=Timeout(total=0.05))
    assert (caught.value.phase, caught.value.retryable) == ("total", False)
    assert (waiting(limits), under_way(limits)) == (0, 0)


def test_a_try_that_never_began_is_no_attempt() -> None:
    limits = Limits(requests_per_minute=1)
    with (
        ReplayServer([error_reply(500, headers={"retry-after-ms": "1"})]) as server,
        client(server, limits, max_retries=2) as asking,
        pytest.raises(APITimeoutError, match=r"\(timeout: total\) \(after 1 try\)") as caught,
    ):
        asking.chat("hi", timeout=1.5)
    assert len(caught.value.attempts) == len(server.requests) == 1


@pytest.mark.parametrize("kind", ["chat", "stream", "map"])
def test_a_token_ends_a_wait_at_once(full: tuple[Client, Limits, ReplayServer], kind: str) -> None:
    asking, limits, _ = full
    token, ended = CancelToken(), []

    def call() -> None:
        try:
            if kind == "chat":
                asking.chat("hi", cancel=token)
            elif kind == "stream":
                asking.stream("hi", cancel=token).until_done()
            else:
                list(asking.map(["hi"] * 3, workers=2, cancel=token))
        except Cancelled as error:
            ended.append(error)

    threads = in_threads(2, call)
    until(lambda: waiting(limits) == (4 if kind == "map" else 2))
    token.cancel()
    join(threads)
    assert len(ended) == 2
    until(lambda: waiting(limits) == 0)
    assert under_way(limits) == 0


def test_a_signal_that_is_handled_for_longer_than_the_wait_does_not_prolong_it(
    full: tuple[Client, Limits, ReplayServer], slow_alarm: None
) -> None:
    """A ``SimpleQueue`` would be waited for without end, before Python 3.13."""
    asking, _, _ = full
    with pytest.raises(APITimeoutError):
        asking.chat("hi", timeout=Timeout(total=0.2))


def test_ctrl_c_ends_a_wait(full: tuple[Client, Limits, ReplayServer]) -> None:
    asking, limits, _ = full
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: waiting(limits) == 1)
        signal.pthread_kill(main, signal.SIGINT)

    threads = in_threads(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        asking.chat("hi")
    join(threads)
    assert (waiting(limits), under_way(limits)) == (0, 0)


def test_who_gives_up_lets_the_next_go() -> None:
    held, limits = Held(), Limits(concurrency=1)
    with ReplayServer(held) as server, client(server, limits) as asking:
        first = in_threads(1, lambda: asking.chat("first"))
        assert held.came.acquire(timeout=LIMIT)
        token = CancelToken()

        def given_up() -> None:
            with pytest.raises(Cancelled):
                asking.chat("second", cancel=token)

        second = in_threads(1, given_up)
        until(lambda: waiting(limits) == 1)
        third = in_threads(1, lambda: asking.chat("third"))
        until(lambda: waiting(limits) == 2)
        token.cancel()
        join(second)
        held.let_go.set()
        join([*first, *third])
        assert [request.json()["messages"][0]["content"] for request in server.requests] == ["first", "third"]


def test_calls_go_in_the_order_in_which_they_came() -> None:
    held, limits = Held(), Limits(concurrency=1)
    with ReplayServer(held) as server, client(server, limits) as asking:
        threads = []
        for number in range(5):
            threads += in_threads(1, lambda number=number: asking.chat(str(number)))  # type: ignore[misc]
            if number:
                until(lambda number=number: waiting(limits) == number)  # type: ignore[misc]
            else:
                assert held.came.acquire(timeout=LIMIT)
        held.let_go.set()
        join(threads)
        assert [request.json()["messages"][0]["content"] for request in server.requests] == list("01234")


def chat_or_embed(request: Request) -> Reply:
    return embeddings(request) if request.path.endswith("/embeddings") else chat_reply()


def test_who_needs_less_waits_behind_who_needs_more_and_goes_once_that_has_given_up() -> None:
    limits, token = Limits(output_tokens_per_minute=1), CancelToken()
    with ReplayServer(chat_or_embed) as server, client(server, limits) as asking:
        asking.chat("hi")

        def given_up() -> None:
            with pytest.raises(Cancelled):
                asking.chat("hi", cancel=token)

        first = in_threads(1, given_up)
        until(lambda: waiting(limits) == 1)
        with pytest.raises(APITimeoutError):
            asking.embed("hi", timeout=0.05)
        second = in_threads(1, lambda: asking.embed("hi"))
        until(lambda: waiting(limits) == 2)
        assert len(server.requests) == 1
        token.cancel()
        join([*first, *second])
        assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/embeddings"]


def test_what_needs_nothing_of_a_limit_does_not_wait_for_it() -> None:
    limits = Limits(output_tokens_per_minute=1)
    with ReplayServer(chat_or_embed) as server, client(server, limits) as asking:
        asking.chat("hi")
        asking.embed("hi", timeout=LIMIT)
        assert len(server.requests) == 2


def test_ctrl_c_as_a_call_is_let_in_leaves_nothing_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(concurrency=1)
    with ReplayServer([chat_reply()]) as server, client(server, limits) as asking:
        asking.chat("hi")
        gate = limits._gates[os.getpid()]

        def interrupted(*args: Any) -> None:
            admit(*args)
            raise KeyboardInterrupt

        admit = gate.admit
        monkeypatch.setattr(gate, "admit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asking.chat("hi")
        monkeypatch.undo()
        assert under_way(limits) == 0
        asking.chat("hi")


def test_answers_are_taken_to_be_as_long_as_the_last_ones() -> None:
    limits = Limits(output_tokens_per_minute=10**9)
    with ReplayServer([chat_reply()]) as server, client(server, limits) as asking:
        assert all(result.response for result in asking.map(["hi"] * 50))
    assert limits._gates[os.getpid()].estimate({"messages": []})[1] < 10


# ----------------------------------------------------------------------------------------------- several processes


def test_who_names_one_file_shares_what_may_be_asked(tmp_path: Path) -> None:
    one, two = (Limits(requests_per_minute=1, shared=tmp_path / "limits") for _ in range(2))
    with ReplayServer([chat_reply()]) as server:
        client(server, one).chat("hi")
        with pytest.raises(APITimeoutError, match="limits"):
            client(server, two).chat("hi", timeout=0.05)
        assert len(server.requests) == 1


def test_usage_is_corrected_for_all(tmp_path: Path) -> None:
    one, two = (Limits(input_tokens_per_minute=1, shared=tmp_path / "limits") for _ in range(2))
    with ReplayServer([chat_reply()]) as server:
        client(server, one).chat("a" * 4000)
        with pytest.raises(APITimeoutError, match="limits"):
            client(server, two).chat("hi", timeout=0.05)
    assert round(level(two, 1)) == 3


PROCESS = """
import sys
from openai_compat import APITimeoutError, Limits
from openai_compat.timeouts import Deadline, Timeout

limits = Limits(requests_per_minute=120, shared=sys.argv[1])
granted = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(400):
    try:
        with limits.permit({}, Deadline(Timeout(total=0.0001))):
            granted += 1
    except APITimeoutError:
        pass
print(granted)
"""


@pytest.mark.process
def test_processes_that_ask_at_once_get_no_more_together_than_one_alone(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "limits")]
    asking = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(3)
    ]
    for process in asking:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    granted = sum(int(process.communicate("go\n", timeout=60)[0]) for process in asking)
    # The burst is 2, and 2 a second come in.
    assert 2 <= granted <= 2 + 2 * (time.monotonic() - began)


def test_nobody_else_is_at_the_file_between_a_look_and_a_change(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        with (
            SharedBuckets(path, {"requests": Bucket(60)}),
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("what", ["a folder", "no database"])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_sent(tmp_path: Path, what: str) -> None:
    path = tmp_path / "limits"
    if what == "a folder":
        path.mkdir()
    else:
        path.write_text("something else " * 100)
    with ReplayServer([chat_reply()]) as server, client(server, Limits(shared=path)) as asking:
        with pytest.raises(ConfigurationError, match=rf"limits: the shared file '{path}' cannot be used: "):
            asking.chat("hi")
        assert not server.requests


def test_no_answer_is_lost_to_a_file_that_can_no_longer_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limits"
    limits = Limits(input_tokens_per_minute=1000, shared=path)

    def reply(request: Request) -> Reply:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DROP TABLE buckets")
        return chat_reply("ok")

    with ReplayServer(reply) as server, client(server, limits) as asking:
        assert asking.chat("hi").text == "ok"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "no such table" in caplog.text
        with pytest.raises(ConfigurationError, match="no such table"):
            asking.chat("hi")
        assert len(server.requests) == 1
    assert (waiting(limits), under_way(limits)) == (0, 0)


# ------------------------------------------------------------------------------------------------------- the value


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize(
    "name", ["requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "concurrency"]
)
def test_a_limit_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"limits: {name} must be a whole number from 1"):
        Limits(**{name: value})


def test_a_client_takes_a_limits_and_nothing_else() -> None:
    with pytest.raises(ConfigurationError, match="limits must be a Limits, not dict"):
        Client("http://localhost:1", limits={"concurrency": 4})  # type: ignore[arg-type]


def test_a_copy_of_a_client_shares_them_and_a_pickle_has_the_numbers() -> None:
    limits = Limits(requests_per_minute=5, concurrency=2)
    original = Client("http://localhost:1", limits=limits)
    assert copy.copy(original)._limits is copy.deepcopy(original)._limits is limits
    limits.permit({"messages": []}, original._deadline(None, None))
    restored = pickle.loads(pickle.dumps(original))._limits
    assert repr(restored) == repr(limits)
    assert restored is not limits


FORK = """
import os, signal
from openai_compat import Limits
from openai_compat.timeouts import Deadline, Timeout

limits = Limits(concurrency=1)
with limits.permit({"messages": []}, Deadline(Timeout(total=5))):
    if not (child := os.fork()):
        signal.alarm(20)
        with limits.permit({"messages": []}, Deadline(Timeout(total=5))) as permit:
            os._exit(permit.number - 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.process
def test_a_forked_child_has_nothing_under_way() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
