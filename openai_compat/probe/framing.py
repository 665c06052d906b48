"""How a stream is framed: its lines, its events, its end; read from the bytes, as a client of any kind sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from .._json import NotJSONError, as_mapping, decode_json


@attrs.frozen(kw_only=True)
class Stream:
    """What the bytes of a stream show.

    ``deltas`` is how many events hold text, ``call_parts`` how many hold a piece of a call's arguments; times are
    seconds since the request.
    """

    events: int = 0
    deltas: int = 0
    call_parts: int = 0
    called: bool = False
    framing: str = ""
    usage: Mapping[str, Any] | None = None
    usage_place: str = ""
    first_text: float | None = None
    last: float = 0.0


def read_stream(pieces: Iterable[tuple[float, bytes]], content_type: str = "") -> Stream:
    """Read the pieces of a body, each with its time; a body that is no event stream has no events."""
    pieces = list(pieces)
    body = b"".join(piece for _, piece in pieces)
    events = deltas = call_parts = comments = 0
    called = done = False
    usage: Mapping[str, Any] | None = None
    place = ""
    first: float | None = None
    last_choice = ""
    at = 0
    for line in body.splitlines(keepends=True):
        at += len(line)
        field, _, value = line.strip().partition(b":")
        comments += line.startswith(b":")
        if field != b"data":
            continue
        if value.strip() == b"[DONE]":
            done = True
            continue
        try:
            event = decode_json(value.strip())
        except NotJSONError:
            continue
        if not isinstance(event, dict):
            continue
        events += 1
        choices = event.get("choices")
        delta: Any = {}
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            delta = choices[0].get("delta") or {}
            last_choice = "with the last choice"
        if isinstance(event.get("usage"), dict):
            usage, place = event["usage"], "in an event of its own" if not choices else last_choice
        if not isinstance(delta, dict):
            continue
        deltas += bool(delta.get("content"))
        listed = delta.get("tool_calls")
        calls = [call for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
        called = called or bool(calls)
        call_parts += sum(bool(as_mapping(call.get("function")).get("arguments")) for call in calls)
        if first is None and (delta.get("content") or calls or any("reason" in key and delta[key] for key in delta)):
            first = _when(pieces, at)
    return Stream(
        events=events,
        deltas=deltas,
        call_parts=call_parts,
        called=called,
        framing=_framing(body, pieces, content_type, done=done, comments=comments) if events else "",
        usage=usage,
        usage_place=place,
        first_text=first,
        last=pieces[-1][0] if pieces else 0.0,
    )


def _framing(body: bytes, pieces: list[tuple[float, bytes]], content_type: str, *, done: bool, comments: int) -> str:
    ends = [name for name, end in (("CRLF", b"\r\n"), ("LF", b"\n"), ("CR", b"\r")) if end in body]
    # What has CRLF has the other two as well.
    said = ["lines end in " + ("CRLF" if "CRLF" in ends else " and ".join(ends))]
    said.append("[DONE]" if done else "no [DONE]")
    sizes = sorted(len(piece) for _, piece in pieces)
    said.append(f"{len(sizes)} reads of {sizes[0]} to {sizes[-1]} bytes" if len(sizes) > 1 else "one read")
    if comments:
        said.append(f"{comments} comments")
    if not content_type.startswith("text/event-stream"):
        said.append(content_type or "no content type")
    return ", ".join(said)


def _when(pieces: list[tuple[float, bytes]], position: int) -> float:
    """When the byte at a position had come."""
    for when, piece in pieces:
        position -= len(piece)
        if position <= 0:
            return when
    return pieces[-1][0]
