"""Servers that end every connection, and very many calls at once: what is sent is bounded, and adds up.

``STORM_CALLS`` in the environment says how many calls the last test makes in all.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import os
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import attrs
import pytest
from support.replay import EVENT_STREAM, JSON, End, ReplayServer, Reply, Request, Stage
from support.sessions import own_session
from support.wire_bodies import chat_body, chat_reply, stream_pieces

from openai_compat import APIConnectionError, APIError, Cancelled, CancelToken, Client

RETRIES = 2
ENOUGH = 60
"""Requests after which a server that ends everything gives in, so that a client without a bound is found out."""
CALLS = int(os.environ.get("STORM_CALLS", "2000"))
THREADS = 64

each_wire = pytest.mark.parametrize("wire", ["tcp", "tls"])
each_end = pytest.mark.parametrize("how", ["fin", "rst"])
each_call: Any = pytest.mark.parametrize(
    "call",
    [lambda client: client.chat("hi"), lambda client: client.stream("hi").until_done()],
    ids=["chat", "stream"],
)


def question(request: Request) -> str:
    return str(request.json()["messages"][-1]["content"])


def echo(request: Request) -> Reply:
    """The question, as the answer."""
    if request.json().get("stream"):
        return Reply(headers=EVENT_STREAM, body=stream_pieces(*question(request)))
    return chat_reply(question(request))


class Ending:
    """Ends a connection once a request has come on it, where ``which`` says so of its number and its requests."""

    def __init__(self, how: End, which: Callable[[int, int], bool]) -> None:
        self._how = how
        self._which = which
        self._lock = threading.Lock()
        self._requests_on: collections.Counter[int] = collections.Counter()
        self.on = False
        self.fresh = 0
        self.kept = 0

    @property
    def requests(self) -> int:
        return self.fresh + self.kept

    def __call__(self, stage: Stage, connection: int) -> End | None:
        if stage != "request":
            return None
        with self._lock:
            self._requests_on[connection] += 1
            nth = self._requests_on[connection]
            if not self.on:
                return None
            if nth == 1:
                self.fresh += 1
            else:
                self.kept += 1
            return self._how if self.requests <= ENOUGH and self._which(connection, nth) else None


@each_call
@each_end
@each_wire
def test_new_connections_that_all_end(
    wire: str, how: End, call: Callable[[Client], Any], tls: ssl.SSLContext, pauses: list[float]
) -> None:
    ending = Ending(how, lambda connection, nth: True)
    ending.on = True
    with ReplayServer(echo, tls=tls if wire == "tls" else None, hang_up=ending) as server:
        with Client(server.url, model="m", max_retries=RETRIES) as client, pytest.raises(APIConnectionError):
            call(client)
    assert (ending.fresh, ending.kept, len(pauses)) == (1 + RETRIES, 0, RETRIES)


@each_end
@each_wire
def test_a_pool_of_kept_connections_that_all_end(wire: str, how: End, tls: ssl.SSLContext, pauses: list[float]) -> None:
    ending = Ending(how, lambda connection, nth: True)
    kept = 8
    with ReplayServer(gated(kept), tls=tls if wire == "tls" else None, hang_up=ending) as server:
        with Client(server.url, model="m", max_retries=RETRIES) as client:
            at_once(kept, lambda number: client.chat(f"{number}"))
            assert server.connections == kept
            server.wait_idle(kept)
            ending.on = True
            with pytest.raises(APIConnectionError):
                client.chat("hi")
    # Each try may meet a kept connection, and then a fresh one, never a second kept one.
    assert ending.fresh == 1 + RETRIES
    assert 1 <= ending.kept <= 1 + RETRIES
    assert len(pauses) == RETRIES


@each_end
@each_wire
def test_connections_that_serve_one_request_each(wire: str, how: End, tls: ssl.SSLContext, pauses: list[float]) -> None:
    """A server that has had enough of a connection after one answer, and says so when the next request comes."""
    calls = 20
    ending = Ending(how, lambda connection, nth: nth > 1)
    ending.on = True
    with ReplayServer(echo, tls=tls if wire == "tls" else None, hang_up=ending) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            assert [client.chat(f"{number}").text for number in range(calls)] == [str(n) for n in range(calls)]
    # The first on a new connection; each other on a kept one, then again on a new one.
    assert (ending.fresh, ending.kept, pauses) == (calls, calls - 1, [])


def gated(count: int) -> Callable[[Request], Reply]:
    """Answers when ``count`` requests have come, so that each has a connection of its own; later ones at once."""
    together = threading.Barrier(count)
    left = iter(range(count))

    def reply(request: Request) -> Reply:
        if next(left, None) is not None:
            together.wait(20)
        return echo(request)

    return reply


def at_once(count: int, work: Callable[[int], Any]) -> None:
    """Call ``work`` with 0, 1, ... on a thread each; raises what the first one raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100 + CALLS / 20)
        assert not thread.is_alive(), "a call hangs"
    if failures:
        raise failures[0]


Way = Literal["chat", "read", "leave", "stop", "token", "server"]
"""A plain chat; a stream that is read to its end, left, cancelled by its reader, its token, or while it is served."""


