"""Keys and headers: checked, out of sight, and never in a pickle by accident."""

from __future__ import annotations

import binascii
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

from .errors import ConfigurationError
from .redaction import Secret, masked


class SecretText(Protocol):
    """A value that shows its text only when asked, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """The text."""


class URLObject(Protocol):
    """A URL of httpx's, yarl's, pydantic's or the standard library's."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""


ApiKey = str | SecretText | Callable[[], str | SecretText] | None


MAX_PASSING = 16384
"""Characters that the secrets of single calls have together: each is looked for in every error."""


class Secrets:
    """Every secret of a client, for ``redact_error_body``: called, it gives them.

    Those of single calls, and of keys that are renewed, are kept while others may have them under way.
    """

    def __init__(self) -> None:
        self._lasting: tuple[str, ...] = ()
        self._passing: deque[str] = deque(maxlen=64)

    def __repr__(self) -> str:
        return "<secrets>"

    def __call__(self) -> tuple[str, ...]:
        return (*self._lasting, *self._passing)

    def keep(self, secrets: Iterable[str]) -> None:
        """Add what goes with every call."""
        self._lasting = tuple(map(Secret, dict.fromkeys((*self._lasting, *secrets))))

    def keep_a_while(self, secrets: Iterable[str]) -> None:
        """Add what goes with some calls; of many, the last."""
        for secret in secrets:
            if secret not in self._passing and secret not in self._lasting:
                self._passing.append(Secret(secret))
        while len(self._passing) > 1 and sum(map(len, self._passing)) > MAX_PASSING:
            self._passing.popleft()


def secrets_in_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """The values that are secret by their names, without the scheme in front, and the password of a basic login."""
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str) and _SECRET_NAME(name)):
            continue
        scheme, _, rest = value.strip().partition(" ")
        yield rest.strip() if rest and scheme.isalpha() else value
        if scheme.lower() == "basic":
            try:
                login = binascii.a2b_base64(rest).decode("utf-8", "replace")
            except ValueError:
                continue
            yield login.partition(":")[2]


def shell_headers(headers: Mapping[str, str]) -> tuple[dict[str, str], frozenset[str]]:
    """Headers with a shell's variable in place of each secret, such as ``$OPENAI_API_KEY``; and the names of those."""
    shown: dict[str, str] = {}
    hidden: set[str] = set()
    for name, value in headers.items():
        if not _SECRET_NAME(name):
            shown[name] = str(value)
            continue
        scheme, _, rest = str(value).strip().partition(" ")
        named = "OPENAI_API_KEY" if name.lower() in _KEY_HEADERS else re.sub(r"\W", "_", name).upper()
        if scheme.lower() == "basic":
            named = "BASIC_LOGIN"
        shown[name] = f"{scheme} ${named}" if rest and scheme.isalpha() and scheme.isascii() else f"${named}"
        hidden.add(name)
    return shown, frozenset(hidden)


def secrets_in_query(query: Mapping[str, str] | str) -> Iterator[str]:
    """The values of a query that are secret by their names."""
    for name, value in parse_qsl(query) if isinstance(query, str) else query.items():
        if isinstance(value, str) and (_SECRET_NAME(name) or name.lower() in ("code", "sig")):
            yield value


def secrets_in_login(login: tuple[str, str] | None) -> Iterator[str]:
    """The password, and the login as basic authentication sends it; without a password, the user is the secret."""
    if login is not None:
        user, password = login
        yield password or user
        yield f"{user}:{password}"


def secrets_in_url(url: str | None) -> Iterator[str]:
    """The login of a URL, such as a proxy's."""
    login, at, _ = (url or "").partition("://")[2].rpartition("@")
    if at:
        user, _, password = login.partition(":")
        yield from secrets_in_login((unquote(user), unquote(password)))


def secrets_in_auth(auth: Any) -> Iterator[str]:
    """The login of a requests auth object, where it has one."""
    login = auth if isinstance(auth, tuple) else (getattr(auth, "username", None), getattr(auth, "password", None))
    if len(login) == 2 and all(isinstance(part, str) for part in login):
        yield from secrets_in_login(login)


def secrets_in_session(session: Any) -> Iterator[str]:
    """What a user's own session sends."""
    yield from secrets_in_headers(getattr(session, "headers", None) or {})
    yield from secrets_in_auth(getattr(session, "auth", None))
    for proxy in (getattr(session, "proxies", None) or {}).values():
        yield from secrets_in_url(proxy)


