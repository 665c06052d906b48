"""Settings and the environment: which proxy, which certificates, which login; wrong ones are named."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from support.replay import ReplayServer
from support.wire_bodies import chat_reply

from openai_compat import APITimeoutError, Client, ConfigurationError, Timeout
from openai_compat.timeouts import Deadline
from openai_compat.transport import Endpoint, Settings
from openai_compat.transport import settings as module
from openai_compat.transport.connecting import Connecting
from openai_compat.transport.route import Route, basic

HTTP, HTTPS, HERE = "http://api.example/v1", "https://api.example/v1", "http://127.0.0.1:1/v1"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module._BUNDLES:
        monkeypatch.delenv(name, raising=False)


def route(base_url: str = HTTPS, *, login: bool = False, **settings: Any) -> Route:
    return Route(Endpoint.parse(base_url), Settings(**settings), login=login)


def environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


P, Q = "http://p:3128", "http://q:3128"


class TestProxies:
    @pytest.mark.parametrize(
        ("base_url", "variables", "proxy", "name"),
        [
            (HTTP, {}, None, ""),
            (HTTP, {"http_proxy": P}, P, "http_proxy"),
            (HTTP, {"HTTP_PROXY": P}, P, "HTTP_PROXY"),
            (HTTP, {"https_proxy": P}, None, ""),
            (HTTPS, {"https_proxy": P}, P, "https_proxy"),
            (HTTPS, {"HTTPS_PROXY": P}, P, "HTTPS_PROXY"),
            (HTTPS, {"http_proxy": P}, None, ""),
            (HTTPS, {"http_proxy": P, "https_proxy": P}, P, "https_proxy"),
            (HTTPS, {"http_proxy": Q, "https_proxy": P, "all_proxy": Q}, P, "https_proxy"),
            (HTTPS, {"ALL_PROXY": P}, P, "ALL_PROXY"),
            (HTTP, {"all_proxy": P}, P, "all_proxy"),
            (HTTPS, {"https_proxy": P, "no_proxy": "api.example"}, None, ""),
            (HTTPS, {"https_proxy": P, "NO_PROXY": ".example"}, None, ""),
            (HTTPS, {"https_proxy": P, "no_proxy": "other.example"}, P, "https_proxy"),
            (HTTPS, {"https_proxy": P, "no_proxy": "*"}, None, ""),
            (HTTPS, {"https_proxy": ""}, None, ""),
            (HTTPS, {"no_proxy": "x"}, None, ""),
            (HTTPS, {"https_proxy": "p:3128"}, P, "https_proxy"),
            (HERE, {"http_proxy": P, "all_proxy": P}, None, ""),
            ("http://localhost/v1", {"http_proxy": P}, None, ""),
        ],
    )
    def test_of_the_environment(
        self,
        base_url: str,
        variables: dict[str, str],
        proxy: str | None,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        environment(monkeypatch, variables)
        found = route(base_url)
        assert (found.proxy, found.proxied) == (proxy, name)
        ignoring = route(base_url, trust_env=False)
        assert (ignoring.proxy, ignoring.proxied) == (None, "")

    @pytest.mark.parametrize(
        ("base_url", "proxies", "proxy", "name"),
        [
            (HTTPS, {}, None, ""),
            (HTTPS, {"https": P, "http": Q}, P, "proxies['https']"),
            (HTTP, {"https": P}, None, ""),
            (HTTPS, {"all": P}, P, "proxies['all']"),
            (HTTPS, {"https": Q, "https://api.example": P}, P, "proxies['https://api.example']"),
            (HTTPS, {"all": Q, "all://api.example": P}, P, "proxies['all://api.example']"),
            (HTTPS, {"https": "", "all": P}, P, "proxies['all']"),
            (HERE, {"http": P}, P, "proxies['http']"),
        ],
    )
    def test_of_the_caller_come_first(
        self,
        base_url: str,
        proxies: dict[str, str],
        proxy: str | None,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        environment(monkeypatch, {"http_proxy": "http://no", "https_proxy": "http://no", "all_proxy": "http://no"})
        found = route(base_url, proxies=proxies)
        assert (found.proxy, found.proxied) == (proxy, name)

    @pytest.mark.parametrize(
        "bad", ["http://", "ftp://p:1", "http://p:port", "http://p:99999", "http://[::1", "socks9://p", "://", "p:port"]
    )
    @pytest.mark.parametrize("by", ["HTTPS_PROXY", "proxies['https']"])
    def test_one_that_is_none_is_named(self, bad: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
        settings: dict[str, Any] = {"proxies": {"https": bad}} if "[" in by else {}
        if not settings:
            monkeypatch.setenv(by, bad)
        with pytest.raises(ConfigurationError) as caught:
            route(**settings)
        assert f"{by} names no proxy" in str(caught.value)

    def test_its_password_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter22@p:port")
        for settings in ({}, {"proxies": {"https": "http://user:hunter22@p:port"}}):
            with pytest.raises(ConfigurationError) as caught:
                route(**settings)
            assert "hunter22" not in str(caught.value)
            frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][2:]
            assert "hunter22" not in repr([frame.f_locals for frame in frames])
        assert "hunter22" not in repr(route(proxies={"https": "http://user:hunter22@p:1"}).proxy)

    def test_elsewhere_the_system_may_know_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module.sys, "platform", "darwin")
        monkeypatch.setattr("requests.utils.getproxies", lambda: {"https": P})
        assert (route().proxy, route().proxied) == (P, "the system's settings")

    @pytest.mark.parametrize(
        ("base_url", "proxy", "absolute"),
        [(HTTP, P, True), (HTTPS, P, False), (HTTP, "socks5://p", False), (HTTP, None, False)],
    )
    def test_who_is_asked_by_the_whole_url(self, base_url: str, proxy: str | None, absolute: bool) -> None:
        assert route(base_url, proxies={"all": proxy} if proxy else {}).absolute is absolute

    def test_login(self) -> None:
        found = route(proxies={"all": "http://us%40er:p%3Aw@p"}).proxy_headers
        assert found == {"Proxy-Authorization": "Basic " + base64.b64encode(b"us@er:p:w").decode()}
        assert "Basic" not in repr(found)
        assert route(proxies={"all": "http://p"}).proxy_headers == {}
        assert route().proxy_headers == {}


class TestEnvironment:
    def test_is_looked_at_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = Settings()
        seen = [settings.environment()]
        for name in ("http_proxy", "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NETRC", "HOME"):
            monkeypatch.setenv(name, "changed")
            seen.append(settings.environment())
        assert len(set(seen)) == 7
        monkeypatch.setenv("SOMETHING_ELSE", "x")
        assert settings.environment() == seen[-1]
        assert Settings(trust_env=False).environment() == ()

    def test_is_a_mapping_like_any_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_data = Settings().environment()
        monkeypatch.setattr(module.os, "environ", dict(os.environ))
        monkeypatch.setitem(module.os.environ, "http_proxy", P)
        assert P in Settings().environment()
        assert len(Settings().environment()) == len(with_data)

    def test_what_changes_is_used_by_the_next_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ReplayServer([chat_reply()]) as proxy, Client("http://api.example/v1", model="m", max_retries=0) as client:
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:port")
            with pytest.raises(ConfigurationError, match="HTTP_PROXY"):
                client.chat("hi")
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://user:pw@"))
            assert client.chat("hi").text == "ok"
            (request,) = proxy.requests
        assert request.path == "http://api.example/v1/chat/completions"
        assert request.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:pw").decode()

    def test_connections_of_another_environment_are_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ReplayServer([chat_reply()]) as one, ReplayServer([chat_reply()]) as other:
            with Client("http://api.example/v1", model="m", max_retries=0) as client:
                for proxy in (one, other):
                    monkeypatch.setenv("HTTP_PROXY", proxy.url)
                    client.chat("hi")
                    client.chat("hi")
                assert one.wait_closed()
                assert [(len(proxy.requests), proxy.connections) for proxy in (one, other)] == [(2, 1), (2, 1)]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("pool_size", -1), ("pool_size", 1.5), ("pool_size", True), ("pool_size", "9"), ("keepalive_expiry", 0)],
    )
    def test_settings_are_checked(self, setting: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=setting):
            Settings(**{setting: value})


@pytest.fixture(scope="module")
def client_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """One file with both, and the two."""
    folder = Path(tmp_path_factory.mktemp("client"))
    issued = trustme.CA().issue_cert("client.example")
    both, certificate, key = (folder / name for name in ("both.pem", "cert.pem", "key.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(both))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return str(both), str(certificate), str(key)


class TestCertificates:
    @pytest.mark.parametrize(
        ("verify", "variables", "expected"),
        [
            (None, {}, (True, "")),
            (True, {"REQUESTS_CA_BUNDLE": "{there}"}, (True, "verify")),
            (False, {"REQUESTS_CA_BUNDLE": "{there}"}, (False, "verify")),
            ("{there}", {"REQUESTS_CA_BUNDLE": "{other}"}, ("{there}", "verify")),
            ("system", {"REQUESTS_CA_BUNDLE": "{other}"}, ("system", "verify")),
            (None, {"REQUESTS_CA_BUNDLE": "{there}", "SSL_CERT_FILE": "{other}"}, ("{there}", "REQUESTS_CA_BUNDLE")),
            (None, {"CURL_CA_BUNDLE": "{there}", "SSL_CERT_FILE": "{other}"}, ("{there}", "CURL_CA_BUNDLE")),
            (None, {"SSL_CERT_FILE": "{there}", "SSL_CERT_DIR": "{other}"}, ("{there}", "SSL_CERT_FILE")),
            (None, {"SSL_CERT_DIR": "{folder}"}, ("{folder}", "SSL_CERT_DIR")),
            (None, {"SSL_CERT_DIR": "/not/there{sep}{folder}"}, ("/not/there{sep}{folder}", "SSL_CERT_DIR")),
            (None, {"REQUESTS_CA_BUNDLE": ""}, (True, "")),
        ],
    )
    def test_who_says_which(
        self,
        verify: bool | str | None,
        variables: dict[str, str],
        expected: tuple[bool | str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        names = {name: str(tmp_path / name) for name in ("there", "other")}
        for path in names.values():
            Path(path).touch()
        names |= {"folder": str(tmp_path), "sep": os.pathsep}

        def filled(value: Any) -> Any:
            return value.format(**names) if isinstance(value, str) else value

        environment(monkeypatch, {name: filled(value) for name, value in variables.items()})
        found = route(verify=filled(verify))
        assert (found.verify, found._verify_name) == tuple(map(filled, expected))
        if verify is None:
            assert route(trust_env=False).verify is True

    @pytest.mark.parametrize("by", ["verify", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_a_bundle_that_does_not_exist_is_named(self, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
        settings: dict[str, Any] = {"verify": Path("/no/such.pem")} if by == "verify" else {}
        if not settings:
            monkeypatch.setenv(by, "/no/such.pem")
        with pytest.raises(ConfigurationError, match=f"{by} names '/no/such.pem', which does not exist"):
            route(**settings)
        assert route(HTTP, **settings).proxy is None  # there it is not needed

    def test_a_bundle_that_holds_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(ConfigurationError, match="verify names .*empty.pem', which holds no certificates"):
            route(verify=str(tmp_path / "empty.pem")).context()

    def test_a_folder_of_them(self, tmp_path: Path) -> None:
        context = route(verify=str(tmp_path)).context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

    def test_the_default_are_certifis(self) -> None:
        found = route()
        context = found.context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.cert_store_stats()["x509_ca"] > 50
        assert found.context() is context

    def test_none_are_checked(self) -> None:
        context = route(verify=False).context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)

    def test_the_systems(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import truststore

        assert isinstance(route(verify="system").context(), truststore.SSLContext)
        monkeypatch.setitem(sys.modules, "truststore", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'openai-compat\[truststore\]'"):
            route(verify="system").context()

    def test_the_clients_own(self, client_certificate: tuple[str, str, str], tmp_path: Path) -> None:
        both, certificate, key = client_certificate
        for cert in (both, (certificate, key)):
            route(cert=cert).context()
        with pytest.raises(ConfigurationError, match="cert names '/no/such', which does not exist"):
            route(cert=(certificate, "/no/such"))
        with pytest.raises(ConfigurationError, match="cert cannot be used"):
            route(cert=certificate).context()
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(ConfigurationError, match="cert cannot be used"):
            route(cert=str(tmp_path / "empty.pem")).context()

    def test_for_a_proxy_over_tls_too(self) -> None:
        with pytest.raises(ConfigurationError, match="verify names"):
            route(HTTP, verify="/no/such.pem", proxies={"http": "https://p"})


class TestNetrc:
    @pytest.fixture(autouse=True)
    def netrc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        path = tmp_path / ".netrc"
        path.write_text("machine api.example login someone password pw\n")
        path.chmod(0o600)
        return path

    def test_is_asked_where_it_may_be(self, netrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert route(login=True).login == ("someone", "pw")
        assert route(login=False).login is None
        assert route(login=True, trust_env=False).login is None
        assert route("https://other.example/v1", login=True).login is None
        monkeypatch.setenv("NETRC", str(netrc.with_name("none")))
        assert route(login=True).login is None
        monkeypatch.setenv("NETRC", str(netrc))
        netrc.write_text("default login all password pw\n")
        assert route("https://other.example/v1", login=True).login == ("all", "pw")

    def test_there_may_be_none(self, netrc: Path) -> None:
        netrc.unlink()
        assert route(login=True).login is None


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers what comes with these, one read each; its port, and what came."""
    came: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                for answer in answers:
                    came.append(connection.recv(65536))
                    connection.sendall(answer)
                connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1], came
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname()).close()
        server.join(10)


