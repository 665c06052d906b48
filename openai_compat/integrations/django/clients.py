"""The clients that ``settings.OPENAI_COMPAT`` names."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections

from ..._threads import at_thread_end
from ...client import Client
from ...credentials import masked_options
from ...errors import ConfigurationError
from .._settings import NAMES, LazyClient

SETTING = "OPENAI_COMPAT"
DEFAULT = "default"


def get_client(alias: str = DEFAULT) -> Client:
    """The client of this name in the settings, one for all threads.

    ``OPENAI_COMPAT`` has the arguments of ``Client`` in capitals: ``BASE_URL``, ``API_KEY``, ``PROVIDER``, ``MODEL``,
    ``MAX_RETRIES``, ``TIMEOUT`` (seconds, or a dict like ``{"first_token": 60}``), and so on. Without ``BASE_URL`` and
    ``PROVIDER``, and without the setting, the environment names the server, as for ``Client.from_env``, and with
    ``LOCAL: True`` one on a well-known port of this machine will do. For several clients there is such a dict for each:
    ``{"default": {...}, "local": {...}}``.

    Raises:
        ConfigurationError: no such client, a setting is wrong, or nothing names a server.
    """
    with _lock:
        if not _clients:
            _clients.update((name, LazyClient(one, prefix=prefix(name))) for name, one in configured().items())
        if alias not in _clients:
            raise ConfigurationError(f"settings.{SETTING} has no client {alias!r}; there are {', '.join(_clients)}")
        lazy = _clients[alias]
    return lazy.get()


def configured() -> dict[str, Mapping[str, Any]]:
    """The settings of each client.

    Raises:
        ConfigurationError: the setting, or that of a client, is not a dict.
    """
    value = getattr(settings, SETTING, {})
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"settings.{SETTING} must be a dict, not {type(value).__name__}")
    if DEFAULT not in value:
        if value and not NAMES.keys() & value.keys() and all(isinstance(one, Mapping) for one in value.values()):
            raise ConfigurationError(f"settings.{SETTING} has several clients, and none of them is {DEFAULT!r}")
        _put_out_of_sight(value)
        return {DEFAULT: value}
    for name, one in value.items():
        if not isinstance(one, Mapping):
            raise ConfigurationError(f"settings.{SETTING}[{name!r}] must be a dict, not {type(one).__name__}")
        _put_out_of_sight(one)
    return dict(value)


def _put_out_of_sight(one: Mapping[str, Any]) -> None:
    """In place: Django's reports show all settings, and hide what is secret by its name, but not a login in a URL."""
    if isinstance(one, dict):
        one.update(masked_options(one))


def prefix(alias: str) -> str:
    """What stands before the name of a client's setting in an error."""
    several = DEFAULT in getattr(settings, SETTING, {})
    return f"{SETTING}[{alias!r}]." if several else f"{SETTING}."


_clients: dict[str, LazyClient] = {}
_lock = threading.Lock()


def _reset(*, setting: str, **signal: Any) -> None:
    """Close the clients when a test changes their settings."""
    if setting == SETTING:
        with _lock:
            for lazy in _clients.values():
                lazy.close()
            _clients.clear()


setting_changed.connect(_reset)
# A tool may query the database, on a thread that Django does not know.
at_thread_end(connections.close_all)
