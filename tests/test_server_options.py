"""Which server is meant, and which key goes there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from support.replay import JSON, ReplayServer, Reply
from support.wire_bodies import error_reply

from openai_compat import Client, ConfigurationError, server_options
from openai_compat.providers import PROVIDERS, Provider
from openai_compat.server_options import (
    environment_server,
    key_for_url,
    local_providers,
    local_server,
    named_server,
)

GROQ = "https://api.groq.com/openai/v1"
ELSEWHERE = "http://elsewhere.example/v1"
OF_OPENAI, OF_GROQ, GIVEN = "the-key-of-openai", "the-key-of-groq", "a-key-that-is-given"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {known.key_variable for known in PROVIDERS.values()}
    for name in os.environ:
        if name in variables or name.startswith(("OPENAI_", "AZURE_", "OLLAMA_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture(name="keys")
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OF_OPENAI)
    monkeypatch.setenv("GROQ_API_KEY", OF_GROQ)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("options", "base_url", "key"),
    [
        ({"provider": "openai"}, "https://api.openai.com/v1", OF_OPENAI),
        ({"provider": "groq"}, GROQ, OF_GROQ),
        ({"provider": "GROQ"}, GROQ, OF_GROQ),
        ({"provider": "groq", "api_key": GIVEN}, GROQ, GIVEN),
        ({"provider": "groq", "base_url": ELSEWHERE}, ELSEWHERE, OF_GROQ),
        ({"provider": "ollama"}, "http://localhost:11434/v1", None),
        ({"provider": "ollama", "base_url": ELSEWHERE}, ELSEWHERE, None),
        ({"provider": "mine", "base_url": ELSEWHERE}, ELSEWHERE, OF_OPENAI),
        ({"base_url": GROQ}, GROQ, OF_GROQ),
        ({"base_url": ELSEWHERE}, ELSEWHERE, OF_OPENAI),
        ({"base_url": ELSEWHERE, "api_key": GIVEN}, ELSEWHERE, GIVEN),
    ],
    ids=str,
)
def test_a_server_that_is_named_gets_its_own_key(options: dict[str, Any], base_url: str, key: str | None) -> None:
    found = named_server(options)
    assert found is not None
    assert (found["base_url"], found["api_key"]) == (base_url, key)
    assert Client(**found).base_url == base_url


def test_the_key_of_another_never_goes_to_a_known_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OF_OPENAI)
    assert key_for_url(GROQ) is None
    assert key_for_url("http://127.0.0.1:11434/v1") == OF_OPENAI
    with pytest.raises(ConfigurationError, match="groq needs a key: set GROQ_API_KEY, or give api_key="):
        named_server({"provider": "groq"})


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("options", [{"base_url": ELSEWHERE}, {"base_url": ELSEWHERE, "provider": "groq"}], ids=str)
def test_without_keys_for_urls_a_base_url_gets_the_key_that_is_given(options: dict[str, Any]) -> None:
    assert named_server(options, keys_for_urls=False) == options
    assert named_server({**options, "api_key": GIVEN}, keys_for_urls=False) == {**options, "api_key": GIVEN}
    groq = named_server({"provider": "groq"}, keys_for_urls=False)
    assert groq is not None
    assert groq["api_key"] == OF_GROQ


def test_what_names_nothing() -> None:
    assert named_server({"model": "m"}) is None
    assert environment_server({"model": "m"}) is None


@pytest.mark.parametrize(
    ("environment", "options", "found"),
    [
        (
            {"OPENAI_BASE_URL": ELSEWHERE, "OPENAI_API_KEY": OF_OPENAI, "GROQ_API_KEY": OF_GROQ},
            {},
            {"base_url": ELSEWHERE, "api_key": OF_OPENAI},
        ),
        (
            {"OPENAI_BASE_URL": ELSEWHERE, "OPENAI_API_KEY": OF_OPENAI},
            {"api_key": GIVEN, "provider": "vllm"},
            {"base_url": ELSEWHERE, "api_key": GIVEN, "provider": "vllm"},
        ),
        (
            {"OPENAI_BASE_URL": ELSEWHERE, "OPENAI_API_KEY": OF_OPENAI},
            {"api_key": None},
            {"base_url": ELSEWHERE, "api_key": None},
        ),
        (
            {"OLLAMA_HOST": "box", "GROQ_API_KEY": OF_GROQ},
            {"max_retries": 0},
            {"base_url": GROQ, "api_key": OF_GROQ, "provider": "groq", "max_retries": 0},
        ),
        (
            {"OLLAMA_HOST": "box", "OPENAI_MODEL": "m"},
            {},
            {"base_url": "http://box:11434/v1", "api_key": None, "provider": "ollama", "model": "m"},
        ),
        (
            {"OPENAI_API_KEY": OF_OPENAI, "GROQ_API_KEY": OF_GROQ, "OPENAI_MODEL": "m"},
            {"provider": "groq", "model": "mine"},
            {"base_url": GROQ, "api_key": OF_GROQ, "provider": "groq", "model": "mine"},
        ),
    ],
)
def test_what_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], options: dict[str, Any], found: dict[str, Any]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_server(options) == found


@pytest.mark.parametrize(
    ("options", "base_url"),
    [
        ({"base_url": ELSEWHERE, "provider": "vllm"}, ELSEWHERE),
        ({"provider": "vllm"}, "http://localhost:8000/v1"),
        ({"provider": "", "base_url": None}, "http://from-the-environment.example/v1"),
    ],
    ids=str,
)
def test_what_is_named_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], base_url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://from-the-environment.example/v1")
    assert server_options.server_options(options)["base_url"] == base_url


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ({"base_url": "--base-url"}, ["needs a key: set GROQ_API_KEY", "address: give --base-url", "TOKEN_BEDROCK"]),
        (
            {"base_url": "LLM_BASE_URL", "api_key": "LLM_API_KEY", "local": "LLM_LOCAL = True"},
            ["or give LLM_API_KEY", "give LLM_BASE_URL", "LLM_LOCAL = True looks for one on this machine"],
        ),
    ],
)
def test_errors_spell_options_as_they_are_given(spelling: dict[str, str], said: list[str]) -> None:
    for options, part in zip([{"provider": "groq"}, {"provider": "azure"}, {}], said, strict=True):
        with pytest.raises(ConfigurationError) as error:
            server_options.server_options(options, spelling=spelling)
        assert part in str(error.value)
        assert ("=True" in str(error.value)) is False


# On this machine.


def listing(*names: str) -> Reply:
    return Reply(headers=JSON, body=json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())


@pytest.fixture(name="others")
def _others(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ReplayServer]]:
    """What else may be on the well-known ports: nothing, a website, a server without a model, one that wants a key."""
    with (
        ReplayServer([]) as gone,
        ReplayServer([Reply(status=404, body=b"<html>")]) as website,
        ReplayServer([listing()]) as empty,
        ReplayServer([error_reply(401)]) as locked,
    ):
        gone.close()
        found = {"gone": gone, "website": website, "empty": empty, "locked": locked}
        monkeypatch.setattr(server_options, "local_providers", lambda: rows(found))
        yield found


def rows(servers: dict[str, ReplayServer]) -> list[Provider]:
    return [Provider(name, f"{server.url}/v1") for name, server in servers.items()]


def test_the_first_server_with_a_model_is_found_with_one_request(
    others: dict[str, ReplayServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ReplayServer([listing("nomic-embed-text", "llama")]) as server, ReplayServer([listing("late")]) as late:
        namesake = Provider("namesake", f"{others['locked'].url}/v1")  # as localai has llama.cpp's port
        found = [*rows(others), namesake, *rows({"ours": server, "late": late})]
        monkeypatch.setattr(server_options, "local_providers", lambda: found)
        chosen = local_server({"max_retries": 5}, Client)
        counted = {name: len(one.requests) for name, one in [*others.items(), ("ours", server), ("late", late)]}
    ours = {"base_url": f"{server.url}/v1", "provider": "ours", "model": "llama"}
    assert chosen == {"max_retries": 5, **ours}
    assert counted == {"gone": 0, "website": 1, "empty": 1, "locked": 1, "ours": 1, "late": 0}
    locked = f"locked at {others['locked'].url}/v1 asks for a key; to use it, give base_url="
    assert [record.getMessage() for record in caplog.records] == [locked]


@pytest.mark.parametrize(
    ("options", "purpose", "model"),
    [
        ({}, "chat", "llama"),
        ({}, "embed", "nomic-embed-text"),
        ({}, None, None),
        ({"model": "mine"}, "chat", "mine"),
        ({"model": None}, "chat", "llama"),
    ],
)
def test_a_server_that_is_found_comes_with_a_model(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], purpose: Any, model: str | None
) -> None:
    with ReplayServer([listing("nomic-embed-text", "llama")]) as server:
        monkeypatch.setattr(server_options, "local_providers", lambda: rows({"ours": server}))
        found = local_server(options, Client, purpose=purpose)
    assert found is not None
    assert found["model"] == model


@pytest.mark.usefixtures("keys")
def test_a_server_that_is_found_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([listing("llama")]) as server:
        monkeypatch.setattr(server_options, "local_providers", lambda: rows({"ours": server}))
        session = requests.Session()
        session.headers["Authorization"] = GIVEN
        held = {"auth": ("me", GIVEN), "headers": {"Authorization": GIVEN}, "session": session}
        found = local_server({"api_key": GIVEN, **held}, Client)
        assert found is not None
        with Client(**found) as client:
            client.models()
    assert len(server.requests) == 2
    assert all("Authorization" not in request.headers for request in server.requests)


def test_no_port_is_looked_at_unasked(others: dict[str, ReplayServer]) -> None:
    with pytest.raises(ConfigurationError, match=r"the environment names no server.*local=True looks for one"):
        server_options.server_options({})
    assert not any(server.requests for server in others.values())


def test_no_port_is_looked_at_where_the_environment_names_a_server(
    others: dict[str, ReplayServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "box")
    assert server_options.server_options({}, local=Client)["base_url"] == "http://box:11434/v1"
    assert not any(server.requests for server in others.values())


@pytest.mark.usefixtures("others")
def test_where_no_server_has_a_model_the_error_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"no server with a model .* of this machine, and .* OPENAI_BASE_URL"):
        server_options.server_options({}, local=Client)


def test_the_usual_servers_are_looked_for_first() -> None:
    names = [known.name for known in local_providers()]
    assert names[:4] == ["ollama", "lmstudio", "llamacpp", "vllm"]


def test_the_docs_list_every_port_that_is_looked_at() -> None:
    page = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"a server on a well-known port of this machine: (.*?);", page, re.DOTALL)
    assert re.findall(r"\((\d+)\)", listed) == [str(urlsplit(known.base_url).port) for known in local_providers()]
