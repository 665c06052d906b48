"""Answers kept by requests-cache, counted by what the server was asked."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import os
import pickle
import signal
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from support.redis_server import RedisServer, redis_server
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces

from openai_compat import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    StopStream,
)

cache = pytest.importorskip("openai_compat.integrations.cache", reason="requests-cache is an extra")

__all__ = ["redis_server"]
KEY = "sk-of-the-tests-1234567890"
VECTORS = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}


def answer(request: Request) -> Reply:
    if request.path.endswith("/models"):
        return Reply(headers=JSON, body=json.dumps({"data": [{"id": "m"}]}).encode())
    if request.path.endswith("/embeddings"):
        return Reply(headers=JSON, body=json.dumps(VECTORS).encode())
    if request.json().get("stream"):
        return Reply(headers=EVENT_STREAM, body=stream_pieces("one", " two"))
    return chat_reply()


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(answer) as running:
        yield running


Make = Callable[..., Client]


@pytest.fixture
def make(server: ReplayServer) -> Iterator[Make]:
    sessions: list[Any] = []

    def made(api_key: str | None = KEY, model: str = "m", url: str = "", **options: Any) -> Client:
        options.setdefault("backend", None if "cache_name" in options else "memory")
        sessions.append(cache.CachedSession(**options))
        return Client(url or server.url, api_key, model=model, session=sessions[-1], max_retries=0)

    yield made
    for session in sessions:
        session.close()


def streamed(client: Client, **fields: Any) -> list[str]:
    events: list[Any] = []
    client.chat("hi", sink=events.append, **fields)
    return [event.delta for event in events if event.delta]


CALLS: dict[str, Callable[[Client], Any]] = {
    "chat": lambda client: client.chat("hi").text,
    "streamed": streamed,
    "embeddings": lambda client: list(client.embed("hi").embedding),
    "models": lambda client: [model.id for model in client.models()],
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_what_was_asked_before_is_not_asked_again(make: Make, server: ReplayServer, call: Callable[..., Any]) -> None:
    client = make()
    first = call(client)
    assert [call(client) for _ in range(3)] == [first] * 3
    assert len(server.requests) == 1


@each_call
def test_another_program_gets_what_this_one_has_kept(
    make: Make, server: ReplayServer, tmp_path: Path, call: Callable[..., Any]
) -> None:
    first = call(make(cache_name=str(tmp_path / "kept.sqlite")))
    assert call(make(cache_name=str(tmp_path / "kept.sqlite"))) == first
    assert len(server.requests) == 1
    kept = (tmp_path / "kept.sqlite").read_bytes()
    assert KEY.encode() not in kept
    assert b"hi" not in kept.replace(b"hit", b"")


def test_redis_keeps_them_for_all_machines(make: Make, server: ReplayServer, redis_server: RedisServer) -> None:
    first, second = make(cache_name=redis_server.url), make(cache_name=redis_server.url)
    assert streamed(first) == streamed(second) == ["one", " two"]
    assert first.chat("hi").text == second.chat("hi").text
    assert len(server.requests) == 2


def test_an_answer_says_that_it_was_kept(make: Make) -> None:
    client = make()
    assert cache.HIT not in client.chat("hi").headers
    assert client.chat("hi").headers[cache.HIT] == "hit"
    with client.stream("again") as stream:
        assert cache.HIT not in stream.until_done().headers
    with client.stream("again") as stream:
        assert stream.until_done().headers[cache.HIT] == "hit"


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "ho"},
        {"model": "another"},
        {"temperature": 0.5},
        {"seed": 1},
        {"system": "Be brief."},
        {"extra_body": {"x": 1}},
        {"sink": print},
    ],
    ids=str,
)
def test_another_question_is_asked(make: Make, server: ReplayServer, other: dict[str, Any]) -> None:
    client = make()
    client.chat("hi")
    client.chat(**{"prompt": "hi", **other})
    assert len(server.requests) == 2


def test_the_order_of_keys_makes_no_other_question(make: Make, server: ReplayServer) -> None:
    client = make()
    client.chat("hi", extra_body={"a": 1, "b": {"c": 2, "d": 3}})
    client.chat("hi", extra_body={"b": {"d": 3, "c": 2}, "a": 1})
    assert len(server.requests) == 1


def test_nobody_is_answered_with_what_another_s_key_has_paid_for(
    make: Make, tmp_path: Path, server: ReplayServer
) -> None:
    path = str(tmp_path / "kept.sqlite")
    make(cache_name=path).chat("hi")
    make(cache_name=path, api_key="sk-of-somebody-else-123").chat("hi")
    assert len(server.requests) == 2
    make(cache_name=path, match_headers=()).chat("hi")
    make(cache_name=path, match_headers=(), api_key="sk-of-a-third-person-1").chat("hi")
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", ["X-Api-Token", "X-Goog-Api-Key", "OpenAI-Organization", "Authorization"])
def test_nor_by_a_header_of_any_other_name(make: Make, server: ReplayServer, tmp_path: Path, name: str) -> None:
    client = make(cache_name=str(tmp_path / "kept.sqlite"), api_key=None)
    for key in ("of-one-12345678", "of-another-87654321", "of-one-12345678"):
        client.chat("hi", extra_headers={name: key})
    assert len(server.requests) == 2


def test_a_cookie_that_a_server_sets_makes_no_other_question(make: Make) -> None:
    reply = chat_reply()
    reply = dataclasses.replace(reply, headers={**reply.headers, "Set-Cookie": "__cf_bm=12345678; path=/"})
    with ReplayServer(lambda request: reply) as server:
        client = make(url=server.url)
        assert [client.chat("hi").text for _ in range(3)] == ["ok"] * 3
        assert len(server.requests) == 1


def test_what_is_no_question_goes_its_way(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"line\n" * 3)
    listed = Reply(headers=JSON, body=b'{"data": [{"id": "batch_1", "status": "running"}]}')
    with ReplayServer(lambda request: listed) as server, cache.CachedSession(backend="memory") as session:
        for _ in range(2):
            with (tmp_path / "upload").open("rb") as file:
                session.post(f"{server.url}/files", data=file, timeout=10).json()
            session.get(f"{server.url}/batches", timeout=10).json()
        assert [request.body for request in server.requests] == [b"line\n" * 3, b""] * 2


class Runs:
    """A pickle that runs code where it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


