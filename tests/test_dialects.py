"""What a client sends to each provider, and how often it asks a server that refuses: counted on real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from support.replay import ReplayServer
from support.wire_bodies import chat_reply, error_reply

from openai_compat import APIStatusError, Client
from openai_compat.providers import PROVIDERS

OFF: dict[str, dict[str, Any]] = {
    "template": {"chat_template_kwargs": {"enable_thinking": False}},
    "effort": {"reasoning_effort": "none"},
    "type": {"thinking": {"type": "disabled"}},
}
AS_GIVEN = {"top_k": 3, "max_tokens": 4}
# What becomes of reasoning=False, top_k=3 and max_tokens=4.
SENT: dict[str, dict[str, Any]] = {
    "openai": {**OFF["effort"], "max_completion_tokens": 4},
    "azure": {**OFF["effort"], "max_completion_tokens": 4},
    "ollama": {**OFF["effort"], **AS_GIVEN},
    "lmstudio": {**OFF["effort"], **AS_GIVEN},
    "llamacpp": {**OFF["template"], **AS_GIVEN},
    "vllm": {**OFF["template"], **AS_GIVEN},
    "sglang": {**OFF["template"], **AS_GIVEN},
    "jan": {**OFF["template"], **AS_GIVEN},
    "koboldcpp": {**OFF["template"], **AS_GIVEN},
    "litellm": {**OFF["effort"], **AS_GIVEN},
    "tgi": {**OFF["template"], **AS_GIVEN},
    "localai": {**OFF["effort"], **AS_GIVEN},
    "openrouter": {"reasoning": {"effort": "none"}, **AS_GIVEN},
    "groq": {**OFF["effort"], "max_tokens": 4},
    "mistral": {**OFF["effort"], "max_tokens": 4},
    "deepseek": {**OFF["type"], "max_tokens": 4},
    "together": {"reasoning": {"enabled": False}, **AS_GIVEN},
    "fireworks": {**OFF["effort"], **AS_GIVEN},
    "gemini": {**OFF["effort"], "max_tokens": 4},
    "xai": {**OFF["effort"], "max_tokens": 4},
    "dashscope": {"enable_thinking": False, **AS_GIVEN},
    "zai": {**OFF["type"], "max_tokens": 4},
    "moonshot": {**OFF["type"], "max_tokens": 4},
    "minimax": {**OFF["type"], "max_completion_tokens": 4},
    "cerebras": {**OFF["effort"], "max_completion_tokens": 4},
    "sambanova": {**OFF["template"], **AS_GIVEN},
    "nvidia": {**OFF["template"], **AS_GIVEN},
    "perplexity": {**OFF["effort"], **AS_GIVEN},
    "cohere": {**OFF["effort"], "max_tokens": 4},
    "bedrock": {"reasoning_effort": "low", "max_tokens": 4},
    "huggingface": {**OFF["effort"], **AS_GIVEN},
}


def test_every_provider_has_a_row() -> None:
    assert SENT.keys() == PROVIDERS.keys()


@pytest.mark.parametrize(("provider", "wanted"), SENT.items(), ids=SENT)
def test_the_bytes_that_a_provider_is_sent(provider: str, wanted: dict[str, Any]) -> None:
    with ReplayServer([chat_reply("ok")]) as server:
        client = Client(f"{server.url}/v1", "k", provider=provider, model="m")
        assert client.chat("hi", reasoning=False, top_k=3, max_tokens=4).text == "ok"
        (request,) = server.requests
    plain = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    assert request.json() == {**plain, **wanted}


TOOLS = [{"type": "function", "function": {"name": "f"}}]
NO_TOOLS = (
    "Function tools with reasoning_effort are not supported for gpt-5.6 in /v1/chat/completions. To use them, "
    "use /v1/responses or set reasoning_effort to 'none'."
)


def test_tools_and_reasoning_that_exclude_each_other_are_asked_again_without_reasoning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replies = [error_reply(400, NO_TOOLS, param="reasoning_effort"), chat_reply("ok")]
    with ReplayServer(replies) as server:
        client = Client(server.url, "k", provider="openai", model="gpt-5.6")
        for _ in range(2):
            assert client.chat("hi", tools=TOOLS).text == "ok"
        efforts = [request.json().get("reasoning_effort") for request in server.requests]
    assert efforts == [None, "none", "none"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "reasoning together with tools" in told
    assert "reasoning=False" in told


@pytest.mark.parametrize("words", ["unknown field stream_options", "Unsupported parameter: 'max_tokens'"])
def test_a_question_that_a_server_repeats_in_its_refusal_changes_nothing_for_others(words: str) -> None:
    replies = [error_reply(400, f"Invalid prompt: '{words}'"), chat_reply("ok")]
    with ReplayServer(replies) as server:
        client = Client(server.url, "k", model="m")
        with pytest.raises(APIStatusError, match="Invalid prompt"):
            client.chat(words, max_tokens=4)
        client.chat("hi", max_tokens=4)
        assert [request.json()["max_tokens"] for request in server.requests] == [4, 4]
