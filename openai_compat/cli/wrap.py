"""Lines that break between words at a terminal's edge, although their words come in pieces."""

from __future__ import annotations

import unicodedata

TAB = 8
NARROWEST = 20
"""Columns; on less, and where nobody knows how many there are, lines are left to the terminal."""


class Wrap:
    """Turns pieces of text into what to write so that a word which crosses the edge moves to the next line.

    Code, tables and words that are longer than a line are left to the terminal, which puts no line breaks of its own
    into what is copied from it.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""
        self._wide = 0
        """How many columns the word takes."""
        self._line = ""
        """The line so far, as the model wrote it: no more of it than tells what kind of line it is."""
        self._in_code = False

    def feed(self, text: str, columns: int) -> str:
        """What to write for this piece, on a terminal with so many columns."""
        # The last column stays empty: what stands there leaves the cursor in a place of each terminal's own.
        edge = columns - 1
        return "".join(self._next(character, edge) for character in text)

    def _next(self, character: str, edge: int) -> str:
        if character == "\n":
            self._in_code ^= self._line.lstrip().startswith("```")
            self._column, self._line = 0, ""
            self._end_word()
            return character
        if len(self._line) < 8:
            self._line += character
        if edge < NARROWEST or self._in_code or self._line.startswith(("|", "```")):
            return character
        if character in " \t":
            return self._space(character, edge)
        width = _width(character)
        before = ""
        if self._column + width > edge:
            if 0 < self._wide < self._column:
                before = f"\x1b[{self._wide}D\x1b[K\n{self._word}"
                self._column = self._wide
            elif width == 2:
                before = "\n"
                self._column = 0
        self._column += width
        if width == 2:
            self._end_word()  # beside characters as wide as these, as in Chinese, a line may break anywhere
        else:
            self._wide += width
            self._word += character * (self._wide <= edge)  # a longer one stays where it is
        return before + character

    def _end_word(self) -> None:
        self._word, self._wide = "", 0

    def _space(self, character: str, edge: int) -> str:
        self._end_word()
        width = 1 if character == " " else TAB - self._column % TAB
        if self._column + width > edge:
            self._column = 0
            return "\n"
        self._column += width
        return character


def _width(character: str) -> int:
    """How many columns a character takes."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
