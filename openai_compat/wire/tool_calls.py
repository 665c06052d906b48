"""Tool calls put together from deltas, in every dialect.

How a delta finds its call:

1. A name with a new id, or with an index that is new, opens a call; so do a name after complete arguments, once
   arguments of its own come, and a second name in one delta.
2. What has no name opens none, unless it is the first: it goes on with the call of its id, else of its index, else
   with the last.
3. The same whole arguments said again are a repeat.

Which calls may be run:

1. Arguments that are empty or null mean ``{}`` only in an answer that is whole.
2. Anything but a JSON object is invalid. So are all calls of an answer of which something was lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from .._json import as_int, as_text
from ..errors import StreamError
from .delta_merge import MAX_TEXT
from .messages import CUSTOM, ToolCall, parse_arguments
from .response import ToolCallDelta

MAX_CALLS = 10_000
"""Calls in one answer; more are an attack."""
_STRUCTURE = re.compile(r'["\\{}\[\]]')
_CALL_KEYS = frozenset({"index", "id", "type", "function", "custom"})
_FUNCTION_KEYS = frozenset({"name", "arguments", "input"})
Opened = Literal["tool_call", "tool_call_delta"]


class _Nesting:
    """Whether a JSON object that comes in pieces has closed, at a cost linear in its length."""

    __slots__ = ("_begun", "_depth", "_escaped", "_in_string", "_seen")

    def __init__(self) -> None:
        self._begun = False
        self._depth = 0
        self._seen = 0
        self._in_string = False
        self._escaped = False

    def closed(self, pieces: list[str]) -> bool:
        """Whether the object in ``pieces`` is whole; only pieces that are new are looked at."""
        for piece in pieces[self._seen :]:
            self._feed(piece)
        self._seen = len(pieces)
        return self._begun and self._depth == 0 and not self._in_string

    def _feed(self, piece: str) -> None:
        after_escape = 0 if self._escaped else -1
        self._escaped = False
        for match in _STRUCTURE.finditer(piece):
            token, at = match[0], match.start()
            if at == after_escape:
                continue
            if token == "\\":
                after_escape = at + 1
                self._escaped = after_escape == len(piece)
            elif token == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._begun = True
                self._depth += 1 if token in "{[" else -1


class _Call:
    """One call while it grows."""

    __slots__ = (
        "announced",
        "arguments",
        "delta",
        "extra",
        "id",
        "name",
        "named_again",
        "nesting",
        "position",
        "shown_id",
        "size",
        "told_name",
        "type",
    )

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.extra: dict[str, Any] = {}
        self.announced = False
        self.delta = 0
        self.named_again = ""
        self.shown_id = ""
        self.told_name = ""
        self.size = 0
        self.type = "function"
        self.nesting = _Nesting()

    def add_name(self, piece: str) -> None:
        """A name equal to the one so far is a repeat; another goes on with it until arguments begin."""
        if piece != self.name and (not self.name or not self.arguments):
            self.name += piece

    def add_arguments(self, piece: str) -> None:
        self.arguments.append(piece)
        self.size += len(piece)
        if self.size > MAX_TEXT:
            raise StreamError(f"a tool call has more than {MAX_TEXT:,} characters of arguments")

    @property
    def complete(self) -> bool:
        """Whether the arguments are a whole JSON object."""
        return bool(self.arguments) and self.nesting.closed(self.arguments)

    def repeats(self, piece: str) -> bool:
        """Whether ``piece`` is the whole arguments, said again."""
        return len(piece) == self.size and bool(piece.strip()) and piece == "".join(self.arguments)

    @property
    def shown_name(self) -> str:
        # gpt-oss served raw: "<|channel|>commentary" leaks into the name.
        return self.name.partition("<|")[0].strip()


class ToolCallAssembler:
    """The calls of one choice."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._legacy: _Call | None = None
        self._deltas = 0
        self._early_ids: dict[int | None, str] = {}

    def __bool__(self) -> bool:
        return bool(self._calls or self._legacy)

    def feed(self, entries: Any, *, whole: bool = False) -> list[tuple[Opened, ToolCallDelta]]:
        """Take the ``tool_calls`` of a delta; of a ``whole`` message, each entry is a call of its own.

        Raises:
            StreamError: more than 10,000 calls.
        """
        progress: list[tuple[Opened, ToolCallDelta]] = []
        self._deltas += 1
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict) and (whole or not self._feed_piece(entry, progress)):
                self._feed_entry(entry, progress, fresh=whole)
        return progress

    def _feed_piece(self, entry: dict[str, Any], progress: list[tuple[Opened, ToolCallDelta]]) -> bool:
        """Take a piece of arguments under an index that is known, as nearly all deltas are; whether it is one."""
        index, function = entry.get("index"), entry.get("function")
        if len(entry) != 2 or type(index) is not int or type(function) is not dict or len(function) != 1:
            return False
        call, piece = self._by_index.get(index), function.get("arguments")
        if call is None or type(piece) is not str or not piece:
            return False
        if not call.announced or call.named_again or len(piece) == call.size:
            return False
        call.delta = self._deltas
        call.add_arguments(piece)
        progress.append(("tool_call_delta", _delta(call, piece)))
        return True

    def feed_legacy(self, entry: Any) -> None:
        """Take a ``function_call``, which older servers send in place of ``tool_calls``, or beside it."""
        if isinstance(entry, dict):
            if self._legacy is None:
                self._legacy = _Call(0)
            self._legacy.add_name(as_text(entry.get("name")))
            if piece := _arguments_piece(entry.get("arguments")):
                self._legacy.add_arguments(piece)

    def _feed_entry(self, entry: dict[str, Any], progress: list[tuple[Opened, ToolCallDelta]], *, fresh: bool) -> None:
        kind, function, piece = _kind_of(entry)
        call_id = as_text(entry.get("id"))
        index = as_int(entry.get("index"))
        name = as_text(function.get("name"))
        call = None if fresh else self._find(call_id, index, named=bool(name))
        again = name or (call.named_again if call is not None else "")
        if call is not None and call.name and (again or len(piece) == call.size) and call.complete:
            if call.repeats(piece) and (not name or (call_id and call_id == call.id)):
                return
            if again and piece.strip():
                name = again
                call = None
            elif name and name != call.name:
                call = None
            elif again and not call_id:
                # A repeated name, or a new call whose arguments are still to come: what follows will tell.
                call.named_again = again
        plain = _CALL_KEYS.issuperset(entry) and _FUNCTION_KEYS.issuperset(function)
        if call is None and not (name or fresh) and self._calls:
            if plain and not piece:
                # It announces a call that is named later, if at all.
                self._early_ids[index] = call_id
                return
            call, call_id = self._calls[-1], ""
        if call is None:
            if self._calls:
                self._announce(self._calls[-1], progress)
            call = self._open(index)
            call.type = kind
            call_id = call_id or self._early_ids.pop(index, "")
        call.delta = self._deltas
        if call_id and not call.id:
            self._identify(call, call_id)
        if name:
            call.add_name(name)
        if not plain:
            _keep_extra(call, entry, function)
        if piece:
            call.add_arguments(piece)
        if call.announced:
            if piece:
                progress.append(("tool_call_delta", _delta(call, piece)))
        elif piece and call.name:
            self._announce(call, progress)

    def announce(self) -> list[tuple[Opened, ToolCallDelta]]:
        """The events of calls that were named, and have had no arguments, now that nothing follows."""
        progress: list[tuple[Opened, ToolCallDelta]] = []
        for call in self._calls:
            self._announce(call, progress)
        return progress

    def _announce(self, call: _Call, progress: list[tuple[Opened, ToolCallDelta]]) -> None:
        """Name a call, once: a name may come in pieces, and is whole when the arguments begin."""
        if call.announced or not call.name:
            return
        call.announced = True
        call.told_name = call.shown_name
        call.shown_id = call.id or call.shown_id or self._make_id()
        progress.append(("tool_call", _delta(call, "")))
        if arguments := "".join(call.arguments):
            progress.append(("tool_call_delta", _delta(call, arguments)))

    def _find(self, call_id: str, index: int | None, *, named: bool) -> _Call | None:
        """The call that a delta goes on with; None where it opens one, or has no name and fits none."""
        last = self._calls[-1] if self._calls else None
        known = self._by_id.get(call_id) if call_id else None
        at_index = self._by_index.get(index) if index is not None else None
        if not named:
            return known or at_index or (None if call_id or index is not None else last)
        if index is not None:
            if at_index is not None and call_id and at_index.id and at_index.id != call_id:
                return known
            call = at_index
        elif known is not None:
            return known
        else:
            call = None if last is not None and call_id and last.id else last
        # Two names in one delta are two calls.
        return None if call is not None and call.delta == self._deltas and call.name else call

    def _open(self, index: int | None) -> _Call:
        if len(self._calls) >= MAX_CALLS:
            raise StreamError(f"the answer has more than {MAX_CALLS:,} tool calls")
        call = _Call(len(self._calls))
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _identify(self, call: _Call, call_id: str) -> None:
        """Give a call its id, unless another has it: a repeated id would mix up the results."""
        if call_id not in self._by_id:
            call.id = call_id
            self._by_id[call_id] = call

    def finish(self, *, whole: bool = True, lost: bool = False) -> tuple[ToolCall, ...]:
        """The calls as they stand; asking twice returns the same ids.

        Args:
            whole: the answer is not known to have been cut short.
            lost: something of the answer could not be read.
        """
        calls = self._calls or ([self._legacy] if self._legacy else [])
        return tuple(self._value(call, whole, lost) for call in calls)

    def _value(self, call: _Call, whole: bool, lost: bool) -> ToolCall:
        if not call.announced:
            call.shown_id = call.id or call.shown_id or self._make_id()
        came = "".join(call.arguments)
        arguments, text = (None, came) if call.type == CUSTOM else parse_arguments(came)
        if lost or (not whole and came.strip() in ("", "null")):
            arguments, text = None, came
        return ToolCall(
            id=call.shown_id,
            name=call.told_name or call.shown_name,
            arguments=arguments,
            arguments_json=text,
            invalid=arguments is None,
            extra=dict(call.extra),
            type=call.type,
        )


def _kind_of(entry: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """The type of a call, what names it, and a piece of its arguments, or of the text that a custom tool takes."""
    function = entry.get("function")
    if isinstance(function, dict):
        kind = as_text(entry.get("type")) or "function"
        return kind if kind != CUSTOM else "function", function, _arguments_piece(function.get("arguments"))
    custom = entry.get(CUSTOM)
    if isinstance(custom, dict):
        return CUSTOM, custom, as_text(custom.get("input"))
    return "function", {}, ""


def _delta(call: _Call, piece: str) -> ToolCallDelta:
    return ToolCallDelta(
        position=call.position, id=call.shown_id, name=call.told_name or call.shown_name, arguments=piece
    )


def _keep_extra(call: _Call, entry: dict[str, Any], function: dict[str, Any]) -> None:
    """What the server sent with a call and may want back: Gemini's signatures, for one."""
    for key, value in entry.items():
        if key not in _CALL_KEYS and value is not None:
            call.extra[key] = value
    for key, value in function.items():
        if key not in _FUNCTION_KEYS and value is not None:
            call.extra.setdefault("function", {})[key] = value


def _arguments_piece(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    # The standard library's form also takes lone surrogates.
    return json.dumps(value, separators=(",", ":"))
