"""The client: what is asked, and what comes back."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.replay import JSON, ReplayServer, Reply
from support.wire_bodies import chat_reply, error_reply, stream_reply, tool_call

from openai_compat import (
    AuthenticationError,
    Cancelled,
    CancelToken,
    ChatRequest,
    Client,
    ConfigurationError,
    ResponseShapeError,
    StreamEvent,
    Timeout,
    ToolSpec,
    tool,
)


def test_an_error_status_is_heard_by_the_sink_and_raised_redacted() -> None:
    key = "sk-live-0123456789abcdef"
    with ReplayServer([error_reply(401, f"bad key {key}", code="invalid_api_key")]) as server:
        events: list[StreamEvent] = []
        with pytest.raises(AuthenticationError) as caught:
            Client(server.url, key, model="m").chat("hi", sink=events.append)
    assert [event.error for event in events] == [caught.value]
    assert caught.value.code == "invalid_api_key"
    assert key not in f"{caught.value!r} {caught.value.body} {caught.value.__dict__}"


def test_a_connection_that_breaks_gives_an_error_event_and_the_partial_answer() -> None:
    broken = stream_reply("one ", "two", finish_reason=None, done=False)
    with ReplayServer([Reply(headers=broken.headers, body=broken.body, abort="rst")]) as server:
        events: list[StreamEvent] = []
        with pytest.raises(Exception, match="the connection to") as caught:
            Client(server.url, model="m").chat("hi", sink=events.append)
        assert len(server.requests) == 1
    assert type(caught.value).__name__ == "APIConnectionError"
    assert caught.value.partial.text == "one two"  # type: ignore[attr-defined]
    assert [event.kind for event in events] == ["text", "text", "error"]


def test_events_then_one_terminal_event_then_the_answer() -> None:
    with ReplayServer([stream_reply("a", "", "b")]) as server:
        events: list[StreamEvent] = []
        answer = Client(server.url, provider="p", model="m").chat("hi", sink=events.append)
    assert [(event.delta, event.done) for event in events] == [("a", False), ("b", False), ("", True)]
    assert len({event.call_id for event in events}) == 1
    assert {event.model for event in events} == {"m"}
    assert (answer.text, answer.finish_reason, answer.model) == ("ab", "stop", "m-served")
    assert answer.latency_ms > 0
    assert events[-1].response is answer


def test_a_sink_may_be_an_object_with_emit() -> None:
    class Sink:
        def __init__(self) -> None:
            self.text = ""

        def emit(self, event: StreamEvent) -> None:
            self.text += event.delta

    sink = Sink()
    with ReplayServer([stream_reply("a", "b")]) as server:
        Client(server.url, model="m").chat("hi", sink=sink)
    assert sink.text == "ab"


def test_what_is_no_sink_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a sink is a callable"):
        Client("http://127.0.0.1:9", model="m").chat("hi", sink=3)


def test_a_sink_that_raises_ends_the_stream_and_is_heard() -> None:
    def sink(event: StreamEvent) -> None:
        raise LookupError("mine")

    def reply(request: Any) -> Reply:
        def body() -> Any:
            yield from stream_reply("a").body[:1]
            assert request.closed.wait(10)

        return Reply(headers=stream_reply("a").headers, body=body())

    with ReplayServer(reply) as server:
        with pytest.raises(LookupError, match="mine"):
            Client(server.url, model="m").chat("hi", sink=sink)
        assert server.wait_closed()


def test_a_prompt_a_request_and_messages_ask_the_same() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, model="m")
        client.chat("hi", temperature=0)
        client.chat(ChatRequest("hi", temperature=0))
        client.chat([{"role": "user", "content": "hi"}], temperature=0)
        client.chat(ChatRequest("hi", temperature=1, model="m"), temperature=0)
        sent = [request.json() for request in server.requests]
    assert all(body == sent[0] for body in sent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.chat("hi", model=None), "no model"),
        (lambda client: client.chat("", model="m"), "nothing to ask"),
        (lambda client: client.chat(None, model="m"), "nothing to ask"),
        (lambda client: client.chat([], model="m"), "nothing to ask"),
        (lambda client: client.chat({"role": "user"}, model="m"), "a prompt is"),
        (lambda client: client.chat(["hi"], model="m"), "a message is"),
        (lambda client: client.chat([{"content": "hi"}], model="m"), "role"),
        (lambda client: client.stream("hi"), "no model"),
        (lambda client: client.chat("hi", model="m", images=Path("/nowhere/x.png")), "cannot read the image"),
        (lambda client: client.chat("hi", model="m", images=["/etc/passwd"]), "pathlib.Path"),
        (lambda client: client.chat("hi", model="m", images=[b"text"]), "not an image"),
        (lambda client: client.chat("hi", model="m", extra_body={"x": object()}), "written as JSON"),
        (lambda client: client.chat("hi", model="m", timeout=-3), "positive"),
        (lambda client: client.embed("hi"), "no model"),
        (lambda client: client.embed([], model="m"), "nothing to embed"),
        (lambda client: client.embed(["a", ""], model="m"), "input 1"),
        (lambda client: client.embed([3.5], model="m"), "input 0"),
        (lambda client: client.embed("a", model="m", encoding_format="hex"), "encoding_format"),
        (lambda client: client.embed("a", model="m", batch_size=0), "batch_size"),
        (lambda client: client.run_tools("hi", model="m", tools=[3]), "a tool is"),
        (lambda client: client.run_tools("hi", model="m", tools=[], max_iterations=0), "max_iterations"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(call: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call(Client("http://127.0.0.1:9", "key"))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda client: client.chat("hi", temprature=1), "temprature (did you mean temperature?)"),
        (lambda client: client.chat("hi", timeuot=1), "timeuot (did you mean timeout?)"),
        (lambda client: client.chat("hi", stream=True), "stream (stream() reads the answer as it comes"),
        (lambda client: client.chat("hi", max_completion_tokens=9), "max_completion_tokens (max_tokens limits"),
        (lambda client: client.chat("hi", headers={}), "headers (did you mean extra_headers?)"),
        (lambda client: client.chat("hi", api_key="k"), "api_key (Client(...) takes it)"),
        (lambda client: client.chat("hi", on_round=print), "on_round (run_tools() and tool_rounds() take it)"),
        (lambda client: client.stream("hi", sink=print), "sink (chat() takes it"),
        (lambda client: client.submit("hi", zzz=1, stop_=2), "stop_ (did you mean stop?), zzz; what only your"),
        (
            lambda client: client.run_tools("hi", tools=[], max_iteration=1),
            "max_iteration (did you mean max_iterations?)",
        ),
        (lambda client: client.conversation(max_iteration=1), "max_iteration (did you mean max_iterations?)"),
        (lambda client: client.conversation(sink=print), "sink (say() takes it)"),
        (lambda client: client.conversation().say("hi", temprature=1), "temprature (did you mean temperature?)"),
    ],
)
def test_an_unknown_field_is_refused_with_the_right_name(call: Any, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)):
        call(Client("http://127.0.0.1:9", model="m"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"api_ky": "sk-secret"}, "unknown option of Client: api_ky (did you mean api_key?)"),
        ({"temperature": 0}, "temperature (chat() takes it)"),
        ({"http_client": None, "zzz": 1}, "http_client (did you mean session?), zzz"),
    ],
)
@pytest.mark.parametrize("make", [partial(Client, "http://127.0.0.1:9"), partial(Client.for_provider, "ollama")])
def test_an_unknown_option_is_refused_with_the_right_name(make: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)) as caught:
        make(**options)
    assert "secret" not in repr(caught.traceback[-1].locals)


def test_a_subclass_takes_options_of_its_own() -> None:
    class Tenants(Client):
        def __init__(self, tenant: str, **options: Any) -> None:
            super().__init__(f"http://127.0.0.1:9/{tenant}", **options)

    class Fixed(Client):
        def __init__(self, tenant: str) -> None:
            super().__init__(f"http://127.0.0.1:9/{tenant}")

    assert Tenants(tenant="a", model="m").base_url == Fixed(tenant="a").base_url == "http://127.0.0.1:9/a"
    with pytest.raises(TypeError, match=re.escape("unknown option of Fixed: tenat (did you mean tenant?)")):
        Fixed(tenat="a")


def test_the_signature_shows_the_options() -> None:
    assert "api_key" in inspect.signature(Client).parameters


@pytest.mark.parametrize(
    ("timeout", "told"),
    [
        ((3, 5), "write Timeout(connect=3, first_token=5, idle=5)"),
        ([1.5], "write Timeout(total=60)"),
        ({"total": 5}, "write Timeout(total=5)"),
        ("5", "positive number of seconds, not '5'"),
    ],
)
def test_a_timeout_of_another_kind_is_refused_with_the_right_one(timeout: Any, told: str) -> None:
    for make in (
        lambda: Client("http://127.0.0.1:9", model="m", timeout=timeout),
        lambda: Client("http://127.0.0.1:9", model="m").chat("hi", timeout=timeout),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(told)):
            make()


def test_many_texts_are_embedded_in_batches_and_keep_their_order() -> None:
    def reply(request: Any) -> Reply:
        inputs = request.json()["input"]
        data = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(inputs)]
        body = {"data": data[::-1], "model": "e", "usage": {"prompt_tokens": len(inputs)}}
        return Reply(headers=JSON, body=json.dumps(body).encode())

    texts = ["x" * n for n in range(1, 8)]
    with ReplayServer(reply) as server:
        answer = Client(server.url, model="e").embed(texts, batch_size=3)
        assert [len(request.json()["input"]) for request in server.requests] == [3, 3, 1]
    assert [vector[0] for vector in answer] == [float(n) for n in range(1, 8)]
    assert (answer.dims, answer.input_tokens, len(answer)) == (2, 7, 7)
    matrix = np.asarray(answer.vectors)
    assert matrix.dtype == np.float32
    assert matrix.shape == (7, 2)
    assert np.shares_memory(np.asarray(answer.embedding), np.asarray(answer.vectors[0]))


def test_a_batch_limit_is_learnt_from_the_refusal() -> None:
    def reply(request: Any) -> Reply:
        inputs = request.json()["input"]
        if len(inputs) > 2:
            return error_reply(400, "batch size is invalid, it should not be larger than 2.: input.contents")
        body = {"data": [{"embedding": [1.0]} for _ in inputs]}
        return Reply(headers=JSON, body=json.dumps(body).encode())

    with ReplayServer(reply) as server:
        client = Client(server.url, model="e", max_retries=0)
        assert len(client.embed(list("abcde"))) == 5
        assert len(client.embed(list("abc"))) == 3
        assert [len(r.json()["input"]) for r in server.requests] == [5, 2, 2, 1, 2, 1]


def test_normalized_vectors_have_length_one() -> None:
    body = json.dumps({"data": [{"embedding": [3.0, 4.0]}]}).encode()
    with ReplayServer([Reply(headers=JSON, body=body)]) as server:
        answer = Client(server.url, model="e").embed("a", normalize=True)
    assert list(answer.embedding) == pytest.approx([0.6, 0.8])


def test_an_embedding_answer_survives_pickling() -> None:
    body = json.dumps({"data": [{"embedding": [3.0, 4.0]}], "model": "e"}).encode()
    with ReplayServer([Reply(headers=JSON, body=body)]) as server:
        answer = Client(server.url, model="e").embed("a")
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_models_are_listed() -> None:
    body = json.dumps({"object": "list", "data": [{"id": "a", "created": 5, "owned_by": "x"}, {"id": "b"}]}).encode()
    with ReplayServer([Reply(headers=JSON, body=body)]) as server:
        models = Client(server.url, "k").models()
        assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")
    assert [(model.id, model.created, model.owned_by) for model in models] == [("a", 5, "x"), ("b", None, "")]


def test_an_answer_without_a_model_is_stamped_with_the_one_asked_for() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()
    with ReplayServer([Reply(headers={**JSON, "X-Request-Id": "r-7"}, body=body)]) as server:
        answer = Client(server.url, model="asked").chat("hi")
    assert (answer.model, answer.finish_reason, answer.usage, answer.request_id) == ("asked", "unknown", None, "r-7")


def test_tags_of_ones_own_hold_reasoning() -> None:
    text = "<thought>hm</thought>yes <think>said</think>"

    def reply(request: Any) -> Reply:
        return stream_reply(text[:5], text[5:]) if request.json()["stream"] else chat_reply(text)

    with ReplayServer(reply) as server:
        client = Client(server.url, model="m", think_tags=["thought"])
        for answer in (client.chat("hi"), client.chat("hi", sink=lambda event: None)):
            assert (answer.text, answer.reasoning) == ("yes <think>said</think>", "hm")


def test_an_empty_answer_is_an_error_that_holds_it() -> None:
    with ReplayServer([chat_reply("<think>hm</think>", finish_reason="length")]) as server:
        with pytest.raises(ResponseShapeError, match="max_tokens") as caught:
            Client(server.url, model="m").chat("hi")
        assert len(server.requests) == 1
    assert caught.value.partial is not None
    assert (caught.value.partial.reasoning, caught.value.partial.output_tokens) == ("hm", 2)


def test_a_cancelled_token_ends_the_call_before_it_begins() -> None:
    token = CancelToken()
    token.cancel()
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, model="m", timeout=Timeout(total=5))
        for call in (
            lambda: client.chat("hi", cancel=token),
            lambda: client.chat("hi", cancel=token, sink=lambda event: None),
            lambda: client.embed("hi", cancel=token),
            lambda: client.models(cancel=token),
        ):
            with pytest.raises(Cancelled):
                call()
        assert not server.requests


def test_tools_run_until_the_model_answers() -> None:
    def weather(city: str) -> str:
        """Weather right now."""
        return f"rain in {city}"

    turn = chat_reply(None, tool_calls=[tool_call("weather", '{"city":"Oslo"}')], finish_reason="tool_calls")
    with ReplayServer([turn, chat_reply("It rains.")]) as server:
        answer = Client(server.url, model="m").run_tools("Weather in Oslo?", tools=[weather])
        second = server.requests[1].json()["messages"]
        tools = server.requests[0].json()["tools"]
    assert answer.text == "It rains."
    assert (answer.input_tokens, answer.output_tokens) == (6, 4)
    assert second[1]["tool_calls"][0]["id"] == "call_1"
    assert second[1]["content"] is None
    assert second[2] == {"role": "tool", "tool_call_id": "call_1", "content": "rain in Oslo"}
    assert tools[0]["function"]["name"] == "weather"


@pytest.mark.parametrize("streamed", [False, True])
def test_half_a_character_keeps_no_conversation_from_going_on(streamed: bool) -> None:
    replies = [
        stream_reply("hi \ud83d", "\ude00 \ud83d") if streamed else chat_reply("hi \ud83d\ude00 \ud83d"),
        chat_reply(),
    ]
    with ReplayServer(replies) as server, Client(server.url, model="m") as client:
        answer = client.chat("one", sink=print if streamed else None)
        client.chat(
            [{"role": "user", "content": "one \udc00"}, answer.to_message(), {"role": "user", "content": "two"}]
        )
    assert answer.text == "hi \U0001f600 \ufffd"
    sent = server.requests[1].json()["messages"]
    assert [message["content"] for message in sent] == ["one \ufffd", answer.text, "two"]


def test_a_chat_tells_of_tools_that_it_does_not_run() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    made = tool(add)
    named = ToolSpec("far")
    with ReplayServer([chat_reply(None, tool_calls=[tool_call("add", '{"a":1,"b":2}')])] * 2) as server:
        with Client(server.url, model="m") as client:
            answer = client.chat("hi", tools=[add, named])
            client.chat(ChatRequest("hi", tools=[made, named], model="m"))
    assert [call.name for call in answer.tool_calls] == ["add"]
    sent = [request.json()["tools"] for request in server.requests]
    assert sent[0] == sent[1] == [made.spec.to_wire(), named.to_wire()]


@pytest.mark.parametrize("tools", [3, "add", {"type": "function"}, [3], [object()]])
def test_tools_that_are_none_are_refused_before_anything_is_sent(tools: Any) -> None:
    client = Client("http://127.0.0.1:9", model="m")
    with pytest.raises(ConfigurationError, match="tool"):
        client.chat("hi", tools=tools)
    with pytest.raises(ConfigurationError, match="tool"):
        ChatRequest("hi", tools=tools)
