"""Answers that are relayed by Redis: what a sink writes, what readers get, and real workers of Celery."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import celery
import django
import pytest
from asgiref.sync import sync_to_async
from celery import Celery
from celery.contrib.abortable import AbortableAsyncResult
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from support.node import running_node
from support.redis_server import RedisServer, redis_server, running_redis
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import Cancelled, ChatResponse, Client, ConfigurationError, RateLimitError, StreamEvent
from openai_compat.integrations.celery import RelaySink, RelayStream, cancel_relay, relay_response
from openai_compat.integrations.celery.keys import stream_key
from openai_compat.web import EventStream

__all__ = ["redis_server"]

# Celery's own way of keeping a result.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

DOCS = Path(__file__).parents[1] / "docs"
PATIENCE = 30.0
keys = map("answer-{}".format, itertools.count())


@pytest.fixture
def key() -> str:
    return next(keys)


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        yield client


class Event(tuple[str, str, Any]):
    """An event's name, id and data."""

    @property
    def delta(self) -> str:
        return self[2]["delta"] if self[0] == "text" else ""


def read(body: bytes | Iterator[bytes]) -> list[Event]:
    """The events of a response, as an ``EventSource`` hears them."""
    data = body if isinstance(body, bytes) else b"".join(body)
    found = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and line)
        if "data" in fields:
            found.append(Event((fields["event"], fields.get("id", ""), json.loads(fields["data"]))))
    return found


def names(events: list[Event]) -> list[str]:
    """The events' names, each run of one name once."""
    return [name for name, _ in itertools.groupby(event[0] for event in events)]


def text(events: list[Event]) -> str:
    return "".join(event.delta for event in events)


def code(events: list[Event]) -> str:
    """The last event's code, which is an error's."""
    name, _, data = events[-1]
    assert name == "error", events
    return str(data["code"])


