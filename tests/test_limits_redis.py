"""``Limits(shared="redis://...")``: what processes share through a real Redis."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from support.redis_server import RedisServer, redis_server, running_redis
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply

from openai_compat import APITimeoutError, Client, ConfigurationError, Journal, Limits
from openai_compat.limits import redis_buckets
from openai_compat.limits.bucket import Bucket
from openai_compat.limits.redis_buckets import RedisBuckets

__all__ = ["redis_server"]

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""


@pytest.fixture(autouse=True)
def empty(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushall()
        yield client


def client(server: ReplayServer, limits: Limits, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", limits=limits, max_retries=0, **options)


def until(true: Any) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_who_names_one_redis_shares_what_may_be_asked(redis_server: RedisServer) -> None:
    one, two = (Limits(requests_per_minute=1, shared=redis_server.url) for _ in range(2))
    other = Limits(requests_per_minute=1, shared=redis_server.url, name="another key")
    with ReplayServer([chat_reply(), chat_reply()]) as server:
        client(server, one).chat("hi")
        with pytest.raises(APITimeoutError, match="limits"):
            client(server, two).chat("hi", timeout=0.1)
        assert len(server.requests) == 1
        client(server, other).chat("hi")
        assert len(server.requests) == 2


def test_usage_is_corrected_for_all(redis_server: RedisServer, empty: Redis) -> None:
    limits = Limits(input_tokens_per_minute=1, output_tokens_per_minute=1, shared=redis_server.url)
    with ReplayServer([chat_reply()]) as server:
        client(server, limits).chat("a" * 4000, max_tokens=1000)
    levels = empty.hgetall("openai_compat:limits:{default}")
    # Of a burst of 1 each; at a token a minute next to nothing has come in since.
    assert (round(1 - float(levels["input_tokens"])), round(1 - float(levels["output_tokens"]))) == (3, 2)
    # As long as it takes to pay that off.
    assert 3 * 60 <= int(empty.ttl("openai_compat:limits:{default}")) <= 1000 * 60 + 120


@settings(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.floats(-50, 50)), max_size=10))
def test_a_bucket_there_is_as_one_here(redis_server: RedisServer, steps: list[tuple[bool, float]]) -> None:
    with Redis.from_url(redis_server.url) as there:
        there.flushall()
    here = Bucket(60 * 100)
    here.rate = 1e-6  # so that time makes no difference
    shared = RedisBuckets(redis_server.url, "x", {"requests": here}, None)
    for asked, amount in steps:
        if not asked:
            here.take(amount)
            here.level = min(here.level, here.burst)
            shared.correct({"requests": amount})
            continue
        expected = here.wait(abs(amount), 0.0)
        found = shared.take({"requests": abs(amount)}, "")
        assert (found > 0) == (expected > 0)
        assert found == pytest.approx(expected, rel=1e-3, abs=1.0)
        if not expected:
            here.take(abs(amount))
    shared._redis.close()


PROCESS = """
import sys
from openai_compat import APITimeoutError, Limits
from openai_compat.timeouts import Deadline, Timeout

limits = Limits(requests_per_minute=120, shared=sys.argv[1])
granted = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    try:
        with limits.permit({}, Deadline(Timeout(total=0.0001))):
            granted += 1
    except APITimeoutError:
        pass
print(granted)
"""


def test_processes_that_ask_at_once_get_no_more_together_than_one_alone(redis_server: RedisServer) -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", PROCESS, redis_server.url]
    asking = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(2)
    ]
    for process in asking:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    granted = sum(int(process.communicate("go\n", timeout=60)[0]) for process in asking)
    # The burst is 2, and 2 a second come in.
    assert 2 <= granted <= 2 + 2 * (time.monotonic() - began)


class Counting:
    """A server that knows how many requests it had at most at a time."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.02)
        with self.lock:
            self.now -= 1
        return chat_reply()


def test_calls_under_way_are_counted_together(redis_server: RedisServer, empty: Redis) -> None:
    counting = Counting()
    one, two = (Limits(concurrency=2, shared=redis_server.url) for _ in range(2))
    with ReplayServer(counting) as server:
        calls = [client(server, limits).submit("hi") for limits in (one, two) * 6]
        assert [call.result(LIMIT).text for call in calls] == ["ok"] * 12
    assert counting.most <= 2
    assert empty.zcard("openai_compat:limits:{default}:calls") == 0


def test_the_place_of_a_process_that_is_gone_is_free_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_buckets, "LEASE", 0.3)
    gone = RedisBuckets(redis_server.url, "x", {}, 2)
    monkeypatch.setattr(gone, "_renew_later", lambda: None)
    here = RedisBuckets(redis_server.url, "x", {}, 2)
    assert gone.take({}, "gone") == 0
    assert here.take({}, "one") == 0
    assert here.take({}, "two") > 0
    until(lambda: here.take({}, "two") == 0)
    assert here.take({}, "three") > 0
    here.release("one")
    here.release("two")
    until(lambda: here._renewing is None)
    for each in (gone, here):
        each._redis.close()


