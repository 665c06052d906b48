"""What a strict server refuses in a request, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .._json import as_mapping, as_text
from .asked import AskedRequest


class Complaint(NamedTuple):
    """What is wrong, and which parameter it is about."""

    message: str
    param: str | None = None


def complaint(request: AskedRequest) -> Complaint | None:
    """Why OpenAI's server would answer 400; None where it would not."""
    if not request.model:
        return Complaint("you must provide a model parameter", "model")
    if request.kind == "embeddings":
        return None if request.body.get("input") else Complaint("'input' is missing or empty.", "input")
    messages = request.body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
        return Complaint("'messages' is missing, empty, or no list of objects.", "messages")
    if request.body.get("tools") == []:
        return Complaint("Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools")
    return _unanswered_call(messages)


def _unanswered_call(messages: list[Mapping[str, Any]]) -> Complaint | None:
    """Each call of an assistant's message is answered right behind it, and no other is."""
    open_calls: set[str] = set()
    for place, message in enumerate(messages):
        if message.get("role") == "tool":
            if as_text(message.get("tool_call_id")) not in open_calls:
                return Complaint(
                    "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                    f"messages.[{place}].role",
                )
            open_calls.discard(message["tool_call_id"])
        elif open_calls:
            return _missing(open_calls, place)
        else:
            open_calls = {as_text(as_mapping(call).get("id")) for call in message.get("tool_calls") or ()}
    return _missing(open_calls, len(messages)) if open_calls else None


def _missing(open_calls: set[str], place: int) -> Complaint:
    return Complaint(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"These ids have no response message: {', '.join(sorted(open_calls))}",
        f"messages.[{place}].role",
    )
