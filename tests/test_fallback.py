"""Endpoints that stand in for each other; what each server saw is counted."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.calls import saying
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import (
    APIError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    Conversation,
    FallbackClient,
    InternalServerError,
    RateLimitError,
    RetryPolicy,
    StreamEvent,
    Timeout,
)

NO_QUOTA = error_reply(429, "You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")
RESET = Reply(head=b"", abort="rst")


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def servers(*replies: Reply | Callable[[Request], Reply]) -> Iterator[list[ReplayServer]]:
    """Servers, each with one reply to everything."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ReplayServer([reply])) for reply in replies]


def client_of(server: ReplayServer, **options: object) -> Client:
    return Client(server.url, **{"model": "m", "max_retries": 0, **options})  # type: ignore[arg-type]


def seen(found: list[ReplayServer]) -> list[int]:
    return [len(server.requests) for server in found]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is about to be."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def origins(answered: object) -> list[str]:
    return [attempt.origin for attempt in answered.attempts]  # type: ignore[attr-defined]


def hangs(request: Request) -> Reply:
    def body() -> Iterator[bytes]:
        request.closed.wait(10)
        yield b""

    request.closed.wait(10)
    return Reply(headers=JSON, body=body())


NEXT = {
    "a reset": RESET,
    "no answer": Reply(head=b"", abort="fin"),
    "half a body": Reply(headers=JSON, body=chat_body()[:20], abort="fin"),
    "a page": Reply(headers={"Content-Type": "text/html"}, body=b"<html><title>Bad gateway</title></html>"),
    "nothing": Reply(headers=JSON, body=b""),
    "402": error_reply(402, "Insufficient credits"),
    "408": error_reply(408),
    "409": error_reply(409),
    "429": error_reply(429, "slow down"),
    "429, soon": error_reply(429, "slow down", headers={"Retry-After": "30"}),
    "429, much later": error_reply(429, "slow down", headers={"Retry-After": "86400"}),
    "429, no quota": NO_QUOTA,
    "403, no balance": error_reply(403, "Sorry, your account balance is insufficient", code="30001"),
    "500": error_reply(500),
    "501": error_reply(501, "not implemented"),
    "500, never": error_reply(500, "This model does not support tools"),
    "503": error_reply(503, "overloaded"),
    "529": error_reply(529, "overloaded"),
    "200 with a 503": Reply(headers=JSON, body=json.dumps({"error": {"message": "overloaded", "code": 503}}).encode()),
}
RAISED = {
    "400": error_reply(400, "no such parameter"),
    "401": error_reply(401, "wrong key"),
    "403": error_reply(403, "not for you"),
    "404": error_reply(404, "the model does not exist"),
    "413": error_reply(413, "too large"),
    "422": error_reply(422, "not acceptable"),
    "empty": chat_reply("", finish_reason="length"),
}
KINDS: dict[str, Callable[[Client], object]] = {
    "chat": lambda client: client.chat("hi"),
    "stream": lambda client: client.stream("hi").until_done(),
    "sink": lambda client: client.chat("hi", sink=lambda event: None),
    "submit": lambda client: client.submit("hi").result(10),
    "tools": lambda client: client.run_tools("hi", tools=[]),
    "say": lambda client: client.conversation().say("hi"),
    "map": lambda client: next(client.map(["hi"])).result(),
    "embed": lambda client: client.embed("hi", encoding_format="float"),
    "models": lambda client: client.models(),
}


@pytest.mark.parametrize("kind", ["chat", "stream"])
@pytest.mark.parametrize("name", NEXT)
def test_the_next_one_is_asked_where_one_cannot_answer(kind: str, name: str) -> None:
    with servers(NEXT[name], saying("ok")) as found:
        answer = KINDS[kind](FallbackClient([client_of(server) for server in found]))
        assert seen(found) == [1, 1]
        assert answer.text == "ok"  # type: ignore[attr-defined]
        assert answer.origin == f"{found[1].url}/v1"  # type: ignore[attr-defined]
        assert origins(answer) == [f"{server.url}/v1" for server in found]
        first, second = answer.attempts  # type: ignore[attr-defined]
        assert (first.number, second.number, second.error) == (1, 2, None)
        assert first.error
        assert 0 <= first.started <= first.started + first.seconds <= second.started + 1e-6


