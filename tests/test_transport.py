"""The rim: timeouts, cancellation, retries, TLS, redirects, proxies, and what a connection may do."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, error_reply, stream_pieces, stream_reply

from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    InternalServerError,
    OpenAICompatError,
    RateLimitError,
    ResponseParseError,
    Timeout,
)
from openai_compat.transport import Endpoint

CALLS: dict[str, Callable[..., Any]] = {
    "plain": lambda client, **options: client.chat("hi", **options),
    "sink": lambda client, **options: client.chat("hi", sink=lambda event: None, **options),
    "iterator": lambda client, **options: client.stream("hi", **options).until_done(),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited between tries."""
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    monkeypatch.setattr(CancelToken, "wait", lambda token, seconds: slept.append(seconds))
    return slept


def ok(request: Request) -> Reply:
    return stream_reply("ok") if request.json().get("stream") else chat_reply("ok")


def after(*failures: Reply) -> Callable[[Request], Reply]:
    """The failures one by one, then an answer of the kind asked for."""
    return lambda request: failures[request.number] if request.number < len(failures) else ok(request)


@each_call
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 520])
def test_passing_refusals_are_tried_again(call: Any, status: int, waits: list[float]) -> None:
    with ReplayServer(after(error_reply(status), error_reply(status))) as server:
        assert call(Client(server.url, model="m")).text == "ok"
        assert len(server.requests) == 3
    assert 0.25 <= waits[0] <= 0.5
    assert 0.5 <= waits[1] <= 1.0


@each_call
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_lasting_refusals_are_not(call: Any, status: int, waits: list[float]) -> None:
    with ReplayServer([error_reply(status, "no")]) as server:
        with pytest.raises(APIStatusError, match="no") as caught:
            call(Client(f"{server.url}/v1", model="m"))
        assert (caught.value.status_code, len(server.requests)) == (status, 1)
    assert waits == []


@each_call
def test_the_last_error_is_raised_when_tries_run_out(call: Any, waits: list[float]) -> None:
    with ReplayServer([error_reply(503, "first"), error_reply(500, "last")]) as server:
        with pytest.raises(InternalServerError, match="last"):
            call(Client(server.url, model="m", max_retries=1))
        assert len(server.requests) == 2


@pytest.mark.parametrize("abort", ["fin", "rst"])
@each_call
def test_a_kept_connection_that_the_server_has_closed_is_replaced_at_once(
    call: Any, abort: Any, waits: list[float]
) -> None:
    with ReplayServer(lambda request: Reply(head=b"", abort=abort) if request.number == 1 else ok(request)) as server:
        client = Client(server.url, model="m", max_retries=0)
        assert [call(client).text for _ in range(2)] == ["ok", "ok"]
        assert (server.connections, len(server.requests)) == (2, 3)
    assert waits == []


@each_call
def test_a_reply_that_never_came_is_tried_again(call: Any, waits: list[float]) -> None:
    with ReplayServer(after(Reply(head=b"", abort="fin"), Reply(head=b"", abort="rst"))) as server:
        assert call(Client(server.url, model="m")).text == "ok"
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_the_servers_hint_is_followed(headers: dict[str, str], waited: float | None, waits: list[float]) -> None:
    with ReplayServer(after(error_reply(429, headers=headers))) as server:
        Client(server.url, model="m").chat("hi")
    assert waits[0] == waited if waited is not None else waits[0] <= 0.5


def test_a_hint_beyond_reason_is_told_not_waited_for(waits: list[float]) -> None:
    with ReplayServer([error_reply(429, headers={"Retry-After": "86400"})]) as server:
        with pytest.raises(RateLimitError) as caught:
            Client(server.url, model="m").chat("hi")
    assert (caught.value.retry_after, caught.value.retryable, waits) == (86400.0, False, [])


def test_an_empty_body_is_tried_again(waits: list[float]) -> None:
    with ReplayServer([Reply(headers=JSON, body=b"\n\n"), chat_reply()]) as server:
        assert Client(server.url, model="m").chat("hi").text == "ok"


def test_nothing_is_sent_again_once_a_stream_has_delivered(waits: list[float]) -> None:
    broken = Reply(headers=EVENT_STREAM, body=stream_pieces("a", finish_reason=None, done=False), abort="rst")
    with ReplayServer(after(broken)) as server:
        with pytest.raises(APIConnectionError):
            Client(server.url, model="m").chat("hi", sink=lambda event: None)
        assert len(server.requests) == 1


def test_a_stream_that_failed_before_it_delivered_is_tried_again(waits: list[float]) -> None:
    error = b'data: {"error":{"message":"overloaded","code":503}}\n\n'
    with ReplayServer(after(Reply(headers=EVENT_STREAM, body=[error]))) as server:
        kinds: list[str] = []
        assert Client(server.url, model="m").chat("hi", sink=lambda event: kinds.append(event.kind)).text == "ok"
    assert kinds == ["text", "done"]


