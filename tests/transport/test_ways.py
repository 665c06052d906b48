"""The two ways of a request: over a lease, and through requests; the root that is tried; who may log in."""

from __future__ import annotations

import base64
import gzip
import os
from typing import Any

import pytest
import requests
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_body, chat_reply, error_reply, stream_pieces, stream_reply

from openai_compat import APIStatusError, APITimeoutError, Client, NotFoundError, ResponseParseError, Timeout


class TestRoot:
    """A bare host: ``/v1`` is a guess."""

    def paths(self, server: ReplayServer) -> list[str]:
        return [request.path.removesuffix("/chat/completions") for request in server.requests]

    def test_is_tried_once_and_remembered(self) -> None:
        def serve(request: Request) -> Reply:
            return error_reply(404) if request.path.startswith("/v1") else chat_reply()

        with ReplayServer(serve) as server, Client(server.url, model="m") as client:
            assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
            assert (self.paths(server), client.base_url) == (["/v1", "", ""], server.url)

    def test_is_not_tried_once_the_guess_has_worked(self) -> None:
        with ReplayServer([chat_reply(), error_reply(404, "no such model")]) as server:
            with Client(server.url, model="m") as client:
                client.chat("hi")
                with pytest.raises(NotFoundError, match="no such model"):
                    client.chat("hi")
        assert self.paths(server) == ["/v1", "/v1"]

    @pytest.mark.parametrize("status", [404, 405])
    def test_both_addresses_are_named_where_neither_works(self, status: int) -> None:
        with ReplayServer([error_reply(404, "first"), error_reply(status), error_reply(404)]) as server:
            with Client(server.url, model="m") as client:
                with pytest.raises(NotFoundError) as caught:
                    client.chat("hi")
                assert f"{server.url}/v1" in str(caught.value)
                assert f"nor is there an API at {server.url} (HTTP {status})" in str(caught.value)
                with pytest.raises(NotFoundError):
                    client.chat("hi")
        assert self.paths(server) == ["/v1", "", "/v1"]

    def test_another_refusal_of_the_root_is_its_own(self) -> None:
        with ReplayServer([error_reply(404), error_reply(401, "who are you")]) as server:
            with Client(server.url, model="m") as client, pytest.raises(APIStatusError, match="who are you") as caught:
                client.chat("hi")
        assert caught.value.status_code == 401
        assert self.paths(server) == ["/v1", ""]

    def test_a_root_that_breaks_leaves_the_first_word(self) -> None:
        with ReplayServer([error_reply(404, "first"), Reply(head=b"", abort="rst")]) as server:
            with Client(server.url, model="m", max_retries=0) as client, pytest.raises(NotFoundError, match="first"):
                client.chat("hi")
        assert self.paths(server) == ["/v1", ""]


@pytest.fixture(params=["lease", "session"])
def options(request: pytest.FixtureRequest) -> Any:
    """What a client is given to go either way."""
    if request.param == "lease":
        yield {}
        return
    with own_session() as session:
        yield {"session": session}


class TestBothWays:
    def test_a_login_of_the_url(self, options: Any) -> None:
        with ReplayServer([chat_reply()]) as server:
            with Client(server.url.replace("://", "://me:pw@"), model="m", **options) as client:
                client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()

    def test_no_time_is_left(self, options: Any) -> None:
        with ReplayServer([chat_reply()]) as server:
            with Client(server.url, model="m", timeout=Timeout(total=1e-9), **options) as client:
                with pytest.raises(APITimeoutError) as caught:
                    client.chat("hi")
        assert (caught.value.phase, server.requests) == ("total", [])

    def test_a_bomb(self, options: Any) -> None:
        bomb = Reply(headers={**JSON, "Content-Encoding": "gzip"}, body=gzip.compress(b" " * 60_000_000, 9))
        with ReplayServer([bomb]) as server, Client(server.url, model="m", max_retries=0, **options) as client:
            with pytest.raises(ResponseParseError, match="a decompression bomb"):
                client.chat("hi")

    def test_a_body_that_is_too_large(self, options: Any) -> None:
        with ReplayServer([Reply(headers=JSON, body=chat_body("x" * 5000))]) as server:
            with Client(server.url, model="m", max_response_bytes=4000, max_retries=0, **options) as client:
                with pytest.raises(ResponseParseError, match="larger than 4,000 bytes"):
                    client.chat("hi")

    @pytest.mark.parametrize("behind", ["quiet", "noise", "broken"])
    def test_what_follows_the_answer_does_not_cost_it(self, options: Any, behind: str) -> None:
        def serve(request: Request) -> Reply:
            def body() -> Any:
                yield from stream_pieces("ok")
                if behind == "noise":
                    for _ in range(50):
                        yield b": noise\n\n"
                if behind != "broken":
                    request.closed.wait(10)

            return Reply(headers=EVENT_STREAM, body=body(), abort="rst" if behind == "broken" else None)

        with ReplayServer(serve) as server, Client(server.url, model="m", max_retries=0, **options) as client:
            assert client.stream("hi").until_done().text == "ok"
            assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1

    def test_a_kept_connection_serves_streams_and_answers(self, options: Any) -> None:
        def serve(request: Request) -> Reply:
            return stream_reply("ok") if request.json().get("stream") else chat_reply("ok")

        with ReplayServer(serve) as server, Client(server.url, model="m", **options) as client:
            for _ in range(3):
                client.stream("hi").until_done()
                client.chat("hi")
            assert (len(server.requests), server.connections) == (6, 1)

    def test_a_forked_child_asks_anew(self, options: Any) -> None:
        with ReplayServer([chat_reply()]) as server, Client(server.url, model="m", **options) as client:
            client.chat("hi")
            server.wait_idle()
            child = os.fork()
            if not child:
                status = 1
                try:
                    status = 0 if client.chat("hi").text == "ok" else 1
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            client.chat("hi")
            assert [request.connection for request in server.requests] == [0, 1, 0]