PLANTED: dict[str, Callable[[Path], Any]] = {
    "a pickle that runs code": lambda marker: pickle.dumps(Runs(marker)),
    "another object": lambda marker: pickle.dumps(1),
    "another JSON": lambda marker: '{"url": 1}',
    "an entry whose pieces do not fit": lambda marker: kept_json("3@0.0,3@1.0"),
    "an entry without pieces": lambda marker: kept_json(""),
    "an entry whose time is no number": lambda marker: kept_json("5@x"),
    "nothing": lambda marker: b"",
    "NULL": lambda marker: None,
    "a number": lambda marker: 5,
}


def kept_json(pieces: str) -> str:
    headers = {"Content-Type": "application/json", cache._PIECES: pieces}
    kept = {"url": "http://x/", "reason": "OK", "headers": headers, "content": "aGVsbG8="}
    return json.dumps({**kept, "created_at": "2026-01-01T00:00:00Z", "expires": None})


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_what_another_program_has_put_there_is_neither_run_nor_an_answer(
    make: Make, server: ReplayServer, tmp_path: Path, planted: Callable[[Path], Any]
) -> None:
    client = make(cache_name=str(tmp_path / "kept.sqlite"))
    client.chat("hi")
    with contextlib.closing(sqlite3.connect(tmp_path / "kept.sqlite")) as db, db:
        assert db.execute("UPDATE responses SET value = ?", (planted(tmp_path / "ran"),)).rowcount == 1
    assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
    assert not (tmp_path / "ran").exists()
    assert len(server.requests) == 2


