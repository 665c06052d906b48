"""Lines on a terminal: no word is cut at its edge, and nothing of the text is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat.cli.wrap import Wrap


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal shows: it obeys line ends, the cursor's way back, and the end of a line erased."""
    lines, at = [""], 0
    for piece in re.findall(r"\x1b\[\d*[DK]|.|\n", written):
        if piece == "\n":
            lines.append("")
            at = 0
        elif piece.endswith("D") and len(piece) > 1:
            at -= int(piece[2:-1])
            assert at >= 0
        elif piece == "\x1b[K":
            lines[-1] = lines[-1][:at]
        else:
            if at == columns:
                lines.append("")
                at = 0
            assert at == len(lines[-1]), "written in the middle of a line"
            lines[-1] += piece
            at += 1
    return lines


def shown(*pieces: str, columns: int = 25) -> list[str]:
    wrap = Wrap()
    return screen("".join(wrap.feed(piece, columns) for piece in pieces), columns)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["The sky is blue because", " of scattering"], ["The sky is blue because ", "of scattering"]),
        (["The sky is blue be", "cau", "se of it"], ["The sky is blue because ", "of it"]),
        (["The sky is blue and wond", "erful"], ["The sky is blue and ", "wonderful"]),
        (["a\n", "b"], ["a", "b"]),
        (["x" * 30, " y"], ["x" * 25, "x" * 5, "y"]),
        (["| a table with many words |\nThe sky is blue and wonderful"],
         ["| a table with many words", " |", "The sky is blue and ", "wonderful"]),
        (["```\nsome code with many words\n```\nThe sky is blue and wonderful"],
         ["```", "some code with many words", "```", "The sky is blue and ", "wonderful"]),
    ],
)  # fmt: skip
def test_lines_break_between_words(pieces: list[str], lines: list[str]) -> None:
    assert shown(*pieces) == lines


def test_wide_characters_break_anywhere() -> None:
    assert Wrap().feed("天" * 13, 25) == "天" * 12 + "\n天"


def test_a_terminal_that_is_narrow_or_unknown_is_left_alone() -> None:
    text = "one two three " * 20
    assert Wrap().feed(text, 0) == Wrap().feed(text, 20) == text


@given(st.lists(st.text("ab  \n", max_size=9)), st.integers(21, 40))
def test_no_word_is_cut_and_nothing_is_lost(pieces: list[str], columns: int) -> None:
    text = "".join(pieces)
    lines = shown(*pieces, columns=columns)
    assert " ".join(lines).split() == text.split() or max(map(len, text.split())) >= columns
    assert "".join("".join(lines).split()) == "".join(text.split())
