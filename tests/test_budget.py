"""``Client(budget=...)`` and ``with budget(...)``: what the server sees of it, what is counted, and who waits."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import error_reply, tool_call

from openai_compat import (
    APIError,
    APITimeoutError,
    Budget,
    BudgetExceededError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    Limits,
    Price,
    RetryPolicy,
    Timeout,
    UnknownPriceError,
    budget,
    tool,
)
from openai_compat.limits import budget as module
from openai_compat.timeouts import Deadline
from openai_compat.transport import Call
from openai_compat.wire.response import CallInfo

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""
DOLLAR = Price(input=1e6, output=1e6)
"""A dollar for each token."""


def counted(inputs: int = 3, outputs: int = 7) -> dict[str, int]:
    return {"prompt_tokens": inputs, "completion_tokens": outputs}


def answer(usage: dict[str, Any] | None = None, calls: Any = None) -> Reply:
    message = {"role": "assistant", "content": "" if calls else "hello", **({"tool_calls": calls} if calls else {})}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return Reply(headers=JSON, body=json.dumps(body).encode())


def pieces(usage: dict[str, Any] | None = None, *texts: str) -> list[bytes]:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts or ("hello",)
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    return [f"data: {json.dumps(each)}\n\n".encode() for each in chunks]


def streamed(usage: dict[str, Any] | None = None, *texts: str) -> Reply:
    return Reply(headers=EVENT_STREAM, body=pieces(usage, *texts))


def embedded(request: Request) -> Reply:
    inputs = request.json()["input"]
    count = len(inputs) if isinstance(inputs, list) else 1
    data = [{"index": number, "embedding": [1.0]} for number in range(count)]
    return Reply(headers=JSON, body=json.dumps({"data": data, "usage": {"prompt_tokens": 10}}).encode())


def client(server: ReplayServer, given: Budget | None = None, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", budget=given, **{"max_retries": 0, "prices": DOLLAR, **options})


def spent(given: Budget) -> tuple[float, int, int]:
    return round(given.spent.usd, 6), given.spent.tokens, given.spent.requests


def reserved(given: Budget) -> int:
    return len(given._claims)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


@tool
def weather(city: str) -> str:
    "Weather right now."
    return "sunny"


ASK = [answer(counted())]
CALLS: dict[str, tuple[Any, Callable[[Client], object], tuple[float, int, int]]] = {
    "chat": (ASK, lambda asking: asking.chat("hi"), (10, 10, 1)),
    "the server's own cost": ([answer({**counted(), "cost": 0.5})], lambda asking: asking.chat("hi"), (0.5, 10, 1)),
    "stream": ([streamed(counted())], lambda asking: asking.stream("hi").until_done(), (10, 10, 1)),
    "sink": ([streamed(counted())], lambda asking: asking.chat("hi", sink=lambda event: None), (10, 10, 1)),
    "submit": (ASK, lambda asking: asking.submit("hi").result(LIMIT), (10, 10, 1)),
    "map": (ASK * 3, lambda asking: list(asking.map(["hi"] * 3)), (30, 30, 3)),
    "embed": (embedded, lambda asking: asking.embed(["a", "b"], batch_size=1), (20, 20, 2)),
    "map_embeddings": (embedded, lambda asking: list(asking.map_embeddings(["a", "b"])), (10, 10, 1)),
    "tools": (
        [answer(counted(), [tool_call("weather", '{"city": "Rome"}')]), *ASK],
        lambda asking: asking.run_tools("hi", tools=[weather]),
        (20, 20, 2),
    ),
    "fallback": (
        [error_reply(503), *ASK],
        lambda asking: Client.fallback([asking, copy.copy(asking)]).chat("hi"),
        (10, 10, 1),
    ),
    "a call that a tool makes": (
        [answer(counted(), [tool_call("asks", "{}")]), *ASK, *ASK],
        lambda asking: asking.run_tools("hi", tools=[asks(asking)]),
        (30, 30, 3),
    ),
    "a try that is repeated": (
        [error_reply(500, headers={"retry-after-ms": "1"}), *ASK],
        lambda asking: asking._with_retries(1).chat("hi"),
        (10, 10, 1),
    ),
    "models": ([Reply(headers=JSON, body=b'{"data":[]}')], lambda asking: asking.models(), (0, 0, 0)),
}


def asks(asking: Client) -> Any:
    @tool(name="asks")
    def ask() -> str:
        "Ask another."
        return asking.chat("hi").text

    return ask


@pytest.mark.parametrize("how", ["client", "with", "both"])
@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_call_counts_once(name: str, how: str) -> None:
    replies, call, expected = CALLS[name]
    given = Budget(usd=1e6, tokens=1e6)
    with ReplayServer(replies) as server, contextlib.ExitStack() as stack:
        asking = stack.enter_context(client(server, given if how != "with" else None))
        if how != "client":
            stack.enter_context(given)
        call(asking)
    assert spent(given) == expected
    assert reserved(given) == 0


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("models", "a call that a tool makes")])
def test_what_does_not_fit_is_not_sent(name: str) -> None:
    _, call, _ = CALLS[name]
    given = Budget(tokens=1)
    with ReplayServer(ASK) as server, client(server, given) as asking:
        with pytest.raises(BudgetExceededError) as caught:
            call(asking)
        assert len(server.requests) == 0
    assert (caught.value.unit, caught.value.limit, caught.value.spent) == ("tokens", 1, 0)
    assert spent(given) == (0, 0, 0)
    assert reserved(given) == 0


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"extra_body": {"max_completion_tokens": 60}}, 60),
        ({}, 1000),
        ({"max_tokens": -1}, 1000),
        ({"max_tokens": 50, "extra_body": {"n": -3}}, 50),
    ],
    ids=["max_tokens", "n", "max_completion_tokens", "nothing", "llama.cpp's nothing", "less than one"],
)
def test_the_estimate_is_the_input_and_the_longest_answer_that_may_come(options: dict[str, Any], tokens: int) -> None:
    given = Budget(usd=10.0)
    with ReplayServer(ASK) as server, client(server, given) as asking:
        with pytest.raises(BudgetExceededError, match=r"the budget of \$10 has no room.*not sent: \$0 spent") as caught:
            asking.chat("x" * 300, **options)
        assert len(server.requests) == 0
    # 300 bytes and 4 tokens of a message, at three bytes a token.
    assert caught.value.asked == 106 + tokens


def test_an_answer_that_was_longer_is_what_the_next_may_be() -> None:
    given = Budget(tokens=10_000)
    with ReplayServer([answer(counted(3, 5000))]) as server, client(server, given) as asking:
        asking.chat("hi")
        with pytest.raises(BudgetExceededError) as caught:
            asking.chat("hi")
        assert len(server.requests) == 1
    assert caught.value.asked > 5000


def test_it_is_used_to_its_end_and_not_beyond() -> None:
    given = Budget(usd=100)
    with ReplayServer(lambda request: answer(counted(3, 7))) as server, client(server, given) as asking:

        def ask() -> None:
            for _ in range(50):
                asking.chat("hi", max_tokens=20)

        with pytest.raises(BudgetExceededError) as caught:
            ask()
        assert 75 < given.spent.usd <= 100
        assert given.spent.requests == len(server.requests) == caught.value.spent / 10
        asking.chat("hi", max_tokens=1)  # a smaller one still fits


class Held:
    """A server whose answers wait until they may go."""

    def __init__(self, usage: dict[str, Any] | None) -> None:
        self.came, self.let_go, self._usage = threading.Semaphore(0), threading.Event(), usage

    def __call__(self, request: Request) -> Reply:
        self.came.release()
        assert self.let_go.wait(LIMIT)
        return answer(self._usage)


def waiting() -> int:
    return len(module._waiting)


def test_a_call_waits_for_those_under_way_where_there_may_be_room_after_them() -> None:
    given, held = Budget(tokens=150), Held(counted())
    with ReplayServer(held) as server, client(server, given) as asking:
        calls = [asking.submit("hi", max_tokens=90) for _ in range(4)]
        assert held.came.acquire(timeout=LIMIT)
        until(lambda: waiting() == 3)
        assert len(server.requests) == 1
        held.let_go.set()
        assert [call.result(LIMIT).text for call in calls] == ["hello"] * 4
    assert spent(given) == (40, 40, 4)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_ends_a_wait(how: str) -> None:
    given, held, token = Budget(tokens=150), Held(counted()), CancelToken()
    with ReplayServer(held) as server, client(server, given) as asking:
        first = asking.submit("hi", max_tokens=90)
        assert held.came.acquire(timeout=LIMIT)
        second = asking.submit("hi", max_tokens=90, cancel=token, timeout=0.3 if how == "timeout" else None)
        if how == "cancel":
            until(lambda: waiting() == 1)
            token.cancel()
        with pytest.raises(Cancelled if how == "cancel" else APITimeoutError):
            second.result(LIMIT)
        held.let_go.set()
        first.result(LIMIT)
        assert len(server.requests) == 1
    assert (spent(given), reserved(given), waiting()) == ((10, 10, 1), 0, 0)


def test_who_reads_a_stream_does_not_wait_for_it() -> None:
    given = Budget(tokens=150)
    with ReplayServer([streamed(counted(), "a", "b")]) as server, client(server, given) as asking:
        with asking.stream("hi", max_tokens=90) as stream:
            next(stream)
            with pytest.raises(BudgetExceededError, match="reserved for calls under way"):
                asking.chat("hi", max_tokens=90)
        assert len(server.requests) == 1


def test_those_who_would_wait_for_each_other_do_not() -> None:
    given, both = Budget(tokens=240), threading.Barrier(2, timeout=LIMIT)
    outcomes: list[str] = []

    def reads() -> None:
        with asking.stream("hi", max_tokens=90) as stream:
            next(stream)
            both.wait()
            try:
                asking.chat("hi", max_tokens=90)
                outcomes.append("answered")
            except BudgetExceededError:
                outcomes.append("refused")

    def reply(request: Request) -> Reply:
        return streamed(counted(), "a", "b") if request.json().get("stream") else answer(counted())

    with ReplayServer(reply) as server, client(server, given) as asking:
        threads = [threading.Thread(target=reads) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
    assert sorted(outcomes) == ["answered", "refused"]
    assert reserved(given) == 0


def broken(request: Request) -> Reply:
    return Reply(head=b"", abort="fin")


ENDS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "an error is free": ([error_reply(400)], {}, 0),
    "so are those of each try": ([error_reply(500, headers={"retry-after-ms": "1"})] * 3, {"max_retries": 2}, 0),
    "a connection that breaks may have cost all": ([broken], {}, 10 + 20),
    "no answer, with usage": ([answer(counted(5, 6), None)], {"empty": True}, 11),
    "a server that says nothing of tokens": ([answer(None)], {}, 10 + 20),
    "counts that cannot be": ([answer(counted(-5, -5))], {}, 10 + 20),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_a_call_counts_for(name: str) -> None:
    replies, options, tokens = ENDS[name]
    given = Budget(tokens=1000)
    if options.pop("empty", False):
        body = json.loads(replies[0].body)
        body["choices"][0]["message"]["content"] = ""
        replies = [Reply(headers=JSON, body=json.dumps(body).encode())]
    with ReplayServer(replies if not callable(replies[0]) else replies[0]) as server:
        with contextlib.suppress(APIError):
            client(server, given, **options).chat("hello it is me", max_tokens=20)
        assert len(server.requests) == 1 + options.get("max_retries", 0)
    assert (given.spent.tokens, reserved(given)) == (tokens, 0)


def test_a_server_that_is_not_there_costs_nothing() -> None:
    given = Budget(tokens=1000)
    with ReplayServer(ASK) as server:
        url = server.url
    with pytest.raises(APIError):
        Client(url, model="m", budget=given, max_retries=1).chat("hi", max_tokens=20)
    assert (spent(given), reserved(given)) == ((0, 0, 0), 0)


@pytest.mark.parametrize("how", ["close", "drop", "cancel", "break", "error"])
def test_a_stream_that_ends_early_counts_for_what_has_come(how: str) -> None:
    given = Budget(tokens=1000, usd=1000)
    said = pieces(None, "x" * 40, "y" * 40)
    body: list[bytes] | Iterator[bytes] = said[:2]
    end: dict[str, Any] = {}
    if how == "break":
        end = {"abort": "rst"}
    elif how == "error":
        body = [*said[:2], b'data: {"error":{"code":500,"message":"no"}}\n\n']
    else:
        body = said
    with ReplayServer([Reply(headers=EVENT_STREAM, body=body, **end)]) as server, client(server, given) as asking:
        stream = asking.stream("hi", max_tokens=500)
        for _ in range(2):
            next(stream)
        assert reserved(given) == 1
        if how in ("break", "error"):
            with pytest.raises(APIError):
                stream.until_done()
        elif how == "cancel":
            stream.cancel()
            stream.until_done()
        elif how == "close":
            stream.close()
        else:
            del stream
    assert (spent(given), reserved(given)) == ((26, 26, 1), 0)


@pytest.mark.parametrize("price", [DOLLAR, Price(input=0, output=0)])
@pytest.mark.parametrize("how", ["left", "broken", "no usage"])
def test_what_is_reckoned_has_a_price_where_that_is_known(how: str, price: Price) -> None:
    replies = {"left": streamed(None, "four", "more"), "broken": broken, "no usage": answer(None)}
    with ReplayServer([replies[how]]) as server, client(server, prices=price) as asking, budget() as used:
        if how == "left":
            with asking.stream("hi", max_tokens=20) as stream:
                next(iter(stream))
        else:
            with contextlib.suppress(APIError):
                asking.chat("hi", max_tokens=20)
    assert (used.requests, used.unpriced) == (1, 0)
    assert used.usd == (used.tokens if price is DOLLAR else 0)
    assert used.tokens > 0


def test_a_stream_that_is_refused_at_once_is_free() -> None:
    given = Budget(tokens=5000)
    refusal = Reply(headers=EVENT_STREAM, body=[b'data: {"error":{"code":429,"message":"no"}}\n\n'])
    with ReplayServer([refusal]) as server, pytest.raises(APIError):
        client(server, given).stream("hi").until_done()
    assert (spent(given), reserved(given)) == ((0, 0, 0), 0)


def test_a_price_that_is_not_known_is_told_before_anything_is_sent() -> None:
    with ReplayServer(ASK) as server, client(server, prices={"other": DOLLAR}) as asking:
        with budget(usd=1):
            for call in (lambda: asking.chat("hi"), lambda: list(asking.map(["hi"] * 9))):
                with pytest.raises(UnknownPriceError, match="the price of 'm'.*prices="):
                    call()
        assert len(server.requests) == 0
        with budget(tokens=2000) as used:
            asking.chat("hi")
    assert (used.usd, used.tokens, used.unpriced) == (0.0, 10, 1)


def test_budgets_within_each_other_count_in_all_and_each_may_stop() -> None:
    with ReplayServer(lambda request: answer(counted())) as server, client(server) as asking:
        with budget(tokens=10_000) as outer:
            asking.chat("hi")
            with budget(tokens=1500) as inner:
                asking.chat("hi")
                with pytest.raises(BudgetExceededError) as caught:
                    asking.chat("hi", max_tokens=5000)
            asking.chat("hi", max_tokens=5000)
        asking.chat("hi", max_tokens=50_000)
        assert len(server.requests) == 4
    assert (outer.tokens, inner.tokens, caught.value.limit) == (30, 10, 1500)


def test_a_block_without_limits_only_counts() -> None:
    with ReplayServer(ASK) as server, client(server) as asking, budget() as used:
        asking.chat("hi")
    assert str(used) == "$10.0000, 10 tokens, 1 request"
    assert repr(used) == f"<Spent: {used}>"


def test_a_block_holds_for_threads_that_begin_in_it_and_a_client_for_all() -> None:
    given = Budget(tokens=1e6)
    with ReplayServer(lambda request: answer(counted())) as server, client(server, given) as asking:
        with budget() as used, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: asking.chat("hi"), range(20)))
            asking.submit("hi").result(LIMIT)
    # Threads of a pool of one's own begin with an empty context.
    assert (used.requests, given.spent.requests) == (1, 21)


def test_the_same_budget_twice_counts_once_and_ends_with_its_outer_block() -> None:
    given = Budget(tokens=1e6)
    with ReplayServer(lambda request: answer(counted())) as server, client(server, given) as asking:
        with given, given:
            asking.chat("hi")
        with given:
            asking.chat("hi")
    assert given.spent.requests == 2
    assert module.in_force.get() == ()


def test_many_threads_never_exceed_it() -> None:
    given = Budget(usd=500, tokens=2000)
    with ReplayServer(lambda request: answer(counted())) as server, client(server, given) as asking:

        def ask(_: int) -> bool:
            with contextlib.suppress(BudgetExceededError):
                return bool(asking.chat("hi", max_tokens=20).text)
            return False

        with ThreadPoolExecutor(16) as pool:
            answered = sum(pool.map(ask, range(100)))
        assert answered == len(server.requests) == given.spent.requests
    assert 470 < given.spent.usd <= 500
    assert reserved(given) == 0


def test_it_goes_with_limits() -> None:
    given, limits = Budget(tokens=1e6), Limits(concurrency=2, requests_per_minute=60_000)
    with ReplayServer(lambda request: answer(counted())) as server, client(server, given, limits=limits) as asking:
        assert all(result.ok for result in asking.map(["hi"] * 20, workers=8))
        stream = asking.stream("hi")
        next(stream)
        stream.close()
    gate = limits._gates[os.getpid()]
    assert (gate._pace.under_way, gate._pace._begun) == (0, 21)
    assert (given.spent.requests, reserved(given)) == (21, 0)


def test_a_wait_for_the_limits_that_ends_gives_back_what_was_reserved() -> None:
    given, limits, held = Budget(tokens=1e6), Limits(concurrency=1), Held(counted())
    with ReplayServer(held) as server, client(server, given, limits=limits) as asking:
        first = asking.submit("hi")
        assert held.came.acquire(timeout=LIMIT)
        with pytest.raises(APITimeoutError):
            asking.chat("hi", timeout=0.1)
        assert reserved(given) == 1
        held.let_go.set()
        first.result(LIMIT)
    assert reserved(given) == 0


def test_map_takes_nothing_more_and_keeps_what_was_finished(tmp_path: Path) -> None:
    journal = tmp_path / "run.sqlite"
    prompts = [f"question {number}" for number in range(40)]
    with ReplayServer(lambda request: answer(counted())) as server, client(server) as asking:
        results: list[Any] = []
        with budget(tokens=200) as used, asking.map(prompts, workers=8, journal=journal, max_tokens=30) as run:
            with pytest.raises(BudgetExceededError):
                results.extend(run)
        asked = len(server.requests)
        assert 0 < used.tokens <= 200
        assert asked == len(results) == used.requests < 40
        assert all(result.ok for result in results)
        again = list(asking.map(prompts, workers=8, journal=journal, max_tokens=30))
        assert len(server.requests) == 40
    assert all(result.ok for result in again)
    assert sum(result.from_journal for result in again) == asked


def test_a_pickle_has_its_limits_and_another_process_counts_by_itself() -> None:
    given = Budget(usd=2.5, tokens=1e6)
    given.spent.usd = 1.0
    twin = pickle.loads(pickle.dumps(given))
    assert (twin.usd, twin.tokens, twin.spent.usd) == (2.5, 1e6, 0.0)
    assert repr(given) == "Budget(usd=2.5, tokens=1e+06: $1.0000, 0 tokens, 0 requests)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, where there are threads
def test_a_forked_child_does_not_wait_for_its_parents_calls() -> None:
    given, held = Budget(tokens=150), Held(counted())
    with ReplayServer(held) as server, client(server, given) as asking:
        first = asking.submit("hi", max_tokens=90)
        assert held.came.acquire(timeout=LIMIT)
        held_by_another, forked = threading.Event(), threading.Event()

        def hold() -> None:
            with module._changed:
                held_by_another.set()
                forked.wait(LIMIT)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held_by_another.wait(LIMIT)
        child = os.fork()
        if child == 0:
            claim = module._Claim(0.0, 100, threading.get_ident(), os.getpid())
            free = module._changed.acquire(timeout=LIMIT / 2)
            os._exit(0 if free and given._no_room(claim, now=True) is None else 1)
        forked.set()
        holder.join(LIMIT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        held.let_go.set()
        first.result(LIMIT)


@pytest.mark.parametrize("bad", [{"usd": 0}, {"usd": -1}, {"tokens": float("nan")}, {"tokens": "1"}, {"usd": 10**400}])
def test_a_limit_that_is_none_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be a positive number"):
        Budget(**bad)
    with pytest.raises(ConfigurationError, match="must be a Budget"):
        Client("http://localhost:1", budget=1)  # type: ignore[arg-type]


def test_what_was_refused_is_let_go_at_once() -> None:
    class Marker:
        pass

    def refused(asking: Client) -> weakref.ref[Marker]:
        marker = Marker()  # in a frame that the exception goes through
        with contextlib.suppress(BudgetExceededError):
            asking.chat("hi")
        return weakref.ref(marker)

    with ReplayServer(ASK) as server, client(server, Budget(tokens=1)) as asking:
        gc.disable()
        try:
            assert refused(asking)() is None
        finally:
            gc.enable()


def test_a_call_that_was_let_slip_holds_nothing() -> None:
    given = Budget(tokens=2000)
    with ReplayServer(ASK) as server, client(server, given) as asking:
        call = Call(Deadline(Timeout()), RetryPolicy())
        call.permit = module.BudgetPermit([given], {"messages": [], "max_tokens": 1500}, call, CallInfo(model="m"))
        call.permit.__enter__()  # and a Ctrl-C before its block has begun
        assert reserved(given) == 1
        del call
        assert reserved(given) == 0
        asking.chat("hi", max_tokens=1500)


def test_a_run_on_an_executor_keeps_to_the_clients_budget_and_in_a_block_is_not_begun() -> None:
    given = Budget(tokens=200)
    with ReplayServer(lambda request: answer(counted())) as server, ThreadPoolExecutor(2) as pool:
        with client(server) as asking, budget(tokens=200):
            for begin in (asking.map, asking.map_embeddings):
                with pytest.raises(ConfigurationError, match="executor= runs: give the budget to the client"):
                    begin(["hi"], executor=pool)
        assert len(server.requests) == 0
        results: list[Any] = []
        with client(server, given) as asking, asking.map(["hi"] * 40, executor=pool, workers=2, max_tokens=30) as run:
            with pytest.raises(BudgetExceededError):
                results.extend(run)
        assert 0 < len(results) <= len(server.requests) == given.spent.requests < 40
    assert given.spent.tokens <= 200
