"""The script of a fake server: which reply answers which request."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import attrs

from .answers import Answer
from .asked import AskedRequest, Kind
from .builders import answer
from .replies import Fault, RawReply, Vectors

Reply = Answer | RawReply | Vectors | Fault
Scripted = Any
"""A reply, a function from the request to one, or what ``answer`` makes one of: text, or a value to send as JSON."""
Fits = Callable[[AskedRequest], object]


def as_reply(value: Scripted) -> Reply:
    """What a test gives as a reply, as one."""
    return value if isinstance(value, (Answer, RawReply, Vectors, Fault)) else answer(value)


def as_reply_or_function(value: Scripted) -> Reply | Callable[[AskedRequest], Scripted]:
    """The same, but for a function from the request to a reply."""
    function: Callable[[AskedRequest], Scripted] = value
    return function if callable(value) and not isinstance(value, type) else as_reply(value)


@attrs.define
class Rule:
    """A scripted reply, or a function that makes one, and the requests that it is for."""

    reply: Reply | Callable[[AskedRequest], Scripted]
    kind: Kind | None
    model: str | None
    last: str | re.Pattern[str] | None
    when: Fits | None
    left: int | None
    used: int = 0

    def fits(self, request: AskedRequest) -> bool:
        """Whether it answers this request."""
        if self.left == 0 or self.mismatches(request):
            return False
        return self.when is None or bool(self.when(request))

    def mismatches(self, request: AskedRequest) -> bool:
        kind = self.kind or _kind_of(self.reply)
        # What goes wrong does so wherever it can; the list of models is asked for by the way.
        other_kind = request.kind != kind if kind else request.kind not in ("chat", "embeddings")
        return other_kind or self.model not in (None, request.model) or not contains(self.last, request.prompt)

    def __str__(self) -> str:
        reply = self.reply
        said = getattr(reply, "__name__", "a function") if callable(reply) else str(reply)
        limits = [
            f"model {self.model!r}" if self.model is not None else "",
            f"last message like {pattern_of(self.last)!r}" if self.last is not None else "",
            f"when {getattr(self.when, '__name__', self.when)}" if self.when is not None else "",
        ]
        wanted = ", ".join(filter(None, limits)) or f"any {self.kind or _kind_of(reply) or 'call'}"
        count = f"used {self.used}×" + (", used up" if self.left == 0 else "")
        return f"{said} for {wanted} ({count})"


class Script:
    """The rules, in order; the first that fits and is not used up answers."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Put one behind the others."""
        with self._lock:
            self._rules.append(rule)

    def reply_to(self, request: AskedRequest) -> Reply | None:
        """The scripted reply; None where nothing is scripted."""
        with self._lock:
            rule = next((rule for rule in self._rules if rule.fits(request)), None)
            if rule is None:
                return None
            rule.used += 1
            if rule.left is not None:
                rule.left -= 1
        reply = rule.reply
        return as_reply(reply(request)) if callable(reply) else reply

    @property
    def unused(self) -> tuple[Rule, ...]:
        """What has answered nothing, or not as often as it was to."""
        return tuple(rule for rule in self._rules if rule.left or (rule.left is None and not rule.used))

    def __str__(self) -> str:
        return "\n".join(f"  {place}. {rule}" for place, rule in enumerate(self._rules, 1)) or "  nothing"


def contains(pattern: str | re.Pattern[str] | None, text: str) -> bool:
    """Whether a text has a pattern, or a piece of text, in it; None is in any."""
    if pattern is None:
        return True
    return pattern in text if isinstance(pattern, str) else pattern.search(text) is not None


def pattern_of(pattern: str | re.Pattern[str] | None) -> str | None:
    """A pattern as it was written."""
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern


def _kind_of(reply: object) -> Kind | None:
    if isinstance(reply, Vectors):
        return "embeddings"
    return None if isinstance(reply, (RawReply, Fault)) else "chat"