def in_thread(function: Callable[[], object]) -> Callable[[], object]:
    """Run a function on another thread; what is returned waits for its result, or its exception."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> object:
        thread.join(PATIENCE)
        return outcome[0]

    return result


def piece(delta: str, kind: str = "text") -> StreamEvent:
    return StreamEvent(kind, delta)  # type: ignore[arg-type]


def held(over: threading.Event, *first: str, then: tuple[str, ...] = ()) -> Callable[[Request], Reply]:
    """Says ``first``, and the rest when ``over`` is set, unless its client has left."""

    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield from (chunk({"content": word}) for word in first)
            while not over.wait(0.01):
                if request.closed.is_set():
                    return
            yield from stream_pieces(*then)

        return Reply(headers=EVENT_STREAM, body=body())

    return reply


def ask(redis: Redis | str, key: str, url: str, **options: Any) -> ChatResponse:
    with RelaySink(redis, key, **options) as relay:
        return Client(url, model="m", max_retries=0).chat("hi", sink=relay, cancel=relay.token)


def test_readers_get_what_a_browser_of_the_stream_itself_would(redis: Redis, key: str) -> None:
    with ReplayServer([stream_reply("Hel", "lo", " world", "\n\n€")]) as server:
        answer = ask(redis, key, server.url)
        relayed = read(RelayStream(redis, key))
        direct = read(EventStream(Client(server.url, model="m").stream("hi")))
        assert len(server.requests) == 2
    assert answer.text == text(relayed) == text(direct) == "Hello world\n\n€"
    assert names(relayed) == ["start", *names(direct)] == ["start", "text", "done"]
    assert relayed[-1][2] == direct[-1][2]


def test_without_a_block_the_first_end_is_the_end(redis: Redis, key: str) -> None:
    with ReplayServer([stream_reply("Hello")]) as server:
        sink = RelaySink(redis, key)
        Client(server.url, model="m").chat("hi", sink=sink)
    assert names(events := read(RelayStream(redis, key))) == ["start", "text", "done"]
    assert text(events) == "Hello"
    with pytest.raises(ConfigurationError, match="several rounds is relayed in a with block"):
        sink.emit(piece("more"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode_responses": True},
        {"protocol": 3},
        {"protocol": 3, "decode_responses": True},
        {"socket_timeout": 0.2},
        {"single_connection_client": False, "max_connections": 2},
    ],
    ids=str,
)
def test_every_client_of_redis_will_do(options: dict[str, Any], redis_server: RedisServer, key: str) -> None:
    over = threading.Event()
    with ReplayServer(held(over, "Hel", then=("lo",))) as server, Redis.from_url(redis_server.url, **options) as client:
        result = in_thread(partial(ask, client, key, server.url))
        body = RelayStream(client, key)
        seen = read_until(body, "Hel")
        over.set()
        seen.extend(body)
        assert isinstance(result(), ChatResponse)
    assert text(read(b"".join(seen))) == "Hello"


def read_until(body: RelayStream, wanted: str) -> list[bytes]:
    """What has come when the text does."""
    seen = []
    for bytes_ in body:
        seen.append(bytes_)
        if wanted in text(read(b"".join(seen))):
            return seen
    raise AssertionError(seen)


@pytest.mark.parametrize("by", ["header", "query", "argument"])
def test_a_reader_goes_on_behind_any_event(by: str, redis: Redis, key: str) -> None:
    with RelaySink(redis, key) as relay:
        for number in range(8):
            relay.emit(piece(f"{number} ", "reasoning" if number % 2 else "text"))
    events = read(RelayStream(redis, key))
    assert len(events) == 10
    for number, (_, event_id, _) in enumerate(events[:-1]):
        assert read(reader(redis, key, by, event_id)) == events[number + 1 :]
    last = reader(redis, key, by, events[-1][1])
    assert (last.status, last.headers, list(last)) == ("204 No Content", [], [])


def reader(redis: Redis, key: str, by: str, event_id: str) -> RelayStream:
    if by == "argument":
        return RelayStream(redis, key, last_event_id=event_id)
    name = "HTTP_LAST_EVENT_ID" if by == "header" else "QUERY_STRING"
    return RelayStream(redis, key, environ={name: event_id if by == "header" else f"a=b&lastEventId={event_id}"})


def test_a_reload_and_a_second_tab_read_on_while_the_answer_grows(redis: Redis, key: str) -> None:
    over = threading.Event()
    with ReplayServer(held(over, "Once ", "upon ", then=("a ", "time."))) as server:
        result = in_thread(partial(ask, redis, key, server.url))
        first = RelayStream(redis, key)
        seen = read(b"".join(read_until(first, "upon")))
        first.close()
        reloaded, second = RelayStream(redis, key, last_event_id=seen[-1][1]), RelayStream(redis, key)
        assert text(read(b"".join(read_until(second, "upon")))) == "Once upon "
        over.set()
        assert text(read(reloaded)) == "a time."
        assert text(read(second)) == "a time."
        assert isinstance(result(), ChatResponse)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "event_id", ["", "abc", "-1", "1-", "99999999999999999999-0", "0-99999999999999999999", "١", "0"]
)
def test_an_id_that_is_none_reads_from_the_beginning(event_id: str, redis: Redis, key: str) -> None:
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Hello"))
    assert text(read(RelayStream(redis, key, last_event_id=event_id))) == "Hello"


def test_a_token_does_not_cost_a_round_trip(redis: Redis, key: str) -> None:
    def transactions() -> int:
        return int(redis.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"])

    before = transactions()
    with RelaySink(redis, key, flush_every=10) as relay:
        for number in range(5000):
            relay.emit(piece(f"{number} "))
    assert transactions() - before < 50
    assert text(read(RelayStream(redis, key))) == "".join(f"{number} " for number in range(5000))


PIECES = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning"]), st.text(st.characters(codec=None), max_size=8)), max_size=20
)


@given(pieces=PIECES, flush_every=st.sampled_from([1e-9, 0.05]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_or_put_out_of_order(pieces: list[tuple[str, str]], flush_every: float, redis: Redis) -> None:
    key = next(keys)
    with RelaySink(redis, key, flush_every=flush_every) as relay:
        for kind, delta in pieces:
            relay.emit(piece(delta, kind))
    runs = itertools.groupby(((kind, letter) for kind, delta in pieces for letter in delta), key=lambda pair: pair[0])
    said = [(kind, "".join(letter for _, letter in run)) for kind, run in runs]
    heard = [(name, data["delta"]) for name, _, data in read(RelayStream(redis, key)) if name in ("text", "reasoning")]
    joined = [
        (kind, "".join(delta for _, delta in run))
        for kind, run in itertools.groupby(filter(lambda one: one[1], heard), key=lambda pair: pair[0])
    ]
    assert joined == said


def test_the_first_piece_does_not_wait_for_more(redis: Redis, key: str) -> None:
    with RelaySink(redis, key, flush_every=3600) as relay:
        relay.emit(piece("Hello"))
        assert read_until(RelayStream(redis, key), "Hello")


def test_of_several_rounds_readers_hear_one_end_and_all_tokens(redis: Redis, key: str) -> None:
    def add(a: int, b: int) -> int:
        "Adds."
        return a + b

    calls = chunk({"tool_calls": [{"index": 0, **tool_call("add", '{"a": 1, "b": 2}')}]}, finish_reason="tool_calls")
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    rounds = [
        Reply(headers=EVENT_STREAM, body=[calls, chunk(usage=usage), b"data: [DONE]\n\n"]),
        Reply(
            headers=EVENT_STREAM, body=[*stream_pieces("three", done=False), chunk(usage=usage), b"data: [DONE]\n\n"]
        ),
    ]
    with ReplayServer(rounds) as server, RelaySink(redis, key) as relay:
        client = Client(server.url, model="m")
        answer = client.run_tools("1 + 2?", tools=[add], sink=relay, cancel=relay.token)
    events = read(RelayStream(redis, key))
    assert names(events) == ["start", "tool_call", "text", "usage", "done"]
    assert answer.usage is not None
    assert events[-2][2]["total_tokens"] == events[-1][2]["usage"]["total_tokens"] == answer.usage.total_tokens == 10


FAILURES = [
    (RuntimeError("the key is sk-secret"), "internal_error"),
    (KeyboardInterrupt("sk-secret"), "cancelled"),
    (SystemExit("sk-secret"), "cancelled"),
    (RateLimitError("sk-secret", status_code=429), "rate_limited"),
    (Cancelled("sk-secret"), "cancelled"),
]


@pytest.mark.parametrize(("error", "said"), FAILURES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_block_that_raises_ends_with_what_had_come_and_an_error(
    error: BaseException, said: str, redis: Redis, key: str
) -> None:
    def fail() -> None:
        with RelaySink(redis, key) as relay:
            relay.emit(piece("Once upon"))
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    events = read(body := b"".join(RelayStream(redis, key)))
    assert (text(events), code(events)) == ("Once upon", said)
    assert b"secret" not in body


@pytest.mark.parametrize("in_block", [True, False])
def test_a_call_that_fails_is_an_error_event(in_block: bool, redis: Redis, key: str) -> None:
    with ReplayServer([error_reply(429, "sk-secret")]) as server:
        client = Client(server.url, model="m", max_retries=0)
        with pytest.raises(RateLimitError):
            ask(redis, key, server.url) if in_block else client.chat("hi", sink=RelaySink(redis, key))
        assert len(server.requests) == 1
    assert code(read(RelayStream(redis, key))) == "rate_limited"


def test_an_error_that_the_block_has_dealt_with_is_none(redis: Redis, key: str) -> None:
    with ReplayServer([error_reply(429), stream_reply("Hello")]) as server, RelaySink(redis, key) as relay:
        client = Client(server.url, model="m", max_retries=0)
        with pytest.raises(RateLimitError):
            client.chat("hi", sink=relay)
        client.chat("hi", sink=relay)
    assert names(read(RelayStream(redis, key))) == ["start", "text", "done"]


def test_a_block_that_ends_without_a_word_ends_the_answer(redis: Redis, key: str) -> None:
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Half"))
    name, _, data = read(RelayStream(redis, key))[-1]
    assert (name, data["truncated"]) == ("done", True)


def test_a_sink_that_is_given_up_ends_with_an_error(redis: Redis, key: str) -> None:
    sink = RelaySink(redis, key)
    sink.emit(piece("Half"))
    del sink
    gc.collect()
    events = read(RelayStream(redis, key))
    assert (text(events), code(events)) == ("Half", "internal_error")


@pytest.mark.parametrize("by", ["cancel_relay", "should_stop"])
def test_an_answer_is_cancelled_from_elsewhere_while_the_model_is_silent(by: str, redis: Redis, key: str) -> None:
    stop, over = threading.Event(), threading.Event()
    with ReplayServer(held(over, "Once")) as server:
        result = in_thread(partial(ask, redis, key, server.url, should_stop=stop.is_set))
        body = RelayStream(redis, key)
        read_until(body, "Once")
        if by == "should_stop":
            stop.set()
        else:
            cancel_relay(redis, key)
        assert server.requests[0].closed.wait(PATIENCE)
        assert code(read(body)) == "cancelled"
        error = result()
        assert isinstance(error, Cancelled)
        assert error.partial is not None
        assert error.partial.text == "Once"


def test_what_is_cancelled_before_it_begins_does_not_ask_the_model(redis: Redis, redis_server: RedisServer) -> None:
    key = next(keys)
    cancel_relay(redis_server.url, key)
    with ReplayServer([stream_reply("no")]) as server:
        with pytest.raises(Cancelled):
            ask(redis, key, server.url)
        assert server.requests == []
    assert code(read(RelayStream(redis, key))) == "cancelled"


def test_without_its_token_a_cancelled_answer_ends_at_the_next_word(redis: Redis, key: str) -> None:
    cancel_relay(redis, key)
    with ReplayServer([stream_reply("Once", "upon")]) as server:
        with pytest.raises(Cancelled), RelaySink(redis, key) as relay:
            Client(server.url, model="m").chat("hi", sink=relay)
        assert server.requests[0].closed.wait(PATIENCE)


def test_readers_of_a_first_attempt_begin_again_with_the_second(redis: Redis, key: str) -> None:
    first, second = RelaySink(redis, key), RelaySink(redis, key)
    first.emit(piece("Once upon"))
    body = RelayStream(redis, key)
    seen = read_until(body, "Once upon")
    with second:
        second.emit(piece("Hello"))
    events = read(b"".join([*seen, *body]))
    assert names(events) == ["start", "text", "start", "text", "done"]
    assert text(events[2:]) == text(read(RelayStream(redis, key))) == "Hello"
    with pytest.raises(ConfigurationError, match="make another for the next"), first:
        pass


def test_an_attempt_that_another_has_replaced_ends_and_takes_nothing_with_it(redis: Redis, key: str) -> None:
    first, second = RelaySink(redis, key), RelaySink(redis, key)
    first.emit(piece("Once upon"))
    read_until(RelayStream(redis, key), "Once upon")
    second.emit(piece("Hel"))
    body = RelayStream(redis, key)
    seen = read_until(body, "Hel")
    with pytest.raises(ConfigurationError, match="something else has begun"):
        first.emit(StreamEvent("done", ChatResponse()))
    # Its readers still wait for more: the end of the first one is not theirs.
    with contextlib.closing(RelayStream(redis, key, heartbeat=0.01)) as waits:
        heard = b"".join(itertools.islice(waits, 10))
    assert (names(read(heard)), heard[-2:]) == (["start", "text"], b":\n")
    second.emit(piece("lo"))
    second.emit(StreamEvent("done", ChatResponse()))
    events = read(b"".join([*seen, *body]))
    assert (names(events), text(events)) == (["start", "text", "done"], "Hello")


def test_what_is_sent_again_over_a_new_connection_is_not_said_twice(redis_server: RedisServer, key: str) -> None:
    retry = Retry(NoBackoff(), 3)
    with LosingProxy(redis_server.port) as proxy:
        with Redis(port=proxy.port, retry=retry, retry_on_error=[RedisConnectionError], protocol=2) as client:
            with RelaySink(client, key) as relay:
                proxy.lose_answers_to(b"Hello")
                relay.emit(piece("Hello"))
        assert proxy.lost == 1
    with Redis.from_url(redis_server.url) as client:
        assert names(events := read(RelayStream(client, key))) == ["start", "text", "done"]
    assert text(events) == "Hello"


class LosingProxy:
    """Stands before a server, and once closes a connection in place of handing on an answer."""

    def __init__(self, port: int) -> None:
        self.lost = 0
        self._to = port
        self._trigger: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def lose_answers_to(self, words: bytes) -> None:
        self._trigger = words

    def __enter__(self) -> LosingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server, contextlib.suppress(OSError):
            # Commands are small here, and each is answered before the next.
            while asked := client.recv(65536):
                server.sendall(asked)
                answer = server.recv(65536)
                if self._trigger is not None and self._trigger in asked:
                    self._trigger = None
                    self.lost += 1
                    return
                client.sendall(answer)


def test_a_reader_that_comes_after_the_beginning_is_gone_is_told(redis: Redis, key: str) -> None:
    with RelaySink(redis, key, max_events=100) as relay:
        for number in range(1000):
            relay.emit(piece(f"{number} ", "reasoning" if number % 2 else "text"))
    assert code(events := read(RelayStream(redis, key))) == "events_gone"
    assert len(events) == 1
    assert redis.xlen(stream_key(key)) < 300


def test_events_expire(redis: Redis, key: str) -> None:
    with RelaySink(redis, key, expire=100, lost_after=50) as relay:
        relay.emit(piece("Hello"))
        assert {0 < ttl <= 100 for ttl in map(redis.ttl, redis.scan_iter(f"*{{{key}}}*"))} == {True}
    assert 0 < redis.ttl(stream_key(key)) <= 100
    assert [*redis.scan_iter(f"*{{{key}}}*")] == [stream_key(key).encode()]


KILLED = """
import os, signal, sys
from openai_compat import StreamEvent
from openai_compat.integrations.celery import RelaySink, RelayStream