def test_redis_holds_no_pickles_either(
    make: Make, server: ReplayServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis = pytest.importorskip("redis", reason="redis is an extra")
    make(cache_name=redis_server.url).chat("another question")
    with redis.Redis.from_url(redis_server.url) as connection:
        for key in connection.keys("*"):
            connection.set(key, pickle.dumps(Runs(tmp_path / "ran")))
    assert make(cache_name=redis_server.url).chat("another question").text == "ok"
    assert not (tmp_path / "ran").exists()
    assert len(server.requests) == 2


@each_call
def test_a_folder_of_files_holds_them_too(make: Make, server: ReplayServer, tmp_path: Path, call: Any) -> None:
    first = call(make(cache_name=str(tmp_path / "kept"), backend="filesystem"))
    assert call(make(cache_name=str(tmp_path / "kept"), backend="filesystem")) == first
    assert len(server.requests) == 1


def test_a_key_in_the_address_is_not_kept(make: Make, server: ReplayServer, tmp_path: Path) -> None:
    client = make(url=f"{server.url}?key=very-secret-5678", api_key=None, cache_name=str(tmp_path / "kept.sqlite"))
    assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
    assert len(server.requests) == 1
    assert b"very-secret" not in (tmp_path / "kept.sqlite").read_bytes()


def test_a_file_that_another_program_locks_costs_no_answer(
    make: Make, server: ReplayServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LOCKED", 0.01)
    path = tmp_path / "kept.sqlite"
    client = make(cache_name=str(path), timeout=0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert in_time(lambda: client.chat("hi").text) == "ok"
        for name in (path, path.with_suffix("")):
            with pytest.raises(ConfigurationError, match="locked"):
                in_time(lambda name=name: make(cache_name=str(name)))
    assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
    assert len(server.requests) == 2


def in_time(call: Callable[[], Any]) -> Any:
    """What a call returns, if it does within 20 seconds; it may hang for ever."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(20)


@pytest.mark.parametrize("name", ["folder.sqlite", "none.sqlite", "none.sqlite/below.sqlite"], ids=repr)
def test_a_path_that_is_of_no_use_is_told(make: Make, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "none.sqlite").write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        make(cache_name=str(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_fork_amid_its_use_leaves_both_sides_their_own_connection(
    make: Make, server: ReplayServer, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite"
    client = make(cache_name=str(path))
    client.chat("seed")
    stop = threading.Event()

    def ask(number: int) -> None:
        for count in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            client.chat(f"{number} {count}")

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for asker in askers:
        asker.start()
    children = []
    for number in range(6):
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                assert client.chat(f"child {number}").text == client.chat("seed").text == "ok"
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    exits = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    for asker in askers:
        asker.join(20)
    assert exits == [0] * 6
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_answers_expire(make: Make, server: ReplayServer) -> None:
    client = make(expire_after=0)
    assert [client.chat("hi").text for _ in range(2)] == ["ok", "ok"]
    assert len(server.requests) == 2


FAILED = {
    "an error": error_reply(500, "broken"),
    "an error under status 200": Reply(headers=JSON, body=b'{"error": {"message": "no"}}'),
    "an error in words of its own": Reply(headers=JSON, body=b'{"detail": "the model is being loaded"}'),
    "an answer without choices": Reply(headers=JSON, body=b'{"choices": []}'),
    "a stream without choices": Reply(headers=EVENT_STREAM, body=[b"data: [DONE]\n\n"]),
    "an error in a stream": Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"}), b'data: {"error": "x"}\n\n']),
    "a stream that breaks off": Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"})]),
    "a page": Reply(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"),
}


@pytest.mark.parametrize("reply", FAILED.values(), ids=FAILED)
def test_what_failed_is_not_kept(make: Make, reply: Reply) -> None:
    with ReplayServer([reply, Reply(headers=EVENT_STREAM, body=stream_pieces("well"))]) as server:
        client = make(url=server.url)
        with contextlib.suppress(APIError):
            client.chat("hi", sink=lambda event: None)
        assert streamed(client) == ["well"]
        assert len(server.requests) == 2


def test_a_stream_that_was_left_is_not_kept(make: Make, server: ReplayServer) -> None:
    def stop(event: Any) -> None:
        raise StopStream

    client = make()
    assert client.chat("hi", sink=stop).truncated
    assert streamed(client) == ["one", " two"]
    assert len(server.requests) == 2


def test_the_first_time_a_stream_comes_as_it_is_written(make: Make) -> None:
    heard = threading.Event()

    def body() -> Iterator[bytes]:
        first, *rest = stream_pieces("one", " two")
        yield first
        assert heard.wait(20)
        yield from rest

    with ReplayServer(lambda request: Reply(headers=EVENT_STREAM, body=body())) as server:
        client = make(url=server.url)
        answer = client.chat("hi", sink=lambda event: heard.set())
        assert answer.text == "one two"
        assert streamed(client) == ["one", " two"]


def test_a_replay_in_time_can_be_cancelled_and_has_limits(server: ReplayServer) -> None:
    session = cache.CachedSession(backend="memory", replay="timed")
    client = Client(server.url, KEY, model="m", session=session)
    assert streamed(client) == ["one", " two"]
    # As if an hour had passed between the first piece and the others.
    [kept] = session.cache.responses.values()
    first, *rest = kept.headers[cache._PIECES].split(",")
    sizes = [piece.partition("@")[0] for piece in (first, *rest)]
    kept.headers[cache._PIECES] = ",".join(f"{size}@{3600 * place}" for place, size in enumerate(sizes))
    token = CancelToken()
    with pytest.raises(Cancelled) as cancelled:
        client.chat("hi", sink=lambda event: token.cancel(), cancel=token)
    with pytest.raises(APITimeoutError) as late:
        client.chat("hi", sink=lambda event: None, timeout=1)
    with client.stream("hi") as stream:
        assert next(iter(stream)).delta == "one"
    for error in (cancelled.value, late.value):
        assert error.partial is not None
        assert error.partial.text == "one"
    assert len(server.requests) == 1


def test_a_replay_in_time_takes_the_time_that_it_took(server: ReplayServer) -> None:
    session = cache.CachedSession(backend="memory", replay="timed")
    client = Client(server.url, KEY, model="m", session=session)
    streamed(client)
    [kept] = session.cache.responses.values()
    kept.headers[cache._PIECES] = f"{len(kept.content)}@0.2"
    begun = time.monotonic()
    assert streamed(client) == ["one", " two"]
    assert time.monotonic() - begun >= 0.2


def test_many_threads_share_one_session(make: Make, server: ReplayServer, tmp_path: Path) -> None:
    client = make(cache_name=str(tmp_path / "kept.sqlite"))
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: client.chat(f"question {number % 10}").text, range(80)))
    assert texts == ["ok"] * 80
    asked = len(server.requests)
    assert 10 <= asked <= 80
    assert [client.chat(f"question {number}").text for number in range(10)] == ["ok"] * 10
    assert len(server.requests) == asked


def test_what_the_cache_cannot_do_costs_no_answer(
    server: ReplayServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("no space left on device")

    session = cache.CachedSession(backend="memory")
    monkeypatch.setattr(session.cache, "get_response", broken)
    monkeypatch.setattr(type(session.cache.responses), "__setitem__", broken)
    client = Client(server.url, KEY, model="m", session=session)
    with caplog.at_level(logging.WARNING, "openai_compat"):
        assert [client.chat("hi").text, *streamed(client)] == ["ok", "one", " two"]
    assert [record.message for record in caplog.records] == [
        "the cache cannot be read, and the server is asked: no space left on device",
        "an answer could not be kept: no space left on device",
    ] * 2
    assert len(server.requests) == 2


def test_a_redis_that_is_down_costs_no_answer(
    make: Make, server: ReplayServer, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("redis", reason="redis is an extra")
    client = make(cache_name="redis://127.0.0.1:9/0")
    assert client.chat("hi").text == "ok"
    assert len(server.requests) == 1


def test_a_redis_that_does_not_answer_costs_no_answer(
    make: Make, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis", reason="redis is an extra")
    monkeypatch.setattr(cache, "SILENT", 0.05, raising=False)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        client = make(cache_name=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert in_time(lambda: client.chat("hi").text) == "ok"
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_no_answer(make: Make) -> None:
    with pytest.raises(APIConnectionError):
        make(url="http://127.0.0.1:9/v1").chat("hi")


def test_responses_are_let_go_without_the_collector(make: Make, server: ReplayServer) -> None:
    session = cache.CachedSession(backend="memory")
    gc.disable()
    try:
        response = session.post(f"{server.url}/chat/completions", json={"stream": False})
        assert response.json()["choices"]
        gone = weakref.ref(response)
        response.close()
        del response
        assert gone() is None
    finally:
        gc.enable()
        session.close()


def test_it_is_a_session_for_anything_else_too(server: ReplayServer) -> None:
    with cache.CachedSession(backend="memory") as session:
        first, second = (session.get(f"{server.url}/models") for _ in range(2))
        assert first.json() == second.json() == {"data": [{"id": "m"}]}
        assert isinstance(second, requests.Response)
        assert len(server.requests) in (1, 2)


def test_a_wrong_way_to_replay_is_told() -> None:
    with pytest.raises(ValueError, match="'at_once' or 'timed'"):
        cache.CachedSession(backend="memory", replay="slow")
