"""The client: what it sends, whom it says it asked, what it refuses, and how it is set up."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import responses
from replay import JSON, ReplayServer, Reply
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from wire_bodies import chat_body, chat_reply, error_reply, stream_reply, tool_call

from openai_compat import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
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


def test_row_01_one_builder_and_parser_serve_every_server_and_the_provider_is_stamped() -> None:
    bodies = []
    for provider in ("groq", "my-own-box"):
        with ReplayServer([chat_reply(), stream_reply("ok"), error_reply(400)]) as server:
            client = Client(server.url, "k", provider=provider, model="m")
            events: list[StreamEvent] = []
            assert client.chat("hi").provider == provider
            assert client.chat("hi", sink=events.append).provider == provider
            assert {event.provider for event in events} == {provider}
            with pytest.raises(APIStatusError) as caught:
                client.chat("hi")
            assert caught.value.provider == provider
            bodies.append([request.json() for request in server.requests])
    assert bodies[0] == bodies[1]


def test_row_11_an_error_status_is_heard_by_the_sink_and_raised_redacted() -> None:
    key = "sk-live-0123456789abcdef"
    with ReplayServer([error_reply(401, f"bad key {key}", code="invalid_api_key")]) as server:
        events: list[StreamEvent] = []
        with pytest.raises(AuthenticationError) as caught:
            Client(server.url, key, model="m").chat("hi", sink=events.append)
    assert [event.error for event in events] == [caught.value]
    assert caught.value.code == "invalid_api_key"
    assert key not in f"{caught.value!r} {caught.value.body} {caught.value.__dict__}"


def test_row_12_a_connection_that_breaks_gives_an_error_event_and_the_partial_answer() -> None:
    broken = stream_reply("one ", "two", finish_reason=None, done=False)
    with ReplayServer([Reply(headers=broken.headers, body=broken.body, abort="rst")]) as server:
        events: list[StreamEvent] = []
        with pytest.raises(Exception, match="the connection to") as caught:
            Client(server.url, model="m").chat("hi", sink=events.append)
        assert len(server.requests) == 1
    assert type(caught.value).__name__ == "APIConnectionError"
    assert caught.value.partial.text == "one two"  # type: ignore[attr-defined]
    assert [event.kind for event in events] == ["text", "text", "error"]


def test_row_10_events_then_one_terminal_event_then_the_answer() -> None:
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


def test_extra_headers_and_query_go_with_the_request() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(f"{server.url}/v1?api-version=3", model="m", headers={"X-All": "1"})
        client.chat("hi", extra_headers={"X-One": "2"}, extra_query={"q": "a b"})
        request = server.requests[0]
    assert request.path == "/v1/chat/completions?api-version=3&q=a+b"
    assert (request.headers["X-All"], request.headers["X-One"]) == ("1", "2")


@pytest.mark.parametrize(
    ("tail", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1", "/openai/v1/chat/completions"),
        ("/v1?a=b", "/v1/chat/completions?a=b"),
    ],
)
def test_base_urls_in_every_form_work(tail: str, path: str) -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url + tail, model="m").chat("hi")
        assert server.requests[0].path == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": ""}, "no base URL"),
        ({"base_url": "localhost:11434"}, "must begin with http"),
        ({"base_url": "ftp://x"}, "must begin with http"),
        ({"base_url": "http://"}, "name a host"),
        ({"base_url": "http://x:99999"}, "bad port"),
        ({"api_key": "sk-secret\n"}, "white space"),
        ({"api_key": "sk-sécret"}, "no key has"),
        ({"api_key": "sk-se cret"}, "no key has"),
        ({"api_key": 5}, "must be a string"),
        ({"timeout": 0}, "positive"),
        ({"timeout": "3"}, "positive"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"truncated": "maybe"}, "truncated"),
        ({"inline_think": "maybe"}, "inline_think"),
        ({"headers": {"X": "a\nb"}}, "line break"),
        ({"headers": {"X": 1}}, "must be a string"),
    ],
)
def test_a_client_that_could_not_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Client(**{"base_url": "http://x", **arguments})
    assert "cret" not in str(caught.value)


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
        call(Client("http://127.0.0.1:9"))


def test_an_unknown_field_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"temprature.*extra_body"):
        Client("http://127.0.0.1:9", model="m").chat("hi", temprature=1)  # type: ignore[call-arg]


def test_row_16_no_key_sends_no_authorization() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        assert "Authorization" not in server.requests[0].headers


def test_a_key_goes_as_a_bearer_token_and_is_out_of_sight() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, "sk-0123456789", model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer sk-0123456789"
    assert "sk-0123456789" not in repr(client) + repr(vars(client))


def test_a_key_may_be_renewed_by_a_function() -> None:
    tokens = iter(["one", "two"])
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, lambda: next(tokens), model="m")
        client.chat("hi")
        client.chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer two"]


def test_renewed_keys_are_all_kept_out_of_errors() -> None:
    keys = ["0a1b2c3d4e5f60718293aaaa4b5c6d7e", "ffeeddccbbaa99887766554433221100"]
    given = iter(keys)
    with ReplayServer([error_reply(401, f"bad key {keys[0]}")]) as server:
        client = Client(server.url, lambda: next(given), model="m")
        for _ in keys:
            with pytest.raises(AuthenticationError) as caught:
                client.chat("hi")
            assert keys[0] not in str(caught.value) + caught.value.body


def test_a_requests_auth_object_is_used() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m", auth=HTTPBasicAuth("u", "p")).chat("hi")
        assert server.requests[0].headers["Authorization"].startswith("Basic ")


def test_digest_auth_answers_the_challenge() -> None:
    challenge = Reply(
        status=401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"', **JSON}, body=b"{}"
    )
    with ReplayServer([challenge, chat_reply()]) as server:
        assert Client(server.url, model="m", auth=HTTPDigestAuth("u", "p")).chat("hi").text == "ok"
        assert server.requests[1].headers["Authorization"].startswith("Digest ")


def test_a_login_in_the_base_url_becomes_basic_auth_and_is_not_shown() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url.replace("http://", "http://user:pass@"), model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert "pass" not in repr(client)


def test_a_login_from_netrc_is_used_where_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        Client(server.url, "key-of-mine", model="m").chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent[0].startswith("Basic ")
    assert sent[1] == "Bearer key-of-mine"


def test_max_tokens_is_learnt_for_that_model_only() -> None:
    def reply(request: Any) -> Reply:
        body = request.json()
        if body["model"] == "o" and "max_tokens" in body:
            return error_reply(
                400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'", param="max_tokens"
            )
        return chat_reply()

    with ReplayServer(reply) as server:
        client = Client(server.url, "k", max_retries=0)
        for model in ("o", "o", "p"):
            client.chat("hi", model=model, max_tokens=5)
        sent = [(r.json()["model"], "max_tokens" in r.json()) for r in server.requests]
    assert sent == [("o", True), ("o", False), ("o", False), ("p", True)]


def test_stream_options_are_left_out_once_refused() -> None:
    def reply(request: Any) -> Reply:
        if "stream_options" in request.json():
            return error_reply(422, "body.stream_options: Extra inputs are not permitted")
        return stream_reply("ok")

    with ReplayServer(reply) as server:
        client = Client(server.url, "k", model="m", max_retries=0)
        for _ in range(2):
            assert client.chat("hi", sink=lambda event: None).text == "ok"
        assert ["stream_options" in r.json() for r in server.requests] == [True, False, False]


def test_what_a_provider_refuses_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, "k", provider="openai", model="m")
        for _ in range(2):
            client.chat("hi", top_k=3, max_tokens=4, reasoning=False)
        body = server.requests[0].json()
    assert body["max_completion_tokens"] == 4
    assert body["reasoning_effort"] == "none"
    assert not {"top_k", "max_tokens", "chat_template_kwargs"} & body.keys()
    assert [record.getMessage() for record in caplog.records] == ["openai does not take top_k; it is not sent"]


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


@pytest.mark.parametrize(
    ("environment", "base_url", "provider", "model"),
    [
        ({"OPENAI_BASE_URL": "http://box:8000/v1"}, "http://box:8000/v1", "box", None),
        ({"OPENAI_API_KEY": "k"}, "https://api.openai.com/v1", "openai", None),
        ({"GROQ_API_KEY": "k", "OPENAI_MODEL": "x"}, "https://api.groq.com/openai/v1", "groq", "x"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434/v1", "ollama", None),
        ({"OLLAMA_HOST": "https://box:1/"}, "https://box:1/v1", "ollama", None),
        (
            {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/"},
            "https://r.openai.azure.com/openai/v1",
            "azure",
            None,
        ),
    ],
)
def test_the_environment_names_the_server(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], base_url: str, provider: str, model: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = Client.from_env()
    assert (client.base_url, client.provider, client.model) == (base_url, provider, model)


def test_a_key_given_beside_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([chat_reply()]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        Client.from_env(api_key="mine-0123456", model="m").chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer mine-0123456"


def test_an_environment_that_names_no_server_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"OPENAI_BASE_URL.*OPENAI_API_KEY"):
        Client.from_env()


def test_a_provider_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Client.for_provider("ollama").base_url == "http://localhost:11434/v1"
    monkeypatch.setenv("OLLAMA_HOST", "box:1")
    assert Client.for_provider("ollama").base_url == "http://box:1/v1"
    with pytest.raises(ConfigurationError, match="MISTRAL_API_KEY"):
        Client.for_provider("mistral")
    with pytest.raises(ConfigurationError, match="known are openai"):
        Client.for_provider("opnai")
    with pytest.raises(ConfigurationError, match="base_url"):
        Client.for_provider("azure", "k")
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    azure = Client.for_provider("azure", "k", base_url="https://r.openai.azure.com", model="gpt")
    assert azure.base_url == "https://r.openai.azure.com/openai/deployments/gpt"
    with pytest.raises(ConfigurationError, match="deployment"):
        Client.for_provider("azure", "k", base_url="https://r.openai.azure.com")


@responses.activate
def test_responses_can_stand_in_for_the_server() -> None:
    responses.post("https://api.example.com/v1/chat/completions", body=chat_body("mocked"), headers=JSON)
    assert Client("https://api.example.com/v1", "k", model="m").chat("hi").text == "mocked"
    assert json.loads(responses.calls[0].request.body)["model"] == "m"


@responses.activate
def test_responses_can_stand_in_for_a_stream() -> None:
    responses.post("https://api.example.com/v1/chat/completions", body=b"".join(stream_reply("a", "b").body))
    assert Client("https://api.example.com/v1", "k", model="m").chat("hi", sink=lambda event: None).text == "ab"


def test_one_client_serves_many_threads_over_as_many_connections() -> None:
    threads = 16
    barrier = threading.Barrier(threads)
    answers: list[str] = []

    def reply(request: Any) -> Reply:
        return chat_reply(request.json()["messages"][0]["content"])

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:

        def work(name: str) -> None:
            barrier.wait(10)
            for turn in range(20):
                answers.append(client.chat(f"{name}-{turn}").text)

        workers = [threading.Thread(target=work, args=(str(n),)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert server.connections <= threads
    assert sorted(answers) == sorted(f"{n}-{turn}" for n in range(threads) for turn in range(20))


def test_streams_in_a_row_share_one_connection() -> None:
    with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
        for _ in range(20):
            assert client.chat("hi", sink=lambda event: None).text == "ab"
        assert server.connections == 1


def test_a_closed_client_closes_its_connections_and_opens_new_ones_when_asked() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, model="m")
        client.chat("hi")
        client.close()
        assert server.wait_closed()
        assert client.chat("hi").text == "ok"
        client.close()


def test_a_session_of_ones_own_stays_open() -> None:
    with ReplayServer([chat_reply()]) as server, requests.Session() as session:
        session.headers["X-Mine"] = "1"
        with Client(server.url, "k", model="m", session=session) as client:
            client.chat("hi")
        assert server.requests[0].headers["X-Mine"] == "1"
        assert server.requests[0].headers["Authorization"] == "Bearer k"
        assert session.get(server.url).status_code == 200
        assert server.connections == 1


def test_an_answer_without_a_model_is_stamped_with_the_one_asked_for() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()
    with ReplayServer([Reply(headers={**JSON, "X-Request-Id": "r-7"}, body=body)]) as server:
        answer = Client(server.url, model="asked").chat("hi")
    assert (answer.model, answer.finish_reason, answer.usage, answer.request_id) == ("asked", "unknown", None, "r-7")


@pytest.mark.parametrize(
    "name", ["X-Request-Id", "Request-Id", "X-LiteLLM-Call-Id", "Apim-Request-Id", "X-Amzn-RequestId"]
)
def test_a_request_id_under_the_names_of_servers(name: str) -> None:
    reply = Reply(headers={**JSON, name: "r-8"}, body=chat_body("x"))
    refused = Reply(status=400, headers={**JSON, name: "r-9"}, body=b'{"error": {"message": "no"}}')
    with ReplayServer([reply, refused]) as server, Client(server.url, model="m") as client:
        assert client.chat("Hi").request_id == "r-8"
        with pytest.raises(BadRequestError) as raised:
            client.chat("Hi")
        assert raised.value.request_id == "r-9"


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


def test_what_a_server_sent_with_a_call_goes_to_no_other() -> None:
    call = {**tool_call("a", "{}"), "extra_content": {"google": "sig"}}
    replies = [chat_reply(None, tool_calls=[call]), chat_reply(), chat_reply()]
    with (
        ReplayServer(replies) as server,
        Client(server.url, model="m") as home,
        Client(f"{server.url}/b", model="m") as b,
    ):
        turn = home.chat("hi").to_message()
        result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
        for client in (home, b):
            client.chat([{"role": "user", "content": "hi"}, turn, result])
    sent = [request.json()["messages"][1]["tool_calls"][0] for request in server.requests[1:]]
    assert ["extra_content" in wire for wire in sent] == [True, False]


def test_a_client_that_is_closed_while_a_call_begins_keeps_none_of_its_connections() -> None:
    class Closing(CancelToken):
        def subscribe(self, listener: Any) -> None:
            client.close()
            super().subscribe(listener)

    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, model="m")
        assert client.chat("hi", cancel=Closing()).text == "ok"
        assert server.wait_closed()


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


KEY = "sk-a-key-that-nobody-may-see"


@contextlib.contextmanager
def failing(way: str) -> Iterator[str]:
    """The URL of a server that does not answer."""
    replies = {"resets": Reply(head=b"", abort="rst"), "401": error_reply(401, f"no: {KEY}")}
    with ReplayServer([replies.get(way, Reply())]) as server:
        if way == "refuses":
            server.close()
        yield server.url


@pytest.mark.parametrize("carried", ["api_key", "headers", "userinfo"])
@pytest.mark.parametrize("way", ["refuses", "resets", "401"])
def test_variables_in_a_traceback_show_no_key(carried: str, way: str) -> None:
    with failing(way) as url:
        if carried == "userinfo":
            client = Client(url.replace("//", f"//user:{KEY}@"), model="m", max_retries=0)
        elif carried == "headers":
            client = Client(url, model="m", max_retries=0, headers={"X-Api-Key": KEY})
        else:
            client = Client(url, KEY, model="m", max_retries=0)
        for ask in (client.chat, lambda prompt: list(client.stream(prompt)), client.embed):
            with pytest.raises(APIError) as caught:
                ask("hi")
            frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            del caught
            shown = "".join(frames.format())
            assert "all_headers" in shown
            assert KEY not in shown
            assert base64.b64encode(f"user:{KEY}".encode()).decode() not in shown
            del frames, shown
        client.close()