sink = RelaySink(sys.argv[1], sys.argv[2], lost_after=1)
sink.emit(StreamEvent("text", "Once"))
for heard in RelayStream(sys.argv[1], sys.argv[2]):
    if b"Once" in heard:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_readers_learn_that_what_writes_is_gone(redis: Redis, redis_server: RedisServer) -> None:
    key = next(keys)
    subprocess.run([sys.executable, "-c", KILLED, redis_server.url, key], check=False, timeout=PATIENCE)
    events = read(RelayStream(redis, key))
    assert (text(events), code(events)) == ("Once", "worker_lost")
    assert code(read(RelayStream(redis, key, last_event_id=events[-2][1]))) == "worker_lost"


FORKED = """
import os, sys
from openai_compat import StreamEvent
from openai_compat.integrations.celery import RelaySink

with RelaySink(sys.argv[1], sys.argv[2]) as relay:
    relay.emit(StreamEvent("text", "Once"))
    child = os.fork()
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_that_leaves_the_block_ends_nothing(redis: Redis, redis_server: RedisServer) -> None:
    key = next(keys)
    done = subprocess.run([sys.executable, "-c", FORKED, redis_server.url, key], check=False, timeout=PATIENCE / 2)
    assert done.returncode == 0
    events = read(RelayStream(redis, key))
    assert [event[0] for event in events] == ["start", "text", "done"]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("redis", "ConfigurationError: redis is not installed: pip install 'openai-compat[celery]'\n"),
        ("msgspec", "ModuleNotFoundError: import of msgspec halted; None in sys.modules\n"),
    ],
)
def test_without_redis_the_extra_is_named(missing: str, told: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import openai_compat.integrations.celery"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith(told)


def test_without_celery_a_view_says_which_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(ConfigurationError, match="which Redis"):
        relay_response("key")


def test_results_that_are_elsewhere_are_told() -> None:
    with (
        Celery("elsewhere", backend="cache+memory://", set_as_current=False) as app,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(celery, "current_app", app)
        with pytest.raises(ConfigurationError, match="results are not in Redis"):
            relay_response("key")


class Over:
    def ready(self) -> bool:
        return True


def test_readers_learn_that_nothing_will_begin(redis: Redis, key: str) -> None:
    assert code(read(RelayStream(redis, key, start_within=0.05))) == "not_started"
    assert code(read(RelayStream(redis, key, task=Over()))) == "worker_lost"
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Hello"))
    assert text(read(RelayStream(redis, key, task=Over()))) == "Hello"


@pytest.mark.parametrize("socket_timeout", [0.02, 1, None])
def test_a_reader_hears_that_the_server_is_alive(
    socket_timeout: float | None, redis_server: RedisServer, key: str
) -> None:
    # A read that waits does not run into a short socket_timeout either.
    with (
        Redis.from_url(redis_server.url, socket_timeout=socket_timeout) as redis,
        contextlib.closing(RelayStream(redis, key, heartbeat=0.2)) as body,
    ):
        assert [next(body) for _ in range(3)] == [b"retry: 1000\n", b":\n", b":\n"]


@pytest.mark.parametrize("cancels", [False, True])
def test_a_reader_that_leaves_ends_the_answer_only_when_asked(cancels: bool, redis: Redis, key: str) -> None:
    over = threading.Event()
    with ReplayServer(held(over, "Once", then=(" upon",))) as server:
        result = in_thread(partial(ask, redis, key, server.url))
        body = RelayStream(redis, key, cancel_on_disconnect=cancels)
        read_until(body, "Once")
        body.close()
        body.close()
        if cancels:
            assert server.requests[0].closed.wait(PATIENCE)
            assert isinstance(result(), Cancelled)
        else:
            over.set()
            assert isinstance(answer := result(), ChatResponse)
            assert answer.text == "Once upon"


def test_a_reader_that_is_closed_on_another_thread_ends(redis: Redis, key: str) -> None:
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Once"))
        body = RelayStream(redis, key)
        read_until(body, "Once")
        rest = in_thread(partial(list, body))
        body.close()
        assert rest() == []


def test_an_answer_that_cannot_be_cancelled_does_not_trouble_the_server(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_redis(tmp_path) as server:
        body = RelayStream(server.url, key, cancel_on_disconnect=True)
        server.kill()
        body.close()
    assert "could not be cancelled" in caplog.text


def test_a_reader_that_has_everything_cancels_nothing(redis: Redis, key: str) -> None:
    with RelaySink(redis, key):
        pass
    for last in ("", read(RelayStream(redis, key))[-1][1]):
        body = RelayStream(redis, key, last_event_id=last, cancel_on_disconnect=True)
        list(body)
        body.close()
    assert [*redis.scan_iter(f"*{{{key}}}*")] == [stream_key(key).encode()]


def test_connections_are_closed_or_given_back(redis: Redis, redis_server: RedisServer) -> None:
    key = next(keys)

    def others() -> int:
        return len(redis.client_list()) - 1

    before = others()
    with ReplayServer([stream_reply("Hello"), error_reply(500)]) as server:
        ask(redis_server.url, key, server.url)
        assert text(read(RelayStream(redis_server.url, key))) == "Hello"
        last = RelayStream(redis_server.url, key, environ={"REQUEST_METHOD": "HEAD"})
        assert (last.status_code, list(last)) == (200, [])
        RelayStream(redis_server.url, key).close()
        halfway = RelayStream(redis_server.url, key)
        next(halfway)
        halfway.close()
        for _ in range(500):
            if others() == before:
                break
            threading.Event().wait(0.01)
        assert others() == before


def test_a_redis_that_goes_away_is_told_on_both_sides(tmp_path: Path, key: str) -> None:
    def lose(server: RedisServer) -> None:
        with RelaySink(server.url, key) as sink:
            sink.emit(piece("Once"))
            seen.extend(read_until(body, "Once"))
            server.kill()
            for _ in range(3000):
                sink.emit(piece(" upon"))
                threading.Event().wait(0.01)

    seen: list[bytes] = []
    with running_redis(tmp_path) as server:
        body = RelayStream(server.url, key)
        with pytest.raises(RedisError):
            lose(server)
        assert code(read(b"".join([*seen, *body]))) == "internal_error"
        with pytest.raises(RedisError):
            RelayStream(server.url, key, last_event_id="1-1")
        with pytest.raises(RedisError), RelaySink(server.url, key):
            pass


def test_an_exception_of_the_block_is_not_hidden_by_redis(tmp_path: Path, key: str) -> None:
    def fail(server: RedisServer) -> None:
        with RelaySink(server.url, key):
            server.kill()
            raise RuntimeError("mine")

    with running_redis(tmp_path) as server, pytest.raises(RuntimeError, match="mine"):
        fail(server)


@pytest.mark.parametrize(
    "make",
    [
        lambda redis: RelaySink(redis, ""),
        lambda redis: RelaySink(redis, 5),
        lambda redis: RelayStream(redis, ""),
        lambda redis: cancel_relay(redis, ""),
        lambda redis: RelaySink(redis, "key", expire=0),
        lambda redis: RelaySink(redis, "key", flush_every=float("nan")),
        lambda redis: RelaySink(redis, "key", lost_after=-1),
        lambda redis: RelaySink(redis, "key", max_events=0),
        lambda redis: RelayStream(redis, "key", heartbeat=0),
        lambda redis: RelayStream(redis, "key", start_within=float("inf")),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[Redis], object], redis: Redis) -> None:
    with pytest.raises(ConfigurationError):
        make(redis)


def test_a_visitor_who_names_the_key_reads_no_other_stream(redis: Redis) -> None:
    redis.xadd("orders", {"event": "done", "data": '"secret"'})
    body = b"".join(RelayStream(redis, "orders", start_within=0.05))
    assert code(read(body)) == "not_started"


def test_the_docs_page_goes_on_where_its_connection_was_lost(redis: Redis, key: str) -> None:
    with RelaySink(redis, key) as relay:
        for kind, delta in (("text", "Once "), ("reasoning", "hm"), ("text", "upon")):
            relay.emit(piece(delta, kind))

    def answer(request: Request) -> Reply:
        body = RelayStream(redis, key, last_event_id=request.headers.get("Last-Event-ID", ""))
        if request.number:
            return Reply(headers=EVENT_STREAM, body=body)
        return Reply(headers=EVENT_STREAM, body=read_until(body, "Once"), abort="fin")

    script = re.search(r"^```js\n(.*?)^```", (DOCS / "celery.md").read_text(), re.MULTILINE | re.DOTALL)
    assert script is not None
    with ReplayServer(answer) as server, running_node("read_events.mjs") as node:
        assert node.ask(code=script[1], url=server.url) == {"text": "Once upon", "alerted": None}
        lost, came_back = server.requests
    assert lost.headers.get("Last-Event-ID") is None
    assert came_back.headers["Last-Event-ID"] == read(RelayStream(redis, key))[1][1]


@pytest.fixture
def flask_app(redis_server: RedisServer) -> Flask:
    app = Flask("relay")

    @app.get("/answers/<key>")
    def answer(key: str) -> Any:
        return relay_response(key, redis=redis_server.url, headers=[("X-Mine", "1")], start_within=0.05)

    return app


def test_a_view_of_flask(redis: Redis, key: str, flask_app: Flask) -> None:
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Hello"))
    browser = flask_app.test_client()
    reply = browser.get(f"/answers/{key}")
    assert (reply.status_code, reply.mimetype, reply.headers["X-Mine"]) == (200, "text/event-stream", "1")
    assert reply.headers["X-Accel-Buffering"] == "no"
    events = read(reply.data)
    assert text(events) == "Hello"
    assert names(read(browser.get(f"/answers/{key}", headers={"Last-Event-ID": events[-2][1]}).data)) == ["done"]
    again = browser.get(f"/answers/{key}?lastEventId={events[-1][1]}")
    assert (again.status_code, again.data) == (204, b"")
    assert code(read(browser.get("/answers/unknown").data)) == "not_started"


def test_a_view_of_django(redis: Redis, redis_server: RedisServer) -> None:
    with mock.patch.dict(os.environ, {"DJANGO_SETTINGS_MODULE": "django_project.settings"}):
        django.setup()
    from django.http import HttpResponse, StreamingHttpResponse
    from django.test import RequestFactory

    key = next(keys)
    with RelaySink(redis, key) as relay:
        relay.emit(piece("Hello"))

    def get(path: str = "/", **headers: str) -> Any:
        request = RequestFactory().get(path, **headers)
        return relay_response(key, request=request, redis=redis_server.url, headers=[("X-Mine", "1")])

    reply = get()
    assert isinstance(reply, StreamingHttpResponse)
    assert (reply.status_code, reply["Content-Encoding"], reply["X-Mine"]) == (200, "identity", "1")
    events = read(b"".join(reply))
    reply.close()
    assert text(events) == "Hello"
    assert names(read(b"".join(get(HTTP_LAST_EVENT_ID=events[-2][1])))) == ["done"]
    again = get(f"/?lastEventId={events[-1][1]}")
    assert isinstance(again, HttpResponse)
    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("cancels", [False, True])
def test_a_view_of_django_under_asgi(cancels: bool, redis: Redis, redis_server: RedisServer, key: str) -> None:
    with mock.patch.dict(os.environ, {"DJANGO_SETTINGS_MODULE": "django_project.settings"}):
        django.setup()
    from django.test import AsyncRequestFactory

    over = threading.Event()
    request = AsyncRequestFactory().get("/")
    reply: Any = relay_response(key, request=request, redis=redis_server.url, cancel_on_disconnect=cancels)

    async def read_and_leave() -> None:
        """Reads until the first word, and is cancelled while no other comes, as by a browser that leaves."""
        came = asyncio.Event()

        async def read() -> None:
            async for part in reply:
                if b"Once" in part:
                    came.set()

        reading = asyncio.create_task(read())
        await asyncio.wait_for(came.wait(), PATIENCE)
        reading.cancel()
        await asyncio.wait([reading], timeout=PATIENCE)
        assert reading.cancelled()
        await sync_to_async(reply.close)()

    with ReplayServer(held(over, "Once", then=(" upon",))) as server:
        result = in_thread(partial(ask, redis, key, server.url))
        asyncio.run(read_and_leave())
        if cancels:
            assert server.requests[0].closed.wait(PATIENCE)
            assert isinstance(result(), Cancelled)
        else:
            over.set()
            assert isinstance(answer := result(), ChatResponse)
            assert answer.text == "Once upon"


TASKS = """
import os, threading
from celery import Celery
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask
from celery.exceptions import SoftTimeLimitExceeded
from openai_compat import Client
from openai_compat.integrations.celery import RelaySink

