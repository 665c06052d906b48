"""Base URLs as people and programs write them, what of them goes out, and what of them may be seen."""

from __future__ import annotations

import base64
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.replay import ReplayServer, Reply
from support.wire_bodies import chat_reply

from openai_compat import APIConnectionError, Client, ConfigurationError
from openai_compat.transport import Endpoint

SECRET = "hunter2hunter2"


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer([chat_reply()]) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/日/v1", "/%E6%97%A5/v1/chat/completions"),
        ("/ä/v1", "/%C3%A4/v1/chat/completions"),
        ("/a b/v1", "/a%20b/v1/chat/completions"),
        ("/%2Fx/v1", "/%2Fx/v1/chat/completions"),
        ("/v1?a=日&b=c d", "/v1/chat/completions?a=%E6%97%A5&b=c%20d"),
        ("/v1?next=http://a@b/c", "/v1/chat/completions?next=http://a@b/c"),
        ("/v1?a=\x01", "/v1/chat/completions?a=%01"),
        ('/v1?a="<>\\', "/v1/chat/completions?a=%22%3C%3E%5C"),
        ("/v1#part", "/v1/chat/completions"),
        ("/v1;a=b", "/v1;a=b/chat/completions"),
    ],
)
def test_what_a_url_cannot_have_is_encoded(path: str, target: str, server: ReplayServer) -> None:
    assert Client(server.url + path, model="m").chat("hi").text == "ok"
    assert [request.path for request in server.requests] == [target]


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("user:p%40ss%3A", "user:p@ss:"),
        ("a%20b:", "a b:"),
        ("me:at@at", "me:at@at"),
        ("üser:日", "üser:日"),
        ("user", "user:"),
    ],
)
def test_a_login_in_the_url_is_sent_as_it_is_meant(login: str, sent: str, server: ReplayServer) -> None:
    Client(server.url.replace("://", f"://{login}@"), model="m").chat("hi")
    scheme, _, value = server.requests[0].headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(value).decode()) == ("Basic", sent)


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("http://bücher.example", "xn--bcher-kva.example"),
        ("http://日本.example:8/v1", "xn--wgv71a.example"),
        ("http://BÜCHER.example:", "xn--bcher-kva.example"),
        ("http://Plain.Example", "plain.example"),
        ("http://dot.example.", "dot.example."),
    ],
)
def test_a_host_is_asked_by_the_name_that_the_network_knows(
    base_url: str, host: str, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def lookup(name: str, *_: Any) -> list[Any]:
        looked_up.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", server.address)]

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    Client(base_url, model="m").chat("hi")
    assert looked_up == [host]
    assert server.requests[0].headers["Host"].partition(":")[0].lower() == host


def test_an_address_of_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        client = Client(f"http://[::1]:{listener.getsockname()[1]}", model="m", timeout=5, max_retries=0)
        future = client.submit("hi")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(65536).startswith(b"POST /v1/chat/completions ")
        assert isinstance(future.exception(10), APIConnectionError)


def test_an_address_of_ipv6_may_name_its_interface() -> None:
    assert Endpoint.parse("http://[fe80::1%25eth0]:1/v1").host == "fe80::1%eth0"


@pytest.mark.parametrize(
    "base_url",
    [
        "http://[::1",
        "http://[zz]:1/v1",
        "http://a..b/v1",
        f"http://{'a' * 64}.example/v1",
        f"http://{'ü' * 64}.example/v1",
        "http://exa mple/v1",
        "http://a\0b/v1",
        "http://x:99999/v1",
        "http://x:port/v1",
    ],
)
def test_an_address_that_cannot_be_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="the base URL"):
        Client(base_url)


def seen(error: BaseException) -> str:
    """What a report of an error shows: its words, and the variables of each frame of the library."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in told.stack if "openai_compat" in Path(frame.filename).parts]
    assert frames
    return "".join([str(error), *(repr(frame.locals) for frame in frames)])


@pytest.mark.parametrize(
    "base_url",
    [
        f"http://me:{SECRET}@127.0.0.1:99999999/v1",
        f"me:{SECRET}@127.0.0.1/v1",
        f"htp://me:a@{SECRET}@127.0.0.1/v1",
        f"127.0.0.1/v1?api_key={SECRET}",
        f"http://me:{SECRET}@[::1/v1?key={SECRET}",
        f"http://me:{SECRET}@a..b/v1",
    ],
)
def test_an_address_that_is_refused_shows_no_secret(base_url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.parse(base_url)
    assert SECRET not in seen(caught.value)


@pytest.mark.parametrize("where", ["login", "query", "netrc"])
def test_a_call_that_fails_shows_no_secret_of_its_address(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    netrc.chmod(0o600)
    if where == "netrc":
        monkeypatch.setenv("NETRC", str(netrc))
    with ReplayServer([Reply(head=b"", abort="rst")]) as server:
        base_url = {
            "login": server.url.replace("://", f"://me:{SECRET}@"),
            "query": f"{server.url}/v1?key={SECRET}",
            "netrc": server.url,
        }[where]
        with pytest.raises(APIConnectionError) as caught:
            Client(base_url, model="m", max_retries=0).chat("hi")
        assert ("Authorization" in server.requests[0].headers) == (where != "query")
    assert SECRET not in seen(caught.value)


def test_where_a_server_redirects_to_is_told_without_its_codes_and_briefly() -> None:
    location = "https://other.example/\x1b[31m\r" + "a" * 50_000
    with ReplayServer([Reply(status=307, headers={"Location": location})]) as server:
        with pytest.raises(APIConnectionError) as caught:
            Client(server.url, model="m", max_retries=0).chat("hi")
    assert "https://other.example/" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
