"""The table of known providers."""

from __future__ import annotations

import pickle
from urllib.parse import urlsplit

import attrs
import msgspec
import pytest

from openai_compat.errors import ConfigurationError
from openai_compat.providers import PROVIDERS, Provider, azure_base_url, provider_for_url, provider_named
from openai_compat.wire.dialect import AZURE, GENERIC, MISTRAL, OPENAI, OPENROUTER

LOCAL = {"ollama", "lmstudio", "llamacpp", "vllm", "sglang", "jan", "koboldcpp", "litellm", "tgi", "localai"}
BY_NAME_ALONE = {"tgi", "localai"}
each = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)


@each
def test_a_provider_is_found_by_its_name_and_by_its_address(provider: Provider) -> None:
    assert provider_named(provider.name) is provider
    assert provider_named(provider.name.upper()) is provider
    parts = urlsplit(provider.base_url)
    assert (not provider.hosts) is (provider.name in BY_NAME_ALONE)
    if provider.base_url and provider.hosts:
        assert provider_for_url(parts.hostname or "", parts.port) is provider
    for host in provider.hosts:
        name, _, port = host.replace("*", "x").partition(":")
        assert provider_for_url(name or "localhost", int(port) if port else None) is provider


@each
def test_an_address_is_a_secure_one_or_of_this_machine(provider: Provider) -> None:
    parts = urlsplit(provider.base_url)
    assert provider.local is (provider.name in LOCAL)
    if provider.local:
        assert (parts.scheme, parts.hostname, parts.path) == ("http", "localhost", "/v1")
        assert provider.hosts in ((f":{parts.port}",), ())
    elif provider.base_url:
        assert (parts.scheme, parts.port) == ("https", None)
    assert not parts.query
    assert not provider.base_url.endswith("/")


@each
def test_a_key_is_wanted_where_it_is_not_of_this_machine(provider: Provider) -> None:
    assert bool(provider.key_variable) is not provider.local
    assert not provider.key_variable or provider.key_variable.endswith(("_API_KEY", "_BEARER_TOKEN_BEDROCK"))


@pytest.mark.parametrize("variable", ["HF_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_API_KEY"])
def test_a_variable_that_is_set_for_other_purposes_names_no_provider(variable: str) -> None:
    assert variable not in {provider.key_variable for provider in PROVIDERS.values()}


@each
def test_a_local_server_takes_what_local_servers_take(provider: Provider) -> None:
    if provider.local:
        assert not provider.dialect.leaves_out


def test_dialects() -> None:
    assert PROVIDERS["openai"].dialect is OPENAI
    assert PROVIDERS["azure"].dialect is AZURE
    assert PROVIDERS["jan"].dialect is GENERIC
    assert PROVIDERS["openrouter"].dialect is OPENROUTER
    assert PROVIDERS["mistral"].dialect is MISTRAL


def test_names_addresses_and_hosts_are_unique() -> None:
    assert all(name == provider.name == name.lower() for name, provider in PROVIDERS.items())
    hosts = [host for provider in PROVIDERS.values() for host in provider.hosts]
    assert len(set(hosts)) == len(hosts)
    addresses = [provider.base_url for provider in PROVIDERS.values() if provider.hosts]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("name", ["", "openai2", " openai"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown provider .*known are openai, azure, ollama") as caught:
        provider_named(name)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "meant"), [("grok", "groq"), ("OpenRoute", "openrouter"), ("LM-Studio", "lmstudio")])
def test_a_misspelt_name_is_told_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"unknown provider '{name}' \(did you mean {meant}\?\); known are"):
        provider_named(name)


ADDRESSES: dict[str, tuple[str, int | None, str | None]] = {
    "azure": ("mine.openai.azure.com", None, "azure"),
    "azure-port": ("mine.openai.azure.com", 443, "azure"),
    "openai-port": ("api.openai.com", 443, "openai"),
    "loopback": ("127.0.0.1", 11434, "ollama"),
    "loopback-6": ("::1", 8080, "llamacpp"),
    "other-machine": ("192.168.0.7", 11434, None),
    "other-port": ("localhost", 9999, None),
    "no-port": ("localhost", None, None),
    "lookalike": ("api.openai.com.evil.example", None, None),
    "prefix": ("notapi.openai.com", None, None),
    "azure-lookalike": ("mine.openai.azure.com.evil.example", None, None),
    "azure-alone": ("openai.azure.com", None, None),
    "region-of-openai": ("eu.api.openai.com", None, "openai"),
    "dashscope": ("dashscope.aliyuncs.com", None, "dashscope"),
    "bigmodel": ("open.bigmodel.cn", None, "zai"),
    "bedrock": ("bedrock-runtime.eu-central-1.amazonaws.com", None, "bedrock"),
    "bedrock-lookalike": ("bedrock-runtime.eu-central-1.amazonaws.com.evil.example", None, None),
    "bedrock-overlap": ("bedrock-runtime.amazonaws.com", None, None),
    "other-of-amazon": ("s3.eu-central-1.amazonaws.com", None, None),
    "port-as-host": (":11434", None, None),
    "star": ("*.openai.azure.com", None, "azure"),
    "nothing": ("", None, None),
}


@pytest.mark.parametrize(("host", "port", "name"), ADDRESSES.values(), ids=ADDRESSES)
def test_provider_for_url(host: str, port: int | None, name: str | None) -> None:
    found = provider_for_url(host, port)
    assert (found and found.name) == name


@each
def test_a_provider_survives_pickle_and_json(provider: Provider) -> None:
    assert pickle.loads(pickle.dumps(provider)) == provider
    assert msgspec.json.decode(msgspec.json.encode(provider), type=Provider) == provider


def test_a_provider_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PROVIDERS["openai"].name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("base", "query", "model", "wanted"),
    [
        ("https://a.openai.azure.com/v1", "", None, "https://a.openai.azure.com/openai/v1"),
        ("https://a.openai.azure.com/own/path", "api-version=1", None, "https://a.openai.azure.com/own/path"),
        (
            "https://a.openai.azure.com/v1",
            "api-version=1",
            "a b",
            "https://a.openai.azure.com/openai/deployments/a%20b",
        ),
    ],
)
def test_the_address_of_azures_api(base: str, query: str, model: str | None, wanted: str) -> None:
    assert azure_base_url(base, query, model) == wanted


@pytest.mark.parametrize(
    ("model", "problem"),
    [(None, "Azure with api-version needs model="), ("..", "'..' cannot be the name of a deployment")],
)
def test_a_deployment_needs_a_name(model: str | None, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        azure_base_url("https://a.openai.azure.com/v1", "api-version=1", model)
