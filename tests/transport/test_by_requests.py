"""Requests' own way: sessions in a forked child, bodies, what a session says of its connections."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_reply, chunk, stream_pieces

from openai_compat import APIConnectionError, APITimeoutError, CancelToken, Client, Timeout
from openai_compat.timeouts import Deadline
from openai_compat.transport import Endpoint
from openai_compat.transport.by_requests import RequestsBody, Sessions, settings_of
from openai_compat.transport.clock import Clock


class TestForkedChild:
    def test_has_pools_and_locks_of_its_own(self) -> None:
        """The parent's connections are not closed, which would end them for the parent too."""
        with ReplayServer([Reply(body=b"ok")]) as server, own_session() as session:
            session.get(server.url)
            adapter: Any = session.get_adapter(server.url)
            adapter.proxy_manager_for("http://p:3128").connection_from_url("http://h")
            sessions = Sessions(session, pool_size=10)
            (pool,) = [adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys()]  # noqa: SIM118
            (kept,) = [connection for connection in pool.pool.queue if connection is not None]
            lock = session.cookies._cookies_lock  # type: ignore[attr-defined]

            sessions._process = os.getppid()
            assert sessions.session(None) is session
            assert session.cookies._cookies_lock is not lock  # type: ignore[attr-defined]
            assert (pool.pool.qsize(), adapter.proxy_manager, len(adapter.poolmanager.pools)) == (0, {}, 0)
            assert kept.sock is not None
            assert sessions.session(None) is session
            session.get(server.url)
            assert server.connections == 2
            kept.close()

    def test_has_sessions_of_its_own(self) -> None:
        sessions = Sessions(None, pool_size=10)
        made = sessions.session(None)
        assert sessions.session(None) is made
        sessions._process = os.getppid()
        assert sessions.session(None) is not made
        sessions.close()
        sessions.close()

    def test_a_session_without_a_jar_or_with_an_adapter_of_another_kind(self) -> None:
        class Adapter(requests.adapters.BaseAdapter):
            def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
                raise AssertionError

            def close(self) -> None:
                pass

        session = requests.Session()
        session.cookies = {}  # type: ignore[assignment]
        session.mount("http://", Adapter())
        sessions = Sessions(session, pool_size=10)
        sessions._process = os.getppid()
        assert sessions.session(None) is session

    def test_does_not_read_its_parents_reply(self) -> None:
        with ReplayServer([Reply(body=b"ok")]) as server, own_session() as session:
            response = session.get(server.url, stream=True)
            body = RequestsBody(response, Clock(Deadline(Timeout(), CancelToken())))
            body._process = os.getppid()
            with pytest.raises(APIConnectionError, match="belongs to the parent process"):
                next(body.pieces)
            body.close()


def test_a_session_is_made_anew_where_the_class_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cached(requests.Session):
        pass

    sessions = Sessions(None, pool_size=10)
    plain = sessions.session(None)
    monkeypatch.setattr(requests, "Session", Cached)
    assert type(sessions.session(None)) is Cached
    monkeypatch.undo()
    assert type(sessions.session(None)) is type(plain)


def test_a_session_says_its_proxies_and_the_environment_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/a/bundle.pem")
    with requests.Session() as session:
        assert settings_of(session, Endpoint.parse("http://api.example"))["proxies"]["http"] == "http://p:1"
        assert settings_of(session, Endpoint.parse("http://api.example"))["verify"] == "/a/bundle.pem"
        assert settings_of(session, Endpoint.parse("http://localhost"))["proxies"] == {}
        session.proxies = {"http": "http://q:1"}
        assert settings_of(session, Endpoint.parse("http://localhost"))["proxies"] == {"http": "http://q:1"}


@pytest.mark.parametrize(("netrc", "expected"), [(True, "Bearer sk-mine"), (False, "Bearer sk-mine")])
def test_netrc_does_not_replace_a_key(
    netrc: bool, expected: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if netrc:
        (tmp_path / "netrc").write_text("default login someone password else\n")
    with ReplayServer([chat_reply()]) as server, own_session() as session:
        with Client(server.url, "sk-mine", model="m", session=session) as client:
            client.chat("hi")
    assert server.requests[0].headers["Authorization"] == expected


def test_a_stream_that_is_dropped_while_its_thread_holds_the_lock_of_the_pool_is_closed() -> None:
    """As the garbage collector may drop one, which runs at any moment."""
    adapter = HTTPAdapter(pool_maxsize=1, pool_block=True)

    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield chunk({"content": "a"})
            assert request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer([reply, chat_reply()]) as server, requests.Session() as session:
        session.mount("http://", adapter)
        with Client(server.url, model="m", session=session) as client:
            stream = client.stream("hi")
            next(stream)
            pools: Any = adapter.poolmanager.pools
            (pool,) = [pools[key] for key in pools.keys()]  # noqa: SIM118 - not a dict
            with pool.pool.mutex:
                del stream
                assert server.wait_closed()
            assert client.chat("hi").text == "ok"  # which needs the only connection that the pool may have
            pool.close()


@pytest.mark.parametrize("answered", [False, True], ids=["a body", "a stream that is complete"])
def test_lines_after_the_body_that_never_end_are_read_no_longer_than_the_limits_allow(answered: bool) -> None:
    """urllib3 reads them to their end by itself."""
    body = b"".join(stream_pieces("a")) if answered else b"{}"
    kind = b"text/event-stream" if answered else b"application/json"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    head += b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    endless = Reply(head=head, framing="close", body=itertools.repeat(b"X-More: 1\r\n" * 1000))
    with (
        ReplayServer([endless]) as server,
        own_session() as session,
        Client(server.url, model="m", max_retries=0, timeout=Timeout(total=1), session=session) as client,
    ):
        if answered:
            assert client.stream("hi").until_done().text == "a"
        else:
            with pytest.raises(APITimeoutError, match="timeout: total"):
                client.chat("hi")
        assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1
