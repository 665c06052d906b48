"""Which server is meant: the one that is named, or else the environment's, or else one that runs on this machine.

Options are arguments of ``Client``. Each function here returns them completed by ``base_url``, ``api_key`` and
``provider``, or None where it finds no server. Which key goes where:

- a known provider that is named, or whose key variable is set, gets its own key;
- a base URL gets the key of the provider known to be there, and any other ``OPENAI_API_KEY``, as is the custom;
  so does ``OPENAI_BASE_URL``, where a provider whose variable is not set gets ``OPENAI_API_KEY`` too, unless it is
  one that OpenAI made;
- a server that is found on a port of this machine gets none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .credentials import EnvironmentKey, key_from, masked_options, masked_url
from .errors import APIError, AuthenticationError, ConfigurationError
from .providers import PROVIDERS, Provider, provider_for_url, provider_named, refuse_provider
from .transport import Endpoint
from .wire.models import first_model

log: logging.Logger = logging.getLogger("openai_compat")

Options = dict[str, Any]
Purpose = Literal["chat", "embed"]
"""What a model is wanted for."""

IN_PYTHON = {"base_url": "base_url=", "api_key": "api_key=", "local": "local=True"}
"""How an error spells the options that would help."""


def server_options(
    options: Mapping[str, Any],
    *,
    keys_for_urls: bool = True,
    local: Callable[..., Any] | None = None,
    spelling: Mapping[str, str] = IN_PYTHON,
) -> Options:
    """The options of a client for the server that they name, or else the environment, or else this machine.

    Args:
        options: ``provider`` and ``base_url`` name a server; with both, the provider says what is there.
        keys_for_urls: whether a server that is named by its base URL gets a key from the environment.
        local: ``Client``, to ask the servers on the well-known ports of this machine for their models; None looks at
            no port.
        spelling: how errors spell the options ``base_url``, ``api_key`` and ``local``; one that is missing is not
            mentioned.

    Raises:
        ConfigurationError: an unknown provider, one without a key or an address, or nothing names a server.
    """
    options = masked_options(options)
    options = {name: value for name, value in options.items() if value or name not in ("base_url", "provider")}
    found = (
        named_server(options, keys_for_urls=keys_for_urls, spelling=spelling)
        or environment_server(options, spelling=spelling)
        or (local and local_server(options, local, spelling=spelling))
    )
    return found or no_server(looked=local is not None, spelling=spelling)


def no_server(*, looked: bool, spelling: Mapping[str, str] = IN_PYTHON) -> Options:
    """Say that there is none.

    Args:
        looked: whether the ports of this machine were looked at.
    """
    variables = ", ".join(known.key_variable for known in PROVIDERS.values() if known.key_variable)
    message = f"the environment names no server: set OPENAI_BASE_URL, or one of {variables}"
    if looked:
        message = f"no server with a model answers on the well-known ports of this machine, and {message}"
    elif "local" in spelling:
        message += f"; {spelling['local']} looks for one on this machine"
    raise ConfigurationError(message)


def named_server(
    options: Mapping[str, Any], *, keys_for_urls: bool = True, spelling: Mapping[str, str] = IN_PYTHON
) -> Options | None:
    """The server that ``provider`` or ``base_url`` names.

    Raises:
        ConfigurationError: an unknown provider without a base URL, or one without a key or an address.
    """
    base_url, name = options.get("base_url"), options.get("provider")
    if base_url and not keys_for_urls:
        return dict(options)
    if name and (not base_url or name.lower() in PROVIDERS):
        return provider_server(name, options, spelling=spelling)
    if base_url:
        return {**options, "api_key": options.get("api_key") or key_for_url(base_url)}
    return None


def provider_server(name: str, options: Mapping[str, Any], *, spelling: Mapping[str, str] = IN_PYTHON) -> Options:
    """The server of a provider of the table: with the key of its variable, at its address or ``base_url``.

    Raises:
        ConfigurationError: an unknown provider, or one without a key or an address.
    """
    known = provider_named(name)
    base_url = masked_url(options.get("base_url") or known.address(os.environ))
    if not base_url:
        raise ConfigurationError(f"{known.name} has no common address: give {spelling['base_url']}")
    if known.name == "azure" and "?" not in base_url and (version := os.environ.get("OPENAI_API_VERSION")):
        base_url = masked_url(f"{base_url}?api-version={version}")
    key = options.get("api_key") or (key_from(known.key_variable) if known.key_variable else None)
    if known.key_variable and not key and "auth" not in options and "session" not in options:
        given = f", or give {spelling['api_key']}" if "api_key" in spelling else ""
        raise ConfigurationError(f"{known.name} needs a key: set {known.key_variable}{given}")
    return {**options, "base_url": base_url, "api_key": key, "provider": known.name}


def key_for_url(base_url: str) -> EnvironmentKey | None:
    """The key of the provider known to be there; for any other ``OPENAI_API_KEY``.

    Raises:
        ConfigurationError: a base URL without scheme or host.
    """
    refuse_provider(base_url)
    endpoint = Endpoint.parse(base_url)
    known = provider_for_url(endpoint.host, endpoint.port)
    return key_from((known and known.key_variable) or "OPENAI_API_KEY")


def environment_server(options: Mapping[str, Any], *, spelling: Mapping[str, str] = IN_PYTHON) -> Options | None:
    """The server that the environment names.

    In this order: ``OPENAI_BASE_URL``, with the key of the provider there or else ``OPENAI_API_KEY``, the provider
    whose key variable is set, ``OLLAMA_HOST``. ``OPENAI_MODEL`` is the model. What ``options`` has goes before what
    the environment says.

    Raises:
        ConfigurationError: the provider has no address.
    """
    options = _with_model(options)
    if base_url := masked_url(os.environ.get("OPENAI_BASE_URL")):
        named = options.get("base_url")
        key = key_for_url(named or base_url)
        if not (key or named) and (other := key_from("OPENAI_API_KEY")) and not _made_by_openai(other):
            key = other  # the two variables were set for each other
        return {"api_key": key, **options, "base_url": named or base_url}
    with_key = (known.name for known in PROVIDERS.values() if known.key_variable and os.environ.get(known.key_variable))
    name = options.get("provider") or next(with_key, os.environ.get("OLLAMA_HOST") and "ollama")
    return provider_server(name, options, spelling=spelling) if name else None


_MAY_HOLD_KEYS = ("api_key", "auth", "headers", "session")


def local_server(
    options: Mapping[str, Any],
    client: Callable[..., Any],
    *,
    purpose: Purpose | None = "chat",
    spelling: Mapping[str, str] = IN_PYTHON,
) -> Options | None:
    """The first server on a well-known port of this machine that lists a model: other programs listen there too.

    Each that accepts a connection is asked for its models, once, with a second to answer. It is sent no key: what may
    hold one (``api_key``, ``auth``, ``headers``, ``session``) was meant for somebody else, and is not kept.

    Args:
        client: ``Client``, to ask with.
        purpose: what the model has to fit, where neither ``options`` nor ``OPENAI_MODEL`` names one; None takes none.
    """
    options = {name: value for name, value in _with_model(options).items() if name not in _MAY_HOLD_KEYS}
    asked: set[str] = set()
    for known in local_providers():
        if known.base_url in asked or not listens(known.base_url):
            continue
        asked.add(known.base_url)
        try:
            with client(known.base_url, provider=known.name, max_retries=0) as probe:
                models = probe.models(timeout=1.0)
        except AuthenticationError:
            log.warning("%s at %s asks for a key; to use it, give %s", known.name, known.base_url, spelling["base_url"])
        except APIError:
            pass
        else:
            if models:
                model = options.get("model") or (purpose and first_model(models, embeds=purpose == "embed"))
                return {**options, "base_url": known.base_url, "provider": known.name, "model": model}
    return None


def local_providers() -> list[Provider]:
    """The providers that may listen on a well-known port of this machine."""
    return [known for known in PROVIDERS.values() if known.local]


def listens(base_url: str) -> bool:
    """Whether something accepts connections there."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(base_url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=0.2).close()
    except OSError:
        return False
    return True


def _made_by_openai(key: str) -> bool:
    return key.startswith(("sk-proj-", "sk-svcacct-", "sk-admin-")) or "T3BlbkFJ" in key


def _with_model(options: Mapping[str, Any]) -> Options:
    model = os.environ.get("OPENAI_MODEL")
    return {"model": model, **options} if model else dict(options)
