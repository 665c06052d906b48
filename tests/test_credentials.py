"""Keys, logins and secret headers: how they go, and that nothing shows them."""

from __future__ import annotations

import base64
import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from support.replay import JSON, ReplayServer, Reply
from support.wire_bodies import chat_reply, error_reply

from openai_compat import (
    APIError,
    AuthenticationError,
    Client,
)


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
