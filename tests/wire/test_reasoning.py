"""Inline reasoning: taken out of whole texts, and out of pieces."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import cut, examples, growth, pieces

from openai_compat.errors import ConfigurationError
from openai_compat.wire.reasoning import (
    KNOWN_TAGS,
    REASONING,
    TEXT,
    ReasoningSplitter,
    Tag,
    split_reasoning,
    strip_reasoning,
    tag_pairs,
)

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
def test_strip_reasoning(content: str, wanted: str) -> None:
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
def test_what_was_removed_is_reasoning(content: str, wanted: tuple[str, str]) -> None:
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
def test_a_span_that_the_prompt_opened(content: str, wanted: tuple[str, str]) -> None:
    assert split_reasoning(content, opened=True) == wanted
    assert strip_reasoning(content, opened=True) == wanted[0].strip()


LEADING: dict[str, tuple[str, tuple[str, str]]] = {
    "none": (" a ", (" a ", "")),
    "one": ("<think>hm</think>Hello.", ("Hello.", "hm")),
    "space-around": (" \n<think> hm </think>\n\nHello. ", ("Hello. ", "hm")),
    "two": ("<think>a</think>\n<think>b</think>\nx", ("x", "a\nb")),
    "prose": ("Write `<think>` first, then answer.", ("Write `<think>` first, then answer.", "")),
    "code": ("```xml\n<think>plan</think>\n```", ("```xml\n<think>plan</think>\n```", "")),
    "after-a-span": ("<think>a</think>Use <think>b</think>.", ("Use <think>b</think>.", "a")),
    "never-closed": ("<think>hm", ("", "hm")),
    "lone-closer": ("</think>x", ("</think>x", "")),
    "half-a-tag": (" <thi", (" <thi", "")),
    "half-a-tag-after-a-span": ("<think>a</think> <thi", ("<thi", "a")),
    "mistral": ("[THINK]17 times 3.[/THINK]51", ("51", "17 times 3.")),
    "bedrock": ("<reasoning>Capital of Peru.</reasoning>Lima", ("Lima", "Capital of Peru.")),
    "gemma": ("<|channel>thought\nhm<channel|>Hi", ("Hi", "hm")),
    "seed": ("<seed:think>hm</seed:think>Hi", ("Hi", "hm")),
    "gpt-oss": ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi", ("Hi", "hm")),
}


@pytest.mark.parametrize(("content", "wanted"), LEADING.values(), ids=LEADING)
def test_a_tag_counts_at_the_beginning_and_elsewhere_it_is_prose(content: str, wanted: tuple[str, str]) -> None:
    assert split_reasoning(content, KNOWN_TAGS, leading=True) == wanted
    out = fed(list(content), KNOWN_TAGS, leading=True)
    assert (joined(out, TEXT), joined(out, REASONING)) == wanted


def test_tags_are_names_and_pairs() -> None:
    assert tag_pairs("think") == (("<think>", "</think>"),)
    assert tag_pairs(["a", ("{", "}")]) == (("<a>", "</a>"), ("{", "}"))


@pytest.mark.parametrize("tags", ["", [7], [("a",)], [("", "b")], [("a", 7)]])
def test_tags_of_another_form_are_refused(tags: object) -> None:
    with pytest.raises(ConfigurationError, match="names and pairs of strings"):
        tag_pairs(tags)  # type: ignore[arg-type]


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
def test_other_tags_close_what_they_opened(content: str, wanted: tuple[str, str]) -> None:
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
tag_sets = st.sampled_from([("think",), ("think", "thinking"), ("thinking", "think"), KNOWN_TAGS, (("nk>", "<"),)])


@st.composite
def cut_contents(draw: st.DrawFn) -> list[str]:
    return draw(pieces(draw(contents)))


def fed(
    parts: list[str], tags: tuple[Tag, ...] = ("think",), opened: bool = False, leading: bool = False
) -> list[tuple[str, str]]:
    splitter = ReasoningSplitter(tags, opened=opened, leading=leading)
    return [piece for part in parts for piece in splitter.feed(part)] + splitter.finish()


def joined(out: list[tuple[str, str]], kind: str) -> str:
    return "".join(piece for which, piece in out if which == kind)


@examples(200)
@given(cut_contents(), tag_sets, st.booleans(), st.booleans())
def test_any_split_equals_the_whole(parts: list[str], tags: tuple[Tag, ...], opened: bool, leading: bool) -> None:
    out = fed(parts, tags, opened, leading)
    whole = split_reasoning("".join(parts), tags, opened=opened, leading=leading)
    assert (joined(out, TEXT), joined(out, REASONING)) == whole
    assert all(piece for _, piece in out)


@examples(200)
@given(cut_contents(), st.booleans())
def test_streamed_text_joined_and_trimmed_is_the_stripped_whole(parts: list[str], opened: bool) -> None:
    assert joined(fed(parts, opened=opened), TEXT).strip() == strip_reasoning("".join(parts), opened=opened)


@examples(200)
@given(contents)
def test_strip_reasoning_is_what_a_regular_expression_says(content: str) -> None:
    assert strip_reasoning(content) == re.sub(r"<think>.*?(?:</think>|\Z)", "", content, flags=re.DOTALL).strip()


@examples(200)
@given(contents)
def test_leading_spans_are_what_a_regular_expression_says(content: str) -> None:
    spans = re.match(r"(?:\s*<think>.*?(?:</think>|\Z))*", content, re.DOTALL)
    assert spans is not None
    rest = content[spans.end() :]
    assert split_reasoning(content, leading=True)[0] == (rest.lstrip() if spans.end() else rest)


@examples(200)
@given(cut_contents(), st.booleans())
def test_no_piece_of_a_tag_that_was_taken_out_is_given_as_text(parts: list[str], leading: bool) -> None:
    seen = ""
    splitter = ReasoningSplitter(leading=leading)
    final = split_reasoning("".join(parts), leading=leading)[0]
    for part in parts:
        seen += joined(splitter.feed(part), TEXT)
        assert final.startswith(seen)


@pytest.mark.parametrize("content", ["<think>a b</think> c", "x <think> y</think>\n z<", "</think><think>"])
def test_every_cut_in_three_equals_the_whole(content: str) -> None:
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


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("piece", ["<", "<think>", "</think>", "<think>a</think> ", " ", "a"])
def test_one_long_content_costs_no_more_than_its_length(piece: str, leading: bool) -> None:
    assert growth(lambda size: split_reasoning(piece * size, KNOWN_TAGS, leading=leading), 15_000) < 10


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("start", ["", "<think>a"])
def test_pieces_of_white_space_cost_no_more_than_their_number(start: str, leading: bool) -> None:
    assert growth(lambda size: fed([start] + [" " * 50] * size, leading=leading), 8_000) < 10


def test_tags_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = "<think>a</think>[THINK]b[/THINK]c"
    assert split_reasoning(content, KNOWN_TAGS, leading=True) == ("c", "a\nb")
    monkeypatch.setattr("openai_compat.wire.reasoning.re.compile", None)
    assert split_reasoning(content, list(KNOWN_TAGS), leading=True) == ("c", "a\nb")


def test_one_string_may_open_and_close() -> None:
    assert split_reasoning("||a||x||b||y", [("||", "||")]) == ("xy", "a\nb")
