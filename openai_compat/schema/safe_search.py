"""The search for a pattern of the user's in a text of the model's, which may not take for ever."""

from __future__ import annotations

import re

MAX_TEXT = 10_000
"""Characters of a text that a pattern is looked for in: many patterns take a time that grows with their square."""


class TooLongError(ValueError):
    """The text is too long for a pattern."""


def found_in(pattern: str, text: str) -> bool:
    """Whether a pattern, as ``re`` takes it, is found in a text.

    Raises:
        TooLongError: the text has more than 10,000 characters.
        re.error: it is no pattern.
    """
    if len(text) > MAX_TEXT:
        raise TooLongError(f"{len(text)} characters are too many for a pattern; at most {MAX_TEXT}")
    return re.search(pattern, text) is not None
