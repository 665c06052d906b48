"""The fake server, asked by clients of this library."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Client,
    ConfigurationError,
    InternalServerError,
    Message,
    NotFoundError,
    RateLimitError,
    ResponseParseError,
    StreamInterruptedError,
    Timeout,
    Usage,
    tool,
)
from openai_compat.testing import (
    AskedRequest,
    FakeClock,
    FakeServer,
    RateLimit,
    UnscriptedRequestError,
    answer,
    error,
    fault,
    raw_reply,
    stream_of,
    tool_call,
    vectors,
)


def texts(client: Client, prompt: str = "hi", **options: Any) -> list[str]:
    """The pieces of a streamed answer."""
    pieces: list[str] = []
    client.chat(prompt, sink=lambda event: event.delta and pieces.append(event.delta), **options)
    return pieces


def test_answers_are_given_in_order_streamed_or_not() -> None:
    with FakeServer("one", answer("two words"), "three") as server, server.client() as client:
        assert client.chat("a").text == "one"
        assert texts(client) == ["two", " words"]
        assert client.chat("b", model="other").model == "other"
        assert [request.streamed for request in server.requests] == [False, True, False]
        server.assert_all_used()


def test_several_are_added_at_once() -> None:
    with FakeServer() as server, server.client() as client:
        server.add("of a", "of a too", last="a")
        server.add("of b", error(400), last="b", times=2)
        assert [client.chat(prompt).text for prompt in "baba"] == ["of b", "of a", "of b", "of a too"]
        with pytest.raises(BadRequestError):
            client.chat("b")


@pytest.mark.parametrize("nothing", [object(), dict, {"at": threading.Lock()}], ids=["object", "class", "lock"])
def test_what_is_no_reply_is_told_where_it_is_added(nothing: Any) -> None:
    with FakeServer() as server, pytest.raises(TypeError, match="no JSON form"):
        server.add(nothing)


def test_a_function_that_returns_no_reply_is_told() -> None:
    with (
        pytest.raises(UnscriptedRequestError, match="object has no JSON form"),
        FakeServer(lambda _: object()) as server,
    ):
        with pytest.raises(BadRequestError, match="object has no JSON form"):
            server.client().chat("hi")


@pytest.mark.parametrize("options", [{"models": "gpt"}, {"dimensions": 0}, {"dimensions": -1}], ids=str)
def test_a_server_of_no_use_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FakeServer(**options)


def test_a_function_is_for_chats_if_not_said_otherwise() -> None:
    with FakeServer(lambda request: request.prompt.upper()) as server, server.client() as client:
        assert client.embed("a").dims == 8
        assert client.chat("a").text == "A"
        server.add(lambda request: vectors([1, 0]), kind="embeddings")
        assert list(client.embed("a").embedding) == [1, 0]


def test_the_first_that_fits_and_is_not_used_up_answers() -> None:
    with FakeServer() as server, server.client() as client:
        server.add("a city", last=re.compile(r"capital of \w+"))
        server.add("a model", model="big")
        server.add("twice", when=lambda request: request.system == "Be brief.", times=2)
        server.add("always", times=None)
        assert client.chat("The capital of France?").text == "a city"
        assert client.chat("The capital of Spain?").text == "always"
        assert client.chat("hi", model="big").text == "a model"
        brief: dict[str, Any] = {"system": "Be brief."}
        assert [client.chat("hi", **brief).text for _ in range(3)] == ["twice", "twice", "always"]


def test_a_function_of_the_request_answers() -> None:
    def echo(request: AskedRequest) -> str:
        return f"{request.model}: {request.prompt}"

    with FakeServer() as server, server.client() as client:
        server.add(echo, times=None)
        assert [client.chat(text).text for text in "ab"] == ["fake-model: a", "fake-model: b"]


def test_pieces_are_as_they_are_asked_for() -> None:
    with FakeServer(answer("abcdef", chunk_size=4), stream_of("a", "", "b c")) as server, server.client() as client:
        assert texts(client) == ["abcd", "ef"]
        assert texts(client) == ["a", "b c"]


def test_tools_are_called_in_parallel_and_their_results_are_seen() -> None:
    @tool
    def weather(city: str) -> str:
        """The weather."""
        return f"rain in {city}"

    calls = [tool_call("weather", city="Oslo"), tool_call("weather", {"city": "Rome"}, id="mine")]
    for streamed in (False, True):
        with FakeServer(answer("Look:", tool_calls=calls), "It rains.") as server, server.client() as client:
            sink = (lambda event: None) if streamed else None
            assert client.run_tools("Weather?", tools=[weather], sink=sink).text == "It rains."
            first, second = server.requests
            assert (first.tool_names, first.tools[0].description) == (("weather",), "The weather.")
            asking, *results = second.messages[1:]
            assert [result.content for result in results] == ["rain in Oslo", "rain in Rome"]
            assert [result.tool_call_id for result in results] == [call.id for call in asking.tool_calls]
            assert asking.tool_calls[1].id == "mine"
            assert second.prompt == "rain in Rome"


def test_ids_of_calls_are_never_the_same() -> None:
    with FakeServer() as server, server.client() as client:
        server.add(answer(tool_calls=[tool_call("f"), tool_call("f")]), times=None)
        ids = [call.id for _ in range(2) for call in client.chat("hi").tool_calls]
        assert len(set(ids)) == 4


def test_broken_arguments_are_sent_as_they_are() -> None:
    with FakeServer() as server, server.client() as client:
        server.add(answer(tool_calls=[tool_call("f", '{"x": ')]), times=2)
        for sink in (None, lambda event: None):
            (call,) = client.chat("hi", sink=sink).tool_calls
            assert (call.arguments_json, call.invalid) == ('{"x": ', True)


@attrs.frozen
class Person:
    name: str
    age: int


def test_values_are_structured_output() -> None:
    with FakeServer(Person("Alice", 30), {"name": "Bob", "age": 4}) as server, server.client() as client:
        assert client.chat("who?", response_type=Person).parsed == Person("Alice", 30)
        assert client.chat("who?", response_type=Person, sink=lambda event: None).parsed == Person("Bob", 4)
        schema = server.requests[0].body["response_format"]["json_schema"]["schema"]
        assert set(schema["properties"]) == {"name", "age"}


def test_reasoning_refusals_usage_and_finish_reasons() -> None:
    said = answer("4", reasoning="2 and 2", usage=Usage(input_tokens=7, output_tokens=9), finish_reason="length")
    with FakeServer(said, said, answer(refusal="I can not."), answer(refusal="No no.")) as server:
        client = server.client()
        for sink in (None, lambda event: None):
            found = client.chat("2+2?", sink=sink)
            assert (found.text, found.reasoning, found.finish_reason) == ("4", "2 and 2", "length")
            assert (found.input_tokens, found.output_tokens) == (7, 9)
            assert found.usage is not None
            assert (found.usage.total_tokens, found.usage.reasoning_tokens) == (16, 3)
        assert client.chat("?").refusal == "I can not."
        assert client.chat("?", sink=lambda event: None).refusal == "No no."


@pytest.mark.parametrize("streamed", [False, True])
def test_logprobs_are_given_where_they_are_asked_for(streamed: bool) -> None:
    said = answer("yes, sir", logprobs=[{"yes": -0.2, "no": -1.7, "ok": -3.0}, {", sir": 0.0}])
    options: dict[str, Any] = {"sink": lambda event: None} if streamed else {}
    with FakeServer() as server, server.client() as client:
        server.add(said, times=2)
        server.add("by default certain")
        assert client.chat("hi", **options).choices[0].logprobs is None
        found = client.chat("hi", logprobs=True, top_logprobs=2, **options).choices[0].logprobs
        certain = client.chat("hi", logprobs=True, **options).choices[0].logprobs
    assert found is not None
    first, second = found["content"]
    assert (first["token"], first["logprob"], bytes(first["bytes"])) == ("yes", -0.2, b"yes")
    assert [(top["token"], top["logprob"]) for top in first["top_logprobs"]] == [("yes", -0.2), ("no", -1.7)]
    assert second["token"] == ", sir"
    assert certain is not None
    assert [(token["token"], token["logprob"], token["top_logprobs"]) for token in certain["content"]] == [
        ("by", 0.0, []),
        (" default", 0.0, []),
        (" certain", 0.0, []),
    ]


def test_a_choice_has_its_probability() -> None:
    with FakeServer(answer("no", logprobs=[{"no": -0.3, "yes": -1.3}])) as server, server.client() as client:
        said = client.chat("Sure?", choice=["yes", "no"], logprobs=True, top_logprobs=5)
    assert said.choice_probabilities is not None
    assert said.choice_probabilities["no"] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("logprobs", [[{"no": 0.0}], [{}], [{"": 0.0}, {"yes": 0.0}]], ids=str)
def test_logprobs_of_another_text_are_told(logprobs: list[dict[str, float]]) -> None:
    with pytest.raises(ConfigurationError, match="tokens of the text 'yes'"):
        answer("yes", logprobs=logprobs)


def test_several_choices_where_several_are_asked_for() -> None:
    with FakeServer("a b", "c d") as server, server.client() as client:
        assert [choice.text for choice in client.chat("hi", n=3).choices] == ["a b"] * 3
        assert [choice.text for choice in client.chat("hi", n=2, sink=lambda event: None).choices] == ["c d"] * 2


def test_embeddings_are_always_the_same_and_near_where_words_are() -> None:
    with FakeServer(dimensions=64) as server, server.client() as client:
        one, near, far = client.embed(["a red cat", "the red cat", "compilers"]).vectors
        again = client.embed("a red cat", encoding_format="float")
        assert list(again.embedding) == pytest.approx(list(one))

        def likeness(a: Any, b: Any) -> float:
            return sum(x * y for x, y in zip(a, b, strict=True))

        assert likeness(one, one) == pytest.approx(1)
        assert likeness(one, near) > 0.3 > abs(likeness(one, far))
        assert client.embed("x", dimensions=3).dims == 3
        assert server.requests[0].inputs == ("a red cat", "the red cat", "compilers")
        server.add(vectors([1, 0], [0, 1]))
        assert [list(vector) for vector in client.embed(["a", "b"]).vectors] == [[1, 0], [0, 1]]


def test_models_are_listed() -> None:
    with FakeServer(models=["one", "two"]) as server, server.client() as client:
        assert [model.id for model in client.models()] == ["one", "two"]
        assert client.model == "one"


@pytest.mark.parametrize(
    ("scripted", "kind", "message"),
    [
        (error(500), InternalServerError, "a scripted error"),
        (error(404, "no such model"), NotFoundError, "no such model"),
        (error(401), AuthenticationError, "HTTP 401"),
        (error(429, "slow down", retry_after=3), RateLimitError, "slow down"),
        (raw_reply("<html>", headers={"content-type": "text/html"}), ResponseParseError, "HTML|<html>|not JSON"),
        (raw_reply({"detail": "nope"}, status=422), APIStatusError, "nope"),
    ],
)
def test_errors(scripted: Any, kind: type[Exception], message: str) -> None:
    with FakeServer(scripted, "ok") as server, server.client(max_retries=0) as client:
        with pytest.raises(kind, match=message) as caught:
            client.chat("hi")
        if isinstance(caught.value, RateLimitError):
            assert (caught.value.retry_after, caught.value.code) == (3, "rate_limit_exceeded")
        assert client.chat("hi").text == "ok"


def test_errors_are_tried_again() -> None:
    soon = {"retry-after-ms": "1"}
    with FakeServer(error(503, headers=soon), error(429, headers=soon), "ok") as server, server.client() as client:
        found = client.chat("hi")
        assert (found.text, len(found.attempts), len(server.requests)) == ("ok", 3, 3)


def test_an_error_for_embeddings_alone() -> None:
    with FakeServer("ok") as server, server.client(max_retries=0) as client:
        server.add(error(500), kind="embeddings")
        assert client.chat("hi").text == "ok"
        with pytest.raises(InternalServerError):
            client.embed("hi")


@pytest.mark.parametrize("kind", ["reset", "cut", "garbage"])
def test_a_connection_that_fails_before_the_reply(kind: Any) -> None:
    with FakeServer(fault(kind)) as server, server.client(max_retries=0) as client:
        with pytest.raises(APIConnectionError):
            client.chat("hi")
        assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_a_stream_that_breaks_has_its_part(kind: Any) -> None:
    with FakeServer(stream_of("Hel", "lo", fault(kind), " world")) as server, server.client(max_retries=0) as client:
        with client.stream("hi") as stream, pytest.raises(APIConnectionError) as caught:
            for _ in stream:
                pass
        assert caught.value.partial is not None
        assert caught.value.partial.text == "Hello"
        assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["reset", "cut", "garbage"])
def test_a_body_that_breaks(kind: Any) -> None:
    with FakeServer(stream_of("Hello", fault(kind))) as server, server.client(max_retries=0) as client:
        with pytest.raises((APIConnectionError, ResponseParseError)):
            client.chat("hi")


def test_garbage_in_a_stream_is_one_event() -> None:
    with FakeServer(stream_of("Hel", fault("garbage"), "lo")) as server, server.client() as client:
        found = client.chat("hi", sink=lambda event: None)
        assert (found.text, found.skipped_events, found.truncated) == ("Hello", 1, True)


def test_a_stream_without_its_end() -> None:
    with FakeServer(stream_of("Hello", done=False)) as server, server.client() as client:
        assert client.chat("hi", sink=lambda event: None).text == "Hello"


@pytest.mark.parametrize("scripted", [fault("stall"), stream_of("Hel", fault("stall"))])
def test_a_stall_ends_with_the_client(scripted: Any) -> None:
    timeout = Timeout(first_token=0.2, idle=0.2)
    with FakeServer(scripted) as server, server.client(max_retries=0, timeout=timeout) as client:
        with pytest.raises(APITimeoutError):
            client.chat("hi", sink=lambda event: None)
        server.wait_for(abandoned=1)
        assert server.abandoned == server.requests


def test_a_stall_ends_with_the_server() -> None:
    server = FakeServer(stream_of("Hel", fault("stall")))
    with server.client(max_retries=0) as client, client.stream("hi") as stream:
        assert next(iter(stream)).delta == "Hel"
        server.close()
        with pytest.raises((APIConnectionError, StreamInterruptedError)):
            for _ in stream:
                pass


def test_a_stream_waits_for_the_test() -> None:
    go_on = threading.Event()
    with FakeServer(stream_of("Hel", go_on, "lo")) as server, server.client() as client:
        with client.stream("hi") as stream:
            events = iter(stream)
            assert next(events).delta == "Hel"
            go_on.set()
            assert next(events).delta == "lo"


def test_a_stream_goes_by_the_clock_of_the_test() -> None:
    clock = FakeClock()
    with FakeServer(stream_of("Hel", 3600, "lo"), clock=clock) as server, server.client() as client:
        with client.stream("hi") as stream:
            events = iter(stream)
            assert next(events).delta == "Hel"
            clock.wait_for_pause()
            clock.advance(3600)
            assert next(events).delta == "lo"


def test_a_clock_says_that_nothing_pauses() -> None:
    with pytest.raises(TimeoutError, match="0 replies are in a pause, not 1"):
        FakeClock().wait_for_pause(timeout=0.01)


def test_a_client_that_leaves_is_known() -> None:
    never = threading.Event()
    with FakeServer(stream_of("Hel", never, "lo")) as server, server.client() as client:
        with client.stream("hi") as stream:
            next(iter(stream))
        server.wait_for(abandoned=1)
        assert server.abandoned[0].prompt == "hi"


def test_rate_limits_by_the_clock() -> None:
    clock = FakeClock()
    limit = RateLimit(requests=2, seconds=60)
    with FakeServer(rate_limit=limit, clock=clock) as server, server.client(max_retries=0) as client:
        server.add("ok", times=None)
        assert client.chat("hi").rate_limits["remaining_requests"] == 1
        assert client.chat("hi").headers["x-ratelimit-remaining-requests"] == "0"
        clock.advance(20)
        with pytest.raises(RateLimitError) as caught:
            client.chat("hi")
        assert (caught.value.retry_after, caught.value.type) == (40, "requests")
        clock.advance(40)
        assert client.chat("hi").text == "ok"


def test_a_rate_limit_of_tokens() -> None:
    with FakeServer("ok", rate_limit=RateLimit(tokens=10)) as server, server.client(max_retries=0) as client:
        assert client.chat("one two").headers["x-ratelimit-remaining-tokens"] == "5"
        with pytest.raises(RateLimitError, match="on tokens"):
            client.chat("one two three four")


def test_a_key_is_asked_for_and_never_shown() -> None:
    with FakeServer("ok", api_key="sk-very-secret-1") as server:
        assert server.client().chat("hi").text == "ok"
        with pytest.raises(AuthenticationError):
            server.client(api_key="sk-wrong-2", max_retries=0).chat("hi")
        asked = [request.headers["authorization"] for request in server.requests]
        assert asked == ["Bearer ***", "Bearer ***"]
        assert "secret" not in repr(server.requests)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "must provide a model"),
        ({"model": "m", "messages": []}, "'messages' is missing"),
        ({"model": "m", "messages": ["hi"]}, "'messages' is missing"),
        ({"model": "m", "messages": "hi"}, "'messages' is missing"),
        ({"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": []}, "empty array"),
        (
            {"model": "m", "messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]},
            "must be a response to a preceding message",
        ),
        (
            {
                "model": "m",
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "x"}, {"id": "y"}]},
                    {"role": "tool", "tool_call_id": "y", "content": ""},
                    {"role": "user", "content": "hi"},
                ],
            },
            "have no response message: x",
        ),
    ],
)
def test_what_openai_refuses_is_refused(body: dict[str, Any], message: str) -> None:
    import requests

    with FakeServer("ok") as server:
        reply = requests.post(f"{server.url}/chat/completions", json=body, timeout=10)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
        assert message in reply.json()["error"]["message"]


def test_what_is_not_scripted_is_refused_and_told_at_the_end() -> None:
    server = FakeServer("Paris")
    server.add("never", last="Spain", model="m")
    client = server.client()
    client.chat("France?")
    with pytest.raises(BadRequestError, match="nothing is scripted for a chat.*'Italy\\?'") as caught:
        client.chat("Italy?")
    assert caught.value.code == "unscripted_request"
    assert len(server.requests) == 2, "it is not tried again"
    with pytest.raises(UnscriptedRequestError) as told:
        server.close()
    assert "'Italy?'" in str(told.value)
    assert "1. answer 'Paris' for any chat (used 1×, used up)" in str(told.value)
    assert "2. answer 'never' for model 'm', last message like 'Spain' (used 0×)" in str(told.value)
    server.close()


def test_what_is_not_scripted_is_a_note_on_an_error_of_the_test() -> None:
    with pytest.raises(BadRequestError) as caught, FakeServer() as server:
        server.client().chat("hi")
    assert "nothing is scripted for" in caught.value.__notes__[0]


def test_a_scripted_function_that_fails_is_told() -> None:
    def broken(request: AskedRequest) -> str:
        raise ValueError("my mistake")

    with pytest.raises(BadRequestError, match="my mistake") as caught, FakeServer(broken) as server:
        server.client().chat("hi")
    assert "a scripted function raised ValueError('my mistake') for a chat" in caught.value.__notes__[0]


def test_an_answer_that_cannot_be_sent_is_told() -> None:
    server = FakeServer(answer("ok", headers={"x-city": "北京"}))
    with pytest.raises(APIConnectionError):
        server.client(max_retries=0).chat("hi")
    with pytest.raises(UnscriptedRequestError, match="could not be answered: UnicodeEncodeError"):
        server.close()


def test_another_endpoint_is_not_found() -> None:
    import requests

    with FakeServer() as server:
        reply = requests.post(f"{server.url}/rerank", json={}, timeout=10)
        assert (reply.status_code, reply.json()["error"]["message"]) == (404, "Invalid URL (POST /v1/rerank)")
        assert [request.kind for request in server.requests] == ["other"]


def test_asserts_on_what_was_asked() -> None:
    with FakeServer() as server, server.client() as client:
        server.assert_not_asked()
        server.add("ok", times=None)
        client.chat("The capital of France?", temperature=0.2, system="Be brief.")
        client.chat("And of Spain?", model="big", sink=lambda event: None)
        assert server.assert_asked("France", temperature=0.2, streamed=False) is server.requests[0]
        assert server.assert_asked(re.compile("^And"), model="big", times=1) is server.requests[1]
        server.assert_asked(times=2)
        server.assert_not_asked("Italy")
        server.assert_not_asked("Spain", streamed=False)
        server.assert_asked(
            messages=[
                {"role": "system", "content": "Be brief."},
                Message(role="user", content="The capital of France?"),
            ]
        )


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (lambda server: server.assert_asked("Italy"), ["not asked", "which has nothing like 'Italy'"]),
        (lambda server: server.assert_asked(temperature=0.5), ["request 0", "temperature: 0.2, not 0.5"]),
        (lambda server: server.assert_asked(seed=1), ["seed: missing, not 1"]),
        (lambda server: server.assert_asked(streamed=True), ["streamed: False, not True"]),
        (lambda server: server.assert_asked(tool_names=["f"]), ["tools: [], not ['f']"]),
        (lambda server: server.assert_asked(times=2), ["asked 1 times, not 2", "is like this"]),
        (
            lambda server: server.assert_asked(messages=[{"role": "user", "content": "ho"}, {"role": "user"}]),
            ['messages[0].content: "hi", not "ho"', 'messages[1]: missing, not {"role": "user"}'],
        ),
        (lambda server: server.assert_not_asked(), ["asked 1 times, and should not have been", "'hi'"]),
        (lambda server: server.assert_all_used(), ["not asked for", "answer 'more'"]),
    ],
)
def test_asserts_tell_what_is_different(claim: Callable[[FakeServer], object], told: list[str]) -> None:
    with FakeServer("ok", "more") as server:
        server.client().chat("hi", temperature=0.2)
        with pytest.raises(AssertionError) as caught:
            claim(server)
        for piece in told:
            assert piece in str(caught.value)


def test_an_assert_before_anything_was_asked() -> None:
    with FakeServer() as server, pytest.raises(AssertionError, match="not asked; nothing was asked"):
        server.assert_asked("hi")


def test_many_threads_ask_at_once() -> None:
    with FakeServer() as server, server.client() as client:
        server.add(lambda request: request.prompt, times=None)
        results = list(client.map([str(number) for number in range(40)], workers=8, ordered=True))
        assert [result.response and result.response.text for result in results] == [str(n) for n in range(40)]
        assert sorted(request.prompt for request in server.requests) == sorted(map(str, range(40)))
        assert server.connections <= 8


def test_waiting_for_requests_is_bounded() -> None:
    with FakeServer() as server, pytest.raises(TimeoutError, match="0 requests have come"):
        server.wait_for(requests=1, timeout=0.01)


def test_a_server_that_is_closed_refuses() -> None:
    server = FakeServer("ok")
    client = server.client(max_retries=0)
    assert client.chat("hi").text == "ok"
    server.close()
    with pytest.raises(APIConnectionError):
        client.chat("hi")


def test_requests_as_other_programs_send_them() -> None:
    with FakeServer("ok", "ok") as server:
        host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
        )
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(head + b"Connection: close\r\n\r\n" + chunked)
            received = b""
            while data := sock.recv(65536):
                received += data
        assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert server.requests[0].prompt == "hi"


def test_it_stands_in_for_servers_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-1")
    monkeypatch.setenv("GROQ_API_KEY", "gsk-of-groq-2")
    with FakeServer(stream_of("Hel", "lo"), "from groq", error(400)) as server:
        with server.in_place_of("https://api.openai.com", "https://api.groq.com/openai/v1"):
            client = Client.for_provider("openai")
            found = client.chat("hi", model="gpt-5", max_tokens=5, sink=lambda event: None)
            assert (found.text, found.provider) == ("Hello", "openai")
            assert Client.for_provider("groq").chat("hi", model="m").text == "from groq"
            with pytest.raises(BadRequestError, match="HTTP 400 from openai"):
                client.chat("hi", model="gpt-5")
        assert "max_completion_tokens" in server.requests[0].body, "the dialect of OpenAI"
        assert server.requests[0].headers["host"] == "api.openai.com"
        assert server.requests[1].path == "/openai/v1/chat/completions"


def test_it_stands_in_for_no_others() -> None:
    with FakeServer("mine") as server, FakeServer("other") as other, server.in_place_of("https://api.openai.com"):
        assert other.client().chat("hi").text == "other"
        assert server.client().chat("hi").text == "mine"
