"""The policy of tries as a value of the caller's: how many, after how long, and the key that makes them one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_reply

import openai_compat
from openai_compat import Client, InternalServerError

KEY = "Idempotency-Key"
CALLS: dict[str, Callable[[Client], Any]] = {
    "chat": lambda client: client.chat("hi"),
    "stream": lambda client: client.stream("hi").until_done(),
    "embed": lambda client: client.embed("hi"),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def ok(request: Request) -> Reply:
    if request.path.endswith("/embeddings"):
        return Reply(headers={"Content-Type": "application/json"}, body=b'{"data": [{"index": 0, "embedding": [1.0]}]}')
    return stream_reply("ok") if request.json().get("stream") else chat_reply("ok")


def after(*failures: Reply) -> Callable[[Request], Reply]:
    """The failures one by one, then answers."""
    return lambda request: failures[request.number] if request.number < len(failures) else ok(request)


DROPPED = Reply(head=b"", abort="rst")


@each_call
def test_tries_and_pauses_are_the_policys(call: Callable[[Client], Any], pauses: list[float]) -> None:
    retry = openai_compat.RetryPolicy(max_retries=4, first_wait=1.0, longest_wait=3.0)
    with ReplayServer([error_reply(503)]) as server, Client(server.url, model="m", retry=retry) as client:
        with pytest.raises(InternalServerError) as caught:
            call(client)
        assert len(server.requests) == len(caught.value.attempts) == 5
    assert "after 5 tries" in str(caught.value)
    assert [longest / 2 <= pause <= longest for pause, longest in zip(pauses, [1, 2, 3, 3], strict=True)] == [True] * 4


@each_call
def test_all_requests_of_one_call_have_one_key(call: Callable[[Client], Any], pauses: list[float]) -> None:
    """A try after a connection that was lost, and one after a refusal."""
    with ReplayServer(after(DROPPED, error_reply(503))) as server:
        with Client(server.url, model="m") as client:
            call(client)
            call(client)
        keys = [request.headers[KEY] for request in server.requests]
    assert len(keys) == 4
    assert None not in keys
    assert len(set(keys[:3])) == 1
    assert keys[3] not in keys[:3]


@each_call
def test_a_replay_has_the_key_of_its_try(call: Callable[[Client], Any], pauses: list[float]) -> None:
    with ReplayServer(lambda request: DROPPED if request.number == 1 else ok(request)) as server:
        with Client(server.url, model="m", max_retries=0) as client:
            call(client)
            call(client)
        keys = [request.headers[KEY] for request in server.requests]
    assert keys[0]
    assert keys[1] == keys[2] != keys[0]


@each_call
def test_the_key_can_be_left_out(call: Callable[[Client], Any], pauses: list[float]) -> None:
    with ReplayServer(after(DROPPED)) as server:
        with Client(server.url, model="m", retry=openai_compat.RetryPolicy(idempotency_key=False)) as client:
            call(client)
        assert [request.headers[KEY] for request in server.requests] == [None, None]


def test_what_is_only_asked_for_has_no_key() -> None:
    models = Reply(headers={"Content-Type": "application/json"}, body=b'{"data": [{"id": "m"}]}')
    with ReplayServer([models]) as server, Client(server.url) as client:
        client.models()
        assert server.requests[0].headers[KEY] is None


def test_a_hook_hears_of_each_failed_try_before_the_next(pauses: list[float]) -> None:
    heard: list[tuple[int, int, str]] = []
    with ReplayServer(after(error_reply(503, "busy"), DROPPED)) as server:

        def hear(event: Any) -> None:
            heard.append((event.number, len(server.requests), event.attempt.error))

        with Client(server.url, model="m", on_retry=hear) as client:
            answer = client.chat("hi")
    assert [(number, requests) for number, requests, _ in heard] == [(1, 1), (2, 2)]
    assert "busy" in heard[0][2]
    assert [attempt.error for attempt in answer.attempts] == [heard[0][2], heard[1][2], None]
