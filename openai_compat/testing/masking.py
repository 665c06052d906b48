"""Secrets in the events of a stream, also those that are spread over several."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

Mask = Callable[[str], str]

_EVENT = re.compile(rb"data: ?(\{.*\})(\r?\n\r?\n)?", re.DOTALL)


class _Text(NamedTuple):
    """A piece of a streamed text, and where it stands: in the dict or list of which event, under which key."""

    event: int
    holder: Any
    key: Any


def masked_events(events: Sequence[bytes], mask: Mask) -> list[bytes]:
    """The same events, with what ``mask`` changes in a text that they have together changed in them."""
    decoded = [_decoded(event) for event in events]
    texts: defaultdict[tuple[object, ...], list[_Text]] = defaultdict(list)
    for place, payload in enumerate(decoded):
        for path, holder, key in _strings(_deltas(payload), ()):
            texts[path].append(_Text(place, holder, key))
    changed = {place for pieces in texts.values() for place in _mask_together(pieces, mask)}
    return [_encoded(event, decoded[at]) if at in changed else event for at, event in enumerate(events)]


def _mask_together(pieces: Sequence[_Text], mask: Mask) -> Iterator[int]:
    """Mask a text in its pieces: what is masked stands where it begins. The events that this changes."""
    text = "".join(piece.holder[piece.key] for piece in pieces)
    masked = mask(text)
    if masked == text:
        return
    begin = _alike(text, masked)
    end = len(text) - _alike(text[begin:][::-1], masked[begin:][::-1])
    instead = masked[begin : len(masked) - (len(text) - end)]
    at = 0
    for piece in pieces:
        said = piece.holder[piece.key]
        start, stop = max(begin - at, 0), max(end - at, 0)
        if start < len(said) and stop > 0:
            piece.holder[piece.key] = said[:start] + instead + said[stop:]
            instead = ""
            yield piece.event
        at += len(said)


def _alike(one: str, other: str) -> int:
    """How many characters are the same at the beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _decoded(event: bytes) -> Any:
    found = _EVENT.fullmatch(event)
    try:
        return None if found is None else json.loads(found[1])
    except (ValueError, RecursionError):
        return None


def _encoded(event: bytes, payload: Any) -> bytes:
    said = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    found = _EVENT.fullmatch(event)
    end = b"" if found is None else found[2] or b""
    return b"data: %b%b" % (said.encode("utf-8", "backslashreplace"), end)


def _deltas(payload: Any) -> Any:
    choices = payload.get("choices") if isinstance(payload, dict) else None
    return choices if isinstance(choices, list) else []


def _strings(value: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], Any, Any]]:
    """Each string within, with its path; members of a list are told apart by their ``index``."""
    if isinstance(value, dict):
        items: Any = [(key, key, item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(at, item.get("index", at) if isinstance(item, dict) else at, item) for at, item in enumerate(value)]
    else:
        return
    for key, name, item in items:
        if isinstance(item, str):
            yield (*path, name), value, key
        else:
            yield from _strings(item, (*path, name if isinstance(name, (str, int)) else repr(name)))
