"""Calls with choice, regex, grammar and response_mode: what the server sees, and what the caller gets."""

from __future__ import annotations

import json
from typing import Any, Literal

import attrs
import pytest
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, chunk, error_reply, stream_reply, tool_call

from openai_compat import (
    BadRequestError,
    Client,
    ConfigurationError,
    Constraints,
    LocalServer,
    ParsedResponse,
    ResponseTypeError,
    ToolSpec,
)
from openai_compat.wire.dialect import VLLM


@attrs.frozen
class Person:
    name: str


def with_logprobs(text: str, **likely: float) -> Reply:
    body = json.loads(chat_body(text))
    top = [{"token": token, "bytes": list(token.encode()), "logprob": logprob} for token, logprob in likely.items()]
    body["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return Reply(headers=JSON, body=json.dumps(body).encode())


def asked(server: ReplayServer, *names: str) -> list[dict[str, Any]]:
    return [{name: request.json().get(name) for name in names} for request in server.requests]


def test_a_choice_is_the_text_of_the_answer() -> None:
    with ReplayServer([chat_reply('{"value": "bad"}')]) as server, Client(server.url, model="m") as client:
        answer = client.chat("I hate it.", choice=["good", "bad"])
    assert answer.text == "bad"
    assert isinstance(answer, ParsedResponse)
    schema = server.requests[0].json()["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"value": {"type": "string", "enum": ["good", "bad"]}}


def test_a_known_server_is_asked_in_its_own_words() -> None:
    with (
        ReplayServer([chat_reply("bad")]) as server,
        Client(server.url, provider="vllm", model="m") as client,
    ):
        assert client.chat("I hate it.", choice=["good", "bad"]).text == "bad"
        assert client.stream("hi", choice=["good", "bad"]).until_done().text == "bad"
        assert client.submit("hi", regex="b.d").result(10).text == "bad"
        assert [result.response.text for result in client.map(["hi"], choice=["bad"]) if result.response] == ["bad"]
        assert client.chat("hi", grammar="g").text == "bad"
    assert asked(server, "structured_outputs") == [
        {"structured_outputs": {"choice": ["good", "bad"]}},
        {"structured_outputs": {"choice": ["good", "bad"]}},
        {"structured_outputs": {"regex": "b.d"}},
        {"structured_outputs": {"choice": ["bad"]}},
        {"structured_outputs": {"grammar": "g"}},
    ]


def test_a_port_alone_does_not_say_which_fields_a_server_has() -> None:
    guessed, named = Client("http://localhost:8000/v1"), Client("http://localhost:8000/v1", provider="vllm")
    assert guessed.provider == named.provider == "vllm"
    assert guessed._dialect.constraints == Constraints(grammar="structured_outputs")
    assert (guessed._dialect.tokenizer, named._dialect.tokenizer) == ("ask", "vllm")
    assert named._dialect.constraints == VLLM.constraints


@pytest.mark.parametrize("call", ["chat", "stream", "submit"])
def test_what_cannot_be_asked_is_refused_and_nothing_is_sent(call: str) -> None:
    with ReplayServer([]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ConfigurationError, match="takes no grammar"):
            getattr(client, call)("hi", grammar="root ::= x")
        with pytest.raises(ConfigurationError, match="cannot be"):
            client.chat("hi", response_type=Person, choice=["a"])
        assert not server.requests


def test_an_answer_that_is_none_of_them_is_asked_for_again() -> None:
    with ReplayServer([chat_reply("fine"), chat_reply("good")]) as server, Client(server.url, model="m") as client:
        assert client.chat("hi", choice=["good", "bad"], repair=1).text == "good"
    wish = server.requests[1].json()["messages"][-1]["content"]
    assert '"enum":["bad","good"]' in wish
    with ReplayServer([chat_reply("fine")]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ResponseTypeError) as raised:
            client.chat("hi", choice=["good", "bad"])
        assert raised.value.partial is not None
        assert raised.value.partial.text == "fine"


def test_a_journal_is_read_as_it_was_asked(tmp_path: Any) -> None:
    with ReplayServer([chat_reply('{"value": "bad"}')]) as server, Client(server.url, model="m") as client:
        for _ in range(2):
            (result,) = client.map(["hi"], choice=["good", "bad"], journal=tmp_path / "run")
            assert result.response is not None
            assert result.response.text == "bad"
        assert len(server.requests) == 1


LIKELY = {"good": -0.2876820724517809, "bad": -1.3862943611198906}


def test_probabilities_are_asked_for_with_logprobs() -> None:
    with ReplayServer([with_logprobs("good", **LIKELY)]) as server, Client(server.url, model="m") as client:
        chosen = client.chat("hi", choice=["good", "bad"], logprobs=True)
        typed = client.chat("hi", response_type=Literal["good", "bad"], logprobs=True)
        plain = client.chat("hi", response_type=Literal["good", "bad"])
        client.chat("hi", logprobs=True)
    assert chosen.choice_probabilities == pytest.approx({"good": 0.75, "bad": 0.25})
    assert typed.choice_probabilities == pytest.approx({"good": 0.75, "bad": 0.25})
    assert plain.text == "good"
    assert [request["top_logprobs"] for request in asked(server, "top_logprobs")] == [20, 20, None, None]


@pytest.mark.parametrize(("provider", "most"), [("xai", 8), ("fireworks", 5), ("openai", 20), ("llamacpp", 100)])
def test_no_more_likely_tokens_are_asked_for_than_a_provider_gives(provider: str, most: int) -> None:
    with ReplayServer([with_logprobs("good", **LIKELY)]) as server:
        with Client(server.url, "k", provider=provider, model="m") as client:
            client.chat("hi", choice=["good", "bad"], logprobs=True)
    assert asked(server, "top_logprobs") == [{"top_logprobs": most}]


def test_probabilities_come_with_a_stream_too() -> None:
    top = [{"token": token, "logprob": logprob} for token, logprob in LIKELY.items()]
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    first = json.loads(chunk({"content": "good"})[6:])
    first["choices"][0]["logprobs"] = logprobs
    pieces = [b"data: " + json.dumps(first).encode() + b"\n\n", chunk({}, finish_reason="stop"), b"data: [DONE]\n\n"]
    reply = Reply(headers={"Content-Type": "text/event-stream"}, body=pieces)
    with ReplayServer([reply]) as server, Client(server.url, model="m") as client:
        answer = client.stream("hi", choice=["good", "bad"], logprobs=True).until_done()
    assert answer.choice_probabilities == pytest.approx({"good": 0.75, "bad": 0.25})


def test_without_logprobs_there_are_no_probabilities() -> None:
    with ReplayServer([chat_reply("good")]) as server, Client(server.url, model="m") as client:
        assert client.chat("hi", choice=["good"], logprobs=True).choice_probabilities is None


# response_mode

ALICE = '{"name": "Alice"}'
CALLED = chat_reply(None, tool_calls=[tool_call("output", ALICE)], finish_reason="tool_calls")


@pytest.mark.parametrize("provider", [None, "deepseek"])
@pytest.mark.parametrize(
    ("mode", "kind", "tools"),
    [
        ("json_schema", "json_schema", 0),
        ("tool", None, 1),
        ("json_object", "json_object", 0),
        ("prompt", None, 0),
    ],
)
def test_the_way_to_ask_for_a_schema_can_be_chosen(
    mode: Any, kind: str | None, tools: int, provider: str | None
) -> None:
    reply = CALLED if tools else chat_reply(ALICE)
    with ReplayServer([reply]) as server, Client(server.url, provider=provider, model="m") as client:
        assert client.chat("Alice", response_type=Person, response_mode=mode).parsed == Person("Alice")
    (body,) = [request.json() for request in server.requests]
    assert (body.get("response_format") or {}).get("type") == kind
    assert len(body.get("tools") or ()) == tools
    assert ("fits this schema" in str(body["messages"])) is (mode in ("json_object", "prompt"))


def test_a_way_that_was_chosen_is_not_left() -> None:
    refusal = error_reply(400, "response_format json_schema is not supported", param="response_format")
    with ReplayServer([refusal]) as server, Client(server.url, model="m") as client:
        with pytest.raises(BadRequestError):
            client.chat("Alice", response_type=Person, response_mode="json_schema")
        assert len(server.requests) == 1


def test_a_way_that_was_chosen_is_for_one_call() -> None:
    def reply(request: Request) -> Reply:
        if "max_tokens" in request.json():
            return error_reply(400, "Unsupported parameter: 'max_tokens'", param="max_tokens")
        return CALLED if request.json().get("tools") else chat_reply(ALICE)

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        for mode in ("tool", None):
            client.chat("Alice", response_type=Person, response_mode=mode, max_tokens=9)
    sent = [(bool(request.json().get("tools")), "max_tokens" in request.json()) for request in server.requests]
    # What was learnt beside it is kept.
    assert sent == [(True, True), (True, False), (False, False)]


def test_a_tool_for_the_answer_does_not_go_beside_others() -> None:
    with ReplayServer([stream_reply("x")]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ConfigurationError, match="beside tools"):
            client.chat("hi", response_type=Person, response_mode="tool", tools=[ToolSpec("f")])
        assert not server.requests


# The real model


def test_a_real_model_chooses(local_server: LocalServer) -> None:
    with Client(local_server.base_url, provider="llamacpp", model=local_server.model) as client:
        asking: dict[str, Any] = {"logprobs": True, "temperature": 0, "max_tokens": 40}
        prompt = "Is the sentiment good or bad? 'Terrible, awful, I want my money back.'"
        answer = client.chat(prompt, choice=["good", "bad"], **asking)
        typed = client.chat(prompt, response_type=Literal["good", "bad"], **asking)
        assert answer.text == typed.parsed == "bad"
        for probabilities in (answer.choice_probabilities, typed.choice_probabilities):
            assert probabilities is not None
            assert sum(probabilities.values()) == pytest.approx(1)
            assert 0 < probabilities["good"] < probabilities["bad"]
        bare = client.chat("Is the sky blue?", grammar='root ::= "yes" | "no"', temperature=0, max_tokens=20)
        assert bare.text in ("yes", "no")
        year = client.chat("When was 1984 written?", regex="19[0-9][0-9]", temperature=0, max_tokens=30)
        assert len(year.text) == 4
