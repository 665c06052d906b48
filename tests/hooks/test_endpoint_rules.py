"""Where a call goes, what goes with it, and what a server's refusal may change for the calls after it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import pytest
from support.calls import CALLS, reply, saying
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_reply

from openai_compat import (
    APIStatusError,
    BadRequestError,
    CancelToken,
    Client,
    ConfigurationError,
    NotFoundError,
    OpenAICompatError,
)

each_kind = pytest.mark.parametrize("kind", CALLS)


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(saying("real")) as server:
        yield server


def paths(server: ReplayServer) -> list[str]:
    return [request.path for request in server.requests]


@pytest.mark.parametrize(
    "host",
    ["127.evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "127.0.0.evil", "evil-localhost", "127.1.2.3.4"],
)
def test_a_name_that_looks_like_this_machine_goes_to_the_proxy_as_all_others_do(
    host: str, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    assert Client(f"http://{host}/v1", model="m", max_retries=0).chat("hi").text == "real"
    assert paths(server) == [f"http://{host}/v1/chat/completions"]


AZURE = r"/openai/deployments/([^/?#]+)/chat/completions\?api-version=2024-10-21"
ODD_NAMES = ["../../x?", "..", ".", "../..", "a/b", "a?b=c", "a?api-version=1", "a#b", "a&b", "%2e%2e/x", "%2e%2e"]


@pytest.mark.parametrize("model", [*ODD_NAMES, "a\\..\\b", "a b", "ü"])
def test_a_models_name_changes_neither_path_nor_query_on_azure(model: str, server: ReplayServer) -> None:
    try:
        client = Client(f"{server.url}?api-version=2024-10-21", "key", provider="azure", model=model)
        client.chat("hi")
    except ConfigurationError:
        assert server.requests == []
    else:
        (path,) = paths(server)
        deployment = re.fullmatch(AZURE, path)
        assert deployment, path
        # Dots are steps in the path, also for a server that reads them decoded.
        assert unquote(deployment[1]) not in (".", "..")


def test_an_ordinary_deployment_is_asked(server: ReplayServer) -> None:
    Client(f"{server.url}?api-version=2024-10-21", "key", provider="azure", model="gpt-4.1_mini").chat("hi")
    assert paths(server) == ["/openai/deployments/gpt-4.1_mini/chat/completions?api-version=2024-10-21"]


BAD_HEADERS = {
    "NUL": ("X-Tag", "a\0b"),
    "vertical tab": ("X-Tag", "a\vb"),
    "form feed": ("X-Tag", "a\fb"),
    "line break": ("X-Tag", "a\r\nX-Other: b"),
    "escape": ("X-Tag", "a\x1bb"),
    "delete": ("X-Tag", "a\x7fb"),
    "transfer-encoding": ("Transfer-Encoding", "chunked"),
    "in any case": ("transfer-ENCODING", "identity"),
    "content-length": ("Content-Length", "3"),
    "a colon in its name": ("X-Tag:", "a"),
    "a space in its name": ("X Tag", "a"),
    "a line break in its name": ("X-Tag\n", "a"),
    "no name": ("", "a"),
}


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS.values(), ids=BAD_HEADERS)
@pytest.mark.parametrize("where", ["headers", "extra_headers"])
def test_headers_that_would_change_the_request_are_refused_by_name(
    name: str, value: str, where: str, server: ReplayServer
) -> None:
    bad = {name: value}
    of_client, of_call = (bad, {}) if where == "headers" else ({}, bad)
    with pytest.raises(ConfigurationError) as caught:
        Client(server.url, model="m", headers=of_client, timeout=5, max_retries=0).chat("hi", extra_headers=of_call)
    assert repr(name)[1:-1] in str(caught.value)
    assert "header" in str(caught.value)
    assert server.requests == []


def test_other_headers_are_sent_as_they_are(server: ReplayServer) -> None:
    given = {"X-Tag": "a\tb ~!ä", "x-empty": "", "OpenAI-Organization": "org"}
    Client(server.url, model="m", headers=given).chat("hi", extra_headers={"X-Of-Call": "1"})
    sent = server.requests[0].headers
    assert (sent["X-Tag"], sent["x-empty"], sent["OpenAI-Organization"]) == ("a\tb ~!ä", "", "org")
    assert sent["X-Of-Call"] == "1"


def test_a_listener_that_raises_does_not_keep_the_others_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    token, heard = CancelToken(), []

    def broken() -> None:
        heard.append("broken")
        raise LookupError("mine")

    token.subscribe(lambda: heard.append("first"))
    token.subscribe(broken)
    token.subscribe(lambda: heard.append("last"))
    try:
        token.cancel()
    except LookupError:
        pass  # whoever cancels may be told, but only after all have heard
    else:
        assert caplog.records
    assert sorted(heard) == ["broken", "first", "last"]
    assert token.cancelled


def test_a_listener_that_raises_does_not_save_the_call() -> None:
    token = CancelToken()

    def broken() -> None:
        raise LookupError("mine")

    token.subscribe(broken)

    def silent(request: Request) -> Reply:
        with contextlib.suppress(LookupError):
            token.cancel()
        request.closed.wait(10)
        return Reply(head=b"", abort="fin")

    with ReplayServer(silent) as server:
        with pytest.raises(OpenAICompatError, match="cancelled"):
            Client(server.url, model="m").chat("hi", cancel=token)
        assert server.requests[0].closed.wait(10)


def only_at(prefix: str, missing: Reply) -> Callable[[Request], Reply]:
    """A server whose API is at one place."""

    def replies(request: Request) -> Reply:
        at = request.path.removesuffix("/chat/completions").removesuffix("/embeddings")
        if at != prefix:
            return missing
        return saying("real")(request)

    return replies


MISSING: dict[str, Reply] = {
    "FastAPI": Reply(status=404, headers=JSON, body=b'{"detail":"Not Found"}'),
    "plain": Reply(status=404, headers={"Content-Type": "text/plain"}, body=b"404 page not found"),
    "page": Reply(status=404, headers={"Content-Type": "text/html"}, body=b"<h1>Not Found</h1>"),
    "empty": Reply(status=404),
}
PATH = {"chat": "/chat/completions", "stream": "/chat/completions", "embed": "/embeddings"}


@each_kind
@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_at_the_root_is_found_and_remembered(kind: str, missing: Reply, slash: str) -> None:
    with ReplayServer(only_at("", missing)) as server:
        client = Client(server.url + slash, model="m")
        assert CALLS[kind](client) == "real"
        assert paths(server) == ["/v1" + PATH[kind], PATH[kind]]
        for other in CALLS:
            assert CALLS[other](client) == "real"
        assert paths(server)[2:] == [PATH[other] for other in CALLS]


def test_the_models_of_a_server_at_the_root_are_found() -> None:
    def replies(request: Request) -> Reply:
        if request.path != "/models":
            return MISSING["FastAPI"]
        return Reply(headers=JSON, body=b'{"data":[{"id":"small"}]}')

    with ReplayServer(replies) as server:
        client = Client(server.url)
        assert [model.id for _ in range(2) for model in client.models()] == ["small"] * 2
        assert paths(server) == ["/v1/models", "/models", "/models"]


@each_kind
def test_a_server_at_v1_is_asked_nowhere_else(kind: str) -> None:
    missing = error_reply(404, "model 'x' not found, try pulling it first")
    with ReplayServer(lambda request: missing if b'"x"' in request.body else saying("real")(request)) as server:
        client = Client(server.url, model="m")
        assert CALLS[kind](client) == "real"
        with pytest.raises(NotFoundError, match="try pulling it first"):
            CALLS[kind](client, model="x")
        assert paths(server) == ["/v1" + PATH[kind]] * 2


@each_kind
@pytest.mark.parametrize("status", [404, 405])
def test_where_both_fail_both_are_named(kind: str, status: int) -> None:
    def replies(request: Request) -> Reply:
        if request.path.startswith("/v1"):
            return error_reply(404, "model 'm' not found, try pulling it first")
        return Reply(status=status, headers={"Content-Type": "text/plain"}, body=b"nothing here")

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(APIStatusError) as caught:
            CALLS[kind](client)
        assert paths(server) == ["/v1" + PATH[kind], PATH[kind]]
        said = str(caught.value)
        assert f"{server.url}/v1" in said
        assert re.search(re.escape(server.url) + r"(?!/v1|\d)", said)
        assert caught.value.status_code == 404
        # What the likelier of the two said is not lost.
        assert "try pulling it first" in said


@each_kind
@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_other_refusals_are_no_reason_to_look_elsewhere(kind: str, status: int) -> None:
    with ReplayServer([error_reply(status)]) as server:
        with pytest.raises(APIStatusError):
            CALLS[kind](Client(server.url, model="m", max_retries=0))
        assert paths(server) == ["/v1" + PATH[kind]]


@each_kind
@pytest.mark.parametrize("path", ["/v1", "/v1/", "/api/v3", "/openai/v1"])
def test_a_path_that_was_given_is_no_guess(kind: str, path: str) -> None:
    with ReplayServer([MISSING["FastAPI"]]) as server:
        with pytest.raises(NotFoundError):
            CALLS[kind](Client(server.url + path, model="m"))
        assert paths(server) == [path.rstrip("/") + PATH[kind]]


@each_kind
@pytest.mark.parametrize("api_path", ["", "/v1", "/api/v3"])
def test_where_the_api_is_can_be_said(kind: str, api_path: str) -> None:
    with ReplayServer(only_at(api_path, MISSING["FastAPI"])) as server:
        client = Client(server.url, model="m", api_path=api_path)
        assert [CALLS[kind](client) for _ in range(2)] == ["real"] * 2
        assert paths(server) == [api_path + PATH[kind]] * 2
    with ReplayServer([MISSING["FastAPI"]]) as server:
        with pytest.raises(NotFoundError):
            CALLS[kind](Client(server.url, model="m", api_path=api_path))
        assert paths(server) == [api_path + PATH[kind]]


TEXTS = [f"text {number}" for number in range(600)]


def sizes(server: ReplayServer) -> list[int]:
    return [len(request.json()["input"]) for request in server.requests]


def vectors(request: Request) -> Reply:
    data = [{"index": i, "embedding": [float(i)]} for i, _ in enumerate(request.json()["input"])]
    return Reply(headers=JSON, body=json.dumps({"model": "m", "data": data}).encode())


def test_a_server_that_always_takes_one_less_is_not_asked_for_ever() -> None:
    def replies(request: Request) -> Reply:
        return error_reply(400, f"input array larger than {len(request.json()['input']) - 1}")

    with ReplayServer(replies) as server:
        with pytest.raises(BadRequestError, match="larger than"):
            Client(server.url, model="m").embed(TEXTS)
        tried = sizes(server)
        assert len(tried) <= 15
        assert tried[0] == 600
        assert min(tried) >= 1
        # The number that the server names is believed once; from then on batches are halved at least.
        assert all(later <= earlier // 2 or later == 1 for earlier, later in pairwise(tried[1:]))


def test_a_limit_that_never_worked_is_forgotten() -> None:
    refusing = True

    def replies(request: Request) -> Reply:
        count = len(request.json()["input"])
        return error_reply(400, f"batch size {count} > maximum allowed {count - 1}") if refusing else vectors(request)

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(BadRequestError):
            client.embed(TEXTS)
        refusing = False
        before = len(server.requests)
        assert len(client.embed(TEXTS).vectors) == 600
        assert sizes(server)[before:] == [600]


@pytest.mark.parametrize(
    "message",
    [
        "batch size 600 > maximum allowed batch size 32",
        "'input' array length must be at most 32",
        "Too many inputs: the limit is 32",
    ],
)
def test_the_number_that_a_server_names_is_used_and_remembered(message: str) -> None:
    def replies(request: Request) -> Reply:
        return vectors(request) if len(request.json()["input"]) <= 32 else error_reply(413, message)

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        assert len(client.embed(TEXTS).vectors) == 600
        assert sizes(server) == [600, *[32] * 18, 24]
        assert len(client.embed(TEXTS[:64]).vectors) == 64
        assert sizes(server)[20:] == [32, 32]


@pytest.mark.parametrize("message", ["too many inputs in one batch", "the batch is too large"])
def test_without_a_number_batches_are_halved_until_they_are_taken(message: str) -> None:
    def replies(request: Request) -> Reply:
        return vectors(request) if len(request.json()["input"]) <= 100 else error_reply(413, message)

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        assert len(client.embed(TEXTS).vectors) == 600
        refused, taken = sizes(server)[:3], sizes(server)[3:]
        assert refused[0] == 600
        assert all(later <= earlier // 2 for earlier, later in pairwise([*refused, taken[0]]))
        assert sum(taken) == 600
        assert max(taken) == taken[0] >= 50
        before = len(server.requests)
        client.embed(TEXTS)
        assert sizes(server)[before:] == taken


def test_a_limit_is_kept_only_after_the_smaller_batch_has_worked() -> None:
    script = [error_reply(400, "batch size 600 > maximum allowed batch size 100"), error_reply(401, "the key is wrong")]
    with ReplayServer(lambda request: script[request.number] if request.number < 2 else vectors(request)) as server:
        client = Client(server.url, model="m")
        with pytest.raises(APIStatusError, match="the key is wrong"):
            client.embed(TEXTS)
        assert len(client.embed(TEXTS).vectors) == 600
        assert sizes(server) == [600, 100, 600]


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 512 tokens, however the input has 800 tokens",
        "input (800 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
        "The input at index 3 exceeds the limit of 512 tokens",
    ],
)
def test_a_text_that_is_too_long_is_not_about_batches(message: str) -> None:
    def replies(request: Request) -> Reply:
        return error_reply(400, message) if "long" in request.json()["input"] else vectors(request)

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(BadRequestError) as caught:
            client.embed([*TEXTS, "long"])
        assert message[:20] in str(caught.value)
        assert sizes(server) == [601]
        assert len(client.embed(TEXTS).vectors) == 600
        assert sizes(server)[1:] == [600]


def options_sent(server: ReplayServer) -> list[bool]:
    return ["stream_options" in request.json() for request in server.requests]


@pytest.mark.parametrize(
    "words", ["unsupported stream_options", "the parameter 'stream_options' is not supported", "unknown include_usage"]
)
def test_words_of_a_question_teach_nothing(words: str) -> None:
    def replies(request: Request) -> Reply:
        said = request.json()["messages"][-1]["content"]
        return stream_reply("ok") if said == "hi" else error_reply(400, f"invalid message: {said}")

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(BadRequestError):
            client.stream(words).until_done()
        assert len(server.requests) <= 2
        assert client.stream("hi").until_done().text == "ok"
        assert options_sent(server)[-1]


@pytest.mark.parametrize("words", ["unsupported max_tokens", "Unsupported parameter: 'max_tokens'"])
def test_nor_do_they_rename_a_parameter(words: str) -> None:
    def replies(request: Request) -> Reply:
        said = request.json()["messages"][-1]["content"]
        return chat_reply("ok") if said == "hi" else error_reply(400, f"invalid message: {said}")

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(BadRequestError):
            client.chat(words, max_tokens=5)
        assert len(server.requests) <= 2
        assert client.chat("hi", max_tokens=5).text == "ok"
        assert server.requests[-1].json()["max_tokens"] == 5


REFUSALS: dict[str, dict[str, Any]] = {
    "param": {"message": "no", "param": "{name}", "code": "unsupported_parameter"},
    "quoted": {"message": "Unsupported parameter: '{name}' is not supported with this model."},
    "extra": {"message": "Extra inputs are not permitted", "param": "{name}", "code": "extra_forbidden"},
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("name", ["stream_options", "max_tokens"])
def test_a_servers_own_refusal_teaches_once(refusal: dict[str, Any], name: str) -> None:
    told = {key: value.format(name=name) for key, value in refusal.items()}

    def replies(request: Request) -> Reply:
        return error_reply(400, **told) if name in request.json() else stream_reply("ok")

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        for _ in range(2):
            assert client.stream("hi", max_tokens=5).until_done().text == "ok"
        assert [name in request.json() for request in server.requests] == [True, False, False]


@pytest.mark.parametrize("name", ["stream_options", "max_tokens"])
def test_what_a_refusal_taught_is_kept_only_after_the_corrected_request_succeeded(name: str) -> None:
    unsupported = error_reply(400, "no", param=name, code="unsupported_parameter")

    def replies(request: Request) -> Reply:
        if request.number == 0:
            return unsupported
        return error_reply(400, "the context is too long") if request.number == 1 else reply("stream", "ok")

    with ReplayServer(replies) as server:
        client = Client(server.url, model="m")
        with pytest.raises(BadRequestError):
            client.stream("hi", max_tokens=5).until_done()
        assert client.stream("hi", max_tokens=5).until_done().text == "ok"
        assert [name in request.json() for request in server.requests] == [True, False, True]


def test_a_server_that_refuses_whatever_is_changed_is_not_asked_for_ever() -> None:
    def replies(request: Request) -> Reply:
        names = [name for name in request.json() if name not in ("model", "messages", "stream")]
        return error_reply(400, f"Unsupported parameter: '{names[0]}'", param=names[0], code="unsupported_parameter")

    with ReplayServer(replies) as server:
        with pytest.raises(BadRequestError):
            Client(server.url, model="m").stream("hi", max_tokens=5, top_k=3).until_done()
        assert len(server.requests) <= 4
