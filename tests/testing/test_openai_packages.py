"""Packages of OpenAI's, for Python and for Node, against the fake server: what they read is what was scripted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from support.node import Node, running_node

from openai_compat import Usage
from openai_compat.testing import FakeServer, answer, error, fault, stream_of, tool_call

USER: Any = [{"role": "user", "content": "hi"}]
CALLS = [tool_call("f", x=1), tool_call("g", y="two words")]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="sk-x", max_retries=0) as client:
        yield client


def test_an_answer(server: FakeServer, client: openai.OpenAI) -> None:
    server.add(answer("Hello", usage=Usage(input_tokens=3, output_tokens=2, cached_tokens=1)))
    found = client.chat.completions.create(model="m", messages=USER)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason, found.model) == ("Hello", "stop", "m")
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (3, 2, 5)
    assert found.usage.prompt_tokens_details is not None
    assert found.usage.prompt_tokens_details.cached_tokens == 1
    assert found._request_id == "req_fake1"


def test_a_stream_with_its_usage(server: FakeServer, client: openai.OpenAI) -> None:
    server.add(stream_of("Hel", "lo"), times=2)
    stream = client.chat.completions.create(
        model="m", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["", "Hel", "lo", None]
    assert [chunk.usage is not None for chunk in chunks] == [False, False, False, False, True]
    plain = list(client.chat.completions.create(model="m", messages=USER, stream=True))
    assert all(chunk.usage is None for chunk in plain)


def test_parallel_calls_streamed_or_not(server: FakeServer, client: openai.OpenAI) -> None:
    server.add(answer("Look:", tool_calls=CALLS), times=2)
    whole = client.chat.completions.create(model="m", messages=USER).choices[0].message
    with client.chat.completions.stream(model="m", messages=USER) as stream:
        streamed = stream.get_final_completion().choices[0].message
    for message in (whole, streamed):
        assert message.content == "Look:"
        assert [(call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [  # type: ignore[union-attr]
            ("f", '{"x":1}'),
            ("g", '{"y":"two words"}'),
        ]


class Person(BaseModel):
    name: str
    age: int


def test_structured_output(server: FakeServer, client: openai.OpenAI) -> None:
    server.add(Person(name="Alice", age=30))
    found = client.chat.completions.parse(model="m", messages=USER, response_format=Person)
    assert found.choices[0].message.parsed == Person(name="Alice", age=30)
    assert server.requests[0].body["response_format"]["json_schema"]["name"] == "Person"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(server: FakeServer, client: openai.OpenAI, encoding: Any) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    found = client.embeddings.create(model="e", input=["a b", "c"], dimensions=4, **options)
    assert [entry.index for entry in found.data] == [0, 1]
    if encoding != "base64":
        assert len(found.data[0].embedding) == 4
    again = client.embeddings.create(model="e", input="a b", dimensions=4, **options)
    assert again.data[0].embedding == found.data[0].embedding


def test_the_list_of_models(server: FakeServer, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-model"]
    assert client.models.retrieve("fake-model").owned_by == "fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_errors(server: FakeServer, client: openai.OpenAI, status: int, kind: type[openai.APIStatusError]) -> None:
    server.add(error(status, "told", code="c", param="p", retry_after=0))
    with pytest.raises(kind, match="told") as caught:
        client.chat.completions.create(model="m", messages=USER)
    assert (caught.value.code, caught.value.param) == ("c", "p")


def test_retry_after_is_heeded(server: FakeServer) -> None:
    server.add(error(429, retry_after=0))
    server.add("ok")
    with openai.OpenAI(base_url=server.url, api_key="sk-x", max_retries=1) as client:
        assert client.chat.completions.create(model="m", messages=USER).choices[0].message.content == "ok"
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_a_connection_that_breaks(server: FakeServer, client: openai.OpenAI, kind: Any) -> None:
    server.add(fault(kind))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=USER)


def test_it_finds_the_server_by_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.add("ok")
    with openai.OpenAI() as client:
        assert client.chat.completions.create(model="m", messages=USER).choices[0].message.content == "ok"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node("read.mjs") as node:
        yield node


READ = [{"id": "a", "name": "f", "arguments": '{"x":1}'}, {"id": "b", "name": "g", "arguments": '{"y":2}'}]


@pytest.mark.process
@pytest.mark.parametrize("reader", ["openai", "openai stream()"])
def test_packages_of_npm(node: Node, server: FakeServer, reader: str) -> None:
    server.add(stream_of("Hel", "lo", tool_calls=[tool_call("f", x=1, id="a"), tool_call("g", y=2, id="b")]))
    read = node.ask(reader=reader, url=server.url, usage=True)
    assert read["error"] is None
    (choice,) = read["choices"]
    assert (choice["text"], choice["calls"], choice["finish_reason"]) == ("Hello", READ, "tool_calls")
    assert read["usage"] == [4, 3, 7]
    server.assert_asked("hi", streamed=True, times=1)


@pytest.mark.process
def test_an_error_as_npms_package_tells_it(node: Node, server: FakeServer) -> None:
    server.add(error(429, "slow down"))
    assert node.ask(reader="openai", url=server.url)["error"] == "429 slow down"
