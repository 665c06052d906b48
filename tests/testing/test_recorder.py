"""Real exchanges in files: what is kept, what is not, and what is told of a change. A fake server is the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from openai_compat import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    Cancelled,
    CancelToken,
    ChatResponse,
    Client,
    ConfigurationError,
    RateLimitError,
    ResponseParseError,
    tool,
)
from openai_compat.redaction import redact_error_body
from openai_compat.testing import (
    FakeServer,
    Recorder,
    RecordingMismatchError,
    answer,
    error,
    fault,
    raw_reply,
    recorder,
    stream_of,
    tool_call,
)
from openai_compat.testing.answers import Answer
from openai_compat.testing.recording import Exchange, events, load, save

KEY = "sk-very-secret-key-1234"


def recorded(path: Path, server: FakeServer, ask: Callable[[Client], Any], **options: Any) -> Any:
    """What a call returns while it is recorded."""
    with Recorder(path, mode="all", **options), server.client(api_key=KEY, max_retries=0) as client:
        return ask(client)


def replayed(path: Path, server: FakeServer, ask: Callable[[Client], Any], **options: Any) -> Any:
    """What it returns when it is replayed, with no server there."""
    before = len(server.requests)
    with Recorder(path, **options), server.client(api_key="sk-another", max_retries=0) as client:
        found = ask(client)
    assert len(server.requests) == before
    return found


def whole(client: Client) -> ChatResponse:
    return client.chat("hi")


def streamed(client: Client) -> ChatResponse:
    return client.chat("hi", sink=lambda event: None)


@pytest.mark.parametrize("ask", [whole, streamed])
def test_an_answer_is_the_same_when_it_is_replayed(ask: Callable[[Client], ChatResponse], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.json"
    said = answer(
        "Hé, 世界\n", reasoning="hm", tool_calls=[tool_call("f", x="é")], headers={"x-ratelimit-limit-requests": "7"}
    )
    with FakeServer(said) as server:
        first = recorded(path, server, ask)
        again = replayed(path, server, ask)
    assert again == first
    assert (again.text, again.rate_limits, again.request_id) == (first.text, {"limit_requests": 7}, first.request_id)


def test_a_tool_loop_embeddings_and_models(tmp_path: Path) -> None:
    @tool
    def weather(city: str) -> str:
        """The weather."""
        return f"rain in {city}"

    def ask(client: Client) -> Any:
        said = client.run_tools("Weather?", tools=[weather])
        vectors = [list(vector) for vector in client.embed(["a", "b"]).vectors]
        return said.text, vectors, client.models()

    with FakeServer(answer(tool_calls=[tool_call("weather", city="Oslo")]), "It rains.") as server:
        first = recorded(tmp_path / "r.json", server, ask)
        assert replayed(tmp_path / "r.json", server, ask) == first
        assert len(load(tmp_path / "r.json")) == 4


def test_errors_are_replayed(tmp_path: Path) -> None:
    def ask(client: Client) -> RateLimitError:
        with pytest.raises(RateLimitError) as caught:
            client.chat("hi")
        return caught.value

    with FakeServer(error(429, "slow down", retry_after=3)) as server:
        first = recorded(tmp_path / "r.json", server, ask)
        again = replayed(tmp_path / "r.json", server, ask)
    assert (str(again), again.retry_after) == (str(first), 3)


def test_a_stream_that_broke_breaks_again(tmp_path: Path) -> None:
    def ask(client: Client) -> str:
        with pytest.raises(APIConnectionError) as caught:
            client.chat("hi", sink=lambda event: None)
        assert caught.value.partial is not None
        return caught.value.partial.text

    with FakeServer(stream_of("Hel", fault("reset"))) as server:
        assert recorded(tmp_path / "r.json", server, ask) == "Hel"
        assert replayed(tmp_path / "r.json", server, ask) == "Hel"


@pytest.mark.parametrize("body", ["<html>no", b"\xff\xfe", b""])
def test_bodies_that_are_no_json(body: str | bytes, tmp_path: Path) -> None:
    def ask(client: Client) -> str:
        with pytest.raises(ResponseParseError) as caught:
            client.chat("hi")
        return str(caught.value)

    with FakeServer(raw_reply(body, headers={"content-type": "text/html"})) as server:
        assert recorded(tmp_path / "r.json", server, ask) == replayed(tmp_path / "r.json", server, ask)


def test_what_got_no_reply_is_not_kept(tmp_path: Path) -> None:
    def ask(client: Client) -> None:
        with pytest.raises(APIConnectionError):
            client.chat("hi")

    with FakeServer(fault("reset")) as server:
        recorded(tmp_path / "r.json", server, ask)
    assert not (tmp_path / "r.json").exists()


def test_the_file_is_read_in_a_diff_and_has_no_secret(tmp_path: Path) -> None:
    def ask(client: Client) -> None:
        client.chat("my password is hunter22222", extra_query={"api_key": "query-secret-77"})
        client.chat(f"my key is {KEY}", sink=lambda event: None, extra_headers={"x-api-key": "header-secret-88"})

    echo = answer(f"You sent {KEY}.", headers={"set-cookie": "session=1234567890", "x-request-id": "req_1"})
    with FakeServer(echo, echo) as server:
        recorded(tmp_path / "r.json", server, ask, secrets=("hunter22222",))
    text = (tmp_path / "r.json").read_text()
    for secret in (
        "very-secret",
        "hunter22222",
        "query-secret",
        "header-secret",
        "1234567890",
        "authorization",
        "cookie",
    ):
        assert secret not in text.lower(), secret
    assert '"messages": [{"role": "user", "content": "my password is ***"}]' in text
    first, second = json.loads(text)["exchanges"]
    assert first["request"]["url"].endswith("/v1/chat/completions?api_key=***")
    assert first["reply"]["body"]["choices"][0]["message"]["content"] == "You sent ***."
    assert first["reply"]["headers"]["x-request-id"] == "req_1"
    lines = [line for line in text.splitlines() if '"at"' in line and '"data"' in line]
    assert len(lines) == len(second["reply"]["events"]) - 1, "an event a line"


SPREAD = {
    "a key in two": stream_of("Your key: sk-very-", "secret-key-1234, is it?"),
    "a key in characters": stream_of(*f"Your key: {KEY}, is it?"),
    "two keys": stream_of("Ask ", KEY[:9], KEY[9:], " or else ", KEY[:3], KEY[3:], "?"),
    "somebody's password": stream_of('{"pass', 'word": "very', "-secret", '-1234"}'),
    "a key among reasoning": stream_of("Well.", reasoning=f"It is {' '.join(KEY)}? {KEY}."),
    "arguments": answer("", tool_calls=[tool_call("login", user="bob", password="very-secret-key-1234")]),
}


@pytest.mark.parametrize("said", SPREAD.values(), ids=SPREAD)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_secret_that_is_spread_over_events_is_masked(said: Answer, end: str, tmp_path: Path) -> None:
    def texts(answer: ChatResponse) -> list[str]:
        return [answer.text, answer.reasoning, *(call.arguments_json for call in answer.tool_calls)]

    body = said.stream.replace(b"\n", end.encode())
    with FakeServer(raw_reply(body, headers={"content-type": "text/event-stream"})) as server:
        first = texts(recorded(tmp_path / "r.json", server, streamed))
        again = texts(replayed(tmp_path / "r.json", server, streamed))
    (exchange,) = load(tmp_path / "r.json")
    assert len(exchange.pieces) == len(said.chunks)
    assert again == [redact_error_body(text, secrets=[KEY]) for text in first] != first
    assert "secret" not in json.dumps(again)


def test_what_has_no_secret_is_kept_to_the_byte(tmp_path: Path) -> None:
    odd = [
        r'data:  {"choices": [{"delta": {"content": "\u0041", "x": [1, null]}}]}',
        'data: {"choices":3}',
        "data: [1]",
        ":",
    ]
    body = "".join(f"{event}\n\n" for event in odd)
    with FakeServer(raw_reply(body, headers={"content-type": "text/event-stream"})) as server:
        question = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        ask = lambda client: requests.post(f"{server.url}/chat/completions", json=question, timeout=9).text  # noqa: E731
        assert recorded(tmp_path / "r.json", server, ask) == body
        assert replayed(tmp_path / "r.json", server, ask) == body


def test_a_changed_request_is_told_with_what_is_different(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with FakeServer("ok", "ok") as server:
        recorded(path, server, lambda client: [client.chat("hi", temperature=0.2), client.chat("something else")])
        with pytest.raises(RecordingMismatchError) as told:
            replayed(path, server, lambda client: client.chat("ho", temperature=0.3, seed=1))
    for piece in (
        f"differs from what is recorded in {path}",
        'body.messages[0].content: "ho", not "hi"',
        "body.temperature: 0.3, not 0.2",
        "body.seed: 1, which was not expected",
        "record it with mode='all'",
    ):
        assert piece in str(told.value)


def test_a_changed_request_is_told_though_its_error_was_swallowed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def ask(client: Client) -> None:
        with pytest.raises(RecordingMismatchError):
            client.chat("ho")

    with FakeServer("ok") as server:
        recorded(path, server, whole)
        with pytest.raises(RecordingMismatchError, match='"ho", not "hi"'):
            replayed(path, server, ask)


def test_another_server_is_a_change(tmp_path: Path) -> None:
    with FakeServer("ok") as server, FakeServer("ok") as other:
        recorded(tmp_path / "r.json", server, whole)
        with pytest.raises(RecordingMismatchError, match=f'url: "{other.url}'):
            replayed(tmp_path / "r.json", other, whole)
        assert not other.requests


def test_each_is_replayed_once_and_all_are(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with FakeServer("one", "two") as server:
        recorded(path, server, lambda client: [whole(client), whole(client)])
        texts = replayed(path, server, lambda client: [whole(client).text, whole(client).text])
        assert texts == ["one", "two"]
        with pytest.raises(RecordingMismatchError, match="of which all has been asked for"):
            replayed(path, server, lambda client: [whole(client) for _ in range(3)])
        with pytest.raises(RecordingMismatchError, match="recorded in .* and not asked for:\n  POST .* with model"):
            replayed(path, server, whole)


def test_threads_get_their_own(tmp_path: Path) -> None:
    def ask(client: Client) -> list[str]:
        results = client.map([str(number) for number in range(12)], workers=4, ordered=True)
        return [result.response.text for result in results if result.response]

    with FakeServer() as server:
        server.add(lambda request: f"to {request.prompt}", times=None)
        assert recorded(tmp_path / "r.json", server, ask) == replayed(tmp_path / "r.json", server, ask)


@pytest.mark.parametrize(
    ("mode", "there", "asked", "kept"),
    [
        ("once", False, ["a", "b"], 2),
        ("once", True, ["a"], 1),
        ("new_episodes", True, ["a", "b"], 2),
        ("new_episodes", True, ["b"], 2),
        ("all", True, ["b", "c"], 2),
    ],
)
def test_modes_that_record(mode: Any, there: bool, asked: list[str], kept: int, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with FakeServer() as server:
        server.add("ok", times=None)
        if there:
            recorded(path, server, lambda client: client.chat("a"))
        sent = len(server.requests)
        with Recorder(path, mode=mode), server.client() as client:
            for prompt in asked:
                client.chat(prompt)
        replays = there and mode != "all"
        assert len(server.requests) - sent == len(asked) - (replays and "a" in asked)
    assert len(load(path)) == kept


def test_once_replays_only_where_there_is_a_file(tmp_path: Path) -> None:
    with FakeServer() as server:
        server.add("ok", times=None)
        recorded(tmp_path / "r.json", server, lambda client: client.chat("a"))
        with pytest.raises(RecordingMismatchError):
            with Recorder(tmp_path / "r.json", mode="once"), server.client() as client:
                client.chat("b")


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(RecordingMismatchError, match="is not recorded, for .* is not there yet"):
        with Recorder("nowhere.json"), Client("http://127.0.0.1:9", model="m") as client:
            client.chat("hi")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "exchanges": []}'])
def test_a_file_that_is_no_recording(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigurationError, match="is no recording"), Recorder(tmp_path / "r.json"):
        pass


def test_a_mode_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="mode is"):
        Recorder("r.json", mode="some")  # type: ignore[arg-type]


def test_recorders_may_leave_in_any_order_and_all_is_as_before(tmp_path: Path) -> None:
    before = requests.Session.get_adapter
    with FakeServer("a", "b", "c") as server, server.client() as client:
        first, second = (Recorder(tmp_path / f"{name}.json", mode="all") for name in ("first", "second"))
        first.start()
        second.start()
        client.chat("for both")
        first.stop()
        client.chat("for the second")
        second.stop()
        assert requests.Session.get_adapter is before
        client.chat("for none")
    assert len(load(tmp_path / "first.json")) == 1
    assert len(load(tmp_path / "second.json")) == 2


def test_a_mock_that_outlasts_a_recorder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mocking = pytest.importorskip("requests_mock")
    monkeypatch.setattr(requests.Session, "get_adapter", requests.Session.get_adapter)  # and put back at the end
    said = {"choices": [{"message": {"role": "assistant", "content": "mocked"}, "finish_reason": "stop"}]}
    with FakeServer("a", "b") as server, server.client() as client:
        outer = Recorder(tmp_path / "outer.json", mode="all")
        outer.start()
        with mocking.Mocker() as mock:
            mock.post(f"{server.url}/chat/completions", json=said)
            outer.stop()
            assert client.chat("hi").text == "mocked"
            with Recorder(tmp_path / "inner.json", mode="all"):
                assert client.chat("hi").text == "mocked"
        # The mock has left its marks in the session of the client that it answered.
        with server.client() as another:
            assert another.chat("hi").text == "a"
            with Recorder(tmp_path / "next.json", mode="all"):
                assert another.chat("hi").text == "b"
    assert len(load(tmp_path / "next.json")) == 1


def test_other_requests_go_their_way_and_all_is_as_before(tmp_path: Path) -> None:
    before = requests.Session.get_adapter
    with FakeServer("ok") as server:
        with Recorder(tmp_path / "r.json", mode="all"):
            reply = requests.get(f"{server.url}/elsewhere", timeout=10)
            assert reply.status_code == 404
    assert not (tmp_path / "r.json").exists()
    assert requests.Session.get_adapter is before


def test_a_session_of_the_users_and_requests_alone_are_recorded_too(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with FakeServer("ok", "ok") as server:

        def ask(client: Client) -> list[Any]:
            plain = requests.post(f"{server.url}/chat/completions", json=body, timeout=10).json()
            return [plain, server.client(session=requests.Session()).chat("hi").text]

        assert recorded(tmp_path / "r.json", server, ask) == replayed(tmp_path / "r.json", server, ask)


def test_pauses_are_kept(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hear(event: Any) -> None:
        if event.delta == "Hel":
            threading.Event().wait(0.1)
            go_on.set()

    with FakeServer(stream_of("Hel", go_on, "lo")) as server:
        recorded(tmp_path / "r.json", server, lambda client: client.chat("hi", sink=hear))
    first, second = [at for at, data in load(tmp_path / "r.json")[0].pieces if b'"Hel"' in data or b'"lo"' in data]
    assert second - first >= 0.099  # kept to the millisecond


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[FakeServer]:
    """The server of a recording in ``r.json``, an hour of which lies between one event and the next."""
    pieces = [(3600.0 * number, chunk) for number, chunk in enumerate(stream_of("Hel", "lo").chunks)]
    with FakeServer(stream_of("Hel", "lo")) as server:
        recorded(tmp_path / "r.json", server, streamed)
        (exchange,) = load(tmp_path / "r.json")
        save(tmp_path / "r.json", [attrs.evolve(exchange, pieces=tuple(pieces))])
        yield server


def test_pauses_are_made_again_where_they_are_wanted(
    slow: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += 1800.0

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(recorder, "time", clock)
    assert replayed(tmp_path / "r.json", slow, streamed).text == "Hello"
    assert not slept
    assert replayed(tmp_path / "r.json", slow, streamed, timed=True).text == "Hello"
    (exchange,) = load(tmp_path / "r.json")
    assert now[0] == exchange.pieces[-1][0]


def test_a_replayed_pause_can_be_cancelled_and_has_limits(slow: FakeServer, tmp_path: Path) -> None:
    def cancelled(client: Client) -> APIConnectionError | Cancelled:
        token = CancelToken()
        with pytest.raises(Cancelled) as caught:
            client.chat("hi", sink=lambda event: token.cancel(), cancel=token)
        return caught.value

    def late(client: Client) -> APIConnectionError | Cancelled:
        with pytest.raises(APITimeoutError) as caught:
            client.chat("hi", sink=lambda event: None, timeout=0.5)
        return caught.value

    for ask in (cancelled, late):
        assert replayed(tmp_path / "r.json", slow, ask, timed=True).partial.text in ("", "Hel")


@pytest.mark.parametrize(
    "content", [r"\ud83d, half of an emoji", r"\ud83d\ude00", r"\u2028\u0000"], ids=["half", "emoji", "controls"]
)
def test_what_is_no_text_for_a_file_is_recorded(content: str, tmp_path: Path) -> None:
    body = f'{{"choices":[{{"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}]}}'

    def ask(client: Client) -> str:
        question = {"messages": [{"role": "user", "content": json.loads(f'"{content}"')}]}
        return str(requests.post(f"{client.base_url}/chat/completions", json=question, timeout=10).json())

    with FakeServer(raw_reply(body, headers={"content-type": "application/json"})) as server:
        first = recorded(tmp_path / "r.json", server, ask)
        assert replayed(tmp_path / "r.json", server, ask) == first
    (tmp_path / "r.json").read_bytes().decode()


@pytest.mark.parametrize("depth", [300, 900, 5000, 100_000])
def test_a_body_however_deep_is_recorded(depth: int, tmp_path: Path) -> None:
    exchange = Exchange(
        method="POST", url="u", body={}, status=200, headers={}, pieces=((0.0, b"[" * depth + b"]" * depth),)
    )
    save(tmp_path / "r.json", [exchange])
    assert load(tmp_path / "r.json") == [exchange]


def test_a_dialect_learnt_from_a_refusal_is_recorded_with_it(tmp_path: Path) -> None:
    refused = error(400, "Unsupported parameter: 'max_tokens'", code="unsupported_parameter", param="max_tokens")
    with FakeServer(refused, "ok") as server:
        ask = lambda client: client.chat("hi", max_tokens=5).text  # noqa: E731
        assert recorded(tmp_path / "r.json", server, ask) == "ok"
        assert replayed(tmp_path / "r.json", server, ask) == "ok"
    assert [exchange.status for exchange in load(tmp_path / "r.json")] == [400, 200]


def test_a_refusal_is_a_refusal(tmp_path: Path) -> None:
    def ask(client: Client) -> None:
        with pytest.raises(BadRequestError):
            client.chat("hi")

    with FakeServer(error(400)) as server:
        recorded(tmp_path / "r.json", server, ask)
        replayed(tmp_path / "r.json", server, ask)


PIECES = st.lists(
    st.sampled_from(
        [b'data: {"a":1}\n\n', b'data: {"a": 1}\n\n', b"data: [DONE]\r\n\r\n", b": ping\n\n", b"\xff", b"d", b"\n"]
    )
    | st.binary(max_size=8),
    max_size=12,
)


@given(pieces=PIECES)
def test_a_stream_comes_out_of_a_file_as_it_went_in(
    pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("recording") / "r.json"
    timed = [(number / 4, piece) for number, piece in enumerate(pieces)]
    assert b"".join(data for _, data in events(timed)) == b"".join(pieces)
    exchange = Exchange(
        method="POST", url="u", body={"a": [1]}, status=200, headers={"content-type": "text/event-stream"},
        pieces=tuple(timed),
    )  # fmt: skip
    save(path, [exchange])
    (again,) = load(path)
    assert b"".join(data for _, data in again.pieces) == b"".join(pieces)
    assert again.request == exchange.request
