"""The table of known providers."""

from __future__ import annotations

import pickle
from urllib.parse import urlsplit

import attrs
import msgspec
import pytest

from openai_compat.errors import ConfigurationError
from openai_compat.providers import PROVIDERS, Provider, provider_for_url, provider_named
from openai_compat.wire.dialect import AZURE, CLOUD, GENERIC, OPEN_MODELS, OPENAI

LOCAL = {"ollama", "lmstudio", "llamacpp", "vllm"}
each = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)


@each
def test_a_provider_is_found_by_its_name_and_by_its_address(provider: Provider) -> None:
    assert provider_named(provider.name) is provider
    assert provider_named(provider.name.upper()) is provider
    parts = urlsplit(provider.base_url)
    if provider.base_url:
        assert provider_for_url(parts.hostname or "", parts.port) is provider


@each
def test_an_address_is_a_secure_one_or_of_this_machine(provider: Provider) -> None:
    parts = urlsplit(provider.base_url)
    assert provider.local is (provider.name in LOCAL)
    if provider.local:
        assert (parts.scheme, parts.hostname, parts.path) == ("http", "localhost", "/v1")
        assert provider.host == f":{parts.port}"
    elif provider.base_url:
        assert (parts.scheme, parts.hostname, parts.port) == ("https", provider.host, None)
    assert not parts.query
    assert not provider.base_url.endswith("/")


@each
def test_a_key_is_wanted_where_it_is_not_of_this_machine(provider: Provider) -> None:
    assert bool(provider.key_variable) is not provider.local
    assert not provider.key_variable or provider.key_variable.endswith("_API_KEY")


@each
def test_a_local_server_is_generic_and_no_other_is(provider: Provider) -> None:
    assert (provider.dialect is GENERIC) is provider.local


def test_dialects() -> None:
    assert PROVIDERS["openai"].dialect is OPENAI
    assert PROVIDERS["azure"].dialect is AZURE
    assert PROVIDERS["openrouter"].dialect is OPEN_MODELS
    assert PROVIDERS["mistral"].dialect is CLOUD


def test_names_addresses_and_hosts_are_unique() -> None:
    assert all(name == provider.name == name.lower() for name, provider in PROVIDERS.items())
    for field in ("base_url", "host"):
        assert len({getattr(provider, field) for provider in PROVIDERS.values()}) == len(PROVIDERS)


@pytest.mark.parametrize("name", ["", "openai2", " openai"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown provider .*known are openai, azure, ollama") as caught:
        provider_named(name)
    assert caught.value.__suppress_context__


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