@attrs.frozen
class Plan:
    """What is done with one call, and how the server answers it. ``turn`` is the event at which it ends early."""

    question: str
    way: Way
    turn: int
    zipped: bool
    faults: int

    @classmethod
    def at_random(cls, number: int, chance: random.Random) -> Plan:
        early = chance.random() < 1 / 3
        ways: tuple[Way, ...] = ("leave", "stop", "token", "server") if early else ("chat", "read")
        return cls(
            question=f"{number}:" + "x" * chance.choice([1, 5, 40]),
            way=chance.choice(ways),
            turn=chance.randrange(6),
            zipped=chance.random() < 0.5,
            # Requests that are dropped before one is answered.
            faults=chance.choice([0] * 17 + [1, 1, 2]),
        )


class Crowd:
    """The server's side of many calls: answers each with its own question, and counts."""

    def __init__(self, plans: list[Plan]) -> None:
        self._plans = {plan.question: plan for plan in plans}
        self._lock = threading.Lock()
        self.tokens = {plan.question: CancelToken() for plan in plans}
        self.seen: collections.Counter[str] = collections.Counter()

    def __call__(self, request: Request) -> Reply:
        plan = self._plans[question(request)]
        with self._lock:
            self.seen[plan.question] += 1
            number = self.seen[plan.question]
        if plan.way == "server" and not plan.turn:
            self.tokens[plan.question].cancel()
        if number <= plan.faults:
            return Reply(head=b"", abort="rst")
        coding = {"Content-Encoding": "gzip"} if plan.zipped else {}
        if plan.way == "chat":
            body = chat_body(plan.question)
            return Reply(headers={**JSON, **coding}, body=gzip.compress(body, 1) if plan.zipped else body)
        pieces = stream_pieces(*plan.question)
        if plan.zipped:
            pieces = [gzip.compress(b"".join(pieces), 1)]
        return Reply(headers={**EVENT_STREAM, **coding}, body=self._cancelling(plan, pieces))

    def _cancelling(self, plan: Plan, pieces: list[bytes]) -> Iterator[bytes]:
        for turn, piece in enumerate(pieces, 1):
            yield piece
            if plan.way == "server" and turn == plan.turn:
                self.tokens[plan.question].cancel()


@attrs.frozen
class Outcome:
    text: str
    whole: bool
    attempts: int
    delivered: bool


def carry_out(plan: Plan, client: Client, token: CancelToken) -> Outcome:
    """Make the call as planned; its own answer, as far as it came."""
    if plan.way == "chat":
        answer = client.chat(plan.question)
        return Outcome(answer.text, True, len(answer.attempts), True)
    pieces = 0
    stream = client.stream(plan.question, cancel=token)
    try:
        with stream:
            for event in stream:
                pieces += bool(event.delta)
                if pieces > plan.turn:
                    if plan.way == "leave":
                        break
                    if plan.way == "stop":
                        stream.cancel()
                    elif plan.way == "token":
                        token.cancel()
    except Cancelled as error:
        assert token.cancelled
        text = error.partial.text if error.partial else ""
        return Outcome(text, False, len(error.attempts), bool(pieces))
    return Outcome(stream.response.text, not stream.response.truncated, len(stream.response.attempts), bool(pieces))


@pytest.mark.timeout(120 + CALLS / 10)
@pytest.mark.parametrize("pool", ["own pool", "session"])
@each_wire
def test_a_crowd(wire: str, pool: str, tls: ssl.SSLContext, pauses: list[float]) -> None:
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    plans = [Plan.at_random(number, chance) for number in range(CALLS // 4)]
    crowd = Crowd(plans)
    left = iter(plans)
    drawing = threading.Lock()
    wrong: list[str] = []

    def next_plan() -> Plan | None:
        with drawing:
            return next(left, None)

    def work(_: int) -> None:
        while plan := next_plan():
            try:
                outcome = carry_out(plan, client, crowd.tokens[plan.question])
            except APIError as error:
                wrong.append(f"{plan}: {error!r}")
                continue
            wrong.extend(f"{plan}: {words}; {outcome}" for words in faults(plan, outcome, crowd.seen[plan.question]))

    given = own_session(THREADS) if pool == "session" else contextlib.nullcontext()
    with ReplayServer(crowd, tls=tls if wire == "tls" else None) as server:
        with (
            given as session,
            Client(server.url, model="m", max_retries=4, session=session, pool_size=THREADS) as client,
        ):
            at_once(THREADS, work)
        assert not wrong, f"seed {seed}: {len(wrong)} of {len(plans)} calls went wrong: {wrong[:3]}"
        assert server.wait_closed()


def faults(plan: Plan, outcome: Outcome, seen: int) -> Iterator[str]:
    """What is not right about a call."""
    if not plan.question.startswith(outcome.text):
        yield "another call's answer"
    if plan.way in ("chat", "read") and not (outcome.whole and outcome.text == plan.question):
        yield "half an answer"
    if outcome.delivered and outcome.attempts != seen:
        yield f"the server saw {seen} requests"
    # A call that was cancelled in the midst of sending may be unknown to the server.
    if not outcome.delivered and not outcome.attempts - 1 <= seen <= outcome.attempts:
        yield f"the server saw {seen} requests"
