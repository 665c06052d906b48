"""Sessions that do something of their own on the way, and what may be read off requests' own way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import vcr
from requests.auth import HTTPDigestAuth
from support.calls import CALLS, saying
from support.replay import ReplayServer, Reply, Request

from openai_compat import APITimeoutError, Client, Timeout

each_kind = pytest.mark.parametrize("kind", CALLS)


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(saying("real")) as server:
        yield server


class LoggedIn(requests.Session):
    """Puts a token on each request, as ``requests_oauthlib.OAuth2Session`` does."""

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        headers = {**options.pop("headers", {}), "Authorization": "Bearer of-the-session"}
        return super().request(method, url, headers=headers, **options)


@each_kind
def test_a_session_that_logs_in_in_request_is_asked_there(kind: str, server: ReplayServer) -> None:
    with LoggedIn() as session:
        assert CALLS[kind](Client(server.url, model="m", session=session)) == "real"
        session.close()
    (request,) = server.requests
    assert request.headers["Authorization"] == "Bearer of-the-session"


def test_such_a_session_is_not_led_to_a_proxy_for_a_server_on_this_machine(
    server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with LoggedIn() as session:
        assert Client(server.url, model="m", session=session, max_retries=0).chat("hi").text == "real"


@each_kind
def test_who_has_replaced_request_sees_the_call(
    kind: str, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    request = requests.Session.request

    def traced(session: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        seen.append(url)
        return request(session, method, url, **options)

    monkeypatch.setattr(requests.Session, "request", traced)
    assert CALLS[kind](Client(server.url, "key", model="m")) == "real"
    assert seen == [server.url + sent.path for sent in server.requests]
    assert len(seen) == 1


@each_kind
@pytest.mark.parametrize("own", [False, True], ids=["auth=", "given session"])
def test_a_login_that_takes_two_requests(kind: str, own: bool) -> None:
    def replies(request: Request) -> Reply:
        if request.headers.get("Authorization", "").startswith("Digest "):
            return saying("real")(request)
        return Reply(status=401, headers={"WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth"'}, body=b"no")

    auth = HTTPDigestAuth("me", "secret")
    with ReplayServer(replies) as server, requests.Session() as session:
        session.auth = auth
        client = Client(server.url, model="m", session=session) if own else Client(server.url, model="m", auth=auth)
        assert CALLS[kind](client) == "real"
        assert len(server.requests) == 2
        assert server.requests[0].body == server.requests[1].body
        client.close()


@pytest.mark.parametrize("own", [False, True], ids=["ours", "given session"])
def test_a_server_that_is_slow_to_answer_is_not_one_that_cannot_be_reached(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own:
        send = requests.Session.send
        monkeypatch.setattr(requests.Session, "send", lambda *args, **options: send(*args, **options))

    def silent(request: Request) -> Reply:
        request.closed.wait(10)
        return Reply(head=b"", abort="fin")

    with ReplayServer(silent) as server, requests.Session() as session:
        client = Client(
            server.url, model="m", session=session if own else None, timeout=Timeout(connect=0.2, first_token=0.5)
        )
        with pytest.raises(APITimeoutError) as caught:
            client.chat("hi")
        # To ask again would double the load of one that is still at work.
        assert (caught.value.phase, caught.value.retryable, len(server.requests)) == ("first_token", False, 1)
        client.close()


@each_kind
@pytest.mark.parametrize("own", [False, True], ids=["ours", "given session"])
def test_vcrpy_may_record_the_key_too(kind: str, own: bool, server: ReplayServer, tmp_path: Path) -> None:
    tape = tmp_path / "tape.yaml"
    with requests.Session() as session:
        client = Client(server.url, "a-key", model="m", session=session if own else None)
        with vcr.use_cassette(str(tape), record_mode="once"):
            assert CALLS[kind](client) == "real"
        assert "Bearer a-key" in tape.read_text()
        with vcr.use_cassette(str(tape), record_mode="none"):
            assert CALLS[kind](client) == "real"
        assert len(server.requests) == 1
        client.close()
