"""Models that answer, break off or fall silent, and what a browser reads of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from openai_compat import (
    Client,
)
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, tool_call

SSE = "text/event-stream; charset=utf-8"
TICK = b":\n"


@contextlib.contextmanager
def model(replies: Any, **options: Any) -> Iterator[tuple[ReplayServer, Client]]:
    options = {"model": "m", "api_key": KEY, "max_retries": 0, **options}
    with ReplayServer(replies) as server, Client(server.url, **options) as client:
        yield server, client


def events(body: Iterable[bytes]) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event, read as a browser would."""
    found = []
    for block in b"".join(body).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def then_silence(*texts: str) -> Callable[[Request], Reply]:
    """These pieces, and nothing more until the client has left."""

    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            for text in texts:
                yield chunk({"content": text})
            request.closed.wait(30)

        return Reply(headers=EVENT_STREAM, body=body())

    return reply


def no_headers(request: Request) -> Reply:
    request.closed.wait(30)
    return Reply(head=b"", abort="fin")


RICH = [
    chunk({"role": "assistant", "reasoning_content": "hm\nm"}),
    chunk({"content": 'a "b"\n\n'}),
    chunk({"tool_calls": [{"index": 0, **tool_call("f", "")}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]}),
    chunk({"tool_calls": [{"index": 1, **tool_call("g", "{}", "call_2")}]}),
    chunk({}, finish_reason="tool_calls"),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
    b"data: [DONE]\n\n",
]
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, "cached_tokens": None, "reasoning_tokens": None}


KEY = "sk-very-secret-key-48151623"
IN_THE_MIDDLE = [chunk({"content": "a"}), b'data: {"error": {"message": "' + KEY.encode() + b'", "code": 500}}\n\n']


def source_of(client: Client, kind: str) -> Any:
    return client.stream("hi") if kind == "stream" else partial(client.chat, "hi")
