"""What goes to another process: clients, requests, answers, conversations, errors and tokens, before and after use."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from operator import methodcaller
from typing import Any

import joblib
import pytest
from joblib.externals.loky import get_reusable_executor
from support.calls import CALLS, saying
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, stream_pieces, stream_reply, tool_call

import openai_compat
from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    ChatRequest,
    Client,
    ConfigurationError,
    Conversation,
    OpenAICompatError,
    ResponseTypeError,
    StreamInterruptedError,
    StreamServerError,
    Timeout,
    ToolLoopError,
)

KEY = "sk-of-the-tests-1234567890"
Copier = Callable[[Any], Any]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


WAYS: dict[str, Copier] = {"pickle": pickled, "copy": copy.copy, "deepcopy": copy.deepcopy}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
each_time = pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(saying("real")) as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


def keys(server: ReplayServer) -> list[str | None]:
    return [request.headers["Authorization"] for request in server.requests]


def ask_all(client: Client) -> list[str]:
    return [ask(client) for ask in CALLS.values()]


def key_of_this_module() -> str:
    return KEY


@pytest.fixture
def client(server: ReplayServer) -> Iterator[Client]:
    """Without a key."""
    with Client(server.url, model="m", timeout=7, headers={"X-Team": "blue"}) as client:
        yield client


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


class TestClients:
    @each_way
    @each_time
    def test_a_copy_asks_as_the_original_does(
        self, way: Copier, used: bool, client: Client, server: ReplayServer
    ) -> None:
        if used:
            ask_all(client)
        other = way(client)
        assert (repr(other), other.base_url, other.model) == (repr(client), client.base_url, client.model)
        assert (other.provider, other.timeout) == (client.provider, Timeout(total=7))
        assert ask_all(other) == ["real"] * 3
        assert {request.headers["X-Team"] for request in server.requests} == {"blue"}
        other.close()
        assert ask_all(client) == ["real"] * 3

    @each_time
    def test_a_pickled_client_has_no_connections(self, used: bool, client: Client, server: ReplayServer) -> None:
        if used:
            client.chat("hi")
        other = pickled(client)
        assert server.connections == int(used)
        other.chat("hi")
        client.chat("hi")
        assert server.connections == 2

    def test_a_client_can_be_pickled_while_it_is_asked(self, client: Client) -> None:
        with client.stream("hi") as stream:
            next(stream)
            assert pickled(client).chat("hi").text == "real"
            assert stream.until_done().text == "real"

    def test_settings_of_every_kind_go_along(self, server: ReplayServer, waits: list[float]) -> None:
        from openai_compat import RetryPolicy

        client = Client(server.url, model="m", retry=RetryPolicy(max_retries=0), api_path="/other", verify=False)
        other = pickled(client)
        assert other.chat("hi").text == "real"
        assert server.requests[0].path == "/other/chat/completions"
        server._replies = [error_reply(503)]
        with pytest.raises(APIStatusError):
            other.chat("hi")
        assert len(server.requests) == 2

    @each_time
    def test_a_key_in_clear_is_not_pickled_unasked(self, used: bool, server: ReplayServer) -> None:
        client = Client(server.url, KEY, model="m")
        if used:
            ask_all(client)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(ConfigurationError, match="pickle_key") as caught:
                pickle.dumps(client, protocol)
            assert "1234567890" not in str(caught.value)

    @each_time
    def test_a_key_in_clear_is_pickled_where_that_is_wanted(self, used: bool, server: ReplayServer) -> None:
        client = Client(server.url, KEY, model="m", pickle_key=True)
        if used:
            ask_all(client)
        other = pickled(client)
        assert ask_all(other) == ["real"] * 3
        assert set(keys(server)) == {f"Bearer {KEY}"}
        assert KEY not in repr(other)
        # What was allowed once is allowed for the copy.
        assert pickled(other).chat("hi").text == "real"

    @pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
    @each_time
    def test_a_copy_in_the_same_process_has_the_key(self, way: Copier, used: bool, server: ReplayServer) -> None:
        client = Client(server.url, KEY, model="m")
        if used:
            ask_all(client)
        other = way(client)
        assert ask_all(other) == ["real"] * 3
        assert set(keys(server)) == {f"Bearer {KEY}"}
        # But it is no way around the rule.
        with pytest.raises(ConfigurationError, match="pickle_key"):
            pickle.dumps(other)

    @pytest.mark.parametrize("how", ["from_env", "for_provider"])
    @each_time
    def test_a_key_of_the_environment_is_read_again_where_it_arrives(
        self, how: str, used: bool, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variable = "OPENAI_API_KEY" if how == "from_env" else "GROQ_API_KEY"
        monkeypatch.setenv(variable, KEY)
        if how == "from_env":
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            client = Client.from_env(model="m")
        else:
            client = Client.for_provider("groq", base_url=server.url, model="m")
        if used:
            client.chat("hi")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert b"1234567890" not in pickle.dumps(client, protocol)
        data = pickle.dumps(client)
        monkeypatch.setenv(variable, "sk-of-another-process")
        assert pickle.loads(data).chat("hi").text == "real"
        assert keys(server)[-1] == "Bearer sk-of-another-process"
        assert client.chat("hi").text == "real"
        assert keys(server)[-1] == f"Bearer {KEY}"

    def test_a_key_of_an_environment_that_has_none_is_missed_by_name(
        self, server: ReplayServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GROQ_API_KEY", KEY)
        data = pickle.dumps(Client.for_provider("groq", base_url=server.url, model="m"))
        monkeypatch.delenv("GROQ_API_KEY")
        with pytest.raises(ConfigurationError, match="GROQ_API_KEY"):
            pickle.loads(data).chat("hi")
        assert server.requests == []

    def test_a_key_that_was_given_to_a_provider_is_in_clear(self, server: ReplayServer) -> None:
        with pytest.raises(ConfigurationError, match="pickle_key"):
            pickle.dumps(Client.for_provider("groq", KEY, base_url=server.url, model="m"))

    @each_time
    def test_a_function_that_gives_keys_goes_along_by_its_name(self, used: bool, server: ReplayServer) -> None:
        client = Client(server.url, key_of_this_module, model="m")
        if used:
            client.chat("hi")
        assert b"1234567890" not in pickle.dumps(client)
        assert pickled(client).chat("hi").text == "real"
        assert set(keys(server)) == {f"Bearer {KEY}"}

    def test_a_function_that_has_no_name_elsewhere_is_refused(self, server: ReplayServer) -> None:
        client = Client(server.url, lambda: KEY, model="m")
        with pytest.raises(ConfigurationError, match="api_key"):
            pickle.dumps(client)
        assert copy.deepcopy(client).chat("hi").text == "real"
        assert keys(server) == [f"Bearer {KEY}"]


class TestOtherProcesses:
    @each_time
    def test_a_spawned_process_asks(
        self, used: bool, spawned: ProcessPoolExecutor, client: Client, server: ReplayServer
    ) -> None:
        if used:
            ask_all(client)
        request = ChatRequest("hi", model="m", temperature=0.5)
        answer = spawned.submit(methodcaller("chat", request), client).result(60)
        assert (answer.text, answer.model) == ("real", "m-served")
        assert server.requests[-1].json()["temperature"] == 0.5
        assert spawned.submit(methodcaller("embed", ["hi"]), client).result(60).dims == len("real")

    def test_an_error_comes_back_from_a_spawned_process(
        self, spawned: ProcessPoolExecutor, client: Client, server: ReplayServer
    ) -> None:
        server._replies = [error_reply(400, "not so", code="c", param="p")]
        with pytest.raises(APIStatusError, match="not so") as caught:
            spawned.submit(methodcaller("chat", "hi"), client).result(60)
        assert (caught.value.status_code, caught.value.code, caught.value.param) == (400, "c", "p")

    def test_a_conversation_goes_on_in_a_spawned_process(
        self, spawned: ProcessPoolExecutor, client: Client, server: ReplayServer
    ) -> None:
        chat = client.conversation(system="Be brief.")
        chat.say("one")
        assert spawned.submit(methodcaller("say", "two"), chat).result(60).text == "real"
        said = [message["content"] for message in server.requests[-1].json()["messages"]]
        assert said == ["Be brief.", "one", "real", "two"]

    def test_joblibs_processes_ask(self, client: Client, server: ReplayServer) -> None:
        client.chat("hi")
        try:
            with joblib.parallel_config(backend="loky", n_jobs=2):
                asked = (joblib.delayed(methodcaller("chat", f"{number}"))(client) for number in range(4))
                answers = joblib.Parallel()(asked)
        finally:
            get_reusable_executor().shutdown(wait=True)
        assert [answer.text for answer in answers] == ["real"] * 4
        asked_for = sorted(request.json()["messages"][0]["content"] for request in server.requests)
        assert asked_for == ["0", "1", "2", "3", "hi"]


def made(cls: type[OpenAICompatError]) -> OpenAICompatError:
    """An error with a value in every field that it takes."""
    names = {
        parameter.name
        for base in cls.__mro__
        if issubclass(base, OpenAICompatError)
        for parameter in inspect.signature(base.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return cls("what went wrong", **{name: FIELDS.get(name, f"its {name}") for name in names})


FIELDS: dict[str, Any] = {
    "status_code": 503,
    "retryable": True,
    "retry_after": 1.5,
    "headers": {"x-a": "b"},
    "phase": "idle",
    "partial": None,
    "messages": ({"role": "user", "content": "hi"},),
    "attempts": (),
}
ERRORS = {
    name: value
    for name in openai_compat.__all__
    if isinstance(value := getattr(openai_compat, name), type) and issubclass(value, OpenAICompatError)
}


@pytest.mark.parametrize("cls", ERRORS.values(), ids=ERRORS)
@each_way
def test_every_error_goes_along_with_its_fields(cls: type[OpenAICompatError], way: Copier) -> None:
    error = made(cls)
    error.__notes__ = ["seen in the night"]
    other = way(error)
    assert type(other) is cls
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


def refused(server: ReplayServer) -> None:
    server._replies = [error_reply(429, "slower", headers={"Retry-After": "3"}, code="rate")]
    Client(server.url, model="m").chat("hi")


def timed_out(server: ReplayServer) -> None:
    def silent(request: Request) -> Reply:
        request.closed.wait(10)
        return Reply(head=b"", abort="fin")

    server._replies = silent
    Client(server.url, model="m", timeout=Timeout(first_token=0.1)).chat("hi")


def reset(server: ReplayServer) -> None:
    server._replies = [Reply(head=b"", abort="rst")]
    Client(server.url, model="m").chat("hi")


def interrupted(server: ReplayServer) -> None:
    server._replies = [stream_reply("half", finish_reason=None, done=False)]
    Client(server.url, model="m", truncated="raise").stream("hi").until_done()


def failed_by_the_server(server: ReplayServer) -> None:
    failing = b'data: {"error":{"message":"overloaded","code":503}}\n\n'
    server._replies = [Reply(headers={"Content-Type": "text/event-stream"}, body=[stream_pieces("a")[0], failing])]
    Client(server.url, model="m").stream("hi").until_done()


def cancelled(server: ReplayServer) -> None:
    token = CancelToken()
    server._replies = [stream_reply("a", "b")]
    Client(server.url, model="m").chat("hi", sink=lambda event: token.cancel(), cancel=token)


def of_another_type(server: ReplayServer) -> None:
    server._replies = [chat_reply("three")]
    Client(server.url, model="m").chat("hi", response_type=int)


def without_an_end(server: ReplayServer) -> None:
    def look() -> str:
        """Looks."""
        return "seen"

    server._replies = [chat_reply(None, finish_reason="tool_calls", tool_calls=[tool_call("look", "{}")])]
    Client(server.url, model="m").run_tools("hi", tools=[look], max_iterations=2)


REAL: list[tuple[Callable[[ReplayServer], None], type[OpenAICompatError]]] = [
    (refused, APIStatusError),
    (timed_out, APITimeoutError),
    (reset, APIConnectionError),
    (interrupted, StreamInterruptedError),
    (failed_by_the_server, StreamServerError),
    (cancelled, Cancelled),
    (of_another_type, ResponseTypeError),
    (without_an_end, ToolLoopError),
]


@pytest.mark.parametrize(("fail", "cls"), REAL, ids=[fail.__name__ for fail, _ in REAL])
@each_way
def test_errors_of_real_calls_go_along_with_all_they_hold(
    fail: Any, cls: type[OpenAICompatError], way: Copier, server: ReplayServer, waits: list[float]
) -> None:
    with pytest.raises(cls) as caught:
        fail(server)
    error = caught.value
    other = way(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_what_an_error_holds_of_its_tries_goes_along(server: ReplayServer, waits: list[float]) -> None:
    server._replies = [error_reply(503)]
    with pytest.raises(APIStatusError) as caught:
        Client(server.url, model="m").chat("hi")
    attempts = caught.value.attempts
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert pickled(caught.value).attempts == attempts


@each_way
def test_requests_and_answers_go_along(way: Copier, client: Client) -> None:
    request = ChatRequest("hi", model="m", temperature=0.5, stop=("x",), extra_body={"a": [1]})
    assert way(request) == request
    for answer in (client.chat(request), client.stream(request).until_done(), client.embed(["hi"])):
        assert way(answer) == answer
    assert [attempt.number for attempt in way(client.chat(request)).attempts] == [1]


@pytest.mark.parametrize("way", [pickled, copy.deepcopy])
@each_time
def test_a_conversation_goes_on_from_where_it_was(
    way: Copier, used: bool, client: Client, server: ReplayServer
) -> None:
    chat = client.conversation(system="Be brief.", model="m")
    if used:
        chat.say("one")
    other = way(chat)
    assert isinstance(other, Conversation)
    assert (other.messages, other.usage) == (chat.messages, chat.usage)
    before = chat.messages
    other.say("two")
    assert chat.messages == before
    said = [message["content"] for message in server.requests[-1].json()["messages"]]
    assert said == ["Be brief.", *(["one", "real"] if used else []), "two"]


def test_a_conversation_keeps_the_key_as_its_client_does(server: ReplayServer) -> None:
    chat = Client(server.url, KEY, model="m").conversation()
    with pytest.raises(ConfigurationError, match="pickle_key"):
        pickle.dumps(chat)
    assert copy.deepcopy(chat).say("hi").text == "real"
    assert keys(server) == [f"Bearer {KEY}"]


@each_way
def test_a_token_goes_along_as_it_is(way: Copier, client: Client) -> None:
    token = CancelToken()
    token.subscribe(lambda: None)  # who listens here is not there
    client.chat("hi", cancel=token)
    assert not way(token).cancelled
    token.cancel()
    other = way(token)
    assert other.cancelled
    with pytest.raises(Cancelled):
        client.chat("hi", cancel=other)


@pytest.mark.parametrize("way", [pickled, copy.deepcopy])
def test_a_token_that_was_sent_is_another_token(way: Copier) -> None:
    heard: list[str] = []
    token = CancelToken()
    token.subscribe(lambda: heard.append("original"))
    other = way(token)
    other.subscribe(lambda: heard.append("copy"))
    other.cancel()
    assert (token.cancelled, other.cancelled, heard) == (False, True, ["copy"])
