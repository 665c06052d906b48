"""The formats of a streamed answer: each turns the events of a stream into the bytes of a response body."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .._json import encode_json
from ..wire.response import UNKNOWN, ChatResponse, Choice, StreamEvent, ToolCallDelta
from .public_error import PublicError

if TYPE_CHECKING:
    from ..wire.messages import ToolCall, Usage

Format = Literal["sse", "text", "openai"]

RETRY_MS = 24 * 60 * 60 * 1000
"""After how long a browser that did not close its ``EventSource`` reconnects."""
MAX_CHOICES = 128
"""The largest ``n`` that OpenAI's API accepts."""


class Encoder(Protocol):
    """Encodes the events of one stream.

    ``preamble`` comes before everything else, and ``heartbeat`` where nothing was sent for a while; no empty line ends
    them, which ``@microsoft/fetch-event-source`` would take for a message. An encoder is made with ``defer_tool_calls``
    (send only the calls of the whole answer, for those before it are answered by the server's own tools) and
    ``include_usage``, which only OpenAI's format heeds.
    """

    content_type: str
    preamble: bytes
    heartbeat: bytes

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes of an event; empty where the browser does not get it."""

    def encode_error(self, error: PublicError) -> bytes:
        """The last bytes of a stream that failed."""


class SSEEncoder:
    """Server-sent events with names of their own, for an ``EventSource``."""

    content_type = "text/event-stream; charset=utf-8"
    preamble: bytes = b"retry: %d\nid: 0\n" % RETRY_MS
    heartbeat = b":\n"

    def __init__(self, *, defer_tool_calls: bool = False, include_usage: bool = False) -> None:
        self._id = 0

    def encode(self, event: StreamEvent) -> bytes:
        kind: str = event.kind
        if kind == "text" and not event.index:
            # A shortcut for nearly all events.
            self._id += 1
            return b'event: text\nid: %d\ndata: {"delta":%b}\n\n' % (self._id, _json(event.data))
        if kind in ("text", "reasoning", "refusal"):
            fields = {"delta": event.data}
        elif kind == "tool_call_done":
            kind = "tool_call"
            fields = _tool_call_fields(event.data)
        elif kind == "usage":
            fields = _usage_fields(event.data)
        elif kind == "done":
            fields = _done_fields(event.data)
        else:
            return b""
        if event.index:
            fields["choice"] = event.index
        return self._event(kind, fields)

    def encode_error(self, error: PublicError) -> bytes:
        return self._event("error", error.to_wire()["error"])

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._id += 1
        return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), self._id, _json(fields))


def _tool_call_fields(call: ToolCall) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return {**fields, "invalid": True, "arguments_json": call.arguments_json} if call.invalid else fields


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _done_fields(response: ChatResponse) -> dict[str, Any]:
    return {
        "finish_reason": response.finish_reason,
        "model": public_model(response.model),
        "usage": None if response.usage is None else _usage_fields(response.usage),
        "truncated": response.truncated,
    }


def public_model(name: str) -> str:
    """What a visitor may know of a model's name: where it is a path on the server, as of llama.cpp, its last part."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if _PATH.search(name) else name


_PATH = re.compile(
    r"^(?:[/\\~.]|[a-z]:[/\\]|file:|[a-z][a-z0-9+.-]+://)"
    r"|[/\\].*\.(?:gguf|ggml|llamafile|safetensors|bin|onnx|pth?)$",
    re.IGNORECASE,
)


def error_stream(error: PublicError) -> bytes:
    """A whole stream of server-sent events, which tells of an error."""
    return SSEEncoder.preamble + SSEEncoder().encode_error(error)


class TextEncoder:
    """The text of the first choice, and nothing else."""

    content_type = "text/plain; charset=utf-8"
    preamble = b""
    # Sends the headers, and nothing more.
    heartbeat = b""

    def __init__(self, *, defer_tool_calls: bool = False, include_usage: bool = False) -> None:
        self._started = False

    def encode(self, event: StreamEvent) -> bytes:
        text = event.delta or event.refusal
        self._started = self._started or bool(text)
        return text.encode("utf-8", "replace")

    def encode_error(self, error: PublicError) -> bytes:
        return b"%b[%b]\n" % (b"\n\n" if self._started else b"", error.message.encode())


