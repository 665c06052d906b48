"""What the data of one event says: JSON, ``[DONE]``, an error in words, a sign of life, or what nobody knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from .._json import NotJSONError, decode_event, decode_json
from .error_body import find_error

DONE = object()
"""What stands for ``[DONE]`` among the payloads; nothing follows it."""
CHECK_EVERY_LINES = 1000
"""Lines after which ``check`` is called at the latest."""

_ALIVE = re.compile(
    r"\W*(?:keep[-_ ]?alive|ping|pong|heart[-_ ]?beat|no-?op|(?:openrouter )?processing|waiting|connected)\W*",
    re.IGNORECASE,
)
_HTML = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_ERROR = re.compile(
    r"""[\[(*!#]*(?:
        (?:[a-z]+[\ _-]){0,3}(?:error|exception|failure)\b
        | [\w.]{0,100}(?:Error|Exception|Exit|Interrupt)\s?(?::|\(|\Z)
        | traceback\b | (?:HTTP\S{0,10}\s)?[45]\d\d\s[a-z]
        | bad\ gateway | gateway\ time-?out | (?:service|model|server|upstream)\b.{0,20}\bunavailable
        | too\ many\ requests | rate\ limit | unauthori[sz]ed | forbidden | upstream\ connect
    )""",
    re.IGNORECASE | re.VERBOSE,
)
TRACEBACK = re.compile(r"traceback \(", re.IGNORECASE)
_WORDS = 200
"""Characters in which words show what they are."""


@attrs.frozen
class Unreadable:
    """An event that cannot be read; ``text`` is how it begins."""

    text: str

    @classmethod
    def of(cls, text: str) -> Unreadable:
        return cls(text[:_WORDS])


def read_data(data: str, name: str, check: Callable[[], object]) -> Iterator[Any]:
    """What the data of one event says, an event named ``error`` in a shape that is found to be one."""
    if data.lstrip().startswith("[DONE]"):
        yield DONE
        return
    try:
        payload = decode_json(data)
    except NotJSONError:
        if name != "error":
            yield from _read_words(data, name, check)
            return
        payload = data
    if name == "error" and find_error(payload) is None:
        yield {"error": payload or data}
    else:
        yield from flat(payload, check)


def flat(payload: Any, check: Callable[[], object]) -> Iterator[Any]:
    """A list is a list of chunks; a string is words."""
    if type(payload) is list:
        for item in payload:
            yield from _read_words(item, "", check) if type(item) is str else (item,)
    elif type(payload) is str:
        yield from _read_words(payload, "", check)
    else:
        yield payload


def _read_words(data: str, name: str, check: Callable[[], object]) -> Iterator[Any]:
    """What data that is not JSON says: nothing, several events, an error, or what nobody knows."""
    data = data.strip()
    if not data or _is_alive(data) or _is_alive(name):
        return
    lines = data.split("\n")
    if is_error(data):
        yield {"error": lines[-1] if TRACEBACK.match(data) else data}
        return
    if len(lines) > 1:
        # Events that one newline separates, which the specification joins into one.
        yield from _one_a_line(lines, check)
        return
    values, rest = decode_event(data, check=check)
    yield from values
    if rest.startswith("[DONE]"):
        yield DONE
    elif rest:
        yield Unreadable.of(rest)


def _one_a_line(lines: list[str], check: Callable[[], object]) -> Iterator[Any]:
    """What each line says; lines in a row that say nothing that is known are one loss."""
    unread = ""
    for number, line in enumerate(map(str.strip, lines), 1):
        if number % CHECK_EVERY_LINES == 0:
            check()
        if line.startswith(("{", "[DONE]")) or is_error(line):
            found = list(read_data(line, "", check))
        else:
            found = [] if not line or _is_alive(line) else [Unreadable.of(line)]
        for payload in found:
            if type(payload) is Unreadable:
                unread = unread if len(unread) >= _WORDS else f"{unread}\n{payload.text}".strip()
                continue
            if unread:
                yield Unreadable.of(unread)
                unread = ""
            yield payload
    if unread:
        yield Unreadable.of(unread)


def _is_alive(words: str) -> bool:
    """Nothing is said but that the connection lives."""
    return words.startswith(":") or (len(words) < _WORDS and _ALIVE.fullmatch(words) is not None)


def is_error(words: str) -> bool:
    """These words are an error, or a page in place of an answer."""
    start = words[:_WORDS]
    return _ERROR.match(start) is not None or _HTML.match(start) is not None
