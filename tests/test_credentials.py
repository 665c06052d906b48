"""Keys, logins and secret headers: how they go, and that nothing shows them."""

from __future__ import annotations

import base64
import contextlib
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from support.replay import JSON, ReplayServer, Reply
from support.wire_bodies import chat_reply, error_reply

from openai_compat import (
    APIError,
    AuthenticationError,
    Client,
    ConfigurationError,
)
from openai_compat.credentials import checked_headers, secret_option


def test_no_key_sends_no_authorization() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        assert "Authorization" not in server.requests[0].headers


def test_a_key_goes_as_a_bearer_token_and_is_out_of_sight() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, "sk-0123456789", model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer sk-0123456789"
    assert "sk-0123456789" not in repr(client) + repr(vars(client))


def test_a_key_may_be_renewed_by_a_function() -> None:
    tokens = iter(["one", "two"])
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, lambda: next(tokens), model="m")
        client.chat("hi")
        client.chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer two"]


def test_renewed_keys_are_all_kept_out_of_errors() -> None:
    keys = ["0a1b2c3d4e5f60718293aaaa4b5c6d7e", "ffeeddccbbaa99887766554433221100"]
    given = iter(keys)
    with ReplayServer([error_reply(401, f"bad key {keys[0]}")]) as server:
        client = Client(server.url, lambda: next(given), model="m")
        for _ in keys:
            with pytest.raises(AuthenticationError) as caught:
                client.chat("hi")
            assert keys[0] not in str(caught.value) + caught.value.body


def test_a_requests_auth_object_is_used() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m", auth=HTTPBasicAuth("u", "p")).chat("hi")
        assert server.requests[0].headers["Authorization"].startswith("Basic ")


def test_digest_auth_answers_the_challenge() -> None:
    challenge = Reply(
        status=401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"', **JSON}, body=b"{}"
    )
    with ReplayServer([challenge, chat_reply()]) as server:
        assert Client(server.url, model="m", auth=HTTPDigestAuth("u", "p")).chat("hi").text == "ok"
        assert server.requests[1].headers["Authorization"].startswith("Digest ")


def test_a_login_in_the_base_url_becomes_basic_auth_and_is_not_shown() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url.replace("http://", "http://user:pass@"), model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert "pass" not in repr(client)


def test_a_login_from_netrc_is_used_where_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        Client(server.url, "key-of-mine", model="m").chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent[0].startswith("Basic ")
    assert sent[1] == "Bearer key-of-mine"


def test_a_key_given_beside_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([chat_reply()]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        Client.from_env(api_key="mine-0123456", model="m").chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer mine-0123456"


KEY = "sk-a-key-that-nobody-may-see"


@contextlib.contextmanager
def failing(way: str) -> Iterator[str]:
    """The URL of a server that does not answer."""
    replies = {"resets": Reply(head=b"", abort="rst"), "401": error_reply(401, f"no: {KEY}")}
    with ReplayServer([replies.get(way, Reply())]) as server:
        if way == "refuses":
            server.close()
        yield server.url


@pytest.mark.parametrize("carried", ["api_key", "headers", "userinfo"])
@pytest.mark.parametrize("way", ["refuses", "resets", "401"])
def test_variables_in_a_traceback_show_no_key(carried: str, way: str) -> None:
    with failing(way) as url:
        if carried == "userinfo":
            client = Client(url.replace("//", f"//user:{KEY}@"), model="m", max_retries=0)
        elif carried == "headers":
            client = Client(url, model="m", max_retries=0, headers={"X-Api-Key": KEY})
        else:
            client = Client(url, KEY, model="m", max_retries=0)
        for ask in (client.chat, lambda prompt: list(client.stream(prompt)), client.embed):
            with pytest.raises(APIError) as caught:
                ask("hi")
            frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            del caught
            shown = "".join(frames.format())
            assert "all_headers" in shown
            assert KEY not in shown
            assert base64.b64encode(f"user:{KEY}".encode()).decode() not in shown
            del frames, shown
        client.close()


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([("X-Team", "a")], "headers is a dict of names and values, not list"),
        ({"X-Team": 1}, "header 'X-Team' must be a string"),
        ({1: "a"}, "header 1 must be a string"),
        ({"X Team": "a"}, "header 'X Team' has a character that is not allowed in a name"),
        ({"Content-Length": "5"}, "header 'Content-Length' says where a request ends"),
        ({"X-Team": "a\r\nX-Key: b"}, "header 'X-Team' has a line break in it"),
        ({"X-Team": "a\0"}, "header 'X-Team' has a control character"),
        ({"X-Team": "\u20ac"}, "header 'X-Team' has a control character, or one that is not in Latin-1"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        checked_headers(headers)


def test_headers_that_carry_a_secret_do_not_show_it() -> None:
    headers = checked_headers({"X-Team": "search", "X-Api-Key": KEY, "Cookie": KEY})
    assert headers == {"X-Team": "search", "X-Api-Key": KEY, "Cookie": KEY}
    assert KEY not in repr(headers)
    assert "search" in repr(headers)


SECRETS: dict[str, tuple[dict[str, Any], str | None]] = {
    "none": ({}, None),
    "key": ({"api_key": KEY}, "api_key"),
    "key-by-a-function": ({"api_key": str}, None),
    "auth": ({"auth": HTTPBasicAuth("u", "p")}, "auth"),
    "login": ({"base_url": "http://u:p@x"}, "base_url"),
    "header": ({"headers": {"X-Team": "a", "X-Auth": "b"}}, "headers"),
    "plain-header": ({"headers": {"X-Team": "a"}}, None),
    "proxy": ({"proxies": {"http": "http://u:p@x"}}, "proxies"),
    "plain-proxy": ({"proxies": {"http": "http://x"}}, None),
}


@pytest.mark.parametrize(("options", "held"), SECRETS.values(), ids=SECRETS)
def test_which_option_holds_a_secret(options: dict[str, Any], held: str | None) -> None:
    plain = {"api_key": None, "auth": None, "base_url": "http://x", "headers": None, "proxies": None}
    assert secret_option({**plain, **options}) == held


def test_a_function_for_the_key_is_pickled_with_its_client_or_refused() -> None:
    assert pickle.loads(pickle.dumps(Client("http://x", str))).base_url == "http://x/v1"
    with pytest.raises(ConfigurationError, match="api_key is a function that cannot be pickled"):
        pickle.dumps(Client("http://x", lambda: KEY))