@pytest.mark.parametrize("kind", ["chat", "stream"])
@pytest.mark.parametrize("name", RAISED)
def test_what_is_the_callers_to_mend_is_raised(kind: str, name: str) -> None:
    with servers(RAISED[name], saying("ok")) as found:
        client = FallbackClient([client_of(server, api_path="/v1") for server in found])
        for _ in range(5):
            with pytest.raises(APIError) as caught:
                KINDS[kind](client)
            assert origins(caught.value) in ([f"{found[0].url}/v1"], [])
        assert seen(found) == [5, 0]
        assert [one.state for one in client.endpoints] == ["closed", "closed"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_way_to_ask_has_its_turn(kind: str) -> None:
    def reply(request: Request) -> Reply:
        models = json.dumps({"data": [{"id": "m"}]}).encode()
        return Reply(headers=JSON, body=models) if request.path.endswith("/models") else saying("ok")(request)

    with servers(error_reply(503), reply) as found:
        KINDS[kind](Client.fallback([client_of(server) for server in found]))
        assert seen(found) == [1, 1]


def test_nothing_listens_or_nothing_comes() -> None:
    with servers(RESET, hangs, chat_reply()) as found:
        clients = [client_of(server, timeout=Timeout(first_token=0.2)) for server in found]
        found[0].close()
        answer = FallbackClient(clients).chat("hi")
        assert answer.provider == clients[2].provider
        assert seen(found) == [0, 1, 1]
        assert "first" in (answer.attempts[-2].error or "")


def test_the_callers_time_is_the_whole_calls() -> None:
    with servers(hangs, chat_reply()) as found:
        client = FallbackClient([client_of(server) for server in found])
        with pytest.raises(APITimeoutError) as caught:
            client.chat("hi", timeout=0.2)
        assert caught.value.phase == "total"
        assert seen(found) == [1, 0]
        assert [(one.failures, one.outstanding) for one in client.endpoints] == [(1, 0), (0, 0)]


def test_where_all_fail_the_last_error_tells_of_all() -> None:
    with servers(error_reply(503, "first words"), NO_QUOTA) as found:
        with pytest.raises(RateLimitError, match="first words") as caught:
            FallbackClient([client_of(server) for server in found]).chat("hi")
        assert seen(found) == [1, 1]
        assert origins(caught.value) == [f"{server.url}/v1" for server in found]


def test_an_endpoint_is_asked_again_only_where_all_have_failed() -> None:
    busy = error_reply(503, headers={"retry-after-ms": "5"})
    with servers(busy, busy) as found:
        client = FallbackClient([client_of(server, max_retries=2) for server in found])
        with pytest.raises(InternalServerError) as caught:
            client.chat("hi")
        assert seen(found) == [3, 1]
        assert [attempt.number for attempt in caught.value.attempts] == [1, 2, 3, 4]
        assert origins(caught.value) == [f"{found[place].url}/v1" for place in (0, 1, 0, 0)]


def test_a_further_try_is_a_probe_where_the_first_has_opened_the_breaker() -> None:
    gate = threading.Event()
    busy = error_reply(503, headers={"retry-after-ms": "200"})

    def later(request: Request) -> Reply:
        gate.wait(10)
        return chat_reply()

    with ReplayServer([busy, later]) as server:
        client = FallbackClient([client_of(server, max_retries=1)], failures=1, clock=Clock())
        calls = [client.submit("hi")]
        until(lambda: len(server.requests) == 2)
        assert client.endpoints[0].state == "open"
        calls += [client.submit("hi") for _ in range(4)]
        with pytest.raises(APIError, match="no endpoint answers"):
            client.chat("hi", timeout=0.05)
        assert len(server.requests) == 2
        gate.set()
        assert [call.result(10).text for call in calls] == ["ok"] * 5


def test_all_that_have_failed_together_have_their_further_tries() -> None:
    together = threading.Barrier(6)

    def reply(request: Request) -> Reply:
        if request.number >= 6:
            return chat_reply()
        together.wait(10)
        return error_reply(503, headers={"retry-after-ms": "5"})

    with ReplayServer(reply) as server, ThreadPoolExecutor(6) as pool:
        client = FallbackClient([client_of(server, max_retries=1)], failures=1)
        answers = [pool.submit(client.chat, "hi") for _ in range(6)]
        assert [answer.result(10).text for answer in answers] == ["ok"] * 6
        assert len(server.requests) == 12


@pytest.mark.parametrize("kind", ["chat", "sink"])
def test_a_wait_for_another_try_ends_with_the_call(kind: str) -> None:
    with ReplayServer([error_reply(503, headers={"Retry-After": "60"})]) as server:
        client, token = FallbackClient([client_of(server, max_retries=2)], failures=9), CancelToken()
        sink = None if kind == "chat" else lambda event: None
        with pytest.raises(InternalServerError):
            client.chat("hi", sink=sink, timeout=30)
        future = client.submit("hi", sink=sink, cancel=token)
        until(lambda: client.endpoints[0].failures == 2)
        token.cancel()
        with pytest.raises(Cancelled) as caught:
            future.result(10)
        assert origins(caught.value) == [f"{server.url}/v1"]
        assert len(server.requests) == 2


def test_models_have_other_names_elsewhere() -> None:
    with servers(error_reply(503), error_reply(503), saying("ok")) as found:
        a, b, c = (client_of(server, model=name) for server, name in zip(found, "abc", strict=True))
        client = FallbackClient([a, (b, {"gpt-4o": "llama3"}), c], failures=100)
        client.chat("hi", model="gpt-4o")
        client.chat("hi")
        client.stream("hi", model="gpt-4o").until_done()
        client.embed("hi", model="gpt-4o")
        asked = [[request.json()["model"] for request in server.requests] for server in found]
        assert asked == [
            ["gpt-4o", "a", "gpt-4o", "gpt-4o"],
            ["llama3", "b", "llama3", "llama3"],
            ["gpt-4o", "c", "gpt-4o", "gpt-4o"],
        ]


def test_a_stream_changes_before_its_first_event_only() -> None:
    broken = Reply(headers=EVENT_STREAM, body=stream_pieces("Hel", "lo", finish_reason=None, done=False), abort="rst")
    with servers(broken, stream_reply("ok")) as found:
        client = FallbackClient([client_of(server) for server in found])
        events: list[StreamEvent] = []
        with pytest.raises(APIError) as caught:
            client.chat("hi", sink=events.append)
        assert seen(found) == [1, 0]
        assert [event.kind for event in events][-1] == "error"
        assert caught.value.partial is not None
        assert caught.value.partial.text == "Hello"
        assert origins(caught.value) == origins(caught.value.partial) == [f"{found[0].url}/v1"]
        assert [(one.failures, one.outstanding) for one in client.endpoints] == [(1, 0), (0, 0)]


def test_a_stream_that_changes_has_one_last_event_and_one_origin() -> None:
    silent = Reply(headers=EVENT_STREAM, body=[chunk({"role": "assistant"})], abort="rst")
    with servers(silent, stream_reply("o", "k")) as found:
        client = FallbackClient([client_of(server) for server in found])
        stream = client.stream("hi")
        events = list(stream)
        assert [event.kind for event in events] == ["text", "text", "done"]
        assert {event.call.origin for event in events} == {stream.call.origin} == {f"{found[1].url}/v1"}
        assert seen(found) == [1, 1]
        assert len(stream.response.attempts) == 2
        assert stream.response.first_token_ms is not None
        assert stream.response.first_token_ms >= 1000 * stream.response.attempts[1].started


def test_a_stream_that_is_left_frees_its_endpoint() -> None:
    def endless(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield chunk({"content": "a"})
            request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with servers(endless, endless) as found:
        client = FallbackClient([client_of(server) for server in found], balance=True)
        held = [client.stream("hi") for _ in range(4)]
        for stream in held:
            next(stream)
        assert seen(found) == [2, 2]
        assert [one.outstanding for one in client.endpoints] == [2, 2]
        held.pop().close()
        del stream
        held.clear()
        assert [one.outstanding for one in client.endpoints] == [0, 0]
        assert all(server.wait_closed() for server in found)


def test_a_stream_that_is_cancelled_while_it_waits() -> None:
    begun = threading.Event()

    def waits(request: Request) -> Reply:
        begun.set()
        return hangs(request)

    with servers(RESET, waits, saying("ok")) as found:
        client, token = FallbackClient([client_of(server) for server in found]), CancelToken()
        events: list[StreamEvent] = []
        future = client.submit("hi", sink=events.append, cancel=token)
        assert begun.wait(10)
        token.cancel()
        with pytest.raises(Cancelled) as caught:
            future.result(10)
        assert origins(caught.value) == [f"{server.url}/v1" for server in found[:2]]
        assert [event.kind for event in events] == ["error"]
        assert seen(found) == [1, 1, 0]
        assert [(one.failures, one.outstanding) for one in client.endpoints] == [(1, 0), (0, 0), (0, 0)]


def test_a_conversation_keeps_to_the_one_that_answered() -> None:
    replies = [error_reply(503), *[saying("a")] * 9]
    with ReplayServer(replies) as first, ReplayServer(saying("b")) as second:
        found = [first, second]
        client = FallbackClient([client_of(server) for server in found])
        talk = client.conversation()
        assert [talk.say(word).text for word in "123"] == ["b", "b", "b"]
        assert seen(found) == [1, 3]
        assert client.chat("hi").text == "a"
        again = Conversation.from_json(talk.to_json(), client)
        assert again.say("4").text == "b"
        assert client.run_tools(messages=talk.messages[:1], tools=[]).text == "a"
        assert seen(found) == [3, 4]
        second.close()
        assert talk.say("5").text == "a"
        assert talk.messages[-1].origin == f"{first.url}/v1"


def test_the_rounds_of_a_tool_loop_are_asked_of_one() -> None:
    call = Reply(headers=JSON, body=chat_body(None, tool_calls=[tool_call("now", "{}")], finish_reason="tool_calls"))
    with ReplayServer([error_reply(503), chat_reply("a")]) as first, ReplayServer([call, chat_reply("b")]) as second:
        client = FallbackClient([client_of(first), client_of(second)])

        def now() -> str:
            "The time."
            return "noon"

        assert client.run_tools("hi", tools=[now]).text == "b"
        assert seen([first, second]) == [1, 2]


def test_equal_ones_share_the_calls() -> None:
    free = threading.Event()

    def waits(request: Request) -> Reply:
        free.wait(10)
        return chat_reply()

    with servers(waits, waits, chat_reply()) as found:
        a, b, c = map(client_of, found)
        client = FallbackClient([[a, b], c])
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(client.chat, "hi") for _ in range(6)]
            until(lambda: sum(seen(found)) == 6)
            assert seen(found) == [3, 3, 0]
            free.set()
            assert all(answer.result(10).text == "ok" for answer in answers)
        for _ in range(4):
            client.chat("hi")
        assert seen(found) == [5, 5, 0]


def test_the_one_with_the_fewest_calls_is_asked() -> None:
    begun, free = threading.Event(), threading.Event()

    def waits(request: Request) -> Reply:
        begun.set()
        free.wait(10)
        return chat_reply()

    with servers(waits, chat_reply()) as found:
        client = FallbackClient([client_of(server) for server in found], balance=True)
        slow = client.submit("hi")
        assert begun.wait(10)
        for _ in range(5):
            client.chat("hi")
        assert seen(found) == [1, 5]
        free.set()
        slow.result(10)


def test_a_breaker_opens_is_probed_and_closes() -> None:
    clock = Clock()
    healthy = threading.Event()

    def first(request: Request) -> Reply:
        return chat_reply("a") if healthy.is_set() else error_reply(503)

    with servers(first, chat_reply("b")) as found:
        client = FallbackClient([client_of(server) for server in found], failures=3, cool_down=30, clock=clock)

        def ask(times: int) -> str:
            return "".join(client.chat("hi").text for _ in range(times))

        def state() -> str:
            return client.endpoints[0].state

        assert ask(2) == "bb"
        assert (state(), client.endpoints[0].failures) == ("closed", 2)
        assert ask(5) == "bbbbb"
        assert (state(), seen(found)) == ("open", [3, 7])
        clock.now += 29
        assert ask(2) == "bb"
        assert seen(found) == [3, 9]
        clock.now += 2
        assert state() == "half-open"
        assert ask(5) == "bbbbb"
        assert (state(), seen(found)) == ("open", [4, 14]), "one probe"
        clock.now += 31
        healthy.set()
        assert ask(3) == "aaa"
        assert (state(), client.endpoints[0].failures) == ("closed", 0)


@pytest.mark.parametrize(
    ("reply", "until"),
    [
        (NO_QUOTA, 30),
        (error_reply(402), 30),
        (error_reply(429, "slow down", headers={"Retry-After": "300"}), 300),
        (error_reply(429, "slow down", headers={"Retry-After": "86400"}), 600),
        (error_reply(429, "slow down", headers={"Retry-After": "20"}), 20),
        (error_reply(503, "slow down", headers={"Retry-After": "20"}), 20),
        (error_reply(503, "maintenance", headers={"Retry-After": "300"}), 300),
    ],
)
def test_one_error_is_enough_where_more_would_tell_the_same(reply: Reply, until: int) -> None:
    clock = Clock()
    with ReplayServer([reply, chat_reply("a")]) as first, ReplayServer([chat_reply("b")]) as second:
        client = FallbackClient([client_of(first), client_of(second)], clock=clock)
        assert client.chat("hi").text == "b"
        clock.now += until - 1
        assert client.chat("hi").text == "b"
        clock.now += 2
        assert client.chat("hi").text == "a"


def test_one_that_rests_is_asked_before_nobody_is() -> None:
    with servers(error_reply(429, headers={"Retry-After": "20"}), RESET) as found:
        client = FallbackClient([client_of(server) for server in found])
        for _ in range(4):
            with pytest.raises(APIError):
                client.chat("hi")
        assert seen(found) == [4, 4]


def test_the_one_that_may_be_tried_again_is() -> None:
    with servers(error_reply(429, headers={"Retry-After": "20"}), error_reply(503)) as found:
        patient = client_of(found[1], retry=RetryPolicy(max_retries=2, first_wait=0.001))
        client = FallbackClient([client_of(found[0]), patient], failures=100)
        for _ in range(2):
            with pytest.raises(APIError):
                client.chat("hi")
        assert seen(found) == [2, 6]


def test_where_none_is_ready_each_is_tried_before_its_time() -> None:
    with (
        ReplayServer([NO_QUOTA, NO_QUOTA, chat_reply("a")]) as first,
        ReplayServer([error_reply(402, "pay")]) as second,
    ):
        client = FallbackClient([client_of(first), client_of(second)], clock=Clock())
        for count in (1, 2):
            with pytest.raises(APIError, match=r"quota.*|pay.*"):
                client.chat("hi")
            assert seen([first, second]) == [count, count]
            assert [one.state for one in client.endpoints] == ["open", "open"]
        assert client.chat("hi").text == "a"
        assert [one.state for one in client.endpoints] == ["closed", "open"]
        assert client.chat("hi").text == "a"
        assert seen([first, second]) == [4, 2]


@pytest.mark.parametrize("well", [True, False])
def test_what_a_probe_finds_is_waited_for_where_nothing_else_is_left(well: bool) -> None:
    gate, begun = threading.Event(), threading.Event()

    def later(request: Request) -> Reply:
        begun.set()
        gate.wait(10)
        return chat_reply() if well else error_reply(503)

    with ReplayServer([NO_QUOTA, later]) as server:
        client = FallbackClient([client_of(server)], clock=Clock())
        with pytest.raises(RateLimitError):
            client.chat("hi")
        token = CancelToken()
        probe = client.submit("hi")
        assert begun.wait(10)
        waiting = [client.submit("hi") for _ in range(4)]
        left = [client.submit("hi", cancel=token), client.submit("hi", cancel=token, sink=lambda event: None)]
        token.cancel()
        for future in left:
            with pytest.raises(Cancelled):
                future.result(10)
        with pytest.raises(APIError, match="no endpoint answers"):
            client.chat("hi", timeout=0.1)
        assert len(server.requests) == 2
        gate.set()
        for future in (probe, *waiting):
            if well:
                assert future.result(10).text == "ok"
            else:
                with pytest.raises(APIError):
                    future.result(10)
        assert client.endpoints[0].state == ("closed" if well else "open")
        assert not well or len(server.requests) == 6


def test_a_probe_that_ends_in_nothing_makes_room_for_another() -> None:
    clock, begun = Clock(), threading.Event()

    def later(request: Request) -> Reply:
        begun.set()
        return hangs(request)

    with ReplayServer([NO_QUOTA, later, chat_reply("a")]) as first, ReplayServer([chat_reply("b")]) as second:
        client, token = FallbackClient([client_of(first), client_of(second)], clock=clock), CancelToken()
        client.chat("hi")
        clock.now += 31
        probe = client.submit("hi", cancel=token)
        assert begun.wait(10)
        assert client.chat("hi").text == "b"
        token.cancel()
        with pytest.raises(Cancelled):
            probe.result(10)
        assert client.chat("hi").text == "a"
        assert seen([first, second]) == [3, 2]


@pytest.mark.parametrize("recovers", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_three_servers_one_killed_one_slow_one_out_of_quota(seed: int, recovers: bool) -> None:
    rng, lock = random.Random(seed), threading.Lock()
    roles = rng.sample(["killed", "slow", "no quota"], 3)
    under_way, most = [0, 0, 0], [0, 0, 0]

    def server(place: int) -> Callable[[Request], Reply]:
        def reply(request: Request) -> Reply:
            with lock:
                well = roles[place] == "slow" or (recovers and rng.random() < 0.3)
                under_way[place] += 1
                most[place] = max(most[place], under_way[place])
            # Long enough for a second probe to be seen beside this one.
            request.closed.wait(0.01)
            with lock:
                under_way[place] -= 1
            if well:
                return saying("ok")(request)
            # A kept connection that is reset is not for the fallback to judge.
            return NO_QUOTA if roles[place] == "no quota" else error_reply(503) if recovers else RESET

        return reply

    with servers(*map(server, range(3))) as found:
        # Each failure opens, and a probe may follow at once.
        clients = [client_of(one, max_retries=2) for one in found]
        client = FallbackClient(clients, balance=True, failures=1, cool_down=1e-6)
        for number in range(3):
            client.chat(f"before {number}")
        most[:] = [0, 0, 0]

        def ask(number: int) -> str:
            prompt = f"call {number}"
            return client.stream(prompt).until_done().text if number % 2 else client.chat(prompt).text

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(400), timeout=60))
        assert answers == ["ok"] * 400
        for place, one in enumerate(found):
            prompts = [request.json()["messages"][0]["content"] for request in one.requests]
            assert len(prompts) == len(set(prompts)), "none is asked twice"
            assert len(prompts) > 3, "each has its probes"
            assert recovers or most[place] == 1 or roles[place] == "slow", "one probe at a time"
        assert max(most) > 1, "more than one at a time would be seen"
        assert [one.outstanding for one in client.endpoints] == [0, 0, 0]


