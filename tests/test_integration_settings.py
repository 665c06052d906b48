"""Clients from the settings of a web framework."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.replay import JSON, ReplayServer, Reply
from support.wire_bodies import chat_reply

from openai_compat import Client, ConfigurationError, Timeout, server_options
from openai_compat.integrations._settings import LazyClient, client_options, make_client
from openai_compat.providers import Provider

URL = "http://localhost:9/v1"


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"BASE_URL": URL, "MODEL": "m"}, {"base_url": URL, "model": "m"}),
        ({"TIMEOUT": 5}, {"timeout": 5}),
        ({"TIMEOUT": None}, {"timeout": None}),
        ({"TIMEOUT": {"first_token": 60}}, {"timeout": Timeout(first_token=60)}),
        ({"TIMEOUT": Timeout(total=1)}, {"timeout": Timeout(total=1)}),
        ({"MAX_RETRIES": 0, "HEADERS": {"a": "b"}}, {"max_retries": 0, "headers": {"a": "b"}}),
    ],
)
def test_settings_are_the_arguments_of_a_client_in_capitals(settings: Any, options: Any) -> None:
    assert client_options(settings) == options


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"BASEURL": URL}, "unknown setting LLM_BASEURL; did you mean LLM_BASE_URL?"),
        ({"base_url": URL}, "unknown setting LLM_base_url; did you mean LLM_BASE_URL?"),
        ({"ZZZ": 1}, "unknown setting LLM_ZZZ; known are BASE_URL, API_KEY, PROVIDER"),
        ({7: 1}, "unknown setting LLM_7"),
        ({"TIMEOUT": {"frist": 1}}, "LLM_TIMEOUT must be a number of seconds, or have connect"),
        ({"TIMEOUT": {"idle": -1}}, "must be"),
        ({"BASE_URL": URL, "MAX_RETRIES": "3"}, "max_retries must be a whole number"),
        ({"BASE_URL": URL, "TIMEOUT": "soon"}, "must be"),
        ({"BASE_URL": "localhost"}, "localhost"),
        ({"BASE_URL": 80}, "LLM_BASE_URL must be a string, not 80"),
        ({"BASE_URL": URL, "MODEL": "m", "API_KEY": 12}, "key"),
        ({"BASE_URL": URL, "HEADERS": "x"}, "headers"),
        ({"PROVIDER": "nobody"}, "unknown provider 'nobody'"),
        ({"PROVIDER": "groq"}, "groq needs a key"),
        ({}, "the environment names no server"),
        ({"MODEL": "m"}, "the environment names no server"),
        ({}, "LLM_LOCAL = True looks for one on this machine"),
        ({"LOCAL": 1}, "LLM_LOCAL must be True or False, not 1"),
        ({"PROVIDER": "groq"}, "set GROQ_API_KEY, or give LLM_API_KEY"),
        ({"PROVIDER": "azure"}, "give LLM_BASE_URL"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name(settings: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_client(settings, prefix="LLM_")
    assert said in str(error.value)


def test_the_address_comes_before_the_provider_and_both_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("GROQ_API_KEY", "k")
    named = make_client({"BASE_URL": URL, "PROVIDER": "vllm"})
    assert (named.base_url, named.provider) == (URL, "vllm")
    assert make_client({"PROVIDER": "groq"}).base_url == "https://api.groq.com/openai/v1"
    assert make_client({"MODEL": "mine"}).model == "mine"
    assert make_client({}).base_url == "http://localhost:1/v1"


def test_a_base_url_gets_no_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    with ReplayServer([chat_reply()]) as server:
        make_client({"BASE_URL": server.url, "MODEL": "m"}).chat("hi")
        make_client({"BASE_URL": server.url, "MODEL": "m", "API_KEY": "sk-given-here"}).chat("hi")
    assert [request.headers.get("Authorization") for request in server.requests] == [None, "Bearer sk-given-here"]


def test_a_server_on_this_machine_is_found_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([Reply(headers=JSON, body=b'{"data": [{"id": "llama"}]}')]) as server:
        monkeypatch.setattr(server_options, "local_providers", lambda: [Provider("ours", f"{server.url}/v1")])
        with pytest.raises(ConfigurationError):
            make_client({"LOCAL": False})
        client = make_client({"LOCAL": True, "MAX_RETRIES": 0})
    assert (client.base_url, client.provider, client.model) == (f"{server.url}/v1", "ours", "llama")
    assert len(server.requests) == 1


def test_all_threads_get_one_client() -> None:
    lazy = LazyClient({"BASE_URL": URL})
    got: list[Client] = []
    barrier = threading.Barrier(8)

    def get() -> None:
        barrier.wait()
        got.append(lazy.get())

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(map(id, got))) == 1


def test_after_close_there_is_another_client() -> None:
    lazy = LazyClient({"BASE_URL": URL})
    lazy.close()
    first = lazy.get()
    lazy.close()
    assert lazy.get() is not first
