"""Inline reasoning: taken out of whole texts, and out of pieces."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from arbitrary import cut, growth, pieces
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_compat.wire.reasoning import REASONING, TEXT, ReasoningSplitter, split_reasoning, strip_reasoning

ROW_7: dict[str, tuple[str, str]] = {
    "none": ("Hello.", "Hello."),
    "empty": ("", ""),
    "one": ("<think>hm</think>Hello.", "Hello."),
    "trimmed": ("\n <think>hm</think>\n\n Hello. \n", "Hello."),
    "two": ("<think>a</think>Hel<think>b</think>lo", "Hello"),
    "unclosed": ("Hello.<think>and then", "Hello."),
    "only-unclosed": ("<think>and then", ""),
    "only": ("<think>hm</think>", ""),
    "empty-span": ("<think></think>Hello.", "Hello."),
    "many-lines": ("<think>\na\nb\n</think>\nHello.", "Hello."),
    "nested-opener": ("<think>a<think>b</think>Hello.", "Hello."),
    "second-closer-stays": ("<think>a</think>b</think>c", "b</think>c"),
    "lone-closer-stays": ("a</think>b", "a</think>b"),
    "no-tag": ("a < b <thin> <think c", "a < b <thin> <think c"),
    "case-matters": ("<THINK>a</THINK>", "<THINK>a</THINK>"),
    "overlap": ("<<think>a</think>>", "<>"),
    "almost": ("<thi<think>a</thi</think>nk>", "<think>"),
    "inner-space-stays": ("a <think>x</think> b", "a  b"),
}


@pytest.mark.parametrize(("content", "wanted"), ROW_7.values(), ids=ROW_7)
def test_row_07_strip_reasoning(content: str, wanted: str) -> None:
    assert strip_reasoning(content) == wanted


REASONINGS: dict[str, tuple[str, tuple[str, str]]] = {
    "none": ("Hello. ", ("Hello. ", "")),
    "one": ("<think>\nhm \n</think>\n\nHello. ", ("Hello. ", "hm")),
    "two-on-lines": ("<think> a </think>x<think> b </think>y", ("xy", "a\nb")),
    "empty-between": ("<think>a</think><think> </think><think>b</think>x", ("x", "a\nb")),
    "unclosed": ("x<think> and then ", ("x", "and then")),
    "unclosed-tag": ("<think>a</thi", ("", "a</thi")),
    "inner-lines": ("<think>a\n\n b</think>", ("", "a\n\n b")),
    "text-keeps-its-space": (" a ", (" a ", "")),
    "space-after-later-span": ("a<think>x</think> b", ("a b", "x")),
}


@pytest.mark.parametrize(("content", "wanted"), REASONINGS.values(), ids=REASONINGS)
def test_row_07_what_was_removed_is_reasoning(content: str, wanted: tuple[str, str]) -> None:
    assert split_reasoning(content) == wanted


OPENED: dict[str, tuple[str, tuple[str, str]]] = {
    "closed": ("hm</think>\nHello.", ("Hello.", "hm")),
    "never-closed": ("hm", ("", "hm")),
    "said-again": ("<think>hm</think>Hello.", ("Hello.", "<think>hm")),
    "another-span": ("a</think>x<think>b</think>y", ("xy", "a\nb")),
    "spaced": (" \n a \n</think> \n x", ("x", "a")),
    "empty": ("", ("", "")),
}


@pytest.mark.parametrize(("content", "wanted"), OPENED.values(), ids=OPENED)
def test_row_07_a_span_that_the_prompt_opened(content: str, wanted: tuple[str, str]) -> None:
    assert split_reasoning(content, opened=True) == wanted
    assert strip_reasoning(content, opened=True) == wanted[0].strip()


TAGS = ("think", "thinking", "thought")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("<thinking>a</thinking>x", ("x", "a")),
        ("<thought>a</think></thought>x", ("x", "a</think>")),
        ("<think>a</thinking></think>x", ("x", "a</thinking>")),
        ("<thought>a</thought><think>b</think>x", ("x", "a\nb")),
    ],
)
def test_row_07_other_tags_close_what_they_opened(content: str, wanted: tuple[str, str]) -> None:
    assert split_reasoning(content, TAGS) == wanted


def test_any_of_the_tags_may_close_what_the_prompt_opened() -> None:
    assert split_reasoning("a</thought>x", TAGS, opened=True) == ("x", "a")


def test_no_tags_split_nothing() -> None:
    assert split_reasoning("<think>a</think>", ()) == ("<think>a</think>", "")


def test_what_cannot_become_a_tag_is_given_at_once() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("") == []
    assert splitter.feed("Hel") == [(TEXT, "Hel")]
    assert splitter.feed("lo <") == [(TEXT, "lo ")]
    assert splitter.feed("b> <th") == [(TEXT, "<b> ")]
    assert splitter.feed("ink> hm") == [(REASONING, "hm")]
    assert splitter.feed(" hm ") == [(REASONING, " hm")]
    assert splitter.feed("hm </") == [(REASONING, " hm")]
    assert splitter.feed("think>!") == [(TEXT, "!")]
    assert splitter.feed("<") == []
    assert splitter.finish() == [(TEXT, "<")]
    assert splitter.finish() == []


def test_white_space_after_a_leading_span_is_never_given() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("<think>x</think>\n") == [(REASONING, "x")]
    assert splitter.feed("\n") == []
    assert splitter.feed(" Hello ") == [(TEXT, "Hello ")]


# Properties: any split of any content, tags made likely.

contents = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<", "</", "think>", "<thi", "nk>", " ", "\n", "a", "bc", "<thinking>", "</thinking>"]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)
tag_sets = st.sampled_from([("think",), ("think", "thinking"), ("thinking", "think")])


@st.composite
def cut_contents(draw: st.DrawFn) -> list[str]:
    return draw(pieces(draw(contents)))


def fed(parts: list[str], tags: tuple[str, ...] = ("think",), opened: bool = False) -> list[tuple[str, str]]:
    splitter = ReasoningSplitter(tags, opened=opened)
    return [piece for part in parts for piece in splitter.feed(part)] + splitter.finish()


def joined(out: list[tuple[str, str]], kind: str) -> str:
    return "".join(piece for which, piece in out if which == kind)


@settings(deadline=None, max_examples=500)
@given(cut_contents(), tag_sets, st.booleans())
def test_row_07_any_split_equals_the_whole(parts: list[str], tags: tuple[str, ...], opened: bool) -> None:
    out = fed(parts, tags, opened)
    assert (joined(out, TEXT), joined(out, REASONING)) == split_reasoning("".join(parts), tags, opened=opened)
    assert all(piece for _, piece in out)


@settings(deadline=None, max_examples=500)
@given(cut_contents(), st.booleans())
def test_row_07_streamed_text_joined_and_trimmed_is_the_stripped_whole(parts: list[str], opened: bool) -> None:
    assert joined(fed(parts, opened=opened), TEXT).strip() == strip_reasoning("".join(parts), opened=opened)


@settings(deadline=None, max_examples=500)
@given(contents)
def test_row_07_strip_reasoning_is_what_a_regular_expression_says(content: str) -> None:
    assert strip_reasoning(content) == re.sub(r"<think>.*?(?:</think>|\Z)", "", content, flags=re.DOTALL).strip()


@settings(deadline=None, max_examples=500)
@given(cut_contents())
def test_no_piece_of_a_tag_that_was_taken_out_is_given_as_text(parts: list[str]) -> None:
    seen = ""
    splitter = ReasoningSplitter()
    final = split_reasoning("".join(parts))[0]
    for part in parts:
        seen += joined(splitter.feed(part), TEXT)
        assert final.startswith(seen)


@pytest.mark.parametrize("content", ["<think>a b</think> c", "x <think> y</think>\n z<", "</think><think>"])
def test_row_07_every_cut_in_three_equals_the_whole(content: str) -> None:
    whole = split_reasoning(content)
    for at in combinations(range(len(content) + 1), 2):
        out = fed(cut(content, at))
        assert (joined(out, TEXT), joined(out, REASONING)) == whole


@pytest.mark.parametrize("opened", [False, True])
def test_a_held_back_piece_stays_short(opened: bool) -> None:
    splitter = ReasoningSplitter(opened=opened)
    given_so_far = 0
    for count in range(1, 5000):
        given_so_far += sum(len(piece) for _, piece in splitter.feed("<think" if count % 2 else "x "))
        assert count * 4 - given_so_far < 16


@pytest.mark.parametrize("piece", ["<", "<think>", "</think>", "<think>a</think> ", " ", "a"])
def test_many_pieces_cost_no_more_than_their_number(piece: str) -> None:
    out = fed([piece] * 50_000)
    assert sum(len(text) for _, text in out) <= 50_000 * len(piece)


@pytest.mark.parametrize("piece", ["<", "<think>", "</think>", "<think>a</think> ", " ", "a"])
def test_one_long_content_costs_no_more_than_its_length(piece: str) -> None:
    assert growth(lambda size: strip_reasoning(piece * size), 15_000) < 10
