"""How connections to one endpoint are opened: straight or through a proxy, with which certificates."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from .._imports import importing
from ..errors import ConfigurationError
from ..redaction import Secret
from ..timeouts import Deadline
from .connecting import Connecting, close_sockets, dial
from .connection import Connection
from .endpoint import Endpoint
from .settings import SYSTEM, Settings, bundle_of, cert_files, netrc_login, proxy_for

if TYPE_CHECKING:
    import ssl


class Route:
    """The way to one endpoint.

    Args:
        endpoint: where to.
        settings: the caller's.
        login: whether netrc may be asked for a user and a password.

    Raises:
        ConfigurationError: a proxy, a certificate or a bundle that cannot be used.
    """

    def __init__(self, endpoint: Endpoint, settings: Settings, *, login: bool) -> None:
        self.endpoint = endpoint
        self.environment: tuple[object, ...] = settings.environment()
        self._settings = settings
        self.proxy: str | None
        self.verify: bool | str
        self.proxy, self._proxy_name = proxy_for(endpoint, settings)
        self.verify, self._verify_name = bundle_of(settings)
        self.login: tuple[str, str] | None = netrc_login(endpoint) if login and settings.trust_env else None
        self._check_certificates()
        self._manager: Any = None
        self._context: ssl.SSLContext | None = None

    @property
    def absolute(self) -> bool:
        """Whether requests name the whole URL, as an HTTP proxy wants it."""
        return self.proxy is not None and not self.endpoint.secure and not self.proxy.startswith("socks")

    @property
    def proxy_headers(self) -> dict[str, str]:
        """The login for the proxy."""
        parts = urlsplit(self.proxy or "")
        if not parts.username:
            return {}
        return basic(unquote(parts.username), unquote(parts.password or ""), header="Proxy-Authorization")

    def connect(self, deadline: Deadline, connecting: Connecting) -> Connection:
        """Open a connection.

        Args:
            deadline: of the call.
            connecting: is told which socket is waited on.

        Raises:
            ConfigurationError: what is set cannot be used, for want of a package too.
            OSError: whatever the network says.
        """
        timeout = deadline.within(deadline.timeout.connect)
        if timeout == 0.0:
            raise TimeoutError
        if self.proxy is None and not self.endpoint.secure:
            with importing:
                import encodings.idna  # noqa: F401 - to look a host up would load it, without the lock
            return Connection(dial((self.endpoint.host, self.endpoint.port or 80), timeout, connecting))
        with importing:
            manager = self._manager = self._manager or self._new_manager()
        pool = manager.connection_from_host(
            self.endpoint.host, self.endpoint.port, "https" if self.endpoint.secure else "http"
        )
        opened = pool._new_conn()
        opened.timeout = timeout
        opened._new_conn = partial(self._dial, opened, timeout, connecting)
        if self.proxy:
            connecting.end_in(timeout)  # it answers in several steps, each of which could take as long
        try:
            if self.proxy and self.endpoint.secure and not self.proxy.startswith("socks"):
                pool._prepare_proxy(opened)
            else:
                opened.connect()
        except BaseException as error:
            opened.close()
            close_sockets(error)
            raise
        connection = Connection(opened.sock, opened)
        if connecting.late:
            connection.close()  # what was shut down before its handshake passes for connected
            raise TimeoutError
        return connection

    def _dial(self, opened: Any, timeout: float | None, connecting: Connecting) -> socket.socket:
        """The socket of a connection of urllib3's, before any TLS."""
        options = getattr(opened, "_socks_options", None)
        if options is None:
            sock = dial((opened._dns_host.strip("[]"), opened.port), timeout, connecting)
        else:
            import socks

            sock = socks.socksocket()
            names = ("socks_version", "proxy_host", "proxy_port", "rdns", "username", "password")
            sock.set_proxy(*(options[name] for name in names))
            sock.settimeout(timeout)
            connecting.watch(sock)
            try:
                sock.connect((opened.host, opened.port))
            except BaseException:
                sock.close()
                raise
        if self.endpoint.secure:
            connecting.watch_copy(sock)
        return sock

    def context(self) -> ssl.SSLContext:
        """The certificates that are trusted, and the client's own."""
        if self._context is None:
            self._context = self._new_context()
        return self._context

    def _new_context(self) -> ssl.SSLContext:
        import ssl

        if self.verify == SYSTEM:
            try:
                import truststore
            except ImportError:
                raise ConfigurationError(
                    "verify='system' needs the package truststore: pip install 'openai-compat[truststore]'"
                ) from None
            context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            from urllib3.util.ssl_ import create_urllib3_context

            from .handshake import in_steps

            context = in_steps(create_urllib3_context())
            if self.verify is False:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            else:
                self._load_bundle(context)
        if self._settings.cert is not None:
            try:
                context.load_cert_chain(*cert_files(self._settings.cert))
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"cert cannot be used: {error}") from None
        return context

    def _load_bundle(self, context: ssl.SSLContext) -> None:
        if not isinstance(self.verify, str):
            import certifi

            context.load_verify_locations(certifi.where())
            return
        try:
            if self._verify_name == "SSL_CERT_DIR" or os.path.isdir(self.verify):
                context.load_verify_locations(capath=self.verify)
            else:
                context.load_verify_locations(cafile=self.verify)
        except OSError as error:
            raise ConfigurationError(
                f"{self._verify_name} names {self.verify!r}, which holds no certificates: {error}"
            ) from None

    def _check_certificates(self) -> None:
        if not self.endpoint.secure and not (self.proxy or "").startswith("https:"):
            return
        if isinstance(self.verify, str) and self.verify != SYSTEM:
            # One variable may name several.
            paths = self.verify.split(os.pathsep) if self._verify_name == "SSL_CERT_DIR" else [self.verify]
            if not any(map(os.path.exists, paths)):
                raise ConfigurationError(f"{self._verify_name} names {self.verify!r}, which does not exist")
        for path in cert_files(self._settings.cert) if self._settings.cert is not None else ():
            if not os.path.exists(path):
                raise ConfigurationError(f"cert names {path!r}, which does not exist")

    def _new_manager(self) -> Any:
        import encodings.idna  # noqa: F401 - as above

        import urllib3

        tls: dict[str, Any] = {"ssl_context": self.context()} if self.endpoint.secure else {}
        if self.proxy is None:
            return urllib3.PoolManager(**tls)
        if not self.proxy.startswith("socks"):
            if self.proxy.startswith("https:"):
                tls = {"ssl_context": self.context(), "proxy_ssl_context": self.context()}
            return urllib3.ProxyManager(self.proxy, proxy_headers=self.proxy_headers, **tls)
        try:
            import socks  # noqa: F401 - urllib3 warns where it is missing
            from urllib3.contrib.socks import SOCKSProxyManager
        except ImportError:
            raise ConfigurationError(
                f"{self._proxy_name} names a SOCKS proxy, which needs PySocks: pip install 'openai-compat[socks]'"
            ) from None
        parts = urlsplit(self.proxy)
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password or "") if parts.username else None
        return SOCKSProxyManager(self.proxy, username=user, password=password, **tls)

    @property
    def proxied(self) -> str:
        """Who is in between, for errors: the name of the setting, or nothing."""
        return self._proxy_name if self.proxy else ""


def basic(user: str, password: str, *, header: str = "Authorization") -> dict[str, str]:
    """The header of HTTP's basic authentication (RFC 7617)."""
    import base64

    return {header: Secret("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii"))}
