"""Which requests are like what a test expects; where none is, how each differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..wire.messages import Message
from .asked import AskedRequest
from .differences import differences
from .script import contains, pattern_of

MOST = 5
"""Requests that are explained; the last ones."""


def explained(
    requests: Sequence[AskedRequest],
    last: str | re.Pattern[str] | None,
    tool_names: Iterable[str] | None,
    streamed: bool | None,
    fields: Mapping[str, Any],
) -> tuple[list[AskedRequest], str]:
    """The requests that match, and how the others differ."""
    tool_names = None if tool_names is None else list(tool_names)
    if "messages" in fields:
        wires = [message.to_wire() if isinstance(message, Message) else message for message in fields["messages"]]
        fields = {**fields, "messages": wires}
    told = [(request, _differences(request, last, tool_names, streamed, fields)) for request in requests]
    matching = [request for request, found in told if not found]
    lines = []
    for request, found in told[-MOST:]:
        lines.append(f"  request {request.number}: {request}")
        lines += [f"    {line}" for line in found or ["is like this"]]
    if len(told) > MOST:
        lines.insert(0, f"  {len(told) - MOST} requests before these")
    return matching, "\n".join(["; asked were:", *lines] if lines else ["; nothing was asked"])


def _differences(
    request: AskedRequest,
    last: str | re.Pattern[str] | None,
    tool_names: list[str] | None,
    streamed: bool | None,
    fields: Mapping[str, Any],
) -> list[str]:
    found = []
    if not contains(last, request.prompt):
        found.append(f"last message: {request.prompt!r}, which has nothing like {pattern_of(last)!r}")
    if tool_names is not None and list(request.tool_names) != tool_names:
        found.append(f"tools: {list(request.tool_names)}, not {tool_names}")
    if streamed not in (None, request.streamed):
        found.append(f"streamed: {request.streamed}, not {streamed}")
    for name, wanted in fields.items():
        if name not in request.body:
            found.append(f"{name}: missing, not {wanted!r}")
        else:
            found += differences({name: wanted}, {name: request.body[name]})
    return found
