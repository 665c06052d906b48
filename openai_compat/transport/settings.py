"""How connections are made, as the caller and the environment say: proxies, certificates, netrc.

What the environment says stands in the variables that curl and requests read; each wrong setting is named by its name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from .._imports import importing
from ..errors import ConfigurationError
from ..redaction import Secret
from .endpoint import Endpoint

_PROXIES = tuple(name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word.upper()}_PROXY"))
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_VARIABLES = (*_PROXIES, *_BUNDLES, "NETRC", "HOME")
SYSTEM = "system"
"""The value of ``verify`` that means the operating system's certificates."""


@attrs.frozen(kw_only=True)
class Settings:
    """How a client's connections are made, as the caller said; None leaves it to the environment."""

    verify: bool | str | os.PathLike[str] | None = None
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    trust_env: bool = True
    pool_size: int = 100
    keepalive_expiry: float | None = 60.0

    def __attrs_post_init__(self) -> None:
        if isinstance(self.pool_size, bool) or not isinstance(self.pool_size, int) or self.pool_size < 0:
            raise ConfigurationError(f"pool_size must be a whole number from 0, not {self.pool_size!r}")
        if self.keepalive_expiry is not None and not self.keepalive_expiry > 0:
            raise ConfigurationError(
                f"keepalive_expiry must be a positive number of seconds, not {self.keepalive_expiry}"
            )

    def environment(self) -> tuple[object, ...]:
        """What the environment says of connections; another value means that routes have to be made anew."""
        if not self.trust_env:
            return ()
        # The mapping within os.environ: to look for a variable that is not set costs a tenth of the time there.
        data = getattr(os.environ, "_data", None)
        if data is None:
            return tuple([os.environ.get(name) for name in _VARIABLES])
        return tuple(map(data.get, _KEYS))


_KEYS = tuple(map(getattr(os.environ, "encodekey", str), _VARIABLES))


def cert_files(cert: str | os.PathLike[str] | tuple[str, str]) -> tuple[str, ...]:
    return tuple([os.fspath(path) for path in (cert if isinstance(cert, tuple) else (cert,))])


def bundle_of(settings: Settings) -> tuple[bool | str, str]:
    """Which certificates are trusted, and which setting says so."""
    verify = settings.verify
    if isinstance(verify, bool):
        return verify, "verify"
    if verify is not None:
        return os.fspath(verify), "verify"
    for name in _BUNDLES if settings.trust_env else ():
        if path := os.environ.get(name):
            return path, name
    return True, ""


def proxy_for(endpoint: Endpoint, settings: Settings) -> tuple[str | None, str]:
    """The proxy on the way, if any, and the name of the setting that says so."""
    scheme = "https" if endpoint.secure else "http"
    if settings.proxies is not None:
        for key in (f"{scheme}://{endpoint.host}", scheme, f"all://{endpoint.host}", "all"):
            if proxy := Secret(settings.proxies.get(key) or ""):
                name = f"proxies[{key!r}]"
                return _checked_proxy(proxy, name), name
        return None, ""
    if not settings.trust_env or endpoint.loopback or not _may_have_proxies():
        return None, ""
    with importing:
        from requests.utils import get_environ_proxies, select_proxy

    proxy = Secret(select_proxy(endpoint.base, get_environ_proxies(endpoint.base)) or "")
    if not proxy:
        return None, ""
    names = [name for word in (scheme, "all") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")]
    name = next((name for name in names if os.environ.get(name) == proxy), "the system's settings")
    return _checked_proxy(proxy, name), name


def _may_have_proxies() -> bool:
    # Elsewhere the system itself has settings, which requests reads.
    return sys.platform != "linux" or any(os.environ.get(name) for name in _PROXIES)


def _checked_proxy(proxy: Secret, name: str) -> Secret:
    """A proxy's URL, with the scheme that people leave out."""
    url = Secret(proxy.strip() if "://" in proxy else f"http://{proxy.strip()}")
    if not _names_a_proxy(url):
        raise ConfigurationError(
            f"{name} names no proxy: {str(url).rpartition('@')[2]!r}; give one as in 'http://host:3128'"
        )
    return url


def _names_a_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port or 1) > 0 and parts.scheme in _SCHEMES
    except ValueError:
        return False


def netrc_login(endpoint: Endpoint) -> tuple[str, str] | None:
    """What ``~/.netrc`` has for this host. To look for the file is cheap, to load its parser is not."""
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    if not any(os.path.exists(os.path.expanduser(path)) for path in paths):
        return None
    with importing:
        from requests.utils import get_netrc_auth

    found: tuple[str, str] | None = get_netrc_auth(endpoint.base)
    return found and (Secret(found[0]), Secret(found[1]))