def test_servers_that_fail_and_recover_in_turn() -> None:
    roles = ["killed", "slow", "no quota"]

    def server(place: int) -> Callable[[Request], Reply]:
        def reply(request: Request) -> Reply:
            if roles[place] == "slow":
                request.closed.wait(0.005)
                return saying("ok")(request)
            return NO_QUOTA if roles[place] == "no quota" else error_reply(503)

        return reply

    with servers(*map(server, range(3))) as found, ThreadPoolExecutor(32) as pool:
        client = FallbackClient([client_of(one) for one in found])
        for turn in range(9):
            # When the roles change, the only one that was well fails, and the others are open for half a minute.
            roles.append(roles.pop(0))
            prompts = [f"{turn} {number}" for number in range(48)]
            assert [answer.text for answer in pool.map(client.chat, prompts, timeout=60)] == ["ok"] * 48
        for one in found:
            asked = [request.json()["messages"][0]["content"] for request in one.requests]
            assert len(asked) == len(set(asked))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))])
def test_a_copy_has_the_settings_and_knows_of_no_failures(copied: Callable[[FallbackClient], FallbackClient]) -> None:
    with servers(NO_QUOTA, chat_reply("b"), chat_reply("c")) as found:
        a, b, c = map(client_of, found)
        client = FallbackClient([(a, {"x": "y"}), [b, c]], cool_down=7)
        client.chat("hi", model="x")
        assert [one.state for one in client.endpoints] == ["open", "closed", "closed"]
        other = copied(client)
        assert [one.state for one in other.endpoints] == ["closed"] * 3
        assert {other.chat("hi", model="x").text for _ in range(2)} == {"b", "c"}
        assert [request.json()["model"] for request in found[0].requests] == ["y", "y"]
        assert repr(other) == repr(client)
        other.close()


