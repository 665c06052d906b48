"""What users test with: a mock of requests stands between client and network, and the network is not touched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_cache
import requests_mock
import responses
import vcr
from support.calls import CALLS, PATHS, body, headers, saying
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import stream_pieces
from vcr.errors import CannotOverwriteExistingCassetteException

from openai_compat import APIConnectionError, Cancelled, CancelToken, Client, InternalServerError

each_kind = pytest.mark.parametrize("kind", CALLS)
KEY = "sk-of-the-tests-1234567890"

Maker = Callable[[str], Client]


def unused(url: str) -> Client:
    return Client(url, KEY, model="m", max_retries=0)


def used(url: str) -> Client:
    """Has a connection to the server in its pool."""
    client = unused(url)
    client.models()
    return client


def of_a_session(url: str) -> Client:
    return Client(url, KEY, model="m", max_retries=0, session=requests.Session())


def of_a_used_session(url: str) -> Client:
    client = of_a_session(url)
    client.models()
    return client


each_client = pytest.mark.parametrize("make", [unused, used, of_a_session, of_a_used_session])


def real(request: Request) -> Reply:
    if request.path == "/v1/models":
        return Reply(headers={"Content-Type": "application/json"}, body=b'{"data":[{"id":"m"}]}')
    return saying("real")(request)


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(real) as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


def sent(server: ReplayServer) -> list[str]:
    """The paths that calls asked for, without those that warmed a client up."""
    return [request.path for request in server.requests if request.path != "/v1/models"]


@each_kind
@each_client
def test_requests_mock_answers_in_place_of_the_server(kind: str, make: Maker, server: ReplayServer) -> None:
    client = make(server.url)
    for _ in range(2):
        with requests_mock.Mocker() as mock:
            mock.post(server.url + PATHS[kind], content=body(kind, "mocked"), headers=headers(kind))
            assert CALLS[kind](client) == "mocked"
            (seen,) = mock.request_history
        assert (seen.headers["Authorization"], seen.json()["model"]) == (f"Bearer {KEY}", "m")
    assert sent(server) == []
    assert CALLS[kind](client) == "real"
    assert sent(server) == [PATHS[kind]]


@each_kind
def test_requests_mock_may_be_an_adapter_of_the_session(kind: str, server: ReplayServer) -> None:
    adapter = requests_mock.Adapter()
    adapter.register_uri("POST", server.url + PATHS[kind], content=body(kind, "mocked"), headers=headers(kind))
    with requests.Session() as session:
        session.mount("http://", adapter)
        assert CALLS[kind](Client(server.url, model="m", session=session)) == "mocked"
    assert adapter.call_count == 1
    assert server.connections == 0


@each_kind
@each_client
def test_requests_mock_lets_real_calls_through_where_it_is_told_to(
    kind: str, make: Maker, server: ReplayServer
) -> None:
    client = make(server.url)
    with requests_mock.Mocker(real_http=True) as mock:
        mock.post("http://other.example/v1/chat/completions", content=b"{}")
        assert CALLS[kind](client) == "real"
        assert mock.call_count == 1
    assert sent(server) == [PATHS[kind]]


@each_kind
@each_client
def test_an_address_that_requests_mock_does_not_know_is_not_asked(kind: str, make: Maker, server: ReplayServer) -> None:
    client = make(server.url)
    with requests_mock.Mocker(), pytest.raises((APIConnectionError, requests_mock.NoMockAddress)):
        CALLS[kind](client)
    assert sent(server) == []


def test_a_mocked_refusal_and_a_mocked_failure_are_tried_again(server: ReplayServer, waits: list[float]) -> None:
    with requests_mock.Mocker() as mock:
        failures: list[dict[str, Any]] = [{"status_code": 503}, {"exc": requests.exceptions.ConnectionError}]
        mock.post(server.url + PATHS["chat"], [*failures, {"content": body("chat", "mocked")}])
        assert Client(server.url, model="m").chat("hi").text == "mocked"
        assert mock.call_count == 3
    assert len(waits) == 2
    assert server.connections == 0


def test_the_last_mocked_refusal_is_raised(server: ReplayServer, waits: list[float]) -> None:
    with requests_mock.Mocker() as mock:
        mock.post(server.url + PATHS["chat"], status_code=500, json={"error": {"message": "as mocked"}})
        with pytest.raises(InternalServerError, match="as mocked"):
            Client(server.url, model="m").chat("hi")
        assert mock.call_count == 3
    assert server.connections == 0


@each_kind
@each_client
def test_responses_answers_in_place_of_the_server(kind: str, make: Maker, server: ReplayServer) -> None:
    client = make(server.url)
    mock = responses.RequestsMock()
    for _ in range(2):
        mock.start()
        try:
            mock.post(server.url + PATHS[kind], body=body(kind, "mocked"), headers=headers(kind))
            assert CALLS[kind](client) == "mocked"
            assert [call.request.headers["Authorization"] for call in mock.calls] == [f"Bearer {KEY}"]
        finally:
            mock.stop(allow_assert=False)
            mock.reset()
    assert sent(server) == []
    assert CALLS[kind](client) == "real"


@each_kind
@each_client
def test_an_address_that_responses_does_not_know_is_not_asked(kind: str, make: Maker, server: ReplayServer) -> None:
    client = make(server.url)
    with responses.RequestsMock():
        with pytest.raises(APIConnectionError) as caught:
            CALLS[kind](client)
    assert isinstance(caught.value.__cause__, requests.exceptions.ConnectionError)
    assert sent(server) == []


@each_kind
@each_client
def test_responses_passes_real_calls_through(kind: str, make: Maker, server: ReplayServer) -> None:
    client = make(server.url)
    with responses.RequestsMock() as mock:
        mock.add_passthru(server.url)
        assert CALLS[kind](client) == "real"
    assert sent(server) == [PATHS[kind]]


def test_a_stream_that_responses_passes_through_comes_piece_by_piece() -> None:
    read = threading.Event()

    def gated(request: Request) -> Reply:
        def pieces() -> Iterator[bytes]:
            first, *rest = stream_pieces("a", "b")
            yield first
            # The server holds the rest back until the first piece was read.
            if read.wait(10):
                yield from rest

        return Reply(headers=EVENT_STREAM, body=pieces())

    with ReplayServer(gated) as server, responses.RequestsMock() as mock:
        mock.add_passthru(server.url)
        with Client(server.url, model="m").stream("hi") as stream:
            assert next(stream).delta == "a"
            read.set()
            assert stream.until_done().text == "ab"


@pytest.mark.parametrize("kind", ["chat", "stream"])
@pytest.mark.parametrize("begun", [False, True], ids=["silent", "half an answer"])
def test_a_call_that_responses_passes_through_can_be_cancelled(kind: str, begun: bool) -> None:
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

    with ReplayServer(waiting) as server, responses.RequestsMock() as mock:
        mock.add_passthru(server.url)
        ender = threading.Thread(target=end)
        ender.start()
        with pytest.raises(Cancelled):
            CALLS[kind](Client(server.url, model="m"), cancel=token)
        ender.join(10)
        assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1


def cassette(tape: Path, mode: str) -> Any:
    return vcr.use_cassette(str(tape), record_mode=mode, filter_headers=["authorization"])


@each_kind
@each_client
def test_vcrpy_records_a_call_and_plays_it_back(kind: str, make: Maker, server: ReplayServer, tmp_path: Path) -> None:
    tape = tmp_path / "tape.yaml"
    client = make(server.url)
    with cassette(tape, "once") as recorded:
        assert CALLS[kind](client) == "real"
        assert len(recorded) == 1
    assert sent(server) == [PATHS[kind]]
    assert tape.read_text().count("uri: ") == 1
    assert KEY not in tape.read_text()
    for player in (client, make(server.url)):
        with cassette(tape, "none") as played:
            assert CALLS[kind](player) == "real"
            assert played.play_count == 1
    assert sent(server) == [PATHS[kind]]
    assert CALLS[kind](client) == "real"
    assert len(sent(server)) == 2


@each_kind
@each_client
def test_vcrpy_may_forbid_what_is_not_on_tape(
    kind: str, make: Maker, server: ReplayServer, tmp_path: Path, waits: list[float]
) -> None:
    client = make(server.url)
    with cassette(tmp_path / "tape.yaml", "none"):
        with pytest.raises(CannotOverwriteExistingCassetteException):
            CALLS[kind](client)
    assert (sent(server), waits) == ([], [])


@each_kind
def test_a_cache_that_is_installed_for_all_of_requests_answers_the_second_call(kind: str, server: ReplayServer) -> None:
    requests_cache.install_cache(backend="memory", allowable_methods=["GET", "POST"])
    try:
        client = Client(server.url, model="m")
        assert [CALLS[kind](client) for _ in range(3)] == ["real"] * 3
        assert len(server.requests) == 1
        assert [client.models()[0].id for _ in range(3)] == ["m"] * 3
        assert len(server.requests) == 2
    finally:
        requests_cache.uninstall_cache()
    fresh = Client(server.url, model="m")
    assert [CALLS[kind](fresh) for _ in range(2)] == ["real"] * 2
    assert len(server.requests) == 4


@each_kind
def test_a_cached_session_answers_the_second_call(kind: str, server: ReplayServer) -> None:
    with requests_cache.CachedSession(backend="memory", allowable_methods=["GET", "POST"]) as session:
        client = Client(server.url, model="m", session=session)
        assert [CALLS[kind](client) for _ in range(3)] == ["real"] * 3
        assert len(server.requests) == 1
        session.cache.clear()
        assert CALLS[kind](client) == "real"
        assert len(server.requests) == 2
