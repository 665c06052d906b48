"""Where an API is: its base URL, read as people write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

from ..credentials import URLObject, masked_url
from ..errors import ConfigurationError
from ..redaction import MASK, Secret, redact_error_body

_LOOPBACK = re.compile(r"localhost|.+\.localhost|::1|0\.0\.0\.0|127(\.\d{1,3}){3}").fullmatch

_NETLOC = re.compile(r"[^\[\]]+|\[[^\[\]]+\](:[0-9]*)?").fullmatch
"""Host and port; nothing stands behind the bracket of an IPv6 address, which ``urlsplit`` would ignore."""

_BREAK = re.compile(r"[^?#]*[\t\r\n]").match

_URL = "!#$%&'()*+,/:;=?@[]~"
"""What stands in a URL as it is, beside letters and digits."""


def _ascii_host(host: str) -> str:
    """A host as it is looked up: in IDNA's form where it has other characters.

    Raises:
        ValueError: no host has this name.
    """
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    labels = host.removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels) or not host.isprintable() or " " in host:
        raise ValueError
    return host


def _split_url(base_url: str) -> tuple[str, tuple[str, str] | None, str]:
    """A URL without what may be secret in it; its user and password; its query."""
    address, _, query = base_url.partition("#")[0].partition("?")
    scheme, separator, rest = address.partition("://") if "://" in address else ("", "", address)
    authority, slash, path = rest.partition("/")
    login, at, authority = authority.rpartition("@")
    user, _, password = login.partition(":")
    return (
        Secret(f"{scheme}{separator}{authority}{slash}{path}"),  # until it is known to be a URL
        (Secret(unquote(user)), Secret(unquote(password))) if at else None,
        Secret(quote(query, _URL)) if query else "",
    )


def _refused(bare: str) -> str:
    """What is no URL, as it may be shown: it may be a key in the wrong place, or have a login in an odd one."""
    shown = redact_error_body(str(bare).rpartition("@")[2], limit=200)
    return MASK if _LIKE_A_KEY(shown) else shown


_LIKE_A_KEY = re.compile(r"(?=.*\d)[\w+=-]{20,}").fullmatch


class Endpoint(NamedTuple):
    """Where the API is: ``base`` without a trailing slash, ``query`` as given with it, ``userinfo`` taken out.

    ``guessed`` is True where nothing named a path, and ``base`` ends in ``/v1`` because it nearly always does.
    """

    base: str
    host: str
    port: int | None
    query: str = ""
    userinfo: tuple[str, str] | None = None
    guessed: bool = False

    @classmethod
    def parse(cls, base_url: str | URLObject, api_path: str | None = None) -> Endpoint:
        """Read a base URL: with or without ``/v1``, a trailing slash, a path of the API behind it, or a query.

        Args:
            base_url: as given.
            api_path: what is appended to it, ``""`` for nothing; None for ``/v1`` where the URL has no path.

        Raises:
            ConfigurationError: no http or https scheme, no host, or a bad port.
        """
        base_url = masked_url(base_url)  # this frame may be shown with an error
        if base_url is not None and not isinstance(base_url, str):
            raise ConfigurationError(f"the base URL is a string, not {type(base_url).__name__}")
        base_url = Secret((base_url or "").strip())
        if not base_url:
            raise ConfigurationError("no base URL: give one such as 'http://localhost:11434/v1'")
        if base_url[0] in ("'", '"'):
            raise ConfigurationError("the base URL is in quotes: take them off (docker's --env-file passes them on)")
        if _BREAK(base_url):
            # ``urlsplit`` leaves it out, and would see a password where ``_split_url`` sees none.
            raise ConfigurationError("the base URL has a tab or a line break in it")
        bare, userinfo, query = _split_url(base_url)
        try:
            parts = urlsplit(bare if "://" in bare else "")
            host = _ascii_host(parts.hostname or "") if _NETLOC(parts.netloc) else ""
        except ValueError:
            host = ""
        if not host or parts.scheme not in ("http", "https"):
            raise ConfigurationError(
                f"the base URL must begin with http:// or https:// and name a host, as in 'http://localhost:11434/v1', "
                f"not {_refused(bare)!r}"
            )
        try:
            port = parts.port
        except ValueError:
            raise ConfigurationError("the base URL has a bad port: it must be a number from 0 to 65535") from None
        path = quote(parts.path.rstrip("/"), _URL)
        guessed = api_path is None and not path
        path = "/".join(segment for segment in path.split("/") if segment != ".")
        for tail in ("/chat/completions", "/embeddings", "/models"):
            path = path.removesuffix(tail)
        path += "/v1" if guessed else f"/{api_path.strip('/')}" if api_path else ""
        netloc = parts.netloc if parts.netloc.isascii() else host if port is None else f"{host}:{port}"
        return cls(
            base=f"{parts.scheme}://{netloc}{path}",
            host=host.replace("%25", "%"),
            port=port,
            query=query,
            userinfo=userinfo,
            guessed=guessed,
        )

    @property
    def secure(self) -> bool:
        """Whether TLS protects the way."""
        return self.base.startswith("https:")

    @property
    def loopback(self) -> bool:
        """On this machine, where no proxy belongs in between."""
        return _LOOPBACK(self.host) is not None

    @property
    def authority(self) -> str:
        """Host and port as the URL has them, the value of the ``Host`` header."""
        return self.base.split("/", 3)[2]

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The URL of a path below the base."""
        joined = "&".join(part for part in (self.query, urlencode(query or {})) if part)
        url = f"{self.base}{path}" + (f"?{joined}" if joined else "")
        return Secret(url) if joined else url  # which may hold a key

    def at_root(self) -> Endpoint:
        """The same server without the ``/v1`` that was guessed."""
        return self._replace(base=self.base.removesuffix("/v1"), guessed=False)