def test_a_place_is_kept_as_long_as_the_call_takes(
    redis_server: RedisServer, empty: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_buckets, "LEASE", 1.0)
    here = RedisBuckets(redis_server.url, "x", {}, 1)
    assert here.take({}, "here") == 0
    key = "openai_compat:limits:{x}:calls"
    first = empty.zscore(key, "here")
    assert isinstance(first, float)
    until(lambda: (empty.zscore(key, "here") or 0.0) > first + 1.0)  # its first second is over, and it is still there
    here.release("here")
    assert empty.zscore(key, "here") is None
    until(lambda: here._renewing is None)
    here._redis.close()


def test_a_redis_that_has_forgotten_the_script_is_told_it_again(redis_server: RedisServer, empty: Redis) -> None:
    limits = Limits(requests_per_minute=6000, shared=redis_server.url)
    with ReplayServer([chat_reply(), chat_reply()]) as server, client(server, limits) as asking:
        asking.chat("hi")
        empty.script_flush()
        asking.chat("hi")


def test_a_clock_that_was_set_back_stops_nothing(redis_server: RedisServer, empty: Redis) -> None:
    here = RedisBuckets(redis_server.url, "x", {"requests": Bucket(6000)}, None)
    key, tomorrow = "openai_compat:limits:{x}", time.time() + 86400
    empty.hset(key, mapping={"requests": -1, "requests at": tomorrow})
    assert here.take({"requests": 1}, "one") > 0
    until(lambda: here.take({"requests": 1}, "one") == 0)
    here._redis.close()


def test_a_redis_that_is_not_there_is_named_before_anything_is_sent() -> None:
    limits = Limits(requests_per_minute=60, shared="redis://user:p4ssw0rd@127.0.0.1:1/0")
    assert repr(limits).count("***") == 1
    with ReplayServer([chat_reply()]) as server, client(server, limits) as asking:
        with pytest.raises(
            ConfigurationError, match=r"Redis at 'redis://\*\*\*@127.0.0.1:1/0' cannot be used"
        ) as caught:
            asking.chat("hi")
        assert not server.requests
    assert "p4ssw0rd" not in f"{caught.value}{limits!r}"


def test_no_answer_is_lost_to_a_redis_that_goes_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_redis(tmp_path) as there:
        limits = Limits(input_tokens_per_minute=1000, concurrency=4, shared=there.url)

        def reply(request: Request) -> Reply:
            there.kill()
            return chat_reply("still here")

        with ReplayServer(reply) as server, client(server, limits) as asking:
            assert asking.chat("hi").text == "still here"
            assert "cannot be used" in caplog.text
            with pytest.raises(ConfigurationError, match="cannot be used"):
                asking.chat("hi")
            assert len(server.requests) == 1


def test_a_run_ends_where_its_redis_goes_away_and_fails_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path) as there:

        def reply(request: Request) -> Reply:
            if request.number == 5:
                there.kill()
            return chat_reply()

        prompts = [str(number) for number in range(200)]
        with ReplayServer(reply) as server:
            with client(server, Limits(requests_per_minute=60_000, shared=there.url)) as asking:
                with pytest.raises(ConfigurationError, match="cannot be used"):
                    list(asking.map(prompts, workers=2, journal=tmp_path / "j.db"))
            with Journal(tmp_path / "j.db") as journal:
                assert journal.counts()["failed"] == 0
            with Client(f"{server.url}/v1", model="m", max_retries=0) as asking:
                assert all(result.ok for result in asking.map(prompts, workers=2, journal=tmp_path / "j.db"))
            assert 200 <= len(server.requests) <= 202  # those under way were ended


def test_without_the_package_it_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'openai-compat\[redis\]'"):
        RedisBuckets("redis://localhost", "x", {}, None)


def test_an_address_that_is_none_is_told(redis_server: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="no address that can be used"):
        RedisBuckets("redis://localhost:port", "x", {}, None)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pa@s/p4ssw0rd@127.0.0.1:1/0",
        "redis://:pa/s:p4ssw0rd@127.0.0.1:1/0",
        "rediss://:p4ssw0rd#x@127.0.0.1:1",
        "redis://127.0.0.1:1/0?db=1&password=p4ssw0rd",
        "redis://127.0.0.1:1/0?password=p4ssw0rd&socket_timeout=long",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    limits = Limits(concurrency=4, shared=url)
    with Client("http://localhost:1", limits=limits, model="m") as asking, pytest.raises(ConfigurationError) as caught:
        asking.chat("hi")
    assert "p4ssw0rd" not in repr(limits) + "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigurationError, match="limits would stand in the pickle in clear"):
        pickle.dumps(asking)


def test_a_password_is_in_a_pickle_of_the_client_only_where_that_is_wanted() -> None:
    limits = Limits(shared="redis://:p4ssw0rd@localhost:6379/0", concurrency=4)
    with pytest.raises(ConfigurationError, match="limits would stand in the pickle in clear"):
        pickle.dumps(Client("http://localhost:1", limits=limits))
    restored = pickle.loads(pickle.dumps(Client("http://localhost:1", limits=limits, pickle_key=True)))
    assert restored._limits.shared == limits.shared
    pickle.dumps(Client("http://localhost:1", limits=Limits(shared="redis://localhost:6379/0")))
