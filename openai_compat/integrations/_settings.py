"""Clients from the settings of a web framework: the arguments of ``Client``, named in capitals, and ``LOCAL``."""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Mapping
from typing import Any

from ..client import Client
from ..credentials import masked_options
from ..errors import ConfigurationError
from ..server_options import server_options
from ..timeouts import Timeout

NAMES = {name.upper(): name for name in (*inspect.signature(Client).parameters, "local")}


def client_options(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """The arguments of ``Client`` that settings stand for, and ``local``.

    Args:
        settings: such as ``{"BASE_URL": "http://localhost:8080/v1", "TIMEOUT": {"first_token": 60}}``.
        prefix: what the framework puts before each name, for errors.

    Raises:
        ConfigurationError: an unknown name, a value of the wrong type, or an impossible time limit.
    """
    settings = masked_options(settings)  # this frame may be shown with an error
    options = {}
    for name, value in settings.items():
        if name not in NAMES:
            alike = difflib.get_close_matches(str(name).upper(), NAMES, 1)
            known = f"did you mean {prefix}{alike[0]}?" if alike else f"known are {', '.join(NAMES)}"
            raise ConfigurationError(f"unknown setting {prefix}{name}; {known}")
        if name in ("BASE_URL", "MODEL", "PROVIDER") and not isinstance(value, (str, type(None))):
            raise ConfigurationError(f"{prefix}{name} must be a string, not {value!r}")
        if name == "LOCAL" and not isinstance(value, bool):
            raise ConfigurationError(f"{prefix}{name} must be True or False, not {value!r}")
        options[NAMES[name]] = value
    if isinstance(limits := options.get("timeout"), Mapping):
        try:
            options["timeout"] = Timeout(**limits)
        except TypeError:
            raise ConfigurationError(
                f"{prefix}TIMEOUT must be a number of seconds, or have connect, first_token, idle or total: {limits!r}"
            ) from None
    return options


def make_client(settings: Mapping[str, Any], *, prefix: str = "") -> Client:
    """The client for ``BASE_URL``, else ``PROVIDER``, else the environment, else with ``LOCAL`` this machine.

    A base URL gets the key in ``API_KEY``, and none from the environment.

    Raises:
        ConfigurationError: a setting is wrong, or nothing names a server.
    """
    settings = masked_options(settings)
    options = client_options(settings, prefix=prefix)
    local = Client if options.pop("local", False) else None
    spelling = {"base_url": f"{prefix}BASE_URL", "api_key": f"{prefix}API_KEY", "local": f"{prefix}LOCAL = True"}
    return Client(**server_options(options, keys_for_urls=False, local=local, spelling=spelling))


class LazyClient:
    """One client for all threads, made on first use."""

    def __init__(self, settings: Mapping[str, Any], *, prefix: str = "") -> None:
        self._settings = masked_options(settings)
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
