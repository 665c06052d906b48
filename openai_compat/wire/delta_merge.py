"""What comes in pieces grows: the keys of a delta beside its text and its calls.

One rule for each kind of value, at any depth:

1. Strings that are told in pieces (text, base64, signatures) are appended; any other value is replaced.
2. Objects grow key by key.
3. An entry of a list goes on with the entry of its id, unless that is of another type, else with that of its index
   and type. What has neither is an entry of its own, unless it was said before; only ``thinking_blocks`` go on with
   the last one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from .._json import as_int, as_text
from ..errors import StreamError

APPENDED = frozenset(
    {"audio_content", "data", "encrypted_content", "reasoning_opaque", "signature", "summary", "text", "thinking"}
    | {"tool_plan", "transcript"}
)
MAX_DEPTH = 8
MAX_TEXT = 64 * 1024 * 1024
"""Characters of one choice, and of any one string in it."""
MAX_ENTRIES = 100_000
"""Entries of one list: pictures, annotations, thoughts."""


class _Text:
    """A string in pieces."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0

    def take(self, piece: str, *, repeats: bool) -> None:
        if repeats and len(piece) == self.size and piece == "".join(self.pieces):
            return
        self.pieces.append(piece)
        self.size += len(piece)
        if self.size > MAX_TEXT:
            raise StreamError(f"a part of the answer is longer than {MAX_TEXT:,} characters")


class MergedObject(dict[str, Any]):
    """An object that grows; a plain one is a value as it came."""


class _Entries:
    """A list that grows."""

    __slots__ = ("_by_id", "_by_index", "_joins", "_said", "entries")

    def __init__(self, *, joins: bool) -> None:
        self.entries: list[Any] = []
        self._joins = joins
        self._by_id: dict[tuple[str, str], dict[str, Any]] = {}
        self._by_index: dict[tuple[int, str], dict[str, Any]] = {}
        self._said: set[bytes] = set()

    def take(self, item: Any, depth: int) -> None:
        if len(self.entries) >= MAX_ENTRIES:
            raise StreamError(f"a list in the answer has more than {MAX_ENTRIES:,} entries")
        if type(item) is not dict:
            self._add_new(item)
            return
        entry_id, number, kind = as_text(item.get("id")), as_int(item.get("index")), as_text(item.get("type"))
        place = None if number is None else (number, kind)
        entry = self._find(item, entry_id, place, kind)
        if entry is None:
            if not entry_id and place is None and not _grows(item):
                self._add_new(item)
                return
            entry = MergedObject()
            self.entries.append(entry)
        if entry_id:
            self._by_id[entry_id, kind] = entry
            self._by_id.setdefault((entry_id, ""), entry)
        if place is not None:
            self._by_index[place] = entry
        for key, value in item.items():
            merge_delta(entry, key, value, depth + 1)

    def _find(
        self, item: dict[str, Any], entry_id: str, place: tuple[int, str] | None, kind: str
    ) -> dict[str, Any] | None:
        if entry_id and (known := self._by_id.get((entry_id, kind)) or self._untyped(entry_id)) is not None:
            return known
        if place is not None:
            entry = self._by_index.get(place)
            if entry is None or (entry_id and entry.get("id")) or _is_another_picture(entry, item):
                return None
            return entry
        last = self.entries[-1] if self.entries and self._joins and not entry_id else None
        if type(last) is not MergedObject or last.get("type") != kind or not _grows(item):
            return None
        return None if "signature" in last and item.get("thinking") else last

    def _untyped(self, entry_id: str) -> dict[str, Any] | None:
        """The entry of an id whose type is still to come."""
        entry = self._by_id.get((entry_id, ""))
        return entry if entry is not None and not entry.get("type") else None

    def _add_new(self, item: Any) -> None:
        try:
            said = hashlib.sha256(repr(item).encode("utf-8", "replace")).digest()
        except RecursionError:
            said = b""
        if not said or said not in self._said:
            self._said.add(said)
            self.entries.append(item)


def _grows(item: dict[str, Any]) -> bool:
    return any(key in APPENDED and type(value) is str for key, value in item.items())


def _is_another_picture(entry: dict[str, Any], item: dict[str, Any]) -> bool:
    """Whether this is a picture of its own, though it has the index of another."""
    new = _url(item) if "image_url" in item else ""
    return new.startswith(("data:", "http")) and _url(merged_value(entry)) not in ("", new)


def _url(item: Any) -> str:
    image = item.get("image_url")
    return as_text(image.get("url") if type(image) is dict else image)


def merge_delta(into: dict[str, Any], key: str, value: Any, depth: int = 0) -> None:
    """Let ``into[key]`` grow by ``value``; ``plain`` makes values of it again."""
    if value is None:
        return
    node = into.get(key)
    if type(value) is str and (key in APPENDED or (key == "url" and type(node) is _Text and ":" not in value[:6])):
        if type(node) is not _Text:
            node = into[key] = _Text()
        node.take(value, repeats=key == "signature")
    elif type(value) is str and key == "url":
        into[key] = node = _Text()
        node.take(value, repeats=False)
    elif type(value) is dict and depth < MAX_DEPTH:
        if type(node) is not MergedObject:
            node = into[key] = MergedObject()
        for inner, item in value.items():
            if inner == "citation" and type(item) is dict:
                # LiteLLM: one a delta.
                inner, item = "citations", [item]
            merge_delta(node, inner, item, depth + 1)
    elif type(value) is list and depth < MAX_DEPTH:
        if type(node) is not _Entries:
            node = into[key] = _Entries(joins=key == "thinking_blocks")
        for item in value:
            node.take(item, depth + 1)
    else:
        into[key] = value


def merged_value(node: Any) -> Any:
    """What has grown, as a value of its own."""
    if type(node) is _Text:
        return "".join(node.pieces)
    if type(node) is MergedObject:
        return {key: merged_value(value) for key, value in node.items()}
    if type(node) is _Entries:
        return [merged_value(entry) for entry in node.entries]
    return node