def test_no_wait_goes_past_the_total(waits: list[float]) -> None:
    with ReplayServer([error_reply(429, headers={"Retry-After": "30"})]) as server:
        with pytest.raises(APITimeoutError) as caught:
            Client(server.url, model="m", timeout=5).chat("hi")
    assert caught.value.phase == "total"
    assert isinstance(caught.value.__cause__, RateLimitError)
    assert waits == []


def silent(request: Request) -> Reply:
    def body() -> Iterator[bytes]:
        yield b": hello\n\n"
        request.closed.wait(20)

    return Reply(headers=EVENT_STREAM, body=body())


def headless(request: Request) -> Reply:
    request.closed.wait(20)
    return Reply(head=b"", abort="fin")


def after_one_token(request: Request) -> Reply:
    def body() -> Iterator[bytes]:
        yield stream_pieces("a")[0]
        request.closed.wait(20)

    return Reply(headers=EVENT_STREAM, body=body())


@each_call
def test_waiting_for_the_reply_has_a_limit(call: Any) -> None:
    with ReplayServer(headless) as server:
        client = Client(server.url, model="m", max_retries=0, timeout=Timeout(first_token=0.2))
        with pytest.raises(APITimeoutError, match=r"within 0\.2 s") as caught:
            call(client)
        assert (caught.value.phase, caught.value.retryable) == ("first_token", False)
        assert server.wait_closed()


@each_call
def test_silence_in_the_middle_has_a_limit(call: Any) -> None:
    with ReplayServer(after_one_token) as server:
        client = Client(server.url, model="m", max_retries=0, timeout=Timeout(idle=0.2))
        with pytest.raises(APITimeoutError, match=r"for 0\.2 s") as caught:
            call(client)
        assert caught.value.phase == "idle"
        assert server.wait_closed()
    if call is not CALLS["plain"]:
        assert caught.value.partial is not None
        assert caught.value.partial.text == "a"


@each_call
@pytest.mark.parametrize("reply", [headless, after_one_token])
def test_the_total_covers_everything(call: Any, reply: Any) -> None:
    with ReplayServer(reply) as server:
        with pytest.raises(APITimeoutError, match=r"more than 0\.3 s in all") as caught:
            call(Client(server.url, model="m", timeout=0.3))
        assert (caught.value.phase, caught.value.retryable) == ("total", False)


@each_call
@pytest.mark.parametrize("reply", [headless, silent, after_one_token])
def test_a_token_ends_a_call_that_waits(call: Any, reply: Any) -> None:
    token = CancelToken()
    asked = threading.Event()

    def served(request: Request) -> Reply:
        asked.set()
        made: Reply = reply(request)
        return made

    def end() -> None:
        asked.wait(10)
        token.cancel()

    with ReplayServer(served) as server:
        ender = threading.Thread(target=end)
        ender.start()
        with pytest.raises(Cancelled):
            call(Client(server.url, model="m"), cancel=token)
        ender.join(10)
        assert server.wait_closed()


def test_a_token_ends_the_wait_between_tries() -> None:
    token = CancelToken()

    def refuse(request: Request) -> Reply:
        token.cancel()
        return error_reply(429, headers={"Retry-After": "60"})

    started = time.monotonic()
    with ReplayServer(refuse) as server, pytest.raises(Cancelled):
        Client(server.url, model="m").chat("hi", cancel=token)
    assert time.monotonic() - started < 20


def test_nothing_listening_is_told_with_the_way_out() -> None:
    with ReplayServer([chat_reply()]) as server:
        url = server.url
    with pytest.raises(APIConnectionError, match=r"nothing listens at .*openai-compat serve") as caught:
        Client(url, model="m", max_retries=0).chat("hi")
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(APIConnectionError, match=r"'no-such-host\.invalid' is not known"):
        Client("http://no-such-host.invalid/v1", model="m", max_retries=0).chat("hi")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_that_does_not_fit_is_told_and_not_tried_again(authority: trustme.CA, waits: list[float]) -> None:
    with ReplayServer([chat_reply()], tls=tls_context(authority, "127.0.0.1")) as server:
        with pytest.raises(APIConnectionError, match="certificate of https://.* does not fit: .*") as caught:
            Client(server.url, model="m").chat("hi")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert (caught.value.retryable, waits) == (False, [])


