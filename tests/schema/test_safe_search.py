"""Patterns in texts of a model's: what ``re`` would find, in a time that grows with the text only."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lines import lines_run

from openai_compat.schema import safe_search
from openai_compat.schema.js_pattern import python_pattern
from openai_compat.schema.safe_search import TooLongError, found_in

atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\w", r"\s", r"\d", r"[\S]", r"\b", r"\B", "^", "$", r"\Z", "é"]
)
patterns = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        )
    ),
    max_leaves=6,
)


@given(patterns, st.text("ab é\n1", min_size=1, max_size=20))
def test_it_finds_what_re_finds(pattern: str, text: str) -> None:
    steps = safe_search._steps(pattern)
    assert steps is not None
    # (Not in an empty text, where \B stands for Python before 3.14 nowhere.)
    assert safe_search._follow(steps, text) is found_in(pattern, text) is (re.search(pattern, text) is not None)


BACKTRACKING = [
    "^(a+)+$",
    "^(a|a)*$",
    "^(a|ab?)*c$",
    r"^\s*(a*)*\s*$",
    "(a*)*b",
    "a*a*a*a*b",
    r"^(\w+\s?)*$",
    "^([a-z]+-?)+$",
    "^(?:)*a*a*$",
]


@pytest.mark.parametrize("pattern", BACKTRACKING)
def test_a_pattern_that_backtracks_takes_time_in_proportion(pattern: str) -> None:
    made = python_pattern(pattern)
    assert not safe_search._is_linear(made)
    assert safe_search._steps(made) is not None
    found_in(made, "a" * 50 + "!")  # compiled
    short, long = (lines_run(lambda n=n: found_in(made, "a" * n + "!"), most=2_000_000) for n in (500, 1000))
    assert long < 2.5 * short
    assert found_in("^(a+)+$", "a" * 1000)
    assert not found_in("^(a+)+$", "a" * 1000 + "!")


@pytest.mark.parametrize("pattern", ["^[a-z]+$", "^.*$", r"^\d{4}-\d\d-\d\d$", "abc", "^$", r"^[\s\S]*\Z"])
def test_the_common_ones_are_left_to_re_whatever_the_length(pattern: str) -> None:
    found_in(pattern, "a" * 300_000)


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("^(?=.*a)(?=.*b)a+$", 1000),
        (r"(a+)\1+b", 1000),
        ("(a+)+b", 100_000),
        ("(?i)(a+)+b", 1000),
        ("(a{999}){9}", 1000),
    ],
)
def test_a_text_that_is_too_long_is_refused(pattern: str, length: int) -> None:
    with pytest.raises(TooLongError, match=f"at most {length}$"):
        found_in(pattern, "b" * (length + 1))


def test_what_is_no_pattern_is_an_error() -> None:
    with pytest.raises(re.error):
        found_in("(", "a" * 50)
