"""Certificates, proxies, netrc: what a client is told, what the environment says, and which of them is heard."""

from __future__ import annotations

import base64
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from support.calls import CALLS, body, headers, saying
from support.proxies import ConnectProxy, SocksProxy
from support.replay import ReplayServer, Reply, Request

from openai_compat import APIConnectionError, Cancelled, CancelToken, Client, ConfigurationError

each_kind = pytest.mark.parametrize("kind", CALLS)
each_session = pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])
KEY = "sk-of-the-tests-1234567890"
BUNDLES = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"]


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither certificates nor a netrc of whoever runs the tests."""
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def other_bundle(tmp_path: Path) -> Path:
    path = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[ReplayServer]:
    """Has a certificate that only the tests' own authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "api.example").configure_cert(context)
    with ReplayServer(saying("real"), tls=context) as server:
        yield server


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(saying("real")) as server:
        yield server


def in_a_process(script: str, *arguments: str, **variables: str) -> str:
    """What a program prints; packages named in ``BLOCK`` cannot be imported in it."""
    prelude = "import os, sys\nfor name in os.environ.get('BLOCK', '').split(): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + script, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(url: str, kind: str = "chat", **options: Any) -> ConfigurationError:
    """The refusal of a setting, when the client is made or when it is first used."""
    with pytest.raises(ConfigurationError) as caught:
        CALLS[kind](Client(url, model="m", **options))
    return caught.value


