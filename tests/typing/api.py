"""Read by mypy alone: the types that users of the public API see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict, assert_type

import attrs

from openai_compat import (
    APIStatusError,
    Attempt,
    BatchRun,
    BatchStatus,
    CallFuture,
    CancelToken,
    ChatRequest,
    ChatResponse,
    ChatStream,
    Client,
    Conversation,
    Dialect,
    EmbeddingResponse,
    EmbeddingResult,
    FileSummary,
    Hooks,
    MapResult,
    Message,
    Model,
    OpenAICompatError,
    ParsedResponse,
    ParsedStream,
    Probe,
    ProbeRow,
    RequestEvent,
    RetryEvent,
    SentRequest,
    StreamEvent,
    StreamInterruptedError,
    Timeout,
    TokenCount,
    ToolCall,
    Usage,
    strip_reasoning,
    tool,
)

client = Client("http://localhost:11434/v1", "key", model="m", timeout=Timeout(total=30), headers={"x": "y"})
assert_type(Client.for_provider("ollama"), Client)
assert_type(Client.from_env(), Client)

answer = client.chat("hi", model="m", temperature=0.2, stop=["x"], extra_body={"a": 1})
assert_type(answer, ChatResponse)
assert_type(answer.text, str)
assert_type(answer.reasoning, str)
assert_type(answer.finish_reason, str)
assert_type(answer.usage, Usage | None)
assert_type(answer.input_tokens, int)
assert_type(answer.tool_calls, tuple[ToolCall, ...])
assert_type(answer.to_message(), Message)
assert_type(answer.tool_calls[0].arguments, dict[str, Any] | None)

assert_type(client.chat(ChatRequest("hi"), sink=print, cancel=CancelToken(), timeout=3), ChatResponse)
assert_type(client.chat([{"role": "user", "content": "hi"}, answer.to_message()]), ChatResponse)

client.chat("hi", no_such_field=1)  # type: ignore[call-overload]
client.chat("hi", temperature="warm")  # type: ignore[call-overload]

with client.stream("hi") as stream:
    assert_type(stream, ChatStream)
    for event in stream:
        assert_type(event, StreamEvent)
        assert_type(event.delta, str)
        assert_type(event.error, OpenAICompatError | None)
        assert_type(event.tool_call, ToolCall | None)
    assert_type(stream.response, ChatResponse)
    assert_type(stream.text_stream, Iterator[str])


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


add("1", 2)  # type: ignore[arg-type]
assert_type(add(1, 2), int)
assert_type(client.run_tools("hi", tools=[add], max_iterations=3), ChatResponse)

vectors = client.embed(["a", "b"], model="m", encoding_format="float")
assert_type(vectors, EmbeddingResponse)
assert_type(vectors.dims, int)
for one in client.map_embeddings(["a", [1, 2], ("id", "b")], workers=2, journal="j.db"):
    assert_type(one, EmbeddingResult)
with client.submit_batch(["a", ("id", "b"), ChatRequest("c")], journal="j.db", poll_every=5, max_tokens=3) as batch:
    assert_type(batch, BatchRun[ChatResponse])
    assert_type(batch.status(), tuple[BatchStatus, ...])
    for result in batch:
        assert_type(result, MapResult[ChatResponse])
assert_type(client.submit_file("in.csv", "out.csv", template="{word}"), FileSummary)
client.submit_batch(["a"], workers=3)  # type: ignore[call-overload]
assert_type(client.models(), tuple[Model, ...])
assert_type(strip_reasoning("x"), str)


def handle(error: APIStatusError | StreamInterruptedError) -> None:
    assert_type(error.retryable, bool)
    assert_type(error.retry_after, float | None)
    assert_type(error.partial, ChatResponse | None)
    if isinstance(error, APIStatusError):
        assert_type(error.headers, dict[str, str])


headers: Mapping[str, str] = answer.headers


@attrs.frozen
class Person:
    name: str


class Row(TypedDict):
    id: int


class Size(Enum):
    S = "small"


schema = {"type": "object"}

typed = client.chat("hi", response_type=Person, repair=1, strict=True)
assert_type(typed, ParsedResponse[Person])
assert_type(typed.parsed, Person)
assert_type(typed.parsed.name, str)
assert_type(client.chat("hi", response_type=Row).parsed, Row)
assert_type(client.chat("hi", response_type=Size).parsed, Size)
assert_type(client.chat("hi", response_type=int).parsed, int)
assert_type(client.chat("hi", response_type=list[Person]).parsed, list[Person])
assert_type(client.chat("hi", response_type=dict[str, Person | None]).parsed, dict[str, Person | None])
assert_type(client.chat("hi", response_type=Person | Row), ParsedResponse[Any])
assert_type(client.chat("hi", response_type=Literal["yes", "no"]), ParsedResponse[Any])
assert_type(client.chat("hi", response_type=Annotated[int, "of 5"]), ParsedResponse[Any])
assert_type(client.chat("hi", response_type=schema), ParsedResponse[Any])
assert_type(client.chat("hi", response_type=None), ChatResponse)

assert_type(client.submit("hi", response_type=Person), CallFuture[ParsedResponse[Person]])
assert_type(client.submit("hi", response_type=list[Person]).result().parsed, list[Person])
assert_type(client.submit("hi", response_type=Person | Row), CallFuture[ParsedResponse[Any]])
assert_type(client.submit("hi", response_type=Literal["yes"]), CallFuture[ParsedResponse[Any]])
assert_type(client.submit("hi", response_type=schema), CallFuture[ParsedResponse[Any]])
assert_type(client.submit("hi", response_type=None), CallFuture[ChatResponse])

assert_type(client.run_tools("hi", tools=[add], response_type=Person), ParsedResponse[Person])
assert_type(client.run_tools("hi", tools=[add], response_type=list[Person], repair=1).parsed, list[Person])
assert_type(client.run_tools("hi", tools=[add], response_type=Person | Row), ParsedResponse[Any])
assert_type(client.run_tools("hi", tools=[add], response_type=Literal["yes"]), ParsedResponse[Any])
assert_type(client.run_tools("hi", tools=[add], response_type=schema), ParsedResponse[Any])
assert_type(client.run_tools("hi", tools=[add], response_type=None), ChatResponse)

with client.stream("hi", response_type=Person) as parsed:
    assert_type(parsed, ParsedStream[Person])
    for event in parsed:
        assert_type(event, StreamEvent)
        assert_type(parsed.partial, Any)
    assert_type(parsed.response, ParsedResponse[Person])
    assert_type(parsed.response.parsed, Person)
assert_type(client.stream("hi", response_type=list[Person]), ParsedStream[list[Person]])
assert_type(client.stream("hi", response_type=Person | Row), ParsedStream[Any])
assert_type(client.stream("hi", response_type=Literal["yes"]), ParsedStream[Any])
assert_type(client.stream("hi", response_type=schema), ParsedStream[Any])
assert_type(client.stream("hi", response_type=None), ChatStream)
client.stream("hi", response_type=Person, repair=1)  # type: ignore[call-overload]


conversation = client.conversation(system="Be brief.", tools=[add], temperature=0)
assert_type(conversation, Conversation)
assert_type(Conversation.load("talk.json", client), Conversation)
assert_type(Conversation.load("talk.json", client.chat), Conversation)
assert_type(conversation.say("x"), ChatResponse)
assert_type(conversation.say("x", response_type=int), ParsedResponse[int])
assert_type(conversation.messages, tuple[Message, ...])

assert_type(client.chat("hi", choice=["a", "b"], logprobs=True).choice_probabilities, Mapping[Any, float] | None)
assert_type(client.chat("hi", regex="a+", response_mode="tool").text, str)
client.chat("hi", response_mode="xml")  # type: ignore[call-overload]
assert_type(client.count_tokens("hi"), TokenCount)
assert_type(client.probe(only=["tools"]), Probe)
assert_type(client.probe().rows, tuple[ProbeRow, ...])
assert_type(client.probe()["tools"].finding, Literal["yes", "no", "ignored", "unclear", "failed", "skipped"])
Client("http://localhost:1", dialect="server.json")
Client("http://localhost:1", dialect=Dialect(tokenizer="vllm"))
assert_type(client.conversation(id="7").id, str)


def asked(event: RequestEvent) -> None:
    assert_type((event.curl(), event.call_id, event.request), tuple[str, str, SentRequest])


def again(event: RetryEvent) -> None:
    assert_type((event.attempt, event.error, event.delay), tuple[Attempt, BaseException, float])


watched = Client("http://localhost:11434/v1", on_request=asked, on_retry=[again, print], on_event=print)
assert_type(watched.hooks, Hooks)
assert_type(watched.hooks.add(on_response=lambda event: event.seconds, on_error=print), Callable[[], None])
watched.hooks.add(on_error=asked)  # type: ignore[arg-type]
