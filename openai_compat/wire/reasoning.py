"""Inline ``<think>`` spans: taken out of a whole text, or out of pieces as they arrive.

The splitter's contract:

1. Any split of a text into pieces gives the same answer text and the same reasoning, joined.
2. Held back is only what may still become a tag, or white space that may turn out to stand next to one.
3. A span that is never closed is reasoning to its end; a closing tag that was never opened is text.
"""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_TAGS = ("think",)
TEXT = "text"
REASONING = "reasoning"

Piece = tuple[str, str]
"""``("text" | "reasoning", piece)``"""


class ReasoningSplitter:
    """Splits one answer's content into text and reasoning, across any chunk boundary.

    Args:
        tags: names of the elements that hold reasoning.
        opened: the tag was opened in the prompt, so that the content begins with reasoning.
    """

    __slots__ = ("_buffer", "_closers", "_lead", "_needles", "_openers", "_reasoned", "_spaces", "_texted")

    def __init__(self, tags: Sequence[str] = DEFAULT_TAGS, *, opened: bool = False) -> None:
        self._openers = tuple(f"<{tag}>" for tag in tags)
        self._closers = tuple(f"</{tag}>" for tag in tags)
        self._needles = self._closers if opened else self._openers
        self._buffer = ""
        self._spaces = ""
        self._lead: str | None = ""
        self._texted = False
        self._reasoned = opened

    def passes(self, piece: str) -> bool:
        """Whether a piece is text as it stands, with nothing held back before or after it."""
        if self._buffer or "<" in piece or self._needles is not self._openers:
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
        while found := self._find(buffer, at):
            position, needle = found
            self._emit(buffer[at:position], out, last=True)
            at = position + len(needle)
            self._turn(needle)
        safe = len(buffer) - self._held(buffer[at:])
        self._emit(buffer[at:safe], out)
        self._buffer = buffer[safe:]
        return out

    def finish(self) -> list[Piece]:
        """The content is over; what was held back was no tag."""
        out: list[Piece] = []
        self._emit(self._buffer, out, last=True)
        self._buffer = ""
        return out

    def _find(self, buffer: str, start: int) -> tuple[int, str] | None:
        hits = [(at, needle) for needle in self._needles if (at := buffer.find(needle, start)) >= 0]
        return min(hits) if hits else None

    def _turn(self, needle: str) -> None:
        if self._needles is self._openers:
            # The span that opened decides which tag closes it.
            self._needles = (self._closers[self._openers.index(needle)],)
        else:
            self._needles = self._openers
            # A further span stands on a line of its own.
            self._lead = "\n"
        self._reasoned = True
        self._spaces = ""

    def _held(self, rest: str) -> int:
        """How many characters at the end may still begin a tag."""
        start = rest.rfind("<")
        if start < 0:
            return 0
        tail = rest[start:]
        return len(tail) if any(needle.startswith(tail) for needle in self._needles) else 0

    def _emit(self, piece: str, out: list[Piece], *, last: bool = False) -> None:
        if self._needles is self._openers:
            if self._reasoned and not self._texted:
                piece = piece.lstrip()
            if piece:
                self._texted = True
                out.append((TEXT, piece))
            return
        # A span is trimmed at both ends: white space waits for what follows it.
        piece = self._spaces + piece
        if self._lead is not None:
            piece = piece.lstrip()
        kept = piece.rstrip()
        self._spaces = "" if last else piece[len(kept) :]
        if kept:
            out.append((REASONING, (self._lead or "") + kept))
            self._lead = None


def split_reasoning(content: str, tags: Sequence[str] = DEFAULT_TAGS, *, opened: bool = False) -> tuple[str, str]:
    """``(text, reasoning)`` of a whole content."""
    splitter = ReasoningSplitter(tags, opened=opened)
    pieces = splitter.feed(content) + splitter.finish()
    text = "".join(piece for kind, piece in pieces if kind == TEXT)
    return text, "".join(piece for kind, piece in pieces if kind == REASONING)


def strip_reasoning(content: str, tags: Sequence[str] = DEFAULT_TAGS, *, opened: bool = False) -> str:
    """Remove every ``<think>…</think>`` span; an unclosed ``<think>`` drops the rest; the result is trimmed."""
    return split_reasoning(content, tags, opened=opened)[0].strip()