@pytest.mark.parametrize(
    "given",
    [
        [],
        [[]],
        ["http://localhost"],
        [(Client("http://localhost"), "m")],
        [Client.fallback([Client("http://localhost")])],
    ],
    ids=["nothing", "a list of nothing", "an address", "no mapping", "a fallback"],
)
def test_what_is_no_client_is_refused(given: list[Client]) -> None:
    with pytest.raises(ConfigurationError, match=r"^(?:a )?fallback "):
        Client.fallback(given)


@pytest.mark.parametrize("options", [{"failures": 0}, {"failures": True}, {"cool_down": 0}, {"cool_down": "1"}])
def test_unusable_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Client.fallback([Client("http://localhost")], **options)  # type: ignore[arg-type]


def test_a_request_that_cannot_be_asked_is_refused_before_anything_is_sent() -> None:
    with servers(chat_reply(), chat_reply()) as found:
        client = FallbackClient([client_of(server) for server in found])
        for ask in (client.chat, client.stream, client.submit):
            with pytest.raises(ConfigurationError):
                ask()  # type: ignore[operator]
        with pytest.raises(TypeError, match="temprature"):
            client.chat("hi", temprature=1)  # type: ignore[call-overload]
        assert seen(found) == [0, 0]


def test_no_secret_of_any_client_is_told_to_a_tool_loop() -> None:
    client = Client.fallback([Client("http://a.test", "sk-first-12345"), Client("http://b.test", "sk-second-6789")])
    assert {"sk-first-12345", "sk-second-6789"} <= set(client._secrets())
    assert "12345" not in repr(client)


