"""Read by mypy alone: the types that users of the public API see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from typing_extensions import assert_type

from openai_compat import (
    APIStatusError,
    CancelToken,
    ChatRequest,
    ChatResponse,
    ChatStream,
    Client,
    EmbeddingResponse,
    Message,
    Model,
    OpenAICompatError,
    StreamEvent,
    StreamInterruptedError,
    Timeout,
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
assert_type(client.models(), tuple[Model, ...])
assert_type(strip_reasoning("x"), str)


def handle(error: APIStatusError | StreamInterruptedError) -> None:
    assert_type(error.retryable, bool)
    assert_type(error.retry_after, float | None)
    assert_type(error.partial, ChatResponse | None)
    if isinstance(error, APIStatusError):
        assert_type(error.headers, dict[str, str])


headers: Mapping[str, str] = answer.headers