@pytest.mark.parametrize("how", ["environment", "session"])
def test_an_authority_of_ones_own_is_trusted(
    how: str, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    session = None
    if how == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    else:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        session = requests.Session()
        session.verify = str(bundle)
    with ReplayServer(ok, tls=tls_context(authority, "127.0.0.1")) as server:
        with Client(server.url, model="m", session=session) as client:
            assert client.chat("hi").text == "ok"
            assert client.chat("hi", sink=lambda event: None).text == "ok"
        if session is not None:
            session.close()


@each_call
def test_early_hints_are_not_the_answer(call: Any) -> None:
    def hinted(request: Request) -> Reply:
        reply = ok(request)
        return Reply(headers=reply.headers, body=reply.body, early_hints=True)

    with ReplayServer(hinted) as server:
        assert call(Client(server.url, model="m")).text == "ok"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_not_followed(status: int) -> None:
    elsewhere = Reply(status=status, headers={"Location": "https://other.example/v1/chat/completions?key=s"})
    with ReplayServer([elsewhere]) as server:
        with pytest.raises(APIConnectionError, match=r"redirects .* to https://other\.example/v1") as caught:
            Client(server.url, "key", model="m").chat("hi")
        assert [request.method for request in server.requests] == ["POST"]
    assert "key=s" not in str(caught.value)


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([chat_reply("proxied")]) as proxy, ReplayServer([chat_reply("direct")]) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert Client("http://api.example/v1", model="m").chat("hi").text == "proxied"
        assert proxy.requests[0].path == "http://api.example/v1/chat/completions"
        assert Client(server.url, model="m").chat("hi").text == "direct"


def test_a_broken_proxy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([chat_reply()]) as server:
        gone = server.url
    monkeypatch.setenv("http_proxy", gone)
    with pytest.raises(APIConnectionError, match="proxy"):
        Client("http://api.example/v1", model="m", max_retries=0).chat("hi")


@pytest.mark.parametrize("status", [200, 500])
def test_a_decompression_bomb_is_refused_while_it_is_small(status: int) -> None:
    bomb = gzip.compress(b" " * 400_000_000)
    with ReplayServer([Reply(status=status, headers={**JSON, "Content-Encoding": "gzip"}, body=bomb)]) as server:
        client = Client(server.url, model="m", max_retries=0)
        tracemalloc.start()
        try:
            with pytest.raises((ResponseParseError, APIStatusError)):
                client.chat("hi")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 50_000_000


def test_a_body_that_cannot_be_decompressed_is_told() -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    with ReplayServer([Reply(headers=headers, body=b"no gzip at all")]) as server:
        with pytest.raises(ResponseParseError, match="decompressed"):
            Client(server.url, model="m").chat("hi")


def test_a_large_reply_that_is_no_bomb_is_read() -> None:
    words = random.Random(1)
    text = " ".join(str(words.random()) for _ in range(600_000))
    body = gzip.compress(chat_body(text), 1)
    with ReplayServer([Reply(headers={**JSON, "Content-Encoding": "gzip"}, body=body)]) as server:
        assert Client(server.url, model="m").chat("hi").text == text


@pytest.mark.parametrize("declared", [None, 400])
def test_a_refusal_whose_body_is_cut_keeps_its_status(declared: int | None) -> None:
    cut = Reply(status=401, headers=JSON, body=b'{"error": "bad', declared_length=declared, abort="fin")
    with ReplayServer([cut]) as server:
        with pytest.raises(APIStatusError, match="bad") as caught:
            Client(server.url, model="m").chat("hi")
        assert (caught.value.status_code, len(server.requests)) == (401, 1)


def test_an_auth_object_may_call_a_client_of_its_own() -> None:
    token = CancelToken()

    def slow(request: Request) -> Reply:
        token.cancel()
        request.closed.wait(20)
        return Reply(head=b"", abort="fin")

    with ReplayServer([chat_reply()]) as inner, ReplayServer(slow) as server, Client(inner.url, model="m") as other:

        def auth(request: Any) -> Any:
            other.chat("a token, please")
            return request

        started = time.monotonic()
        with pytest.raises(Cancelled):
            Client(server.url, model="m", auth=auth).chat("hi", cancel=token)
        assert time.monotonic() - started < 10


def test_a_huge_error_body_is_not_read_to_its_end() -> None:
    def endless(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            while not request.closed.is_set():
                yield b"x" * 65536

        return Reply(status=400, body=body(), framing="chunked")

    with ReplayServer(endless) as server:
        with pytest.raises(APIStatusError) as caught:
            Client(server.url, model="m").chat("hi")
        assert server.wait_closed()
    assert len(caught.value.body) < 3000


@pytest.mark.parametrize(
    "failure",
    [error_reply(400), Reply(headers=JSON, body=b"nope"), Reply(headers=JSON, body=b'{"choices":[]}')],
    ids=["status", "parse", "shape"],
)
def test_a_failed_call_leaves_its_connection_in_the_pool(failure: Reply) -> None:
    with ReplayServer([failure, chat_reply()]) as server:
        client = Client(server.url, model="m", max_retries=0)
        with pytest.raises(Exception, match="."):
            client.chat("hi")
        assert client.chat("hi").text == "ok"
        assert server.connections == 1


def test_a_header_that_http_forbids_is_refused_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="header") as caught:
        Client("http://127.0.0.1:9", model="m", headers={"X-Key": "sécret\u2028"})
    assert "cret" not in str(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize(
    "bad", [b"HTTP/1.1 abc\r\n\r\n", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
)
@each_call
def test_what_is_no_http_is_a_connection_error(call: Any, bad: bytes) -> None:
    with ReplayServer([Reply(head=bad, abort="fin")]) as server, pytest.raises(APIConnectionError):
        call(Client(server.url, model="m", max_retries=0))


def test_requests_cache_answers_the_second_call(tmp_path: Path) -> None:
    import requests_cache

    session = requests_cache.CachedSession(str(tmp_path / "cache"), allowable_methods=("GET", "POST"))
    with ReplayServer(ok) as server, session:
        client = Client(server.url, model="m", session=session)
        for _ in range(2):
            assert client.chat("hi").text == "ok"
        for _ in range(2):
            assert client.chat("hi", sink=lambda event: None).text == "ok"
        assert client.chat("another").text == "ok"
        assert len(server.requests) == 3


def test_requests_ratelimiter_holds_calls_back() -> None:
    from requests_ratelimiter import LimiterSession

    with ReplayServer(ok) as server, LimiterSession(per_second=2) as session:
        client = Client(server.url, model="m", session=session)
        started = time.monotonic()
        for _ in range(3):
            assert client.chat("hi").text == "ok"
        assert time.monotonic() - started > 0.8


def test_an_adapter_of_ones_own_is_used() -> None:
    from requests.adapters import HTTPAdapter

    class Marking(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            request.headers["X-Marked"] = "1"
            return super().send(request, *args, **kwargs)

    with ReplayServer(ok) as server, requests.Session() as session:
        session.mount("http://", Marking())
        Client(server.url, model="m", session=session).chat("hi")
        assert server.requests[0].headers["X-Marked"] == "1"


@pytest.mark.parametrize(
    ("base_url", "loopback"),
    [
        ("http://localhost", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1/v1", True),
        ("http://a.localhost", True),
        ("http://10.0.0.1", False),
        ("https://localhost.example.com", False),
    ],
)
def test_this_machine_is_known(base_url: str, loopback: bool) -> None:
    assert Endpoint.parse(base_url).loopback is loopback


def test_head_and_body_go_out_together_also_when_the_body_is_large() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, model="m")
        for size in (10, 200_000, 10):
            client.chat("x" * size)
        assert [len(r.json()["messages"][0]["content"]) for r in server.requests] == [10, 200_000, 10]
        assert server.connections == 1


@each_call
def test_errors_survive_pickling_with_all_they_hold(call: Any) -> None:
    with ReplayServer([error_reply(400, "no", code="c", param="p")]) as server:
        with pytest.raises(APIStatusError) as caught:
            call(Client(server.url, model="m"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.__dict__) == (str(caught.value), caught.value.__dict__)


def test_a_timeout_is_a_value() -> None:
    assert Timeout.of(3) == Timeout(total=3)
    assert Timeout.of(None) == Timeout(connect=None, first_token=None, idle=None)
    assert Timeout.of(Timeout(idle=1)) == Timeout(idle=1)


def test_no_call_leaves_a_thread_or_a_socket_behind() -> None:
    before = set(threading.enumerate())
    with ReplayServer([error_reply(400), Reply(headers=JSON, body=b"{"), chat_reply(), stream_reply("a")]) as server:
        failures = []
        with Client(server.url, model="m", max_retries=0) as client:
            for call in (*CALLS.values(), *CALLS.values()):
                try:
                    call(client)
                except OpenAICompatError as error:
                    failures.append(error)  # kept alive, with all that its traceback holds
        assert server.wait_closed()
    assert len(failures) == 2
    assert {thread for thread in threading.enumerate() if thread not in before} == set()


def test_json_that_is_nested_too_deep_is_a_parse_error() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with ReplayServer([Reply(headers=JSON, body=b'{"choices":' + deep + b"}")]) as server:
        with pytest.raises(ResponseParseError, match="deep"):
            Client(server.url, model="m").chat("hi")


def test_an_answer_says_what_the_headers_say() -> None:
    headers = {**JSON, "X-RateLimit-Remaining-Requests": "59", "X-RateLimit-Reset-Tokens": "1m2s"}
    with ReplayServer([Reply(headers=headers, body=chat_body())]) as server:
        answer = Client(server.url, model="m").chat("hi")
    assert answer.rate_limits == {"remaining_requests": 59.0, "reset_tokens": 62.0}
    assert answer.headers["content-type"] == "application/json"
    assert answer.raw == json.loads(chat_body())