DEADLINE = Deadline(Timeout(connect=10))


class TestConnecting:
    def test_a_proxy_gets_its_login(self) -> None:
        with answering(b"HTTP/1.1 407 Login\r\nConnection: close\r\n\r\n") as (port, came):
            found = route(proxies={"https": f"http://us%40er:pw@127.0.0.1:{port}"})
            with pytest.raises(OSError, match="Tunnel connection failed: 407 Login"):
                found.connect(DEADLINE, Connecting(None))
        login = base64.b64encode(b"us@er:pw")
        assert came[0].startswith(b"CONNECT api.example:443 HTTP/1.")
        assert b"Basic " + login in came[0]

    def test_another_failure_of_the_tunnel_passes(self) -> None:
        with answering(b"SSH-2.0\r\n") as (port, _):
            with pytest.raises(http.client.BadStatusLine):
                route(proxies={"https": f"http://127.0.0.1:{port}"}).connect(DEADLINE, Connecting(None))

    def test_socks_with_a_login(self) -> None:
        replies = (b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x01\0\0\0\0\0\0")
        with answering(*replies) as (port, came):
            connection = route(HTTP, proxies={"all": f"socks5h://us%40er:p%20w@127.0.0.1:{port}"}).connect(
                DEADLINE, Connecting(None)
            )
            connection.close()
        assert came[1] == b"\x01\x05us@er\x03p w"
        assert came[2] == b"\x05\x01\x00\x03\x0bapi.example\x00\x50"

    def test_socks_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "socks", None)
        monkeypatch.setenv("ALL_PROXY", "socks5://p")
        with pytest.raises(ConfigurationError, match=r"ALL_PROXY names a SOCKS .*'openai-compat\[socks\]'"):
            route().connect(DEADLINE, Connecting(None))

    def test_tls(self, certified: tuple[ssl.SSLContext, str]) -> None:
        with ReplayServer([chat_reply()], tls=certified[0]) as server:
            connection = route(server.url, verify=certified[1]).connect(DEADLINE, Connecting(None))
            assert isinstance(connection.sock, ssl.SSLSocket)
            connection.close()
            connection = route(server.url, verify=False).connect(DEADLINE, Connecting(None))
            connection.close()
            with pytest.raises((ssl.SSLError, urllib3.exceptions.SSLError)):
                route(server.url).connect(DEADLINE, Connecting(None))

    def test_through_a_proxy_over_tls(self, certified: tuple[ssl.SSLContext, str]) -> None:
        with ReplayServer([chat_reply()], tls=certified[0]) as proxy:
            client = Client(HTTP, model="m", proxies={"http": proxy.url}, verify=certified[1], max_retries=0)
            assert client.chat("hi").text == "ok"
            client.close()
            assert proxy.requests[0].path == "http://api.example/v1/chat/completions"

    def test_no_time_is_left(self) -> None:
        deadline = Deadline(Timeout(total=1e-9))
        with pytest.raises(TimeoutError):
            route(HERE).connect(deadline, Connecting(None))
        with pytest.raises(APITimeoutError) as caught:
            Client(HERE, model="m", timeout=1e-9, max_retries=0).chat("hi")
        assert caught.value.phase == "total"


def test_basic() -> None:
    found = basic("us\xe9r", "p:w")
    assert found == {"Authorization": "Basic " + base64.b64encode("us\xe9r:p:w".encode()).decode()}
    assert "Basic" not in repr(found)
