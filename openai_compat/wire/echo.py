"""A history as the server that it goes to wants its own answers back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from .messages import Message


@attrs.frozen(kw_only=True)
class Echo:
    """What a server wants back of its own answers, beside the fields that it sent with them.

    Args:
        field: where the reasoning of a message with calls goes back, an empty string where there was none.
        whole_turn: also of the other messages of a turn in which tools were called.
        inline: reasoning that came within the content of a message with calls goes back there, in ``<think>`` tags, or
            as a part of type ``thinking``.
    """

    field: str = ""
    whole_turn: bool = False
    inline: Literal["", "tags", "parts"] = ""


NO_ECHO = Echo()
_IN_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks", "reasoning_text")
"""Where reasoning stands that did not come within the content."""


def echoed(messages: Iterable[Message | Mapping[str, Any]], origin: str | None, echo: Echo) -> list[dict[str, Any]]:
    """The wire dicts of a history.

    Args:
        origin: the server that they go to; what another one told is not told to it.
    """
    given = list(messages)
    wires = [wire_of(message, origin) for message in given]
    in_turn = _in_tool_turns(wires) if echo.whole_turn else [False] * len(wires)
    for message, wire, whole in zip(given, wires, in_turn, strict=True):
        if wire.get("role") == "assistant" and (wire.get("tool_calls") or whole):
            thought = message.reasoning if isinstance(message, Message) and message.at_home(origin) else ""
            _tell(wire, thought, echo)
    return wires


def wire_of(message: Message | Mapping[str, Any], origin: str | None) -> dict[str, Any]:
    """One message; calls have a ``content`` beside them, which servers want, if only null."""
    if isinstance(message, Message):
        return message.to_wire(origin)
    wire = dict(message)
    if wire.get("tool_calls") and "content" not in wire:
        wire["content"] = None
    return wire


def _tell(wire: dict[str, Any], thought: str, echo: Echo) -> None:
    if echo.field:
        if wire.get(echo.field) is None:
            wire[echo.field] = thought
        return
    if not thought or not echo.inline or any(wire.get(key) for key in _IN_FIELDS):
        return
    content = wire.get("content")
    if echo.inline == "tags":
        thought = f"<think>\n{thought}\n</think>\n\n"
        part: dict[str, Any] = {"type": "text", "text": thought}
    else:
        part = {"type": "thinking", "thinking": [{"type": "text", "text": thought}]}
    if isinstance(content, list):
        wire["content"] = [part, *content]
    elif echo.inline == "tags":
        wire["content"] = thought + (content or "")
    else:
        wire["content"] = [part, {"type": "text", "text": content}] if content else [part]


def _in_tool_turns(wires: list[dict[str, Any]]) -> list[bool]:
    """Of each message, whether tools are called in its turn, which goes from what a user says to the next.

    A user message with parts right after a tool's result shows the tool's pictures, and begins no turn.
    """
    turns: list[int] = []
    called: set[int] = set()
    turn = 0
    for at, wire in enumerate(wires):
        shows = at > 0 and wires[at - 1].get("role") == "tool" and not isinstance(wire.get("content"), str)
        if wire.get("role") == "user" and not shows:
            turn += 1
        if wire.get("tool_calls"):
            called.add(turn)
        turns.append(turn)
    return [turn in called for turn in turns]
