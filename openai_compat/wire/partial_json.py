"""One JSON value, read out of a text that is still being written.

The reader's contract:

1. Any split of a text into pieces gives the same value.
2. What ``value`` shows stays true: it only grows, except that a text which turns out to be no JSON is given up.
3. Reading costs time linear in the length of the text, however it is cut and however deep it is nested.

By hand for the third: jiter and its like parse the text from its start again with every piece.
"""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any

from ..errors import ConfigurationError

_INK = re.compile(r"[^ \t\n\r]")
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = {"true": True, "false": False, "null": None}
# Bounded, because the engine keeps memory for each turn of a loop.
_CHARACTERS = re.compile(r'(?:[^"\\]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})){1,1000}')
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_decode_string = json.JSONDecoder(strict=False).decode


class _State(Enum):
    SEEK = auto()  # in the words before the value
    FIRST = auto()  # after an opening bracket
    KEY = auto()  # after the comma of an object
    IN_KEY = auto()
    COLON = auto()  # after a key
    VALUE = auto()  # after a colon, or the comma of an array
    IN_STRING = auto()
    IN_WORD = auto()  # a number, true, false or null
    AFTER = auto()  # after a value
    COMPLETE = auto()


class PartialJSON:
    """Reads one JSON object or array from pieces of text, and shows at any time what of it has come.

    What stands before the first bracket is skipped: words, a code fence. Where the text from a bracket on turns out to
    be no JSON, as in ``see [note]: {"a": 1}``, it is given up, and the next bracket is tried, beginning with the
    character that did not fit. After the value's last bracket everything is ignored.

    Values are those of ``json.loads``, with these differences: raw control characters may stand in strings; NaN and
    Infinity are no JSON; an integer of more digits than Python converts (4300) is a float, mostly ``inf``; and half of
    a surrogate pair is U+FFFD.

    Args:
        opens: the brackets that may begin the value: ``"{["``, ``"{"`` for an object only, or ``"["``.

    Raises:
        ConfigurationError: ``opens`` is anything else.
    """

    __slots__ = ("_half", "_held", "_key", "_opener", "_parts", "_stack", "_state", "_value")

    def __init__(self, opens: str = "{[") -> None:
        if opens not in ("{[", "[{", "{", "["):
            raise ConfigurationError(f"opens must be '{{[', '{{' or '[', not {opens!r}")
        self._opener = re.compile(f"[{re.escape(opens)}]")
        self._state = _State.SEEK
        self._value: dict[str, Any] | list[Any] | None = None
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._key = ""
        self._parts: list[str] = []
        self._half = ""
        self._held = ""

    @property
    def value(self) -> dict[str, Any] | list[Any] | None:
        """The value so far; None before it begins, and again once it has been given up.

        Strings hold the characters that have come, escapes only when whole. Numbers, true, false and null are there
        once the text after them shows that they are complete; a key once its value has begun.

        Every reading returns the same object, which goes on growing: copy it to keep it, and do not change it. A
        reading costs what has come since the last one, as long as nobody else holds the string that is growing.
        """
        self._grow()
        return self._value

    @property
    def complete(self) -> bool:
        """Whether the value's last bracket has come."""
        return self._state is _State.COMPLETE

    def feed(self, piece: str) -> None:
        """Take the next piece of the text, of any length. Never raises, whatever the text."""
        text = self._held + piece
        self._held = ""
        at = 0
        while at < len(text):
            at = self._read(text, at)

    def _read(self, text: str, at: int) -> int:
        """Take one step from ``at``; where it ends comes back."""
        state = self._state
        if state is _State.IN_STRING or state is _State.IN_KEY:
            return self._read_string(text, at)
        if state is _State.IN_WORD:
            return self._read_word(text, at)
        if state is _State.COMPLETE:
            return len(text)
        found = (self._opener if state is _State.SEEK else _INK).search(text, at)
        if found is None:
            return len(text)
        return self._read_mark(found[0], found.start())

    def _read_mark(self, mark: str, at: int) -> int:
        """Read the one character at ``at``, which stands outside of strings and words."""
        state = self._state
        in_object = bool(self._stack) and isinstance(self._stack[-1], dict)
        if state in (_State.FIRST, _State.AFTER) and mark == ("}" if in_object else "]"):
            self._stack.pop()
            self._state = _State.AFTER if self._stack else _State.COMPLETE
        elif state is _State.AFTER and mark == ",":
            self._state = _State.KEY if in_object else _State.VALUE
        elif state is _State.COLON and mark == ":":
            self._state = _State.VALUE
        elif in_object and state in (_State.FIRST, _State.KEY) and mark == '"':
            self._state = _State.IN_KEY
        elif state in (_State.SEEK, _State.VALUE) or (state is _State.FIRST and not in_object):
            return self._begin(mark, at)
        else:
            return self._give_up(at)
        return at + 1

    def _begin(self, mark: str, at: int) -> int:
        """Begin a value with the character at ``at``."""
        if mark in "{[":
            self._open({} if mark == "{" else [])
        elif mark == '"':
            self._put("")
            self._state = _State.IN_STRING
        else:
            self._state = _State.IN_WORD
            return at
        return at + 1

    def _read_word(self, text: str, at: int) -> int:
        end = _end(_WORD, text, at)
        self._parts.append(text[at:end])
        if end == len(text):
            return end
        word = self._take_parts()
        if word in _CONSTANTS:
            self._put(_CONSTANTS[word])
        elif _NUMBER.fullmatch(word):
            self._put(_number(word))
        else:
            return self._give_up(end)
        self._state = _State.AFTER
        return end

    def _read_string(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._end_string()
            return at + 1
        end = _end(_CHARACTERS, text, at)
        if end > at:
            self._add(text[at:end])
            return end
        if _CUT_ESCAPE.fullmatch(text, at):
            self._held = text[at:]
            return len(text)
        return self._give_up(at)

    def _add(self, characters: str) -> None:
        """Add to the string; half of a surrogate pair waits for what follows it."""
        if "\\" in characters:
            characters = _decode_string(f'"{characters}"')
        characters = self._half + characters
        self._half = characters[-1] if "\ud800" <= characters[-1] <= "\udbff" else ""
        self._parts.append(_mend(characters.removesuffix(self._half)))

    def _end_string(self) -> None:
        self._parts.append(_mend(self._half))
        self._half = ""
        if self._state is _State.IN_KEY:
            self._key = self._take_parts()
            self._state = _State.COLON
        else:
            self._grow()
            self._state = _State.AFTER

    def _open(self, container: dict[str, Any] | list[Any]) -> None:
        if self._stack:
            self._put(container)
        else:
            self._value = container
        self._stack.append(container)
        self._state = _State.FIRST

    def _put(self, value: Any) -> None:
        """Put a value where the innermost container expects one."""
        inside = self._stack[-1]
        if isinstance(inside, dict):
            inside[self._key] = value
        else:
            inside.append(value)

    def _grow(self) -> None:
        """Show the new characters of an unfinished string value."""
        if self._state is not _State.IN_STRING or not self._parts:
            return
        inside: Any = self._stack[-1]
        slot = self._key if isinstance(inside, dict) else -1
        text = inside[slot]
        # CPython appends in place, instead of copying, to a local variable that alone holds its string.
        inside[slot] = ""
        text += self._take_parts()
        inside[slot] = text

    def _take_parts(self) -> str:
        parts, self._parts = self._parts, []
        return "".join(parts)

    def _give_up(self, at: int) -> int:
        """What was begun is no JSON; look for another beginning from ``at`` on."""
        self._value = None
        self._stack = []
        self._parts = []
        self._half = ""
        self._state = _State.SEEK
        return at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where the pattern's match at ``at`` ends; ``at`` where there is none."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _number(word: str) -> int | float:
    """An integer where it is one, of no more digits than Python converts."""
    try:
        return int(word)
    except ValueError:
        return float(word)


def _mend(text: str) -> str:
    """Join the surrogate pairs; the halves that are left become U+FFFD."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
