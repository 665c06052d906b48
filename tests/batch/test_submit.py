"""A provider's own Batch API: what is sent, what comes of each state, and what a restart costs."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
from support.batch_provider import Provider, answered, json_reply
from support.pages import program_of
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import error_reply

from openai_compat import (
    APIError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    BatchRun,
    Budget,
    Cancelled,
    CancelToken,
    ChatRequest,
    Client,
    ConfigurationError,
    Journal,
    JournalError,
    MapResult,
    NotFoundError,
    ResponseTypeError,
    RetryPolicy,
    budget,
)
from openai_compat.batch import provider as api
from openai_compat.batch import submit
from openai_compat.batch.journal import Entry
from openai_compat.cli.main import main


class Clock(CancelToken):
    """Waits no time, and remembers for how long it was to."""

    def __init__(self, on_wait: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.on_wait = on_wait

    def wait(self, seconds: float | None = None) -> bool:
        self.waits.append(seconds or 0.0)
        assert len(self.waits) < 1000
        self.on_wait()
        return self.cancelled


def client(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", **{"model": "m", "max_retries": 0, **options})


def submitted(
    server: ReplayServer, requests: Any, journal: Path | None = None, clock: Clock | None = None, **options: Any
) -> BatchRun[Any]:
    return client(server).submit_batch(requests, journal=journal, cancel=clock or Clock(), **options)


def by_index(results: Iterator[MapResult[Any]]) -> list[MapResult[Any]]:
    return sorted(results, key=lambda result: result.index)


def told(results: Iterator[MapResult[Any]]) -> list[str]:
    return [result.text if result.ok else f"{type(result.error).__name__}" for result in by_index(results)]


def paths(server: ReplayServer) -> list[str]:
    return [f"{request.method} {request.path.removeprefix('/v1')}" for request in server.requests]


def test_what_is_sent_and_what_comes() -> None:
    provider = Provider()
    asked = ["a", ("named", "b"), ChatRequest("c", temperature=0.5), [{"role": "user", "content": "d"}], "a"]
    with ReplayServer(provider) as server, submitted(server, iter(asked), max_tokens=7) as run:
        assert run.ids == ("batch_1",)
        results = by_index(run)
        assert paths(server) == [
            *("POST /files", "POST /batches", "GET /batches/batch_1", "GET /batches/batch_1"),
            "GET /files/output-batch_1/content",
        ]
    assert provider.created == [
        {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    ]
    [lines] = provider.uploads
    assert len({line["custom_id"] for line in lines}) == len(lines) == 4
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    asked_first = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 7, "stream": False}
    assert lines[0]["body"] == asked_first
    assert [(result.index, result.custom_id, result.text) for result in results] == [
        *((0, None, "re: a"), (1, "named", "re: b"), (2, None, "re: c"), (3, None, "re: d"), (4, None, "re: a")),
    ]
    assert results[2].request.temperature == 0.5
    assert {charge.tier for result in results for charge in result.charges} == {"batch"}
    assert not any(result.from_journal for result in results)


def test_a_restart_submits_nothing_twice_and_asks_for_nothing_that_it_has(tmp_path: Path) -> None:
    provider, journal = Provider(), tmp_path / "j.db"
    asked = [("a", "1"), ("b", "2"), "3"]
    with ReplayServer(provider) as server:
        submitted(server, asked, journal).close()  # and the process ends here
        with submitted(server, asked, journal) as run:
            assert run.ids == ("batch_1",)
            assert told(run) == ["re: 1", "re: 2", "re: 3"]
        before = len(server.requests)
        results = by_index(submitted(server, asked, journal))
        # Other lines: what is new goes, and the same answers serve map.
        assert told(submitted(server, [*asked, "4"], journal)) == ["re: 1", "re: 2", "re: 3", "re: 4"]
        assert told(client(server).map(asked, journal=journal)) == ["re: 1", "re: 2", "re: 3"]
        assert len(server.requests) == before + 5
    assert [len(lines) for lines in provider.uploads] == [3, 1]
    assert all(result.from_journal for result in results)


def test_a_batch_whose_making_was_not_heard_of_is_found_and_not_made_again(tmp_path: Path) -> None:
    provider = Provider()

    def lost(request: Request, reply: Reply) -> Reply:
        made = request.method == "POST" and request.path.endswith("/batches")
        return Reply(head=b"", abort="rst") if made else reply

    provider.after = lost
    with ReplayServer(provider) as server, submitted(server, ["a"], tmp_path / "j.db") as run:
        assert told(run) == ["re: a"]
    assert len(provider.created) == len(provider.uploads) == 1


def test_a_restart_finds_it_too(tmp_path: Path) -> None:
    provider, down = Provider(), [True]

    def before(request: Request) -> Reply | None:
        listing = request.method == "GET" and "/batches?" in request.path
        return error_reply(500, "not now") if down[0] and listing else None

    def lost(request: Request, reply: Reply) -> Reply:
        made = request.method == "POST" and request.path.endswith("/batches")
        return error_reply(502, "lost on the way") if made else reply

    provider.before, provider.after = before, lost
    with ReplayServer(provider) as server:
        with pytest.raises(APIStatusError, match="not now"):
            submitted(server, ["a"], tmp_path / "j.db")
        down[0] = False
        assert told(submitted(server, ["a"], tmp_path / "j.db")) == ["re: a"]
    assert len(provider.created) == len(provider.uploads) == 1


def test_a_batch_that_is_refused_is_not_remembered(tmp_path: Path) -> None:
    provider = Provider()
    refused = error_reply(400, "no money", code="billing_hard_limit_reached")
    provider.before = lambda request: refused if request.path.endswith("/batches") else None
    with ReplayServer(provider) as server:
        with pytest.raises(BadRequestError, match="no money"):
            submitted(server, ["a"], tmp_path / "j.db")
        provider.before = lambda request: None
        assert told(submitted(server, ["a"], tmp_path / "j.db")) == ["re: a"]
    assert len(provider.created) == 1


def partly(line: dict[str, Any]) -> dict[str, Any] | None:
    return answered(line) if line["body"]["messages"][-1]["content"] == "good" else None


def with_error(code: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(line: dict[str, Any]) -> dict[str, Any]:
        failed = {**answered(line), "response": None, "error": {"code": code, "message": f"it is {code}"}}
        return partly(line) or failed

    return answer


def with_status(status: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(line: dict[str, Any]) -> dict[str, Any]:
        body = {"error": {"message": "not this", "code": "wrong", "type": "invalid_request_error"}}
        failed = {**answered(line), "response": {"status_code": status, "request_id": "req_2", "body": body}}
        return partly(line) or failed

    return answer


def empty(line: dict[str, Any]) -> dict[str, Any]:
    return partly(line) or {**answered(line), "response": {"status_code": 200, "body": {"choices": []}}}


@pytest.mark.parametrize(
    ("status", "answer", "error", "message", "again"),
    [
        ("completed", with_status(400), BadRequestError, "HTTP 400 .*not this", False),
        ("completed", with_status(429), APIError, "HTTP 429 .*not this", True),
        ("completed", with_error("server_error"), APIError, "it is server_error", False),
        ("completed", empty, APIError, "has no choices", False),
        ("completed", partly, APIError, "batch_1 completed without an answer to this request", True),
        ("expired", with_error("batch_expired"), APIError, "it is batch_expired", True),
        ("expired", partly, APIError, "batch_1 expired before it was asked", True),
        ("cancelled", with_error("batch_cancelled"), APIError, "it is batch_cancelled", True),
        ("cancelled", partly, APIError, "batch_1 was cancelled before it was asked", True),
        ("failed", partly, APIError, "batch_1 failed without an answer", False),
    ],
)
def test_each_end_gives_what_there_is_and_the_rest_may_be_asked_again(
    tmp_path: Path, status: str, answer: Any, error: type[Exception], message: str, again: bool
) -> None:
    provider, journal = Provider(status=status, answer=answer), tmp_path / "j.db"
    with ReplayServer(provider) as server:
        good, bad = by_index(submitted(server, ["good", "bad"], journal))
        assert good.text == "re: good"
        assert isinstance(bad.error, error)
        with pytest.raises(error, match=message):
            bad.result()
        # The same line again: whether the failure alone is submitted anew is its own to say, or the caller's.
        provider.status, provider.answer = "completed", answered
        known = told(submitted(server, ["good", "bad"], journal))
        assert known == ["re: good", "re: bad"] if again else known == ["re: good", type(bad.error).__name__]
        assert told(submitted(server, ["good", "bad"], journal, retry_failed=True)) == ["re: good", "re: bad"]
        assert told(submitted(server, ["good", "bad"], journal, retry_failed=False)) == ["re: good", "re: bad"]
    assert [len(lines) for lines in provider.uploads] == [2, 1]


def test_a_batch_that_failed_as_a_whole_says_why(tmp_path: Path) -> None:
    provider = Provider(status="failed", answer=lambda line: None)
    provider.errors = [
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m", "line": None},
        {"code": "token_limit_exceeded", "message": "and so on"},
    ]
    with ReplayServer(provider) as server:
        first, second = submitted(server, ["a", "b"], tmp_path / "j.db")
        with pytest.raises(
            APIError, match=r"token_limit_exceeded: batch batch_1 failed: Enqueued .* \(and 1 more\)"
        ) as e:
            first.result()
        assert e.value.retryable
        assert not second.ok
        provider.status, provider.answer, provider.errors = "completed", answered, []
        assert told(submitted(server, ["a", "b"], tmp_path / "j.db")) == ["re: a", "re: b"]


def test_large_inputs_become_several_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(submit, "MAX_REQUESTS", 3)
    provider = Provider()
    asked = [str(number) for number in range(7)]
    with ReplayServer(provider) as server, submitted(server, asked, tmp_path / "j.db", ordered=True) as run:
        assert run.ids == ("batch_1", "batch_2", "batch_3")
        assert [result.text for result in run] == [f"re: {number}" for number in range(7)]
    assert [len(lines) for lines in provider.uploads] == [3, 3, 1]


def test_so_do_large_requests_and_one_too_large_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MAX_BYTES", 1500)
    provider = Provider()
    with ReplayServer(provider) as server, submitted(server, ["a" * 1000, "b" * 1000, "c" * 2000]) as run:
        results = by_index(run)
    assert [len(lines) for lines in provider.uploads] == [1, 1]
    assert [result.ok for result in results] == [True, True, False]
    assert isinstance(results[2].error, ConfigurationError)


def test_a_file_has_one_model() -> None:
    provider = Provider()
    asked = [ChatRequest("a", model="x"), ChatRequest("b", model="y"), ChatRequest("c", model="x")]
    with ReplayServer(provider) as server:
        assert told(submitted(server, asked)) == ["re: a", "re: b", "re: c"]
    assert sorted([line["body"]["model"] for line in lines] for lines in provider.uploads) == [["x", "x"], ["y"]]


def test_looks_are_rare_and_keep_to_what_the_server_asks_for() -> None:
    provider, clock = Provider(polls=9), Clock()

    def busy(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/batches/batch_1") and len(clock.waits) == 3:
            return with_headers(reply, {"Retry-After": "45"})
        return reply

    provider.after = busy
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"], clock=clock, poll_every=20)) == ["re: a"]
    assert clock.waits == [1, 2, 4, 45, 16, 20, 20, 20]


def test_a_server_cannot_have_it_wait_for_ever() -> None:
    provider, clock = Provider(polls=3), Clock()
    provider.after = lambda request, reply: with_headers(reply, {"Retry-After": "99999999"})
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"], clock=clock)) == ["re: a"]
    assert len(clock.waits) == 2
    assert max(clock.waits) <= 900


def with_headers(reply: Reply, headers: dict[str, str]) -> Reply:
    return Reply(headers={**reply.headers, **headers}, body=reply.body)


def test_a_server_that_goes_away_and_comes_back_costs_nothing() -> None:
    provider = Provider(polls=1)
    ends: list[Reply | None] = [error_reply(503), Reply(head=b"", abort="rst"), error_reply(429, "slow"), None]
    provider.before = lambda request: ends.pop(0) if "/batches/" in request.path and ends else None
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"])) == ["re: a"]
    assert len(provider.uploads) == 1


def test_one_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MAX_FAILED_LOOKS", 5)
    provider = Provider()
    provider.before = lambda request: error_reply(503) if "/batches/" in request.path else None
    with ReplayServer(provider) as server:
        run = submitted(server, ["a"])
        with pytest.raises(APIStatusError, match="HTTP 503") as caught:
            next(run)
        assert len(server.requests) == 2 + 5
        assert "batches go on: 1 at 127.0.0.1 (batch_1)" in caught.value.__notes__[0]
        run.close()


def test_a_key_that_is_refused_while_waiting_ends_it_and_the_run_can_go_on() -> None:
    provider = Provider()
    with ReplayServer(provider) as server, submitted(server, ["a"]) as run:
        provider.before = lambda request: error_reply(401, "expired")
        with pytest.raises(APIError, match="expired"):
            next(run)
        provider.before = lambda request: None
        assert told(run) == ["re: a"]


def test_a_download_that_breaks_begins_again(tmp_path: Path) -> None:
    provider, asked = Provider(), [str(number) for number in range(500)]
    broken: list[int] = []

    def cut(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/content") and not broken:
            broken.append(1)
            assert isinstance(reply.body, bytes)
            return Reply(headers=reply.headers, body=reply.body[:60_000], declared_length=len(reply.body))
        return reply

    provider.after = cut
    with ReplayServer(provider) as server:
        run = client(server, max_retries=2).submit_batch(asked, journal=tmp_path / "j.db", cancel=Clock())
        assert told(run) == [f"re: {number}" for number in range(500)]
    with Journal(tmp_path / "j.db") as journal:
        assert journal.counts() == {"answered": 500, "failed": 0}
    assert broken


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "a page in its place": lambda body: b"<html>Sign in</html>",
    "an error under HTTP 200": lambda body: b'{"error": {"message": "try later"}}',
    "cut in a line": lambda body: body[: len(body) // 2],
    "cut between lines": lambda body: body.splitlines(True)[0],
    "empty": lambda body: b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_answers_that_did_not_all_come_are_fetched_again_and_not_paid_for_again(tmp_path: Path, name: str) -> None:
    provider, journal, fetched = Provider(polls=1), tmp_path / "j.db", itertools.count(1)

    def damaging(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/content") and next(fetched) < 3:
            assert isinstance(reply.body, bytes)
            return Reply(headers=reply.headers, body=DAMAGED[name](reply.body), framing="close")
        return counting(request, reply)

    def counting(request: Request, reply: Reply) -> Reply:
        if request.method == "GET" and "/batches/" in request.path:
            assert isinstance(reply.body, bytes)
            return json_reply({**json.loads(reply.body), "request_counts": {"total": 2, "completed": 2, "failed": 0}})
        return reply

    provider.after = damaging
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a", "b"], journal)) == ["re: a", "re: b"]
        assert told(submitted(server, ["a", "b"], journal)) == ["re: a", "re: b"]
    assert (next(fetched), len(provider.uploads)) == (4, 1)


def test_answers_that_never_come_are_given_up_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MAX_FAILED_LOOKS", 3)
    provider, journal = Provider(polls=1), tmp_path / "j.db"
    provider.after = lambda request, reply: (
        Reply(headers=reply.headers, body=b"no line\n") if request.path.endswith("/content") else reply
    )
    with ReplayServer(provider) as server:
        with pytest.raises(APIError, match="not whole: 1 requests have no answer.*retry_failed=True"):
            list(submitted(server, ["a"], journal))
        assert told(submitted(server, ["a"], journal, retry_failed=True)) == ["APIError"]
        provider.after = lambda request, reply: reply
        assert told(submitted(server, ["a"], journal)) == ["re: a"]
    assert len(provider.uploads) == 2


@pytest.mark.parametrize("reply", [error_reply(503), error_reply(429), Reply(head=b"", abort="rst")])
def test_a_file_that_cannot_be_had_for_a_while_is_waited_for(reply: Reply) -> None:
    provider, refusals = Provider(polls=1), itertools.count(1)
    provider.before = lambda request: reply if request.path.endswith("/content") and next(refusals) < 3 else None
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"])) == ["re: a"]
    assert len(provider.uploads) == 1


def test_a_file_that_is_somewhere_else_ends_the_wait_at_once() -> None:
    provider = Provider(polls=1)
    elsewhere = Reply(status=302, headers={"Location": "http://storage.example/file?signature=secret"})
    provider.before = lambda request: elsewhere if request.path.endswith("/content") else None
    with ReplayServer(provider) as server, submitted(server, ["a"]) as run:
        with pytest.raises(APIError, match="redirects") as caught:
            next(run)
        assert len(server.requests) == 4
    assert "signature" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(404),
        error_reply(405),
        error_reply(501),
        json_reply({"error": "Unexpected endpoint or method. (POST /v1/files)"}),
        json_reply({"object": "something else"}),
    ],
)
def test_a_server_without_these_routes_is_told_at_once(reply: Reply, tmp_path: Path) -> None:
    with ReplayServer([reply]) as server:
        with pytest.raises(APIError, match=r"client\.map") as caught:
            submitted(server, ["a"], tmp_path / "j.db")
        assert len(server.requests) <= 2
    assert "127.0.0.1 seems to have no Batch API" in str(caught.value)


def test_a_batch_is_cancelled_and_what_was_answered_comes(tmp_path: Path) -> None:
    provider = Provider(polls=2, answer=partly)
    with ReplayServer(provider) as server, submitted(server, ["good", "bad"], tmp_path / "j.db") as run:
        assert [status.status for status in run.cancel()] == ["cancelling"]
        assert told(run) == ["re: good", "APIError"]
        assert [status.status for status in run.status()] == ["cancelled"]
    assert provider.cancelled == ["batch_1"]


def test_to_cancel_what_has_ended_changes_nothing() -> None:
    provider = Provider(polls=1)
    provider.before = lambda request: error_reply(400, "it is completed") if "cancel" in request.path else None
    with ReplayServer(provider) as server, submitted(server, ["a"]) as run:
        assert [status.status for status in run.cancel()] == ["completed"]
        assert told(run) == ["re: a"]


@pytest.mark.parametrize("name", ["x\r\nHost: elsewhere", "\x1b[2J", "\ud800", "日本"])
def test_a_name_that_would_break_a_line_is_none(name: str) -> None:
    provider = Provider()
    provider.after = lambda request, reply: json_reply({**json.loads(reply.body), "id": name})  # type: ignore[arg-type]
    with ReplayServer(provider) as server:
        with pytest.raises(APIError, match="is no file"):
            submitted(server, ["a"])
        assert paths(server) == ["POST /files"]


def test_a_name_is_one_part_of_a_path() -> None:
    provider = Provider(polls=1)
    provider.after = lambda request, reply: (
        json_reply({**json.loads(reply.body), "id": "../a b?c#d"})  # type: ignore[arg-type]
        if request.method == "POST" and request.path.endswith("/batches")
        else reply
    )
    with ReplayServer(provider) as server, submitted(server, ["a"]) as run:
        with pytest.raises(NotFoundError):
            next(run)
        assert paths(server)[-1] == "GET /batches/..%2Fa%20b%3Fc%23d"


@pytest.mark.parametrize("gone", ["batch_1", "output-batch_1"])
def test_what_is_not_there_any_more_is_told_and_given_up_on_request(tmp_path: Path, gone: str) -> None:
    provider, journal = Provider(polls=1), tmp_path / "j.db"

    def look(request: Request, reply: Reply) -> Reply:
        provider.lose(gone)
        return reply

    provider.after = look
    with ReplayServer(provider) as server:
        with pytest.raises(NotFoundError, match="retry_failed=True gives it up"):
            list(submitted(server, ["a"], journal))
        assert told(submitted(server, ["a"], journal, retry_failed=True)) == ["APIError"]
        provider.after = lambda request, reply: reply
        assert told(submitted(server, ["a"], journal, retry_failed=True)) == ["re: a"]
    assert len(provider.uploads) == 2


@pytest.mark.parametrize("end", [KeyboardInterrupt, Cancelled])
def test_waiting_is_broken_off_with_a_word_on_how_it_goes_on(tmp_path: Path, end: type[BaseException]) -> None:
    provider, journal = Provider(polls=3), tmp_path / "j.db"

    def interrupt() -> None:
        clock.on_wait = lambda: None
        raise end

    clock = Clock(interrupt)
    with ReplayServer(provider) as server:
        with submitted(server, ["a"], journal, clock) as run:
            with pytest.raises(end) as caught:
                next(run)
            assert caught.value.__notes__ == [
                f"batches go on: 1 at 127.0.0.1 (batch_1); the same line, with the journal {journal}, goes on waiting"
            ]
            assert told(run) == ["re: a"]  # here, the same
        assert len(provider.uploads) == 1


def test_two_on_one_journal_submit_each_request_once(tmp_path: Path) -> None:
    provider, journal = Provider(), tmp_path / "j.db"
    asked = [str(number) for number in range(50)]
    found: list[list[str]] = []
    with ReplayServer(provider) as server:

        def run() -> None:
            found.append(told(client(server).submit_batch(asked, journal=journal, poll_every=0.01)))

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == [[f"re: {number}" for number in range(50)]] * 3
    assert sum(map(len, provider.uploads)) == 50


def test_a_request_that_waits_at_another_server_is_not_paid_for_twice(tmp_path: Path) -> None:
    with ReplayServer(Provider()) as one, ReplayServer(Provider()) as other:
        submitted(one, ["a"], tmp_path / "j.db").close()
        with pytest.raises(ConfigurationError, match=rf"in batch batch_1 of {one.url}/v1: wait with a client of that"):
            submitted(other, ["a"], tmp_path / "j.db")
        assert other.requests == []


def test_answers_to_requests_that_are_not_asked_any_more_are_kept(tmp_path: Path) -> None:
    provider, journal = Provider(), tmp_path / "j.db"
    with ReplayServer(provider) as server:
        submitted(server, ["a", "b"], journal).close()
        assert told(submitted(server, ["b"], journal)) == ["re: b"]
        assert told(submitted(server, ["a", "b"], journal)) == ["re: a", "re: b"]
    assert len(provider.uploads) == 1


def test_typed_answers() -> None:
    @attrs.frozen
    class Point:
        x: int

    def answer(line: dict[str, Any]) -> dict[str, Any]:
        said = answered(line)
        asked = line["body"]["messages"][-1]["content"]
        said["response"]["body"]["choices"][0]["message"]["content"] = '{"x": 3}' if asked == "good" else "no"
        return said

    provider = Provider(answer=answer)
    with ReplayServer(provider) as server, submitted(server, ["good", "bad"], response_type=Point) as run:
        good, bad = by_index(run)
    assert good.parsed == Point(3)
    assert isinstance(bad.error, ResponseTypeError)
    assert provider.uploads[0][0]["body"]["response_format"]["type"] == "json_schema"


def test_the_body_is_in_the_server_s_dialect() -> None:
    provider = Provider()
    with ReplayServer(provider) as server:
        run = client(server, provider="openai").submit_batch(["a"], max_tokens=5, cancel=Clock())
        assert told(run) == ["re: a"]
    assert provider.uploads[0][0]["body"]["max_completion_tokens"] == 5


def test_requests_are_taken_one_by_one_and_a_bad_one_is_told() -> None:
    def asked() -> Iterator[Any]:
        yield "a"
        yield 7

    with ReplayServer(Provider()) as server, pytest.raises(ConfigurationError, match="request 1: a prompt is"):
        submitted(server, asked())
    with ReplayServer(Provider()) as server:
        with pytest.raises(ConfigurationError, match="no headers and no query"):
            submitted(server, [ChatRequest("a", extra_headers={"X": "y"})])
        assert server.requests == []


@pytest.mark.parametrize("where", ["client", "block"])
def test_a_budget_that_could_not_stop_it_is_told_before_anything_is_uploaded(tmp_path: Path, where: str) -> None:
    provider, limit = Provider(), Budget(tokens=1_000_000)
    with ReplayServer(provider) as server:
        asking = client(server, budget=limit if where == "client" else None)
        with limit if where == "block" else contextlib.nullcontext(), pytest.raises(ConfigurationError, match="budget"):
            asking.submit_batch(["a"], journal=tmp_path / "j.db")
        assert server.requests == []
        with budget():  # only counts
            assert told(submitted(server, ["a"], tmp_path / "j.db")) == ["re: a"]
        with limit:  # nothing is submitted
            assert told(submitted(server, ["a"], tmp_path / "j.db")) == ["re: a"]


def test_half_a_character_in_an_id_costs_no_answers(tmp_path: Path) -> None:
    provider = Provider()
    pairs = [("caf\ud800", "a"), ("caf\ud801", "b")]
    with ReplayServer(provider) as server:
        for _ in range(2):
            results = by_index(submitted(server, pairs, tmp_path / "j.db"))
            assert [(each.custom_id, each.text) for each in results] == [("caf\ud800", "re: a"), ("caf\ud801", "re: b")]
    assert len(provider.uploads) == 1


def test_on_error_raise_and_ordered() -> None:
    provider = Provider(answer=with_status(400))
    with ReplayServer(provider) as server, submitted(server, ["good", "bad"], ordered=True, on_error="raise") as run:
        assert next(run).text == "re: good"
        with pytest.raises(BadRequestError):
            next(run)


def test_a_file_that_is_still_looked_at_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, clock, looks = Provider(polls=1), Clock(), [3]

    def pending(request: Request, reply: Reply) -> Reply:
        if request.path.endswith(("/files", "/files/file-1")) and looks[0]:
            looks[0] -= 1
            return json_reply({"id": "file-1", "status": "pending"})
        return json_reply({"id": "file-1", "status": "processed"}) if request.path.endswith("/files/file-1") else reply

    provider.after = pending
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"], clock=clock)) == ["re: a"]
        assert clock.waits == [1, 2, 4]
        looks[0], provider.polls = 1000, 2
        monkeypatch.setattr(api, "READY_IN", 20.0)
        with pytest.raises(APITimeoutError, match="has not looked at file file-1 in 30 s"):
            submitted(server, ["b"])
    assert len(provider.created) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poll_every": 0}, "poll_every must be"),
        ({"on_error": "stop"}, "on_error must be"),
        ({"journal": 7}, "journal must be"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with ReplayServer(Provider()) as server:
        with pytest.raises(ConfigurationError, match=message):
            submitted(server, ["a"], **options)
        assert server.requests == []


@pytest.mark.parametrize("own_session", [False, True])
def test_an_upload_that_breaks_is_sent_again_as_a_whole(own_session: bool) -> None:
    provider = Provider()
    ends: list[Reply | None] = [error_reply(503, headers={"Retry-After": "0.01"}), Reply(head=b"", abort="rst"), None]
    provider.before = lambda request: ends.pop(0) if request.path.endswith("/files") and ends else None
    with ReplayServer(provider) as server, requests.Session() as session:
        retry = RetryPolicy(max_retries=3, first_wait=0.01)
        asking = client(server, session=session if own_session else None, retry=retry)
        assert told(asking.submit_batch(["a" * 300_000, "b"], cancel=Clock())) == ["re: " + "a" * 300_000, "re: b"]
        sent = [request.body for request in server.requests if request.path.endswith("/files")]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert len(provider.uploads) == len(provider.created) == 1


class Killed(BaseException):
    """The end of a process, as far as what it leaves behind goes: each commit is in the file."""


@pytest.mark.parametrize("journal_has", [0, 2])
def test_a_process_that_ends_at_any_request_pays_for_nothing_twice(tmp_path: Path, journal_has: int) -> None:
    asked = [str(number) for number in range(5)]
    for moment in itertools.count():
        provider, path = Provider(), tmp_path / f"{moment}.db"
        with ReplayServer(provider) as server:
            if journal_has:
                list(submitted(server, asked[:journal_has], path))
            ending = client(server)
            send, left = ending._transport.send, [moment]

            def may_end(
                *args: Any, send: Callable[..., Any] = send, left: list[int] = left, **options: Any
            ) -> Any:  # before it is sent, or before the reply is heard
                for answer in (lambda: None, lambda: send(*args, **options)):
                    came = answer()
                    left[0] -= 1
                    if left[0] == -1:
                        raise Killed
                return came

            ending._transport.send = may_end  # type: ignore[method-assign]
            ended = False
            try:
                assert told(ending.submit_batch(asked, journal=path, cancel=Clock())) == [f"re: {n}" for n in asked]
            except Killed:
                ended = True
            assert told(submitted(server, asked, path)) == [f"re: {number}" for number in asked]
            assert len(provider.created) == 1 + bool(journal_has), moment
            paid = {each["input_file_id"] for each in provider.created}
            assert len(paid) == len(provider.created)
        if not ended:
            break
    assert moment == 10  # two for each of five requests


def test_a_fallback_has_no_batches(tmp_path: Path) -> None:
    with ReplayServer(Provider()) as server:
        several = Client.fallback([client(server)])
        with pytest.raises(ConfigurationError, match="one provider"):
            several.submit_batch(["a"])
        with pytest.raises(ConfigurationError, match="one provider"):
            several.submit_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def line(custom_id: str, content: str) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "of_the_server": 1}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def embedding_line(custom_id: str, *texts: str) -> dict[str, Any]:
    body = {"model": "e", "input": list(texts)}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}


def test_a_file_of_openai_s_with_chats_and_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MAX_REQUESTS", 3)
    lines = [line("a", "good"), line("b", "bad"), embedding_line("e", "x", "xy"), embedding_line("f", "y", "z")]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{json.dumps(each)}\n" for each in lines))

    def answer(given: dict[str, Any]) -> dict[str, Any]:
        return answered(given) if given["url"] == "/v1/embeddings" else with_status(400)(given)

    provider = Provider(answer=answer)
    with ReplayServer(provider) as server:
        summary = client(server).submit_file(source, output, cancel=Clock())
        again = client(server).map_file(source, output, retry_failed=False)
        assert sum(request.method == "POST" for request in server.requests) == 6
    assert (summary.answered, summary.failed, again.from_journal) == (3, 1, 4)
    # A batch has one endpoint, and counts the texts of embeddings.
    assert [each["endpoint"] for each in provider.created] == [
        "/v1/embeddings",
        "/v1/chat/completions",
        "/v1/embeddings",
    ]
    found = {each["custom_id"]: each for each in map(json.loads, output.read_text().splitlines())}
    assert found["a"]["response"]["body"]["choices"][0]["message"]["content"] == "re: good"
    assert found["b"]["response"]["status_code"] == 400
    assert [each["embedding"] for each in found["e"]["response"]["body"]["data"]] == [[1.0, 1.0], [1.0, 2.0]]
    assert provider.uploads[1][0]["body"] == line("a", "good")["body"]


def test_a_table_with_a_template(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("word\nsun\nmoon\n")
    provider = Provider()
    with ReplayServer(provider) as server:
        client(server).submit_file(
            tmp_path / "in.csv", tmp_path / "out.csv", template="One colour for {word}:", max_tokens=4, cancel=Clock()
        )
        with pytest.raises(TypeError, match="max_tokens cannot be given beside"):
            client(server).submit_file(tmp_path / "in.csv", tmp_path / "out.csv", max_tokens=4)
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        *("word,answer,error", "sun,re: One colour for sun:,", "moon,re: One colour for moon:,"),
    ]
    assert [each["body"]["max_tokens"] for each in provider.uploads[0]] == [4, 4]


@pytest.mark.parametrize("table", [True, False])
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], table: bool
) -> None:
    monkeypatch.setattr(submit, "FIRST_PAUSE", 0.001)
    provider, output = Provider(), tmp_path / "out.jsonl"
    source = tmp_path / ("in.csv" if table else "in.jsonl")
    source.write_text("word\nsun\n" if table else json.dumps(line("a", "sun")) + "\n")
    with ReplayServer(provider) as server:
        command = ["batch", str(source), "-o", str(output), "--base-url", f"{server.url}/v1", "--model", "m"]
        command += ["--submit", "--quiet", *(["--template", "{word}"] if table else [])]
        assert main([*command, "--budget", "1"]) == 2
        assert "keeps to no budget" in capsys.readouterr().err
        assert main([*command, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert main(command) == 0
    assert (told["answered"], told["usd"], len(provider.uploads)) == (1, None, 1)
    assert "re: sun" in output.read_text()


def test_lines_that_nobody_can_read_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    provider = Provider()
    nobody_s = json.dumps(answered({**line("00" * 16, "x")})).encode()
    odd_lines = b'\n{"custom_id": "other"}\nno json\n' + nobody_s + b"\n"

    def odd(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/content"):
            assert isinstance(reply.body, bytes)
            return Reply(headers=reply.headers, body=odd_lines + reply.body.rstrip())
        return reply

    provider.after = odd
    with ReplayServer(provider) as server:
        assert told(submitted(server, ["a"], tmp_path / "j.db")) == ["re: a"]
    assert caplog.text.count("a line of its file is no answer") == 3
    with Journal(tmp_path / "j.db") as journal:
        assert [entry.status for entry in journal] == ["answered"]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    provider, path = Provider(polls=1), tmp_path / "j.db"
    asked = [f"{number} " + "x" * 1000 for number in range(900)]
    with ReplayServer(provider) as server:
        submitted(server, asked, path).close()
        with Journal(path) as journal:
            (pages,) = journal._writer.execute("PRAGMA page_count").fetchone()
            journal._writer.execute(f"PRAGMA max_page_count = {pages + 300}")  # a disk that is full after these
            with pytest.raises(JournalError, match=r"full; what was written before stays"):
                next(client(server).submit_batch(asked, journal=journal, cancel=Clock()))
            assert 0 < len(journal) < 900
        server.wait_open(most=1)  # the download was ended
        assert told(submitted(server, asked, path)) == [f"re: {each}" for each in asked]
    assert len(provider.uploads) == 1


def test_a_run_that_is_dropped_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ReplayServer(Provider()) as server:
        assert next(submitted(server, ["a", "b"])).ok
        gc.collect()
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
from openai_compat import Client
run = Client(sys.argv[1], model="m").submit_batch([str(n) for n in range(20)], journal=sys.argv[2], poll_every=0.05)
print(list(run))
"""


