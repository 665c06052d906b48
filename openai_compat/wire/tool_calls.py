"""Tool calls put together from deltas, in every dialect.

How a delta finds its call:

1. An id that is new opens a call; an id that is known continues its call.
2. Without one, the index names the call; without either, the last call goes on.
3. A named delta after complete arguments opens a call, once arguments of its own come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from .decode import as_int, as_text
from .messages import ToolCall, parse_arguments
from .response import ToolCallDelta

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_CALL_KEYS = frozenset({"index", "id", "type", "function"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})
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

    __slots__ = ("announced", "arguments", "extra", "id", "name", "named_again", "nesting", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.extra: dict[str, Any] = {}
        self.announced = False
        self.named_again = ""
        self.nesting = _Nesting()

    def add_name(self, piece: str) -> None:
        """A name equal to the one so far is a repeat; another goes on with it until arguments begin."""
        if piece != self.name and (not self.name or not self.arguments):
            self.name += piece

    @property
    def complete(self) -> bool:
        """Whether the arguments are a whole JSON object."""
        return bool(self.arguments) and self.nesting.closed(self.arguments)


class ToolCallAssembler:
    """The calls of one choice."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._legacy: _Call | None = None
        self._made: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._calls or self._legacy)

    def feed(self, entries: Any, *, whole: bool = False) -> list[tuple[Opened, ToolCallDelta]]:
        """Take the ``tool_calls`` of a delta; of a ``whole`` message, each entry is a call of its own."""
        progress: list[tuple[Opened, ToolCallDelta]] = []
        for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            if isinstance(entry, dict):
                self._feed_entry(entry, progress, fresh=whole, among_others=position > 0)
        return progress

    def feed_legacy(self, entry: Any) -> None:
        """Take a ``function_call``, which older servers send in place of ``tool_calls``, or beside it."""
        if isinstance(entry, dict):
            if self._legacy is None:
                self._legacy = _Call(0)
            self._legacy.add_name(as_text(entry.get("name")))
            if piece := _arguments_piece(entry.get("arguments")):
                self._legacy.arguments.append(piece)

    def _feed_entry(
        self, entry: dict[str, Any], progress: list[tuple[Opened, ToolCallDelta]], *, fresh: bool, among_others: bool
    ) -> None:
        raw_function = entry.get("function")
        function = raw_function if isinstance(raw_function, dict) else {}
        call_id = as_text(entry.get("id"))
        index = as_int(entry.get("index"))
        name = as_text(function.get("name"))
        piece = _arguments_piece(function.get("arguments"))
        call = None if fresh else self._find(call_id, index, opens=among_others and bool(name))
        if call is not None and (name or call.named_again) and call.complete:
            if piece.strip():
                if call_id and call_id == call.id and piece == "".join(call.arguments):
                    return  # the whole call, said again
                name = name or call.named_again
                call = None
            elif name and name != call.name:
                call = None
            elif not call_id:
                # A repeated name, or a new call whose arguments are still to come: what follows will tell.
                call.named_again = name or call.named_again
        if call is None:
            call = self._open(index)
        if call_id and not call.id:
            self._identify(call, call_id)
        if name:
            call.add_name(name)
        if not (_CALL_KEYS.issuperset(entry) and _FUNCTION_KEYS.issuperset(function)):
            _keep_extra(call, entry, function)
        if piece:
            call.arguments.append(piece)
        if call.name and not call.announced:
            call.announced = True
            progress.append(("tool_call", ToolCallDelta(position=call.position, id=call.id, name=call.name)))
            piece = "".join(call.arguments)
        if piece and call.announced:
            delta = ToolCallDelta(position=call.position, id=call.id, name=call.name, arguments=piece)
            progress.append(("tool_call_delta", delta))

    def _find(self, call_id: str, index: int | None, *, opens: bool) -> _Call | None:
        """The call that a delta goes on with; None where it opens one."""
        if index is not None:
            call = self._by_index.get(index)
            if call is None or not call_id or not call.id or call.id == call_id:
                return call
            return self._by_id.get(call_id)
        if call_id and call_id in self._by_id:
            return self._by_id[call_id]
        last = self._calls[-1] if self._calls else None
        if opens or (last is not None and call_id and last.id):
            return None
        return last

    def _open(self, index: int | None) -> _Call:
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

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls as they stand; asking twice gives the same ids."""
        calls = self._calls or ([self._legacy] if self._legacy else [])
        return tuple(self._value(call) for call in calls)

    def _value(self, call: _Call) -> ToolCall:
        if not call.id and call.position not in self._made:
            self._made[call.position] = self._make_id()
        arguments, text = parse_arguments("".join(call.arguments))
        return ToolCall(
            id=call.id or self._made[call.position],
            # gpt-oss served raw: "<|channel|>commentary" leaks into the name.
            name=call.name.partition("<|")[0].strip(),
            arguments=arguments,
            arguments_json=text,
            invalid=arguments is None,
            extra=dict(call.extra),
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
    if isinstance(value, str):
        return value
    # The standard library's form also takes lone surrogates.
    return json.dumps(value, separators=(",", ":")) if isinstance(value, (dict, list)) else ""
