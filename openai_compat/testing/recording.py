"""Exchanges as a file that people read, and see the changes of: JSON, an event of a stream a line."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigurationError

FORMAT = "openai_compat recording 1"
_KEPT = re.compile(r"content-type|retry-after(?:-ms)?|x-request-id|x-ratelimit-.*")
"""Headers of a reply that are kept."""
_EVENT_END = re.compile(rb"\r?\n\r?\n")

Piece = tuple[float, bytes]
"""Bytes of a body, and the seconds after the request at which they were there."""


@attrs.frozen(kw_only=True)
class Exchange:
    """A request and its reply, without secrets; the bytes of a body that broke off end where it did."""

    method: str
    url: str
    body: Any
    status: int = 0
    headers: Mapping[str, str] = attrs.field(factory=dict)
    pieces: tuple[Piece, ...] = ()
    broken: bool = False

    @property
    def request(self) -> dict[str, Any]:
        """What has to be the same for a replay."""
        return {"method": self.method, "url": self.url, "body": self.body}


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a reply's headers is kept."""
    return {name.lower(): value for name, value in headers.items() if _KEPT.fullmatch(name.lower())}


def save(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Write a file, whole or not at all."""
    told = ",\n".join(_indented(_as_json(exchange)) for exchange in exchanges)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}.new")
    made.write_bytes(_encoded(f'{{\n"format": {json.dumps(FORMAT)},\n"exchanges": [\n{told}\n]\n}}\n'))
    made.replace(path)


def load(path: Path) -> list[Exchange]:
    """Read a file.

    Raises:
        ConfigurationError: it is no recording.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, not {FORMAT!r}")
        return [_from_json(entry) for entry in found["exchanges"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no recording: {error!r}") from error


def events(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces of an event stream as whole events, each at the time at which it was whole."""
    found: list[Piece] = []
    pending = b""
    at = 0.0
    for at, piece in pieces:
        pending += piece
        start = 0
        for end in _EVENT_END.finditer(pending):
            found.append((at, pending[start : end.end()]))
            start = end.end()
        pending = pending[start:]
    return [*found, (at, pending)] if pending else found


def _as_json(exchange: Exchange) -> dict[str, Any]:
    reply: dict[str, Any] = {"status": exchange.status, "headers": dict(exchange.headers)}
    if "text/event-stream" in exchange.headers.get("content-type", ""):
        reply["events"] = [_event_as_json(at, data) for at, data in events(exchange.pieces)]
    elif exchange.pieces:
        reply["at"] = exchange.pieces[-1][0]
        reply.update(_body_as_json(b"".join(piece for _, piece in exchange.pieces)))
    if exchange.broken:
        reply["broken"] = True
    return {"request": exchange.request, "reply": reply}


def _body_as_json(data: bytes) -> dict[str, Any]:
    text = _text_as_json(data)
    try:
        body = json.loads(text["text"])
        _indented(body)
    except (KeyError, ValueError, RecursionError):
        return text
    return {"body": body}


def _event_as_json(at: float, data: bytes) -> dict[str, Any]:
    """An event with its data decoded, where the same bytes can be made of it again."""
    if data.startswith(b"data: {"):
        try:
            decoded = json.loads(data[6:])
        except ValueError:
            return {"at": at, **_text_as_json(data)}
        if _event_of(decoded) == data:
            return {"at": at, "data": decoded}
    return {"at": at, **_text_as_json(data)}


def _event_of(decoded: Any) -> bytes:
    return b"data: %b\n\n" % _encoded(json.dumps(decoded, ensure_ascii=False, separators=(",", ":")))


def _encoded(text: str) -> bytes:
    """JSON as bytes; half of a character that takes two, such as an emoji, stands as its escape."""
    return text.encode("utf-8", "backslashreplace")


def _text_as_json(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _from_json(entry: Mapping[str, Any]) -> Exchange:
    reply = entry["reply"]
    told = reply.get("events")
    if told is None:
        told = [reply] if reply.keys() & {"body", "text", "base64"} else []
    return Exchange(
        **entry["request"],
        status=reply["status"],
        headers=reply["headers"],
        pieces=tuple((part["at"], _bytes_of(part)) for part in told),
        broken=reply.get("broken", False),
    )


def _bytes_of(part: Mapping[str, Any]) -> bytes:
    if "data" in part:
        return _event_of(part["data"])
    if "body" in part:
        return _encoded(json.dumps(part["body"], ensure_ascii=False))
    return base64.b64decode(part["base64"]) if "base64" in part else str(part["text"]).encode()


def _indented(value: Any) -> str:
    return "\n".join(_lines(value, "", 0))


def _lines(value: Any, name: str, depth: int) -> Iterator[str]:
    """JSON in lines: what is short, or an event, stands in one."""
    margin, start = " " * depth, f"{json.dumps(name)}: " if name else ""
    whole = json.dumps(value, ensure_ascii=False)
    is_event = isinstance(value, dict) and "at" in value and "body" not in value
    if is_event or not value or not isinstance(value, (dict, list)) or len(margin + start + whole) <= 100:
        yield f"{margin}{start}{whole}"
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield f"{margin}{start}{opening}"
    items = list(value.items()) if isinstance(value, dict) else [("", item) for item in value]
    for place, (key, item) in enumerate(items):
        *inner, end = _lines(item, key, depth + 1)
        yield from inner
        yield end + ("," if place < len(items) - 1 else "")
    yield f"{margin}{closing}"
