"""Calls with a response_type: what is sent, what comes back, and what is asked again."""

from __future__ import annotations

import copy
import enum
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import (
    BadRequestError,
    CancelToken,
    ChatRequest,
    Client,
    CollectSink,
    ConfigurationError,
    LocalServer,
    ParsedResponse,
    ParsedStream,
    ResponseShapeError,
    ResponseTypeError,
    StopStream,
    StreamEvent,
    StreamInterruptedError,
    tool,
)


@attrs.frozen
class Person:
    name: str
    age: int


@dataclass
class Place:
    city: str
    country: str = "NZ"


class Row(TypedDict):
    id: int


class Bag(msgspec.Struct):
    items: list[str]


class Model(pydantic.BaseModel):
    name: str


class Size(enum.Enum):
    S = "small"
    L = "large"


@attrs.frozen
class Node:
    name: str
    children: list[Node] = attrs.field(factory=list)


ALICE = '{"name": "Alice", "age": 30}'
WRONG = '{"name": "Alice", "age": "thirty"}'
PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def wrapped(inner: dict[str, Any], **definitions: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {**made, "$defs": definitions} if definitions else made


# What is sent


@pytest.mark.parametrize(
    ("response_type", "schema"),
    [
        (Person, PERSON),
        (
            Place,
            {
                "title": "Place",
                "type": "object",
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "NZ"}},
                "required": ["city"],
            },
        ),
        (Row, {"title": "Row", "type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}),
        (
            Bag,
            {
                "title": "Bag",
                "type": "object",
                "properties": {"items": {"type": "array", "items": {"type": "string"}}},
                "required": ["items"],
            },
        ),
        (
            Model,
            {
                "title": "Model",
                "type": "object",
                "properties": {"name": {"title": "Name", "type": "string"}},
                "required": ["name"],
            },
        ),
        (
            Node,
            {
                "title": "Node",
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}, "default": []},
                },
                "required": ["name"],
                "$defs": {
                    "Node": {
                        "title": "Node",
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}, "default": []},
                        },
                        "required": ["name"],
                    }
                },
            },
        ),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int, wrapped({"type": "integer"})),
        (str, wrapped({"type": "string"})),
        (Literal["a", "b"], wrapped({"enum": ["a", "b"]})),
        (Size, wrapped({"title": "Size", "enum": ["large", "small"]})),
        (list[Person], wrapped({"type": "array", "items": {"$ref": "#/$defs/Person"}}, Person=PERSON)),
        (int | None, wrapped({"anyOf": [{"type": "integer"}, {"type": "null"}]})),
        (Annotated[int, msgspec.Meta(ge=1, le=5)], wrapped({"type": "integer", "minimum": 1, "maximum": 5})),
        ({"type": "object", "x-of-mine": [1]}, {"type": "object", "x-of-mine": [1]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_schema_is_sent(response_type: Any, schema: dict[str, Any], streamed: bool) -> None:
    with ReplayServer([error_reply(400)]) as server, Client(server.url, model="m") as client:
        with pytest.raises(BadRequestError):
            client.chat("hi", response_type=response_type, sink=CollectSink() if streamed else None)
    body = server.requests[0].json()
    assert body.pop("stream_options", None) == ({"include_usage": True} if streamed else None)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": streamed,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": False},
        },
    }


def test_strict_mode_is_asked_for() -> None:
    with ReplayServer([chat_reply('{"city": "Oslo", "country": null}')]) as server:
        with Client(server.url, model="m") as client:
            assert client.chat("hi", response_type=Place, strict=True).parsed == Place("Oslo", "NZ")
    assert server.requests[0].json()["response_format"]["json_schema"] == {
        "name": "output",
        "schema": {
            "title": "Place",
            "type": "object",
            "properties": {"city": {"type": "string"}, "country": {"type": ["string", "null"]}},
            "required": ["city", "country"],
            "additionalProperties": False,
        },
        "strict": True,
    }


