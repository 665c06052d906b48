"""Base URLs, as people write them."""

from __future__ import annotations

import traceback
from base64 import b64encode

import pytest
from support.replay import ReplayServer
from support.wire_bodies import chat_reply

from openai_compat import Client, ConfigurationError
from openai_compat.transport import Endpoint


@pytest.mark.parametrize(
    ("base_url", "base", "guessed"),
    [
        ("http://h", "http://h/v1", True),
        ("http://h/", "http://h/v1", True),
        (" https://h:8443 \n", "https://h:8443/v1", True),
        ("http://h/v1", "http://h/v1", False),
        ("http://h/v1/", "http://h/v1", False),
        ("http://h/./v1/./", "http://h/v1", False),
        ("http://h/api/v3", "http://h/api/v3", False),
        ("http://h/v1/chat/completions", "http://h/v1", False),
        ("http://h/v1/embeddings/", "http://h/v1", False),
        ("http://h/v1/models", "http://h/v1", False),
        ("http://h/v1#fragment", "http://h/v1", False),
        ("http://H/v1", "http://H/v1", False),
        ("HTTPS://h/v1", "https://h/v1", False),
        ("http://user:pw@h/v1", "http://h/v1", False),
        ("http://[::1]:8080", "http://[::1]:8080/v1", True),
        ("http://h/a b/v1", "http://h/a%20b/v1", False),
        ("http://h/a%20b/v1", "http://h/a%20b/v1", False),
        ("http://h/\xfc/v1", "http://h/%C3%BC/v1", False),
        ("http://b\xfccher.example:80/v1", "http://xn--bcher-kva.example:80/v1", False),
        ("http://\u4f8b\u3048.example", "http://xn--r8jz45g.example/v1", True),
    ],
)
def test_base(base_url: str, base: str, guessed: bool) -> None:
    endpoint = Endpoint.parse(base_url)
    assert (endpoint.base, endpoint.guessed) == (base, guessed)
    assert endpoint.url("/models").isascii()


