"""Clients from the settings of a web framework: the arguments of ``Client``, named in capitals."""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Mapping
from typing import Any

from ..client import Client
from ..errors import ConfigurationError
from ..timeouts import Timeout

NAMES = {name.upper(): name for name in inspect.signature(Client).parameters}


def client_options(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """The arguments of ``Client`` that settings stand for.

    Args:
        settings: such as ``{"BASE_URL": "http://localhost:8080/v1", "TIMEOUT": {"first_token": 60}}``.
        prefix: what the framework has in front of each name, for the errors.

    Raises:
        ConfigurationError: an unknown name, a name that is no string, or a time limit that makes no sense.
    """
    options = {}
    for name, value in settings.items():
        if name not in NAMES:
            alike = difflib.get_close_matches(str(name).upper(), NAMES, 1)
            known = f"did you mean {prefix}{alike[0]}?" if alike else f"there are {', '.join(NAMES)}"
            raise ConfigurationError(f"there is no setting {prefix}{name}; {known}")
        if name in ("BASE_URL", "MODEL", "PROVIDER") and not isinstance(value, (str, type(None))):
            raise ConfigurationError(f"{prefix}{name} is a string, not {value!r}")
        options[NAMES[name]] = value
    if isinstance(limits := options.get("timeout"), Mapping):
        try:
            options["timeout"] = Timeout(**limits)
        except TypeError:
            raise ConfigurationError(
                f"{prefix}TIMEOUT is a number of seconds, or has connect, first_token, idle and total, not {limits!r}"
            ) from None
    return options


def make_client(settings: Mapping[str, Any], *, prefix: str = "") -> Client:
    """The client for some settings: ``BASE_URL``'s, else ``PROVIDER``'s, else the one that the environment names.

    Raises:
        ConfigurationError: a setting is wrong, or nothing names a server.
    """
    options = client_options(settings, prefix=prefix)
    if base_url := options.pop("base_url", None):
        return Client(base_url, **options)
    if provider := options.pop("provider", None):
        return Client.for_provider(provider, **options)
    return Client.from_env(**options)


class LazyClient:
    """One client for all threads, made when it is first wanted."""

    def __init__(self, settings: Mapping[str, Any], *, prefix: str = "") -> None:
        self._settings = settings
        self._prefix = prefix
        self._lock = threading.Lock()
        self._client: Client | None = None

    def get(self) -> Client:
        """The client.

        Raises:
            ConfigurationError: as for ``make_client``.
        """
        with self._lock:
            if self._client is None:
                self._client = make_client(self._settings, prefix=self._prefix)
            return self._client

    def close(self) -> None:
        """Close it, if there is one; the next ``get`` makes another."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None
