"""Hooks: who is told of what, when, and in which order; and that nobody who listens can break a call."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.calls import CALLS, kind_of, reply, saying
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_pieces, tool_call

from openai_compat import (
    APIConnectionError,
    BadRequestError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    ErrorEvent,
    Hooks,
    InternalServerError,
    RequestEvent,
    ResponseEvent,
    ResponseTypeError,
    RetryEvent,
    RetryPolicy,
    StreamEvent,
)

each_kind = pytest.mark.parametrize("kind", CALLS)
KEY = "sk-of-the-hooks-1234567890"
STALE = Reply(head=b"", abort="fin")


class Ears:
    """Hears everything, and keeps the invariant: each request is followed by what became of it."""

    def __init__(self, hooks: Hooks) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()
        self.remove = hooks.add(
            on_request=self.hear, on_response=self.hear, on_retry=self.hear, on_event=self.hear, on_error=self.hear
        )

    def hear(self, event: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    @property
    def names(self) -> list[str]:
        """The events in short, those of streams left out."""
        short = {RequestEvent: "request", ResponseEvent: "response", RetryEvent: "retry", ErrorEvent: "error"}
        return [short[type(event)] for event in self.events if not isinstance(event, StreamEvent)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def check(self) -> None:
        """Every request is followed by one event that says what became of it."""
        waiting: set[str] = set()
        for event in self.events:
            if isinstance(event, RequestEvent):
                assert event.call_id not in waiting
                waiting.add(event.call_id)
            elif not isinstance(event, StreamEvent):
                waiting.discard(event.call_id)
        assert not waiting


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


def after(*failures: Reply) -> Callable[[Request], Reply]:
    return lambda request: failures[request.number] if request.number < len(failures) else reply(kind_of(request), "ok")


@contextlib.contextmanager
def asked(replies: Any, **options: Any) -> Iterator[tuple[Client, Ears, ReplayServer]]:
    with ReplayServer(replies) as server, Client(f"{server.url}/v1", KEY, model="m", **options) as client:
        ears = Ears(client.hooks)
        yield client, ears, server
        ears.check()


class TestWhatIsTold:
    @each_kind
    def test_of_a_call_that_succeeds(self, kind: str) -> None:
        with asked(saying("ok")) as (client, ears, server):
            assert CALLS[kind](client) == "ok"
        assert ears.names == ["request", "response"]
        request, response = ears.of(RequestEvent)[0], ears.of(ResponseEvent)[0]
        assert (request.operation, request.model) == ("embeddings" if kind == "embed" else "chat", "m")
        assert (request.number, request.reason, request.provider) == (1, "", "127.0.0.1")
        assert request.request.body == server.requests[0].body
        assert request.body["model"] == "m"
        assert request.call_id == response.call_id
        assert [attempt.error for attempt in response.attempts] == [None]
        assert response.attempts == response.answer.attempts
        assert (response.attempts[0].status, response.left) == (200, False)
        assert ears.threads == {threading.get_ident()}

    @each_kind
    def test_of_further_tries(self, kind: str) -> None:
        policy = RetryPolicy(first_wait=0.001)
        with asked(after(error_reply(503, "busy"), STALE), retry=policy) as (client, ears, server):
            assert CALLS[kind](client) == "ok"
            assert len(server.requests) == 3
        assert ears.names == ["request", "retry", "request", "retry", "request", "response"]
        assert [event.number for event in ears.of(RequestEvent)] == [1, 2, 3]
        assert [event.reason for event in ears.of(RequestEvent)] == ["", "retry", "retry"]
        first, second = ears.of(RetryEvent)
        waits = [attempt.waited for attempt in ears.of(ResponseEvent)[0].attempts]
        assert (waits, first.reason) == ([0.0, first.delay, second.delay], "retry")
        assert (type(first.error), first.attempt.status) == (InternalServerError, 503)
        assert (type(second.error), second.attempt.status) == (APIConnectionError, None)
        assert (first.attempt, second.attempt) == ears.of(ResponseEvent)[0].attempts[:2]

    @each_kind
    def test_of_a_call_that_fails(self, kind: str) -> None:
        with asked([error_reply(503, "busy")], retry=RetryPolicy(max_retries=1, first_wait=0.001)) as (client, ears, _):
            with pytest.raises(InternalServerError) as caught:
                CALLS[kind](client)
        assert ears.names == ["request", "retry", "request", "error"]
        (event,) = ears.of(ErrorEvent)
        assert event.error is caught.value
        assert event.attempts == caught.value.attempts
        assert [attempt.reason for attempt in event.attempts] == ["", "retry"]

    @each_kind
    def test_of_a_replay(self, kind: str) -> None:
        with asked([saying("ok"), STALE, saying("ok")]) as (client, ears, server):
            CALLS[kind](client)
            server.wait_idle()
            CALLS[kind](client)
        assert ears.names == ["request", "response", "request", "retry", "request", "response"]
        assert [event.reason for event in ears.of(RequestEvent)] == ["", "", "replay"]
        assert [(event.reason, event.delay) for event in ears.of(RetryEvent)] == [("replay", 0.0)]

    def test_of_what_a_refusal_teaches(self) -> None:
        refused = error_reply(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        with asked([refused, chat_reply("ok")]) as (client, ears, server):
            answer = client.chat("hi", max_tokens=5)
            assert len(server.requests) == 2
        assert ears.names == ["request", "retry", "request", "response"]
        assert [event.reason for event in ears.of(RequestEvent)] == ["", "adapted"]
        asked_for = [{name for name in event.body if name.startswith("max_")} for event in ears.of(RequestEvent)]
        assert asked_for == [{"max_tokens"}, {"max_completion_tokens"}]
        assert [(a.number, a.reason, a.status) for a in answer.attempts] == [(1, "", 400), (1, "adapted", 200)]

    def test_of_the_root_where_v1_is_not_found(self) -> None:
        def replies(request: Request) -> Reply:
            return error_reply(404) if request.path.startswith("/v1") else chat_reply("ok")

        with ReplayServer(replies) as server, Client(server.url, model="m") as client:
            ears = Ears(client.hooks)
            answer = client.chat("hi")
        assert [event.request.url.removeprefix(server.url) for event in ears.of(RequestEvent)] == [
            "/v1/chat/completions",
            "/chat/completions",
        ]
        assert [attempt.reason for attempt in answer.attempts] == ["", "root"]
        ears.check()

    def test_of_models(self) -> None:
        with asked([Reply(headers=JSON, body=b'{"data": [{"id": "a"}]}')]) as (client, ears, _):
            models = client.models()
        assert [event.operation for event in ears.events] == ["models", "models"]
        assert ears.of(ResponseEvent)[0].answer == models

    def test_of_each_event_of_a_stream_before_its_reader(self) -> None:
        order: list[str] = []
        with asked(saying("ab")) as (client, ears, _):
            client.hooks.add(on_event=lambda event: order.append(f"hook {event.kind}"))
            for event in client.stream("hi"):
                order.append(f"read {event.kind}")
        heard = [event.kind for event in ears.of(StreamEvent)]
        assert heard[:2] == ["text", "text"]
        assert heard[-1] == "done"
        assert order == [word for kind in heard for word in (f"hook {kind}", f"read {kind}")]

    def test_of_an_answer_of_another_type(self) -> None:
        with asked([chat_reply("no number")]) as (client, ears, _), pytest.raises(ResponseTypeError):
            client.chat("hi", response_type=int)
        assert ears.names == ["request", "error"]

    def test_of_a_refusal_before_anything_was_sent(self) -> None:
        with asked([chat_reply("ok")]) as (client, ears, server):
            with pytest.raises(ConfigurationError):
                client.chat("hi", temperature=float("nan"))
            assert server.requests == []
        assert ears.events == []


def half_a_stream(request: Request) -> Reply:
    def pieces() -> Iterator[bytes]:
        yield stream_pieces("a")[0]
        request.closed.wait(10)

    return Reply(headers=EVENT_STREAM, body=pieces())


class TestStreamsThatAreLetGo:
    @pytest.mark.parametrize("how", ["closed", "dropped", "cancelled"])
    def test_have_an_answer_as_far_as_it_came(self, how: str) -> None:
        with asked(half_a_stream) as (client, ears, server):
            stream = client.stream("hi")
            assert next(stream).delta == "a"
            if how == "closed":
                stream.close()
            elif how == "dropped":
                del stream
                gc.collect()
            else:
                stream.cancel()
                assert stream.until_done().truncated
            assert server.requests[0].closed.wait(10)
        assert ears.names == ["request", "response"]
        (event,) = ears.of(ResponseEvent)
        assert (event.left, event.answer.text, event.answer.truncated) == (True, "a", True)

    def test_are_cancelled_by_a_token(self) -> None:
        token = CancelToken()
        with asked(half_a_stream) as (client, ears, _):
            stream = client.stream("hi", cancel=token)
            next(stream)
            token.cancel()
            with pytest.raises(Cancelled) as caught:
                stream.until_done()
        (event,) = ears.of(ErrorEvent)
        assert event.error is caught.value
        assert caught.value.partial is not None
        assert caught.value.partial.text == "a"

    def test_that_were_never_begun_are_no_calls(self) -> None:
        with asked(half_a_stream) as (client, ears, server):
            client.stream("hi").close()
            assert server.requests == []
        assert ears.events == []

    def test_by_a_sink_that_raises(self) -> None:
        def sink(event: StreamEvent) -> None:
            raise ZeroDivisionError

        with asked(half_a_stream) as (client, ears, _), pytest.raises(ZeroDivisionError):
            client.chat("hi", sink=sink)
        assert ears.names == ["request", "response"]


class TestEveryWay:
    def test_of_asking_is_heard(self) -> None:
        with asked(saying("ok")) as (client, ears, _):
            client.chat("hi")
            client.chat("hi", sink=lambda event: None)
            client.submit("hi").result(20)
            assert len(list(client.map(["a", "b", "c"], workers=2))) == 3
            client.conversation().say("hi")
            client.embed(["a"], encoding_format="float")
            client.map_embeddings(["a"], encoding_format="float").to_array()
        assert sorted(ears.names) == ["request"] * 9 + ["response"] * 9
        assert len({event.call_id for event in ears.of(RequestEvent)}) == 9

    def test_through_a_session_is_heard(self) -> None:
        requests = pytest.importorskip("requests")
        with asked([error_reply(503), chat_reply("ok")], session=requests.Session()) as (client, ears, _):
            client.hooks.add()
            client.chat("hi", timeout=30)
        assert ears.names == ["request", "retry", "request", "response"]

    def test_of_a_tool_loop_is_heard_round_by_round(self) -> None:
        def add(a: int, b: int) -> int:
            return a + b

        with asked([chat_reply(None, tool_calls=[tool_call("add", '{"a": 1, "b": 2}')]), chat_reply("3")]) as (
            client,
            ears,
            _,
        ):
            assert client.run_tools("1 + 2?", tools=[add]).text == "3"
        assert ears.names == ["request", "response"] * 2


class TestFallback:
    @each_kind
    def test_an_endpoint_that_fails_is_a_retry_of_the_whole(self, kind: str) -> None:
        with ReplayServer([error_reply(503, "down")]) as down, ReplayServer(saying("ok")) as up:
            first = Client(f"{down.url}/v1", model="m", provider="first")
            second = Client(f"{up.url}/v1", model="m", provider="second")
            client = Client.fallback([first, second])
            whole, part = Ears(client.hooks), Ears(first.hooks)
            assert CALLS[kind](client) == "ok"
            whole.check()
            part.check()
            client.close()
        assert whole.names == ["request", "retry", "request", "response"]
        assert [event.provider for event in whole.of(RequestEvent)] == ["first", "second"]
        (retry,) = whole.of(RetryEvent)
        assert (retry.reason, retry.provider, retry.attempt.status) == ("fallback", "first", 503)
        assert [a.reason for a in whole.of(ResponseEvent)[0].answer.attempts] == ["", "fallback"]
        assert part.names == ["request", "error"]
        if kind == "stream":
            assert [event.kind for event in whole.of(StreamEvent)][-1] == "done"

    @each_kind
    def test_where_all_fail_there_is_one_error(self, kind: str, pauses: list[float]) -> None:
        with ReplayServer([error_reply(503, "down")]) as down:
            members = [Client(f"{down.url}/v1", model="m", max_retries=0) for _ in range(2)]
            client = Client.fallback([*members])
            ears = Ears(client.hooks)
            with pytest.raises(InternalServerError) as caught:
                CALLS[kind](client)
            ears.check()
            client.close()
        assert ears.names[-1] == "error"
        assert ears.names.count("error") == 1
        assert ears.of(ErrorEvent)[0].error is caught.value

    @each_kind
    def test_what_is_no_fault_of_an_endpoint_is_an_error_at_once(self, kind: str) -> None:
        with ReplayServer([error_reply(400, "no")]) as server:
            client = Client.fallback([Client(f"{server.url}/v1", model="m"), Client(f"{server.url}/v1", model="m")])
            ears = Ears(client.hooks)
            with pytest.raises(BadRequestError):
                CALLS[kind](client)
            client.close()
        assert ears.names == ["request", "error"]

    def test_where_nobody_is_left_to_ask_there_is_an_error(self) -> None:
        token = CancelToken()
        with ReplayServer([error_reply(503)]) as server:
            client = Client.fallback([Client(f"{server.url}/v1", model="m", max_retries=0)], cool_down=60)
            ears = Ears(client.hooks)
            for _ in range(4):
                with pytest.raises(InternalServerError):
                    client.chat("hi")
            token.cancel()
            with pytest.raises(Cancelled):
                client.chat("hi", cancel=token)
            ears.check()
            client.close()
        assert ears.names.count("error") == 5

    def test_a_cancelled_stream_is_an_error(self) -> None:
        token = CancelToken()
        with ReplayServer(half_a_stream) as server:
            client = Client.fallback([Client(f"{server.url}/v1", model="m")])
            ears = Ears(client.hooks)
            stream = client.stream("hi", cancel=token)
            next(stream)
            token.cancel()
            with pytest.raises(Cancelled):
                stream.until_done()
            client.close()
        assert ears.names == ["request", "error"]


class TestListeners:
    def test_are_given_added_and_removed(self) -> None:
        heard: list[str] = []

        def first(event: Any) -> None:
            heard.append("first")

        def second(event: Any) -> None:
            heard.append("second")

        def third(event: Any) -> None:
            heard.append("third")

        with ReplayServer(saying("ok")) as server:
            with Client(server.url, model="m", on_request=[first, second], on_response=first) as client:
                remove = client.hooks.add(on_request=third, on_response=[third])
                client.chat("hi")
                assert heard == ["first", "second", "third", "first", "third"]
                remove()
                client.hooks.remove(first)
                client.hooks.remove(first)
                heard.clear()
                client.chat("hi")
                assert heard == ["second"]
                assert repr(client.hooks) == "Hooks(on_request=1)"

    def test_what_was_removed_is_removed_once(self) -> None:
        def listener(event: Any) -> None: ...

        hooks = Hooks()
        remove = hooks.add(on_request=listener)
        hooks.add(on_request=listener)
        remove()
        remove()
        assert hooks.on_request == (listener,)

    def test_one_that_raises_breaks_nothing_and_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(event: Any) -> None:
            raise ZeroDivisionError("mine")

        hooks = dict.fromkeys(("on_request", "on_response", "on_retry", "on_event", "on_error"), broken)
        with ReplayServer([error_reply(503, headers={"Retry-After": "0.01"}), *[saying("ok")] * 3]) as server:
            with Client(server.url, model="m", **hooks) as client:  # type: ignore[arg-type]
                assert client.stream("hi").until_done().text == "ok"
                assert client.chat("hi").text == "ok"
        (record,) = [record for record in caplog.records if record.name == "openai_compat.hooks"]
        assert "broken failed; the call goes on" in record.getMessage()
        assert record.exc_info is not None

    def test_one_that_raised_is_let_go_once_it_is_removed(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL, "openai_compat.hooks")  # a record holds the traceback

        def broken(event: Any) -> None:
            raise ZeroDivisionError("mine")

        with ReplayServer(saying("ok")) as server, Client(server.url, model="m") as client:
            remove = client.hooks.add(on_request=broken)
            client.chat("hi")
            remove()
            gone = weakref.ref(broken)
            del broken, remove
            gc.collect()
            assert gone() is None

    @pytest.mark.parametrize("hook", ["on_request", "on_response", "on_event", "on_error"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_ends_a_program_passes(self, hook: str, error: type[BaseException]) -> None:
        def stop(event: Any) -> None:
            raise error

        replies = [error_reply(400)] if hook == "on_error" else saying("ok")
        with ReplayServer(replies) as server, Client(server.url, model="m") as client:
            client.hooks.add(**{hook: stop})
            with pytest.raises(error):
                client.stream("hi").until_done()

    @pytest.mark.parametrize("hook", ["on_response", "on_retry", "on_error"])
    def test_what_ends_a_program_is_no_reason_not_to_tell_the_others(self, hook: str) -> None:
        def stop(event: Any) -> None:
            raise KeyboardInterrupt

        replies = saying("ok") if hook == "on_response" else [error_reply(503)]
        retries = 1 if hook == "on_retry" else 0
        with ReplayServer(replies) as server, Client(server.url, model="m", max_retries=retries) as client:
            client.hooks.add(**{hook: stop})  # type: ignore[arg-type]
            ears = Ears(client.hooks)
            with pytest.raises(KeyboardInterrupt):
                client.chat("hi")
        ears.check()
        assert hook.removeprefix("on_") in ears.names

    def test_what_a_signal_raises_in_one_passes(self) -> None:
        class TimeLimitError(Exception):
            pass

        def limit(number: int, frame: object) -> None:
            raise TimeLimitError

        def slow(event: Any) -> None:
            signal.raise_signal(signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, limit)
        try:
            with ReplayServer(saying("ok")) as server, Client(server.url, model="m", on_request=slow) as client:
                with pytest.raises(TimeLimitError):
                    client.chat("hi")
                assert server.requests == []
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_a_request_may_be_sent_in_a_context(self) -> None:
        order: list[str] = []

        @contextlib.contextmanager
        def around() -> Iterator[None]:
            order.append("in")
            yield
            order.append("out")

        def serve(request: Request) -> Reply:
            order.append("served")
            return chat_reply("ok")

        with ReplayServer(serve) as server, Client(server.url, model="m", on_request=lambda event: around()) as client:
            client.hooks.add(on_response=lambda event: order.append("response"))
            client.chat("hi")
        assert order == ["in", "served", "out", "response"]

    def test_a_context_that_is_interrupted_leaves_the_others_too(self) -> None:
        left: list[str] = []

        @contextlib.contextmanager
        def around(name: str) -> Iterator[None]:
            yield
            left.append(name)
            raise KeyboardInterrupt(name)

        around_all = [lambda event, name=name: around(name) for name in "ab"]
        with ReplayServer(saying("ok")) as server, Client(server.url, model="m", on_request=around_all) as client:
            with pytest.raises(KeyboardInterrupt):
                client.chat("hi")
        assert left == ["b", "a"]

    @pytest.mark.parametrize("where", ["__enter__", "__exit__"])
    def test_a_context_that_raises_breaks_nothing(self, where: str, caplog: pytest.LogCaptureFixture) -> None:
        order: list[str] = []

        class Around:
            def __init__(self, name: str) -> None:
                self.name = name

            def __enter__(self) -> None:
                order.append(f"{self.name} in")
                self.fail("__enter__")

            def __exit__(self, *told: object) -> None:
                order.append(f"{self.name} out")
                self.fail("__exit__")

            def fail(self, here: str) -> None:
                if self.name == "broken" and here == where:
                    raise ZeroDivisionError

        hooks = [lambda event: Around("good"), lambda event: Around("broken"), lambda event: Around("last")]
        with ReplayServer(saying("ok")) as server, Client(server.url, model="m", on_request=hooks) as client:
            assert client.chat("hi").text == "ok"
            assert client.chat("hi").text == "ok"
        broken_out = ["broken out"] if where == "__exit__" else []
        assert order == [*("good in", "broken in", "last in", "last out"), *broken_out, "good out"] * 2
        assert [record.name for record in caplog.records] == ["openai_compat.hooks"]

    def test_a_watcher_that_raises_breaks_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(about: Any) -> Any:
            raise ZeroDivisionError

        with ReplayServer(saying("ok")) as server, Client(server.url, model="m") as client:
            client.hooks.add(watch_loop=broken, watch_tool=broken)
            assert client.conversation().say("hi").text == "ok"
        assert [record.name for record in caplog.records] == ["openai_compat.hooks"]

    @pytest.mark.parametrize("wrong", [3, "print", [print, None]])
    def test_what_is_no_function_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match="on_error is a function, or several"):
            Client("http://localhost:1", on_error=wrong)

    def test_a_coroutine_function_is_refused(self) -> None:
        async def hear(event: Any) -> None: ...

        with pytest.raises(ConfigurationError, match="nothing would await"):
            Client("http://localhost:1", on_request=hear)

    def test_a_copy_has_the_same_and_goes_its_own_way(self) -> None:
        client = Client("http://localhost:1", on_request=print)
        client.hooks.add(on_error=print)
        for twin in (copy.copy(client), copy.deepcopy(client)):
            assert repr(twin.hooks) == "Hooks(on_request=1, on_error=1)"
            twin.hooks.add(on_event=print)
        assert not client.hooks.on_event
        fallback = Client.fallback([client])
        fallback.hooks.add(on_error=print)
        assert copy.copy(fallback).hooks.on_error == (print,)

    def test_a_pickle_has_those_it_was_made_with(self) -> None:
        client = Client("http://localhost:1", on_request=print)
        client.hooks.add(on_error=lambda event: None)
        assert repr(pickle.loads(pickle.dumps(client)).hooks) == "Hooks(on_request=1)"


class TestWithoutAny:
    def test_a_stream_is_read_without_a_step_in_between(self) -> None:
        with ReplayServer(saying("ab")) as server, Client(server.url, model="m") as client:
            stream = client.stream("hi")
            assert stream._events.gi_code.co_name == "run"
            client.hooks.add(on_event=print)
            assert client.stream("hi")._events.gi_code.co_name == "_told_events"
            stream.close()

    def test_no_event_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def made(*args: Any, **fields: Any) -> None:
            raise AssertionError("an event that nobody hears")

        for name in ("RequestEvent", "ResponseEvent", "RetryEvent", "ErrorEvent"):
            monkeypatch.setattr(f"openai_compat.hook_events.{name}", made)
        with ReplayServer(saying("ok")) as server, Client(server.url, model="m") as client:
            for call in CALLS.values():
                assert call(client) == "ok"


class TestLog:
    def test_has_fields(self, caplog: pytest.LogCaptureFixture, pauses: list[float]) -> None:
        with caplog.at_level(logging.DEBUG, "openai_compat"):
            with ReplayServer([error_reply(503, "busy"), chat_reply("ok")]) as server:
                with Client(f"{server.url}/v1", KEY, model="m") as client:
                    client.chat("hi")
        lines: list[Any] = [record for record in caplog.records if record.name == "openai_compat.transport"]
        assert [record.levelname for record in lines] == ["DEBUG", "INFO", "DEBUG", "DEBUG"]
        sent, again, _, answered = lines
        assert sent.getMessage().startswith(f"POST {server.url}/v1/chat/completions, ")
        assert len({record.call_id for record in lines}) == 1
        assert {(record.provider, record.model, record.operation) for record in lines} == {("127.0.0.1", "m", "chat")}
        assert [record.attempt for record in lines] == [1, 1, 2, 2]
        assert (again.status, again.delay, "busy" in again.error) == (503, pauses[0], True)
        assert (answered.status, answered.finish_reason, answered.origin) == (200, "stop", f"{server.url}/v1")
        assert KEY not in caplog.text

    def test_of_a_call_that_fails_names_the_error(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "openai_compat"), ReplayServer([error_reply(400, "no")]) as server:
            with Client(server.url, model="m") as client, pytest.raises(BadRequestError):
                client.chat("hi")
        last: Any = caplog.records[-1]
        assert (last.error_type, last.status) == ("BadRequestError", 400)
        assert "no" in last.error

    def test_has_fields_that_forge_no_line_either(self, caplog: pytest.LogCaptureFixture) -> None:
        headers = {"X-Request-Id": "id\x1b[2J"}
        with (
            caplog.at_level(logging.DEBUG, "openai_compat"),
            ReplayServer([error_reply(400, headers=headers)]) as server,
        ):
            with Client(server.url, model="m\n2026 INFO all is well") as client, pytest.raises(BadRequestError):
                client.chat("hi")
        last: Any = caplog.records[-1]
        assert (last.model, last.request_id) == ("m 2026 INFO all is well", "id[2J")


@pytest.mark.process
class TestLogByEnvironment:
    """``OPENAI_COMPAT_LOG`` is read when the first client of a process is made."""

    def log(self, value: str, program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENAI_COMPAT_LOG": value},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stderr

    @pytest.mark.parametrize(
        ("value", "levels"), [("debug", {"DEBUG", "INFO"}), ("INFO", {"INFO"}), ("error", set()), ("", set())]
    )
    def test_says_what_is_logged(self, value: str, levels: set[str]) -> None:
        with ReplayServer([error_reply(503, headers={"Retry-After": "0.01"}), chat_reply("ok")]) as server:
            ask = f"from openai_compat import Client; Client({server.url!r}, {KEY!r}, model='m').chat('hi')"
            lines = self.log(value, ask).splitlines()
        assert {line.split()[2] for line in lines} == levels
        assert all(" openai_compat.transport: " in line for line in lines)
        assert not any(KEY in line for line in lines)

    def test_leaves_the_programs_own_handlers_alone(self) -> None:
        make = "import logging; logging.basicConfig(format='mine: %(message)s'); "
        make += "from openai_compat import Client; Client('http://localhost:1'); Client('http://localhost:1'); "
        told = self.log("debug", make + "logging.getLogger('openai_compat').debug('once')")
        assert told == "mine: once\n"

    def test_says_nothing_twice_where_handlers_come_later(self) -> None:
        later = "import logging; from openai_compat import Client; Client('http://localhost:1'); "
        later += (
            "logging.basicConfig(format='mine: %(message)s'); logging.getLogger('openai_compat.transport').info('once')"
        )
        assert self.log("debug", later) == "mine: once\n"

    def test_tells_of_a_word_that_it_does_not_know(self) -> None:
        told = self.log("loud", "from openai_compat import Client; Client('http://localhost:1')")
        assert told == "OPENAI_COMPAT_LOG is debug, info, warning or error, not 'loud'\n"