class OpenAIEncoder:
    """The chunks of OpenAI's own format, which end with ``[DONE]``."""

    content_type = "text/event-stream; charset=utf-8"
    # Neither "id" nor "retry": after either, OpenAI's own decoder takes every blank line for an event.
    preamble = b""
    heartbeat = b":\n"

    def __init__(self, *, defer_tool_calls: bool = False, include_usage: bool = False) -> None:
        self._head: dict[str, Any] = {}
        self._defer_tool_calls = defer_tool_calls
        self._include_usage = include_usage
        self._started: set[int] = set()
        self._announced: dict[int, int] = {}
        self._deferred: set[int] = set()
        self._held: dict[tuple[int, int], str] = {}

    def encode(self, event: StreamEvent) -> bytes:
        kind = event.kind
        if not self._head:
            self._start(event)
        if kind == "text":
            return self._delta(event.index, {"content": event.data})
        if kind == "reasoning":
            return self._delta(event.index, {"reasoning_content": event.data})
        if kind == "refusal":
            return self._delta(event.index, {"refusal": event.data})
        if kind == "tool_call_delta" and not self._defer_tool_calls:
            return self._tool_call_delta(event.index, event.data)
        return self._end(event.data) if kind == "done" else b""

    def encode_error(self, error: PublicError) -> bytes:
        return b"data: %b\n\n" % _json(error.to_wire())

    def _start(self, event: StreamEvent) -> None:
        self._head = {
            "id": f"chatcmpl-{event.call.call_id or os.urandom(12).hex()}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": public_model(event.call.model or (event.data.model if event.kind == "done" else "")),
        }
        if self._include_usage:
            self._head["usage"] = None

    def _tool_call_delta(self, index: int, piece: ToolCallDelta) -> bytes:
        """A call whose id and name are final is streamed; any other, and those after it, wait for the end.

        Clients append whatever comes, but a name may grow until the arguments begin, an id may come late or be made up,
        and arguments that are no object become one.
        """
        announced = self._announced.get(index, 0)
        place = index, piece.position
        if piece.position < announced:
            arguments = self._unheld(place, piece.arguments) if place in self._held else piece.arguments
            return b"" if place in self._held else self._tool_call(*place, function={"arguments": arguments})
        ready = piece.position == announced and piece.id and piece.name and piece.arguments.lstrip().startswith("{")
        if index in self._deferred or not ready:
            self._deferred.add(index)
            return b""
        return self._announce(index, piece.id, piece.name, self._unheld(place, piece.arguments))

    def _unheld(self, place: tuple[int, int], arguments: str) -> str:
        """What may be sent of the beginning of arguments: an empty object waits, for some servers begin with one, and
        then send the real one."""
        arguments = self._held.pop(place, "") + arguments
        if arguments in ("{", "{}"):
            self._held[place] = arguments
            return ""
        return arguments.removeprefix("{}") if arguments.startswith("{}{") else arguments

    def _announce(self, index: int, call_id: str, name: str, arguments: str) -> bytes:
        position = self._announced.get(index, 0)
        self._announced[index] = position + 1
        function = {"name": name, "arguments": arguments}
        return self._tool_call(index, position, id=call_id, type="function", function=function)

    def _tool_call(self, index: int, position: int, **fields: Any) -> bytes:
        return self._delta(index, {"tool_calls": [{"index": position, **fields}]})

    def _delta(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        opened = b""
        if index not in self._started:
            self._started.add(index)
            delta = {"role": "assistant", **delta}
            # Clients keep choices in a list, and append a new one whatever its index.
            missing = [lower for lower in range(min(index, MAX_CHOICES)) if lower not in self._started]
            opened = b"".join(self._delta(lower, {}) for lower in missing)
        return opened + self._chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish_reason}])

    def _end(self, response: ChatResponse) -> bytes:
        end = b""
        for place, arguments in self._held.items():
            end += self._tool_call(*place, function={"arguments": arguments})
        for choice in response.choices:
            for call in choice.tool_calls[self._announced.get(choice.index, 0) :]:
                end += self._announce(choice.index, call.id, call.name, call.arguments_json)
            if not response.truncated:
                end += self._delta(choice.index, {}, _finish_reason(choice))
        if self._include_usage and response.usage is not None:
            end += self._chunk(choices=[], usage=_openai_usage(response.usage))
        # A client of this format tells by their absence that the answer is cut short.
        return end if response.truncated else end + b"data: [DONE]\n\n"

    def _chunk(self, **fields: Any) -> bytes:
        return b"data: %b\n\n" % _json({**self._head, **fields})


def _finish_reason(choice: Choice) -> str:
    """Never empty: without one, clients of this format take a whole answer for a broken one."""
    if choice.finish_reason != UNKNOWN:
        return choice.finish_reason
    return "tool_calls" if choice.tool_calls else "stop"


def _openai_usage(usage: Usage) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens or 0,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total_tokens or 0,
    }
    if usage.cached_tokens is not None:
        wire["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        wire["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return wire


ENCODERS: Mapping[str, Callable[..., Encoder]] = {
    "sse": SSEEncoder,
    "text": TextEncoder,
    "openai": OpenAIEncoder,
}


def _json(fields: dict[str, Any] | str) -> bytes:
    try:
        return encode_json(fields)
    except UnicodeError:
        # Half of a surrogate pair, whose other half comes with the next piece: the browser joins them.
        return json.dumps(fields, separators=(",", ":")).encode()
