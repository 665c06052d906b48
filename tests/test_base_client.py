"""Which server a client asks, what it learns of its dialect, and its connections."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses
from requests.auth import HTTPBasicAuth
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, error_reply, stream_reply, tool_call

from openai_compat import (
    APIStatusError,
    BadRequestError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    StreamEvent,
    server_options,
)
from openai_compat.providers import Provider


def test_one_builder_and_parser_serve_every_server_and_the_provider_is_stamped() -> None:
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


def test_a_provider_whose_paths_are_known_is_not_guessed_at() -> None:
    assert Client("https://api.perplexity.ai").base_url == "https://api.perplexity.ai"
    assert Client("https://api.perplexity.ai/v2").base_url == "https://api.perplexity.ai/v2"


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


def test_thoughts_that_a_server_wants_back_go_with_the_next_try() -> None:
    missing = "The `reasoning_content` in the thinking mode must be passed back to the API."
    thinking = chat_reply("<think>Add them.</think>", tool_calls=[tool_call("add", "{}")])
    with ReplayServer([thinking, error_reply(400, missing), chat_reply("3")]) as server:
        client = Client(server.url, "k", model="m", max_retries=0)
        call = client.chat("1 + 2?")
        result = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
        assert client.chat([{"role": "user", "content": "1 + 2?"}, call.to_message(), result]).text == "3"
        sent = [request.json()["messages"][1].get("reasoning_content") for request in server.requests[1:]]
    assert sent == [None, "Add them."]


def test_an_answer_by_call_is_read_as_text() -> None:
    def reply(request: Request) -> Reply:
        if "response_format" in request.json():
            return error_reply(400, "response_format is not supported", param="response_format")
        return chat_reply(tool_calls=[tool_call("output", '{"a": 1}')], finish_reason="tool_calls")

    with ReplayServer(reply) as server:
        answer = Client(server.url, "k", model="m", max_retries=0).chat("hi", response_schema={"type": "object"})
        assert (answer.text, answer.tool_calls, len(server.requests)) == ('{"a": 1}', (), 2)


def test_what_is_learnt_and_changes_nothing_is_not_tried() -> None:
    refused = error_reply(400, "`reasoning_effort` must be one of `low` or `high`", param="reasoning_effort")
    with ReplayServer([refused]) as server:
        client = Client(server.url, "k", provider="openai", model="m", max_retries=0)
        with pytest.raises(BadRequestError, match="must be one of"):
            client.chat("hi", reasoning_effort="low")
        assert len(server.requests) == 1


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


def test_an_environment_that_names_no_server_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"OPENAI_BASE_URL.*OPENAI_API_KEY.*local=True looks for one"):
        Client.from_env()


def test_a_server_on_this_machine_is_found_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Reply(headers=JSON, body=b'{"data": [{"id": "embed"}, {"id": "llama"}]}')
    with ReplayServer([listing, chat_reply()]) as server:
        monkeypatch.setattr(server_options, "local_providers", lambda: [Provider("ours", f"{server.url}/v1")])
        with pytest.raises(ConfigurationError):
            Client.from_env()
        with Client.from_env(local=True, api_key="for-somebody-else") as client:
            assert client.chat("hi").provider == "ours"
        asked = [(request.path, "Authorization" in request.headers) for request in server.requests]
        assert asked == [("/v1/models", False), ("/v1/chat/completions", False)]
        assert server.requests[1].json()["model"] == "llama"
        monkeypatch.setenv("OPENAI_BASE_URL", "http://named.example/v1")
        assert Client.from_env(local=True).base_url == "http://named.example/v1"
        assert len(server.requests) == 2


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


def listing(*names: str, missing: bool = False) -> Callable[[Request], Reply]:
    """A server that lists models, and says in its answer which of them it was asked for."""

    def reply(request: Request) -> Reply:
        if request.path.endswith("/models"):
            body = json.dumps({"data": [{"id": name} for name in names]}).encode()
            return error_reply(404, "no such path") if missing else Reply(headers=JSON, body=body)
        asked = request.json()
        if request.path == "/v1/embeddings":
            return Reply(headers=JSON, body=json.dumps({"data": [{"embedding": [1.0], "index": 0}]}).encode())
        return stream_reply(asked["model"]) if asked["stream"] else chat_reply(asked["model"])

    return reply


def paths(server: ReplayServer) -> list[str]:
    return [request.path.removeprefix("/v1") for request in server.requests]


CHAT, MODELS = "/chat/completions", "/models"


def test_a_server_on_this_machine_is_asked_once_for_its_first_model() -> None:
    with ReplayServer(listing("nomic-embed", "qwen", "llama")) as server, Client(server.url) as client:
        assert client.chat("hi").text == "qwen"
        assert client.chat("hi", sink=print).text == "qwen"
        assert client.stream("hi").until_done().text == "qwen"
        assert client.submit("hi").result(10).text == "qwen"
        assert client.chat("hi", model="llama").text == "llama"
        assert client.conversation().say("hi").text == "qwen"
        assert paths(server) == [MODELS, *[CHAT] * 6]
        assert client.embed("hi").model == "nomic-embed"
        client.embed("hi")
        assert paths(server)[7:] == [MODELS, "/embeddings", "/embeddings"]
        assert client.model is None


@pytest.mark.parametrize(
    ("names", "missing", "told"),
    [((), False, "has no model yet: load one there"), ((), True, "no model: give model= .*OPENAI_MODEL.*lists none")],
    ids=["none", "no list"],
)
def test_a_server_that_lists_no_model_is_not_asked_for_an_answer(
    names: tuple[str, ...], missing: bool, told: str
) -> None:
    with ReplayServer(listing(*names, missing=missing)) as server, Client(server.url, max_retries=0) as client:
        for ask in (client.chat, client.stream, client.embed, lambda text: client.submit(text).result(10)):
            with pytest.raises(ConfigurationError, match=told):
                ask("hi")
        assert set(paths(server)) == {MODELS}


@pytest.mark.parametrize(
    "options",
    [{"api_key": "k"}, {"auth": HTTPBasicAuth("a", "b")}, {"base_url": "http://192.0.2.1:9"}],
    ids=["a key", "a login", "another machine"],
)
def test_no_model_is_picked_where_it_may_cost_money(options: dict[str, Any]) -> None:
    with ReplayServer(listing("a")) as server:
        client = Client(**{"base_url": server.url, **options})
        for ask in (client.chat, client.stream, client.submit, client.embed):
            with pytest.raises(ConfigurationError, match="no model: give model= .*OPENAI_MODEL"):
                ask("hi")
        assert not server.requests


def test_what_cannot_be_asked_is_told_before_a_model_is_picked() -> None:
    with ReplayServer(listing("a")) as server, Client(server.url) as client:
        for ask in (client.chat, client.stream, client.submit, client.embed):
            with pytest.raises(ConfigurationError, match="nothing to ask|is empty"):
                ask("")
        assert not server.requests


def test_a_token_ends_the_picking_of_a_model() -> None:
    token = CancelToken()

    def silent(request: Request) -> Reply:
        token.cancel()
        assert request.closed.wait(10)
        return Reply()

    with ReplayServer(silent) as server, Client(server.url) as client:
        with pytest.raises(Cancelled):
            client.chat("hi", cancel=token)
        assert paths(server) == [MODELS]
