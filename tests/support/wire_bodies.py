"""Bodies that a well-behaved server would send, for tests that are about something else."""

from __future__ import annotations

import json
from typing import Any

from support.replay import EVENT_STREAM, JSON, Reply


def chat_body(text: str | None = "ok", *, finish_reason: str | None = "stop", **message: Any) -> bytes:
    """A chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return json.dumps({"id": "c", "model": "m-served", "choices": [choice], "usage": usage}).encode()


def chat_reply(text: str | None = "ok", **message: Any) -> Reply:
    """A chat completion as a reply."""
    return Reply(headers=JSON, body=chat_body(text, **message))


def chunk(delta: dict[str, Any] | None = None, *, finish_reason: str | None = None, **fields: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "c", "model": "m-served", "choices": [choice], **fields}).encode() + b"\n\n"


def stream_pieces(*texts: str, finish_reason: str | None = "stop", done: bool = True) -> list[bytes]:
    """The events of a chat stream with these texts."""
    pieces = [chunk({"content": text}) for text in texts]
    if finish_reason:
        pieces.append(chunk({}, finish_reason=finish_reason))
    if done:
        pieces.append(b"data: [DONE]\n\n")
    return pieces


def stream_reply(*texts: str, **options: Any) -> Reply:
    """A chat stream as a reply, one event a chunk."""
    return Reply(headers=EVENT_STREAM, body=stream_pieces(*texts, **options))


def error_reply(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Reply:
    """An error in OpenAI's shape."""
    body = json.dumps({"error": {"message": message, **error}}).encode()
    return Reply(status=status, headers={**JSON, **(headers or {})}, body=body)


def tool_call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """An entry of ``tool_calls``."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