def test_without_a_type_nothing_is_sent_and_nothing_is_parsed() -> None:
    with ReplayServer([chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        assert not isinstance(client.chat("hi", response_type=None), ParsedResponse)
    assert "response_format" not in server.requests[0].json()


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, **options: client.chat("hi", **options),
        lambda client, **options: client.stream("hi", **options).until_done(),
        lambda client, **options: client.submit("hi", **options),
        lambda client, **options: client.run_tools("hi", tools=[], **options),
        lambda client, **options: client.conversation().say("hi", **options),
    ],
    ids=["chat", "stream", "submit", "run_tools", "say"],
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response_type": Person, "response_schema": {}}, "response_type is given"),
        ({"response_type": Person, "response_format": {"type": "json_object"}}, "response_type is given"),
        ({"response_type": {"type": "nope"}}, "no JSON Schema"),
        ({"response_type": threading.Thread}, "Thread"),
        ({"response_type": dict[str, int], "strict": True}, "strict mode"),
    ],
    ids=["schema too", "format too", "bad schema", "no schema", "not in strict mode"],
)
def test_what_cannot_be_asked_is_told_and_nothing_is_sent(
    ask: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with ReplayServer([chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ConfigurationError, match=message):
            ask(client, **options)
    assert not server.requests


@pytest.mark.parametrize("name", ["chat", "submit"])
def test_repair_counts_from_0(name: str) -> None:
    with Client("http://127.0.0.1:9", model="m") as client:
        with pytest.raises(ConfigurationError, match="repair must be 0 or more, not -1"):
            getattr(client, name)("hi", response_type=Person, repair=-1)


def test_without_jsonschema_a_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with Client("http://127.0.0.1:9", model="m") as client:
        with pytest.raises(ConfigurationError, match=r"openai-compat\[schema\]"):
            client.chat("hi", response_type=PERSON)


# What comes back


def test_the_answer_has_the_value() -> None:
    with ReplayServer([chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("hi", response_type=Person)
    assert answer.parsed == Person("Alice", 30)
    assert (answer.text, answer.output_tokens, answer.model) == (ALICE, 2, "m-served")
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_every_kind_of_value() -> None:
    def reply(request: Request) -> Reply:
        return chat_reply(request.json()["messages"][0]["content"])

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        for response_type, text, value in [
            (Place, '{"city": "Oslo"}', Place("Oslo")),
            (Row, '{"id": 1}', {"id": 1}),
            (Bag, '{"items": ["a"]}', Bag(["a"])),
            (Model, '{"name": "x"}', Model(name="x")),
            (Size, "`large`", Size.L),
            (Literal["a", "b"], '{"value": "a"}', "a"),
            (list[Person], f'{{"value": [{ALICE}]}}', [Person("Alice", 30)]),
            (Person | Row, '{"value": {"id": 1}}', {"id": 1}),
            (datetime, '{"value": "2024-01-01T00:00:00"}', datetime(2024, 1, 1)),
            ({"type": "array"}, "[1, null]", [1, None]),
        ]:
            assert client.chat(text, response_type=response_type).parsed == value


def test_reasoning_is_no_part_of_it() -> None:
    thought = '<think>First {"name": "Bob", "age": 1}, {"name": "</think>\n'
    with ReplayServer([chat_reply(thought + ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("hi", response_type=Person)
    assert answer.parsed == Person("Alice", 30)
    assert "Bob" in answer.reasoning
    with ReplayServer([chat_reply(thought + ALICE)]) as server:
        with Client(server.url, model="m", inline_think="keep") as client:
            with pytest.raises(ResponseTypeError, match="not JSON"):
                client.chat("hi", response_type=Person)


def test_of_several_choices_the_first_is_parsed() -> None:
    body = {
        "choices": [
            {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for at, text in ((1, "no"), (0, ALICE))
        ]
    }
    with ReplayServer([Reply(headers=JSON, body=msgspec.json.encode(body))]) as server:
        with Client(server.url, model="m") as client:
            answer = client.chat("hi", response_type=Person, n=2)
    assert answer.parsed == Person("Alice", 30)
    assert [choice.text for choice in answer.choices] == [ALICE, "no"]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_does_not_fit_is_told_and_kept(streamed: bool) -> None:
    sink = CollectSink()
    reply = stream_reply(WRONG) if streamed else chat_reply(WRONG)
    with ReplayServer([reply]) as server, Client(server.url, model="m", provider="p") as client:
        with pytest.raises(ResponseTypeError) as caught:
            client.chat("hi", response_type=Person, sink=sink if streamed else None)
    error = caught.value
    assert str(error) == "the answer does not fit its type: $.age: expected int, got str"
    assert error.partial is not None
    assert (error.path, error.partial.text, error.provider, error.retryable) == ("$.age", WRONG, "p", False)
    assert len(server.requests) == 1
    if streamed:
        assert [event.kind for event in sink.events] == ["text", "error"]
        assert sink.events[-1].error is error
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.partial) == (str(error), error.path, error.partial)


def test_an_empty_answer_is_what_it_always_was() -> None:
    with ReplayServer([chat_reply("")]) as server, Client(server.url, model="m", max_retries=0) as client:
        with pytest.raises(ResponseShapeError, match="is empty") as caught:
            client.chat("hi", response_type=str)
    assert not isinstance(caught.value, ResponseTypeError)
    assert len(server.requests) == 1


def test_an_empty_answer_is_asked_for_again() -> None:
    with ReplayServer([chat_reply(""), chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("Who?", response_type=Person, repair=1)
        assert answer.parsed == Person("Alice", 30)
        assert server.requests[0].body == server.requests[1].body
        assert len(server.requests) == 2


# Asking again


def test_the_second_request_says_what_was_wrong() -> None:
    with ReplayServer([chat_reply(WRONG), chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("Who?", system="Be brief.", temperature=0.5, response_type=Person, repair=1)
    assert answer.parsed == Person("Alice", 30)
    assert answer.text == ALICE
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (6, 4, 10)
    first, second = (request.json() for request in server.requests)
    assert second.pop("messages") == [
        *first.pop("messages"),
        {"role": "assistant", "content": WRONG},
        {
            "role": "user",
            "content": "That cannot be used: the answer does not fit its type: $.age: expected int, got str. "
            'Answer again, with nothing but JSON that fits this schema: {"title":"Person","type":"object",'
            '"properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"]}',
        },
    ]
    assert first == second


def test_what_fits_is_not_asked_again() -> None:
    with ReplayServer([chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("Who?", response_type=Person, repair=3)
    assert answer.output_tokens == 2
    assert len(server.requests) == 1


def test_a_history_is_kept_when_asking_again() -> None:
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    with ReplayServer([chat_reply("no"), chat_reply("no!"), chat_reply(ALICE)]) as server:
        with Client(server.url, model="m") as client:
            answer = client.chat(copy.deepcopy(history), response_type=Person, repair=2)
    assert answer.output_tokens == 6
    third = server.requests[2].json()["messages"]
    assert third[:3] == history
    assert [message["role"] for message in third[3:]] == ["assistant", "user", "assistant", "user"]
    assert [third[3]["content"], third[5]["content"]] == ["no", "no!"]


def test_usage_that_only_one_answer_has_is_kept() -> None:
    silent = msgspec.json.decode(chat_body(WRONG))
    del silent["usage"]
    for replies in (
        [Reply(headers=JSON, body=msgspec.json.encode(silent)), chat_reply(ALICE)],
        [chat_reply(WRONG), Reply(headers=JSON, body=chat_body(ALICE).replace(b'"usage"', b'"no_usage"'))],
    ):
        with ReplayServer(replies) as server, Client(server.url, model="m") as client:
            assert client.chat("Who?", response_type=Person, repair=1).output_tokens == 2


def test_the_last_failure_is_raised() -> None:
    with ReplayServer([chat_reply("no"), chat_reply(WRONG)]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ResponseTypeError, match=r"\$\.age") as caught:
            client.chat("Who?", response_type=Person, repair=1)
    assert caught.value.partial is not None
    assert caught.value.partial.text == WRONG
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(headers=JSON, body=chat_body('{"name": "Al', finish_reason="length")), "cut off at max_tokens"),
        (chat_reply(None, refusal="I will not."), "the model refused: I will not."),
    ],
    ids=["cut off", "refused"],
)
def test_what_would_not_get_better_is_not_asked_again(reply: Reply, message: str) -> None:
    with ReplayServer([reply]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ResponseTypeError, match=message):
            client.chat("Who?", response_type=Person, repair=2)
    assert len(server.requests) == 1


def test_a_sink_hears_one_end_for_each_request_and_no_error_while_a_repair_is_left() -> None:
    sink = CollectSink()
    with ReplayServer([stream_reply("no"), stream_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.chat("Who?", response_type=Person, repair=1, sink=sink)
    assert answer.parsed == Person("Alice", 30)
    assert [event.kind for event in sink.events] == ["text", "done", "text", "done"]
    assert len({event.call_id for event in sink.events}) == 2
    assert sink.events[-1].response == answer


def test_a_sink_hears_of_the_last_failure() -> None:
    sink = CollectSink()
    with ReplayServer([stream_reply("no"), stream_reply(WRONG)]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ResponseTypeError) as caught:
            client.chat("Who?", response_type=Person, repair=1, sink=sink)
    assert [event.kind for event in sink.events] == ["text", "done", "text", "error"]
    assert sink.events[-1].error is caught.value


def test_a_sink_that_stops_the_stream_is_not_asked_again() -> None:
    def stop(event: StreamEvent) -> None:
        if event.delta:
            raise StopStream

    with ReplayServer([stream_reply(ALICE[:5], ALICE[5:])]) as server, Client(server.url, model="m") as client:
        with pytest.raises(ResponseTypeError) as caught:
            client.chat("Who?", response_type=Person, repair=1, sink=stop)
    assert caught.value.partial is not None
    assert caught.value.partial.text == ALICE[:5]
    assert len(server.requests) == 1


def test_an_error_of_the_server_is_no_reason_to_repair() -> None:
    with ReplayServer([chat_reply(WRONG), error_reply(400)]) as server, Client(server.url, model="m") as client:
        with pytest.raises(BadRequestError):
            client.chat("Who?", response_type=Person, repair=5)
    assert len(server.requests) == 2


# Streams


def grown(partial: Any, before: Any) -> bool:
    """Whether a value is another one grown longer."""
    if before is None:
        return True
    if isinstance(before, dict):
        return all(key in partial and grown(partial[key], inner) for key, inner in before.items())
    if isinstance(before, list):
        return all(map(grown, partial, before)) and len(partial) >= len(before)
    return partial.startswith(before) if isinstance(before, str) else bool(partial == before)


@pytest.mark.parametrize("around", ["{}", "Sure:\n```json\n{}\n```\nBye [1].", "<think>{{}}</think>{}"])
def test_partial_grows_to_the_whole(around: str) -> None:
    tree = '{"name": "Ro\\u00f6t \\"1\\"", "children": [{"name": "a", "children": []}, {"name": "b"}]}'
    with ReplayServer([stream_reply(*around.format(tree))]) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Node) as stream:
            assert stream.partial is None
            seen: list[Any] = []
            for _ in stream:
                partial = copy.deepcopy(stream.partial)
                assert not seen or grown(partial, seen[-1])
                seen.append(partial)
    assert len({repr(partial) for partial in seen}) > 15
    assert seen[-1] == msgspec.json.decode(tree)
    assert isinstance(stream, ParsedStream)
    assert stream.response.parsed == Node('Roöt "1"', [Node("a"), Node("b")])


def test_partial_costs_the_same_however_often_it_is_read() -> None:
    text = '{"name": "' + "x" * 20_000 + '", "age": 1}'
    pieces = [text[at : at + 2] for at in range(0, len(text), 2)]
    with ReplayServer([stream_reply(*pieces)]) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Person) as stream:
            first = None
            for _ in stream:
                first = stream.partial if first is None else first
                assert stream.partial is first
        assert stream.response.parsed == Person("x" * 20_000, 1)


def test_a_stream_without_a_type_has_a_partial_too() -> None:
    with ReplayServer([stream_reply('So: {"a": [1', ", 2]", "}.")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi") as stream:
            seen = [copy.deepcopy(stream.partial) for _ in stream]
    assert seen == [{"a": []}, {"a": [1, 2]}, {"a": [1, 2]}, {"a": [1, 2]}]


def test_partial_is_without_the_object_around_it() -> None:
    with ReplayServer([stream_reply('{"value', '": [1, ', "2]}")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=list[int]) as stream:
            seen = [copy.deepcopy(stream.partial) for _ in stream]
    assert seen == [None, [1], [1, 2], [1, 2]]


def test_a_stream_that_was_tried_again_begins_anew() -> None:
    cut = Reply(headers=EVENT_STREAM, body=[b": hello\n\n"], abort="rst")
    with ReplayServer([cut, stream_reply(*ALICE)]) as server:
        with Client(server.url, model="m", max_retries=1) as client:
            with client.stream("hi", response_type=Person) as stream:
                for _ in stream:
                    assert stream.partial is not None
    assert stream.partial == {"name": "Alice", "age": 30}


def test_the_answer_of_a_stream_is_parsed() -> None:
    with ReplayServer([stream_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        answer = client.stream("hi", response_type=Person).until_done()
        assert isinstance(answer, ParsedResponse)
        assert answer.parsed == Person("Alice", 30)
        with client.stream("hi", response_type=Person) as stream:
            last = list(stream)[-1]
    assert last.response is stream.response
    assert stream.response.parsed == Person("Alice", 30)


def test_a_stream_that_does_not_fit_ends_with_an_error() -> None:
    events: list[StreamEvent] = []
    with ReplayServer([stream_reply("[1]")]) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Person) as stream:
            with pytest.raises(ResponseTypeError) as caught:
                list(map(events.append, stream))
            with pytest.raises(ResponseTypeError):
                _ = stream.response
    assert [event.kind for event in events] == ["text", "error"]
    assert events[-1].error is caught.value
    assert stream.partial == [1]


def test_a_stream_that_is_left_has_only_a_part() -> None:
    def reply(request: Request) -> Reply:
        def body() -> Any:
            yield chunk({"content": '{"name": "Al'})
            request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Person) as stream:
            next(stream)
        assert server.wait_closed()
    assert stream.partial == {"name": "Al"}
    with pytest.raises(ResponseTypeError) as caught:
        _ = stream.response
    assert caught.value.partial is not None
    assert caught.value.partial.text == '{"name": "Al'


@pytest.mark.parametrize(("text", "parsed"), [(ALICE, Person("Alice", 30)), (ALICE[:-1], None)])
def test_a_stream_that_is_cancelled_is_parsed_where_it_can_be(text: str, parsed: Person | None) -> None:
    def reply(request: Request) -> Reply:
        def body() -> Any:
            yield chunk({"content": text})
            request.closed.wait(10)

        return Reply(headers=EVENT_STREAM, body=body())

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Person) as stream:
            next(stream)
            stream.cancel()
            assert [event.kind for event in stream] == ["done"]
    assert stream.partial["name"] == "Alice"
    if parsed is None:
        with pytest.raises(ResponseTypeError, match="cut off where its stream ended"):
            _ = stream.response
    else:
        assert stream.response.parsed == parsed
        assert stream.response.truncated


def test_a_stream_that_breaks_off_fails_as_it_always_does() -> None:
    reply = Reply(headers=EVENT_STREAM, body=stream_pieces(ALICE, finish_reason=None, done=False))
    with ReplayServer([reply]) as server, Client(server.url, model="m", truncated="raise") as client:
        with client.stream("hi", response_type=Person) as stream:
            with pytest.raises(StreamInterruptedError):
                stream.until_done()
    with ReplayServer([reply]) as server, Client(server.url, model="m") as client:
        answer = client.stream("hi", response_type=Person).until_done()
    assert isinstance(answer, ParsedResponse)
    assert answer.truncated


# Other roads


def test_submit_gives_the_value() -> None:
    with ReplayServer([chat_reply("no"), chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        future = client.submit("hi", response_type=Person, repair=1)
        assert future.result(10).parsed == Person("Alice", 30)
    assert len(server.requests) == 2


def test_a_repair_can_be_cancelled() -> None:
    token = CancelToken()

    def reply(request: Request) -> Reply:
        if request.number:
            token.cancel()
            request.closed.wait(10)
        return chat_reply("no")

    with ReplayServer(reply) as server, Client(server.url, model="m") as client:
        with pytest.raises(Exception, match="cancelled"):
            client.chat("hi", response_type=Person, repair=5, cancel=token)
    assert len(server.requests) == 2


@tool
def weather(city: str) -> str:
    """The weather."""
    return f"rain in {city}"


@pytest.mark.parametrize("said", [None, "Let me look.", '{"name": "not yet"}'])
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_run_before_the_value_comes(said: str | None, streamed: bool) -> None:
    call = tool_call("weather", '{"city": "Oslo"}')
    if streamed:
        deltas = [chunk({"content": said}), chunk({"tool_calls": [{"index": 0, **call}]})]
        asks = Reply(headers=EVENT_STREAM, body=[*deltas, *stream_pieces(finish_reason="tool_calls")])
        replies = [asks, stream_reply("no"), stream_reply(ALICE)]
    else:
        replies = [chat_reply(said, tool_calls=[call]), chat_reply("no"), chat_reply(ALICE)]
    sink = CollectSink()
    with ReplayServer(replies) as server, Client(server.url, model="m") as client:
        answer = client.run_tools(
            "hi", tools=[weather], response_type=Person, repair=1, sink=sink if streamed else None
        )
    assert answer.parsed == Person("Alice", 30)
    bodies = [request.json() for request in server.requests]
    assert all(body["response_format"] == bodies[0]["response_format"] for body in bodies)
    assert [message["role"] for message in bodies[1]["messages"]] == ["user", "assistant", "tool"]
    assert [message["role"] for message in bodies[2]["messages"][3:]] == ["assistant", "user"]
    if not streamed:
        assert answer.output_tokens == 6


def test_an_answer_that_calls_tools_has_no_value() -> None:
    reply = chat_reply("Let me look.", tool_calls=[tool_call("weather", "{}")])
    with ReplayServer([reply]) as server, Client(server.url, model="m") as client:
        answer = client.chat("hi", response_type=Person, tools=[weather.spec], repair=1)
    assert answer.parsed is None
    assert answer.tool_calls[0].name == "weather"


def test_the_history_of_a_conversation_has_only_the_answer_that_fits() -> None:
    with ReplayServer([chat_reply("no"), chat_reply(ALICE)]) as server, Client(server.url, model="m") as client:
        chat = client.conversation()
        assert chat.say("hi", response_type=Person, repair=1).parsed == Person("Alice", 30)
    assert [message["content"] for message in chat.messages] == ["hi", ALICE]


def test_a_request_as_a_value() -> None:
    request = ChatRequest("hi", model="m", max_tokens=5)
    with ReplayServer([chat_reply(ALICE)]) as server, Client(server.url) as client:
        assert client.chat(request, response_type=Person).parsed == Person("Alice", 30)
    assert request.response_schema is None


# The real server


@pytest.fixture(scope="module")
def real(local_server: LocalServer) -> Client:
    return Client(local_server.base_url, model=local_server.model, max_retries=0, timeout=110)


@attrs.frozen
class Short:
    name: Annotated[str, msgspec.Meta(max_length=20)]
    age: int


def test_the_real_server_keeps_to_a_class(real: Client) -> None:
    answer = real.chat("Alice is 30 years old.", response_type=Short, temperature=0, max_tokens=100)
    assert isinstance(answer.parsed, Short)
    assert answer.parsed == Short(**msgspec.json.decode(answer.text))


def test_the_real_server_keeps_to_what_is_no_object(real: Client) -> None:
    mood = real.chat("I love it!", response_type=Literal["good", "bad"], temperature=0, max_tokens=30)
    assert mood.parsed in ("good", "bad")
    assert msgspec.json.decode(mood.text) == {"value": mood.parsed}
    three = Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=9)]], msgspec.Meta(min_length=3, max_length=3)]
    numbers = real.chat("Count to three.", response_type=three, temperature=0, max_tokens=60).parsed
    assert [type(number) for number in numbers] == [int, int, int]


def test_the_real_server_streams_a_value(real: Client) -> None:
    seen: list[Any] = []
    with real.stream("Carol is 52 years old.", response_type=Short, temperature=0, max_tokens=100) as stream:
        for _ in stream:
            assert not seen or grown(stream.partial, seen[-1])
            seen.append(copy.deepcopy(stream.partial))
        parsed = stream.response.parsed
    assert isinstance(parsed, Short)
    assert seen[-1] == attrs.asdict(parsed)
    assert len({repr(partial) for partial in seen}) > 3


def test_at_the_end_partial_is_what_parsed_was_made_of() -> None:
    text = 'For example {"name": "Bob", "age": 1}. The answer is {"name": "Alice", "age": 30}.'
    with ReplayServer([stream_reply(text)]) as server, Client(server.url, model="m") as client:
        with client.stream("hi", response_type=Person) as stream:
            for _ in stream:
                pass
        assert stream.response.parsed == Person("Alice", 30)
        assert stream.partial == {"name": "Alice", "age": 30}
