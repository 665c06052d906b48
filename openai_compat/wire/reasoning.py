"""Inline ``<think>`` spans: taken out of a whole text, or out of pieces as they arrive.

The splitter's contract:

1. Any split of a text into pieces gives the same answer text and the same reasoning, joined.
2. Held back is only what may still become a tag, or white space that may turn out to stand next to one.
3. A span that is never closed is reasoning to its end; a closing tag that was never opened is text.
4. ``leading``: a span counts only at the beginning, or right after another one; elsewhere a tag is prose.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from ..errors import ConfigurationError

Tag = str | tuple[str, str]
"""The name of an element, as ``"think"``, or what opens and closes a span, as ``("[THINK]", "[/THINK]")``."""

DEFAULT_TAGS: tuple[Tag, ...] = ("think",)
KNOWN_TAGS: tuple[Tag, ...] = (
    *("think", "thinking", "thought", "reasoning", "seed:think", "mm:think", "longcat_think"),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|channel>thought", "<channel|>"),  # Gemma
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),  # gpt-oss, served raw
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi
)
"""What models that are known put around their thoughts at the beginning of an answer."""
_SPACE = re.compile(r"\s*")
TEXT = "text"
REASONING = "reasoning"

InlineThink = Literal["leading", "all", "keep"]
Piece = tuple[str, str]
"""``("text" | "reasoning", piece)``"""


def tag_pairs(tags: Tag | Iterable[Tag]) -> tuple[tuple[str, str], ...]:
    """What opens and closes each span.

    Raises:
        ConfigurationError: neither names nor pairs of strings.
    """
    pairs: list[tuple[str, str]] = []
    for tag in (tags,) if isinstance(tags, str) else tags:
        if isinstance(tag, str) and tag:
            pairs.append((f"<{tag}>", f"</{tag}>"))
        elif isinstance(tag, (tuple, list)) and len(tag) == 2 and all(isinstance(end, str) and end for end in tag):
            pairs.append((tag[0], tag[1]))
        else:
            raise ConfigurationError(f"think_tags holds names and pairs of strings, not {tag!r}")
    return tuple(pairs)


class _Needles(NamedTuple):
    """What is looked for, and what that takes."""

    strings: tuple[str, ...]
    pattern: re.Pattern[str]
    firsts: frozenset[str]
    longest: int


@functools.lru_cache(maxsize=64)
def _needles(strings: tuple[str, ...]) -> _Needles:
    return _Needles(
        strings,
        re.compile("|".join(map(re.escape, strings))),
        frozenset(string[0] for string in strings),
        max(map(len, strings), default=1),
    )


@functools.lru_cache(maxsize=64)
def _ends(pairs: tuple[tuple[str, str], ...]) -> tuple[_Needles, _Needles]:
    """What opens a span, and what closes one."""
    return _needles(tuple(opener for opener, _ in pairs)), _needles(tuple(closer for _, closer in pairs))


class ReasoningSplitter:
    """Splits one answer's content into text and reasoning, across any chunk boundary.

    Args:
        tags: what stands around reasoning.
        opened: the tag was opened in the prompt, so that the content begins with reasoning.
        leading: only spans at the beginning, or right after another one, count.
    """

    __slots__ = (
        "_buffer",
        "_closers",
        "_lead",
        "_leading",
        "_openers",
        "_reasoned",
        "_sought",
        "_spaces",
        "_texted",
        "inside",
        "over",
    )

    def __init__(self, tags: Iterable[Tag] = DEFAULT_TAGS, *, opened: bool = False, leading: bool = False) -> None:
        self._openers, self._closers = _ends(tag_pairs(tags))
        self._sought = self._closers if opened else self._openers
        self.inside: bool = opened  # within a span
        self._buffer = ""
        self._spaces: list[str] = []
        self._lead: str | None = ""
        self._texted = False
        self._reasoned = opened
        self._leading = leading
        self.over: bool = False  # no further span counts

    def passes(self, piece: str) -> bool:
        """Whether a piece is text as it stands, with nothing held back before or after it."""
        if self.over:
            return True
        if self._leading or self._buffer or self.inside or not self._sought.firsts.isdisjoint(piece):
            return False
        if self._reasoned and not self._texted:
            return False
        self._texted = self._texted or bool(piece)
        return True

    def feed(self, piece: str) -> list[Piece]:
        """Take a piece of content; what is now certain comes back, in order."""
        if self.passes(piece):
            return [(TEXT, piece)] if piece else []
        out: list[Piece] = []
        buffer = self._buffer + piece
        at = 0
        while not self.over:
            if self._leading and not self.inside:
                begin = self._skip_space(buffer, at)
                opener = next((opener for opener in self._openers.strings if buffer.startswith(opener, begin)), None)
                if opener is not None:
                    self._spaces.clear()
                    at = begin + len(opener)
                    self._turn(opener)
                    continue
                at = begin
                if begin < len(buffer) and not self._may_open(buffer[begin : begin + self._sought.longest]):
                    self._begin_text(out)
                break
            found = self._sought.pattern.search(buffer, at) if self._sought.strings else None
            if found is None:
                break
            self._emit(buffer[at : found.start()], out, last=True)
            at = found.end()
            self._turn(found[0])
        if self.over:
            self._emit(buffer[at:], out)
            self._buffer = ""
        elif self._leading and not self.inside:
            self._buffer = buffer[at:]
        else:
            safe = len(buffer) - self._held(buffer, at)
            self._emit(buffer[at:safe], out)
            self._buffer = buffer[safe:]
        return out

    def finish(self) -> list[Piece]:
        """The content is over; what was held back was no tag."""
        out: list[Piece] = []
        if self._leading and not self.inside and not self.over:
            self._begin_text(out)
        self._emit(self._buffer, out, last=True)
        self._buffer = ""
        return out

    def _skip_space(self, buffer: str, at: int) -> int:
        """Where the white space in front of the text, or of a span, ends; until then it is held back."""
        begin = _SPACE.match(buffer, at).end()  # type: ignore[union-attr]
        if begin > at:
            self._spaces.append(buffer[at:begin])
        return begin

    def _may_open(self, start: str) -> bool:
        return any(opener.startswith(start) for opener in self._openers.strings)

    def _begin_text(self, out: list[Piece]) -> None:
        """Text has begun: what follows is prose, whatever it holds."""
        self.over = True
        if self._spaces and not self._reasoned:
            out.append((TEXT, "".join(self._spaces)))
        self._spaces.clear()

    def _turn(self, needle: str) -> None:
        self.inside = not self.inside
        if self.inside:
            # The span that opened decides which tag closes it.
            self._sought = _needles((self._closers.strings[self._openers.strings.index(needle)],))
        else:
            self._sought = self._openers
            # A further span stands on a line of its own.
            self._lead = "\n"
        self._reasoned = True
        self._spaces.clear()

    def _held(self, buffer: str, at: int) -> int:
        """How many characters at the end may still begin a tag."""
        for start in range(max(at, len(buffer) - self._sought.longest + 1), len(buffer)):
            if buffer[start] in self._sought.firsts:
                tail = buffer[start:]
                if any(needle.startswith(tail) for needle in self._sought.strings):
                    return len(tail)
        return 0

    def _emit(self, piece: str, out: list[Piece], *, last: bool = False) -> None:
        if not self.inside:
            if self._reasoned and not self._texted:
                piece = piece.lstrip()
            if piece:
                self._texted = True
                out.append((TEXT, piece))
            return
        # A span is trimmed at both ends: white space waits for what follows it.
        if not piece or piece.isspace():
            if piece and self._lead is None and not last:
                self._spaces.append(piece)
            if last:
                self._spaces.clear()
            return
        if self._lead is not None:
            piece = piece.lstrip()
        kept = piece.rstrip()
        out.append((REASONING, (self._lead or "") + "".join(self._spaces) + kept))
        self._lead = None
        self._spaces.clear()
        if not last and len(kept) < len(piece):
            self._spaces.append(piece[len(kept) :])


class ThinkOptions(NamedTuple):
    """How inline reasoning is separated from text.

    ``mode``: ``"leading"`` takes ``<think>`` spans out of the text where it begins, and none once the server tells
    thoughts in a field of their own; ``"all"`` takes out every span, ``"keep"`` none. ``tags`` are what stands around
    such spans: names of elements, or pairs of strings; by default ``think`` for ``"all"``, else all that are known.
    ``opened``: the span was opened in the prompt.
    """

    mode: InlineThink = "leading"
    tags: Sequence[Tag] | None = None
    opened: bool = False

    def splitter(self) -> ReasoningSplitter | None:
        """What takes the spans out of a choice's content; None where they are kept."""
        if self.mode == "keep":
            return None
        leading = self.mode == "leading"
        tags = self.tags if self.tags is not None else KNOWN_TAGS if leading else DEFAULT_TAGS
        return ReasoningSplitter(tags, opened=self.opened, leading=leading)


def split_reasoning(
    content: str, tags: Sequence[Tag] = DEFAULT_TAGS, *, opened: bool = False, leading: bool = False
) -> tuple[str, str]:
    """``(text, reasoning)`` of a whole content."""
    splitter = ReasoningSplitter(tags, opened=opened, leading=leading)
    pieces = splitter.feed(content) + splitter.finish()
    text = "".join(piece for kind, piece in pieces if kind == TEXT)
    return text, "".join(piece for kind, piece in pieces if kind == REASONING)


def strip_reasoning(content: str, tags: Sequence[Tag] = DEFAULT_TAGS, *, opened: bool = False) -> str:
    """Remove every ``<think>…</think>`` span; an unclosed ``<think>`` drops the rest; the result is trimmed."""
    return split_reasoning(content, tags, opened=opened)[0].strip()