class Key:
    """The API key, checked, and out of sight.

    Args:
        key: as the caller gave it.
        header: that carries it.
        secrets: is told of each key.
    """

    def __init__(self, key: ApiKey, header: str, secrets: Secrets) -> None:
        self._given = key if callable(key) else checked_key(key)
        self._name = header
        self._secrets = secrets
        self.given: bool = self._given is not None
        if isinstance(self._given, str):
            secrets.keep([self._given])

    def __repr__(self) -> str:
        return "<key>"

    def header(self) -> dict[str, str]:
        """The header that carries the key; none without a key."""
        key = checked_key(self._given()) if callable(self._given) else self._given
        if not key:
            return {}
        if callable(self._given):
            self._secrets.keep_a_while([key])
        return {self._name: Secret(f"Bearer {key}") if self._name == "Authorization" else key}


class EnvironmentKey(Secret):
    """A key that a variable of the environment gave, where a copy of the client finds it again."""

    variable: str


def key_from(variable: str) -> EnvironmentKey | None:
    key = EnvironmentKey(os.environ.get(variable, ""))
    key.variable = variable
    return key or None


def check_picklable(function: Callable[[], str]) -> None:
    import pickle

    try:
        pickle.dumps(function)
    except Exception as error:
        raise ConfigurationError(f"api_key is a function that cannot be pickled: {error}") from None


def masked_url(url: Any) -> Any:
    """A base URL out of sight; of a URL object, such as httpx's, yarl's or ``urlsplit``'s, the text."""
    if isinstance(url, str) or not (hasattr(url, "scheme") and (hasattr(url, "host") or hasattr(url, "geturl"))):
        return masked(url)
    return masked(url.geturl() if hasattr(url, "geturl") else str(url))


_MAY_BE_SECRET = {"api_key": masked, "auth": masked, "base_url": masked_url, "headers": masked, "proxies": masked}


def masked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A client's options, or settings of these names, with those that may hold a secret out of sight."""
    return {name: _MAY_BE_SECRET.get(str(name).lower(), _as_it_is)(value) for name, value in options.items()}


def _as_it_is(value: Any) -> Any:
    return value


def mask_fields(fields: dict[str, Any]) -> None:
    """Put out of sight what a call's fields may have of secrets: in place, for the frames of all who pass them on."""
    for name in ("extra_headers", "extra_query"):
        if name in fields:
            fields[name] = masked(fields[name])


def secret_option(options: Mapping[str, Any]) -> str | None:
    """The first of a client's options that holds a secret in clear."""
    key, headers, proxies = options.get("api_key"), options["headers"] or {}, options["proxies"] or {}
    url = options["base_url"]
    held = {
        "api_key": bool(key) and not callable(key),
        "auth": options["auth"] is not None,
        "base_url": "@" in url or any(secrets_in_query(url.partition("?")[2])),
        "headers": any(map(_SECRET_NAME, headers)),
        "proxies": any("@" in proxy for proxy in proxies.values()),
        "limits": re.search("://.*@|[?&]password=", str(getattr(options.get("limits"), "shared", ""))) is not None,
    }
    return next((name for name, holds in held.items() if holds), None)


def checked_key(key: Any) -> Secret | None:
    """A key that can be sent; the message of one that cannot does not show it."""
    kind = type(key).__name__
    key = masked(key)  # this frame may be shown with an error
    if key is None or key == "":
        return None
    if not isinstance(key, Secret):
        raise ConfigurationError(f"api_key must be a string or a function that returns one, not {kind}")
    name = getattr(key, "variable", "api_key")
    if key != key.strip():
        raise ConfigurationError(f"{name} begins or ends with white space (a newline from a file?): strip it")
    if len(key) > 1 and key[0] == key[-1] and key[0] in ("'", '"'):
        raise ConfigurationError(f"{name} is in quotes: take them off (docker's --env-file passes them on)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{name} has a character that no key has (a space, a control or non-ASCII character)")
    return key


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    headers = masked(headers)  # this frame may be shown with an error
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
    return {name: value if _SECRET_NAME(name) else str(value) for name, value in headers.items()}


_KEY_HEADERS = {"authorization", "api-key", "x-api-key", "x-goog-api-key"}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_FRAMING = {"content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer", "te"}
_SECRET_NAME = re.compile(
    "auth|cookie|credential|jwt|key|secret|session|signature|token|(?<![a-z])(pass|pwd)|password|passwd", re.IGNORECASE
).search
