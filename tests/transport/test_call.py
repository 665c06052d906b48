"""What may be sent again: tries, replays, their record, and one key for all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_reply

from openai_compat import (
    APIConnectionError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    Client,
    InternalServerError,
    RetryEvent,
    RetryPolicy,
    Timeout,
)
from openai_compat.timeouts import Deadline
from openai_compat.transport import Call

CALLS: dict[str, Callable[..., Any]] = {
    "chat": lambda client, **options: client.chat("hi", **options),
    "stream": lambda client, **options: client.stream("hi", **options).until_done(),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def ok(request: Request) -> Reply:
    return stream_reply("ok") if request.json().get("stream") else chat_reply("ok")


def after(*failures: Reply) -> Callable[[Request], Reply]:
    return lambda request: failures[request.number] if request.number < len(failures) else ok(request)


STALE = Reply(head=b"", abort="fin")


class TestTries:
    @each_call
    @pytest.mark.parametrize("retries", [0, 1, 4])
    def test_are_as_many_as_the_policy_says(self, call: Any, retries: int, pauses: list[float]) -> None:
        with ReplayServer([error_reply(503, "busy")]) as server:
            client = Client(f"{server.url}/v1", model="m", retry=RetryPolicy(max_retries=retries))
            with pytest.raises(InternalServerError) as caught:
                call(client)
            client.close()
        assert (len(server.requests), len(pauses)) == (1 + retries, retries)
        attempts = caught.value.attempts
        assert [attempt.number for attempt in attempts] == list(range(1, retries + 2))
        assert [attempt.waited for attempt in attempts] == [0.0, *pauses]
        assert all("busy" in str(attempt.error) for attempt in attempts)
        assert (f"(after {retries + 1} tries)" in str(caught.value)) is (retries > 0)

    @each_call
    def test_of_a_call_that_succeeds_stand_in_its_answer(
        self, call: Any, pauses: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[RetryEvent] = []
        with caplog.at_level(logging.INFO, "openai_compat"), ReplayServer(after(error_reply(500, "one"))) as server:
            with Client(f"{server.url}/v1", model="m", on_retry=heard.append) as client:
                answer = call(client)
        first, second = answer.attempts
        assert (first.number, first.waited, second.number, second.error) == (1, 0.0, 2, None)
        assert ("one" in first.error, second.waited) == (True, pauses[0])
        assert [(event.attempt, event.reason, event.delay) for event in heard] == [(first, "retry", pauses[0])]
        assert 0 <= first.started <= first.started + first.seconds <= second.started
        (line,) = [record.message for record in caplog.records if record.levelno == logging.INFO]
        assert line == f"try 2 of 3 in {pauses[0]:.1f} s, after: {first.error}"

    def test_without_any_pause(self) -> None:
        policy = RetryPolicy(max_retries=3, first_wait=0, longest_wait=0)
        with ReplayServer(after(*[error_reply(500)] * 3)) as server:
            with Client(f"{server.url}/v1", model="m", retry=policy) as client:
                assert len(client.chat("hi").attempts) == 4

    @each_call
    def test_end_where_the_hook_is_interrupted(self, call: Any, pauses: list[float]) -> None:
        class StopError(BaseException):
            pass

        def stop(event: RetryEvent) -> None:
            raise StopError

        with ReplayServer([error_reply(503)]) as server:
            with Client(f"{server.url}/v1", model="m", on_retry=stop) as client, pytest.raises(StopError):
                call(client)
        assert (len(server.requests), pauses) == (1, [])

    @each_call
    def test_end_where_the_total_would_be_over_before_the_next(self, call: Any, pauses: list[float]) -> None:
        with ReplayServer([error_reply(503, "busy", {"Retry-After": "60"})]) as server:
            with Client(f"{server.url}/v1", model="m", timeout=Timeout(total=30)) as client:
                with pytest.raises(APITimeoutError, match="no time is left") as caught:
                    call(client)
        assert (caught.value.phase, len(caught.value.attempts), len(server.requests), pauses) == ("total", 1, 1, [])
        assert "busy" in str(caught.value.__cause__)
        assert caught.value.provider

    @each_call
    def test_that_were_made_are_told_when_a_wait_is_cancelled(self, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        token = CancelToken()

        def cancelled_meanwhile(waiting: CancelToken, seconds: float) -> bool:
            token.cancel()
            return True

        monkeypatch.setattr(CancelToken, "wait", cancelled_meanwhile)
        with ReplayServer([error_reply(503, "busy")]) as server, Client(f"{server.url}/v1", model="m") as client:
            with pytest.raises(Cancelled) as caught:
                call(client, cancel=token)
        (attempt,) = caught.value.attempts
        assert "busy" in str(attempt.error)
        assert len(server.requests) == 1

    def test_none_is_made_after_the_cancelling(self) -> None:
        token = CancelToken()
        token.cancel()
        call = Call(Deadline(Timeout(), token), RetryPolicy())
        with pytest.raises(Cancelled) as caught:
            call.run(lambda: pytest.fail("called"))
        assert caught.value.attempts == ()

    def test_what_is_no_error_of_a_server_is_not_one(self) -> None:
        calls: list[int] = []

        def fail() -> None:
            calls.append(1)
            raise ValueError("yours")

        with pytest.raises(ValueError, match="yours"):
            Call(Deadline(Timeout()), RetryPolicy()).run(fail)
        assert calls == [1]


class TestReplays:
    def test_are_one_a_try(self) -> None:
        call = Call(Deadline(Timeout()), RetryPolicy())
        for _ in range(2):
            call.begin()
            assert [call.replay(ConnectionResetError()) for _ in range(3)] == [True, False, False]
        assert len(call.attempts) == 2

    @each_call
    @pytest.mark.parametrize("abort", ["fin", "rst"])
    def test_a_kept_connection_is_replaced_once_a_try(
        self, call: Any, abort: Any, pauses: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[RetryEvent] = []
        stale = Reply(head=b"", abort=abort)
        with caplog.at_level(logging.INFO, "openai_compat"), ReplayServer([ok, stale, ok]) as server:
            with Client(f"{server.url}/v1", model="m", max_retries=0, on_retry=heard.append) as client:
                call(client)
                server.wait_idle()
                answer = call(client)
        assert (len(server.requests), server.connections, pauses) == (3, 2, [])
        first, second = answer.attempts
        assert [(a.number, a.replay, a.waited) for a in (first, second)] == [(1, False, 0.0), (1, True, 0.0)]
        assert ("the kept connection was closed" in first.error, second.error) == (True, None)
        assert [(event.attempt, event.reason, event.delay) for event in heard] == [(first, "replay", 0.0)]
        assert [r.message for r in caplog.records if "sent again over a new connection" in r.message]

    @each_call
    def test_the_replay_is_not_replayed(self, call: Any, pauses: list[float]) -> None:
        with ReplayServer([ok, STALE, STALE, ok]) as server:
            with Client(f"{server.url}/v1", model="m", max_retries=0) as client:
                call(client)
                server.wait_idle()
                with pytest.raises(APIConnectionError) as caught:
                    call(client)
        assert (len(server.requests), pauses) == (3, [])
        assert [(a.number, a.replay) for a in caught.value.attempts] == [(1, False), (1, True)]

    @each_call
    def test_a_fresh_connection_is_not_replayed(self, call: Any, pauses: list[float]) -> None:
        with ReplayServer([STALE]) as server:
            with Client(f"{server.url}/v1", model="m", max_retries=0) as client, pytest.raises(APIConnectionError):
                call(client)
        assert (len(server.requests), pauses) == (1, [])

    @each_call
    def test_nor_one_that_breaks_long_after_sending(
        self, call: Any, pauses: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server may have been at work on it."""
        monkeypatch.setattr("openai_compat.transport.transport.STALE_WITHIN", 0.0)
        with ReplayServer([ok, Reply(head=b"", abort="rst"), ok]) as server:
            with Client(f"{server.url}/v1", model="m", max_retries=0) as client:
                call(client)
                server.wait_idle()
                with pytest.raises(APIConnectionError) as caught:
                    call(client)
        assert (len(server.requests), len(caught.value.attempts)) == (2, 1)

    @each_call
    @pytest.mark.parametrize("came", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
    def test_nor_one_on_which_anything_came_back(self, call: Any, came: bytes, pauses: list[float]) -> None:
        with ReplayServer([ok, Reply(head=came, abort="rst"), ok]) as server:
            with Client(f"{server.url}/v1", model="m", max_retries=0) as client:
                call(client)
                server.wait_idle()
                with pytest.raises(APIConnectionError) as caught:
                    call(client)
        assert (len(server.requests), len(caught.value.attempts)) == (2, 1)

    @each_call
    def test_end_where_the_hook_is_interrupted(self, call: Any, pauses: list[float]) -> None:
        class StopError(BaseException):
            pass

        def stop(event: RetryEvent) -> None:
            raise StopError

        with ReplayServer([ok, STALE, ok]) as server:
            with Client(f"{server.url}/v1", model="m", on_retry=stop) as client:
                call(client)
                server.wait_idle()
                with pytest.raises(StopError):
                    call(client)
        assert (len(server.requests), pauses) == (2, [])


class TestIdempotencyKey:
    def keys(self, server: ReplayServer) -> list[list[str]]:
        return [request.headers.get_all("Idempotency-Key", []) for request in server.requests]

    @each_call
    def test_is_one_for_all_tries_and_replays_of_a_call(self, call: Any, pauses: list[float]) -> None:
        with ReplayServer([ok, STALE, error_reply(503), ok]) as server:
            with Client(f"{server.url}/v1", model="m") as client:
                call(client)
                server.wait_idle()
                call(client)
        (first,), *others = self.keys(server)
        assert len(others) == 3
        assert others[0] == others[1] == others[2] != [first]
        assert len(first) >= 32

    def test_can_be_turned_off(self) -> None:
        with ReplayServer([chat_reply()]) as server:
            with Client(server.url, model="m", retry=RetryPolicy(idempotency_key=False)) as client:
                client.chat("hi")
        assert self.keys(server) == [[]]

    def test_is_for_calls_that_do_something(self) -> None:
        with ReplayServer([Reply(headers=JSON, body=b'{"data": []}')]) as server, Client(server.url) as client:
            client.models()
        assert self.keys(server) == [[]]

    @pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-key"])
    def test_of_the_users_own_wins(self, name: str) -> None:
        with ReplayServer([chat_reply()]) as server:
            with Client(server.url, model="m", headers={name: "mine"}) as client:
                client.chat("hi")
        assert self.keys(server) == [["mine"]]
