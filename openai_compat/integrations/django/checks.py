"""System checks of ``settings.OPENAI_COMPAT``, which ask no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core import checks

from ...errors import ConfigurationError
from ...providers import PROVIDERS
from .._settings import client_options, make_client
from .clients import configured, prefix

KEY_HINT = "Set BASE_URL or PROVIDER, and read the key from the environment, as in os.environ.get('OPENAI_API_KEY')."


def check_settings(**options: Any) -> list[checks.CheckMessage]:
    """What is wrong with each client's settings: errors for what cannot work, warnings for what may yet be set."""
    try:
        clients = configured()
    except ConfigurationError as error:
        return [checks.Error(str(error), id="openai_compat.E001")]
    return [message for alias, one in clients.items() for message in _check_client(alias, one)]


def _check_client(alias: str, one: Mapping[str, Any]) -> list[checks.CheckMessage]:
    try:
        client_options(one, prefix=prefix(alias))
    except ConfigurationError as error:
        return [checks.Error(str(error), id="openai_compat.E002")]
    if one.get("LOCAL") and not (one.get("BASE_URL") or one.get("PROVIDER")):
        # No port is looked at here: the other settings are checked with an address that nobody asks.
        one = {**one, "BASE_URL": "http://localhost"}
    try:
        make_client(one, prefix=prefix(alias)).close()
    except ConfigurationError as error:
        message = f"the client {alias!r} cannot be made: {error}"
        if one.get("BASE_URL") or str(one.get("PROVIDER") or "openai").lower() not in PROVIDERS:
            return [checks.Error(message, id="openai_compat.E003")]
        # A key may be missing where a container is built, and be set where it runs.
        return [checks.Warning(message, hint=KEY_HINT, id="openai_compat.W001")]
    return []