class TestSessionsOfOurs:
    """What is patched is called through a session that is made here."""

    @pytest.fixture(autouse=True)
    def patched(self, monkeypatch: pytest.MonkeyPatch) -> list[requests.PreparedRequest]:
        sent: list[requests.PreparedRequest] = []
        original = requests.Session.send

        def look(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            sent.append(request)
            return original(session, request, **options)

        monkeypatch.setattr(requests.Session, "send", look)
        return sent

    @pytest.mark.parametrize("verify", ["bundle", "system"])
    def test_over_tls(self, verify: str, certified: Any, patched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        if verify == "system":
            monkeypatch.setenv("SSL_CERT_FILE", certified[1])  # what OpenSSL takes for the system's
        with ReplayServer([chat_reply()], tls=certified[0]) as server:
            setting = "system" if verify == "system" else certified[1]
            with Client(server.url, model="m", verify=setting, max_retries=0) as client:
                assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
                self.end(client)
            assert (len(patched), server.connections) == (2, 1)

    def test_a_stream(self, patched: list[Any]) -> None:
        with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
            assert client.stream("hi").until_done().text == "ab"
            self.end(client)
        assert len(patched) == 1

    def test_through_a_proxy_of_the_environment(self, patched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        with ReplayServer([chat_reply()]) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:pw@"))
            with Client("http://api.example/v1", model="m", max_retries=0) as client:
                assert client.chat("hi").text == "ok"
                self.end(client)
        assert proxy.requests[0].path == "http://api.example/v1/chat/completions"
        assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()

    def end(self, client: Client) -> None:
        """Close what ``Session.close`` leaves to the garbage collector."""
        session = client._transport._sessions._made  # type: ignore[union-attr]
        for adapter in {id(a): a for a in session.adapters.values()}.values():  # type: ignore[union-attr]
            for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):  # type: ignore[attr-defined]
                for key in manager.pools.keys():  # noqa: SIM118 - not a dict
                    manager.pools[key].close()


@pytest.mark.parametrize(
    ("headers", "name", "values"),
    [
        ({}, "Host", None),
        ({"host": "other.example"}, "Host", ["other.example"]),
        ({"content-type": "application/json; charset=utf-8"}, "Content-Type", ["application/json; charset=utf-8"]),
        ({"USER-AGENT": "mine/1"}, "User-Agent", ["mine/1"]),
        ({"authorization": "Bearer other"}, "Authorization", ["Bearer sk-mine"]),
        ({"x-a": "1", "X-A": "2"}, "X-A", ["2"]),
        ({"idempotency-key": "mine"}, "Idempotency-Key", ["mine"]),
    ],
)
def test_a_header_is_sent_once_however_it_is_spelled(
    options: Any, headers: dict[str, str], name: str, values: list[str] | None
) -> None:
    with ReplayServer([chat_reply()]) as server:
        with Client(server.url, "sk-mine", model="m", headers=headers, **options) as client:
            client.chat("hi")
    (request,) = server.requests
    assert request.headers.get_all(name) == (values or [server.url.partition("://")[2]])
    assert len(request.headers.keys()) == len({key.lower() for key in request.headers.keys()})  # noqa: SIM118