app = Celery("relayed", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = {"polling_interval": 0.1}
redis = app.backend.client  # made before the pool forks

def relayed(task, url, **options):
    with RelaySink(redis, task.request.id, **options) as relay:
        return Client(url, model="m", max_retries=0).chat("hi", sink=relay, cancel=relay.token).text

@app.task(name="ask", bind=True, time_limit=60)
def ask(self, url):
    return relayed(self, url, lost_after=3)

@app.task(name="patient", bind=True, soft_time_limit=2, time_limit=60)
def patient(self, url):
    try:
        return relayed(self, url)
    except SoftTimeLimitExceeded:
        return "soft limit"

@app.task(name="abortable", bind=True, base=AbortableTask, time_limit=60)
def abortable(self, url):
    return relayed(self, url, should_stop=AbortableAsyncResult(self.request.id, app=app).is_aborted)

@app.task(name="again", bind=True, max_retries=1, time_limit=60)
def again(self, url):
    with RelaySink(redis, self.request.id) as relay:
        try:
            return Client(url, model="m", max_retries=0).chat("hi", sink=relay, cancel=relay.token).text
        except Exception as error:
            raise self.retry(exc=error, countdown=0)

@app.task(name="broken")
def broken(url):
    raise LookupError("before the relay")
"""


@pytest.fixture(scope="module")
def tasks(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An app of Celery's whose worker is real, has processes of its own, and Redis for tasks and results."""
    folder = tmp_path_factory.mktemp("celery")
    (folder / "relayed.py").write_text(TASKS)
    command = [sys.executable, "-m", "celery", "-A", "relayed", "worker", "--pool=prefork", "--concurrency=2"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    with open(folder / "log", "w") as log:
        worker = subprocess.Popen(
            [*command, *quiet],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "REDIS_URL": redis_server.url},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("REDIS_URL", redis_server.url)
        from relayed import app  # type: ignore[import-not-found]

        try:
            yield app
        finally:
            app.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(PATIENCE)


class Running:
    """A task that has said "Once", and its reader."""

    def __init__(self, tasks: Any, name: str, server: ReplayServer, **options: Any) -> None:
        self.task = tasks.tasks[name].delay(server.url)
        self.body = RelayStream(tasks.backend.client, self.task.id, task=self.task, **options)
        self._seen = read_until(self.body, "Once")
        (self.request,) = server.requests

    def rest(self) -> list[Event]:
        return read(b"".join([*self._seen, *self.body]))


def test_a_task_streams_to_whoever_reads(tasks: Any, flask_app: Flask) -> None:
    over = threading.Event()
    with ReplayServer(held(over, "Once ", then=("upon ", "a time"))) as server:
        running = Running(tasks, "ask", server)
        over.set()
        events = running.rest()
        assert (names(events), text(events)) == (["start", "text", "done"], "Once upon a time")
        assert running.task.get(timeout=PATIENCE) == "Once upon a time"
        assert len(server.requests) == 1
    assert read(flask_app.test_client().get(f"/answers/{running.task.id}").data) == events


def test_a_view_finds_the_redis_of_the_results(tasks: Any, key: str) -> None:
    with RelaySink(tasks.backend.client, key) as relay:
        relay.emit(piece("Hello"))
    with Flask("relay").test_request_context():
        assert text(read(relay_response(key).data)) == "Hello"


def end_by_sigterm(running: Running) -> None:
    running.task.revoke(terminate=True)


def end_by_sigusr1(running: Running) -> None:
    running.task.revoke(terminate=True, signal="SIGUSR1")


def end_by_sigkill(running: Running) -> None:
    running.task.revoke(terminate=True, signal="SIGKILL")


def end_by_relay(running: Running) -> None:
    cancel_relay(running.task.backend.client, running.task.id)


def end_by_abort(running: Running) -> None:
    AbortableAsyncResult(running.task.id, app=running.task.app).abort()


def let_time_pass(running: Running) -> None:
    pass


ENDS = [
    ("ask", end_by_sigterm, "cancelled"),
    ("ask", end_by_sigkill, "worker_lost"),
    ("ask", end_by_sigusr1, "timeout"),
    ("patient", let_time_pass, "timeout"),
    ("ask", end_by_relay, "cancelled"),
    ("abortable", end_by_abort, "cancelled"),
]


@pytest.mark.parametrize(("name", "end", "said"), ENDS, ids=lambda value: getattr(value, "__name__", value))
def test_ending_a_task_ends_the_call_and_tells_the_readers(
    name: str, end: Callable[[Running], None], said: str, tasks: Any
) -> None:
    with ReplayServer(held(threading.Event(), "Once")) as server:
        running = Running(tasks, name, server)
        end(running)
        assert running.request.closed.wait(PATIENCE)
        events = running.rest()
        assert (text(events), code(events)) == ("Once", said)
        assert len(server.requests) == 1
    if name == "patient":
        assert running.task.get(timeout=PATIENCE) == "soft limit"


def test_readers_hear_of_a_lost_worker_without_its_task(tasks: Any) -> None:
    with ReplayServer(held(threading.Event(), "Once")) as server:
        running = Running(tasks, "ask", server)
        alone = RelayStream(tasks.backend.client, running.task.id)
        end_by_sigkill(running)
        assert code(read(alone)) == "worker_lost"
        assert running.request.closed.wait(PATIENCE)


def test_a_reader_that_leaves_can_end_its_task(tasks: Any) -> None:
    with ReplayServer(held(threading.Event(), "Once")) as server:
        running = Running(tasks, "ask", server, cancel_on_disconnect=True)
        running.body.close()
        assert running.request.closed.wait(PATIENCE)
        with pytest.raises(Cancelled):
            running.task.get(timeout=PATIENCE)


def test_a_task_that_is_tried_again_begins_again_for_its_readers(tasks: Any) -> None:
    broken = Reply(headers=EVENT_STREAM, body=stream_pieces("Onc", finish_reason=None, done=False), abort="rst")
    with ReplayServer([broken, stream_reply("Once upon")]) as server:
        task = tasks.tasks["again"].delay(server.url)
        events = read(RelayStream(tasks.backend.client, task.id, task=task))
        assert names(events) == ["start", "text", "start", "text", "done"]
        assert text(events) == "OncOnce upon"
        assert task.get(timeout=PATIENCE) == "Once upon"
        assert len(server.requests) == 2


def test_a_task_that_fails_before_its_relay_is_told_at_once(tasks: Any) -> None:
    task = tasks.tasks["broken"].delay("")
    assert code(read(RelayStream(tasks.backend.client, task.id, task=task))) == "worker_lost"
