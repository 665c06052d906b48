"""Text that others wrote, for terminals and logs: it shows itself, commands nothing, and forges no line."""

from __future__ import annotations

import re
from typing import TextIO

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")
"""What a terminal obeys: C0 but for tabs and line feeds, DEL, C1, and the marks that show text in another order."""


def harmless(text: str) -> str:
    """Text without what a terminal obeys in place of showing it; tabs and line feeds stay."""
    return text if text.isprintable() else _COMMANDS.sub("", text)


def one_line(text: str) -> str:
    """The same in one line, whatever ends a line."""
    if text.isprintable():
        return text
    return " ".join(filter(None, (harmless(line).strip() for line in text.splitlines())))


def write(file: TextIO, text: str) -> None:
    """Write to a file of any encoding: what it cannot take is written as an escape, such as ``\\u2192``."""
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))