class TestAuthorities:
    """Whose certificates are trusted."""

    @each_kind
    def test_a_bundle_that_is_given(self, kind: str, secure: ReplayServer, bundle: Path) -> None:
        for given in (str(bundle), bundle):
            with Client(secure.url, model="m", verify=given) as client:
                assert CALLS[kind](client) == "real"

    @pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the names of such a directory")
    def test_a_directory_that_is_given(self, secure: ReplayServer, bundle: Path, tmp_path: Path) -> None:
        folder = tmp_path / "certificates"
        folder.mkdir()
        command = ["openssl", "x509", "-noout", "-hash", "-in", str(bundle)]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        shutil.copy(bundle, folder / f"{name}.0")
        assert Client(secure.url, model="m", verify=str(folder)).chat("hi").text == "real"

    def test_none_other_by_default(self, secure: ReplayServer, waits: list[float]) -> None:
        for verify in (None, True):
            with pytest.raises(APIConnectionError, match="certificate") as caught:
                Client(secure.url, model="m", verify=verify).chat("hi")
            assert not caught.value.retryable
        assert (secure.requests, waits) == ([], [])

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    @each_kind
    def test_any_where_that_is_wanted(self, kind: str, secure: ReplayServer, other_bundle: Path) -> None:
        assert CALLS[kind](Client(secure.url, model="m", verify=False)) == "real"

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    @each_kind
    def test_a_bundle_of_the_environment(
        self, kind: str, name: str, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, str(bundle))
        assert CALLS[kind](Client(secure.url, model="m")) == "real"

    def test_requests_own_variable_goes_before_openssls(
        self, secure: ReplayServer, bundle: Path, other_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        monkeypatch.setenv("SSL_CERT_FILE", str(other_bundle))
        assert Client(secure.url, model="m").chat("hi").text == "real"

    @pytest.mark.parametrize("wrong", ["other", "missing"])
    def test_what_is_given_goes_before_the_environment(
        self, wrong: str, secure: ReplayServer, bundle: Path, other_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in BUNDLES[:3]:
            monkeypatch.setenv(name, str(other_bundle) if wrong == "other" else "/no/such/file.pem")
        assert Client(secure.url, model="m", verify=str(bundle)).chat("hi").text == "real"

    @pytest.mark.parametrize("name", BUNDLES[:3])
    def test_the_environment_is_not_heard_where_it_is_not_trusted(
        self, name: str, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, str(bundle))
        with pytest.raises(APIConnectionError, match="certificate"):
            Client(secure.url, model="m", trust_env=False).chat("hi")
        assert secure.requests == []

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_the_environment_is_looked_at_again(
        self, name: str, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = Client(secure.url, model="m")
        with pytest.raises(APIConnectionError, match="certificate"):
            client.chat("hi")
        monkeypatch.setenv(name, str(bundle))
        assert [CALLS[kind](client) for kind in CALLS] == ["real"] * 3
        assert len(secure.requests) == 3

    def test_a_bundle_that_is_no_longer_named_is_no_longer_trusted(
        self, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        client = Client(secure.url, model="m")
        assert client.chat("hi").text == "real"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(APIConnectionError, match="certificate"):
            client.chat("hi")
        assert len(secure.requests) == 1

    @pytest.mark.parametrize("name", BUNDLES[:3])
    @each_kind
    def test_a_variable_that_names_no_file_is_named(
        self, name: str, kind: str, secure: ReplayServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
    ) -> None:
        monkeypatch.setenv(name, "/no/such/file.pem")
        error = refused(secure.url, kind)
        assert name in str(error)
        assert "/no/such/file.pem" in str(error)
        assert (secure.requests, waits) == ([], [])

    def test_a_variable_that_names_no_file_does_not_stop_calls_without_tls(
        self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in BUNDLES[:3]:
            monkeypatch.setenv(name, "/no/such/file.pem")
        assert Client(server.url, model="m").chat("hi").text == "real"

    @pytest.mark.parametrize("setting", ["verify", "cert"])
    def test_a_path_that_names_no_file_is_named(
        self, setting: str, secure: ReplayServer, bundle: Path, waits: list[float]
    ) -> None:
        options = {"verify": str(bundle), setting: "/no/such/file.pem"}
        error = refused(secure.url, **options)
        assert setting in str(error)
        assert "/no/such/file.pem" in str(error)
        assert (secure.requests, waits) == ([], [])

    def test_a_bundle_without_certificates_is_named(self, secure: ReplayServer, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.write_text("nothing of the kind\n")
        assert str(empty) in str(refused(secure.url, verify=str(empty)))
        assert secure.requests == []

    def test_the_systems_own(self, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(APIConnectionError, match="certificate"):
            Client(secure.url, model="m", verify="system").chat("hi")
        # OpenSSL's name for the system's store.
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        client = Client(secure.url, model="m", verify="system")
        assert [CALLS[kind](client) for kind in CALLS] == ["real"] * 3

    def test_the_systems_own_needs_truststore(self, secure: ReplayServer) -> None:
        said = in_a_process(
            """
from openai_compat import Client, ConfigurationError
try:
    Client(sys.argv[1], model="m", verify="system").chat("hi")
except ConfigurationError as error:
    print(error)
""",
            secure.url,
            BLOCK="truststore",
        )
        assert re.search(r"install .*truststore", said)
        assert secure.requests == []


class TestClientCertificates:
    @pytest.fixture
    def strict(self, authority: trustme.CA) -> Iterator[ReplayServer]:
        """Takes nobody without a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        with ReplayServer(saying("real"), tls=context) as server:
            yield server

    @pytest.mark.parametrize("files", [1, 2], ids=["one file", "certificate and key"])
    @each_kind
    def test_ours_is_shown(
        self, files: int, kind: str, strict: ReplayServer, authority: trustme.CA, bundle: Path, tmp_path: Path
    ) -> None:
        ours = authority.issue_cert("somebody@example.org")
        cert: str | tuple[str, str] = str(tmp_path / "both.pem")
        if files == 1:
            ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
        else:
            cert = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
            ours.cert_chain_pems[0].write_to_path(cert[0])
            ours.private_key_pem.write_to_path(cert[1])
        client = Client(strict.url, model="m", verify=str(bundle), cert=cert)
        assert [CALLS[kind](client) for _ in range(2)] == ["real"] * 2
        assert strict.connections == 1

    def test_without_one_nothing_is_answered(self, strict: ReplayServer, bundle: Path) -> None:
        with pytest.raises(APIConnectionError):
            Client(strict.url, model="m", verify=str(bundle), max_retries=0).chat("hi")
        assert strict.requests == []


class TestProxies:
    @each_kind
    @pytest.mark.parametrize("how", ["given", "environment", "all"])
    def test_a_plain_request_goes_to_the_proxy(
        self, kind: str, how: str, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = {"http": server.url} if how == "given" else None
        if how != "given":
            monkeypatch.setenv("HTTP_PROXY" if how == "environment" else "ALL_PROXY", server.url)
            monkeypatch.setenv("http_proxy" if how == "environment" else "all_proxy", server.url)
        assert CALLS[kind](Client("http://api.example/v1", model="m", proxies=given)) == "real"
        assert server.requests[0].path.startswith("http://api.example/v1/")

    @each_kind
    @pytest.mark.parametrize("how", ["given", "environment", "all"])
    def test_a_tunnel_is_asked_for_once_and_kept(
        self, kind: str, how: str, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ConnectProxy(secure.address) as proxy:
            if how != "given":
                monkeypatch.setenv("https_proxy" if how == "environment" else "all_proxy", proxy.url)
            given = {"https": proxy.url} if how == "given" else None
            client = Client("https://api.example/v1", KEY, model="m", proxies=given, verify=str(bundle))
            assert [CALLS[kind](client) for _ in range(3)] == ["real"] * 3
            assert proxy.asked == ["api.example:443"]
            assert KEY not in "".join(proxy.heads)
            client.close()
        assert len(secure.requests) == 3

    def test_a_login_is_for_the_proxy_alone(self, secure: ReplayServer, bundle: Path) -> None:
        with ConnectProxy(secure.address) as proxy:
            login = proxy.url.replace("//", "//somebody:pass%20word@")
            with Client("https://api.example", model="m", proxies={"https": login}, verify=str(bundle)) as client:
                assert client.chat("hi").text == "real"
        expected = base64.b64encode(b"somebody:pass word").decode()
        assert f"proxy-authorization: basic {expected}".lower() in proxy.heads[0].lower()
        assert "Proxy-Authorization" not in secure.requests[0].headers

    @each_kind
    @pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden"])
    def test_a_tunnel_that_is_refused_is_not_asked_for_again(
        self, kind: str, status: str, secure: ReplayServer, bundle: Path, waits: list[float]
    ) -> None:
        with ConnectProxy(secure.address, refuse=status) as proxy:
            login = proxy.url.replace("//", "//somebody:pass-word-of-mine@")
            with pytest.raises(APIConnectionError, match=rf"\b{status[:3]}\b") as caught:
                CALLS[kind](Client("https://api.example", model="m", proxies={"https": login}, verify=str(bundle)))
        assert not caught.value.retryable
        assert "proxy" in str(caught.value)
        assert "pass-word-of-mine" not in str(caught.value)
        assert (proxy.asked, secure.requests, waits) == (["api.example:443"], [], [])

    def test_a_tunnel_that_fails_for_now_is_asked_for_again(
        self, secure: ReplayServer, bundle: Path, waits: list[float]
    ) -> None:
        with ConnectProxy(secure.address, refuse="503 Service Unavailable") as proxy:
            with pytest.raises(APIConnectionError, match="503"):
                Client("https://api.example", model="m", proxies={"https": proxy.url}, verify=str(bundle)).chat("hi")
        assert (len(proxy.asked), len(waits)) == (3, 2)

    @pytest.mark.parametrize("how", ["given", "environment"])
    def test_a_proxy_whose_scheme_is_unknown_is_named(
        self, how: str, monkeypatch: pytest.MonkeyPatch, waits: list[float]
    ) -> None:
        given = {"http": "nonsense://127.0.0.1:9"} if how == "given" else None
        if how == "environment":
            monkeypatch.setenv("http_proxy", "nonsense://127.0.0.1:9")
        error = refused("http://api.example/v1", proxies=given)
        assert "nonsense" in str(error)
        assert "proxies" in str(error) if how == "given" else "http_proxy" in str(error).lower()
        assert waits == []

    def test_what_no_proxy_names_is_asked_directly(self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "no-such-host.invalid")
        with pytest.raises(APIConnectionError, match="no-such-host"):
            Client("http://no-such-host.invalid/v1", model="m", max_retries=0).chat("hi")
        assert server.connections == 0
        assert Client("http://other-host.invalid/v1", model="m", max_retries=0).chat("hi").text == "real"

    def test_a_proxy_of_an_environment_that_is_not_trusted_is_not_asked(
        self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, server.url)
        with pytest.raises(APIConnectionError, match="no-such-host"):
            Client("http://no-such-host.invalid/v1", model="m", max_retries=0, trust_env=False).chat("hi")
        assert server.connections == 0

    def test_the_environment_is_looked_at_again(self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> None:
        client = Client("http://no-such-host.invalid/v1", model="m", max_retries=0)
        with pytest.raises(APIConnectionError, match="no-such-host"):
            client.chat("hi")
        monkeypatch.setenv("http_proxy", server.url)
        assert client.chat("hi").text == "real"
        with ReplayServer(saying("another")) as another:
            monkeypatch.setenv("http_proxy", another.url)
            assert client.chat("hi").text == "another"
        monkeypatch.delenv("http_proxy")
        with pytest.raises(APIConnectionError, match="no-such-host"):
            client.chat("hi")

    def test_what_is_given_goes_before_the_environment(
        self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ReplayServer(saying("environment's")) as other:
            monkeypatch.setenv("http_proxy", other.url)
            client = Client("http://api.example/v1", model="m", proxies={"http": server.url})
            assert client.chat("hi").text == "real"
            assert other.connections == 0


class TestSocks:
    @each_kind
    @pytest.mark.parametrize("how", ["given", "environment"])
    def test_a_name_is_resolved_by_the_proxy(
        self, kind: str, how: str, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SocksProxy(server.address) as proxy:
            url = f"socks5h://{proxy.address}"
            if how == "environment":
                monkeypatch.setenv("ALL_PROXY", url)
            given = {"http": url} if how == "given" else None
            with Client("http://api.example/v1", model="m", proxies=given) as client:
                assert [CALLS[kind](client) for _ in range(3)] == ["real"] * 3
            assert proxy.asked == ["api.example:80"]
        assert len(server.requests) == 3

    @each_kind
    def test_tls_goes_through_it(
        self, kind: str, secure: ReplayServer, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SocksProxy(secure.address) as proxy:
            monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.address}")
            with Client("https://api.example/v1", model="m", verify=str(bundle)) as client:
                assert [CALLS[kind](client) for _ in range(2)] == ["real"] * 2
            assert proxy.asked == ["api.example:443"]

    @pytest.mark.parametrize("kind", ["chat", "stream"])
    @pytest.mark.parametrize("begun", [False, True], ids=["silent", "half an answer"])
    def test_a_call_through_it_can_be_cancelled(self, kind: str, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        token, asked = CancelToken(), threading.Event()

        def waiting(request: Request) -> Reply:
            def pieces() -> Iterator[bytes]:
                yield body(kind, "abc")[:40]
                asked.set()
                request.closed.wait(10)

            if begun:
                return Reply(headers=headers(kind), body=pieces(), framing="chunked")
            asked.set()
            request.closed.wait(10)
            return Reply(head=b"", abort="fin")

        def end() -> None:
            asked.wait(10)
            token.cancel()

        with ReplayServer(waiting) as server, SocksProxy(server.address) as proxy:
            monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.address}")
            ender = threading.Thread(target=end)
            ender.start()
            with pytest.raises(Cancelled):
                CALLS[kind](Client("http://api.example/v1", model="m"), cancel=token)
            ender.join(10)
            assert server.requests[0].closed.wait(10)
            assert len(server.requests) == 1

    def test_a_refusal_of_the_proxy_is_told(self, server: ReplayServer, waits: list[float]) -> None:
        with SocksProxy(server.address, refuse=5) as proxy:
            given = {"http": f"socks5h://{proxy.address}"}
            with pytest.raises(APIConnectionError, match=r"(?i)proxy|socks"):
                Client("http://api.example/v1", model="m", proxies=given).chat("hi")
            assert 1 <= len(proxy.asked) <= 3
        assert server.connections == 0

    @pytest.mark.parametrize("how", ["given", "environment"])
    def test_it_needs_pysocks(self, how: str, server: ReplayServer) -> None:
        script = """
from openai_compat import Client, ConfigurationError
try:
    Client("http://api.example/v1", model="m", proxies={"http": sys.argv[1]} if sys.argv[1] else None).chat("hi")
except ConfigurationError as error:
    print(error)
"""
        with SocksProxy(server.address) as proxy:
            url = f"socks5h://{proxy.address}"
            said = in_a_process(script, url, BLOCK="socks") if how == "given" else ""
            if how == "environment":
                said = in_a_process(script, "", BLOCK="socks", ALL_PROXY=url)
            assert proxy.asked == []
        assert re.search(r"install .*(openai-compat\[socks\]|PySocks)", said)


class TestNetrc:
    @pytest.fixture(params=["HOME", "NETRC"])
    def where(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        if request.param == "HOME":
            return tmp_path / ".netrc"
        monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
        return tmp_path / "elsewhere"

    @pytest.fixture(params=["machine 127.0.0.1", "default"])
    def netrc(self, request: pytest.FixtureRequest, where: Path) -> str:
        where.write_text(f"{request.param} login somebody password of-netrc\n")
        where.chmod(0o600)
        return "Basic " + base64.b64encode(b"somebody:of-netrc").decode()

    def client_of(self, server: ReplayServer, own: bool, *arguments: Any, **options: Any) -> Client:
        session = requests.Session() if own else None
        return Client(server.url + "/v1", *arguments, model="m", session=session, **options)

    @each_kind
    @each_session
    def test_a_key_that_was_given_is_the_one_that_is_sent(
        self, kind: str, own: bool, server: ReplayServer, netrc: str
    ) -> None:
        for key in (KEY, lambda: KEY):
            assert CALLS[kind](self.client_of(server, own, key)) == "real"
        assert [request.headers.get_all("Authorization") for request in server.requests] == [[f"Bearer {KEY}"]] * 2

    @each_kind
    @each_session
    def test_so_is_one_that_goes_in_another_header(
        self, kind: str, own: bool, server: ReplayServer, netrc: str
    ) -> None:
        assert CALLS[kind](self.client_of(server, own, KEY, provider="azure")) == "real"
        (request,) = server.requests
        assert (request.headers["api-key"], request.headers["Authorization"]) == (KEY, None)

    @each_kind
    @each_session
    def test_so_is_one_that_stands_in_the_headers(self, kind: str, own: bool, server: ReplayServer, netrc: str) -> None:
        assert CALLS[kind](self.client_of(server, own, headers={"Authorization": "Token mine"})) == "real"
        assert server.requests[0].headers.get_all("Authorization") == ["Token mine"]

    @each_kind
    @each_session
    def test_so_is_what_an_auth_object_says(self, kind: str, own: bool, server: ReplayServer, netrc: str) -> None:
        def auth(request: Any) -> Any:
            request.headers["Authorization"] = "Token renewed"
            return request

        assert CALLS[kind](self.client_of(server, own, auth=auth)) == "real"
        assert server.requests[0].headers.get_all("Authorization") == ["Token renewed"]

    @each_kind
    @each_session
    def test_it_is_used_where_there_is_no_key(self, kind: str, own: bool, server: ReplayServer, netrc: str) -> None:
        assert CALLS[kind](self.client_of(server, own)) == "real"
        assert server.requests[0].headers.get_all("Authorization") == [netrc]

    def test_it_is_not_used_where_the_environment_is_not_trusted(self, server: ReplayServer, netrc: str) -> None:
        assert self.client_of(server, False, trust_env=False).chat("hi").text == "real"
        assert "Authorization" not in server.requests[0].headers
