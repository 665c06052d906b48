"""Keys and headers: checked, out of sight, and never in a pickle by accident."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigurationError
from .redaction import Secret


class Key:
    """The API key, checked, and out of sight."""

    def __init__(self, key: str | Callable[[], str] | None, header: str) -> None:
        self._given = key if callable(key) else checked_key(key)
        self._name = header
        # With renewed keys, those that other threads may still have under way.
        self._recent: deque[str] = deque([self._given] if isinstance(self._given, str) else [], maxlen=64)
        self.given: bool = self._given is not None

    def __repr__(self) -> str:
        return "<key>"

    def header(self) -> dict[str, str]:
        """The header that carries the key; none without a key."""
        key = checked_key(self._given()) if callable(self._given) else self._given
        if not key:
            return {}
        if key not in self._recent:
            self._recent.append(key)
        return {self._name: Secret(f"Bearer {key}") if self._name == "Authorization" else key}

    def secrets(self) -> list[str]:
        """The keys that nothing may show."""
        return list(self._recent)


class EnvironmentKey(Secret):
    """A key that a variable of the environment gave, where a copy of the client finds it again."""

    variable: str


def key_from(variable: str) -> EnvironmentKey | None:
    value = os.environ.get(variable)
    if not value:
        return None
    key = EnvironmentKey(value)
    key.variable = variable
    return key


def check_picklable(function: Callable[[], str]) -> None:
    import pickle

    try:
        pickle.dumps(function)
    except Exception as error:
        raise ConfigurationError(f"api_key is a function that cannot be pickled: {error}") from None


def secret_option(options: Mapping[str, Any]) -> str | None:
    """The first of a client's options that holds a secret in clear."""
    key, headers, proxies = options.get("api_key"), options["headers"] or {}, options["proxies"] or {}
    held = {
        "api_key": bool(key) and not callable(key),
        "auth": options["auth"] is not None,
        "base_url": "@" in options["base_url"],
        "headers": any(_CREDENTIAL.search(name) for name in headers),
        "proxies": any("@" in proxy for proxy in proxies.values()),
    }
    return next((name for name, holds in held.items() if holds), None)


def checked_key(key: Any) -> Secret | None:
    """A key that can be sent; the message of one that cannot does not show it."""
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key must be a string or a function that returns one, not {type(key).__name__}")
    if key != key.strip():
        raise ConfigurationError("api_key begins or ends with white space (a newline from a file?): strip it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("api_key has a character that no key has (a space, a control or non-ASCII character)")
    return Secret(key)


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers is a dict of names and values, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"header {name!r} must be a string")
        if not _HEADER_NAME(name):
            raise ConfigurationError(f"header {name!r} has a character that is not allowed in a name")
        if name.lower() in _FRAMING:
            raise ConfigurationError(f"header {name!r} says where a request ends, and is not the caller's to set")
        if "\n" in value or "\r" in value:
            raise ConfigurationError(f"header {name!r} has a line break in it")
        if not _HEADER_VALUE(value):
            raise ConfigurationError(f"header {name!r} has a control character, or one that is not in Latin-1")
    return {name: Secret(value) if _CREDENTIAL.search(name) else value for name, value in headers.items()}


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_FRAMING = {"content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer", "te"}
_CREDENTIAL = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)