@pytest.mark.parametrize(
    ("base_url", "api_path", "base"),
    [
        ("http://h", "", "http://h"),
        ("http://h/", "", "http://h"),
        ("http://h", "/openai/v1/", "http://h/openai/v1"),
        ("http://h/x", "v2", "http://h/x/v2"),
        ("http://h/x", "", "http://h/x"),
    ],
)
def test_api_path(base_url: str, api_path: str, base: str) -> None:
    endpoint = Endpoint.parse(base_url, api_path)
    assert (endpoint.base, endpoint.guessed) == (base, False)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "  ",
        None,
        5,
        "localhost:8000",
        "h/v1",
        "ftp://h/v1",
        "file:///etc/passwd",
        "http://",
        "http:///v1",
        "http://:80/v1",
        "http://[::1/v1",
        "http://a..b/v1",
        "http://.b/v1",
        f"http://{'a' * 64}.example/v1",
        "http://ho st/v1",
        "http://h\u2100x/v1",
        "http://" + "\u4f8b" * 60 + ".example/v1",
        "http://h:port/v1",
        "http://h:99999/v1",
    ],
)
def test_what_is_none_says_so(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base URL"):
        Endpoint.parse(base_url)


@pytest.mark.parametrize("host", ["[::1", "[::1]\x04", "[::1].evil.com", "a..b", "h\u2100x", "h:port", ":80", "ho st"])
def test_what_is_none_shows_no_password(host: str) -> None:
    base_url = f"http://someone:hunter22@{host}/v1"
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.parse(base_url)
    shown = traceback.format_exception(caught.value)
    assert "hunter22" not in "".join(shown)


@pytest.mark.parametrize("control", ["\r", "\n", "\t"])
@pytest.mark.parametrize("start", ["https:/{}/", "https://{}", "ht{}tps://"])
def test_a_line_break_hides_no_password(start: str, control: str) -> None:
    with pytest.raises(ConfigurationError, match="line break"):
        Endpoint.parse(f"{start.format(control)}someone:hunter22@h/v1")


@pytest.mark.parametrize(
    ("base_url", "host", "port", "secure", "loopback", "authority"),
    [
        ("http://h", "h", None, False, False, "h"),
        ("https://H.example:443/v1", "h.example", 443, True, False, "H.example:443"),
        ("http://localhost:11434", "localhost", 11434, False, True, "localhost:11434"),
        ("http://ollama.localhost/v1", "ollama.localhost", None, False, True, "ollama.localhost"),
        ("http://[::1]:8080/v1", "::1", 8080, False, True, "[::1]:8080"),
        ("http://127.0.0.1/v1", "127.0.0.1", None, False, True, "127.0.0.1"),
        ("http://127.1.2.3/v1", "127.1.2.3", None, False, True, "127.1.2.3"),
        ("http://127.evil.com/v1", "127.evil.com", None, False, False, "127.evil.com"),
        ("http://127.0.0.1.evil.com/v1", "127.0.0.1.evil.com", None, False, False, "127.0.0.1.evil.com"),
        ("http://localhost.evil.com/v1", "localhost.evil.com", None, False, False, "localhost.evil.com"),
        ("http://0.0.0.0:8000/v1", "0.0.0.0", 8000, False, True, "0.0.0.0:8000"),
        ("http://10.0.0.1/v1", "10.0.0.1", None, False, False, "10.0.0.1"),
        ("http://u:p@h:1/v1", "h", 1, False, False, "h:1"),
    ],
)
def test_who(base_url: str, host: str, port: int | None, secure: bool, loopback: bool, authority: str) -> None:
    endpoint = Endpoint.parse(base_url)
    assert (endpoint.host, endpoint.port, endpoint.secure) == (host, port, secure)
    assert (endpoint.loopback, endpoint.authority) == (loopback, authority)


@pytest.mark.parametrize(
    ("base_url", "query", "url"),
    [
        ("http://h/v1", None, "http://h/v1/models"),
        ("http://h/v1?api-version=1", None, "http://h/v1/models?api-version=1"),
        ("http://h/v1?a=1", {"b": "x y"}, "http://h/v1/models?a=1&b=x+y"),
        ("http://h/v1", {"b": "\xfc&c"}, "http://h/v1/models?b=%C3%BC%26c"),
        ("http://h/v1?a=x y&\xfc=%20", None, "http://h/v1/models?a=x%20y&%C3%BC=%20"),
    ],
)
def test_urls(base_url: str, query: dict[str, str] | None, url: str) -> None:
    assert Endpoint.parse(base_url).url("/models", query) == url


def test_the_root_of_a_guess() -> None:
    root = Endpoint.parse("http://u:p@h:1?x=1").at_root()
    assert (root.base, root.guessed, root.url("/models")) == ("http://h:1", False, "http://h:1/models?x=1")


@pytest.mark.parametrize(
    ("userinfo", "login"),
    [
        ("user:pw", ("user", "pw")),
        ("user", ("user", "")),
        ("us%40er:p%3Aw%2F", ("us@er", "p:w/")),
        (":pw", ("", "pw")),
    ],
)
def test_userinfo(userinfo: str, login: tuple[str, str]) -> None:
    endpoint = Endpoint.parse(f"http://{userinfo}@h/v1")
    assert endpoint.userinfo == login
    assert "pw" not in repr(endpoint)
    assert "p:w" not in repr(endpoint)


def test_what_is_asked_is_plain_ascii_with_the_login_decoded() -> None:
    with ReplayServer([chat_reply()]) as server:
        base_url = server.url.replace("://", "://us%40er:p%20w@") + "/caf\xe9 1/v1?w=\xfc"
        with Client(base_url, model="m") as client:
            client.chat("hi")
    request = server.requests[0]
    assert request.path == "/caf%C3%A9%201/v1/chat/completions?w=%C3%BC"
    assert request.headers["Authorization"] == "Basic " + b64encode(b"us@er:p w").decode()
