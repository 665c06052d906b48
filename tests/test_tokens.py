"""Counting tokens: who is asked, in which words, and what is said where nobody counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import error_reply

from openai_compat import (
    AuthenticationError,
    ChatRequest,
    Client,
    ConfigurationError,
    InternalServerError,
    LocalServer,
    TokenCount,
    ToolSpec,
)
from openai_compat.tokens import by_published_rule

MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = ToolSpec("f", "does it", {"type": "object", "properties": {"a": {"type": "string"}}})


def said(value: Any) -> Reply:
    return Reply(headers=JSON, body=json.dumps(value).encode())


def llamacpp(request: Request) -> Reply:
    if request.path == "/apply-template":
        return said({"prompt": f"<user>{request.json()['messages'][0]['content']}"})
    if request.path == "/tokenize":
        return said({"tokens": list(request.json().get("content", "").encode())})
    return error_reply(404)


def vllm(request: Request) -> Reply:
    if request.path != "/tokenize":
        return Reply(status=404, headers=JSON, body=b'{"detail": "Not Found"}')
    if not request.json().keys() & {"prompt", "messages"}:
        return error_reply(400, "prompt: field required")
    return said({"count": 7, "max_model_len": 4096, "tokens": [1] * 7})


def paths(server: ReplayServer) -> list[str]:
    return [request.path for request in server.requests]


def test_llama_cpp_is_asked_at_its_root_for_what_the_model_sees() -> None:
    with ReplayServer(llamacpp) as server, Client(f"{server.url}/v1", provider="llamacpp", model="m") as client:
        assert client.count_tokens(MESSAGES, tools=[TOOL]) == TokenCount(
            tokens=11, method="server", tokenizer="llamacpp"
        )
        assert paths(server) == ["/apply-template", "/tokenize"]
        templated, counted = (request.json() for request in server.requests)
        assert templated["messages"] == MESSAGES
        assert templated["tools"][0]["function"]["name"] == "f"
        assert counted == {"content": "<user>Hello", "add_special": True, "parse_special": True}
        assert int(client.count_tokens("Hello")) == 5
        assert server.requests[2].json() == {"content": "Hello", "add_special": False, "parse_special": False}
        assert int(client.count_tokens("")) == 0


def test_vllm_is_asked_at_its_root() -> None:
    with ReplayServer(vllm) as server, Client(f"{server.url}/v1", provider="vllm", model="m") as client:
        counted = client.count_tokens(ChatRequest("Hello", reasoning=False))
        assert (counted.tokens, counted.exact) == (7, True)
        client.count_tokens("Hello", model="n")
        assert paths(server) == ["/tokenize"] * 2
        assert server.requests[0].json() == {
            "model": "m",
            "messages": MESSAGES,
            "chat_template_kwargs": {"enable_thinking": False},
            "add_generation_prompt": True,
        }
        assert server.requests[1].json() == {"model": "n", "prompt": "Hello", "add_special_tokens": False}


@pytest.mark.parametrize("text", [True, False])
def test_an_unknown_server_is_tried_and_what_works_is_remembered(text: bool) -> None:
    prompt: Any = "Hello" if text else MESSAGES
    for server_of, first, again in (
        (llamacpp, ["/tokenize"] if text else ["/apply-template", "/tokenize"], None),
        (vllm, ["/tokenize"] * 2 if text else ["/apply-template", "/tokenize"], ["/tokenize"]),
    ):
        with ReplayServer(server_of) as server, Client(f"{server.url}/v1", model="m") as client:
            client.count_tokens(prompt)
            assert paths(server) == first
            client.count_tokens(prompt)
            assert paths(server)[len(first) :] == (again or first)


def test_where_nobody_counts_an_estimate_is_made_only_if_asked_for() -> None:
    with ReplayServer([error_reply(404)]) as server, Client(f"{server.url}/v1", model="m") as client:
        with pytest.raises(ConfigurationError, match="estimate=True"):
            client.count_tokens(MESSAGES)
        counted = client.count_tokens("x" * 40, estimate=True)
        assert (counted.tokens, counted.method, counted.exact) == (10, "estimate", False)
        assert client.count_tokens(MESSAGES, estimate=True).method == "estimate"


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (500, InternalServerError)])
def test_a_server_that_fails_is_not_one_that_does_not_count(status: int, error: type[Exception]) -> None:
    with ReplayServer([error_reply(status)]) as server:
        client = Client(f"{server.url}/v1", model="m", max_retries=0)
        with client, pytest.raises(error):
            client.count_tokens(MESSAGES, estimate=True)


@pytest.mark.parametrize(
    "reply",
    [
        said({}),
        said([]),
        said({"tokens": "x"}),
        said({"count": "7"}),
        said({"count": -7}),
        said({"count": True}),
        Reply(body=b"<p>"),
        error_reply(403),
    ],
)
def test_an_answer_that_is_no_count_is_none(reply: Reply) -> None:
    with ReplayServer([reply]) as server, Client(f"{server.url}/v1", model="m") as client:
        assert client.count_tokens("Hello", estimate=True).method == "estimate"


def test_a_fallback_counts_with_its_first_endpoint() -> None:
    with ReplayServer(vllm) as server, Client(f"{server.url}/v1", provider="vllm", model="m") as client:
        assert Client.fallback([client]).count_tokens(MESSAGES).tokens == 7


@pytest.fixture
def bytes_are_tokens(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real tiktoken, with an encoding that needs no download."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([number]): number for number in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|end|>": 256})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: encoding)
    return tiktoken


@pytest.mark.usefixtures("bytes_are_tokens")
@pytest.mark.parametrize("provider", ["openai", None])
def test_openai_models_are_counted_here(provider: str | None) -> None:
    with ReplayServer([]) as server, Client(server.url, provider=provider, model="gpt-4o") as client:
        assert client.count_tokens("<|end|>") == TokenCount(
            tokens=7, method="tiktoken", tokenizer="tiktoken" if provider else "ask"
        )
        # 3 for the answer, 3 for the message, its role and its content.
        assert client.count_tokens(MESSAGES).tokens == 3 + 3 + 4 + 5
        assert not server.requests


def test_a_model_without_tables_is_estimated(bytes_are_tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Any:
        raise KeyError(name)

    monkeypatch.setattr(bytes_are_tokens, "encoding_for_model", unknown)
    with Client("http://localhost:1", provider="openai", model="gpt-4o") as client:
        with pytest.raises(ConfigurationError):
            client.count_tokens("x")
        assert client.count_tokens("x", estimate=True).method == "estimate"


def test_the_published_rule() -> None:
    function = {
        "name": "f",
        "description": "d.",
        "parameters": {"properties": {"a": {"type": "s", "description": "x", "enum": ["p", "q"]}}},
    }
    body = {
        "messages": [
            {"role": "user", "name": "Al", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": "g"}]},
        ],
        "tools": [{"type": "function", "function": function}],
    }
    first = 3 + 4 + (1 + 2) + 2 + 1000
    second = 3 + 9 + 1
    tools = 12 + (7 + 3) + 3 + (3 + 5) + (-3 + 2 * (3 + 1))
    assert by_published_rule(body, len) == 3 + first + second + tools


# The dialect of a client


def test_a_client_takes_a_dialect_from_a_file(tmp_path: Path) -> None:
    where = tmp_path / "server.json"
    where.write_text('{"version": 1, "dialect": {"tokenizer": "vllm", "constraints": {"grammar": "ebnf"}}}')
    with ReplayServer(vllm) as server:
        for dialect in (where, str(where), json.loads(where.read_text()), {"tokenizer": "vllm"}):
            with Client(f"{server.url}/v1", model="m", dialect=dialect) as client:
                assert client.count_tokens(MESSAGES).tokens == 7
        assert paths(server) == ["/tokenize"] * 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "path of a probe"),
        ('{"dialect": []}', "Expected"),
        ('{"dialect": {"thinking": "x"}}', "thinking"),
        ('{"thinks": "x", "colour": 1}', "unknown colour"),
        ('{"version": 2, "dialect": {"colour": 1}}', "a later release"),
        ('{"version": 2, "dialect": {"tokenizer": "later"}}', "a later release"),
        ("[" * 100_000, "not JSON"),
        ('{"key_header": "X\\r\\nEvil: 1"}', "key_header"),
        ('{"key_header": ""}', "key_header"),
        ('{"max_tokens": ""}', "max_tokens"),
    ],
)
def test_a_file_that_holds_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    where = tmp_path / "server.json"
    where.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        Client("http://localhost:1", dialect=where)
    with pytest.raises(ConfigurationError, match="cannot read"):
        Client("http://localhost:1", dialect=tmp_path / "none")


# The real model


def test_a_real_server_counts_what_it_then_bills(local_server: LocalServer) -> None:
    with Client(local_server.base_url, model=local_server.model) as client:
        for tools in ([], [TOOL]):
            counted = client.count_tokens(MESSAGES, tools=tools)
            assert counted.method == "server"
            answer = client.chat(MESSAGES, tools=tools, max_tokens=1, temperature=0)
            assert answer.input_tokens == counted.tokens