def test_a_journal_knows_a_question_whoever_answers(tmp_path: Path) -> None:
    journal = tmp_path / "run.sqlite"
    with servers(error_reply(503), saying("ok")) as found:
        a, b = (client_of(server, model=name) for server, name in zip(found, "ab", strict=True))
        client = FallbackClient([a, b])
        for _ in range(2):
            (result,) = client.map(["hi"], journal=journal)
            assert result.text == "ok"
        assert result.from_journal
        assert seen(found) == [1, 1]


def test_many_requests_go_to_whoever_answers(tmp_path: Path) -> None:
    """``map``, ``map_embeddings`` and ``map_file`` of a fallback."""
    vectors = Reply(headers=JSON, body=b'{"data": [{"index": 0, "embedding": [0.5]}], "model": "e"}')
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))

    def serve(request: Request) -> Reply:
        return vectors if request.path.endswith("/embeddings") else chat_reply("fine")

    with ReplayServer([error_reply(503)]) as broken, ReplayServer(serve) as good:
        options: dict[str, Any] = {"model": "m", "max_retries": 0}
        client = Client.fallback([Client(broken.url, **options), (Client(good.url, **options), {"m": "n"})], failures=9)
        assert [result.text for result in client.map(["x"])] == ["fine"]
        assert [list(result.embedding or ()) for result in client.map_embeddings(["x"])] == [[0.5]]
        assert client.map_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl").answered == 1
        assert [request.json()["model"] for request in good.requests] == ["m", "m", "n"]
        assert len(broken.requests) == 3