@pytest.mark.process
def test_a_process_that_is_killed_while_it_waits(tmp_path: Path) -> None:
    provider = Provider(polls=10_000)
    with ReplayServer(provider) as server:
        command = [sys.executable, "-c", PROGRAM, f"{server.url}/v1", str(tmp_path / "j.db")]
        process = subprocess.Popen(command, env={**os.environ})
        assert provider.looked.wait(30)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        provider.polls = 1
        asked = [str(number) for number in range(20)]
        assert told(submitted(server, asked, tmp_path / "j.db")) == [f"re: {number}" for number in range(20)]
    assert len(provider.uploads) == len(provider.created) == 1


def test_the_journal_has_what_a_provider_answered(tmp_path: Path) -> None:
    with ReplayServer(Provider()) as server:
        list(submitted(server, [("one", "a")], tmp_path / "j.db"))
        with Journal(tmp_path / "j.db") as journal:
            [entry] = journal
    assert isinstance(entry, Entry)
    assert (entry.custom_id, entry.text, entry.provider, entry.server) == (
        "one",
        "re: a",
        "127.0.0.1",
        f"{server.url}/v1",
    )
    assert json.loads(entry.request or "")["messages"] == [{"role": "user", "content": "a"}]


def test_the_page_in_the_docs_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = Provider(polls=1)
    with ReplayServer(provider) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_MODEL", "m")
        monkeypatch.chdir(tmp_path)
        exec(compile(program_of("provider-batch.md"), "provider-batch.md", "exec"), {})
    told = capsys.readouterr().out
    assert "batch_1\nsky re: Why is the sky blue?\n" in told
    assert "sky True\ngrass True\n" in told
    assert "batch_2 completed 0 of 0\nTrue True\n" in told
    assert "water,re: One colour for water:,\n" in told
    assert len(provider.created) == 3
